"""In debug mode, asyncio's own primitives raise where two shards use one; rloop.sync's do not."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import rloop
from rloop import sync
from support.threads import turns

pytestmark = [
    pytest.mark.skipif(sys.version_info < (3, 14), reason="a loop of several threads needs 3.14"),
    # On a build with the GIL.
    pytest.mark.filterwarnings("ignore:a loop with 2 threads:RuntimeWarning"),
]

MISUSE = r"is used on shards \d and \d, .* use the class of rloop\.sync"


class Case(NamedTuple):
    """A primitive on which two tasks have to wait, and what lets one of them go on."""

    make: Callable[[ModuleType], Any]
    wait: Callable[[Any], Coroutine[Any, Any, object]]
    wake: Callable[[Any], object]


def taken_lock(module: ModuleType) -> Any:
    lock = module.Lock()
    with pytest.raises(StopIteration):
        lock.acquire().send(None)
    return lock


def full_queue(module: ModuleType) -> Any:
    queue = module.Queue(1)
    queue.put_nowait(None)
    return queue


async def wait_for_notification(condition: asyncio.Condition) -> None:
    async with condition:
        await condition.wait()


async def notify_all(condition: asyncio.Condition) -> None:
    async with condition:
        condition.notify_all()


CASES = {
    "Lock": Case(taken_lock, lambda lock: lock.acquire(), lambda lock: lock.release()),
    "Event": Case(
        lambda module: module.Event(), lambda event: event.wait(), lambda event: event.set()
    ),
    "Semaphore": Case(
        lambda module: module.Semaphore(0),
        lambda semaphore: semaphore.acquire(),
        lambda semaphore: semaphore.release(),
    ),
    "Queue.get": Case(
        lambda module: module.Queue(),
        lambda queue: queue.get(),
        lambda queue: queue.put_nowait(None),
    ),
    "Queue.put": Case(full_queue, lambda queue: queue.put(None), lambda queue: queue.get_nowait()),
}
WAITING = {
    **CASES,
    "Condition": Case(lambda module: module.Condition(), wait_for_notification, notify_all),
    "Barrier": Case(
        lambda module: module.Barrier(3),
        lambda barrier: barrier.wait(),
        lambda barrier: barrier.abort(),
    ),
}


async def call(function: Callable[[Any], object], primitive: Any) -> None:
    function(primitive)


@pytest.mark.parametrize("case", WAITING.values(), ids=WAITING)
def test_a_primitive_of_asyncio_awaited_on_two_shards_is_refused(case: Case) -> None:
    async def main() -> None:
        primitive = case.make(asyncio)
        waiter = asyncio.create_task(case.wait(primitive))
        await turns(2)
        with pytest.raises(RuntimeError, match=MISUSE):
            await rloop.on_shard(1, case.wait(primitive))
        waiter.cancel()
        await asyncio.wait([waiter])

    rloop.run(main(), threads=2, debug=True)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_primitive_of_asyncio_that_wakes_another_shard_is_refused(case: Case) -> None:
    async def main() -> None:
        primitive = case.make(asyncio)
        waiter = asyncio.create_task(case.wait(primitive))
        await turns(2)
        with pytest.raises(RuntimeError, match=MISUSE):
            await rloop.on_shard(1, call(case.wake, primitive))
        # The error comes on top of the wake-up: a task must not wait forever.
        await waiter

    rloop.run(main(), threads=2, debug=True)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_primitives_for_several_shards_are_not_refused(case: Case) -> None:
    async def main() -> None:
        primitive = case.make(sync)
        waiters = [rloop.on_shard(shard, case.wait(primitive)) for shard in (0, 1)]
        for shard in (1, 0):
            await rloop.on_shard(shard, call(case.wake, primitive))
        await asyncio.gather(*waiters)

    rloop.run(main(), threads=2, debug=True)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_primitive_of_asyncio_that_one_shard_uses_is_not_refused(case: Case) -> None:
    async def main() -> None:
        primitive = case.make(asyncio)
        waiter = asyncio.create_task(case.wait(primitive))
        await turns(2)
        case.wake(primitive)
        await waiter

    async def run_on(shard: int) -> None:
        await rloop.on_shard(shard, main())

    for shard in (0, 1):
        rloop.run(run_on(shard), threads=2, debug=True)
