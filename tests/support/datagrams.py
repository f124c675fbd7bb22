"""Datagram endpoints of the loop under test, opened and closed around a block."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

from support.peers import LOOPBACK
from support.protocols import RecordingDatagramProtocol
from support.threads import PEER_TIMEOUT, turns

ANY_PORT = (LOOPBACK, 0)


def refusing_socket() -> socket.socket:
    """Return a UDP socket whose address refuses every datagram, and is nobody else's meanwhile.

    It is connected to itself; once it is connected to another, it receives from that one.
    """
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.settimeout(PEER_TIMEOUT)
    sock.bind(ANY_PORT)
    sock.connect(sock.getsockname())
    return sock


@contextlib.asynccontextmanager
async def endpoint(
    protocol: RecordingDatagramProtocol | None = None, **options: Any
) -> AsyncIterator[tuple[Any, RecordingDatagramProtocol]]:
    """Open a datagram endpoint; close it at the end and wait for that.

    The transport is an Any because typeshed's DatagramTransport has no water marks.
    """
    protocol = protocol or RecordingDatagramProtocol()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: protocol, **options)
    try:
        yield transport, protocol
    finally:
        if not protocol.count("connection_lost"):
            transport.abort()
        await protocol.called("connection_lost")
        await turns(1)
