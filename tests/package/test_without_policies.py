"""`rloop.install()` and `python -m rloop` on a Python without event loop policies, as 3.16 is.

A ``sitecustomize`` module takes the policies out of the interpreter before anything else runs.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: What Python 3.16 removes, from the modules that have it.
REMOVE = """
import asyncio
import threading
from asyncio import events, unix_events

NAMES = (
    "AbstractEventLoopPolicy", "BaseDefaultEventLoopPolicy", "DefaultEventLoopPolicy",
    "get_event_loop_policy", "set_event_loop_policy",
)
PRIVATE_NAMES = (
    "_AbstractEventLoopPolicy", "_BaseDefaultEventLoopPolicy", "_DefaultEventLoopPolicy",
    "_UnixDefaultEventLoopPolicy", "_get_event_loop_policy", "_set_event_loop_policy",
    "_event_loop_policy", "_init_event_loop_policy",
)

def remove(names):
    for module in (asyncio, events, unix_events):
        for name in names:
            vars(module).pop(name, None)
    # It makes the deprecated names on demand.
    vars(asyncio).pop("__getattr__", None)
"""

#: The functions of asyncio that used the policy, as they are without one.
REPLACE = """
class Current(threading.local):
    event_loop = None

current = Current()

def new_event_loop():
    return asyncio.EventLoop()

def set_event_loop(event_loop):
    current.event_loop = event_loop

def get_event_loop():
    running = events._get_running_loop()
    if running is not None:
        return running
    if current.event_loop is None:
        raise RuntimeError("There is no current event loop")
    return current.event_loop

asyncio.EventLoop = asyncio.SelectorEventLoop
for function in (new_event_loop, set_event_loop, get_event_loop):
    for module in (asyncio, events):
        setattr(module, function.__name__, function)
remove(NAMES + PRIVATE_NAMES)
"""

#: Functions that still use what only private names refer to: they look no public name up.
KEEP_FUNCTIONS = """
remove(NAMES)
"""

WAYS = {"names are looked up": REMOVE + REPLACE, "functions are kept": REMOVE + KEEP_FUNCTIONS}

SHOW = """
import asyncio, sys, warnings

def shards(loop):
    return len(loop.statistics()) if hasattr(loop, "statistics") else 0

async def main():
    loop = asyncio.get_running_loop()
    assert asyncio.get_event_loop() is loop
    return shards(loop)

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "a loop with", RuntimeWarning)
    made = [asyncio.run(main())]
    with asyncio.Runner() as runner:
        made.append(runner.run(main()))
    loop = asyncio.new_event_loop()
    made.append(shards(loop))
    loop.close()
    loop = asyncio.EventLoop()
    made.append(shards(loop))
    assert isinstance(loop, asyncio.EventLoop)
    loop.close()
print(made, hasattr(asyncio, "set_event_loop_policy"))
"""

INSTALL = "import rloop\nrloop.install()\n"


@pytest.fixture(params=WAYS)
def interpreter(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder whose ``sitecustomize`` takes the policies away."""
    if sys.version_info < (3, 14) and request.param == "functions are kept":
        pytest.skip("the functions of this version call the public ones")
    (tmp_path / "sitecustomize.py").write_text(WAYS[request.param])
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    """Run Python, with warnings as errors, in the folder; return what it prints."""
    outcome = subprocess.run(
        [sys.executable, "-P", "-W", "error", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def test_without_rloop_asyncio_makes_its_own_loops(interpreter: Path) -> None:
    assert run(interpreter, "-c", SHOW) == "[0, 0, 0, 0] False\n"


def test_install_makes_asyncio_run_use_tokio_loops(interpreter: Path) -> None:
    assert run(interpreter, "-c", INSTALL + SHOW) == "[1, 1, 1, 1] False\n"


def test_install_changes_a_function_that_was_imported_before(interpreter: Path) -> None:
    early = "from asyncio import new_event_loop\n"
    late = "loop = new_event_loop()\nprint(hasattr(loop, 'statistics'))\nloop.close()\n"
    made = run(interpreter, "-c", early + INSTALL + late)
    looks_up = "return asyncio.EventLoop()" in (interpreter / "sitecustomize.py").read_text()
    assert made == f"{looks_up}\n"


def test_the_command_line_makes_a_program_use_tokio_loops(interpreter: Path) -> None:
    (interpreter / "show.py").write_text(SHOW)
    assert run(interpreter, "-m", "rloop", "show.py") == "[1, 1, 1, 1] False\n"


@pytest.mark.skipif(sys.version_info < (3, 14), reason="a loop of several threads needs 3.14")
def test_the_command_line_gives_each_loop_its_threads(interpreter: Path) -> None:
    # It warns on a build with the GIL.
    quietly = ("-W", "ignore::RuntimeWarning")
    (interpreter / "show.py").write_text(SHOW)
    made = run(interpreter, *quietly, "-m", "rloop", "--threads", "2", "show.py")
    assert made == "[2, 2, 2, 2] False\n"
    # The last one who says how to make loops counts.
    (interpreter / "show.py").write_text(INSTALL + SHOW)
    made = run(interpreter, *quietly, "-m", "rloop", "--threads", "2", "show.py")
    assert made == "[1, 1, 1, 1] False\n"


def test_the_policy_class_is_not_there(interpreter: Path) -> None:
    program = (
        "import rloop\n"
        "print(hasattr(rloop, 'EventLoopPolicy'), 'EventLoopPolicy' in rloop.__all__)\n"
        "from rloop import *\n"
    )
    assert run(interpreter, "-c", program) == "False False\n"


def test_what_needs_no_policy_works_as_ever(interpreter: Path) -> None:
    program = (
        "import asyncio, rloop\n"
        "async def main():\n"
        "    child = await asyncio.create_subprocess_exec('true')\n"
        "    return await child.wait(), type(asyncio.get_running_loop()).__name__\n"
        "print(rloop.run(main()))\n"
        "with asyncio.Runner(loop_factory=rloop.new_event_loop) as runner:\n"
        "    print(runner.run(main()))\n"
    )
    assert run(interpreter, "-c", program) == "(0, 'TokioLoop')\n" * 2
