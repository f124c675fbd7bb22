"""The class ``TokioLoop``: the native event loop in front of the standard library's.

What runs per callback, per packet or per handle is in ``rloop._rloop``. What runs per connection or
per loop is inherited from :class:`asyncio.SelectorEventLoop`, so that each Python version keeps its
own signatures and semantics. This module joins the two.
"""

import asyncio
import atexit
import collections
import concurrent.futures
import contextlib
import contextvars
import functools
import os
import socket
import sys
import threading
from asyncio import constants, events
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

from rloop import _rloop, _server, _streams
from rloop._nesting import EmptyReadyQueue, EmptyTimers, take_iteration
from rloop._queues import ReadyQueue, Timers
from rloop._selector import WatchedDescriptors
from rloop._sockets import SocketMethods
from rloop._subprocess import Children
from rloop._threads import WorkerThreads, count_threads, join_all
from rloop._transport import (
    DatagramTransport,
    ReadPipeTransport,
    SocketTransport,
    WritePipeTransport,
)
from rloop._watchdog import Watchdog
from rloop._workers import current as _current
from rloop._workers.listeners import Serving
from rloop.statistics import ShardStatistics

if TYPE_CHECKING:
    from rloop._shards import SpawnedFuture

__all__ = ["TokioLoop"]

os.register_at_fork(after_in_child=_rloop._after_fork_in_child)
# In reverse order: threads that drive a shard are told to stop, then the loops' own are joined.
atexit.register(join_all)
atexit.register(_rloop._park_running_loops)

_T = TypeVar("_T")

_NO_WORKER = contextlib.nullcontext()

_ATTRIBUTES = vars(SocketMethods)["__dict__"]
"""The descriptor of the attributes of a loop."""


def _demand_empty(name: str, queue: Collection[object]) -> None:
    """Raise TypeError for a queue that the loop would have to take over."""
    if queue:
        raise TypeError(f"loop.{name} can only be replaced by an empty queue, not by {queue!r}")


