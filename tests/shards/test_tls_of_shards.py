"""TLS in a loop of two shards: connections live and end on the shard they are placed on."""

import asyncio
import contextlib
import os
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rloop
from support.peers import LOOPBACK, stream_pair
from support.protocols import RecordingProtocol
from support.shards import on_each_shard
from support.threads import eventually, in_thread
from support.tls import SERVER_NAME, Authority, connected_to_record_peer, wrap_server

CONNECTIONS = 16
ROUNDS = 20

pytestmark = [
    pytest.mark.skipif(sys.version_info < (3, 14), reason="several shards came with CPython 3.14"),
    # That they take turns where there is a lock.
    pytest.mark.filterwarnings("ignore:a loop with 2 threads:RuntimeWarning"),
]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop of two shards."""
    loop = rloop.new_event_loop(threads=2)
    try:
        yield loop
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.mark.timeout(60)
def test_many_connections_are_echoed_on_both_shards(
    loop: rloop.TokioLoop, authority: Authority
) -> None:
    shards: set[int | None] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shards.add(rloop.current_shard())
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def exchange(address: tuple[str, int], context: ssl.SSLContext) -> None:
        reader, writer = await asyncio.open_connection(
            *address, ssl=context, server_hostname=SERVER_NAME
        )
        for size in range(1, ROUNDS):
            message = bytes([size]) * size * 1000
            writer.write(message)
            assert await reader.readexactly(len(message)) == message
        writer.close()
        await writer.wait_closed()

    async def exchange_at_once(address: tuple[str, int], context: ssl.SSLContext) -> None:
        await asyncio.gather(*(exchange(address, context) for _ in range(CONNECTIONS // 2)))

    async def main() -> None:
        server = await asyncio.start_server(echo, LOOPBACK, 0, ssl=authority.server_context())
        address = server.sockets[0].getsockname()
        context = authority.client_context()
        # The clients count as well: if all were on one shard, all servers could be on the other.
        await on_each_shard(exchange_at_once, address, context)
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())
    assert shards == {0, 1}


@pytest.mark.timeout(60)
def test_start_tls_may_be_called_on_another_shard(
    loop: rloop.TokioLoop, authority: Authority
) -> None:
    async def main() -> None:
        protocol = RecordingProtocol()
        ours, peer = stream_pair("tcp")
        serving = in_thread(wrap_server, authority.server_context(), peer)
        plain, _ = await loop.create_connection(lambda: protocol, sock=ours)

        async def upgrade() -> asyncio.Transport | None:
            assert rloop.current_shard() == 1
            return await loop.start_tls(
                plain, protocol, authority.client_context(), server_hostname=SERVER_NAME
            )

        secured = await rloop.on_shard(1, upgrade())
        assert secured is not None
        with await serving as tls_peer:
            secured.write(b"secret")
            assert await in_thread(tls_peer.recv, 100) == b"secret"
            tls_peer.sendall(b"answer")
            assert await protocol.received(6) == b"answer"
            secured.abort()
            await protocol.called("connection_lost")
        await eventually(lambda: ours.fileno() == -1)

    loop.run_until_complete(main())


@pytest.mark.timeout(60)
def test_a_connection_is_written_to_and_closed_from_another_shard(
    loop: rloop.TokioLoop, authority: Authority
) -> None:
    async def main() -> None:
        protocol = RecordingProtocol()
        async with connected_to_record_peer(protocol, authority) as (transport, peer):

            async def write_and_close() -> None:
                for number in range(1000):
                    transport.write(b"%d\n" % number)
                transport.close()
                assert transport.is_closing()

            receiving = in_thread(peer.receive)
            await rloop.on_shard(1, write_and_close())
            assert (await receiving).split() == [b"%d" % number for number in range(1000)]
            peer.end()
            assert await protocol.called("connection_lost") is None

    loop.run_until_complete(main())


@pytest.mark.timeout(60)
def test_handshakes_of_different_connections_run_in_parallel(
    loop: rloop.TokioLoop, authority_of_the_run: Authority, tmp_path: Path
) -> None:
    """One handshake waits inside of rustls, writing its secrets to a pipe that nobody reads yet.

    It keeps neither the other shard from a whole handshake, nor, with a lock around Python, other
    threads from running.
    """
    fast = authority_of_the_run.serving("rustls")
    pipe = tmp_path / "secrets"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    stuck_context = fast.client_context()
    stuck_context.keylog_filename = str(pipe)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(reading, bytes(1 << 16))
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(reading, b"x")

    async def shake_hands(context: ssl.SSLContext) -> int | None:
        ours, peer = stream_pair("tcp")
        serving = in_thread(wrap_server, authority_of_the_run.server_context(), peer)
        protocol = RecordingProtocol()
        await loop.create_connection(
            lambda: protocol, sock=ours, ssl=context, server_hostname=SERVER_NAME
        )
        with await serving:
            protocol.transport.abort()
            await protocol.called("connection_lost")
        return rloop.current_shard()

    async def main() -> None:
        stuck = rloop.on_shard(1, shake_hands(stuck_context))
        for _ in range(3):
            assert await shake_hands(fast.client_context()) == 0
        assert not stuck.done()
        with contextlib.suppress(BlockingIOError):
            while os.read(reading, 1 << 16):
                pass
        assert await stuck == 1

    try:
        loop.run_until_complete(main())
    finally:
        os.close(reading)
