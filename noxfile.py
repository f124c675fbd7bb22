# /// script
# requires-python = ">=3.11"
# dependencies = ["nox[uv]==2026.10.20"]
#
# [tool.nox]
# script-download-python = "never"
# ///
"""The one door to everything that is built, checked, measured or tested here: ``nox -s SESSION``.

Called by developers, by .ci/run and by the workflows. What must hold:

- A session runs on the interpreter it names, or not at all: version and build are checked. A
  missing interpreter is an error if it was asked for, and where CI is set. Otherwise it is skipped
  and named.
- What is tested, measured and checked is the installed wheel of the ``wheel`` session. It is built
  once per interpreter and state of the sources, with the profile that is released.
- Every session's Python packages come from ci/requirements/, hashes included.

The comment block at the top makes nox run itself in the version named there, with uv beside it,
whatever version was installed by hand.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nox

ROOT = Path(__file__).parent.resolve()
REQUIREMENTS = ROOT / "ci" / "requirements"
LOCKS = (
    "bench",
    "build",
    "demo",
    "lint",
    "nox",
    "peers",
    "project",
    "tests",
    "tlsfuzzer",
    "zuvloop",
)
"""The dependency groups of pyproject.toml that have a lock file in `REQUIREMENTS`."""

CARGO_FUZZ = "0.13.2"
"""The version of cargo-fuzz."""

WHEEL_SOURCES = (
    "ci/build.py",
    "ci/unwinder.py",
    "Cargo.toml",
    "Cargo.lock",
    "build.rs",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "crates",
    "rloop",
    "tokioloop.data",
    "src",
)
"""The files and folders whose contents decide what is in the wheel."""

INTERPRETERS = json.loads(
    subprocess.check_output([sys.executable, ROOT / "ci" / "interpreters", "--json"], text=True)
)
"""What ci/interpreters says: ``path`` (a folder for PATH), ``matrix`` and ``found`` (names)."""

MATRIX: list[str] = INTERPRETERS["matrix"]
FOUND: list[str] = INTERPRETERS["found"]
PREFERRED = ([tag for tag in FOUND if not tag.endswith("t")] or FOUND or ["3.14"])[-1]
"""The newest interpreter at hand that has a GIL: for the sessions that need just one."""

FREE_THREADED = ([tag for tag in FOUND if tag.endswith("t")] or ["3.14t"])[-1]
MEASURED = FREE_THREADED if {"shards", "--threads"} & set(sys.argv) else PREFERRED
"""What is measured on: threads need an interpreter without the GIL."""

WORKFLOWS_ONLY = {"3.15t"}
"""The interpreters that only the workflows must have: elsewhere there may be no build to be had."""

EXPECTED = {tag for tag in MATRIX if tag not in WORKFLOWS_ONLY or "GITHUB_ACTIONS" in os.environ}

OPTIONS = list(itertools.takewhile(lambda argument: argument != "--", sys.argv[1:]))
IS_FORCED = any(re.match(r"(-[pP]|--(force-)?pythons?)\b", option) for option in OPTIONS)
"""Whether the command line chooses interpreters for all sessions."""

DEMANDED = {tag for option in OPTIONS for tag in re.findall(r"-(3\.\d+t?)$", option)}
"""The interpreters that must exist: those of the sessions named; where CI is set, all expected."""
if "CI" in os.environ:
    DEMANDED |= EXPECTED

os.environ["PATH"] = os.pathsep.join([INTERPRETERS["path"], os.environ["PATH"]])

nox.needs_version = ">=2026.10.20"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never" if EXPECTED.issubset(FOUND) else "auto"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = IS_FORCED or not DEMANDED.issubset(FOUND)
nox.options.sessions = ["lint", "rust", "tests"]


@nox.session(python=MATRIX)
def wheel(session: nox.Session) -> None:
    """Build the wheels of one interpreter, and put them and all that belongs to them into dist/.

    On Linux, one for glibc, and one for musl if rustc has that target.
    """
    check_interpreter(session)
    check_rust(session)
    install(session, "build")
    folder = wheel_folder(session)
    if not folder.is_dir():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        interpreter = f"--interpreter={base_interpreter(session)}"
        for library in c_libraries():
            out = (f"--libc={library}", f"--out={unfinished}")
            session.run("python", "ci/build.py", "wheel", interpreter, *out)
        if wheel_folder(session) != folder:
            session.error("the sources changed while the wheel was built: start again")
        unfinished.rename(folder)
    session.run("python", "ci/distribution.py", *map(str, built_wheels(session)))


@nox.session(python=MATRIX, requires=["wheel-{python}"])
def reproduce(session: nox.Session) -> None:
    """Build sdist and wheels once more, from a clone and in another environment, and compare."""
    check_interpreter(session)
    check_rust(session)
    install(session, "build")
    session.run(
        "python",
        "ci/reproduce.py",
        f"--interpreter={base_interpreter(session)}",
        f"--sdist=dist/{sdist_name(session)}",
        *(f"--wheel=dist/{wheel.name}" for wheel in built_wheels(session)),
    )


@nox.session(python=PREFERRED, requires=["wheel-{python}"])
def sdist(session: nox.Session) -> None:
    """Install the sdist as a user without a fitting wheel does, and test what that made."""
    check_interpreter(session)
    check_rust(session)
    install(session, "tests")
    session.install("--no-deps", "--force-reinstall", f"dist/{sdist_name(session)}")
    check_installed(session)
    run_in(session, "tests", "pytest", *(session.posargs or ("contract", "package")))


@nox.session(python=PREFERRED, requires=["wheel-{python}"])
def mixed(session: nox.Session) -> None:
    """Install the other distribution that is imported as ``rloop`` over the wheel, and vice versa.

    Each import must fail with a message that names both.
    """
    check_interpreter(session)
    wheel = ("--no-deps", "--no-index", "--force-reinstall", str(built_wheel(session)))
    session.install(*wheel)
    check_installed(session)
    session.install("--require-hashes", f"--requirement={REQUIREMENTS / 'peers.txt'}")
    check_refused(session)
    session.install(*wheel)
    check_refused(session)


@nox.session(python=MATRIX, requires=["wheel-{python}"])
def tests(session: nox.Session) -> None:
    """Run the tests against the installed wheel; arguments go to pytest, which runs in tests/.

    Without arguments, they run in a process per core, and what every loop promises is also tested
    on loops of two threads, on a free-threaded interpreter.
    """
    check_interpreter(session)
    install(session, "tests")
    install_wheel(session)
    if session.posargs:
        run_in(session, "tests", "pytest", *session.posargs)
        return
    on_all_cores = ("--numprocesses=auto", "--dist=worksteal")
    scripts = sorted(f"../ci/{path.name}" for path in (ROOT / "ci").glob("test_*.py"))
    run_in(session, "tests", "pytest", *on_all_cores, ".", *scripts)
    if str(session.python).endswith("t"):
        suites = ("--loop=rloop", "contract", "frameworks")
        run_in(session, "tests", "pytest", *on_all_cores, *suites, RLOOP_THREADS="2")


@nox.session(python=MATRIX, requires=["wheel-{python}"])
def conformance(session: nox.Session) -> None:
    """Run CPython's asyncio tests on TokioLoop; arguments go to tests/conformance/run.py.

    Without arguments, the tests of locks and queues also run against rloop.sync; on the oldest and
    on a free-threaded interpreter those of TLS with contexts of rloop.tls; and on the latter all
    tests on loops of two threads.
    """
    check_interpreter(session)
    install_wheel(session)
    run_in(session, "tests", "python", "conformance/run.py", *session.posargs)
    if not session.posargs:
        run_in(session, "tests", "python", "conformance/run.py", "--primitives=rloop.sync")
        is_free_threaded = str(session.python).endswith("t")
        if is_free_threaded or session.python == MATRIX[0]:
            run_in(session, "tests", "python", "conformance/run.py", "--contexts=rloop.tls")
        if is_free_threaded:
            run_in(session, "tests", "python", "conformance/run.py", "--threads=2")


@nox.session(python=FREE_THREADED, requires=["wheel-{python}"])
def chaos(session: nox.Session) -> None:
    """Run random sequences of loop operations with injected failures.

    The argument is how many sequences each kind of run gets, by default 100000. Failing system
    calls are injected by strace, where that is installed, into a tenth as many.
    """
    check_interpreter(session)
    install(session, "tests")
    install_wheel(session)
    count = int(session.posargs[0]) if session.posargs else 100_000
    kinds = [[f"--threads={threads}", f"--sequences={count}"] for threads in (1, 2)]
    if shutil.which("strace"):
        kinds += [
            [f"--threads={threads}", f"--sequences={count // 10}", "--inject"] for threads in (1, 2)
        ]
    for options in kinds:
        run_in(session, "tests", "python", "chaos/run.py", *options)


@nox.session(python=False)
def rust(session: nox.Session) -> None:
    """Run the Rust tests of everything that needs no Python, then the loom models."""
    check_rust(session)
    cargo(session, "test", "--locked", "--workspace", "--exclude=rloop")
    cargo(
        session,
        "test",
        "--locked",
        "--package=rloop-core",
        "--release",
        "loom",
        RUSTFLAGS="--cfg loom",
        # A folder of its own: the flag concerns every crate, so each would be rebuilt every time.
        CARGO_TARGET_DIR=str(ROOT / "target" / "loom"),
        # The models need speed, but not what makes the release profile slow to compile.
        CARGO_PROFILE_RELEASE_LTO="off",
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS="16",
    )


@nox.session(python=False)
def fuzz(session: nox.Session) -> None:
    """Fuzz the TLS engine; the argument is how many seconds each target gets, by default 60.

    It needs a nightly Rust, by rustup. What is found worth keeping stays in target/fuzz/corpus.
    """
    seconds = int(session.posargs[0]) if session.posargs else 60
    tools = ROOT / "target" / "tools"
    program = tools / "bin" / "cargo-fuzz"
    if not program.exists():
        cargo(session, "install", "--locked", f"--root={tools}", f"cargo-fuzz@{CARGO_FUZZ}")
    for source in sorted((ROOT / "fuzz" / "fuzz_targets").glob("*.rs")):
        corpus = ROOT / "target" / "fuzz" / "corpus" / source.stem
        corpus.mkdir(parents=True, exist_ok=True)
        with session.chdir(ROOT):
            session.run(
                str(program),
                "run",
                # What is fuzzed has no unsafe code.
                "--sanitizer=none",
                f"--target-dir={ROOT / 'target' / 'fuzz'}",
                source.stem,
                str(corpus),
                str(ROOT / "fuzz" / "seeds" / source.stem),
                "--",
                f"-max_total_time={seconds}",
                "-timeout=10",
                "-max_len=4096",
                external=True,
                env={"RUSTUP_TOOLCHAIN": "nightly"},
            )


@nox.session(python=PREFERRED, requires=["wheel-{python}"])
def tlsfuzzer(session: nox.Session) -> None:
    """Have a client that breaks the rules of TLS talk to servers of both engines.

    The conversations are those of tlsfuzzer, which is in no package index, made with tlslite-ng.
    Arguments go to tests/tlsfuzzer/run.py.
    """
    check_interpreter(session)
    install(session, "tlsfuzzer")
    install_wheel(session)
    run_in(session, "tests", "python", "tlsfuzzer/run.py", *session.posargs)


@nox.session(python=PREFERRED, requires=["wheel-{python}"])
def lint(session: nox.Session) -> None:
    """Check formatting, lints and types of Rust and Python, and the stubs against the wheel."""
    check_interpreter(session)
    check_rust(session)
    install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    # The rest is checked on one version and platform; the package must also fit the oldest library
    # and the other platform that it runs on.
    session.run("mypy", f"--python-version={MATRIX[0]}", "rloop")
    session.run("mypy", "--platform=darwin", "rloop")
    cargo(session, "fmt", "--all", "--check")
    cargo(
        session,
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "--deny=warnings",
        PYO3_PYTHON=base_interpreter(session),
    )
    install_wheel(session)
    run_in(session, "tests", "stubtest", "--mypy-config-file=../pyproject.toml", "rloop._rloop")


@nox.session(python=PREFERRED)
def project(session: nox.Session) -> None:
    """Check the flake against a stub of nixpkgs, and what bad input is answered."""
    check_interpreter(session)
    install(session, "project")
    run_in(session, "ci/project", "pytest", *(session.posargs or (".",)))


@nox.session(python=MEASURED, requires=["wheel-{python}"])
def demo(session: nox.Session) -> None:
    """Load real servers on asyncio, uvloop and TokioLoop in turn, and print a table."""
    check_interpreter(session)
    install(session, "demo")
    install_wheel(session)
    run_in(session, "benches", "python", "demo.py", *session.posargs)


@nox.session(python=PREFERRED, requires=["wheel-{python}"])
def differences(session: nox.Session) -> None:
    """Write docs/differences.md from tests on four loops; ``-- --check`` compares instead."""
    check_interpreter(session)
    install(session, "tests")
    install(session, "bench")
    install(session, "zuvloop")
    install_wheel(session)
    run_in(session, "tests", "python", "compare_loops.py", *session.posargs)


@nox.session(python=MEASURED, requires=["wheel-{python}"])
def bench(session: nox.Session) -> None:
    """Measure TokioLoop against other loops; arguments go to benches/run.py."""
    check_interpreter(session)
    check_rust(session)
    install(session, "bench")
    install_wheel(session)
    run_in(session, "benches", "python", "run.py", *session.posargs)


@nox.session(python=PREFERRED)
def lock(session: nox.Session) -> None:
    """Write ci/requirements/ from pyproject.toml's groups; ``-- --upgrade`` takes the newest."""
    install(session, "nox")
    for group in LOCKS:
        session.run(
            "uv",
            "pip",
            "compile",
            "--quiet",
            "--universal",
            "--generate-hashes",
            "--python-version=3.11",
            "--custom-compile-command=nox -s lock",
            f"--group=pyproject.toml:{group}",
            f"--output-file=ci/requirements/{group}.txt",
            *session.posargs,
        )


