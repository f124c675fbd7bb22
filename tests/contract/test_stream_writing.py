"""Stream transports: what may be written, what is kept of it, and how flow is controlled."""

import array
import asyncio
import inspect
import logging
import os
import re
import select
import socket
import sys
from asyncio import selector_events
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from support.peers import connected, receive_exactly, receive_until_eof, reset
from support.protocols import RecordingProtocol
from support.threads import eventually, in_thread, turns

Loop = asyncio.AbstractEventLoop

MEBIBYTE = 1 << 20
BYTES_IN_AN_UNSIGNED_INT = array.array("I").itemsize

#: CVE-2024-12254: writelines() of these versions never pauses the protocol.
WRITELINES_NEVER_PAUSES = (3, 12) <= sys.version_info < (3, 12, 9) or (
    3,
    13,
) <= sys.version_info < (3, 13, 2)


def fill_descriptor(number: int) -> int:
    """Write zeros to a non-blocking descriptor until it takes no more; return how many."""
    total = 0
    try:
        while True:
            total += os.write(number, bytes(1 << 16))
    except BlockingIOError:
        return total


async def test_empty_chunks_of_writelines_hold_nothing_up(kind: str) -> None:
    if (3, 12) <= sys.version_info < (3, 14, 7):
        pytest.skip("asyncio queues empty chunks, and never ends")
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, peer):
        parts: list[list[bytes | memoryview]] = [
            [b""],
            [b"", b"one", b"", b"two", b""],
            [],
            [memoryview(b""), b"three"],
        ]
        for chunks in parts:
            transport.writelines(chunks)
            assert transport.get_write_buffer_size() == 0
        transport.close()
        assert await in_thread(receive_until_eof, peer) == b"onetwothree"
        assert await protocol.called("connection_lost") is None


@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_a_protocol_that_ends_a_closing_transport_in_resume_writing_is_told_once(
    kind: str, ending: str
) -> None:
    if sys.version_info < (3, 15) and ending == "abort":
        pytest.skip("asyncio calls connection_lost() twice (cpython#156512)")

    class Ending(RecordingProtocol):
        def resume_writing(self) -> None:
            super().resume_writing()
            getattr(self.transport, ending)()

    protocol = Ending()
    async with connected(protocol, kind) as (transport, peer):
        written = 0
        while not protocol.count("pause_writing"):
            transport.write(bytes(MEBIBYTE))
            written += MEBIBYTE
        transport.close()
        receiving = in_thread(receive_until_eof, peer)
        assert await protocol.called("connection_lost") is None
        received = await receiving
        assert len(received) <= written
        await turns(5)
        assert protocol.count("connection_lost") == 1
        assert protocol.count("resume_writing") == 1


@pytest.mark.parametrize(
    "data",
    [
        b"bytes",
        bytearray(b"bytearray"),
        memoryview(b"memoryview"),
        memoryview(b"a slice of it")[2:7],
        memoryview(array.array("I", [1, 2, 3])),
        b"",
    ],
    ids=["bytes", "bytearray", "memoryview", "slice", "array", "empty"],
)
async def test_every_bytes_like_object_arrives_byte_for_byte(
    kind: str, data: bytes | bytearray | memoryview
) -> None:
    async with connected(RecordingProtocol(), kind) as (transport, peer):
        transport.write(data)
        transport.write_eof()
        assert await in_thread(receive_until_eof, peer) == bytes(data)


def refusal_of_the_standard_library(data: Any) -> str:
    """Return what asyncio's own transport of this Python version says to data of a wrong type."""
    with pytest.raises(TypeError) as raised:
        # The check comes first, before the transport itself is looked at.
        selector_events._SelectorSocketTransport.write(None, data)  # type: ignore[attr-defined]
    return str(raised.value)


@pytest.mark.parametrize("data", ["text", None, 1, [b"list"], array.array("b", [1])])
async def test_what_is_not_bytes_is_refused(kind: str, data: Any) -> None:
    async with connected(RecordingProtocol(), kind) as (transport, peer):
        with pytest.raises(TypeError) as raised:
            transport.write(data)
        assert str(raised.value) == refusal_of_the_standard_library(data)
        transport.write(b"usable")
        assert await in_thread(receive_exactly, peer, 6) == b"usable"


