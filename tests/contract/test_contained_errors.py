"""Errors that would end a run if the loop let them out: of connections, sockets and the reports.

Only KeyboardInterrupt and SystemExit leave ``run_forever()``; ``test_raising_protocols`` has the
methods of protocols one by one.
"""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.leaks import LeakGuard
from support.loops import LoopFactory
from support.peers import connected, open_pair, receive_until_eof, reset
from support.protocols import RecordingProtocol
from support.threads import eventually, in_thread, turns

Loop = asyncio.AbstractEventLoop

MORE_THAN_SOCKETS_HOLD = 4 << 20


class Failure(Exception):
    """Raised on purpose."""


def fail() -> None:
    raise Failure("on purpose")


def drain(sock: socket.socket) -> None:
    """Receive what has come to a socket that does not block."""
    with contextlib.suppress(BlockingIOError):
        while sock.recv(1 << 20):
            pass


@contextlib.contextmanager
def socket_of(kind: type[socket.socket]) -> Iterator[tuple[Any, socket.socket]]:
    """Give a connected socket of that class, which does not block, and its peer."""
    ours, peer = socket.socketpair()
    with peer, kind(fileno=ours.detach()) as sock:
        sock.setblocking(False)
        yield sock, peer


async def test_a_failing_connection_lost_behind_a_queue_is_reported(guard: LeakGuard) -> None:
    class Protocol(RecordingProtocol):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            fail()

    protocol = Protocol()
    async with connected(protocol, "unix") as (transport, peer):
        transport.write(bytes(MORE_THAN_SOCKETS_HOLD))
        transport.close()
        assert protocol.count("connection_lost") == 0
        assert len(await in_thread(receive_until_eof, peer)) == MORE_THAN_SOCKETS_HOLD
        assert await protocol.called("connection_lost") is None
    (report,) = guard.take_reports()
    assert report["message"].startswith("Exception in callback ")
    assert isinstance(report["exception"], Failure)
    assert "handle" in report


async def test_a_reset_before_the_shutdown_that_a_queue_delayed_is_reported(
    guard: LeakGuard,
) -> None:
    peers: list[socket.socket] = []

    class Protocol(RecordingProtocol):
        def resume_writing(self) -> None:
            # Between the last send and shutdown().
            super().resume_writing()
            reset(peers[0])

    protocol = Protocol()
    async with connected(protocol, "tcp") as (transport, peer):
        peers.append(peer)
        transport.set_write_buffer_limits(high=0)
        while not transport.get_write_buffer_size():
            transport.write(bytes(1 << 16))
        transport.write_eof()
        peer.setblocking(False)
        while not protocol.count("resume_writing"):
            drain(peer)
            await asyncio.sleep(0)
        await protocol.called("connection_lost")
    (report,) = guard.take_reports()
    assert report["message"].startswith("Exception in callback ")
    assert isinstance(report["exception"], OSError)


async def test_a_sendfile_cancelled_just_before_its_queue_empties_is_cancelled(
    loop: Loop, guard: LeakGuard
) -> None:
    protocol = RecordingProtocol()

    class Canceller(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            sending.cancel()

    async with (
        connected(Canceller(), "unix") as (_, ringing),
        connected(protocol, "unix") as (transport, peer),
    ):
        while not transport.get_write_buffer_size():
            transport.write(bytes(1000))
        with tempfile.TemporaryFile() as file:
            file.write(b"data")
            sending = loop.create_task(loop.sendfile(transport, file))
            await turns(5)
            peer.setblocking(False)

            def wake_both() -> None:
                ringing.send(b"!")
                drain(peer)

            loop.call_soon(wake_both)
            await asyncio.wait([sending])
        assert sending.cancelled()
        await eventually(lambda: not transport.get_write_buffer_size())
        transport.close()
        assert await protocol.called("connection_lost") is None
    # The waiter of the sendfile is told of what it does not wait for any more.
    reports = guard.take_reports()
    assert {type(report["exception"]) for report in reports} == {asyncio.InvalidStateError}


async def test_a_transport_closes_though_the_sendfile_before_it_was_cancelled(
    loop: Loop, guard: LeakGuard
) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, "unix") as (transport, peer):
        waiter: asyncio.Future[None] = transport._make_empty_waiter()  # type: ignore[attr-defined]
        assert waiter.done()
        transport.close()
        assert await protocol.called("connection_lost") is None
        assert peer.recv(1) == b""
        await eventually(lambda: guard.reports)
    (report,) = guard.take_reports()
    assert isinstance(report["exception"], asyncio.InvalidStateError)