def check_interpreter(session: nox.Session) -> None:
    """Stop unless the session got the interpreter it names.

    nox and uv look at names and versions, and a free-threaded build may answer to its plain name.
    """
    if session.python not in MATRIX:
        session.error(f"Python {session.python} is not one of {', '.join(MATRIX)}")
    actual = python_output(
        session,
        "import sys, sysconfig; print('%d.%d' % sys.version_info[:2]"
        " + 't' * bool(sysconfig.get_config_var('Py_GIL_DISABLED')))",
    )
    if actual != session.python:
        message = f"Python interpreter {session.python} not found: what answers to it is {actual}"
        if IS_FORCED or session.python in DEMANDED:
            session.error(message)
        session.skip(message)


def check_rust(session: nox.Session) -> None:
    """Stop unless there is a Rust as new as Cargo.toml asks."""
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))
    wanted = manifest["workspace"]["package"]["rust-version"]
    advice = f"Rust {wanted} or later is needed: https://rustup.rs, or your distribution's package"
    for program in ("cargo", "rustc"):
        if shutil.which(program) is None:
            session.error(f"{program} is not on PATH. {advice}")
    version = re.match(r"rustc (\d+)\.(\d+)", rustc_version())
    if version is None:
        session.error(f"rustc does not say its version. {advice}")
    if [int(part) for part in version.groups()] < [int(part) for part in wanted.split(".")[:2]]:
        session.error(f"{version.group()} is too old. {advice}")


