"""What nox and the scripts behind it say when something is missing or wrong: that, and no more."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Finished


def run_nox(checkout: Path, environment: dict[str, str], *arguments: str) -> Finished:
    return subprocess.run(
        [sys.executable, "-m", "nox", *arguments],
        check=False,
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def make_program(path: Path, answer: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{answer}'\n", encoding="utf-8")
    path.chmod(0o755)


def test_an_unknown_interpreter_is_an_error(checkout: Path, environment: dict[str, str]) -> None:
    finished = run_nox(checkout, environment, "-s", "tests-3.2")
    assert finished.returncode != 0
    assert "Sessions not found: tests-3.2" in finished.stdout


def test_an_interpreter_that_is_asked_for_and_missing_is_an_error(
    checkout: Path, environment: dict[str, str]
) -> None:
    finished = run_nox(checkout, environment, "-s", "wheel", "--force-python=3.2")
    assert finished.returncode != 0
    assert "Python interpreter 3.2 not found" in finished.stdout


@pytest.mark.parametrize(
    ("variables", "outcome"),
    [({"CI": "true"}, "skipped"), ({"CI": "true", "GITHUB_ACTIONS": "true"}, "failed")],
)
def test_an_interpreter_of_the_workflows_may_be_missing_elsewhere(
    variables: dict[str, str],
    outcome: str,
    checkout: Path,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    (checkout / "ci" / "matrix.json").write_text('["3.15t"]', encoding="utf-8")
    # Nothing is on PATH, so no interpreter is found but the running one, and no wheel is built.
    finished = run_nox(checkout, environment | variables | {"PATH": str(tmp_path)}, "-s", "wheel")
    assert re.search(rf"Session wheel-3\.15t {outcome}.*3\.15t not found", finished.stdout)


def test_missing_rust_is_named(checkout: Path, environment: dict[str, str], tmp_path: Path) -> None:
    finished = run_nox(checkout, environment | {"PATH": str(tmp_path)}, "-s", "rust")
    assert finished.returncode != 0
    assert "cargo is not on PATH. Rust 1." in finished.stdout
    assert "Traceback" not in finished.stdout


def test_rust_that_is_too_old_is_refused(
    checkout: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    make_program(tmp_path / "old" / "cargo", "cargo 1.70.0")
    make_program(tmp_path / "old" / "rustc", "rustc 1.70.0")
    finished = run_nox(checkout, environment | {"PATH": str(tmp_path / "old")}, "-s", "rust")
    assert finished.returncode != 0
    assert "rustc 1.70 is too old" in finished.stdout


def test_another_maturin_is_refused(
    checkout: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    make_program(tmp_path / "old" / "maturin", "maturin 1.2.3")
    finished = subprocess.run(
        [sys.executable, "ci/build.py", "sdist", f"--out={tmp_path}"],
        capture_output=True,
        check=False,
        cwd=checkout,
        env=environment | {"PATH": str(tmp_path / "old")},
        text=True,
    )
    assert finished.returncode == 1
    assert finished.stderr.startswith("maturin ")
    assert finished.stderr.rstrip().endswith("is needed, and the one on PATH is 1.2.3")


def test_uncommitted_changes_cannot_be_reproduced(checkout: Path) -> None:
    git = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *arguments], check=True, cwd=checkout)
    (checkout / "src" / "new.rs").touch()
    command = [sys.executable, "ci/reproduce.py", "--interpreter=i", "--sdist=s", "--wheel=w"]
    finished = subprocess.run(command, capture_output=True, check=False, cwd=checkout, text=True)
    assert finished.returncode == 1
    assert "changes that are not committed" in finished.stderr
    assert "src/new.rs" in finished.stderr
    assert "Traceback" not in finished.stderr
