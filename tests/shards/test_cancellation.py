"""Cancellation of tasks that were spawned: decided on the home shard, and never lost.

A task that awaits ``rloop.spawn()`` and is cancelled ends with CancelledError or with the outcome
of the spawned task, as it does when it awaits an asyncio.Task. The tables below put the
cancellation at every place among these events: the inner task ends, its end is reported to the
future, the outer task is woken, the outer task runs. asyncio is the control wherever it can be.
"""

import asyncio
import contextvars
import gc
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

import rloop
from rloop import sync
from support.leaks import LeakGuard
from support.shards import Gate, Run, several_shards, shard_count
from support.threads import eventually, in_thread, turns

Spawn = Callable[[Coroutine[Any, Any, Any]], "asyncio.Future[Any]"]


async def wait_for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def outcome_of(future: "asyncio.Future[Any]") -> object:
    """Return what awaiting a finished task or future comes to."""
    try:
        return await future
    except asyncio.CancelledError as error:
        return ("cancelled", *error.args)
    except LookupError:
        return "failed"


# --- one thread: asyncio is the control ---


def spawn_by_task(coro: Coroutine[Any, Any, Any]) -> "asyncio.Future[Any]":
    return asyncio.create_task(coro)


def on_own_shard(coro: Coroutine[Any, Any, Any]) -> "asyncio.Future[Any]":
    return rloop.on_shard(rloop.current_shard(), coro)


OF_ONE_THREAD: dict[str, tuple[Callable[[], asyncio.AbstractEventLoop], Spawn]] = {
    "asyncio": (asyncio.new_event_loop, spawn_by_task),
    "spawn": (lambda: rloop.new_event_loop(threads=1), rloop.spawn),
    "on_shard": (lambda: rloop.new_event_loop(threads=1), on_own_shard),
}
if sys.version_info >= (3, 14):
    OF_ONE_THREAD["own shard of two"] = (lambda: rloop.new_event_loop(threads=2), on_own_shard)


@pytest.fixture(params=list(OF_ONE_THREAD.values()), ids=list(OF_ONE_THREAD))
def on_one_thread(
    request: pytest.FixtureRequest, guard: LeakGuard
) -> Callable[[Callable[[Spawn], Coroutine[Any, Any, Any]]], Any]:
    """Run a coroutine that is given a way to spawn, all on one thread."""
    make_loop, spawn = request.param

    def make_guarded() -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = make_loop()
        loop.set_exception_handler(guard.record)
        return loop

    def run(main: Callable[[Spawn], Coroutine[Any, Any, Any]]) -> Any:
        with asyncio.Runner(loop_factory=make_guarded) as runner:
            return runner.run(main(spawn))

    return run


pytestmark = pytest.mark.filterwarnings(r"ignore:a loop with \d+ threads:RuntimeWarning")
OnOneThread = Callable[[Callable[[Spawn], Coroutine[Any, Any, Any]]], Any]


@pytest.mark.parametrize("turns_of_inner", range(3))
def test_a_cancel_that_returned_true_ends_in_cancelled_error_at_every_turn(
    turns_of_inner: int, on_one_thread: OnOneThread
) -> None:
    async def inner() -> int:
        await turns(turns_of_inner)
        return 42

    async def main(spawn: Spawn) -> None:
        async def outer() -> object:
            return await spawn(inner())

        seen: set[bool] = set()
        for turns_before_cancel in range(turns_of_inner + 9):
            task = asyncio.create_task(outer())
            await turns(turns_before_cancel)
            was_taken = task.cancel("over")
            expected = ("cancelled", "over") if was_taken else 42
            assert (turns_before_cancel, await outcome_of(task)) == (turns_before_cancel, expected)
            assert task.cancelling() == int(was_taken)
            assert was_taken or turns_before_cancel > turns_of_inner
            seen.add(was_taken)
        assert seen == {True, False}

    on_one_thread(main)


