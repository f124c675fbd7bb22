"""Servers of other projects on two workers: one address, even load, and a graceful end."""

import contextlib
import http.client
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any
from unittest.mock import Mock

import pytest
import trustme

from rloop._workers.program import run_program
from support.peers import LOOPBACK
from support.threads import PEER_TIMEOUT
from support.workers import Program, free_address, program, several_workers, write_modules

pytestmark = several_workers

#: An ASGI application that answers every request with its worker's index.
APPLICATION = """
import asyncio
import rloop
from support.workers import say, say_when_serving

index = rloop.current_worker().index

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        announcing = asyncio.ensure_future(say_when_serving())
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        say("shut down", index)
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = await answer(scope["path"])
    length = str(len(body)).encode()
    await send({
        "type": "http.response.start", "status": 200, "headers": [(b"content-length", length)],
    })
    await send({"type": "http.response.body", "body": body})

async def answer(path):
    return str(index).encode()

def make():
    return app
"""


class Connection(http.client.HTTPConnection):
    """An HTTP connection over any socket."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(LOOPBACK)
        self.sock = sock

    def ask(self, path: str = "/") -> str:
        """Send a request; return the body of the response."""
        self.request("GET", path)
        return self.getresponse().read().decode()


def connect(address: Any, context: ssl.SSLContext | None = None) -> Connection:
    """Connect to a TCP address or a Unix path, with TLS if there is a context."""
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(PEER_TIMEOUT)
    sock.connect(address)
    if context is not None:
        sock = context.wrap_socket(sock, server_hostname=LOOPBACK)
    return Connection(sock)


@contextlib.contextmanager
def connections(
    address: Any, count: int, context: ssl.SSLContext | None = None
) -> Iterator[list[Connection]]:
    """Open connections; close them at the end."""
    opened = [connect(address, context) for _ in range(count)]
    try:
        yield opened
    finally:
        for connection in opened:
            connection.close()


@contextlib.contextmanager
def serving(folder: Path, *arguments: str | Path, **environment: str) -> Iterator[Program]:
    """Run a program on two workers; wait until both serve."""
    options = ["-W", "ignore", "-m", "rloop", "--workers", "2"]
    with program(*options, *arguments, folder=folder, environment=environment) as running:
        running.wait_for("serving 0", "serving 1")
        yield running


def end(running: Program, signum: signal.Signals) -> int:
    """Send a signal; return the exit status once both workers have shut down."""
    running.send(signum)
    status, lines, error = running.end()
    assert sorted(lines) == ["shut down 0", "shut down 1"], error
    return status


def check(
    running: Program, address: Any, signum: signal.Signals, context: ssl.SSLContext | None = None
) -> int:
    """Check that both workers serve as many connections, and end; return the exit status."""
    with connections(address, 6, context) as opened:
        for _ in range(2):
            assert sorted(connection.ask() for connection in opened) == ["0"] * 3 + ["1"] * 3
        if context is None:
            return end(running, signum)
    # A server waits for its peers to end TLS, and these do not while they wait for the server.
    return end(running, signum)


def write(folder: Path, **sources: str) -> None:
    write_modules(folder, {f"{name}.py": dedent(text) for name, text in sources.items()})


UVICORN = ("-m", "uvicorn", "--log-level", "error", "--http", "h11")


def test_uvicorn_shares_a_port_and_ends_by_an_interrupt(tmp_path: Path) -> None:
    write(tmp_path, application=APPLICATION)
    address = free_address()
    arguments = [*UVICORN, "--port", str(address[1]), "application:app"]
    # Without workers uvicorn would start as many processes.
    with serving(tmp_path, *arguments, WEB_CONCURRENCY="3") as running:
        assert check(running, address, signal.SIGINT) == 0


def test_uvicorn_with_a_factory_serves_tls_on_a_unix_path_and_ends_by_sigterm(
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    certificate = tmp_path / "server.pem"
    authority.issue_cert(LOOPBACK).private_key_and_cert_chain_pem.write_to_path(certificate)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    write(tmp_path, application=APPLICATION)
    path = str(tmp_path / "socket")
    arguments = [*UVICORN, "--factory", "--uds", path, "application:make"]
    with serving(tmp_path, *arguments, "--ssl-certfile", certificate) as running:
        assert check(running, path, signal.SIGTERM, context) == -signal.SIGTERM


def test_uvicorn_shares_an_inherited_descriptor(tmp_path: Path) -> None:
    # uvicorn takes it for a Unix socket.
    write(tmp_path, application=APPLICATION, start=START_WITH_DESCRIPTOR)
    path = str(tmp_path / "socket")
    options = ["-W", "ignore", "start.py", path]
    with program(*options, folder=tmp_path) as running:
        running.wait_for("serving 0", "serving 1")
        assert check(running, path, signal.SIGINT) == 0


START_WITH_DESCRIPTOR = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.bind(sys.argv[1])
sock.listen()
os.set_inheritable(sock.fileno(), True)
options = "-W ignore -m rloop --workers 2 -m uvicorn --log-level error --http h11".split()
os.execv(sys.executable, [
    sys.executable, "-u", *options, "--fd", str(sock.fileno()), "application:app",
])
"""


