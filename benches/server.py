"""An echo server on one event loop, in each style in which asyncio programs read and write.

Started by run.py (and by hand) in a process of its own, so that its CPU time, system calls and
memory are the server's alone. The first line of its output is a JSON object with its port. It
serves until its standard input ends or SIGTERM arrives.

Usage: python benches/server.py --loop uvloop --mode protocol
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import cast

from loops import LOOPS, loop_factory

BACKLOG = 1024
READ_SIZE = 64 * 1024

Running = AbstractAsyncContextManager[int]


class EchoProtocol(asyncio.Protocol):
    """Writes back each chunk that it is given."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's: a check would refuse them.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class EchoBufferedProtocol(asyncio.BufferedProtocol):
    """Receives into a buffer of its own and writes back a copy of what came.

    The copy is needed: a transport may keep what it could not send, and the buffer is used again.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.buffer = memoryview(bytearray(READ_SIZE))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.buffer[:nbytes]))


class EchoDatagramProtocol(asyncio.DatagramProtocol):
    """Sends back each datagram to where it came from."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


async def echo_stream_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo whatever a read returns, with the drain that asyncio's documentation asks for."""
    while data := await reader.read(READ_SIZE):
        writer.write(data)
        await writer.drain()
    writer.close()


async def echo_stream_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo line by line."""
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def serving_protocol(
    factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
) -> AsyncIterator[int]:
    """Serve connections with `factory`'s protocols; yields the port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, host, port, backlog=BACKLOG)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def serving_streams(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    host: str,
    port: int,
) -> AsyncIterator[int]:
    """Serve connections with the stream coroutine `handler`; yields the port."""
    server = await asyncio.start_server(handler, host, port, backlog=BACKLOG)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def serving_datagrams(host: str, port: int) -> AsyncIterator[int]:
    """Serve datagrams; yields the port."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        EchoDatagramProtocol, local_addr=(host, port)
    )
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


async def echo_socket(connection: socket.socket) -> None:
    """Echo with sock_recv and sock_sendall; a reset ends this connection only."""
    loop = asyncio.get_running_loop()
    with connection, suppress(ConnectionError):
        while data := await loop.sock_recv(connection, READ_SIZE):
            await loop.sock_sendall(connection, data)


async def accept_sockets(listener: socket.socket) -> None:
    """Accept with sock_accept and give each connection a task, until cancelled."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as connections:
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setblocking(False)
            # asyncio's transports set this; without it Nagle's algorithm would be measured.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections.create_task(echo_socket(connection))


@asynccontextmanager
async def serving_sockets(host: str, port: int) -> AsyncIterator[int]:
    """Serve connections with the sock_* methods; yields the port."""
    with socket.create_server((host, port), backlog=BACKLOG) as listener:
        listener.setblocking(False)
        accepting = asyncio.create_task(accept_sockets(listener))
        try:
            yield listener.getsockname()[1]
        finally:
            accepting.cancel()
            await asyncio.wait([accepting])


MODES: dict[str, Callable[[str, int], Running]] = {
    "protocol": lambda host, port: serving_protocol(EchoProtocol, host, port),
    "buffered": lambda host, port: serving_protocol(EchoBufferedProtocol, host, port),
    "streams-read": lambda host, port: serving_streams(echo_stream_chunks, host, port),
    "streams-readline": lambda host, port: serving_streams(echo_stream_lines, host, port),
    "sock": serving_sockets,
    "datagram": serving_datagrams,
}


def call_at_end_of_input(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """Call `stop` on `loop` when standard input ends.

    A thread waits for it, so that the loop watches nothing but what is measured.
    """

    def wait() -> None:
        while os.read(sys.stdin.fileno(), READ_SIZE):
            pass
        loop.call_soon_threadsafe(stop)

    threading.Thread(target=wait, name="end of input", daemon=True).start()


async def serve(mode: str, host: str, port: int) -> None:
    """Serve `mode` and announce the port, until end of input or SIGTERM."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    async with MODES[mode](host, port) as bound_port:
        print(json.dumps({"port": bound_port}), flush=True)
        call_at_end_of_input(loop, stopping.set)
        await stopping.wait()


def raise_file_limit() -> None:
    """Allow as many connections as the hard limit of this process does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--loop", choices=LOOPS, required=True)
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    raise_file_limit()
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        runner.run(serve(options.mode, options.host, options.port))


if __name__ == "__main__":
    main()
