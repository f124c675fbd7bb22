"""Makes TokioLoop the loop of :func:`asyncio.run` and :func:`asyncio.new_event_loop`.

Python before 3.16 has an event loop policy for that. Later versions have no policies:
``asyncio.new_event_loop()`` makes an ``asyncio.EventLoop``, a public name that is looked up at each
call, and so it is the name that is bound anew (docs/decisions/0009-private-hooks-and-policies.md).
"""

import asyncio
import warnings
from asyncio import events
from typing import Literal

from rloop.loop import TokioLoop

HAS_POLICIES = hasattr(asyncio, "set_event_loop_policy")
"""Whether this Python has event loop policies. From 3.14 on they are deprecated."""


def set_default_loop(threads: int | Literal["auto"] | None = None) -> None:
    """Make asyncio's new loops TokioLoops.

    Args:
        threads: how many threads each loop is to have, see :class:`rloop.TokioLoop`.
    """
    if HAS_POLICIES:
        _set_policy(threads)
    else:
        _set_names(threads)


def _set_policy(threads: int | Literal["auto"] | None) -> None:
    from rloop._policy import EventLoopPolicy

    with warnings.catch_warnings():
        # The caller has said, or was told, that this is wanted.
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(EventLoopPolicy(threads=threads))


def _set_names(threads: int | Literal["auto"] | None) -> None:
    loop_class = TokioLoop if threads is None else _with_threads(threads)
    asyncio.EventLoop = loop_class  # type: ignore[assignment, attr-defined, misc, unused-ignore]
    code = getattr(events.new_event_loop, "__code__", None)
    if code is None or "EventLoop" not in code.co_names:
        # asyncio.run() calls the function by one of these names, and programs by the other.
        events.new_event_loop = asyncio.new_event_loop = loop_class


def _with_threads(threads: int | Literal["auto"]) -> type[TokioLoop]:
    class ThreadedLoop(TokioLoop):
        """A TokioLoop of as many threads as were asked for."""

        def __init__(self) -> None:
            super().__init__(threads=threads)

    return ThreadedLoop
