"""How programs come to run on a TokioLoop: a factory, a runner, and asyncio's default."""

import asyncio
import functools
import sys
import warnings
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar

from rloop import _default
from rloop.loop import TokioLoop

__all__ = ["install", "new_event_loop", "run"]

_T = TypeVar("_T")


def new_event_loop(*, threads: int | Literal["auto"] | None = None) -> TokioLoop:
    """Return a new :class:`TokioLoop`.

    This is a loop factory: ``asyncio.Runner(loop_factory=rloop.new_event_loop)``.

    Args:
        threads: how many threads the loop is to have, see :class:`TokioLoop`.

    Raises:
        OSError: if the process is out of file descriptors.
        RuntimeError: for several threads on a Python older than 3.14.
        TypeError: if `threads` is no number.
        ValueError: if the number is out of range.
    """
    return TokioLoop(threads=threads)


def run(
    main: Coroutine[Any, Any, _T],
    *,
    debug: bool | None = None,
    threads: int | Literal["auto"] | None = None,
) -> _T:
    """Run a coroutine on a new :class:`TokioLoop` and return its result.

    Like :func:`asyncio.run`, it closes the loop in the end, with its tasks, asynchronous generators
    and default executor, and turns Ctrl-C into a cancellation of `main`.

    Args:
        main: the coroutine.
        debug: the loop's debug mode; by default that of the interpreter.
        threads: how many threads the loop is to have, see :class:`TokioLoop`.

    Raises:
        RuntimeError: if an event loop is running in this thread, and for several threads on a
            Python older than 3.14.
        ValueError: if `main` is not a coroutine (:exc:`TypeError` on newer versions of Python).
    """
    loop_factory = functools.partial(new_event_loop, threads=threads)
    return run_on(loop_factory, main, debug=debug, name="rloop.run()")


def run_on(
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
    main: Coroutine[Any, Any, _T],
    *,
    debug: bool | None,
    name: str,
) -> _T:
    """Run a coroutine on a new loop, for the function of that name. See :func:`run`."""
    if asyncio._get_running_loop() is not None:
        # As asyncio.run() does: a Runner would fail on the way out, when it closes its loop.
        raise RuntimeError(f"{name} cannot be called from a running event loop")
    with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
        return runner.run(main)


def install() -> None:
    """Make :func:`asyncio.run` and :func:`asyncio.new_event_loop` use :class:`TokioLoop`.

    Before Python 3.16 this sets the event loop policy. Python 3.14 and 3.15 deprecate policies, so
    a DeprecationWarning says so there. From 3.16 on there are none, and this makes
    ``asyncio.EventLoop`` another name of :class:`TokioLoop`. Prefer :func:`run` or a loop factory.
    """
    if _default.HAS_POLICIES and sys.version_info >= (3, 14):
        warnings.warn(
            "rloop.install() sets an event loop policy, which Python 3.16 removes; "
            "use rloop.run() or pass rloop.new_event_loop as a loop factory",
            DeprecationWarning,
            stacklevel=2,
        )
    _default.set_default_loop()
