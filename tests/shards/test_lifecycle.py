"""Loops of several threads from their first run to their end: stop, close, fork, exit, errors."""

import asyncio
import contextlib
import contextvars
import gc
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import rloop
from rloop import sync
from support.programs import run_program
from support.shards import Run, on_each_shard, several_shards, shard_count
from support.threads import eventually, turns

pytestmark = several_shards

RUNS_PER_ROUND = 300

MakeLoop = Callable[[], rloop.TokioLoop]


async def tick(counts: list[int]) -> None:
    """Keep a shard busy, and count it."""
    shard = rloop.current_shard()
    while True:
        counts[shard] += 1
        await asyncio.sleep(0)


def stop_and_run(make_loop: MakeLoop, threads: int, times: int) -> None:
    loop = make_loop()
    counts = [0] * threads
    homes: dict[int, set[int]] = {shard: set() for shard in range(threads)}

    async def run_everywhere() -> list[Any]:
        return [rloop.on_shard(shard, tick(counts)) for shard in range(threads)]

    def look() -> None:
        homes[rloop.current_shard()].add(threading.get_ident())

    futures = loop.run_until_complete(run_everywhere())
    for number in range(times):
        # Who stops the loop: shard 0, a worker, or a thread that is none of the loop's.
        match number % 3:
            case 0:
                loop.call_soon(loop.stop)
                loop.run_forever()
            case 1:
                loop.run_until_complete(asyncio.sleep(0))
            case 2:
                stopping = threading.Thread(target=loop.call_soon_threadsafe, args=(loop.stop,))
                stopping.start()
                loop.run_forever()
                stopping.join()
        # Nothing runs while the loop is stopped.
        stopped = list(counts)
        for _ in range(20):
            assert counts == stopped

    async def wind_up() -> None:
        await on_each_shard(to_coroutine, look)
        for future in futures:
            future.cancel()
        await asyncio.wait(futures)

    loop.run_until_complete(wind_up())
    assert all(counts)
    assert all(len(idents) == 1 for idents in homes.values())
    loop.close()


async def to_coroutine(function: Callable[[], Any]) -> Any:
    return function()


@pytest.mark.usefixtures("round_number")
def test_nothing_runs_while_the_loop_is_stopped(make_loop: MakeLoop, threads: int) -> None:
    stop_and_run(make_loop, threads, RUNS_PER_ROUND)


def test_a_worker_may_stop_the_loop(make_loop: MakeLoop, threads: int) -> None:
    loop = make_loop()
    stopped_by: list[int] = []
    futures: list[asyncio.Future[None]] = []

    async def stop() -> None:
        stopped_by.append(rloop.current_shard())
        loop.stop()

    def start(shard: int) -> None:
        futures.append(rloop.on_shard(shard, stop()))

    for number in range(60):
        loop.call_soon(start, number % threads)
        # Not until a future is done: what stops such a run may be left over, and stop the next.
        loop.run_forever()
        assert len(stopped_by) == number + 1
    loop.run_until_complete(asyncio.wait(futures))
    assert stopped_by == [number % threads for number in range(60)]
    loop.close()


def test_what_is_ready_when_the_loop_stops_runs_at_the_next_run(
    make_loop: MakeLoop, threads: int
) -> None:
    async def start() -> list[asyncio.Future[int]]:
        return [rloop.on_shard(shard, count(shard)) for shard in range(threads)]

    async def count(shard: int) -> int:
        await turns(10)
        return shard

    async def collect(futures: list[asyncio.Future[int]]) -> list[int]:
        return await asyncio.gather(*futures)

    loop = make_loop()
    for _ in range(50):
        futures = loop.run_until_complete(start())
        assert loop.run_until_complete(collect(futures)) == list(range(threads))
    loop.close()


