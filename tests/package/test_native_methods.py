"""Native methods of objects whose constructor was skipped, or that are closed: they never panic.

A Python subclass may leave ``super().__init__()`` out, and keep a transport after its end. What
such an object answers is asyncio's affair; that it is an ordinary exception is checked here.
"""

import asyncio
import contextlib
import gc
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import rloop
from rloop import _rloop

Make = Callable[[], Any]

ARGUMENTS: tuple[tuple[object, ...], ...] = (
    (),
    (None,),
    (-1,),
    (0,),
    (2**70,),
    (b"data",),
    ([b"data"],),
    (print,),
    (1, print),
    (None, None),
    (asyncio.Protocol(),),
)

#: They run the loop, or are no methods of its objects.
LEFT_OUT = {"_run_once", "_run_shard", "__init_subclass__", "__class__", "__new__"}


def without_constructor(base: type) -> type:
    """Return a subclass whose constructor does nothing."""
    nothing: Any = lambda *_args, **_kwargs: None  # noqa: E731
    return type(f"Uninitialized{base.__name__}", (base,), {"__init__": nothing, "__del__": nothing})


@pytest.fixture
def make() -> Iterator[dict[str, Make]]:
    """Functions that make an object of each class."""
    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(contextlib.closing(rloop.new_event_loop()))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

        def kept(closable: Any) -> Any:
            stack.callback(closable.close)
            return closable

        def stream() -> Any:
            ours, peer = socket.socketpair()
            kept(ours).setblocking(False)
            kept(peer)
            return without_constructor(_rloop.StreamTransport)(loop, ours, asyncio.Protocol())

        def datagrams() -> Any:
            sock = kept(socket.socket(type=socket.SOCK_DGRAM))
            return without_constructor(_rloop.DatagramTransport)(
                loop, sock, asyncio.DatagramProtocol()
            )

        def pipe(number: int, kind: type) -> Any:
            files = [
                kept(os.fdopen(fd, mode, 0))
                for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True)
            ]
            return without_constructor(kind)(loop, files[number], asyncio.Protocol())

        def tls() -> Any:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            session = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
            engine = (session, incoming, outgoing)
            return _rloop.TlsProtocol(
                loop, asyncio.Protocol(), engine, {}, None, True, (1.0, 1.0, True)
            )

        yield {
            "EventLoop": without_constructor(_rloop.EventLoop),
            "TokioLoop": without_constructor(rloop.TokioLoop),
            "StreamTransport": stream,
            "DatagramTransport": datagrams,
            "ReadPipeTransport": lambda: pipe(0, _rloop.ReadPipeTransport),
            "WritePipeTransport": lambda: pipe(1, _rloop.WritePipeTransport),
            "TlsProtocol": tls,
            "TlsTransport": lambda: without_constructor(_rloop.TlsTransport)(tls()),
            "Handle": lambda: loop.call_soon(print),
            "TimerHandle": lambda: loop.call_later(1000, print),
            "ThreadSafeHandle": lambda: loop.call_soon_threadsafe(print),
        }


NATIVE = (
    "EventLoop",
    "TokioLoop",
    "StreamTransport",
    "DatagramTransport",
    "ReadPipeTransport",
    "WritePipeTransport",
    "TlsProtocol",
    "TlsTransport",
    "Handle",
    "TimerHandle",
    "ThreadSafeHandle",
)


def native_methods(kind: type) -> list[str]:
    """Return the names of all attributes that a native class of the package defines."""
    native = [base for base in kind.__mro__ if base.__module__ == "rloop._rloop"]
    return sorted({name for base in native for name in vars(base)} - LEFT_OUT)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_closed", [False, True], ids=["fresh", "closed"])
@pytest.mark.parametrize("name", NATIVE)
def test_no_native_method_panics(name: str, is_closed: bool, make: dict[str, Make]) -> None:
    for attribute in native_methods(type(make[name]())):
        for arguments in ARGUMENTS:
            thing = make[name]()
            if is_closed and hasattr(thing, "_release"):
                thing._release()
            # A panic is no Exception.
            with contextlib.suppress(Exception):
                value = getattr(thing, attribute)
                if callable(value):
                    value(*arguments)
            with contextlib.suppress(Exception):
                repr(thing)
    gc.collect()
