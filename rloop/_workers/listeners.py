"""Listening sockets that workers share: one for each address.

The first worker that binds an address binds a socket; a further worker that binds the same address
gets a descriptor of the same socket. Each worker watches its own descriptor, so an idle worker
accepts even while another one computes. The accepted connection then goes to the worker with the
fewest connections, whose own server handles it.

Theory of operation
    A `Serving` is one server on one worker, for one listening socket. It takes the place of the
    server's protocol factory, and so arrives in ``_accept_connection2()`` with every connection.
    A `Listener` is the socket; it is found by device and inode, which all descriptors of one socket
    have in common. So ``bind()``, ``sock=`` and ``fd=`` lead to the same listener.

    A worker counts its connections on shared listeners: those under way to it, which the listener's
    lock guards, and those that are open, which only its own thread changes.

    The standard library closes a server's socket when the server stops. If another worker serves
    through the same descriptor, as with one ``sock=`` for all, the descriptor is only unwatched
    here, and the last worker closes it.
"""

import contextlib
import contextvars
import os
import socket
import threading
import weakref
from asyncio import base_events
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from rloop._server import own_socket
from rloop._workers import current

if TYPE_CHECKING:
    import asyncio

    from rloop._workers.worker import Worker
    from rloop.loop import TokioLoop

_Inode = tuple[int, int]


def _inode(sock: Any) -> _Inode:
    """Return what all descriptors of one socket have in common."""
    status = os.fstat(sock.fileno())
    return status.st_dev, status.st_ino


class SharedServer(base_events.Server):
    """A server of a worker, which counts the worker's open connections."""

    _rloop_worker: "Worker"

    @classmethod
    def adopt(cls, server: object, worker: "Worker") -> None:
        """Make a server of the standard library one of this class. It does not serve yet."""
        if type(server) is base_events.Server:
            server.__class__ = cls
            assert isinstance(server, cls)
            server._rloop_worker = worker

    def _attach(self, *transport: Any) -> None:
        super()._attach(*transport)  # type: ignore[misc]
        self._rloop_worker._open_connections += 1

    def _detach(self, *transport: Any) -> None:
        self._rloop_worker._open_connections -= 1
        super()._detach(*transport)  # type: ignore[misc]


class Serving:
    """One server on one worker, for one listening socket; also the server's protocol factory."""

    def __init__(
        self,
        worker: "Worker",
        event_loop: "TokioLoop",
        protocol_factory: Callable[[], "asyncio.BaseProtocol"],
        sock: socket.socket,
        sslcontext: Any,
        server: Any,
    ) -> None:
        self.worker = worker
        self.event_loop = event_loop
        self.protocol_factory = protocol_factory
        self.sslcontext = sslcontext
        self.server = server
        self.sock = sock
        self.fd = sock.fileno()
        self.listener: Listener
        # Tasks of connections that another worker accepted begin in this context.
        self._context = contextvars.copy_context()

    def accept(
        self, conn: socket.socket, extra: Any, options: tuple[Any, ...], more: dict[str, Any]
    ) -> Coroutine[Any, Any, None]:
        """Give a connection, which this worker has accepted, to the least loaded worker.

        Returns:
            The connection's first steps, to be run as a task on this worker.
        """
        chosen = self.listener.choose()
        if chosen is None:
            # This server was closed just now and refuses the connection.
            return self.connect(conn, extra, options, more)
        if chosen is self:
            return self._connect_unless_closed(conn, extra, options, more)
        # Not in the task, which is cancelled if this worker ends now.
        _send(chosen, conn, extra, options, more)
        return _done()

    def connect(
        self, conn: socket.socket, extra: Any, options: tuple[Any, ...], more: dict[str, Any]
    ) -> Coroutine[Any, Any, None]:
        """Return the first steps of a connection, to be run as a task on this worker."""
        return self.event_loop._connect_accepted(
            self.protocol_factory, conn, extra, self.sslcontext, self.server, *options, **more
        )

    def send(
        self, conn: socket.socket, extra: Any, options: tuple[Any, ...], more: dict[str, Any]
    ) -> None:
        """Hand a connection that was chosen for this worker over to it. Any thread may call this.

        Raises:
            RuntimeError: if the worker's loop is closed.
        """
        self.event_loop.call_soon_threadsafe(
            self._begin, conn, extra, options, more, context=self._context
        )

    def _begin(
        self, conn: socket.socket, extra: Any, options: tuple[Any, ...], more: dict[str, Any]
    ) -> None:
        """Begin a connection that another worker accepted."""
        task_context = None
        if "context" in more:
            # The one in `more` is a copy of the context of the worker that accepted.
            more["context"] = task_context = self.server._context.copy()
        connecting = self._connect_unless_closed(own_socket(conn), extra, options, more)
        self.event_loop.create_task(connecting, context=task_context)

    async def _connect_unless_closed(
        self, conn: socket.socket, extra: Any, options: tuple[Any, ...], more: dict[str, Any]
    ) -> None:
        """Begin a connection, or give it to another worker if the server was closed since."""
        self._arrived()
        if self.server._sockets is None:
            _pass_on(self.listener, conn, extra, options, more)
        else:
            # This makes the transport, which counts as open, before it waits for anything.
            await self.connect(conn, extra, options, more)

    def _arrived(self) -> None:
        """Count a connection no longer as under way: it is here, or its worker has ended."""
        self.listener.arrived(self.worker)


