"""Answers the name ``uvloop`` by TokioLoop, for programs and frameworks that ask for that loop.

The names are those of uvloop 0.22 that applications use; its Cython interface is not among them.
"""

import asyncio
import importlib
import importlib.machinery
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from types import ModuleType
from typing import Any, TypeVar

from rloop._default import HAS_POLICIES
from rloop.loop import TokioLoop
from rloop.run import install, new_event_loop, run_on

__all__ = ["AS_UVLOOP", "as_uvloop"]

_T = TypeVar("_T")

AS_UVLOOP = "RLOOP_AS_UVLOOP"
"""The environment variable that makes interpreters call :func:`as_uvloop` when they start."""

VERSION = "0.22.1"
"""The version of uvloop whose names are answered."""


def as_uvloop() -> None:
    """Let ``import uvloop`` give TokioLoop in this process and in the processes that it starts.

    Frameworks with a switch for uvloop then use TokioLoop. The names are ``Loop``,
    ``new_event_loop``, ``run``, ``install``, ``EventLoopPolicy`` (before Python 3.16) and
    ``__version__``, and the submodule ``uvloop.loop``. Child processes learn of it from the
    environment variable ``RLOOP_AS_UVLOOP``.

    Raises:
        RuntimeError: if the real uvloop is imported already.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        if "uvloop" in sys.modules:
            raise RuntimeError(
                "uvloop is imported already: call rloop.as_uvloop() before what imports it, or "
                "run the program by 'python -m rloop --as-uvloop'"
            )
        sys.meta_path.insert(0, _Finder())
    os.environ[AS_UVLOOP] = "1"


def _run(
    main: Coroutine[Any, Any, _T],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = new_event_loop,
    debug: bool | None = None,
) -> _T:
    """Run a coroutine on a new TokioLoop, as ``asyncio.run()`` does on its own loop."""
    return run_on(loop_factory, main, debug=debug, name="uvloop.run()")


def _names(module: str) -> dict[str, Any]:
    """Return what a module of uvloop has."""
    if module == "uvloop.loop":
        return {"Loop": TokioLoop}
    names: dict[str, Any] = {
        "__version__": VERSION,
        "__all__": ["install", "new_event_loop", "run"],
        "Loop": TokioLoop,
        "install": install,
        "new_event_loop": new_event_loop,
        "run": _run,
    }
    if HAS_POLICIES:
        from rloop._policy import EventLoopPolicy

        names["EventLoopPolicy"] = EventLoopPolicy
        names["__all__"].append("EventLoopPolicy")
    return names


class _Finder:
    """Finds and makes the modules ``uvloop`` and ``uvloop.loop``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in ("uvloop", "uvloop.loop"):
            return None
        # It need not be derived from the abstract class, whose module takes a while to import.
        loader: Any = self
        return importlib.machinery.ModuleSpec(
            fullname, loader, origin="rloop", is_package=fullname == "uvloop"
        )

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Leave it to the import system to make the module."""

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(_names(module.__name__))
        if module.__name__ == "uvloop":
            # As the real one does, which imports its submodule.
            importlib.import_module("uvloop.loop")
