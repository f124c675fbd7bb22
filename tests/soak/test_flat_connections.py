"""Ten thousand connections: descriptors, memory and objects stay where they were."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from support.memory import assert_flat, measure
from support.peers import LOOPBACK
from support.threads import PEER_TIMEOUT, in_thread

Loop = asyncio.AbstractEventLoop

CYCLES = 10_000
WARM_UP = 1_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


class Echo(asyncio.Protocol):
    """Sends back what it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def repeat_flat(run: Callable[[int], Awaitable[None]]) -> None:
    """Run the warm-up and then the cycles, and demand that the cycles accumulated nothing."""
    await run(WARM_UP)
    before = measure()
    await run(CYCLES)
    assert_flat(before, measure(), cycles=CYCLES)


def call_repeatedly(address: tuple[str, int], count: int) -> None:
    """Connect, exchange one message and hang up, from a plain socket."""
    for number in range(count):
        with socket.create_connection(address, timeout=PEER_TIMEOUT) as peer:
            peer.sendall(b"hello")
            assert peer.recv(5) == b"hello"
            if number % 2:
                # Half of the connections end by the peer's end of stream, half by both.
                peer.shutdown(socket.SHUT_WR)
                assert peer.recv(5) == b""


async def test_a_server_of_protocols_accumulates_nothing(loop: Loop) -> None:
    server = await loop.create_server(Echo, LOOPBACK, 0)
    address = server.sockets[0].getsockname()
    await repeat_flat(lambda count: in_thread(call_repeatedly, address, count))
    server.close()
    await server.wait_closed()


async def test_a_server_of_streams_accumulates_nothing() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(echo, LOOPBACK, 0)
    address = server.sockets[0].getsockname()
    await repeat_flat(lambda count: in_thread(call_repeatedly, address, count))
    server.close()
    await server.wait_closed()


def answer_repeatedly(listener: socket.socket, count: int) -> None:
    """Echo one message for each of so many connections, and wait for its end."""
    for _ in range(count):
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(PEER_TIMEOUT)
            connection.sendall(connection.recv(5))
            connection.recv(1)


async def test_a_client_accumulates_nothing(loop: Loop) -> None:
    class Client(asyncio.Protocol):
        def __init__(self) -> None:
            self.lost = loop.create_future()

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport
            transport.write(b"hello")

        def data_received(self, data: bytes) -> None:
            self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set_result(exc)

    async def connect_repeatedly(count: int) -> None:
        # Until the peer has closed its last one, too: it is in this process, and counted.
        answering = in_thread(answer_repeatedly, listener, count)
        for _ in range(count):
            _, protocol = await loop.create_connection(Client, *address)
            assert await protocol.lost is None
        await answering

    with socket.create_server((LOOPBACK, 0)) as listener:
        listener.settimeout(PEER_TIMEOUT)
        address = listener.getsockname()
        await repeat_flat(connect_repeatedly)