async def _done() -> None:
    """Be the first steps of a connection that another worker has."""


def _send(
    chosen: Serving, conn: socket.socket, extra: Any, options: tuple[Any, ...], more: dict[str, Any]
) -> None:
    try:
        chosen.send(conn, extra, options, more)
    except RuntimeError:
        chosen._arrived()
        _pass_on(chosen.listener, conn, extra, options, more)


def _pass_on(
    listener: "Listener",
    conn: socket.socket,
    extra: Any,
    options: tuple[Any, ...],
    more: dict[str, Any],
) -> None:
    """Give a connection whose worker has stopped serving to another one, or close it."""
    while (chosen := listener.choose()) is not None:
        try:
            chosen.send(conn, extra, options, more)
        except RuntimeError:
            chosen._arrived()
            listener.remove(chosen)
        else:
            return
    conn.close()


class Listener:
    """A listening socket, and who serves it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._servings: list[Serving] = []
        self._last = -1
        # Sockets that share a descriptor with one that still serves.
        self._kept: list[socket.socket] = []

    def add(self, serving: Serving) -> None:
        """Let a server have connections."""
        with self._lock:
            self._servings.append(serving)

    def remove(self, serving: Serving) -> None:
        """Let a server have no more connections."""
        with self._lock, contextlib.suppress(ValueError):
            self._servings.remove(serving)

    def choose(self) -> Serving | None:
        """Return the server that gets the next connection, and count the connection to its worker.

        It is the one whose worker has the fewest connections. Workers that have as few take turns.

        Returns:
            The server, or None if none is left.
        """
        with self._lock:
            count = len(self._servings)
            following = range(self._last + 1, self._last + 1 + count)
            index = min(
                (number % count for number in following),
                key=lambda index: self._servings[index].worker._load(),
                default=None,
            )
            if index is None:
                return None
            self._last = index
            chosen = self._servings[index]
            chosen.worker._connections_under_way += 1
            chosen.worker._connections_given += 1
            return chosen

    def arrived(self, worker: "Worker") -> None:
        """Count a connection of `worker` no longer as under way."""
        with self._lock:
            worker._connections_under_way -= 1

    def leave(self, serving: Serving) -> bool:
        """Take a server away whose socket is to be closed.

        Returns:
            Whether to close the socket: nobody else serves through its descriptor.
        """
        with self._lock:
            with contextlib.suppress(ValueError):
                self._servings.remove(serving)
            if any(other.fd == serving.fd for other in self._servings):
                self._kept.append(serving.sock)
                return False
            for sock in [sock for sock in self._kept if sock.fileno() == serving.fd]:
                self._kept.remove(sock)
                if sock is not serving.sock:
                    # The descriptor is closed once, as that of serving.sock.
                    sock.detach()
            return True

    def is_served(self) -> bool:
        """Return whether a server has connections from here."""
        return bool(self._servings)


class Listeners:
    """The listening sockets of a group of workers."""

    def __init__(self) -> None:
        # Reentrant: a finalizer that runs in here may close a server.
        self._lock = threading.RLock()
        self._by_inode: dict[_Inode, Listener] = {}
        self._bound: dict[tuple[int, Any], list[_Bound]] = {}

    def join(
        self,
        event_loop: "TokioLoop",
        protocol_factory: Callable[[], "asyncio.BaseProtocol"],
        sock: socket.socket,
        sslcontext: Any,
        server: Any,
    ) -> Serving:
        """Let a server of the calling worker serve a listening socket."""
        worker = current.current_worker()
        serving = Serving(worker, event_loop, protocol_factory, sock, sslcontext, server)
        SharedServer.adopt(server, worker)
        with self._lock:
            serving.listener = self._by_inode.setdefault(_inode(sock), Listener())
            serving.listener.add(serving)
        event_loop._servings[sock.fileno()] = serving
        worker._group.report_progress()
        return serving

    def leave(self, event_loop: "TokioLoop", sock: socket.socket) -> tuple[bool, bool]:
        """Take the server of a socket that is to be closed away.

        Returns:
            Whether to close the socket, and whether nobody serves its address any more.
        """
        serving = event_loop._servings.pop(sock.fileno(), None)
        if serving is None:
            return True, True
        with self._lock:
            may_close = serving.listener.leave(serving)
            is_last = not serving.listener.is_served()
            if is_last:
                inode = _inode(sock)
                if self._by_inode.get(inode) is serving.listener:
                    del self._by_inode[inode]
        return may_close, is_last

    def abandon(self, event_loop: "TokioLoop") -> None:
        """Take away the servers that nobody closed before their loop was."""
        for serving in event_loop._servings.values():
            with self._lock:
                serving.listener.remove(serving)
        event_loop._servings.clear()

    def bind(self, bind: Callable[[Any, Any], None], sock: Any, address: Any) -> None:
        """Bind a socket, or make it another descriptor of one that another worker has bound.

        Args:
            bind: binds it.
            sock: the socket.
            address: the address, as ``socket.bind()`` takes it.
        """
        worker = current.find_worker()
        if worker is None or not _is_shareable(sock, address):
            bind(sock, address)
            return
        key = (int(sock.family), address)
        with self._lock:
            bound = [one for one in self._bound.get(key, ()) if one.is_open()]
            if all(one.worker is not worker for one in bound):
                for one in bound:
                    if one.share_with(sock):
                        break
                else:
                    bind(sock, address)
            else:
                bind(sock, address)
            bound.append(_Bound(worker, sock))
            self._bound[key] = bound

    def is_served_by_others(self, path: Any) -> bool:
        """Return whether this is the path of a Unix socket that another worker has bound."""
        worker = current.find_worker()
        if worker is None or not self._bound:
            return False
        try:
            key = (int(socket.AF_UNIX), os.fspath(path))
        except TypeError:
            return False
        with self._lock:
            bound = self._bound.get(key, ())
            return any(one.worker is not worker and one.is_open() for one in bound)

    def find_bound(self, family: int, address: Any) -> socket.socket | None:
        """Return a new descriptor of a socket that another worker has bound, if there is one."""
        worker = current.current_worker()
        with self._lock:
            bound = self._bound.get((int(family), address), [])
            for one in bound:
                if one.worker is not worker and one.is_open():
                    sock = socket.socket(family, socket.SOCK_STREAM)
                    if one.share_with(sock):
                        # The worker that has bound it may close it before this one does.
                        bound.append(_Bound(worker, sock))
                        return sock
                    sock.close()
        return None


class _Bound:
    """A socket that a worker has bound."""

    def __init__(self, worker: "Worker", sock: socket.socket) -> None:
        self.worker = worker
        self._sock = weakref.ref(sock)
        self._inode = _inode(sock)

    def is_open(self) -> bool:
        """Return whether the socket is still open."""
        sock = self._sock()
        if sock is None or sock.fileno() == -1:
            return False
        with contextlib.suppress(OSError):
            return _inode(sock) == self._inode
        return False

    def share_with(self, sock: Any) -> bool:
        """Make `sock` a descriptor of this socket; return False if this one is closed by now."""
        own = self._sock()
        if own is None:
            return False
        try:
            copy = os.dup(own.fileno())
        except OSError:
            return False
        try:
            # Its worker may have closed it meanwhile, and the number may be another file's.
            status = os.fstat(copy)
            if (status.st_dev, status.st_ino) != self._inode:
                return False
            os.dup2(copy, sock.fileno(), inheritable=False)
        finally:
            os.close(copy)
        return True


def _is_shareable(sock: Any, address: Any) -> bool:
    """Return whether this is a stream socket and an address that one socket only can have."""
    if sock.type != socket.SOCK_STREAM:
        return False
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        return isinstance(address, tuple) and len(address) >= 2 and address[1] != 0
    return sock.family == socket.AF_UNIX and isinstance(address, str | bytes) and bool(address)
