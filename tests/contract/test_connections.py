"""create_connection: addresses tried in order or raced, and what is raised when none answers."""

import asyncio
import errno
import re
import select
import socket
import sys
from collections.abc import Iterable
from typing import Any

import pytest

from support.peers import LOOPBACK, stream_pair
from support.protocols import RecordingProtocol
from support.threads import PEER_TIMEOUT, in_thread, turns
from support.tls import SERVER_NAME, Authority

Loop = asyncio.AbstractEventLoop
Address = tuple[str, int]


def resolving_to(*addresses: Address) -> Any:
    """Return a getaddrinfo coroutine function that answers with those IPv4 and IPv6 addresses."""

    async def getaddrinfo(host: Any, port: Any, **_options: Any) -> list[tuple[Any, ...]]:
        return [
            (
                socket.AF_INET6 if ":" in address[0] else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                "",
                address,
            )
            for address in addresses
        ]

    return getaddrinfo


async def connect_and_close(loop: Loop, *arguments: Any, **options: Any) -> Address:
    """Connect, close again, and return the address that answered."""
    transport, protocol = await loop.create_connection(RecordingProtocol, *arguments, **options)
    peername: Address = transport.get_extra_info("peername")
    transport.close()
    await protocol.called("connection_lost")
    return peername


async def test_a_connection_returns_transport_and_protocol_after_connection_made(
    loop: Loop,
) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        transport, protocol = await loop.create_connection(
            RecordingProtocol, *listener.getsockname()
        )
        assert isinstance(transport, asyncio.Transport)
        assert protocol.log == ["connection_made"]
        assert protocol.transport is transport
        transport.close()
        await protocol.called("connection_lost")


async def test_a_host_name_is_resolved(loop: Loop) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        connected = await connect_and_close(loop, "localhost", port, family=socket.AF_INET)
        assert connected == (LOOPBACK, port)


async def test_a_refused_connection_raises_what_connect_raised(
    loop: Loop, unused_address: Address
) -> None:
    with pytest.raises(
        ConnectionRefusedError, match=re.escape(f"Connect call failed {unused_address!r}")
    ) as raised:
        await loop.create_connection(RecordingProtocol, *unused_address)
    assert raised.value.errno == errno.ECONNREFUSED


