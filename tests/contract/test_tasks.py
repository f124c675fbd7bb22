"""Tasks and futures: made by the loop, they are asyncio's own, with its factories and eagerness."""

import asyncio
import contextvars
import sys
from collections.abc import Coroutine
from typing import Any

import pytest

from support.threads import turns

Loop = asyncio.AbstractEventLoop


async def test_tasks_and_futures_are_asyncios_own(loop: Loop) -> None:
    future = loop.create_future()
    assert type(future) is asyncio.Future
    assert future.get_loop() is loop
    future.cancel()
    task = loop.create_task(asyncio.sleep(0))
    assert type(task) is asyncio.Task
    assert task.get_loop() is loop
    assert task in asyncio.all_tasks()
    await task
    assert task not in asyncio.all_tasks(loop)


async def test_a_task_has_the_name_and_the_context_it_was_given(loop: Loop) -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    async def read() -> str:
        return variable.get()

    context = contextvars.copy_context()
    context.run(variable.set, "given")
    task = loop.create_task(read(), name="named", context=context)
    assert task.get_name() == "named"
    assert task.get_context() is context if sys.version_info >= (3, 12) else True
    assert await task == "given"


@pytest.mark.skipif(sys.version_info < (3, 15), reason="asyncio takes any object")
@pytest.mark.parametrize("eager", [False, True], ids=["lazy", "eager"])
async def test_the_context_of_a_task_must_be_one(loop: Loop, *, eager: bool) -> None:
    async def body() -> None:
        pass

    if eager:
        loop.set_task_factory(asyncio.eager_task_factory)
    coroutine = body()
    with pytest.raises(TypeError, match=r"a contextvars\.Context was expected, got dict"):
        loop.create_task(coroutine, context={})  # type: ignore[arg-type]
    coroutine.close()


async def test_tasks_start_in_the_order_of_their_creation(loop: Loop) -> None:
    started: list[int] = []

    async def start(number: int) -> None:
        started.append(number)

    tasks = [loop.create_task(start(number)) for number in range(100)]
    assert started == []
    await turns(1)
    assert started == list(range(100))
    await asyncio.gather(*tasks)


async def test_the_current_task_is_known_inside_it_and_not_in_callbacks(loop: Loop) -> None:
    task = asyncio.current_task()
    assert task is not None
    assert asyncio.current_task(loop) is task
    seen: list[object] = []
    loop.call_soon(lambda: seen.append(asyncio.current_task()))
    await turns(1)
    assert seen == [None]


async def test_waiters_of_one_future_wake_in_the_order_they_began_to_wait(loop: Loop) -> None:
    future = loop.create_future()
    woken: list[int] = []

    async def wait(number: int) -> None:
        await asyncio.shield(future)
        woken.append(number)

    tasks = [loop.create_task(wait(number)) for number in range(50)]
    await turns(2)
    future.set_result(None)
    await asyncio.gather(*tasks)
    assert woken == list(range(50))


async def test_a_task_factory_makes_every_task(loop: Loop) -> None:
    made: list[str] = []

    class Task(asyncio.Task[Any]):
        """Told apart by its type."""

    def factory(loop: Loop, coroutine: Coroutine[Any, Any, Any], **options: Any) -> Task:
        made.append(coroutine.__qualname__.rpartition(".")[2])  # type: ignore[attr-defined]
        return Task(coroutine, loop=loop, **options)

    async def body() -> str:
        return "done"

    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    task = loop.create_task(body(), name="named", context=contextvars.copy_context())
    assert isinstance(task, Task)
    assert task.get_name() == "named"
    async with asyncio.TaskGroup() as group:
        grouped = group.create_task(body())
    assert await task == grouped.result() == "done"
    assert made == ["body", "body"]
    loop.set_task_factory(None)
    assert loop.get_task_factory() is None
    plain = loop.create_task(body())
    assert type(plain) is asyncio.Task
    await plain


async def test_only_a_callable_or_none_can_be_the_task_factory(loop: Loop) -> None:
    with pytest.raises(TypeError, match="task factory must be a callable or None"):
        loop.set_task_factory("no")  # type: ignore[arg-type]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
async def test_an_eager_task_runs_at_once_until_it_waits(loop: Loop) -> None:
    loop.set_task_factory(asyncio.eager_task_factory)
    ran: list[str] = []

    async def body() -> str:
        ran.append("started")
        assert asyncio.current_task() is not outer
        await asyncio.sleep(0)
        ran.append("resumed")
        return "result"

    async def immediate() -> int:
        return 42

    outer = asyncio.current_task()
    task = loop.create_task(body())
    ran.append("created")
    assert asyncio.current_task() is outer
    finished = loop.create_task(immediate())
    assert finished.done()
    assert finished.result() == 42
    assert await task == "result"
    assert ran == ["started", "created", "resumed"]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="eager_start came with 3.14")
async def test_a_single_task_may_start_eagerly(loop: Loop) -> None:
    ran: list[str] = []

    async def body(name: str) -> None:
        ran.append(name)

    await asyncio.gather(
        loop.create_task(body("lazy")), loop.create_task(body("eager"), eager_start=True)
    )
    assert ran == ["eager", "lazy"]


async def test_cancelling_reaches_the_innermost_wait(loop: Loop) -> None:
    trace: list[str] = []

    async def inner() -> None:
        try:
            await loop.create_future()
        except asyncio.CancelledError:
            trace.append("inner")
            raise

    async def outer() -> None:
        try:
            await inner()
        finally:
            trace.append("outer")

    task = loop.create_task(outer())
    await turns(1)
    assert task.cancel("message")
    with pytest.raises(asyncio.CancelledError, match="message"):
        await task
    assert trace == ["inner", "outer"]
    assert task.cancelled()


async def test_groups_timeouts_and_queues_work_together(loop: Loop) -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(maxsize=2)
    received: list[int] = []

    async def produce() -> None:
        for number in range(100):
            await queue.put(number)

    async def consume() -> None:
        for _ in range(100):
            received.append(await queue.get())
            await asyncio.sleep(0)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(produce())
        group.create_task(consume())
    assert received == list(range(100))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await loop.create_future()
