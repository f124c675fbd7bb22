"""Every way to begin a connection, and both TLS engines, on every shard and used from others."""

import asyncio
import contextlib
import functools
import hashlib
import os
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import rloop
from rloop import sync
from support.peers import (
    LOOPBACK,
    open_pair,
    receive_exactly,
    receive_until_eof,
    stream_pair,
)
from support.shards import Run, on_each_shard, several_shards, shard_count
from support.threads import PEER_TIMEOUT, eventually, in_thread
from support.tls import SERVER_NAME, wrap_server

if TYPE_CHECKING:
    from support.tls import Authority

pytestmark = several_shards

LINES = 200


class Lines(asyncio.Protocol):
    """Collects what arrives, and checks that it does so on its home shard."""

    def __init__(self) -> None:
        self.home = rloop.current_shard()
        self.data = bytearray()
        self.pauses = 0
        self.resumes = 0
        self.is_lost = sync.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert rloop.current_shard() == self.home
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        assert rloop.current_shard() == self.home
        self.data += data

    def pause_writing(self) -> None:
        assert rloop.current_shard() == self.home
        self.pauses += 1

    def resume_writing(self) -> None:
        assert rloop.current_shard() == self.home
        self.resumes += 1

    def is_resumed(self) -> bool:
        return self.resumes == self.pauses

    def connection_lost(self, exc: Exception | None) -> None:
        assert rloop.current_shard() == self.home
        self.error = exc
        self.is_lost.set()


@pytest.fixture
def client_context(authority: "Authority") -> ssl.SSLContext:
    """A client's context for each engine."""
    return authority.client_context()


def test_accepted_sockets_are_connected_on_every_shard(run: Run[None]) -> None:
    async def connect() -> None:
        loop = asyncio.get_running_loop()
        with open_pair("tcp") as (ours, peer):
            transport, protocol = await loop.connect_accepted_socket(Lines, ours.dup())
            await in_thread(peer.sendall, b"to the accepted")
            await eventually(lambda: protocol.data == b"to the accepted")
            transport.write(b"from the accepted")
            transport.close()
            answer = in_thread(receive_exactly, peer, 17)
            assert await answer == b"from the accepted"
            await protocol.is_lost.wait()

    async def main() -> None:
        await on_each_shard(connect)

    run(main())


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_files_are_sent_on_every_shard(run: Run[None], tmp_path: Path, kind: str) -> None:
    content = os.urandom(700_000)
    path = tmp_path / "content"
    path.write_bytes(content)

    async def send(fallback: bool) -> None:
        loop = asyncio.get_running_loop()
        home = rloop.current_shard()
        with open_pair(kind) as (ours, peer), path.open("rb") as file:
            receiving = in_thread(receive_exactly, peer, len(content) + 2)
            transport, protocol = await loop.create_connection(Lines, sock=ours.dup())
            transport.write(b"<")
            assert await loop.sendfile(transport, file, fallback=fallback) == len(content)
            transport.write(b">")
            assert await receiving == b"<" + content + b">"
            assert rloop.current_shard() == home
            transport.close()
            await protocol.is_lost.wait()
            file.seek(0)
            receiving = in_thread(receive_exactly, peer, len(content))
            assert await loop.sock_sendfile(ours, file) == len(content)
            assert await receiving == content

    async def main() -> None:
        await on_each_shard(send, False)
        await on_each_shard(send, True)

    run(main())


def test_tls_begins_on_every_shard_in_a_running_connection(
    run: Run[None], authority: "Authority", client_context: ssl.SSLContext
) -> None:
    async def upgrade() -> None:
        loop = asyncio.get_running_loop()
        ours, peer = stream_pair("tcp")
        plain, protocol = await loop.create_connection(Lines, sock=ours)
        plain.write(b"start")
        assert await in_thread(receive_exactly, peer, 5) == b"start"
        wrapping = in_thread(wrap_server, authority.server_context(), peer)
        secured = await loop.start_tls(plain, protocol, client_context, server_hostname=SERVER_NAME)
        assert secured is not None
        with await wrapping as tls_peer:
            secured.write(b"secret")
            assert await in_thread(receive_exactly, tls_peer, 6) == b"secret"
            await in_thread(tls_peer.sendall, b"answer")
            await eventually(lambda: protocol.data == b"answer")
            secured.abort()
            await protocol.is_lost.wait()
        await eventually(lambda: ours.fileno() == -1)

    async def main() -> None:
        await on_each_shard(upgrade)

    run(main())


