"""Objects with a buffer as arguments of the writing methods: which bytes are sent, and what fails.

A class may override its length, its truth value and, from Python 3.12 on, its buffer (PEP 688).
"""

import array
import asyncio
import contextlib
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support.datagrams import ANY_PORT
from support.leaks import LeakGuard
from support.loops import factory_of
from support.peers import connected, fill, receive_exactly, receive_until_eof, stream_pair
from support.pipes import open_pipe
from support.protocols import RecordingDatagramProtocol, RecordingProtocol
from support.threads import PEER_TIMEOUT, in_thread
from support.tls import Authority, tls_connected

HAS_BUFFER_METHOD = sys.version_info >= (3, 12)
BUFFER = b"from the buffer"
OWN = b"bytes of its own"[: len(BUFFER)]

needs_buffer_method = pytest.mark.skipif(
    not HAS_BUFFER_METHOD, reason="classes cannot override their buffer before 3.12"
)


class Subclass(bytes):
    """Overrides nothing that matters."""


class Buffer(bytes):
    """Another buffer of the same length."""

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(BUFFER)


class MutableBuffer(bytearray):
    """The same of a mutable class."""

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(BUFFER)


class RaisingBuffer(bytes):
    """A buffer that cannot be had."""

    def __buffer__(self, flags: int) -> memoryview:
        raise ZeroDivisionError("__buffer__")


class False_(bytes):  # noqa: N801
    """Bytes that are false."""

    def __bool__(self) -> bool:
        return False


class FalseArray(bytearray):
    """The same of a mutable class."""

    def __bool__(self) -> bool:
        return False


class RaisingTruth(bytes):
    """Bytes without a truth value."""

    def __bool__(self) -> bool:
        raise ZeroDivisionError("__bool__")


class RaisingLength(bytes):
    """Bytes without a length."""

    def __len__(self) -> int:
        raise ZeroDivisionError("__len__")


def released() -> memoryview:
    view = memoryview(b"released")
    view.release()
    return view


OBJECTS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: b"bytes",
    "subclass": lambda: Subclass(OWN),
    "false": lambda: False_(OWN),
    "false array": lambda: FalseArray(OWN),
    "raising truth": lambda: RaisingTruth(OWN),
    "raising length": lambda: RaisingLength(OWN),
    "integers": lambda: memoryview(array.array("I", [1, 2, 3])),
    "two dimensions": lambda: memoryview(b"matrix").cast("B", (2, 3)),
    "no dimension": lambda: memoryview(b"x").cast("B", ()),
    "not contiguous": lambda: memoryview(b"abcdef")[::2],
    "backwards": lambda: memoryview(b"abcdef")[::-1],
    "released": released,
    "text": lambda: "text",
    "nothing": lambda: None,
    "number": lambda: 3,
    "array": lambda: array.array("I", [1, 2, 3]),
}
if HAS_BUFFER_METHOD:
    OBJECTS |= {
        "buffer": lambda: Buffer(OWN),
        "mutable buffer": lambda: MutableBuffer(OWN),
        "raising buffer": lambda: RaisingBuffer(OWN),
    }

Sender = Callable[[Any, Any], None]

WRITES: dict[str, Sender] = {
    "write": lambda transport, data: transport.write(data),
    # asyncio 3.15 keeps what comes before a chunk that it refuses, and closes no more.
    "writelines": lambda transport, data: transport.writelines([data, b">"]),
    "writelines of it": lambda transport, data: transport.writelines(data),
}

Outcome = tuple[Any, ...]


def attempt(send: Sender, transport: Any, data: Any) -> str | None:
    """Return what the call raises."""
    try:
        send(transport, data)
    except Exception as error:
        return repr(error)
    return None


def receive_until_closed(peer: socket.socket) -> bytes:
    """Read until the other side has ended, in whatever way."""
    received = bytearray()
    with contextlib.suppress(OSError):
        while chunk := peer.recv(1 << 16):
            received += chunk
    return bytes(received)


async def outcome_on_stream(kind: str, send: Sender, data: Any, authority: Authority) -> Outcome:
    """Return what the call raised, what arrived, and how the connection ended."""
    protocol = RecordingProtocol()
    is_secure = kind == "tls"
    # On the server's side: a client that closes at once resets the connection if it has not read
    # the session tickets of the server.
    connection: Any = (
        tls_connected(protocol, authority, "server") if is_secure else connected(protocol, kind)
    )
    async with connection as (transport, peer):
        raised = attempt(send, transport, data)
        transport.close()
        arrived = await in_thread(receive_until_closed, peer)
        peer.close()
        return raised, arrived, repr(await protocol.called("connection_lost"))


async def outcome_on_pipe(send: Sender, data: Any) -> Outcome:
    reading, writing = open_pipe()
    protocol = RecordingProtocol()
    with reading:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_write_pipe(lambda: protocol, writing)
        raised = attempt(send, transport, data)
        transport.close()
        arrived = await in_thread(reading.read)
        return raised, arrived, repr(await protocol.called("connection_lost"))


