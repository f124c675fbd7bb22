"""The flake, by a real nix: lock, names, structure and matrix, with a stub in place of nixpkgs.

What the stub cannot show, that things build and pass on nixpkgs, is left to ``nix flake check``
where nixpkgs can be fetched.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import Finished, Nix

SYSTEMS = {"x86_64-linux", "aarch64-linux", "aarch64-darwin"}
NAMES = "builtins.mapAttrs (system: builtins.attrNames)"


def output_of(finished: Finished) -> Any:
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def check_matrix(nix: Nix, checkout: Path, environment: dict[str, str]) -> None:
    """Assert that the flake has an output of each kind for each interpreter of nox's sessions."""
    listed = subprocess.run(
        [sys.executable, "-m", "nox", "--list", "--json"],
        capture_output=True,
        check=True,
        cwd=checkout,
        env=environment,
        text=True,
    )
    tags = {each["python"] for each in json.loads(listed.stdout) if each["name"] == "tests"}
    short = {tag.replace(".", "") for tag in tags}
    wanted = {
        "checks": {f"tests-cp{tag}" for tag in short},
        "devShells": {f"python{tag}" for tag in short},
        "packages": {
            f"{kind}{tag}" for kind in ("python", "rloop-python", "wheel-cp") for tag in short
        },
    }
    manylinux = {f"manylinux-cp{tag}" for tag in short}
    for kind, names in wanted.items():
        systems = output_of(nix("eval", f".#{kind}", "--json", "--apply", NAMES))
        assert set(systems) == SYSTEMS
        for system, found in systems.items():
            linux = manylinux if kind == "packages" and system.endswith("linux") else set()
            others = {"default", "lint", "formatting"}
            assert set(found) - others == names | linux, (kind, system)


def test_the_lock_is_in_step_with_the_flake(nix: Nix, checkout: Path) -> None:
    metadata = output_of(
        nix("flake", "metadata", ".", "--json", "--no-update-lock-file", stub=False)
    )
    locked = json.loads((checkout / "flake.lock").read_text(encoding="utf-8"))
    assert metadata["locks"] == locked
    assert list(locked["nodes"]) == ["nixpkgs", "root"]


def test_a_stale_lock_is_refused(nix: Nix, checkout: Path) -> None:
    replace(checkout / "flake.nix", "NixOS/nixpkgs/nixos-unstable", "NixOS/nixpkgs/nixos-26.05")
    finished = nix("flake", "metadata", ".", "--no-update-lock-file", "--offline", stub=False)
    assert finished.returncode != 0
    assert "lock file" in finished.stderr


def test_every_output_evaluates_on_every_system(nix: Nix) -> None:
    finished = nix("flake", "check", ".", "--no-build", "--all-systems")
    assert finished.returncode == 0, finished.stderr
    shown = output_of(nix("flake", "show", ".", "--json", "--all-systems"))
    for kind in ("apps", "checks", "devShells", "formatter", "packages"):
        assert set(shown[kind]) == SYSTEMS
    for apps in shown["apps"].values():
        assert set(apps) == {"bench", "default", "demo"}


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("maturinBuildHook", "maturinBuildHok", "attribute 'maturinBuildHok' missing"),
        ("FreeThreading", "FreeThreaded", "attribute 'python314FreeThreaded' missing"),
        ("others.trustme", "others.trustmee", "attribute 'trustmee' missing"),
        ("lib.hasSuffix", "lib.hasSufix", "attribute 'hasSufix' missing"),
        ("pythonImportsCheck =", "pythonImportCheck =", "argument 'pythonImportsCheck'"),
        ("./rustfmt.toml", "./rustfmt.tml", "/rustfmt.tml does not exist"),
    ],
)
def test_a_misspelt_name_is_refused(
    nix: Nix, checkout: Path, right: str, wrong: str, message: str
) -> None:
    replace(checkout / "flake.nix", right, wrong)
    finished = nix("flake", "check", ".", "--no-build", "--all-systems")
    assert finished.returncode != 0
    assert message in finished.stderr


def test_the_shell_code_of_the_derivations_is_well_formed(nix: Nix) -> None:
    shell_code = "d: d.buildCommand or (d.buildPhase + d.checkPhase + d.installPhase)"
    code = output_of(
        nix(
            "eval",
            ".#checks.x86_64-linux",
            "--json",
            "--apply",
            f"builtins.mapAttrs (name: {shell_code})",
        )
    )
    code["manylinux"] = output_of(
        nix("eval", ".#packages.x86_64-linux.manylinux-cp314t", "--json", "--apply", shell_code)
    )
    for name, text in code.items():
        read = subprocess.run(
            ["bash", "-n"], capture_output=True, check=False, input=text, text=True
        )
        assert (read.returncode, read.stderr) == (0, ""), name
        for path in re.findall(r"/[\w./+-]+-source\S*", text):
            assert Path(path).exists(), (name, path)


OVERLAY = """
let
  stub = (import ./ci/project/nixpkgs-stub/flake.nix).outputs { self = ./.; };
  flake = (import ./flake.nix).outputs { self = ./.; nixpkgs = stub; };
  nixpkgs = stub.legacyPackages.x86_64-linux.extend flake.overlays.default;
  chosen = python: map (p: p.drvPath) (python.withPackages (p: [ p.rloop ])).packages;
  own = flake.packages.x86_64-linux;
in
{
  python314 = chosen nixpkgs.python314 == [ own.rloop-python314.drvPath ];
  python315t = chosen nixpkgs.python315FreeThreading == [ own.rloop-python315t.drvPath ];
}
"""


def test_the_overlay_gives_every_interpreter_the_package_of_the_flake(nix: Nix) -> None:
    chosen = output_of(nix("eval", "--impure", "--json", "--expr", OVERLAY, stub=False))
    assert chosen == {"python314": True, "python315t": True}


def test_nox_and_the_flake_have_the_same_matrix(
    nix: Nix, checkout: Path, environment: dict[str, str]
) -> None:
    check_matrix(nix, checkout, environment)


def test_a_flake_with_another_matrix_is_noticed(
    nix: Nix, checkout: Path, environment: dict[str, str]
) -> None:
    replace(checkout / "flake.nix", "lib.importJSON ./ci/matrix.json", '[ "3.13" "3.14" "3.14t" ]')
    with pytest.raises(AssertionError, match="checks"):
        check_matrix(nix, checkout, environment)


def test_nox_runs_in_the_shell_which_downloads_no_interpreter(nix: Nix, checkout: Path) -> None:
    script = (
        f'echo "$NOX_DOWNLOAD_PYTHON $UV_PYTHON_DOWNLOADS"; exec {sys.executable} -m nox --list'
    )
    finished = nix("develop", ".", "--command", "sh", "-c", script)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("never never" + os.linesep)
    assert "tests-3.14t" in finished.stdout
