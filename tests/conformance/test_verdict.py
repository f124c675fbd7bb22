"""That expectations are strict: whatever differs from the list fails the run."""

import pytest

from conformance.protocol import Outcome, Status
from conformance.supervisor import ModuleRun
from conformance.verdict import ExpectedFailure, Verdict, judge


def judge_one(status: Status, *patterns: str, version: str = "3.14") -> Verdict:
    run = ModuleRun("test_a", ["test_a.C.test_x"])
    run.record(Outcome("test_a.C.test_x", status))
    entries = [ExpectedFailure(pattern, "pokes", ("3.14",)) for pattern in patterns]
    return judge([run], entries, version)


def test_an_unlisted_failure_is_a_fault() -> None:
    verdict = judge_one("failed")
    assert [outcome.test for outcome in verdict.unexpected_failures] == ["test_a.C.test_x"]
    assert (verdict.tests_passed, verdict.tests_run, verdict.faults) == (0, 1, 1)


def test_a_listed_failure_is_no_fault_and_no_pass() -> None:
    verdict = judge_one("failed", "test_a.*.test_x")
    assert len(verdict.expected_failures) == 1
    assert (verdict.tests_passed, verdict.tests_run, verdict.faults) == (0, 1, 0)


def test_a_listed_test_that_passes_is_a_fault() -> None:
    verdict = judge_one("passed", "test_a.C.test_x")
    assert len(verdict.unexpected_passes) == 1
    assert (verdict.tests_passed, verdict.tests_run, verdict.faults) == (1, 1, 1)


@pytest.mark.parametrize("status", ["failed", "passed"])
def test_a_listed_race_may_end_either_way(status: Status) -> None:
    run = ModuleRun("test_a", ["test_a.C.test_x"])
    run.record(Outcome("test_a.C.test_x", status))
    verdict = judge([run], [ExpectedFailure("test_a.C.test_x", "looks", is_race=True)], "3.14")
    assert (verdict.tests_run, verdict.faults) == (1, 0)


def test_an_entry_for_another_version_excuses_nothing() -> None:
    assert judge_one("failed", "test_a.C.test_x", version="3.14t").faults == 1


def test_an_entry_that_matches_no_test_is_a_fault() -> None:
    verdict = judge_one("passed", "test_a.C.test_y")
    assert verdict.bad_expectations == ["test_a.C.test_y matches no test"]
    assert verdict.faults == 1


def test_an_entry_about_a_module_that_did_not_run_is_left_aside() -> None:
    assert judge_one("passed", "test_b.C.test_y").faults == 0


def test_two_entries_for_one_test_are_a_fault() -> None:
    assert judge_one("failed", "test_a.C.test_x", "test_a.C.*").faults == 1


def test_a_skip_is_neither_run_nor_a_fault() -> None:
    verdict = judge_one("skipped")
    assert (verdict.tests_run, verdict.faults) == (0, 0)


def test_no_pattern_excuses_what_is_not_a_test() -> None:
    run = ModuleRun("test_a", ["test_a.C.test_x"])
    run.record(Outcome("test_a.C.test_x", "failed"))
    run.record(Outcome("test_a.<exit>", "failed"))
    verdict = judge([run], [ExpectedFailure("test_a.*", "pokes")], "3.14")
    assert [outcome.test for outcome in verdict.unexpected_failures] == ["test_a.<exit>"]
    assert (verdict.tests_run, verdict.faults) == (1, 1)


def test_a_failure_of_the_machine_is_no_fault_and_no_pass() -> None:
    verdict = judge_one("failed")
    verdict.blame_environment(["test_a.C.test_x"])
    assert len(verdict.environment_failures) == 1
    assert (verdict.tests_passed, verdict.tests_run, verdict.faults) == (0, 1, 0)