async def open_tls(
    context: ssl.SSLContext, authority: "Authority"
) -> tuple[Any, Lines, ssl.SSLSocket]:
    ours, peer = stream_pair("tcp")
    wrapping = in_thread(wrap_server, authority.server_context(), peer)
    transport, protocol = await asyncio.get_running_loop().create_connection(
        Lines, sock=ours, ssl=context, server_hostname=SERVER_NAME
    )
    return transport, protocol, await wrapping


def test_a_broadcast_over_tls_reaches_every_shard_in_each_senders_order(
    run: Run[None], authority: "Authority", client_context: ssl.SSLContext
) -> None:
    async def broadcast(transports: list[Any]) -> None:
        sender = rloop.current_shard()
        for number in range(LINES):
            for transport in transports:
                transport.write(b"%d %d\n" % (sender, number))
            if number % 16 == 0:
                await asyncio.sleep(0)

    async def main() -> None:
        opened = [
            await rloop.on_shard(shard, open_tls(client_context, authority))
            for shard in range(shard_count())
        ]
        receiving = [in_thread(receive_until_eof, peer) for *_, peer in opened]
        transports = [transport for transport, *_ in opened]
        await on_each_shard(broadcast, transports)
        for transport in transports:
            # Behind what every shard wrote, because their tasks have ended.
            transport.close()
        for (_, protocol, peer), received in zip(opened, receiving, strict=True):
            lines = (await received).splitlines()
            for sender in range(shard_count()):
                of_one = [line for line in lines if line.startswith(b"%d " % sender)]
                assert of_one == [b"%d %d" % (sender, number) for number in range(LINES)]
            assert len(lines) == LINES * shard_count()
            peer.close()
            await protocol.is_lost.wait()
            assert protocol.error is None

    run(main())


def test_a_tls_connection_is_paused_and_resumed_by_other_shards_and_loses_nothing(
    run: Run[None], authority: "Authority", client_context: ssl.SSLContext
) -> None:
    payload = os.urandom(1 << 20)

    async def meddle(transport: Any, is_over: sync.Event) -> None:
        while not is_over.is_set():
            transport.pause_reading()
            await asyncio.sleep(0)
            transport.resume_reading()
            await asyncio.sleep(0)

    async def main() -> None:
        for home in range(shard_count()):
            transport, protocol, peer = await rloop.on_shard(
                home, open_tls(client_context, authority)
            )
            is_over = sync.Event()
            meddling = rloop.on_shard((home + 1) % shard_count(), meddle(transport, is_over))
            sending = in_thread(peer.sendall, payload)
            await eventually(functools.partial(has_length, protocol.data, len(payload)))
            await sending
            is_over.set()
            await meddling
            assert hashlib.sha256(protocol.data).digest() == hashlib.sha256(payload).digest()
            transport.abort()
            await protocol.is_lost.wait()
            peer.close()

    run(main())


def has_length(data: bytearray, count: int) -> bool:
    return len(data) >= count


def test_flow_control_of_tls_reaches_the_protocol_at_home(
    run: Run[None], authority: "Authority", client_context: ssl.SSLContext
) -> None:
    size = 1 << 24

    async def main() -> None:
        for home in range(shard_count()):
            transport, protocol, peer = await rloop.on_shard(
                home, open_tls(client_context, authority)
            )
            await rloop.on_shard((home + 1) % shard_count(), write(transport))
            await eventually(functools.partial(getattr, protocol, "pauses"))
            assert len(await in_thread(receive_exactly, peer, size)) == size
            await eventually(protocol.is_resumed)
            transport.abort()
            await protocol.is_lost.wait()
            peer.close()

    async def write(transport: Any) -> None:
        transport.write(bytes(size))

    run(main())


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_servers_of_every_shard_accept_and_answer(
    run: Run[None], tmp_path: Path, kind: str
) -> None:
    answered: set[int] = set()

    async def serve(number: int) -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        if kind == "unix":
            path = str(tmp_path / f"{number}.socket")
            return await loop.create_unix_server(Shout, path), path
        server = await loop.create_server(Shout, LOOPBACK, 0)
        return server, server.sockets[0].getsockname()

    class Shout(Lines):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            answered.add(self.home)
            self.transport.write(data.upper())

    def ask(address: Any, times: int) -> list[bytes]:
        """Ask over so many connections that are open at the same time."""
        family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(socket.socket(family)) for _ in range(times)]
            for peer in peers:
                peer.settimeout(PEER_TIMEOUT)
                peer.connect(address)
                peer.sendall(b"shout")
            return [receive_exactly(peer, 5) for peer in peers]

    async def main() -> None:
        for shard in range(shard_count()):
            server, address = await rloop.on_shard(shard, serve(shard))
            assert await in_thread(ask, address, 8) == [b"SHOUT"] * 8
            server.close()
            await server.wait_closed()
        assert answered == set(range(shard_count()))

    run(main())
