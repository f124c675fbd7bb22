"""Signals reach every worker, which ends by its own means; a second Ctrl-C ends at once."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import rloop
from support.programs import run_program
from support.threads import eventually
from support.workers import Meeting, program, several_workers, write_modules

pytestmark = several_workers

#: Runs `main` on two workers. Each prints a line when it is there and when it ends.
PRELUDE = """
import asyncio, os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")
import rloop
from support.workers import say
"""

SLEEPING = (
    PRELUDE
    + """
async def main():
    index = rloop.current_worker().index
    try:
        say("ready", index)
        await asyncio.Event().wait()
    finally:
        say("cleaned up", index)

rloop.run_workers(main, workers=2)
"""
)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_main_on_every_worker_and_then_ends_the_process(
    signum: signal.Signals, tmp_path: Path
) -> None:
    with program("-c", SLEEPING, folder=tmp_path) as running:
        running.wait_for("ready 0", "ready 1")
        running.send(signum)
        status, lines, error = running.end()
    assert sorted(lines) == ["cleaned up 0", "cleaned up 1"]
    assert status == -signum, error


def test_a_main_that_returns_when_it_is_cancelled_ends_without_an_error(tmp_path: Path) -> None:
    source = (
        PRELUDE
        + """
async def main():
    say("ready", rloop.current_worker().index)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return rloop.current_worker().index

say(rloop.run_workers(main, workers=2))
"""
    )
    with program("-c", source, folder=tmp_path) as running:
        running.wait_for("ready 0", "ready 1")
        running.send(signal.SIGINT)
        assert running.end() == (0, ["[0, 1]"], "")


@pytest.mark.parametrize(
    "stuck", ["while True: pass", "time.sleep(1000)", "threading.Event().wait()"]
)
def test_a_second_interrupt_ends_the_process_whatever_a_worker_does(
    stuck: str, tmp_path: Path
) -> None:
    source = (
        PRELUDE
        + f"""
async def main():
    index = rloop.current_worker().index
    say("ready", index)
    if index == 1:
        {stuck}
    try:
        await asyncio.Event().wait()
    finally:
        say("cleaned up", index)

try:
    rloop.run_workers(main, workers=2)
except KeyboardInterrupt:
    say("interrupted")
    raise
"""
    )
    with program("-c", source, folder=tmp_path) as running:
        running.wait_for("ready 0", "ready 1")
        running.send(signal.SIGINT)
        running.wait_for("cleaned up 0")
        running.send(signal.SIGINT)
        status, lines, error = running.end()
    assert (status, lines) == (-signal.SIGINT, ["interrupted"]), error


def test_a_signal_reaches_a_worker_that_runs_another_loop(tmp_path: Path) -> None:
    source = """
import asyncio, rloop, signal
from support.workers import say

async def main():
    index = rloop.current_worker().index
    asked = [asyncio.Event(), asyncio.Event()]
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(asked[0].set))
    loop.add_signal_handler(signal.SIGUSR1, asked[1].set)
    say("ready", index)
    for event in asked:
        await event.wait()
        say("asked", index)

with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
    runner.run(main())
"""
    write_modules(tmp_path, {"main.py": source})
    with program("-m", "rloop", "--workers", "2", "main.py", folder=tmp_path) as running:
        running.wait_for("ready 0", "ready 1")
        running.send(signal.SIGTERM)
        running.wait_for("asked 0", "asked 1")
        running.send(signal.SIGUSR1)
        running.wait_for("asked 0", "asked 1")
        assert running.end()[0] == 0


def test_an_interrupt_waits_until_a_worker_runs_a_loop(tmp_path: Path) -> None:
    source = """
import asyncio, os, rloop
from support.workers import say

say("importing", rloop.current_worker().index)
os.read(0, 1)

async def main():
    say("started")
    await asyncio.Event().wait()

try:
    asyncio.run(main())
finally:
    say("cleaned up")
