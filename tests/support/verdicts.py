"""A plugin for pytest that tells another process, at once, which test runs and how each ended.

``compare_loops.py`` runs the contract on other loops with it (``-p support.verdicts --verdicts
DESCRIPTOR``): a loop may take its process down, or hang where no signal reaches, and what was
found until then must not be lost. Each message is a line of JSON: ``[test, verdict]``, with the
verdict RUNNING when the test begins, and PASSED, FAILED or SKIPPED when its body has ended. What
the leak guard finds after a test is no verdict on the promise, and is left out. The last message
is ALL_DONE; who ended before it has tests left.
"""

import json
import os

import pytest

RUNNING, PASSED, FAILED, SKIPPED = "running", "passed", "failed", "skipped"
ALL_DONE = ["", "all done"]

_ALL_RAN = (
    pytest.ExitCode.OK,
    pytest.ExitCode.TESTS_FAILED,
    pytest.ExitCode.NO_TESTS_COLLECTED,  # The one before was the last.
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--verdicts", type=int, required=True, help="the descriptor to write to")
    parser.addoption("--after", metavar="TEST", help="leave out this test and those before it")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Verdicts(config.getoption("--verdicts")))


# Last: the order of a run must be that of the run before.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    after = config.getoption("--after")
    if after is not None:
        del items[: [item.nodeid for item in items].index(after) + 1]


class _Verdicts:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def _tell(self, message: list[str]) -> None:
        os.write(self._descriptor, json.dumps(message).encode() + b"\n")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._tell([nodeid, RUNNING])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown" or (report.when == "setup" and report.passed):
            return
        # What is expected to fail is still not what was promised.
        failed = report.failed or hasattr(report, "wasxfail")
        self._tell([report.nodeid, FAILED if failed else report.outcome])

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus in _ALL_RAN:
            self._tell(ALL_DONE)
