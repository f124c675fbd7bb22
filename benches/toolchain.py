"""What has to be built or installed before anything can be measured.

Used by run.py and demo.py: the Rust binaries of benches/loadgen, by cargo; and the virtual
environment of the loops that do not share the caller's, by pip.

RLOOP_BENCHES_PROGRAMS names a folder with binaries that are built already, RLOOP_BENCHES_OUTPUT the
folder for results: the flake sets them, whose copy of this folder cannot be written to.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from loops import LOOPS, RUST_ECHO
from processes import CellFailed, last_line

BENCHES = Path(__file__).parent.resolve()
PEERS = BENCHES.parent / "ci" / "requirements" / "peers.txt"
RESULTS = Path(os.environ.get("RLOOP_BENCHES_OUTPUT") or BENCHES / "results")
WORK = RESULTS / "work"
"""Where what is built or installed for a run is kept; not under version control."""

INSTALL_SECONDS = 300

PROGRAMS = ("loadgen", "tokio-echo", "tokio-tls")
"""What cargo builds, in the order of the fields of `Binaries`."""


@dataclass(frozen=True)
class Binaries:
    """Paths of the programs that cargo built."""

    load_generator: Path
    rust_echo: Path
    rust_tls: Path


def build_binaries() -> Binaries:
    """Build benches/loadgen in release mode, if need be, and return where its programs are.

    cargo's progress goes to standard error. Raises SystemExit if it fails or is not installed:
    without a load generator there is nothing to measure.
    """
    if folder := os.environ.get("RLOOP_BENCHES_PROGRAMS"):
        return Binaries(*(Path(folder, name) for name in PROGRAMS))
    cargo = shutil.which("cargo")
    if cargo is None:
        sys.exit("the load generator is a Rust program: cargo is not on PATH")
    command = [cargo, "build", "--release", "--locked", "--message-format=json-render-diagnostics"]
    manifest = BENCHES / "loadgen" / "Cargo.toml"
    built = subprocess.run(
        [*command, f"--manifest-path={manifest}"], stdout=subprocess.PIPE, text=True, check=False
    )
    if built.returncode != 0:
        sys.exit("the load generator does not build")
    programs = {}
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable"):
            programs[message["target"]["name"]] = Path(message["executable"])
    return Binaries(*(programs[name] for name in PROGRAMS))


def interpreter_for(loop: str) -> Path:
    """Return the interpreter that can import the loop called `loop`.

    That is the running one, or that of the peers' environment, which is made on first use. Raises
    CellFailed if it cannot be made.
    """
    if not LOOPS[loop].is_peer:
        return Path(sys.executable)
    environment = WORK / f"peers-{sys.implementation.cache_tag}{sys.abiflags}"
    python = environment / "bin" / "python"
    stamp = environment / "installed"
    content = f"{PEERS.read_text()}\n{sys.base_prefix}\n{sys.version}\n"
    if not stamp.is_file() or stamp.read_text() != content:
        shutil.rmtree(environment, ignore_errors=True)
        _run_installer([sys.executable, "-m", "venv", environment])
        pip: list[str | Path] = [python, "-m", "pip", "install", "--only-binary=:all:"]
        _run_installer([*pip, "--require-hashes", f"--requirement={PEERS}"])
        stamp.write_text(content)
    return python


def _run_installer(command: list[str | Path]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise CellFailed(f"not installed within {INSTALL_SECONDS} s") from None
    if done.returncode != 0:
        raise CellFailed(f"not installed: {last_line(done.stderr)}")


def echo_server_command(binaries: Binaries, loop: str, mode: str) -> list[str | Path]:
    """Return the command that starts the echo server of `loop` in `mode`."""
    if loop == RUST_ECHO:
        return [binaries.rust_echo]
    return [interpreter_for(loop), BENCHES / "server.py", f"--loop={loop}", f"--mode={mode}"]
