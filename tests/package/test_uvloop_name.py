"""TokioLoop under the name ``uvloop``, in processes that start, and what is said of other loops."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HAS_POLICIES = sys.version_info < (3, 16)

SHOW = "import asyncio, sys\nasync def show(): print(type(asyncio.get_running_loop()).__name__)\n"


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the interpreter with some environment variables set."""
    unset = {"RLOOP_INSTALL", "RLOOP_AS_UVLOOP", "RLOOP_THREADS"}
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**inherited, **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def run_as_uvloop(folder: Path, program: str) -> list[str]:
    """Run a program by `python -m rloop --as-uvloop` and return the lines that it prints."""
    script = folder / "program.py"
    script.write_text(SHOW + program)
    outcome = python("-m", "rloop", "--as-uvloop", str(script))
    assert (outcome.returncode, outcome.stderr) == (0, ""), outcome.stderr
    return outcome.stdout.splitlines()


PROGRAMS = {
    "run": "import uvloop\nuvloop.run(show())",
    "factory": "import uvloop\nuvloop.run(show(), loop_factory=uvloop.new_event_loop)",
    "class": "import uvloop\nuvloop.run(show(), loop_factory=uvloop.Loop)",
    "submodule": "import uvloop.loop\nuvloop.run(show(), loop_factory=uvloop.loop.Loop)",
    "from import": "from uvloop import run\nrun(show(), debug=True)",
    "import_module": "import importlib\nimportlib.import_module('uvloop').run(show())",
    "anyio": "import anyio\nanyio.run(show, backend_options={'use_uvloop': True})",
    "uvicorn": """
import uvicorn
factory = uvicorn.Config(None, loop="uvloop").get_loop_factory()
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(show())
""",
    "uvicorn auto": """
import importlib.util, uvicorn
assert importlib.util.find_spec("uvloop").name == "uvloop"
factory = uvicorn.Config(None, loop="auto").get_loop_factory()
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(show())
""",
    "child process": """
import subprocess
child = "import asyncio, uvloop; print(uvloop.Loop.__name__)"
subprocess.run([sys.executable, "-c", child], check=True)
asyncio.run(asyncio.sleep(0))
""",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_that_asks_for_uvloop_gets_tokioloop(program: str, tmp_path: Path) -> None:
    assert run_as_uvloop(tmp_path, program) == ["TokioLoop"]


@pytest.mark.skipif(not HAS_POLICIES, reason="Python 3.16 has no policies")
@pytest.mark.parametrize(
    "program",
    ["asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())", "uvloop.install()"],
    ids=["policy", "install"],
)
def test_the_policy_of_uvloop_is_that_of_tokioloop(program: str, tmp_path: Path) -> None:
    quietly = "import warnings, uvloop\nwarnings.simplefilter('ignore')\n"
    assert run_as_uvloop(tmp_path, f"{quietly}{program}\nasyncio.run(show())") == ["TokioLoop"]


def test_a_run_inside_a_running_loop_is_refused(tmp_path: Path) -> None:
    program = """
import uvloop
async def nest():
    coroutine = show()
    try:
        uvloop.run(coroutine)
    except RuntimeError as error:
        print(error)
    coroutine.close()
uvloop.run(nest())
"""
    expected = "uvloop.run() cannot be called from a running event loop"
    assert run_as_uvloop(tmp_path, program) == [expected]


def test_uvloop_that_is_imported_already_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").touch()
    (tmp_path / "program.py").write_text("import rloop, uvloop\nrloop.as_uvloop()\n")
    outcome = python(str(tmp_path / "program.py"))
    assert outcome.returncode == 1
    assert "RuntimeError: uvloop is imported already" in outcome.stderr


def test_the_real_uvloop_is_found_unless_it_is_asked_otherwise(tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("print('real')\n")
    (tmp_path / "program.py").write_text("import asyncio, uvloop\nasyncio.run(asyncio.sleep(0))\n")
    outcome = python("-m", "rloop", str(tmp_path / "program.py"))
    assert (outcome.stdout, outcome.stderr) == ("real\n", "")


@pytest.mark.parametrize(
    ("value", "loop"), [("1", "TokioLoop"), ("0", "_UnixSelectorEventLoop"), ("", None)]
)
def test_the_environment_makes_tokioloop_the_default_of_a_child(
    value: str, loop: str | None
) -> None:
    outcome = python("-c", f"{SHOW}\nasyncio.run(show())", RLOOP_INSTALL=value)
    assert outcome.stdout == f"{loop or '_UnixSelectorEventLoop'}\n", outcome.stderr
    assert outcome.stderr == ""


def test_an_interpreter_that_is_asked_for_nothing_imports_nothing() -> None:
    outcome = python("-c", "import sys; print([name for name in sys.modules if 'rloop' in name])")
    assert outcome.stdout == "[]\n"


def test_the_environment_answers_uvloop_in_a_child() -> None:
    outcome = python("-c", f"{SHOW}\nimport uvloop\nuvloop.run(show())", RLOOP_AS_UVLOOP="1")
    assert (outcome.stdout, outcome.stderr) == ("TokioLoop\n", "")


@pytest.mark.parametrize("name", ["RLOOP_INSTALL", "RLOOP_AS_UVLOOP"])
def test_a_value_that_means_nothing_is_named(name: str) -> None:
    outcome = python("-c", "", **{name: "yes"})
    assert f"the environment variable {name} must be 0 or 1, not 'yes'" in outcome.stderr


def said_of(folder: Path, program: str) -> list[str]:
    """Run a program by `python -m rloop` and return the lines on its standard error."""
    script = folder / "program.py"
    script.write_text(SHOW + program)
    return python("-m", "rloop", str(script)).stderr.splitlines()


def test_another_loop_is_named_once(tmp_path: Path) -> None:
    program = """
for _ in range(2):
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(show())
asyncio.run(show())
"""
    (said,) = said_of(tmp_path, program)
    assert "runs on asyncio.unix_events._UnixSelectorEventLoop, not on TokioLoop" in said
    assert "rloop.new_event_loop()" in said


def test_the_switch_of_uvicorn_is_named(tmp_path: Path) -> None:
    program = """
import uvicorn
factory = uvicorn.Config(None, loop="asyncio").get_loop_factory()
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(show())
"""
    (said,) = said_of(tmp_path, program)
    assert "give uvicorn the option '--loop rloop:new_event_loop'" in said


def test_the_switch_for_uvloop_is_named(tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text(
        "import asyncio\nclass Loop(asyncio.SelectorEventLoop): ...\n"
    )
    program = """
import uvloop
with asyncio.Runner(loop_factory=uvloop.Loop) as runner:
    runner.run(show())
"""
    (said,) = said_of(tmp_path, program)
    assert "runs on uvloop.Loop, not on TokioLoop. 'python -m rloop --as-uvloop'" in said


def test_a_program_without_a_loop_is_told_of_children(tmp_path: Path) -> None:
    (said,) = said_of(tmp_path, "print('no loop')")
    assert "no event loop ran in this process" in said
    assert "RLOOP_INSTALL=1" in said


def test_nothing_is_said_of_a_program_on_tokioloop(tmp_path: Path) -> None:
    program = """
asyncio.run(show())
with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
    runner.run(show())
"""
    assert said_of(tmp_path, program) == []
