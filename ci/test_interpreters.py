"""Tests of ci/interpreters: a copy of it in a folder of its own, with made-up interpreters.

A made-up interpreter is a shell script that answers the probe like the real one, so that any
version can be at hand or not, but for the one that runs the test: that is always found.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "interpreters"
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
TAG = "3.12" if RUNNING != "3.12" else "3.13"
"""A member of the matrix that is at hand only if the test puts it there."""

ANSWER = """#!/bin/sh
if [ "$1" = -I ]; then
    echo '{"implementation": "cpython", "tag": "%s", "has_test_suite": %s,'
    echo "\\"executable\\": \\"$0\\"}"
else
    echo "$0 $*"
fi
"""


class Machine:
    """A checkout, a home folder and a PATH in which only what a test puts there can be found."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "path"
        self.pyenv = folder / "home" / ".pyenv" / "versions"
        self.archives = folder / "shared" / "interpreters"
        self.cache = folder / "cache"
        self.script = folder / "checkout" / "ci" / "interpreters"
        for created in (self.path, self.archives, self.script.parent):
            created.mkdir(parents=True)
        shutil.copy(SCRIPT, self.script)
        shutil.copy(SCRIPT.with_name("matrix.json"), self.script.parent)
        self.environment = {
            "HOME": str(folder / "home"),
            "PATH": str(self.path),
            "XDG_CACHE_HOME": str(self.cache),
        }

    def report(self) -> dict[str, str]:
        """Run the script and return what it says about each member of the matrix.

        Its answer for nox and the folder for PATH must agree with that.
        """
        finished = subprocess.run(
            [sys.executable, self.script, "--json"],
            capture_output=True,
            check=True,
            env=self.environment,
            text=True,
        )
        report = dict(line.split(": ", 1) for line in finished.stderr.splitlines() if ": " in line)
        answer = json.loads(finished.stdout)
        matrix = [tag for tag in report if tag in answer["matrix"]]
        found = [tag for tag in matrix if not report[tag].startswith("not found")]
        assert (answer["matrix"], answer["found"]) == (matrix, found)
        names = sorted(starter.name for starter in Path(answer["path"]).iterdir())
        assert names == sorted(f"python{tag}" for tag in found)
        return report

    def start(self, *arguments: str) -> str:
        """Return what `TAG` prints when it is started with `arguments` from the folder for PATH."""
        finished = subprocess.run(
            [sys.executable, self.script],
            capture_output=True,
            check=True,
            env=self.environment,
            text=True,
        )
        starter = Path(finished.stdout.strip(), f"python{TAG}")
        return subprocess.check_output([starter, *arguments], text=True).strip()


