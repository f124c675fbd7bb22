"""The event loops that are compared: one name each, and how to make one.

Every script of this folder names a loop by its key in `LOOPS`. Two projects share the import name
``rloop``, so a loop also says which attribute its module must and must not have: a measurement
under the wrong name is refused instead of printed.

Usage: python benches/loops.py uvloop    (prints what that loop is in this interpreter, as JSON)
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class LoopUnavailable(SystemExit):
    """The loop cannot be made in this interpreter; the message says why.

    Nothing that is called with the name of one loop can go on without it: uncaught, this ends the
    program with the message.
    """


@dataclass(frozen=True)
class Loop:
    """One event loop under comparison."""

    label: str
    """The name that tables and plots print."""
    module: str
    factory: str
    """The attribute of `module` that, called without arguments, returns a new loop."""
    distribution: str | None = None
    """The installed distribution whose version is recorded; None for the standard library."""
    minimum_python: tuple[int, int] = (3, 11)
    has: str | None = None
    """An attribute that `module` must have to be the project that is meant."""
    has_not: str | None = None
    """An attribute that tells the other project of the same import name."""
    is_peer: bool = False
    """True iff it is installed from ci/requirements/peers.txt, apart from the caller's packages."""
    has_fast_tls: bool = False
    """Whether its servers' contexts are rloop.tls's instead of the standard library's."""

    @property
    def import_string(self) -> str:
        """The factory as ``module:attribute``, the form that uvicorn's ``--loop`` takes."""
        return f"{self.module}:{self.factory}"


CONTROL = "asyncio"
"""The loop whose spread says whether the machine was quiet enough for the run to count."""

BASELINE = "uvloop"
"""The loop to which ratios are taken."""

LOOPS: dict[str, Loop] = {
    "asyncio": Loop("asyncio", "asyncio", "SelectorEventLoop"),
    "uvloop": Loop("uvloop", "uvloop", "new_event_loop", "uvloop"),
    "zuvloop": Loop(
        "zuvloop", "zuvloop", "new_event_loop", "zuvloop", minimum_python=(3, 14), is_peer=True
    ),
    "rloop-gi0baro": Loop(
        "rloop (gi0baro)",
        "rloop",
        "new_event_loop",
        "rloop",
        has_not="TokioLoop",
        is_peer=True,
    ),
    "tokioloop": Loop("TokioLoop", "rloop", "new_event_loop", "tokioloop", has="TokioLoop"),
    "tokioloop-rustls": Loop(
        "TokioLoop, rustls",
        "rloop",
        "new_event_loop",
        "tokioloop",
        has="TokioLoop",
        has_fast_tls=True,
    ),
}

FAST_TLS = "tokioloop-rustls"
"""Takes part only where there is TLS."""

RUST_ECHO = "tokio-rust"
"""The echo server without Python: the limit that a loop on tokio can approach."""

LABELS = {name: loop.label for name, loop in LOOPS.items()} | {RUST_ECHO: "tokio (pure Rust)"}


def loop_factory(name: str) -> LoopFactory:
    """Return the factory of the loop called `name`.

    Raises LoopUnavailable if the interpreter is too old, the module does not import, or the module
    is the other project of the same name; KeyError if `name` is not in `LOOPS`.
    """
    loop = LOOPS[name]
    if sys.version_info < loop.minimum_python:
        wanted = ".".join(map(str, loop.minimum_python))
        raise LoopUnavailable(f"{loop.label} needs Python {wanted} or later")
    try:
        module = importlib.import_module(loop.module)
    except ImportError as error:
        raise LoopUnavailable(f"{loop.label} does not import: {error}") from error
    if loop.has is not None and not hasattr(module, loop.has):
        raise LoopUnavailable(f"the installed {loop.module!r} is not {loop.label}: no {loop.has}")
    if loop.has_not is not None and hasattr(module, loop.has_not):
        raise LoopUnavailable(f"the installed {loop.module!r} is not {loop.label}: {loop.has_not}")
    factory: LoopFactory = getattr(module, loop.factory)
    return factory


def loop_version(name: str) -> str:
    """Return the version of the loop's distribution, or the interpreter's for asyncio."""
    distribution = LOOPS[name].distribution
    if distribution is None:
        return sys.version.split()[0]
    return importlib.metadata.version(distribution)


def describe(name: str) -> dict[str, str | bool]:
    """Make the loop called `name` and say what it is; raises LoopUnavailable if it is not there.

    ``gil`` is whether the GIL is on now: importing an extension may have turned it on.
    """
    loop = loop_factory(name)()
    try:
        return {
            "class": f"{type(loop).__module__}.{type(loop).__qualname__}",
            "version": loop_version(name),
            "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        }
    finally:
        loop.close()


if __name__ == "__main__":
    print(json.dumps(describe(sys.argv[1])))
