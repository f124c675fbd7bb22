"""Tests of ci/differences.py: small archives that differ in one way each."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from differences import differences

Members = dict[str, bytes]


def make_wheel(path: Path, members: Members, *, year: int = 1980, mode: int = 0o644) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, contents in members.items():
            info = zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0))
            info.external_attr = mode << 16
            wheel.writestr(info, contents)
    return path


def make_sdist(path: Path, members: Members, *, mtime: int = 0) -> Path:
    with tarfile.open(path, "w") as sdist:
        for name, contents in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(contents), mtime
            sdist.addfile(info, io.BytesIO(contents))
    return path


def test_the_same_bytes_do_not_differ(tmp_path: Path) -> None:
    first = make_wheel(tmp_path / "a.whl", {"module.so": b"code"})
    second = make_wheel(tmp_path / "b.whl", {"module.so": b"code"})
    assert list(differences(first, second)) == []


def test_the_member_and_its_first_differing_bytes_are_named(tmp_path: Path) -> None:
    first = make_wheel(tmp_path / "a.whl", {"METADATA": b"same", "module.so": b"..../root/x.rs"})
    second = make_wheel(tmp_path / "b.whl", {"METADATA": b"same", "module.so": b"..../home/x.rs"})
    (line,) = differences(first, second)
    assert line.startswith("module.so: 14 and 14 bytes, 3 of the common ones differ, from offset 5")
    assert "b'root/x.rs' against" in line
    assert line.endswith("b'home/x.rs'")


def test_a_longer_member_differs_where_the_other_ends(tmp_path: Path) -> None:
    first = make_sdist(tmp_path / "a.tar.gz", {"README": b"text"})
    second = make_sdist(tmp_path / "b.tar.gz", {"README": b"text and more"})
    (line,) = differences(first, second)
    assert "4 and 13 bytes, 0 of the common ones differ, from offset 4" in line


def test_missing_members_are_named(tmp_path: Path) -> None:
    first = make_sdist(tmp_path / "a.tar.gz", {"both": b"", "one": b""})
    second = make_sdist(tmp_path / "b.tar.gz", {"both": b"", "other": b""})
    assert list(differences(first, second)) == [
        "one: only in the first",
        "other: only in the second",
    ]


def test_another_order_is_a_difference(tmp_path: Path) -> None:
    first = make_wheel(tmp_path / "a.whl", {"one": b"", "other": b""})
    second = make_wheel(tmp_path / "b.whl", {"other": b"", "one": b""})
    assert list(differences(first, second)) == ["the members are in another order"]


@pytest.mark.parametrize(("change", "found"), [({"year": 2026}, "time"), ({"mode": 0o755}, "mode")])
def test_what_is_said_of_a_member_is_compared(
    tmp_path: Path, change: dict[str, int], found: str
) -> None:
    first = make_wheel(tmp_path / "a.whl", {"module.so": b"code"})
    second = make_wheel(tmp_path / "b.whl", {"module.so": b"code"}, **change)
    (line,) = differences(first, second)
    assert line.startswith("module.so: ")
    assert f"{found} {'755' if found == 'mode' else '(2026'}" in line


def test_a_difference_outside_the_members_is_one(tmp_path: Path) -> None:
    first = make_wheel(tmp_path / "a.whl", {"module.so": b"code"})
    second = make_wheel(tmp_path / "b.whl", {"module.so": b"code"})
    with zipfile.ZipFile(second, "a") as wheel:
        wheel.comment = b"built by hand"
    (line,) = differences(first, second)
    assert line == "the members are the same, and the archive around them is not"
