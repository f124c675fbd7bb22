"""Transports used from other shards than their own: each sender's calls keep their order."""

import asyncio
import contextlib
import functools
import hashlib
import random
import socket
import ssl
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest

import rloop
from rloop import sync
from support.peers import open_pair, receive_exactly, receive_until_eof
from support.shards import Run, on_each_shard, several_shards, shard_count
from support.threads import eventually, in_thread, turns
from support.tls import wrap_server

if TYPE_CHECKING:
    from support.tls import Authority

pytestmark = several_shards

HEADER = struct.Struct("!BI")


class Protocol(asyncio.Protocol):
    """Tells how its connection fares, on any shard."""

    def __init__(self) -> None:
        self.home = rloop.current_shard()
        self.data = bytearray()
        self.is_lost = sync.Event()
        self.error: Exception | None = None
        self.pauses: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert rloop.current_shard() == self.home
        self.data += data

    def pause_writing(self) -> None:
        assert rloop.current_shard() == self.home
        self.pauses.append("pause")

    def resume_writing(self) -> None:
        assert rloop.current_shard() == self.home
        self.pauses.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        assert rloop.current_shard() == self.home
        self.error = exc
        self.is_lost.set()


@contextlib.asynccontextmanager
async def connected_on(
    shard: int, kind: str = "tcp"
) -> AsyncIterator[tuple[Any, Protocol, socket.socket]]:
    """Give a transport whose home is that shard, its protocol and its peer."""

    async def connect(ours: socket.socket) -> tuple[Any, Protocol]:
        loop = asyncio.get_running_loop()
        return await loop.create_connection(Protocol, sock=ours)

    with open_pair(kind) as (ours, peer):
        transport, protocol = await rloop.on_shard(shard, connect(ours.dup()))
        ours.close()
        try:
            yield transport, protocol, peer
        finally:
            transport.abort()
            await protocol.is_lost.wait()
            # What closes the socket runs behind connection_lost().
            await eventually(lambda: transport.get_extra_info("socket").fileno() == -1)


def write(transport: Any, data: bytes) -> None:
    transport.write(data)


def write_lines(transport: Any, data: bytes) -> None:
    middle = len(data) // 2
    transport.writelines([data[:middle], b"", memoryview(data)[middle:]])


def write_and_change(transport: Any, data: bytes) -> None:
    """What is written is what the buffer held at the time of the call."""
    buffer = bytearray(data)
    transport.write(buffer)
    buffer[:] = bytes(len(buffer))


WRITES: list[Callable[[Any, bytes], None]] = [write, write_lines, write_and_change]


def split(stream: bytes) -> dict[int, bytes]:
    """Take apart what several senders wrote with a header before each message."""
    by_sender: defaultdict[int, bytearray] = defaultdict(bytearray)
    position = 0
    while position < len(stream):
        sender, size = HEADER.unpack_from(stream, position)
        position += HEADER.size
        by_sender[sender] += stream[position : position + size]
        position += size
    return {sender: bytes(data) for sender, data in by_sender.items()}


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_writes_of_all_shards_keep_each_senders_order(kind: str, run: Run[None]) -> None:
    async def send(transport: Any) -> bytes:
        me = rloop.current_shard()
        source = random.Random(me)
        digest = hashlib.sha256()
        for number in range(400):
            data = source.randbytes(source.choice([1, 10, 1000, 40_000]))
            digest.update(data)
            WRITES[number % len(WRITES)](transport, HEADER.pack(me, len(data)) + data)
            if source.random() < 0.05:
                await asyncio.sleep(0)
        return digest.digest()

    async def main() -> None:
        for home in range(2):
            async with connected_on(home, kind) as (transport, _, peer):
                reading = in_thread(receive_until_eof, peer)
                digests = await on_each_shard(send, transport)
                # close() is sent behind all that was written before it.
                await rloop.on_shard(1, call(transport.close))
                received = split(await reading)
                assert sorted(received) == list(range(shard_count()))
                for sender, digest in enumerate(digests):
                    assert hashlib.sha256(received[sender]).digest() == digest

    run(main())


async def call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


ENDINGS = ("close", "write_eof", "abort")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_connection_ended_on_another_shard_ends_behind_what_was_written(
    ending: str, run: Run[None]
) -> None:
    payload = random.Random(1).randbytes(300_000)

    async def end(transport: Any) -> None:
        transport.write(payload)
        getattr(transport, ending)()
        if ending != "write_eof":
            assert transport.is_closing()

    def receive(peer: socket.socket) -> bytes:
        with contextlib.suppress(ConnectionResetError):
            return receive_until_eof(peer)
        return b"reset"

    async def main() -> None:
        for home, other in ((0, 1), (1, 0), (shard_count() - 1, 1)):
            async with connected_on(home) as (transport, protocol, peer):
                reading = in_thread(receive, peer)
                await rloop.on_shard(other, end(transport))
                received = await reading
                if ending == "abort":
                    assert payload.startswith(received) or received == b"reset"
                else:
                    assert received == payload
                if ending == "write_eof":
                    assert not protocol.is_lost.is_set()
                else:
                    await protocol.is_lost.wait()
                    assert protocol.error is None

    run(main())


def test_reading_is_paused_and_resumed_on_other_shards(run: Run[None]) -> None:
    async def main() -> None:
        async with connected_on(1) as (transport, protocol, peer):
            for number in range(50):
                transport.pause_reading()
                # Behind that, on the home shard.
                await rloop.on_shard(1, turns(1))
                assert not transport.is_reading()
                peer.sendall(b"%d," % number)
                before = len(protocol.data)
                await rloop.on_shard(1, turns(3))
                assert len(protocol.data) == before
                await rloop.on_shard(number % shard_count(), call(transport.resume_reading))
                await eventually(functools.partial(protocol.data.endswith, b"%d," % number))
            assert protocol.data == b"".join(b"%d," % number for number in range(50))

    run(main())


