"""Writes docs/differences.md: what asyncio, uvloop, zuvloop and TokioLoop do, as the tests find it.

``python tests/compare_loops.py [--check] [--jobs N]``, with the wheel and the other loops
installed; ``nox -s differences`` is that. Each row of the table (support/differences.py) is one
test of the contract suite, or one file of it, run on each loop. With ``--check`` nothing is
written, and the exit status is 1 if the page says something else. A loop that is not installed is
an error.

The tests of a loop share a process that tells how each of them ended. One that takes the process
down, or says nothing for TEST_SECONDS, has failed, and a new process goes on after it.
"""

import argparse
import contextlib
import difflib
import importlib.metadata
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from support.differences import SECTIONS, Row
from support.verdicts import ALL_DONE, FAILED, PASSED, RUNNING, SKIPPED

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "differences.md"
LABELS = {"asyncio": "asyncio", "uvloop": "uvloop", "zuvloop": "zuvloop", "rloop": "TokioLoop"}
ROWS = [row for rows in SECTIONS.values() for row in rows]
TEST_SECONDS = 10
"""How long a test may say nothing before it has failed; one that passes takes less than one."""

START_SECONDS = 120
"""How long pytest may take to find the tests, and to end."""

NOT_PROMISED = "\N{EN DASH}"
VARIES = "varies"


def verdicts(loop: str) -> dict[str, str]:
    """Run the tests of all rows on a loop; return how each of them ended.

    Raises RuntimeError if a process of pytest ends before it has begun a test.
    """
    found: dict[str, str] = {}
    last: str | None = None
    while True:
        with TemporaryFile() as output:
            begun = None
            for test, verdict in messages(loop, last, output):
                if [test, verdict] == ALL_DONE:
                    return found
                begun = test
                found[test] = verdict
            if begun is None:
                output.seek(0)
                raise RuntimeError(output.read().decode())
        last = begun
        if found[last] == RUNNING:
            found[last] = FAILED


def targets() -> list[str]:
    """Return what pytest is to run, each test once: a row may be a file that others name, too."""
    files = {row.path for row in ROWS if not row.test}
    return list(dict.fromkeys(row.path if row.path in files else row.target for row in ROWS))


def messages(loop: str, after: str | None, output: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Run the tests that come after one in a process; yield what it says of them, as it comes.

    The process does not outlive the iteration.
    """
    reader, writer = os.pipe()
    command = [
        *(sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        *("--rootdir", str(TESTS), f"--loop={loop}"),
        *("-p", "support.verdicts", f"--verdicts={writer}"),
        *([] if after is None else ["--after", after]),
        *targets(),
    ]
    process = subprocess.Popen(
        command,
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=[writer],
        # A group of its own, with the programs that the tests start.
        start_new_session=True,
    )
    os.close(writer)
    try:
        for line in lines(reader):
            test, verdict = json.loads(line)
            yield test, verdict
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def lines(descriptor: int) -> Iterator[bytes]:
    """Yield the lines that come, until the stream ends or nothing has come for too long."""
    rest, patience = b"", START_SECONDS
    while select.select([descriptor], [], [], patience)[0]:
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            return
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
        patience = TEST_SECONDS


def cell(row: Row, loop: str, found: dict[str, str]) -> str:
    """Return what a loop's cell of a row says: yes, no, how many of how many, or nothing."""
    if loop in row.varies_on:
        return VARIES
    results = [verdict for test, verdict in found.items() if row.has(test)]
    passed, failed = results.count(PASSED), results.count(FAILED)
    assert len(results) == passed + failed + results.count(SKIPPED) > 0, row
    if passed + failed == 0:
        return NOT_PROMISED
    if failed == 0:
        return "yes"
    return "no" if passed == 0 else f"{passed} of {passed + failed}"


def heading() -> str:
    """Return what the page says before the tables."""
    python = "{}.{}.{}".format(*sys.version_info[:3])
    uvloop, zuvloop = (importlib.metadata.version(name) for name in ("uvloop", "zuvloop"))
    return f"""\
# Differences

What asyncio, uvloop {uvloop}, zuvloop {zuvloop} and TokioLoop do, on CPython {python}. Each cell
is the outcome of the test that its row names, run on that loop; `nox -s differences` writes this
page. "3 of 4" means that the test has four variants, or the file four tests, of which three pass;
"{NOT_PROMISED}" that the promise is not that loop's, because asyncio does not make it; "{VARIES}"
that the outcome is one in this run and another in the next. A test that ends its process, or hangs,
has failed.

Where TokioLoop and asyncio differ, the difference is meant: asyncio's outcome is a known defect
there (a strict expected failure of the test) or a promise that it does not make.
"""


def page(jobs: int) -> str:
    """Run everything and return the page."""
    with ThreadPoolExecutor(jobs) as pool:
        found = dict(zip(LABELS, pool.map(verdicts, LABELS), strict=True))
    parts = [heading()]
    for section, rows in SECTIONS.items():
        parts.append(f"\n## {section}\n\n")
        parts.append(f"| | {' | '.join(LABELS.values())} | test |\n")
        parts.append(f"|---|{'---|' * (len(LABELS) + 1)}\n")
        for row in rows:
            cells = " | ".join(cell(row, loop, found[loop]) for loop in LABELS)
            link = f"[{row.file}](../tests/{row.path})"
            parts.append(f"| {row.promise} | {cells} | {link} |\n")
    return "".join(parts)


def main() -> int:
    """Read the command line, run, and write or compare."""
    parser = argparse.ArgumentParser(description="Write docs/differences.md from test results.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument(
        "--jobs", type=int, default=len(LABELS), metavar="N", help="loops at a time (default: all)"
    )
    options = parser.parse_args()
    written = page(options.jobs)
    if not options.check:
        PAGE.write_text(written)
        return 0
    recorded = PAGE.read_text()
    sys.stdout.writelines(difflib.unified_diff(recorded.splitlines(True), written.splitlines(True)))
    return int(written != recorded)


if __name__ == "__main__":
    sys.exit(main())
