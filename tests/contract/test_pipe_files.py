"""What the files behind pipe transports do: terminals, fifos, messages, shared descriptors."""

import asyncio
import contextlib
import contextvars
import hashlib
import logging
import os
import pty
import socket
import sys
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.leaks import LeakGuard
from support.pipes import open_pipe, open_raw
from support.protocols import RecordingProtocol
from support.threads import eventually, in_thread, turns

Loop = asyncio.AbstractEventLoop


@contextlib.contextmanager
def raw_terminal() -> Iterator[tuple[int, int]]:
    """Give the controller and the terminal of a new pair that passes bytes as they are."""
    controller, terminal = pty.openpty()
    tty.setraw(terminal)
    try:
        yield controller, terminal
    finally:
        os.close(controller)
        os.close(terminal)


async def test_lines_of_a_terminal_that_came_together_all_arrive(loop: Loop) -> None:
    controller, terminal = pty.openpty()
    transport, protocol = await loop.connect_read_pipe(
        RecordingProtocol, open_raw(os.dup(terminal), "rb")
    )
    lines = [b"line %d\n" % number for number in range(5)]
    os.write(controller, b"".join(lines))
    assert await protocol.received(sum(map(len, lines))) == b"".join(lines)
    os.write(controller, b"more\n")
    await eventually(lambda: protocol.data.endswith(b"more\n"))
    transport.close()
    await protocol.called("connection_lost")
    await turns(1)
    os.close(controller)
    os.close(terminal)


async def test_a_terminal_is_read_and_written_through_one_descriptor(loop: Loop) -> None:
    with raw_terminal() as (controller, terminal):
        file = open_raw(os.dup(terminal), "r+b")
        payload = os.urandom(1 << 18)
        reader_transport, reader = await loop.connect_read_pipe(RecordingProtocol, file)
        writer_transport, writer = await loop.connect_write_pipe(RecordingProtocol, file)
        os.write(controller, b"unread input")
        assert await reader.received(12) == b"unread input"
        reader_transport.pause_reading()
        os.write(controller, b"more of it")
        writer_transport.write(payload)
        assert writer_transport.get_write_buffer_size() > 0

        def digest() -> str:
            digest, left = hashlib.sha256(), len(payload)
            while left:
                chunk = os.read(controller, 4096)
                digest.update(chunk)
                left -= len(chunk)
            return digest.hexdigest()

        assert await in_thread(digest) == hashlib.sha256(payload).hexdigest()
        await writer.called("resume_writing")
        assert writer_transport.get_write_buffer_size() == 0
        reader_transport.resume_reading()
        assert await reader.received(22) == b"unread inputmore of it"
        writer_transport.close()
        reader_transport.close()
        for protocol in (reader, writer):
            assert await protocol.called("connection_lost") is None
        await turns(1)


async def test_the_end_of_a_terminal_is_no_error_worth_a_report(loop: Loop) -> None:
    controller, terminal = pty.openpty()
    transport, protocol = await loop.connect_read_pipe(
        RecordingProtocol, open_raw(controller, "rb")
    )
    os.write(terminal, b"bye")
    os.close(terminal)
    await protocol.called("connection_lost")
    assert protocol.data == b"bye"
    assert transport.is_closing()
    await turns(1)


