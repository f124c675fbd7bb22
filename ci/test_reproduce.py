"""Tests of ci/reproduce.py: the comparison of two archives, and the kinds of wheels."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from reproduce import c_library, differ

Members = dict[str, bytes]


def make_wheel(path: Path, members: Members, *, year: int = 1980) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, contents in members.items():
            wheel.writestr(zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0)), contents)
    return path


def make_sdist(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w:gz") as sdist:
        for name, contents in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(contents)
            sdist.addfile(info, io.BytesIO(contents))
    return path


def test_equal_archives_do_not_differ(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = make_wheel(tmp_path / "a.whl", {"module.so": b"code"})
    second = make_wheel(tmp_path / "b.whl", {"module.so": b"code"})
    assert not differ(first, second, tmp_path)
    sums = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert [name for _, name in sums] == [str(first), str(second)]
    assert sums[0][0] == sums[1][0]


@pytest.mark.parametrize(("make", "suffix"), [(make_wheel, ".whl"), (make_sdist, ".tar.gz")])
def test_differing_and_missing_members_are_named(
    make: Callable[[Path, Members], Path],
    suffix: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    first = make(tmp_path / f"a{suffix}", {"same": b"1", "folder/module.so": b"2", "one": b""})
    second = make(tmp_path / f"b{suffix}", {"same": b"1", "folder/module.so": b"3"})
    assert differ(first, second, tmp_path)
    shown = capfd.readouterr().out
    assert f"Files {tmp_path}/first/folder/module.so and" in shown
    assert f"Only in {tmp_path}/first: one" in shown
    assert "same" not in shown


def test_a_difference_outside_the_contents_is_left_to_diffoscope(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = make_wheel(tmp_path / "a.whl", {"module.so": b"code"})
    second = make_wheel(tmp_path / "b.whl", {"module.so": b"code"}, year=2026)
    assert differ(first, second, tmp_path)
    assert f"'diffoscope {first} {second}'" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("platform", "library"),
    [
        ("manylinux2014_x86_64.manylinux_2_17_x86_64", "gnu"),
        ("musllinux_1_2_aarch64", "musl"),
        ("macosx_11_0_arm64", "system"),
    ],
)
def test_the_c_library_of_a_wheel_is_told_by_its_name(platform: str, library: str) -> None:
    assert c_library(Path(f"tokioloop-0.1.0-cp315-cp315t-{platform}.whl")) == library