@_rloop._own_native_methods
class TokioLoop(SocketMethods, asyncio.SelectorEventLoop):  # type: ignore[misc]
    """A drop-in asyncio event loop on tokio.

    With one thread, the thread rules are those of :class:`asyncio.AbstractEventLoop`: use
    :meth:`call_soon_threadsafe` from other threads.

    With several, the loop has as many *shards*: the thread that runs it is shard 0, and the others
    are threads of its own. A callback, a task and a transport have a home shard for life and never
    run elsewhere. Every method may be called on any shard.
    """

    # None: those of the libraries that need it are.
    _is_pinned: ClassVar[contextvars.ContextVar[bool | None]] = contextvars.ContextVar(
        "rloop pinned", default=None
    )

    # The type checker is told to overlook that the handles are no subclasses of asyncio's: they are
    # instances of them for isinstance() (see src/loop_/handle.rs).

    if TYPE_CHECKING:
        # What the standard library keeps on its selector loops.
        _child_watcher_callback: Callable[..., None]
        _thread_id: int | None
        _default_executor: concurrent.futures.ThreadPoolExecutor | None
        _unix_server_sockets: dict[socket.socket, int]
        _transports: MutableMapping[int, SocketTransport | DatagramTransport]

        def _ensure_fd_no_transport(self, fd: object) -> None: ...
        def _check_callback(self, callback: object, method: str) -> None: ...
        def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None: ...
        def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None: ...

    def __init__(self, *, threads: int | Literal["auto"] | None = None) -> None:
        """Make a loop that is not running.

        Args:
            threads: how many threads the loop is to have; ``"auto"`` for as many as there are
                usable CPUs, on a free-threaded Python; by default what the environment variable
                ``RLOOP_THREADS`` says, or else 1.

        Raises:
            OSError: if the process is out of file descriptors.
            RuntimeError: for several threads on a Python older than 3.14.
            TypeError: if `threads` is none of these.
            ValueError: if the number is out of range.
        """
        # There is nothing to close or to warn of before all is there.
        self._closed = True
        self._worker = _current.own_worker()
        self._servings: dict[int, Serving] = {}
        if self._worker is not None and threads is None:
            threads = 1
        count = count_threads(threads)
        self._threads: WorkerThreads | None = None
        self._watchdog: Watchdog | None = None
        # Coroutines that were spawned for another shard, until that makes tasks of them.
        self._unstarted: dict[SpawnedFuture[Any], None] = {}
        if count > 1:
            self._set_shards(count)
            self._threads = WorkerThreads(self)
            self._executor_lock = threading.Lock()
        self._children = Children()
        # What `_accept_connection()` learns of its attempt, on each thread.
        self._accepting = threading.local()
        asyncio.SelectorEventLoop.__init__(self, WatchedDescriptors(self))

    @property
    def _scheduled(self) -> Timers:
        """The timers. Programs read asyncio's by this name."""
        return EmptyTimers(self) if self._is_driven_by_program() else Timers(self)

    @_scheduled.setter
    def _scheduled(self, timers: list[asyncio.TimerHandle]) -> None:
        _demand_empty("_scheduled", timers)
        self._clear_timers()

    @property
    def _ready(self) -> ReadyQueue:
        """The callbacks that are ready. Programs read asyncio's by this name."""
        return EmptyReadyQueue(self) if self._is_driven_by_program() else ReadyQueue(self)

    @_ready.setter
    def _ready(self, handles: "collections.deque[asyncio.Handle]") -> None:
        _demand_empty("_ready", handles)
        self._clear_ready()

    def _is_driven_by_program(self) -> bool:
        """Whether a program has replaced the method that runs the loop."""
        return type(self)._run_once is not _RUN_ONCE

    def _select(self, timeout: float | None) -> None:
        """Take an iteration for a program that has replaced the method that runs the loop."""
        if not self._is_driven_by_program():
            raise RuntimeError("the loop waits for events itself")
        self._note_thread()
        take_iteration(self, timeout)

    def _note_thread(self) -> None:
        is_main_thread = threading.current_thread() is threading.main_thread()
        self._set_runs_on_main_thread(is_main_thread)

    @property
    def __dict__(self) -> dict[str, Any]:
        """The attributes of the loop. Whoever has them may replace methods unseen."""
        self._expose_attributes()
        attributes: dict[str, Any] = _ATTRIBUTES.__get__(self)
        return attributes

    @__dict__.setter
    def __dict__(self, attributes: dict[str, Any]) -> None:
        self._expose_attributes()
        _ATTRIBUTES.__set__(self, attributes)

    def run_forever(self) -> None:
        """Run until :meth:`stop` is called. See :meth:`asyncio.loop.run_forever`."""
        if self._threads is not None and not self.is_running() and not self.is_closed():
            self._threads.start(self)
        self._note_thread()
        running = _NO_WORKER if self._worker is None else self._worker._running(self)
        try:
            with running:
                super().run_forever()
        finally:
            # asyncio.Runner cancels the tasks there are: those to come have to be among them.
            for future in self._unstarted.copy():
                future.start_at_home()

    def close(self) -> None:
        """Close the loop and end its threads. See :meth:`asyncio.loop.close`.

        Raises:
            RuntimeError: if it is running.
        """
        if not self.is_running():
            if self._watchdog is not None:
                self._watchdog.stop()
            if self._threads is not None:
                self._threads.join()
            if self._worker is not None:
                self._worker._group.listeners.abandon(self)
        super().close()
        if self._worker is not None:
            self._worker._fail_calls(self)
        self._children.close()

    def statistics(self) -> tuple[ShardStatistics, ...]:
        """Return what each shard has counted so far. Any thread may call this."""
        shards = []
        for index, counts in enumerate(self._statistics()):
            callbacks, parks, pushes, depth, connections, times, _ = counts
            driven, busy, slowest = times or (0.0, None, None)
            if driven and busy is not None:
                # The shard may have gone on between the two readings.
                busy = min(busy / driven, 1.0)
            shards.append(
                ShardStatistics(
                    shard=index,
                    callbacks=callbacks,
                    connections=connections,
                    ready=depth,
                    pushes=pushes,
                    wakeups=parks,
                    busy=busy,
                    slowest_callback=slowest,
                )
            )
        return tuple(shards)

    @property
    def stuck_callback_timeout(self) -> float | None:
        """How long a callback may take before it is reported, in seconds, or None for ever.

        A report goes to asyncio's logger, with the stack of the thread that is stuck.

        Raises:
            ValueError: if it is set to a number that is not positive.
        """
        return None if self._watchdog is None else self._watchdog.timeout

    @stuck_callback_timeout.setter
    def stuck_callback_timeout(self, timeout: float | None) -> None:
        if timeout is not None and not timeout > 0:
            raise ValueError(f"stuck_callback_timeout must be positive, not {timeout!r}")
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.stop()
        if timeout is not None:
            self._watchdog = Watchdog(self, timeout)

    def run_in_executor(  # type: ignore[override]
        self,
        executor: concurrent.futures.Executor | None,
        func: Callable[..., _T],
        *args: Any,
    ) -> "asyncio.Future[_T]":
        """Run a function in an executor. See :meth:`asyncio.loop.run_in_executor`."""
        if self._threads is None:
            return super().run_in_executor(executor, func, *args)
        if executor is None or isinstance(executor, concurrent.futures.ThreadPoolExecutor):
            if self._debug:
                self._check_callback(func, "run_in_executor")
            func = functools.partial(self._call_for_home, self._home_here(), func)
        if executor is None and self._default_executor is None:
            with self._executor_lock:
                return super().run_in_executor(executor, func, *args)
        return super().run_in_executor(executor, func, *args)

    def _call_for_home(self, home: int, func: Callable[..., _T], *args: Any) -> _T:
        """Call a function on a thread of an executor.

        The thread's own context then names the home of the caller, where asyncio's report of the
        result is to go.
        """
        self._set_current_home(home)
        return func(*args)

    def _shard_thread(self, shard: int) -> int | None:
        """Return the identity of the thread that drives a shard, or None while none does."""
        if shard == 0 or self._threads is None:
            return self._thread_id
        return self._threads.identity(shard)

    def _wait_for_workers(self) -> None:
        """Wait until no worker drives its shard, at the end of a run."""
        assert self._threads is not None
        self._threads.wait()

    def _check_thread(self) -> None:
        is_shard = self._threads is not None and events._get_running_loop() is self
        if not (is_shard or _current.is_waking()):
            super()._check_thread()  # type: ignore[misc]

    def _drive(self, shard: int) -> None:
        """Drive a shard on this thread, a worker's, until the run ends."""
        hooks = sys.get_asyncgen_hooks()
        depth = sys.get_coroutine_origin_tracking_depth()
        if self._debug:
            sys.set_coroutine_origin_tracking_depth(constants.DEBUG_STACK_DEPTH)
        sys.set_asyncgen_hooks(
            firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook
        )
        events._set_running_loop(self)
        try:
            self._run_shard(shard)
        finally:
            events._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)
            sys.set_coroutine_origin_tracking_depth(depth)

    def _start_serving(
        self,
        protocol_factory: Any,
        sock: socket.socket,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        *limits: Any,
        **more: Any,
    ) -> None:
        if server is not None:
            if server._sockets is None:
                # Closed while it waited for descriptors.
                return
            backlog = server._backlog
        if self._threads is not None:
            _server.Server.adopt(server)
        elif self._worker is not None and not isinstance(protocol_factory, Serving):
            protocol_factory = self._worker._group.listeners.join(
                self, protocol_factory, sock, sslcontext, server
            )
        super()._start_serving(  # type: ignore[misc]
            protocol_factory, sock, sslcontext, server, backlog, *limits, **more
        )

    def _accept_connection(
        self,
        protocol_factory: Any,
        sock: socket.socket,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        *limits: Any,
        **more: Any,
    ) -> None:
        """Accept the connections that wait, at most `backlog` + 1 of them.

        The standard library goes on after a failure, and schedules another attempt for each: a
        process that is out of descriptors would make more of them with every attempt. So it is
        asked for one connection at a time, until it accepts none.
        """
        accept = super()._accept_connection  # type: ignore[misc]
        once = _server.BACKLOG_OF_ONE_ATTEMPT
        for _ in range(backlog + 1):
            self._accepting.has_accepted = False
            accept(protocol_factory, sock, sslcontext, server, once, *limits, **more)
            if not self._accepting.has_accepted:
                return

    def _stop_serving(self, sock: socket.socket) -> None:
        if self._worker is None:
            super()._stop_serving(sock)  # type: ignore[misc]
            return
        may_close, is_last = self._worker._group.listeners.leave(self, sock)
        if not is_last and sys.version_info >= (3, 13):
            # Other workers still serve the path.
            self._unix_server_sockets.pop(sock, None)
        if may_close:
            super()._stop_serving(sock)  # type: ignore[misc]
        else:
            self._remove_reader(sock.fileno())

    async def create_unix_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        path: Any = None,
        *,
        sock: socket.socket | None = None,
        **options: Any,
    ) -> asyncio.AbstractServer:
        """Serve a path or socket. See :meth:`asyncio.loop.create_unix_server`."""
        if self._worker is not None and path is not None and sock is None:
            # The standard library would remove the path, and so the socket of another worker.
            bound = self._worker._group.listeners.find_bound(socket.AF_UNIX, os.fspath(path))
            if bound is not None:
                path, sock = None, bound
        return await super().create_unix_server(protocol_factory, path, sock=sock, **options)

    def _connect_accepted(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        conn: socket.socket,
        *arguments: Any,
        **more: Any,
    ) -> Coroutine[Any, Any, None]:
        """Return the first steps of a connection that this loop, or another worker's, accepted."""
        accepted: Coroutine[Any, Any, None]
        accepted = super()._accept_connection2(  # type: ignore[misc]
            protocol_factory, conn, *arguments, **more
        )
        return accepted

    def _accept_connection2(
        self,
        protocol_factory: Any,
        conn: socket.socket,
        *arguments: Any,
        **more: Any,
    ) -> Coroutine[Any, Any, None]:
        self._accepting.has_accepted = True
        if isinstance(protocol_factory, Serving):
            extra, _, _, *options = arguments
            return protocol_factory.accept(conn, extra, tuple(options), more)
        context: contextvars.Context | None = more.get("context")
        is_placed = self._threads is not None and not self._pins(protocol_factory)
        if self._threads is not None and context is not None:
            # The context of the server, which this copy is of, may name another shard.
            self._set_home(context, self._home_here())
            if is_placed:
                # The caller runs `_hand_over()` in `context`, here; the connection lives elsewhere.
                more["context"] = context = context.copy()
        accept: Callable[..., Coroutine[Any, Any, None]]
        accept = super()._accept_connection2  # type: ignore[misc]

        def begin(conn: socket.socket) -> Coroutine[Any, Any, None]:
            return accept(protocol_factory, conn, *arguments, **more)

        return self._hand_over(conn, begin, context) if is_placed else begin(conn)

    def _pins(self, protocol_factory: object) -> bool:
        """Whether a server's connections are to stay on the shard that accepts them."""
        is_pinned = self._is_pinned.get()
        return _server.shares_connections(protocol_factory) if is_pinned is None else is_pinned

    async def _hand_over(
        self,
        conn: socket.socket,
        begin: Callable[[socket.socket], Coroutine[Any, Any, None]],
        context: contextvars.Context | None,
    ) -> None:
        """Let a connection live on the least loaded shard."""
        shard = self._place_connection(conn.fileno())
        if context is None:
            context = contextvars.copy_context()
        self._set_home(context, shard)
        home = self._home_context(shard)
        self.call_soon(self._begin_accepted, shard, conn, begin, context, context=home)

    def _begin_accepted(
        self,
        shard: int,
        conn: socket.socket,
        begin: Callable[[socket.socket], Coroutine[Any, Any, None]],
        context: contextvars.Context,
    ) -> None:
        """Begin a connection on its home shard."""
        fd = conn.fileno()
        try:
            self.create_task(begin(_server.own_socket(conn)), context=context)
        finally:
            # Behind the task's first step, which opens the connection unless that fails.
            self.call_soon(self._give_up_connection, shard, fd)

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[Any] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: contextvars.Context | None = None,
    ) -> SocketTransport:
        self._ensure_fd_no_transport(sock)
        if self._threads is not None:
            _streams.adopt(self, protocol, context)
        make = functools.partial(
            SocketTransport, self, sock, protocol, waiter, extra, server, context
        )
        transport = make() if server is None else _server.begin_accepted(server, sock, make)
        self._transports[transport._sock_fd] = transport
        return transport

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
        address: Any = None,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> asyncio.DatagramTransport:
        self._ensure_fd_no_transport(sock)
        if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            # The addresses of other families are the socket module's alone.
            inherited: Any = super()
            other: asyncio.DatagramTransport = inherited._make_datagram_transport(
                sock, protocol, address, waiter, extra
            )
            return other
        transport = DatagramTransport(self, sock, protocol, address, waiter, extra)
        self._transports[transport._sock_fd] = transport
        return cast("asyncio.DatagramTransport", transport)

    def _make_read_pipe_transport(
        self,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> ReadPipeTransport:
        return ReadPipeTransport(self, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(
        self,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> WritePipeTransport:
        return WritePipeTransport(self, pipe, protocol, waiter, extra)

    async def _make_subprocess_transport(self, *args: Any, **kwargs: Any) -> Any:
        return await self._children.start(self, *args, **kwargs)

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        ssl_handshake_timeout: Any = None,
        ssl_shutdown_timeout: Any = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Transport:
        from rloop import _tls

        if self._threads is not None:
            _streams.adopt(self, protocol, context)
        secured = _tls.secure(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        transport: asyncio.Transport = secured._app_transport
        try:
            self._make_socket_transport(
                rawsock, secured, extra=extra, server=server, context=context
            )
        except BaseException:
            transport.abort()
            raise
        return transport

    async def start_tls(
        self,
        transport: Any,
        protocol: asyncio.BaseProtocol,
        sslcontext: Any,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> asyncio.Transport | None:
        """Put TLS between a transport and its protocol. See :meth:`asyncio.loop.start_tls`."""
        from rloop import _tls

        started = _tls.start_tls(
            self,
            transport,
            protocol,
            sslcontext,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        shard = getattr(transport, "_shard", None)
        if self._threads is None or shard in (None, self._current_shard()):
            return await started
        from rloop._shards import on_shard

        # The steps below belong between the events of the transport.
        return await on_shard(shard, started)


_RUN_ONCE = TokioLoop._run_once
"""The method that a program may replace to run the loop itself, as ``nest_asyncio`` does."""
