"""Real clients for demo.py: they ask a server a few things and insist on the right answers.

The clients run on the same kind of loop as the server, in a process of their own, so that a loop is
tried from both ends. Prints a JSON object with the number of right answers; an answer that is wrong
or missing is an error and exit status 1.

Usage: python benches/demo_client.py --protocol http --loop uvloop --address 127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable

import aiohttp
import httpx

from demo_server import GREETING_BODY
from loops import LOOPS, loop_factory

AT_ONCE = 10
"""Requests that are under way at the same time."""

LARGE_BODY = bytes(range(256)) * 1024
"""Larger than the buffers of a socket, so that both sides must wait for each other."""

SECONDS = 20.0
"""How long all answers together may take."""

Ask = Callable[[str, str, bytes | None], Awaitable[tuple[int, bytes]]]
"""Sends method, path and body, returns status and body."""


class WrongAnswer(Exception):
    """The server answered, but not what it should."""


def expect(what: str, got: object, wanted: object) -> None:
    """Raise WrongAnswer unless `got` is what was `wanted`."""
    if got != wanted:
        raise WrongAnswer(f"{what}: got {str(got)[:80]}, not {str(wanted)[:80]}")


async def check_http(ask: Ask, client: str) -> int:
    """Ask for each kind of answer, one by one and then several at once."""
    greeting, large = (200, GREETING_BODY), (200, LARGE_BODY)
    expect(f"{client} GET /", await ask("GET", "/", None), greeting)
    expect(f"{client} POST /echo", await ask("POST", "/echo", LARGE_BODY), large)
    status, _ = await ask("GET", "/nothing-here", None)
    expect(f"{client} GET /nothing-here", status, 404)
    answers = await asyncio.gather(*(ask("GET", "/", None) for _ in range(AT_ONCE)))
    expect(f"{client} GET / {AT_ONCE} times at once", answers, [greeting] * AT_ONCE)
    return 3 + AT_ONCE


async def check_with_httpx(address: str) -> int:
    """Ask with httpx."""
    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:

        async def ask(method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
            response = await client.request(method, path, content=body)
            return response.status_code, response.content

        return await check_http(ask, "httpx")


async def check_with_aiohttp(address: str) -> int:
    """Ask with aiohttp."""
    async with aiohttp.ClientSession(f"http://{address}") as client:

        async def ask(method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
            async with client.request(method, path, data=body) as response:
                return response.status, await response.read()

        return await check_http(ask, "aiohttp")


async def check_echo(address: str) -> int:
    """Send lines and one large message over a plain stream, then wait for the end."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    messages = [*(f"line {number}\n".encode() for number in range(AT_ONCE)), LARGE_BODY]
    for message in messages:
        writer.write(message)
        received, _ = await asyncio.gather(reader.readexactly(len(message)), writer.drain())
        expect("echo", received, message)
    writer.write_eof()
    expect("after the end of input", await reader.read(), b"")
    writer.close()
    await writer.wait_closed()
    return len(messages)


async def check(protocol: str, address: str) -> int:
    """Return how many right answers came; an answer that does not come raises TimeoutError."""
    async with asyncio.timeout(SECONDS):
        if protocol == "echo":
            return await check_echo(address)
        return await check_with_httpx(address) + await check_with_aiohttp(address)


def main() -> None:
    """Read the command line, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--protocol", choices=("http", "echo"), required=True)
    parser.add_argument("--loop", choices=LOOPS, required=True)
    parser.add_argument("--address", required=True)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        answers = runner.run(check(options.protocol, options.address))
    print(json.dumps({"right_answers": answers}))


if __name__ == "__main__":
    main()
