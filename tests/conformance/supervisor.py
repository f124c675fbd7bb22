"""Takes one test module through as many worker processes as it needs.

Called by run.py, one thread per module at a time. What must hold: every selected test of the
module gets exactly one outcome, whatever the tests do to the process. A worker that crashes or
hangs costs the test that was running a failure (between tests: the next one, whose class fixture
was running); the tests after it go on in a fresh process.
"""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from conformance.protocol import START_SECONDS, Orders, Outcome, Status

WORKER = Path(__file__).with_name("worker.py")
# Seconds. A worker ends a hanging test itself, with a dump of its threads; should it not manage
# to, it is killed this much later. It also has this long to exit when it is done.
GRACE = 10.0
# How much of a dead worker's output goes into a failure's detail, in characters.
LAST_WORDS = 20_000


@dataclass
class ModuleRun:
    """What came out of one module."""

    module: str
    collected: list[str] = field(default_factory=list)
    """The ids of all its tests, selected or not."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """By test id, in the order in which the tests ended."""
    seconds: float = 0.0
    skip_reason: str | None = None
    """Why CPython skips the whole module here, if it does."""

    def record(self, outcome: Outcome) -> None:
        """Add one outcome."""
        self.outcomes[outcome.test] = outcome


class Supervisor:
    """Runs the modules of one test package on one loop.

    Args:
        package: the test package, such as ``test.test_asyncio``.
        loop: a name in ``redirect.LOOPS``.
        timeout: how long one test may take, in seconds.
        is_selected: whether to run the test with this id.
        python_path: folders that the workers find modules in, beside their usual ones.
        primitives: where the tests get locks and queues from, one of ``redirect.PRIMITIVES``.
        contexts: where they get TLS contexts from, one of ``redirect.CONTEXTS``.
        timeouts: how long single tests may take, in seconds by id, instead of ``timeout``.
    """

    def __init__(
        self,
        package: str,
        loop: str,
        timeout: float,
        is_selected: Callable[[str], bool],
        python_path: str | None = None,
        primitives: str = "asyncio",
        contexts: str = "ssl",
        timeouts: Mapping[str, float] | None = None,
    ) -> None:
        self._package = package
        self._loop = loop
        self._timeout = timeout
        self._is_selected = is_selected
        self._primitives = primitives
        self._contexts = contexts
        self._timeouts = dict(timeouts or {})
        self._environment = dict(os.environ)
        if python_path is not None:
            self._environment["PYTHONPATH"] = python_path

    def run(self, module: str) -> ModuleRun:
        """Run the selected tests of ``module``. What they do is in the result, never raised."""
        run = ModuleRun(module)
        begin = time.monotonic()
        while not self._run_worker(run):
            pass
        run.seconds = time.monotonic() - begin
        return run

    def _run_worker(self, run: ModuleRun) -> bool:
        """Go on with ``run`` in a fresh process; return whether nothing is left to do."""
        with tempfile.TemporaryDirectory(prefix="conformance-") as directory:
            output = Path(directory, "output")
            work = Path(directory, "work")
            work.mkdir()
            reader, writer = os.pipe()
            orders = Orders(
                package=self._package,
                module=run.module,
                loop=self._loop,
                primitives=self._primitives,
                contexts=self._contexts,
                timeout=self._timeout,
                timeouts=self._timeouts,
                report=writer,
            )
            with output.open("wb") as sink, os.fdopen(reader, "rb", buffering=0) as report:
                process = subprocess.Popen(
                    [sys.executable, str(WORKER)],
                    stdin=subprocess.PIPE,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    cwd=work,
                    env=self._environment,
                    pass_fds=[writer],
                    start_new_session=True,
                )
                os.close(writer)
                assert process.stdin is not None
                conversation = _Conversation(run, self._is_selected, process.stdin)
                hangs = False
                # The worker closes its standard input when it has read what it needs, or dies.
                with contextlib.suppress(BrokenPipeError), process.stdin:
                    _send(process.stdin, orders)
                    try:
                        for message in self._messages(report):
                            conversation.take(message)
                            if conversation.is_over:
                                break
                    except TimeoutError:
                        hangs = True
                status = _see_off(process, hangs=hangs)
            text = output.read_text(encoding="utf-8", errors="backslashreplace")
            return conversation.conclude(status, text[-LAST_WORDS:])

    def _messages(self, report: IO[bytes]) -> Iterator[dict[str, Any]]:
        """Yield the worker's messages.

        Raises:
            TimeoutError: if it falls silent for longer than its start or a test may take.
        """
        poll = select.poll()
        poll.register(report, select.POLLIN)
        pending = b""
        patience = START_SECONDS
        while True:
            if not poll.poll((patience + GRACE) * 1000):
                raise TimeoutError
            patience = self._timeout
            chunk = report.read(65536)
            if not chunk:
                return
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                yield json.loads(line)


class _Conversation:
    """What one worker was asked and what it told; turns that into outcomes of the module."""

    def __init__(
        self, run: ModuleRun, is_selected: Callable[[str], bool], orders: IO[bytes]
    ) -> None:
        self._run = run
        self._is_selected = is_selected
        self._orders = orders
        self._asked: list[str] | None = None
        self._running: str | None = None
        self.is_over = False
        """Whether the worker has said all it has to say."""

    def take(self, message: dict[str, Any]) -> None:
        """Act on one message of the worker."""
        match message:
            case {"collected": [*tests]}:
                self._run.collected = tests
                self._asked = [test for test in tests if self._is_selected(test)]
                _send(self._orders, self._left())
            case {"skipped_module": str(reason)}:
                self._run.skip_reason = reason
                self.is_over = True
            case {"started": str(test)}:
                self._running = test
            case {"finished": str(test), **fields}:
                self._running = None
                self._run.record(Outcome(test, **fields))
            case {"fixture": str(fixture), "status": status, "detail": detail}:
                self._take_fixture(fixture, status, detail)
            case {"ended": True}:
                self.is_over = True
            case _:
                raise ValueError(f"unknown message from a worker: {message}")

    def conclude(self, status: int | None, output: str) -> bool:
        """Account for the worker's end; return whether the module is done.

        Args:
            status: its exit status, None if it had to be killed.
            output: its last words.
        """
        how = "hung" if status is None else f"ended with exit status {status}"
        detail = f"the worker process {how}\n{output}"
        if self._asked is None and not self.is_over:
            self._run.record(Outcome(f"{self._run.module}.<import>", "failed", detail))
            return True
        left = self._left()
        if self.is_over or not left:
            if status != 0:
                self._run.record(Outcome(f"{self._run.module}.<exit>", "failed", detail))
            return True
        self._run.record(Outcome(self._running or left[0], "failed", detail))
        return not self._left()

    def _left(self) -> list[str]:
        return [test for test in self._asked or () if test not in self._run.outcomes]

    def _take_fixture(self, fixture: str, status: Status, detail: str) -> None:
        """Give the outcome of a class or module fixture to the tests that it kept from running.

        unittest names it ``setUpClass (module.Class)``. A failed tear-down keeps none from
        running and is recorded under a name of its own.
        """
        match = re.fullmatch(r"(\w+) \((.+)\)", fixture)
        if match is None:
            raise ValueError(f"unknown kind of fixture: {fixture}")
        name, owner = match.groups()
        kept = [test for test in self._left() if test.startswith(owner + ".")]
        for test in kept or [f"{owner}.<{name}>"]:
            self._run.record(Outcome(test, status, f"{name}: {detail}"))


def _send(stream: IO[bytes], value: object) -> None:
    stream.write(json.dumps(value).encode() + b"\n")
    stream.flush()


def _see_off(process: "subprocess.Popen[bytes]", *, hangs: bool) -> int | None:
    """End the worker and all its children; return its exit status, None if it hung."""
    if hangs:
        # Makes faulthandler dump its threads.
        process.send_signal(signal.SIGABRT)
    try:
        status: int | None = process.wait(GRACE)
    except subprocess.TimeoutExpired:
        status = None
    # macOS answers EPERM when only zombies are left in the group.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return None if hangs else status
