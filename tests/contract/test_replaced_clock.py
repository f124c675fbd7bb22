"""A clock of the program: timers follow the loop's `time()` and `call_at()`, whatever these are.

Tests replace the clock, and a class that derives from the loop's may have one of its own. asyncio
asks for both as attributes of the loop, each time.
"""

import asyncio
import contextlib
import contextvars
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from support.leaks import LeakGuard
from support.loops import class_of, of_one_thread
from support.threads import in_thread, turns

Loop = asyncio.AbstractEventLoop


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: Any = 100.0) -> None:
        self.now = now

    def __call__(self, *_: object) -> Any:
        return self.now


@contextlib.contextmanager
def on_the_loop(loop: Any, clock: Clock) -> Iterator[None]:
    loop.time = clock
    yield
    del loop.time


@contextlib.contextmanager
def in_the_dictionary(loop: Any, clock: Clock) -> Iterator[None]:
    vars(loop)["time"] = clock
    yield
    del vars(loop)["time"]


@contextlib.contextmanager
def on_the_class(loop: Any, clock: Clock) -> Iterator[None]:
    with mock.patch.object(type(loop), "time", clock):
        yield


@contextlib.contextmanager
def by_a_mock(loop: Any, clock: Clock) -> Iterator[None]:
    with mock.patch.object(loop, "time", side_effect=clock):
        yield


REPLACED = pytest.mark.parametrize(
    "replaced", [on_the_loop, in_the_dictionary, on_the_class, by_a_mock]
)
Replace = Callable[[Any, Clock], contextlib.AbstractContextManager[None]]


@REPLACED
async def test_timers_follow_a_replaced_clock(loop: Loop, replaced: Replace) -> None:
    clock = Clock()
    fired: list[str] = []
    with replaced(loop, clock):
        assert loop.time() == 100.0
        later = loop.call_later(30, fired.append, "later")
        at = loop.call_at(120, fired.append, "at")
        assert (later.when(), at.when()) == (130.0, 120)
        await turns(3)
        assert fired == []
        clock.now += 21
        await turns(2)
        assert fired == ["at"]
        clock.now += 10
        await turns(2)
        assert fired == ["at", "later"]
    # By the clock that the loop has again.
    now = time.monotonic()
    timer = loop.call_later(30, print)
    assert now + 30 <= timer.when() <= time.monotonic() + 30
    timer.cancel()


@REPLACED
async def test_sleeps_and_timeouts_follow_a_replaced_clock(loop: Loop, replaced: Replace) -> None:
    clock = Clock()
    with replaced(loop, clock):
        sleeping = asyncio.create_task(asyncio.sleep(30))
        waiting = asyncio.create_task(asyncio.wait_for(loop.create_future(), 20))
        await turns(3)
        clock.now += 25
        # wait_for() of CPython 3.11 cancels the future and waits for its end.
        await turns(8)
        assert waiting.done()
        assert not sleeping.done()
        clock.now += 10
        await turns(4)
        assert sleeping.done()
    with pytest.raises(TimeoutError):
        waiting.result()


async def test_a_clock_replaced_while_the_loop_runs_counts_for_timers_that_wait(loop: Any) -> None:
    fired: list[str] = []
    timer = loop.call_later(3600, fired.append, "fired")
    loop.time = lambda: timer.when() + 1
    await turns(2)
    assert fired == ["fired"]
    del loop.time


async def test_the_loop_waits_as_long_as_the_clock_says(loop: Any) -> None:
    began = time.monotonic()
    # Ten times as slow.
    loop.time = lambda: began + (time.monotonic() - began) / 10
    await asyncio.sleep(0.02)
    assert time.monotonic() - began >= 0.19
    del loop.time


def test_a_class_may_have_a_clock(loop_name: str, guard: LeakGuard) -> None:
    clock = Clock()
    kind: Any = type("Clocked", (class_of(loop_name),), {"time": clock.__call__})
    fired: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert loop.call_later(1, fired.append, 1).when() == 101.0
        clock.now += 2
        await turns(2)

    with contextlib.closing(kind()) as loop:
        loop.run_until_complete(main())
    assert fired == [1]


@pytest.mark.parametrize("where", ["class", "loop"])
def test_call_later_goes_through_call_at(loop_name: str, guard: LeakGuard, where: str) -> None:
    base = class_of(loop_name)
    calls: list[Any] = []
    handles: list[asyncio.TimerHandle] = []

    def call_at(self: Any, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        calls.append((when, callback, args, context))
        handles.append(base.call_at(self, when, callback, *args, context=context))
        return handles[-1]

    kind: Any = type("Recording", (base,), {"call_at": call_at} if where == "class" else {})
    with contextlib.closing(kind()) as loop:
        if where == "loop":
            loop.call_at = call_at.__get__(loop)
        loop.time = Clock(5)
        context = contextvars.copy_context()
        assert loop.call_later(2, print, "a", "b", context=context) is handles[0]
        assert loop.call_later(3, print) is handles[1]
        with pytest.raises(TypeError, match="delay must not be None"):
            loop.call_later(None, print)
    assert calls == [(7, print, ("a", "b"), context), (8, print, (), None)]


def test_a_clock_of_other_numbers_is_taken_as_it_is(loop: Any) -> None:
    loop.time = Clock(100)
    timer = loop.call_later(5, print)
    assert (timer.when(), type(timer.when())) == (105, int)
    timer.cancel()


@pytest.mark.fails_on(
    "asyncio",
    reason="a resolution that is lost in the time makes no timer due",
    when=sys.version_info < (3, 15),
)
def test_a_timer_is_due_at_once_whatever_the_clock_shows(loop: Any) -> None:
    fired: list[int] = []

    async def main() -> None:
        loop.call_later(0, fired.append, 1)
        await turns(3)

    loop.time = Clock(1e9)
    loop.run_until_complete(main())
    assert fired == [1]


async def test_a_timer_is_due_within_the_clocks_resolution(loop: Any) -> None:
    fired: list[int] = []
    usual = loop._clock_resolution
    loop._clock_resolution = 1000
    loop.call_later(900, fired.append, 1)
    timer = loop.call_later(2000, fired.append, 2)
    await turns(2)
    assert fired == [1]
    loop._clock_resolution = usual
    timer.cancel()


@of_one_thread
def test_a_clock_that_fails_ends_the_run(loop: Any) -> None:
    def fail() -> float:
        raise ZeroDivisionError("on purpose")

    loop.call_later(3600, print)
    loop.time = fail
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        loop.run_forever()
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        loop.call_later(1, print)
    del loop.time
    loop.run_until_complete(asyncio.sleep(0))


async def test_a_slow_callback_is_timed_by_the_clock(
    loop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    loop.time = clock
    loop.set_debug(True)

    def take_long() -> None:
        clock.now += 5

    with caplog.at_level(logging.WARNING, "asyncio"):
        loop.call_soon(take_long)
        await turns(2)
    assert "took 5.000 seconds" in caplog.text
    loop.set_debug(False)
    del loop.time


async def test_another_thread_wakes_a_loop_whose_clock_stands_still(loop: Any) -> None:
    loop.time = Clock()
    timer = loop.call_later(3600, print)
    woken = loop.create_future()
    await in_thread(loop.call_soon_threadsafe, woken.set_result, None)
    await woken
    timer.cancel()
    del loop.time
