"""websockets serves and connects on the loop under test; its blocking client is the peer."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect as connect_blocking

from support.peers import LOOPBACK
from support.threads import eventually, in_thread


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """Run an echo server; give its URL."""
    async with serve(echo, LOOPBACK, 0, max_size=8 << 20) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://{LOOPBACK}:{port}"
        # Its close() asks whether handlers run and then waits for them. On several threads the last
        # may end in between, and then it waits for ever (docs/threading.md).
        await eventually(lambda: not server.handler_tasks)


async def test_messages_of_every_size_come_back() -> None:
    async with serving() as url, connect(url, max_size=8 << 20, proxy=None) as connection:
        for size in (0, 1, 125, 126, 65535, 65536, 4 << 20):
            message = os.urandom(size)
            await connection.send(message)
            assert await connection.recv() == message


async def test_many_connections_talk_at_once() -> None:
    async def talk(url: str, number: int) -> None:
        async with connect(url, proxy=None) as connection:
            for turn in range(10):
                await connection.send(f"{number}/{turn}")
                assert await connection.recv() == f"{number}/{turn}"

    async with serving() as url:
        await asyncio.gather(*(talk(url, number) for number in range(30)))


async def test_a_blocking_client_is_served() -> None:
    def talk(url: str) -> list[str | bytes]:
        with connect_blocking(url, proxy=None) as connection:
            answers = []
            for number in range(20):
                connection.send(str(number))
                answers.append(connection.recv())
            return answers

    async with serving() as url:
        assert await in_thread(talk, url) == [str(number) for number in range(20)]


async def test_a_ping_is_answered_and_a_close_is_orderly() -> None:
    async with serving() as url:
        connection = await connect(url, proxy=None)
        await (await connection.ping())
        await connection.close()
        with pytest.raises(ConnectionClosedOK):
            await connection.recv()
