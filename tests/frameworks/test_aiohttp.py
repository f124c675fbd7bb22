"""aiohttp serves and calls on the loop under test: HTTP, web sockets, TLS, big bodies."""

import asyncio
import contextlib
import hashlib
import http.client
import io
import os
import ssl
from collections.abc import AsyncIterator

from aiohttp import ClientSession, WSMsgType, web

from support.peers import LOOPBACK
from support.threads import PEER_TIMEOUT, in_thread
from support.tls import SERVER_NAME, Authority


async def answer_hash(request: web.Request) -> web.Response:
    return web.Response(text=hashlib.sha256(await request.read()).hexdigest())


async def answer_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(64):
        await response.write(bytes(1 << 16))
    await response.write_eof()
    return response


async def answer_echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data.upper())
    return socket


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Run the application; give its port."""
    application = web.Application(client_max_size=16 << 20)
    application.router.add_post("/hash", answer_hash)
    application.router.add_get("/stream", answer_stream)
    application.router.add_get("/echo", answer_echo)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, LOOPBACK, 0, ssl_context=context)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_the_client_posts_and_streams() -> None:
    body = os.urandom(4 << 20)
    async with serving() as port, ClientSession(f"http://{LOOPBACK}:{port}") as session:
        async with session.post("/hash", data=io.BytesIO(body)) as response:
            assert await response.text() == hashlib.sha256(body).hexdigest()
        async with session.get("/stream") as response:
            total = 0
            async for chunk in response.content.iter_any():
                total += len(chunk)
            assert total == 64 << 16


async def test_fifty_requests_at_once_get_their_own_answers() -> None:
    bodies = [os.urandom(1000 + number) for number in range(50)]

    async def post(session: ClientSession, body: bytes) -> str:
        async with session.post("/hash", data=body) as response:
            return await response.text()

    async with serving() as port, ClientSession(f"http://{LOOPBACK}:{port}") as session:
        answers = await asyncio.gather(*(post(session, body) for body in bodies))
    assert answers == [hashlib.sha256(body).hexdigest() for body in bodies]


async def test_web_sockets_talk_in_both_directions() -> None:
    async with (
        serving() as port,
        ClientSession(f"http://{LOOPBACK}:{port}") as session,
        session.ws_connect("/echo") as socket,
    ):
        for number in range(100):
            await socket.send_str(f"message {number}")
            assert await socket.receive_str() == f"MESSAGE {number}"


async def test_a_plain_client_is_served() -> None:
    def exchange(port: int) -> bytes:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=PEER_TIMEOUT)
        with contextlib.closing(connection):
            connection.request("POST", "/hash", b"body")
            return connection.getresponse().read()

    async with serving() as port:
        answer = await in_thread(exchange, port)
    assert answer.decode() == hashlib.sha256(b"body").hexdigest()


async def test_https_works_in_both_roles(authority: Authority) -> None:
    body = os.urandom(1 << 20)
    async with (
        serving(authority.server_context()) as port,
        ClientSession(f"https://{SERVER_NAME}:{port}") as session,
        session.post("/hash", data=body, ssl=authority.client_context()) as response,
    ):
        assert await response.text() == hashlib.sha256(body).hexdigest()
