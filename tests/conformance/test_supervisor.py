"""That every test gets its outcome whatever it does to its process, on modules made for that."""

from pathlib import Path

import pytest

from conformance.protocol import Outcome
from conformance.supervisor import ModuleRun, Supervisor

pytestmark = pytest.mark.timeout(120)


def run_module(
    folder: Path, source: str, *, timeout: float = 60.0, timeouts: dict[str, float] | None = None
) -> ModuleRun:
    package = folder / "madetests"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "test_made.py").write_text("import os, threading, unittest\n" + source)
    supervisor = Supervisor(
        "madetests", "asyncio", timeout, lambda _: True, str(folder), timeouts=timeouts
    )
    return supervisor.run("test_made")


def statuses(run: ModuleRun) -> dict[str, str]:
    return {
        outcome.test.removeprefix("test_made."): outcome.status for outcome in run.outcomes.values()
    }


def only_outcome(run: ModuleRun) -> Outcome:
    [outcome] = run.outcomes.values()
    return outcome


def test_each_way_for_a_test_to_end_has_its_status(tmp_path: Path) -> None:
    run = run_module(
        tmp_path,
        """
class C(unittest.TestCase):
    def test_passes(self): pass
    def test_fails(self): self.fail()
    def test_errs(self): raise ZeroDivisionError
    def test_skips_itself(self): self.skipTest("reason")
    @unittest.skip("reason")
    def test_is_skipped(self): pass
    def test_fails_in_one_subtest_and_skips_another(self):
        with self.subTest(1): self.fail()
        with self.subTest(2): self.skipTest("reason")
    def test_fails_in_clean_up(self): self.addCleanup(self.fail)
    @unittest.expectedFailure
    def test_fails_as_expected(self): self.fail()
    @unittest.expectedFailure
    def test_passes_unexpectedly(self): pass
@unittest.skip("reason")
class Skipped(unittest.TestCase):
    def test_is_skipped(self): pass
""",
    )
    assert statuses(run) == {
        "C.test_passes": "passed",
        "C.test_fails": "failed",
        "C.test_errs": "failed",
        "C.test_skips_itself": "skipped",
        "C.test_is_skipped": "skipped",
        "C.test_fails_in_one_subtest_and_skips_another": "failed",
        "C.test_fails_in_clean_up": "failed",
        "C.test_fails_as_expected": "passed",
        "C.test_passes_unexpectedly": "failed",
        "Skipped.test_is_skipped": "skipped",
    }


def test_a_crash_fails_one_test_and_the_others_go_on(tmp_path: Path) -> None:
    run = run_module(
        tmp_path,
        """
class C(unittest.TestCase):
    def test_1(self): pass
    def test_2(self): os.abort()
    def test_3(self): pass
""",
    )
    assert statuses(run) == {"C.test_1": "passed", "C.test_2": "failed", "C.test_3": "passed"}
    assert "Aborted" in run.outcomes["test_made.C.test_2"].detail


def test_a_hang_fails_one_test_with_a_dump_of_its_threads(tmp_path: Path) -> None:
    run = run_module(
        tmp_path,
        """
class C(unittest.TestCase):
    def test_1(self): threading.Event().wait()
    def test_2(self): pass
""",
        timeout=2.0,
    )
    assert statuses(run) == {"C.test_1": "failed", "C.test_2": "passed"}
    assert "in test_1" in run.outcomes["test_made.C.test_1"].detail


def test_a_single_test_may_have_less_time_than_the_others(tmp_path: Path) -> None:
    run = run_module(
        tmp_path,
        """
class C(unittest.TestCase):
    def test_1(self): threading.Event().wait()
    def test_2(self): pass
""",
        timeouts={"test_made.C.test_1": 0.5},
    )
    assert statuses(run) == {"C.test_1": "failed", "C.test_2": "passed"}
    assert run.seconds < 60


def test_a_class_fixture_fails_the_tests_that_it_keeps_from_running(tmp_path: Path) -> None:
    run = run_module(
        tmp_path,
        """
class A(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise ZeroDivisionError
    def test_1(self): pass
    def test_2(self): pass
class B(unittest.TestCase):
    @classmethod
    def tearDownClass(cls): raise ZeroDivisionError
    def test_1(self): pass
""",
    )
    assert statuses(run) == {
        "A.test_1": "failed",
        "A.test_2": "failed",
        "B.test_1": "passed",
        "B.<tearDownClass>": "failed",
    }


def test_a_crash_in_a_class_fixture_fails_the_next_test(tmp_path: Path) -> None:
    run = run_module(
        tmp_path,
        """
class A(unittest.TestCase):
    @classmethod
    def setUpClass(cls): os._exit(0)
    def test_1(self): pass
class B(unittest.TestCase):
    def test_1(self): pass
""",
    )
    assert statuses(run) == {"A.test_1": "failed", "B.test_1": "passed"}


def test_a_crash_after_the_last_test_is_a_failure(tmp_path: Path) -> None:
    run = run_module(
        tmp_path,
        """
import atexit
class C(unittest.TestCase):
    def test_1(self): atexit.register(os._exit, 5)
""",
    )
    assert statuses(run) == {"C.test_1": "passed", "<exit>": "failed"}
    assert "exit status 5" in run.outcomes["test_made.<exit>"].detail


def test_a_module_that_cannot_be_imported_is_a_failure(tmp_path: Path) -> None:
    outcome = only_outcome(run_module(tmp_path, "import no_such_module"))
    assert (outcome.test, outcome.status) == ("test_made.<import>", "failed")
    assert "no_such_module" in outcome.detail


def test_a_module_that_skips_itself_has_a_reason_and_no_outcome(tmp_path: Path) -> None:
    run = run_module(tmp_path, "raise unittest.SkipTest('elsewhere')")
    assert (run.skip_reason, run.outcomes) == ("elsewhere", {})


@pytest.mark.parametrize(
    "make",
    [
        "asyncio.new_event_loop().close()",
        "asyncio.SelectorEventLoop().close()",
        "asyncio.SelectorEventLoop(selectors.SelectSelector()).close()",
        "asyncio.unix_events.SelectorEventLoop().close()",
        "asyncio.run(asyncio.sleep(0))",
        "asyncio.Runner().__enter__().close()",
        "asyncio.get_event_loop_policy().new_event_loop().close()",
        "type('T', (unittest.IsolatedAsyncioTestCase,), {'runTest': lambda self: None})().run()",
        "self.assertIsInstance(asyncio.new_event_loop(), asyncio.SelectorEventLoop)",
    ],
)
def test_every_place_that_makes_a_loop_makes_the_loop_under_test(tmp_path: Path, make: str) -> None:
    outcome = only_outcome(
        run_module(
            tmp_path,
            f"""
import asyncio, selectors
class C(unittest.TestCase):
    def test_1(self):
        {make}
""",
        )
    )
    assert (outcome.status, outcome.loops_made) == ("passed", 1), outcome.detail
