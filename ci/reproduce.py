"""Builds the sdist and wheels a second time, elsewhere, and compares them with the first ones.

Called by the ``reproduce`` session of noxfile.py, in the environment that the first was built in.

The second build begins with a clone of HEAD: sdist, and the wheels from the unpacked sdist. It has
another folder, another CARGO_HOME, another file mode mask, another time zone and times of files,
and nothing compiled in common with the first. So equal bytes mean that the wheel is a function of
the commit and the pinned tools, and that the sdist builds the same wheel. Wheels of the other
interpreters reuse what was compiled here of the dependencies; this project's crates are compiled
anew each time.

Usage: python ci/reproduce.py --interpreter PATH --sdist PATH --wheel PATH [--wheel PATH]
Exit status 1, with a message: the working tree is not the commit, or the bytes differ. Members with
different contents are named; order, times and modes of members are left to diffoscope.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rloop"
UMASK = 0o077
TIME_ZONE = "Pacific/Kiritimati"


def check_tree() -> None:
    """End the program unless the working tree is exactly a commit."""
    status = subprocess.run(
        ["git", "status", "--porcelain"], capture_output=True, check=False, cwd=ROOT, text=True
    )
    if status.returncode != 0:
        sys.exit(f"a build can be repeated from a commit only: {status.stderr.strip()}")
    if status.stdout:
        sys.exit(
            "the working tree has changes that are not committed, and what is not in a commit "
            f"cannot be built again:\n{status.stdout.rstrip()}"
        )


def second_build(work: Path, interpreter: Path, libraries: list[str]) -> dict[str, Path]:
    """Build in the folder `work`, a wheel for each of the C libraries; returns archives by name."""
    home, out = work / "cargo-home", work / "out"
    for folder in (work / "clone", work / "unpacked", out):
        shutil.rmtree(folder, ignore_errors=True)
    home.mkdir(exist_ok=True)
    # Where crates come from may be configured, and applies to this build too.
    settings = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo") / "config.toml"
    if settings.is_file():
        shutil.copy(settings, home)
    environment = {
        **os.environ,
        "CARGO_HOME": str(home),
        "CARGO_TARGET_DIR": str(work / "target"),
        "TZ": TIME_ZONE,
    }

    def build(source: Path, *what: str) -> None:
        command = [sys.executable, str(source / "ci" / "build.py"), *what, f"--out={out}"]
        subprocess.run(command, check=True, env=environment, umask=UMASK)

    clone = ["git", "clone", "--quiet", "--no-local", str(ROOT), str(work / "clone")]
    subprocess.run(clone, check=True, umask=UMASK)
    build(work / "clone", "sdist")
    (sdist,) = out.glob("*.tar.gz")
    source = unpack(sdist, work / "unpacked")
    for library in libraries:
        build(source, "wheel", f"--interpreter={interpreter}", f"--libc={library}")
    return {path.name: path for path in out.iterdir()}


def c_library(wheel: Path) -> str:
    """Return the C library that `wheel` is for, in the notation of build.py."""
    platform = wheel.stem.split("-")[-1]
    return {"manylinux": "gnu", "musllinux": "musl"}.get(platform[:9], "system")


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpack `sdist` into `folder`, and return the folder with the sources.

    Files get the present time instead of the one in the archive: cargo compares times, and takes
    what it compiled from an older sdist for up to date.
    """
    extract(sdist, folder)
    for path in folder.rglob("*"):
        path.touch()
    (source,) = folder.iterdir()
    return source


def extract(archive: Path, folder: Path) -> None:
    """Unpack a wheel or an sdist into `folder`."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder)
        return
    with tarfile.open(archive) as sdist:
        # Absent before 3.11.4, where extraction has no filters.
        sdist.extraction_filter = getattr(tarfile, "data_filter", None)
        sdist.extractall(folder)


def differ(first: Path, second: Path, work: Path) -> bool:
    """Print the checksums of two archives, and the members that differ; return whether any do.

    `work` is a folder for the contents of the archives.
    """
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (first, second)]
    print(f"{digests[0]}  {first}\n{digests[1]}  {second}", flush=True)
    if digests[0] == digests[1]:
        return False
    folders = [work / "first", work / "second"]
    for archive, folder in zip((first, second), folders, strict=True):
        shutil.rmtree(folder, ignore_errors=True)
        extract(archive, folder)
    subprocess.run(["diff", "-rq", *folders], check=False)
    print(f"'diffoscope {first} {second}' shows every difference", flush=True)
    return True


def main() -> None:
    """Build again what the command line names, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--interpreter", type=Path, required=True)
    parser.add_argument("--sdist", type=Path, required=True)
    parser.add_argument("--wheel", type=Path, required=True, action="append", dest="wheels")
    arguments = parser.parse_args()
    check_tree()
    work = CACHE / "reproduce" / hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:16]
    work.mkdir(parents=True, exist_ok=True)
    try:
        libraries = [c_library(wheel) for wheel in arguments.wheels]
        archives = second_build(work, arguments.interpreter, libraries)
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
    pairs = [(first, archives[first.name]) for first in (arguments.sdist, *arguments.wheels)]
    differing = [first.name for first, second in pairs if differ(first, second, work)]
    if differing:
        sys.exit(f"the builds differ: {', '.join(differing)}")


if __name__ == "__main__":
    main()
