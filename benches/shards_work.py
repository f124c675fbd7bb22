"""What the benchmarks of several threads compute, and how a program gets its threads on each loop.

Used by shards_server.py and shards_tasks.py. The work is plain Python on objects of its own, as in
a handler that renders a page: dicts, formatted strings, a generator, a join. It takes about 100 µs
and shares nothing with other threads but what every Python program shares: its code and classes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

from loops import LoopFactory

ROWS = 92
"""Rows of the page: so many take about 100 µs on the machines that were at hand."""


def render() -> bytes:
    """Return a page of `ROWS` rows."""
    lines = []
    for number in range(ROWS):
        record = {"id": number, "name": f"item {number}", "price": number * 1.25}
        lines.append(", ".join(f"{key}={value}" for key, value in record.items()))
    return "\n".join(lines).encode()


def run_on_threads(
    make_loop: LoopFactory, count: int, main: Callable[[int], Awaitable[None]]
) -> None:
    """Run `main(number)` on `count` loops in as many threads, this one first; waits for all.

    Raises what `main` raised, as a group if there is more than one loop.
    """
    failures: list[Exception] = []

    async def call(number: int) -> None:
        await main(number)

    def run(number: int) -> None:
        try:
            with asyncio.Runner(loop_factory=make_loop) as runner:
                runner.run(call(number))
        except Exception as failure:
            failures.append(failure)

    others = [threading.Thread(target=run, args=(number,)) for number in range(1, count)]
    for thread in others:
        thread.start()
    run(0)
    for thread in others:
        thread.join()
    if failures:
        raise ExceptionGroup("a loop failed", failures)
