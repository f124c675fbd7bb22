"""asyncio's streams in a loop that has several shards.

A stream reader and the protocol that feeds it belong to their connection's shard: they check and
then change their state, which is right only as long as one thread does it. But programs hand
readers and writers around. So on other shards, the methods that wait (``read()`` and the like,
``drain()``) run as a task on the home shard, behind the caller's earlier writes.
"""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rloop.loop import TokioLoop


class _Home:
    """The home of an object that the standard library made."""

    # Nothing of its own, and behind the class it extends, so that the objects keep their layout.
    if not TYPE_CHECKING:
        __slots__ = ()

    _event_loop: "TokioLoop"
    _shard: int

    def _settle(self, event_loop: "TokioLoop", shard: int) -> None:
        self._event_loop = event_loop
        self._shard = shard

    def _is_at_home(self) -> bool:
        """True on the home shard."""
        return self._event_loop._current_shard() == self._shard


class StreamReader(asyncio.StreamReader, _Home):
    """An ``asyncio.StreamReader`` that can be read on any shard, by one task at a time."""

    async def read(self, n: int = -1) -> bytes:
        """Read up to `n` bytes. See :meth:`asyncio.StreamReader.read`."""
        return await self._read_at_home(super().read(n))

    async def readexactly(self, n: int) -> bytes:
        """Read exactly `n` bytes. See :meth:`asyncio.StreamReader.readexactly`."""
        return await self._read_at_home(super().readexactly(n))

    async def readline(self) -> bytes:
        """Read a line. See :meth:`asyncio.StreamReader.readline`."""
        return await self._read_at_home(super().readline())

    async def readuntil(self, separator: Any = b"\n") -> bytes:
        """Read up to a separator. See :meth:`asyncio.StreamReader.readuntil`."""
        return await self._read_at_home(super().readuntil(separator))

    async def _read_at_home(self, reading: Coroutine[Any, Any, bytes]) -> bytes:
        """Await `reading` on the home shard.

        A cancellation may come when `reading` has taken bytes out of the buffer already. asyncio
        never loses bytes in this way, so they are put back.
        """
        if self._is_at_home():
            return await reading
        from rloop._shards import on_shard

        future = on_shard(self._shard, reading)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                error = future.exception()
                if error is None:
                    self._put_back(future.result())
                elif isinstance(error, asyncio.IncompleteReadError):
                    self._put_back(error.partial)
            raise

    def _put_back(self, data: bytes) -> None:
        # The caller's next read is behind this in the inbox of the home shard.
        context = self._event_loop._home_context(self._shard)
        buffer: bytearray = self._buffer  # type: ignore[attr-defined]
        self._event_loop.call_soon_threadsafe(
            buffer.__setitem__, slice(0, 0), data, context=context
        )


class StreamReaderProtocol(asyncio.StreamReaderProtocol, _Home):
    """An ``asyncio.StreamReaderProtocol`` whose writer can be drained on any shard."""

    async def _drain_helper(self) -> None:
        draining: Coroutine[Any, Any, None] = super()._drain_helper()  # type: ignore[misc]
        if self._is_at_home():
            return await draining
        from rloop._shards import on_shard

        return await on_shard(self._shard, draining)


def adopt(event_loop: "TokioLoop", protocol: object, context: contextvars.Context | None) -> None:
    """Give the streams behind a protocol of the standard library their home.

    It is the home that `context` names, which the transport will run in, or else the present one.
    """
    if type(protocol) is not asyncio.StreamReaderProtocol:
        return
    shard = None if context is None else event_loop._home_of(context)
    if shard is None:
        shard = event_loop._home_here()
    reader = protocol._stream_reader  # type: ignore[attr-defined]
    protocol.__class__ = StreamReaderProtocol
    assert isinstance(protocol, StreamReaderProtocol)
    protocol._settle(event_loop, shard)
    if type(reader) is asyncio.StreamReader:
        reader.__class__ = StreamReader
        assert isinstance(reader, StreamReader)
        reader._settle(event_loop, shard)
