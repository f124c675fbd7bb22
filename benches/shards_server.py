"""A server whose every request computes for about 100 µs, in one process on one or more threads.

Started by shards.py. With ``--loops 1`` there is one loop; TokioLoop then has as many threads as
RLOOP_THREADS says. With ``--loops N`` there are N loops in N threads, each with a listening socket
of its own on one port (SO_REUSEPORT): what other loops need for several threads. The applications
are the same either way and know nothing of it. Announces itself and ends like server.py.

Usage: RLOOP_THREADS=2 python benches/shards_server.py --loop tokioloop --loops 1 --kind protocol
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import cast

import uvicorn
from aiohttp import web
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loops import LOOPS, loop_factory
from server import BACKLOG, EchoProtocol, call_at_end_of_input, raise_file_limit
from shards_work import render, run_on_threads

READ_SIZE = 64 * 1024

WEIGHED_BYTES = 64
"""How much of a message is worth one computation, where longer messages take longer."""

TIMEOUT_SECONDS = 60.0

TASKS: set[asyncio.Future[None]] = set()
"""The tasks that are not done; a set's methods are atomic."""

Serving = Callable[[socket.socket], AbstractAsyncContextManager[None]]


class ComputeProtocol(asyncio.Protocol):
    """Computes for each message and echoes it, so that the load generator can check it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        render()
        self.transport.write(data)


class WeighedProtocol(ComputeProtocol):
    """Computes for about 100 µs for every `WEIGHED_BYTES` of what came, and echoes it."""

    def data_received(self, data: bytes) -> None:
        for _ in range(0, len(data), WEIGHED_BYTES):
            render()
        self.transport.write(data)


@asynccontextmanager
async def serving_protocol(
    factory: Callable[[], asyncio.Protocol], listener: socket.socket
) -> AsyncIterator[None]:
    """Serve with the protocols that `factory` makes."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, sock=listener, backlog=BACKLOG)
    try:
        yield
    finally:
        server.close()


async def compute_for_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Compute for each message and echo it."""
    while data := await reader.read(READ_SIZE):
        render()
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def serving_streams(listener: socket.socket) -> AsyncIterator[None]:
    """Serve with a stream handler."""
    server = await asyncio.start_server(compute_for_stream, sock=listener, backlog=BACKLOG)
    try:
        yield
    finally:
        server.close()


async def echo_slowly(transport: asyncio.Transport, data: bytes) -> None:
    """Echo after giving way, under a timeout."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await asyncio.sleep(0)
        transport.write(data)


class TaskProtocol(ComputeProtocol):
    """Starts a task for each message, which sets a timer and echoes."""

    def data_received(self, data: bytes) -> None:
        task = asyncio.create_task(echo_slowly(self.transport, data))
        TASKS.add(task)
        task.add_done_callback(TASKS.discard)


class SpawningProtocol(ComputeProtocol):
    """Has each message echoed by a task on the least loaded thread of a TokioLoop."""

    def data_received(self, data: bytes) -> None:
        import rloop

        task = rloop.spawn(echo_slowly(self.transport, data))
        TASKS.add(task)
        task.add_done_callback(TASKS.discard)


async def respond(_: Request) -> Response:
    """Answer with a page that is rendered for it."""
    return Response(render(), media_type="text/plain")


@asynccontextmanager
async def serving_starlette(listener: socket.socket) -> AsyncIterator[None]:
    """Serve a Starlette application by uvicorn."""
    app = Starlette(routes=[Route("/", respond)])
    config = uvicorn.Config(app, loop="none", log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


async def respond_aiohttp(_: web.Request) -> web.Response:
    """Answer with a page that is rendered for it."""
    return web.Response(body=render())


@asynccontextmanager
async def serving_aiohttp(listener: socket.socket) -> AsyncIterator[None]:
    """Serve an aiohttp application."""
    import rloop

    app = web.Application()
    app.add_routes([web.get("/", respond_aiohttp)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        # Its clients end before it does.
        with rloop.pinned(pin=False):
            await web.SockSite(runner, listener, backlog=BACKLOG).start()
        yield
    finally:
        await runner.cleanup()


KINDS: dict[str, Serving] = {
    "echo": lambda listener: serving_protocol(EchoProtocol, listener),
    "protocol": lambda listener: serving_protocol(ComputeProtocol, listener),
    "weighed": lambda listener: serving_protocol(WeighedProtocol, listener),
    "streams": serving_streams,
    "tasks": lambda listener: serving_protocol(TaskProtocol, listener),
    "spawned": lambda listener: serving_protocol(SpawningProtocol, listener),
    "starlette": serving_starlette,
    "aiohttp": serving_aiohttp,
}


def listen(count: int) -> list[socket.socket]:
    """Return `count` sockets that are bound to one port, which the first of them chooses."""
    listeners: list[socket.socket] = []
    port = 0
    for _ in range(count):
        # asyncio turns Nagle's algorithm off only for sockets that name their protocol.
        listener = socket.socket(proto=socket.IPPROTO_TCP)
        if count > 1:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(BACKLOG)
        port = listener.getsockname()[1]
        listeners.append(listener)
    return listeners


def serve(kind: str, make_loop: Callable[[], asyncio.AbstractEventLoop], count: int) -> None:
    """Serve on `count` loops until standard input ends; announces the port when all are there."""
    listeners = listen(count)
    all_there = threading.Barrier(count)
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def stop_all() -> None:
        for loop, stopping in running:
            loop.call_soon_threadsafe(stopping.set)

    async def serve_one(number: int) -> None:
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        running.append((loop, stopping))
        async with KINDS[kind](listeners[number]):
            await until_passed(all_there)
            if number == 0:
                print(json.dumps({"port": listeners[0].getsockname()[1]}), flush=True)
                call_at_end_of_input(loop, stop_all)
            await stopping.wait()

    run_on_threads(make_loop, count, serve_one)


def until_passed(barrier: threading.Barrier) -> Awaitable[object]:
    """Wait until as many loops as `barrier` counts have come to it."""
    return asyncio.to_thread(barrier.wait)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--loop", choices=LOOPS, required=True)
    parser.add_argument("--loops", type=int, default=1)
    parser.add_argument("--kind", choices=KINDS, required=True)
    options = parser.parse_args()
    raise_file_limit()
    serve(options.kind, loop_factory(options.loop), options.loops)


if __name__ == "__main__":
    main()
