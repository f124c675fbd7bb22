"""The Python half of the transports: what is done once per connection.

Attributes that asyncio's transports store, and that programs read, are properties here.
"""

import asyncio
import contextvars
import errno
import socket
import sys
import warnings
from asyncio import constants, trsock
from typing import TYPE_CHECKING, Any

from rloop import _rloop

if TYPE_CHECKING:
    from rloop.loop import TokioLoop


#: Attributes of the transports that have a write buffer.
_low_water = property(lambda transport: transport.get_write_buffer_limits()[0])
_high_water = property(lambda transport: transport.get_write_buffer_limits()[1])
_protocol_connected = property(lambda transport: transport._protocol is not None)


def _describe_socket(info: dict[str, Any], sock: socket.socket) -> None:
    """Add what ``get_extra_info()`` tells of every socket."""
    info["socket"] = trsock.TransportSocket(sock)
    try:
        info["sockname"] = sock.getsockname()
    except OSError:
        info["sockname"] = None
    if "peername" not in info:
        try:
            info["peername"] = sock.getpeername()
        except OSError:
            # It has none, or is gone already.
            info["peername"] = None


def _disable_nagle(sock: socket.socket) -> None:
    """Have small writes sent without waiting for the acknowledgement of those before.

    The native class has done this for plain sockets.
    """
    if type(sock) is not socket.socket and sock.family in (socket.AF_INET, socket.AF_INET6):
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            # macOS refuses a connection that was reset meanwhile; reading will tell. Other
            # protocols than TCP have no such option.
            if error.errno not in (errno.EINVAL, errno.ENOPROTOOPT):
                raise


@_rloop._own_native_methods
class SocketTransport(_rloop.StreamTransport):
    """A stream transport on a connected, non-blocking TCP or Unix socket."""

    max_size = 256 * 1024
    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    _closing = property(_rloop.StreamTransport.is_closing)
    _low_water, _high_water = _low_water, _high_water
    _protocol_connected = _protocol_connected
    if sys.version_info >= (3, 15):
        _buffer_size = property(_rloop.StreamTransport.get_write_buffer_size)

    def __init__(
        self,
        event_loop: "TokioLoop",
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: "asyncio.Future[Any] | None" = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: contextvars.Context | None = None,
    ) -> None:
        """Start the transport: ``connection_made()`` is called soon.

        Args:
            event_loop: the loop it belongs to.
            sock: the socket, which the transport closes.
            protocol: receives the events.
            waiter: a future that is done after ``connection_made()``.
            extra: what ``get_extra_info()`` knows beforehand, such as ``peername``.
            server: the ``asyncio.Server`` that accepted the connection.
            context: all callbacks run in it; by default each runs in a copy of the context of the
                code that scheduled it, as before Python 3.15.
        """
        try:
            _describe_socket(self._extra, sock)
            if server is not None:
                if sys.version_info >= (3, 13):
                    server._attach(self)
                else:
                    server._attach()
            _disable_nagle(sock)
            self._open(waiter)
        except BaseException:
            self._let_go()
            raise

    def __del__(self, _warn: Any = warnings.warn) -> None:
        """Close the socket of a transport that nobody closed, with a ResourceWarning."""
        if self._sock is not None:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self._release()


@_rloop._own_native_methods
class DatagramTransport(_rloop.DatagramTransport):
    """A datagram transport on a non-blocking UDP or Unix socket."""

    max_size = 256 * 1024

    _server = None
    _closing = property(_rloop.DatagramTransport.is_closing)
    _low_water, _high_water = _low_water, _high_water
    _protocol_connected = _protocol_connected
    _buffer_size = property(_rloop.DatagramTransport.get_write_buffer_size)

    # As in asyncio, these are there and raise NotImplementedError.
    write = asyncio.WriteTransport.write
    writelines = asyncio.WriteTransport.writelines
    write_eof = asyncio.WriteTransport.write_eof
    can_write_eof = asyncio.WriteTransport.can_write_eof

    def __init__(
        self,
        event_loop: "TokioLoop",
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: "asyncio.Future[Any] | None" = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """Start the transport: ``connection_made()`` is called soon.

        Args:
            event_loop: the loop it belongs to.
            sock: the socket, which the transport closes.
            protocol: receives the datagrams.
            address: where datagrams without an address go, and no other may go.
            waiter: a future that is done after ``connection_made()``.
            extra: what ``get_extra_info()`` knows beforehand.
        """
        try:
            _describe_socket(self._extra, sock)
            self._open(waiter)
        except BaseException:
            self._let_go()
            raise

    def __del__(self, _warn: Any = warnings.warn) -> None:
        """Close the socket of a transport that nobody closed, with a ResourceWarning."""
        if self._sock is not None:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self._release()


@_rloop._own_native_methods
class ReadPipeTransport(_rloop.ReadPipeTransport):
    """A transport that reads from a pipe, a fifo, a socket or a terminal."""

    max_size = 256 * 1024

    _closing = property(_rloop.ReadPipeTransport.is_closing)

    def __init__(
        self,
        event_loop: "TokioLoop",
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: "asyncio.Future[Any] | None" = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """Start the transport: ``connection_made()`` is called soon.

        Args:
            event_loop: the loop it belongs to.
            pipe: an object with ``fileno()`` and ``close()``, which the transport closes.
            protocol: receives the events.
            waiter: a future that is done after ``connection_made()``.
            extra: what ``get_extra_info()`` knows beforehand.

        Raises:
            ValueError: if the object is none of these.
            OSError: if the system refuses it.
        """
        self._open(waiter)

    def __del__(self, _warn: Any = warnings.warn) -> None:
        """Close the pipe of a transport that nobody closed, with a ResourceWarning."""
        if self._pipe is not None:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self._release()


@_rloop._own_native_methods
class WritePipeTransport(_rloop.WritePipeTransport):
    """A transport that writes to a pipe, a fifo, a socket or a character device."""

    _closing = property(_rloop.WritePipeTransport.is_closing)
    _low_water, _high_water = _low_water, _high_water

    # As in asyncio, these are there and raise NotImplementedError.
    is_reading = asyncio.ReadTransport.is_reading
    pause_reading = asyncio.ReadTransport.pause_reading
    resume_reading = asyncio.ReadTransport.resume_reading

    def __init__(
        self,
        event_loop: "TokioLoop",
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: "asyncio.Future[Any] | None" = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """Start the transport: ``connection_made()`` is called soon.

        Args:
            event_loop: the loop it belongs to.
            pipe: an object with ``fileno()`` and ``close()``, which the transport closes.
            protocol: is told to pause writing, and of the end.
            waiter: a future that is done after ``connection_made()``.
            extra: what ``get_extra_info()`` knows beforehand.

        Raises:
            ValueError: if the object is none of these.
            OSError: if the system refuses it.
        """
        self._open(waiter)

    def __del__(self, _warn: Any = warnings.warn) -> None:
        """Close the pipe of a transport that nobody closed, with a ResourceWarning."""
        if self._pipe is not None:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self._release()
