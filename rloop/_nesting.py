"""Runs inside callbacks, for a program that replaces the loop's ``_run_once()``.

``nest_asyncio`` and ``nest_asyncio2`` put a method of their own in the place of the standard
library's ``_run_once()``. It takes what is ready from ``_ready`` and ``_scheduled``, and waits by
asking ``_selector``. Here the queues and the wait are native. So the selector takes a whole
iteration when it is asked, and the queues have nothing for the method to do.
"""

import contextlib
from asyncio import Handle, tasks
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rloop._queues import ReadyQueue, Timers

if TYPE_CHECKING:
    from rloop.loop import TokioLoop


class EmptyTimers(Timers):
    """``loop._scheduled`` of a loop whose timers the selector sees to: false, whatever is in it."""

    def __bool__(self) -> bool:
        return False


class EmptyReadyQueue(ReadyQueue):
    """``loop._ready`` of a loop whose callbacks the selector runs: empty, true if there are any."""

    def __bool__(self) -> bool:
        # The selector refuses a loop of several threads, with an explanation.
        return self._event_loop._shard_count() == 1 and bool(self._read())

    def __len__(self) -> int:
        return 0

    def extendleft(self, handles: Iterable[Handle]) -> None:
        """Queue what a program has taken out, which is nothing."""
        for handle in handles:
            self.append(handle)


def take_iteration(loop: "TokioLoop", timeout: float | None) -> None:
    """Wait for at most `timeout` seconds, or for ever, and run what is ready.

    Raises:
        RuntimeError: if the loop has several threads.
    """
    if loop._threads is not None:
        raise RuntimeError(
            "a loop of several threads cannot be run by a replaced _run_once(), as nest_asyncio's "
            "is: make it with threads=1"
        )
    may_block = timeout is None or timeout > 0
    timer = loop.call_later(timeout, int) if timeout else None
    try:
        with _no_current_task(loop):
            loop._take_iteration(may_block)
    finally:
        if timer is not None:
            timer.cancel()


@contextlib.contextmanager
def _no_current_task(loop: "TokioLoop") -> Iterator[None]:
    """Let other tasks run inside a step of the current one."""
    # From Python 3.14 on, tasks that are written in Python and native ones are in different places.
    # nest_asyncio makes all new tasks Python's, and leaves the native one in its place then.
    current: dict[Any, Any] = tasks._current_tasks  # type: ignore[attr-defined]
    interrupted = current.pop(loop, None)
    swap: Any = getattr(tasks, "_swap_current_task", None)
    is_native = tasks.Task is not tasks._PyTask  # type: ignore[attr-defined]
    native = None
    # On 3.12 they are in one place, and swap() raises KeyError where there is none.
    if swap is not None and is_native and tasks.current_task(loop) is not None:
        native = swap(loop, None)
    try:
        yield
    finally:
        if native is not None:
            swap(loop, native)
        if interrupted is not None:
            current[loop] = interrupted