def rustc_version() -> str:
    """Return everything that rustc says about its version, or nothing if it does not run."""
    return subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=False).stdout


def cargo(session: nox.Session, *arguments: str, **variables: str) -> None:
    """Run cargo with the given environment variables added."""
    session.run("cargo", *arguments, external=True, env=variables)


def install(session: nox.Session, group: str) -> None:
    """Install exactly what the lock file of `group` names."""
    session.install("--require-hashes", f"--requirement={REQUIREMENTS / group}.txt")


def install_wheel(session: nox.Session) -> None:
    """Install the wheel that the session's ``wheel`` session built."""
    package = str(built_wheel(session))
    session.install("--no-deps", "--no-index", "--force-reinstall", package)
    check_installed(session)


def check_installed(session: nox.Session) -> None:
    """Prove that what the session imports is the installed package, and not the sources."""
    run_in(
        session,
        "tests",
        "python",
        "-c",
        "import rloop, sysconfig as s; assert rloop.__file__.startswith(s.get_path('platlib'))",
    )


def check_refused(session: nox.Session) -> None:
    """Prove that the import of a mixed installation fails and says why."""
    with session.chdir(ROOT / "tests"):
        output = session.run("python", "-c", "import rloop", silent=True, success_codes=[1])
    message = str(output).splitlines()[-1]
    if not re.match(r"ImportError: .* two distributions, tokioloop .* and rloop ", message):
        session.error(f"the import of a mixed installation says: {output}")
    session.log(message)


