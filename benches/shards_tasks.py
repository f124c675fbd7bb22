"""Threads without sockets: how tasks that compute scale, and what it costs to pass control.

Started by shards.py in a process of its own; prints one JSON object. ``--threads`` is how many
threads work; for TokioLoop they belong to one loop (RLOOP_THREADS), for others each has a loop.

- ``compute``: on each of some threads a few tasks compute about 100 µs at a time, with a
  ``sleep(0)`` in between. There is no client, so this is the scaling of the loop and of the
  interpreter alone. Short windows in which one thread works, and in which all do, follow each other
  in one process.
- ``operations``: what a thread pays for scheduling, timers and switching between tasks while every
  other thread does the same, by what it pays alone. The callbacks are each thread's own, so what
  threads share is the loop, or the standard library.
- ``coroutine``: one thread has a coroutine run by another and awaits its result, again and again:
  ``rloop.on_shard()`` on TokioLoop, ``asyncio.run_coroutine_threadsafe()`` on others.
- ``future``: two tasks on two threads take turns in resolving a future that the other awaits:
  directly on TokioLoop, by ``call_soon_threadsafe()`` on others.

A round trip starts and ends on the first thread. With ``--awake`` a task on each thread gives way
all the time, so that no thread sleeps and the machine's time to wake one does not count.

Usage: RLOOP_THREADS=2 python benches/shards_tasks.py --loop tokioloop --threads 2 --measure future
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, NamedTuple

from loops import LOOPS, LoopFactory, loop_factory
from micro import BATCH, FAR_SECONDS, future_wake_up, percentile, task_switch
from shards_work import render, run_on_threads

TASKS_PER_THREAD = 4
WARM_UP_SECONDS = 0.2
WARM_UP_ROUND_TRIPS = 1_000
ROUND_TRIPS = 4_000

WINDOWS = 9
OPERATION_COUNT = 30_000

MEASURES = ("compute", "operations", "coroutine", "future")

RoundTrip = Callable[[], Awaitable[object]]


class Window(NamedTuple):
    """What was computed in some short time."""

    rate: float
    """Operations a second."""
    cpu_ns: float
    """CPU time of the process for each."""


class Threads:
    """The threads of one program: those of a TokioLoop, or loops of their own."""

    def __init__(self, loops: list[asyncio.AbstractEventLoop], shards: int) -> None:
        self.loops = loops
        self.shards = shards
        """How many threads the one loop has; 0 if each thread has a loop."""

    async def run_on(self, number: int, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on a thread, as users would, and return what it returns."""
        if self.shards:
            import rloop

            return await rloop.on_shard(number, coroutine)
        loop = self.loops[number]
        if loop is asyncio.get_running_loop():
            return await coroutine
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))

    def resolve(self, future: asyncio.Future[Any], value: object) -> None:
        """Give a future of another thread its result."""
        if self.shards:
            future.set_result(value)
        else:
            future.get_loop().call_soon_threadsafe(future.set_result, value)


async def compute_until(end: float) -> int:
    """Compute again and again until `end`; returns how often."""
    count = 0
    while time.monotonic() < end:
        render()
        count += 1
        await asyncio.sleep(0)
    return count


async def compute_in_window(threads: Threads, count: int, seconds: float) -> Window:
    """Have `count` threads compute for so long."""
    used, begin = time.process_time_ns(), time.monotonic()
    tasks = [
        threads.run_on(number, compute_until(begin + seconds))
        for number in range(count)
        for _ in range(TASKS_PER_THREAD)
    ]
    done = sum(await asyncio.gather(*tasks))
    rate = done / (time.monotonic() - begin)
    return Window(rate, (time.process_time_ns() - used) / done)


async def measure_compute(threads: Threads, count: int, seconds: float) -> dict[str, float]:
    """Have one thread compute and all of them, in turn; returns medians over the windows."""
    for warm_up in (1, count):
        await compute_in_window(threads, warm_up, WARM_UP_SECONDS)
    pairs = [
        (
            await compute_in_window(threads, 1, seconds),
            await compute_in_window(threads, count, seconds),
        )
        for _ in range(WINDOWS)
    ]
    return {
        "rate_of_one": statistics.median(one.rate for one, _ in pairs),
        "rate": statistics.median(every.rate for _, every in pairs),
        "cpu_ns_of_one": statistics.median(one.cpu_ns for one, _ in pairs),
        "cpu_ns": statistics.median(every.cpu_ns for _, every in pairs),
        "speed_up": statistics.median(every.rate / one.rate for one, every in pairs),
        "work": statistics.median(every.cpu_ns / one.cpu_ns for one, every in pairs),
    }


