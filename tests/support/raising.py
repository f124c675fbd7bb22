"""Connections whose protocol raises in one of its methods, and all that can be seen of that.

A *path* is one way to make the loop call a method: a coroutine function of a :class:`Stage`.
:func:`observe` plays a path with a protocol that raises, runs the loop again whenever an exception
leaves it, and returns what was :class:`Seen`. The same path on asyncio says what is right.
"""

import asyncio
import contextlib
import functools
import os
import select
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from support.peers import reset, stream_pair
from support.pipes import open_pipe
from support.tls import SERVER_NAME, Authority

Loop = asyncio.AbstractEventLoop

#: Begins a coroutine, as ``loop.create_task`` does.
Begin = Callable[[Coroutine[Any, Any, None]], "asyncio.Future[None]"]

#: Seconds that a path may wait for anything.
PATIENCE = 10.0

MORE_THAN_SOCKETS_HOLD = 1 << 20


class Failure(Exception):
    """Raised on purpose."""


class SystemFailure(OSError):
    """Raised on purpose; asyncio reports no OSError of a connection."""


#: What a method may raise.
ERRORS: tuple[type[BaseException], ...] = (
    Failure,
    SystemFailure,
    asyncio.CancelledError,
    GeneratorExit,
    KeyboardInterrupt,
    SystemExit,
)


@dataclass
class Seen:
    """What a path led to."""

    left: list[str] = field(default_factory=list)
    """What left the run."""
    reports: list[str] = field(default_factory=list)
    """The calls of the exception handler; several equal ones in a row are one."""
    calls: list[str] = field(default_factory=list)
    """The calls of the protocol's methods; several equal ones in a row are one, and flow control
    counts once."""
    raised: list[str] = field(default_factory=list)
    """What the program's own calls raised."""
    peer: str = ""
    """What the peer received, and how its stream ended."""

    def __str__(self) -> str:
        return "\n".join(f"    {name}: {value}" for name, value in vars(self).items())


class _Recording:
    """Notes the calls of a protocol, and raises in the first call of one method."""

    def __init__(self, method: str, error: BaseException | None) -> None:
        self.calls: list[str] = []
        self.data = bytearray()
        self.hooks: dict[str, Callable[[], object]] = {}
        self.method = method
        self._error = error

    def note(self, name: str, detail: object = "") -> None:
        call = f"{name}({detail})"
        # How often a connection pauses depends on how fast its peer reads.
        is_known = call in self.calls if name.endswith("_writing") else call in self.calls[-1:]
        if not is_known:
            self.calls.append(call)
        if hook := self.hooks.pop(name, None):
            hook()
        if name == self.method and self._error is not None:
            error, self._error = self._error, None
            raise error

    def has(self, name: str) -> bool:
        """True once that method was called."""
        return any(call.startswith(f"{name}(") for call in self.calls)

    def connection_made(self, _transport: asyncio.BaseTransport) -> None:
        self.note("connection_made")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.note("connection_lost", type(exc).__name__)

    def pause_writing(self) -> None:
        self.note("pause_writing")

    def resume_writing(self) -> None:
        self.note("resume_writing")

    def eof_received(self) -> None:
        self.note("eof_received")

    def error_received(self, exc: BaseException) -> None:
        self.note("error_received", type(exc).__name__)

    def datagram_received(self, data: bytes, _address: object) -> None:
        self.data += data
        self.note("datagram_received", data.decode())


class Streaming(_Recording, asyncio.Protocol):
    """A protocol of a stream."""

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.note("data_received")


class Buffered(_Recording, asyncio.BufferedProtocol):
    """A protocol of a stream with a buffer of its own."""

    def __init__(self, method: str, error: BaseException | None) -> None:
        super().__init__(method, error)
        self._buffer = memoryview(bytearray(1 << 16))

    def get_buffer(self, _sizehint: int) -> Any:
        self.note("get_buffer")
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self._buffer[:nbytes]
        self.note("buffer_updated")


class Datagrams(_Recording, asyncio.DatagramProtocol):
    """A protocol of an endpoint."""


