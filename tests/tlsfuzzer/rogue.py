"""A TLS client that breaks one rule at a time.

``tlslite-ng`` makes the handshake. :class:`Rogue` shows every message to a function before it is
sent, which may change it, drop it, or send others in its place, under the keys of the moment.
"""

import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.constants import AlertDescription, ContentType
from tlslite.errors import (
    TLSAbruptCloseError,
    TLSClosedConnectionError,
    TLSLocalAlert,
    TLSRemoteAlert,
)
from tlslite.messages import ClientHello, Finished, Message

PING = b"ping"

#: How a conversation can end, besides by an alert, whose name is the outcome.
ACCEPTED = "accepted"
"""Data came back."""
ENDED = "close_notify"
"""The server has ended the session in good order."""
CUT_OFF = "end without an alert"
SILENT = "silence"
WENT_ON = "the server went on"
"""It answered, and the client could not."""

TLS_1_2, TLS_1_3 = (3, 3), (3, 4)

Sent = Iterable[Any]
"""Messages in place of one that was to be sent. What has a ``write()`` counts for the transcript of
the handshake if it is a handshake message; a :class:`Record` does not."""


@dataclass
class Record:
    """The content of a record, under the keys of the moment."""

    kind: int
    content: bytes
    counts: bool = False
    """Whether it counts for the transcript of the handshake."""


@dataclass
class Plain:
    """Bytes as they are sent."""

    octets: bytes


def nothing_else(message: Any) -> Sent:
    """Send the message as it is."""
    return [message]


class Rogue(TLSConnection):  # type: ignore[misc]
    """A connection whose messages go through :attr:`alter`."""

    alter: Callable[[Any], Sent] = staticmethod(nothing_else)

    def _sendMsg(  # noqa: N802
        self,
        msg: Any,
        randomizeFirstBlock: bool = True,  # noqa: N803
        update_hashes: bool = True,
    ) -> Iterator[Any]:
        for sent in self.alter(msg):
            if isinstance(sent, Plain):
                self.sock.sendall(sent.octets)
            elif isinstance(sent, Record):
                if sent.counts:
                    self._handshake_hash.update(bytearray(sent.content))
                yield from self._sendMsgThroughSocket(Message(sent.kind, bytearray(sent.content)))
            else:
                yield from super()._sendMsg(sent, randomizeFirstBlock, update_hashes)


@dataclass
class Client:
    """One connection to a server that echoes."""

    address: tuple[str, int]
    version: tuple[int, int] = TLS_1_3
    settings: Any = field(default_factory=HandshakeSettings)
    alpn: list[bytearray] | None = None

    def __post_init__(self) -> None:
        self.sock = socket.create_connection(self.address, timeout=10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tls = Rogue(self.sock)
        self.settings.minVersion = self.settings.maxVersion = self.version
        self.settings.keyShares = ["x25519"]

    def shake_hands(self, alter: Callable[[Any], Sent] = nothing_else, session: Any = None) -> None:
        """Do the handshake."""
        self.tls.alter = alter
        try:
            self.tls.handshakeClientCert(
                settings=self.settings,
                session=session,
                alpn=self.alpn,
                serverName="localhost",
            )
        finally:
            self.tls.alter = nothing_else

    def send(self, kind: int, content: bytes) -> None:
        """Send a record under the keys of the moment."""
        for _ in self.tls._sendMsgThroughSocket(Message(kind, bytearray(content))):
            pass

    def send_plain(self, octets: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(octets)

    def encrypted(self, kind: int, content: bytes) -> bytearray:
        """Return a record under the keys of the moment instead of sending it."""
        sent = bytearray()
        layer = self.tls._recordLayer
        original = layer._recordSocket.sock
        layer._recordSocket.sock = _Sink(sent)
        try:
            self.send(kind, content)
        finally:
            layer._recordSocket.sock = original
        return sent

    def echo(self, data: bytes = PING) -> None:
        """Have the server answer, which shows that it still listens."""
        self.tls.write(bytearray(data))
        self.expect_echo(data)

    def expect_echo(self, data: bytes = PING) -> None:
        received = self.tls.read(min=len(data), max=len(data))
        if not received:
            raise Ended
        if bytes(received) != data:
            raise RuntimeError(f"{received!r} came back")


class _Sink:
    def __init__(self, sent: bytearray) -> None:
        self._sent = sent

    def send(self, data: bytes) -> int:
        self._sent += data
        return len(data)


class Ended(Exception):
    """The server has sent a close notification."""


class Done(Exception):
    """The conversation has come to its end, and the connection is not used again."""


def outcome_of(conversation: Callable[[Client], object], client: Client) -> str:
    """Run a conversation, and say how it ended."""
    try:
        conversation(client)
        client.echo()
    except Done:
        return ACCEPTED
    except Ended:
        return ENDED
    except TLSRemoteAlert as alert:
        return str(AlertDescription.toStr(alert.description))
    except TLSLocalAlert as alert:
        return f"the client's {AlertDescription.toStr(alert.description)}: {alert.message}"
    except TimeoutError:
        return SILENT
    except (TLSAbruptCloseError, TLSClosedConnectionError, ConnectionError):
        return _left_behind(client)
    except (AttributeError, TypeError, AssertionError, ValueError):
        # tlslite-ng is lost when the server goes on after some alterations.
        return WENT_ON
    finally:
        client.sock.close()
    return ACCEPTED


def _left_behind(client: Client) -> str:
    """Look for an alert that the server has sent before it ended the connection."""
    try:
        for result in client.tls._getMsg(ContentType.application_data):
            if result not in (0, 1):
                break
    except TLSRemoteAlert as alert:
        return str(AlertDescription.toStr(alert.description))
    except (TLSAbruptCloseError, TLSClosedConnectionError, OSError, AssertionError):
        pass
    return CUT_OFF


def of_hello(change: Callable[[Any], Sent | None]) -> Callable[[Any], Sent]:
    """Alter the client's hello only; a function that returns None has changed it in place."""

    def alter(message: Any) -> Sent:
        if isinstance(message, ClientHello):
            changed = change(message)
            return [message] if changed is None else changed
        return [message]

    return alter


def of_finished(change: Callable[[Any], Sent]) -> Callable[[Any], Sent]:
    """Alter the client's Finished only."""
    return lambda message: change(message) if isinstance(message, Finished) else [message]