async def test_writes_arrive_in_order_and_complete(kind: str) -> None:
    pieces = [bytes([n % 256]) * (n * 37 % 5000) for n in range(2000)]
    async with connected(RecordingProtocol(), kind) as (transport, peer):
        receiving = in_thread(receive_until_eof, peer)
        for piece in pieces:
            transport.write(piece)
        transport.write_eof()
        assert await receiving == b"".join(pieces)


@pytest.mark.fails_on(
    "asyncio",
    when=sys.version_info >= (3, 12),
    reason="asyncio queues the caller's buffer instead of its bytes",
)
async def test_a_bytearray_may_be_changed_as_soon_as_write_returns(kind: str) -> None:
    async with connected(RecordingProtocol(), kind) as (transport, peer):
        buffer = bytearray(b"x" * 8 * MEBIBYTE)
        transport.write(buffer)
        assert transport.get_write_buffer_size() > 0
        buffer[:] = b"y" * len(buffer)
        transport.write(buffer)
        buffer.clear()
        transport.write_eof()
        received = await in_thread(receive_until_eof, peer)
        assert received == b"x" * 8 * MEBIBYTE + b"y" * 8 * MEBIBYTE


@pytest.mark.fails_on("asyncio", reason="asyncio counts a queued memoryview in items, not bytes")
async def test_a_queued_memoryview_of_wider_items_is_counted_in_bytes(kind: str) -> None:
    numbers = array.array("I", range(2 * MEBIBYTE))
    async with connected(RecordingProtocol(), kind) as (transport, peer):
        transport.write(memoryview(numbers))
        assert transport.get_write_buffer_size() <= len(numbers) * BYTES_IN_AN_UNSIGNED_INT
        # On asyncio the rest may never come.
        peer.settimeout(3)
        transport.write_eof()
        assert await in_thread(receive_until_eof, peer) == numbers.tobytes()


async def test_the_write_buffer_size_is_what_the_kernel_did_not_take() -> None:
    async with connected(RecordingProtocol(), "unix") as (transport, peer):
        assert transport.get_write_buffer_size() == 0
        transport.write(b"small")
        assert transport.get_write_buffer_size() == 0
        transport.write(bytes(8 * MEBIBYTE))
        queued = transport.get_write_buffer_size()
        assert 0 < queued < 8 * MEBIBYTE
        in_kernel = 5 + 8 * MEBIBYTE - queued
        peer.setblocking(False)
        # Nothing has turned the loop since, so the peer finds what write() itself sent.
        assert len(receive_what_is_there(peer)) == in_kernel
        peer.setblocking(True)
        peer.settimeout(10)
        await in_thread(receive_exactly, peer, queued)
        await eventually(lambda: transport.get_write_buffer_size() == 0)


def receive_what_is_there(sock: socket.socket) -> bytes:
    """Read from a non-blocking socket until it has nothing more."""
    received = bytearray()
    try:
        while chunk := sock.recv(MEBIBYTE):
            received += chunk
    except BlockingIOError:
        return bytes(received)
    raise EOFError("the stream ended")


def lists_of_lines() -> list[tuple[str, Callable[[], Iterable[Any]], bytes]]:
    mixed = [b"a", bytearray(b"b"), memoryview(b"cd"), b"", b"e"]
    many = [bytes([n % 256]) * 700 for n in range(3000)]
    return [
        ("mixed types", lambda: mixed, b"abcde"),
        ("more than one writev takes", lambda: many, b"".join(many)),
        ("no line", list, b""),
        ("empty lines", lambda: [b"", b""], b""),
        ("a generator", lambda: (line for line in mixed), b"abcde"),
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [case[1:] for case in lists_of_lines()],
    ids=[case[0] for case in lists_of_lines()],
)
async def test_writelines_sends_every_line(
    kind: str, lines: Callable[[], Iterable[Any]], expected: bytes
) -> None:
    async with connected(RecordingProtocol(), kind) as (transport, peer):
        receiving = in_thread(receive_until_eof, peer)
        transport.write(b"<")
        transport.writelines(lines())
        transport.write(b">")
        transport.write_eof()
        assert await receiving == b"<" + expected + b">"


