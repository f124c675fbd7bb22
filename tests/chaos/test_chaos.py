"""A short form of ``nox -s chaos``: random sequences with failures break no promise of the loop."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("run.py")


def run(*options: str) -> None:
    ended = subprocess.run(
        [sys.executable, PROGRAM, *options],
        env={name: value for name, value in os.environ.items() if name != "RLOOP_THREADS"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_random_sequences_break_no_promise(loop_name: str) -> None:
    run(f"--loop={loop_name}", "--sequences=60")


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.skipif(sys.version_info < (3, 14), reason="a loop of several threads needs 3.14")
def test_random_sequences_break_no_promise_on_two_threads() -> None:
    run("--threads=2", "--sequences=60")
