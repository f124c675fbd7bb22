"""``python -m rloop``: run a program with TokioLoop as its event loop.

``python -m rloop script.py args...`` and ``python -m rloop -m module args...`` run what
``python script.py`` and ``python -m module`` would; loops that the program makes with
``asyncio.run()`` or ``asyncio.new_event_loop()`` are TokioLoops. ``--threads N`` before the
program's name gives each of them so many threads.
"""

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from typing import Literal

from rloop._default import set_default_loop
from rloop._threads import count_threads


def main(arguments: Sequence[str]) -> None:
    """Run the program that the command-line arguments name.

    Raises:
        SystemExit: with status 2, if they name none; else as the program raises it.
    """
    parser = argparse.ArgumentParser(
        prog="python -m rloop",
        description="Run a program with TokioLoop as its event loop.",
        usage="%(prog)s [--threads N] (script.py | -m module) ...",
    )
    parser.add_argument(
        "--threads",
        type=_threads,
        metavar="N",
        help="the number of threads of a loop, or auto (default: $RLOOP_THREADS, or 1)",
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("script", nargs="?", help="the program to run")
    target.add_argument("-m", dest="module", help="the module to run as a program")
    # What follows the program's name is the program's.
    end = 0
    while end < len(arguments) and arguments[end].startswith("--threads"):
        end += 1 if "=" in arguments[end] else 2
    end += 2 if arguments[end : end + 1] == ["-m"] else 1
    options = parser.parse_args(arguments[:end])
    try:
        count_threads(options.threads)
    except (RuntimeError, ValueError) as error:
        parser.error(str(error))
    set_default_loop(options.threads)
    if options.module is not None:
        sys.argv = [options.module, *arguments[end:]]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(options.module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [options.script, *arguments[end:]]
        sys.path.insert(0, os.path.dirname(os.path.abspath(options.script)))
        runpy.run_path(options.script, run_name="__main__")


def _threads(text: str) -> int | Literal["auto"]:
    """Read the value of ``--threads``."""
    return "auto" if text == "auto" else int(text)


if __name__ == "__main__":
    main(sys.argv[1:])
