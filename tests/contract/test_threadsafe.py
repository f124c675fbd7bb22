"""call_soon_threadsafe: other threads hand callbacks to a loop, whether it sleeps or not."""

import asyncio
import contextlib
import gc
import statistics
import threading
import time
import weakref

import pytest

from support.loops import LoopFactory
from support.threads import run_beside_threads

Loop = asyncio.AbstractEventLoop

THREADS = 8
CALLS_PER_THREAD = 10_000


def test_every_callback_of_eight_threads_runs_in_the_order_of_its_thread(loop: Loop) -> None:
    ran: list[tuple[int, int]] = []

    def hammer(name: int) -> None:
        for number in range(CALLS_PER_THREAD):
            loop.call_soon_threadsafe(ran.append, (name, number))

    run_beside_threads(loop, THREADS, hammer)
    assert len(ran) == THREADS * CALLS_PER_THREAD
    for name in range(THREADS):
        assert [number for thread, number in ran if thread == name] == list(range(CALLS_PER_THREAD))


def test_callbacks_run_on_the_thread_that_runs_the_loop(loop: Loop) -> None:
    idents: list[int] = []

    def note() -> None:
        idents.append(threading.get_ident())
        loop.stop()

    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(note,))
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert idents == [threading.get_ident()]


def test_a_sleeping_loop_is_woken_each_time(loop: Loop) -> None:
    """The thread waits for each callback before the next, so the loop is asleep at every one."""
    rounds = 500
    lateness: list[float] = []
    answered = threading.Event()

    def answer(sent: float) -> None:
        lateness.append(time.monotonic() - sent)
        answered.set()

    def knock() -> None:
        for _ in range(rounds):
            loop.call_soon_threadsafe(answer, time.monotonic())
            assert answered.wait(20)
            answered.clear()
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=knock)
    thread.start()
    loop.run_forever()
    thread.join()
    assert len(lateness) == rounds
    # One may be late on a machine that stands still for a while.
    assert statistics.median(lateness) < 1


def test_a_callback_handed_over_while_the_loop_is_stopped_runs_in_the_next_run(
    loop: Loop,
) -> None:
    ran: list[int] = []
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(ran.append, 1))
    thread.start()
    thread.join()
    assert ran == []
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == [1]


def test_a_closed_loop_refuses_a_callback_from_another_thread(loop_factory: LoopFactory) -> None:
    loop = loop_factory()
    loop.close()
    errors: list[str] = []

    def late() -> None:
        try:
            loop.call_soon_threadsafe(print)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=late)
    thread.start()
    thread.join()
    assert errors == ["Event loop is closed"]


def test_closing_while_threads_hand_over_neither_crashes_nor_hangs(
    loop_factory: LoopFactory,
) -> None:
    for _ in range(8):
        loop = loop_factory()
        started = threading.Barrier(3, timeout=20)

        def hammer(loop: Loop = loop, started: threading.Barrier = started) -> None:
            started.wait()
            with contextlib.suppress(RuntimeError):
                while True:
                    loop.call_soon_threadsafe(int)

        threads = [threading.Thread(target=hammer) for _ in range(2)]
        for thread in threads:
            thread.start()
        started.wait()
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
        for thread in threads:
            thread.join()


async def test_the_handle_can_be_cancelled(loop: Loop) -> None:
    ran: list[int] = []
    handle = loop.call_soon_threadsafe(ran.append, 1)
    assert isinstance(handle, asyncio.Handle)
    handle.cancel()
    assert handle.cancelled()
    await asyncio.sleep(0)
    assert ran == []


async def test_a_coroutine_can_be_handed_over(loop: Loop) -> None:
    async def inside(value: int) -> int:
        assert asyncio.get_running_loop() is loop
        await asyncio.sleep(0)
        return value * 2

    results: list[int] = []
    done = asyncio.Event()

    def outside() -> None:
        future = asyncio.run_coroutine_threadsafe(inside(21), loop)
        results.append(future.result(20))
        loop.call_soon_threadsafe(done.set)

    thread = threading.Thread(target=outside)
    thread.start()
    await done.wait()
    thread.join()
    assert results == [42]


async def test_a_finished_callback_is_let_go_of(loop: Loop) -> None:
    class Watched:
        pass

    watched = Watched()
    reference = weakref.ref(watched)
    done = asyncio.Event()

    def hand_over(argument: Watched) -> None:
        loop.call_soon_threadsafe(lambda _: done.set(), argument)

    thread = threading.Thread(target=hand_over, args=(watched,))
    thread.start()
    del watched
    await done.wait()
    thread.join()
    del thread
    await asyncio.sleep(0)
    gc.collect()
    assert reference() is None


def test_it_may_be_called_from_a_finalizer_that_interrupts_the_loop(loop: Loop) -> None:
    """Reentrancy: the call may interrupt another one on the same thread."""

    class Finalized:
        def __del__(self) -> None:
            loop.call_soon_threadsafe(ran.append, "finalizer")

    ran: list[str] = []
    for _ in range(10):
        cycle = [Finalized()]
        cycle.append(cycle)  # type: ignore[arg-type]
        del cycle
        loop.call_soon_threadsafe(gc.collect)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == ["finalizer"] * 10


@pytest.mark.parametrize("method", ["call_soon", "call_later", "call_at"])
def test_debug_mode_refuses_the_other_methods_from_another_thread(loop: Loop, method: str) -> None:
    loop.set_debug(True)
    errors: list[str] = []

    def intrude() -> None:
        try:
            getattr(loop, method)(*([] if method == "call_soon" else [0]), print)
        except RuntimeError as error:
            errors.append(str(error))
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=intrude)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert errors == [
        "Non-thread-safe operation invoked on an event loop other than the current one"
    ]
