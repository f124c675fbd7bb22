"""Builds the sdist, or the wheel of one interpreter, with the same bytes wherever it is called.

Called by noxfile.py for everything that is built, and by reproduce.py for the second build; it must
run on the standard library alone, next to the packages of ci/requirements/build.txt.

What decides the bytes is in the sources, but for the Rust compiler and the packages of
ci/requirements/build.txt: maturin, and on Linux zig, which links against the symbols of an old C
library and brings its own C compiler, so that neither the C library nor the compiler of the machine
leaves a trace. What would leave one is taken away: the time, the folders of the sources, of cargo
and of the build, and variables that change how things are compiled.

Usage: python ci/build.py sdist --out FOLDER
       python ci/build.py wheel --interpreter PATH --libc gnu|musl|system --out FOLDER
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from unwinder import make_stand_in

ROOT = Path(__file__).resolve().parent.parent

SOURCE_DATE_EPOCH = "315532800"
"""The time that is written into archives: 1980, the earliest that zip knows, as maturin's own."""

MANYLINUX, GLIBC = "manylinux2014", "2.17"
"""The oldest glibc that wheels for Linux run on: also the oldest that Rust runs on."""
MUSLLINUX = "musllinux_1_2"
"""The oldest musl that wheels for it run on: also the oldest that Rust runs on."""
MACOS = "11.0"
"""The oldest macOS that wheels for it run on: also the oldest on Apple silicon."""

UNWINDER = Path("target", "unwinder")
"""Where the stand-in for libgcc_s is made; relative to the sources (see unwinder.py)."""

DISTURBING = re.compile(
    r"C(PP|XX)?FLAGS|(CARGO_ENCODED_|CARGO_BUILD_)?RUSTFLAGS|CARGO_PROFILE_.*|CARGO_INCREMENTAL"
)
"""Environment variables that change the code that is made."""


def build_environment(source: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which the sources in `source` give the same bytes as anywhere."""
    kept = {name: value for name, value in inherited.items() if not DISTURBING.fullmatch(name)}
    cargo_home = Path(kept.get("CARGO_HOME") or Path.home() / ".cargo")
    target = Path(kept.get("CARGO_TARGET_DIR") or source / "target")
    # Frame pointers (PEP 831), for profilers. Of the prefixes, the last that fits is taken, and the
    # target folder may lie within the sources.
    flags = [
        "-Cforce-frame-pointers=yes",
        f"--remap-path-prefix={cargo_home / 'registry' / 'src'}=/cargo",
        f"--remap-path-prefix={source}=/source",
        f"--remap-path-prefix={target}=/target",
    ]
    return kept | {
        "CARGO_ENCODED_RUSTFLAGS": "\x1f".join(flags),
        "CFLAGS": "-fno-omit-frame-pointer -mno-omit-leaf-frame-pointer",
        "CARGO_TARGET_DIR": str(target),
        "MACOSX_DEPLOYMENT_TARGET": MACOS,
        "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH,
    }


def check_maturin(source: Path, environment: Mapping[str, str]) -> None:
    """End the program unless the maturin on PATH is the one that pyproject.toml asks for.

    Another one may well build a wheel, but not the same.
    """
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = project["build-system"]["requires"][0].partition("==")[2]
    try:
        answer = subprocess.run(
            ["maturin", "--version"], capture_output=True, check=True, env=environment, text=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"maturin {wanted} is needed, and none runs: {error}")
    found = answer.stdout.split()[-1]
    if found != wanted:
        sys.exit(f"maturin {wanted} is needed, and the one on PATH is {found}")


def command(arguments: argparse.Namespace) -> list[str]:
    """Return the call of maturin that builds what is asked for."""
    out = f"--out={arguments.out.resolve()}"
    if arguments.what == "sdist":
        return ["maturin", "sdist", out]
    build = ["maturin", "build", "--release", "--locked", out]
    if arguments.libc == "musl":
        # For another target maturin wants the interpreter's name, and knows the rest. zig's static
        # unwinder does no harm here: musl ends threads without unwinding (see unwinder.py).
        target = f"--target={platform.machine()}-unknown-linux-musl"
        name = f"--interpreter=python{tag(arguments.interpreter)}"
        return [*build, target, name, "--zig", f"--compatibility={MUSLLINUX}"]
    build.append(f"--interpreter={arguments.interpreter}")
    if arguments.libc == "system":
        return build
    target = f"{platform.machine()}-linux-gnu.{GLIBC}"
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", target]
    library = make_stand_in(arguments.source.resolve() / UNWINDER, compiler)
    link = f"link-arg={UNWINDER / library.name}"
    return [*build, "--zig", f"--compatibility={MANYLINUX}", "--", "-C", link]


def tag(interpreter: Path) -> str:
    """Return version and build of `interpreter` in the notation of the matrix."""
    program = "import sys; print('%d.%d' % sys.version_info[:2] + sys.abiflags)"
    answer = subprocess.run([interpreter, "-I", "-c", program], check=True, stdout=subprocess.PIPE)
    return answer.stdout.decode().strip()


def main() -> int:
    """Build what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("sdist", "wheel"))
    parser.add_argument("--interpreter", type=Path, help="of the wheel")
    parser.add_argument(
        "--libc",
        choices=("gnu", "musl", "system"),
        help="the C library that the wheel is for; 'system' is the machine's own, for macOS",
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    parser.add_argument("--source", type=Path, default=ROOT, help="default: this checkout")
    arguments = parser.parse_args()
    is_wheel = arguments.what == "wheel"
    if is_wheel != (arguments.interpreter is not None) or is_wheel != (arguments.libc is not None):
        parser.error("a wheel has an interpreter and a C library, an sdist has neither")
    source = arguments.source.resolve()
    environment = build_environment(source, os.environ)
    check_maturin(source, environment)
    return subprocess.run(command(arguments), check=False, cwd=source, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