async def test_writelines_refuses_text(kind: str) -> None:
    async with connected(RecordingProtocol(), kind) as (transport, _):
        with pytest.raises(TypeError):
            transport.writelines(["text"])  # type: ignore[list-item]


@pytest.mark.fails_on(
    "asyncio", when=WRITELINES_NEVER_PAUSES, reason="CVE-2024-12254: writelines() never pauses"
)
async def test_writelines_pauses_the_protocol_like_write() -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, "unix") as (transport, peer):
        transport.writelines([bytes(MEBIBYTE)] * 4)
        assert transport.get_write_buffer_size() > transport.get_write_buffer_limits()[1]
        assert protocol.log == ["connection_made", "pause_writing"]
        await in_thread(receive_exactly, peer, 4 * MEBIBYTE)
        await protocol.called("resume_writing")


async def test_the_protocol_is_paused_above_the_high_mark_and_resumed_at_the_low_mark() -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, "unix") as (transport, peer):
        transport.set_write_buffer_limits(high=100_000, low=50_000)
        peer.setblocking(False)
        filled = fill_descriptor(transport.get_extra_info("socket").fileno())
        transport.write(bytes(99_999))
        transport.write(b"1")
        assert transport.get_write_buffer_size() == 100_000
        assert protocol.log == ["connection_made"]
        transport.write(b"2")
        assert protocol.log == ["connection_made", "pause_writing"]
        transport.write(bytes(20_000))
        assert protocol.count("pause_writing") == 1
        received = 0
        while received < filled + 120_001:
            received += len(peer.recv(4096))
            await turns(2)
            resumed = transport.get_write_buffer_size() <= 50_000
            assert protocol.count("resume_writing") == resumed
        assert transport.get_write_buffer_size() == 0
        assert protocol.log == ["connection_made", "pause_writing", "resume_writing"]


async def test_writelines_that_empties_the_queue_resumes_the_protocol() -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, "unix") as (transport, peer):
        transport.set_write_buffer_limits(high=0)
        filled = fill_descriptor(transport.get_extra_info("socket").fileno())
        transport.write(b"1")
        assert protocol.log == ["connection_made", "pause_writing"]
        # The loop has no turn in which it could hear that the socket has room again.
        receive_exactly(peer, filled)
        transport.writelines([b"2", b"3"])
        await protocol.called("resume_writing")
        assert receive_exactly(peer, 3) == b"123"


@pytest.mark.fails_on(
    "asyncio",
    reason="close() takes away what writelines() calls",
    when="_write_ready = None"
    in inspect.getsource(
        selector_events._SelectorSocketTransport.close  # type: ignore[attr-defined]
    ),
)
async def test_writelines_that_empties_the_queue_ends_a_closing_connection() -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, "unix") as (transport, peer):
        filled = fill_descriptor(transport.get_extra_info("socket").fileno())
        transport.write(b"1")
        transport.close()
        receive_exactly(peer, filled)
        transport.writelines([b"2", b"3"])
        assert await protocol.called("connection_lost") is None
        assert receive_until_eof(peer) == b"123"


async def test_a_high_mark_of_zero_pauses_on_any_queued_byte() -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, "unix") as (transport, peer):
        transport.set_write_buffer_limits(high=0)
        transport.write(b"taken by the kernel")
        assert protocol.log == ["connection_made"]
        filled = fill_descriptor(transport.get_extra_info("socket").fileno())
        transport.write(b"1")
        assert protocol.log == ["connection_made", "pause_writing"]
        await in_thread(receive_exactly, peer, filled + 20)
        await protocol.called("resume_writing")
        assert transport.get_write_buffer_size() == 0


async def test_lowering_the_marks_below_what_is_queued_pauses_at_once() -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, "unix") as (transport, _):
        fill_descriptor(transport.get_extra_info("socket").fileno())
        transport.write(bytes(1000))
        assert protocol.log == ["connection_made"]
        transport.set_write_buffer_limits(high=999)
        assert protocol.log == ["connection_made", "pause_writing"]


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        ({}, (16 * 1024, 64 * 1024)),
        ({"high": 1000}, (250, 1000)),
        ({"low": 1000}, (1000, 4000)),
        ({"high": 7, "low": 7}, (7, 7)),
        ({"high": 0}, (0, 0)),
        ({"high": 2**70}, (2**68, 2**70)),
    ],
    ids=str,
)
async def test_water_marks_default_to_each_other(
    arguments: dict[str, int], limits: tuple[int, int]
) -> None:
    async with connected(RecordingProtocol()) as (transport, _):
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        transport.set_write_buffer_limits(**arguments)
        assert transport.get_write_buffer_limits() == limits


