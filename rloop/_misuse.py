"""Finds asyncio's own primitives in use on several shards, which they are not safe for.

Called by ``rloop._rloop`` in debug mode, on a loop of several threads, at the two places where the
loop has to do with a primitive: one of its methods asks for a future to wait on, or completes a
future that a task of another shard awaits. Which primitive it is, the calling frame tells.
"""

import asyncio
import sys
from types import CodeType, FunctionType
from typing import Any

_WAITING = frozenset(
    method.__code__
    for method in (
        asyncio.Lock.acquire,
        asyncio.Event.wait,
        asyncio.Condition.wait,
        asyncio.Semaphore.acquire,
        asyncio.Queue.get,
        asyncio.Queue.put,
    )
)
"""The methods that make a future and await it."""


def _codes_of(*classes: type) -> frozenset[CodeType]:
    """Return the code of every method that these classes define."""
    return frozenset(
        method.__code__
        for cls in classes
        for method in vars(cls).values()
        if isinstance(method, FunctionType)
    )


_ANY_METHOD = _codes_of(
    asyncio.Lock, asyncio.Event, asyncio.Condition, asyncio.Semaphore, asyncio.Queue
)


def check_waiting(shard: int) -> None:
    """Check who asks for a future.

    Args:
        shard: the shard of the calling thread.

    Raises:
        RuntimeError: if it is a primitive that was awaited on another shard before.
    """
    frame = sys._getframe(1)
    if frame.f_code in _WAITING:
        primitive = frame.f_locals["self"]
        first = vars(primitive).setdefault("_rloop_first_shard", shard)
        if first != shard:
            raise _misuse(primitive, first, shard)


def check_waking(home: int, shard: int) -> None:
    """Check who wakes a task of another shard.

    Args:
        home: the shard of that task.
        shard: the shard of the calling thread.

    Raises:
        RuntimeError: if it is a primitive.
    """
    frame = sys._getframe(1)
    if frame.f_code in _ANY_METHOD:
        raise _misuse(frame.f_locals["self"], home, shard)


def _misuse(primitive: Any, first: int, second: int) -> RuntimeError:
    return RuntimeError(
        f"{primitive!r} is used on shards {first} and {second}, which asyncio's primitives are not "
        "safe for: use the class of rloop.sync"
    )
