"""Makes a stand-in for libgcc_s.so.1 that Linux wheels are linked against.

Called by build.py, and by flake.nix for its own wheels. zig has no libgcc_s: it would put an
unwinder of its own into the extension module. But a thread may end while Rust code is on its stack:
up to CPython 3.13, a daemon thread that wants to run Python at interpreter exit does. The C library
then unwinds with the process's libgcc_s, which calls into that Rust code, which must ask the same
unwinder and no other. With two, such programs crash at exit.

The stand-in has nothing but the names and their versions, which are the same since GCC 4.2; the
machine that runs the wheel has the library. It is used as ``-C link-arg=RELATIVE/PATH``, since that
comes before zig's own, and since cargo makes the arguments part of every symbol's name, so that a
folder's name would make another wheel.

Usage: python ci/unwinder.py FOLDER zig cc -target x86_64-linux-gnu.2.17
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

LIBRARY = "libgcc_s.so.1"
NAMES = {
    "DeleteException": "GCC_3.0",
    "ForcedUnwind": "GCC_3.0",
    "GetDataRelBase": "GCC_3.0",
    "GetGR": "GCC_3.0",
    "GetIP": "GCC_3.0",
    "GetLanguageSpecificData": "GCC_3.0",
    "GetRegionStart": "GCC_3.0",
    "GetTextRelBase": "GCC_3.0",
    "RaiseException": "GCC_3.0",
    "Resume": "GCC_3.0",
    "SetGR": "GCC_3.0",
    "SetIP": "GCC_3.0",
    "Backtrace": "GCC_3.3",
    "FindEnclosingFunction": "GCC_3.3",
    "GetCFA": "GCC_3.3",
    "Resume_or_Rethrow": "GCC_3.3",
    "GetIPInfo": "GCC_4.2.0",
}
"""What Rust or C may ask of an unwinder, without the common prefix, and since which version."""


def make_stand_in(folder: Path, compiler: Sequence[str]) -> Path:
    """Compile the stand-in into `folder`, with the C compiler of the wheel, and return its path.

    Raises CalledProcessError if that fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / LIBRARY
    code = "".join(f"void _Unwind_{name}(void) {{}}\n" for name in NAMES)
    exported: dict[str, str] = {}
    for name, version in NAMES.items():
        exported[version] = exported.get(version, "") + f" _Unwind_{name};"
    versions = "".join(f"{version} {{ global:{names} }};\n" for version, names in exported.items())
    with tempfile.TemporaryDirectory() as temporary:
        source, script = Path(temporary, "unwinder.c"), Path(temporary, "unwinder.map")
        source.write_text(code, encoding="utf-8")
        script.write_text(versions, encoding="utf-8")
        linker = [f"-Wl,-soname,{LIBRARY}", f"-Wl,--version-script={script}"]
        command = [*compiler, "-shared", "-nostdlib", *linker, f"-o{library}", str(source)]
        subprocess.run(command, check=True)
    return library


if __name__ == "__main__":
    make_stand_in(Path(sys.argv[1]), sys.argv[2:])
