"""Datagrams, pipes and children that live on another shard than the one that made the loop run."""

import asyncio
import os
import threading
from typing import Any

import pytest

import rloop
from support.pipes import open_pipe
from support.protocols import RecordingDatagramProtocol, RecordingProtocol
from support.shards import Run, on_each_shard, several_shards, shard_count
from support.threads import turns

pytestmark = several_shards

#: So few that the buffer of a UDP socket holds the datagrams of all shards.
ROUNDS = 40


class Located(RecordingDatagramProtocol, RecordingProtocol):
    """Notes the thread of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[int] = set()

    def note(self, name: str, value: Any = None) -> None:
        self.threads.add(threading.get_ident())
        super().note(name, value)


async def exchange_datagrams() -> None:
    """Answer datagrams between two endpoints of this shard."""
    loop = asyncio.get_running_loop()
    ends: list[Any] = [
        await loop.create_datagram_endpoint(Located, local_addr=("127.0.0.1", 0)) for _ in range(2)
    ]
    (first, _), (second, receiver) = ends
    for number in range(ROUNDS):
        first.sendto(b"%d" % number, second.get_extra_info("sockname"))
        await receiver.called_times("datagram_received", number + 1)
    for transport, protocol in ends:
        transport.close()
        await protocol.called("connection_lost")
        assert protocol.threads == {threading.get_ident()}
    await turns(1)


async def exchange_through_a_pipe() -> None:
    """Write to a pipe and read from it on this shard."""
    loop = asyncio.get_running_loop()
    reading, writing = open_pipe()
    _, reader = await loop.connect_read_pipe(Located, reading)
    transport, writer = await loop.connect_write_pipe(Located, writing)
    payload = os.urandom(1 << 20)
    transport.write(payload)
    assert await reader.received(len(payload)) == payload
    transport.close()
    for protocol in (writer, reader):
        assert await protocol.called("connection_lost") is None
        assert protocol.threads == {threading.get_ident()}
    await turns(1)


async def run_children() -> None:
    """Start children and wait for them on this shard."""
    here = threading.get_ident()
    for code in range(10):
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", f"cat; exit {code}", stdin=-1, stdout=-1
        )
        stdout, _ = await process.communicate(b"%d" % code)
        assert stdout == b"%d" % code
        assert process.returncode == code
        assert threading.get_ident() == here


@pytest.mark.parametrize(
    "work", [exchange_datagrams, exchange_through_a_pipe, run_children], ids=lambda it: it.__name__
)
def test_everything_of_an_endpoint_happens_on_its_shard(work: Any, run: Run[None]) -> None:
    async def main() -> None:
        await asyncio.gather(on_each_shard(work), on_each_shard(work))

    run(main())


def test_a_datagram_transport_and_a_pipe_may_be_used_on_any_shard(run: Run[None]) -> None:
    async def open_ends() -> tuple[Any, Any, Any, Any]:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(
            Located, local_addr=("127.0.0.1", 0)
        )
        reading, writing = open_pipe()
        _, reader = await loop.connect_read_pipe(Located, reading)
        pipe, _ = await loop.connect_write_pipe(Located, writing)
        return transport, protocol, pipe, reader

    async def settle(transport: Any, protocol: Located, pipe: Any, reader: Located) -> None:
        await protocol.called_times("datagram_received", ROUNDS * shard_count())
        await reader.received(ROUNDS * shard_count())
        transport.close()
        pipe.close()
        for closed in (protocol, reader):
            assert await closed.called("connection_lost") is None
            assert closed.threads == {threading.get_ident()}
        await turns(2)

    async def use(transport: Any, pipe: Any) -> None:
        for number in range(ROUNDS):
            transport.sendto(b"%d" % number, transport.get_extra_info("sockname"))
            pipe.write(b"x")
            await asyncio.sleep(0)

    async def main() -> None:
        transport, protocol, pipe, reader = await rloop.on_shard(1, open_ends())
        settling = rloop.on_shard(1, settle(transport, protocol, pipe, reader))
        await on_each_shard(use, transport, pipe)
        await settling

    run(main())
