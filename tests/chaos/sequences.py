"""Random sequences of loop operations with random failures, and the promises that must hold.

A sequence makes a loop and some connections (TCP, Unix, TLS by both engines, pipes, datagrams).
Each protocol method then performs random operations: it writes, pauses, closes, aborts, raises,
starves the interpreter of memory, resets the connection, or makes garbage whose finalizer performs
an operation. Whatever happens, these promises hold on asyncio and on TokioLoop:

- received bytes are a prefix of the bytes sent, and all of them if the stream ended in order;
- every connection that was made is lost, exactly once;
- only a raised ``SystemExit`` or ``KeyboardInterrupt`` leaves ``run_forever()``;
- the exception handler receives only injected exceptions and failures of system calls;
- the sequence ends: nothing waits without end.
"""

import asyncio
import contextlib
import gc
import importlib.util
import os
import random
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import rloop
from rloop import tls
from support.loops import LoopFactory
from support.tls import Authority

#: CPython's own test module, which distributions leave out. Without it, no allocation fails.
_testcapi: Any = (
    importlib.import_module("_testcapi") if importlib.util.find_spec("_testcapi") else None
)

#: Operations in one sequence, at most.
BUDGET = 120
#: Operations' worth of time that connections get to close before they are aborted.
ENDING = 2_000
#: Seconds until a sequence that has not ended counts as hanging.
PATIENCE = 30.0
#: The contents of every stream: the byte at offset i is PATTERN[i % PERIOD].
PERIOD = 251
PATTERN = bytes(range(PERIOD)) * 2
SIZES = (1, 10, 1_000, 16_384, 70_000, 300_000)


#: The contexts (server, client) of each TLS engine.
Contexts = dict[str, list[ssl.SSLContext]]


class InjectedError(Exception):
    """An exception that a sequence raises on purpose."""


class InjectedExit(SystemExit):
    """A SystemExit that a sequence raises on purpose."""


INJECTED = (InjectedError, asyncio.CancelledError, MemoryError)

#: Failures of asyncio's own transports after their end. They also forget `connection_lost()` when
#: they run out of memory, so they are not starved of it.
ASYNCIO_FAILURES = (AttributeError,)


class BrokenPromiseError(AssertionError):
    """A promise that did not hold."""


