"""Timers: call_later and call_at run in order of deadline, never early, and can be forgotten."""

import asyncio
import contextlib
import math
import random
import sys
from pathlib import Path

import pytest

from support.loops import LoopFactory
from support.threads import in_thread, turns

Loop = asyncio.AbstractEventLoop


async def test_call_later_returns_a_timer_handle_that_knows_its_deadline(loop: Loop) -> None:
    before = loop.time()
    timer = loop.call_later(3600, int)
    after = loop.time()
    assert isinstance(timer, asyncio.TimerHandle)
    assert isinstance(timer, asyncio.Handle)
    assert before + 3600 <= timer.when() <= after + 3600
    timer.cancel()


async def test_call_at_keeps_the_deadline_exactly(loop: Loop) -> None:
    deadline = loop.time() + 1234.56789
    timer = loop.call_at(deadline, int)
    assert timer.when() == deadline
    timer.cancel()


async def test_time_is_a_monotonic_float_in_seconds(loop: Loop) -> None:
    samples = [loop.time() for _ in range(1000)]
    assert all(isinstance(sample, float) for sample in samples)
    assert samples == sorted(samples)


async def test_no_timer_fires_early(loop: Loop) -> None:
    delays = [0.0001, 0.0005, 0.001, 0.0015, 0.002, 0.0037, 0.005, 0.01]
    lateness: list[float] = []
    finished = loop.create_future()

    def fire(deadline: float) -> None:
        lateness.append(loop.time() - deadline)
        if len(lateness) == len(delays):
            finished.set_result(None)

    for delay in delays:
        deadline = loop.time() + delay
        loop.call_at(deadline, fire, deadline)
    await finished
    # asyncio counts a timer as due within one tick of the clock, a nanosecond on Linux.
    assert min(lateness) >= -1e-6


async def test_timers_run_in_the_order_of_their_deadlines(loop: Loop) -> None:
    base = loop.time() + 0.01
    order = list(range(500))
    shuffled = random.Random(0).sample(order, len(order))
    ran: list[int] = []
    finished = loop.create_future()
    for number in shuffled:
        loop.call_at(base + number * 1e-5, ran.append, number)
    loop.call_at(base + len(order) * 1e-5, finished.set_result, None)
    await finished
    assert ran == order


async def test_equal_deadlines_run_in_the_order_of_scheduling(loop: Loop) -> None:
    deadline = loop.time() + 0.01
    ran: list[int] = []
    finished = loop.create_future()
    # The heap of asyncio's own loop compares deadlines only: a handful keeps its order by luck
    # of the sift, and this test demands no more than two.
    loop.call_at(deadline, ran.append, 0)
    loop.call_at(deadline, ran.append, 1)
    loop.call_at(deadline + 0.001, finished.set_result, None)
    await finished
    assert ran == [0, 1]


@pytest.mark.fails_on(
    "asyncio", "uvloop", reason="heapq compares deadlines alone, so many equal ones are shuffled"
)
async def test_many_equal_deadlines_run_in_the_order_of_scheduling(loop: Loop) -> None:
    deadline = loop.time() + 0.01
    ran: list[int] = []
    finished = loop.create_future()
    for number in range(100):
        loop.call_at(deadline, ran.append, number)
    loop.call_at(deadline + 0.001, finished.set_result, None)
    await finished
    assert ran == list(range(100))


@pytest.mark.parametrize("delay", [0, -1, -0.001, -1e9])
async def test_a_delay_that_is_not_positive_runs_on_the_next_turns(
    loop: Loop, delay: float
) -> None:
    ran: list[int] = []
    loop.call_later(delay, ran.append, 1)
    assert ran == []
    await turns(2)
    assert ran == [1]


@pytest.mark.parametrize("delay", [1e9, 1e12, math.inf])
async def test_a_delay_of_decades_is_accepted_and_cancelled(loop: Loop, delay: float) -> None:
    timer = loop.call_later(delay, int)
    assert timer.when() > loop.time() + 1e8
    await asyncio.sleep(0.001)
    timer.cancel()


async def test_a_timer_due_does_not_overtake_callbacks_that_are_ready(loop: Loop) -> None:
    ran: list[str] = []
    loop.call_soon(ran.append, "ready")
    loop.call_later(0, ran.append, "due")
    await turns(2)
    assert ran == ["ready", "due"]


