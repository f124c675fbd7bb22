"""Contexts: every callback runs in the context that was current when it was registered."""

import asyncio
import contextvars
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.peers import open_pair
from support.threads import eventually, in_thread, turns

Loop = asyncio.AbstractEventLoop

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

#: Before 3.12 the exception handler is called in the context in which the loop was run.
HANDLED_IN = "{}" if sys.version_info >= (3, 12) else "unset"


async def registered_in(name: str, register: Callable[[], object]) -> None:
    """Call ``register`` in a task of its own whose context sets the variable to name."""

    async def body() -> None:
        variable.set(name)
        register()

    await asyncio.create_task(body())


SCHEDULERS: dict[str, Callable[[Loop, Callable[[], None]], object]] = {
    "call_soon": lambda loop, callback: loop.call_soon(callback),
    "call_soon_threadsafe": lambda loop, callback: loop.call_soon_threadsafe(callback),
    "call_later": lambda loop, callback: loop.call_later(0.001, callback),
    "call_at": lambda loop, callback: loop.call_at(loop.time(), callback),
}


@pytest.mark.parametrize("method", SCHEDULERS)
async def test_a_scheduled_callback_runs_in_the_context_of_its_scheduling(
    loop: Loop, method: str
) -> None:
    seen: list[str] = []

    def note() -> None:
        seen.append(variable.get())

    await registered_in("first", lambda: SCHEDULERS[method](loop, note))
    await registered_in("second", lambda: SCHEDULERS[method](loop, note))
    await eventually(lambda: len(seen) == 2)
    assert seen == ["first", "second"]
    assert variable.get() == "unset"


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
async def test_an_explicit_context_is_used_and_keeps_what_the_callback_sets(
    loop: Loop, method: str
) -> None:
    context = contextvars.copy_context()
    context.run(variable.set, "explicit")
    seen: list[str] = []

    def callback() -> None:
        seen.append(variable.get())
        variable.set("changed")

    delay = [] if method.startswith("call_soon") else [0.0]
    getattr(loop, method)(*delay, callback, context=context)
    await eventually(lambda: seen)
    assert seen == ["explicit"]
    assert context[variable] == "changed"
    assert variable.get() == "unset"


async def test_callbacks_that_share_a_context_see_each_others_changes(loop: Loop) -> None:
    context = contextvars.copy_context()
    seen: list[str] = []
    loop.call_soon(variable.set, "from the first", context=context)
    loop.call_soon(lambda: seen.append(variable.get()), context=context)
    await turns(1)
    assert seen == ["from the first"]


async def test_readers_and_writers_run_in_the_context_of_their_registration(loop: Loop) -> None:
    with open_pair("unix") as (ours, peer):
        seen: list[tuple[str, str]] = []

        def note(what: str) -> None:
            seen.append((what, variable.get()))
            if what == "reader":
                ours.recv(10)
            else:
                loop.remove_writer(ours)

        await registered_in("R", lambda: loop.add_reader(ours, note, "reader"))
        await registered_in("W", lambda: loop.add_writer(ours, note, "writer"))
        peer.send(b"x")
        await eventually(lambda: len(seen) == 2)
        peer.send(b"y")
        await eventually(lambda: len(seen) == 3)
        assert sorted(seen) == [("reader", "R"), ("reader", "R"), ("writer", "W")]
        loop.remove_reader(ours)


async def test_done_callbacks_run_in_the_context_of_their_registration(loop: Loop) -> None:
    seen: list[str] = []
    future = loop.create_future()
    await registered_in(
        "waiter", lambda: future.add_done_callback(lambda _: seen.append(variable.get()))
    )
    await registered_in("setter", lambda: future.set_result(None))
    await turns(1)
    assert seen == ["waiter"]


async def test_a_task_keeps_its_context_across_every_kind_of_wait(loop: Loop) -> None:
    with open_pair("unix") as (ours, peer):

        async def body(name: str) -> list[str]:
            variable.set(name)
            seen = []
            await asyncio.sleep(0.001)
            seen.append(variable.get())
            await loop.run_in_executor(None, os.getpid)
            seen.append(variable.get())
            peer.send(b"x")
            await loop.sock_recv(ours, 1)
            seen.append(variable.get())
            return seen

        assert await loop.create_task(body("task")) == ["task"] * 3
        assert variable.get() == "unset"


