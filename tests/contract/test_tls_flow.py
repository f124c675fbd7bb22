"""TLS transports under pressure: who waits for whom, and what leaves when one side ends first."""

import array
import asyncio
import contextlib
import os
import ssl
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.leaks import LeakGuard
from support.peers import stream_pair
from support.protocols import RecordingProtocol
from support.threads import PEER_TIMEOUT, eventually, in_thread, turns
from support.tls import (
    BROKEN_RECORD,
    SERVER_NAME,
    TLS_VERSIONS,
    Authority,
    RecordPeer,
    connected_to_record_peer,
)

MEBIBYTE = 1 << 20

both_versions = pytest.mark.parametrize("version", TLS_VERSIONS)


async def write_until_paused(protocol: RecordingProtocol) -> bytes:
    """Write until the transport asks for a pause; return all that was written."""
    written = bytearray()
    while not protocol.count("pause_writing"):
        assert len(written) < 64 * MEBIBYTE
        chunk = os.urandom(MEBIBYTE)
        protocol.transport.write(chunk)
        written += chunk
    return bytes(written)


def skip_where_close_forgets_to_write(loop_name: str) -> None:
    """Skip what asyncio does or does not, by how fast the peer reads.

    What waits in its TLS protocol when the transport below is closed is to be sent later by
    ``_write_ready``, which that close has set to None.
    """
    if loop_name == "asyncio" and (3, 12) <= sys.version_info < (3, 14):
        pytest.skip("asyncio's selector transport forgets at close() how to go on writing")


@both_versions
async def test_a_peer_that_ends_its_side_first_still_gets_all_that_was_written(
    authority: Authority, loop_name: str, version: str
) -> None:
    skip_where_close_forgets_to_write(loop_name)
    protocol = RecordingProtocol()
    async with connected_to_record_peer(protocol, authority, version) as (transport, peer):
        written = await write_until_paused(protocol)
        assert transport.get_write_buffer_size() > 0
        await in_thread(peer.end)
        await protocol.called("eof_received")
        received = await in_thread(peer.receive)
        assert len(received) == len(written)
        assert received == written
        assert await protocol.called("connection_lost") is None


@contextlib.asynccontextmanager
async def closing_soon(
    protocol: RecordingProtocol, authority: Authority
) -> AsyncIterator[RecordPeer]:
    """Connect, with a short ssl_shutdown_timeout, to a peer on a blocking socket."""
    ours, sock = stream_pair("tcp")
    peer = RecordPeer(sock, authority.server_context())
    with sock:
        shaking_hands = in_thread(peer.shake_hands)
        await asyncio.get_running_loop().create_connection(
            lambda: protocol,
            sock=ours,
            ssl=authority.client_context(),
            server_hostname=SERVER_NAME,
            ssl_shutdown_timeout=0.05,
        )
        await shaking_hands
        yield peer


#: Whether asyncio's TLS protocol keeps its timer until the connection is lost: from 3.14.8 on.
SHUTDOWN_INCLUDES_FLUSH = sys.version_info >= (3, 14, 8)


@pytest.mark.skipif(not SHUTDOWN_INCLUDES_FLUSH, reason="it bounds the close notifications alone")
@pytest.mark.parametrize("first_to_end", ["peer", "both"])
async def test_a_peer_that_does_not_read_is_given_up_after_the_shutdown_timeout(
    authority: Authority, first_to_end: str
) -> None:
    protocol = RecordingProtocol()
    async with closing_soon(protocol, authority) as peer:
        await write_until_paused(protocol)
        if first_to_end == "both":
            protocol.transport.close()
        await in_thread(peer.end)
        error = await protocol.called("connection_lost")
        assert isinstance(error, TimeoutError)
        assert str(error) == "SSL shutdown timed out"


@pytest.mark.skipif(SHUTDOWN_INCLUDES_FLUSH, reason="it bounds the flush as well")
async def test_the_shutdown_timeout_does_not_cut_off_what_was_written(
    loop: asyncio.AbstractEventLoop, authority: Authority, loop_name: str
) -> None:
    """It bounds the exchange of close notifications, not how long the peer takes to read."""
    skip_where_close_forgets_to_write(loop_name)
    protocol = RecordingProtocol()
    async with closing_soon(protocol, authority) as peer:
        written = await write_until_paused(protocol)
        await in_thread(peer.end)
        await protocol.called("eof_received")
        # Due after the timeout, had it gone on.
        late = loop.create_future()
        loop.call_later(0.2, late.set_result, None)
        await late
        assert not protocol.count("connection_lost")
        assert await in_thread(peer.receive) == written
        assert await protocol.called("connection_lost") is None


