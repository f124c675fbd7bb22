"""Connected stream sockets: one end for the loop under test, one for a blocking peer.

``connected`` hands one end to the loop as a transport and gives the other to the test, which
reads and writes it in a thread (``support.threads.in_thread``).
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

from support.threads import PEER_TIMEOUT, eventually

#: The kinds of stream that every transport test runs on.
STREAM_KINDS = ("tcp", "unix")

LOOPBACK = "127.0.0.1"


def stream_pair(kind: str) -> tuple[socket.socket, socket.socket]:
    """Return two connected blocking sockets of that kind; the second one has a timeout."""
    if kind == "unix":
        ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        # With the protocol named, as getaddrinfo does: asyncio disables Nagle's algorithm by it.
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
            listener.bind((LOOPBACK, 0))
            listener.listen()
            peer = socket.create_connection(listener.getsockname(), timeout=PEER_TIMEOUT)
            ours, _ = listener.accept()
    peer.settimeout(PEER_TIMEOUT)
    return ours, peer


@contextlib.contextmanager
def open_pair(kind: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give a stream_pair whose first socket does not block; close both at the end."""
    ours, peer = stream_pair(kind)
    with ours, peer:
        ours.setblocking(False)
        yield ours, peer


@contextlib.asynccontextmanager
async def connected(
    protocol: asyncio.BaseProtocol, kind: str = "tcp"
) -> AsyncIterator[tuple[asyncio.Transport, socket.socket]]:
    """Attach one end of a connection to the protocol; give its transport and the peer's socket.

    At the end the transport is aborted if the test did not close it, and is waited for.
    """
    ours, peer = stream_pair(kind)
    with peer:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        try:
            yield transport, peer
        finally:
            if ours.fileno() != -1:
                transport.abort()
            await eventually(lambda: ours.fileno() == -1)


def receive_exactly(sock: socket.socket, count: int) -> bytes:
    """Read that many bytes; raise EOFError if the stream ends before."""
    received = bytearray()
    while len(received) < count:
        chunk = sock.recv(min(count - len(received), 1 << 20))
        if not chunk:
            raise EOFError(f"the stream ended after {len(received)} of {count} bytes")
        received += chunk
    return bytes(received)


def receive_until_eof(sock: socket.socket) -> bytes:
    """Read until the other end has finished writing."""
    received = bytearray()
    while chunk := sock.recv(1 << 20):
        received += chunk
    return bytes(received)


def fill(sock: socket.socket) -> int:
    """Write zeros to a non-blocking socket until it takes no more; return how many it took."""
    total = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            total += sock.send(bytes(1 << 16))
    return total


def reset(sock: socket.socket) -> None:
    """Close a TCP socket with a reset instead of an orderly end of stream."""
    linger_on_with_zero_seconds = b"\x01\x00\x00\x00\x00\x00\x00\x00"
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_on_with_zero_seconds)
    sock.close()
