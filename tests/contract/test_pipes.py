"""Pipe transports: pipes, fifos, sockets and terminals, read and written through the loop."""

import asyncio
import errno
import gc
import hashlib
import os
import pty
import socket
import stat
import sys
import tty
from pathlib import Path
from typing import Any

import pytest

from support.leaks import LeakGuard
from support.pipes import open_pipe, open_raw
from support.protocols import RecordingProtocol
from support.threads import eventually, in_thread, turns

Loop = asyncio.AbstractEventLoop

EIGHT_MEBIBYTES = 8 << 20


async def test_a_read_pipe_delivers_bytes_and_the_end(loop: Loop) -> None:
    reading, writing = open_pipe()
    transport, protocol = await loop.connect_read_pipe(RecordingProtocol, reading)
    assert isinstance(transport, asyncio.ReadTransport)
    assert transport.get_extra_info("pipe") is reading
    assert os.get_blocking(reading.fileno()) is False
    assert protocol.log == ["connection_made"]
    writing.write(b"data")
    assert await protocol.received(4) == b"data"
    writing.close()
    assert await protocol.called("connection_lost") is None
    assert protocol.log == ["connection_made", "data_received", "eof_received", "connection_lost"]
    await turns(1)
    assert reading.closed


async def test_a_write_pipe_takes_bytes_and_closes(loop: Loop) -> None:
    reading, writing = open_pipe()
    with reading:
        transport, protocol = await loop.connect_write_pipe(RecordingProtocol, writing)
        assert isinstance(transport, asyncio.WriteTransport)
        assert transport.get_extra_info("pipe") is writing
        assert os.get_blocking(writing.fileno()) is False
        for data in (b"bytes ", bytearray(b"bytearray "), memoryview(b"view"), b""):
            transport.write(data)
        assert transport.can_write_eof()
        transport.write_eof()
        assert transport.is_closing()
        assert await in_thread(reading.readall) == b"bytes bytearray view"  # type: ignore[attr-defined]
        assert await protocol.called("connection_lost") is None
    assert protocol.log == ["connection_made", "connection_lost"]


async def test_closing_a_write_pipe_delivers_everything_to_a_slow_reader(loop: Loop) -> None:
    payload = os.urandom(EIGHT_MEBIBYTES)
    reading, writing = open_pipe()

    def digest_slowly() -> str:
        digest = hashlib.sha256()
        with reading:
            while chunk := reading.read(8192):
                digest.update(chunk)
        return digest.hexdigest()

    transport, protocol = await loop.connect_write_pipe(RecordingProtocol, writing)
    transport.write(payload)
    assert transport.get_write_buffer_size() > 0
    assert protocol.log == ["connection_made", "pause_writing"]
    transport.close()
    assert await in_thread(digest_slowly) == hashlib.sha256(payload).hexdigest()
    assert await protocol.called("connection_lost") is None
    assert "resume_writing" in protocol.log


async def test_abort_drops_what_is_queued(loop: Loop) -> None:
    reading, writing = open_pipe()
    with reading:
        transport, protocol = await loop.connect_write_pipe(RecordingProtocol, writing)
        transport.write(bytes(EIGHT_MEBIBYTES))
        transport.abort()
        assert await protocol.called("connection_lost") is None
        assert len(await in_thread(reading.readall)) < EIGHT_MEBIBYTES  # type: ignore[attr-defined]


@pytest.mark.parametrize("queued", [0, EIGHT_MEBIBYTES])
async def test_a_write_pipe_notices_that_the_reader_is_gone(loop: Loop, queued: int) -> None:
    reading, writing = open_pipe()
    transport, protocol = await loop.connect_write_pipe(RecordingProtocol, writing)
    transport.write(bytes(queued))
    await turns(2)
    reading.close()
    error = await protocol.called("connection_lost")
    assert isinstance(error, BrokenPipeError) if queued else error is None


async def test_reading_is_paused_and_resumed(loop: Loop) -> None:
    reading, writing = open_pipe()
    transport, protocol = await loop.connect_read_pipe(RecordingProtocol, reading)
    transport.pause_reading()
    assert not transport.is_reading()
    writing.write(b"last words")
    writing.close()
    await turns(5)
    assert protocol.log == ["connection_made"]
    transport.resume_reading()
    assert transport.is_reading()
    assert await protocol.called("connection_lost") is None
    assert protocol.data == b"last words"


