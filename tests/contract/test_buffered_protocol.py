"""BufferedProtocol: get_buffer and buffer_updated are called in strict pairs."""

import asyncio
import sys
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


GET_BUFFER_FAILED = "Fatal error: protocol.get_buffer() call failed."
READ_FAILED = "Fatal read error on socket transport"
NOT_WRITABLE = "recv_into() argument 1 must be read-write bytes-like object, not "


class Sized:
    """Has a length and no buffer."""

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("buffer", "message", "error_message"),
    [
        (None, GET_BUFFER_FAILED, "object of type 'NoneType' has no len()"),
        (7, GET_BUFFER_FAILED, "object of type 'int' has no len()"),
        (b"read-only", READ_FAILED, NOT_WRITABLE + "bytes"),
        (memoryview(b"read-only"), READ_FAILED, NOT_WRITABLE + "memoryview"),
        (memoryview(bytearray(8))[::2], READ_FAILED, NOT_WRITABLE + "memoryview"),
        (Sized(), READ_FAILED, NOT_WRITABLE + "Sized"),
    ],
    ids=["nothing", "number", "bytes", "read-only view", "view with gaps", "sequence"],
)
async def test_what_cannot_be_written_into_is_an_error(
    kind: str, buffer: object, message: str, error_message: str, guard: LeakGuard
) -> None:
    class WithoutBuffer(RecordingBufferedProtocol):
        def get_buffer(self, sizehint: int) -> Any:
            super().get_buffer(sizehint)
            return buffer

    protocol = WithoutBuffer()
    async with connected(protocol, kind) as (_, peer):
        peer.sendall(b"data")
        error = await protocol.called("connection_lost")
        assert isinstance(error, TypeError)
        assert str(error) == error_message
        (report,) = guard.take_reports()
        assert report["exception"] is error
        assert report["message"] == message
        assert protocol.count("buffer_updated") == 0


@pytest.mark.parametrize("shape", [None, [2, 4]], ids=["items", "rows"])
async def test_a_view_is_filled_by_bytes_whatever_its_items_are(
    kind: str, shape: list[int] | None
) -> None:
    memory = bytearray(8)
    bytes_view = memoryview(memory)
    view = bytes_view.cast("I") if shape is None else bytes_view.cast("B", shape)

    class IntoView(RecordingBufferedProtocol):
        def get_buffer(self, sizehint: int) -> Any:
            super().get_buffer(sizehint)
            return view

    protocol = IntoView()
    async with connected(protocol, kind) as (_, peer):
        peer.sendall(b"12345")
        await protocol.called("buffer_updated")
        assert protocol.values("buffer_updated") == [5]
        assert memory == b"12345\0\0\0"


async def test_the_buffer_is_let_go_of_before_buffer_updated(kind: str) -> None:
    class Shrinking(RecordingBufferedProtocol):
        def buffer_updated(self, nbytes: int) -> None:
            # A bytearray whose memory somebody holds cannot change its size.
            del self.buffer[nbytes:]
            super().buffer_updated(nbytes)
            self.buffer = bytearray(4)

    protocol = Shrinking()
    async with connected(protocol, kind) as (_, peer):
        peer.sendall(b"0123456789")
        assert await protocol.received(10) == b"0123456789"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="PEP 688: classes with buffers")
async def test_the_buffer_of_a_class_is_taken_and_released_once_for_each_read(kind: str) -> None:
    class Lender:
        """Lends the memory of a protocol."""

        def __len__(self) -> int:
            return len(protocol.buffer)

        def __buffer__(self, flags: int) -> memoryview:
            protocol.note("taken")
            return memoryview(protocol.buffer)

        def __release_buffer__(self, view: memoryview) -> None:
            protocol.note("released")
            view.release()

    class Lending(RecordingBufferedProtocol):
        def get_buffer(self, sizehint: int) -> Any:
            super().get_buffer(sizehint)
            return Lender()

    protocol = Lending()
    async with connected(protocol, kind) as (_, peer):
        peer.sendall(b"data")
        await protocol.called("buffer_updated")
        names = [name for name, _ in protocol.calls]
        assert names == ["connection_made", "get_buffer", "taken", "released", "buffer_updated"]