async def test_a_cancelled_timer_does_not_run(loop: Loop) -> None:
    ran: list[str] = []
    timer = loop.call_later(0.001, ran.append, "cancelled")
    timer.cancel()
    assert timer.cancelled()
    await asyncio.sleep(0.01)
    assert ran == []


async def test_a_timer_cancels_another_that_is_due_with_it(loop: Loop) -> None:
    ran: list[str] = []
    deadline = loop.time() + 0.005
    later: list[asyncio.TimerHandle] = []

    def cancel_the_other() -> None:
        later[0].cancel()

    loop.call_at(deadline, cancel_the_other)
    later.append(loop.call_at(deadline + 1e-7, ran.append, "cancelled"))
    await asyncio.sleep(0.02)
    assert ran == []


async def test_a_timer_may_be_scheduled_while_timers_run(loop: Loop) -> None:
    finished = loop.create_future()
    countdown = 50

    def again() -> None:
        nonlocal countdown
        countdown -= 1
        if countdown:
            loop.call_later(0, again)
        else:
            finished.set_result(None)

    loop.call_later(0, again)
    await finished


async def test_a_later_timer_does_not_delay_an_earlier_one_set_meanwhile(loop: Loop) -> None:
    early = loop.create_future()
    later = loop.call_later(3600, int)
    # From another thread, while the loop sleeps until the later one.
    knocking = in_thread(
        loop.call_soon_threadsafe, loop.call_later, 0.001, early.set_result, "in time"
    )
    assert await early == "in time"
    await knocking
    later.cancel()


async def test_call_later_without_a_delay_is_refused(loop: Loop) -> None:
    with pytest.raises(TypeError, match="delay must not be None"):
        loop.call_later(None, int)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="when cannot be None"):
        loop.call_at(None, int)  # type: ignore[arg-type]


async def test_a_delay_that_is_not_a_number_is_refused(loop: Loop) -> None:
    with pytest.raises(TypeError):
        loop.call_later("1", int)  # type: ignore[arg-type]


def test_timers_keep_waiting_while_the_loop_is_stopped(loop: Loop) -> None:
    ran: list[str] = []

    def schedule_and_stop() -> None:
        # Too late for the turn that is the last one, however slow that is.
        loop.call_later(0.005, ran.append, "timer")
        loop.stop()

    loop.call_soon(schedule_and_stop)
    loop.run_forever()
    assert ran == []
    loop.run_until_complete(asyncio.sleep(0.02))
    assert ran == ["timer"]


@pytest.mark.skipif(sys.platform != "linux", reason="counts wake-ups through Linux's /proc")
async def test_an_idle_loop_sleeps_until_its_timer_is_due(loop: Loop) -> None:
    def wake_ups() -> int:
        status = Path("/proc/thread-self/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("voluntary_ctxt")]
        return int(line.split()[1])

    async def wake_ups_of_a_wait() -> int:
        due = loop.create_future()
        before = wake_ups()
        loop.call_later(0.3, due.set_result, None)
        await due
        return wake_ups() - before

    # The kernel may let the thread wait for other things too, such as memory, but not each time.
    counts: list[int] = []
    while not counts or (counts[-1] > 3 and len(counts) < 5):
        counts.append(await wake_ups_of_a_wait())
    assert min(counts) <= 3


@pytest.mark.only_on("rloop")
@pytest.mark.parametrize("delay", [0.0001, 0.0004, 0.0023])
def test_a_timer_is_less_late_than_asyncios_beside_it(
    loop_factory: LoopFactory, delay: float
) -> None:
    """asyncio waits for whole milliseconds. What else makes timers late, both suffer in turn.

    On a busy machine that may be most of the time, but not always.
    """
    late: dict[str, list[float]] = {"asyncio": [], "rloop": []}
    half_of_what_is_rounded_up = (math.ceil(delay * 1000) / 1000 - delay) / 2

    def measure(loop: Loop, lateness: list[float]) -> None:
        def fire() -> None:
            lateness.append(loop.time() - when)
            loop.stop()

        when = loop.time() + delay
        loop.call_at(when, fire)
        loop.run_forever()

    with (
        contextlib.closing(asyncio.SelectorEventLoop()) as control,
        contextlib.closing(loop_factory()) as ours,
    ):
        for _ in range(50):
            measure(control, late["asyncio"])
            measure(ours, late["rloop"])
    assert min(late["rloop"]) >= 0
    prompt = {
        name: sum(lateness < half_of_what_is_rounded_up for lateness in latenesses)
        for name, latenesses in late.items()
    }
    assert prompt["rloop"] > prompt["asyncio"]
