"""What tests of a loop with several threads have in common.

Such a loop needs Python 3.14: on older versions the tests that carry `several_shards` are skipped.
"""

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

import pytest

import rloop
from support.threads import PEER_TIMEOUT, eventually

#: How many threads the loops under test have.
THREADS = (2, 4)

several_shards = [
    pytest.mark.skipif(sys.version_info < (3, 14), reason="a loop of several threads needs 3.14"),
    # On a build with the GIL.
    pytest.mark.filterwarnings(r"ignore:a loop with \d+ threads:RuntimeWarning"),
]

P = ParamSpec("P")
T = TypeVar("T")

#: Runs a coroutine on a new loop of several threads, and closes the loop.
Run = Callable[[Coroutine[Any, Any, T]], T]


def shard_count() -> int:
    """Return how many shards the running loop has."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, rloop.TokioLoop)
    return len(loop.statistics())


async def on_each_shard(
    function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
) -> list[T]:
    """Run the coroutine on every shard at the same time; return the results in their order."""
    futures = [rloop.on_shard(shard, function(*args, **kwargs)) for shard in range(shard_count())]
    return await asyncio.gather(*futures)


def print_waiting_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Print what each task of a stopped loop waits for, with what is known of the shards."""
    assert isinstance(loop, rloop.TokioLoop)
    print(*loop.statistics(), sep="\n")
    for task in asyncio.all_tasks(loop):
        print(repr(task))
        awaited: Any = task.get_coro()
        while (frame := getattr(awaited, "cr_frame", None)) is not None:
            print(f"  {frame.f_code.co_qualname}:{frame.f_lineno} {frame.f_locals}")
            awaited = awaited.cr_await
        print(f"  {awaited!r} {getattr(task, '_fut_waiter', None)!r}")


class Gate:
    """Lets a test hold a shard inside a callback, from another thread or shard."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._opened = threading.Event()

    def hold(self) -> None:
        """Block the calling thread until the gate is opened."""
        self._entered.set()
        assert self._opened.wait(PEER_TIMEOUT)

    def wait_until_held(self) -> None:
        """Block until a thread is held."""
        assert self._entered.wait(PEER_TIMEOUT)

    async def held(self) -> None:
        """Let the loop run until a thread is held."""
        await eventually(self._entered.is_set)

    def open(self) -> None:
        """Let the held thread go on."""
        self._opened.set()
