"""Stream transports: close, abort, half-close; bytes written before close() always arrive."""

import asyncio
import hashlib
import os
import socket
import struct
import sys

import pytest

from support.peers import connected, receive_exactly, receive_until_eof
from support.protocols import RecordingProtocol
from support.threads import in_thread, turns

Loop = asyncio.AbstractEventLoop

EIGHT_MEBIBYTES = 8 << 20


def digest_slowly(sock: socket.socket) -> tuple[int, str]:
    """Read to the end in small pieces; return the number of bytes and their SHA-256."""
    digest, total = hashlib.sha256(), 0
    while chunk := sock.recv(16 * 1024):
        digest.update(chunk)
        total += len(chunk)
    return total, digest.hexdigest()


@pytest.mark.parametrize("pieces", [1, 512])
async def test_close_delivers_everything_written_before_to_a_slow_reader(
    kind: str, pieces: int
) -> None:
    payload = os.urandom(EIGHT_MEBIBYTES)
    size = len(payload) // pieces
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, peer):
        for start in range(0, len(payload), size):
            transport.write(payload[start : start + size])
        transport.close()
        assert transport.is_closing()
        assert transport.get_write_buffer_size() > 0
        received = await in_thread(digest_slowly, peer)
        assert received == (len(payload), hashlib.sha256(payload).hexdigest())
        assert await protocol.called("connection_lost") is None


async def test_write_eof_delivers_everything_before_the_end_of_stream(kind: str) -> None:
    payload = os.urandom(EIGHT_MEBIBYTES)
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, peer):
        transport.write(payload)
        transport.write_eof()
        received = await in_thread(digest_slowly, peer)
        assert received == (len(payload), hashlib.sha256(payload).hexdigest())
        assert not transport.is_closing()


async def test_connection_lost_comes_after_close_has_returned_and_once(kind: str) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, _):
        assert not transport.is_closing()
        transport.close()
        transport.close()
        assert transport.is_closing()
        assert protocol.log == ["connection_made"]
        await protocol.called("connection_lost")
        transport.close()
        transport.abort()
        await turns(3)
        assert protocol.calls[1:] == [("connection_lost", None)]


async def test_no_data_is_delivered_after_close(kind: str) -> None:
    class ClosesAtOnce(RecordingProtocol):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.close()

    protocol = ClosesAtOnce()
    async with connected(protocol, kind) as (_, peer):
        sending = in_thread(send_until_refused, peer, bytes(EIGHT_MEBIBYTES))
        await protocol.called("connection_lost")
        await sending
        assert protocol.count("data_received") == 1
        assert protocol.log == ["connection_made", "data_received", "connection_lost"]


def send_until_refused(sock: socket.socket, data: bytes) -> None:
    """Send the data to a peer that may close at any time."""
    try:
        sock.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return


async def test_close_in_connection_made_loses_the_connection_cleanly(kind: str) -> None:
    class ClosesAtBirth(RecordingProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.write(b"bye")
            self.transport.close()

    protocol = ClosesAtBirth()
    async with connected(protocol, kind) as (_, peer):
        assert await in_thread(receive_until_eof, peer) == b"bye"
        assert await protocol.called("connection_lost") is None
        assert protocol.log == ["connection_made", "connection_lost"]


async def test_close_while_data_is_queued_stops_reading() -> None:
    protocol = RecordingProtocol()
    # A TCP connection closed with data unread is reset, which may overtake what was queued.
    async with connected(protocol, "unix") as (transport, peer):
        transport.write(bytes(EIGHT_MEBIBYTES))
        transport.close()
        peer.sendall(b"not read any more")
        await in_thread(receive_exactly, peer, EIGHT_MEBIBYTES)
        assert await protocol.called("connection_lost") is None
        assert "data_received" not in protocol.log


async def test_abort_drops_what_is_queued(kind: str) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, peer):
        transport.write(bytes(EIGHT_MEBIBYTES))
        transport.abort()
        assert transport.is_closing()
        assert transport.get_write_buffer_size() == 0
        assert protocol.count("connection_lost") == 0
        assert await protocol.called("connection_lost") is None
        assert len(await in_thread(receive_until_eof, peer)) < EIGHT_MEBIBYTES


async def test_abort_cuts_a_close_short(kind: str) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, peer):
        transport.write(bytes(EIGHT_MEBIBYTES))
        transport.close()
        await turns(3)
        assert protocol.count("connection_lost") == 0
        transport.abort()
        transport.abort()
        assert await protocol.called("connection_lost") is None
        assert len(await in_thread(receive_until_eof, peer)) < EIGHT_MEBIBYTES
        assert protocol.count("connection_lost") == 1


async def test_after_write_eof_the_peer_can_still_send(kind: str) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, peer):
        assert transport.can_write_eof()
        transport.write(b"question")
        transport.write_eof()
        assert await in_thread(receive_until_eof, peer) == b"question"
        peer.sendall(b"answer")
        peer.close()
        assert await protocol.called("connection_lost") is None
        assert protocol.data == b"answer"


async def test_after_an_eof_that_is_kept_open_writing_goes_on(kind: str) -> None:
    protocol = RecordingProtocol(keep_open=True)
    async with connected(protocol, kind) as (transport, peer):
        peer.shutdown(socket.SHUT_WR)
        await protocol.called("eof_received")
        await turns(3)
        assert not transport.is_closing()
        transport.write(b"still writing")
        assert await in_thread(receive_exactly, peer, 13) == b"still writing"
        transport.close()
        assert await protocol.called("connection_lost") is None
        assert protocol.count("eof_received") == 1


@pytest.mark.parametrize("keep_open", [None, False])
async def test_after_an_eof_that_is_not_kept_open_what_is_queued_still_arrives(
    kind: str, keep_open: bool | None
) -> None:
    payload = os.urandom(EIGHT_MEBIBYTES)
    protocol = RecordingProtocol(keep_open=keep_open)
    async with connected(protocol, kind) as (transport, peer):
        transport.write(payload)
        peer.shutdown(socket.SHUT_WR)
        await protocol.called("eof_received")
        assert transport.is_closing()
        received = await in_thread(digest_slowly, peer)
        assert received == (len(payload), hashlib.sha256(payload).hexdigest())
        assert await protocol.called("connection_lost") is None


async def test_write_eof_after_close_changes_nothing(kind: str) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, _):
        transport.close()
        transport.write_eof()
        assert await protocol.called("connection_lost") is None
        transport.write_eof()


async def test_the_transport_of_a_server_side_closes_the_same_way(loop: Loop) -> None:
    protocol = RecordingProtocol()
    server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    payload = os.urandom(EIGHT_MEBIBYTES)
    with socket.create_connection(address, timeout=20) as peer:
        await protocol.called("connection_made")
        protocol.transport.write(payload)
        protocol.transport.close()
        received = await in_thread(digest_slowly, peer)
        assert received == (len(payload), hashlib.sha256(payload).hexdigest())
        assert await protocol.called("connection_lost") is None
    server.close()
    await server.wait_closed()


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's struct tcp_info")
async def test_a_new_connection_does_not_delay_small_writes() -> None:
    async with connected(RecordingProtocol()) as (transport, _):
        option = transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, struct.calcsize("i")
        )
        assert struct.unpack("i", option) != (0,)
