"""Random programs end on several shards as they end on asyncio.

Each program is a tree of what asyncio programs are made of: tasks, gather, cancellation, timeouts,
task groups, futures and primitives. It is built so that its outcome does not depend on the order in
which tasks run, which no two loops share. What runs where is part of the program.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from types import ModuleType
from typing import Any

import pytest

import rloop
from rloop import sync
from support.shards import several_shards
from support.threads import turns

pytestmark = several_shards

#: How many programs run at the same time.
BATCH = 50
#: How many programs are one test; ``--programs`` says how many there are.
PART = 2_000
#: Seconds until a timeout that is meant to expire does.
SHORT = 0.001
#: Seconds until one that is not does.
LONG = 300.0


class ProgramError(Exception):
    """What a program raises on purpose."""


class World:
    """Where a program runs: on asyncio, or on a loop of several shards."""

    def __init__(self, primitives: ModuleType, shards: int) -> None:
        self.primitives: Any = primitives
        self._shards = shards

    def start(self, coroutine: Coroutine[Any, Any, Any], place: int) -> asyncio.Future[Any]:
        """Start a task: on the same shard, on the least loaded one, or on a certain one."""
        if not self._shards or place == 0:
            return asyncio.ensure_future(coroutine)
        if place == 1:
            return rloop.spawn(coroutine)
        return rloop.on_shard(place % self._shards, coroutine)


Program = Callable[[World], Coroutine[Any, Any, Any]]
BUILDERS: list[Callable[[random.Random, int], Program]] = []


def builder(function: Callable[[random.Random, int], Program]) -> None:
    BUILDERS.append(function)


def build(source: random.Random, depth: int) -> Program:
    """Return a random program, whose parts are at most `depth` levels deep."""
    if depth == 0:
        return build_leaf(source)
    return source.choice(BUILDERS)(source, depth - 1)


def build_leaf(source: random.Random) -> Program:
    number, pauses, fails = source.randrange(100), source.randrange(4), source.random() < 0.2

    async def leaf(_: World) -> int:
        await turns(pauses)
        if fails:
            raise ProgramError(number)
        return number

    return leaf


def build_some(source: random.Random, depth: int) -> list[tuple[Program, int]]:
    """Return some programs, and the places to start them at."""
    return [(build(source, depth), source.randrange(6)) for _ in range(source.randrange(1, 5))]


async def outcome(awaitable: Awaitable[Any]) -> Any:
    """Describe how something ends."""
    try:
        return ("value", await awaitable)
    except TimeoutError:
        return "timeout"
    except asyncio.CancelledError:
        # asyncio tells the message of a cancelled task only to the first who asks.
        return "cancelled"
    except ProgramError as error:
        return ("error", error.args)
    except ExceptionGroup as group:
        return ("errors", sorted(str(error) for error in group.exceptions))
    except Exception as error:
        # None is expected. Here it ends nobody who would leave others waiting.
        return ("unexpected", repr(error))


async def endless(began: Any, at_cancellation: str) -> str:
    """Wait until cancelled; then end in the way that was asked for."""
    began.set()
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        if at_cancellation == "return":
            return "cancellation refused"
        if at_cancellation == "raise":
            raise ProgramError("raised at cancellation") from None
        raise
    raise AssertionError("nobody completes this future")


ENDINGS = ("end", "return", "raise")


@builder
def build_gather(source: random.Random, depth: int) -> Program:
    parts = build_some(source, depth)

    async def gather(world: World) -> Any:
        started = [world.start(part(world), place) for part, place in parts]
        ended = await asyncio.gather(*started, return_exceptions=True)
        return [
            (type(end).__name__, end if not isinstance(end, Exception) else end.args)
            for end in ended
        ]

    return gather


@builder
def build_await_in_any_order(source: random.Random, depth: int) -> Program:
    parts = build_some(source, depth)
    order = source.sample(range(len(parts)), len(parts))

    async def await_in_any_order(world: World) -> Any:
        started = [world.start(part(world), place) for part, place in parts]
        return [await outcome(started[index]) for index in order]

    return await_in_any_order


@builder
def build_wait(source: random.Random, depth: int) -> Program:
    parts = build_some(source, depth)

    async def wait(world: World) -> Any:
        started = [world.start(part(world), place) for part, place in parts]
        done, pending = await asyncio.wait(started)
        assert not pending
        assert done == set(started)
        return [await outcome(future) for future in started]

    return wait


@builder
def build_as_completed(source: random.Random, depth: int) -> Program:
    parts = build_some(source, depth)

    async def as_completed(world: World) -> Any:
        started = [world.start(part(world), place) for part, place in parts]
        return sorted([repr(await outcome(ended)) for ended in asyncio.as_completed(started)])

    return as_completed


@builder
def build_shared_future(source: random.Random, depth: int) -> Program:
    part, place = build_some(source, depth)[0]
    # A task of asyncio may be awaited by the tasks of its own shard only (docs/threading.md).
    waiters = [source.randrange(6 if place else 1) for _ in range(source.randrange(1, 5))]

    async def shared_future(world: World) -> Any:
        """Several tasks await one task."""
        shared = world.start(part(world), place)
        started = [world.start(outcome(shared), where) for where in waiters]
        return [await future for future in started]

    return shared_future


@builder
def build_hand_over(source: random.Random, depth: int) -> Program:
    part, place = build_some(source, depth)[0]

    async def hand_over(world: World) -> Any:
        """A task completes a future that its starter awaits."""

        async def complete() -> None:
            future.set_result(await outcome(part(world)))

        future = asyncio.get_running_loop().create_future()
        completing = world.start(complete(), place)
        return [await future, await completing]

    return hand_over


@builder
def build_cancellation(source: random.Random, _: int) -> Program:
    place, at_cancellation = source.randrange(6), source.choice(ENDINGS)
    is_direct, message = source.random() < 0.5, source.choice([(), ("enough",)])

    async def cancellation(world: World) -> Any:
        """A task is cancelled, by its future or by the cancellation of who awaits it."""

        async def wait_for(future: asyncio.Future[Any]) -> Any:
            return await future

        began = world.primitives.Event()
        task = world.start(endless(began, at_cancellation), place)
        awaiting = asyncio.ensure_future(wait_for(task))
        await began.wait()
        await turns(2)
        (task if is_direct else awaiting).cancel(*message)
        return [await outcome(awaiting), await outcome(task), task.cancel()]

    return cancellation


@builder
def build_shield(source: random.Random, depth: int) -> Program:
    part, place = build_some(source, depth)[0]

    async def shield(world: World) -> Any:
        """What is shielded outlives the cancellation of who awaits it."""

        async def wait_for(future: asyncio.Future[Any]) -> Any:
            return await asyncio.shield(future)

        async def wait_for_permission() -> Any:
            await permission.wait()
            # asyncio reports an error that nobody awaits through the shield.
            return await outcome(part(world))

        permission = world.primitives.Event()
        task = world.start(wait_for_permission(), place)
        awaiting = asyncio.ensure_future(wait_for(task))
        await turns(2)
        awaiting.cancel()
        ended = await outcome(awaiting)
        permission.set()
        return [ended, await outcome(task)]

    return shield


@builder
def build_timeout(source: random.Random, depth: int) -> Program:
    part, place = build_some(source, depth)[0]
    expires, by_context = source.random() < 0.5, source.random() < 0.5
    at_cancellation = source.choice(ENDINGS)

    async def limit(awaitable: Awaitable[Any], seconds: float) -> Any:
        if not by_context:
            return await asyncio.wait_for(awaitable, seconds)
        async with asyncio.timeout(seconds):
            return await awaitable

    async def timeout(world: World) -> Any:
        if not expires:
            return await outcome(limit(world.start(part(world), place), LONG))
        began = world.primitives.Event()
        task = world.start(endless(began, at_cancellation), place)
        await began.wait()
        return [await outcome(limit(task, SHORT)), await outcome(task)]

    return timeout


@builder
def build_task_group(source: random.Random, depth: int) -> Program:
    parts = build_some(source, depth)
    endless_places = [source.randrange(6) for _ in range(source.randrange(3))]
    fails = bool(endless_places)

    async def task_group(world: World) -> Any:
        """A member that fails ends those that would not end."""

        async def member(future: asyncio.Future[Any]) -> Any:
            return await future

        async def fail() -> None:
            for event in began:
                await event.wait()
            # By now everybody is awaited.
            await turns(2)
            raise ProgramError("of the group")

        began = [world.primitives.Event() for _ in endless_places]
        started = [world.start(outcome(part(world)), place) for part, place in parts]
        # They have ended before anything fails.
        values = [await future for future in started]
        for_ever = [
            world.start(endless(event, "end"), place)
            for event, place in zip(began, endless_places, strict=True)
        ]

        async def run_group() -> list[Any]:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(member(future)) for future in (*started, *for_ever)]
                if fails:
                    group.create_task(fail())
            return [task.result() for task in tasks]

        return [values, await outcome(run_group()), [await outcome(task) for task in for_ever]]

    return task_group


@builder
def build_queue(source: random.Random, _: int) -> Program:
    size, items = source.randrange(4), source.randrange(1, 8)
    producers = [source.randrange(6) for _ in range(source.randrange(1, 4))]
    consumers = [source.randrange(6) for _ in range(source.randrange(1, 4))]

    async def queue(world: World) -> Any:
        """All that is put is got, once."""

        async def produce(name: int) -> None:
            for number in range(items):
                await channel.put((name, number))

        async def consume() -> list[Any]:
            got = []
            while (item := await channel.get()) is not None:
                got.append(item)
                channel.task_done()
            return got

        channel = world.primitives.Queue(size)
        consuming = [world.start(consume(), place) for place in consumers]
        producing = [world.start(produce(name), place) for name, place in enumerate(producers)]
        await asyncio.gather(*producing)
        await channel.join()
        for _ in consumers:
            await channel.put(None)
        got = await asyncio.gather(*consuming)
        return sorted(item for items in got for item in items)

    return queue


@builder
def build_lock(source: random.Random, _: int) -> Program:
    places = [source.randrange(6) for _ in range(source.randrange(1, 6))]
    permits = source.randrange(1, 3)

    async def lock(world: World) -> Any:
        """A lock guards a counter; a semaphore lets a few through at a time."""

        async def work() -> None:
            for _ in range(5):
                async with semaphore, mutex:
                    before = counter[0]
                    await asyncio.sleep(0)
                    counter[0] = before + 1

        counter = [0]
        mutex = world.primitives.Lock()
        semaphore = world.primitives.Semaphore(permits)
        await asyncio.gather(*(world.start(work(), place) for place in places))
        return [counter, mutex.locked(), semaphore._value]

    return lock


@builder
def build_barrier(source: random.Random, _: int) -> Program:
    places = [source.randrange(6) for _ in range(source.randrange(1, 6))]
    rounds = source.randrange(1, 4)

    async def barrier(world: World) -> Any:
        async def take_part() -> list[int]:
            return [await meeting.wait() for _ in range(rounds)]

        meeting = world.primitives.Barrier(len(places))
        indices = await asyncio.gather(*(world.start(take_part(), place) for place in places))
        return [sorted(each) for each in zip(*indices, strict=True)]

    return barrier


async def run_all(seeds: range, world: World) -> list[Any]:
    programs = [build(random.Random(seed), 1 + seed % 3) for seed in seeds]
    return await asyncio.gather(*(outcome(program(world)) for program in programs))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seeds" in metafunc.fixturenames:
        count = metafunc.config.getoption("programs")
        parts = [range(start, min(start + PART, count)) for start in range(0, count, PART)]
        metafunc.parametrize("seeds", parts, ids=[f"from {part.start}" for part in parts])


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_random_programs_end_as_on_asyncio(seeds: range, threads: int, make_loop: Any) -> None:
    with (
        asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as oracle,
        asyncio.Runner(loop_factory=make_loop) as runner,
    ):
        for start in range(0, len(seeds), BATCH):
            batch = seeds[start : start + BATCH]
            expected = oracle.run(run_all(batch, World(asyncio, 0)))
            actual = runner.run(run_all(batch, World(sync, threads)))
            for seed, wanted, got in zip(batch, expected, actual, strict=True):
                assert got == wanted, f"program {seed} ended differently"
