"""Finalizers that call back into a transport, from each place where its loop drops a reference.

A transport holds its protocol, the bytes that wait, and the contexts of its callbacks. The last
reference to each may be the transport's own. Its finalizer then runs in the middle of a call of the
loop, and may use that very transport. Each test makes one transport for each thing it may do.

asyncio is not asked: in the middle of its own methods, it fails in many of these tests.
"""

import asyncio
import contextlib
import contextvars
import gc
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from support.peers import stream_pair
from support.pipes import open_pipe
from support.threads import PEER_TIMEOUT, eventually, in_thread, turns
from support.tls import SERVER_NAME, Authority, wrap_server

pytestmark = pytest.mark.only_on("rloop")

Action = Callable[[Any], object]

ENGINES = ("openssl", "rustls")
KINDS = ("tcp", "unix", *ENGINES, "udp", "unix datagram", "read pipe", "write pipe")

#: More than any socket or pipe takes at once, and a datagram that is sent whole.
LARGE = 4 << 20
DATAGRAM = 1000

variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable")


def call_soon(transport: Any) -> None:
    transport._loop.call_soon(transport.is_closing)


def cancel_a_timer(transport: Any) -> None:
    transport._loop.call_later(3600, transport.is_closing).cancel()


def watch_and_unwatch(transport: Any) -> None:
    ours, peer = socket.socketpair()
    with ours, peer:
        loop = transport._loop
        loop.add_reader(ours, call_soon, transport)
        loop.add_writer(ours, call_soon, transport)
        loop.remove_reader(ours)
        loop.remove_writer(ours)


#: The uses. A transport that has no such method raises AttributeError.
ACTIONS: dict[str, Action] = {
    "write": lambda transport: transport.write(b"late"),
    "writelines": lambda transport: transport.writelines([b"la", b"te"]),
    "sendto": lambda transport: transport.sendto(b"late"),
    "write_eof": lambda transport: transport.write_eof(),
    "close": lambda transport: transport.close(),
    "abort": lambda transport: transport.abort(),
    "pause_reading": lambda transport: transport.pause_reading(),
    "resume_reading": lambda transport: transport.resume_reading(),
    "pause and resume": lambda transport: (transport.pause_reading(), transport.resume_reading()),
    "set_protocol": lambda transport: transport.set_protocol(Receiver(transport)),
    "get_protocol": lambda transport: transport.get_protocol(),
    "get_extra_info": lambda transport: transport.get_extra_info("socket"),
    "set_write_buffer_limits": lambda transport: transport.set_write_buffer_limits(0),
    "get_write_buffer_size": lambda transport: transport.get_write_buffer_size(),
    "repr": repr,
    "call_soon": call_soon,
    "cancel a timer": cancel_a_timer,
    "watch and unwatch": watch_and_unwatch,
}


class Log:
    """How often each thing happened to a transport."""

    def __init__(self) -> None:
        self.made = 0
        self.lost = 0
        self.finalized = 0
        self.transport: Any = None
        self.action: Action | None = None

    def finalize(self) -> None:
        """Run the action, once it is set and as long as there is a transport."""
        if self.action is None or self.transport is None:
            return
        self.finalized += 1
        # As asyncio's transports refuse what does not fit their state.
        with contextlib.suppress(AttributeError, RuntimeError, TypeError, OSError):
            self.action(self.transport)


class Receiver(asyncio.Protocol, asyncio.DatagramProtocol):
    """A protocol that counts."""

    def __init__(self, log: Any) -> None:
        self.log = log if isinstance(log, Log) else logs[id(log)]

    def connection_made(self, transport: Any) -> None:
        self.log.made += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.log.lost += 1


#: By the identity of a transport, for a protocol that a finalizer makes.
logs: dict[int, Log] = {}


class Finalized(Receiver):
    """A protocol whose finalizer uses the transport."""

    def __del__(self) -> None:
        self.log.finalize()


class FinalizedBytes(bytes):
    """Bytes whose finalizer uses the transport."""

    log: Log

    def __del__(self) -> None:
        self.log.finalize()


