"""Runs one module of a CPython test package in this process and reports every outcome.

A script, started by supervisor.py; the conversation is described in protocol.py. What must hold:
the process is in the state that ``python -m test`` gives its own workers, but for the loop.

A test that runs longer than its limit ends the process, with a dump of all threads on standard
error: faulthandler's watchdog does that on its own, so no deadlock can stop it. The supervisor
then goes on with the other tests in a fresh process. What comes before the first test has a limit
of its own.
"""

import faulthandler
import importlib
import json
import os
import signal
import sys
import time
import unittest
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).parents[1]))

from conformance.protocol import START_SECONDS, Orders, Outcome, Status
from conformance.redirect import (
    RedirectedLoopClass,
    find_loop_factory,
    redirect_contexts,
    redirect_loop_creation,
    redirect_primitives,
    relax_loop_cleanup,
)

ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class _Identified(Protocol):
    """What unittest reports on: a test, or a fixture that failed."""

    def id(self) -> str: ...


class Report:
    """The line-by-line channel to the supervisor."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._stream = os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace")
        self._process = os.getpid()

    def send(self, **message: object) -> None:
        """Write one message at once; a forked child of a test has nothing to report."""
        if os.getpid() == self._process:
            self._stream.write(json.dumps(message) + "\n")
            self._stream.flush()


class ReportingResult(unittest.TestResult):
    """Turns unittest's many calls into one outcome per test."""

    def __init__(
        self, report: Report, prefix: str, orders: Orders, loop_class: RedirectedLoopClass
    ) -> None:
        super().__init__()
        self._report = report
        self._prefix = prefix
        self._timeout = orders["timeout"]
        self._timeouts = orders["timeouts"]
        self._loop_class = loop_class
        self._current: unittest.TestCase | None = None
        self._status: Status = "passed"
        self._details: list[str] = []
        self._begin = 0.0
        self._loops_before = 0

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().startTest(test)
        self._current = test
        self._status = "passed"
        self._details = []
        self._begin = time.monotonic()
        self._loops_before = self._loop_class.loops_made
        timeout = self._timeouts.get(self._name(test), self._timeout)
        faulthandler.dump_traceback_later(timeout, exit=True, file=sys.__stderr__ or 2)
        self._report.send(started=self._name(test))

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().stopTest(test)
        if self._current is None:
            return
        faulthandler.cancel_dump_traceback_later()
        self._current = None
        self._finish(
            Outcome(
                self._name(test),
                self._status,
                "\n".join(self._details),
                time.monotonic() - self._begin,
                self._loop_class.loops_made - self._loops_before,
            )
        )

    def addError(self, test: unittest.TestCase, err: ExceptionInfo) -> None:  # noqa: N802
        super().addError(test, err)
        self._note(test, "failed", self.errors[-1][1])

    def addFailure(self, test: unittest.TestCase, err: ExceptionInfo) -> None:  # noqa: N802
        super().addFailure(test, err)
        self._note(test, "failed", self.failures[-1][1])

    def addSubTest(  # noqa: N802
        self, test: unittest.TestCase, subtest: unittest.TestCase, err: ExceptionInfo | None
    ) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._note(test, "failed", (self.failures + self.errors)[-1][1])

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        super().addSkip(test, reason)
        self._note(test, "skipped", reason)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().addUnexpectedSuccess(test)
        self._note(test, "failed", "passed although CPython marks it as an expected failure")

    def _note(self, test: _Identified, status: Status, detail: str) -> None:
        if self._current is not None:
            # A failure outranks a skip, whichever came first: one subtest may skip, another fail.
            if self._status != "failed":
                self._status = status
            self._details.append(detail)
        elif isinstance(test, unittest.TestCase):
            # 3.12.1 does not start a test that a decorator skips, though it stops it.
            self._finish(Outcome(self._name(test), status, detail))
        else:
            self._report.send(fixture=self._name(test), status=status, detail=detail)

    def _finish(self, outcome: Outcome) -> None:
        self._report.send(
            finished=outcome.test,
            status=outcome.status,
            detail=outcome.detail,
            seconds=outcome.seconds,
            loops_made=outcome.loops_made,
        )

    def _name(self, test: _Identified) -> str:
        # A fixture is called "setUpClass (package.module.Class)".
        return test.id().replace(self._prefix, "", 1)


def flatten(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """Yield the tests of nested suites in the order in which unittest would run them."""
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def prepare_process() -> None:
    """Do what ``python -m test`` does in its workers and the tests depend on."""
    support: Any = importlib.import_module("test.support")
    # The default, None, grants every resource; "network" would reach beyond this machine.
    support.use_resources = {}
    support.record_original_stdout(sys.stdout)
    faulthandler.enable(all_threads=True)
    # A background job inherits SIGINT ignored, and asyncio.Runner then leaves it alone.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def empty_standard_input() -> None:
    """Give the tests, and the children that inherit it from them, nothing to read."""
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)


def main() -> None:
    """Carry out the orders on standard input."""
    orders: Orders = json.loads(sys.stdin.readline())
    report = Report(orders["report"])
    faulthandler.dump_traceback_later(START_SECONDS, exit=True)
    prepare_process()
    loop_class = redirect_loop_creation(find_loop_factory(orders["loop"]))
    redirect_primitives(orders["primitives"])
    redirect_contexts(orders["contexts"])
    if orders["package"] == "test.test_asyncio":
        relax_loop_cleanup(importlib.import_module("test.test_asyncio.utils").TestCase)
    prefix = orders["package"] + "."
    loader = unittest.TestLoader()
    try:
        suite = loader.loadTestsFromName(prefix + orders["module"])
    except unittest.SkipTest as skip:
        report.send(skipped_module=str(skip))
        return
    if loader.errors:
        sys.exit("\n".join(map(str, loader.errors)))
    tests = {test.id().removeprefix(prefix): test for test in flatten(suite)}
    report.send(collected=list(tests))
    selected = [tests[name] for name in json.loads(sys.stdin.readline())]
    faulthandler.cancel_dump_traceback_later()
    empty_standard_input()
    result = ReportingResult(report, prefix, orders, loop_class)
    unittest.TestSuite(selected).run(result)
    report.send(ended=True)


if __name__ == "__main__":
    main()