class Peer:
    """The other end of a stream, on a socket that does not block."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = 0
        self.tail = b""
        self.end = ""
        """How the stream ended."""
        self.can_send = True
        sock.setblocking(False)

    def poll(self) -> None:
        """Receive what has come."""
        while not self.end:
            try:
                data = self.sock.recv(1 << 18)
            except BlockingIOError:
                return
            except OSError as error:
                self.end = type(error).__name__
                return
            if data:
                self._take(data)
            else:
                self.end = "end of stream"

    def poll_to_the_end(self) -> None:
        """Receive until the end of the stream, which is on its way."""
        while not self.end and select.select([self.sock], [], [], PATIENCE)[0]:
            self.poll()

    def _take(self, data: bytes) -> None:
        self.received += len(data)
        self.tail = (self.tail + data)[-8:]

    def send(self, data: bytes) -> None:
        """Send some bytes, which the socket has room for."""
        with contextlib.suppress(OSError):
            self.sock.send(data)

    def finish(self) -> None:
        """End the peer's side of the stream in good order."""
        self.can_send = False
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End both sides at once."""
        self.can_send = False
        self.end = "own reset"
        reset(self.sock)

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


class TlsPeer(Peer):
    """The TLS server on the other end."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.is_established = False

    def _flush(self) -> None:
        records = self._outgoing.read()
        if records:
            super().send(records)

    def _take(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            if not self.is_established:
                self._session.do_handshake()
                self.is_established = True
            while plaintext := self._session.read(1 << 18):
                super()._take(plaintext)
            self.end = "close notification"
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.end = "close notification"
        self._flush()

    def send(self, data: bytes) -> None:
        with contextlib.suppress(ssl.SSLError):
            self._session.write(data)
        self._flush()

    def finish(self) -> None:
        self.can_send = False
        with contextlib.suppress(ssl.SSLError):
            self._session.unwrap()
        self._flush()

    def cut(self) -> None:
        """End the stream without a close notification."""
        super().finish()


@functools.cache
def contexts_of(authority: Authority) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a client's and a server's context."""
    return authority.client_context(), authority.server_context()


class Stage:
    """A connection that a path plays on."""

    protocols: ClassVar[dict[str, Any]] = {"streaming": Streaming, "buffered": Buffered}

    gives_up = False
    """Whether nothing is waited for once an exception has left the run."""

    def __init__(self, loop: Loop, kind: str, protocol: Any, authority: Authority | None) -> None:
        self.loop = loop
        self.connect: Begin = loop.create_task
        self.kind = kind
        self.protocol = protocol
        self.transport: Any = None
        self.seen = Seen()
        self.counts_bytes = True
        self._authority = authority
        self._closers: list[Callable[[], object]] = []
        self._connecting: asyncio.Future[Any] | None = None
        self._is_closed: Callable[[], bool] = lambda: True
        self.peer: Any = None

    def report(self, _loop: Loop, context: dict[str, Any]) -> None:
        """Be the exception handler: note what is promised of a report."""
        message = context["message"]
        if message.startswith("Exception in callback "):
            # The names of transports' own methods are each loop's.
            name = message.split()[3].partition("(")[0]
            owner, _, method = name.rpartition(".")
            own = owner in (type(self.protocol).__name__, "_Recording")
            message = f"Exception in callback {method if own else '...'}"
        parties = {}
        if "transport" in context:
            is_own = context["transport"] is self.transport
            parties["transport"] = "the application's" if is_own else "another"
        if "protocol" in context:
            is_own = context["protocol"] is self.protocol
            parties["protocol"] = "the application's" if is_own else "another"
        keys = sorted(set(context) - {"message", "exception"})
        error = context.get("exception")
        report = f"{message}: {type(error).__name__} {keys} {parties}"
        if report not in self.seen.reports[-1:]:
            self.seen.reports.append(report)

    def attempt(self, name: str, *args: object) -> None:
        """Call a method of the transport as the program does."""
        try:
            getattr(self.transport, name)(*args)
        except BaseException as error:
            self.seen.raised.append(f"{name}(): {type(error).__name__}")

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the loop run until the condition holds, or the connection is over."""
        deadline = time.monotonic() + PATIENCE
        while not (condition() or self.is_over() or (self.gives_up and self.seen.left)):
            if time.monotonic() > deadline:
                self.seen.raised.append("waited in vain")
                return
            await self.turn()

    def is_elsewhere(self) -> bool:
        """True if the connection lives on another shard."""
        return self.connect != self.loop.create_task

    async def executed(self) -> None:
        """Wait until the shard of the connection has executed the calls made so far."""

        async def nothing() -> None:
            pass

        await self.connect(nothing())

    async def turn(self) -> None:
        """Let the loop run one iteration, and the peer receive."""
        if self.peer is not None:
            self.peer.poll()
        await asyncio.sleep(0)

    def is_over(self) -> bool:
        """True once nothing will be called any more."""
        return self.protocol.has("connection_lost") and self._is_closed()

    async def called(self, name: str) -> None:
        """Wait until the protocol's method was called."""
        await self.until(lambda: self.protocol.has(name))

    async def over(self) -> None:
        """Wait until the connection is over."""
        await self.until(lambda: False)

    async def answer_the_end(self) -> None:
        """Have the peer of TLS answer the close notification."""
        if self.kind == "tls":
            await self.until(lambda: self.peer.end)
            self.peer.finish()

    async def open(self) -> None:
        """Connect, and wait for connection_made()."""
        kind = self.kind.partition("-")[0]
        ours, theirs = stream_pair("unix" if kind == "unix" else "tcp")
        ours.setblocking(False)
        for sock in (ours, theirs):
            for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                sock.setsockopt(socket.SOL_SOCKET, buffer, 1 << 16)
        options: dict[str, Any] = {}
        if kind == "tls":
            assert self._authority is not None
            client, server = contexts_of(self._authority)
            self.peer = TlsPeer(theirs, server)
            options = {"ssl": client, "server_hostname": SERVER_NAME}
        else:
            self.peer = Peer(theirs)
        self._closers.append(self.peer.close)
        self._closers.append(ours.close)
        self._is_closed = lambda: ours.fileno() == -1

        async def connect() -> None:
            await self.loop.create_connection(self._made, sock=ours, **options)

        await self._connect(connect())
        if kind != "tls":
            self.transport.set_write_buffer_limits(high=0)
        elif self.protocol.method != "connection_made":
            # An interrupted connection_made() holds up the last record of the handshake.
            await self.until(lambda: self.peer.is_established)
            self.transport.set_write_buffer_limits(high=1)

    def _made(self) -> Any:
        original = self.protocol.connection_made

        def connection_made(transport: Any) -> None:
            self.transport = transport
            original(transport)

        connection_made.__qualname__ = f"{type(self.protocol).__name__}.connection_made"
        self.protocol.connection_made = connection_made
        return self.protocol

    async def _connect(self, connecting: Coroutine[Any, Any, None]) -> None:
        self._connecting = self.connect(connecting)
        await self.until(lambda: self.transport is not None)

    async def accept(self) -> None:
        """Have a server accept the connection."""
        listener = socket.create_server(("127.0.0.1", 0))
        server = await self.loop.create_server(self._made, sock=listener)
        theirs = socket.create_connection(listener.getsockname())
        self.peer = Peer(theirs)
        self._closers.append(theirs.close)
        await self.until(lambda: self.transport is not None)
        server.close()
        sock = self.transport.get_extra_info("socket")
        self._is_closed = lambda: sock.fileno() == -1

    def fill(self) -> None:
        """Write until something is queued."""
        self.attempt("write", bytes(MORE_THAN_SOCKETS_HOLD))
        if self.kind == "tls":
            # The first write fills the transport below.
            self.attempt("write", bytes(MORE_THAN_SOCKETS_HOLD))

    async def probe(self) -> None:
        """Find out whether the connection still works in both directions."""
        if not self.transport.is_closing():
            self.attempt("write", b"!")
            await self.until(lambda: self.peer.tail.endswith(b"!") or self.peer.end)
        if self.peer.can_send and not self.transport.is_closing():
            self.peer.send(b"?")
            await self.until(lambda: self.protocol.data.endswith(b"?"))
        if self.transport.is_closing():
            await self.over()

    async def play(self, path: "Path") -> None:
        """Play a path, and end the connection."""
        try:
            await path(self)
            if self._connecting is not None:
                await self._note_connecting(self._connecting)
            if self.peer is not None:
                # Another thread calls connection_lost() and closes the descriptor after that.
                self.peer.poll_to_the_end() if self.is_over() else self.peer.poll()
                size = self.peer.received if self.counts_bytes else "some"
                self.seen.peer = f"{size} bytes, {self.peer.end}"
            if self.is_elsewhere():
                # Another thread may be between two calls.
                await self.executed()
            self.seen.calls = list(self.protocol.calls)
            if not self.is_over():
                self.transport.abort()
                await self.over()
        finally:
            for close in self._closers:
                close()

    async def _note_connecting(self, connecting: "asyncio.Future[Any]") -> None:
        for _ in range(3):
            await self.turn()
            if self.is_elsewhere():
                for _ in range(10):
                    await self.executed()
        if not connecting.done():
            self.seen.raised.append("connects for ever")
            connecting.cancel()
        with contextlib.suppress(BaseException):
            await asyncio.wait([connecting])
            if error := connecting.exception():
                self.seen.raised.append(f"connecting: {type(error).__name__}")


class _DatagramPeer(Peer):
    """The other end of datagrams, which have no end."""

    def poll_to_the_end(self) -> None:
        self.poll()


class EndpointStage(Stage):
    """A datagram endpoint: ``udp``, connected, or ``unix-dgram``."""

    protocols: ClassVar[dict[str, Any]] = {"datagrams": Datagrams}

    async def open(self) -> None:
        if self.kind == "udp":
            ours, theirs = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
            theirs.bind(("127.0.0.1", 0))
            ours.bind(("127.0.0.1", 0))
            ours.connect(theirs.getsockname())
            theirs.connect(ours.getsockname())
        else:
            folder = tempfile.TemporaryDirectory()
            self._closers.append(folder.cleanup)
            ours, theirs = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
            ours.bind(f"{folder.name}/ours")
            theirs.bind(f"{folder.name}/theirs")
            ours.connect(f"{folder.name}/theirs")
            theirs.connect(f"{folder.name}/ours")
        ours.setblocking(False)
        self.peer = _DatagramPeer(theirs)
        self._closers.append(theirs.close)
        self._closers.append(ours.close)
        self._is_closed = lambda: ours.fileno() == -1

        async def connect() -> None:
            await self.loop.create_datagram_endpoint(self._made, sock=ours)

        await self._connect(connect())
        # One waiting datagram is above the limit. The lower limit is not 0 because CPython 3.13.0
        # counts 8 bytes too many for each that was sent.
        self.transport.set_write_buffer_limits(high=100, low=50)

    def fill(self) -> None:
        self.counts_bytes = False
        while not self.transport.get_write_buffer_size():
            assert not self.transport.is_closing()
            self.attempt("sendto", bytes(1000))

    async def probe(self) -> None:
        if not self.transport.is_closing():
            self.attempt("sendto", b"!")
            await self.until(lambda: self.peer.tail.endswith(b"!") or self.peer.end)
        if self.peer.can_send and not self.transport.is_closing():
            self.peer.send(b"?")
            await self.until(lambda: self.protocol.data.endswith(b"?"))
        if self.transport.is_closing():
            await self.over()


class _PipePeer(Peer):
    """The other end of a pipe."""

    def __init__(self, file: Any, *, reads: bool) -> None:
        self.file = file
        self.received = 0
        self.tail = b""
        self.end = ""
        self.can_send = not reads
        self._reads = reads
        os.set_blocking(file.fileno(), False)

    def poll(self) -> None:
        while self._reads and not self.end:
            try:
                data = os.read(self.file.fileno(), 1 << 18)
            except BlockingIOError:
                return
            if data:
                self._take(data)
            else:
                self.end = "end of stream"

    def poll_to_the_end(self) -> None:
        while self._reads and not self.end and select.select([self.file], [], [], PATIENCE)[0]:
            self.poll()

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self.file.fileno(), data)

    def finish(self) -> None:
        self.can_send = False
        self.end = "own end"
        self.file.close()

    def close(self) -> None:
        self.file.close()


