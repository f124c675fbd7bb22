"""Programs that use a primitive of rloop.sync on several threads, with cancellations at any moment.

In every order of events, the totals must be right and nobody may wait for ever.
"""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import rloop
from rloop import sync
from rloop._workers import current
from support.shards import shard_count

#: In seconds: most waits take about as long, so that the timeout comes at any moment of them.
SHORT = 0.0002


def start(number: int, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Future[Any]":
    """Start a coroutine on a worker, in a program of several, or else on a shard."""
    worker = current.own_worker()
    if worker is None:
        return rloop.on_shard(number % shard_count(), coroutine)
    return worker.workers[number % len(worker.workers)].call(coroutine)


class Crowd:
    """Tasks on all shards or workers in turn, some of which are cancelled now and then."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._began: sync.Queue[None] = sync.Queue()
        self._futures: list[asyncio.Future[Any]] = []

    def add(self, worker: Callable[[random.Random], Coroutine[Any, Any, Any]]) -> None:
        """Start a task; the worker gets random numbers of its own."""
        number = len(self._futures)
        source = random.Random(self._random.random())
        self._futures.append(start(number, self._begin(worker(source))))

    async def _begin(self, worker: Coroutine[Any, Any, Any]) -> Any:
        self._began.put_nowait(None)
        return await worker

    async def disturb(self, times: int) -> None:
        """Cancel one task after the other, at random; a task must not mind."""
        # A task that is cancelled before it begins never does.
        for _ in self._futures:
            await self._began.get()
        for _ in range(times):
            self._random.choice(self._futures).cancel()
            await asyncio.sleep(0)

    async def results(self) -> list[Any]:
        """Wait for all tasks; raise what the first that failed raised."""
        return await asyncio.gather(*self._futures)


@asynccontextmanager
async def disturbed(source: random.Random) -> AsyncIterator[None]:
    """Run the body, perhaps with a timeout; swallow the timeout and a cancellation."""
    try:
        async with asyncio.timeout(SHORT if source.random() < 0.3 else None):
            yield
    except TimeoutError:
        pass
    except asyncio.CancelledError:
        forget_cancellation()


async def undisturbed(awaitable: Callable[[], Awaitable[Any]]) -> Any:
    """Await until it is not cancelled."""
    while True:
        try:
            return await awaitable()
        except asyncio.CancelledError:
            forget_cancellation()


def forget_cancellation() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()


async def hammer_lock(seed: int) -> None:
    lock = sync.Lock()
    inside = counter = finished = 0

    async def worker(source: random.Random) -> None:
        nonlocal inside, counter, finished
        for _ in range(40):
            async with disturbed(source), lock:
                assert inside == 0
                inside += 1
                before = counter
                try:
                    if source.random() < 0.5:
                        await asyncio.sleep(0)
                    counter = before + 1
                    finished += 1
                finally:
                    inside -= 1

    crowd = Crowd(seed)
    for _ in range(12):
        crowd.add(worker)
    await crowd.disturb(300)
    await crowd.results()
    assert counter == finished > 0
    assert not lock.locked()
    assert not lock._waiters


async def hammer_semaphore(seed: int) -> None:
    semaphore = sync.BoundedSemaphore(3)
    mutex = threading.Lock()
    inside = 0

    def enter(change: int) -> None:
        nonlocal inside
        with mutex:
            inside += change
            assert 0 <= inside <= 3

    async def worker(source: random.Random) -> None:
        for _ in range(40):
            async with disturbed(source), semaphore:
                enter(1)
                try:
                    if source.random() < 0.5:
                        await asyncio.sleep(0)
                finally:
                    enter(-1)

    crowd = Crowd(seed)
    for _ in range(12):
        crowd.add(worker)
    await crowd.disturb(300)
    await crowd.results()
    assert inside == 0
    assert semaphore._value == 3
    assert not semaphore._waiters


async def hammer_queue(seed: int) -> None:
    """Every item that a put() took arrives once, and those of one producer in order."""
    queue: sync.Queue[tuple[int, int]] = sync.Queue((0, 1, 3)[seed % 3])
    producers, consumers, items = 6, 5, 60

    def produce(name: int) -> Callable[[random.Random], Coroutine[Any, Any, None]]:
        async def worker(source: random.Random) -> None:
            number = 0
            while number < items:
                async with disturbed(source):
                    await queue.put((name, number))
                    # Nothing is cancelled between the two: put() does not wait once it has put.
                    number += 1

        return worker

    async def consume(source: random.Random) -> list[tuple[int, int]]:
        taken = []
        while True:
            try:
                async with disturbed(source):
                    taken.append(await queue.get())
                    queue.task_done()
                    if source.random() < 0.2:
                        await asyncio.sleep(0)
            except sync.QueueShutDown:
                return taken

    crowd = Crowd(seed)
    for name in range(producers):
        crowd.add(produce(name))
    for _ in range(consumers):
        crowd.add(consume)
    await crowd.disturb(200)
    await asyncio.gather(*crowd._futures[:producers])
    await queue.join()
    queue.shutdown()
    by_consumer = (await crowd.results())[producers:]
    taken = [item for received in by_consumer for item in received]
    assert sorted(taken) == [(name, number) for name in range(producers) for number in range(items)]
    for received in by_consumer:
        for name in range(producers):
            numbers = [number for sender, number in received if sender == name]
            assert numbers == sorted(numbers)


async def hammer_event(seed: int) -> None:
    events = [sync.Event() for _ in range(50)]

    async def wait(_: random.Random) -> None:
        for event in events:
            assert await undisturbed(event.wait) is True

    async def set_all(source: random.Random) -> None:
        for event in events:
            if source.random() < 0.5:
                await undisturbed(lambda: asyncio.sleep(0))
            event.set()

    crowd = Crowd(seed)
    for _ in range(8):
        crowd.add(wait)
    for _ in range(3):
        crowd.add(set_all)
    await crowd.disturb(100)
    await crowd.results()
    assert not any(event._waiters for event in events)


async def hammer_condition(seed: int) -> None:
    condition = sync.Condition()
    consumers, producers, tokens_each = 6, 3, 30
    tokens = taken = 0

    async def consume(source: random.Random) -> None:
        nonlocal tokens, taken
        mine = 0
        while mine < tokens_each:
            async with disturbed(source), condition:
                await condition.wait_for(there_are_tokens)
                tokens -= 1
                taken += 1
                mine += 1

    def there_are_tokens() -> bool:
        return tokens > 0

    async def produce(_source: random.Random) -> None:
        nonlocal tokens
        for _ in range(consumers * tokens_each // producers):
            await undisturbed(condition.acquire)
            tokens += 1
            condition.notify()
            condition.release()

    crowd = Crowd(seed)
    for _ in range(consumers):
        crowd.add(consume)
    for _ in range(producers):
        crowd.add(produce)
    await crowd.disturb(200)
    await crowd.results()
    assert (tokens, taken) == (0, consumers * tokens_each)
    assert not condition.locked()


async def hammer_barrier(seed: int) -> None:
    """Nobody enters round n + 1 before all have left round n; each party has its own index."""
    parties, rounds = 4, 30
    barrier = sync.Barrier(parties)

    async def party(source: random.Random) -> list[int]:
        indices = []
        for _ in range(rounds):
            if source.random() < 0.3:
                await asyncio.sleep(0)
            indices.append(await barrier.wait())
        return indices

    crowd = Crowd(seed)
    for _ in range(parties):
        crowd.add(party)
    results = await crowd.results()
    for indices in zip(*results, strict=True):
        assert sorted(indices) == list(range(parties))
    assert barrier.n_waiting == 0
    assert not barrier.broken


#: By the name of the primitive.
HAMMERS: dict[str, Callable[[int], Coroutine[Any, Any, None]]] = {
    "Lock": hammer_lock,
    "Semaphore": hammer_semaphore,
    "Queue": hammer_queue,
    "Event": hammer_event,
    "Condition": hammer_condition,
    "Barrier": hammer_barrier,
}
