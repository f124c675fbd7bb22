"""Private attributes of asyncio's transports that programs read, over the life of a transport."""

import asyncio
import socket
import sys
from asyncio import sslproto
from typing import Any

import pytest

from support.datagrams import ANY_PORT, endpoint
from support.peers import connected, fill, receive_exactly
from support.pipes import open_pipe
from support.protocols import RecordingBufferedProtocol, RecordingProtocol
from support.threads import in_thread
from support.tls import SERVER_NAME, Authority, tls_connected


def read(thing: object, names: str) -> dict[str, Any]:
    """Return the attributes of those names."""
    return {name: getattr(thing, name) for name in names.split()}


async def test_a_stream_transport_has_the_attributes_of_asyncio(kind: str) -> None:
    protocol = RecordingProtocol()
    loop = asyncio.get_running_loop()
    async with connected(protocol, kind) as (transport, peer):
        names = "_loop _protocol _server _closing _conn_lost _eof _paused _protocol_paused"
        expected = {
            "_loop": loop,
            "_protocol": protocol,
            "_server": None,
            "_closing": False,
            "_conn_lost": 0,
            "_eof": False,
            "_paused": False,
            "_protocol_paused": False,
            "_protocol_connected": True,
            "_empty_waiter": None,
            "_high_water": 65536,
            "_low_water": 16384,
        }
        assert read(transport, " ".join(expected)) == expected
        something: Any = transport
        assert something._sock.fileno() == something._sock_fd == something._extra["socket"].fileno()
        assert something._extra["sockname"] == transport.get_extra_info("sockname")

        transport.set_write_buffer_limits(high=10, low=5)
        assert read(transport, "_low_water _high_water") == {"_low_water": 5, "_high_water": 10}
        transport.pause_reading()
        with something._extra["socket"].dup() as sock:
            filled = fill(sock)
        transport.write(b"waiting bytes")
        transport.write_eof()
        transport.close()
        expected |= {"_closing": True, "_eof": True, "_paused": True, "_protocol_paused": True}
        assert read(transport, names) == {name: expected[name] for name in names.split()}
        if sys.version_info >= (3, 15):
            assert something._buffer_size == 13

        await in_thread(receive_exactly, peer, filled + 13)
        await protocol.called("connection_lost")
        gone = {"_loop": None, "_protocol": None, "_sock": None, "_server": None}
        assert read(transport, " ".join(gone)) == gone
        assert something._closing


async def test_an_accepted_transport_knows_its_server() -> None:
    protocol = RecordingProtocol()
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: protocol, "127.0.0.1", 0) as server:
        with await in_thread(socket.create_connection, server.sockets[0].getsockname()):
            transport = await protocol.called("connection_made")
            assert transport._server is server
            transport.abort()
            await protocol.called("connection_lost")


async def test_a_datagram_transport_has_the_attributes_of_asyncio() -> None:
    async with endpoint(local_addr=ANY_PORT) as (transport, protocol):
        expected = {
            "_loop": asyncio.get_running_loop(),
            "_protocol": protocol,
            "_server": None,
            "_address": None,
            "_closing": False,
            "_conn_lost": 0,
            "_paused": False,
            "_protocol_paused": False,
            "_protocol_connected": True,
            "_buffer_size": 0,
            "_high_water": 65536,
            "_low_water": 16384,
        }
        assert read(transport, " ".join(expected)) == expected
        assert transport._sock.fileno() == transport._sock_fd
        transport.pause_reading()
        transport.close()
        assert read(transport, "_paused _closing") == {"_paused": True, "_closing": True}
        await protocol.called("connection_lost")
        gone = {"_loop": None, "_protocol": None, "_sock": None}
        assert read(transport, " ".join(gone)) == gone


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("write", (b"data",)),
        ("writelines", ([b"data"],)),
        ("write_eof", ()),
        ("can_write_eof", ()),
    ],
)
async def test_a_datagram_transport_has_the_stream_methods_and_implements_none(
    name: str, arguments: tuple[Any, ...]
) -> None:
    async with endpoint(local_addr=ANY_PORT) as (transport, _):
        with pytest.raises(NotImplementedError):
            getattr(transport, name)(*arguments)