async def test_an_operation_whose_future_is_cancelled_by_the_sockets_method_is_reported(
    loop: Loop, guard: LeakGuard
) -> None:
    class Cancelling(socket.socket):
        is_first = True

        def recv(self, *args: Any) -> bytes:
            if self.is_first:
                self.is_first = False
                raise BlockingIOError
            receiving.cancel()
            return b"lost"

    with socket_of(Cancelling) as (sock, peer):
        receiving = loop.create_task(loop.sock_recv(sock, 10))
        await turns(2)
        peer.send(b"data")
        await asyncio.wait([receiving])
        assert receiving.cancelled()
    (report,) = guard.take_reports()
    assert report["message"].startswith("Exception in callback ")
    assert "sock_recv(" in report["message"]
    assert isinstance(report["exception"], asyncio.InvalidStateError)
    assert "handle" in report


async def test_an_operation_whose_socket_is_closed_by_its_own_method_stays_pending(
    loop: Loop,
) -> None:
    calls: list[str] = []

    class Closing(socket.socket):
        def recv(self, *args: Any) -> bytes:
            calls.append("recv")
            if len(calls) > 1:
                self.close()
            raise BlockingIOError

    with socket_of(Closing) as (sock, peer):
        receiving = loop.create_task(loop.sock_recv(sock, 10))
        await turns(2)
        peer.send(b"data")
        await eventually(lambda: len(calls) > 1)
        await turns(3)
        assert not receiving.done()
        receiving.cancel()
        await asyncio.wait([receiving])


@pytest.mark.parametrize("error", [Failure, asyncio.CancelledError, GeneratorExit])
async def test_what_a_sockets_method_raises_reaches_the_waiting_task(
    loop: Loop, error: type[BaseException]
) -> None:
    is_failing = False

    class Failing(socket.socket):
        def recv(self, *args: Any) -> bytes:
            if is_failing:
                raise error("on purpose")
            return super().recv(*args)

    with socket_of(Failing) as (sock, peer):
        receiving = loop.create_task(loop.sock_recv(sock, 10))
        await turns(2)
        is_failing = True
        peer.send(b"data")
        done, _ = await asyncio.wait([receiving])
        assert done == {receiving}
        if issubclass(error, asyncio.CancelledError):
            assert receiving.cancelled()
        else:
            assert isinstance(receiving.exception(), error)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_interrupt_of_a_sockets_method_leaves_the_run_and_the_operation_goes_on(
    loop: Loop, error: type[BaseException]
) -> None:
    is_failing = True

    class Interrupting(socket.socket):
        def recv(self, *args: Any) -> bytes:
            data = super().recv(args[0], socket.MSG_PEEK)
            if is_failing:
                raise error("on purpose")
            return data

    with socket_of(Interrupting) as (sock, peer):
        receiving = loop.create_task(loop.sock_recv(sock, 10))
        loop.call_soon(peer.send, b"data")
        with pytest.raises(error, match="on purpose"):
            loop.run_forever()
        is_failing = False
        assert loop.run_until_complete(receiving) == b"data"


def test_what_a_signal_handler_raises_while_the_loop_waits_leaves_the_run(loop: Loop) -> None:
    def on_signal(*_: object) -> None:
        fail()

    before = signal.signal(signal.SIGUSR1, on_signal)
    sender = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        loop.call_soon(sender.start)
        with pytest.raises(Failure):
            loop.run_forever()
        assert loop.run_until_complete(asyncio.sleep(0, "goes on")) == "goes on"
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)


async def test_what_a_signal_handler_raises_inside_a_callback_is_reported(
    loop: Loop, guard: LeakGuard
) -> None:
    def on_signal(*_: object) -> None:
        fail()

    def signalled() -> None:
        signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        loop.call_soon(signalled)
        await turns(2)
    finally:
        signal.signal(signal.SIGUSR1, before)
    (report,) = guard.take_reports()
    assert isinstance(report["exception"], Failure)