"""
    write_modules(tmp_path, {"main.py": source})
    with program("-m", "rloop", "--workers", "2", "main.py", folder=tmp_path) as running:
        running.wait_for("importing 0", "importing 1")
        running.send(signal.SIGINT)
        running.write("..")
        status, lines, error = running.end()
    assert sorted(lines) == ["cleaned up"] * 2 + ["started"] * 2
    assert status == -signal.SIGINT, error


@pytest.mark.parametrize(
    "install",
    [
        "signal.signal(signal.SIGUSR1, lambda *_: handle())",
        "loop.add_signal_handler(signal.SIGUSR1, handle)",
    ],
    ids=["signal.signal", "add_signal_handler"],
)
def test_each_worker_has_handlers_of_its_own_which_run_on_its_thread(
    install: str, tmp_path: Path
) -> None:
    source = (
        PRELUDE
        + f"""
async def main():
    worker, loop, thread = rloop.current_worker(), asyncio.get_running_loop(), threading.get_ident()
    handled = asyncio.Event()

    def handle():
        assert asyncio.get_running_loop() is loop
        assert threading.get_ident() == thread
        assert rloop.current_worker() is worker
        handled.set()
        say("handled", worker.index)

    {install}
    say("ready", worker.index)
    await handled.wait()
    if worker.index == 0:
        handled.clear()
        await asyncio.to_thread(worker.workers[1]._thread.join)
        say("alone")
        await handled.wait()

rloop.run_workers(main, workers=2)
say(signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL)
"""
    )
    with program("-c", source, folder=tmp_path) as running:
        running.wait_for("ready 0", "ready 1")
        running.send(signal.SIGUSR1)
        running.wait_for("handled 0", "handled 1", "alone")
        running.send(signal.SIGUSR1)
        assert running.end() == (0, ["handled 0", "True"], "")


def test_a_worker_sees_itself_as_the_main_thread_of_a_process() -> None:
    outcome = run_program(
        PRELUDE
        + """
def handler(*_): ...

async def main():
    assert threading.main_thread() is threading.current_thread()
    assert await asyncio.to_thread(threading.main_thread) is threading.current_thread()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    assert signal.signal(signal.SIGUSR1, handler) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGUSR1) is handler
    assert signal.signal(signal.SIGUSR1, signal.SIG_IGN) is handler
    signal.raise_signal(signal.SIGUSR1)
    assert signal.signal(signal.SIGUSR1, 0) is signal.SIG_IGN
    assert signal.signal(signal.SIGPIPE, signal.SIG_DFL) is signal.SIG_IGN
    for arguments, error in (
        ((1000, handler), ValueError),
        ((signal.SIGUSR1, 17), TypeError),
        ((signal.SIGUSR1, None), TypeError),
        ((signal.SIGKILL, handler), OSError),
    ):
        try:
            signal.signal(*arguments)
        except error:
            pass
        else:
            raise AssertionError(arguments)
    try:
        await asyncio.to_thread(signal.signal, signal.SIGUSR1, handler)
    except ValueError as error:
        say(error)

rloop.run_workers(main, workers=1)
""",
        "rloop",
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout == "signal only works in main thread of the main interpreter\n"


def test_a_raised_signal_stays_with_the_worker_that_raises_it() -> None:
    outcome = run_program(
        PRELUDE
        + """
async def main():
    worker = rloop.current_worker()
    signal.signal(signal.SIGUSR1, lambda *_: say("handled by", worker.index))
    if worker.index == 1:
        signal.raise_signal(signal.SIGUSR1)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR2, say, "called by", worker.index)
        signal.raise_signal(signal.SIGUSR2)
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert loop.remove_signal_handler(signal.SIGUSR2)

rloop.run_workers(main, workers=2)
""",
        "rloop",
    )
    assert (outcome.returncode, outcome.stdout) == (0, "handled by 1\ncalled by 1\n"), (
        outcome.stderr
    )


def test_a_raised_signal_without_a_handler_ends_the_process_like_the_signal() -> None:
    outcome = run_program(
        PRELUDE
        + """