async def test_a_fifo_a_socket_and_a_socket_pair_are_pipes_too(loop: Loop, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    keeper = os.open(fifo, os.O_RDWR)
    reading_fifo = open_raw(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb")
    writing_fifo = open_raw(os.open(fifo, os.O_WRONLY), "wb")
    os.close(keeper)
    pairs: list[tuple[Any, Any]] = [(reading_fifo, writing_fifo), socket.socketpair()]
    for reading, writing in pairs:
        read_transport, reader = await loop.connect_read_pipe(RecordingProtocol, reading)
        write_transport, writer = await loop.connect_write_pipe(RecordingProtocol, writing)
        write_transport.write(b"through")
        assert await reader.received(7) == b"through"
        write_transport.close()
        await writer.called("connection_lost")
        assert await reader.called("connection_lost") is None
        read_transport.close()
        await turns(1)


async def test_a_terminal_is_read_and_written(loop: Loop) -> None:
    controller, terminal = pty.openpty()
    tty.setraw(terminal)
    # The test's own handles stay blocking: set_blocking applies to the file, not the descriptor.
    reading = open_raw(os.dup(controller), "rb")
    writing = open_raw(os.dup(terminal), "wb")
    read_transport, reader = await loop.connect_read_pipe(RecordingProtocol, reading)
    write_transport, writer = await loop.connect_write_pipe(RecordingProtocol, writing)
    write_transport.write(b"typed")
    assert await reader.received(5) == b"typed"
    write_transport.close()
    await writer.called("connection_lost")
    os.close(terminal)
    # A terminal ends with an error on Linux and with an end of file elsewhere.
    error = await reader.called("connection_lost")
    assert error is None or (isinstance(error, OSError) and error.errno == errno.EIO)
    read_transport.close()
    os.close(controller)


async def test_a_regular_file_is_refused(loop: Loop, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b", 0) as file:
        with pytest.raises(ValueError, match="Pipe transport is for pipes/sockets only"):
            await loop.connect_read_pipe(RecordingProtocol, file)
        with pytest.raises(
            ValueError, match="Pipe transport is only for pipes, sockets and character devices"
        ):
            await loop.connect_write_pipe(RecordingProtocol, file)
        assert not file.closed
        assert stat.S_ISREG(os.fstat(file.fileno()).st_mode)


async def test_the_null_device_takes_writes(loop: Loop) -> None:
    null = open_raw(os.devnull, "wb")
    transport, protocol = await loop.connect_write_pipe(RecordingProtocol, null)
    transport.write(bytes(EIGHT_MEBIBYTES))
    assert transport.get_write_buffer_size() == 0
    transport.close()
    assert await protocol.called("connection_lost") is None


@pytest.mark.skipif(sys.platform != "linux", reason="kqueue words it in another way")
async def test_the_null_device_cannot_be_watched_for_reading(loop: Loop, guard: LeakGuard) -> None:
    null = open_raw(os.devnull, "rb")
    transport, protocol = await loop.connect_read_pipe(RecordingProtocol, null)
    await turns(2)
    (report,) = guard.take_reports()
    assert isinstance(report["exception"], PermissionError)
    transport.close()
    await protocol.called("connection_lost")


@pytest.mark.parametrize("direction", ["read", "write"])
async def test_closing_again_does_not_close_a_descriptor_that_was_given_out_since(
    loop: Loop, direction: str
) -> None:
    reading, writing = open_pipe()
    ours, other = (reading, writing) if direction == "read" else (writing, reading)
    number = ours.fileno()
    connect = loop.connect_read_pipe if direction == "read" else loop.connect_write_pipe
    transport, protocol = await connect(RecordingProtocol, ours)
    transport.close()
    await protocol.called("connection_lost")
    await turns(1)
    probe, opposite = socket.socketpair()
    with probe, opposite, other:
        reused = probe.fileno() == number
        if not reused:
            os.dup2(probe.fileno(), number)
        try:
            transport.close()
            if direction == "write":
                transport.close()
            ours.close()
            del transport, ours, reading, writing
            gc.collect()
            await turns(3)
            os.write(number, b"the probe lives")
            assert opposite.recv(100) == b"the probe lives"
        finally:
            if not reused:
                os.close(number)


@pytest.mark.parametrize("direction", ["read", "write"])
async def test_a_transport_that_was_not_closed_warns_and_closes_its_pipe(
    loop: Loop, direction: str
) -> None:
    reading, writing = open_pipe()
    if direction == "read":
        transport: Any
        transport, protocol = await loop.connect_read_pipe(RecordingProtocol, reading)
        transport.pause_reading()
        ours, other = reading, writing
    else:
        null = open_raw(os.devnull, "wb")
        transport, protocol = await loop.connect_write_pipe(RecordingProtocol, null)
        reading.close()
        ours, other = null, writing
    with other:
        await turns(2)
        protocol.transport = None
        protocol.calls.clear()
        with pytest.warns(ResourceWarning, match="unclosed transport <"):
            del transport
            gc.collect()
        assert ours.closed


async def test_a_failing_data_received_is_reported(loop: Loop, guard: LeakGuard) -> None:
    class Failing(RecordingProtocol):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            raise ZeroDivisionError("on purpose")

    reading, writing = open_pipe()
    with writing:
        transport, protocol = await loop.connect_read_pipe(Failing, reading)
        writing.write(b"data")
        await eventually(lambda: guard.reports)
        (report,) = guard.take_reports()
        assert isinstance(report["exception"], ZeroDivisionError)
        transport.close()
        await protocol.called("connection_lost")
