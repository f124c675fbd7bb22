"""Processes under measurement: servers and the load generator, each on cores of its own.

Used by run.py and demo.py. A server announces itself with one line of JSON and ends when its
standard input does; what it prints to standard error is a fault of the server and fails the cell,
so that no number is reported for a loop that dropped an exception on the way.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

START_SECONDS = 60.0
"""How long a server may take to announce itself; a counting tool slows it down 50 times."""

STOP_SECONDS = 30.0
"""How long a server may take to end after its input did."""


class CellFailed(Exception):
    """A measurement could not be taken; the message is what the table's notes say."""


@dataclass(frozen=True)
class Cores:
    """Where the two sides run; the same core if there is only one."""

    server: frozenset[int]
    client: frozenset[int]

    @property
    def separate(self) -> bool:
        """Whether the two sides have no core in common."""
        return not self.server & self.client


def choose_cores() -> Cores:
    """Give the server the last core this process may use, and the client the first.

    The first core of a machine often serves its interrupts, which would count against the server.
    """
    usable = sorted(os.sched_getaffinity(0))
    return Cores(server=frozenset(usable[-1:]), client=frozenset(usable[:1]))


@contextmanager
def on_cores(cores: frozenset[int]) -> Iterator[None]:
    """Let this thread, and every process it starts meanwhile, run on `cores` only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_pinned(
    command: Sequence[str | os.PathLike[str]],
    cores: frozenset[int],
    *,
    timeout: float,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """Run `command` on `cores` and return the JSON that it prints.

    `timeout` is in seconds. Raises CellFailed, with the last line of its standard error, if the
    command fails or does not end in time.
    """
    try:
        with on_cores(cores):
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=timeout,
                env=environment,
                check=False,
                stdin=subprocess.DEVNULL,
            )
    except subprocess.TimeoutExpired:
        raise CellFailed(f"no result within {timeout:.0f} s") from None
    if done.returncode != 0:
        raise CellFailed(last_line(done.stderr) or f"exit status {done.returncode}")
    return json.loads(done.stdout)


def last_line(text: str) -> str:
    """Return the last line of `text` that is not blank, or an empty string."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


class ServerProcess:
    """A server under measurement; also a context manager around its life.

    `start` and `stop` raise CellFailed if it does not announce itself, does not end, ends with a
    failure, or has complained on standard error.
    """

    announcement: dict[str, Any]
    """What the server said of itself; always has ``port``."""

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        cores: frozenset[int],
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command = command
        self.cores = cores
        self.environment = environment

    @property
    def address(self) -> str:
        """Where it listens, as IP:PORT."""
        return f"127.0.0.1:{self.announcement['port']}"

    @property
    def process_id(self) -> int:
        """The id of the process, for /proc."""
        return self.process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except CellFailed as failure:
            if error is None:
                raise
            if isinstance(error, CellFailed):
                # What the server says of its end explains what the client saw of it.
                raise CellFailed(f"{error}; server: {failure}") from None

    def start(self) -> None:
        """Start the server and wait for its announcement."""
        self.complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in stop)
        with on_cores(self.cores):
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.complaints,
                env=self.environment,
            )
        assert self.process.stdout is not None
        try:
            ready, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
            line = self.process.stdout.readline() if ready else b""
        except BaseException:
            self._end()
            raise
        if not line:
            _, complaints = self._end()
            raise CellFailed(last_line(complaints) or "the server did not start")
        self.announcement = json.loads(line)

    def stop(self) -> None:
        """End the server's input and wait until it has ended."""
        status, complaints = self._end()
        if status != 0 or complaints:
            raise CellFailed(last_line(complaints) or f"the server's exit status is {status}")

    def _end(self) -> tuple[int | str, str]:
        """End the server and return its exit status and all that it wrote to standard error."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        status: int | str
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            status = f"none: it did not end within {STOP_SECONDS:.0f} s of its input"
        self.process.stdout.close()
        with self.complaints:
            self.complaints.seek(0)
            return status, self.complaints.read()
