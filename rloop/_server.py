"""How a server and its connections begin and end, above all on a loop that has several shards."""

import contextlib
import os
import socket
import threading
from asyncio import base_events, selector_events
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")

_NO_LOCK = contextlib.nullcontext()

_SHARING_MODULES = frozenset(
    {"aiohttp.web_server", "websockets.asyncio.server", "websockets.legacy.server"}
)
"""Modules of servers whose shutdown uses every connection's state from one task, without a lock."""


def shares_connections(protocol_factory: object) -> bool:
    """Return True if a known library's protocols are to be made that share state without a lock."""
    return getattr(protocol_factory, "__module__", None) in _SHARING_MODULES


class Server(base_events.Server):
    """An ``asyncio.Server`` whose connections begin and end on any thread.

    The standard library's server counts its transports and wakes who waits for the last of them.
    Here a lock makes each such step one. What runs under the lock schedules callbacks and calls
    none, so nothing can wait for it in a circle.
    """

    _lock: threading.RLock
    _waiters: list[Any] | None

    @classmethod
    def adopt(cls, server: object) -> None:
        """Make a server of the standard library one of this class. It does not serve yet."""
        if type(server) is base_events.Server:
            server.__class__ = cls
            assert isinstance(server, cls)
            server._lock = threading.RLock()

    def _attach(self, transport: Any) -> None:
        with self._lock:
            super()._attach(transport)  # type: ignore[misc]

    def _detach(self, transport: Any) -> None:
        with self._lock:
            super()._detach(transport)  # type: ignore[misc]

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets it listens on; none once it is closed."""
        # The standard library looks twice: whether there are any, and which.
        with self._lock:
            return super().sockets

    def close(self) -> None:
        """Stop listening. See :meth:`asyncio.Server.close`."""
        with self._lock:
            super().close()

    async def wait_closed(self) -> None:
        """Wait until the server and its connections are closed."""
        with self._lock:
            # As the standard library does, with the question and the entry as one step.
            if self._waiters is None:
                return
            waiter = self.get_loop().create_future()
            self._waiters.append(waiter)
        await waiter


def _backlog_of_one_attempt() -> int:
    """Return the backlog for which the standard library tries once to accept a connection.

    That is 0, or 1 on versions that try as often as the backlog says.
    """
    attempts: list[None] = []

    class NotReady:
        def accept(self) -> None:
            attempts.append(None)
            raise BlockingIOError

    accept: Any = selector_events.BaseSelectorEventLoop._accept_connection  # type: ignore[attr-defined]
    accept(None, None, NotReady(), backlog=0)
    return 0 if attempts else 1


BACKLOG_OF_ONE_ATTEMPT = _backlog_of_one_attempt()


def own_socket(sock: socket.socket) -> socket.socket:
    """Return an object of the calling thread for a socket that another thread has accepted.

    Without the GIL, the object of another thread is not freed at once when this thread drops it,
    and its descriptor stays open if the connection fails.

    Args:
        sock: the socket, which does not block; it has no descriptor afterwards.
    """
    if type(sock) is not socket.socket:
        # The listening socket's own accept() has made it.
        return sock
    kind = sock.family, sock.type, sock.proto
    fd = sock.detach()
    try:
        own = socket.socket(*kind, fd)
    except BaseException:
        os.close(fd)
        raise
    own.setblocking(False)
    return own


def begin_accepted(server: Any, sock: socket.socket, make_transport: Callable[[], _T]) -> _T:
    """Make the transport of an accepted connection, if its server has not been closed since.

    A connection begins some turns after it was accepted, on another shard perhaps.

    Args:
        server: the ``asyncio.Server`` that accepted it.
        sock: its socket, which is closed if it may not begin.
        make_transport: makes the transport, which attaches itself to the server.

    Raises:
        ConnectionAbortedError: if the server was closed.
    """
    with server._lock if isinstance(server, Server) else _NO_LOCK:
        if server._sockets is not None:
            return make_transport()
    sock.close()
    raise ConnectionAbortedError("the server was closed before the accepted connection began")
