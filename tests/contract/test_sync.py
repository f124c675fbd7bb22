"""rloop.sync on one thread, of any loop: asyncio's classes are the oracle.

CPython's own tests of these classes run against rloop.sync as well (tests/conformance), and
tests/shards/test_sync.py has several threads share them.
"""

import asyncio
import random
from types import ModuleType
from typing import Any

import pytest

from rloop import sync
from support.loops import LoopFactory
from support.threads import turns

CLASSES = [
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "LifoQueue",
    "Lock",
    "PriorityQueue",
    "Queue",
    "Semaphore",
]
WITH_LOCKS = ["lock", "notify", "notify_all", "wait for notification", "barrier"]
WITHOUT_LOCKS = ["sleep", "semaphore", "set", "clear", "wait for event", "put", "get"]


class Program:
    """A random program of a few tasks that share one primitive of each kind.

    Args:
        primitives: the module that the classes come from.
        seed: what decides the program.
        steps: what its tasks may do.
    """

    def __init__(self, primitives: ModuleType, seed: int, steps: list[str]) -> None:
        self.trace: list[object] = []
        self._random = random.Random(seed)
        self._steps = steps
        self._lock: asyncio.Lock = primitives.Lock()
        self._semaphore: asyncio.Semaphore = primitives.Semaphore(2)
        self._event: asyncio.Event = primitives.Event()
        self._condition: asyncio.Condition = primitives.Condition()
        self._barrier: asyncio.Barrier = primitives.Barrier(2)
        self._queue: asyncio.Queue[int] = primitives.Queue(2)
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> list[object]:
        """Run it; return all that its tasks noted."""
        for number in range(self._random.randrange(2, 8)):
            steps = self._random.choices(self._steps, k=self._random.randrange(1, 8))
            self._tasks.append(asyncio.create_task(self._run_task(number, steps)))
        await turns(60)
        self._note_state()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._note_state()
        return self.trace

    def _note_state(self) -> None:
        primitives: list[object] = [self._lock, self._semaphore, self._event, self._barrier]
        self.trace.append([task.done() for task in self._tasks])
        self.trace.append([repr(primitive).partition("[")[2] for primitive in primitives])
        self.trace.append(str(self._queue))

    async def _run_task(self, number: int, steps: list[str]) -> None:
        try:
            for step in steps:
                self.trace.append((number, step))
                result = await self._step(number, step)
                self.trace.append((number, step, result))
        except asyncio.CancelledError:
            self.trace.append((number, "cancelled"))
            raise

    async def _step(self, number: int, step: str) -> object:
        result: object = None
        match step:
            case "sleep":
                await asyncio.sleep(0)
            case "lock":
                async with self._lock:
                    await asyncio.sleep(0)
            case "semaphore":
                async with self._semaphore:
                    await asyncio.sleep(0)
            case "set":
                self._event.set()
            case "clear":
                self._event.clear()
            case "wait for event":
                result = await self._event.wait()
            case "put":
                await self._queue.put(number)
            case "get":
                result = await self._queue.get()
            case "wait for notification":
                async with self._condition:
                    result = await self._condition.wait()
            case "notify":
                async with self._condition:
                    self._condition.notify()
            case "notify_all":
                async with self._condition:
                    self._condition.notify_all()
            case "barrier":
                result = await self._barrier.wait()
            case "cancel":
                self._random.choice(self._tasks).cancel()
        return result


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(WITHOUT_LOCKS + WITH_LOCKS, id="everything"),
        # Not with locks: see test_a_cancelled_waiter_of_a_lock_does_not_delay_the_next().
        pytest.param([*WITHOUT_LOCKS, "cancel"], id="cancellation"),
    ],
)
async def test_random_programs_run_as_they_do_with_asyncios_classes(
    loop: asyncio.AbstractEventLoop, steps: list[str]
) -> None:
    for seed in range(500):
        expected = await Program(asyncio, seed, steps).run()
        assert await Program(sync, seed, steps).run() == expected, f"seed {seed}"