def make_interpreter(path: Path, tag: str = TAG, *, has_test_suite: bool = True) -> Path:
    """Write a script that answers the probe as CPython `tag`, and otherwise echoes its call."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(ANSWER % (tag, "true" if has_test_suite else "false"), encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_an_interpreter_on_path_is_found_and_started_with_its_arguments(machine: Machine) -> None:
    interpreter = make_interpreter(machine.path / f"python{TAG}")
    assert machine.report()[TAG] == str(interpreter)
    assert machine.start("-c", "a  b") == f"{interpreter} -c a  b"


def test_the_interpreter_that_runs_the_script_is_found_whatever_its_name(machine: Machine) -> None:
    found = [tag for tag, remark in machine.report().items() if not remark.startswith("not found")]
    assert [tag.rstrip("t") for tag in found] == [RUNNING]


def test_what_is_missing_is_named(machine: Machine) -> None:
    assert machine.report()[TAG] == "not found, left to nox to download"


def test_a_free_threaded_build_does_not_pass_for_the_plain_version(machine: Machine) -> None:
    make_interpreter(machine.path / f"python{TAG}", f"{TAG}t")
    assert machine.report()[TAG].startswith("not found")


def test_a_name_that_does_not_run_is_passed_over_for_pyenvs_newest(machine: Machine) -> None:
    shim = make_interpreter(machine.path / f"python{TAG}")
    shim.write_text("#!/bin/sh\nexit 127\n", encoding="utf-8")
    make_interpreter(machine.pyenv / f"{TAG}.9" / "bin" / f"python{TAG}")
    newest = make_interpreter(machine.pyenv / f"{TAG}.10" / "bin" / f"python{TAG}")
    assert machine.report()[TAG] == str(newest)


def test_one_with_cpythons_test_suite_is_preferred(machine: Machine) -> None:
    bare = make_interpreter(machine.path / f"python{TAG}", has_test_suite=False)
    assert machine.report()[TAG] == f"{bare} (no test suite: conformance cannot run)"
    full = make_interpreter(machine.pyenv / f"{TAG}.1" / "bin" / f"python{TAG}")
    assert machine.report()[TAG] == str(full)


RELOCATE = """#!/bin/sh
set -eu
here=${0%%/*}
echo "$here" >> "$here/relocated"
%s
printf '#!/bin/sh\\nexec "%%s/real" "$@"\\n' "$here" > "$here/bin/python%s"
"""
"""A relocate script: writes its absolute folder into the interpreter, which runs only there."""


def make_archive(
    machine: Machine, folder: Path, *, system: str = sys.platform, relocate: str | None = None
) -> Path:
    """Put an archive of CPython `TAG` into the shared folder, with a `relocate` if given.

    `relocate` is a line of shell to run before relocating.
    """
    made = folder / "made"
    program = make_interpreter(made / "bin" / f"python{TAG}")
    if relocate is not None:
        program.rename(made / "real")
        program.write_text("#!/bin/sh\nexit 126\n", encoding="utf-8")
        program.chmod(0o755)
        script = made / "relocate"
        script.write_text(RELOCATE % (relocate, TAG), encoding="utf-8")
        script.chmod(0o755)
    path = machine.archives / f"cpython-{TAG}.1-{system}-{platform.machine()}.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        archive.add(made, f"cpython-{TAG}.1")
    return path


def test_an_archive_is_unpacked_into_the_cache(machine: Machine, tmp_path: Path) -> None:
    make_archive(machine, tmp_path)
    unpacked = Path(machine.report()[TAG])
    assert unpacked.is_relative_to(machine.cache)
    assert machine.start("-V") == f"{unpacked} -V"


def test_an_archive_for_another_machine_is_left_alone(machine: Machine, tmp_path: Path) -> None:
    make_archive(machine, tmp_path, system="plan9")
    assert machine.report()[TAG].startswith("not found")


def relocations(machine: Machine) -> list[str]:
    """Return the folders in which an interpreter of the cache was relocated, in order."""
    (record,) = machine.cache.rglob("relocated")
    return record.read_text(encoding="utf-8").splitlines()


def test_an_archive_is_relocated_once_in_its_final_folder(machine: Machine, tmp_path: Path) -> None:
    make_archive(machine, tmp_path, relocate="echo noise")
    found = Path(machine.report()[TAG])
    assert machine.report()[TAG] == str(found)
    assert machine.start("-V") == f"{found} -V"
    assert relocations(machine) == [str(found.parent)]


def test_a_moved_cache_is_relocated_again(machine: Machine, tmp_path: Path) -> None:
    make_archive(machine, tmp_path, relocate="")
    before = Path(machine.report()[TAG])
    machine.cache = machine.cache.rename(tmp_path / "elsewhere")
    machine.environment["XDG_CACHE_HOME"] = str(machine.cache)
    after = Path(machine.report()[TAG])
    assert after.is_relative_to(machine.cache)
    assert before.name == after.name
    assert machine.start("-V") == f"{after} -V"


def test_concurrent_runs_relocate_an_archive_once(machine: Machine, tmp_path: Path) -> None:
    make_archive(machine, tmp_path, relocate="")
    runs = [
        subprocess.Popen(
            [sys.executable, machine.script],
            env=machine.environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    answers = {run.communicate() for run in runs}
    assert [run.returncode for run in runs] == [0] * 4
    assert len(answers) == 1
    assert len(relocations(machine)) == 1


def test_an_interrupted_relocation_is_begun_again(machine: Machine, tmp_path: Path) -> None:
    flag = tmp_path / "interrupt"
    flag.touch()
    make_archive(machine, tmp_path, relocate=f"if [ -e {flag} ]; then kill -9 $PPID; exit 1; fi")
    killed = subprocess.run(
        [sys.executable, machine.script], check=False, capture_output=True, env=machine.environment
    )
    assert killed.returncode == -9
    flag.unlink()
    found = Path(machine.report()[TAG])
    assert relocations(machine) == [str(found.parent)]


def test_an_archive_that_cannot_be_relocated_is_named_and_not_used(
    machine: Machine, tmp_path: Path
) -> None:
    archive = make_archive(machine, tmp_path, relocate="exit 3")
    report = machine.report()
    assert report[TAG].startswith("not found")
    assert "relocate" in report[f"{archive} cannot be used"]


def test_what_has_gone_can_no_longer_be_started(machine: Machine) -> None:
    interpreter = make_interpreter(machine.path / f"python{TAG}")
    machine.report()
    interpreter.unlink()
    assert machine.report()[TAG].startswith("not found")