async def outcome_of_datagram(peer: socket.socket, data: Any, *, is_connected: bool) -> Outcome:
    """Return what the call raised, the first datagram that arrived, and how the transport ended."""
    protocol = RecordingDatagramProtocol()
    address: Any = peer.getsockname()
    options: Any = {"remote_addr": address} if is_connected else {"local_addr": ANY_PORT}
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: protocol, **options)
    raised = attempt(
        lambda transport, data: transport.sendto(data, None if is_connected else address),
        transport,
        data,
    )
    transport.close()
    lost = repr(await protocol.called("connection_lost"))
    with socket.socket(type=socket.SOCK_DGRAM) as marker:
        marker.sendto(b"the end", address)
    return raised, await in_thread(peer.recv, 100), lost, protocol.values("error_received")


async def outcome_of_sock_sendall(data: Any) -> Outcome:
    ours, peer = stream_pair("unix")
    loop = asyncio.get_running_loop()
    ours.setblocking(False)
    with peer, ours:
        try:
            await loop.sock_sendall(ours, data)
        except Exception as error:
            return repr(error), b""
        ours.close()
        return None, await in_thread(receive_until_eof, peer)


async def outcomes(data: Callable[[], Any], authority: Authority) -> dict[str, Outcome]:
    """Return the outcome of every way to send such an object."""
    reports: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, report: reports.append((report["message"], repr(report["exception"])))
    )
    seen: dict[str, Outcome] = {}

    async def see(name: str, outcome: Awaitable[Outcome]) -> None:
        raised, arrived, *rest = await outcome
        if raised is not None and name.startswith("tls writelines"):
            # A chunk without a length stays in asyncio's backlog, and ends the connection later.
            seen[name] = (raised,)
        elif reports:
            seen[name] = (raised, *rest, *dict.fromkeys(reports))
        else:
            seen[name] = (raised, arrived, *rest)
        reports.clear()

    for name, send in WRITES.items():
        for kind in ("unix", "tls"):
            await see(f"{kind} {name}", outcome_on_stream(kind, send, data(), authority))
        await see(f"pipe {name}", outcome_on_pipe(send, data()))
    for is_connected in (False, True):
        with socket.socket(type=socket.SOCK_DGRAM) as peer:
            peer.settimeout(PEER_TIMEOUT)
            peer.bind(ANY_PORT)
            outcome = outcome_of_datagram(peer, data(), is_connected=is_connected)
            await see(f"sendto {is_connected}", outcome)
    await see("sock_sendall", outcome_of_sock_sendall(data()))
    return seen


#: asyncio compares how many items these have with how many bytes are gone: it waits for ever, or
#: fails when all is sent.
COUNTED_BY_ITEMS = {"integers", "two dimensions", "array"}
if sys.version_info < (3, 12):
    # Here it has no index rather than no length, so it fails likewise.
    COUNTED_BY_ITEMS.add("no dimension")


@pytest.mark.only_on("rloop")
@pytest.mark.parametrize("name", [name for name in OBJECTS if name not in COUNTED_BY_ITEMS])
def test_every_writing_method_does_with_an_object_what_asyncio_does(
    name: str, loop_name: str, authority_of_the_run: Authority
) -> None:
    seen = {}
    for loop_of in ("asyncio", loop_name):
        with asyncio.Runner(loop_factory=factory_of(loop_of)) as runner:
            seen[loop_of] = runner.run(outcomes(OBJECTS[name], authority_of_the_run))
    assert seen[loop_name] == seen["asyncio"]


@needs_buffer_method
@pytest.mark.parametrize("data", [Buffer, MutableBuffer])
@pytest.mark.parametrize("name", ["write", "writelines"])
async def test_the_buffer_that_a_class_overrides_is_sent(
    kind: str, name: str, data: Callable[[bytes], Any]
) -> None:
    async with connected(RecordingProtocol(), kind) as (transport, peer):
        WRITES[name](transport, data(OWN))
        expected = BUFFER if name == "write" else BUFFER + b">"
        assert await in_thread(receive_exactly, peer, len(expected)) == expected


@needs_buffer_method
async def test_the_buffer_that_a_class_overrides_waits_for_room(kind: str) -> None:
    async with connected(RecordingProtocol(), kind) as (transport, peer):
        with transport.get_extra_info("socket").dup() as sock:
            filled = fill(sock)
        transport.write(Buffer(OWN))
        assert transport.get_write_buffer_size() == len(BUFFER)
        transport.writelines([Buffer(OWN), MutableBuffer(OWN)])
        expected = bytes(filled) + BUFFER * 3
        assert await in_thread(receive_exactly, peer, len(expected)) == expected


@pytest.mark.parametrize("data", [False_, FalseArray])
async def test_write_sends_nothing_of_what_is_false(
    kind: str, data: Callable[[bytes], Any]
) -> None:
    async with connected(RecordingProtocol(), kind) as (transport, peer):
        transport.write(data(OWN))
        transport.write(b"usable")
        assert await in_thread(receive_exactly, peer, 6) == b"usable"


async def test_a_view_that_is_not_contiguous_ends_the_connection(
    kind: str, guard: LeakGuard
) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, _):
        transport.write(memoryview(b"abcdef")[::2])
        assert isinstance(await protocol.called("connection_lost"), BufferError)
    (report,) = guard.take_reports()
    assert report["message"] == "Fatal write error on socket transport"
