"""asyncio's streams on several shards, handed from one to another."""

import asyncio
import contextlib
import contextvars
import hashlib
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

import rloop
from support.peers import LOOPBACK, open_pair, receive_exactly, receive_until_eof
from support.shards import Gate, Run, on_each_shard, several_shards, shard_count
from support.threads import PEER_TIMEOUT, eventually, in_thread, turns

pytestmark = several_shards

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def streams_on(shard: int) -> AsyncIterator[tuple[Streams, socket.socket]]:
    """Give streams whose home is that shard, and their peer."""

    async def open_streams(ours: socket.socket) -> Streams:
        return await asyncio.open_connection(sock=ours)

    with open_pair("tcp") as (ours, peer):
        reader, writer = await rloop.on_shard(shard, open_streams(ours.dup()))
        ours.close()
        try:
            yield (reader, writer), peer
        finally:
            writer.transport.abort()
            await eventually(lambda: writer.get_extra_info("socket").fileno() == -1)


def test_every_way_of_reading_works_on_every_shard(run: Run[None]) -> None:
    async def read_all_ways(reader: asyncio.StreamReader, peer: socket.socket) -> None:
        sending = in_thread(send, peer)
        assert await reader.readline() == b"a line\n"
        assert await reader.readexactly(5) == b"12345"
        assert await reader.readuntil(b"|") == b"up to|"
        # Not all of it may have come, but what has is there.
        assert await reader.readexactly(1) == b"t"
        rest = b""
        while len(rest) < 6:
            rest += await reader.read(100)
        assert rest == b"he end"
        await sending

    def send(peer: socket.socket) -> None:
        for byte in b"a line\n12345up to|the end":
            peer.send(bytes([byte]))

    async def main() -> None:
        async with streams_on(1) as ((reader, _), peer):
            for shard in range(shard_count()):
                await rloop.on_shard(shard, read_all_ways(reader, peer))
            peer.shutdown(socket.SHUT_WR)
            assert await reader.read() == b""
            assert reader.at_eof()
            with pytest.raises(asyncio.IncompleteReadError):
                await reader.readexactly(1)

    run(main())


def test_a_read_on_another_shard_ends_with_the_connection(run: Run[None]) -> None:
    async def main() -> None:
        async with streams_on(1) as ((reader, writer), _):
            reading = rloop.on_shard(0, reader.read())
            await turns(3)
            writer.transport.abort()
            assert await reading == b""

    run(main())


def test_a_read_on_another_shard_may_be_cancelled_and_loses_nothing(run: Run[None]) -> None:
    async def main() -> None:
        async with streams_on(1) as ((reader, _), peer):
            for number in range(50):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.0001):
                        await reader.readline()
                line = b"line %d\n" % number
                peer.sendall(line)
                assert await reader.readline() == line

    run(main())


@pytest.mark.parametrize("method", ["read", "readexactly", "readline", "readuntil"])
def test_a_read_on_another_shard_that_is_cancelled_too_late_puts_its_bytes_back(
    method: str, run: Run[None]
) -> None:
    reads: dict[str, Callable[[asyncio.StreamReader], Coroutine[Any, Any, bytes]]] = {
        "read": lambda reader: reader.read(5),
        "readexactly": lambda reader: reader.readexactly(5),
        "readline": lambda reader: reader.readline(),
        "readuntil": lambda reader: reader.readuntil(),
    }

    async def start(
        reader: asyncio.StreamReader,
    ) -> tuple["asyncio.Task[bytes]", contextvars.Context]:
        return asyncio.create_task(reads[method](reader)), contextvars.copy_context()

    async def hold(gate: Gate) -> None:
        gate.hold()

    async def main() -> None:
        async with streams_on(0) as ((reader, _), peer):
            # Of this shard alone, on which the read runs.
            before = asyncio.all_tasks()
            task, of_shard_1 = await rloop.on_shard(1, start(reader))
            await eventually(lambda: asyncio.all_tasks() > before)
            gate = Gate()
            held = rloop.on_shard(1, hold(gate))
            await gate.held()
            # Behind the wake-up of the task, which the end of the read sends first.
            await in_thread(peer.sendall, b"1234\n")
            await eventually(lambda: asyncio.all_tasks() == before)
            asyncio.get_running_loop().call_soon(task.cancel, context=of_shard_1)
            await turns(1)
            gate.open()
            await held
            with pytest.raises(asyncio.CancelledError):
                await rloop.on_shard(1, wait_for(task))
            await in_thread(peer.sendall, b"the rest")
            again = rloop.on_shard(1, reads[method](reader))
            assert await again == b"1234\n"
            assert await reader.readexactly(8) == b"the rest"

    async def wait_for(task: "asyncio.Task[bytes]") -> bytes:
        return await task

    run(main())


