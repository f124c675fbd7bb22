"""The life of the worker threads: signals while a callback does not return, errors, fork, exit."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import rloop
from support.leaks import LeakGuard
from support.programs import run_program
from support.shards import Gate, on_each_shard, several_shards, shard_count
from support.threads import PEER_TIMEOUT, eventually, turns

pytestmark = several_shards

MakeLoop = Callable[[], rloop.TokioLoop]
NO_WARNINGS = ("-W", "ignore::DeprecationWarning", "-W", "ignore::RuntimeWarning")

# --- Ctrl-C ---

#: Waits for a line of the program, sends Ctrl-C, and again once the loop waits for its worker.
STUCK = """
import asyncio, os, signal, sys, threading, time
import rloop

stuck = threading.Event()
let_go = threading.Event()

async def never_return():
    stuck.set()
    while not let_go.wait(0.01):
        pass

def interrupt():
    stuck.wait()
    os.kill(os.getpid(), signal.SIGINT)
    # The run waits for the worker from now on.
    while not loop_has_ended():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

def loop_has_ended():
    return any(
        frame.f_code.co_name == "_wait_for_workers"
        for frame in frames_of_main_thread()
    )

def frames_of_main_thread():
    frame = sys._current_frames().get(threading.main_thread().ident)
    while frame is not None:
        yield frame
        frame = frame.f_back

threading.Thread(target=interrupt, daemon=True).start()

async def main():
    rloop.on_shard(1, never_return())
    await asyncio.sleep(3600)
"""

WAYS_TO_RUN = {
    "asyncio.Runner": """
        rloop.run(main(), threads=2)
    """,
    "run_until_complete": """
        loop = rloop.new_event_loop(threads=2)
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()
    """,
    "a signal handler of the loop": """
        loop = rloop.new_event_loop(threads=2)
        loop.add_signal_handler(signal.SIGINT, loop.stop)
        try:
            loop.create_task(main())
            loop.run_forever()
        finally:
            loop.close()
    """,
}


@pytest.mark.parametrize("way", WAYS_TO_RUN)
def test_the_second_ctrl_c_ends_a_process_whose_worker_never_returns(way: str) -> None:
    program = STUCK + "\n" + WAYS_TO_RUN[way].replace("\n        ", "\n")
    started = time.monotonic()
    outcome = run_program(program, "rloop", options=NO_WARNINGS)
    # Killed by SIGINT, which is how Python ends on a KeyboardInterrupt.
    assert outcome.returncode == -2, outcome.stderr
    assert "KeyboardInterrupt\nShard 1 has not returned from its callback.\n" in outcome.stderr
    assert time.monotonic() - started < PEER_TIMEOUT


def test_a_callback_that_returns_after_ctrl_c_lets_the_loop_clean_up() -> None:
    program = (
        STUCK
        + """
async def inner():
    try:
        await asyncio.sleep(3600)
    finally:
        print("cleaned up", flush=True)

async def main():
    rloop.on_shard(1, never_return())
    tasks = [asyncio.create_task(inner())]
    await asyncio.sleep(3600)

class Runner(asyncio.Runner):
    def close(self):
        # The second Ctrl-C has come.
        threading.Timer(0.1, let_go.set).start()
        super().close()

with Runner(loop_factory=lambda: rloop.new_event_loop(threads=2)) as runner:
    runner.run(main())
"""
    )
    outcome = run_program(program, "rloop", options=NO_WARNINGS)
    assert (outcome.returncode, outcome.stdout) == (-2, "cleaned up\n"), outcome.stderr


def test_what_interrupts_the_wait_for_a_worker_is_raised_again_until_that_returns(
    make_loop: MakeLoop,
) -> None:
    class Interruption(BaseException):
        pass

    async def hold() -> None:
        gate.hold()

    async def main() -> None:
        held.append(rloop.on_shard(1, hold()))
        await gate.held()

    gate = Gate()
    held: list[asyncio.Future[None]] = []
    loop: Any = make_loop()
    threads = loop._threads
    interrupting = Interruption()

    def interrupt(_: float = 0) -> Any:
        raise interrupting

    threads._stragglers, stragglers = interrupt, threads._stragglers
    with pytest.raises(Interruption):
        try:
            loop.run_until_complete(main())
        finally:
            threads._stragglers = stragglers
    # No signal has come; the note is made from what the wait found.
    threads._interruption = interrupting
    with pytest.raises(Interruption):
        loop.run_until_complete(asyncio.sleep(0))
    gate.open()
    loop.run_until_complete(held[0])
    assert loop.run_until_complete(on_each_shard(where)) == list(range(len(loop.statistics())))
    loop.close()


async def where() -> int:
    return rloop.current_shard()


def test_ctrl_c_ends_the_wait_for_a_callback_that_another_shard_runs() -> None:
    """ThreadSafeHandle.cancel() waits while the callback runs."""
    program = """
import asyncio, os, signal, threading, time
import rloop

stuck = threading.Event()

def never_return():
    stuck.set()
    while True:
        time.sleep(0.01)

handles = []

async def schedule():
    handles.append(asyncio.get_running_loop().call_soon_threadsafe(never_return))

async def main():
    rloop.on_shard(1, schedule())
    while not stuck.is_set():
        await asyncio.sleep(0)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        handles[0].cancel()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        os._exit(7)

