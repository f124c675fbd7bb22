"""The fast TLS engine under asyncio's own TLS protocol, without TokioLoop.

:func:`over_bios` makes a context of ``rloop.tls`` hand out an object with the methods of
``ssl.SSLObject`` that asyncio calls, so that the engine is tested by asyncio's rules on any loop.
"""

import contextlib
import ssl
from pathlib import Path
from typing import Any

from rloop import _rloop
from rloop.tls import Context
from support.certificates import HOST


class BioObject:
    """An ``ssl.SSLObject`` of the fast engine, between two memory BIOs."""

    def __init__(
        self, native: _rloop.RustlsObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        self._native = native
        self._incoming = incoming
        self._outgoing = outgoing
        self._plaintext = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def do_handshake(self) -> None:
        self._receive()
        try:
            is_done = self._native._handshake()
        finally:
            self._send()
        if not is_done:
            self._want_read()

    def read(self, size: int = 1024, buffer: bytearray | None = None) -> Any:
        """Return plaintext, or how much of it was put into the buffer; nothing at the end."""
        self._receive()
        if not self._plaintext:
            try:
                is_closed = self._native._end()
            finally:
                self._send()
            if not is_closed:
                self._want_read()
        part, self._plaintext = self._plaintext[:size], self._plaintext[size:]
        if buffer is None:
            return part
        buffer[: len(part)] = part
        return len(part)

    def write(self, data: Any) -> int:
        self._native._write(bytes(data))
        self._send()
        return len(data)

    def unwrap(self) -> None:
        self._receive()
        try:
            is_closed = self._native._close()
        finally:
            self._send()
        if not is_closed:
            self._want_read()

    def pending(self) -> int:
        return len(self._plaintext)

    def _receive(self) -> None:
        if self._incoming.pending:
            self._native._feed(self._incoming.read())
        self._plaintext += self._native._read() or b""

    def _send(self) -> None:
        if records := self._native._take_records():
            self._outgoing.write(records)

    def _want_read(self) -> None:
        raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "The operation did not complete (read)")


class BioContext(Context):
    """A context whose ``wrap_bio()`` uses the fast engine."""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: object = None,
    ) -> Any:
        name = None if server_hostname is None else str(server_hostname)
        native = self._make_rustls(server_side=server_side, server_hostname=name)
        if native is None:
            return super().wrap_bio(incoming, outgoing, server_side, server_hostname)
        return BioObject(native, incoming, outgoing)

    def _hook(self) -> str | None:
        hook = super()._hook()
        return None if hook == "a wrap_bio() of its own" else hook


def over_bios(context: Context) -> Context:
    """Make the context's ``wrap_bio()`` use the fast engine, and return it."""
    assert context.engine == "rustls", context.engine_reason
    object.__setattr__(context, "__class__", BioContext)
    return context


def as_openssl(context: Context) -> Context:
    """Move the context to OpenSSL, and change nothing else."""
    context._unsupported("a test")
    assert context.engine == "openssl"
    return context


def client_hello(cafile: Path) -> bytes:
    """Return the bytes with which OpenSSL begins."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=cafile)
    connecting = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=HOST)
    with contextlib.suppress(ssl.SSLWantReadError):
        connecting.do_handshake()
    return outgoing.read()


def on_loop(context: Context, loop_name: str) -> Context:
    """Have the context served by rustls on the loop: on others than TokioLoop by its protocol."""
    assert context.engine == "rustls", context.engine_reason
    return context if loop_name == "rloop" else over_bios(context)
