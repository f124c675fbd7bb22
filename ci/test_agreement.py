"""What is written in two places, because each tool reads its own, is the same in both."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path
from typing import Any

from build import build_environment

ROOT = Path(__file__).resolve().parent.parent
MATRIX: list[str] = json.loads((ROOT / "ci" / "matrix.json").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NOXFILE = (ROOT / "noxfile.py").read_text(encoding="utf-8")


def locked(group: str, package: str) -> str:
    """Return the version of `package` in the lock file of a dependency group."""
    text = (ROOT / "ci" / "requirements" / f"{group}.txt").read_text(encoding="utf-8")
    (version,) = re.findall(rf"^{package}==(\S+)", text, re.MULTILINE)
    return str(version)


def test_nox_has_one_version() -> None:
    (in_group,) = PROJECT["dependency-groups"]["nox"]
    in_script = re.findall(r'^# dependencies = \["(.+)"\]$', NOXFILE, re.MULTILINE)
    at_least = re.findall(r'^nox\.needs_version = ">=(.+)"$', NOXFILE, re.MULTILINE)
    version = locked("nox", "nox")
    assert in_group == f"nox[uv]=={version}"
    assert in_script == [in_group]
    assert at_least == [version]


def test_maturin_has_one_version() -> None:
    required = f"maturin=={locked('build', 'maturin')}"
    assert PROJECT["build-system"]["requires"] == [required]
    assert required in PROJECT["dependency-groups"]["build"]


def test_verifiers_are_told_the_compiler_of_releases() -> None:
    workflow = (ROOT / ".github" / "workflows" / "wheels.yml").read_text(encoding="utf-8")
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (in_workflow,) = re.findall(r'RUSTUP_TOOLCHAIN: "(.+)"', workflow)
    assert re.findall(r"RUSTUP_TOOLCHAIN=(\S+)", guide) == [in_workflow]


def test_every_action_and_image_is_pinned_by_its_digest() -> None:
    pins = []
    for path in (ROOT / ".github" / "workflows").iterdir():
        text = path.read_text(encoding="utf-8")
        pins += re.findall(r"^ *-? *(?:uses|image): (.+)$", text, re.MULTILINE)
    assert pins
    for pin in pins:
        commit = r"[\w./-]+@[0-9a-f]{40} # v[\d.]+"
        image = r"[\w./-]+@sha256:[0-9a-f]{64} # [\d.-]+"
        assert re.fullmatch(rf"\./[\w./]+|{commit}|{image}", pin), pin


def test_every_dependency_group_has_a_lock_file() -> None:
    files = {path.stem for path in (ROOT / "ci" / "requirements").iterdir()}
    in_noxfile = re.findall(r"^LOCKS = (\([^)]*\))$", NOXFILE, re.MULTILINE)
    assert files == set(PROJECT["dependency-groups"]) == set(ast.literal_eval(in_noxfile[0]))


def test_the_package_has_one_version() -> None:
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))
    package = (ROOT / "rloop" / "_installation.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^VERSION = "(.+)"$', package, re.MULTILINE)
    assert version == manifest["workspace"]["package"]["version"]


def test_an_installation_from_the_sdist_has_the_flags_of_the_wheels() -> None:
    environment = build_environment(ROOT, {})
    rust, c = PROJECT["tool"]["maturin"]["config"]
    (flag,) = tomllib.loads(rust)["build"]["rustflags"]
    assert flag in environment["CARGO_ENCODED_RUSTFLAGS"].split("\x1f")
    assert tomllib.loads(c)["env"]["CFLAGS"] == environment["CFLAGS"]
    flake = (ROOT / "flake.nix").read_text(encoding="utf-8")
    assert f'CFLAGS = "{environment["CFLAGS"]}"' in flake
    assert f'RUSTFLAGS = "{flag}"' in flake


def test_the_package_says_which_versions_it_supports() -> None:
    prefix = "Programming Language :: Python :: 3."
    classifiers = {each for each in PROJECT["project"]["classifiers"] if each.startswith(prefix)}
    assert classifiers == {f"{prefix}{tag[2:]}" for tag in MATRIX if not tag.endswith("t")}
    assert PROJECT["project"]["requires-python"] == f">={MATRIX[0]}"


def read_by_the_build() -> set[Path]:
    """Return the files and folders that cargo and maturin read when they build a wheel."""
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["workspace"]
    return {
        *(path for pattern in workspace["members"] for path in ROOT.glob(pattern)),
        *(ROOT / name for name in ("Cargo.lock", "Cargo.toml", "build.rs", "src")),
        *(ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE", "rloop")),
    }


def missing_from(sources: set[Path]) -> set[Path]:
    """Return what the build reads and `sources` do not name or contain."""
    return {path for path in read_by_the_build() if not sources & {path, *path.parents}}


def test_nix_builds_from_all_that_cargo_and_maturin_read() -> None:
    flake = (ROOT / "flake.nix").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^ +sources = \[\n(.+?)\];", flake, re.MULTILINE | re.DOTALL)
    assert not missing_from({ROOT / path for path in re.findall(r"\./(\S+)", listed)})


def test_nox_builds_a_wheel_anew_when_anything_it_is_built_from_changes() -> None:
    (listed,) = re.findall(r"^WHEEL_SOURCES = (\(.+?^\))$", NOXFILE, re.MULTILINE | re.DOTALL)
    # The load generator is a member of the workspace, and in no wheel.
    assert missing_from({ROOT / name for name in ast.literal_eval(listed)}) == {
        ROOT / "benches" / "loadgen"
    }


def test_the_tests_that_the_safety_page_names_are_there() -> None:
    page = (ROOT / "docs" / "safety.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)`: ((?:`test_\w+`(?:, )?)+)", page)
    assert named
    for file, names in named:
        module = ast.parse((ROOT / "tests" / "shards" / file).read_text(encoding="utf-8"))
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        defined = {each.name for each in ast.walk(module) if isinstance(each, functions)}
        assert set(re.findall(r"test_\w+", names)) <= defined, file
