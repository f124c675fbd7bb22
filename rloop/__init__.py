"""TokioLoop: a drop-in asyncio event loop on tokio.

``rloop.run(main())`` runs a coroutine on a :class:`TokioLoop`; :func:`new_event_loop` is a loop
factory for everything that takes one, such as :class:`asyncio.Runner`.
"""

import warnings
from typing import TYPE_CHECKING, Any

from rloop import _installation, sync
from rloop._default import HAS_POLICIES
from rloop._shards import current_shard, on_shard, pinned, spawn
from rloop._uvloop import as_uvloop
from rloop._workers.current import current_worker
from rloop._workers.group import run_workers
from rloop._workers.worker import Worker
from rloop.loop import TokioLoop
from rloop.run import install, new_event_loop, run
from rloop.statistics import WorkerStatistics

if TYPE_CHECKING:
    from rloop._policy import EventLoopPolicy

__all__ = [
    "TokioLoop",
    "Worker",
    "WorkerStatistics",
    "__version__",
    "as_uvloop",
    "current_shard",
    "current_worker",
    "install",
    "new_event_loop",
    "on_shard",
    "pinned",
    "run",
    "run_workers",
    "spawn",
    "sync",
]
if HAS_POLICIES:
    __all__ += ["EventLoopPolicy"]

__version__ = _installation.VERSION

_OLD_NAMES = {
    "RLoop": "TokioLoop",
    "TokioEventLoopPolicy": "EventLoopPolicy",
    "TokioLoopPolicy": "EventLoopPolicy",
    "new_tokio_event_loop": "new_event_loop",
}


def __getattr__(name: str) -> Any:
    if name in _OLD_NAMES:
        current = _OLD_NAMES[name]
        warnings.warn(
            f"rloop.{name} is deprecated, use rloop.{current}", DeprecationWarning, stacklevel=2
        )
        return globals().get(current) or __getattr__(current)
    if name == "EventLoopPolicy" and HAS_POLICIES:
        # Made on demand: event loop policies are deprecated, and gone from Python 3.16.
        from rloop._policy import EventLoopPolicy

        return EventLoopPolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
