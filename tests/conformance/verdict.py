"""Decides what the outcomes of a run mean, given the failures that are expected. Pure.

Called by run.py. What must hold: expectations are strict. A run is good only if each listed test
fails (unless it is a race), no other test fails, and each entry names a test that exists.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from conformance.protocol import Outcome
from conformance.supervisor import ModuleRun

VERSIONS = ("3.11", "3.12", "3.13", "3.14", "3.14t", "3.15", "3.15t")


@dataclass(frozen=True)
class ExpectedFailure:
    """Tests that must fail, on some versions, and why."""

    tests: str
    """An id, or a pattern of ids as in fnmatch; the module is always spelled out."""
    reason: str
    """The private part of asyncio that the tests reach into."""
    versions: tuple[str, ...] = VERSIONS
    is_race: bool = False
    """The tests may pass as well: they look at what another thread does, without waiting for it."""
    timeout: float | None = None
    """Seconds after which a race counts as lost; None: as long as any test may take."""

    @property
    def module(self) -> str:
        """The test module that it is about."""
        return self.tests.partition(".")[0]


@dataclass
class Verdict:
    """The outcomes of a run, sorted by what they mean. Each is under one heading."""

    passed: list[Outcome] = field(default_factory=list)
    skipped: list[Outcome] = field(default_factory=list)
    """By CPython itself: not applicable on this machine."""
    expected_failures: list[Outcome] = field(default_factory=list)
    unexpected_failures: list[Outcome] = field(default_factory=list)
    unexpected_passes: list[Outcome] = field(default_factory=list)
    environment_failures: list[Outcome] = field(default_factory=list)
    """Of tests that fail on this machine with asyncio's own loop, too."""
    bad_expectations: list[str] = field(default_factory=list)
    """Entries that match no test, or a test that another entry matches already."""

    @property
    def tests_run(self) -> int:
        """How many tests ran: all but the skipped ones."""
        return sum(
            outcome.is_test
            for outcomes in (
                self.passed,
                self.expected_failures,
                self.unexpected_failures,
                self.unexpected_passes,
                self.environment_failures,
            )
            for outcome in outcomes
        )

    @property
    def tests_passed(self) -> int:
        """How many tests passed, whether that was expected or not."""
        return len(self.passed) + len(self.unexpected_passes)

    @property
    def faults(self) -> int:
        """How many things are not as they must be; 0 if the run is good."""
        return (
            len(self.unexpected_failures) + len(self.unexpected_passes) + len(self.bad_expectations)
        )

    def blame_environment(self, tests: Iterable[str]) -> None:
        """Take the failures of ``tests``, which asyncio's own loop fails too, off the loop."""
        blamed = frozenset(tests)
        failures = self.unexpected_failures
        self.environment_failures += [outcome for outcome in failures if outcome.test in blamed]
        self.unexpected_failures = [outcome for outcome in failures if outcome.test not in blamed]


def judge(
    runs: Sequence[ModuleRun], expectations: Sequence[ExpectedFailure], version: str
) -> Verdict:
    """Sort the outcomes of ``runs`` on the Python version ``version``, one of ``VERSIONS``.

    An expectation about a module that did not run is left aside.
    """
    verdict = Verdict()
    complete = {run.module: run.collected for run in runs if run.collected}
    expected: set[str] = set()
    races: set[str] = set()
    for entry in expectations:
        if version not in entry.versions or entry.module not in complete:
            continue
        matches = [test for test in complete[entry.module] if fnmatchcase(test, entry.tests)]
        if not matches:
            verdict.bad_expectations.append(f"{entry.tests} matches no test")
        verdict.bad_expectations += [
            f"{entry.tests} matches {test}, which an earlier entry lists"
            for test in matches
            if test in expected
        ]
        expected.update(matches)
        if entry.is_race:
            races.update(matches)
    for run in runs:
        for outcome in run.outcomes.values():
            is_expected = outcome.test in expected
            match outcome.status:
                case "skipped":
                    verdict.skipped.append(outcome)
                case "passed" if is_expected and outcome.test not in races:
                    verdict.unexpected_passes.append(outcome)
                case "passed":
                    verdict.passed.append(outcome)
                case "failed" if is_expected:
                    verdict.expected_failures.append(outcome)
                case "failed":
                    verdict.unexpected_failures.append(outcome)
    return verdict