def test_a_pump_that_spawns_in_a_loop_ends_when_it_is_cancelled_at_any_turn(
    on_one_thread: OnOneThread,
) -> None:
    async def inner() -> int:
        return 1

    async def main(spawn: Spawn) -> None:
        async def pump() -> None:
            while True:
                await spawn(inner())

        for turns_before_cancel in range(12):
            task = asyncio.create_task(pump())
            await turns(turns_before_cancel)
            assert task.cancel()
            _, pending = await asyncio.wait([task], timeout=20)
            assert not pending, turns_before_cancel
            assert task.cancelled()

    on_one_thread(main)


@pytest.mark.parametrize("cancels", [2, 3])
def test_each_cancel_is_counted_and_one_uncancel_takes_one_back(
    cancels: int, on_one_thread: OnOneThread
) -> None:
    async def inner() -> int:
        await turns(2)
        return 42

    async def main(spawn: Spawn) -> None:
        async def outer() -> object:
            task = asyncio.current_task()
            assert task is not None
            try:
                return await spawn(inner())
            except asyncio.CancelledError:
                counts.append(task.cancelling())
                counts.append(task.uncancel())
                return "caught"

        for turns_before_cancel in range(10):
            counts: list[int] = []
            task = asyncio.create_task(outer())
            await turns(1 + turns_before_cancel)
            taken = [task.cancel() for _ in range(cancels)]
            outcome = await outcome_of(task)
            if taken == [True] * cancels:
                assert outcome == "caught"
                assert counts == [cancels, cancels - 1]
            else:
                assert taken == [False] * cancels
                assert outcome == 42
                assert counts == []

    on_one_thread(main)


def test_a_spawned_task_that_catches_the_cancellation_gives_its_result(
    on_one_thread: OnOneThread,
) -> None:
    async def inner() -> str:
        try:
            await turns(3)
        except asyncio.CancelledError:
            return "caught"
        return "ended"

    async def main(spawn: Spawn) -> None:
        async def outer() -> object:
            return await spawn(inner())

        for turns_before_cancel in range(10):
            task = asyncio.create_task(outer())
            # The inner task has begun, so that it can catch something.
            await turns(2 + turns_before_cancel)
            was_taken = task.cancel()
            outcome = await outcome_of(task)
            assert outcome in (["caught", ("cancelled",)] if was_taken else ["ended"])
            assert outcome == "caught" or turns_before_cancel > 1

    on_one_thread(main)


def test_cancel_of_the_future_itself_returns_false_once_the_task_has_ended(
    on_one_thread: OnOneThread,
) -> None:
    async def inner() -> int:
        return 42

    async def main(spawn: Spawn) -> None:
        future = spawn(inner())
        await turns(1)
        # The inner task has ended in this turn; whether the future knows does not matter.
        assert not future.cancel()
        assert await future == 42
        assert not future.cancel()

    on_one_thread(main)


def test_a_task_cancelled_in_the_step_that_spawned_it_never_begins(
    on_one_thread: OnOneThread,
) -> None:
    async def inner() -> None:
        began.append(True)

    async def main(spawn: Spawn) -> None:
        future = spawn(inner())
        assert future.cancel("never mind")
        with pytest.raises(asyncio.CancelledError, match="never mind"):
            await future
        assert future.cancelled()

    began: list[bool] = []
    on_one_thread(main)
    assert began == []


