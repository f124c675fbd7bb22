"""Tests of ci/distribution.py: what it refuses, and the checksums that it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import distribution

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="auditwheel judges Linux wheels")


SYMBOLS = {"libc.so.6": ["GLIBC_2.17"], "libgcc_s.so.1": ["GCC_3.0"]}
MUSL = "musllinux_1_2_x86_64"


def answer_with(
    monkeypatch: pytest.MonkeyPatch,
    tag: str,
    symbols: dict[str, list[str]] = SYMBOLS,
    libraries: Sequence[str] = (),
) -> None:
    """Let auditwheel call every wheel `tag`, and find `symbols` and `libraries` in it."""
    answer = json.dumps(
        {
            "overall_tag": tag,
            "sym_tag": MUSL,
            "versioned_symbols": symbols,
            "external_libs": dict.fromkeys(libraries),
        }
    )

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:2] == ["auditwheel", "show"]
        return subprocess.CompletedProcess(command, 0, answer)

    monkeypatch.setattr(subprocess, "run", run)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "tokioloop-1.0-cp314-cp314t-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
    path.write_bytes(b"wheel")
    return path


def test_a_wheel_that_needs_a_newer_library_than_it_says_is_refused(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, "manylinux_2_34_x86_64")
    with pytest.raises(SystemExit, match="manylinux_2_34_x86_64: it does not run where it says"):
        distribution.write_verdict(wheel)
    assert list(wheel.parent.iterdir()) == [wheel]


def test_a_wheel_with_its_own_unwinder_is_refused(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, "manylinux_2_17_x86_64", {"libc.so.6": ["GLIBC_2.17"]})
    with pytest.raises(SystemExit, match="brings its own unwinder"):
        distribution.write_verdict(wheel)


@pytest.fixture
def musl_wheel(tmp_path: Path) -> Path:
    path = tmp_path / f"tokioloop-1.0-cp315-cp315-{MUSL}.whl"
    path.write_bytes(b"wheel")
    return path


def test_a_musl_wheel_may_need_the_c_library_by_the_name_that_zig_gives_it(
    musl_wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, "linux_x86_64", {}, ["libc.so"])
    distribution.write_verdict(musl_wheel)
    assert musl_wheel.with_name(f"{musl_wheel.name}.auditwheel.json").exists()


@pytest.mark.parametrize("library", ["libgcc_s.so.1", "libz.so.1"])
def test_a_musl_wheel_that_needs_another_library_is_refused(
    library: str, musl_wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, "linux_x86_64", {}, ["libc.so", library])
    with pytest.raises(SystemExit, match="linux_x86_64: it does not run where it says"):
        distribution.write_verdict(musl_wheel)


def test_the_verdict_lies_beside_the_wheel(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, "manylinux_2_17_x86_64")
    distribution.write_verdict(wheel)
    verdict = wheel.with_name(f"{wheel.name}.auditwheel.json")
    assert json.loads(verdict.read_text(encoding="utf-8"))["overall_tag"] == "manylinux_2_17_x86_64"


def test_the_checksums_are_what_sha256sum_checks(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distribution, "DIST", wheel.parent)
    distribution.write_sums()
    distribution.write_sums()
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    checked = subprocess.run(check, capture_output=True, check=True, cwd=wheel.parent, text=True)
    assert checked.stdout.splitlines() == [f"{wheel.name}: OK"]