async def test_addresses_are_tried_in_turn_until_one_answers(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, unused_address: Address
) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        answering = listener.getsockname()
        monkeypatch.setattr(loop, "getaddrinfo", resolving_to(unused_address, answering))
        assert await connect_and_close(loop, "name", 1) == answering


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
async def test_different_failures_are_joined_in_one_message(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, unused_address: Address
) -> None:
    other = ("127.0.0.2", unused_address[1])
    monkeypatch.setattr(loop, "getaddrinfo", resolving_to(unused_address, other))
    expected = (
        f"Multiple exceptions: [Errno {errno.ECONNREFUSED}] Connect call failed "
        f"{unused_address!r}, [Errno {errno.ECONNREFUSED}] Connect call failed {other!r}"
    )
    with pytest.raises(OSError, match=re.escape(expected)):
        await loop.create_connection(RecordingProtocol, "name", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
@pytest.mark.skipif(sys.version_info < (3, 12), reason="all_errors came with 3.12")
async def test_all_errors_are_raised_as_a_group(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, unused_address: Address
) -> None:
    other = ("127.0.0.2", unused_address[1])
    monkeypatch.setattr(loop, "getaddrinfo", resolving_to(unused_address, other))
    with pytest.raises(ExceptionGroup, match="create_connection failed") as raised:
        await loop.create_connection(  # type: ignore[call-overload]
            RecordingProtocol, "name", 1, all_errors=True
        )
    assert [type(error) for error in raised.value.exceptions] == [ConnectionRefusedError] * 2


class BlackHole:
    """A listener on loopback whose queue is full, so that it answers no further connection."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind((LOOPBACK, 0))
        self._listener.listen(0)
        self.address: Address = self._listener.getsockname()
        self._waiting: list[socket.socket] = []
        # The queue of backlog 0 takes one or two; those that it takes are never accepted.
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(self.address)
            self._waiting.append(filler)
        # Full since one is there to be accepted.
        assert select.select([self._listener], [], [], PEER_TIMEOUT)[0]

    def close(self) -> None:
        for sock in (*self._waiting, self._listener):
            sock.close()


@pytest.fixture
def black_hole() -> Iterable[Address]:
    """The address of a BlackHole."""
    hole = BlackHole()
    yield hole.address
    hole.close()


linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux drops a connection to a full queue silently"
)


@linux_only
async def test_happy_eyeballs_pass_by_an_address_that_never_answers(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, black_hole: Address
) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        answering = listener.getsockname()
        monkeypatch.setattr(loop, "getaddrinfo", resolving_to(black_hole, answering))
        started = loop.time()
        connected = await connect_and_close(loop, "name", 1, happy_eyeballs_delay=0.05)
        assert connected == answering
        assert loop.time() - started >= 0.05


@linux_only
async def test_happy_eyeballs_do_not_wait_after_a_refusal(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, unused_address: Address
) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        answering = listener.getsockname()
        monkeypatch.setattr(loop, "getaddrinfo", resolving_to(unused_address, answering))
        async with asyncio.timeout(10):
            connected = await connect_and_close(loop, "name", 1, happy_eyeballs_delay=3600)
        assert connected == answering


@linux_only
async def test_a_cancelled_connection_attempt_leaves_nothing(
    loop: Loop, black_hole: Address
) -> None:
    connecting = asyncio.ensure_future(loop.create_connection(RecordingProtocol, *black_hole))
    await turns(5)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting


async def test_families_are_interleaved(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, unused_address: Address
) -> None:
    port = unused_address[1]
    attempts: list[str] = []

    async def sock_connect(_sock: socket.socket, address: Address) -> None:
        attempts.append(address[0])
        raise ConnectionRefusedError(errno.ECONNREFUSED, f"refused {address}")

    monkeypatch.setattr(loop, "sock_connect", sock_connect)
    addresses = [("::1", port), ("::2", port), ("127.0.0.1", port), ("127.0.0.2", port)]
    monkeypatch.setattr(loop, "getaddrinfo", resolving_to(*addresses))
    for interleave, expected in [
        (0, ["::1", "::2", "127.0.0.1", "127.0.0.2"]),
        (1, ["::1", "127.0.0.1", "::2", "127.0.0.2"]),
        (2, ["::1", "::2", "127.0.0.1", "127.0.0.2"]),
    ]:
        attempts.clear()
        with pytest.raises(OSError, match="Multiple exceptions"):
            await loop.create_connection(RecordingProtocol, "name", 1, interleave=interleave)
        assert attempts == expected


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
async def test_the_local_address_is_bound(loop: Loop) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        transport, protocol = await loop.create_connection(
            RecordingProtocol, *listener.getsockname(), local_addr=("127.0.0.3", 0)
        )
        assert transport.get_extra_info("sockname")[0] == "127.0.0.3"
        transport.close()
        await protocol.called("connection_lost")


async def test_a_local_address_in_use_is_an_error_that_names_it(
    loop: Loop, unused_address: Address
) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        with pytest.raises(
            OSError, match=r"error while attempting to bind on address .*: .*in use"
        ) as raised:
            await loop.create_connection(
                RecordingProtocol, *listener.getsockname(), local_addr=unused_address
            )
        assert raised.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "host and port was not specified and no sock specified"),
        ({"server_hostname": "name"}, "server_hostname is only meaningful with ssl"),
        ({"ssl_handshake_timeout": 1}, "ssl_handshake_timeout is only meaningful with ssl"),
        ({"ssl_shutdown_timeout": 1}, "ssl_shutdown_timeout is only meaningful with ssl"),
        ({"ssl": True}, "You must set server_hostname when using ssl without a host"),
    ],
    ids=str,
)
async def test_arguments_that_make_no_sense_are_refused(
    loop: Loop, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        await loop.create_connection(RecordingProtocol, **options)


async def test_both_host_and_sock_are_refused(loop: Loop) -> None:
    with (
        socket.socket() as sock,
        pytest.raises(ValueError, match="host/port and sock can not be specified at the same time"),
    ):
        await loop.create_connection(RecordingProtocol, LOOPBACK, 1, sock=sock)  # type: ignore[call-overload]


async def test_a_datagram_socket_is_refused(loop: Loop) -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as sock,
        pytest.raises(ValueError, match="A Stream Socket was expected, got <socket"),
    ):
        await loop.create_connection(RecordingProtocol, sock=sock)


async def test_a_socket_that_another_transport_has_is_refused(loop: Loop) -> None:
    if sys.version_info < (3, 12):
        pytest.skip("3.11 gives one socket to two transports")
    with socket.create_server((LOOPBACK, 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        transport, protocol = await loop.create_connection(RecordingProtocol, sock=sock)
        with pytest.raises(RuntimeError, match=r"File descriptor .* is used by transport"):
            await loop.create_connection(RecordingProtocol, sock=sock)
        transport.close()
        await protocol.called("connection_lost")


async def test_a_failing_protocol_factory_raises_and_leaves_nothing(loop: Loop) -> None:
    def factory() -> asyncio.Protocol:
        raise ZeroDivisionError("on purpose")

    with socket.create_server((LOOPBACK, 0)) as listener:
        sock = socket.create_connection(listener.getsockname())
        with sock, pytest.raises(ZeroDivisionError):
            await loop.create_connection(factory, sock=sock)


@pytest.mark.skipif(sys.version_info < (3, 15), reason="asyncio leaves the socket open")
@pytest.mark.parametrize("way", ["create_connection", "connect_accepted_socket"])
@pytest.mark.parametrize("failure", ["factory", "timeout"])
async def test_a_socket_is_closed_if_its_transport_is_never_made(
    loop: Loop, authority: Authority, way: str, failure: str
) -> None:
    def factory() -> asyncio.Protocol:
        if failure == "factory":
            raise ZeroDivisionError("on purpose")
        return RecordingProtocol()

    ours, peer = stream_pair("tcp")
    options: dict[str, Any] = {}
    if failure == "timeout":
        server_side = way == "connect_accepted_socket"
        options = {
            "ssl": authority.server_context() if server_side else authority.client_context(),
            "ssl_handshake_timeout": -1,
        }
    expected = ZeroDivisionError if failure == "factory" else ValueError
    with peer:
        with pytest.raises(expected):
            if way == "create_connection":
                if options:
                    options["server_hostname"] = SERVER_NAME
                await loop.create_connection(factory, sock=ours, **options)
            else:
                await loop.connect_accepted_socket(factory, ours, **options)
        assert ours.fileno() == -1
        assert await in_thread(peer.recv, 1) == b""


async def test_a_name_that_resolves_to_nothing_is_an_error(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "getaddrinfo", resolving_to())
    with pytest.raises(OSError, match=r"getaddrinfo\(.*\) returned empty list"):
        await loop.create_connection(RecordingProtocol, "name", 1)