class FinalizedValue:
    """A value of a context variable whose finalizer uses the transport."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def __del__(self) -> None:
        self.log.finalize()


def receive(peer: Any) -> Any:
    """Read what is there."""
    return peer.recv(1 << 20) if hasattr(peer, "recv") else peer.read(1 << 20)


def drain(peer: Any) -> None:
    """Read until the other side has ended, or is gone."""
    with contextlib.suppress(OSError):
        while receive(peer):
            pass


@contextlib.asynccontextmanager
async def opened(kind: str, log: Log, authority: Authority) -> AsyncIterator[Any]:
    """Open a transport with a finalized protocol; give the peer, which the test drains."""
    loop = asyncio.get_running_loop()
    factory = lambda: Finalized(log)  # noqa: E731
    peer: Any
    if kind in {"tcp", "unix"}:
        ours, peer = stream_pair(kind)
        log.transport = (await loop.create_connection(factory, sock=ours))[0]
    elif kind in ENGINES:
        authority = authority.serving(kind)
        ours, peer = stream_pair("tcp")
        wrapping = in_thread(wrap_server, authority.server_context(), peer)
        log.transport = (
            await loop.create_connection(
                factory, sock=ours, ssl=authority.client_context(), server_hostname=SERVER_NAME
            )
        )[0]
        peer = await wrapping
        peer.settimeout(PEER_TIMEOUT)
    elif kind == "udp":
        peer = socket.socket(type=socket.SOCK_DGRAM)
        peer.settimeout(PEER_TIMEOUT)
        peer.bind(("127.0.0.1", 0))
        log.transport = (
            await loop.create_datagram_endpoint(factory, remote_addr=peer.getsockname())
        )[0]
    elif kind == "unix datagram":
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        peer.settimeout(PEER_TIMEOUT)
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/peer"
            peer.bind(path)
            log.transport = (
                await loop.create_datagram_endpoint(
                    factory, remote_addr=path, family=socket.AF_UNIX
                )
            )[0]
    elif kind == "read pipe":
        reading, peer = open_pipe()
        log.transport = (await loop.connect_read_pipe(factory, reading))[0]
    else:
        peer, writing = open_pipe()
        log.transport = (await loop.connect_write_pipe(factory, writing))[0]
    logs[id(log.transport)] = log
    try:
        yield peer
    finally:
        log.action = None
        transport, log.transport = log.transport, None
        if not log.lost:
            (transport.close if kind == "read pipe" else transport.abort)()
        await eventually(lambda: log.lost)
        await turns(2)
        del logs[id(transport)]
        peer.close()


def fill(kind: str, log: Log) -> None:
    """Write more than the peer takes, with bytes that nobody else refers to."""
    datagrams = "datagram" in kind or kind == "udp"
    for _ in range(1000 if datagrams else 2):
        data = FinalizedBytes(DATAGRAM if datagrams else LARGE)
        data.log = log
        if datagrams:
            log.transport.sendto(data)
        else:
            log.transport.write(data)
        if log.transport.get_write_buffer_size():
            return


every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.replace(" ", "-"))
writing_kinds = pytest.mark.parametrize(
    "kind",
    [kind for kind in KINDS if kind not in {"read pipe", "udp"}],
    ids=lambda kind: kind.replace(" ", "-"),
)


@every_kind
async def test_a_replaced_protocol_uses_the_transport_when_it_is_finalized(
    kind: str, authority_of_the_run: Authority
) -> None:
    for name, action in ACTIONS.items():
        log = Log()
        async with opened(kind, log, authority_of_the_run):
            log.action = action
            log.transport.set_protocol(Receiver(log))
            await turns(3)
            gc.collect()
            assert log.finalized == 1, name
        assert (log.made, log.lost) == (1, 1), name


@every_kind
@pytest.mark.parametrize("end", ["close", "abort", "peer"])
async def test_a_protocol_uses_the_transport_that_has_let_go_of_it(
    kind: str, end: str, authority_of_the_run: Authority
) -> None:
    for name, action in ACTIONS.items():
        log = Log()
        async with opened(kind, log, authority_of_the_run) as peer:
            log.action = action
            draining = None
            if end == "peer" and "datagram" not in kind and kind != "udp":
                peer.close()
            elif end == "abort" and kind != "read pipe":
                log.transport.abort()
            else:
                if kind in ENGINES:
                    # The connection waits for the peer's part of the end.
                    draining = in_thread(drain, peer)
                log.transport.close()
            if draining is not None:
                await draining
                peer.close()
            await eventually(lambda log=log: log.lost)  # type: ignore[misc]
            await turns(3)
            gc.collect()
            assert log.finalized == 1, name
        assert (log.made, log.lost) == (1, 1), name


@writing_kinds
@pytest.mark.parametrize("end", ["sent", "abort"])
async def test_bytes_that_waited_use_the_transport_when_they_are_dropped(
    kind: str, end: str, authority_of_the_run: Authority
) -> None:
    for name, action in ACTIONS.items():
        log = Log()
        async with opened(kind, log, authority_of_the_run) as peer:
            fill(kind, log)
            gc.collect()
            log.action = action
            if end == "abort":
                log.transport.abort()
                await eventually(lambda log=log: log.lost)  # type: ignore[misc]
            else:
                if isinstance(peer, socket.socket):
                    peer.setblocking(False)
                else:
                    os.set_blocking(peer.fileno(), False)
                async with asyncio.timeout(PEER_TIMEOUT):
                    while not (log.finalized or log.lost):
                        with contextlib.suppress(OSError):
                            receive(peer)
                        await asyncio.sleep(0)
            await turns(3)
            gc.collect()
        assert log.finalized >= 1, name
        assert (log.made, log.lost) == (1, 1), name


@writing_kinds
async def test_a_context_variable_uses_the_transport_that_kept_its_context(
    kind: str, authority_of_the_run: Authority
) -> None:
    for name, action in ACTIONS.items():
        log = Log()
        async with opened(kind, log, authority_of_the_run):

            def write(log: Log = log) -> None:
                variable.set(FinalizedValue(log))
                fill(kind, log)

            contextvars.copy_context().run(write)
            gc.collect()
            log.action = action
            log.transport.abort()
            await eventually(lambda log=log: log.lost)  # type: ignore[misc]
            await turns(3)
            gc.collect()
            assert log.finalized >= 1, name
        assert (log.made, log.lost) == (1, 1), name
