"""An unmodified application on two workers, against PostgreSQL and Redis.

FastAPI, asyncpg, SQLAlchemy and redis, each with one pool or client that all handlers share, as
applications have them. Clients check every answer, and some go away in the middle of a request.
"""

import asyncio
import contextlib
import importlib
import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets.asyncio.client

from support import databases
from support.threads import PEER_TIMEOUT
from support.workers import Program, program, several_workers, write_modules

pytestmark = several_workers

#: It has no types.
asyncpg: Any = importlib.import_module("asyncpg")

#: How many connections make requests at the same time, and how many each makes.
CONNECTIONS = 12
REQUESTS = int(os.environ.get("RLOOP_TEST_REQUESTS", "25"))
TIMEOUT = PEER_TIMEOUT + 0.02 * CONNECTIONS * REQUESTS

APPLICATION = """
import asyncio, contextlib, os

import asyncpg, fastapi, redis.asyncio, sqlalchemy
import sqlalchemy.ext.asyncio
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import rloop
from support.workers import say, say_when_serving

index = rloop.current_worker().index
pool = client = sessions = None


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@contextlib.asynccontextmanager
async def lifespan(app):
    global pool, client, sessions
    folder = os.environ["POSTGRESQL"]
    client = redis.asyncio.Redis(unix_socket_path=os.environ["REDIS"], decode_responses=True)
    engine = sqlalchemy.ext.asyncio.create_async_engine(
        f"postgresql+asyncpg://postgres@/postgres?host={folder}", pool_size=4
    )
    sessions = sqlalchemy.ext.asyncio.async_sessionmaker(engine)
    async with asyncpg.create_pool(host=folder, user="postgres", min_size=2, max_size=4) as pool:
        announcing = asyncio.ensure_future(say_when_serving())
        yield
        say("shut down", index)
    await client.aclose()
    await engine.dispose()


app = fastapi.FastAPI(lifespan=lifespan)


@app.get("/pool/{number}")
async def use_pool(number: int):
    async with pool.acquire() as connection, connection.transaction():
        doubled = await connection.fetchval("SELECT 2 * $1::int", number)
        await connection.execute("SELECT pg_sleep(0.0005)")
        await connection.execute("UPDATE counter SET number = number + 1")
    return {"worker": index, "number": number, "answer": doubled}


@app.get("/session/{number}")
async def use_session(number: int):
    async with sessions() as session:
        item = await session.get(Item, number % 100)
        return {"worker": index, "number": number, "answer": item.name}


@app.get("/redis/{number}")
async def use_redis(number: int):
    async with client.pipeline() as pipeline:
        pipeline.incr("counter")
        pipeline.set(f"key {number}", number, ex=60)
        pipeline.get(f"key {number}")
        *_, answer = await pipeline.execute()
    return {"worker": index, "number": number, "answer": int(answer)}


@app.websocket("/chat")
async def chat(socket: fastapi.WebSocket):
    await socket.accept()
    async with client.pubsub() as subscription:
        await subscription.subscribe("chat")

        async def deliver():
            async for message in subscription.listen():
                text = message["data"] if message["type"] == "message" else "subscribed"
                await socket.send_text(str(text))

        delivering = asyncio.create_task(deliver())
        try:
            while True:
                await client.publish("chat", await socket.receive_text())
        except fastapi.WebSocketDisconnect:
            pass
        finally:
            delivering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await delivering
"""


async def connect_once_started(folder: str) -> Any:
    """Connect to PostgreSQL, which listens before it has started."""
    async with asyncio.timeout(PEER_TIMEOUT):
        while True:
            try:
                return await asyncpg.connect(host=folder, user="postgres")
            except asyncpg.CannotConnectNowError:
                await asyncio.sleep(0.01)


async def make_tables(folder: str) -> None:
    connection = await connect_once_started(folder)
    await connection.execute("CREATE TABLE counter AS SELECT 0 AS number")
    await connection.execute("CREATE TABLE items (id int PRIMARY KEY, name text)")
    await connection.execute(
        "INSERT INTO items SELECT n, 'item ' || n FROM generate_series(0, 99) AS n"
    )
    await connection.close()


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """Run both servers; give the environment that tells the application where they are."""
    with databases.postgresql() as postgresql, databases.redis() as redis:
        asyncio.run(make_tables(postgresql))
        yield {"POSTGRESQL": postgresql, "REDIS": redis}


