"""Runs CPython's own asyncio tests, of the interpreter that runs this, on the loop under test.

``python tests/conformance/run.py [--loop NAME] [--primitives MODULE] [--contexts MODULE]
[--threads N] [--jobs N] [TEST ...]``, where a TEST is a module (``test_events``), a test id
(``test_locks.LockTests.test_repr``), the beginning of one up to a dot, or a pattern of ids as in
fnmatch. With ``--primitives rloop.sync``, the tests get asyncio's locks and queues from there; only
the tests of these run by default. With ``--contexts rloop.tls``, every TLS context is one of that
module, and the tests that use TLS run by default. With ``--threads``, each TokioLoop has so many.
Called by developers and by ``nox -s conformance``.

Prints ``passed N of M``: M counts the tests that ran, so not those that CPython skips on this
machine; N counts neither expected failures nor anything else that failed. The exit status is 0 if
and only if all went as expectations.py says. The tracebacks of all failures are in
``target/conformance/LOOP-VERSION.log``, with MODULE or N between the two where given; every outcome
is in the ``.json`` file beside it.

A test that fails unexpectedly is run once more on asyncio's own loop. If it fails there, too, then
this machine is at fault (no IPv6, an OpenSSL that the test is too old for): it is reported as an
environment failure, which does not fail the run and does not count as passed.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatchcase
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from conformance.expectations import EXPECTED_FAILURES, EXPECTED_WITH_THREADS
from conformance.protocol import Outcome
from conformance.redirect import CONTEXTS, LOOPS, PRIMITIVES, find_loop_factory
from conformance.supervisor import ModuleRun, Supervisor
from conformance.verdict import Verdict, judge

PACKAGE = "test.test_asyncio"
PRIMITIVES_TESTS = ("test_locks", "test_queues")
TLS_TESTS = ("test_events", "test_sendfile", "test_ssl", "test_sslproto", "test_streams")
RESULTS = Path(__file__).parents[2] / "target" / "conformance"
VERSION = "{}.{}{}".format(
    *sys.version_info[:2], "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Run CPython's own asyncio tests on the loop under test."
    )
    parser.add_argument("--loop", choices=LOOPS, default="rloop", help="default: rloop")
    parser.add_argument(
        "--primitives",
        choices=PRIMITIVES,
        default="asyncio",
        help="where the tests get locks and queues from; default: asyncio",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="how many threads a TokioLoop has; default: 1",
    )
    parser.add_argument(
        "--contexts",
        choices=CONTEXTS,
        default="ssl",
        help="whose TLS contexts the tests get; default: ssl",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="how many modules to run at a time; default: one per core",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long one test may take; default: 60",
    )
    parser.add_argument("tests", nargs="*", metavar="TEST", help="default: all")
    arguments = parser.parse_args()
    if arguments.primitives != "asyncio" and not arguments.tests:
        arguments.tests = PRIMITIVES_TESTS
    if arguments.contexts != "ssl" and not arguments.tests:
        arguments.tests = TLS_TESTS
    return arguments


def find_modules(tests: Sequence[str]) -> list[str]:
    """Return the modules of CPython's test package that ``tests`` are in, the largest first.

    The largest tend to take longest; beginning with them keeps all jobs busy to the end.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit(f"this interpreter ({sys.executable}) came without {PACKAGE}")
    modules = sorted(
        Path(spec.origin).parent.glob("test_*.py"), key=lambda path: -path.stat().st_size
    )
    wanted = [test.partition(".")[0] for test in tests] or ["*"]
    return [
        path.stem for path in modules if any(fnmatchcase(path.stem, pattern) for pattern in wanted)
    ]


def is_selected(test: str, selection: Sequence[str]) -> bool:
    """Return whether the test with the id ``test`` is among those that the command line names."""
    return not selection or any(
        fnmatchcase(test, pattern) or fnmatchcase(test, pattern + ".*") for pattern in selection
    )


def run_modules(supervisor: Supervisor, modules: Sequence[str], jobs: int) -> list[ModuleRun]:
    """Run ``modules``, ``jobs`` at a time, with a line of progress for each."""
    runs = []
    with ThreadPoolExecutor(jobs) as executor:
        futures = [executor.submit(supervisor.run, module) for module in modules]
        for future in as_completed(futures):
            run = future.result()
            runs.append(run)
            tally = Counter(outcome.status for outcome in run.outcomes.values())
            text = ", ".join(f"{tally[status]} {status}" for status in sorted(tally))
            if run.skip_reason is not None:
                text = f"skipped by CPython: {run.skip_reason}"
            print(f"[{len(runs)}/{len(modules)}] {run.module:<24}{run.seconds:6.1f} s  {text}")
            sys.stdout.flush()
    return sorted(runs, key=lambda run: run.module)