class PipeStage(Stage):
    """An end of a pipe: ``read-pipe`` or ``write-pipe``."""

    protocols: ClassVar[dict[str, Any]] = {"streaming": Streaming}

    async def open(self) -> None:
        reading, writing = open_pipe()
        reads = self.kind == "read-pipe"
        ours, theirs = (reading, writing) if reads else (writing, reading)
        self.peer = _PipePeer(theirs, reads=not reads)
        self._closers.append(theirs.close)
        self._closers.append(ours.close)
        self._is_closed = lambda: ours.closed

        async def connect() -> None:
            connect = self.loop.connect_read_pipe if reads else self.loop.connect_write_pipe
            await connect(self._made, ours)

        await self._connect(connect())
        if reads:
            self.transport.abort = self.transport.close
        else:
            self.transport.set_write_buffer_limits(high=0)

    async def probe(self) -> None:
        if self.transport.is_closing():
            await self.over()
        elif self.kind == "read-pipe":
            if self.peer.can_send:
                self.peer.send(b"?")
                await self.until(lambda: self.protocol.data.endswith(b"?"))
        elif not self.peer.end:
            self.attempt("write", b"!")
            await self.until(lambda: self.peer.tail.endswith(b"!") or self.peer.end)


Path = Callable[[Stage], Coroutine[Any, Any, None]]