async def test_pipe_transports_have_the_attributes_of_asyncio() -> None:
    reader, writer = RecordingProtocol(), RecordingProtocol()
    loop = asyncio.get_running_loop()
    reading, writing = open_pipe()
    source: Any = (await loop.connect_read_pipe(lambda: reader, reading))[0]
    sink: Any = (await loop.connect_write_pipe(lambda: writer, writing))[0]
    common: dict[str, Any] = {"_loop": loop, "_closing": False}
    fresh = common | {"_protocol": reader, "_pipe": reading, "_paused": False}
    assert read(source, " ".join(fresh)) == fresh
    assert source._fileno == reading.fileno()
    assert source._extra == {"pipe": reading}
    fresh = common | {"_protocol": writer, "_pipe": writing, "_conn_lost": 0}
    fresh |= {"_protocol_paused": False, "_high_water": 65536, "_low_water": 16384}
    assert read(sink, " ".join(fresh)) == fresh
    source.pause_reading()
    assert source._paused
    source.close()
    sink.close()
    assert source._closing
    assert sink._closing
    sink.write(b"lost")
    assert sink._conn_lost == 1
    for protocol, transport in ((reader, source), (writer, sink)):
        await protocol.called("connection_lost")
        gone = {"_loop": None, "_protocol": None, "_pipe": None}
        assert read(transport, " ".join(gone)) == gone


@pytest.mark.parametrize("name", ["pause_reading", "resume_reading", "is_reading"])
async def test_a_write_pipe_has_the_reading_methods_and_implements_none(name: str) -> None:
    protocol = RecordingProtocol()
    reading, writing = open_pipe()
    with reading:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_write_pipe(lambda: protocol, writing)
        assert isinstance(transport, asyncio.ReadTransport)
        with pytest.raises(NotImplementedError):
            getattr(transport, name)()
        transport.close()
        await protocol.called("connection_lost")


@pytest.mark.parametrize("name", ["write", "writelines", "write_eof", "can_write_eof", "abort"])
async def test_a_read_pipe_has_no_writing_method(name: str) -> None:
    protocol = RecordingProtocol()
    reading, writing = open_pipe()
    with writing:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: protocol, reading)
        assert not isinstance(transport, asyncio.WriteTransport)
        with pytest.raises(AttributeError, match=f"object has no attribute '{name}'"):
            getattr(transport, name)
        transport.close()
        await protocol.called("connection_lost")


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_tls_connection_has_the_attributes_of_asyncio(
    side: str, authority: Authority
) -> None:
    protocol = RecordingProtocol()
    loop = asyncio.get_running_loop()
    async with tls_connected(protocol, authority, side) as (transport, _):
        something: Any = transport
        tls = something._ssl_protocol
        context = transport.get_extra_info("sslcontext")
        expected = {
            "_loop": loop,
            "_app_protocol": protocol,
            "_app_transport": transport,
            "_app_protocol_is_buffer": False,
            "_app_reading_paused": False,
            "_app_writing_paused": False,
            "_conn_lost": 0,
            "_server_hostname": SERVER_NAME if side == "client" else None,
            "_server_side": side == "server",
            "_ssl_handshake_timeout": 60.0,
            "_ssl_shutdown_timeout": 30.0,
            "_ssl_reading_paused": False,
            "_ssl_writing_paused": False,
            "_state": sslproto.SSLProtocolState.WRAPPED,
            "_waiter": None,
            "max_size": 256 * 1024,
        }
        assert read(tls, " ".join(expected)) == expected
        assert tls._sslcontext is context
        assert tls._extra["sslcontext"] is context
        assert tls._sslobj is transport.get_extra_info("ssl_object")
        assert tls._sslobj.context is context
        assert tls._get_app_transport() is transport
        assert tls._get_extra_info("sslcontext") is context
        assert tls._get_extra_info("unknown", "default") == "default"
        inner = tls._transport
        assert inner._protocol is tls
        assert inner._sock.fileno() == transport.get_extra_info("socket").fileno()
        assert read(something, "_loop _closed") == {"_loop": loop, "_closed": False}
        with pytest.raises(AttributeError, match="object has no attribute '_sslpipe'"):
            _ = tls._sslpipe

        something.set_protocol(RecordingBufferedProtocol())
        assert tls._app_protocol_is_buffer
        transport.set_protocol(protocol)
        transport.pause_reading()
        assert tls._app_reading_paused
        transport.abort()
        await protocol.called("connection_lost")
        assert something._closed
        gone = {"_app_protocol": None, "_app_transport": None, "_transport": None}
        assert read(tls, " ".join(gone)) == gone
        assert tls._state is sslproto.SSLProtocolState.UNWRAPPED
        assert tls._sslcontext is context


async def test_write_eof_of_a_tls_transport_is_not_implemented(authority: Authority) -> None:
    async with tls_connected(RecordingProtocol(), authority) as (transport, _):
        with pytest.raises(NotImplementedError):
            transport.write_eof()
        assert not transport.can_write_eof()
