"""Servers of a loop with several threads: where connections live, and how servers end."""

import asyncio
import contextlib
import hashlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import rloop
from rloop import sync
from support.leaks import LeakGuard
from support.peers import LOOPBACK, receive_exactly, receive_until_eof
from support.shards import Gate, Run, several_shards, shard_count
from support.threads import PEER_TIMEOUT, eventually, in_thread

pytestmark = several_shards


@contextlib.contextmanager
def clients(server: asyncio.Server, count: int) -> Iterator[list[socket.socket]]:
    """Connect plain sockets, one after the other."""
    address = server.sockets[0].getsockname()
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(address, PEER_TIMEOUT))
            for _ in range(count)
        ]


class Where(asyncio.Protocol):
    """Tells its client on which shard it lives; checks that it always runs there, alone."""

    def __init__(self) -> None:
        self._shard = rloop.current_shard()
        self._thread = threading.get_ident()
        self._is_inside = False
        self._digest = hashlib.sha256()
        self.lost: list[Exception | None] = []

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        assert rloop.current_shard() == self._shard
        assert threading.get_ident() == self._thread
        assert not self._is_inside
        self._is_inside = True
        yield
        self._is_inside = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        with self._alone():
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport
            transport.write(bytes([self._shard]))
            asyncio.get_running_loop().call_soon(self._call)
            self._task = asyncio.create_task(self._run())

    def _call(self) -> None:
        with self._alone():
            pass

    async def _run(self) -> None:
        for _ in range(20):
            with self._alone():
                asyncio.get_running_loop().call_later(0.0001, self._call)
            await asyncio.sleep(0)

    def data_received(self, data: bytes) -> None:
        with self._alone():
            self._digest.update(data)
            asyncio.get_running_loop().call_soon(self._call)

    def eof_received(self) -> None:
        with self._alone():
            self.transport.write(self._digest.digest())

    def connection_lost(self, exc: Exception | None) -> None:
        with self._alone():
            self.lost.append(exc)


async def serve(factory: Any = Where) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(factory, LOOPBACK, 0)


def first_bytes(peers: list[socket.socket]) -> list[int]:
    return [receive_exactly(peer, 1)[0] for peer in peers]


def test_connections_are_spread_over_all_shards_evenly(run: Run[None]) -> None:
    async def main() -> None:
        count = shard_count()
        async with await serve() as server:
            with clients(server, 3 * count) as peers:
                homes = await in_thread(first_bytes, peers)
                assert sorted(homes) == sorted(list(range(count)) * 3)
                loop = asyncio.get_running_loop()
                assert isinstance(loop, rloop.TokioLoop)
                assert [shard.connections for shard in loop.statistics()] == [3] * count
            await eventually(
                lambda: [shard.connections for shard in loop.statistics()] == [0] * count
            )

    run(main())


def test_a_new_connection_goes_where_one_ended(run: Run[None]) -> None:
    async def main() -> None:
        count = shard_count()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, rloop.TokioLoop)
        async with await serve() as server:
            with clients(server, 2 * count) as peers:
                homes = await in_thread(first_bytes, peers)
                for peer, home in zip(peers, homes, strict=True):
                    if home == 1:
                        peer.close()
                await eventually(lambda: loop.statistics()[1].connections == 0)
                with clients(server, 2) as others:
                    assert await in_thread(first_bytes, others) == [1, 1]
        await server.wait_closed()

    run(main())


