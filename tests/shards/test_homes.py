"""A callback, a task and what it starts have one home for life, and its calls keep their order."""

import asyncio
import contextvars
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

import rloop
from rloop import sync
from support.shards import Gate, Run, on_each_shard, several_shards, shard_count
from support.threads import turns

pytestmark = several_shards


class Home:
    """Where the code that made this object runs."""

    def __init__(self) -> None:
        self.shard = rloop.current_shard()
        self._thread = threading.get_ident()

    def check(self) -> None:
        """Raise AssertionError on any other shard or thread."""
        assert rloop.current_shard() == self.shard
        assert threading.get_ident() == self._thread
        assert isinstance(asyncio.get_running_loop(), rloop.TokioLoop)


async def here() -> Home:
    return Home()


def test_each_shard_is_a_thread_of_its_own(run: Run[None], threads: int) -> None:
    async def main() -> None:
        idents = await on_each_shard(thread)
        assert len(set(idents)) == threads
        assert idents[0] == threading.get_ident()
        assert await on_each_shard(shard) == list(range(threads))
        # They are the same when asked again.
        assert await on_each_shard(thread) == idents

    async def thread() -> int:
        return threading.get_ident()

    async def shard() -> int:
        return rloop.current_shard()

    run(main())


def test_a_task_stays_at_home_whatever_it_waits_for(run: Run[None]) -> None:
    async def travel() -> None:
        home = Home()
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        left.setblocking(False)
        right.setblocking(False)
        with left, right:
            for shard in range(shard_count()):
                await asyncio.sleep(0)
                home.check()
                await asyncio.sleep(0.0005)
                home.check()
                await rloop.on_shard(shard, asyncio.sleep(0))
                home.check()
                future: asyncio.Future[None] = loop.create_future()
                resolving = rloop.on_shard(shard, resolve(future))
                await future
                home.check()
                await resolving
                home.check()
                await loop.sock_sendall(left, b"x")
                assert await loop.sock_recv(right, 1) == b"x"
                home.check()
                assert await loop.run_in_executor(None, int) == 0
                home.check()
                await asyncio.to_thread(int)
                home.check()
                await asyncio.gather(*(rloop.spawn(asyncio.sleep(0)) for _ in range(3)))
                home.check()
                async with lock:
                    home.check()

    async def resolve(future: asyncio.Future[None]) -> None:
        future.set_result(None)

    async def main() -> None:
        for _ in range(5):
            await on_each_shard(travel)

    lock = sync.Lock()
    run(main())


def test_what_a_task_starts_has_its_home(run: Run[None]) -> None:
    async def start() -> None:
        home = Home()
        loop = asyncio.get_running_loop()
        called: asyncio.Queue[str] = asyncio.Queue()

        def call(name: str, *_: object) -> None:
            home.check()
            called.put_nowait(name)

        async def task() -> None:
            await asyncio.sleep(0)
            call("task")

        loop.call_soon(call, "call_soon")
        loop.call_soon_threadsafe(call, "call_soon_threadsafe")
        loop.call_later(0.0001, call, "call_later")
        loop.call_at(loop.time(), call, "call_at")
        loop.create_future().cancel()
        future: asyncio.Future[None] = loop.create_future()
        future.add_done_callback(lambda _: call("done callback"))
        await rloop.on_shard((home.shard + 1) % shard_count(), complete(future))
        started = [asyncio.create_task(task()), asyncio.ensure_future(task())]
        async with asyncio.TaskGroup() as group:
            group.create_task(task())
        await asyncio.gather(task(), *started)
        async for _ in generate(home):
            home.check()
        names = {await called.get() for _ in range(9)}
        assert names == {
            "call_soon", "call_soon_threadsafe", "call_later", "call_at", "done callback", "task"
        }  # fmt: skip
        assert called.empty()

    async def complete(future: asyncio.Future[None]) -> None:
        future.set_result(None)

    async def generate(home: Home) -> AsyncIterator[int]:
        try:
            for number in range(3):
                await asyncio.sleep(0)
                home.check()
                yield number
        finally:
            home.check()

    async def main() -> None:
        await on_each_shard(start)

    run(main())


def test_code_of_one_shard_never_overlaps(run: Run[None]) -> None:
    """Without locks, sections between two awaits are as safe as in asyncio."""

    async def increment(counter: list[int]) -> None:
        for _ in range(500):
            assert counter[1] == 0
            counter[1] = 1
            before = counter[0]
            counter[0] = before + 1
            counter[1] = 0
            await asyncio.sleep(0)

    async def main() -> None:
        counters = [[0, 0] for _ in range(shard_count())]
        futures = [
            rloop.on_shard(shard, increment(counter))
            for shard, counter in enumerate(counters)
            for _ in range(8)
        ]
        await asyncio.gather(*futures)
        assert counters == [[8 * 500, 0]] * shard_count()

    run(main())


