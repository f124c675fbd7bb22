"""Every method of a protocol raises every kind of exception, in every way in which it is called.

What comes of it is compared with asyncio: what left the run, what was reported and how, which calls
followed, what the program's own calls raised, and what the peer received.
"""

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import pytest

import rloop
from support.loops import factory_of
from support.peers import LOOPBACK
from support.raising import ERRORS, STAGES, Seen, differences, methods_of
from support.threads import eventually, turns

if TYPE_CHECKING:
    from support.tls import Authority

METHODS = [
    pytest.param(kind, shape, method, id=f"{kind}-{shape}-{method}")
    for kind in STAGES
    if kind != "tls"
    for shape, method in methods_of(kind)
]
TLS_METHODS = [
    pytest.param(shape, method, id=f"{shape}-{method}") for shape, method in methods_of("tls")
]


@pytest.mark.parametrize(("kind", "shape", "method"), METHODS)
def test_an_exception_of_a_protocol_goes_where_asyncio_sends_it(
    loop_name: str, kind: str, shape: str, method: str
) -> None:
    found = differences(factory_of(loop_name), kind, shape, method)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("shape", "method"), TLS_METHODS)
def test_an_exception_of_a_protocol_of_tls_goes_where_asyncio_sends_it(
    loop_name: str, authority: "Authority", shape: str, method: str
) -> None:
    found = differences(factory_of(loop_name), "tls", shape, method, authority)
    assert not found, "\n".join(found)


def observe_callback(
    loop: asyncio.AbstractEventLoop, shape: str, error: type[BaseException]
) -> Seen:
    """Return what follows when a server's callback of streams raises."""
    seen = Seen()
    called = asyncio.Event()
    streams: list[asyncio.StreamWriter] = []

    def fail(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        streams.append(writer)
        called.set()
        raise error("on purpose")

    async def fail_in_a_task(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fail(reader, writer)

    def note(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        message = context["message"].partition(" at ")[0].partition("(")[0]
        keys = sorted(set(context) - {"message", "exception"})
        seen.reports.append(f"{message}: {type(context['exception']).__name__} {keys}")

    async def serve() -> None:
        callback = fail if shape == "function" else fail_in_a_task
        # The rest is counted in turns, so all of it happens on one shard.
        with rloop.pinned():
            server = await asyncio.start_server(callback, LOOPBACK, 0)
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            await called.wait()
            await turns(5)
            seen.calls.append(f"closing: {streams[0].is_closing()}")
            streams[0].close()
            sock = streams[0].get_extra_info("socket")
            await eventually(lambda: sock.fileno() == -1)
            seen.peer = repr(client.recv(10))
        server.close()
        await server.wait_closed()

    loop.set_exception_handler(note)
    serving = loop.create_task(serve())
    while not serving.done():
        try:
            loop.run_until_complete(serving)
        except (KeyboardInterrupt, SystemExit) as interrupt:
            seen.left.append(type(interrupt).__name__)
    serving.result()
    return seen


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("shape", ["function", "coroutine function"])
def test_an_exception_of_a_servers_callback_goes_where_asyncio_sends_it(
    loop_name: str, shape: str, error: type[BaseException]
) -> None:
    with (
        contextlib.closing(asyncio.SelectorEventLoop()) as oracle,
        contextlib.closing(factory_of(loop_name)()) as loop,
    ):
        expected = observe_callback(oracle, shape, error)
        assert observe_callback(loop, shape, error) == expected
