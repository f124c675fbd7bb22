"""asyncio's streams in a loop that has several shards.

A stream reader and the protocol that feeds it belong to their connection's shard: they check and
then change their state, which is right only as long as one thread does it. But programs hand
readers and writers around. So on other shards, what waits (``read()`` and its kin, ``drain()``)
runs as a task on the home shard, behind what the caller wrote before.
"""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rloop.loop import TokioLoop

_T = TypeVar("_T")


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

    async def _at_home(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Await `coroutine` on the home shard."""
        if self._event_loop._current_shard() == self._shard:
            return await coroutine
        from rloop._shards import on_shard

        return await on_shard(self._shard, coroutine)


class StreamReader(asyncio.StreamReader, _Home):
    """An ``asyncio.StreamReader`` that can be read on any shard, by one task at a time."""

    async def read(self, n: int = -1) -> bytes:
        """Read up to `n` bytes. See :meth:`asyncio.StreamReader.read`."""
        return await self._at_home(super().read(n))

    async def readexactly(self, n: int) -> bytes:
        """Read exactly `n` bytes. See :meth:`asyncio.StreamReader.readexactly`."""
        return await self._at_home(super().readexactly(n))

    async def readline(self) -> bytes:
        """Read a line. See :meth:`asyncio.StreamReader.readline`."""
        return await self._at_home(super().readline())

    async def readuntil(self, separator: Any = b"\n") -> bytes:
        """Read up to a separator. See :meth:`asyncio.StreamReader.readuntil`."""
        return await self._at_home(super().readuntil(separator))


class StreamReaderProtocol(asyncio.StreamReaderProtocol, _Home):
    """An ``asyncio.StreamReaderProtocol`` whose writer can be drained on any shard."""

    async def _drain_helper(self) -> None:
        await self._at_home(super()._drain_helper())  # type: ignore[misc]


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
