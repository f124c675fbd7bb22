"""The servers that are talked to: both engines on TokioLoop, and OpenSSL on asyncio."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import rloop
from rloop import tls

ALPN = ["h2", "http/1.1"]
Address = tuple[str, int]

NAMES = ("rustls", "openssl", "asyncio")
"""rustls and OpenSSL on TokioLoop, and OpenSSL on asyncio as the control."""


def context_of(name: str, certfile: Path) -> ssl.SSLContext:
    """Make the context of a server."""
    if name == "rustls":
        return tls.server_context(certfile, alpn=ALPN)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certfile)
    context.set_alpn_protocols(ALPN)
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


class Echo(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def _serve_on_loop(
    make_loop: Callable[[], asyncio.AbstractEventLoop],
    context: ssl.SSLContext,
    started: Callable[[Address, Callable[[], object]], None],
) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        # A connection that fails is what is tested.
        loop.set_exception_handler(lambda *_: None)
        is_over = asyncio.Event()
        server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=context)
        async with server:
            address = server.sockets[0].getsockname()
            started(address, lambda: loop.call_soon_threadsafe(is_over.set))
            await is_over.wait()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(serve())


@contextlib.contextmanager
def serving(name: str, certfile: Path) -> Iterator[Address]:
    """Run a server in a thread; give its address."""
    context = context_of(name, certfile)
    ready = threading.Event()
    found: list[Any] = []

    def started(address: Address, stop: Callable[[], object]) -> None:
        found.extend([address, stop])
        ready.set()

    make_loop = asyncio.SelectorEventLoop if name == "asyncio" else rloop.new_event_loop
    thread = threading.Thread(target=_serve_on_loop, args=(make_loop, context, started))
    thread.start()
    if not ready.wait(10):
        raise RuntimeError(f"the server {name!r} has not started")
    try:
        yield found[0]
    finally:
        found[1]()
        thread.join()
