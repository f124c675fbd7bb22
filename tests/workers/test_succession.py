"""New workers take the place of others: on request one by one, and after a failure."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import rloop
from rloop import sync
from rloop._workers.group import Group
from support.applications import Application
from support.threads import PEER_TIMEOUT, eventually
from support.workers import free_address, run_beside, several_workers

pytestmark = several_workers


class Generations:
    """A main that serves an address, and counts how often it was called on each worker."""

    def __init__(self, address: Any) -> None:
        self.address = address
        self.finished = sync.Event()
        self.started = [0, 0]
        self.fails_in: int | None = None
        self.served = threading.Semaphore(0)

    async def __call__(self) -> tuple[int, int]:
        index = rloop.current_worker().index
        self.started[index] += 1
        generation = self.started[index]
        if generation == self.fails_in:
            raise LookupError(f"generation {generation} of worker {index} fails")

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(b"%d %d\n" % (index, generation))
            writer.close()
            await writer.wait_closed()

        if isinstance(self.address, str):
            server = await asyncio.start_unix_server(handle, self.address)
        else:
            server = await asyncio.start_server(handle, *self.address)
        self.served.release()
        try:
            await self.finished.wait()
        finally:
            server.close()
            while rloop.current_worker().statistics().connections:
                await asyncio.sleep(0.001)
        return index, generation

    def wait_until_served(self, workers: int = 2) -> None:
        """Wait until so many more workers serve."""
        for _ in range(workers):
            assert self.served.acquire(timeout=PEER_TIMEOUT)

    def ask(self) -> tuple[int, int]:
        """Connect; return the worker that answers, and its generation."""
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        with socket.socket(family) as sock:
            sock.settimeout(PEER_TIMEOUT)
            sock.connect(self.address)
            sock.sendall(b"who?\n")
            index, generation = sock.makefile().readline().split()
        return int(index), int(generation)

    def answers_until(self, *last: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """Ask until each of these workers and generations was the only one of its worker."""
        recent: list[tuple[int, int]] = []
        while len(recent) < 10 or set(recent) != set(last):
            recent = [*recent[-9:], self.ask()]
            yield recent[-1]

    def run_beside(self, client: Callable[[], None], main: Any = None) -> list[tuple[int, int]]:
        """Run two workers until `client` returns or fails."""

        def call() -> None:
            try:
                self.wait_until_served()
                client()
            finally:
                self.finished.set()

        return run_beside(call, main or self)


@pytest.fixture(params=["tcp", "unix"])
def generations(request: pytest.FixtureRequest, tmp_path: Path) -> Generations:
    return Generations(free_address() if request.param == "tcp" else str(tmp_path / "socket"))


def test_sighup_replaces_all_workers_and_refuses_no_connection(generations: Generations) -> None:
    def client() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        answers = list(generations.answers_until((0, 2), (1, 2)))
        assert set(answers) <= {(0, 1), (1, 1), (0, 2), (1, 2)}

    assert generations.run_beside(client) == [(0, 2), (1, 2)]


def test_a_worker_may_be_replaced_alone_and_again(generations: Generations) -> None:
    found: list[rloop.Worker] = []

    async def main() -> tuple[int, int]:
        found.append(rloop.current_worker())
        return await generations()

    def client() -> None:
        first = found[0]
        for generation in (2, 3):
            first.workers[1].replace()
            generations.wait_until_served(1)
            assert list(generations.answers_until((0, 1), (1, generation)))
        # The worker that was replaced is none any more: nothing happens.
        first.workers[1].replace()
        generations.wait_until_served(1)
        old = next(worker for worker in found if worker.index == 1)
        old.replace()
        assert list(generations.answers_until((0, 1), (1, 4)))

    assert generations.run_beside(client, main) == [(0, 1), (1, 4)]


def test_a_new_worker_that_fails_leaves_the_old_ones_serving(
    caplog: pytest.LogCaptureFixture,
) -> None:
    generations = Generations(free_address())
    generations.fails_in = 2

    def client() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        asyncio.run(eventually(lambda: bool(caplog.records)))
        assert set(generations.answers_until((0, 1), (1, 1))) == {(0, 1), (1, 1)}
        generations.fails_in = None
        os.kill(os.getpid(), signal.SIGHUP)
        list(generations.answers_until((0, 3), (1, 2)))

    assert generations.run_beside(client) == [(0, 3), (1, 2)]
    (record,) = caplog.records
    assert record.message == "<Worker 0 of 2> ended before it could replace the one that runs"
    assert "LookupError: generation 2 of worker 0 fails" in caplog.text


def test_a_new_worker_imports_the_application_anew(app: Application) -> None:
    source = """
        import asyncio, rloop
        from recorder import edit, finished, started
        version = {version}
        async def main():
            worker = rloop.current_worker()
            if version == 1:
                await started.wait()
                if worker.index == 0:
                    edit()
                    worker.replace()
            else:
                while worker.workers[0] is not worker:
                    await asyncio.sleep(0.001)
                finished.set()
            await finished.wait()
            return version
    """

    def edit() -> None:
        app.write({"app.py": source.format(version=22)})

    app.share(edit=edit, started=sync.Barrier(2), finished=sync.Event())
    assert app.run({"app.py": source.format(version=1)}) == [22, 1]


def test_workers_that_serve_nothing_are_replaced_once_the_new_one_runs() -> None:
    finished = sync.Event()
    cancelled: list[int] = []
    started: list[int] = []

    async def main() -> int:
        worker = rloop.current_worker()
        started.append(worker.index)
        generation = started.count(worker.index)
        if len(started) == 2:
            os.kill(os.getpid(), signal.SIGHUP)
        try:
            if len(cancelled) < 2:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(worker.index)
            if len(cancelled) == 2:
                finished.set()
            raise
        return generation

    async def wait_and_return() -> int:
        task = asyncio.ensure_future(main())
        is_finished = asyncio.ensure_future(finished.wait())
        await asyncio.wait([task, is_finished], return_when=asyncio.FIRST_COMPLETED)
        return started.count(rloop.current_worker().index)

    assert rloop.run_workers(wait_and_return, workers=2) == [2, 2]


def test_handlers_for_sighup_are_called_and_nobody_is_replaced() -> None:
    called: list[int] = []

    async def main() -> int:
        worker = rloop.current_worker()
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def handle() -> None:
            called.append(worker.index)
            done.set()

        loop.add_signal_handler(signal.SIGHUP, handle)
        await is_there.wait()
        if worker.index == 0:
            os.kill(os.getpid(), signal.SIGHUP)
        await done.wait()
        return len(worker.workers)

    is_there = sync.Barrier(2)
    assert rloop.run_workers(main, workers=2) == [2, 2]
    assert sorted(called) == [0, 1]


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_a_worker_that_fails_is_restarted(
    delay: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rloop._workers.succession._RESTART_DELAY", delay)
    runs = 0

    async def main() -> int:
        nonlocal runs
        if rloop.current_worker().index == 0:
            runs += 1
            if runs < 3:
                raise LookupError(f"run {runs}")
            finished.set()
        await finished.wait()
        return runs

    finished = sync.Event()
    assert rloop.run_workers(main, workers=2, restart=True) == [3, 3]
    assert [record.message for record in caplog.records] == [
        "<Worker 0 of 2> failed and is restarted"
    ] * 2


def test_an_interrupt_ends_a_group_whose_workers_are_to_be_restarted() -> None:
    async def main() -> None:
        raise LookupError

    def interrupt() -> None:
        def is_waiting() -> bool:
            group = Group.running
            return group is not None and len(group._succession._due) == 2

        asyncio.run(eventually(is_waiting))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        rloop.run_workers(main, workers=2, restart=True)
    thread.join()


def test_the_command_line_asks_for_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def run_program(_run: object, count: int, **options: Any) -> None:
        asked.append((count, options["restarts"], options["arguments"]))

    monkeypatch.setattr("rloop._workers.program.run_program", run_program)
    monkeypatch.setattr("rloop.__main__.set_default_loop", lambda _: None)
    monkeypatch.setattr("sys.argv", [])
    monkeypatch.setattr("sys.path", [])
    from rloop.__main__ import main

    main(["--restart", "--workers", "2", "program.py", "--restart"])
    main(["--workers=2", "program.py", "one"])
    assert asked == [(2, True, ["--restart"]), (2, False, ["one"])]


def test_a_worker_cannot_remove_the_path_that_another_serves(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    other = tmp_path / "file"
    is_there = sync.Barrier(2)

    async def main() -> bool:
        worker = rloop.current_worker()
        async with await asyncio.start_unix_server(print, path):
            await is_there.wait()
            if worker.index == 0:
                other.touch()
                for remove in (os.remove, os.unlink, Path.unlink):
                    remove(path)
                os.remove(other)
                with pytest.raises(FileNotFoundError):
                    os.remove(other)
                with pytest.raises(TypeError):
                    os.remove(None)  # type: ignore[arg-type]
            await is_there.wait()
            exists = path.exists() and not other.exists()
            await is_there.wait()
        return exists

    assert rloop.run_workers(main, workers=2) == [True, True]
