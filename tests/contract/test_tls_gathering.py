"""TLS transports: writes of one iteration are sent in one batch, unless a program can tell."""

import asyncio
import contextlib
import contextvars
import select
import time
from collections.abc import Callable
from typing import Any

import pytest

from support.peers import stream_pair
from support.programs import run_program
from support.protocols import RecordingProtocol
from support.threads import PEER_TIMEOUT, eventually, in_thread
from support.tls import (
    SERVER_NAME,
    Authority,
    NestedRecordPeer,
    RecordPeer,
    connected_to_record_peer,
)


class Later(RecordingProtocol):
    """Calls `act` with itself soon after data has come, in a callback of its own."""

    def __init__(self, act: Callable[["Later"], Any]) -> None:
        super().__init__()
        self.act = act
        self.results: list[Any] = []

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        asyncio.get_running_loop().call_soon(self.run)

    def run(self) -> None:
        self.results.append(self.act(self))
        self.note("acted")


def loop_soon(callback: Callable[..., Any], *arguments: Any) -> None:
    """Schedule a callback on the running loop."""
    asyncio.get_running_loop().call_soon(callback, *arguments)


@pytest.mark.only_on("rloop")
async def test_short_writes_of_one_callback_share_a_record(authority: Authority) -> None:
    def write(protocol: Later) -> None:
        for _ in range(10):
            protocol.transport.write(b"0123456789")

    async with connected_to_record_peer(Later(write), authority) as (_, peer):
        before = len(peer.records)
        peer.send(b"question")
        assert await in_thread(peer.receive_exactly, 100) == b"0123456789" * 10
        assert len(peer.records) == before + 1


@pytest.mark.only_on("rloop")
async def test_short_writes_of_one_step_of_a_task_share_a_record(authority: Authority) -> None:
    async def answer(protocol: Later) -> None:
        for _ in range(10):
            protocol.transport.write(b"0123456789")

    tasks: list[asyncio.Task[None]] = []
    protocol = Later(lambda protocol: tasks.append(asyncio.ensure_future(answer(protocol))))
    async with connected_to_record_peer(protocol, authority) as (_, peer):
        before = len(peer.records)
        peer.send(b"question")
        assert await in_thread(peer.receive_exactly, 100) == b"0123456789" * 10
        assert len(peer.records) == before + 1


async def test_what_a_callback_writes_does_not_count_as_waiting(authority: Authority) -> None:
    def write(protocol: Later) -> tuple[int, int]:
        protocol.transport.write(b"one ")
        first: int = protocol.transport.get_write_buffer_size()
        protocol.transport.writelines([b"and ", b"two"])
        return first, protocol.transport.get_write_buffer_size()

    protocol = Later(write)
    async with connected_to_record_peer(protocol, authority) as (_, peer):
        peer.send(b"go")
        assert await in_thread(peer.receive_exactly, 11) == b"one and two"
        assert protocol.results == [(0, 0)]


async def test_writes_of_all_lengths_keep_their_order(authority: Authority) -> None:
    lengths = [1, 16_383, 5, 16_384, 7, 40_000, 3, 100_000, 2]
    parts = [bytes([number]) * length for number, length in enumerate(lengths)]

    def write(protocol: Later) -> None:
        for part in parts:
            protocol.transport.write(part)

    async with connected_to_record_peer(Later(write), authority) as (_, peer):
        peer.send(b"go")
        assert await in_thread(peer.receive_exactly, sum(lengths)) == b"".join(parts)


