"""Garbage collection: what a loop holds is visible to the collector and freed in cycles."""

import asyncio
import contextlib
import gc
import socket
import ssl
import sys
import weakref
from collections.abc import Iterator

import pytest

from support.loops import LoopFactory, factory_of
from support.peers import stream_pair
from support.protocols import RecordingProtocol
from support.threads import eventually, in_thread, turns
from support.tls import Authority, wrap_server

Loop = asyncio.AbstractEventLoop


class Node:
    """Something that refers to whatever it is given."""

    def __init__(self, *references: object) -> None:
        self.references = references

    def __call__(self, *_arguments: object) -> None:
        """Be a callback."""


@pytest.mark.parametrize("schedule", ["call_soon", "call_later", "call_soon_threadsafe"])
def test_a_closed_loop_frees_what_it_was_to_run(loop_name: str, schedule: str) -> None:
    loop = factory_of(loop_name)()
    node = Node(loop)
    watched = weakref.ref(node)
    getattr(loop, schedule)(*([3600] if schedule == "call_later" else []), node)
    loop.close()
    del loop, node
    gc.collect()
    assert watched() is None


def test_a_closed_loop_in_a_cycle_is_collected(loop_name: str) -> None:
    loop = factory_of(loop_name)()
    node = Node(loop)
    loop.set_exception_handler(node)
    loop.run_until_complete(asyncio.sleep(0))
    watched = weakref.ref(loop), weakref.ref(node)
    loop.close()
    del loop, node
    gc.collect()
    assert [reference() for reference in watched] == [None, None]


@pytest.mark.parametrize("schedule", ["call_soon", "call_later"])
async def test_a_handle_in_a_cycle_is_collected_after_it_ran(loop: Loop, schedule: str) -> None:
    node = Node()
    handle = getattr(loop, schedule)(*([0] if schedule == "call_later" else []), node)
    node.references = (handle, node)
    watched = weakref.ref(node)
    await turns(3)
    del handle, node
    gc.collect()
    assert watched() is None


async def test_a_lost_connection_and_its_protocol_are_collected(loop: Loop, kind: str) -> None:
    ours, peer = stream_pair(kind)
    with peer:
        transport, protocol = await loop.create_connection(RecordingProtocol, sock=ours)
        watched = weakref.ref(transport), weakref.ref(protocol)
        peer.sendall(b"data")
        await protocol.received(4)
        transport.close()
        await protocol.called("connection_lost")
        await eventually(lambda: ours.fileno() == -1)
        await turns(2)
        del transport, protocol
        gc.collect()
        assert [reference() for reference in watched] == [None, None]


async def test_a_loop_keeps_a_connection_alive_that_nobody_refers_to(loop: Loop, kind: str) -> None:
    lost: list[str] = []

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            assert isinstance(self.transport, asyncio.Transport)
            self.transport.write(data)

        def connection_lost(self, exc: Exception | None) -> None:
            lost.append("lost")

    ours, peer = stream_pair(kind)
    await loop.create_connection(Echo, sock=ours)
    gc.collect()
    with peer:
        peer.sendall(b"echo")
        await turns(3)
        gc.collect()
        peer.setblocking(False)
        received = bytearray()

        def echoed() -> bool:
            try:
                received.extend(peer.recv(10))
            except BlockingIOError:
                return False
            return len(received) == 4

        await eventually(echoed)
    await eventually(lambda: lost)
    await eventually(lambda: ours.fileno() == -1)


def test_the_collector_may_run_at_any_allocation(loop_factory: LoopFactory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(200):
            loop.call_soon(Node(loop))
            loop.call_later(0, Node(loop))
            loop.call_later(3600, Node(loop)).cancel()
            await asyncio.sleep(0)

    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())
    finally:
        gc.set_threshold(*thresholds)


async def test_a_collection_while_a_connection_is_made_does_no_harm(loop: Loop) -> None:
    """CPython 3.11 may collect between the allocation of an object and its initialization."""
    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for _ in range(50):
            ours, peer = socket.socketpair()
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            transport.close()
            peer.close()
    finally:
        gc.set_threshold(*thresholds)


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Free objects by their reference counts alone."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("way", ["create_connection", "start_tls"])
async def test_a_failed_handshake_leaves_no_cycle(
    loop: Loop, loop_name: str, authority: Authority, way: str
) -> None:
    if sys.version_info < (3, 15) and (loop_name, way) != ("rloop", "start_tls"):
        pytest.skip("asyncio's own frame and waiter are in a cycle (cpython#159049)")
    watched: list[weakref.ref[object]] = []

    class Forgetful(asyncio.Protocol):
        """Keeps no transport."""

    def factory() -> Forgetful:
        protocol = Forgetful()
        watched.append(weakref.ref(protocol))
        return protocol

    async def connect(ours: socket.socket) -> None:
        if way == "create_connection":
            await loop.create_connection(factory, sock=ours, ssl=stranger, server_hostname="")
            return
        transport, protocol = await loop.create_connection(factory, sock=ours)
        watched.append(weakref.ref(transport))
        await loop.start_tls(transport, protocol, stranger, server_hostname="")

    def answer(peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            wrap_server(authority.server_context(), peer).close()

    stranger = Authority().serving(authority.engine).client_context()
    stranger.check_hostname = False
    ours, peer = stream_pair("tcp")
    with peer:
        answering = in_thread(answer, peer)
        with without_collector():
            with contextlib.suppress(ssl.SSLCertVerificationError):
                await connect(ours)
            await answering
            await turns(2)
            assert watched
            assert [reference() for reference in watched] == [None] * len(watched)
