"""uvicorn serves an ASGI application on the loop under test, to httpx and to http.client."""

import asyncio
import contextlib
import hashlib
import http.client
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import httpx
import uvicorn

from support.peers import LOOPBACK
from support.threads import PEER_TIMEOUT, eventually, in_thread

Message = MutableMapping[str, Any]


async def application(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """Answer ``/hash`` with the body's SHA-256, ``/stream`` in chunks, all else with a greeting."""
    assert scope["type"] == "http"
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    chunks = [b"hello"]
    if scope["path"] == "/hash":
        chunks = [hashlib.sha256(body).hexdigest().encode()]
    elif scope["path"] == "/stream":
        chunks = [b"%d;" % number for number in range(1000)]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, int]]:
    """Run the application; give its address."""
    listener = socket.create_server((LOOPBACK, 0))
    address = listener.getsockname()
    # log_config=None: uvicorn's own would close the handlers of the test run.
    config = uvicorn.Config(
        application, loop="none", http="h11", ws="none", lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    running = asyncio.ensure_future(server.serve(sockets=[listener]))
    await eventually(lambda: server.started or running.done())
    try:
        yield address
    finally:
        server.should_exit = True
        await running


async def test_httpx_gets_posts_and_streams() -> None:
    body = os.urandom(2 << 20)
    async with (
        serving() as (host, port),
        httpx.AsyncClient(
            base_url=f"http://{host}:{port}", trust_env=False, timeout=PEER_TIMEOUT
        ) as client,
    ):
        greeting = await client.get("/")
        assert (greeting.status_code, greeting.content) == (200, b"hello")
        posted = await client.post("/hash", content=body)
        assert posted.text == hashlib.sha256(body).hexdigest()
        async with client.stream("GET", "/stream") as response:
            streamed = b"".join([chunk async for chunk in response.aiter_bytes()])
        assert streamed == b"".join(b"%d;" % number for number in range(1000))


async def test_fifty_clients_at_once_get_their_own_answers() -> None:
    async with (
        serving() as (host, port),
        httpx.AsyncClient(
            base_url=f"http://{host}:{port}", trust_env=False, timeout=PEER_TIMEOUT
        ) as client,
    ):
        bodies = [os.urandom(1000 + number) for number in range(50)]
        responses = await asyncio.gather(*(client.post("/hash", content=body) for body in bodies))
        assert [response.text for response in responses] == [
            hashlib.sha256(body).hexdigest() for body in bodies
        ]


async def test_a_plain_client_keeps_its_connection_alive() -> None:
    def exchange(host: str, port: int) -> list[bytes]:
        connection = http.client.HTTPConnection(host, port, timeout=PEER_TIMEOUT)
        answers = []
        with contextlib.closing(connection):
            for _ in range(20):
                connection.request("GET", "/")
                answers.append(connection.getresponse().read())
        return answers

    async with serving() as address:
        assert await in_thread(exchange, *address) == [b"hello"] * 20