STAGES: dict[str, type[Stage]] = {
    "tcp": Stage,
    "unix": Stage,
    "tls": Stage,
    "udp": EndpointStage,
    "unix-dgram": EndpointStage,
    "read-pipe": PipeStage,
    "write-pipe": PipeStage,
}


def observe(
    loop: Loop,
    kind: str,
    shape: str,
    method: str,
    error: type[BaseException],
    path: Path,
    authority: Authority | None = None,
    *,
    play: Begin | None = None,
    connect: Begin | None = None,
    gives_up: bool = False,
) -> Seen:
    """Play a path whose protocol raises that error in the first call of that method.

    Args:
        loop: the loop, which is not running.
        kind: a key of STAGES.
        shape: the protocol's class, a key of the stage's ``protocols``.
        method: the method that raises.
        error: what it raises.
        path: makes the loop call the method.
        authority: makes contexts for TLS.
        play: begins the path, by default as a task of the loop.
        connect: begins the connection, likewise.
        gives_up: whether the path waits for nothing once an exception has left the run.
    """
    stage_class = STAGES[kind]
    protocol = stage_class.protocols[shape](method, error("on purpose"))
    stage = stage_class(loop, kind, protocol, authority)
    stage.gives_up = gives_up
    handler = loop.get_exception_handler()
    loop.set_exception_handler(stage.report)

    if connect is not None:
        stage.connect = connect

    async def begin() -> None:
        await (play or loop.create_task)(stage.play(path))

    playing = loop.create_task(begin())
    while not playing.done():
        try:
            loop.run_until_complete(playing)
        except (KeyboardInterrupt, SystemExit) as interrupt:
            stage.seen.left.append(type(interrupt).__name__)
    playing.result()
    loop.set_exception_handler(handler)
    return stage.seen