async def test_a_fifo_that_another_writer_opened_since_has_not_ended(
    loop: Loop, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = open_raw(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb")
    first = os.open(fifo, os.O_WRONLY)
    transport, protocol = await loop.connect_read_pipe(RecordingProtocol, reading)
    os.write(first, b"one ")
    await protocol.received(4)
    # The hang-up is there to be seen in between, but the transport does not look.
    transport.pause_reading()
    os.close(first)
    await turns(3)
    second = os.open(fifo, os.O_WRONLY)
    await turns(3)
    transport.resume_reading()
    await turns(3)
    # Where the machine itself stalls, that may count as the thread's time, but not every time.
    for _ in range(5):
        started = time.thread_time()
        await asyncio.sleep(0.1)
        if time.thread_time() - started < 0.01:
            break
    else:
        pytest.fail("the loop did not rest")
    os.write(second, b"two ")
    assert await protocol.received(8) == b"one two "
    os.close(second)
    assert await protocol.called("connection_lost") is None
    await turns(1)


async def test_a_fifo_that_another_reader_opened_since_is_not_closed(
    loop: Loop, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    first = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writing = open_raw(os.open(fifo, os.O_WRONLY), "wb")
    transport, protocol = await loop.connect_write_pipe(RecordingProtocol, writing)
    for _ in range(5):
        os.close(first)
        first = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    await turns(5)
    assert not transport.is_closing()
    transport.write(b"still here")
    assert os.read(first, 100) == b"still here"
    os.close(first)
    assert await protocol.called("connection_lost") is None
    await turns(1)


@pytest.mark.skipif(sys.platform != "linux", reason="packet mode is Linux's")
async def test_packets_of_a_pipe_that_came_together_all_arrive(loop: Loop) -> None:
    reading, writing = open_pipe(os.O_DIRECT)
    transport, protocol = await loop.connect_read_pipe(RecordingProtocol, reading)
    for number in range(5):
        writing.write(b"packet %d " % number)
    await eventually(lambda: protocol.data.endswith(b"packet 4 "))
    assert protocol.count("data_received") == 5
    writing.close()
    assert await protocol.called("connection_lost") is None
    await turns(1)
    assert transport.is_closing()


@pytest.mark.parametrize("kind", ["SOCK_DGRAM", "SOCK_SEQPACKET"])
async def test_messages_of_a_socket_that_came_together_all_arrive(loop: Loop, kind: str) -> None:
    if kind == "SOCK_SEQPACKET" and sys.platform != "linux":
        pytest.skip("macOS has no such Unix sockets")
    ours, peer = socket.socketpair(socket.AF_UNIX, getattr(socket, kind))
    with peer:
        transport, protocol = await loop.connect_read_pipe(RecordingProtocol, ours)
        for number in range(5):
            peer.send(b"message %d " % number)
        await eventually(lambda: protocol.data.endswith(b"message 4 "))
        assert protocol.count("data_received") == 5
        transport.close()
        await protocol.called("connection_lost")
        await turns(1)


@pytest.mark.parametrize("queued", [0, 8 << 20])
async def test_a_write_pipe_on_a_socket_notices_that_the_reader_is_gone(
    loop: Loop, queued: int
) -> None:
    ours, peer = socket.socketpair()
    transport, protocol = await loop.connect_write_pipe(RecordingProtocol, ours)
    transport.write(bytes(queued))
    await turns(2)
    peer.close()
    error = await protocol.called("connection_lost")
    assert isinstance(error, BrokenPipeError) if queued else error is None
    await turns(1)


async def test_a_write_pipe_takes_bytes_only_and_drops_what_comes_after_the_end(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    reading, writing = open_pipe()
    with reading:
        transport, protocol = await loop.connect_write_pipe(RecordingProtocol, writing)
        for wrong in ("text", None, 7):
            with pytest.raises(AssertionError):
                transport.write(wrong)  # type: ignore[arg-type]
        transport.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
        transport.close()
        with caplog.at_level(logging.WARNING, "asyncio"):
            for _ in range(7):
                transport.write(b"late")
        assert [record.message for record in caplog.records] == [
            "pipe closed by peer or os.write(pipe, data) raised exception."
        ] * 2
        assert await protocol.called("connection_lost") is None
        await turns(1)
        assert reading.read() == b"abc"
    caplog.clear()


async def test_what_is_queued_is_what_it_was_and_counts_in_bytes(loop: Loop) -> None:
    reading, writing = open_pipe()
    transport, protocol = await loop.connect_write_pipe(RecordingProtocol, writing)
    transport.write(bytes(1 << 20))
    before = transport.get_write_buffer_size()
    changing = bytearray(b"before")
    transport.write(changing)
    changing[:] = b"after!"
    assert transport.get_write_buffer_size() == before + 6
    transport.set_write_buffer_limits(high=before + 5, low=0)
    assert transport.get_write_buffer_limits() == (0, before + 5)
    assert protocol.log == ["connection_made", "pause_writing"]
    transport.close()
    with reading:
        assert (await in_thread(reading.readall)).endswith(b"before")  # type: ignore[attr-defined]
    assert await protocol.called("connection_lost") is None
    await turns(1)


async def test_a_pause_while_much_is_there_holds_it_back(loop: Loop) -> None:
    class Pausing(RecordingProtocol):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()

    ours, peer = socket.socketpair()
    with peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        transport, protocol = await loop.connect_read_pipe(Pausing, ours)
        payload = os.urandom(600_000)
        sending = in_thread(peer.sendall, payload)
        while len(protocol.data) < len(payload):
            count = protocol.count("data_received") + 1
            await protocol.called_times("data_received", count)
            await turns(3)
            assert protocol.count("data_received") == count
            transport.resume_reading()
        await sending
        assert protocol.data == payload
        transport.close()
        await protocol.called("connection_lost")
        await turns(1)


async def test_nothing_is_read_before_connection_made_has_run_or_after_a_close(loop: Loop) -> None:
    class PausingAndClosing(RecordingProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.pause_reading()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.close()

    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with peer:
        peer.send(b"early")
        peer.send(b"too late")
        transport, protocol = await loop.connect_read_pipe(PausingAndClosing, ours)
        await turns(3)
        assert protocol.log == ["connection_made"]
        transport.resume_reading()
        assert await protocol.called("connection_lost") is None
        assert protocol.data == b"early"
        await turns(1)


async def test_a_protocol_that_cannot_receive_fails_when_something_comes(
    loop: Loop, guard: LeakGuard
) -> None:
    class Deaf(asyncio.BaseProtocol):
        pass

    reading, writing = open_pipe()
    with writing:
        transport, _ = await loop.connect_read_pipe(Deaf, reading)
        writing.write(b"data")
        await eventually(lambda: guard.reports)
        (report,) = guard.take_reports()
        assert isinstance(report["exception"], AttributeError)
        assert report["message"].startswith("Exception in callback ")
        assert isinstance(report["handle"], asyncio.Handle)
        assert not transport.is_closing()
        protocol = RecordingProtocol()
        transport.set_protocol(protocol)
        assert transport.get_protocol() is protocol
        writing.write(b"heard")
        assert await protocol.received(5) == b"heard"
        transport.close()
        await protocol.called("connection_lost")
        await turns(1)


async def test_pipes_are_read_in_the_context_of_their_creation(loop: Loop) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    class Looking(RecordingProtocol):
        def data_received(self, data: bytes) -> None:
            self.note("data_received", variable.get())

        def eof_received(self) -> None:
            self.note("eof_received", variable.get())

    reading, writing = open_pipe()
    variable.set("creation")
    _, protocol = await loop.connect_read_pipe(Looking, reading)
    variable.set("later")
    writing.write(b"data")
    assert await protocol.called("data_received") == "creation"
    writing.close()
    assert await protocol.called("eof_received") == "creation"
    await protocol.called("connection_lost")
    await turns(1)


async def test_streams_work_over_pipes(loop: Loop) -> None:
    reading, writing = open_pipe()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), reading)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, writing)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    payload = os.urandom(1 << 20)
    writer.write(payload)
    draining = asyncio.ensure_future(writer.drain())
    assert await reader.readexactly(len(payload)) == payload
    await draining
    writer.write(b"line\n")
    writer.close()
    assert await reader.readline() == b"line\n"
    assert await reader.read() == b""
    await turns(2)


@pytest.mark.only_on("rloop")
async def test_a_file_that_was_closed_under_its_transport_does_no_harm_to_its_successor(
    loop: Loop,
) -> None:
    for mode in ("rb", "wb"):
        reading, writing = open_pipe()
        ours, other = (reading, writing) if mode == "rb" else (writing, reading)
        number = ours.fileno()
        connect = loop.connect_read_pipe if mode == "rb" else loop.connect_write_pipe
        transport, protocol = await connect(RecordingProtocol, ours)
        await turns(2)
        ours.close()
        successor, peer = socket.socketpair()
        with peer, other:
            assert successor.fileno() == number
            successor_transport, receiver = await loop.create_connection(
                RecordingProtocol, sock=successor
            )
            closing: Any = transport
            closing.close()
            await protocol.called("connection_lost")
            await turns(2)
            peer.send(b"unharmed")
            assert await receiver.received(8) == b"unharmed"
            successor_transport.close()
            await receiver.called("connection_lost")
            await turns(1)