async def test_signal_handlers_run_in_the_context_of_their_registration(loop: Loop) -> None:
    seen: list[str] = []
    await registered_in(
        "handler",
        lambda: loop.add_signal_handler(signal.SIGUSR1, lambda: seen.append(variable.get())),
    )
    os.kill(os.getpid(), signal.SIGUSR1)
    await eventually(lambda: seen)
    assert seen == ["handler"]
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_the_context_is_not_entered_twice(loop: Loop) -> None:
    """A callback that fails leaves its context, so that the next one can enter it."""
    context = contextvars.copy_context()
    seen: list[str] = []

    def nested() -> None:
        loop.call_soon(lambda: seen.append("later"), context=context)

    loop.call_soon(nested, context=context)
    await turns(2)
    assert seen == ["later"]


async def test_what_follows_an_executors_function_runs_in_the_waiting_tasks_context(
    loop: Loop,
) -> None:
    seen = []

    async def wait() -> None:
        variable.set("waiter")
        future = loop.run_in_executor(None, int)
        future.add_done_callback(lambda _: seen.append(variable.get()))
        await future
        seen.append(variable.get())

    await loop.create_task(wait())
    assert seen == ["waiter", "waiter"]


async def test_an_executors_function_has_the_context_of_its_thread(loop: Loop) -> None:
    inherited = getattr(sys.flags, "thread_inherit_context", 0)
    variable.set("the first caller")
    with ThreadPoolExecutor(1) as executor:
        first = await loop.run_in_executor(executor, variable.get)
        variable.set("the second caller")
        second = await loop.run_in_executor(executor, variable.get)
    assert {first, second} == {"the first caller" if inherited else "unset"}


async def test_a_callback_from_another_thread_runs_in_the_context_of_that_thread(
    loop: Loop,
) -> None:
    seen: list[str] = []

    def hand_over() -> None:
        variable.set("thread")
        loop.call_soon_threadsafe(lambda: seen.append(variable.get()))

    variable.set("loop")
    await in_thread(hand_over)
    await eventually(lambda: seen)
    assert seen == ["thread"]


async def test_a_generator_is_finished_in_the_context_in_which_it_was_dropped() -> None:
    seen: list[str] = []

    async def generate() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            seen.append(variable.get())

    async def begin() -> AsyncIterator[int]:
        variable.set("begun")
        generator = generate()
        await anext(generator)
        return generator

    async def drop() -> None:
        variable.set("dropped")
        generators.clear()
        gc.collect()

    generators = [await asyncio.create_task(begin())]
    await asyncio.create_task(drop())
    await eventually(lambda: seen)
    assert seen == ["dropped"]


def fail(*_: object) -> None:
    raise ValueError("on purpose")


@pytest.mark.parametrize("method", SCHEDULERS)
async def test_the_exception_handler_is_called_in_the_context_of_the_failed_callback(
    loop: Loop, method: str
) -> None:
    seen: list[str] = []
    loop.set_exception_handler(lambda _loop, _report: seen.append(variable.get()))
    await registered_in("callback", lambda: SCHEDULERS[method](loop, fail))
    await eventually(lambda: seen)
    assert seen == [HANDLED_IN.format("callback")]


async def test_the_exception_handler_is_called_in_the_context_of_the_failed_reader(
    loop: Loop,
) -> None:
    seen: list[str] = []
    with open_pair("unix") as (ours, peer):

        def handle(_loop: Loop, _report: object) -> None:
            seen.append(variable.get())
            loop.remove_reader(ours)

        loop.set_exception_handler(handle)
        await registered_in("reader", lambda: loop.add_reader(ours, fail))
        peer.send(b"x")
        await eventually(lambda: seen)
    assert seen == [HANDLED_IN.format("reader")]


async def test_the_exception_handler_is_called_in_the_context_of_the_failed_signal_handler(
    loop: Loop,
) -> None:
    seen: list[str] = []
    loop.set_exception_handler(lambda _loop, _report: seen.append(variable.get()))
    await registered_in("handler", lambda: loop.add_signal_handler(signal.SIGUSR1, fail))
    os.kill(os.getpid(), signal.SIGUSR1)
    await eventually(lambda: seen)
    loop.remove_signal_handler(signal.SIGUSR1)
    assert seen == [HANDLED_IN.format("handler")]


async def test_the_exception_handler_is_called_in_the_context_of_the_failed_task(
    loop: Loop,
) -> None:
    seen: list[str] = []
    loop.set_exception_handler(lambda _loop, _report: seen.append(variable.get()))

    async def body() -> None:
        variable.set("task")
        fail()

    task = loop.create_task(body())
    await asyncio.wait([task])
    variable.set("collector")
    del task
    gc.collect()
    assert seen == ["task" if sys.version_info >= (3, 12) else "collector"]