async def main():
    if rloop.current_worker().index == 1:
        signal.raise_signal(signal.SIGTERM)
    try:
        await asyncio.Event().wait()
    finally:
        say("cleaned up")

rloop.run_workers(main, workers=2)
""",
        "rloop",
    )
    assert (outcome.returncode, outcome.stdout) == (-signal.SIGTERM, "cleaned up\n"), outcome.stderr


def test_a_failure_ends_a_worker_by_its_handler_for_sigterm() -> None:
    outcome = run_program(
        PRELUDE
        + """
async def main():
    if rloop.current_worker().index == 1:
        raise LookupError
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    await asked.wait()
    say("asked")

try:
    rloop.run_workers(main, workers=2)
except LookupError:
    say("failed")
""",
        "rloop",
    )
    assert (outcome.returncode, outcome.stdout) == (0, "asked\nfailed\n"), outcome.stderr


def test_handlers_of_the_program_that_starts_the_workers_come_back() -> None:
    outcome = run_program(
        PRELUDE
        + """
def of_host(*_):
    say("host")

signal.signal(signal.SIGTERM, of_host)
signal.signal(signal.SIGUSR1, of_host)

async def main():
    asked = asyncio.Event()
    # One more than the host's, which the worker inherits.
    assert signal.signal(signal.SIGUSR1, lambda *_: asked.set()) is of_host
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asked.wait()

rloop.run_workers(main, workers=1)
assert signal.getsignal(signal.SIGTERM) is of_host
assert signal.getsignal(signal.SIGUSR1) is of_host
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
""",
        "rloop",
    )
    assert (outcome.returncode, outcome.stdout) == (0, "host\n"), outcome.stderr


def test_workers_may_be_started_by_another_thread_than_the_main_one() -> None:
    outcome = run_program(
        PRELUDE
        + """
async def main():
    if rloop.current_worker().index == 1:
        raise LookupError
    await asyncio.Event().wait()

def start():
    try:
        rloop.run_workers(main, workers=2)
    except LookupError:
        say("failed")

thread = threading.Thread(target=start)
thread.start()
thread.join()
""",
        "rloop",
    )
    assert (outcome.returncode, outcome.stdout) == (0, "failed\n"), outcome.stderr


def test_the_child_of_a_worker_that_forks_is_a_process_without_workers() -> None:
    outcome = run_program(
        PRELUDE
        + """
def in_child():
    assert threading.main_thread() is threading.current_thread()
    handled = []
    signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
    os.kill(os.getpid(), signal.SIGUSR1)
    assert handled == [1]
    try:
        rloop.current_worker()
    except RuntimeError:
        say("none")
    async def main():
        return rloop.current_worker().index
    say(rloop.run_workers(main, workers=2))

async def main():
    if rloop.current_worker().index == 1:
        return
    pid = os.fork()
    if pid == 0:
        try:
            asyncio._set_running_loop(None)
            in_child()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)

rloop.run_workers(main, workers=2)
""",
        "rloop",
    )
    assert (outcome.returncode, outcome.stdout) == (0, "none\n[0, 1]\n"), outcome.stderr


def test_the_failure_of_another_worker_does_not_cut_a_cleanup_short() -> None:
    meeting = Meeting(2)
    cleaned: list[int] = []

    async def generate() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            # Runs while asyncio.Runner closes the loop.
            meeting.wait()
            group = rloop.current_worker()._group
            await eventually(lambda: group._is_ending)
            # Handled after the group has sent the signal.
            was_sent = threading.Event()
            group._events.put(was_sent.set)
            await eventually(was_sent.is_set)
            await asyncio.sleep(0)
            cleaned.append(rloop.current_worker().index)

    async def main() -> None:
        if rloop.current_worker().index == 1:
            await asyncio.to_thread(meeting.wait)
            raise LookupError
        generator = generate()
        generators.append(generator)
        await anext(generator)

    generators: list[AsyncIterator[int]] = []
    with pytest.raises(LookupError):
        rloop.run_workers(main, workers=2)
    assert cleaned == [0]
