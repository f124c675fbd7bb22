"""Protocols that write down every call they get, and let a test wait for what it expects.

The user's side of a transport in the contract tests. ``calls`` is the exact sequence;
``log`` the same with runs of data calls folded into one, as chunking is not promised.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from rloop.sync import Event
from support.threads import PEER_TIMEOUT

Call = tuple[str, Any]

#: Whether a stream transport has one context for all its callbacks.
HAS_OWN_CONTEXT = sys.version_info >= (3, 15)


class Journal:
    """A list of calls in order, and a way to wait until it satisfies a condition."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.data = bytearray()
        self.transport: Any = None
        # The protocol may live on another shard than the test.
        self._changed = Event()

    def note(self, name: str, value: Any = None) -> None:
        """Append one call."""
        self.calls.append((name, value))
        self._changed.set()

    @property
    def log(self) -> list[str]:
        """The names of the calls, consecutive repetitions folded into one."""
        names = [name for name, _ in self.calls]
        return [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]]

    def values(self, name: str) -> list[Any]:
        """Return what every call of that name was given."""
        return [value for called, value in self.calls if called == name]

    def count(self, name: str) -> int:
        """Return how often that method was called."""
        return len(self.values(name))

    async def until(self, condition: Callable[[], object], patience: float = PEER_TIMEOUT) -> None:
        """Wait until a call has made the condition true; raise TimeoutError if none does.

        ``patience`` is how long it waits, in seconds.
        """
        async with asyncio.timeout(patience):
            while True:
                # Before the question: what another thread notes after it sets the event again.
                self._changed.clear()
                if condition():
                    return
                await self._changed.wait()

    async def called(self, name: str) -> Any:
        """Wait until that method has been called and return what it was given first."""
        await self.until(lambda: self.count(name))
        return self.values(name)[0]

    async def called_times(self, name: str, count: int) -> None:
        """Wait until that method has been called that often."""
        await self.until(lambda: self.count(name) >= count)

    async def received(self, count: int, patience: float = PEER_TIMEOUT) -> bytes:
        """Wait until that many bytes have come and return all that did."""
        await self.until(lambda: len(self.data) >= count, patience)
        return bytes(self.data)


class RecordingProtocol(Journal, asyncio.Protocol):
    """A stream protocol; ``keep_open`` is what its eof_received answers."""

    def __init__(self, *, keep_open: bool | None = None) -> None:
        super().__init__()
        self._keep_open = keep_open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.note("connection_made", transport)

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.note("data_received", data)

    def eof_received(self) -> bool | None:
        self.note("eof_received")
        return self._keep_open

    def pause_writing(self) -> None:
        self.note("pause_writing")

    def resume_writing(self) -> None:
        self.note("resume_writing")

    def connection_lost(self, exc: Exception | None) -> None:
        self.note("connection_lost", exc)


class RecordingBufferedProtocol(Journal, asyncio.BufferedProtocol):
    """A buffered stream protocol with one buffer of ``size`` bytes."""

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.buffer = bytearray(size)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.note("connection_made", transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        self.note("get_buffer", sizehint)
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]
        self.note("buffer_updated", nbytes)

    def eof_received(self) -> None:
        self.note("eof_received")

    def connection_lost(self, exc: Exception | None) -> None:
        self.note("connection_lost", exc)


class RecordingDatagramProtocol(Journal, asyncio.DatagramProtocol):
    """A datagram protocol."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.note("connection_made", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.note("datagram_received", (data, addr))

    def error_received(self, exc: Exception) -> None:
        self.note("error_received", exc)

    def pause_writing(self) -> None:
        self.note("pause_writing")

    def resume_writing(self) -> None:
        self.note("resume_writing")

    def connection_lost(self, exc: Exception | None) -> None:
        self.note("connection_lost", exc)


class RecordingSubprocessProtocol(Journal, asyncio.SubprocessProtocol):
    """A subprocess protocol; ``data`` is what came on the child's standard output."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.note("connection_made", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            self.data += data
        self.note("pipe_data_received", (fd, data))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self.note("pipe_connection_lost", (fd, exc))

    def process_exited(self) -> None:
        self.note("process_exited")

    def connection_lost(self, exc: Exception | None) -> None:
        self.note("connection_lost", exc)
