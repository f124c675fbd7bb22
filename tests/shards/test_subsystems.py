"""Datagrams, pipes, subprocesses and name resolution on every shard of a loop."""

import asyncio
import hashlib
import os
import random
import socket
import sys
from typing import Any

import rloop
from rloop import sync
from support.peers import LOOPBACK
from support.shards import Run, on_each_shard, several_shards, shard_count
from support.threads import turns

pytestmark = several_shards


class Datagrams(asyncio.DatagramProtocol):
    """Counts what arrives, on its home shard."""

    def __init__(self) -> None:
        self.home = rloop.current_shard()
        self.received: list[bytes] = []
        self.changed = sync.Event()
        self.is_lost = sync.Event()

    def datagram_received(self, data: bytes, _: Any) -> None:
        assert rloop.current_shard() == self.home
        self.received.append(data)
        self.changed.set()

    def connection_lost(self, _: Exception | None) -> None:
        assert rloop.current_shard() == self.home
        self.is_lost.set()

    async def until(self, count: int) -> None:
        """Wait until so many have come."""
        while len(self.received) < count:
            self.changed.clear()
            if len(self.received) < count:
                await self.changed.wait()


async def open_endpoint() -> tuple[Any, Datagrams]:
    return await asyncio.get_running_loop().create_datagram_endpoint(
        Datagrams, local_addr=(LOOPBACK, 0)
    )


def test_datagrams_are_sent_from_all_shards_and_received_at_home(run: Run[None]) -> None:
    async def send(transport: Any, address: Any) -> None:
        for number in range(20):
            transport.sendto(b"%d %d" % (rloop.current_shard(), number), address)
            await asyncio.sleep(0)

    async def main() -> None:
        for home in range(shard_count()):
            transport, protocol = await rloop.on_shard(home, open_endpoint())
            address = transport.get_extra_info("sockname")
            await on_each_shard(send, transport, address)
            await rloop.on_shard(home, protocol.until(20 * shard_count()))
            for sender in range(shard_count()):
                prefix = b"%d " % sender
                of_one = [data for data in protocol.received if data.startswith(prefix)]
                assert of_one == [b"%d %d" % (sender, number) for number in range(20)]
            transport.close()
            await protocol.is_lost.wait()
            # The socket is closed right after.
            await rloop.on_shard(home, turns(2))

    run(main())


def test_pipes_work_on_every_shard(run: Run[None]) -> None:
    payload = random.Random(4).randbytes(300_000)

    async def converse() -> None:
        loop = asyncio.get_running_loop()
        home = rloop.current_shard()
        reading, writing = os.pipe()
        reader = asyncio.StreamReader()
        source, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", 0)
        )
        sink, _ = await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(writing, "wb", 0))
        sink.write(payload)
        sink.close()
        assert await reader.read() == payload
        assert rloop.current_shard() == home
        source.close()
        await turns(3)

    async def main() -> None:
        await on_each_shard(converse)

    run(main())


def test_subprocesses_are_run_and_waited_for_on_every_shard(run: Run[None]) -> None:
    payload = random.Random(5).randbytes(200_000)
    program = (
        "import hashlib, sys; "
        "print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()); sys.exit(7)"
    )

    async def converse() -> None:
        home = rloop.current_shard()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate(payload)
        assert output.decode().strip() == hashlib.sha256(payload).hexdigest()
        assert process.returncode == 7
        assert await process.wait() == 7
        assert rloop.current_shard() == home

    async def main() -> None:
        await on_each_shard(converse)

    run(main())


def test_a_subprocess_may_be_killed_and_waited_for_on_another_shard(run: Run[None]) -> None:
    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
        )

    async def kill(process: asyncio.subprocess.Process) -> None:
        process.kill()

    async def main() -> None:
        for home, other in ((0, 1), (1, 0)):
            process = await rloop.on_shard(home, start())
            await rloop.on_shard(other, kill(process))
            assert await rloop.on_shard(other, process.wait()) == -9

    run(main())


def test_names_are_resolved_on_every_shard(run: Run[None]) -> None:
    async def resolve() -> None:
        home = rloop.current_shard()
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(LOOPBACK, 80, type=socket.SOCK_STREAM)
        assert found[0][4] == (LOOPBACK, 80)
        assert rloop.current_shard() == home

    async def main() -> None:
        await on_each_shard(resolve)

    run(main())
