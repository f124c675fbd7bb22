"""Says in which members, and in which bytes of them, two wheels or two sdists differ.

Called by reproduce.py. Usage by hand: python ci/differences.py ARCHIVE ARCHIVE
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

CONTEXT = 16
"""How many bytes are shown from the first that differs."""


def members(archive: Path) -> dict[str, tuple[str, bytes]]:
    """Return what is said of each member of `archive`, time, mode and such, and its contents."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {
                info.filename: (_about_zipped(info), wheel.read(info)) for info in wheel.infolist()
            }
    with tarfile.open(archive) as sdist:
        return {
            info.name: (_about_tarred(info), stream.read() if stream else b"")
            for info in sdist.getmembers()
            for stream in [sdist.extractfile(info)]
        }


def _about_zipped(info: zipfile.ZipInfo) -> str:
    mode = f"{info.external_attr >> 16:o}"
    return f"time {info.date_time}, mode {mode}, method {info.compress_type}"


def _about_tarred(info: tarfile.TarInfo) -> str:
    return f"time {info.mtime}, mode {info.mode:o}, owner {info.uid}:{info.gid}"


def differences(first: Path, second: Path) -> Iterator[str]:
    """Yield a line for each way in which the archives differ; none iff they are the same bytes."""
    if first.read_bytes() == second.read_bytes():
        return
    left, right = members(first), members(second)
    found = False
    for line in _member_differences(left, right):
        found = True
        yield line
    if not found:
        yield "the members are the same, and the archive around them is not"


def _member_differences(
    left: dict[str, tuple[str, bytes]], right: dict[str, tuple[str, bytes]]
) -> Iterator[str]:
    for name in [name for name in left if name not in right]:
        yield f"{name}: only in the first"
    for name in [name for name in right if name not in left]:
        yield f"{name}: only in the second"
    common = [name for name in left if name in right]
    if common != [name for name in right if name in left]:
        yield "the members are in another order"
    for name in common:
        (left_about, left_bytes), (right_about, right_bytes) = left[name], right[name]
        if left_bytes != right_bytes:
            yield f"{name}: {_byte_difference(left_bytes, right_bytes)}"
        elif left_about != right_about:
            yield f"{name}: {left_about} against {right_about}"


def _byte_difference(left: bytes, right: bytes) -> str:
    pairs = zip(left, right, strict=False)
    differing = [offset for offset, (one, other) in enumerate(pairs) if one != other]
    start = differing[0] if differing else min(len(left), len(right))
    here, there = (
        f"{part.hex(' ')} {part!r}"
        for part in (left[start : start + CONTEXT], right[start : start + CONTEXT])
    )
    return (
        f"{len(left)} and {len(right)} bytes, {len(differing)} of the common ones differ, "
        f"from offset {start}: {here} against {there}"
    )


if __name__ == "__main__":
    found = list(differences(Path(sys.argv[1]), Path(sys.argv[2])))
    sys.exit("\n".join(found))
