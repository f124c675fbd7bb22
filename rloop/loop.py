"""The class ``TokioLoop``: the native event loop in front of the standard library's.

What runs per callback, per packet or per handle is in ``rloop._rloop``. What runs per connection or
per loop is inherited from :class:`asyncio.SelectorEventLoop`, so that each Python version keeps its
own signatures and semantics. This module joins the two.
"""

import asyncio
import atexit
import os
import signal
import socket
import threading
from asyncio import sslproto
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from rloop import _rloop
from rloop._selector import WatchedDescriptors
from rloop._transport import SocketTransport

__all__ = ["TokioLoop"]

os.register_at_fork(after_in_child=_rloop._after_fork_in_child)
atexit.register(_rloop._park_running_loops)


class TokioLoop(_rloop.EventLoop, asyncio.SelectorEventLoop):  # type: ignore[misc]
    """A drop-in asyncio event loop on tokio.

    Thread rules are those of :class:`asyncio.AbstractEventLoop`: use
    :meth:`call_soon_threadsafe` from other threads.
    """

    # The type checker is told to overlook that the handles are no subclasses of asyncio's: they are
    # instances of them for isinstance() (see src/python/handle.rs).

    if TYPE_CHECKING:
        # What the standard library keeps on its selector loops.
        _csock: socket.socket | None
        _transports: MutableMapping[int, SocketTransport]

        def _ensure_fd_no_transport(self, fd: object) -> None: ...

    def __init__(self) -> None:
        """Make a loop that is not running.

        Raises:
            OSError: if the process is out of file descriptors.
        """
        asyncio.SelectorEventLoop.__init__(self, WatchedDescriptors(self))

    def run_forever(self) -> None:
        """Run until :meth:`stop` is called. See :meth:`asyncio.loop.run_forever`."""
        with _WakeupOnSignal(self._csock):
            super().run_forever()

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[Any] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Any = None,
    ) -> SocketTransport:
        self._ensure_fd_no_transport(sock)
        transport = SocketTransport(self, sock, protocol, waiter, extra, server)
        self._transports[transport._sock_fd] = transport
        return transport

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
    ) -> asyncio.Transport:
        ssl_protocol = sslproto.SSLProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        self._make_socket_transport(rawsock, ssl_protocol, extra=extra, server=server)
        return ssl_protocol._app_transport


class _WakeupOnSignal:
    """While the loop runs in the main thread, a signal writes to the loop's self-pipe.

    Python runs signal handlers between bytecodes of the main thread. The wait for events is none;
    a signal that arrives just before it, or on another thread, would else be noticed late.
    """

    def __init__(self, write_end: socket.socket | None) -> None:
        self._write_end = write_end
        self._installed = False

    def __enter__(self) -> None:
        if self._write_end is None or threading.current_thread() is not threading.main_thread():
            return
        previous = signal.set_wakeup_fd(self._write_end.fileno(), warn_on_full_buffer=False)
        if previous == -1:
            self._installed = True
        else:
            # Somebody else's, such as a loop's add_signal_handler(): theirs wakes us as well.
            signal.set_wakeup_fd(previous)

    def __exit__(self, *_: object) -> None:
        if self._installed:
            self._installed = False
            current = signal.set_wakeup_fd(-1)
            assert self._write_end is not None
            if current not in (-1, self._write_end.fileno()):
                signal.set_wakeup_fd(current)
