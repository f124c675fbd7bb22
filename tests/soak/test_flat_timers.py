"""A million timers, callbacks and wake-ups: what is done or cancelled leaves no memory behind."""

import asyncio
import contextlib
import threading
from collections.abc import Callable

import pytest

from support.loops import factory_of
from support.memory import assert_flat, measure
from support.threads import in_thread

Loop = asyncio.AbstractEventLoop

COUNT = 1_000_000
PER_TURN = 10_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


async def repeat_in_turns(action: Callable[[], object], count: int) -> None:
    """Repeat the action, letting the loop turn now and then."""
    for _ in range(count // PER_TURN):
        for _ in range(PER_TURN):
            action()
        await asyncio.sleep(0)


async def test_a_million_cancelled_timers_leave_nothing(loop: Loop) -> None:
    def set_and_cancel() -> None:
        loop.call_later(3600, print).cancel()

    await repeat_in_turns(set_and_cancel, COUNT // 10)
    before = measure()
    await repeat_in_turns(set_and_cancel, COUNT)
    # Per thousand: a handful of bytes for each timer would already be a leak.
    assert_flat(before, measure(), cycles=COUNT // 1000)


@pytest.mark.only_on("rloop")
async def test_a_million_timers_cancelled_within_one_callback_leave_nothing(loop: Loop) -> None:
    """asyncio drops cancelled timers between turns only; TokioLoop as they become too many."""
    for _ in range(COUNT // 10):
        loop.call_later(3600, print).cancel()
    before = measure()
    for _ in range(COUNT):
        loop.call_later(3600, print).cancel()
    assert_flat(before, measure(), cycles=COUNT // 1000)


async def test_a_million_callbacks_leave_nothing(loop: Loop) -> None:
    await repeat_in_turns(lambda: loop.call_soon(int), COUNT // 10)
    before = measure()
    await repeat_in_turns(lambda: loop.call_soon(int), COUNT)
    assert_flat(before, measure(), cycles=COUNT // 1000)


async def test_a_hundred_thousand_tasks_and_wake_ups_leave_nothing(loop: Loop) -> None:
    async def run(count: int) -> None:
        for _ in range(count // 100):
            await asyncio.gather(*(asyncio.sleep(0) for _ in range(100)))

    def knock(count: int) -> None:
        """Hand over callbacks, at most a thousand ahead of the loop."""
        answered = threading.Event()
        for _ in range(count // 1000):
            for _ in range(1000):
                loop.call_soon_threadsafe(int)
            loop.call_soon_threadsafe(answered.set)
            assert answered.wait(60)
            answered.clear()

    async def both(count: int) -> None:
        knocking = in_thread(knock, count)
        await run(count)
        await knocking

    await both(20_000)
    before = measure()
    await both(100_000)
    # The last hundred tasks may still be on their way out of a thread's free-threaded queue.
    assert_flat(before, measure(), cycles=10_000)


def test_a_thousand_loops_made_and_closed_leave_nothing(loop_name: str) -> None:
    new_loop = factory_of(loop_name)

    def make_and_close(count: int) -> None:
        for _ in range(count):
            with contextlib.closing(new_loop()) as loop:
                loop.run_until_complete(asyncio.sleep(0))

    make_and_close(100)
    before = measure()
    make_and_close(1000)
    assert_flat(before, measure(), cycles=1000)
