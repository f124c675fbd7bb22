"""Transports on sockets of the program's own classes: the calls of their methods, and failures."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from support.leaks import LeakGuard
from support.peers import LOOPBACK
from support.protocols import RecordingDatagramProtocol, RecordingProtocol
from support.threads import eventually, turns

Loop = asyncio.AbstractEventLoop


class Failure(Exception):
    """Raised on purpose."""


class Noting(socket.socket):
    """Notes calls of ``close()``, and in the first one raises `error`."""

    error: type[BaseException] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.calls: list[str] = []

    def close(self) -> None:
        super().close()
        self.calls.append("close")
        if self.error is not None and len(self.calls) == 1:
            raise self.error("on purpose")

    def _decref_socketios(self) -> None:
        raise AssertionError("asyncio does not call this")


@contextlib.contextmanager
def connected_socket(kind: type[Any] = Noting) -> Iterator[tuple[Any, socket.socket]]:
    """Give a connected socket of that class, which does not block, and its peer."""
    ours, peer = socket.socketpair()
    peer.settimeout(20)
    with peer, kind(fileno=ours.detach()) as sock:
        sock.setblocking(False)
        yield sock, peer


@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_a_transport_closes_its_socket_once(loop: Loop, ending: str) -> None:
    protocol = RecordingProtocol()
    with connected_socket() as (sock, peer):
        transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
        getattr(transport, ending)()
        await protocol.called("connection_lost")
        await turns(1)
        assert sock.calls == ["close"]
        assert peer.recv(1) == b""


async def test_an_endpoint_closes_its_socket_once(loop: Loop) -> None:
    protocol = RecordingDatagramProtocol()
    with Noting(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))
        transport, _ = await loop.create_datagram_endpoint(lambda: protocol, sock=sock)
        transport.close()
        await protocol.called("connection_lost")
        await turns(1)
        assert sock.calls == ["close"]


async def test_a_pipe_transport_closes_its_socket_once(loop: Loop) -> None:
    protocol = RecordingProtocol()
    with connected_socket() as (sock, _):
        transport, _ = await loop.connect_read_pipe(lambda: protocol, sock)
        transport.close()
        await protocol.called("connection_lost")
        await turns(1)
        assert sock.calls == ["close"]


async def test_a_socket_whose_close_fails_is_closed_and_reported(
    loop: Loop, guard: LeakGuard
) -> None:
    protocol = RecordingProtocol()
    with connected_socket() as (sock, peer):
        sock.error = Failure
        transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
        transport.close()
        await protocol.called("connection_lost")
        await eventually(lambda: guard.reports)
        (report,) = guard.take_reports()
        assert isinstance(report["exception"], Failure)
        assert peer.recv(1) == b""
        # asyncio would warn of an unclosed transport.
        vars(transport).pop("_sock", None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_of_close_leaves_the_run(loop: Loop, error: type[BaseException]) -> None:
    protocol = RecordingProtocol()

    async def close() -> None:
        transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
        transport.close()
        await asyncio.get_running_loop().create_future()

    with connected_socket() as (sock, peer):
        sock.error = error
        closing = loop.create_task(close())
        with pytest.raises(error, match="on purpose"):
            loop.run_forever()
        assert peer.recv(1) == b""
        closing.cancel()
        loop.run_until_complete(asyncio.wait([closing]))
        vars(protocol.transport).pop("_sock", None)


async def test_a_socket_without_a_count_of_its_files_is_a_connection(loop: Loop) -> None:
    class Bare(socket.socket):
        def __init__(self, fileno: int) -> None:
            # Not socket.socket's own, which makes the count.
            super(socket.socket, self).__init__(fileno=fileno)
            self._closed = False

        def close(self) -> None:
            super(socket.socket, self).close()

    protocol = RecordingProtocol()
    with connected_socket(Bare) as (sock, peer):
        transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
        peer.send(b"data")
        assert await protocol.received(4) == b"data"
        transport.close()
        await protocol.called("connection_lost")
        await turns(1)
        assert sock.fileno() == -1


@pytest.mark.parametrize("error", [Failure, asyncio.CancelledError, KeyboardInterrupt])
async def test_what_getpeername_raises_reaches_the_maker_of_an_endpoint(
    loop: Loop, error: type[BaseException]
) -> None:
    class Unknown(socket.socket):
        def getpeername(self) -> Any:
            raise error("on purpose")

    with Unknown(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))
        with pytest.raises(error, match="on purpose"):
            await loop.create_datagram_endpoint(RecordingDatagramProtocol, sock=sock)


async def test_an_endpoint_whose_socket_has_no_peer_is_asked_once(loop: Loop) -> None:
    calls: list[str] = []

    class Unknown(socket.socket):
        def getpeername(self) -> Any:
            calls.append("getpeername")
            raise OSError("on purpose")

    protocol = RecordingDatagramProtocol()
    with Unknown(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))
        transport, _ = await loop.create_datagram_endpoint(lambda: protocol, sock=sock)
        assert calls == ["getpeername"]
        assert transport.get_extra_info("peername") is None
        transport.close()
        await protocol.called("connection_lost")


@pytest.mark.parametrize("error", [Failure, OSError])
async def test_what_setsockopt_raises_reaches_the_maker_of_a_connection(
    loop: Loop, error: type[BaseException], guard: LeakGuard
) -> None:
    class Fixed(socket.socket):
        def setsockopt(self, *_: Any) -> None:
            raise error("on purpose")

    with socket.create_server((LOOPBACK, 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    sock = Fixed(socket.AF_INET, socket.SOCK_STREAM, 6, accepted.detach())
    with peer, sock, pytest.raises(error, match="on purpose"):
        await loop.create_connection(RecordingProtocol, sock=sock)
    # Closed by the program, although there is the transport that was not finished.
    assert sock.fileno() == -1
    guard.take_unraisable()