def try_on_asyncio(failures: Sequence[Outcome], timeout: float, jobs: int) -> list[str]:
    """Run the tests that failed on asyncio's own loop; return the ids of those that fail there."""
    tests = {failure.test for failure in failures if failure.is_test}
    if not tests:
        return []
    print(f"running {len(tests)} failed tests on asyncio's own loop")
    supervisor = Supervisor(PACKAGE, "asyncio", timeout, tests.__contains__)
    runs = run_modules(supervisor, sorted({test.partition(".")[0] for test in tests}), jobs)
    outcomes = [outcome for run in runs for outcome in run.outcomes.values()]
    return [outcome.test for outcome in outcomes if outcome.status == "failed"]


def write_results(name: str, runs: Sequence[ModuleRun], verdict: Verdict) -> Path:
    """Write the log and every outcome to ``RESULTS``; return the path of the log."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    outcomes = {
        outcome.test: dataclasses.asdict(outcome)
        for run in runs
        for outcome in run.outcomes.values()
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(outcomes, indent=1), encoding="utf-8")
    log = RESULTS / f"{name}.log"
    with log.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for heading, group in (
            ("unexpected failure", verdict.unexpected_failures),
            ("environment failure", verdict.environment_failures),
            ("expected failure", verdict.expected_failures),
        ):
            for outcome in group:
                file.write(f"=== {heading}: {outcome.test}\n{outcome.detail}\n")
    return log


def report(verdict: Verdict, log: Path, loop: str, seconds: float) -> None:
    """Print what the run came to."""
    for heading, names in (
        ("unexpected failure", [outcome.test for outcome in verdict.unexpected_failures]),
        ("unexpected pass", [outcome.test for outcome in verdict.unexpected_passes]),
        ("bad expectation", verdict.bad_expectations),
        ("environment failure", [outcome.test for outcome in verdict.environment_failures]),
    ):
        for name in names:
            print(f"{heading}: {name}")
    print(f"tracebacks: {os.path.relpath(log)}")
    telling = sum(outcome.loops_made > 0 for outcome in verdict.passed)
    print(
        f"CPython {VERSION}, {loop}, {seconds:.0f} s: "
        f"{len(verdict.skipped)} skipped by CPython, "
        f"{len(verdict.expected_failures)} expected failures, "
        f"{len(verdict.environment_failures)} environment failures; "
        f"{telling} of the passed tests made a loop under test"
    )
    print(f"passed {verdict.tests_passed} of {verdict.tests_run}")
    print(f"{verdict.tests_passed} passed, {verdict.faults} failed")


def main() -> int:
    """Run the tests that the command line names; return the exit status."""
    arguments = parse_arguments()
    selection: Sequence[str] = arguments.tests
    subject = arguments.loop
    if arguments.primitives != "asyncio":
        subject += f"-{arguments.primitives}"
    if arguments.contexts != "ssl":
        subject += f"-{arguments.contexts}"
    expected = EXPECTED_FAILURES if arguments.loop == "rloop" else ()
    if arguments.threads > 1:
        subject += f"-{arguments.threads}"
        expected += EXPECTED_WITH_THREADS
    # For the processes that run the tests.
    os.environ["RLOOP_THREADS"] = str(arguments.threads)
    begin = time.monotonic()
    find_loop_factory(arguments.loop)
    modules = find_modules(selection)
    supervisor = Supervisor(
        PACKAGE,
        arguments.loop,
        arguments.timeout,
        lambda test: is_selected(test, selection),
        primitives=arguments.primitives,
        contexts=arguments.contexts,
        timeouts={entry.tests: entry.timeout for entry in expected if entry.timeout is not None},
    )
    runs = run_modules(supervisor, modules, arguments.jobs)
    verdict = judge(runs, expected, VERSION)
    if subject != "asyncio":
        verdict.blame_environment(
            try_on_asyncio(verdict.unexpected_failures, arguments.timeout, arguments.jobs)
        )
    log = write_results(f"{subject}-{VERSION}", runs, verdict)
    report(verdict, log, subject, time.monotonic() - begin)
    if not verdict.tests_run:
        print(f"no test ran; is there any like {' '.join(selection)}?", file=sys.stderr)
        return 2
    return 1 if verdict.faults else 0


if __name__ == "__main__":
    sys.exit(main())