@pytest.mark.parametrize(
    ("high", "low", "message"),
    [
        (1, 2, "high (1) must be >= low (2) must be >= 0"),
        (10, -1, "high (10) must be >= low (-1) must be >= 0"),
        (-4, None, "high (-4) must be >= low (-1) must be >= 0"),
    ],
)
async def test_water_marks_out_of_order_are_refused(
    high: int, low: int | None, message: str
) -> None:
    async with connected(RecordingProtocol()) as (transport, _):
        with pytest.raises(ValueError, match=re.escape(message)):
            transport.set_write_buffer_limits(high=high, low=low)
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)


async def test_write_after_write_eof_is_refused(kind: str) -> None:
    async with connected(RecordingProtocol(), kind) as (transport, _):
        transport.write_eof()
        transport.write_eof()
        with pytest.raises(RuntimeError, match=r"Cannot call write\(\) after write_eof\(\)"):
            transport.write(b"late")
        method = "writelines" if sys.version_info >= (3, 12) else "write"
        with pytest.raises(RuntimeError, match=rf"Cannot call {method}\(\) after write_eof\(\)"):
            transport.writelines([b"late"])


async def test_write_after_close_is_dropped_and_the_fifth_warns(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, peer):
        transport.close()
        with caplog.at_level(logging.WARNING, logger="asyncio"):
            for _ in range(4):
                transport.write(b"late")
                transport.write(b"")
            assert caplog.messages == []
            transport.write(b"late")
            assert caplog.messages == ["socket.send() raised exception."]
        await protocol.called("connection_lost")
        transport.write(b"after the end")
        assert await in_thread(receive_until_eof, peer) == b""


async def test_write_to_a_peer_that_is_gone_reaches_connection_lost() -> None:
    protocol = RecordingProtocol()
    async with connected(protocol) as (transport, peer):
        transport.pause_reading()
        reset(peer)
        # The kernel may deliver it later.
        select.select([transport.get_extra_info("socket")], [], [])
        transport.write(b"to nobody")
        transport.write(b"to nobody")
        error = await protocol.called("connection_lost")
        assert isinstance(error, ConnectionResetError | BrokenPipeError)
        assert transport.is_closing()


async def test_a_reset_with_data_queued_drops_the_queue_and_reaches_connection_lost() -> None:
    protocol = RecordingProtocol()
    async with connected(protocol) as (transport, peer):
        transport.write(bytes(8 * MEBIBYTE))
        reset(peer)
        error = await protocol.called("connection_lost")
        assert isinstance(error, ConnectionResetError | BrokenPipeError)
        assert transport.get_write_buffer_size() == 0


async def test_a_protocol_may_write_from_any_of_its_methods(kind: str) -> None:
    class Talkative(RecordingProtocol):
        def note(self, name: str, value: Any = None) -> None:
            super().note(name, value)
            if name != "connection_lost":
                self.transport.write(f"{name};".encode())

    async with connected(Talkative(keep_open=True), kind) as (transport, peer):
        peer.sendall(b"x")
        peer.shutdown(socket.SHUT_WR)
        expected = b"connection_made;data_received;eof_received;"
        assert await in_thread(receive_exactly, peer, len(expected)) == expected
        assert not transport.is_closing()


async def test_a_write_inside_resume_writing_keeps_the_order() -> None:
    class WritesOnResume(RecordingProtocol):
        def resume_writing(self) -> None:
            super().resume_writing()
            self.transport.write(b"resumed")
            self.transport.write_eof()

    protocol = WritesOnResume()
    async with connected(protocol, "unix") as (transport, peer):
        payload = os.urandom(MEBIBYTE)
        transport.write(payload)
        assert protocol.log == ["connection_made", "pause_writing"]
        assert await in_thread(receive_until_eof, peer) == payload + b"resumed"