@functools.cache
def right(
    kind: str,
    shape: str,
    method: str,
    error: type[BaseException],
    path: Path,
    authority: Authority | None,
) -> Seen:
    """Return what asyncio does; see :func:`observe`."""
    loop = asyncio.SelectorEventLoop()
    try:
        return observe(loop, kind, shape, method, error, path, authority)
    finally:
        loop.close()


def differences(
    make_loop: Callable[[], Loop],
    kind: str,
    shape: str,
    method: str,
    authority: Authority | None = None,
    *,
    play: Begin | None = None,
    connect: Begin | None = None,
    simplify: Callable[[Seen], Seen] = lambda seen: seen,
) -> list[str]:
    """Play every path to a method with every error, and describe where asyncio's outcome differs.

    Args:
        make_loop: makes the loop, which plays one path after another.
        kind: see :func:`observe`, as for those that follow.
        shape: a protocol's class.
        method: the method that raises.
        authority: makes contexts for TLS.
        play: begins the path.
        connect: begins the connection.
        simplify: what is compared of an outcome.
    """
    found = []
    loop = make_loop()
    is_asyncio = type(loop) is asyncio.SelectorEventLoop
    try:
        for path in paths_of(kind, method):
            error: Any
            for error in ERRORS:
                see = functools.partial(
                    observe,
                    loop,
                    kind,
                    shape,
                    method,
                    error,
                    path,
                    authority,
                    play=play,
                    connect=connect,
                )
                if is_left_hanging(kind, method, error, path):
                    seen = Seen(left=see(gives_up=True).left)
                    expected = Seen(left=[error.__name__])
                elif is_left_spinning(kind, method, error) and not is_asyncio:
                    seen = interrupts_first(see())
                    expected = right(kind, shape, method, Failure, path, authority)
                    expected = replace(expected, left=[error.__name__], reports=[])
                elif is_left_spinning(kind, method, error):
                    continue
                else:
                    seen = see()
                    expected = right(kind, shape, method, error, path, authority)
                if simplify(seen) != simplify(expected):
                    name = f"{method}() raises {error.__name__}, {path.__name__}"
                    found.append(f"{name}\n  asyncio:\n{expected}\n  here:\n{seen}")
    finally:
        loop.close()
    return found