async def test_a_cancelled_waiter_of_a_lock_does_not_delay_the_next(
    loop: asyncio.AbstractEventLoop,
) -> None:
    lock = sync.Lock()
    await lock.acquire()
    cancelled, following = asyncio.create_task(lock.acquire()), asyncio.create_task(lock.acquire())
    await turns(1)
    cancelled.cancel()
    lock.release()
    # asyncio's would leave it to the cancelled task to wake the next, a turn later.
    await turns(1)
    assert following.done()
    assert cancelled.cancelled()


@pytest.mark.parametrize("name", CLASSES)
def test_each_class_is_one_of_asyncios(name: str) -> None:
    assert issubclass(getattr(sync, name), getattr(asyncio, name))


def test_a_bounded_semaphore_is_a_semaphore() -> None:
    assert issubclass(sync.BoundedSemaphore, sync.Semaphore)


def test_queues_are_generic() -> None:
    assert sync.Queue[int].__origin__ is sync.Queue  # type: ignore[attr-defined]


async def test_a_condition_shares_a_lock(loop: asyncio.AbstractEventLoop) -> None:
    lock = sync.Lock()
    condition = sync.Condition(lock)
    async with condition:
        assert lock.locked()


def test_a_condition_refuses_a_lock_that_is_not_safe_across_shards() -> None:
    with pytest.raises(TypeError, match=r"needs an rloop\.sync\.Lock, not an asyncio\.Lock"):
        sync.Condition(asyncio.Lock())


async def test_a_queue_can_be_shut_down_on_every_version(loop: asyncio.AbstractEventLoop) -> None:
    queue = sync.Queue[int](1)
    queue.put_nowait(1)
    putter = asyncio.create_task(queue.put(2))
    await turns(1)
    queue.shutdown()
    with pytest.raises(sync.QueueShutDown):
        await putter
    assert await queue.get() == 1
    with pytest.raises(sync.QueueShutDown):
        await queue.get()
    with pytest.raises(sync.QueueShutDown):
        queue.put_nowait(3)


async def test_shutting_a_queue_down_at_once_empties_it(loop: asyncio.AbstractEventLoop) -> None:
    queue = sync.Queue[int]()
    queue.put_nowait(1)
    joiner = asyncio.create_task(queue.join())
    await turns(1)
    queue.shutdown(immediate=True)
    assert queue.empty()
    await joiner


@pytest.mark.parametrize("name", ["Lock", "Semaphore"])
async def test_a_coroutine_that_is_closed_after_it_was_woken_passes_the_wakeup_on(
    loop: asyncio.AbstractEventLoop, name: str
) -> None:
    primitive: Any = getattr(sync, name)()
    await primitive.acquire()
    abandoned = primitive.acquire()
    abandoned.send(None)
    following = asyncio.create_task(primitive.acquire())
    await turns(1)
    primitive.release()
    abandoned.close()
    assert await following is True


async def test_a_primitive_is_bound_to_the_loop_it_first_waited_on(
    loop_factory: LoopFactory, loop: asyncio.AbstractEventLoop
) -> None:
    event = sync.Event()
    waiter = asyncio.create_task(event.wait())
    await turns(1)

    def wait_on_another_loop() -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(event.wait())

    with pytest.raises(RuntimeError, match="is bound to a different event loop"):
        await asyncio.to_thread(wait_on_another_loop)
    event.set()
    assert await waiter is True


class Nested:
    """An item that uses its queue when it is compared, as a finalizer or signal handler might."""

    def __init__(self, queue: "sync.PriorityQueue[Nested]") -> None:
        self._queue = queue

    def __lt__(self, other: "Nested") -> bool:
        self._queue.task_done()
        return False


def test_code_that_runs_inside_an_operation_may_use_the_same_primitive() -> None:
    queue = sync.PriorityQueue[Nested]()
    for _ in range(3):
        queue.put_nowait(Nested(queue))
    with pytest.raises(ValueError, match="called too many times"):
        for _ in range(3):
            queue.task_done()
