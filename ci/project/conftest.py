"""What the tests of the project as a whole share: a copy of the checkout, and a nix.

The ``project`` session of noxfile.py runs them, once and not for each interpreter. They work on
copies, because some break what they test, and because nox and nix leave files behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
STUB = "ci/project/nixpkgs-stub"

Finished = subprocess.CompletedProcess[str]
Nix = Callable[..., Finished]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what is, or will be when it is added, under version control."""
    listed = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        text=True,
    )
    copy = tmp_path / "checkout"
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture
def nix(checkout: Path) -> Nix:
    """Call nix in the copy, with the stub in place of nixpkgs unless ``stub=False``."""

    def call(*arguments: str, stub: bool = True) -> Finished:
        command = [str(ROOT / "ci" / "nix"), *arguments]
        if stub:
            command[3:3] = ["--override-input", "nixpkgs", f"path:{checkout / STUB}"]
            command[3:3] = ["--no-write-lock-file"]
        return subprocess.run(command, capture_output=True, check=False, cwd=checkout, text=True)

    return call


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment for a nox that is not the one that runs these tests."""
    inherited = dict(os.environ)
    for name in ("CI", "GITHUB_ACTIONS", "NOX_CURRENT_SESSION", "VIRTUAL_ENV"):
        inherited.pop(name, None)
    return inherited | {"UV_PYTHON_DOWNLOADS": "never"}
