"""Brings dist/ up to date with wheels: the sdist, an SBOM for each target, verdicts, checksums.

Called by the ``wheel`` session of noxfile.py, once for each interpreter. All files in dist/ belong
to one state of the sources, that of the sdist there: when that changes, the others are removed.

- ``NAME.tar.gz``: the sdist, which is every file under version control.
- ``NAME.whl``: the wheel; ``NAME.whl.auditwheel.json``: the report of auditwheel, on Linux. A wheel
  that needs a newer C library than its name says is refused, and so is one for glibc that has its
  own unwinder.
- ``NAME-TARGET.cdx.json``: the SBOM of the Rust code (see sbom.py).
- ``SHA256SUMS``: of all these, as ``sha256sum --check`` reads it.

Usage: python ci/distribution.py WHEEL...
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sbom import make_sbom

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
SUMS = "SHA256SUMS"
NAME = "tokioloop"
"""The name of the distribution."""


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's contents, as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def refresh_sdist() -> None:
    """Make dist/ hold the sdist of the present sources, and nothing of other ones.

    Sources that are no git checkout came from an sdist, and make no other.
    """
    DIST.mkdir(exist_ok=True)
    if not (ROOT / ".git").exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, str(ROOT / "ci" / "build.py"), "sdist", f"--out={folder}"]
        subprocess.run(build, check=True)
        (built,) = Path(folder).glob("*.tar.gz")
        present = DIST / built.name
        if not present.is_file() or sha256(present) != sha256(built):
            shutil.rmtree(DIST, ignore_errors=True)
            DIST.mkdir()
            shutil.copy2(built, present)


def write_verdict(wheel: Path) -> None:
    """Have auditwheel judge `wheel`; ends the program if it would not run, or crash, somewhere."""
    audit = ["auditwheel", "show", "--json", str(wheel)]
    shown = subprocess.run(audit, check=True, stdout=subprocess.PIPE, text=True).stdout
    judged = json.loads(shown)
    verdict = judged["overall_tag"]
    if "-musllinux_" in wheel.name and set(judged["external_libs"]) == {"libc.so"}:
        # zig's name of musl, which musl's loader takes for itself. auditwheel knows Alpine's only.
        verdict = judged["sym_tag"]
    if "-manylinux" in wheel.name and "libgcc_s.so.1" not in judged["versioned_symbols"]:
        sys.exit(f"{wheel.name} brings its own unwinder: see ci/unwinder.py")
    if verdict not in wheel.stem.split("-")[-1].split("."):
        sys.exit(f"auditwheel calls {wheel.name} {verdict}: it does not run where it says")
    wheel.with_name(f"{wheel.name}.auditwheel.json").write_text(shown, encoding="utf-8")
    print(f"auditwheel: {wheel.name} is {verdict}")


def write_sbom(wheel: Path) -> None:
    """Write the SBOM of the Rust code in `wheel`, for its target."""
    rustc = subprocess.run(["rustc", "-vV"], check=True, stdout=subprocess.PIPE, text=True).stdout
    target = re.findall(r"^host: (.+)$", rustc, re.MULTILINE)[0]
    if "-musllinux_" in wheel.name:
        target = target.replace("-gnu", "-musl")
    version = wheel.name.split("-")[1]
    answer = subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={target}"],
        check=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    properties = {"rustc": rustc.splitlines()[0], "target": target}
    properties["maturin"] = importlib.metadata.version("maturin")
    if sys.platform == "linux":
        properties["zig"] = importlib.metadata.version("ziglang")
    document = make_sbom(NAME, json.loads(answer.stdout), ROOT / "Cargo.lock", properties)
    text = json.dumps(document, indent=2) + "\n"
    (DIST / f"{NAME}-{version}-{target}.cdx.json").write_text(text, encoding="utf-8")


def write_sums() -> None:
    """Write the checksums of everything in dist/."""
    paths = sorted(path for path in DIST.iterdir() if path.name != SUMS)
    lines = [f"{sha256(path)}  {path.name}\n" for path in paths]
    (DIST / SUMS).write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Do what the module says for the wheels that the command line names."""
    wheels = [Path(argument) for argument in sys.argv[1:]]
    try:
        refresh_sdist()
        for wheel in wheels:
            shutil.copy2(wheel, DIST)
            if sys.platform == "linux":
                write_verdict(DIST / wheel.name)
            write_sbom(wheel)
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
    write_sums()
    for wheel in wheels:
        print(f"{sha256(DIST / wheel.name)}  dist/{wheel.name}")


if __name__ == "__main__":
    main()
