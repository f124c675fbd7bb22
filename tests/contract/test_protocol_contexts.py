"""Contexts of protocols: in which context a transport, an endpoint, a server calls whom.

Before Python 3.15 each callback of a stream runs in a copy of the context of the code that
scheduled it: reading in that of the code that made the transport, writing and ending in that of the
caller of ``write()`` or ``close()``. From 3.15 on a stream has one context for all its callbacks, a
copy of the one in which it was made; a connection of a server has a copy of the one in which the
server was made.
"""

import asyncio
import contextlib
import contextvars
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import IO, Any

import pytest

from support.peers import LOOPBACK, receive_exactly, receive_until_eof, stream_pair
from support.pipes import open_pipe
from support.protocols import (
    HAS_OWN_CONTEXT,
    Journal,
    RecordingBufferedProtocol,
    RecordingDatagramProtocol,
    RecordingProtocol,
    RecordingSubprocessProtocol,
)
from support.threads import PEER_TIMEOUT, eventually, in_thread, turns
from support.tls import SERVER_NAME, Authority, RecordPeer, connected_to_record_peer

Loop = asyncio.AbstractEventLoop

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

MUCH = bytes(8 << 20)


class Noting(Journal):
    """Also keeps the variable's value at the last call of each method."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: dict[str, str] = {}

    def note(self, name: str, value: Any = None) -> None:
        self.seen[name] = variable.get()
        super().note(name, value)


class NotingProtocol(Noting, RecordingProtocol):
    """A stream protocol."""


class NotingBufferedProtocol(Noting, RecordingBufferedProtocol):
    """A buffered one."""


class NotingDatagramProtocol(Noting, RecordingDatagramProtocol):
    """A datagram protocol."""


class NotingSubprocessProtocol(Noting, RecordingSubprocessProtocol):
    """A subprocess protocol."""


async def within(value: str, action: Callable[[], Awaitable[Any]]) -> Any:
    """Await what an action returns in a task of its own whose context sets the variable."""

    async def body() -> Any:
        variable.set(value)
        return await action()

    return await asyncio.create_task(body())


def drain(reading: IO[bytes]) -> None:
    while reading.read(1 << 20):
        pass


def creator_or(caller: str) -> str:
    """Return whose context a callback has that `caller` scheduled on a stream of "creator"."""
    return "creator" if HAS_OWN_CONTEXT else caller


async def test_a_stream_calls_in_the_context_of_the_connecting_task_or_of_the_caller(
    loop: Loop, kind: str
) -> None:
    protocol = NotingProtocol(keep_open=True)
    ours, peer = stream_pair(kind)
    with peer:
        await within("creator", lambda: loop.create_connection(lambda: protocol, sock=ours))
        variable.set("caller of write")
        protocol.transport.write(MUCH)
        protocol.transport.write_eof()
        receiving = in_thread(receive_until_eof, peer)
        peer.sendall(b"data")
        peer.shutdown(socket.SHUT_WR)
        await protocol.called("eof_received")
        await protocol.called("resume_writing")
        await receiving
        variable.set("caller of close")
        protocol.transport.close()
        await protocol.called("connection_lost")
    assert protocol.seen == {
        "connection_made": "creator",
        "data_received": "creator",
        "eof_received": "creator",
        "pause_writing": "caller of write",
        "resume_writing": creator_or("caller of write"),
        "connection_lost": creator_or("caller of close"),
    }


async def test_resume_writing_has_the_context_of_the_creator_or_of_the_last_caller_of_write(
    loop: Loop, kind: str
) -> None:
    protocol = NotingProtocol()
    ours, peer = stream_pair(kind)
    with peer:
        await within("creator", lambda: loop.create_connection(lambda: protocol, sock=ours))
        for round_, caller in enumerate(("first", "second"), 1):
            variable.set(caller)
            written = 0
            # How much the kernel takes grows with the connection.
            while protocol.count("pause_writing") < round_:
                protocol.transport.write(MUCH)
                written += len(MUCH)
            variable.set("test")
            await in_thread(receive_exactly, peer, written)
            await protocol.called_times("resume_writing", round_)
            await eventually(lambda: protocol.transport.get_write_buffer_size() == 0)
            assert protocol.seen["resume_writing"] == creator_or(caller)
        protocol.transport.close()
    await protocol.called("connection_lost")


async def test_a_buffered_protocol_is_called_in_the_context_of_the_connecting_task(
    loop: Loop, kind: str
) -> None:
    protocol = NotingBufferedProtocol()
    ours, peer = stream_pair(kind)
    with peer:
        await within("creator", lambda: loop.create_connection(lambda: protocol, sock=ours))
        variable.set("test")
        peer.sendall(b"data")
        await protocol.received(4)
    await protocol.called("connection_lost")
    assert set(protocol.seen.values()) == {"creator"}


async def test_a_connection_that_its_peer_ends_is_lost_in_the_context_of_the_reader(
    loop: Loop, kind: str
) -> None:
    protocol = NotingProtocol()
    ours, peer = stream_pair(kind)
    await within("creator", lambda: loop.create_connection(lambda: protocol, sock=ours))
    variable.set("test")
    peer.close()
    await protocol.called("connection_lost")
    assert protocol.seen == dict.fromkeys(
        ("connection_made", "eof_received", "connection_lost"), "creator"
    )


async def test_what_one_call_sets_the_later_ones_of_the_same_reader_see(
    loop: Loop, kind: str
) -> None:
    class Setting(NotingProtocol):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            variable.set(data.decode())

    protocol = Setting()
    ours, peer = stream_pair(kind)
    with peer:
        await within("creator", lambda: loop.create_connection(lambda: protocol, sock=ours))
        peer.sendall(b"first")
        await protocol.received(5)
        peer.sendall(b"second")
        await protocol.received(11)
        assert protocol.seen["data_received"] == "first"
    await protocol.called("connection_lost")
    assert protocol.seen["eof_received"] == "second"
    assert protocol.seen["connection_lost"] == "second"
    assert variable.get() == "unset"


async def test_a_server_calls_in_the_context_of_create_server(loop: Loop) -> None:
    protocol = NotingProtocol()

    def factory() -> NotingProtocol:
        protocol.note("factory")
        return protocol

    server = await within("server", lambda: loop.create_server(factory, LOOPBACK, 0))
    variable.set("test")
    with socket.create_connection(server.sockets[0].getsockname()) as peer:
        peer.sendall(b"data")
        await protocol.called("data_received")
    await protocol.called("connection_lost")
    server.close()
    await server.wait_closed()
    assert protocol.seen == dict.fromkeys(
        ("factory", "connection_made", "data_received", "eof_received", "connection_lost"),
        "server",
    )


async def test_what_a_servers_factory_sets_is_its_connections_alone(loop: Loop) -> None:
    protocols: list[NotingProtocol] = []

    def factory() -> NotingProtocol:
        protocol = NotingProtocol()
        protocol.note("factory")
        protocols.append(protocol)
        variable.set(f"connection {len(protocols)}")
        return protocol

    server = await within("server", lambda: loop.create_server(factory, LOOPBACK, 0))
    for number in (1, 2):
        with socket.create_connection(server.sockets[0].getsockname()) as peer:
            peer.sendall(b"data")
            while len(protocols) < number:
                await asyncio.sleep(0)
            await protocols[-1].called("data_received")
        await protocols[-1].called("connection_lost")
    server.close()
    await server.wait_closed()
    for number, protocol in enumerate(protocols, 1):
        assert protocol.seen.pop("factory") == "server"
        assert set(protocol.seen.values()) == {f"connection {number}"}


async def test_a_stream_has_one_context_for_all_its_callbacks(loop: Loop, kind: str) -> None:
    class Setting(NotingProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            variable.set("connection")

    protocol = Setting(keep_open=True)
    ours, peer = stream_pair(kind)
    with peer:
        await within("creator", lambda: loop.create_connection(lambda: protocol, sock=ours))
        protocol.transport.pause_reading()
        protocol.transport.resume_reading()
        protocol.transport.write(MUCH)
        protocol.transport.write_eof()
        receiving = in_thread(receive_until_eof, peer)
        peer.sendall(b"data")
        peer.shutdown(socket.SHUT_WR)
        await protocol.called("eof_received")
        await protocol.called("resume_writing")
        await receiving
        protocol.transport.abort()
        await protocol.called("connection_lost")
    callbacks = ("data_received", "eof_received", "resume_writing", "connection_lost")
    expected = "connection" if HAS_OWN_CONTEXT else "unset"
    assert {name: protocol.seen[name] for name in callbacks} == dict.fromkeys(callbacks, expected)
    assert protocol.seen["connection_made"] == "creator"
    assert protocol.seen["pause_writing"] == variable.get() == "unset"


async def test_a_server_keeps_the_context_in_which_it_was_made(loop: Loop) -> None:
    protocol = NotingProtocol()
    server = await within(
        "maker",
        lambda: loop.create_server(lambda: protocol, LOOPBACK, 0, start_serving=False),
    )
    await within("starter", server.start_serving)
    with socket.create_connection(server.sockets[0].getsockname()):
        await protocol.called("connection_made")
    await protocol.called("connection_lost")
    server.close()
    await server.wait_closed()
    assert set(protocol.seen.values()) == {"maker" if HAS_OWN_CONTEXT else "starter"}


@pytest.mark.parametrize("way", ["tcp", "unix", "tls"])
async def test_each_connection_of_a_server_has_a_context_that_its_tasks_copy(
    loop: Loop, way: str, authority: Authority, tmp_path: Path
) -> None:
    seen: list[tuple[str, str, str]] = []

    class Setting(asyncio.StreamReaderProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            variable.set("connection")
            super().connection_made(transport)

        def data_received(self, data: bytes) -> None:
            # The task of the handler has set the variable in a copy.
            seen[-1] = (*seen[-1][:2], variable.get())
            super().data_received(data)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        before = variable.get()
        variable.set("task")
        seen.append((before, variable.get(), ""))
        assert await reader.readexactly(4) == b"data"
        writer.close()
        await writer.wait_closed()

    def talk(address: Any) -> None:
        with socket.socket(socket.AF_UNIX if way == "unix" else socket.AF_INET) as raw:
            raw.connect(address)
            if way == "tls":
                with authority.client_context().wrap_socket(
                    raw, server_hostname=SERVER_NAME
                ) as secured:
                    secured.sendall(b"data")
                    secured.recv(1)
            else:
                raw.sendall(b"data")
                raw.recv(1)

    def factory() -> asyncio.Protocol:
        return Setting(asyncio.StreamReader(loop=loop), handle, loop=loop)

    async def serve() -> asyncio.Server:
        if way == "unix":
            return await loop.create_unix_server(factory, tmp_path / "socket")
        context = authority.server_context() if way == "tls" else None
        return await loop.create_server(factory, LOOPBACK, 0, ssl=context)

    server = await within("server", serve)
    address = server.sockets[0].getsockname()
    for _ in range(2):
        await in_thread(talk, address)
    server.close()
    await server.wait_closed()
    own = HAS_OWN_CONTEXT or way == "tls"
    assert seen == [("connection", "task", "connection" if own else "server")] * 2
    assert variable.get() == "unset"


@contextlib.asynccontextmanager
async def entered_elsewhere(context: contextvars.Context) -> AsyncIterator[None]:
    """Have another thread stay inside a context."""
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        entered.set()
        leave.wait(PEER_TIMEOUT)

    staying = in_thread(context.run, stay)
    entered.wait(PEER_TIMEOUT)
    try:
        yield
    finally:
        leave.set()
        await staying


@pytest.mark.skipif(not HAS_OWN_CONTEXT, reason="nothing else refers to the contexts")
async def test_nothing_is_lost_while_another_thread_is_in_the_context_of_a_connection(
    loop: Loop, loop_name: str
) -> None:
    tasks: list[asyncio.Task[Any]] = []
    reports: list[object] = []
    protocol = NotingProtocol()

    def factory() -> NotingProtocol:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        return protocol

    def check_reports() -> None:
        # asyncio calls no handler: it would do that inside the same context.
        assert reports or loop_name == "asyncio"
        assert all("cannot enter context" in str(error) for error in reports)
        reports.clear()

    loop.set_exception_handler(lambda _loop, report: reports.append(report["exception"]))
    server = await loop.create_server(factory, LOOPBACK, 0)
    with socket.create_connection(server.sockets[0].getsockname()) as peer:
        await protocol.called("connection_made")
        # The task that accepts runs in the context as well.
        await eventually(tasks[0].done)
        async with entered_elsewhere(tasks[0].get_context()):
            peer.sendall(b"data")
            await turns(10)
        await protocol.received(4)
        check_reports()
        written = 0
        while not protocol.count("pause_writing"):
            protocol.transport.write(MUCH)
            written += len(MUCH)
        async with entered_elsewhere(tasks[0].get_context()):
            receiving = in_thread(receive_exactly, peer, written)
            await turns(10)
            if loop_name != "asyncio":
                await eventually(lambda: reports)
        await receiving
        check_reports()
        await protocol.called("resume_writing")
    await protocol.called("connection_lost")
    server.close()
    await server.wait_closed()


async def test_a_failure_of_a_protocol_is_reported_in_the_context_of_the_call(
    loop: Loop,
) -> None:
    seen: list[str] = []

    class Failing(NotingProtocol):
        def data_received(self, data: bytes) -> None:
            raise ValueError("on purpose")

    protocol = Failing()
    loop.set_exception_handler(lambda _loop, _report: seen.append(variable.get()))
    ours, peer = stream_pair("tcp")
    with peer:
        await within("creator", lambda: loop.create_connection(lambda: protocol, sock=ours))
        variable.set("test")
        peer.sendall(b"data")
        await protocol.called("connection_lost")
    assert seen == ["creator"]
    assert protocol.seen["connection_lost"] == "creator"


class FailingProtocol(RecordingProtocol):
    """Takes no data."""

    def data_received(self, data: bytes) -> None:
        raise ValueError("on purpose")


class FailingDatagramProtocol(RecordingDatagramProtocol):
    """Takes no datagram."""

    def datagram_received(self, data: bytes, addr: Any) -> None:
        raise ValueError("on purpose")


@pytest.mark.parametrize("of", ["an endpoint", "a pipe"])
async def test_a_failure_that_the_transport_survives_is_reported_as_that_of_a_callback(
    loop: Loop, of: str
) -> None:
    seen: list[str] = []
    loop.set_exception_handler(lambda _loop, _report: seen.append(variable.get()))
    protocol: FailingProtocol | FailingDatagramProtocol
    if of == "an endpoint":
        protocol = FailingDatagramProtocol()
        await within(
            "creator",
            lambda: loop.create_datagram_endpoint(lambda: protocol, local_addr=(LOOPBACK, 0)),
        )
        variable.set("test")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.sendto(b"data", protocol.transport.get_extra_info("sockname"))
    else:
        protocol = FailingProtocol()
        reading, writing = open_pipe()
        await within("creator", lambda: loop.connect_read_pipe(lambda: protocol, reading))
        variable.set("test")
        with writing:
            writing.write(b"data")
    await eventually(lambda: seen)
    protocol.transport.close()
    await protocol.called("connection_lost")
    # Before 3.12 the exception handler is called in the context in which the loop was run.
    assert seen == ["creator" if sys.version_info >= (3, 12) else "unset"]


async def test_tls_calls_in_the_context_of_the_connecting_task_or_of_the_caller(
    authority: Authority,
) -> None:
    protocol = NotingProtocol(keep_open=True)

    def receive_and_send(peer: RecordPeer, count: int) -> None:
        peer.receive_exactly(count)
        peer.send(b"data")

    variable.set("creator")
    async with connected_to_record_peer(protocol, authority) as (transport, peer):
        variable.set("caller of write")
        written = 0
        while not protocol.count("pause_writing"):
            transport.write(bytes(1 << 20))
            written += 1 << 20
        await in_thread(receive_and_send, peer, written)
        await protocol.called("resume_writing")
        await protocol.called("data_received")
        variable.set("caller of close")
        transport.close()
        await in_thread(peer.end)
        await protocol.called("connection_lost")
    # The end is told by whoever notices it: the reader.
    assert protocol.seen == {
        "connection_made": "creator",
        "data_received": "creator",
        "pause_writing": "caller of write",
        "resume_writing": creator_or("caller of write"),
        "eof_received": "creator",
        "connection_lost": "creator",
    }


@pytest.mark.parametrize("kind_of_protocol", [NotingProtocol, NotingBufferedProtocol])
async def test_tls_that_the_peer_ends_calls_in_the_context_of_the_connecting_task(
    authority: Authority, kind_of_protocol: type[NotingProtocol | NotingBufferedProtocol]
) -> None:
    protocol = kind_of_protocol()
    variable.set("creator")
    async with connected_to_record_peer(protocol, authority) as (_, peer):
        variable.set("test")
        await in_thread(peer.send, b"data")
        await protocol.received(4)
        await in_thread(peer.end)
        await protocol.called("connection_lost")
    assert protocol.count("eof_received") == 1
    assert set(protocol.seen.values()) == {"creator"}


async def test_a_tls_server_calls_in_the_context_of_create_server(
    loop: Loop, authority: Authority
) -> None:
    protocol = NotingProtocol()

    def factory() -> NotingProtocol:
        protocol.note("factory")
        return protocol

    def talk(address: tuple[str, int]) -> None:
        with socket.create_connection(address) as raw:
            peer = RecordPeer(raw, authority.client_context(), server_side=False)
            peer.shake_hands()
            peer.send(b"data")
            peer.end()
            peer.receive()

    server = await within(
        "server",
        lambda: loop.create_server(factory, LOOPBACK, 0, ssl=authority.server_context()),
    )
    variable.set("test")
    await in_thread(talk, server.sockets[0].getsockname())
    await protocol.called("connection_lost")
    server.close()
    await server.wait_closed()
    assert protocol.seen == dict.fromkeys(
        ("factory", "connection_made", "data_received", "eof_received", "connection_lost"),
        "server",
    )


async def test_tls_begun_on_a_connection_calls_in_its_context_or_that_of_start_tls(
    loop: Loop, authority: Authority
) -> None:
    plain, protocol = RecordingProtocol(), NotingProtocol()
    ours, sock = stream_pair("tcp")
    peer = RecordPeer(sock, authority.server_context())
    with sock:
        transport, _ = await within(
            "creator", lambda: loop.create_connection(lambda: plain, sock=ours)
        )
        shaking_hands = in_thread(peer.shake_hands)
        await within(
            "upgrader",
            lambda: loop.start_tls(
                transport, protocol, authority.client_context(), server_hostname=SERVER_NAME
            ),
        )
        await shaking_hands
        await in_thread(peer.send, b"data")
        await protocol.received(4)
        await in_thread(peer.end)
        await protocol.called("connection_lost")
    assert protocol.seen == dict.fromkeys(
        ("data_received", "eof_received", "connection_lost"), creator_or("upgrader")
    )


async def test_an_endpoint_calls_in_the_context_of_the_creating_task_or_of_the_caller(
    loop: Loop,
) -> None:
    protocol = NotingDatagramProtocol()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind((LOOPBACK, 0))
        await within(
            "creator",
            lambda: loop.create_datagram_endpoint(lambda: protocol, remote_addr=peer.getsockname()),
        )
        variable.set("test")
        peer.sendto(b"data", protocol.transport.get_extra_info("sockname"))
        await protocol.called("datagram_received")
    variable.set("caller of sendto")
    # The socket is closed, so the first one is refused; the refusal comes to whoever looks next.
    protocol.transport.sendto(b"refused")
    await protocol.called("error_received")
    protocol.transport.close()
    await protocol.called("connection_lost")
    assert protocol.seen == {
        "connection_made": "creator",
        "datagram_received": "creator",
        "error_received": "creator",
        "connection_lost": "caller of sendto",
    }


async def test_a_read_pipe_calls_in_the_context_of_the_creating_task(loop: Loop) -> None:
    protocol = NotingProtocol()
    reading, writing = open_pipe()
    await within("creator", lambda: loop.connect_read_pipe(lambda: protocol, reading))
    variable.set("test")
    writing.write(b"data")
    await protocol.received(4)
    writing.close()
    await protocol.called("connection_lost")
    assert protocol.seen == dict.fromkeys(
        ("connection_made", "data_received", "eof_received", "connection_lost"), "creator"
    )


async def test_a_write_pipe_calls_in_the_context_of_the_caller(loop: Loop) -> None:
    protocol = NotingProtocol()
    reading, writing = open_pipe()
    await within("creator", lambda: loop.connect_write_pipe(lambda: protocol, writing))
    variable.set("caller of write")
    protocol.transport.write(MUCH)
    variable.set("test")
    with reading:
        draining = in_thread(drain, reading)
        await protocol.called("resume_writing")
        protocol.transport.abort()
        await protocol.called("connection_lost")
        await draining
    assert protocol.seen == {
        "connection_made": "creator",
        "pause_writing": "caller of write",
        "resume_writing": "caller of write",
        "connection_lost": "test",
    }


async def test_a_write_pipe_that_its_reader_leaves_is_lost_in_the_creating_tasks_context(
    loop: Loop,
) -> None:
    protocol = NotingProtocol()
    reading, writing = open_pipe()
    await within("creator", lambda: loop.connect_write_pipe(lambda: protocol, writing))
    variable.set("test")
    reading.close()
    await protocol.called("connection_lost")
    assert protocol.seen == dict.fromkeys(("connection_made", "connection_lost"), "creator")


@pytest.mark.fails_on(
    "asyncio",
    reason="the thread that waits for the child has a context of its own",
    when=sys.version_info < (3, 12),
)
async def test_a_subprocess_calls_in_the_context_of_the_creating_task(loop: Loop) -> None:
    protocol = NotingSubprocessProtocol()
    await within(
        "creator",
        lambda: loop.subprocess_exec(
            lambda: protocol, sys.executable, "-c", "print('data')", stdin=None, stderr=None
        ),
    )
    variable.set("test")
    await protocol.called("connection_lost")
    protocol.transport.close()
    assert protocol.seen == dict.fromkeys(
        (
            "connection_made",
            "pipe_data_received",
            "pipe_connection_lost",
            "process_exited",
            "connection_lost",
        ),
        "creator",
    )
