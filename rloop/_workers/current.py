"""Which worker a thread belongs to.

A worker's own thread runs its program and its loop. Threads that the program starts belong to the
worker as well: they inherit it from the thread that starts them, and code that runs in a copy of a
worker's context, as ``asyncio.to_thread()`` does, belongs to that worker on any thread.
"""

import contextlib
import contextvars
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rloop._workers.worker import Worker

_of_thread = threading.local()
_of_context: "contextvars.ContextVar[Worker | None]" = contextvars.ContextVar("rloop worker")
_CREATOR = "_rloop_worker"


def enter(worker: "Worker") -> None:
    """Make the calling thread the worker's own thread."""
    _of_thread.worker = worker
    _of_context.set(worker)


def enter_context(worker: "Worker") -> None:
    """Make what runs in the current context, on threads that are no worker's own, the worker's."""
    _of_context.set(worker)


def leave() -> None:
    """Make the calling thread no worker's own thread."""
    _of_thread.worker = None
    _of_context.set(None)


def own_worker() -> "Worker | None":
    """Return the worker that has the calling thread as its own thread."""
    worker: Worker | None = getattr(_of_thread, "worker", None)
    return worker


def find_worker() -> "Worker | None":
    """Return the worker that the calling thread belongs to."""
    worker: Worker | None = getattr(_of_thread, "worker", None)
    if worker is None:
        worker = _of_context.get(None)
    if worker is None:
        worker = getattr(threading.current_thread(), _CREATOR, None)
    return worker


def current_worker() -> "Worker":
    """Return the worker that the calling thread belongs to.

    Raises:
        RuntimeError: if it belongs to none.
    """
    worker = find_worker()
    if worker is None:
        raise RuntimeError(
            "this thread belongs to no worker: rloop.run_workers() and 'python -m rloop --workers' "
            "start workers"
        )
    return worker


@contextlib.contextmanager
def waking() -> Iterator[None]:
    """Have other workers' loops accept a wake-up from this thread, in debug mode as well."""
    _of_thread.is_waking = True
    try:
        yield
    finally:
        _of_thread.is_waking = False


def is_waking() -> bool:
    """Return whether the calling thread wakes a task of another worker just now."""
    return getattr(_of_thread, "is_waking", False)


def inheriting(start: Any) -> Any:
    """Return a ``Thread.start()`` whose threads belong to the worker that starts them."""

    def start_inheriting(self: threading.Thread) -> None:
        worker = find_worker()
        if worker is not None:
            setattr(self, _CREATOR, worker)
        start(self)

    return start_inheriting