def test_a_reader_that_two_shards_read_at_a_time_refuses_one_of_them(run: Run[None]) -> None:
    async def main() -> None:
        async with streams_on(1) as ((reader, _), peer):
            reading = rloop.on_shard(0, reader.readline())
            await turns(2)
            await rloop.on_shard(1, turns(3))
            with pytest.raises(RuntimeError, match="another coroutine is already waiting"):
                await rloop.on_shard(1, reader.readline())
            peer.sendall(b"for the first\n")
            assert await reading == b"for the first\n"

    run(main())


def test_draining_on_another_shard_waits_for_the_peer(run: Run[None]) -> None:
    payload = bytes(8 << 20)

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(payload)
        await writer.drain()
        drained.append(rloop.current_shard())

    async def main() -> None:
        for shard in range(shard_count()):
            async with streams_on(1) as ((_, writer), peer):
                sending = rloop.on_shard(shard, send(writer))
                await turns(5)
                await rloop.on_shard(1, turns(5))
                assert not sending.done()
                assert await in_thread(receive_exactly, peer, len(payload)) == payload
                await sending
        assert drained == list(range(shard_count()))

    drained: list[int] = []
    run(main())


def test_writers_are_closed_and_waited_for_on_every_shard(run: Run[None]) -> None:
    async def close(writer: asyncio.StreamWriter) -> None:
        writer.write(b"the end")
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        for shard in range(shard_count()):
            async with streams_on(1) as ((_, writer), peer):
                reading = in_thread(receive_until_eof, peer)
                await rloop.on_shard(shard, close(writer))
                assert await reading == b"the end"

    run(main())


def test_a_task_of_each_shard_writes_and_drains_one_writer(run: Run[None]) -> None:
    async def send(writer: asyncio.StreamWriter) -> None:
        me = rloop.current_shard()
        for _ in range(50):
            writer.write(bytes([me]) * 10_000)
            await writer.drain()

    def count(peer: socket.socket, size: int) -> list[int]:
        received = receive_exactly(peer, size)
        return [received.count(bytes([number])) for number in range(4)]

    async def main() -> None:
        async with streams_on(1) as ((_, writer), peer):
            counting = in_thread(count, peer, 500_000 * shard_count())
            await on_each_shard(send, writer)
            counts = await counting
            assert counts[: shard_count()] == [500_000] * shard_count()

    run(main())


def test_a_proxy_may_have_its_ends_on_different_shards(run: Run[None]) -> None:
    """A handler opens a connection at home and lets another shard pump one direction."""
    payload = random.Random(3).randbytes(2_000_000)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(20_000):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection(LOOPBACK, ports[0])
        other = (rloop.current_shard() + 1) % shard_count()
        await asyncio.gather(
            rloop.on_shard(other, pump(reader, upstream_writer)), pump(upstream_reader, writer)
        )
        for each in (writer, upstream_writer):
            each.close()
            await each.wait_closed()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(hashlib.sha256(await reader.read()).digest() + payload)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    def converse(port: int) -> bytes:
        with socket.create_connection((LOOPBACK, port), PEER_TIMEOUT) as peer:
            peer.sendall(payload)
            peer.shutdown(socket.SHUT_WR)
            return receive_until_eof(peer)

    async def main() -> None:
        upstream = await asyncio.start_server(answer, LOOPBACK, 0)
        ports.append(upstream.sockets[0].getsockname()[1])
        server = await asyncio.start_server(proxy, LOOPBACK, 0)
        port = server.sockets[0].getsockname()[1]
        async with upstream, server:
            answers = await asyncio.gather(*(in_thread(converse, port) for _ in range(6)))
        assert set(answers) == {hashlib.sha256(payload).digest() + payload}
        await server.wait_closed()
        await upstream.wait_closed()

    ports: list[int] = []
    run(main())
