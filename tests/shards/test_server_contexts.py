"""Contexts of a server's connections on a loop with several threads.

From Python 3.15 on the context of a connection is a copy of the server's. Wherever the server was
made, and wherever it accepts, the connection's context also names the shard that it lives on.
"""

import asyncio
import contextvars
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import rloop
from rloop import sync
from support.peers import LOOPBACK, receive_exactly
from support.protocols import HAS_OWN_CONTEXT
from support.shards import Run, several_shards, shard_count
from support.threads import PEER_TIMEOUT, in_thread
from support.tls import SERVER_NAME, Authority

pytestmark = several_shards

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

#: Where a callback ran, and what it saw.
Seen = tuple[str, int, str]


class Noting(asyncio.Protocol):
    """Notes shard and variable in each callback, and sets the variable in the first."""

    def __init__(self, number: int, ended: "sync.Queue[list[Seen]]") -> None:
        self._number = number
        self._ended = ended
        self._seen: list[Seen] = []
        self._note("factory")

    def _note(self, name: str) -> None:
        self._seen.append((name, rloop.current_shard(), variable.get()))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._note("made")
        variable.set(f"connection {self._number}")
        transport.write(bytes([rloop.current_shard()]))
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        self._note("task")
        variable.set("task")

    def data_received(self, data: bytes) -> None:
        self._note("data")

    def connection_lost(self, exc: Exception | None) -> None:
        self._note("lost")
        self._ended.put_nowait(self._seen)


class Factory:
    """Makes numbered protocols."""

    def __init__(self) -> None:
        self._made = 0
        self.ended: sync.Queue[list[Seen]] = sync.Queue()

    def __call__(self) -> Noting:
        self._made += 1
        return Noting(self._made, self.ended)


@contextmanager
def clients(server: asyncio.Server, count: int) -> Iterator[list[socket.socket]]:
    """Connect plain sockets; each gets the shard of its connection as its first byte."""
    address = server.sockets[0].getsockname()
    peers = [socket.create_connection(address, PEER_TIMEOUT) for _ in range(count)]
    try:
        yield peers
    finally:
        for peer in peers:
            peer.close()


def first_bytes(peers: list[socket.socket]) -> list[int]:
    """Receive the first byte of each, and answer."""
    homes = [receive_exactly(peer, 1)[0] for peer in peers]
    for peer in peers:
        peer.sendall(b"data")
        peer.shutdown(socket.SHUT_WR)
    return homes


async def made_within(value: str, factory: Factory) -> asyncio.Server:
    variable.set(value)
    return await asyncio.get_running_loop().create_server(factory, LOOPBACK, 0, start_serving=False)


async def started_within(value: str, server: asyncio.Server, *, pinned: bool) -> None:
    variable.set(value)
    if pinned:
        with rloop.pinned():
            await server.start_serving()
    else:
        await server.start_serving()


@pytest.mark.parametrize("pinned", [False, True], ids=["spread", "pinned"])
@pytest.mark.parametrize(("maker", "starter"), [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("eager", [False, True], ids=["lazy", "eager"])
def test_each_connection_has_a_context_of_its_own_at_its_home(
    run: Run[None], maker: int, starter: int, *, pinned: bool, eager: bool
) -> None:
    async def main() -> None:
        if eager:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        factory = Factory()
        server = await rloop.on_shard(maker, made_within("maker", factory))
        await rloop.on_shard(starter, started_within("starter", server, pinned=pinned))
        count = 2 * shard_count()
        with clients(server, count) as peers:
            homes = await in_thread(first_bytes, peers)
            connections = [await factory.ended.get() for _ in range(count)]
        server.close()
        await server.wait_closed()
        expected = [starter] * count if pinned else sorted(list(range(shard_count())) * 2)
        assert sorted(homes) == expected
        assert sorted(seen[0][1] for seen in connections) == expected
        before = "maker" if HAS_OWN_CONTEXT else "starter"
        after = set()
        for seen in connections:
            by_name = {name: value for name, _, value in seen}
            assert len({shard for _, shard, _ in seen}) == 1
            assert by_name["factory"] == by_name["made"] == before
            assert by_name["task"].startswith("connection ")
            assert by_name["data"] == by_name["lost"]
            after.add(by_name["data"])
        if HAS_OWN_CONTEXT:
            assert after == {f"connection {number}" for number in range(1, count + 1)}
        else:
            assert after == {"starter"}

    run(main())


def test_tls_connections_have_contexts_of_their_own_too(
    run: Run[None], authority: Authority
) -> None:
    def talk(address: tuple[str, int]) -> int:
        with (
            socket.create_connection(address, PEER_TIMEOUT) as raw,
            authority.client_context().wrap_socket(raw, server_hostname=SERVER_NAME) as peer,
        ):
            home = peer.recv(1)[0]
            peer.sendall(b"data")
            return home

    async def main() -> None:
        factory = Factory()
        variable.set("server")
        server = await asyncio.get_running_loop().create_server(
            factory, LOOPBACK, 0, ssl=authority.server_context()
        )
        variable.set("test")
        address = server.sockets[0].getsockname()
        count = shard_count()
        homes = await asyncio.gather(*(in_thread(talk, address) for _ in range(count)))
        connections = [await factory.ended.get() for _ in range(count)]
        server.close()
        await server.wait_closed()
        assert sorted({shard for seen in connections for _, shard, _ in seen}) == sorted(set(homes))
        for seen in connections:
            values = {name: value for name, _, value in seen}
            assert values["factory"] == values["made"] == "server"
            # All callbacks of TLS run inside the inner transport's reading.
            assert values["data"].startswith("connection ")
            assert len({shard for _, shard, _ in seen}) == 1

    run(main())


def test_a_connection_that_a_task_opens_has_the_context_and_the_home_of_the_task(
    run: Run[None],
) -> None:
    async def connect(value: str, address: tuple[str, int]) -> list[Seen]:
        variable.set(value)
        ended: sync.Queue[list[Seen]] = sync.Queue()
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: Noting(rloop.current_shard(), ended), *address
        )
        variable.set("later")
        transport.close()
        return await ended.get()

    async def main() -> None:
        factory = Factory()
        server = await asyncio.get_running_loop().create_server(factory, LOOPBACK, 0)
        address = server.sockets[0].getsockname()
        for shard in range(shard_count()):
            seen = await rloop.on_shard(shard, connect("task", address))
            assert {home for _, home, _ in seen} == {shard}
            values = {name: value for name, _, value in seen}
            assert values["factory"] == values["made"] == "task"
            assert values["lost"] == (f"connection {shard}" if HAS_OWN_CONTEXT else "later")
            await factory.ended.get()
        server.close()
        await server.wait_closed()

    run(main())
