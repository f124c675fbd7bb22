"""rloop.spawn() and on_shard(): where tasks run, and their futures on every shard."""

import asyncio
import contextvars
import gc
import time
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

import rloop
from rloop import sync
from support.shards import Gate, Run, on_each_shard, several_shards, shard_count
from support.threads import eventually, turns

pytestmark = several_shards

Future = asyncio.Future[Any]


async def answer(value: object = None) -> object:
    await turns(2)
    return value


async def fail() -> None:
    await turns(2)
    raise LookupError("nothing here")


async def wait_for_ever() -> None:
    await asyncio.get_running_loop().create_future()


# What asyncio awaits futures with: each must work with a future of another shard.
AWAITING: dict[str, Callable[[Future], Coroutine[Any, Any, Any]]] = {}


Way = Callable[[Future], Coroutine[Any, Any, Any]]


def awaiting(function: Way) -> Way:
    AWAITING[function.__name__.removeprefix("by_")] = function
    return function


@awaiting
async def by_await(future: Future) -> Any:
    return await future


@awaiting
async def by_wait_for(future: Future) -> Any:
    return await asyncio.wait_for(future, 60)


@awaiting
async def by_timeout(future: Future) -> Any:
    async with asyncio.timeout(60):
        return await future


@awaiting
async def by_gather(future: Future) -> Any:
    return (await asyncio.gather(future))[0]


@awaiting
async def by_shield(future: Future) -> Any:
    return await asyncio.shield(future)


@awaiting
async def by_wait(future: Future) -> Any:
    (done,), pending = await asyncio.wait([future])
    assert done is future
    assert not pending
    return done.result()


@awaiting
async def by_as_completed(future: Future) -> Any:
    (first,) = asyncio.as_completed([future])
    return await first


@awaiting
async def by_async_as_completed(future: Future) -> Any:
    async for done in asyncio.as_completed([future]):
        assert done is future
        return await done
    raise AssertionError("nothing was completed")


@awaiting
async def by_task_group(future: Future) -> Any:
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(by_await(future))
    except* LookupError as errors:
        raise errors.exceptions[0] from None
    return await task


each_way = pytest.mark.parametrize("way", AWAITING.values(), ids=AWAITING)


@each_way
def test_all_shards_get_the_result_of_one_task(way: Any, run: Run[None]) -> None:
    async def main() -> None:
        home = shard_count() - 1
        for _ in range(100):
            future = rloop.on_shard(home, answer(7))
            results = await on_each_shard(way, future)
            assert results == [7] * shard_count()

    run(main())


@each_way
def test_all_shards_get_the_error_of_one_task(way: Any, run: Run[None]) -> None:
    async def get(future: Future) -> str:
        with pytest.raises(LookupError) as caught:
            await way(future)
        return str(caught.value)

    async def main() -> None:
        home = shard_count() - 1
        for _ in range(20):
            future = rloop.on_shard(home, fail())
            results = await on_each_shard(get, future)
            assert results == ["nothing here"] * shard_count()

    run(main())


@each_way
def test_all_shards_learn_that_one_task_was_cancelled(way: Any, run: Run[None]) -> None:
    async def get(future: Future) -> str:
        try:
            await way(future)
        except asyncio.CancelledError:
            return "cancelled"
        # asyncio's own TaskGroup overlooks a cancelled task.
        return "ended"

    async def main() -> None:
        home = shard_count() - 1
        for _ in range(20):
            future = rloop.on_shard(home, wait_for_ever())
            watching = asyncio.ensure_future(on_each_shard(get, future))
            await asyncio.sleep(0)
            assert future.cancel("enough")
            assert await watching == ["cancelled"] * shard_count()
            assert future.cancelled()
            assert not future.cancel()

    run(main())


def test_a_finished_future_is_awaited_without_a_turn(run: Run[None]) -> None:
    async def main() -> None:
        future = rloop.on_shard(1, answer(3))
        await asyncio.wait([future])
        turned: list[bool] = []
        asyncio.get_running_loop().call_soon(turned.append, True)
        assert await future == 3
        assert not turned

    run(main())


def test_cancelling_the_awaiting_task_cancels_the_awaited_one(run: Run[None]) -> None:
    async def work(began: sync.Event) -> None:
        began.set()
        try:
            await wait_for_ever()
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise

    async def main() -> None:
        began = sync.Event()
        future = rloop.on_shard(1, work(began))
        task = asyncio.ensure_future(by_await(future))
        await began.wait()
        await turns(2)
        task.cancel("over")
        with pytest.raises(asyncio.CancelledError, match="over"):
            await task
        assert task.cancelled()
        assert future.cancelled()
        assert task.cancelling() == 1

    seen: list[Any] = []
    run(main())
    assert seen == [("over",)]


