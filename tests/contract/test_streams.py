"""The streams API on top of the loop: readers, writers, drain, limits and abrupt ends."""

import asyncio
import gc
import hashlib
import os
import socket
import sys
from pathlib import Path

import pytest

from support.leaks import LeakGuard
from support.peers import LOOPBACK, receive_exactly, receive_until_eof, reset
from support.threads import PEER_TIMEOUT, eventually, in_thread, turns

Loop = asyncio.AbstractEventLoop
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def accept(limit: int = 65536) -> tuple[Streams, socket.socket]:
    """Return the streams of an accepted connection, and its peer."""
    accepted: asyncio.Future[Streams] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(
        lambda *streams: accepted.set_result(streams), LOOPBACK, 0, limit=limit
    )
    peer = socket.create_connection(server.sockets[0].getsockname(), timeout=PEER_TIMEOUT)
    streams = await accepted
    server.close()
    return streams, peer


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def test_an_echo_server_serves_many_clients_at_once() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
        await close(writer)

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection(*address)
        message = b"%d" % number * 1000
        for _ in range(10):
            writer.write(message)
            assert await reader.readexactly(len(message)) == message
        writer.write_eof()
        assert await reader.read() == b""
        await close(writer)

    server = await asyncio.start_server(echo, LOOPBACK, 0)
    address = server.sockets[0].getsockname()
    async with server:
        await asyncio.gather(*(client(number) for number in range(50)))
    await server.wait_closed()


async def test_lines_are_split_wherever_the_packets_were() -> None:
    (reader, writer), peer = await accept()
    with peer:
        peer.sendall(b"first\nsec")
        assert await reader.readline() == b"first\n"
        waiting = asyncio.ensure_future(reader.readline())
        await turns(3)
        assert not waiting.done()
        peer.sendall(b"ond\n\nlast")
        assert await waiting == b"second\n"
        assert await reader.readline() == b"\n"
        peer.close()
        assert await reader.readline() == b"last"
        assert await reader.readline() == b""
        assert reader.at_eof()
        await close(writer)


async def test_a_stream_is_iterated_by_lines() -> None:
    (reader, writer), peer = await accept()
    peer.sendall(b"1\n2\n3")
    peer.close()
    assert [line async for line in reader] == [b"1\n", b"2\n", b"3"]
    await close(writer)


async def test_readexactly_and_readuntil_tell_what_was_there_at_the_end() -> None:
    (reader, writer), peer = await accept()
    peer.sendall(b"abc|def")
    assert await reader.readuntil(b"|") == b"abc|"
    peer.close()
    with pytest.raises(asyncio.IncompleteReadError) as raised:
        await reader.readexactly(10)
    assert (raised.value.partial, raised.value.expected) == (b"def", 10)
    with pytest.raises(asyncio.IncompleteReadError):
        await reader.readuntil(b"|")
    await close(writer)


async def test_a_line_beyond_the_limit_is_an_error() -> None:
    (reader, writer), peer = await accept(limit=16)
    with peer:
        peer.sendall(b"x" * 100 + b"\nshort\n")
        with pytest.raises(ValueError, match=r"Separator is (not )?found"):
            await reader.readline()
        await close(writer)


async def test_a_reader_with_a_full_buffer_holds_the_peer_back_and_loses_nothing() -> None:
    payload = os.urandom(8 << 20)
    (reader, writer), peer = await accept(limit=4096)
    with peer:
        sending = in_thread(peer.sendall, payload)
        digest = hashlib.sha256()
        received = 0
        while received < len(payload):
            chunk = await reader.read(10_000)
            digest.update(chunk)
            received += len(chunk)
        await sending
        assert digest.digest() == hashlib.sha256(payload).digest()
        await close(writer)


async def test_drain_waits_while_the_peer_does_not_read() -> None:
    (_, writer), peer = await accept()
    with peer:
        payload = bytes(8 << 20)
        writer.write(payload)
        draining = asyncio.ensure_future(writer.drain())
        await turns(5)
        assert not draining.done()
        receiving = in_thread(receive_exactly, peer, len(payload))
        await draining
        low, _ = writer.transport.get_write_buffer_limits()
        assert writer.transport.get_write_buffer_size() <= low
        await receiving
        await close(writer)


async def test_drain_raises_when_the_peer_is_gone() -> None:
    (_, writer), peer = await accept()
    writer.write(bytes(8 << 20))
    draining = asyncio.ensure_future(writer.drain())
    await turns(3)
    reset(peer)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        await draining
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        await close(writer)


async def test_a_reset_is_raised_to_the_reader() -> None:
    (reader, writer), peer = await accept()
    reading = asyncio.ensure_future(reader.read(1))
    await turns(2)
    reset(peer)
    with pytest.raises(ConnectionResetError):
        await reading
    with pytest.raises(ConnectionResetError):
        await close(writer)


async def test_what_was_written_before_close_arrives() -> None:
    payload = os.urandom(8 << 20)
    (_, writer), peer = await accept()
    with peer:
        writer.writelines([payload[: 1 << 20], payload[1 << 20 :]])
        receiving = in_thread(receive_until_eof, peer)
        await close(writer)
        received = await receiving
        assert hashlib.sha256(received).digest() == hashlib.sha256(payload).digest()
        assert writer.is_closing()


async def test_a_failing_client_handler_is_reported_and_its_connection_closed(
    guard: LeakGuard,
) -> None:
    async def fail(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await close(writer)
        raise ZeroDivisionError("on purpose")

    server = await asyncio.start_server(fail, LOOPBACK, 0)
    with socket.create_connection(server.sockets[0].getsockname()) as peer:
        assert await in_thread(receive_until_eof, peer) == b""
        await eventually(lambda: guard.reports)
    (report,) = guard.take_reports()
    assert isinstance(report["exception"], ZeroDivisionError)
    assert report["message"] == "Unhandled exception in client_connected_cb"
    server.close()
    await server.wait_closed()


async def test_unix_streams_work_like_tcp_ones(tmp_path: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        await close(writer)

    path = tmp_path / "socket"
    server = await asyncio.start_unix_server(echo, path)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"over a path")
    writer.write_eof()
    assert await reader.read() == b"over a path"
    await close(writer)
    server.close()
    await server.wait_closed()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="before 3.13 only the transport warned")
async def test_a_writer_dropped_without_closing_warns_and_closes() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        peer, _ = listener.accept()
        peer.settimeout(PEER_TIMEOUT)
        with peer:
            with pytest.warns(ResourceWarning, match="unclosed <StreamWriter"):
                del reader, writer
                gc.collect()
            assert await in_thread(receive_until_eof, peer) == b""
