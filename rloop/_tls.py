"""The Python half of TLS: what is done once per connection."""

import asyncio
import ssl
import warnings
from asyncio import constants, sslproto
from typing import TYPE_CHECKING, Any

from rloop import _rloop
from rloop._tls_context import Context

if TYPE_CHECKING:
    from rloop.loop import TokioLoop


_SHUTDOWN_INCLUDES_FLUSH = (
    "call_later" in sslproto.SSLProtocol._on_shutdown_complete.__code__.co_names  # type: ignore[attr-defined]
)
"""Whether ssl_shutdown_timeout also bounds how long the peer takes to read what was written.

asyncio's own TLS protocol decides. It keeps its timer at that point from Python 3.14.8 on.
"""


@_rloop._own_native_methods
class TlsTransport(_rloop.TlsTransport):
    """The transport of a TLS connection."""

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.FALLBACK

    def __del__(self, _warn: Any = warnings.warn) -> None:
        """Tell that nobody closed the transport, with a ResourceWarning."""
        if not self._closed:
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)


@_rloop._own_native_methods
class TlsProtocol(_rloop.TlsProtocol):
    """The protocol that puts TLS between two transports.

    Programs read what ``asyncio.sslproto.SSLProtocol`` keeps under these names.
    """

    max_size = sslproto.SSLProtocol.max_size

    @property
    def _sslcontext(self) -> ssl.SSLContext:
        context: ssl.SSLContext = self._extra["sslcontext"]
        return context

    @property
    def _server_side(self) -> bool:
        return self._sslobj.server_side

    @property
    def _server_hostname(self) -> str | None:
        return self._sslobj.server_hostname

    @property
    def _state(self) -> Any:
        return sslproto.SSLProtocolState[self._phase]

    @property
    def _app_protocol_is_buffer(self) -> bool:
        return isinstance(self._app_protocol, asyncio.BufferedProtocol)

    def _get_app_transport(self) -> Any:
        return self._app_transport

    def _get_extra_info(self, name: str, default: Any = None) -> Any:
        transport = self._app_transport
        return default if transport is None else transport.get_extra_info(name, default)


def secure(
    event_loop: "TokioLoop",
    protocol: asyncio.BaseProtocol,
    sslcontext: ssl.SSLContext | None,
    waiter: "asyncio.Future[Any] | None",
    *,
    server_side: bool,
    server_hostname: str | None,
    ssl_handshake_timeout: float | None,
    ssl_shutdown_timeout: float | None,
    call_connection_made: bool = True,
) -> TlsProtocol:
    """Make the protocol that puts TLS between a transport and ``protocol``.

    Args:
        event_loop: the loop of the connection.
        protocol: the application's protocol.
        sslcontext: decides everything about the session; None is the default one of a client.
        waiter: a future that is done after the handshake.
        server_side: which side of the handshake to take.
        server_hostname: the name that the server is asked for and has to prove.
        ssl_handshake_timeout: how long the handshake may take, in seconds; None is the default.
        ssl_shutdown_timeout: how long closing may take, in seconds; None is the default.
        call_connection_made: whether ``protocol`` is told of the connection after the handshake.

    Raises:
        ValueError: if a timeout is not positive, or a server has no context.
        ssl.SSLError: if OpenSSL refuses the session.
    """
    timeouts = (
        _timeout("ssl_handshake_timeout", ssl_handshake_timeout, constants.SSL_HANDSHAKE_TIMEOUT),
        _timeout("ssl_shutdown_timeout", ssl_shutdown_timeout, constants.SSL_SHUTDOWN_TIMEOUT),
        _SHUTDOWN_INCLUDES_FLUSH,
    )
    if not sslcontext:
        sslcontext = sslproto._create_transport_context(server_side, server_hostname)
    engine = _make_engine(sslcontext, server_side, None if server_side else server_hostname or None)
    secured = TlsProtocol(
        event_loop,
        protocol,
        engine,
        {"sslcontext": sslcontext},
        waiter,
        call_connection_made,
        timeouts,
    )
    secured._attach(TlsTransport(secured))
    return secured


def _make_engine(
    sslcontext: ssl.SSLContext, server_side: bool, server_hostname: str | None
) -> "_rloop.RustlsObject | tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]":
    if isinstance(sslcontext, Context):
        fast = sslcontext._make_rustls(server_side=server_side, server_hostname=server_hostname)
        if fast is not None:
            return fast
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ssl_object = sslcontext.wrap_bio(
        incoming, outgoing, server_side=server_side, server_hostname=server_hostname
    )
    return ssl_object, incoming, outgoing


def _timeout(name: str, seconds: float | None, default: float) -> float:
    if seconds is None:
        return default
    if seconds <= 0:
        raise ValueError(f"{name} should be a positive number, got {seconds}")
    return seconds


async def start_tls(
    event_loop: "TokioLoop",
    transport: asyncio.Transport,
    protocol: asyncio.BaseProtocol,
    sslcontext: ssl.SSLContext,
    **options: Any,
) -> asyncio.Transport | None:
    """Do what ``loop.start_tls()`` does; ``options`` are those of :func:`secure`.

    Raises:
        TypeError: if the context or the transport does not fit.
        OSError: if the handshake fails; ``transport`` is closed then.
    """
    if not isinstance(sslcontext, ssl.SSLContext):
        raise TypeError(
            f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}"
        )
    if not getattr(transport, "_start_tls_compatible", False):
        raise TypeError(f"transport {transport!r} is not supported by start_tls()")
    waiter = event_loop.create_future()
    secured = secure(
        event_loop, protocol, sslcontext, waiter, call_connection_made=False, **options
    )
    # Nothing may be received before the protocol has heard of its transport.
    transport.pause_reading()
    if options["server_side"]:
        secured._feed(_take_buffered(protocol))
    transport.set_protocol(secured)
    scheduled = (
        event_loop.call_soon(secured.connection_made, transport),
        event_loop.call_soon(transport.resume_reading),
    )
    try:
        await waiter
    except BaseException:
        transport.close()
        for handle in scheduled:
            handle.cancel()
        # The waiter refers to the exception, and that to this frame: a cycle that would keep the
        # transport and the socket until the next collection.
        del waiter
        raise
    secured_transport: asyncio.Transport | None = secured._app_transport
    return secured_transport


def _take_buffered(protocol: asyncio.BaseProtocol) -> bytes:
    """Take what a stream reader has received already: the client's hello came with its request.

    asyncio does so from Python 3.14 on (https://github.com/python/cpython/issues/142352); before,
    the handshake waits for a hello that was received.
    """
    reader = getattr(protocol, "_stream_reader", None)
    if not isinstance(protocol, asyncio.StreamReaderProtocol) or reader is None:
        return b""
    received = bytes(reader._buffer)
    reader._buffer.clear()
    return received
