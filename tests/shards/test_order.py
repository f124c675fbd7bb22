"""Messages of a step to another shard arrive in order, and wake nobody before the step has ended.

The tests do in one step what a program does in several places: they hand over to another thread
and block until that has done its part, so that each order of events is forced.
"""

import asyncio
import contextvars
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

import rloop
from rloop import sync
from support.peers import LOOPBACK, open_pair, receive_until_eof
from support.shards import Gate, Run, on_each_shard, several_shards
from support.threads import PEER_TIMEOUT, in_thread, turns
from support.tls import SERVER_NAME, wrap_server

if TYPE_CHECKING:
    from support.tls import Authority

pytestmark = several_shards

#: How long a step may last before what it has woken runs, in seconds, less a margin.
LONGEST_STEP = 0.4


class Receiver(asyncio.Protocol):
    """Keeps what its connection receives."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.lost = sync.Event()
        self.limits: list[str] = []

    def data_received(self, data: bytes) -> None:
        self.data += data

    def pause_writing(self) -> None:
        self.limits.append("pause")

    def resume_writing(self) -> None:
        self.limits.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


async def connect(ours: socket.socket, **more: Any) -> tuple[Any, Receiver]:
    return await asyncio.get_running_loop().create_connection(Receiver, sock=ours, **more)


def running_loop() -> rloop.TokioLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, rloop.TokioLoop)
    return loop


# Wake-ups


async def by_a_future(woken: Callable[[], None]) -> Callable[[], object]:
    futures: list[asyncio.Future[None]] = []

    async def wait() -> None:
        futures.append(running_loop().create_future())
        await futures[0]
        woken()

    await rloop.on_shard(1, start(wait()))
    return lambda: futures[0].set_result(None)


async def by_a_primitive(woken: Callable[[], None]) -> Callable[[], object]:
    event = sync.Event()

    async def wait() -> None:
        await event.wait()
        woken()

    await rloop.on_shard(1, start(wait()))
    return event.set


async def by_call_soon(woken: Callable[[], None]) -> Callable[[], object]:
    loop = running_loop()
    return lambda: loop.call_soon(woken, context=loop._home_context(1))


async def by_a_timer(woken: Callable[[], None]) -> Callable[[], object]:
    loop = running_loop()
    return lambda: loop.call_later(0, woken, context=loop._home_context(1))


STARTED: list[Any] = []
"""Keeps tasks alive."""

WAKE_UPS = [
    by_a_future,
    by_a_primitive,
    by_call_soon,
    by_a_timer,
]


async def start(waiting: Coroutine[Any, Any, None]) -> None:
    """Start a task on this shard, up to where it waits."""
    STARTED.append(asyncio.create_task(waiting))
    await turns(1)


def let_iterate(loop: rloop.TokioLoop, shard: int) -> None:
    """Block until a shard has taken what it was sent before, and has run it."""
    context = loop._home_context(shard)
    for _ in range(2):
        done = threading.Event()
        # A thread that is none of the loop's runs no step that would have to end first.
        thread = threading.Thread(target=call_there, args=(loop, context, done.set))
        thread.start()
        assert done.wait(PEER_TIMEOUT)
        thread.join()


def call_there(
    loop: rloop.TokioLoop, context: contextvars.Context, callback: Callable[[], None]
) -> None:
    loop.call_soon_threadsafe(callback, context=context)


@pytest.mark.parametrize("prepare", WAKE_UPS)
def test_what_a_step_wakes_on_another_shard_runs_behind_the_step_and_its_writes(
    prepare: Callable[[Callable[[], None]], Coroutine[Any, Any, Callable[[], object]]],
    run: Run[None],
) -> None:
    async def main() -> None:
        loop = running_loop()
        woken = sync.Event()
        with open_pair("unix") as (ours, peer):
            transport, protocol = await rloop.on_shard(1, connect(ours.dup()))
            ours.close()

            def close() -> None:
                transport.close()
                woken.set()

            wake = await prepare(close)
            began = loop.time()
            wake()
            let_iterate(loop, 1)
            was_woken, took = woken.is_set(), loop.time() - began
            transport.write(b"before ")
            transport.writelines([b"the ", b"close"])
            assert not was_woken or took > LONGEST_STEP
            await woken.wait()
            if took < LONGEST_STEP:
                assert await in_thread(receive_until_eof, peer) == b"before the close"
            await protocol.lost.wait()
        STARTED.clear()

    run(main())


def test_wake_ups_of_a_step_keep_their_order(run: Run[None]) -> None:
    async def main() -> None:
        loop = running_loop()
        seen: list[int] = []
        all_seen = sync.Event()
        context = loop._home_context(1)
        for number in range(50):
            schedule = (loop.call_soon, loop.call_soon_threadsafe)[number % 2]
            schedule(seen.append, number, context=context)
        loop.call_soon(all_seen.set, context=context)
        await all_seen.wait()
        assert seen == list(range(50))

    run(main())


def test_a_step_that_blocks_until_another_shard_has_run_what_it_woke_goes_on(
    run: Run[None],
) -> None:
    async def main() -> None:
        done = [threading.Event() for _ in WAKE_UPS]
        pairs = zip(WAKE_UPS, done, strict=True)
        wakes = [await prepare(event.set) for prepare, event in pairs]
        for wake in wakes:
            wake()
        assert all(event.wait(PEER_TIMEOUT) for event in done)
        STARTED.clear()

    run(main())


def test_what_a_step_hands_to_another_thread_runs_while_the_step_blocks(run: Run[None]) -> None:
    """And behind what the step has written before."""

    async def main() -> None:
        loop = running_loop()
        with open_pair("unix") as (ours, peer):
            transport, protocol = await rloop.on_shard(1, connect(ours.dup()))
            ours.close()
            began = loop.time()
            for number in range(20):
                done = threading.Event()

                def close(data: bytes, done: threading.Event = done) -> None:
                    transport.write(data)
                    done.set()

                async def close_there(data: bytes, close: Callable[[bytes], None] = close) -> None:
                    close(data)

                transport.write(b"%d " % number)
                if number % 2:
                    STARTED.append(rloop.on_shard(1, close_there(b"task ")))
                else:
                    loop.call_soon_threadsafe(close, b"call ", context=loop._home_context(1))
                assert done.wait(PEER_TIMEOUT)
            # None has waited until it was found that the step is blocked.
            assert loop.time() - began < 20 * LONGEST_STEP
            transport.close()
            received = await in_thread(receive_until_eof, peer)
            pieces = [b"%d %s " % (number, (b"call", b"task")[number % 2]) for number in range(20)]
            assert received == b"".join(pieces)
            await protocol.lost.wait()
        STARTED.clear()

    run(main())


def test_a_write_reaches_the_peer_while_its_step_blocks(run: Run[None]) -> None:
    async def main() -> None:
        with open_pair("unix") as (ours, peer):
            transport, protocol = await rloop.on_shard(1, connect(ours.dup()))
            ours.close()
            transport.write(b"now")
            assert peer.recv(3) == b"now"
            transport.abort()
            await protocol.lost.wait()

    run(main())


# Calls on one transport


class Turns:
    """Lets a home shard and another one call by turns, each in one step."""

    def __init__(self) -> None:
        self._semaphores = [threading.Semaphore(0), threading.Semaphore(0)]

    async def play(self, number: int, calls: list[Callable[[], object]]) -> list[object]:
        """Make the calls, each behind one of the other side; side 0 begins."""
        results = []
        for index, call in enumerate(calls):
            if number or index:
                assert self._semaphores[number].acquire(timeout=PEER_TIMEOUT)
            results.append(call())
            self._semaphores[1 - number].release()
        return results


async def by_turns(
    first: tuple[int, list[Callable[[], object]]], second: tuple[int, list[Callable[[], object]]]
) -> tuple[list[object], list[object]]:
    """Make calls on two shards by turns; return what they return."""
    sides = Turns()
    futures = [
        rloop.on_shard(shard, sides.play(number, calls))
        for number, (shard, calls) in enumerate((first, second))
    ]
    one, other = await asyncio.gather(*futures)
    return one, other


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
@pytest.mark.parametrize("first", [0, 1])
def test_writes_of_two_shards_keep_the_order_that_the_program_gave_them(
    kind: str, first: int, run: Run[None], authority: "Authority"
) -> None:
    def receive(peer: socket.socket) -> bytes:
        if kind != "tls":
            return receive_until_eof(peer)
        with wrap_server(authority.server_context(), peer) as wrapped:
            return receive_until_eof(wrapped)

    async def main() -> None:
        more = {}
        if kind == "tls":
            more = {"ssl": authority.client_context(), "server_hostname": SERVER_NAME}
        with open_pair("tcp" if kind == "tls" else kind) as (ours, peer):
            received = in_thread(receive, peer)
            transport, protocol = await rloop.on_shard(1, connect(ours.dup(), **more))
            ours.close()

            def write(number: int) -> Callable[[], object]:
                data = b"%d " % number
                if number % 3:
                    return lambda: transport.write(data)
                return lambda: transport.writelines([data[:1], data[1:]])

            evens = [write(number) for number in range(0, 40, 2)]
            odds = [write(number) for number in range(1, 41, 2)]
            evens.append(transport.is_closing)
            odds.append(transport.close)
            await by_turns((first, evens), (1 - first, odds))
            expected = b"".join(b"%d " % number for number in range(40))
            assert await received == expected
            await protocol.lost.wait()

    run(main())


def test_the_last_of_two_shards_decides_whether_a_transport_reads(run: Run[None]) -> None:
    async def main() -> None:
        with open_pair("unix") as (ours, peer):
            transport, protocol = await rloop.on_shard(1, connect(ours.dup()))
            ours.close()
            seen = transport.is_reading
            for first in (0, 1):
                one, other = await by_turns(
                    (first, [transport.pause_reading, seen, transport.pause_reading, seen]),
                    (1 - first, [transport.resume_reading, seen, transport.pause_reading, seen]),
                )
                assert [one[1], other[1], one[3], other[3]] == [True, True, False, False]
                one, other = await by_turns(
                    (first, [transport.resume_reading, seen, transport.pause_reading, seen]),
                    (1 - first, [transport.pause_reading, seen, transport.resume_reading, seen]),
                )
                assert [one[1], other[1], one[3], other[3]] == [False, False, True, True]
            peer.sendall(b"data")
            peer.shutdown(socket.SHUT_WR)
            await protocol.lost.wait()
            assert protocol.data == b"data"

    run(main())


def test_no_data_comes_behind_a_pause_of_another_shard(run: Run[None]) -> None:
    async def main() -> None:
        with open_pair("unix") as (ours, peer):
            transport, protocol = await rloop.on_shard(1, connect(ours.dup()))
            ours.close()
            gate = Gate()
            loop = running_loop()
            loop.call_soon(gate.hold, context=loop._home_context(1))
            await gate.held()
            # The event is behind the callback that runs, and the call is in the inbox.
            transport.pause_reading()
            peer.sendall(b"data")
            gate.open()
            await rloop.on_shard(1, turns(3))
            assert not protocol.data
            assert not transport.is_reading()
            transport.abort()
            await protocol.lost.wait()

    run(main())


def test_water_marks_are_set_in_the_order_of_the_calls(run: Run[None]) -> None:
    async def main() -> None:
        with open_pair("unix") as (ours, _):
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            transport, protocol = await rloop.on_shard(1, connect(ours.dup()))
            ours.close()
            limits = transport.get_write_buffer_limits
            one, other = await by_turns(
                (0, [lambda: transport.set_write_buffer_limits(4000, 3000), limits]),
                (1, [lambda: transport.set_write_buffer_limits(100, 50), limits]),
            )
            assert one[1] == other[1] == (50, 100)
            one, other = await by_turns(
                (1, [lambda: transport.set_write_buffer_limits(4000, 3000), limits]),
                (0, [lambda: transport.set_write_buffer_limits(200, 60), limits]),
            )
            assert one[1] == other[1] == (60, 200)
            # A write comes before the limits that follow it.
            await by_turns(
                (0, [lambda: transport.write(bytes(1 << 20))]),
                (1, [lambda: transport.set_write_buffer_limits(1 << 22)]),
            )
            assert protocol.limits == ["pause"]
            transport.abort()
            await protocol.lost.wait()

    run(main())


@pytest.mark.parametrize("first", [0, 1])
def test_what_comes_behind_a_close_of_another_shard_is_not_sent(first: int, run: Run[None]) -> None:
    async def main() -> None:
        with open_pair("unix") as (ours, peer):
            transport, protocol = await rloop.on_shard(1, connect(ours.dup()))
            ours.close()
            await by_turns(
                (first, [lambda: transport.write(b"sent"), lambda: transport.write(b"lost")]),
                (1 - first, [transport.close]),
            )
            assert await in_thread(receive_until_eof, peer) == b"sent"
            await protocol.lost.wait()

    run(main())


def test_datagrams_of_two_shards_keep_the_order_that_the_program_gave_them(run: Run[None]) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind((LOOPBACK, 0))
            peer.settimeout(PEER_TIMEOUT)

            async def open_endpoint() -> Any:
                loop = asyncio.get_running_loop()
                transport, _ = await loop.create_datagram_endpoint(
                    asyncio.DatagramProtocol, remote_addr=peer.getsockname()
                )
                return transport

            transport = await rloop.on_shard(1, open_endpoint())
            for first in (0, 1):
                await by_turns(
                    (first, [lambda: transport.sendto(b"1"), lambda: transport.sendto(b"3")]),
                    (1 - first, [lambda: transport.sendto(b"2"), lambda: transport.sendto(b"4")]),
                )
                assert [await in_thread(peer.recv, 1) for _ in range(4)] == [b"1", b"2", b"3", b"4"]
            transport.close()
            await rloop.on_shard(1, turns(3))

    run(main())


def test_writes_to_a_pipe_of_two_shards_keep_the_order_that_the_program_gave_them(
    run: Run[None],
) -> None:
    async def main() -> None:
        ours, peer = socket.socketpair()
        with peer:
            peer.settimeout(PEER_TIMEOUT)

            async def open_pipe() -> Any:
                loop = asyncio.get_running_loop()
                transport, _ = await loop.connect_write_pipe(asyncio.Protocol, ours)
                return transport

            transport = await rloop.on_shard(1, open_pipe())
            await by_turns(
                (0, [lambda: transport.write(b"1"), lambda: transport.writelines([b"3"])]),
                (1, [lambda: transport.write(b"2"), transport.close]),
            )
            assert await in_thread(receive_until_eof, peer) == b"123"
            await rloop.on_shard(1, turns(3))

    run(main())


def test_writes_under_a_lock_come_in_the_order_of_the_lock(run: Run[None]) -> None:
    count = 500

    async def main() -> None:
        lock = threading.Lock()
        number = 0
        with open_pair("unix") as (ours, peer):
            transport, protocol = await rloop.on_shard(1, connect(ours.dup()))
            ours.close()
            received = in_thread(receive_until_eof, peer)

            async def write() -> None:
                nonlocal number
                for _ in range(count):
                    with lock:
                        number += 1
                        transport.write(b"%d\n" % number)
                    await asyncio.sleep(0)

            await on_each_shard(write)
            transport.close()
            lines = [int(line) for line in (await received).splitlines()]
            assert lines == list(range(1, number + 1))
            await protocol.lost.wait()

    run(main())


def test_a_call_while_the_loop_is_stopped_comes_behind_those_that_wait(
    make_loop: Callable[[], rloop.TokioLoop],
) -> None:
    loop = make_loop()
    gate = Gate()
    with open_pair("unix") as (ours, peer):

        async def begin() -> tuple[Any, Receiver]:
            transport, protocol = await rloop.on_shard(1, connect(ours.dup()))
            loop.call_soon(gate.hold, context=loop._home_context(1))
            await gate.held()
            transport.write(b"running ")
            return transport, protocol

        async def end() -> None:
            await protocol.lost.wait()

        # Shard 0 has stopped by then, most likely: the write waits for the next run.
        opener = threading.Timer(0.05, gate.open)
        opener.start()
        transport, protocol = loop.run_until_complete(begin())
        opener.join()
        ours.close()
        transport.write(b"stopped ")
        transport.close()
        loop.run_until_complete(end())
        assert receive_until_eof(peer) == b"running stopped "
    loop.close()