def test_a_connection_that_opens_counts_once(
    run: Run[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_transport = rloop.TokioLoop._make_socket_transport
    gate = Gate()
    held: list[int] = []

    def hold_where_first(self: rloop.TokioLoop, *arguments: Any, **more: Any) -> Any:
        transport = make_transport(self, *arguments, **more)
        shard = rloop.current_shard()
        if shard != 0 and not held:
            held.append(shard)
            gate.hold()
        return transport

    async def main() -> None:
        count = shard_count()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, rloop.TokioLoop)

        def opened_elsewhere() -> int:
            return sum(
                shard.connections
                for index, shard in enumerate(loop.statistics())
                if index not in held
            )

        async with await serve() as server:
            # So the first goes elsewhere, however busy the others happen to be.
            release = sync.Event()
            occupying = rloop.on_shard(0, release.wait())
            with clients(server, 1) as first:
                await in_thread(gate.wait_until_held)
                release.set()
                await occupying
                # Long enough to measure that its shard is busy, and so the last of equals.
                await asyncio.sleep(0.2)
                with clients(server, 2 * count - 1) as others:
                    # They are accepted, and placed, in one turn.
                    await eventually(lambda: opened_elsewhere() >= 2 * (count - 1))
                    gate.open()
                    homes = await in_thread(first_bytes, first + others)
                    assert sorted(homes) == sorted(list(range(count)) * 2)

    monkeypatch.setattr(rloop.TokioLoop, "_make_socket_transport", hold_where_first)
    run(main())


def test_callbacks_of_one_connection_never_overlap_and_lose_no_byte(run: Run[None]) -> None:
    payload = bytes(range(256)) * 2000

    def converse(peer: socket.socket) -> bytes:
        receive_exactly(peer, 1)
        for start in range(0, len(payload), 10_000):
            peer.sendall(payload[start : start + 10_000])
        peer.shutdown(socket.SHUT_WR)
        return receive_until_eof(peer)

    async def main() -> None:
        async with await serve() as server:
            with clients(server, 4 * shard_count()) as peers:
                answers = await asyncio.gather(*(in_thread(converse, peer) for peer in peers))
        await server.wait_closed()
        assert set(answers) == {hashlib.sha256(payload).digest()}

    run(main())


@pytest.mark.parametrize("shard", [0, 1])
def test_pinned_servers_keep_their_connections_on_the_shard_of_their_maker(
    shard: int, run: Run[None]
) -> None:
    async def start() -> asyncio.Server:
        with rloop.pinned():
            return await serve()

    async def start_later() -> asyncio.Server:
        server = await asyncio.get_running_loop().create_server(
            Where, LOOPBACK, 0, start_serving=False
        )
        with rloop.pinned():
            await server.start_serving()
        return server

    async def main() -> None:
        for start_server in (start, start_later):
            server = await rloop.on_shard(shard, start_server())
            with clients(server, 5) as peers:
                assert await in_thread(first_bytes, peers) == [shard] * 5
            server.close()
            await server.wait_closed()
        # It ends with the statement.
        async with await serve() as server:
            with clients(server, shard_count()) as peers:
                homes = await in_thread(first_bytes, peers)
                assert sorted(homes) == list(range(shard_count()))

    run(main())


@pytest.mark.parametrize("module", ["aiohttp.web_server", "websockets.asyncio.server"])
def test_servers_whose_protocols_share_state_are_pinned_unless_the_program_says_otherwise(
    module: str, run: Run[None]
) -> None:
    class Protocols:
        def __call__(self) -> asyncio.Protocol:
            return Where()

    Protocols.__module__ = module

    async def homes_of_connections() -> list[int]:
        loop = asyncio.get_running_loop()
        count = shard_count()
        async with await loop.create_server(Protocols(), LOOPBACK, 0) as server:
            with clients(server, count) as peers:
                return sorted(await in_thread(first_bytes, peers))

    async def main() -> None:
        assert await homes_of_connections() == [0] * shard_count()
        with rloop.pinned(pin=False):
            assert await homes_of_connections() == list(range(shard_count()))

    run(main())


def test_what_a_connection_spawns_may_go_elsewhere_but_what_it_starts_stays(
    run: Run[None], threads: int
) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        home = rloop.current_shard()
        # What is spawned counts for the choice of the next connection's home.
        await barrier.wait()
        inside = await asyncio.create_task(where())
        release = sync.Event()
        spawned = [rloop.spawn(where(release)) for _ in range(4 * shard_count())]
        release.set()
        results.put_nowait((home, inside, set(await asyncio.gather(*spawned))))
        writer.close()

    async def where(release: sync.Event | None = None) -> int:
        if release is not None:
            await release.wait()
        return rloop.current_shard()

    async def main() -> None:
        server = await asyncio.start_server(handle, LOOPBACK, 0)
        async with server:
            with clients(server, shard_count()):
                outcomes = [await results.get() for _ in range(shard_count())]
        assert sorted(home for home, *_ in outcomes) == list(range(shard_count()))
        assert all(inside == home for home, inside, _ in outcomes)
        assert set.union(*(spawned for *_, spawned in outcomes)) == set(range(shard_count()))

    barrier = sync.Barrier(threads)
    results: sync.Queue[tuple[int, int, set[int]]] = sync.Queue()
    run(main())


ENDINGS = ("close", "close_clients", "abort_clients")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_server_may_be_ended_on_any_shard(ending: str, run: Run[None]) -> None:
    async def end(server: asyncio.Server) -> None:
        server.close()
        if ending != "close":
            getattr(server, ending)()
        await server.wait_closed()

    def read_to_end(peer: socket.socket) -> None:
        with contextlib.suppress(ConnectionResetError):
            receive_until_eof(peer)
        peer.close()

    async def main() -> None:
        for shard in range(shard_count()):
            server = await serve()
            with clients(server, 2 * shard_count()) as peers:
                await in_thread(first_bytes, peers)
                ended = rloop.on_shard(shard, end(server))
                waiting = [
                    rloop.on_shard(other, server.wait_closed()) for other in range(shard_count())
                ]
                if ending == "close":
                    await eventually(lambda server=server: not server.sockets)  # type: ignore[misc]
                    assert not ended.done()
                    for peer in peers:
                        peer.shutdown(socket.SHUT_WR)
                await asyncio.gather(*(in_thread(read_to_end, peer) for peer in peers))
                await asyncio.gather(ended, *waiting)

    run(main())


def test_a_server_that_is_closed_meanwhile_may_be_asked_for_its_sockets(run: Run[None]) -> None:
    async def close(server: asyncio.Server) -> None:
        server.close()

    async def main() -> None:
        for _ in range(100):
            server = await serve()
            closing = rloop.on_shard(1, close(server))
            while server.sockets:
                pass
            await closing

    run(main())


def test_connections_that_end_everywhere_at_once_end_their_server(run: Run[None]) -> None:
    """The last of them wakes who waits, however the last ones overlap."""
    # Not what the statistics count: the server does not know yet of a transport that is just made.
    made: list[asyncio.BaseTransport] = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    async def main() -> None:
        for _ in range(20):
            made.clear()
            server = await serve(Protocol)
            with clients(server, 3 * shard_count()) as peers:
                await eventually(lambda: len(made) == 3 * shard_count())
                server.close()
                waiting = [
                    rloop.on_shard(shard, server.wait_closed()) for shard in range(shard_count())
                ]
                for peer in peers:
                    peer.shutdown(socket.SHUT_WR)
                await asyncio.gather(*waiting)

    run(main())


def test_many_servers_share_the_load(run: Run[None]) -> None:
    async def main() -> None:
        count = shard_count()
        async with contextlib.AsyncExitStack() as servers, contextlib.AsyncExitStack() as open_now:
            homes: list[int] = []
            for _ in range(2 * count):
                server = await servers.enter_async_context(await serve())
                peers = open_now.enter_context(clients(server, 1))
                homes += await in_thread(first_bytes, peers)
            assert sorted(homes) == sorted(list(range(count)) * 2)

    run(main())


def test_a_client_sees_the_end_at_once_when_its_protocol_cannot_be_made(
    run: Run[None], guard: LeakGuard
) -> None:
    def fail() -> asyncio.Protocol:
        raise ValueError("on purpose")

    def see_ends(address: Any, count: int) -> list[bytes]:
        ends = []
        for _ in range(count):
            with socket.create_connection(address, timeout=PEER_TIMEOUT) as client:
                ends.append(client.recv(1))
        return ends

    async def main() -> None:
        async with await serve(fail) as server:
            address = server.sockets[0].getsockname()
            count = 3 * shard_count()
            # Shard 0, which accepts, sleeps meanwhile.
            assert await in_thread(see_ends, address, count) == [b""] * count

    run(main())
    # As in asyncio, nobody closes those sockets.
    assert all("unclosed <socket" in str(warning) for warning in guard.take_unraisable())


def test_a_unix_server_spreads_its_connections_too(run: Run[None], tmp_path: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "socket")
        async with await loop.create_unix_server(Where, path):
            with contextlib.ExitStack() as stack:
                peers = []
                for _ in range(shard_count()):
                    peer = stack.enter_context(socket.socket(socket.AF_UNIX))
                    peer.settimeout(PEER_TIMEOUT)
                    peer.connect(path)
                    peers.append(peer)
                homes = await in_thread(first_bytes, peers)
                assert sorted(homes) == list(range(shard_count()))

    run(main())


def test_a_server_accepts_on_whatever_shard_started_it(run: Run[None]) -> None:
    async def main() -> None:
        for shard in range(shard_count()):
            server = await rloop.on_shard(shard, serve())
            with clients(server, shard_count()) as peers:
                homes = await in_thread(first_bytes, peers)
                assert sorted(homes) == list(range(shard_count()))
            server.close()
            await server.wait_closed()

    run(main())
