"""create_server and Server: what is bound, when it accepts, and how it ends."""

import asyncio
import contextlib
import errno
import re
import socket
import sys
from asyncio.trsock import TransportSocket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from support.leaks import LeakGuard
from support.peers import LOOPBACK, receive_until_eof, stream_pair
from support.protocols import RecordingProtocol
from support.threads import PEER_TIMEOUT, eventually, in_thread, turns

if TYPE_CHECKING:
    from support.tls import Authority

Loop = asyncio.AbstractEventLoop

needs_client_tracking = pytest.mark.skipif(
    sys.version_info < (3, 13), reason="close_clients and abort_clients came with 3.13"
)


class Served:
    """The protocols that one server made."""

    def __init__(self) -> None:
        self.protocols: list[RecordingProtocol] = []

    def __call__(self) -> RecordingProtocol:
        protocol = RecordingProtocol()
        self.protocols.append(protocol)
        return protocol

    async def next(self, count: int = 1) -> RecordingProtocol:
        """Wait until that many connections have been made and return the last of them."""
        await eventually(lambda: len(self.protocols) >= count)
        # Each on a thread of its own, perhaps.
        for protocol in self.protocols:
            await protocol.called("connection_made")
        return self.protocols[count - 1]

    async def end(self) -> None:
        """Close every connection and wait for the last one."""
        for protocol in self.protocols:
            protocol.transport.close()
            await protocol.called("connection_lost")


@contextlib.asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[tuple[asyncio.Server, Served]]:
    """Run a server, on a port of its own choice unless the options say otherwise."""
    served = Served()
    if "sock" not in options:
        options = {"host": LOOPBACK, "port": 0} | options
    server = await asyncio.get_running_loop().create_server(served, **options)
    try:
        yield server, served
    finally:
        server.close()
        await served.end()
        await server.wait_closed()


def connect(server: asyncio.Server) -> socket.socket:
    """Connect a blocking peer to the server's first socket."""
    return socket.create_connection(server.sockets[0].getsockname()[:2], timeout=PEER_TIMEOUT)


async def test_a_server_accepts_and_gives_each_connection_a_protocol(loop: Loop) -> None:
    async with serving() as (server, served):
        assert isinstance(server, asyncio.AbstractServer)
        assert server.is_serving()
        assert server.get_loop() is loop
        peers = [connect(server) for _ in range(50)]
        await served.next(50)
        for number, peer in enumerate(peers):
            peer.sendall(b"%d" % number)
            peer.close()
        for protocol in served.protocols:
            await protocol.called("connection_lost")
        assert sorted(int(protocol.data) for protocol in served.protocols) == list(range(50))


@pytest.mark.only_on("rloop")
@pytest.mark.parametrize("is_tls", [False, True], ids=["tcp", "tls"])
async def test_an_accepted_connection_does_not_begin_after_the_server_is_closed(
    loop: Loop, guard: LeakGuard, authority: "Authority", is_tls: bool
) -> None:
    # asyncio fails an assertion, and leaves the socket to the collector.
    loop.set_debug(True)
    context = authority.server_context() if is_tls else None
    for turns_before in range(10):
        served = Served()
        server = await loop.create_server(served, LOOPBACK, 0, ssl=context)
        with connect(server) as peer:
            await turns(turns_before)
            server.close()
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_WR)
                assert await in_thread(receive_until_eof, peer) == b""
        await server.wait_closed()
    errors = {type(report["exception"]) for report in guard.take_reports()}
    if is_tls:
        # One that began in time is cut off in its handshake.
        errors.discard(ConnectionResetError)
    assert errors == {ConnectionAbortedError}


async def test_port_zero_is_a_free_port_of_the_systems_choice() -> None:
    async with serving() as (server, _):
        # typeshed takes a TransportSocket for a socket.
        sock: Any = server.sockets[0]
        assert type(sock) is TransportSocket
        host, port = sock.getsockname()
        assert host == LOOPBACK
        assert port > 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
async def test_a_list_of_hosts_binds_each_once(loop: Loop) -> None:
    async with serving(host=[LOOPBACK, "127.0.0.2", LOOPBACK]) as (server, served):
        hosts = sorted(sock.getsockname()[0] for sock in server.sockets)
        assert hosts == [LOOPBACK, "127.0.0.2"]
        for sock in server.sockets:
            socket.create_connection(sock.getsockname()).close()
        await served.next(2)