@pytest.mark.parametrize("writes", [1, 3])
async def test_drain_sends_the_writes_of_the_step_that_awaits_it(
    authority: Authority, writes: int
) -> None:
    ours, sock = stream_pair("tcp")
    sock.settimeout(PEER_TIMEOUT)
    peer = RecordPeer(sock, authority.server_context())
    with sock:
        shaking_hands = in_thread(peer.shake_hands)
        _, writer = await asyncio.open_connection(
            sock=ours, ssl=authority.client_context(), server_hostname=SERVER_NAME
        )
        await shaking_hands

        async def write_and_block() -> bytes:
            for _ in range(writes):
                writer.write(b"part ")
            await writer.drain()
            # The step blocks its thread until the peer has received the data.
            return peer.receive_exactly(5 * writes)

        assert await asyncio.create_task(write_and_block()) == b"part " * writes
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_drain_sends_the_writes_of_tls_inside_tls(authority: Authority) -> None:
    ours, sock = stream_pair("tcp")
    sock.settimeout(PEER_TIMEOUT)
    loop = asyncio.get_running_loop()
    outer_peer = RecordPeer(sock, authority.server_context())
    inner_peer = NestedRecordPeer(outer_peer, authority.server_context())
    with sock:
        shaking_hands = in_thread(outer_peer.shake_hands)
        outer, _ = await loop.create_connection(
            asyncio.Protocol,
            sock=ours,
            ssl=authority.client_context(),
            server_hostname=SERVER_NAME,
        )
        await shaking_hands
        shaking_hands = in_thread(inner_peer.shake_hands)
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        inner = await loop.start_tls(
            outer, protocol, authority.client_context(), server_hostname=SERVER_NAME
        )
        await shaking_hands
        assert inner is not None
        protocol.connection_made(inner)
        writer = asyncio.StreamWriter(inner, protocol, reader, loop)

        async def write_and_block() -> bytes:
            writer.write(b"question")
            await writer.drain()
            return inner_peer.receive_exactly(8)

        assert await asyncio.create_task(write_and_block()) == b"question"
        outer.abort()
        await eventually(lambda: ours.fileno() == -1)


@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_what_a_callback_writes_before_an_end_is_sent(
    authority: Authority, ending: str
) -> None:
    def write_and_end(protocol: Later) -> None:
        protocol.transport.write(b"last ")
        protocol.transport.write(b"words")
        getattr(protocol.transport, ending)()

    protocol = Later(write_and_end)
    async with connected_to_record_peer(protocol, authority) as (_, peer):
        peer.send(b"go")
        assert await in_thread(peer.receive) == b"last words"
        peer.sock.close()
        assert await protocol.called("connection_lost") is None


async def test_one_callback_writes_to_several_connections(authority: Authority) -> None:
    others: list[Any] = []

    def broadcast(protocol: Later) -> None:
        for transport in (*others, protocol.transport):
            transport.write(b"to ")
            transport.write(b"all")

    async with (
        connected_to_record_peer(RecordingProtocol(), authority) as (other, first),
        connected_to_record_peer(Later(broadcast), authority) as (_, second),
    ):
        others.append(other)
        second.send(b"go")
        assert await in_thread(first.receive_exactly, 6) == b"to all"
        assert await in_thread(second.receive_exactly, 6) == b"to all"


async def test_several_callbacks_of_one_turn_write_to_several_connections(
    authority: Authority,
) -> None:
    async with (
        connected_to_record_peer(RecordingProtocol(), authority) as (one, first),
        connected_to_record_peer(RecordingProtocol(), authority) as (two, second),
    ):
        for number in range(100):
            loop_soon(one.write, b"%03d" % number)
            loop_soon(two.write, b"%03d" % number)
        expected = b"".join(b"%03d" % number for number in range(100))
        assert await in_thread(first.receive_exactly, 300) == expected
        assert await in_thread(second.receive_exactly, 300) == expected


async def test_what_a_callback_wrote_has_left_before_one_that_it_scheduled(
    authority: Authority,
) -> None:
    received = []

    async with connected_to_record_peer(RecordingProtocol(), authority) as (transport, peer):

        def write() -> None:
            transport.write(b"question")
            loop_soon(lambda: received.append(peer.receive_exactly(8)))

        loop_soon(write)
        # Its neighbours in that turn.
        loop_soon(int)
        loop_soon(int)
        await eventually(lambda: received)
        assert received == [b"question"]