def interrupts_first(seen: Seen) -> Seen:
    """Count an interrupt of the program's own call as one that left the run."""
    names = [call.rpartition(" ")[2] for call in seen.raised]
    interrupts = [name for name in names if name in ("KeyboardInterrupt", "SystemExit")]
    others = [call for call in seen.raised if call.rpartition(" ")[2] not in interrupts]
    return replace(seen, left=seen.left + interrupts, raised=others)


def is_left_hanging(kind: str, method: str, error: type[BaseException], path: Path) -> bool:
    """Return whether that connection hangs in asyncio, which forgets the end after an interrupt."""
    if not issubclass(error, (KeyboardInterrupt, SystemExit)) or kind != "tls":
        return False
    if method == "get_buffer":
        # Called before the last record of the handshake is sent.
        return True
    if method == "eof_received":
        return path is not by_the_peers_end_without_notification
    return method in ("data_received", "buffer_updated") and path in (
        with_data_and_the_end,
        after_write_in_the_method,
    )


def is_left_spinning(kind: str, method: str, error: type[BaseException]) -> bool:
    """Return whether asyncio calls an empty queue's write event again and again after that."""
    return (
        issubclass(error, (KeyboardInterrupt, SystemExit))
        and method == "resume_writing"
        and kind in ("tcp", "unix", "tls", "write-pipe")
    )


# The ways to each method, by name. A function's name is the way.


async def when_connected(stage: Stage) -> None:
    await stage.open()
    await stage.probe()


async def when_accepted(stage: Stage) -> None:
    await stage.accept()
    await stage.probe()


async def with_data(stage: Stage) -> None:
    await stage.open()
    stage.peer.send(b"data")
    await stage.until(
        lambda: stage.protocol.has("data_received") or stage.protocol.has("get_buffer")
    )
    await stage.probe()


async def with_data_after_a_pause(stage: Stage) -> None:
    await stage.open()
    stage.attempt("pause_reading")
    stage.peer.send(b"data")
    await stage.turn()
    stage.attempt("resume_reading")
    await stage.until(
        lambda: stage.protocol.has("data_received") or stage.protocol.has("get_buffer")
    )
    await stage.probe()


async def with_data_and_the_end(stage: Stage) -> None:
    await stage.open()
    stage.peer.send(b"data")
    stage.peer.finish()
    await stage.over()


