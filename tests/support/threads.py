"""Runs blocking code beside the loop under test, in threads that no loop manages.

Peers of a connection are plain blocking sockets: their calls go through ``in_thread``, so a loop
is never tested against itself only. Every blocking socket gets ``PEER_TIMEOUT``.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

#: Seconds that a blocking call of a peer may take before the test has failed.
PEER_TIMEOUT = 20.0

P = ParamSpec("P")
T = TypeVar("T")


def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
    """Call a blocking function in a new thread at once; await the result when it is needed.

    What the function raises is raised by the awaiting code.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def body() -> None:
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, result, None)

    thread = threading.Thread(target=body, name=f"peer {function.__qualname__}", daemon=True)
    thread.start()
    return future


async def eventually(condition: Callable[[], object], seconds: float = PEER_TIMEOUT) -> None:
    """Let the loop turn until the condition holds; raise TimeoutError if it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


async def turns(count: int) -> None:
    """Let the loop run that many turns."""
    for _ in range(count):
        await asyncio.sleep(0)


def run_beside_threads(
    loop: asyncio.AbstractEventLoop, count: int, body: Callable[[int], object]
) -> None:
    """Run the loop while that many threads call ``body(number)``, starting all at once.

    The loop stops when all of them have returned. What one raises ends only that thread.
    """
    barrier = threading.Barrier(count, timeout=PEER_TIMEOUT)
    running = count

    def finish() -> None:
        nonlocal running
        running -= 1
        if running == 0:
            loop.stop()

    def run(number: int) -> None:
        try:
            barrier.wait()
            body(number)
        finally:
            loop.call_soon_threadsafe(finish)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    loop.run_forever()
    for thread in threads:
        thread.join()
