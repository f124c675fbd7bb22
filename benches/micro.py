"""Costs inside one loop, without sockets: scheduling, switching, waking, and how late timers are.

Started by run.py in a process of its own for each loop and round. It prints one JSON object: for
each operation the CPU time of the whole process per operation (so that a loop which moves work to
another thread does not hide it), and for each delay how late a timer fired.

Usage: python benches/micro.py --loop uvloop
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

from loops import LOOPS, loop_factory

BATCH = 1_000
"""Operations between two turns of the loop."""

DELAYS_MS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
TIMERS_PER_DELAY = 100

FAR_SECONDS = 3_600.0
"""A delay that no measurement lives to see."""


def nothing() -> None:
    """Do nothing: the callback whose scheduling is measured."""


async def call_soon(count: int) -> None:
    """Schedule and run `count` callbacks, `BATCH` in each turn."""
    loop = asyncio.get_running_loop()
    for _ in range(count // BATCH):
        for _ in range(BATCH):
            loop.call_soon(nothing)
        await asyncio.sleep(0)


async def turn(count: int) -> None:
    """Run `count` turns with one callback each: every turn also looks for I/O."""
    loop = asyncio.get_running_loop()
    finished = loop.create_future()
    left = count

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            finished.set_result(None)

    loop.call_soon(step)
    await finished


async def call_soon_threadsafe(count: int) -> None:
    """Run `count` callbacks that another thread schedules as fast as it can."""
    loop = asyncio.get_running_loop()
    finished = loop.create_future()

    def schedule() -> None:
        for _ in range(count):
            loop.call_soon_threadsafe(nothing)
        loop.call_soon_threadsafe(finished.set_result, None)

    thread = threading.Thread(target=schedule)
    thread.start()
    await finished
    thread.join()


async def call_later_and_cancel(count: int) -> None:
    """Make and cancel `count` timers that are not due; what is left of them is cleared away."""
    loop = asyncio.get_running_loop()
    for _ in range(count // BATCH):
        for _ in range(BATCH):
            loop.call_later(FAR_SECONDS, nothing).cancel()
        await asyncio.sleep(0)


async def create_task(count: int) -> None:
    """Make `count` tasks that end in their first step, and await them, `BATCH` at a time."""

    async def end() -> None:
        pass

    loop = asyncio.get_running_loop()
    for _ in range(count // BATCH):
        tasks = [loop.create_task(end()) for _ in range(BATCH)]
        await tasks[-1]


async def task_switch(count: int) -> None:
    """Give way `count` times with sleep(0), in two tasks that take turns."""

    async def give_way(times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(0)

    await asyncio.gather(give_way(count // 2), give_way(count // 2))


async def future_wake_up(count: int) -> None:
    """Pass control between two tasks `count` times, each waiting for a future the other sets."""
    loop = asyncio.get_running_loop()
    futures = [loop.create_future(), loop.create_future()]

    async def play(mine: int, rounds: int) -> None:
        for _ in range(rounds):
            await futures[mine]
            futures[mine] = loop.create_future()
            futures[1 - mine].set_result(None)

    players = [asyncio.create_task(play(side, count // 2)) for side in (0, 1)]
    futures[0].set_result(None)
    await asyncio.gather(*players)


OPERATIONS: dict[str, tuple[Callable[[int], Awaitable[None]], int]] = {
    "call_soon": (call_soon, 300_000),
    "turn with one callback": (turn, 100_000),
    "call_soon_threadsafe": (call_soon_threadsafe, 100_000),
    "call_later + cancel": (call_later_and_cancel, 200_000),
    "create_task": (create_task, 100_000),
    "task switch": (task_switch, 200_000),
    "future wake-up": (future_wake_up, 100_000),
}
"""What is measured: the operation, and how often one round does it."""


async def measure_operation(operation: Callable[[int], Awaitable[None]], count: int) -> float:
    """Return the CPU time of the process per operation, in nanoseconds.

    A tenth of the operations comes first and does not count: it warms up interpreter and caches.
    """
    await operation(max(count // 10, BATCH))
    gc.collect()
    before = time.process_time_ns()
    await operation(count)
    return (time.process_time_ns() - before) / count


def wait_for_kernel(delay: float) -> float:
    """Block on a timerfd for `delay` seconds and return how late it was, in microseconds.

    It is what the kernel and the machine add to any timer. NaN before Python 3.13, which lacks it.
    """
    if sys.version_info < (3, 13):
        return math.nan
    descriptor = os.timerfd_create(time.CLOCK_MONOTONIC)
    try:
        start = time.perf_counter_ns()
        os.timerfd_settime_ns(descriptor, initial=round(delay * 1e9))
        os.read(descriptor, 8)
        return (time.perf_counter_ns() - start) / 1_000 - delay * 1_000_000
    finally:
        os.close(descriptor)


async def measure_lateness(delay: float) -> tuple[list[float], list[float]]:
    """Return how late some timers of `delay` seconds fired, and the kernel's own, in microseconds.

    They take turns, so that both find the machine in the same state. A negative number is a timer
    that fired early.
    """
    loop = asyncio.get_running_loop()
    late = []
    kernel = []
    for _ in range(TIMERS_PER_DELAY):
        kernel.append(wait_for_kernel(delay))
        fired: asyncio.Future[int] = loop.create_future()

        def fire(fired: asyncio.Future[int] = fired) -> None:
            fired.set_result(time.perf_counter_ns())

        start = time.perf_counter_ns()
        loop.call_later(delay, fire)
        late.append((await fired - start) / 1_000 - delay * 1_000_000)
    return late, kernel


def percentile(values: list[float], percent: int) -> float:
    """Return the smallest value that `percent` of a hundred values do not exceed."""
    rank = math.ceil(len(values) * percent / 100)
    return sorted(values)[rank - 1]


async def measure(delays_ms: Sequence[float]) -> dict[str, object]:
    """Measure the operations, and timers with these delays; return what is printed."""
    operations = {
        name: await measure_operation(operation, count)
        for name, (operation, count) in OPERATIONS.items()
    }
    lateness = {}
    for delay_ms in delays_ms:
        late, kernel = await measure_lateness(delay_ms / 1_000)
        lateness[f"{delay_ms:g} ms"] = {
            "median": statistics.median(late),
            "p99": percentile(late, 99),
            "earliest": min(late),
        }
        if not math.isnan(kernel[0]):
            lateness[f"{delay_ms:g} ms"]["kernel"] = statistics.median(kernel)
            lateness[f"{delay_ms:g} ms"]["kernel_p99"] = percentile(kernel, 99)
    return {
        "cpu_ns_per_operation": operations,
        "timer_lateness_us": lateness,
    }


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--loop", choices=LOOPS, required=True)
    parser.add_argument("--operations", action="store_true", help="leave the timers' lateness out")
    options = parser.parse_args()
    delays_ms = () if options.operations else DELAYS_MS
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        print(json.dumps(runner.run(measure(delays_ms))))


if __name__ == "__main__":
    main()
