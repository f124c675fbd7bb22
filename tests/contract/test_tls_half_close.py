"""A client that ends its side after its request: the answer still comes.

The client ends the TLS session (``close_notify``), the stream below (FIN), or both. A server
answers at once, when it is told of the end, or in a task that was waiting for the request.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from support.peers import stream_pair
from support.threads import PEER_TIMEOUT, eventually, in_thread
from support.tls import TLS_VERSIONS, Authority, RecordPeer

REQUEST, ANSWER = b"request", b"answer"

pytestmark = pytest.mark.parametrize("version", TLS_VERSIONS)


class AtOnce(asyncio.Protocol):
    """Answers inside ``data_received()``."""

    answer = ANSWER

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert data == REQUEST
        self.transport.write(self.answer)


class Much(AtOnce):
    """Answers with more than fits into the buffers of sockets."""

    answer = bytes(1 << 22)


class AtTheEnd(AtOnce):
    """Answers inside ``eof_received()``."""

    def data_received(self, data: bytes) -> None:
        assert data == REQUEST

    def eof_received(self) -> None:
        self.transport.write(self.answer)


class Soon(AtOnce):
    """Answers in a callback that ``data_received()`` schedules."""

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_soon(super().data_received, data)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer in a task that was waiting for the request."""
    assert await reader.readexactly(len(REQUEST)) == REQUEST
    writer.write(ANSWER)
    writer.close()


def in_a_task() -> asyncio.StreamReaderProtocol:
    return asyncio.StreamReaderProtocol(asyncio.StreamReader(), answer)


@contextlib.asynccontextmanager
async def client_of(
    make_protocol: Callable[[], asyncio.BaseProtocol], authority: Authority, version: str
) -> AsyncIterator[RecordPeer]:
    """Give a client of a server on the running loop, after the handshake."""
    near, far = stream_pair("tcp")
    far.settimeout(PEER_TIMEOUT)
    with far:
        peer = RecordPeer(far, authority.client_context(version), server_side=False)
        shaking_hands = in_thread(peer.shake_hands)
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
            make_protocol, near, ssl=authority.server_context(version)
        )
        await shaking_hands
        try:
            yield peer
        finally:
            transport.abort()
            await eventually(lambda: near.fileno() == -1)


@pytest.mark.parametrize("make_protocol", [AtOnce, Much, AtTheEnd])
async def test_a_request_with_a_close_notify_in_one_packet_is_answered(
    authority: Authority, version: str, make_protocol: type[AtOnce]
) -> None:
    async with client_of(make_protocol, authority, version) as peer:
        record = peer.encrypt(REQUEST)
        peer.sock.sendall(record + peer.encrypt_end())
        assert await in_thread(peer.receive) == make_protocol.answer


@pytest.mark.parametrize("ends_stream", [False, True])
@pytest.mark.parametrize("make_protocol", [AtOnce, Much, AtTheEnd, Soon, in_a_task])
async def test_a_request_before_a_close_notify_is_answered(
    authority: Authority, version: str, make_protocol: Any, ends_stream: bool
) -> None:
    received = asyncio.Event()

    def make() -> Any:
        protocol = make_protocol()
        receive = protocol.data_received

        def data_received(data: bytes) -> None:
            receive(data)
            asyncio.get_running_loop().call_soon(received.set)

        protocol.data_received = data_received
        return protocol

    async with client_of(make, authority, version) as peer:
        peer.send(REQUEST)
        await received.wait()
        peer.end()
        if ends_stream:
            peer.sock.shutdown(socket.SHUT_WR)
        expected = getattr(make_protocol, "answer", ANSWER)
        assert await in_thread(peer.receive) == expected


@pytest.mark.parametrize("make_protocol", [AtOnce, Much, Soon, in_a_task])
async def test_a_request_with_the_end_of_the_stream_is_answered(
    authority: Authority, version: str, make_protocol: Any
) -> None:
    """Both have come before the loop looks; it tells of the end after what the request led to."""
    async with client_of(make_protocol, authority, version) as peer:
        peer.send(REQUEST)
        peer.sock.shutdown(socket.SHUT_WR)
        expected = getattr(make_protocol, "answer", ANSWER)
        assert await in_thread(peer.receive) == expected


@pytest.mark.parametrize("make_protocol", [Soon, in_a_task])
async def test_a_request_is_answered_although_the_stream_ends_meanwhile(
    authority: Authority, version: str, make_protocol: Any
) -> None:
    """The end comes while the server is told of the request."""

    def make() -> Any:
        protocol = make_protocol()
        receive = protocol.data_received

        def data_received(data: bytes) -> None:
            receive(data)
            peer.sock.shutdown(socket.SHUT_WR)

        protocol.data_received = data_received
        return protocol

    async with client_of(make, authority, version) as peer:
        peer.send(REQUEST)
        assert await in_thread(peer.receive) == ANSWER
