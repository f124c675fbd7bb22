"""``loop._scheduled`` and ``loop._ready``: private, and read by programs and by their tests."""

import asyncio
import collections
import heapq
from typing import Any

import pytest

from support.loops import of_one_thread
from support.threads import eventually, turns

Loop = asyncio.AbstractEventLoop


@of_one_thread
async def test_scheduled_holds_the_timers_that_wait(loop: Any) -> None:
    timers = loop._scheduled
    assert isinstance(timers, list)
    before = len(timers)
    second = loop.call_later(7200, print)
    first = loop.call_at(loop.time() + 3600, print)
    assert len(timers) == before + 2
    assert first in timers
    assert second in loop._scheduled
    assert {first, second} <= set(timers)
    assert all(isinstance(timer, asyncio.TimerHandle) for timer in timers)
    assert timers[0] is min(timers)
    assert heapq.nsmallest(1, timers) == [timers[0]]
    assert max(timers) is second
    for timer in (first, second):
        timer.cancel()


@of_one_thread
async def test_timers_may_be_cancelled_while_they_are_looked_through(loop: Any) -> None:
    mine = [loop.call_later(3600, print, "mine", number) for number in range(200)]
    for timer in loop._scheduled:
        if not timer.cancelled() and timer._args[:1] == ("mine",):
            timer.cancel()
    assert all(timer.cancelled() for timer in mine)
    await turns(2)
    assert not [timer for timer in loop._scheduled if not timer.cancelled()]


@of_one_thread
async def test_a_timer_that_is_due_is_no_longer_scheduled(loop: Any) -> None:
    seen: list[bool] = []
    timer: Any = loop.call_later(0.001, lambda: seen.append(timer in loop._scheduled))
    await eventually(lambda: seen)
    assert seen == [False]


@of_one_thread
async def test_a_test_fires_a_timer_ahead_of_time(loop: Any) -> None:
    """As helpers of test suites do."""
    ran: list[int] = []
    loop.call_later(3600, ran.append, 1)
    for timer in list(loop._scheduled):
        if timer.when() > loop.time() and timer._callback == ran.append:
            timer._run()
            timer.cancel()
    assert ran == [1]


def test_a_closed_loop_has_no_timers(loop: Any) -> None:
    loop.call_later(3600, print)
    loop.call_soon(print)
    timers, ready = loop._scheduled, loop._ready
    loop.close()
    assert (len(timers), len(ready)) == (0, 0)
    assert (list(loop._scheduled), list(loop._ready)) == ([], [])


@pytest.mark.parametrize("way", ["clear", "replace"])
def test_timers_that_are_cleared_never_fire(loop: Any, way: str) -> None:
    ran: list[str] = []
    loop.call_later(0, ran.append, "timer")
    loop.call_soon(ran.append, "callback")
    if way == "clear":
        loop._scheduled.clear()
        loop._ready.clear()
    else:
        loop._scheduled = []
        loop._ready = collections.deque()
    assert len(loop._scheduled) == len(loop._ready) == 0
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert ran == []


def test_ready_holds_what_runs_next(loop: Any) -> None:
    ran: list[str] = []
    ready = loop._ready
    assert isinstance(ready, collections.deque)
    assert not ready
    handles = [loop.call_soon(ran.append, name) for name in ("first", "second")]
    assert list(ready) == handles
    assert (len(ready), ready[0], ready[-1]) == (2, handles[0], handles[1])
    assert handles[1] in ready
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == ["first", "second"]
    assert not ready


async def test_ready_during_a_callback_holds_the_ones_behind_it(loop: Any) -> None:
    seen: list[list[Any]] = []
    loop.call_soon(lambda: seen.append([handle._callback for handle in loop._ready]))
    loop.call_soon(list)
    await turns(1)
    # Behind it is this task's own next step.
    assert seen[0][0] is list


async def test_a_handle_appended_to_ready_runs(loop: Any) -> None:
    ran: list[int] = []
    loop._ready.append(asyncio.Handle(ran.append, (1,), loop))
    await turns(2)
    assert ran == [1]