async def call_soon(count: int) -> None:
    """Schedule and run callbacks that belong to this thread."""
    loop = asyncio.get_running_loop()

    def nothing() -> None:
        """Do nothing."""

    for _ in range(count // BATCH):
        for _ in range(BATCH):
            loop.call_soon(nothing)
        await asyncio.sleep(0)


async def call_later_and_cancel(count: int) -> None:
    """Make and cancel timers that belong to this thread."""
    loop = asyncio.get_running_loop()

    def nothing() -> None:
        """Do nothing."""

    for _ in range(count // BATCH):
        for _ in range(BATCH):
            loop.call_later(FAR_SECONDS, nothing).cancel()
        await asyncio.sleep(0)


OPERATIONS: dict[str, Callable[[int], Coroutine[Any, Any, None]]] = {
    "call_soon": call_soon,
    "call_later + cancel": call_later_and_cancel,
    "task switch": task_switch,
    "future wake-up": future_wake_up,
}


async def time_operation(operation: Callable[[int], Coroutine[Any, Any, None]]) -> float:
    """Return the CPU time of this thread per operation, in nanoseconds."""
    used = time.thread_time_ns()
    await operation(OPERATION_COUNT)
    return (time.thread_time_ns() - used) / OPERATION_COUNT


async def measure_operations(threads: Threads, count: int) -> dict[str, float]:
    """Return the cost of each operation on all threads at once, by that on one at a time."""
    ratios = {}
    for name, operation in OPERATIONS.items():
        windows = []
        # The first window warms up.
        for _ in range(1 + WINDOWS):
            alone = [
                await threads.run_on(number, time_operation(operation)) for number in range(count)
            ]
            together = await asyncio.gather(
                *(threads.run_on(number, time_operation(operation)) for number in range(count))
            )
            windows.append(sum(together) / sum(alone))
        ratios[name] = statistics.median(windows[1:])
    return ratios


async def nothing() -> None:
    """Do nothing: the coroutine whose way to another thread and back is measured."""


async def answer(threads: Threads, asked: asyncio.Future[Any]) -> None:
    """Resolve each future that comes, and say which one to resolve next; None ends it."""
    loop = asyncio.get_running_loop()
    while (reply := await asked) is not None:
        asked = loop.create_future()
        threads.resolve(reply, asked)


async def make_future() -> asyncio.Future[Any]:
    """Return a new future of the thread that runs this."""
    return asyncio.get_running_loop().create_future()


class FutureRoundTrips:
    """Resolves a future that a task of the second thread awaits, and awaits its answer."""

    def __init__(self, threads: Threads) -> None:
        self.threads = threads

    async def start(self) -> None:
        """Start the task that answers."""
        self.asked = await self.threads.run_on(1, make_future())
        self.answering = asyncio.ensure_future(
            self.threads.run_on(1, answer(self.threads, self.asked))
        )

    async def take(self) -> None:
        """Take one round trip."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.threads.resolve(self.asked, reply)
        self.asked = await reply

    async def stop(self) -> None:
        """End the task that answers."""
        self.threads.resolve(self.asked, None)
        await self.answering


async def give_way(stopped: threading.Event) -> None:
    """Keep a thread from sleeping."""
    while not stopped.is_set():  # noqa: ASYNC110 (not to sleep is the point)
        await asyncio.sleep(0)


async def time_round_trips(take: RoundTrip) -> dict[str, float]:
    """Return median and 99th percentile of round trips, in nanoseconds."""
    for _ in range(WARM_UP_ROUND_TRIPS):
        await take()
    times: list[float] = []
    for _ in range(ROUND_TRIPS):
        start = time.perf_counter_ns()
        await take()
        times.append(time.perf_counter_ns() - start)
    return {"p50_ns": percentile(times, 50), "p99_ns": percentile(times, 99)}


async def measure_round_trips(threads: Threads, kind: str, awake: bool) -> dict[str, float]:
    """Measure round trips of one kind between the first two threads."""
    stopped = threading.Event()
    busy = [
        asyncio.ensure_future(threads.run_on(number, give_way(stopped)))
        for number in (0, 1)
        if awake
    ]
    try:
        if kind == "coroutine":
            return await time_round_trips(lambda: threads.run_on(1, nothing()))
        futures = FutureRoundTrips(threads)
        await futures.start()
        try:
            return await time_round_trips(futures.take)
        finally:
            await futures.stop()
    finally:
        stopped.set()
        await asyncio.gather(*busy)


def measure_on_threads(
    make_loop: LoopFactory,
    count: int,
    measure: Callable[[Threads], Coroutine[Any, Any, dict[str, float]]],
) -> dict[str, float]:
    """Call `measure` on the first of `count` threads that each have a loop of their own."""
    result: Future[dict[str, float]] = Future()
    loops: dict[int, asyncio.AbstractEventLoop] = {}
    all_there = threading.Barrier(count)

    async def run(number: int) -> None:
        loops[number] = asyncio.get_running_loop()
        await asyncio.to_thread(all_there.wait)
        if number == 0:
            try:
                result.set_result(await measure(Threads([loops[n] for n in range(count)], 0)))
            except BaseException as failure:
                result.set_exception(failure)
                raise
        else:
            await asyncio.wait([asyncio.wrap_future(result)])

    run_on_threads(make_loop, count, run)
    return result.result()


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--loop", choices=LOOPS, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", choices=MEASURES, required=True)
    parser.add_argument("--awake", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.2)
    options = parser.parse_args()
    make_loop = loop_factory(options.loop)

    async def measure(threads: Threads) -> dict[str, float]:
        if options.measure == "compute":
            return await measure_compute(threads, options.threads, options.seconds)
        if options.measure == "operations":
            return await measure_operations(threads, options.threads)
        return await measure_round_trips(threads, options.measure, options.awake)

    if options.loop == "tokioloop":
        with asyncio.Runner(loop_factory=make_loop) as runner:
            result = runner.run(measure(Threads([], options.threads)))
    else:
        result = measure_on_threads(make_loop, options.threads, measure)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