def test_calls_made_while_the_loop_is_stopped_run_at_home_in_order(
    make_loop: MakeLoop, threads: int
) -> None:
    loop: Any = make_loop()
    contexts = [contextvars.Context() for _ in range(threads)]
    for shard, context in enumerate(contexts):
        loop._set_home(context, shard)
    seen: list[list[tuple[int, int]]] = [[] for _ in range(threads)]

    def note(shard: int, number: int) -> None:
        seen[shard].append((rloop.current_shard(), number))

    async def let_all_run() -> None:
        await on_each_shard(turns, 3)

    for start in range(0, 50, 10):
        for number in range(start, start + 10):
            for shard, context in enumerate(contexts):
                loop.call_soon(note, shard, number, context=context)
        loop.run_until_complete(let_all_run())
    assert seen == [[(shard, number) for number in range(50)] for shard in range(threads)]
    loop.close()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_run_may_be_raised_on_any_shard(
    kind: type[BaseException], make_loop: MakeLoop, threads: int
) -> None:
    def leave(shard: int) -> None:
        raise kind(shard)

    async def schedule(shard: int) -> None:
        asyncio.get_running_loop().call_soon(leave, shard)

    async def main(shard: int) -> None:
        await rloop.on_shard(shard, schedule(shard))
        await asyncio.get_running_loop().create_future()

    loop = make_loop()
    for shard in list(range(threads)) * 3:
        with pytest.raises(kind) as caught:
            loop.run_until_complete(main(shard))
        assert caught.value.args == (shard,)
        # All is as it was: the loop can go on.
        assert loop.run_until_complete(numbers()) == list(range(threads))
        (pending,) = asyncio.all_tasks(loop)
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(pending)
    loop.close()


async def numbers() -> list[int]:
    return await on_each_shard(number_of_shard)


async def number_of_shard() -> int:
    return rloop.current_shard()


def test_an_error_in_a_callback_of_a_worker_is_reported_and_the_loop_goes_on(
    run: Run[None], guard: Any
) -> None:
    async def main() -> None:
        await on_each_shard(schedule)
        await on_each_shard(turns, 2)
        assert await numbers() == list(range(shard_count()))

    async def schedule() -> None:
        asyncio.get_running_loop().call_soon(divmod, 1, 0)

    run(main())
    reports = guard.take_reports()
    assert [type(report["exception"]) for report in reports] == [ZeroDivisionError] * len(reports)
    assert len(reports) in {2, 4}


def loop_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("rloop-")]


def test_closing_joins_the_threads(make_loop: MakeLoop, threads: int) -> None:
    loop = make_loop()
    assert loop_threads() == []
    loop.run_until_complete(numbers())
    assert len(loop_threads()) == threads - 1
    loop.close()
    assert loop_threads() == []
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.run_forever()


def test_closing_drops_what_never_ran(make_loop: MakeLoop, threads: int) -> None:
    class Canary:
        pass

    async def leave() -> list[weakref.ref[Canary]]:
        return await on_each_shard(schedule)

    async def schedule() -> weakref.ref[Canary]:
        canary = Canary()
        asyncio.get_running_loop().call_later(3600, id, canary)
        return weakref.ref(canary)

    loop = make_loop()
    references = loop.run_until_complete(leave())
    assert all(reference() is not None for reference in references)
    loop.close()
    gc.collect()
    assert all(reference() is None for reference in references)
    assert len(references) == threads


def test_a_loop_nobody_closed_is_collected_with_its_threads(threads: int, guard: Any) -> None:
    loop = rloop.new_event_loop(threads=threads)
    loop.run_until_complete(numbers())
    reference = weakref.ref(loop)
    workers = [thread for thread in threading.enumerate() if thread.name.startswith("rloop-")]
    assert len(workers) == threads - 1
    del loop
    # A worker refers to the loop until it has parked, and ends when the loop does.
    for thread in workers:
        while thread.is_alive():
            gc.collect()
            thread.join(0.01)
    gc.collect()
    assert reference() is None
    assert any("unclosed event loop" in str(error) for error in guard.take_unraisable())


