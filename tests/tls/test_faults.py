"""What peers do wrong, and what becomes of it: never a hang, a crash, or a byte that was not sent.

Peers are plain sockets. On asyncio the fast engine runs under asyncio's own TLS protocol, on
TokioLoop under the native one.
"""

import asyncio
import contextlib
import os
import random
import shutil
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from rloop import tls
from support.certificates import HOST, Certificates
from support.fast_tls import client_hello, on_loop
from support.forged_records import ForgingClient, shaken_hands
from support.peers import LOOPBACK, receive_until_eof, stream_pair
from support.protocols import RecordingProtocol
from support.threads import PEER_TIMEOUT, eventually, in_thread

Loop = asyncio.AbstractEventLoop
Address = tuple[str, int]
VERSIONS = {"tls1.2": ssl.TLSVersion.TLSv1_2, "tls1.3": ssl.TLSVersion.TLSv1_3}

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
each_version = pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)


def trusting(certificates: Certificates, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Return a context of OpenSSL for peers."""
    context = ssl.create_default_context(cafile=certificates.trusted.file)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


class Serving:
    """A TLS server on the loop that records, and the peers that it had."""

    def __init__(self, certificates: Certificates, loop_name: str) -> None:
        self._context = on_loop(
            tls.server_context(certificates["good"][0].file, alpn=["h2"]), loop_name
        )
        self.protocols: list[RecordingProtocol] = []

    def _make(self) -> RecordingProtocol:
        self.protocols.append(RecordingProtocol())
        return self.protocols[-1]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._make, LOOPBACK, 0, ssl=self._context, ssl_handshake_timeout=10
        )
        self.address: Address = self._server.sockets[0].getsockname()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for protocol in self.protocols:
            if protocol.count("connection_made"):
                await protocol.called("connection_lost")
        await self._server.wait_closed()


def answer_to(address: Address, *pieces: bytes) -> bytes:
    """Send pieces to a server, end, and return what it answers."""
    with socket.create_connection(address, timeout=PEER_TIMEOUT) as peer:
        try:
            for piece in pieces:
                peer.sendall(piece)
            peer.shutdown(socket.SHUT_WR)
            return receive_until_eof(peer)
        except (ConnectionResetError, BrokenPipeError):
            return b""


@pytest.mark.parametrize("part", [0, 1, 4, 5, 50, -1], ids=lambda part: f"up to {part}")
async def test_a_hello_that_is_cut_off(
    certificates: Certificates, loop_name: str, loop: Loop, part: int
) -> None:
    hello = client_hello(certificates.trusted.file)
    async with Serving(certificates, loop_name) as serving:
        assert await in_thread(answer_to, serving.address, hello[:part]) == b""
        assert await in_thread(exchange, certificates, serving.address) == b"hello"


def exchange(certificates: Certificates, address: Address) -> bytes:
    """Send a greeting to a server of RecordingProtocol; the server works if it arrives.

    It has when the server, which reads in order, answers the close notification behind it.
    """
    raw = socket.create_connection(address, timeout=PEER_TIMEOUT)
    with trusting(certificates).wrap_socket(raw, server_hostname=HOST) as secured:
        secured.sendall(b"hello")
        secured.unwrap().close()
        return b"hello"


def say_close_notify(peer: socket.socket, first_words: bytes) -> None:
    """Say something, and after the answer a close notification; wait for the end of the stream."""
    with peer:
        peer.sendall(first_words)
        assert peer.recv(1 << 16)
        peer.sendall(b"\x15\x03\x03\x00\x02\x01\x00")
        receive_until_eof(peer)


@each_version
@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_close_notify_in_the_handshake_ends_it(
    certificates: Certificates,
    loop: Loop,
    engine: str,
    side: str,
    version: ssl.TLSVersion,
) -> None:
    kind = tls.Context if engine == "rustls" else ssl.SSLContext
    ours, peer = stream_pair("tcp")
    if side == "client":
        client = kind(ssl.PROTOCOL_TLS_CLIENT)
        client.maximum_version = version
        saying = in_thread(say_close_notify, peer, b"")
        shaking_hands: Any = loop.create_connection(
            asyncio.Protocol, sock=ours, ssl=client, server_hostname=HOST
        )
    else:
        server = kind(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificates["good"][0].file)
        server.maximum_version = version
        saying = in_thread(say_close_notify, peer, client_hello(certificates.trusted.file))
        shaking_hands = loop.connect_accepted_socket(asyncio.Protocol, ours, ssl=server)
    with pytest.raises(ssl.SSLZeroReturnError, match=r"TLS/SSL connection has been closed"):
        await shaking_hands
    await saying
    await eventually(lambda: ours.fileno() == -1)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\xff\xff" + bytes(100),
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\x14\x03\x03\x00\x01\x01" * 200,
        b"\x17\x03\x03\x00\x00" * 200,
        b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + bytes(16_380),
        bytes(1000),
    ],
    ids=[
        "http",
        "no hello",
        "oversized record",
        "alert",
        "change of ciphers",
        "empty records",
        "endless hello",
        "zeros",
    ],
)
async def test_nonsense_in_place_of_a_hello(
    certificates: Certificates, loop_name: str, loop: Loop, nonsense: bytes
) -> None:
    async with Serving(certificates, loop_name) as serving:
        await in_thread(answer_to, serving.address, nonsense)
        assert await in_thread(exchange, certificates, serving.address) == b"hello"
    assert all(bytes(protocol.data) in (b"", b"hello") for protocol in serving.protocols)


class Trickle:
    """A socket for ``ssl`` that passes on one byte at a time."""

    def __init__(self, raw: socket.socket, context: ssl.SSLContext) -> None:
        self._raw = raw
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._secured = context.wrap_bio(self._incoming, self._outgoing, server_hostname=HOST)

    def run(self, operation: Callable[[], Any]) -> Any:
        """Run an operation of the connection to its end."""
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                self.flush()
                self._incoming.write(self._raw.recv(1))
            else:
                self.flush()
                return result

    def flush(self) -> None:
        """Send what there is to send, byte by byte."""
        for byte in self._outgoing.read():
            self._raw.sendall(bytes([byte]))

    def shake_hands_and_send(self, data: bytes) -> None:
        """Make the handshake and write data."""
        self.run(self._secured.do_handshake)
        self.run(lambda: self._secured.write(data))


@each_version
async def test_bytes_that_come_one_at_a_time(
    certificates: Certificates, loop_name: str, loop: Loop, version: ssl.TLSVersion
) -> None:
    async with Serving(certificates, loop_name) as serving:
        with socket.create_connection(serving.address, timeout=PEER_TIMEOUT) as raw:
            trickle = Trickle(raw, trusting(certificates, version))
            await in_thread(trickle.shake_hands_and_send, b"trickle")
            assert await serving.protocols[0].received(7) == b"trickle"


def secured_socket(
    certificates: Certificates, address: Address, version: ssl.TLSVersion
) -> ssl.SSLSocket:
    raw = socket.create_connection(address, timeout=PEER_TIMEOUT)
    return trusting(certificates, version).wrap_socket(raw, server_hostname=HOST)


def reset(sock: socket.socket) -> None:
    """Close with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@each_version
@pytest.mark.parametrize("ending", ["eof", "reset", "eof in a record", "reset in a record"])
async def test_an_end_without_close_notify(
    certificates: Certificates, loop_name: str, loop: Loop, version: ssl.TLSVersion, ending: str
) -> None:
    async with Serving(certificates, loop_name) as serving:

        def hang_up() -> None:
            secured = secured_socket(certificates, serving.address, version)
            secured.sendall(b"last words")
            raw = socket.socket(fileno=secured.detach())
            if ending.endswith("in a record"):
                raw.sendall(b"\x17\x03\x03\x01\x00half")
            if ending.startswith("reset"):
                reset(raw)
            else:
                raw.close()

        await in_thread(hang_up)
        await eventually(lambda: bool(serving.protocols))
        await serving.protocols[0].called("connection_made")
        if ending.startswith("eof"):
            assert await serving.protocols[0].received(10) == b"last words"
    assert bytes(serving.protocols[0].data) in (b"", b"last words")


@each_version
@pytest.mark.parametrize(
    ("nonsense", "reason", "alert"),
    [
        (b"\x17\x03\x03\xff\xff", "ENCRYPTED_LENGTH_TOO_LONG", "RECORD_OVERFLOW"),
        (
            b"\x17\x03\x03\x00\x20" + bytes(32),
            "DECRYPTION_FAILED_OR_BAD_RECORD_MAC",
            "BAD_RECORD_MAC",
        ),
        (
            b"\x17\x03\x03\x00\x00",
            "DECRYPTION_FAILED_OR_BAD_RECORD_MAC",
            "BAD_RECORD_MAC",
        ),
        (b"\x63\x03\x03\x00\x01\x00", "WRONG_VERSION_NUMBER", "UNEXPECTED_MESSAGE"),
    ],
    ids=["oversized", "not authentic", "empty", "of an unknown kind"],
)
async def test_what_is_no_record_ends_the_connection(
    certificates: Certificates,
    loop_name: str,
    loop: Loop,
    version: ssl.TLSVersion,
    nonsense: bytes,
    reason: str,
    alert: str,
) -> None:
    async with Serving(certificates, loop_name) as serving:

        def interrupt() -> None:
            with secured_socket(certificates, serving.address, version) as secured:
                secured.sendall(b"last words")
                os.write(secured.fileno(), nonsense)
                if loop_name == "rloop":
                    with pytest.raises(ssl.SSLError, match=alert):
                        secured.recv(1)
                else:
                    # asyncio does not send the alert.
                    with contextlib.suppress(ConnectionResetError):
                        assert secured.recv(1) == b""

        await in_thread(interrupt)
        protocol = serving.protocols[0]
        failure = await protocol.called("connection_lost")
        assert isinstance(failure, ssl.SSLError)
        assert failure.reason == reason
    # asyncio's protocol drops what came before a failure in the same turn.
    expected = (b"last words",) if loop_name == "rloop" else (b"last words", b"")
    assert bytes(protocol.data) in expected


@each_version
async def test_a_record_that_was_changed_is_not_delivered(
    certificates: Certificates, loop_name: str, loop: Loop, version: ssl.TLSVersion
) -> None:
    async with Serving(certificates, loop_name) as serving:

        def tamper() -> None:
            with socket.create_connection(serving.address, timeout=PEER_TIMEOUT) as raw:
                secured, outgoing = shaken_hands(raw, trusting(certificates, version))
                raw.sendall(outgoing.read())
                secured.write(b"good")
                good = outgoing.read()
                secured.write(b"evil")
                bad = bytearray(outgoing.read())
                bad[-1] ^= 1
                raw.sendall(good + bytes(bad))
                with contextlib.suppress(ConnectionResetError):
                    receive_until_eof(raw)

        await in_thread(tamper)
    # asyncio's protocol drops what came before a failure in the same turn.
    expected = (b"good",) if loop_name == "rloop" else (b"good", b"")
    assert bytes(serving.protocols[0].data) in expected


async def test_what_is_no_record_does_not_undo_the_handshake_before_it(
    certificates: Certificates, loop_name: str, loop: Loop
) -> None:
    """In TLS 1.3 data may follow the end of the handshake at once, and anything else as well."""
    async with Serving(certificates, loop_name) as serving:

        def say_all_at_once() -> None:
            with socket.create_connection(serving.address, timeout=PEER_TIMEOUT) as raw:
                context = trusting(certificates, ssl.TLSVersion.TLSv1_3)
                secured, outgoing = shaken_hands(raw, context)
                secured.write(b"last words")
                raw.sendall(outgoing.read() + b"\x17\x03\x03\xff\xff")
                with contextlib.suppress(ConnectionResetError):
                    receive_until_eof(raw)

        await in_thread(say_all_at_once)
        protocol = serving.protocols[0]
        assert isinstance(await protocol.called("connection_lost"), ssl.SSLError)
    # asyncio's protocol drops what came before a failure in the same turn.
    assert bytes(protocol.data) == (b"last words" if loop_name == "rloop" else b"")


@needs_openssl
async def test_renegotiation_is_refused(
    certificates: Certificates, loop_name: str, loop: Loop
) -> None:
    """OpenSSL's command line client asks for what Python's module cannot ask for."""
    async with Serving(certificates, loop_name) as serving:
        client = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-connect", f"{LOOPBACK}:{serving.address[1]}", "-tls1_2"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert client.stdin is not None
        client.stdin.write(b"first\n")
        await eventually(lambda: bool(serving.protocols))
        protocol = serving.protocols[0]
        assert await protocol.received(6) == b"first\n"
        # Read at once with nothing else, it is a command.
        output, _ = await asyncio.wait_for(client.communicate(b"R\n"), PEER_TIMEOUT)
        failure = await protocol.called("connection_lost")
        assert isinstance(failure, ssl.SSLError)
        assert failure.reason == "SSLV3_ALERT_HANDSHAKE_FAILURE"
        assert b"RENEGOTIATING" in output
        assert b"no renegotiation" in output
    assert protocol.data == b"first\n"


#: How many updates of its key a peer may make before it sends data again.
MOST_KEY_UPDATES = 32

each_answer = pytest.mark.parametrize(
    "answered", [False, True], ids=["key updates", "key updates that ask for another"]
)


@each_answer
async def test_a_flood_of_key_updates_ends_the_connection(
    certificates: Certificates, loop_name: str, loop: Loop, tmp_path: Path, answered: bool
) -> None:
    async with Serving(certificates, loop_name) as serving:

        def flood() -> None:
            with socket.create_connection(serving.address, timeout=PEER_TIMEOUT) as raw:
                client = ForgingClient(raw, certificates.trusted.file, tmp_path / "keys")
                raw.sendall(client.data(b"none"))
                for words in (b", some", b", some"):
                    raw.sendall(client.key_updates(MOST_KEY_UPDATES, answered=answered))
                    raw.sendall(client.data(words))
                raw.sendall(client.key_updates(MOST_KEY_UPDATES + 1, answered=answered))
                with contextlib.suppress(ConnectionError):
                    raw.sendall(client.data(b", too many"))
                    receive_until_eof(raw)

        await in_thread(flood)
        protocol = serving.protocols[0]
        failure = await protocol.called("connection_lost")
        assert isinstance(failure, ssl.SSLError)
        assert failure.reason == "UNEXPECTED_MESSAGE"
    said = b"none, some, some"
    if loop_name == "rloop":
        assert protocol.data == said
    else:
        # asyncio's protocol drops what came before a failure in the same turn.
        assert said.startswith(protocol.data)


async def test_key_updates_are_not_answered_until_there_is_something_to_say(
    certificates: Certificates, loop_name: str, loop: Loop, tmp_path: Path
) -> None:
    """A peer that asks for more answers than it reads would else have them pile up."""
    rounds = 100
    async with Serving(certificates, loop_name) as serving:
        with socket.create_connection(serving.address, timeout=PEER_TIMEOUT) as raw:

            def ask() -> None:
                client = ForgingClient(raw, certificates.trusted.file, tmp_path / "keys")
                for _ in range(rounds):
                    raw.sendall(client.key_updates(MOST_KEY_UPDATES, answered=True))
                    raw.sendall(client.data(b"?"))

            def listen() -> bytes:
                raw.shutdown(socket.SHUT_WR)
                return receive_until_eof(raw)

            await in_thread(ask)
            protocol = serving.protocols[0]
            assert await protocol.received(rounds) == b"?" * rounds
            protocol.transport.write(b"!")
            protocol.transport.close()
            answered = await in_thread(listen)
            assert await protocol.called("connection_lost") is None
    # Two tickets, one answer to all the updates, what was written, and the end.
    assert len(answered) < rounds * MOST_KEY_UPDATES


@each_version
async def test_nothing_is_lost_at_close(
    certificates: Certificates, loop_name: str, loop: Loop, version: ssl.TLSVersion
) -> None:
    data = random.Random(1).randbytes(8 << 20)
    context = on_loop(tls.server_context(certificates["good"][0].file), loop_name)

    class Sender(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            transport.write(data)
            transport.close()

    server = await loop.create_server(Sender, LOOPBACK, 0, ssl=context)

    def receive() -> bytes:
        with secured_socket(certificates, server.sockets[0].getsockname(), version) as secured:
            return receive_until_eof(secured)

    # Compared as a fact: what pytest would show of two long strings takes minutes.
    is_equal = await in_thread(receive) == data
    assert is_equal
    server.close()
    await server.wait_closed()


async def test_silent_peers_time_out(
    certificates: Certificates, loop_name: str, loop: Loop
) -> None:
    context = on_loop(tls.server_context(certificates["good"][0].file), loop_name)
    server = await loop.create_server(
        asyncio.Protocol, LOOPBACK, 0, ssl=context, ssl_handshake_timeout=0.2
    )
    address = server.sockets[0].getsockname()
    hello = client_hello(certificates.trusted.file)

    def wait_for_the_end() -> None:
        peers = [socket.create_connection(address, timeout=PEER_TIMEOUT) for _ in range(50)]
        for peer in peers:
            peer.sendall(hello[:100])
        for peer in peers:
            with peer, contextlib.suppress(ConnectionResetError):
                assert peer.recv(1) == b""

    await in_thread(wait_for_the_end)
    server.close()
    await server.wait_closed()


@each_version
async def test_a_peer_that_falls_silent_after_its_close_notify_is_done_with(
    certificates: Certificates, loop_name: str, loop: Loop, version: ssl.TLSVersion
) -> None:
    async with Serving(certificates, loop_name) as serving:
        secured = await in_thread(secured_socket, certificates, serving.address, version)
        with secured:
            secured.setblocking(False)
            secured.sendall(b"last words")
            with contextlib.suppress(ssl.SSLWantReadError):
                secured.unwrap()
            # The peer's stream does not end.
            assert await serving.protocols[0].called("connection_lost") is None
            assert serving.protocols[0].data == b"last words"