@pytest.mark.fails_on(
    "asyncio", reason="received data is an error once close() was called, and what waits is dropped"
)
@both_versions
async def test_close_delivers_what_was_written_although_the_peer_goes_on_sending(
    authority: Authority, version: str
) -> None:
    protocol = RecordingProtocol()

    def send_then_receive(peer: RecordPeer) -> bytes:
        for _ in range(16):
            peer.send(bytes(1000))
        received = peer.receive()
        peer.end()
        return received

    async with connected_to_record_peer(protocol, authority, version) as (transport, peer):
        written = os.urandom(8 * MEBIBYTE)
        transport.write(written)
        transport.close()
        received = await in_thread(send_then_receive, peer)
        assert len(received) == len(written)
        assert received == written
        assert await protocol.called("connection_lost") is None


@pytest.mark.fails_on("asyncio", reason="unread data is an error once close() was called")
async def test_close_while_reading_is_paused_is_orderly(authority: Authority) -> None:
    protocol = RecordingProtocol()

    async with connected_to_record_peer(protocol, authority) as (transport, peer):
        transport.pause_reading()
        for _ in range(300):
            peer.send(bytes(1000))
        await turns(20)
        transport.write(b"last words")
        transport.close()
        assert await in_thread(peer.receive) == b"last words"
        peer.end()
        assert await protocol.called("connection_lost") is None
        assert protocol.data == b""


