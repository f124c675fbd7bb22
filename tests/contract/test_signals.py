"""Signal handlers: they run as callbacks of the loop, and leave no trace when removed."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from support.leaks import LeakGuard
from support.loops import LoopFactory
from support.peers import fill
from support.threads import eventually, in_thread, turns

Loop = asyncio.AbstractEventLoop


@pytest.fixture(autouse=True)
def untouched_signals() -> Iterator[None]:
    """Demand that the process's signal set-up is afterwards what it was before."""
    watched = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in watched]
    yield
    assert [signal.getsignal(number) for number in watched] == before
    wakeup_descriptor = signal.set_wakeup_fd(-1)
    assert wakeup_descriptor == -1


async def test_a_handler_gets_its_arguments_on_the_loops_thread(loop: Loop) -> None:
    calls: list[tuple[int, tuple[object, ...]]] = []

    def handler(*arguments: object) -> None:
        calls.append((threading.get_ident(), arguments))

    loop.add_signal_handler(signal.SIGUSR1, handler, 1, "two")
    os.kill(os.getpid(), signal.SIGUSR1)
    await eventually(lambda: calls)
    assert calls == [(threading.get_ident(), (1, "two"))]
    assert loop.remove_signal_handler(signal.SIGUSR1) is True


async def test_a_handler_does_not_interrupt_the_running_callback(loop: Loop) -> None:
    order: list[str] = []
    loop.add_signal_handler(signal.SIGUSR1, order.append, "handler")
    signal.raise_signal(signal.SIGUSR1)
    order.append("callback goes on")
    await eventually(lambda: len(order) == 2)
    assert order == ["callback goes on", "handler"]
    loop.remove_signal_handler(signal.SIGUSR1)


def test_a_signal_wakes_a_sleeping_loop(loop: Loop) -> None:
    rounds = 50
    handled = threading.Semaphore(0)
    loop.add_signal_handler(signal.SIGUSR1, handled.release)

    def send() -> None:
        for _ in range(rounds):
            os.kill(os.getpid(), signal.SIGUSR1)
            assert handled.acquire(timeout=20)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=send)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_different_signals_reach_their_own_handlers(loop: Loop) -> None:
    calls: list[str] = []
    loop.add_signal_handler(signal.SIGUSR1, calls.append, "one")
    loop.add_signal_handler(signal.SIGUSR2, calls.append, "two")
    signal.raise_signal(signal.SIGUSR2)
    signal.raise_signal(signal.SIGUSR1)
    await eventually(lambda: len(calls) == 2)
    assert sorted(calls) == ["one", "two"]
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    signal.raise_signal(signal.SIGUSR2)
    await eventually(lambda: len(calls) == 3)
    assert loop.remove_signal_handler(signal.SIGUSR2) is True


async def test_a_second_handler_replaces_the_first(loop: Loop) -> None:
    calls: list[str] = []
    loop.add_signal_handler(signal.SIGUSR1, calls.append, "first")
    loop.add_signal_handler(signal.SIGUSR1, calls.append, "second")
    signal.raise_signal(signal.SIGUSR1)
    await eventually(lambda: calls)
    await turns(2)
    assert calls == ["second"]
    assert loop.remove_signal_handler(signal.SIGUSR1) is True
    assert loop.remove_signal_handler(signal.SIGUSR1) is False


