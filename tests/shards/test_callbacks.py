"""Handles, timers and watched descriptors of one shard, used on others."""

import asyncio
import contextlib
import contextvars
import random
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest

import rloop
from rloop import sync
from support.peers import open_pair
from support.shards import Gate, Run, on_each_shard, several_shards, shard_count
from support.threads import eventually, in_thread, turns

pytestmark = several_shards


async def call(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


def test_a_handle_cancelled_on_another_shard_does_not_run(run: Run[None]) -> None:
    """The home shard is held while the calls wait there."""

    async def schedule(make: str) -> asyncio.Handle:
        loop = asyncio.get_running_loop()
        if make == "call_later":
            return loop.call_later(0, ran.append, make)
        handle: asyncio.Handle = getattr(loop, make)(ran.append, make)
        return handle

    async def hold_with(make: str, gate: Gate) -> None:
        handles.append(await schedule(make))
        gate.hold()

    async def main() -> None:
        for make in ("call_soon", "call_soon_threadsafe", "call_later"):
            for shard in range(1, shard_count()):
                gate = Gate()
                holding = rloop.on_shard(shard, hold_with(make, gate))
                await in_thread(gate.wait_until_held)
                handles[-1].cancel()
                assert handles[-1].cancelled()
                gate.open()
                await holding
                await rloop.on_shard(shard, turns(3))
        assert ran == []

    ran: list[str] = []
    handles: list[asyncio.Handle] = []
    run(main())


def test_timers_cancelled_everywhere_at_once_never_fire(run: Run[None]) -> None:
    async def schedule() -> list[asyncio.TimerHandle]:
        loop = asyncio.get_running_loop()
        return [loop.call_later(3600 + number, fired.append, number) for number in range(500)]

    async def cancel(handles: list[asyncio.TimerHandle]) -> None:
        order = list(handles)
        random.Random(rloop.current_shard()).shuffle(order)
        for number, handle in enumerate(order):
            handle.cancel()
            if number % 100 == 0:
                await asyncio.sleep(0)

    async def main() -> None:
        for _ in range(5):
            handles = [handle for made in await on_each_shard(schedule) for handle in made]
            await on_each_shard(cancel, handles)
            assert all(handle.cancelled() for handle in handles)
        assert await on_each_shard(sleep) == [True] * shard_count()

    async def sleep() -> bool:
        return await asyncio.sleep(0.001, True)

    fired: list[int] = []
    run(main())
    assert fired == []


def test_timers_of_every_shard_fire_in_their_order_and_not_early(run: Run[None]) -> None:
    async def wait() -> None:
        loop = asyncio.get_running_loop()
        source = random.Random(rloop.current_shard())
        fired: list[float] = []

        def fire(when: float) -> None:
            assert loop.time() >= when
            fired.append(when)

        start = loop.time()
        moments = [start + source.random() / 50 for _ in range(200)]
        for when in moments:
            loop.call_at(when, fire, when)
        await eventually(lambda: len(fired) == len(moments))
        assert fired == sorted(moments)

    async def main() -> None:
        await on_each_shard(wait)

    run(main())


def test_a_timer_set_for_another_shard_wakes_it(run: Run[None]) -> None:
    """The shard sleeps without a deadline, or until a later one."""

    def ring() -> None:
        rung.put_nowait(rloop.current_shard())

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        for shard in range(shard_count()):
            context = contextvars.Context()
            loop._set_home(context, shard)
            for delay in (0.02, 0.01, 0.0):
                loop.call_later(delay, ring, context=context)
            assert [await rung.get() for _ in range(3)] == [shard] * 3

    rung: sync.Queue[int] = sync.Queue()
    run(main())


def test_reader_and_writer_of_one_socket_may_have_different_homes(run: Run[None]) -> None:
    async def watch(side: str, sock: socket.socket, seen: list[int], wanted: sync.Event) -> None:
        def ready() -> None:
            seen.append(rloop.current_shard())
            if side == "reader":
                sock.recv(1)
            wanted.set()

        getattr(asyncio.get_running_loop(), f"add_{side}")(sock, ready)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        count = shard_count()
        for reader_home, writer_home in ((0, 1), (1, 0), (count - 1, 1)):
            with open_pair("unix") as (ours, peer):
                read, written = sync.Event(), sync.Event()
                readers: list[int] = []
                writers: list[int] = []
                await rloop.on_shard(reader_home, watch("reader", ours, readers, read))
                await rloop.on_shard(writer_home, watch("writer", ours, writers, written))
                peer.send(b"x")
                await read.wait()
                await written.wait()
                # From a third shard, or at least from another than the home.
                remover = (max(reader_home, writer_home) + 1) % count
                assert await rloop.on_shard(remover, call(loop.remove_writer, ours)) is True
                assert await rloop.on_shard(remover, call(loop.remove_writer, ours)) is False
                await rloop.on_shard(writer_home, turns(2))
                calls = len(writers)
                peer.send(b"y")
                await eventually(lambda readers=readers: len(readers) == 2)  # type: ignore[misc]
                assert await rloop.on_shard(remover, call(loop.remove_reader, ours)) is True
                await rloop.on_shard(reader_home, turns(2))
                peer.send(b"z")
                await rloop.on_shard(reader_home, turns(5))
                assert set(readers) == {reader_home}
                assert len(readers) == 2
                assert set(writers) == {writer_home}
                assert len(writers) == calls

    run(main())


def test_a_reader_that_moves_to_another_shard_loses_no_byte(run: Run[None]) -> None:
    async def take_over(sock: socket.socket) -> None:
        def ready() -> None:
            homes.add(rloop.current_shard())
            # The shard that watched it before may still be in its callback.
            with contextlib.suppress(BlockingIOError):
                received.extend(sock.recv(100))

        asyncio.get_running_loop().add_reader(sock, ready)

    async def main() -> None:
        with open_pair("unix") as (ours, peer):
            for number in range(200):
                await rloop.on_shard(number % shard_count(), take_over(ours))
                peer.send(bytes([number]))
                if number < shard_count():
                    await eventually(lambda sent=number + 1: len(received) == sent)  # type: ignore[misc]
            await eventually(lambda: len(received) == 200)
            assert sorted(received) == list(range(200))
            assert homes == set(range(shard_count()))
            asyncio.get_running_loop().remove_reader(ours)

    received = bytearray()
    homes: set[int] = set()
    run(main())


def test_every_shard_adds_and_removes_callbacks_of_the_same_descriptors(run: Run[None]) -> None:
    async def change(socks: Sequence[socket.socket], seed: int) -> None:
        loop = asyncio.get_running_loop()
        chosen = random.Random(seed)
        for number in range(400):
            sock = chosen.choice(socks)
            method = chosen.choice(["add_reader", "add_writer", "remove_reader", "remove_writer"])
            if method.startswith("add"):
                getattr(loop, method)(sock, called.add, rloop.current_shard())
            else:
                getattr(loop, method)(sock)
            if number % 10 == 0:
                await asyncio.sleep(0)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            pairs = [stack.enter_context(open_pair("unix")) for _ in range(3)]
            socks = [ours for ours, _ in pairs]
            for _, peer in pairs:
                peer.send(b"x")
            await asyncio.gather(
                *(rloop.on_shard(shard, change(socks, shard)) for shard in range(shard_count()))
            )
            for sock in socks:
                loop.remove_reader(sock)
                loop.remove_writer(sock)
            await on_each_shard(turns, 3)
            called.clear()
            await on_each_shard(turns, 3)
            assert not called
            for sock in socks:
                assert loop.remove_reader(sock) is False
                loop.add_reader(sock, called.add, "reader")
            await eventually(lambda: called == {"reader"})
            for sock in socks:
                assert loop.remove_reader(sock) is True

    called: set[object] = set()
    run(main())


def test_sockets_are_used_with_sock_methods_on_every_shard(run: Run[None]) -> None:
    async def echo(sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(20):
            await loop.sock_sendall(sock, await loop.sock_recv(sock, 4096))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for shard in range(shard_count()):
            with open_pair("tcp") as (ours, peer):
                peer.setblocking(False)
                echoing = rloop.on_shard(shard, echo(ours))
                for number in range(20):
                    await loop.sock_sendall(peer, b"%d" % number)
                    assert await loop.sock_recv(peer, 100) == b"%d" % number
                await echoing

    run(main())


@pytest.mark.parametrize("shard", [0, 1])
def test_a_thread_that_a_task_starts_calls_back_to_the_task_s_home(
    shard: int, run: Run[None]
) -> None:
    """If the thread inherits the context of who starts it, else to shard 0."""

    async def start() -> None:
        loop = asyncio.get_running_loop()
        home: asyncio.Future[int] = loop.create_future()
        thread = threading.Thread(
            target=lambda: loop.call_soon_threadsafe(lambda: home.set_result(rloop.current_shard()))
        )
        thread.start()
        inherits = getattr(sys.flags, "thread_inherit_context", False)
        assert await home == (shard if inherits else 0)
        thread.join()

    async def main() -> None:
        await rloop.on_shard(shard, start())

    run(main())


def test_results_of_executors_come_back_to_the_home_shard(run: Run[None]) -> None:
    async def ask() -> None:
        home = rloop.current_shard()
        loop = asyncio.get_running_loop()
        for number in range(20):
            future = loop.run_in_executor(None, pow, 2, number)
            called: asyncio.Future[int] = loop.create_future()
            future.add_done_callback(
                lambda _, called=called: called.set_result(rloop.current_shard())  # type: ignore[misc]
            )
            assert await future == 2**number
            assert await called == home
            with pytest.raises(ZeroDivisionError):
                await loop.run_in_executor(None, divmod, 1, 0)
            assert rloop.current_shard() == home

    async def main() -> None:
        await on_each_shard(ask)

    run(main())


def test_the_default_executor_is_made_once(run: Run[None]) -> None:
    """Even if all shards ask for it at the same time."""

    async def first(barrier: sync.Barrier) -> int:
        await barrier.wait()
        loop: Any = asyncio.get_running_loop()
        await loop.run_in_executor(None, int)
        return id(loop._default_executor)

    async def main() -> None:
        barrier = sync.Barrier(shard_count())
        assert len(set(await on_each_shard(first, barrier))) == 1

    for _ in range(10):
        run(main())