async def test_the_repr_shows_the_sockets() -> None:
    async with serving() as (server, _):
        assert repr(server).startswith("<Server sockets=(<asyncio.TransportSocket fd=")
        server.close()
        assert repr(server) == "<Server sockets=()>"


async def test_both_host_and_sock_are_refused(loop: Loop) -> None:
    with (
        socket.socket() as sock,
        pytest.raises(ValueError, match="host/port and sock can not be specified at the same time"),
    ):
        await loop.create_server(RecordingProtocol, LOOPBACK, 0, sock=sock)  # type: ignore[call-overload]


async def test_neither_host_nor_sock_is_refused(loop: Loop) -> None:
    with pytest.raises(ValueError, match="Neither host/port nor sock were specified"):
        await loop.create_server(RecordingProtocol)  # type: ignore[call-overload]


async def test_a_datagram_socket_is_refused(loop: Loop) -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as sock,
        pytest.raises(ValueError, match="A Stream Socket was expected, got <socket"),
    ):
        await loop.create_server(RecordingProtocol, sock=sock)


@pytest.mark.parametrize("ssl", [True, False])
async def test_a_bool_for_ssl_is_refused(loop: Loop, ssl: bool) -> None:
    with pytest.raises(TypeError, match="ssl argument must be an SSLContext or None"):
        await loop.create_server(RecordingProtocol, LOOPBACK, 0, ssl=ssl)


async def test_a_port_in_use_is_an_error_that_names_the_address(
    loop: Loop, unused_address: tuple[str, int]
) -> None:
    with pytest.raises(
        OSError,
        match=re.escape(f"error while attempting to bind on address {unused_address!r}: "),
    ) as raised:
        await loop.create_server(RecordingProtocol, *unused_address)
    assert raised.value.errno == errno.EADDRINUSE
    assert "address already in use" in str(raised.value)


async def test_a_users_listening_socket_is_served_and_closed(loop: Loop) -> None:
    sock = socket.create_server((LOOPBACK, 0))
    async with serving(sock=sock) as (server, served):
        assert sock.gettimeout() == 0
        connect(server).close()
        await served.next()
    assert sock.fileno() == -1


async def test_options_reach_the_socket() -> None:
    async with serving(reuse_port=True, backlog=7) as (server, _):
        sock = server.sockets[0]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        address = sock.getsockname()
        async with serving(host=address[0], port=address[1], reuse_port=True) as (twin, _):
            assert twin.sockets[0].getsockname() == address


@pytest.mark.skipif(sys.version_info < (3, 13), reason="keep_alive came with 3.13")
async def test_keep_alive_reaches_the_socket() -> None:
    async with serving(keep_alive=True) as (server, _):
        assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_a_server_that_is_not_started_does_not_listen() -> None:
    async with serving(start_serving=False) as (server, served):
        assert not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            connect(server)
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving()
        connect(server).close()
        await served.next()


async def test_close_stops_listening_and_leaves_connections_open() -> None:
    async with serving() as (server, served):
        address = server.sockets[0].getsockname()
        with connect(server) as peer:
            protocol = await served.next()
            server.close()
            server.close()
            assert not server.is_serving()
            assert server.sockets == ()
            await turns(1)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            peer.sendall(b"still here")
            assert await protocol.received(10) == b"still here"


async def test_wait_closed_waits_for_the_last_connection() -> None:
    if sys.version_info < (3, 12, 1):
        pytest.skip("before 3.12.1 wait_closed() returned at once")
    async with serving() as (server, served):
        with connect(server):
            protocol = await served.next()
            waiting = asyncio.ensure_future(server.wait_closed())
            await turns(3)
            assert not waiting.done()
            server.close()
            await turns(3)
            assert not waiting.done()
            protocol.transport.close()
            await waiting
            assert protocol.count("connection_lost") == 1
            await server.wait_closed()


async def test_serve_forever_ends_when_it_is_cancelled() -> None:
    async with serving(start_serving=False) as (server, served):
        serving_forever = asyncio.ensure_future(server.serve_forever())
        await eventually(server.is_serving)
        with pytest.raises(RuntimeError, match=r"is already being awaited on serve_forever\(\)"):
            await server.serve_forever()
        connect(server).close()
        protocol = await served.next()
        await protocol.called("connection_lost")
        serving_forever.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving_forever
        assert not server.is_serving()
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()