def stretch(offset: int, count: int) -> bytes:
    """Return the bytes of a stream from an offset on."""
    start = offset % PERIOD
    repeated = PATTERN * (count // len(PATTERN) + 2)
    return repeated[start : start + count]


class Finalizer:
    """Garbage that performs an operation when it is collected."""

    def __init__(self, operation: Callable[[], Any]) -> None:
        self._operation = operation
        self._cycle = self

    def __del__(self) -> None:
        self._operation()


class Connection:
    """Two sides of one stream, or one direction of it for a pipe."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.disturbed = False
        """A side has aborted, raised or been reset, so data may be lost."""
        self.sides: list[Side] = []

    def peer_of(self, side: "Side") -> "Side | None":
        return next((other for other in self.sides if other is not side), None)


class Side(asyncio.Protocol):
    """One side of a connection: performs operations, and keeps account of the bytes."""

    def __init__(self, sequence: "Sequence", connection: Connection) -> None:
        self.sequence = sequence
        self.connection = connection
        connection.sides.append(self)
        self.transport: Any = None
        # Finalizers run on any thread, and inside of other operations.
        self._lock = threading.RLock()
        self._is_writing = False
        self.sent = 0
        self.received = 0
        self.made = 0
        self.lost = 0
        self.is_shut = False
        """This side has sent its end, or closed."""
        self.is_deaf = False
        """This side has closed."""
        self.reads = self.writes = True

    def __repr__(self) -> str:
        return (
            f"<side of {self.connection.kind}: sent={self.sent} received={self.received} "
            f"made={self.made} lost={self.lost} transport={self.transport!r}>"
        )

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.made += 1
        self.sequence.act(self)

    def data_received(self, data: bytes) -> None:
        if data != stretch(self.received, len(data)):
            self.sequence.broken(f"{self!r} received other bytes than were sent")
        self.received += len(data)
        self.sequence.act(self)

    def eof_received(self) -> bool:
        peer = self.connection.peer_of(self)
        is_whole = not peer or self.received == peer.sent
        if not is_whole and not self.is_deaf and not self.connection.disturbed:
            self.sequence.broken(f"{self!r} received EOF before all bytes of {peer!r}")
        self.sequence.act(self)
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost += 1
        if self.lost > 1:
            self.sequence.broken(f"{self!r} was lost twice")
        if exc is not None:
            self.connection.disturbed = True
            if not isinstance(exc, (OSError, *INJECTED)):
                self.sequence.broken(f"{self!r} was lost by {exc!r}")
        self.sequence.act(self)

    def pause_writing(self) -> None:
        self.sequence.act(self)

    def resume_writing(self) -> None:
        self.sequence.act(self)

    # The operations.

    @contextlib.contextmanager
    def next_bytes(self, size: int) -> Iterator[bytes]:
        """Give the next bytes of the stream to who writes them, or none to a nested write.

        A finalizer may write between the moment the bytes are chosen and the moment they are
        written. Its bytes would then be the same ones.
        """
        with self._lock:
            if self._is_writing or not self.is_open():
                yield b""
                return
            self._is_writing = True
            try:
                yield stretch(self.sent, size)
                self.sent += size
            finally:
                self._is_writing = False

    def write(self) -> None:
        with self.next_bytes(self.sequence.random.choice(SIZES)) as data:
            if data:
                self.transport.write(data)

    def writelines(self) -> None:
        sizes = [self.sequence.random.choice(SIZES[:4]) for _ in range(3)]
        with self.next_bytes(sum(sizes)) as data:
            if data:
                parts = [data[sum(sizes[:n]) : sum(sizes[: n + 1])] for n in range(3)]
                self.transport.writelines(parts)

    def close(self) -> None:
        # Data that arrives after this is dropped.
        self.is_shut = self.is_deaf = True
        self.transport.close()

    def abort(self) -> None:
        self.connection.disturbed = True
        self.is_shut = True
        self.end_now()

    def end_now(self) -> None:
        if self.writes:
            self.transport.abort()
        else:
            self.transport.close()

    def write_eof(self) -> None:
        if self.is_open() and self.transport.can_write_eof():
            self.is_shut = True
            self.transport.write_eof()

    def pause(self) -> None:
        if self.reads and not self.transport.is_closing():
            self.transport.pause_reading()
            # A sequence that stops here still goes on.
            self.sequence.loop.call_later(0.001, self.resume)

    def resume(self) -> None:
        if self.reads and not self.transport.is_closing():
            self.transport.resume_reading()

    def limit(self) -> None:
        if self.writes:
            self.transport.set_write_buffer_limits(self.sequence.random.choice([0, 1, 1 << 20]))

    def ask(self) -> None:
        self.transport.get_extra_info("socket")
        self.transport.is_closing()
        repr(self.transport)

    def reset(self) -> None:
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.type == socket.SOCK_STREAM and sock.family != socket.AF_UNIX:
            self.connection.disturbed = True
            self.is_shut = True
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    def is_open(self) -> bool:
        return self.writes and not self.is_shut and not self.transport.is_closing()

    OPERATIONS = (
        write,
        write,
        write,
        writelines,
        close,
        abort,
        write_eof,
        pause,
        limit,
        ask,
        reset,
    )


class BufferedSide(Side, asyncio.BufferedProtocol):
    """A side that gives the buffer to receive into."""

    def __init__(self, sequence: "Sequence", connection: Connection) -> None:
        super().__init__(sequence, connection)
        # asyncio's TLS protocol loses data that it receives into a bytearray.
        self._buffer = memoryview(bytearray(sequence.random.choice([1, 100, 65_536])))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        Side.data_received(self, bytes(self._buffer[:nbytes]))


class Sequence:
    """One random sequence on one loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seed: int, contexts: Contexts, *, starves: bool
    ) -> None:
        self.loop = loop
        self.random = random.Random(seed)
        self.contexts = contexts
        self.left = self.random.randrange(5, BUDGET)
        self.failures: list[str] = []
        self.connections: list[Connection] = []
        is_asyncio = type(loop) is asyncio.SelectorEventLoop
        self.shards = len(loop.statistics()) if isinstance(loop, rloop.TokioLoop) else 1
        self.starves = starves and _testcapi is not None and not is_asyncio
        self.expected = (OSError, *INJECTED, *(ASYNCIO_FAILURES if is_asyncio else ()))
        loop.set_exception_handler(self.report)

    def broken(self, message: str) -> None:
        self.failures.append(message)

    def report(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        # An exit ends the run and the task that raised it, whose outcome nobody asks for.
        is_exit_of_task = isinstance(error, InjectedExit) and "future" in context
        if not isinstance(error, self.expected) and not is_exit_of_task:
            self.broken(f"the exception handler received {context!r}")

    def unraisable(self, unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, (*self.expected, InjectedExit)):
            self.broken(f"unraisable in {unraisable.object!r}: {unraisable.exc_value!r}")

    # What a side may do.

    def act(self, side: Side) -> None:
        """Perform a few random operations for a side, the last of which may raise."""
        if self.left <= 0 or side.transport is None:
            return
        for _ in range(self.random.randrange(4)):
            self.left -= 1
            self.operate(side)
        if self.random.random() < 0.06:
            side.connection.disturbed = True
            side.is_shut = True
            self.fail()

    def operate(self, side: Side) -> None:
        operation = self.random.choice(Side.OPERATIONS)
        match self.random.randrange(12):
            case 0:
                self.loop.call_soon(operation, side)
            case 1:
                self.loop.call_later(self.random.random() * 0.002, operation, side).cancelled()
            case 2:
                self.loop.call_later(60, operation, side).cancel()
            case 3:
                Finalizer(lambda: operation(side))
            case 4:
                gc.collect(0)
            case 5:
                self.start_task(side, operation)
            case 6 if self.starves:
                self.starve(side, operation)
            case 7:
                self.loop.call_soon(self.fail)
            case _:
                operation(side)

    def fail(self) -> None:
        chosen = self.random.random()
        if chosen < 0.1:
            raise InjectedExit(3)
        if chosen < 0.3:
            raise asyncio.CancelledError
        raise InjectedError

    def start_task(self, side: Side, operation: Callable[[Side], None]) -> None:
        async def step() -> None:
            await asyncio.sleep(0)
            operation(side)
            await asyncio.sleep(self.random.choice([0, 0.001, 60]))

        task = self.loop.create_task(step())
        self.loop.call_later(0.002, task.cancel)

    def starve(self, side: Side, operation: Callable[[Side], None]) -> None:
        """Let one allocation of an operation fail."""
        side.connection.disturbed = True
        side.is_shut = True
        first = self.random.randrange(40)
        try:
            _testcapi.set_nomemory(first, first + 1)
            try:
                operation(side)
            finally:
                _testcapi.remove_mem_hooks()
        except (MemoryError, SystemError):
            side.end_now()

    # What a sequence begins with.

    async def open_all(self) -> None:
        kinds = ["tcp", "unix", "openssl", "rustls", "pipe", "datagram", "waiters"]
        for kind in self.random.choices(kinds, k=self.random.randrange(1, 4)):
            with contextlib.suppress(OSError, *INJECTED):
                await asyncio.wait_for(getattr(self, f"open_{kind}")(), PATIENCE)

    def side(self, connection: Connection) -> Side:
        kind = self.random.choice([Side, Side, BufferedSide])
        return kind(self, connection)

    def pair(self, family: int) -> tuple[socket.socket, socket.socket]:
        if family == socket.AF_UNIX:
            return socket.socketpair()
        with socket.create_server(("127.0.0.1", 0)) as server:
            one = socket.create_connection(server.getsockname())
            other = server.accept()[0]
        if self.random.random() < 0.5:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return one, other

    def connect(self, kind: str) -> Connection:
        connection = Connection(kind)
        self.connections.append(connection)
        return connection

    async def place(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on a random shard of the loop."""
        if self.shards == 1:
            return await coroutine
        return await rloop.on_shard(self.random.randrange(self.shards), coroutine)

    async def open_tcp(self, kind: str = "tcp", family: int = socket.AF_INET) -> None:
        connection = self.connect(kind)
        for sock in self.pair(family):
            sock.setblocking(False)
            await self.place(self.loop.connect_accepted_socket(lambda: self.side(connection), sock))

    async def open_unix(self) -> None:
        await self.open_tcp("unix", socket.AF_UNIX)

    async def open_openssl(self, engine: str = "openssl") -> None:
        connection = self.connect(engine)
        server, client = self.contexts[engine]
        one, other = self.pair(socket.AF_INET)
        accepting = self.loop.connect_accepted_socket(
            lambda: self.side(connection), one, ssl=server
        )
        connecting = self.loop.create_connection(
            lambda: self.side(connection), sock=other, ssl=client, server_hostname="localhost"
        )
        await asyncio.gather(self.place(accepting), self.place(connecting), return_exceptions=True)

    async def open_rustls(self) -> None:
        await self.open_openssl("rustls")

    async def open_pipe(self) -> None:
        connection = self.connect("pipe")
        reader, writer = Side(self, connection), Side(self, connection)
        reader.writes = writer.reads = False
        reading, writing = os.pipe()
        with os.fdopen(writing, "wb", 0) as end:
            await self.loop.connect_read_pipe(lambda: reader, os.fdopen(reading, "rb", 0))
            await self.loop.connect_write_pipe(
                lambda: writer, os.fdopen(os.dup(end.fileno()), "wb", 0)
            )

    async def open_datagram(self) -> None:
        transport, protocol = await self.loop.create_datagram_endpoint(
            lambda: Datagrams(self), local_addr=("127.0.0.1", 0)
        )
        protocol.address = transport.get_extra_info("sockname")
        for size in self.random.choices([0, 1, 1_000, 60_000], k=10):
            transport.sendto(bytes(size), protocol.address)
        self.loop.call_later(0.005, transport.close)

    async def open_waiters(self) -> None:
        """Tasks that wait for sockets, some of which are cancelled."""
        one, other = socket.socketpair()
        one.setblocking(False)
        other.setblocking(False)

        async def send() -> None:
            await self.loop.sock_sendall(one, stretch(0, 500_000))

        async def receive() -> None:
            received = 0
            while data := await self.loop.sock_recv(other, 70_000):
                if data != stretch(received, len(data)):
                    self.broken("sock_recv() returned other bytes than were sent")
                received += len(data)

        tasks = [self.loop.create_task(send()), self.loop.create_task(receive())]
        for task in tasks:
            self.loop.call_later(self.random.random() * 0.003, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        self.loop.add_reader(one, self.fail)
        self.loop.call_later(0.001, self.loop.remove_reader, one)
        other.close()
        await asyncio.sleep(0.002)
        self.loop.remove_reader(one)
        one.close()

    async def main(self) -> None:
        await self.open_all()
        deadline = self.loop.time() + PATIENCE
        while self.is_busy():
            self.left -= 5
            if self.left <= 0:
                self.end_all()
            if self.left < -ENDING:
                self.abort_all()
            if self.loop.time() > deadline:
                self.broken(f"the sequence hangs: {self.open_sides()!r}")
                break
            await asyncio.sleep(0.001)

    def open_sides(self) -> list[Side]:
        sides = [side for connection in self.connections for side in connection.sides]
        return [side for side in sides if side.made and not side.lost]

    def is_busy(self) -> bool:
        return bool(self.open_sides())

    def end_all(self) -> None:
        """Close one side of each connection, and let the other one read."""
        for connection in self.connections:
            for side in connection.sides:
                if side.made and not side.lost:
                    side.resume()
            first = connection.sides[0]
            if first.made and not first.lost:
                first.close()

    def abort_all(self) -> None:
        # Two sides that close wait for each other if both have more to send than the sockets hold.
        for side in self.open_sides():
            side.abort()

    def check(self) -> None:
        for connection in self.connections:
            for side in connection.sides:
                if side.made and side.lost != 1:
                    self.broken(f"{side!r} was not lost")


class Datagrams(asyncio.DatagramProtocol):
    """A datagram endpoint that answers, and fails now and then."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.address: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self.sequence.random.random() < 0.1:
            self.sequence.fail()
        if self.sequence.random.random() < 0.3:
            self.transport.sendto(data, addr)

    def error_received(self, exc: Exception) -> None:
        self.sequence.fail()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.sequence.fail()


@contextlib.contextmanager
def unraisable_hook(sequence: Sequence) -> Iterator[None]:
    hook, sys.unraisablehook = sys.unraisablehook, sequence.unraisable
    try:
        yield
    finally:
        sys.unraisablehook = hook


def run_sequence(
    make_loop: LoopFactory, seed: int, contexts: Contexts, *, starves: bool
) -> list[str]:
    """Run the sequence of that seed on a new loop; return the promises that it broke.

    With ``starves``, single allocations of the interpreter fail during some operations.
    """
    loop = make_loop()
    sequence = Sequence(loop, seed, contexts, starves=starves)
    with unraisable_hook(sequence):
        is_stopped = False

        def stop(_: object) -> None:
            nonlocal is_stopped
            is_stopped = True
            loop.stop()

        task = loop.create_task(sequence.main())
        task.add_done_callback(stop)
        while not is_stopped:
            try:
                loop.run_forever()
            except InjectedExit:
                continue
            except BaseException as error:
                sequence.broken(f"{error!r} left run_forever()")
                break
        if task.done() and not task.cancelled() and (raised := task.exception()):
            sequence.broken(f"the sequence raised {raised!r}")
        wind_up(loop)
        sequence.check()
        loop.close()
        gc.collect()
    return sequence.failures


def wind_up(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the tasks that are left, and let them end."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    while tasks:
        try:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        except InjectedExit:
            continue
        break


def make_contexts() -> Contexts:
    """Return the contexts (server, client) of each TLS engine."""
    authority = Authority()
    plain = [authority.server_context(), authority.client_context()]
    fast = authority.serving("rustls")
    contexts = {"openssl": plain, "rustls": [fast.server_context(), fast.client_context()]}
    assert all(isinstance(context, tls.Context) for context in contexts["rustls"])
    return contexts
