"""Children of many loops in many threads, beside those of other code."""

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import Callable

import pytest

import rloop

THREADS = 8
CHILDREN = 200
AT_ONCE = 10


async def run_children(offset: int) -> list[int]:
    """Run many children, some at once, and return their exit codes in order."""

    async def run(number: int) -> int:
        async with limit:
            code = (offset + number) % 256
            process = await asyncio.create_subprocess_exec("/bin/sh", "-c", f"exit {code}")
            return await process.wait()

    limit = asyncio.Semaphore(AT_ONCE)
    return list(await asyncio.gather(*(run(number) for number in range(CHILDREN))))


def run_foreign_children(_: int) -> list[int]:
    """Run as many children without a loop, half of them polled and half waited for."""
    codes = []
    for number in range(CHILDREN):
        child = subprocess.Popen(["/bin/sh", "-c", f"exit {number % 256}"])
        if number % 2:
            child.poll()
        codes.append(child.wait())
    return codes


def run_in_loop(offset: int) -> list[int]:
    """Run children on a loop of this thread."""
    with contextlib.closing(rloop.new_event_loop()) as loop:
        return loop.run_until_complete(run_children(offset))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_each_loop_gets_the_exit_codes_of_its_own_children() -> None:
    outcomes: dict[int, list[int]] = {}

    def body(run: Callable[[int], list[int]], offset: int) -> None:
        outcomes[offset] = run(offset)

    threads = [
        threading.Thread(
            target=body, args=(run_in_loop if offset else run_foreign_children, offset)
        )
        for offset in range(THREADS + 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for offset in range(THREADS + 1):
        assert outcomes[offset] == [(offset + number) % 256 for number in range(CHILDREN)]