async def while_closing(stage: Stage) -> None:
    await stage.open()
    stage.protocol.hooks["data_received"] = stage.protocol.hooks["buffer_updated"] = lambda: (
        stage.attempt("close")
    )
    stage.peer.send(b"data")
    await stage.answer_the_end()
    await stage.over()


async def after_write_in_the_method(stage: Stage) -> None:
    await stage.open()
    for name in ("data_received", "buffer_updated", "eof_received"):
        stage.protocol.hooks[name] = lambda: stage.attempt("write", b"written")
    stage.peer.send(b"data")
    stage.peer.finish()
    await stage.over()


async def by_the_peers_end(stage: Stage) -> None:
    await stage.open()
    stage.peer.finish()
    await stage.over()


async def by_the_peers_end_without_notification(stage: Stage) -> None:
    await stage.open()
    stage.peer.cut()
    await stage.over()


async def by_reset(stage: Stage) -> None:
    await stage.open()
    stage.peer.reset()
    await stage.over()


async def by_close(stage: Stage) -> None:
    await stage.open()
    stage.attempt("close")
    await stage.answer_the_end()
    await stage.over()


async def by_abort(stage: Stage) -> None:
    await stage.open()
    stage.attempt("abort")
    await stage.over()


async def by_close_behind_a_queue(stage: Stage) -> None:
    await stage.open()
    stage.fill()
    stage.attempt("close")
    await stage.answer_the_end()
    await stage.over()


async def by_abort_behind_a_queue(stage: Stage) -> None:
    await stage.open()
    stage.counts_bytes = False
    stage.fill()
    stage.attempt("abort")
    await stage.over()


async def by_reset_behind_a_queue(stage: Stage) -> None:
    await stage.open()
    stage.counts_bytes = False
    stage.fill()
    await stage.called("pause_writing")
    stage.peer.reset()
    await stage.over()


async def by_write(stage: Stage) -> None:
    await stage.open()
    stage.fill()
    await stage.until(lambda: stage.protocol.has("resume_writing"))
    await stage.probe()


async def by_write_in_data_received(stage: Stage) -> None:
    await stage.open()
    stage.protocol.hooks["data_received"] = stage.protocol.hooks["buffer_updated"] = stage.fill
    stage.peer.send(b"data")
    await stage.until(lambda: stage.protocol.has("resume_writing"))
    await stage.probe()


async def by_write_before_the_end(stage: Stage) -> None:
    await stage.open()
    stage.fill()
    stage.attempt("write_eof")
    await stage.until(lambda: stage.peer.end)
    stage.peer.send(b"?")
    await stage.until(lambda: stage.protocol.data.endswith(b"?"))


async def by_set_write_buffer_limits(stage: Stage) -> None:
    await stage.open()
    stage.transport.set_write_buffer_limits(high=4 * MORE_THAN_SOCKETS_HOLD)
    stage.fill()
    stage.attempt("set_write_buffer_limits", 1)
    await stage.until(lambda: stage.peer.received >= MORE_THAN_SOCKETS_HOLD)
    await stage.probe()


async def with_datagram(stage: Stage) -> None:
    await stage.open()
    stage.peer.send(b"1")
    stage.peer.send(b"2")
    await stage.until(lambda: stage.protocol.data.endswith(b"2"))
    await stage.probe()


async def by_a_refused_datagram(stage: Stage) -> None:
    await stage.open()
    stage.peer.close()
    stage.peer.end, stage.peer.can_send = "own close", False
    stage.attempt("sendto", b"refused")
    await stage.called("error_received")
    # The next one says whether the endpoint works.
    stage.attempt("sendto", b"refused too")
    await stage.executed()
    for _ in range(5):
        await stage.turn()


async def by_a_refused_send(stage: Stage) -> None:
    await stage.open()
    stage.attempt("sendto", bytes(1 << 20))
    await stage.probe()