class Unprintable:
    """A callable whose representation cannot be made."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def __call__(self) -> None:
        fail()

    def __repr__(self) -> str:
        raise self._error("no representation")


def broken_handler(_loop: Loop, _context: dict[str, Any]) -> None:
    raise Failure("the handler's own")


def handler_of(loop: Loop) -> None:
    loop.set_exception_handler(broken_handler)


def default_handler_of(loop: Loop) -> None:
    loop.set_exception_handler(None)
    broken = functools.partial(broken_handler, loop)
    loop.default_exception_handler = broken  # type: ignore[method-assign]


@pytest.mark.parametrize("break_reports", [handler_of, default_handler_of])
async def test_a_report_that_fails_is_logged(
    loop: Loop, break_reports: Callable[[Loop], None], caplog: pytest.LogCaptureFixture
) -> None:
    break_reports(loop)
    with caplog.at_level(logging.ERROR, logger="asyncio"):
        loop.call_soon(fail)
        await turns(2)
    assert caplog.records
    assert "the handler's own" in caplog.text


def raising_call(_context: dict[str, Any]) -> None:
    raise Failure("the report's own")


@pytest.mark.only_on("rloop")
async def test_a_report_that_raises_itself_is_unraisable(loop: Loop, guard: LeakGuard) -> None:
    # asyncio lets these out of run_forever().
    loop.call_exception_handler = raising_call  # type: ignore[method-assign, assignment]
    loop.call_soon(fail)
    await turns(2)
    raised, report = guard.take_unraisable()
    assert "on purpose" in str(raised)
    assert "the report's own" in str(report)


@pytest.mark.only_on("rloop")
async def test_a_callback_that_cannot_be_described_is_unraisable(
    loop: Loop, guard: LeakGuard
) -> None:
    loop.call_soon(Unprintable(Failure))
    await turns(2)
    raised, report = guard.take_unraisable()
    assert "on purpose" in str(raised)
    assert "no representation" in str(report)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_interrupt_while_a_report_is_made_leaves_the_run(
    loop: Loop, error: type[BaseException]
) -> None:
    loop.call_soon(Unprintable(error))
    with pytest.raises(error, match="no representation"):
        loop.run_forever()


@pytest.mark.only_on("rloop")
@pytest.mark.parametrize("duration", [None, "long"])
def test_a_slow_callback_that_cannot_be_timed_is_reported(
    loop_factory: LoopFactory, duration: object, guard: LeakGuard
) -> None:
    # asyncio lets this out of run_forever().
    with contextlib.closing(loop_factory()) as loop:
        loop.set_debug(True)
        loop.slow_callback_duration = duration  # type: ignore[assignment]
        ran: list[str] = []
        loop.call_soon(ran.append, "ran")
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert ran == ["ran"]
        loop.set_debug(False)
    reports = guard.take_reports()
    assert {type(report["exception"]) for report in reports} == {TypeError}
    assert all("handle" in report for report in reports)


@pytest.mark.parametrize("error", [Failure, asyncio.CancelledError, GeneratorExit])
async def test_a_timer_that_fails_is_reported(
    loop: Loop, error: type[BaseException], guard: LeakGuard
) -> None:
    def raising() -> None:
        raise error("on purpose")

    loop.call_later(0, raising)
    await asyncio.sleep(0.01)
    (report,) = guard.take_reports()
    assert isinstance(report["exception"], error)


@pytest.mark.parametrize("error", [Failure, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("side", ["reader", "writer"])
async def test_a_watching_callback_that_fails_is_reported_each_time_and_stays(
    loop: Loop, side: str, error: type[BaseException], guard: LeakGuard
) -> None:
    def raising() -> None:
        raise error("on purpose")

    with open_pair("unix") as (ours, peer):
        peer.send(b"data")
        getattr(loop, f"add_{side}")(ours, raising)
        await eventually(lambda: len(guard.reports) >= 2)
        assert getattr(loop, f"remove_{side}")(ours) is True
    assert {type(report["exception"]) for report in guard.take_reports()} == {error}


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_interrupt_of_a_watching_callback_leaves_the_run(
    loop: Loop, error: type[BaseException]
) -> None:
    def raising() -> None:
        raise error("on purpose")

    with open_pair("unix") as (ours, peer):
        peer.send(b"data")
        loop.add_reader(ours, raising)
        for _ in range(2):
            with pytest.raises(error, match="on purpose"):
                loop.run_forever()
        loop.remove_reader(ours)


async def test_a_full_pipe_whose_reader_goes_reaches_connection_lost(loop: Loop) -> None:
    reading, writing = os.pipe()
    protocol = RecordingProtocol()
    file = os.fdopen(writing, "wb", 0)
    transport, _ = await loop.connect_write_pipe(lambda: protocol, file)
    transport.write(bytes(MORE_THAN_SOCKETS_HOLD))
    assert transport.get_write_buffer_size()
    os.close(reading)
    assert isinstance(await protocol.called("connection_lost"), BrokenPipeError)