def built_wheels(session: nox.Session) -> list[Path]:
    """Return the wheels that the ``wheel`` session built for the interpreter."""
    wheels = sorted(wheel_folder(session).glob("*.whl"))
    if not wheels:
        session.error("the sources changed since the wheel was built: start again")
    return wheels


def built_wheel(session: nox.Session) -> Path:
    """Return the wheel that the interpreter itself can install."""
    (wheel,) = (wheel for wheel in built_wheels(session) if "-musllinux_" not in wheel.name)
    return wheel


def c_libraries() -> list[str]:
    """Return the C libraries, in the notation of ci/build.py, that there is a wheel for."""
    if sys.platform != "linux":
        return ["system"]
    target = f"{platform.machine()}-unknown-linux-musl"
    libdir = ["rustc", "--print=target-libdir", f"--target={target}"]
    answer = subprocess.run(libdir, capture_output=True, text=True, check=False).stdout.strip()
    return ["gnu", "musl"] if answer and Path(answer).is_dir() else ["gnu"]


def sdist_name(session: nox.Session) -> str:
    """Return the name of the sdist that was published with the built wheel."""
    distribution, version, *_ = built_wheel(session).name.split("-")
    return f"{distribution}-{version}.tar.gz"


def wheel_folder(session: nox.Session) -> Path:
    """Return the folder of the wheel that belongs to the interpreter and the present sources."""
    digest = hashlib.sha256()
    digest.update(rustc_version().encode())
    digest.update(repr(c_libraries()).encode())
    digest.update(python_output(session, "import sys; print(sys.version)").encode())
    digest.update((REQUIREMENTS / "build.txt").read_bytes())
    for name in WHEEL_SOURCES:
        source = ROOT / name
        for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if path.is_file() and path.suffix not in {".pyc", ".so"}:
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0")
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return session.cache_dir.resolve() / "wheels" / f"{session.python}-{digest.hexdigest()[:16]}"


def base_interpreter(session: nox.Session) -> str:
    """Return the path of the interpreter behind the session's virtual environment.

    For what compiles PyO3: it does so anew when the path of the interpreter changes.
    """
    return python_output(session, "import os, sys; print(os.path.realpath(sys._base_executable))")


def python_output(session: nox.Session, program: str) -> str:
    """Run `program` in the session's interpreter and return what it prints."""
    output = session.run("python", "-I", "-c", program, silent=True, log=False)
    return str(output).strip()


def run_in(
    session: nox.Session, folder: str, program: str, *arguments: str, **variables: str
) -> None:
    """Run `program` in a folder below the root, which is also where relative arguments begin.

    The environment has the given variables besides.

    Never at the root: a child process may have its working folder on its path, and there it would
    import the sources in rloop/, which have no extension module, instead of the installed wheel.
    """
    with session.chdir(ROOT / folder):
        session.run(program, *arguments, env={"PYTHONPATH": None, **variables})