@pytest.mark.fails_on("asyncio", reason="the end of the handshake is sent when reading goes on")
async def test_a_protocol_that_starts_paused_does_not_hold_up_the_handshake(
    authority: Authority, loop_name: str
) -> None:
    class Paused(RecordingProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.pause_reading()

    protocol = Paused()
    # As little as is enough where nothing comes.
    patience = 2 if loop_name == "asyncio" else PEER_TIMEOUT
    connecting = connected_to_record_peer(protocol, authority, "tls1.3", patience=patience)
    async with connecting as (transport, peer):
        peer.send(b"held back")
        await turns(20)
        assert protocol.data == b""
        transport.resume_reading()
        assert await protocol.received(9) == b"held back"


@pytest.mark.fails_on("asyncio", reason="an empty buffer of a transport with mark 0 pauses it")
async def test_a_high_water_mark_of_zero_pauses_no_idle_connection(authority: Authority) -> None:
    protocol = RecordingProtocol()
    async with connected_to_record_peer(protocol, authority) as (transport, peer):
        transport.set_write_buffer_limits(high=0)
        assert transport.get_write_buffer_limits() == (0, 0)
        transport.write(b"small")
        assert await in_thread(peer.receive_exactly, 5) == b"small"
        assert protocol.count("pause_writing") == protocol.count("resume_writing") == 0


async def test_water_marks_follow_from_each_other(authority: Authority) -> None:
    async with connected_to_record_peer(RecordingProtocol(), authority) as (transport, _):
        assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
        transport.set_write_buffer_limits(low=100)
        assert transport.get_write_buffer_limits() == (100, 400)
        with pytest.raises(ValueError, match=r"high \(1\) must be >= low \(2\) must be >= 0"):
            transport.set_write_buffer_limits(high=1, low=2)


async def test_a_paused_reader_holds_up_the_peer_and_loses_nothing(authority: Authority) -> None:
    protocol = RecordingProtocol()
    payload = os.urandom(8 * MEBIBYTE)

    def send(peer: RecordPeer) -> None:
        for start in range(0, len(payload), 16000):
            peer.send(payload[start : start + 16000])

    async with connected_to_record_peer(protocol, authority) as (transport, peer):
        transport.pause_reading()
        sending = asyncio.ensure_future(in_thread(send, peer))
        below: Any = transport
        await eventually(lambda: below.get_read_buffer_size() >= 256 * 1024)
        assert not sending.done()
        assert protocol.data == b""
        transport.resume_reading()
        assert await protocol.received(len(payload)) == payload
        await sending


@both_versions
async def test_records_in_any_pieces_are_put_together(authority: Authority, version: str) -> None:
    protocol = RecordingProtocol()
    async with connected_to_record_peer(protocol, authority, version) as (_, peer):
        stream = b"".join(peer.encrypt(bytes([n]) * size) for n, size in enumerate((1, 16384, 300)))
        for start in range(100):
            peer.sock.sendall(stream[start : start + 1])
            await turns(2)
        for start in range(100, len(stream), 5000):
            peer.sock.sendall(stream[start : start + 5000])
            await turns(5)
        assert await protocol.received(16685) == b"\0" + b"\1" * 16384 + b"\2" * 300


@pytest.mark.fails_on("asyncio", reason="what came in the same packet before is dropped")
async def test_what_came_before_a_bad_record_is_delivered(authority: Authority) -> None:
    protocol = RecordingProtocol()
    async with connected_to_record_peer(protocol, authority) as (_, peer):
        good, bad = peer.encrypt(b"good"), bytearray(peer.encrypt(b"bad"))
        bad[-1] ^= 1
        peer.sock.sendall(good + bad)
        error = await protocol.called("connection_lost")
        assert isinstance(error, ssl.SSLError)
        assert error.reason in BROKEN_RECORD
        assert protocol.data == b"good"


@pytest.mark.only_on("rloop")
async def test_small_writes_of_one_callback_share_a_record(authority: Authority) -> None:
    class Answering(RecordingProtocol):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            for _ in range(10):
                self.transport.write(b"0123456789")

    protocol = Answering()
    async with connected_to_record_peer(protocol, authority) as (_, peer):
        before = len(peer.records)
        peer.send(b"question")
        assert await in_thread(peer.receive_exactly, 100) == b"0123456789" * 10
        assert len(peer.records) == before + 1


@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_what_a_callback_writes_before_it_ends_the_connection_is_sent(
    authority: Authority, ending: str
) -> None:
    class Refusing(RecordingProtocol):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.write(b"go ")
            self.transport.write(b"away")
            getattr(self.transport, ending)()

    protocol = Refusing()
    async with connected_to_record_peer(protocol, authority) as (_, peer):
        peer.send(b"hello")
        assert await in_thread(peer.receive) == b"go away"
        peer.sock.close()
        assert await protocol.called("connection_lost") is None
        assert protocol.log == [
            "connection_made",
            "data_received",
            *(["eof_received"] if ending == "close" else []),
            "connection_lost",
        ]


async def test_what_a_callback_writes_before_it_fails_is_sent(
    authority: Authority, guard: LeakGuard
) -> None:
    failure = ZeroDivisionError("on purpose")

    class Failing(RecordingProtocol):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.write(b"sorry")
            raise failure

    protocol = Failing()
    async with connected_to_record_peer(protocol, authority) as (_, peer):
        peer.send(b"hello")
        assert await in_thread(peer.receive) == b"sorry"
        assert await protocol.called("connection_lost") is failure
        (report,) = guard.take_reports()
        assert report["exception"] is failure
        assert report["message"] == "Fatal error on SSL protocol"


async def test_a_callback_that_writes_until_it_is_paused_ends(authority: Authority) -> None:
    class Flooding(RecordingProtocol):
        written = 0

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            while not self.count("pause_writing"):
                assert self.written < 64 * MEBIBYTE
                self.transport.write(bytes(10_000))
                self.written += 10_000

    protocol = Flooding()
    async with connected_to_record_peer(protocol, authority) as (_, peer):
        peer.send(b"go")
        await protocol.called("pause_writing")
        assert await in_thread(peer.receive_exactly, protocol.written) == bytes(protocol.written)
        await protocol.called("resume_writing")


async def test_buffers_are_written_as_they_are_at_the_call(authority: Authority) -> None:
    protocol = RecordingProtocol()
    async with connected_to_record_peer(protocol, authority) as (transport, peer):
        changing = bytearray(b"before")
        transport.write(changing)
        changing[:] = b"after!"
        assert await in_thread(peer.receive_exactly, 6) == b"before"


async def test_items_of_several_bytes_are_written_whole(authority: Authority) -> None:
    protocol = RecordingProtocol()
    numbers = array.array("I", range(10_000))
    async with connected_to_record_peer(protocol, authority) as (transport, peer):
        transport.write(memoryview(numbers))
        transport.write(b"<end>")
        expected = numbers.tobytes() + b"<end>"
        assert await in_thread(peer.receive_exactly, len(expected)) == expected


async def test_writes_after_the_end_are_dropped_and_then_warned_of(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    protocol = RecordingProtocol()
    async with connected_to_record_peer(protocol, authority) as (transport, _):
        transport.abort()
        await protocol.called("connection_lost")
        for _ in range(4):
            transport.write(b"too late")
        assert not caplog.records
        transport.write(b"too late")
        assert [record.message for record in caplog.records] == ["SSL connection is closed"]
