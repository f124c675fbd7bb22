"""What tests of workers have in common."""

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

import rloop
from support.peers import LOOPBACK
from support.programs import PROGRAM_TIMEOUT
from support.threads import PEER_TIMEOUT

T = TypeVar("T")

#: On a build with the GIL.
several_workers = pytest.mark.filterwarnings(r"ignore:a group of \d+ workers:RuntimeWarning")


def say(*words: object) -> None:
    """Print a line as one write, so that the lines of several workers do not mix."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def say_when_serving() -> None:
    """Print "serving" and the worker's index once its loop has a server."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, rloop.TokioLoop)
    while not loop._servings:
        await asyncio.sleep(0.001)
    say("serving", rloop.current_worker().index)


def free_address() -> tuple[str, int]:
    """Return an address that nobody has bound now.

    Its port is none that the kernel gives to a socket that asks for any: tests run side by side.
    """
    while True:
        address = (LOOPBACK, random.randrange(10_000, 32_000))
        with contextlib.suppress(OSError), socket.create_server(address):
            return address


class Meeting:
    """Lets the workers of a test, and its own threads, wait for each other."""

    def __init__(self, parties: int) -> None:
        self._barrier = threading.Barrier(parties, timeout=PEER_TIMEOUT)

    async def meet(self) -> None:
        """Wait on a worker until all parties have come."""
        await asyncio.to_thread(self._barrier.wait)

    def wait(self) -> None:
        """Block until all parties have come."""
        self._barrier.wait()


def run_beside(
    client: Callable[[], object], main: Callable[[], Awaitable[T]], workers: int = 2, **options: Any
) -> list[T]:
    """Run the workers while a thread calls `client`; return the workers' results.

    What the client raises is raised.
    """
    errors: list[BaseException] = []

    def call() -> None:
        try:
            client()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, name="client")
    thread.start()
    try:
        results = rloop.run_workers(main, workers=workers, **options)
    finally:
        thread.join()
    if errors:
        raise errors[0]
    return results


class Program:
    """A program in a process of its own that prints lines, and gets signals."""

    def __init__(self, process: subprocess.Popen[str], timeout: float) -> None:
        self.process = process
        self._timer = threading.Timer(timeout, process.kill)
        self._timer.start()

    def wait_for(self, *lines: str) -> None:
        """Read standard output until each of these lines has come, in any order."""
        assert self.process.stdout is not None
        missing = list(lines)
        seen: list[str] = []
        while missing:
            line = self.process.stdout.readline()
            if not line:
                self._timer.cancel()
                error = self.process.stderr.read() if self.process.stderr else ""
                pytest.fail(f"the program ended without printing {missing}: {seen}\n{error}")
            line = line.rstrip("\n")
            seen.append(line)
            if line in missing:
                missing.remove(line)

    def write(self, text: str) -> None:
        """Write to the program's standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def send(self, signum: int) -> None:
        """Send the process a signal."""
        self.process.send_signal(signum)

    def end(self) -> tuple[int, list[str], str]:
        """Wait for the end; return exit status, the rest of stdout as lines, and stderr."""
        stdout, stderr = self.process.communicate(timeout=PROGRAM_TIMEOUT)
        return self.process.returncode, stdout.splitlines(), stderr

    def close(self) -> None:
        """Kill the process if it still runs."""
        self._timer.cancel()
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def program(
    *arguments: str | Path,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = PROGRAM_TIMEOUT,
) -> Iterator[Program]:
    """Run the interpreter with these arguments in `folder`; kill it at the end, or in time."""
    tests = Path(__file__).parent.parent
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONASYNCIODEBUG"}
    process = subprocess.Popen(
        [sys.executable, "-u", *map(str, arguments)],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(tests), **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    running = Program(process, timeout)
    try:
        yield running
    finally:
        running.close()


def write_modules(folder: Path, modules: Mapping[str, str]) -> None:
    """Write files with the given sources."""
    for name, source in modules.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