async def test_removing_restores_the_default_of_the_signal(loop: Loop) -> None:
    for number, default in (
        (signal.SIGUSR1, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
    ):
        loop.add_signal_handler(number, print)
        assert signal.getsignal(number) is not default
        assert loop.remove_signal_handler(number) is True
        assert signal.getsignal(number) is default


def test_closing_the_loop_removes_its_handlers(loop_factory: LoopFactory) -> None:
    loop = loop_factory()
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_signal_while_the_loop_is_stopped_is_handled_in_the_next_run(loop: Loop) -> None:
    calls: list[str] = []
    loop.add_signal_handler(signal.SIGUSR1, calls.append, "handled")
    signal.raise_signal(signal.SIGUSR1)
    assert calls == []
    loop.run_until_complete(eventually(lambda: calls))
    loop.remove_signal_handler(signal.SIGUSR1)


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (signal.SIGKILL, RuntimeError, "sig 9 cannot be caught"),
        (signal.SIGSTOP, RuntimeError, r"sig \d+ cannot be caught"),
        (-1, ValueError, "invalid signal number -1"),
        (10_000, ValueError, "invalid signal number 10000"),
        ("SIGUSR1", TypeError, "sig must be an int, not 'SIGUSR1'"),
    ],
)
async def test_a_signal_that_cannot_be_handled_is_refused(
    loop: Loop, number: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        loop.add_signal_handler(number, print)  # type: ignore[arg-type]
    if error is not RuntimeError:
        with pytest.raises(error, match=message):
            loop.remove_signal_handler(number)  # type: ignore[arg-type]


async def test_a_coroutine_function_is_refused(loop: Loop) -> None:
    async def coroutine_function() -> None:
        """Be refused."""

    with pytest.raises(TypeError, match=r"coroutines cannot be used with add_signal_handler"):
        loop.add_signal_handler(signal.SIGUSR1, coroutine_function)


async def test_another_thread_than_the_main_one_is_refused(loop: Loop) -> None:
    with pytest.raises(RuntimeError, match="main thread"):
        await in_thread(loop.add_signal_handler, signal.SIGUSR1, print)


def has_length(items: list[Any], count: int) -> bool:
    """Tell whether so many have come."""
    return len(items) == count


async def test_a_failing_handler_is_reported_and_stays(loop: Loop, guard: LeakGuard) -> None:
    def fail() -> None:
        raise ZeroDivisionError("on purpose")

    loop.add_signal_handler(signal.SIGUSR1, fail)
    for count in (1, 2):
        signal.raise_signal(signal.SIGUSR1)
        await eventually(partial(has_length, guard.reports, count))
    reports = guard.take_reports()
    assert [type(report["exception"]) for report in reports] == [ZeroDivisionError] * 2
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_a_python_level_handler_runs_while_the_loop_waits(loop: Loop) -> None:
    """Handlers set with signal.signal belong to the user: a sleeping loop lets them run."""
    handled = asyncio.Event()
    previous = signal.signal(signal.SIGUSR1, lambda *_: loop.call_soon_threadsafe(handled.set))
    try:
        await asyncio.gather(
            in_thread(os.kill, os.getpid(), signal.SIGUSR1),
            asyncio.wait_for(handled.wait(), 20),
        )
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_a_signal_after_the_last_bytecode_before_a_wait_is_noticed(loop: Loop) -> None:
    """C code raises it, called by the loop with no bytecode in between or behind."""
    previous = signal.signal(signal.SIGUSR1, lambda *_: loop.call_soon_threadsafe(loop.stop))
    try:
        loop.call_soon(ctypes.CDLL(None)["raise"], signal.SIGUSR1)
        loop.run_forever()
    finally:
        signal.signal(signal.SIGUSR1, previous)


@contextlib.contextmanager
def wakeup_descriptor(*, warn: bool) -> Iterator[socket.socket]:
    """Set the wake-up descriptor of the process; give its socket."""
    reading, writing = socket.socketpair()
    with reading, writing:
        writing.setblocking(False)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=warn)
        try:
            yield writing
        finally:
            signal.set_wakeup_fd(-1)


@pytest.mark.parametrize("warn", [False, True], ids=["silent", "warning"])
@pytest.mark.parametrize("thread", ["main", "other"])
def test_a_run_leaves_the_wakeup_descriptor_of_the_program_alone(
    loop: Loop, thread: str, warn: bool, guard: LeakGuard
) -> None:
    def run() -> None:
        loop.run_until_complete(asyncio.sleep(0))

    previous = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with wakeup_descriptor(warn=warn) as writing:
            if thread == "main":
                run()
            else:
                runner = threading.Thread(target=run)
                runner.start()
                runner.join()
            fill(writing)
            signal.raise_signal(signal.SIGUSR1)
            assert len(guard.take_unraisable()) == warn
            assert signal.set_wakeup_fd(-1) == writing.fileno()
    finally:
        signal.signal(signal.SIGUSR1, previous)


async def test_a_loop_without_signal_handlers_sets_no_wakeup_descriptor() -> None:
    assert signal.set_wakeup_fd(-1) == -1


async def test_signal_handlers_take_the_wakeup_descriptor_and_leave_none(loop: Loop) -> None:
    with wakeup_descriptor(warn=False) as writing:
        loop.add_signal_handler(signal.SIGUSR1, print)
        loop.add_signal_handler(signal.SIGUSR2, print)
        loop.remove_signal_handler(signal.SIGUSR1)
        taken = signal.set_wakeup_fd(-1)
        assert taken not in (-1, writing.fileno())
        signal.set_wakeup_fd(taken)
        loop.remove_signal_handler(signal.SIGUSR2)
        assert signal.set_wakeup_fd(-1) == -1


async def test_callbacks_from_other_threads_without_end_do_not_starve_a_handler(
    loop: Loop, loop_name: str
) -> None:
    if loop_name == "asyncio":
        pytest.skip("asyncio loses a signal while its pipe is full of other threads' wake-ups")
    handled = threading.Event()
    ran = 0

    def run() -> None:
        nonlocal ran
        ran += 1

    def flood(sends_signal: bool) -> None:
        pushed = 0
        # What the loop has run, not what it was given: the loop's thread may stand still.
        while not handled.is_set() and ran < 1_000_000:
            if pushed - ran > 500_000:
                # The queue is long enough.
                handled.wait(0.01)
                continue
            loop.call_soon_threadsafe(run)
            pushed += 1
            if sends_signal and pushed == 10_000:
                os.kill(os.getpid(), signal.SIGUSR1)

    loop.add_signal_handler(signal.SIGUSR1, handled.set)
    await asyncio.gather(*(in_thread(flood, sends_signal) for sends_signal in (True, False)))
    loop.remove_signal_handler(signal.SIGUSR1)
    assert handled.is_set()
