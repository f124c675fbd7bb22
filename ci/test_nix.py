"""Tests of ci/nix on machines that have a nix, and on machines where none can be had."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "nix"


class Machine:
    """A PATH and a cache in which only what a test puts there can be found."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "path"
        self.cache = folder / "cache"
        self.path.mkdir()

    def make_program(self, name: str, script: str) -> None:
        """Put a shell script called `name` on PATH."""
        program = self.path / name
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)

    def nix(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ci/nix."""
        return subprocess.run(
            [sys.executable, SCRIPT, *arguments],
            capture_output=True,
            check=False,
            env={"PATH": str(self.path), "XDG_CACHE_HOME": str(self.cache)},
            text=True,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_an_installed_nix_gets_the_arguments_and_may_use_flakes(machine: Machine) -> None:
    answer = 'if [ "$1" = --version ]; then echo "nix (Nix) 2.31.2"; else echo "$* $NIX_CONFIG"; fi'
    machine.make_program("nix", answer)
    finished = machine.nix("flake", "check")
    assert finished.stdout.startswith("flake check")
    assert "experimental-features = nix-command flakes" in finished.stdout


@pytest.mark.parametrize("version", ["nix (Nix) 2.18.1", "nothing of the kind"])
def test_an_installed_nix_that_is_too_old_is_not_used(machine: Machine, version: str) -> None:
    machine.make_program(
        "nix", f'if [ "$1" = --version ]; then echo "{version}"; else echo used; fi'
    )
    finished = machine.nix("flake", "check")
    assert finished.returncode == 1
    assert finished.stdout == ""


def test_without_nix_and_debian_packages_it_says_so(machine: Machine) -> None:
    finished = machine.nix("flake", "check")
    assert finished.returncode == 1
    assert finished.stderr.startswith("no nix 2.26 or later on PATH, and none from Debian: ")
    assert "Traceback" not in finished.stderr


def test_nothing_usable_is_left_behind_when_fetching_fails(machine: Machine) -> None:
    machine.make_program("apt-get", "echo E: cannot be reached >&2; exit 100")
    assert machine.nix("flake", "check").returncode == 1
    assert [path for path in machine.cache.rglob("*") if path.is_file()] == []