def test_two_loops_of_several_threads_run_at_the_same_time(
    make_loop: MakeLoop, threads: int
) -> None:
    def run_other(result: list[Any]) -> None:
        loop = make_loop()
        result.append(loop.run_until_complete(work()))
        loop.close()

    async def work() -> list[int]:
        for _ in range(50):
            homes = await numbers()
        return homes

    results: list[Any] = []
    others = [threading.Thread(target=run_other, args=(results,)) for _ in range(2)]
    for other in others:
        other.start()
    run_other(results)
    for other in others:
        other.join()
    assert results == [list(range(threads))] * 3


def test_running_a_loop_that_runs_is_refused_on_every_shard(run: Run[None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def run_again() -> None:
            with pytest.raises(RuntimeError, match="already running"):
                loop.run_forever()
            with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
                loop.close()

        await on_each_shard(run_again)

    run(main())


def test_async_generators_left_on_any_shard_are_closed_at_home(
    make_loop: MakeLoop, threads: int
) -> None:
    closed: list[tuple[int, int]] = []

    async def generate(home: int) -> Any:
        try:
            while True:
                yield home
        finally:
            await asyncio.sleep(0)
            closed.append((home, rloop.current_shard()))

    async def leave() -> None:
        home = rloop.current_shard()
        generator = generate(home)
        assert await anext(generator) == home
        del generator
        gc.collect()

    async def main() -> None:
        await on_each_shard(leave)
        await eventually(lambda: len(closed) == threads)

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main())
    assert sorted(closed) == [(shard, shard) for shard in range(threads)]


def test_async_generators_that_are_alive_are_closed_when_the_loop_shuts_down(
    make_loop: MakeLoop, threads: int
) -> None:
    closed: list[int] = []
    generators: list[Any] = []

    async def generate(home: int) -> Any:
        try:
            while True:
                yield home
        finally:
            closed.append(home)

    async def leave() -> None:
        generator = generate(rloop.current_shard())
        await anext(generator)
        generators.append(generator)

    async def main() -> None:
        await on_each_shard(leave)

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main())
    assert sorted(closed) == list(range(threads))


def test_debug_mode_holds_on_every_shard(
    make_loop: MakeLoop, caplog: pytest.LogCaptureFixture
) -> None:
    async def be_slow() -> None:
        loop = asyncio.get_running_loop()
        assert loop.get_debug()
        assert sys.get_coroutine_origin_tracking_depth() > 0
        started = loop.time()
        while loop.time() < started + 0.02:
            pass
        with pytest.raises(TypeError, match="coroutines cannot be used"):
            loop.call_soon(be_slow)

    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0.01
        await on_each_shard(be_slow)

    with asyncio.Runner(loop_factory=make_loop, debug=True) as runner:
        runner.run(main())
    slow = [record.getMessage() for record in caplog.records if "took" in record.getMessage()]
    assert sum("be_slow" in message for message in slow) >= 2


