"""One HTTP server for demo.py: an ASGI app under uvicorn, or an aiohttp app, on a loop by name.

Both answer alike: ``GET /`` with `GREETING`, ``POST /echo`` with the body of the request, anything
else with 404. Like server.py, it prints a JSON object with its port and serves until its standard
input ends.

Usage: python benches/demo_server.py --framework uvicorn --loop uvloop
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn
from aiohttp import web

from loops import LOOPS, loop_factory
from server import call_at_end_of_input
from tls_server import server_context

GREETING = {"message": "hello", "items": list(range(20))}
GREETING_BODY = json.dumps(GREETING).encode()
BODY_LIMIT = 16 * 1024 * 1024

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request, by the ASGI specification."""
    status, body = 404, b"not found"
    if (scope["method"], scope["path"]) == ("GET", "/"):
        status, body = 200, GREETING_BODY
    elif (scope["method"], scope["path"]) == ("POST", "/echo"):
        status, body = 200, await read_asgi_body(receive)
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_asgi_body(receive: Receive) -> bytes:
    """Return the whole body of a request."""
    chunks = []
    more = True
    while more:
        event = await receive()
        chunks.append(event.get("body", b""))
        more = event.get("more_body", False)
    return b"".join(chunks)


async def greet(_: web.Request) -> web.Response:
    """Answer ``GET /``."""
    return web.Response(body=GREETING_BODY)


async def echo(request: web.Request) -> web.Response:
    """Answer ``POST /echo``."""
    return web.Response(body=await request.read())


def announce(port: int) -> None:
    """Print the port for the process that started this one."""
    print(json.dumps({"port": port}), flush=True)


class AnnouncedServer(uvicorn.Server):
    """uvicorn's server, which says where it listens and ends with its standard input."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets=sockets)
        announce(self.servers[0].sockets[0].getsockname()[1])
        call_at_end_of_input(asyncio.get_running_loop(), self.request_exit)

    def request_exit(self) -> None:
        """End as after SIGTERM."""
        self.should_exit = True


def run_uvicorn(loop: str, context: ssl.SSLContext | None) -> None:
    """Serve `asgi_app`; uvicorn makes the loop from its import string, as with ``--loop``."""
    loop_factory(loop)  # It says better than uvicorn why a loop is not there.
    config = uvicorn.Config(
        asgi_app,
        host="127.0.0.1",
        port=0,
        loop=LOOPS[loop].import_string,
        log_level="warning",
        lifespan="off",
        ssl_context_factory=None if context is None else lambda _config, _default: context,
    )
    AnnouncedServer(config).run()


async def serve_aiohttp(context: ssl.SSLContext | None) -> None:
    """Serve the aiohttp app."""
    app = web.Application(client_max_size=BODY_LIMIT)
    app.add_routes([web.get("/", greet), web.post("/echo", echo)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        stopping = asyncio.Event()
        announce(runner.addresses[0][1])
        call_at_end_of_input(asyncio.get_running_loop(), stopping.set)
        await stopping.wait()
    finally:
        await runner.cleanup()


def run_aiohttp(loop: str, context: ssl.SSLContext | None) -> None:
    """Serve the aiohttp app on the loop of this name."""
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(serve_aiohttp(context))


FRAMEWORKS = {"uvicorn": run_uvicorn, "aiohttp": run_aiohttp}


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--framework", choices=FRAMEWORKS, required=True)
    parser.add_argument("--loop", choices=LOOPS, required=True)
    parser.add_argument("--certificates", type=Path, help="folder; serves HTTPS if given")
    options = parser.parse_args()
    context = options.certificates and server_context(options.loop, options.certificates)
    FRAMEWORKS[options.framework](options.loop, context)


if __name__ == "__main__":
    main()