def test_sighup_replaces_the_workers_of_uvicorn_one_by_one(tmp_path: Path) -> None:
    write(tmp_path, application=APPLICATION)
    path = str(tmp_path / "socket")
    with serving(tmp_path, *UVICORN, "--uds", path, "application:app") as running:
        write(tmp_path, application=APPLICATION.replace("str(index)", 'f"new {index}"'))
        running.send(signal.SIGHUP)
        running.wait_for("serving 0", "shut down 0", "serving 1", "shut down 1")
        with connections(path, 4) as opened:
            answers = sorted(connection.ask() for connection in opened)
            assert answers == ["new 0"] * 2 + ["new 1"] * 2
            assert end(running, signal.SIGINT) == 0


def test_a_server_that_stops_on_one_worker_leaves_the_other_serving(tmp_path: Path) -> None:
    source = """
        import asyncio, sys, uvicorn
        import application

        async def answer(path):
            if path == "/stop":
                server.should_exit = True
            return str(application.index).encode()

        application.answer = answer
        config = uvicorn.Config(application.app, port=int(sys.argv[1]), log_level="error",
            http="h11", ws="none")
        server = uvicorn.Server(config)
        asyncio.run(server.serve())
    """
    write(tmp_path, application=APPLICATION, main=source)
    address = free_address()
    with serving(tmp_path, "main.py", str(address[1])) as running:
        with connections(address, 2) as opened:
            stopped = opened[0].ask("/stop")
            running.wait_for(f"shut down {stopped}")
            left = str(1 - int(stopped))
            assert opened[1].ask() == left
            with connections(address, 4) as more:
                assert [connection.ask() for connection in more] == [left] * 4
        running.send(signal.SIGINT)
        status, lines, _ = running.end()
    assert (status, lines) == (-signal.SIGINT, [f"shut down {left}"])


def test_a_worker_whose_application_fails_to_start_ends_the_others(tmp_path: Path) -> None:
    failing = """
        from application import *

        async def app(scope, receive, send):
            if index == 1:
                await rloop.current_worker().workers[0].call(say_when_serving)
                raise LookupError("no database")
            await application.app(scope, receive, send)

        import application
    """
    write(tmp_path, application=APPLICATION, failing=failing)
    address = free_address()
    options = ["-W", "ignore", "-m", "rloop", "--workers", "2", *UVICORN]
    with program(
        *options, "--lifespan", "on", "--port", str(address[1]), "failing:app", folder=tmp_path
    ) as running:
        status, lines, error = running.end()
    assert (status, lines[-1]) == (3, "shut down 0"), error
    assert "LookupError: no database" in error


def test_hypercorn_serves_in_the_workers_and_not_in_processes(tmp_path: Path) -> None:
    write(tmp_path, application=APPLICATION)
    address = free_address()
    bind = f"{LOOPBACK}:{address[1]}"
    with serving(tmp_path, "-m", "hypercorn", "--bind", bind, "application:app") as running:
        assert check(running, address, signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("hypercorn app:app", "hypercorn --workers 0 app:app"),
        ("hypercorn -w 2 app:app", "hypercorn -w 2 app:app"),
        ("sanic app:app --port 80", "sanic --single-process app:app --port 80"),
        ("sanic app:app --workers=2", "sanic app:app --workers=2"),
        ("uvicorn app:app", "uvicorn app:app"),
    ],
)
def test_servers_are_told_to_start_no_processes(
    command: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, *arguments = command.split()
    monkeypatch.setattr("sys.argv", [name, *arguments])
    monkeypatch.setattr("rloop._workers.program.Group", Mock())
    monkeypatch.setattr("atexit.register", lambda _: None)
    for variable in ("SANIC_USE_UVLOOP", "UVICORN_LOOP", "UVICORN_WORKERS"):
        monkeypatch.setenv(variable, "")
    run_program(
        lambda: None,
        2,
        module=name,
        arguments=arguments,
        modules=None,
        shared=[],
        restarts=False,
    )
    assert sys.argv == expected.split()


AIOHTTP = """
import asyncio, sys
import rloop
from aiohttp import web
from support.workers import say, say_when_serving

index = rloop.current_worker().index

async def hello(request):
    return web.Response(text=str(index))

async def run(app):
    announcing = asyncio.ensure_future(say_when_serving())
    yield
    say("shut down", index)

def make(arguments=None):
    app = web.Application()
    app.router.add_get("/", hello)
    app.cleanup_ctx.append(run)
    return app

if __name__ == "__main__":
    web.run_app(make(), path=sys.argv[1], print=None)
"""


def test_run_app_of_aiohttp_cleans_up_on_each_worker(tmp_path: Path) -> None:
    write(tmp_path, main=AIOHTTP)
    path = str(tmp_path / "socket")
    with serving(tmp_path, "main.py", path) as running:
        assert check(running, path, signal.SIGTERM) == 0


def test_the_command_of_aiohttp_serves_an_application_of_each_worker(tmp_path: Path) -> None:
    write(tmp_path, application=AIOHTTP)
    address = free_address()
    arguments = ["-m", "aiohttp.web", "-H", LOOPBACK, "-P", str(address[1]), "application:make"]
    with serving(tmp_path, *arguments) as running, connections(address, 6) as opened:
        assert sorted(connection.ask() for connection in opened) == ["0"] * 3 + ["1"] * 3
        running.send(signal.SIGINT)
        status, lines, _ = running.end()
    assert status == 0
    assert {"shut down 0", "shut down 1"} <= set(lines)