def test_signals_are_handled_on_shard_0_while_all_are_busy(run: Run[None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        received = sync.Event()
        homes: list[int] = []

        def handle() -> None:
            homes.append(rloop.current_shard())
            received.set()

        loop.add_signal_handler(signal.SIGUSR1, handle)
        counts = [0] * shard_count()
        busy = [rloop.on_shard(shard, tick(counts)) for shard in range(shard_count())]
        for _ in range(20):
            received.clear()
            signal.raise_signal(signal.SIGUSR1)
            await rloop.on_shard(1, received.wait())
        assert set(homes) == {0}
        assert loop.remove_signal_handler(signal.SIGUSR1)
        for future in busy:
            future.cancel()
        await asyncio.wait(busy)

    run(main())


BUSY = """
import asyncio, os, sys, threading
import rloop

async def tick():
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(0)
        loop.call_later(0.0001, int)

async def serve():
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    return server

async def keep_busy():
    return [rloop.on_shard(shard, tick()) for shard in range({threads})]

async def count():
    return sorted([await rloop.on_shard(shard, where()) for shard in range({threads})])

async def where():
    return rloop.current_shard()
"""

FORK = """
async def fork():
    pid = os.fork()
    if pid == 0:
        # No loop runs here, and the parent's threads are not here.
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            loop = rloop.new_event_loop(threads={threads})
            homes = loop.run_until_complete(count())
            loop.close()
            os._exit(7 if homes == list(range({threads})) else 8)
        os._exit(9)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7, status

async def main():
    busy = await keep_busy()
    for number in range({times}):
        await rloop.on_shard(number % {threads}, fork())
    for future in busy:
        future.cancel()
    await asyncio.wait(busy)
    return "all children ran"

print(rloop.run(main(), threads={threads}))
"""

CHILDREN_PER_ROUND = 5
EXITS_PER_ROUND = 3
NO_WARNINGS = ("-W", "ignore::DeprecationWarning", "-W", "ignore::RuntimeWarning")


@pytest.mark.usefixtures("round_number")
def test_children_of_a_busy_loop_can_run_loops_of_their_own(threads: int) -> None:
    program = (BUSY + FORK).format(threads=threads, times=CHILDREN_PER_ROUND)
    outcome = run_program(program, "rloop", options=NO_WARNINGS)
    assert (outcome.returncode, outcome.stdout) == (0, "all children ran\n"), outcome.stderr


STOPPED_IN_A_CHILD = """
async def main():
    pid = os.fork()
    if pid == 0:
        loop = rloop.new_event_loop(threads={threads})
        busy = loop.run_until_complete(keep_busy())
        for _ in range(200):
            loop.run_until_complete(asyncio.sleep(0))
            if any(in_turn for *_, in_turn in loop._statistics()):
                os._exit(8)
        os._exit(7)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    print(os.waitstatus_to_exitcode(status))

rloop.run(main(), threads={threads})
"""


def test_nothing_runs_while_the_loop_of_a_child_is_stopped(threads: int) -> None:
    program = (BUSY + STOPPED_IN_A_CHILD).format(threads=threads)
    outcome = run_program(program, "rloop", options=NO_WARNINGS)
    assert (outcome.returncode, outcome.stdout) == (0, "7\n"), outcome.stderr


EXITS = {
    "with a stopped loop": """
loop = rloop.new_event_loop(threads={threads})
busy = loop.run_until_complete(keep_busy())
print("stopped", flush=True)
""",
    "after sys.exit() in a worker": """
async def leave():
    asyncio.get_running_loop().call_soon(sys.exit, 0)
async def main():
    await keep_busy()
    print("stopped", flush=True)
    await rloop.on_shard(1, leave())
    await asyncio.sleep(60)
rloop.new_event_loop(threads={threads}).run_until_complete(main())
""",
    "while another thread runs the loop": """
ready = threading.Event()
async def main():
    await keep_busy()
    print("stopped", flush=True)
    ready.set()
    await asyncio.sleep(60)
def work():
    rloop.new_event_loop(threads={threads}).run_until_complete(main())
threading.Thread(target=work, daemon=True).start()
ready.wait()
""",
}


@pytest.mark.usefixtures("round_number")
@pytest.mark.parametrize("how", EXITS)
def test_the_interpreter_ends_while_shards_are_busy(how: str, threads: int) -> None:
    program = (BUSY + EXITS[how]).format(threads=threads)
    options = (*NO_WARNINGS, "-W", "ignore::ResourceWarning")
    for _ in range(EXITS_PER_ROUND):
        outcome = run_program(program, "rloop", options=options)
        assert (outcome.returncode, outcome.stdout) == (0, "stopped\n"), outcome.stderr


@pytest.mark.parametrize("queue", ["_scheduled", "_ready"])
def test_the_queues_of_a_running_loop_are_refused(queue: str, run: Run[None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        # Before its first run a shard can be read.
        await rloop.on_shard(shard_count() - 1, turns(1))
        with pytest.raises(RuntimeError, match="driven by another thread"):
            list(getattr(loop, queue))

    run(main())


def test_a_replaced_run_once_is_refused() -> None:
    def run_once(self: Any) -> None:
        self._process_events(self._selector.select(0))

    cls: Any = type("Nested", (rloop.TokioLoop,), {"_run_once": run_once})
    with (
        contextlib.closing(cls(threads=2)) as loop,
        pytest.raises(RuntimeError, match="several threads cannot be run"),
    ):
        loop.run_forever()
