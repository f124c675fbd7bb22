"""Handles: what call_soon returns, and the order in which callbacks run."""

import asyncio
import gc
import sys
import weakref

import pytest

from support.leaks import LeakGuard
from support.threads import turns

Loop = asyncio.AbstractEventLoop


class Argument:
    """Something a weak reference can watch."""

    def __call__(self) -> None:
        raise AssertionError("a cancelled callback ran")


async def test_call_soon_returns_a_handle_that_runs_once(loop: Loop) -> None:
    ran: list[str] = []
    handle = loop.call_soon(ran.append, "once")
    assert isinstance(handle, asyncio.Handle)
    assert not isinstance(handle, asyncio.TimerHandle)
    assert not handle.cancelled()
    assert ran == []
    await turns(3)
    assert ran == ["once"]


async def test_callbacks_run_in_the_order_of_their_scheduling(loop: Loop) -> None:
    ran: list[int] = []
    for number in range(1000):
        loop.call_soon(ran.append, number)
    await turns(1)
    assert ran == list(range(1000))


async def test_a_callback_scheduled_by_a_callback_waits_for_the_next_turn(loop: Loop) -> None:
    ran: list[str] = []

    def first() -> None:
        ran.append("first")
        loop.call_soon(ran.append, "third")

    loop.call_soon(first)
    loop.call_soon(ran.append, "second")
    await turns(1)
    assert ran == ["first", "second"]
    await turns(1)
    assert ran == ["first", "second", "third"]


async def test_a_cancelled_handle_does_not_run(loop: Loop) -> None:
    handle = loop.call_soon(Argument())
    handle.cancel()
    handle.cancel()
    assert handle.cancelled()
    await turns(2)


async def test_a_callback_cancels_a_later_one_of_the_same_turn(loop: Loop) -> None:
    victims: list[asyncio.Handle] = []

    def cancel_the_other() -> None:
        victims[0].cancel()

    loop.call_soon(cancel_the_other)
    victims.append(loop.call_soon(Argument()))
    await turns(2)
    assert victims[0].cancelled()


async def test_a_callback_may_cancel_its_own_handle(loop: Loop) -> None:
    handles: list[asyncio.Handle] = []
    ran: list[bool] = []

    def callback() -> None:
        handles[0].cancel()
        ran.append(handles[0].cancelled())

    handles.append(loop.call_soon(callback))
    await turns(2)
    assert ran == [True]


async def test_cancelling_after_the_run_is_harmless(loop: Loop) -> None:
    ran: list[int] = []
    handle = loop.call_soon(ran.append, 1)
    await turns(1)
    handle.cancel()
    assert handle.cancelled()
    assert ran == [1]


@pytest.mark.parametrize("schedule", ["call_soon", "call_later", "call_soon_threadsafe"])
async def test_cancel_lets_go_of_callback_and_arguments(loop: Loop, schedule: str) -> None:
    callback, argument = Argument(), Argument()
    watched = [weakref.ref(callback), weakref.ref(argument)]
    if schedule == "call_later":
        handle = getattr(loop, schedule)(3600, callback, argument)
    else:
        handle = getattr(loop, schedule)(callback, argument)
    handle.cancel()
    del callback, argument
    gc.collect()
    assert [reference() for reference in watched] == [None, None]
    await turns(1)


async def test_a_finished_callback_is_let_go_of(loop: Loop) -> None:
    argument = Argument()
    watched = weakref.ref(argument)
    loop.call_soon(list, [argument])
    del argument
    await turns(2)
    gc.collect()
    assert watched() is None


def named_callback(*_arguments: object) -> None:
    """Appear by name in a repr."""


async def test_the_repr_names_the_callback_and_its_state(loop: Loop) -> None:
    handle = loop.call_soon(named_callback, 1)
    # Since 3.13 arguments are shown in debug mode only.
    arguments = "" if sys.version_info >= (3, 13) else "1"
    assert repr(handle).startswith(f"<Handle named_callback({arguments})")
    assert "test_handles.py:" in repr(handle)
    handle.cancel()
    assert repr(handle) == "<Handle cancelled>"


async def test_the_repr_of_a_timer_shows_its_deadline(loop: Loop) -> None:
    timer = loop.call_at(loop.time() + 3600, named_callback)
    assert repr(timer).startswith(f"<TimerHandle when={timer.when()} named_callback()")
    timer.cancel()
    assert repr(timer) == f"<TimerHandle cancelled when={timer.when()}>"


async def test_timers_are_ordered_and_compared_by_deadline(loop: Loop) -> None:
    later = loop.call_at(loop.time() + 7200, named_callback)
    sooner = loop.call_at(loop.time() + 3600, named_callback)
    assert sooner < later
    assert sooner <= later
    assert later > sooner
    assert later >= sooner
    assert sooner != later
    assert hash(sooner) == hash(sooner.when())
    assert (sooner == object()) is False
    sooner.cancel()
    later.cancel()


async def test_a_failing_callback_is_reported_and_the_next_one_runs(
    loop: Loop, guard: LeakGuard
) -> None:
    ran: list[int] = []

    def fail() -> None:
        raise ZeroDivisionError("on purpose")

    handle = loop.call_soon(fail)
    loop.call_soon(ran.append, 1)
    await turns(2)
    (report,) = guard.take_reports()
    assert set(report) == {"message", "exception", "handle"}
    assert report["message"].startswith("Exception in callback ")
    assert "fail" in report["message"]
    assert isinstance(report["exception"], ZeroDivisionError)
    assert report["handle"] is handle
    assert ran == [1]


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
async def test_something_that_is_not_callable_is_refused_in_debug_mode(
    loop: Loop, method: str
) -> None:
    loop.set_debug(True)
    delay = [1.0] if method in ("call_later", "call_at") else []
    named = "call_at" if method == "call_later" else method
    with pytest.raises(TypeError, match=rf"a callable object was expected by {named}\(\), got 7"):
        getattr(loop, method)(*delay, 7)

    async def coroutine_function() -> None:
        """Be refused."""

    with pytest.raises(TypeError, match=rf"coroutines cannot be used with {named}\(\)"):
        getattr(loop, method)(*delay, coroutine_function)
    coroutine = coroutine_function()
    with pytest.raises(TypeError, match=rf"coroutines cannot be used with {named}\(\)"):
        getattr(loop, method)(*delay, coroutine)
    coroutine.close()
