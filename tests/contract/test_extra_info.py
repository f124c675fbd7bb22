"""get_extra_info: the keys, values and types that asyncio gives, also after the connection."""

import asyncio
import copy
import pickle
import socket
from asyncio.trsock import TransportSocket
from pathlib import Path

import pytest

from support.peers import connected, reset, stream_pair
from support.protocols import RecordingProtocol
from support.threads import turns

Loop = asyncio.AbstractEventLoop


async def test_a_tcp_transport_knows_both_addresses() -> None:
    async with connected(RecordingProtocol()) as (transport, peer):
        assert transport.get_extra_info("sockname") == peer.getpeername()
        assert transport.get_extra_info("peername") == peer.getsockname()
        assert transport.get_extra_info("no such key") is None
        assert transport.get_extra_info("no such key", "default") == "default"
        assert transport.get_extra_info("sslcontext") is None


async def test_an_ipv6_transport_knows_flow_and_scope(loop: Loop) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback address")
    with listener:
        transport, protocol = await loop.create_connection(
            RecordingProtocol, *listener.getsockname()[:2]
        )
        assert transport.get_extra_info("peername") == listener.getsockname()
        assert len(transport.get_extra_info("sockname")) == 4
        transport.close()
        await protocol.called("connection_lost")


async def test_a_unix_transport_knows_its_path(loop: Loop, tmp_path: Path) -> None:
    protocol = RecordingProtocol()
    path = str(tmp_path / "socket")
    server = await loop.create_unix_server(lambda: protocol, path)
    transport, client = await loop.create_unix_connection(RecordingProtocol, path)
    await protocol.called("connection_made")
    assert transport.get_extra_info("peername") == path
    assert transport.get_extra_info("sockname") == ""
    assert protocol.transport.get_extra_info("sockname") == path
    assert protocol.transport.get_extra_info("peername") == ""
    transport.close()
    await client.called("connection_lost")
    await protocol.called("connection_lost")
    server.close()
    await server.wait_closed()


async def test_the_socket_is_a_view_with_the_options_of_the_real_one(kind: str) -> None:
    async with connected(RecordingProtocol(), kind) as (transport, peer):
        view = transport.get_extra_info("socket")
        assert type(view) is TransportSocket
        assert view.family == peer.family
        assert view.type == socket.SOCK_STREAM
        assert view.proto == peer.proto
        assert view.fileno() > 2
        assert view.getsockname() == peer.getpeername()
        assert view.getpeername() == peer.getsockname()
        assert view.gettimeout() == 0
        view.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert view.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert "TransportSocket" in repr(view)
        with view.dup() as twin:
            assert twin.fileno() != view.fileno()
            assert twin.getsockname() == view.getsockname()


async def test_the_socket_view_cannot_be_used_behind_the_transports_back(kind: str) -> None:
    async with connected(RecordingProtocol(), kind) as (transport, _):
        view = transport.get_extra_info("socket")
        view.settimeout(0)
        view.setblocking(False)
        with pytest.raises(ValueError, match="only 0 timeout is allowed on transport sockets"):
            view.settimeout(1)
        with pytest.raises(ValueError, match="transport sockets cannot be blocking"):
            view.setblocking(True)
        for missing in ("send", "recv", "close", "connect", "detach"):
            assert not hasattr(view, missing)
        for copied in (copy.copy, pickle.dumps):
            with pytest.raises(TypeError):
                copied(view)


async def test_addresses_are_known_after_the_peers_reset() -> None:
    protocol = RecordingProtocol()
    async with connected(protocol) as (transport, peer):
        expected = {"sockname": peer.getpeername(), "peername": peer.getsockname()}
        reset(peer)
        await protocol.called("connection_lost")
        assert {key: transport.get_extra_info(key) for key in expected} == expected
        await turns(2)
        assert {key: transport.get_extra_info(key) for key in expected} == expected
        assert transport.get_extra_info("socket").fileno() == -1


async def test_a_connection_reset_before_accept_has_no_peername(loop: Loop) -> None:
    ours, peer = stream_pair("tcp")
    protocol = RecordingProtocol()
    reset(peer)
    transport, _ = await loop.connect_accepted_socket(lambda: protocol, ours)
    assert transport.get_extra_info("peername") is None
    assert isinstance(transport.get_extra_info("sockname"), tuple)
    assert isinstance(await protocol.called("connection_lost"), ConnectionResetError)


async def test_extra_info_is_readable_inside_connection_made_and_connection_lost() -> None:
    seen: list[object] = []

    class Inspecting(RecordingProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            seen.append(transport.get_extra_info("peername"))

        def connection_lost(self, exc: Exception | None) -> None:
            seen.append(self.transport.get_extra_info("peername"))
            super().connection_lost(exc)

    protocol = Inspecting()
    async with connected(protocol) as (transport, peer):
        address = peer.getsockname()
        transport.close()
        await protocol.called("connection_lost")
        assert seen == [address, address]
