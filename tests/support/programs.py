"""Runs a Python program in a process of its own, with the loop under test in it.

For what would take the test run down with it: interrupts, exit codes, interpreter exit, fork. The
program finds ``new_loop``, the factory of the loop under test, already defined.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import dedent

#: Seconds that a program may take: less than a test may, so that what it printed is told.
PROGRAM_TIMEOUT = 50.0

_TESTS = Path(__file__).parent.parent

_PRELUDE = "from support.loops import factory_of\nnew_loop = factory_of({loop_name!r})\n"


def run_program(
    source: str,
    loop_name: str,
    *,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the source with ``new_loop`` defined and return exit code, stdout and stderr.

    ``options`` are options of the interpreter; ``environment`` is added to this process's.
    Raises subprocess.TimeoutExpired if the program does not end.
    """
    program = _PRELUDE.format(loop_name=loop_name) + dedent(source)
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONASYNCIODEBUG"}
    return subprocess.run(
        # -P: the working directory may hold the sources of the package under test.
        [sys.executable, "-P", *options, "-c", program],
        env={**inherited, "PYTHONPATH": str(_TESTS), **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )
