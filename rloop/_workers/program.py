"""``python -m rloop --workers``: one program, run by each worker.

Each worker runs the program as its own ``__main__`` and imports the application for itself. What
the application is, the command line tells: a module or script that is no server itself, and any
argument of the form ``package.module:name``.
"""

import atexit
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence

from rloop._workers.group import Group
from rloop._workers.modules import Copies
from rloop._workers.worker import Worker

_SERVERS = frozenset(
    {
        "aiohttp",
        "daphne",
        "django",
        "fastapi",
        "flask",
        "granian",
        "gunicorn",
        "hypercorn",
        "litestar",
        "quart",
        "sanic",
        "uvicorn",
    }
)
"""Packages whose ``python -m`` serves the application of somebody else."""

_IMPORT_STRING = re.compile(r"([A-Za-z_]\w*)(\.\w+)*:[A-Za-z_][\w.]*(\(.*\))?")

_IN_PROCESS = {
    "hypercorn": (["--workers", "0"], re.compile("-w|--workers")),
    "sanic": (
        ["--single-process"],
        re.compile("-w|--workers|--single-process|--fast|-d|--dev|-r|--reload|--auto-reload"),
    ),
}
"""Servers that start processes, which would be no workers, unless they are told not to.

Each with what tells them, and arguments with which that is left to the user.
"""


def run_program(
    run: Callable[[], object],
    count: int,
    *,
    module: str | None,
    arguments: Sequence[str],
    modules: Iterable[str] | None,
    shared: Iterable[str],
    restarts: bool,
) -> None:
    """Run a program on several workers.

    Args:
        run: runs it on the calling thread.
        count: how many workers.
        module: the module that the program is, or None for a script.
        arguments: the program's arguments.
        modules: the top-level packages that each worker imports for itself; by default the
            application, and all that is found outside of installed distributions.
        shared: modules inside of those that all workers share.
        restarts: whether another worker takes the place of one that fails.

    Raises:
        SystemExit: with the exit status of the first worker that fails.
        KeyboardInterrupt: if Ctrl-C ended a worker.
        BaseException: what the program raised first on a worker.
    """
    copied = {"__main__"}
    if modules is None:
        copied.update(_find_targets(module, arguments))
    else:
        copied.update(modules)
    # uvicorn and sanic would take uvloop, or asyncio's own loop.
    os.environ.setdefault("UVICORN_LOOP", "rloop:new_event_loop")
    os.environ.setdefault("SANIC_USE_UVLOOP", "false")
    # Else WEB_CONCURRENCY says how many processes it starts.
    os.environ.setdefault("UVICORN_WORKERS", "1")
    option, alternatives = _IN_PROCESS.get(module or "", ([], re.compile("")))
    if not any(map(alternatives.match, arguments)):
        sys.argv[1:1] = option
    copies = Copies(copied=copied, shared=shared, by_location=modules is None)

    def body(_: Worker) -> None:
        run()

    # Registered before the application's own handlers, and so called after them.
    atexit.register(copies.uninstall)
    Group(count, body, copies, keeps_copies=True, restarts=restarts).run()


def _find_targets(module: str | None, arguments: Iterable[str]) -> Iterable[str]:
    """Return the top-level packages that a command line names as the application."""
    matches = map(_IMPORT_STRING.fullmatch, arguments)
    targets = {match[1] for match in matches if match is not None}
    if module is not None and (package := module.partition(".")[0]) not in _SERVERS:
        targets.add(package)
    return targets