async def test_what_was_written_has_left_after_a_callback_that_takes_long(
    authority: Authority,
) -> None:
    received = []

    def take_long() -> None:
        begun = time.perf_counter()
        while time.perf_counter() - begun < 0.002:
            pass

    async with connected_to_record_peer(RecordingProtocol(), authority) as (transport, peer):
        loop_soon(transport.write, b"question")
        loop_soon(take_long)
        loop_soon(lambda: received.append(peer.receive_exactly(8)))
        await eventually(lambda: received)
        assert received == [b"question"]


async def test_what_was_written_has_left_when_the_peer_fails_in_the_same_turn(
    authority: Authority,
) -> None:
    protocol = RecordingProtocol()
    async with connected_to_record_peer(protocol, authority) as (transport, peer):

        def write_beside_a_bad_record() -> None:
            peer.sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
            # The kernel may deliver it later.
            select.select([transport.get_extra_info("socket")], [], [])
            loop_soon(transport.write, b"last ")
            loop_soon(transport.write, b"words")

        loop_soon(write_beside_a_bad_record)
        assert await in_thread(peer.receive_exactly, 10) == b"last words"
        await protocol.called("connection_lost")


async def test_a_pause_is_told_in_the_context_of_the_write_that_led_to_it(
    authority: Authority,
) -> None:
    writer = contextvars.ContextVar("writer", default="nobody")

    class Paused(Later):
        told_to = ""

        def pause_writing(self) -> None:
            super().pause_writing()
            self.told_to = writer.get()

    def write_again(protocol: Later) -> None:
        if not protocol.count("pause_writing"):
            protocol.transport.write(bytes(1000))
            loop.call_soon(protocol.act, protocol, context=context)

    loop = asyncio.get_running_loop()
    protocol = Paused(write_again)

    def begin(peer: RecordPeer) -> None:
        peer.send(b"go")

    async with connected_to_record_peer(protocol, authority) as (_, peer):
        context = contextvars.copy_context()
        context.run(writer.set, "the callback")
        await in_thread(begin, peer)
        await eventually(lambda: protocol.count("pause_writing") > 0)
        assert protocol.told_to == "the callback"


INTERRUPTED = """
import asyncio, os, socket, sys, threading, trustme, ssl, warnings
warnings.simplefilter("ignore", DeprecationWarning)
authority = trustme.CA()
server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
authority.issue_cert("localhost").configure_cert(server)
authority.configure_trust(client)
ours, theirs = socket.socketpair()
ours.setblocking(False)
received = []

def read():
    with client.wrap_socket(theirs, server_hostname="localhost") as peer:
        while data := peer.recv(100):
            received.append(data)

reader = threading.Thread(target=read)
loop = new_loop()

async def connect():
    transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours, ssl=server)
    return transport

reader.start()
transport = loop.run_until_complete(connect())

def write_and_stop():
    transport.write(b"first ")
    {stop}

loop.call_soon(write_and_stop)
try:
    loop.run_forever()
except SystemExit as stopped:
    if stopped.code == "child":
        os._exit(0)

async def end():
    transport.write(b"second")
    transport.close()
    while reader.is_alive():
        await asyncio.sleep(0.01)

loop.run_until_complete(end())
loop.close()
print(b"".join(received).decode())
"""


def test_what_is_written_before_an_interruption_is_sent(loop_name: str) -> None:
    outcome = run_program(INTERRUPTED.format(stop="sys.exit(3)"), loop_name)
    assert outcome.stdout == "first second\n", outcome.stderr
    assert outcome.returncode == 0


def test_what_is_written_before_a_fork_is_sent_by_the_parent_only(loop_name: str) -> None:
    stop = """
    pid = os.fork()
    if pid == 0:
        sys.exit("child")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    sys.exit(3)
    """
    outcome = run_program(INTERRUPTED.format(stop=stop.strip()), loop_name)
    assert outcome.stdout == "first second\n", outcome.stderr
    assert outcome.returncode == 0
