"""One listener for each address: workers share it, and each connection goes to the least loaded."""

import asyncio
import collections
import contextlib
import os
import select
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rloop
from support.leaks import LeakGuard
from support.peers import receive_until_eof
from support.threads import PEER_TIMEOUT, eventually
from support.tls import Authority
from support.workers import Meeting, free_address, run_beside, several_workers

pytestmark = several_workers


async def serve_index(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send the index of the worker, and wait for the peer to close."""
    writer.write(b"%d" % rloop.current_worker().index)
    await reader.read()
    writer.close()


def ask(sock: socket.socket) -> int:
    """Return the index of the worker that serves this connection."""
    sock.settimeout(PEER_TIMEOUT)
    return int(sock.recv(1))


class Service:
    """A server on every worker, started and stopped together."""

    def __init__(self, start: Callable[[], Any], workers: int = 2, handler: Any = None) -> None:
        self._start = start
        self._meeting = Meeting(workers + 1)
        self.stopped = threading.Event()

    async def main(self) -> None:
        """Serve until the test has ended. Runs on each worker."""
        server = await self._start()
        await self._meeting.meet()
        await asyncio.to_thread(self.stopped.wait, PEER_TIMEOUT)
        server.close()
        # Server.wait_closed() does not wait before Python 3.12.
        await eventually(lambda: not rloop.current_worker().statistics().connections)
        await server.wait_closed()

    def test(self, client: Callable[[], None], workers: int = 2) -> None:
        """Call `client` in a thread while all workers serve."""

        def call() -> None:
            self._meeting.wait()
            try:
                client()
            finally:
                self.stopped.set()

        run_beside(call, self.main, workers)


def spread(address: Any, connections: int, family: int = socket.AF_INET) -> list[int]:
    """Open so many connections, each after the one before is served; return their workers."""
    with contextlib.ExitStack() as stack:
        workers = []
        for _ in range(connections):
            sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            sock.settimeout(PEER_TIMEOUT)
            sock.connect(address)
            workers.append(ask(sock))
    return workers


@pytest.mark.parametrize("workers", [2, 4])
def test_connections_of_one_address_are_spread_evenly(workers: int) -> None:
    address = free_address()

    def client() -> None:
        found = collections.Counter(spread(address, 64))
        assert found == dict.fromkeys(range(workers), 64 // workers)

    Service(lambda: asyncio.start_server(serve_index, *address), workers).test(client, workers)


def test_connections_that_come_at_once_are_spread_evenly() -> None:
    address = free_address()

    def client() -> None:
        with contextlib.ExitStack() as stack:
            socks = []
            for _ in range(64):
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    sock.connect(address)
                socks.append(sock)
            found: collections.Counter[int] = collections.Counter()
            for sock in socks:
                select.select([sock], [], [], PEER_TIMEOUT)
                found[ask(sock)] += 1
            assert found == {0: 32, 1: 32}

    Service(lambda: asyncio.start_server(serve_index, *address)).test(client)


def test_a_connection_goes_to_the_worker_with_the_fewest() -> None:
    address = free_address()

    def client() -> None:
        with contextlib.ExitStack() as stack:
            socks: dict[int, list[socket.socket]] = {0: [], 1: []}
            for _ in range(8):
                sock = stack.enter_context(socket.create_connection(address))
                socks[ask(sock)].append(sock)
            # Worker 0 keeps one of its four.
            for sock in socks[0][1:]:
                sock.shutdown(socket.SHUT_WR)
                assert receive_until_eof(sock) == b""
            assert spread(address, 3) == [0, 0, 0]

    Service(lambda: asyncio.start_server(serve_index, *address)).test(client)


def test_a_worker_that_computes_keeps_no_connection_from_the_others() -> None:
    address = free_address()
    is_held, released = threading.Event(), threading.Event()

    def hold() -> None:
        is_held.set()
        assert released.wait(PEER_TIMEOUT)

    async def start() -> asyncio.Server:
        server = await asyncio.start_server(serve_index, *address)
        if rloop.current_worker().index == 0:
            asyncio.get_running_loop().call_later(0.01, hold)
        return server

    def client() -> None:
        try:
            assert is_held.wait(PEER_TIMEOUT)
            with socket.create_connection(address) as one, socket.create_connection(address) as two:
                # The worker that computes is given one of them, the other one is served now.
                readable, _, _ = select.select([one, two], [], [], PEER_TIMEOUT)
                assert [ask(sock) for sock in readable] == [1]
                released.set()
                assert {ask(sock) for sock in {one, two} - set(readable)} == {0}
        finally:
            released.set()

    Service(start).test(client)


def test_statistics_count_connections() -> None:
    address = free_address()
    statistics: list[rloop.WorkerStatistics] = []
    workers: list[rloop.Worker] = []

    async def start() -> asyncio.Server:
        workers[:] = rloop.current_worker().workers
        return await asyncio.start_server(serve_index, *address)

    def client() -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                ask(stack.enter_context(socket.create_connection(address)))
            statistics[:] = [worker.statistics() for worker in workers]

    Service(start).test(client)
    assert [one.worker for one in statistics] == [0, 1]
    assert [one.accepted for one in statistics] == [5, 5]
    assert [one.connections for one in statistics] == [5, 5]
    assert all(one.loop is not None and one.loop.callbacks > 0 for one in statistics)
    assert [worker.statistics().connections for worker in workers] == [0, 0]
    assert [worker.statistics().loop for worker in workers] == [None, None]


def test_a_unix_path_is_shared_and_stays_until_the_last_worker_stops(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    def client() -> None:
        assert collections.Counter(spread(path, 8, socket.AF_UNIX)) == {0: 4, 1: 4}

    Service(lambda: asyncio.start_unix_server(serve_index, path)).test(client)
    # As asyncio does, which removes it since 3.13.
    assert os.path.exists(path) == (sys.version_info < (3, 13))


@pytest.mark.skipif(sys.platform != "linux", reason="abstract addresses are Linux's")
def test_an_abstract_unix_address_is_shared() -> None:
    address = f"\0rloop-test-{os.getpid()}"

    def client() -> None:
        assert collections.Counter(spread(address, 8, socket.AF_UNIX)) == {0: 4, 1: 4}

    Service(lambda: asyncio.start_unix_server(serve_index, address)).test(client)


def test_one_sock_for_all_workers_is_shared_and_closed_by_the_last() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    address = sock.getsockname()

    def client() -> None:
        assert collections.Counter(spread(address, 8)) == {0: 4, 1: 4}

    Service(lambda: asyncio.start_server(serve_index, sock=sock)).test(client)
    assert sock.fileno() == -1


def test_one_descriptor_for_all_workers_is_shared_and_closed_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        fd = os.dup(listener.fileno())

        def client() -> None:
            assert collections.Counter(spread(address, 8)) == {0: 4, 1: 4}

        # As hypercorn does for fd://.
        Service(lambda: asyncio.start_server(serve_index, sock=socket.socket(fileno=fd))).test(
            client
        )
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_copies_of_a_descriptor_are_shared() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()

        def client() -> None:
            assert collections.Counter(spread(address, 8)) == {0: 4, 1: 4}

        # As uvicorn does for --fd.
        Service(lambda: asyncio.start_server(serve_index, sock=listener.dup())).test(client)


def test_sockets_that_the_program_binds_are_shared() -> None:
    address = free_address()

    async def start() -> asyncio.Server:
        # As hypercorn and sanic do.
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.setblocking(False)
        return await asyncio.start_server(serve_index, sock=sock)

    def client() -> None:
        assert collections.Counter(spread(address, 8)) == {0: 4, 1: 4}

    Service(start).test(client)


def test_a_host_with_several_addresses_is_shared() -> None:
    _, port = free_address()

    def client() -> None:
        found = spread(("127.0.0.1", port), 4)
        with contextlib.suppress(OSError):
            found += spread(("::1", port), 4, socket.AF_INET6)
        counts = collections.Counter(found)
        assert counts[0] == counts[1]

    Service(lambda: asyncio.start_server(serve_index, "localhost", port)).test(client)


def test_tls_is_served_by_each_worker_with_its_own_context(authority: Authority) -> None:
    address = free_address()

    def client() -> None:
        context = authority.client_context()
        found: collections.Counter[int] = collections.Counter()
        with contextlib.ExitStack() as stack:
            for _ in range(8):
                sock = stack.enter_context(socket.create_connection(address))
                sock.settimeout(PEER_TIMEOUT)
                secured = stack.enter_context(
                    context.wrap_socket(sock, server_hostname="localhost")
                )
                found[int(secured.recv(1))] += 1
        assert found == {0: 4, 1: 4}

    def start() -> Any:
        return asyncio.start_server(serve_index, *address, ssl=authority.server_context())

    Service(start).test(client)


def test_a_worker_that_stops_serving_leaves_the_others_serving() -> None:
    address = free_address()
    stopped, meeting = Meeting(3), Meeting(3)

    async def main() -> None:
        server = await asyncio.start_server(serve_index, *address)
        await meeting.meet()
        if rloop.current_worker().index == 0:
            server.close()
            await server.wait_closed()
        await stopped.meet()
        await meeting.meet()
        server.close()

    def client() -> None:
        meeting.wait()
        stopped.wait()
        assert spread(address, 4) == [1, 1, 1, 1]
        meeting.wait()

    run_beside(client, main)


def test_a_connection_whose_worker_stops_before_it_begins_goes_to_another() -> None:
    address = free_address()
    meeting, is_held, connected = Meeting(3), threading.Event(), threading.Event()

    async def main() -> None:
        server = await asyncio.start_server(serve_index, *address)
        await meeting.meet()
        if rloop.current_worker().index == 0:
            # Worker 1 accepts both, and sends one here, where it finds the server closed.
            is_held.set()
            assert connected.wait(PEER_TIMEOUT)
            server.close()
        await meeting.meet()
        server.close()

    def client() -> None:
        meeting.wait()
        assert is_held.wait(PEER_TIMEOUT)
        with socket.create_connection(address) as one, socket.create_connection(address) as two:
            readable, _, _ = select.select([one, two], [], [], PEER_TIMEOUT)
            served = [ask(sock) for sock in readable]
            connected.set()
            served += [ask(sock) for sock in {one, two} - set(readable)]
            assert served == [1, 1]
        meeting.wait()

    run_beside(client, main)


def test_a_worker_may_serve_an_address_again() -> None:
    address = free_address()
    meeting = Meeting(2)

    async def main() -> None:
        for _ in range(3):
            server = await asyncio.start_server(serve_index, *address)
            await meeting.meet()
            await meeting.meet()
            server.close()
            await server.wait_closed()

    def client() -> None:
        for _ in range(3):
            meeting.wait()
            assert spread(address, 2) == [0, 0]
            meeting.wait()

    run_beside(client, main, workers=1)


def test_one_worker_cannot_bind_an_address_twice() -> None:
    address = free_address()

    async def main() -> None:
        async with await asyncio.start_server(serve_index, *address):
            with pytest.raises(OSError, match="address already in use"):
                await asyncio.start_server(serve_index, *address)

    rloop.run_workers(main, workers=2)


def test_port_zero_is_another_port_for_each_worker() -> None:
    meeting = Meeting(2)

    async def main() -> int:
        async with await asyncio.start_server(serve_index, "127.0.0.1", 0) as server:
            await meeting.meet()
            port: int = server.sockets[0].getsockname()[1]
            return port

    one, two = rloop.run_workers(main, workers=2)
    assert one != two


def test_datagram_sockets_are_not_shared() -> None:
    address = free_address()
    meeting = Meeting(2)

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=address
            )
        except OSError:
            await meeting.meet()
            return False
        await meeting.meet()
        transport.close()
        return True

    assert sorted(rloop.run_workers(main, workers=2)) == [False, True]


def test_a_server_that_nobody_closes_gets_no_connection_after_its_loop() -> None:
    address = free_address()
    meeting, ended = Meeting(3), Meeting(2)
    kept: list[asyncio.Server] = []

    async def main() -> None:
        server = await asyncio.start_server(serve_index, *address)
        await meeting.meet()
        worker = rloop.current_worker()
        if worker.index == 0:
            kept.append(server)
            return
        await eventually(lambda: not worker.workers[0]._thread.is_alive())
        await ended.meet()
        await ended.meet()
        server.close()

    def client() -> None:
        meeting.wait()
        ended.wait()
        try:
            assert spread(address, 4) == [1, 1, 1, 1]
        finally:
            ended.wait()

    run_beside(client, main)
    for server in kept:
        for sock in server.sockets:
            sock._sock.close()  # type: ignore[attr-defined]


def test_a_connection_whose_protocol_factory_raises_is_closed_and_not_counted(
    guard: LeakGuard,
) -> None:
    address = free_address()
    workers: list[rloop.Worker] = []
    meeting = Meeting(3)

    def make() -> asyncio.Protocol:
        raise LookupError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        workers[:] = rloop.current_worker().workers
        server = await loop.create_server(make, *address)
        await meeting.meet()
        await meeting.meet()
        server.close()

    def client() -> None:
        meeting.wait()
        try:
            for _ in range(4):
                with socket.create_connection(address) as sock:
                    sock.settimeout(PEER_TIMEOUT)
                    with contextlib.suppress(ConnectionResetError):
                        assert sock.recv(1) == b""
        finally:
            meeting.wait()

    run_beside(client, main)
    assert [worker.statistics().connections for worker in workers] == [0, 0]
    assert [worker.statistics().accepted for worker in workers] == [2, 2]
    # As on asyncio's loop, which leaves the socket to the collector.
    assert all("unclosed <socket.socket" in str(error) for error in guard.take_unraisable())