def test_who_awaits_a_task_that_resists_cancellation_gets_its_result(run: Run[None]) -> None:
    async def work(began: sync.Event) -> str:
        began.set()
        with suppress(asyncio.CancelledError):
            await wait_for_ever()
        return "done all the same"

    async def main() -> None:
        began = sync.Event()
        task = asyncio.ensure_future(by_await(rloop.on_shard(1, work(began))))
        await began.wait()
        await turns(2)
        task.cancel()
        assert await task == "done all the same"

    run(main())


def test_a_timeout_cancels_the_awaited_task_and_names_itself(run: Run[None]) -> None:
    async def main() -> None:
        for wait in (by_await, by_gather):
            future = rloop.on_shard(1, wait_for_ever())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await wait(future)
            assert future.cancelled()
        future = rloop.on_shard(1, wait_for_ever())
        for timeout in (0.001, 0):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(future, timeout)
            assert future.cancelled()
            future = rloop.on_shard(1, wait_for_ever())
        future.cancel()

    run(main())


def test_a_shield_keeps_the_task_of_another_shard_alive(run: Run[None]) -> None:
    async def main() -> None:
        event = sync.Event()
        future = rloop.on_shard(1, event.wait())
        task = asyncio.ensure_future(by_shield(future))
        await turns(3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not future.done()
        event.set()
        assert await future is True

    run(main())


def test_a_failing_member_of_a_task_group_cancels_those_of_other_shards(run: Run[None]) -> None:
    async def main() -> None:
        others = [rloop.on_shard(shard, wait_for_ever()) for shard in range(shard_count())]
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                for other in others:
                    group.create_task(by_await(other))
                group.create_task(by_await(rloop.on_shard(1, fail())))
        assert [type(error) for error in caught.value.exceptions] == [LookupError]
        assert all(other.cancelled() for other in others)

    run(main())


def test_a_cancellation_wakes_an_idle_shard_at_once(run: Run[None]) -> None:
    """Nothing else would wake it: there are no timers and no sockets."""

    async def main() -> None:
        for _ in range(200):
            future = rloop.on_shard(1, wait_for_ever())
            await asyncio.sleep(0)
            future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await future

    run(main())


def test_a_task_cancelled_before_it_began_never_begins(run: Run[None]) -> None:
    async def work() -> None:
        began.append(True)

    async def main() -> None:
        gate = Gate()
        blocked = rloop.on_shard(1, block(gate))
        gate.wait_until_held()
        future = rloop.on_shard(1, work())
        assert future.cancel()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await future
        await blocked

    async def block(gate: Gate) -> None:
        gate.hold()

    began: list[bool] = []
    run(main())
    assert began == []


def test_all_shards_may_cancel_one_task_while_it_changes_its_context(run: Run[int]) -> None:
    """A context must not be read while another thread changes it."""
    variables = [contextvars.ContextVar[object](f"variable {number}") for number in range(20)]

    async def work(began: sync.Event) -> int:
        began.set()
        cancelled = 0
        while cancelled < 300:
            for variable in variables:
                variable.set(object())
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                cancelled += 1
        return cancelled

    async def cancel(future: Future) -> None:
        while future.cancel():
            await asyncio.sleep(0)

    async def main() -> int:
        began = sync.Event()
        future = rloop.on_shard(1, work(began))
        await began.wait()
        await on_each_shard(cancel, future)
        result: int = await future
        return result

    assert run(main()) >= 300


def test_many_tasks_of_all_shards_await_many_futures(run: Run[None]) -> None:
    """Two tasks that await one future at the same time must not disturb each other."""

    async def wait_for_all(futures: list[Future]) -> int:
        return sum([await future for future in futures])

    async def main() -> None:
        for _ in range(10):
            futures = [rloop.spawn(answer(number)) for number in range(200)]
            sums = await on_each_shard(wait_for_all, futures)
            assert sums == [sum(range(200))] * shard_count()

    run(main())


def test_spawn_chooses_the_shard_with_the_least_to_do(run: Run[None]) -> None:
    async def where(release: sync.Event) -> int:
        await release.wait()
        return rloop.current_shard()

    async def main() -> None:
        count = shard_count()
        release = sync.Event()
        first = [rloop.spawn(where(release)) for _ in range(3 * count)]
        busy = [rloop.on_shard(0, where(release)) for _ in range(count - 1)]
        # The other shards now have one less than shard 0 and its fellows were given.
        second = [rloop.spawn(where(release)) for _ in range(count - 1)]
        release.set()
        homes = await asyncio.gather(*first)
        assert sorted(homes) == sorted(list(range(count)) * 3)
        assert await asyncio.gather(*busy) == [0] * (count - 1)
        assert 0 not in await asyncio.gather(*second)

    run(main())


def test_among_shards_with_as_much_to_do_spawn_chooses_the_least_busy(run: Run[None]) -> None:
    async def hold(gate: Gate) -> None:
        gate.hold()

    async def where() -> int:
        return rloop.current_shard()

    async def main() -> None:
        release = sync.Event()
        gates = [Gate() for _ in range(1, shard_count())]
        held = [rloop.on_shard(1 + number, hold(gate)) for number, gate in enumerate(gates)]
        idle = rloop.on_shard(0, release.wait())
        for gate in gates:
            gate.wait_until_held()
        # Then they have been busy for most of the life of the loop, whatever delayed this shard.
        await asyncio.sleep(max(0.5, 3 * (time.monotonic() - started)))
        # One: the time until another would be measured too, and a delay of this shard in it.
        spawned = rloop.spawn(where())
        for gate in gates:
            gate.open()
        release.set()
        assert await spawned == 0
        await asyncio.gather(idle, *held)

    started = time.monotonic()
    run(main())


def test_a_shard_is_relieved_when_its_task_ends(run: Run[None]) -> None:
    async def main() -> None:
        count = shard_count()
        for _ in range(3):
            await asyncio.gather(*(rloop.on_shard(0, answer()) for _ in range(20)))
            # None ends before all have their homes.
            release = sync.Event()
            spawned = [rloop.spawn(where_after(release)) for _ in range(count)]
            release.set()
            assert sorted(await asyncio.gather(*spawned)) == list(range(count))

    async def where_after(release: sync.Event) -> int:
        await release.wait()
        return rloop.current_shard()

    run(main())


def test_the_context_of_the_caller_is_copied_and_a_given_one_is_used(run: Run[None]) -> None:
    async def change(value: str) -> str:
        before = variable.get()
        variable.set(value)
        return before

    async def main() -> None:
        variable.set("caller")
        assert await rloop.on_shard(1, change("copy")) == "caller"
        assert variable.get() == "caller"
        context = contextvars.Context()
        context.run(variable.set, "given")
        assert await rloop.spawn(change("changed"), context=context) == "given"
        assert context[variable] == "changed"

    variable = contextvars.ContextVar[str]("variable")
    run(main())


def test_a_context_that_has_a_home_keeps_it(run: Run[None]) -> None:
    async def main() -> None:
        context = contextvars.Context()
        home = await rloop.spawn(where(), context=context)
        for _ in range(2 * shard_count()):
            assert await rloop.spawn(where(), context=context) == home

    async def where() -> int:
        return rloop.current_shard()

    run(main())


def test_the_task_is_a_real_one_with_the_name_that_was_given(run: Run[None]) -> None:
    async def main() -> None:
        assert await rloop.on_shard(1, name(), name="by number") == "by number"
        assert await rloop.spawn(name(), name="by load") == "by load"

    async def name() -> str:
        task = asyncio.current_task()
        assert type(task) is asyncio.Task
        assert task in asyncio.all_tasks()
        return task.get_name()

    run(main())


def test_a_task_factory_that_fails_fails_the_future(run: Run[None]) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise LookupError("no tasks today")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        coroutine = answer()
        loop.set_task_factory(refuse)
        future = rloop.on_shard(1, coroutine)
        with pytest.raises(LookupError, match="no tasks today"):
            await future
        loop.set_task_factory(None)
        coroutine.close()

    run(main())


def test_an_error_nobody_looks_at_is_reported(run: Run[None], guard: Any) -> None:
    async def main() -> None:
        future = rloop.on_shard(1, fail())
        while not future.done():
            await asyncio.sleep(0)
        del future
        gc.collect()

    run(main())
    (report,) = guard.take_reports()
    assert isinstance(report["exception"], LookupError)
    assert "never retrieved" in report["message"]


def test_what_is_no_coroutine_is_refused(run: Run[None]) -> None:
    async def main() -> None:
        no_coroutine: Any = 7
        for start in (rloop.spawn, lambda what: rloop.on_shard(1, what)):
            with pytest.raises(TypeError, match="a coroutine was expected, got 7"):
                start(no_coroutine)

    run(main())


@pytest.mark.parametrize("shard", [-1, 4, 65536, 2**70])
def test_a_shard_that_does_not_exist_is_refused(shard: int, run: Run[None]) -> None:
    async def main() -> None:
        coroutine = answer()
        with pytest.raises(ValueError, match=f"so there is no shard {shard}"):
            rloop.on_shard(shard, coroutine)
        coroutine.close()

    run(main())


def test_a_finished_future_keeps_nothing_alive(run: Run[None]) -> None:
    async def main() -> None:
        future = rloop.on_shard(1, asyncio.sleep(0, None))
        await future
        reference = weakref.ref(future)
        del future
        # The home shard may still be in the callback that completed it.
        await eventually(lambda: gc.collect() >= 0 and reference() is None)

    run(main())
