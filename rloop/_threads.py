"""How many threads a loop has, and the threads beside the one that runs it."""

import contextlib
import os
import signal
import sys
import threading
import time
import warnings
import weakref
from asyncio import unix_events
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from rloop import _rloop

if TYPE_CHECKING:
    from rloop.loop import TokioLoop

MOST_THREADS = 1024
"""The most threads a loop may have."""

_PATIENCE = 1.0
"""How long a callback of a worker may keep a run from beginning after an interrupted one, or the
interpreter from ending, in seconds."""

_OUTSIDE: Any = (
    {"skip_file_prefixes": (os.path.dirname(__file__),)} if sys.version_info >= (3, 12) else {}
)
"""Has a warning name the line of the program that called into this package."""

_TIME_BETWEEN_SIGNALS = 0.05
"""How long a wait for a worker goes on before signals are handled, in seconds."""

_started: "weakref.WeakSet[WorkerThreads]" = weakref.WeakSet()
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


class WorkerThreads:
    """The threads of one loop beside the one that runs it.

    They are daemon threads that live until the loop is closed or collected, or the interpreter
    ends. Only the thread that runs or closes the loop calls these methods.
    """

    def __init__(self, event_loop: "TokioLoop") -> None:
        self._members: list[tuple[_rloop.Worker, threading.Thread]] = []
        self._name = f"rloop-{id(event_loop):x}"
        # The exception that ended the wait for a worker that was inside a callback.
        self._interruption: BaseException | None = None

    def start(self, event_loop: "TokioLoop") -> None:
        """Start the threads, unless they live.

        Raises:
            BaseException: the exception that interrupted the last run, if a worker has still not
                returned from the callback that it was inside then.
            RuntimeError: if the system has no more threads.
        """
        self._wait_for_stragglers()
        if self._members and all(thread.is_alive() for _, thread in self._members):
            return
        self.join()
        workers = event_loop._make_workers()
        try:
            for worker in workers:
                name = f"{self._name}-shard-{worker.shard}"
                thread = threading.Thread(target=_work, args=(worker,), name=name, daemon=True)
                # One after another: a new thread of a free-threaded interpreter stops the others.
                thread.start()
                self._members.append((worker, thread))
        except BaseException:
            for worker in workers:
                worker.end()
            self.join()
            raise
        _started.add(self)

    def wait(self) -> None:
        """Wait until no worker drives its shard. Signals are handled meanwhile.

        Raises:
            BaseException: an exception of a signal handler, such as KeyboardInterrupt.
        """
        try:
            with _ctrl_c_raises():
                while self._stragglers(_TIME_BETWEEN_SIGNALS):
                    pass
        except BaseException as interruption:
            for shard in self._stragglers():
                interruption.add_note(f"Shard {shard} has not returned from its callback.")
                self._interruption = interruption
            raise

    def _wait_for_stragglers(self) -> None:
        interruption, self._interruption = self._interruption, None
        if interruption is None:
            return
        deadline = time.monotonic() + _PATIENCE
        while self._stragglers(_TIME_BETWEEN_SIGNALS):
            if time.monotonic() > deadline:
                self._interruption = interruption
                raise interruption

    def _stragglers(self, timeout: float = 0) -> list[int]:
        """Return the shards that are driven, after at most `timeout` seconds for each."""
        return [worker.shard for worker, _ in self._members if worker.is_running(timeout)]

    def join(self, patience: float = 0) -> None:
        """End the threads and wait for them.

        Args:
            patience: how long to wait for each that is inside a callback, in seconds. A thread
                whose callback does not return is left alone.
        """
        members, self._members = self._members, []
        for worker, _ in members:
            worker.end()
        for worker, thread in members:
            # The last reference to a loop may be a worker's.
            if thread is threading.current_thread():
                continue
            if worker.is_running(patience):
                worker.abandon()
            else:
                thread.join()

    def identity(self, shard: int) -> int | None:
        """Return the identity of a worker's thread, or None if there is none."""
        members = self._members
        return members[shard - 1][1].ident if members else None


def _work(worker: _rloop.Worker) -> None:
    """Drive a shard whenever its loop runs."""
    try:
        while (event_loop := cast("TokioLoop | None", worker.next_run())) is not None:
            try:
                event_loop._drive(worker.shard)
            except BaseException as error:
                event_loop._worker_failed(error)
            # Once this thread is parked, the run may be over, and the loop let go of.
            del event_loop
    finally:
        worker.leave()


@contextlib.contextmanager
def _ctrl_c_raises() -> Iterator[None]:
    """Have Ctrl-C raise KeyboardInterrupt although the loop has a handler for SIGINT.

    Handlers of ``add_signal_handler()`` are callbacks, and the run is over.
    """
    handler = signal.getsignal(signal.SIGINT)
    is_of_loop = handler is unix_events._sighandler_noop  # type: ignore[attr-defined]
    if not is_of_loop or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.siginterrupt(signal.SIGINT, False)


def join_all() -> None:
    """End the threads of all loops: the interpreter ends. A loop that runs again gets new ones."""
    for threads in list(_started):
        threads.join(_PATIENCE)


# The threads of the parent are not in a child.
os.register_at_fork(after_in_child=_started.clear)
