"""Stream transports: pause_reading and resume_reading, and what arrives around them."""

import asyncio

import pytest

from support.peers import connected, receive_until_eof, reset
from support.protocols import RecordingBufferedProtocol, RecordingProtocol
from support.threads import in_thread, turns

Loop = asyncio.AbstractEventLoop

both_protocols = pytest.mark.parametrize(
    "make_protocol", [RecordingProtocol, RecordingBufferedProtocol]
)


@both_protocols
async def test_nothing_is_delivered_while_reading_is_paused(
    kind: str, make_protocol: type[RecordingProtocol]
) -> None:
    protocol = make_protocol()
    async with connected(protocol, kind) as (transport, peer):
        transport.pause_reading()
        peer.sendall(b"held back")
        await turns(5)
        assert protocol.log == ["connection_made"]
        transport.resume_reading()
        assert await protocol.received(9) == b"held back"


@both_protocols
async def test_bytes_and_eof_that_came_while_paused_are_delivered_in_order(
    kind: str, make_protocol: type[RecordingProtocol]
) -> None:
    protocol = make_protocol()
    async with connected(protocol, kind) as (transport, peer):
        transport.pause_reading()
        peer.sendall(b"last words")
        peer.close()
        await turns(5)
        assert protocol.log == ["connection_made"]
        transport.resume_reading()
        assert await protocol.called("connection_lost") is None
        assert protocol.data == b"last words"
        assert protocol.log[-2:] == ["eof_received", "connection_lost"]


async def test_a_protocol_that_pauses_in_data_received_gets_no_second_chunk(kind: str) -> None:
    class OneChunk(RecordingProtocol):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()

    protocol = OneChunk()
    payload = bytes(range(256)) * 4096
    async with connected(protocol, kind) as (transport, peer):
        sending = in_thread(peer.sendall, payload)
        chunks = 0
        while len(protocol.data) < len(payload):
            chunks += 1
            await protocol.called_times("data_received", chunks)
            await turns(3)
            assert protocol.count("data_received") == chunks
            transport.resume_reading()
        await sending
        assert protocol.data == payload


async def test_pausing_in_connection_made_holds_the_first_byte(kind: str) -> None:
    class StartsPaused(RecordingProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.pause_reading()

    protocol = StartsPaused()
    async with connected(protocol, kind) as (transport, peer):
        peer.sendall(b"data")
        await turns(5)
        assert protocol.log == ["connection_made"]
        transport.resume_reading()
        await protocol.received(4)


async def test_pause_and_resume_may_be_called_at_any_time(kind: str) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, peer):
        assert transport.is_reading()
        transport.resume_reading()
        assert transport.is_reading()
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        transport.resume_reading()
        assert transport.is_reading()
        peer.sendall(b"still works")
        await protocol.received(11)
        transport.close()
        assert not transport.is_reading()
        transport.pause_reading()
        transport.resume_reading()
        assert not transport.is_reading()
        await protocol.called("connection_lost")
        transport.pause_reading()
        transport.resume_reading()


async def test_closing_while_paused_loses_the_connection_without_delivering(kind: str) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, peer):
        transport.pause_reading()
        peer.sendall(b"never seen")
        await turns(3)
        transport.close()
        assert await protocol.called("connection_lost") is None
        assert protocol.log == ["connection_made", "connection_lost"]


async def test_a_reset_while_paused_is_noticed_on_resume() -> None:
    protocol = RecordingProtocol()
    async with connected(protocol) as (transport, peer):
        transport.pause_reading()
        reset(peer)
        await turns(5)
        assert protocol.log == ["connection_made"]
        transport.resume_reading()
        assert isinstance(await protocol.called("connection_lost"), ConnectionResetError)


async def test_writing_goes_on_while_reading_is_paused(kind: str) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, peer):
        transport.pause_reading()
        payload = bytes(1 << 20)
        transport.write(payload)
        transport.write_eof()
        assert await in_thread(receive_until_eof, peer) == payload


async def test_a_slow_reader_holds_the_peer_back(kind: str) -> None:
    """While reading is paused the peer's socket fills up: the transport does not hoard."""
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, peer):
        transport.pause_reading()
        peer.setblocking(False)
        sent = 0
        with pytest.raises(BlockingIOError):
            while sent < 1 << 28:
                sent += peer.send(bytes(1 << 16))
        transport.resume_reading()
        await protocol.received(sent)
        assert len(protocol.data) == sent
