"""Datagram endpoints of the loop under test, opened and closed around a block."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from support.peers import LOOPBACK
from support.protocols import RecordingDatagramProtocol
from support.threads import turns

ANY_PORT = (LOOPBACK, 0)


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