rloop.run(main(), threads=2)
"""
    outcome = run_program(program, "rloop", options=NO_WARNINGS)
    assert (outcome.returncode, outcome.stdout) == (7, "interrupted\n"), outcome.stderr


# --- a worker that dies ---


class Failing(rloop.TokioLoop):
    """The part of a run that belongs to one shard fails, before or after it was driven."""

    failure: BaseException | None = None
    fails_at_once = True

    def _run_shard(self, shard: int) -> None:
        failure = self.failure
        if failure is not None and self.fails_at_once:
            raise failure
        super()._run_shard(shard)
        if failure is not None:
            raise failure


class LikeAPanic(BaseException):
    """What a panic in Rust becomes is no Exception either."""


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError, LikeAPanic, SystemExit])
def test_the_error_that_ends_a_worker_ends_the_run(
    kind: type[BaseException], threads: int, guard: LeakGuard
) -> None:
    async def wait_for_a_worker() -> None:
        await rloop.on_shard(1, where())

    loop = Failing(threads=threads)
    loop.set_exception_handler(guard.record)
    loop.failure = kind("for the test")
    coroutine = wait_for_a_worker()
    with pytest.raises(kind, match="for the test"):
        loop.run_until_complete(coroutine)
    # Those of the other workers.
    failures = guard.take_unraisable()
    assert len(failures) == threads - 2
    loop.failure = None
    # The loop is as it was: what was under way goes on.
    loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop)))
    assert loop.run_until_complete(on_each_shard(where)) == list(range(threads))
    loop.close()


def test_an_error_of_a_worker_at_the_end_of_a_run_is_raised_by_that_run(
    threads: int, guard: LeakGuard
) -> None:
    loop = Failing(threads=threads)
    loop.set_exception_handler(guard.record)
    loop.failure, loop.fails_at_once = RuntimeError("too late"), False
    with pytest.raises(RuntimeError, match="too late"):
        loop.run_until_complete(asyncio.sleep(0))
    assert len(guard.take_unraisable()) == threads - 2
    loop.failure = None
    assert loop.run_until_complete(on_each_shard(where)) == list(range(threads))
    loop.close()


@pytest.mark.parametrize("started_before", [0, 1])
def test_a_thread_that_cannot_be_started_fails_the_run_and_leaves_no_thread(
    started_before: int, threads: int, make_loop: MakeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    if started_before >= threads - 1:
        pytest.skip("the loop has too few threads")
    loop = make_loop()
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def start_some(self: threading.Thread) -> None:
        if len(started) == started_before:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start_some)
        coroutine = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            loop.run_until_complete(coroutine)
    assert not any(thread.is_alive() for thread in started)
    loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop)))
    assert loop.run_until_complete(on_each_shard(where)) == list(range(threads))
    loop.close()


# --- fork, and the end of the interpreter ---

FORK = """
import asyncio, os, sys, threading
import rloop

async def where():
    return rloop.current_shard()

async def main():
    return [await rloop.on_shard(shard, where()) for shard in range({threads})]

def run_loop():
    loop = rloop.new_event_loop(threads={threads})
    homes = loop.run_until_complete(main())
    loop.close()
    assert homes == list(range({threads})), homes

ended = threading.Event()

def start_and_end():
    while not ended.is_set():
        run_loop()

makers = [threading.Thread(target=start_and_end) for _ in range(2)]
for maker in makers:
    maker.start()
for _ in range({times}):
    pid = os.fork()
    if pid == 0:
        # The threads that make loops are not here, and nothing that they held may be missed.
        try:
            run_loop()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(8)
        os._exit(7)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7, status
ended.set()
for maker in makers:
    maker.join()
print("all children ran")
"""


@pytest.mark.usefixtures("round_number")
def test_a_fork_while_workers_start_and_end_is_safe(threads: int) -> None:
    program = FORK.format(threads=threads, times=20)
    outcome = run_program(program, "rloop", options=NO_WARNINGS)
    assert (outcome.returncode, outcome.stdout) == (0, "all children ran\n"), outcome.stderr


def test_the_interpreter_ends_while_a_worker_never_returns(threads: int) -> None:
    program = f"""
import asyncio, threading, time
import rloop

stuck = threading.Event()

async def never_return():
    stuck.set()
    while True:
        time.sleep(0.01)

async def main():
    rloop.on_shard(1, never_return())
    await asyncio.sleep(3600)

def run():
    rloop.new_event_loop(threads={threads}).run_until_complete(main())

threading.Thread(target=run, daemon=True).start()
stuck.wait()
print("ends", flush=True)
"""
    outcome = run_program(program, "rloop", options=NO_WARNINGS)
    assert (outcome.returncode, outcome.stdout) == (0, "ends\n"), outcome.stderr


# --- the handle that runs ---


def test_each_shard_sees_the_handle_that_it_runs(make_loop: MakeLoop) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.slow_callback_duration = PEER_TIMEOUT
        barrier = threading.Barrier(shard_count())
        seen: dict[int, object] = {}
        made: dict[int, object] = {}

        def look() -> None:
            barrier.wait(PEER_TIMEOUT)
            seen[rloop.current_shard()] = loop._current_handle
            barrier.wait(PEER_TIMEOUT)

        async def schedule() -> None:
            made[rloop.current_shard()] = loop.call_soon(look)
            await turns(2)

        await on_each_shard(schedule)
        await eventually(lambda: len(seen) == shard_count())
        assert seen == made
        assert None not in seen.values()

    with asyncio.Runner(loop_factory=make_loop, debug=True) as runner:
        runner.run(main())
        assert runner.get_loop()._current_handle is None  # type: ignore[attr-defined]
