"""How many threads a loop has, and the threads beside the one that runs it."""

import contextlib
import os
import sys
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any, cast

from rloop import _rloop

if TYPE_CHECKING:
    from rloop.loop import TokioLoop

MOST_THREADS = 1024
"""The most threads a loop may have."""

_JOIN_TIMEOUT = 1.0
"""How long a callback may keep the interpreter from ending, in seconds."""

_crews: "weakref.WeakSet[Crew]" = weakref.WeakSet()
_OUTSIDE: Any = (
    {"skip_file_prefixes": (os.path.dirname(__file__),)} if sys.version_info >= (3, 12) else {}
)
"""Has a warning name the line of the program that called into this package."""

_warned: set[str] = set()
"""What was warned about: once is enough."""


def count_threads(threads: int | str | None) -> int:
    """Return how many threads a loop is to have.

    Args:
        threads: a number; ``"auto"`` for as many as there are usable CPUs; None for what the
            environment variable ``RLOOP_THREADS`` says, in the same words, or else 1.

    Raises:
        TypeError: if it is none of these.
        ValueError: if the number is not between 1 and `MOST_THREADS`.
        RuntimeError: if it is more than one, and this Python is older than 3.14.
    """
    count = _count(threads, "threads", "RLOOP_THREADS")
    if count > 1:
        if _is_too_old():
            raise RuntimeError(
                f"a loop with {count} threads needs Python 3.14 or later: before, asyncio keeps "
                "the current task per loop and not per thread"
            )
        _warn_of_gil(f"a loop with {count} threads")
    return count


def count_workers(workers: int | str | None) -> int:
    """Return how many workers a group is to have.

    Args:
        workers: a number; ``"auto"`` for as many as there are usable CPUs; None for what the
            environment variable ``RLOOP_WORKERS`` says, in the same words, or else 1.

    Raises:
        TypeError: if it is none of these.
        ValueError: if the number is not between 1 and `MOST_THREADS`.
    """
    count = _count(workers, "workers", "RLOOP_WORKERS")
    if count > 1:
        _warn_of_gil(f"a group of {count} workers")
    return count


def _count(given: int | str | None, name: str, variable: str) -> int:
    source = name
    if given is None:
        given = os.environ.get(variable) or 1
        source = variable
        if isinstance(given, str) and given != "auto":
            with contextlib.suppress(ValueError):
                given = int(given)
    if given == "auto":
        # With the GIL, or on an old version, more would not make it faster.
        count = 1 if _is_too_old() or _is_gil_enabled() else _usable_cpus()
    elif isinstance(given, int) and not isinstance(given, bool):
        count = given
    elif isinstance(given, str):
        raise ValueError(f"{source} must be a number or 'auto', not {given!r}")
    else:
        raise TypeError(f"{name} must be an int, 'auto' or None, not {type(given).__name__}")
    if not 1 <= count <= MOST_THREADS:
        raise ValueError(f"{source} must be between 1 and {MOST_THREADS}, not {count}")
    return count


def _usable_cpus() -> int:
    if sys.version_info >= (3, 13):
        count = os.process_cpu_count()
    else:
        count = os.cpu_count()
    return min(count or 1, MOST_THREADS)


def _is_too_old() -> bool:
    return sys.version_info < (3, 14)


def _is_gil_enabled() -> bool:
    if sys.version_info >= (3, 13):
        enabled = sys._is_gil_enabled()
    else:
        enabled = True
    return enabled


def _warn_of_gil(runners: str) -> None:
    """Warn, once in a process, that `runners` do not run Python code in parallel."""
    if _is_gil_enabled() and "GIL" not in _warned:
        _warned.add("GIL")
        warnings.warn(  # type: ignore[call-overload, unused-ignore]
            f"{runners} runs Python code on one core at a time, because the GIL is enabled: use a "
            "free-threaded build of Python",
            RuntimeWarning,
            **_OUTSIDE,
        )


class Crew:
    """The worker threads of one loop.

    They are daemon threads that live until the loop is closed or collected, or the interpreter
    ends. Only the thread that runs or closes the loop calls these methods.
    """

    def __init__(self, event_loop: "TokioLoop") -> None:
        self._members: list[tuple[_rloop.Worker, threading.Thread]] = []
        self._name = f"rloop-{id(event_loop):x}"
        _crews.add(self)

    def muster(self, event_loop: "TokioLoop") -> None:
        """Start the threads, unless they live."""
        if self._members and all(thread.is_alive() for _, thread in self._members):
            return
        self.disband()
        for worker in event_loop._make_workers():
            thread = threading.Thread(
                target=_work, args=(worker,), name=f"{self._name}-shard-{worker.shard}", daemon=True
            )
            # One after another: a new thread of a free-threaded interpreter stops the others.
            thread.start()
            self._members.append((worker, thread))

    def disband(self, timeout: float | None = None) -> None:
        """End the threads and wait for them, at most `timeout` seconds each."""
        members, self._members = self._members, []
        for worker, _ in members:
            worker.end()
        for _, thread in members:
            # The last reference to a loop may be a worker's.
            if thread is not threading.current_thread():
                thread.join(timeout)

    def identity(self, shard: int) -> int | None:
        """Return the identity of a worker's thread, or None if there is none."""
        members = self._members
        return members[shard - 1][1].ident if members else None


def _work(worker: _rloop.Worker) -> None:
    """Drive a shard whenever its loop runs."""
    while (event_loop := worker.wait()) is not None:
        try:
            cast("TokioLoop", event_loop)._drive(worker.shard)
        finally:
            # Once this thread is parked, the run may be over, and the loop let go of.
            del event_loop
            worker.park()


def disband_all() -> None:
    """End the threads of all loops: the interpreter ends. A loop that runs again gets new ones."""
    for crew in list(_crews):
        crew.disband(_JOIN_TIMEOUT)
