"""rloop.sync between workers: each waits on its own loop, and any of them wakes it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import rloop
from rloop import sync
from support.hammers import HAMMERS
from support.workers import several_workers

pytestmark = several_workers

each_primitive = pytest.mark.parametrize("hammer", HAMMERS.values(), ids=HAMMERS)
Hammer = Callable[[int], Coroutine[Any, Any, None]]


def hammer_between_workers(hammer: Hammer, seeds: range, **options: Any) -> None:
    """Run the program on worker 0, which starts tasks on all three."""
    finished = sync.Event()
    is_there = sync.Barrier(3)

    async def main() -> None:
        await is_there.wait()
        if rloop.current_worker().index == 0:
            try:
                for seed in seeds:
                    await hammer(seed)
            finally:
                finished.set()
        await finished.wait()

    rloop.run_workers(main, workers=3, **options)


@each_primitive
def test_totals_are_right_whatever_is_cancelled(hammer: Hammer) -> None:
    hammer_between_workers(hammer, range(5))


@each_primitive
def test_workers_wake_each_other_in_debug_mode(hammer: Hammer) -> None:
    hammer_between_workers(hammer, range(1), debug=True)


def test_a_primitive_of_workers_serves_the_next_group() -> None:
    queue: sync.Queue[int] = sync.Queue()

    async def main() -> int:
        worker = rloop.current_worker()
        if worker.index == 0:
            return await queue.get()
        await queue.put(42)
        return 0

    for _ in range(2):
        assert rloop.run_workers(main, workers=2) == [42, 0]


def test_a_task_whose_loop_was_closed_keeps_nobody_waiting() -> None:
    lock = sync.Lock()
    is_there = sync.Barrier(2)

    def wait_on_a_loop_that_is_closed() -> Coroutine[Any, Any, Any]:
        outer = asyncio.get_running_loop()
        loop = rloop.TokioLoop()
        waiting = lock.acquire()
        asyncio._set_running_loop(loop)
        waiting.send(None)
        asyncio._set_running_loop(outer)
        loop.close()
        return waiting

    async def main() -> bool:
        if rloop.current_worker().index == 0:
            async with lock:
                await is_there.wait()
                await is_there.wait()
            return True
        await is_there.wait()
        waiting = wait_on_a_loop_that_is_closed()
        acquiring = asyncio.ensure_future(lock.acquire())
        while len(lock._waiters) < 2:
            await asyncio.sleep(0)
        await is_there.wait()
        await acquiring
        lock.release()
        waiting.close()
        return not lock._waiters

    assert rloop.run_workers(main, workers=2) == [True, True]


def test_loops_that_are_no_workers_keep_to_one_loop() -> None:
    event = sync.Event()

    async def wait() -> None:
        async with asyncio.timeout(0):
            await event.wait()

    for loop_factory in (rloop.TokioLoop, asyncio.SelectorEventLoop):
        with (
            asyncio.Runner(loop_factory=loop_factory) as runner,
            pytest.raises(TimeoutError if event._loop is None else RuntimeError),
        ):
            runner.run(wait())


def test_a_loop_of_asyncio_in_a_worker_is_no_loop_of_workers() -> None:
    event = sync.Event()

    async def wait() -> None:
        async with asyncio.timeout(0):
            await event.wait()

    async def main() -> str:
        with pytest.raises(TimeoutError):
            await wait()

        def wait_elsewhere() -> str:
            with (
                asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner,
                pytest.raises(RuntimeError) as caught,
            ):
                runner.run(wait())
            return str(caught.value)

        return await asyncio.to_thread(wait_elsewhere)

    (message,) = rloop.run_workers(main, workers=1)
    assert message.endswith("is bound to a different event loop")
