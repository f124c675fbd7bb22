"""`python -m rloop`: any program, with TokioLoop as its loop."""

import subprocess
import sys
from pathlib import Path

import pytest

SHOW = """
import asyncio, sys
async def main():
    return type(asyncio.get_running_loop()).__name__
print(__name__, asyncio.run(main()), sys.argv[1:])
sys.exit(3)
"""


def rloop_command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -W error -m rloop` with `arguments` in `folder`."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "rloop", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_script_runs_with_its_arguments_and_its_exit_status(tmp_path: Path) -> None:
    (tmp_path / "show.py").write_text(SHOW)
    outcome = rloop_command("show.py", "-m", "one", "--two", folder=tmp_path)
    assert outcome.stdout == "__main__ TokioLoop ['-m', 'one', '--two']\n", outcome.stderr
    assert outcome.returncode == 3


def test_a_module_runs_with_its_arguments_and_its_exit_status(tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "__init__.py").touch()
    (tmp_path / "shown" / "__main__.py").write_text(SHOW)
    outcome = rloop_command("-m", "shown", "--help", folder=tmp_path)
    assert outcome.stdout == "__main__ TokioLoop ['--help']\n", outcome.stderr
    assert outcome.returncode == 3


def test_a_script_imports_what_lies_beside_it(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.mkdir()
    (program / "beside.py").write_text("print('found')\n")
    (program / "main.py").write_text("import beside\n")
    outcome = rloop_command(str(program / "main.py"), folder=tmp_path)
    assert (outcome.returncode, outcome.stdout) == (0, "found\n"), outcome.stderr


@pytest.mark.parametrize("arguments", [(), ("-m",)], ids=["nothing", "no module"])
def test_a_command_line_that_names_no_program_is_refused(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    outcome = rloop_command(*arguments, folder=tmp_path)
    assert outcome.returncode == 2
    assert "usage:" in outcome.stderr


def test_a_script_that_is_not_there_is_named(tmp_path: Path) -> None:
    outcome = rloop_command("missing.py", folder=tmp_path)
    assert outcome.returncode != 0
    assert "missing.py" in outcome.stderr