def context_of(shard: int) -> contextvars.Context:
    loop: Any = asyncio.get_running_loop()
    context = contextvars.Context()
    loop._set_home(context, shard)
    return context


def test_calls_of_one_sender_arrive_in_their_order(run: Run[None]) -> None:
    """Whether the receiving shard sleeps or is busy, and whoever else sends."""
    count = 2000

    async def send(received: list[list[int]], contexts: list[contextvars.Context]) -> None:
        loop = asyncio.get_running_loop()
        me = rloop.current_shard()
        for number in range(count):
            for shard, context in enumerate(contexts):
                if number % 2:
                    loop.call_soon(
                        received[shard * shard_count() + me].append, number, context=context
                    )
                else:
                    loop.call_soon_threadsafe(
                        received[shard * shard_count() + me].append, number, context=context
                    )
            if number % 100 == 0:
                await asyncio.sleep(0)

    async def main() -> None:
        shards = shard_count()
        received: list[list[int]] = [[] for _ in range(shards * shards)]
        contexts = [context_of(shard) for shard in range(shards)]
        await on_each_shard(send, received, contexts)
        # What is sent now arrives after all of that.
        for shard in range(shards):
            for _ in range(shards):
                await rloop.on_shard(shard, turns(2))
        assert received == [list(range(count))] * (shards * shards)

    run(main())


def test_a_callback_without_a_home_runs_on_the_shard_that_scheduled_it(run: Run[None]) -> None:
    async def schedule() -> int:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(
            lambda: done.set_result(rloop.current_shard()), context=contextvars.Context()
        )
        return await done

    async def main() -> None:
        assert await on_each_shard(schedule) == list(range(shard_count()))

    run(main())


def test_a_callback_runs_where_the_context_that_schedules_it_lives(run: Run[None]) -> None:
    async def context_of_shard() -> contextvars.Context:
        return contextvars.copy_context()

    async def main() -> None:
        contexts = await on_each_shard(context_of_shard)
        loop = asyncio.get_running_loop()
        names: asyncio.Queue[tuple[str, int, int]] = sync.Queue()
        variable = contextvars.ContextVar("variable", default=0)

        def note(how: str, expected: int) -> None:
            names.put_nowait((how, expected, rloop.current_shard()))

        def schedule() -> None:
            # In one callback, by turns: here, elsewhere, and here with other variables.
            for _ in range(2):
                for shard, context in enumerate(contexts):
                    context.run(loop.call_soon, note, "inside", shard)
                    loop.call_soon(note, "given", shard, context=context.copy())
                    context.run(loop.call_later, 0, note, "later", shard)
                    loop.call_soon(note, "own", 0)
                    variable.set(variable.get() + 1)

        loop.call_soon(schedule)
        for _ in range(8 * len(contexts)):
            how, expected, found = await names.get()
            assert found == expected, how

    run(main())


def test_calls_from_foreign_threads_run_on_shard_0_in_order(run: Run[None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        home = Home()
        received: list[list[int]] = [[] for _ in range(4)]
        done = asyncio.Event()

        def receive(name: int, number: int) -> None:
            home.check()
            received[name].append(number)

        def send(name: int) -> None:
            for number in range(1000):
                loop.call_soon_threadsafe(receive, name, number)
            remote = asyncio.run_coroutine_threadsafe(here(), loop)
            assert remote.result(20).shard == 0
            if sum(map(len, received)) == 4000:
                loop.call_soon_threadsafe(done.set)

        threads = [threading.Thread(target=send, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        await done.wait()
        assert received == [list(range(1000))] * 4

    run(main())


def test_shards_run_at_the_same_time(run: Run[None]) -> None:
    """While one callback blocks its shard, all the others go on."""

    async def block(gate: Gate) -> None:
        gate.hold()

    async def main() -> None:
        gates = [Gate() for _ in range(shard_count() - 1)]
        blocked = [rloop.on_shard(shard, block(gate)) for shard, gate in enumerate(gates, start=1)]
        for gate in gates:
            gate.wait_until_held()
        await asyncio.sleep(0.001)
        assert not any(future.done() for future in blocked)
        for gate in gates:
            gate.open()
        await asyncio.gather(*blocked)

    run(main())


@pytest.mark.parametrize("rounds", [300])
def test_a_future_passed_round_all_shards_wakes_each_in_turn(rounds: int, run: Run[None]) -> None:
    """Each hand-over finds the next shard asleep or about to sleep: no wake-up is lost."""

    async def hop(futures: list[asyncio.Future[int]], own: int, count: int) -> None:
        for index in range(own, len(futures) - 1, count):
            value = await futures[index]
            futures[index + 1].set_result(value + 1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        count = shard_count()
        futures: list[asyncio.Future[int]] = [
            loop.create_future() for _ in range(rounds * count + 1)
        ]
        hops = [rloop.on_shard(own, hop(futures, own, count)) for own in range(count)]
        futures[0].set_result(0)
        assert await futures[-1] == rounds * count
        await asyncio.gather(*hops)

    run(main())