STREAM_PATHS: dict[str, tuple[Path, ...]] = {
    "connection_made": (when_connected,),
    "data_received": (
        with_data,
        with_data_after_a_pause,
        with_data_and_the_end,
        while_closing,
        after_write_in_the_method,
    ),
    "get_buffer": (with_data, with_data_after_a_pause, with_data_and_the_end),
    "buffer_updated": (
        with_data,
        with_data_after_a_pause,
        with_data_and_the_end,
        while_closing,
        after_write_in_the_method,
    ),
    "eof_received": (by_the_peers_end, with_data_and_the_end, after_write_in_the_method),
    "pause_writing": (by_write, by_write_in_data_received, by_set_write_buffer_limits),
    "resume_writing": (by_write, by_write_in_data_received, by_close_behind_a_queue),
    "connection_lost": (
        by_close,
        by_abort,
        by_the_peers_end,
        by_reset,
        by_close_behind_a_queue,
        by_abort_behind_a_queue,
        by_reset_behind_a_queue,
    ),
}

PLAIN_PATHS: dict[str, tuple[Path, ...]] = {
    "connection_made": (when_accepted,),
    "pause_writing": (by_write_before_the_end,),
    "resume_writing": (by_write_before_the_end,),
}

TLS_PATHS: dict[str, tuple[Path, ...]] = {
    "eof_received": (by_the_peers_end_without_notification,),
    "connection_lost": (by_the_peers_end_without_notification,),
}

ENDPOINT_PATHS: dict[str, dict[str, tuple[Path, ...]]] = {
    "udp": {
        "connection_made": (when_connected,),
        "datagram_received": (with_datagram,),
        "error_received": (by_a_refused_datagram, by_a_refused_send),
        "connection_lost": (by_close, by_abort),
    },
    "unix-dgram": {
        "connection_made": (when_connected,),
        "datagram_received": (with_datagram,),
        "error_received": (by_a_refused_datagram, by_a_refused_send),
        "pause_writing": (by_write,),
        "resume_writing": (by_write, by_close_behind_a_queue),
        "connection_lost": (
            by_close,
            by_abort,
            by_close_behind_a_queue,
            by_abort_behind_a_queue,
        ),
    },
}

PIPE_PATHS: dict[str, dict[str, tuple[Path, ...]]] = {
    "read-pipe": {
        "connection_made": (when_connected,),
        "data_received": (with_data, with_data_after_a_pause, with_data_and_the_end, while_closing),
        "eof_received": (by_the_peers_end, with_data_and_the_end),
        "connection_lost": (by_close, by_the_peers_end, with_data_and_the_end),
    },
    "write-pipe": {
        "connection_made": (when_connected,),
        "pause_writing": (by_write,),
        "resume_writing": (by_write, by_close_behind_a_queue),
        "connection_lost": (
            by_close,
            by_abort,
            by_the_peers_end,
            by_close_behind_a_queue,
            by_abort_behind_a_queue,
        ),
    },
}


def paths_of(kind: str, method: str) -> tuple[Path, ...]:
    """Return the ways in which a loop calls a method of a protocol on that kind of connection."""
    if kind in ENDPOINT_PATHS:
        return ENDPOINT_PATHS[kind].get(method, ())
    if kind in PIPE_PATHS:
        return PIPE_PATHS[kind].get(method, ())
    more = (TLS_PATHS if kind == "tls" else PLAIN_PATHS).get(method, ())
    paths = STREAM_PATHS[method] + more
    if kind == "unix":
        paths = tuple(path for path in paths if path not in (by_reset, by_reset_behind_a_queue))
    return paths


def methods_of(kind: str) -> list[tuple[str, str]]:
    """Return the methods that a loop calls on such a connection, each with a protocol's shape."""
    if kind in ENDPOINT_PATHS:
        return [("datagrams", method) for method in ENDPOINT_PATHS[kind]]
    if kind in PIPE_PATHS:
        return [("streaming", method) for method in PIPE_PATHS[kind]]
    own = {"get_buffer", "buffer_updated"}
    return [("buffered" if method in own else "streaming", method) for method in STREAM_PATHS] + [
        ("buffered", "eof_received"),
        ("buffered", "connection_lost"),
    ]