def test_a_gather_of_spawned_tasks_is_cancelled_as_a_whole(on_one_thread: OnOneThread) -> None:
    async def inner(number: int) -> int:
        await turns(number)
        return number

    async def main(spawn: Spawn) -> None:
        async def outer() -> object:
            return await asyncio.gather(*(spawn(inner(number)) for number in range(4)))

        for turns_before_cancel in range(10):
            task = asyncio.create_task(outer())
            await turns(turns_before_cancel)
            was_taken = task.cancel()
            outcome = await outcome_of(task)
            assert outcome == (("cancelled",) if was_taken else [0, 1, 2, 3])

    on_one_thread(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
@pytest.mark.parametrize("turns_of_inner", range(3))
def test_eager_tasks_lose_no_cancellation(turns_of_inner: int, on_one_thread: OnOneThread) -> None:
    async def inner() -> int:
        await turns(turns_of_inner)
        return 42

    async def main(spawn: Spawn) -> None:
        async def outer() -> object:
            return await spawn(inner())

        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        for turns_before_cancel in range(8):
            task = asyncio.create_task(outer())
            await turns(turns_before_cancel)
            was_taken = task.cancel()
            outcome = await outcome_of(task)
            assert outcome == (("cancelled",) if was_taken else 42)

    on_one_thread(main)


def test_at_the_end_of_the_program_a_spawned_task_is_cancelled_once(
    on_one_thread: OnOneThread,
) -> None:
    """Runner.close() cancels the outer task and the inner one, which sees one cancellation."""

    async def inner() -> None:
        try:
            await wait_for_ever()
        except asyncio.CancelledError:
            seen.append("cancelled")
            await turns(3)
            seen.append("cleaned up")
            raise

    async def main(spawn: Spawn) -> None:
        async def outer() -> None:
            await spawn(inner())

        tasks.extend(asyncio.create_task(outer()) for _ in range(8))
        await turns(4)

    seen: list[str] = []
    tasks: list[object] = []
    on_one_thread(main)
    assert sorted(seen) == ["cancelled"] * 8 + ["cleaned up"] * 8


# --- several threads: the orders of events are forced ---

Place = Callable[["Race"], Coroutine[Any, Any, bool]]
PLACES: dict[str, tuple[Place, bool]] = {}


def place(comes_too_late: bool) -> Callable[[Place], Place]:
    def decorate(function: Place) -> Place:
        PLACES[function.__name__] = (function, comes_too_late)
        return function

    return decorate


class Race:
    """An outer task of shard 0 that awaits an inner one of shard 1, for one cancellation."""

    def __init__(self, end: Callable[[], object]) -> None:
        self.loop = asyncio.get_running_loop()
        self.end = end
        self.began = sync.Event()
        self.seen: list[object] = []
        self.gate = Gate()
        self.holds_before_report = False
        self.go: asyncio.Future[None]
        self.ending: asyncio.Future[None]
        self.future: asyncio.Future[Any] = rloop.on_shard(1, self.inner())
        self.outer = asyncio.create_task(self.await_inner())

    async def inner(self) -> object:
        self.go = self.loop.create_future()
        self.began.set()
        try:
            await self.go
        except asyncio.CancelledError as error:
            self.seen.append(error.args)
            raise
        if self.holds_before_report:
            # Before the callback that reports the end, which the end of this step schedules.
            self.loop.call_soon(self.gate.hold)
        return self.end()

    async def await_inner(self) -> object:
        return await self.future

    async def begin(self) -> None:
        await self.began.wait()
        await turns(2)

    async def hold_shard_1(self, *, with_end_behind: bool) -> None:
        """Hold shard 1 in a callback; behind it the inner task ends, if that is wanted."""

        async def hold() -> None:
            self.loop.call_soon(self.gate.hold)
            if with_end_behind:
                self.go.set_result(None)

        # Its own report is behind the gate as well.
        self.holding = rloop.on_shard(1, hold())
        await self.gate.held()

    def cancel(self) -> bool:
        return self.outer.cancel("over")


@place(comes_too_late=False)
async def while_the_inner_task_waits(race: Race) -> bool:
    return race.cancel()


@place(comes_too_late=True)
async def before_the_inner_task_ends_but_behind_its_last_wake_up(race: Race) -> bool:
    await race.hold_shard_1(with_end_behind=True)
    was_taken = race.cancel()
    # The request is delivered before the shard goes on.
    race.loop.call_soon(race.gate.open)
    return was_taken


@place(comes_too_late=True)
async def after_the_inner_task_ended_before_that_is_reported(race: Race) -> bool:
    race.holds_before_report = True
    race.go.get_loop().call_soon_threadsafe(
        race.go.set_result, None, context=contextvars.copy_context()
    )
    await race.gate.held()
    was_taken = race.cancel()
    race.loop.call_soon(race.gate.open)
    return was_taken


async def end_and_block(race: Race, action: Callable[[], bool] = bool) -> bool:
    """Let the inner task end; block this shard until all that are to hear of it have been told.

    Return the result of `action`, which is called before this shard goes on.
    """
    reported = threading.Event()
    results: list[bool] = []

    async def end() -> None:
        race.future.add_done_callback(lambda _: reported.set())
        race.go.set_result(None)

    def block() -> None:
        assert reported.wait(20)
        results.append(action())

    race.ending = rloop.on_shard(1, end())
    # It runs before anything that another shard sends meanwhile.
    race.loop.call_soon(block)
    await eventually(lambda: results)
    return results[0]


@place(comes_too_late=True)
async def after_the_report_before_the_outer_task_is_woken(race: Race) -> bool:
    return await end_and_block(race, race.cancel)


@place(comes_too_late=True)
async def after_the_outer_task_was_woken_before_it_runs(race: Race) -> bool:
    taken: list[bool] = []
    # Behind the callback that wakes the outer task, and before that runs.
    race.future.add_done_callback(lambda _: taken.append(race.cancel()))
    await end_and_block(race)
    await eventually(lambda: taken)
    return taken[0]


def give(value: object) -> Callable[[], object]:
    return lambda: value


def fail() -> object:
    raise LookupError("nothing here")


def cancel_itself() -> object:
    raise asyncio.CancelledError("by itself")


ENDS: dict[str, tuple[Callable[[], object], object]] = {
    "result": (give(42), 42),
    "exception": (fail, "failed"),
    "cancellation": (cancel_itself, ("cancelled", "by itself")),
}


@pytest.mark.usefixtures("quiet")
class TestOfSeveralThreads:
    """Two shards or four."""

    pytestmark = several_shards

    @pytest.fixture
    def quiet(self, guard: LeakGuard) -> Any:
        """An exception that nobody retrieves, because the cancellation came first, is reported."""
        yield
        for report in guard.take_reports():
            assert isinstance(report["exception"], LookupError)
            assert "never retrieved" in report["message"]

    @pytest.mark.parametrize("where", PLACES.values(), ids=PLACES)
    @pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
    def test_no_place_of_a_cancellation_loses_it(
        self, where: tuple[Place, bool], end: tuple[Any, object], run: Run[None]
    ) -> None:
        async def main() -> None:
            cancel, comes_too_late = where
            race = Race(end[0])
            await race.begin()
            assert await cancel(race)
            assert await outcome_of(race.outer) == ("cancelled", "over")
            assert race.outer.cancelling() == 1
            assert race.seen == ([] if comes_too_late else [("over",)])
            # The others that await it learn how it ended.
            if comes_too_late:
                assert await outcome_of(race.future) == end[1]
            else:
                assert race.future.cancelled()

        run(main())

    @pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
    def test_a_cancellation_after_the_outer_task_ran_returns_false(
        self, end: tuple[Any, object], run: Run[None]
    ) -> None:
        async def main() -> None:
            race = Race(end[0])
            await race.begin()
            race.loop.call_soon_threadsafe(race.go.set_result, None)
            assert await outcome_of(race.outer) == end[1]
            assert not race.cancel()

        run(main())

    @pytest.mark.parametrize("where", PLACES.values(), ids=PLACES)
    def test_who_awaits_the_same_task_and_was_not_cancelled_gets_its_outcome(
        self, where: tuple[Place, bool], run: Run[None]
    ) -> None:
        async def main() -> None:
            cancel, comes_too_late = where
            race = Race(give(42))
            others = [
                rloop.on_shard(shard, outcome_of(race.future)) for shard in range(shard_count())
            ]
            await race.begin()
            await cancel(race)
            assert await outcome_of(race.outer) == ("cancelled", "over")
            expected = 42 if comes_too_late else ("cancelled", "over")
            assert [await other for other in others] == [expected] * len(others)

        run(main())

    @pytest.mark.parametrize("where", PLACES.values(), ids=PLACES)
    def test_a_timeout_that_comes_at_any_place_is_a_timeout(
        self, where: tuple[Place, bool], run: Run[None]
    ) -> None:
        """asyncio.timeout() cancels its task, and takes the count back."""

        class Timed(Race):
            async def await_inner(self) -> object:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(None) as self.timeout:
                        await self.future
                task = asyncio.current_task()
                assert task is not None
                return task.cancelling()

            def cancel(self) -> bool:
                # As the timer does when it fires.
                self.timeout._on_timeout()  # type: ignore[attr-defined]
                return True

        async def main() -> None:
            race = Timed(give(42))
            await race.begin()
            await where[0](race)
            assert await race.outer == 0

        run(main())

    def test_a_task_that_was_not_begun_when_the_program_ended_is_cancelled(
        self, run: Run[None]
    ) -> None:
        async def work() -> None:
            ran.append("began")

        async def main() -> None:
            gate = Gate()
            held = rloop.on_shard(1, block(gate))
            await gate.held()
            futures.extend((rloop.on_shard(1, work()), held))
            asyncio.get_running_loop().call_soon(gate.open)

        async def block(gate: Gate) -> None:
            gate.hold()

        ran: list[str] = []
        futures: list[Any] = []
        run(main())
        # It may have begun in the very last moment, and then it ended.
        assert all(future.done() for future in futures)
        assert futures[0].cancelled() or ran == ["began"]

    def test_the_end_of_the_program_cancels_spawned_tasks_once(self, run: Run[None]) -> None:
        async def work(began: sync.Semaphore) -> None:
            began.release()
            try:
                await wait_for_ever()
            except asyncio.CancelledError:
                seen.append("cancelled")
                await asyncio.sleep(0.001)
                seen.append("cleaned up")
                raise

        async def outer(began: sync.Semaphore) -> None:
            await rloop.on_shard(1, work(began))

        async def main() -> None:
            began = sync.Semaphore(0)
            tasks.extend(asyncio.create_task(outer(began)) for _ in range(20))
            for _ in tasks:
                await began.acquire()

        seen: list[str] = []
        tasks: list[asyncio.Task[None]] = []
        run(main())
        assert sorted(seen) == ["cancelled"] * 20 + ["cleaned up"] * 20
        assert all(task.cancelled() for task in tasks)

    def test_a_pump_between_shards_ends_when_it_is_cancelled(self, run: Run[None]) -> None:
        async def inner() -> int:
            return 1

        async def pump(shard: int) -> None:
            while True:
                await rloop.on_shard(shard, inner())

        async def main() -> None:
            for number in range(200):
                home = number % shard_count()
                task = asyncio.create_task(pump(home))
                await turns(number % 7)
                await asyncio.sleep(0.0001 * (number % 5))
                assert task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(asyncio.shield(task), 20)

        run(main())

    def test_a_task_group_of_spawned_tasks_ends_when_one_fails(self, run: Run[None]) -> None:
        async def pump(shard: int) -> None:
            while True:
                await rloop.on_shard(shard, asyncio.sleep(0))

        async def fail_later(turns_before: int) -> None:
            await turns(turns_before)
            raise LookupError("nothing here")

        async def main() -> None:
            for number in range(50):
                with pytest.raises(ExceptionGroup) as caught:
                    async with asyncio.TaskGroup() as group:
                        for shard in range(shard_count()):
                            group.create_task(pump(shard))
                        group.create_task(fail_later(number % 9))
                assert [type(error) for error in caught.value.exceptions] == [LookupError]

        run(main())

    def test_requests_that_a_busy_home_has_not_seen_count_as_one(self, run: Run[int]) -> None:
        """Shards that go on cancelling must not fill the memory of a home shard."""

        async def work(began: sync.Event, gate: Gate) -> int:
            task = asyncio.current_task()
            assert task is not None
            began.set()
            await asyncio.sleep(0)
            gate.hold()
            with pytest.raises(asyncio.CancelledError, match="first"):
                await asyncio.sleep(60)
            return task.cancelling()

        async def main() -> int:
            began, gate = sync.Event(), Gate()
            future = rloop.on_shard(1, work(began, gate))
            await began.wait()
            gate.wait_until_held()
            assert future.cancel("first")
            assert all(future.cancel("another") for _ in range(1000))
            gate.open()
            return await future

        assert run(main()) == 1

    def test_a_foreign_thread_may_cancel(self, run: Run[None]) -> None:
        async def main() -> None:
            for shard in range(shard_count()):
                future = rloop.on_shard(shard, wait_for_ever())
                assert await in_thread(future.cancel, "from afar")
                with pytest.raises(asyncio.CancelledError, match="from afar"):
                    await future
                assert await in_thread(future.cancel) is False

        run(main())

    def test_a_foreign_thread_cannot_spawn(self, run: Run[None]) -> None:
        def spawn(start: Callable[[Any], object]) -> None:
            coroutine = wait_for_ever()
            with pytest.raises(RuntimeError, match="no running event loop"):
                start(coroutine)
            coroutine.close()

        async def main() -> None:
            await in_thread(spawn, rloop.spawn)
            await in_thread(spawn, on_own_shard)

        run(main())

    def test_all_shards_cancel_one_task_while_it_ends(self, run: Run[None]) -> None:
        """Whichever request comes first, each task that awaits ends, and in a way that fits."""

        async def work(count: int) -> int:
            await turns(count)
            return 42

        async def await_and_cancel(future: "asyncio.Future[Any]", count: int) -> tuple[Any, Any]:
            task = asyncio.create_task(outcome(future))
            await turns(count)
            was_taken = task.cancel()
            return was_taken, await task

        async def outcome(future: "asyncio.Future[Any]") -> object:
            with suppress(asyncio.CancelledError):
                return await future
            return "cancelled"

        async def main() -> None:
            for number in range(300):
                future = rloop.on_shard(1, work(number % 6))
                ends = [
                    rloop.on_shard(shard, await_and_cancel(future, 1 + number % 5))
                    for shard in range(shard_count())
                ]
                for end in ends:
                    was_taken, result = await end
                    # Another shard's request may have cancelled it before.
                    assert result == "cancelled" or (result == 42 and not was_taken)

        run(main())


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=several_shards)])
def test_cancel_after_the_loop_was_closed_returns_false(threads: int, guard: LeakGuard) -> None:
    async def main() -> "asyncio.Future[Any]":
        future = rloop.on_shard(threads - 1, wait_for_ever())
        await asyncio.sleep(0.01)
        return future

    loop = rloop.new_event_loop(threads=threads)
    loop.set_exception_handler(guard.record)
    future = loop.run_until_complete(main())
    loop.close()
    assert not future.cancel()
    del future, loop
    gc.collect()
    (report,) = guard.take_reports()
    assert "Task was destroyed but it is pending" in report["message"]


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=several_shards)])
def test_cancel_between_two_runs_takes_effect_in_the_next(threads: int, guard: LeakGuard) -> None:
    async def begin() -> "asyncio.Future[Any]":
        return rloop.on_shard(threads - 1, wait_for_ever())

    loop = rloop.new_event_loop(threads=threads)
    loop.set_exception_handler(guard.record)
    future = loop.run_until_complete(begin())
    assert future.cancel("between runs")
    with pytest.raises(asyncio.CancelledError, match="between runs"):
        loop.run_until_complete(future)
    loop.close()
