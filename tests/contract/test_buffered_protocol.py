"""BufferedProtocol: get_buffer and buffer_updated are called in strict pairs."""

import asyncio
from typing import Any

import pytest

from support.leaks import LeakGuard
from support.peers import connected
from support.protocols import RecordingBufferedProtocol
from support.threads import in_thread, turns

Loop = asyncio.AbstractEventLoop


async def test_the_call_log_is_pairs_of_get_buffer_and_buffer_updated(kind: str) -> None:
    protocol = RecordingBufferedProtocol(size=4)
    async with connected(protocol, kind) as (transport, peer):
        peer.sendall(b"0123456789")
        await protocol.received(10)
        peer.close()
        await protocol.called("connection_lost")
        assert protocol.calls == [
            ("connection_made", transport),
            ("get_buffer", -1),
            ("buffer_updated", 4),
            ("get_buffer", -1),
            ("buffer_updated", 4),
            ("get_buffer", -1),
            ("buffer_updated", 2),
            ("get_buffer", -1),
            ("eof_received", None),
            ("connection_lost", None),
        ]
        assert protocol.data == b"0123456789"


async def test_no_byte_is_lost_through_a_buffer_of_any_size(kind: str) -> None:
    payload = bytes(range(256)) * 4096
    for size in (1000, 65536, 1 << 20):
        protocol = RecordingBufferedProtocol(size)
        async with connected(protocol, kind) as (_, peer):
            sending = in_thread(peer.sendall, payload)
            assert await protocol.received(len(payload)) == payload
            await sending


async def test_a_memoryview_is_a_buffer(kind: str) -> None:
    class ThroughView(RecordingBufferedProtocol):
        def get_buffer(self, sizehint: int) -> Any:
            return memoryview(super().get_buffer(sizehint))[:5]

    protocol = ThroughView()
    async with connected(protocol, kind) as (_, peer):
        peer.sendall(b"0123456789")
        await protocol.received(10)
        assert protocol.values("buffer_updated") == [5, 5]


async def test_a_protocol_that_pauses_in_buffer_updated_is_not_called_again(kind: str) -> None:
    class OneAtATime(RecordingBufferedProtocol):
        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            self.transport.pause_reading()

    protocol = OneAtATime(size=2)
    async with connected(protocol, kind) as (transport, peer):
        peer.sendall(b"abcdef")
        for count in (1, 2, 3):
            await protocol.called_times("buffer_updated", count)
            await turns(3)
            assert protocol.count("buffer_updated") == count
            transport.resume_reading()
        assert protocol.data == b"abcdef"


class Failure(Exception):
    """Raised by a protocol method on purpose."""


class FailingProtocol(RecordingBufferedProtocol):
    """Fails in the one method that is named."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self._method = method
        self.failure = Failure()

    def note(self, name: str, value: Any = None) -> None:
        super().note(name, value)
        if name == self._method:
            raise self.failure


@pytest.mark.parametrize("method", ["get_buffer", "buffer_updated", "eof_received"])
async def test_a_failing_callback_is_reported_and_loses_the_connection(
    kind: str, method: str, guard: LeakGuard
) -> None:
    protocol = FailingProtocol(method)
    async with connected(protocol, kind) as (transport, peer):
        peer.sendall(b"data")
        peer.close()
        assert await protocol.called("connection_lost") is protocol.failure
        (report,) = guard.take_reports()
        assert report == {
            "message": f"Fatal error: protocol.{method}() call failed.",
            "exception": protocol.failure,
            "transport": transport,
            "protocol": protocol,
        }


async def test_an_empty_buffer_is_an_error(kind: str, guard: LeakGuard) -> None:
    protocol = RecordingBufferedProtocol(size=0)
    async with connected(protocol, kind) as (_, peer):
        peer.sendall(b"data")
        error = await protocol.called("connection_lost")
        assert isinstance(error, RuntimeError)
        assert str(error) == "get_buffer() returned an empty buffer"
        (report,) = guard.take_reports()
        assert report["message"] == "Fatal error: protocol.get_buffer() call failed."
        assert report["exception"] is error


@pytest.mark.parametrize("buffer", [None, 7, b"read-only"])
async def test_what_cannot_be_written_into_is_an_error(
    kind: str, buffer: object, guard: LeakGuard
) -> None:
    class WithoutBuffer(RecordingBufferedProtocol):
        def get_buffer(self, sizehint: int) -> Any:
            super().get_buffer(sizehint)
            return buffer

    protocol = WithoutBuffer()
    async with connected(protocol, kind) as (_, peer):
        peer.sendall(b"data")
        error = await protocol.called("connection_lost")
        assert isinstance(error, TypeError | BufferError)
        (report,) = guard.take_reports()
        assert report["exception"] is error
        assert report["message"] in (
            "Fatal error: protocol.get_buffer() call failed.",
            "Fatal read error on socket transport",
        )
        assert protocol.count("buffer_updated") == 0