async def test_closing_the_server_ends_serve_forever() -> None:
    async with serving() as (server, _):
        serving_forever = asyncio.ensure_future(server.serve_forever())
        await turns(2)
        server.close()
        with pytest.raises(asyncio.CancelledError):
            await serving_forever


async def test_a_server_is_an_asynchronous_context_manager(loop: Loop) -> None:
    server = await loop.create_server(RecordingProtocol, LOOPBACK, 0)
    async with server as same:
        assert same is server
        assert server.is_serving()
    assert not server.is_serving()


@needs_client_tracking
async def test_close_clients_closes_each_connection_after_its_queue() -> None:
    async with serving() as (server, served):
        payload = bytes(8 << 20)
        with connect(server) as first, connect(server) as second:
            await served.next(2)
            for protocol in served.protocols:
                protocol.transport.write(payload)
            server.close()
            server.close_clients()
            assert all(protocol.transport.is_closing() for protocol in served.protocols)
            received = await asyncio.gather(
                in_thread(receive_until_eof, first), in_thread(receive_until_eof, second)
            )
            assert [len(data) for data in received] == [len(payload)] * 2
            await server.wait_closed()


@needs_client_tracking
async def test_abort_clients_drops_each_connection_at_once() -> None:
    async with serving() as (server, served):
        with connect(server) as peer:
            protocol = await served.next()
            protocol.transport.write(bytes(8 << 20))
            server.close()
            server.abort_clients()
            assert await protocol.called("connection_lost") is None
            assert len(await in_thread(receive_until_eof, peer)) < 8 << 20
            await server.wait_closed()


@needs_client_tracking
async def test_clients_that_are_gone_are_not_closed_again() -> None:
    async with serving() as (server, served):
        connect(server).close()
        protocol = await served.next()
        await protocol.called("connection_lost")
        await turns(1)
        server.close_clients()
        server.abort_clients()
        await turns(1)
        assert protocol.count("connection_lost") == 1


async def test_a_failing_protocol_factory_is_reported_and_the_server_goes_on(
    loop: Loop, guard: LeakGuard
) -> None:
    loop.set_debug(True)  # Without it asyncio tells nobody.
    served = Served()
    failures = [ZeroDivisionError("on purpose")]

    def factory() -> RecordingProtocol:
        if failures:
            raise failures.pop()
        return served()

    server = await loop.create_server(factory, LOOPBACK, 0)
    with connect(server) as refused:
        await eventually(lambda: guard.reports)
        (report,) = guard.take_reports()
        assert report["message"] == "Error on transport creation for incoming connection"
        assert isinstance(report["exception"], ZeroDivisionError)
        # asyncio leaves the accepted socket to the garbage collector, which warns; until then
        # the exception's traceback holds it.
        del report
        receiving = asyncio.ensure_future(in_thread(receive_until_eof, refused))

        def is_collected() -> bool:
            guard.take_unraisable()
            return receiving.done()

        # Not before the task that reported it has ended, perhaps on another thread.
        await eventually(is_collected)
        guard.take_unraisable()
        assert await receiving == b""
    with connect(server):
        await served.next()
    await served.end()
    server.close()
    await server.wait_closed()


async def test_a_crowd_that_connects_at_once_is_accepted_completely() -> None:
    async with serving(backlog=200) as (server, served):
        address = server.sockets[0].getsockname()

        def connect_all() -> list[socket.socket]:
            return [socket.create_connection(address, timeout=PEER_TIMEOUT) for _ in range(200)]

        peers = await in_thread(connect_all)
        await served.next(200)
        for peer in peers:
            peer.close()


@pytest.mark.parametrize("closing", [True, False])
async def test_an_accepted_socket_becomes_a_transport(loop: Loop, kind: str, closing: bool) -> None:
    ours, peer = stream_pair(kind)
    with peer:
        transport, protocol = await loop.connect_accepted_socket(RecordingProtocol, ours)
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"greeting")
        (transport.close if closing else transport.write_eof)()
        assert await in_thread(receive_until_eof, peer) == b"greeting"
        transport.close()
        await protocol.called("connection_lost")


async def test_an_accepted_socket_must_be_a_stream(loop: Loop) -> None:
    with (
        socket.socket(type=socket.SOCK_DGRAM) as sock,
        pytest.raises(ValueError, match="A Stream Socket was expected, got <socket"),
    ):
        await loop.connect_accepted_socket(RecordingProtocol, sock)
