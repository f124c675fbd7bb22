"""``python -m rloop``: run a program with TokioLoop as its event loop.

``python -m rloop script.py args...`` and ``python -m rloop -m module args...`` run what
``python script.py`` and ``python -m module`` would; loops that the program makes with
``asyncio.run()`` or ``asyncio.new_event_loop()`` are TokioLoops. ``--workers N`` before the
program's name runs it on so many workers, each with an application of its own; ``--threads N``
gives each loop so many threads. ``--as-uvloop`` also answers the name ``uvloop`` by TokioLoop.
"""

import argparse
import functools
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from typing import Literal

from rloop._default import set_default_loop
from rloop._other_loops import watch
from rloop._threads import count_threads, count_workers
from rloop._uvloop import as_uvloop

FLAGS = ("--as-uvloop", "--help", "--restart")
"""The options without a value."""


def main(arguments: Sequence[str]) -> None:
    """Run the program that the command-line arguments name.

    Raises:
        SystemExit: with status 2, if they name none; else as the program raises it.
    """
    parser = argparse.ArgumentParser(
        prog="python -m rloop",
        description="Run a program with TokioLoop as its event loop.",
        usage="%(prog)s [--workers N | --threads N] [--as-uvloop] (script.py | -m module) ...",
    )
    parser.add_argument(
        "--workers",
        type=_number,
        metavar="N",
        help="run the program on N workers, or auto: threads with a loop, a server and an "
        "application each (default: $RLOOP_WORKERS)",
    )
    parser.add_argument(
        "--modules",
        type=_names,
        metavar="NAMES",
        help="the top-level packages that each worker imports for itself, separated by commas "
        "(default: all but installed distributions)",
    )
    parser.add_argument(
        "--shared",
        type=_names,
        default=[],
        metavar="NAMES",
        help="modules in those packages that workers share, such as extension modules",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="let another worker take the place of one that fails, rather than end them all",
    )
    parser.add_argument(
        "--threads",
        type=_number,
        metavar="N",
        help="the number of threads of a loop, or auto (default: $RLOOP_THREADS, or 1)",
    )
    parser.add_argument(
        "--as-uvloop",
        action="store_true",
        help="let 'import uvloop' give TokioLoop, also in child processes, for frameworks with a "
        "switch for uvloop",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("script", nargs="?", help="the program to run")
    target.add_argument("-m", dest="module", help="the module to run as a program")
    # What follows the program's name is the program's.
    end = 0
    while end < len(arguments) and arguments[end].startswith("--"):
        end += 1 if "=" in arguments[end] or arguments[end] in FLAGS else 2
    end += 2 if arguments[end : end + 1] == ["-m"] else 1
    options = parser.parse_args(arguments[:end])
    has_workers = options.workers is not None or bool(os.environ.get("RLOOP_WORKERS"))
    if has_workers and options.threads is not None:
        parser.error("--threads and --workers exclude each other: a worker's loop has one thread")
    if not has_workers and (options.modules or options.shared or options.restart):
        parser.error("--modules, --shared and --restart are about --workers")
    try:
        count = count_workers(options.workers) if has_workers else count_threads(options.threads)
    except (RuntimeError, ValueError) as error:
        parser.error(str(error))
    set_default_loop(options.threads)
    if options.as_uvloop:
        as_uvloop()
    program = options.script if options.module is None else options.module
    sys.argv = [program, *arguments[end:]]
    if options.module is not None:
        sys.path.insert(0, os.getcwd())
        run: Callable[[], object] = functools.partial(
            runpy.run_module, program, run_name="__main__", alter_sys=True
        )
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(program)))
        run = functools.partial(runpy.run_path, program, run_name="__main__")
    if not has_workers:
        watch()
        run()
        return
    from rloop._workers.program import run_program

    run_program(
        run,
        count,
        module=options.module,
        arguments=arguments[end:],
        modules=options.modules,
        shared=options.shared,
        restarts=options.restart,
    )


def _number(text: str) -> int | Literal["auto"]:
    """Read the value of ``--workers`` or ``--threads``."""
    return "auto" if text == "auto" else int(text)


def _names(text: str) -> list[str]:
    """Read the value of ``--modules`` or ``--shared``."""
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    main(sys.argv[1:])