@pytest.fixture
def application(servers: dict[str, str], tmp_path: Path) -> Iterator[tuple[Program, str]]:
    """Run the application on two workers; give the program and the path of its socket."""
    write_modules(tmp_path, {"application.py": APPLICATION})
    path = str(tmp_path / "socket")
    options = ["-W", "ignore", "-m", "rloop", "--workers", "2", "-m", "uvicorn", "--uds", path]
    options += ["--log-level", "error", "--http", "h11", "--timeout-graceful-shutdown", "5"]
    with program(
        *options, "application:app", folder=tmp_path, environment=servers, timeout=TIMEOUT
    ) as running:
        running.wait_for("serving 0", "serving 1")
        yield running, path


class Client:
    """A keep-alive connection that makes requests and checks the answers."""

    def __init__(self, seed: int, path: str) -> None:
        self._random = random.Random(seed)
        self._path = path
        self.workers: set[int] = set()
        self.counted = 0

    async def run(self, requests: int) -> None:
        """Make that many requests."""
        reader, writer = await asyncio.open_unix_connection(self._path)
        for _ in range(requests):
            kind, number = self._choose()
            self._send(writer, kind, number)
            status, body = await self._receive(reader)
            assert status == 200, body
            answer = json.loads(body)
            expected = {"pool": 2 * number, "session": f"item {number % 100}", "redis": number}
            assert (answer["number"], answer["answer"]) == (number, expected[kind])
            self.workers.add(answer["worker"])
            self.counted += kind == "pool"
        writer.close()
        await writer.wait_closed()

    async def run_rudely(self, requests: int) -> None:
        """Make that many requests, and close each connection without waiting for the answer."""
        for _ in range(requests):
            _, writer = await asyncio.open_unix_connection(self._path)
            self._send(writer, *self._choose())
            await asyncio.sleep(self._random.random() * 0.004)
            writer.transport.abort()

    def _choose(self) -> tuple[str, int]:
        return self._random.choice(["pool", "session", "redis"]), self._random.randrange(10**6)

    def _send(self, writer: asyncio.StreamWriter, kind: str, number: int) -> None:
        writer.write(f"GET /{kind}/{number} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    async def _receive(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return int(head.split()[1]), await reader.readexactly(length)


def end(running: Program) -> None:
    """Interrupt the application; check that both workers shut down, and without an error."""
    running.send(signal.SIGINT)
    status, lines, error = running.end()
    assert (status, sorted(lines), error) == (0, ["shut down 0", "shut down 1"], "")


def test_pools_and_clients_that_handlers_share_give_every_request_its_answer(
    application: tuple[Program, str], servers: dict[str, str]
) -> None:
    running, path = application

    async def main() -> None:
        connection = await asyncpg.connect(host=servers["POSTGRESQL"], user="postgres")
        before = await connection.fetchval("SELECT number FROM counter")
        clients = [Client(seed, path) for seed in range(CONNECTIONS)]
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*(client.run(REQUESTS) for client in clients))
            workers = [client.workers for client in clients]
            assert sorted(map(tuple, workers)) == [(0,)] * 6 + [(1,)] * 6
            after = await connection.fetchval("SELECT number FROM counter")
            assert after - before == sum(client.counted for client in clients)
            # Those that go away leave pools and clients fit for the others.
            clients = [Client(100 + seed, path) for seed in range(CONNECTIONS)]
            await asyncio.gather(
                *(client.run(REQUESTS) for client in clients),
                *(Client(200 + seed, path).run_rudely(REQUESTS) for seed in range(4)),
            )
        await connection.close()

    asyncio.run(main())
    end(running)


def test_a_chat_over_redis_reaches_the_websockets_of_both_workers(
    application: tuple[Program, str],
) -> None:
    running, path = application
    texts = {f"{name} says {number}" for name in range(8) for number in range(5)}

    async def main() -> None:
        async with asyncio.timeout(PEER_TIMEOUT), contextlib.AsyncExitStack() as stack:
            chatting = [
                await stack.enter_async_context(
                    websockets.asyncio.client.unix_connect(path, "ws://localhost/chat")
                )
                for _ in range(8)
            ]
            for socket in chatting:
                assert await socket.recv() == "subscribed"
            for number in range(5):
                for name, socket in enumerate(chatting):
                    await socket.send(f"{name} says {number}")
            for socket in chatting:
                assert {await socket.recv() for _ in texts} == texts

    asyncio.run(main())
    end(running)