def test_new_limits_pause_the_protocol_at_home(run: Run[None]) -> None:
    async def main() -> None:
        async with connected_on(1) as (transport, protocol, peer):
            transport.set_write_buffer_limits(high=1 << 30)
            assert transport.get_write_buffer_limits() == (1 << 28, 1 << 30)
            transport.write(bytes(8 << 20))
            await eventually(lambda: transport.get_write_buffer_size() > 1000)
            assert protocol.pauses == []
            transport.set_write_buffer_limits(high=1000)
            await eventually(lambda: protocol.pauses == ["pause"])
            await in_thread(receive_exactly, peer, 8 << 20)
            await eventually(lambda: protocol.pauses == ["pause", "resume"])

    run(main())


def test_flow_control_reaches_the_protocol_at_home(run: Run[None]) -> None:
    async def main() -> None:
        async with connected_on(1) as (transport, protocol, peer):
            transport.set_write_buffer_limits(high=1000, low=10)
            await rloop.on_shard(1, turns(1))
            assert transport.get_write_buffer_limits() == (10, 1000)
            payload = bytes(8 << 20)
            transport.write(payload)
            await eventually(lambda: protocol.pauses == ["pause"])
            assert transport.get_write_buffer_size() > 1000
            assert await in_thread(receive_exactly, peer, len(payload)) == payload
            await eventually(lambda: protocol.pauses == ["pause", "resume"])
            assert transport.get_write_buffer_size() == 0

    run(main())


def test_a_broadcast_reaches_every_connection_of_every_shard_in_order(run: Run[None]) -> None:
    """As a chat server does it: everybody writes to everybody."""
    messages = 50

    async def main() -> None:
        count = shard_count()
        async with contextlib.AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(connected_on(number % count))
                for number in range(4 * count)
            ]
            transports = [transport for transport, *_ in connections]

            async def broadcast() -> None:
                me = rloop.current_shard()
                for number in range(messages):
                    for transport in transports:
                        transport.write(bytes([me, number]))
                    if number % 7 == 0:
                        await asyncio.sleep(0)

            size = 2 * messages * count
            reading = [in_thread(receive_exactly, peer, size) for *_, peer in connections]
            await on_each_shard(broadcast)
            for received in await asyncio.gather(*reading):
                pairs = list(zip(received[::2], received[1::2], strict=True))
                for shard in range(count):
                    numbers = [number for sender, number in pairs if sender == shard]
                    assert numbers == list(range(messages))

    run(main())


def test_ending_a_connection_on_all_shards_at_once_loses_it_once(run: Run[None]) -> None:
    async def end(transport: Any) -> None:
        source = random.Random(rloop.current_shard())
        for _ in range(20):
            source.choice([transport.close, transport.abort, transport.write_eof])()
            transport.is_closing()
            repr(transport)
            if not transport.is_closing():
                transport.write(b"data")

    async def main() -> None:
        for number in range(30):
            home = number % shard_count()
            async with connected_on(home) as (transport, protocol, peer):
                reading = in_thread(drop, peer)
                await on_each_shard(end, transport)
                transport.abort()
                await protocol.is_lost.wait()
                await reading

    def drop(peer: socket.socket) -> None:
        with contextlib.suppress(ConnectionResetError):
            receive_until_eof(peer)

    run(main())


def test_protocols_may_be_changed_and_asked_for_on_another_shard(run: Run[None]) -> None:
    async def main() -> None:
        async with connected_on(1) as (transport, protocol, peer):
            assert transport.get_protocol() is protocol
            assert transport.get_extra_info("peername") == peer.getsockname()
            other = await rloop.on_shard(1, make())
            transport.set_protocol(other)
            await rloop.on_shard(1, turns(1))
            assert transport.get_protocol() is other
            peer.sendall(b"for the other")
            await eventually(lambda: other.data == b"for the other")
            transport.set_protocol(protocol)
            await rloop.on_shard(1, turns(1))

    async def make() -> Protocol:
        return Protocol()

    run(main())


def test_a_forwarded_call_that_fails_reaches_the_exception_handler(
    run: Run[None], guard: Any
) -> None:
    async def main() -> None:
        async with connected_on(1) as (transport, _, _peer):
            transport.write_eof()
            transport.write(b"late")
            await eventually(lambda: guard.reports)

    run(main())
    (report,) = guard.take_reports()
    assert isinstance(report["exception"], RuntimeError)


def test_tls_works_on_every_shard_and_from_other_shards(
    authority: "Authority", run: Run[None]
) -> None:
    payload = random.Random(2).randbytes(500_000)

    def answer(secured: ssl.SSLSocket) -> bytes:
        received = receive_exactly(secured, len(payload))
        secured.sendall(hashlib.sha256(received).digest())
        return received

    async def converse() -> None:
        with open_pair("tcp") as (ours, peer):
            wrapping = in_thread(wrap_server, authority.server_context(), peer)
            reader, writer = await asyncio.open_connection(
                sock=ours.dup(), ssl=authority.client_context(), server_hostname="localhost"
            )
            with await wrapping as secured:
                secured.settimeout(20)
                answering = in_thread(answer, secured)
                writer.write(payload)
                assert await reader.readexactly(32) == hashlib.sha256(payload).digest()
                assert await answering == payload
                raw = writer.get_extra_info("socket")
                writer.transport.abort()
                await eventually(lambda: raw.fileno() == -1)

    async def main() -> None:
        await on_each_shard(converse)

    run(main())
