"""Contexts: every callback runs in the context that was current when it was registered."""

import asyncio
import contextvars
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest

from support.peers import LOOPBACK, open_pair, stream_pair
from support.protocols import (
    RecordingDatagramProtocol,
    RecordingProtocol,
    RecordingSubprocessProtocol,
)
from support.threads import eventually, in_thread, turns

Loop = asyncio.AbstractEventLoop

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def registered_in(name: str, register: Callable[[], object]) -> None:
    """Call ``register`` in a task of its own whose context sets the variable to name."""

    async def body() -> None:
        variable.set(name)
        register()

    await asyncio.create_task(body())


SCHEDULERS: dict[str, Callable[[Loop, Callable[[], None]], object]] = {
    "call_soon": lambda loop, callback: loop.call_soon(callback),
    "call_soon_threadsafe": lambda loop, callback: loop.call_soon_threadsafe(callback),
    "call_later": lambda loop, callback: loop.call_later(0.001, callback),
    "call_at": lambda loop, callback: loop.call_at(loop.time(), callback),
}


@pytest.mark.parametrize("method", SCHEDULERS)
async def test_a_scheduled_callback_runs_in_the_context_of_its_scheduling(
    loop: Loop, method: str
) -> None:
    seen: list[str] = []

    def note() -> None:
        seen.append(variable.get())

    await registered_in("first", lambda: SCHEDULERS[method](loop, note))
    await registered_in("second", lambda: SCHEDULERS[method](loop, note))
    await eventually(lambda: len(seen) == 2)
    assert seen == ["first", "second"]
    assert variable.get() == "unset"


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
async def test_an_explicit_context_is_used_and_keeps_what_the_callback_sets(
    loop: Loop, method: str
) -> None:
    context = contextvars.copy_context()
    context.run(variable.set, "explicit")
    seen: list[str] = []

    def callback() -> None:
        seen.append(variable.get())
        variable.set("changed")

    delay = [] if method.startswith("call_soon") else [0.0]
    getattr(loop, method)(*delay, callback, context=context)
    await eventually(lambda: seen)
    assert seen == ["explicit"]
    assert context[variable] == "changed"
    assert variable.get() == "unset"


async def test_callbacks_that_share_a_context_see_each_others_changes(loop: Loop) -> None:
    context = contextvars.copy_context()
    seen: list[str] = []
    loop.call_soon(variable.set, "from the first", context=context)
    loop.call_soon(lambda: seen.append(variable.get()), context=context)
    await turns(1)
    assert seen == ["from the first"]


async def test_readers_and_writers_run_in_the_context_of_their_registration(loop: Loop) -> None:
    with open_pair("unix") as (ours, peer):
        seen: list[tuple[str, str]] = []

        def note(what: str) -> None:
            seen.append((what, variable.get()))
            if what == "reader":
                ours.recv(10)
            else:
                loop.remove_writer(ours)

        await registered_in("R", lambda: loop.add_reader(ours, note, "reader"))
        await registered_in("W", lambda: loop.add_writer(ours, note, "writer"))
        peer.send(b"x")
        await eventually(lambda: len(seen) == 2)
        peer.send(b"y")
        await eventually(lambda: len(seen) == 3)
        assert sorted(seen) == [("reader", "R"), ("reader", "R"), ("writer", "W")]
        loop.remove_reader(ours)


async def test_done_callbacks_run_in_the_context_of_their_registration(loop: Loop) -> None:
    seen: list[str] = []
    future = loop.create_future()
    await registered_in(
        "waiter", lambda: future.add_done_callback(lambda _: seen.append(variable.get()))
    )
    await registered_in("setter", lambda: future.set_result(None))
    await turns(1)
    assert seen == ["waiter"]


async def test_a_task_keeps_its_context_across_every_kind_of_wait(loop: Loop) -> None:
    with open_pair("unix") as (ours, peer):

        async def body(name: str) -> list[str]:
            variable.set(name)
            seen = []
            await asyncio.sleep(0.001)
            seen.append(variable.get())
            await loop.run_in_executor(None, os.getpid)
            seen.append(variable.get())
            peer.send(b"x")
            await loop.sock_recv(ours, 1)
            seen.append(variable.get())
            return seen

        assert await loop.create_task(body("task")) == ["task"] * 3
        assert variable.get() == "unset"


class ContextProtocol(RecordingProtocol):
    """Notes the variable's value with each call."""

    def __init__(self) -> None:
        super().__init__(keep_open=True)
        self.seen: dict[str, str] = {}

    def note(self, name: str, value: Any = None) -> None:
        self.seen[name] = variable.get()
        super().note(name, value)


async def test_protocol_methods_run_in_the_context_of_the_connecting_task(
    loop: Loop, kind: str
) -> None:
    protocol = ContextProtocol()
    ours, peer = stream_pair(kind)

    async def connect() -> None:
        variable.set("connector")
        await loop.create_connection(lambda: protocol, sock=ours)

    with peer:
        await loop.create_task(connect())
        variable.set("caller of write")
        protocol.transport.write(bytes(8 << 20))
        protocol.transport.write_eof()
        receiving = in_thread(consume, peer)
        peer.sendall(b"data")
        peer.shutdown(socket.SHUT_WR)
        await protocol.called("eof_received")
        await protocol.called("resume_writing")
        await receiving
        protocol.transport.close()
        await protocol.called("connection_lost")
    assert protocol.seen == {
        "connection_made": "connector",
        "data_received": "connector",
        "eof_received": "connector",
        # Called by write(), so in its caller's context.
        "pause_writing": "caller of write",
        # The writer and the closing were registered by that caller too.
        "resume_writing": "caller of write",
        "connection_lost": "caller of write",
    }


def consume(sock: socket.socket) -> None:
    """Read to the end of the stream."""
    while sock.recv(1 << 20):
        pass


async def test_protocol_methods_of_a_server_run_in_the_context_of_create_server(
    loop: Loop,
) -> None:
    protocol = ContextProtocol()

    async def serve() -> asyncio.Server:
        variable.set("server")
        return await loop.create_server(lambda: protocol, "127.0.0.1", 0)

    server = await loop.create_task(serve())
    with socket.create_connection(server.sockets[0].getsockname()) as peer:
        peer.sendall(b"data")
        await protocol.called("data_received")
    await protocol.called("eof_received")
    protocol.transport.close()
    await protocol.called("connection_lost")
    server.close()
    await server.wait_closed()
    assert protocol.seen["connection_made"] == "server"
    assert protocol.seen["data_received"] == "server"
    assert protocol.seen["eof_received"] == "server"


async def test_signal_handlers_run_in_the_context_of_their_registration(loop: Loop) -> None:
    seen: list[str] = []
    await registered_in(
        "handler",
        lambda: loop.add_signal_handler(signal.SIGUSR1, lambda: seen.append(variable.get())),
    )
    os.kill(os.getpid(), signal.SIGUSR1)
    await eventually(lambda: seen)
    assert seen == ["handler"]
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_the_context_is_not_entered_twice(loop: Loop) -> None:
    """A callback that fails leaves its context, so that the next one can enter it."""
    context = contextvars.copy_context()
    seen: list[str] = []

    def nested() -> None:
        loop.call_soon(lambda: seen.append("later"), context=context)

    loop.call_soon(nested, context=context)
    await turns(2)
    assert seen == ["later"]


class ContextDatagramProtocol(RecordingDatagramProtocol):
    """Also notes the variable at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, str] = {}

    def note(self, name: str, value: Any = None) -> None:
        self.seen[name] = variable.get()
        super().note(name, value)


async def test_datagram_protocol_methods_run_in_the_context_of_the_creating_task(
    loop: Loop,
) -> None:
    protocol = ContextDatagramProtocol()

    async def create() -> None:
        variable.set("creator")
        await loop.create_datagram_endpoint(lambda: protocol, local_addr=(LOOPBACK, 0))

    await loop.create_task(create())
    variable.set("caller")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.sendto(b"data", protocol.transport.get_extra_info("sockname"))
        await protocol.called("datagram_received")
    protocol.transport.close()
    await protocol.called("connection_lost")
    assert protocol.seen == {
        "connection_made": "creator",
        "datagram_received": "creator",
        "connection_lost": "caller",
    }


class ContextSubprocessProtocol(RecordingSubprocessProtocol):
    """Also notes the variable at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, str] = {}

    def note(self, name: str, value: Any = None) -> None:
        self.seen[name] = variable.get()
        super().note(name, value)


@pytest.mark.fails_on(
    "asyncio",
    reason="the thread that waits for the child has a context of its own",
    when=sys.version_info < (3, 12),
)
async def test_subprocess_protocol_methods_run_in_the_context_of_the_creating_task(
    loop: Loop,
) -> None:
    protocol = ContextSubprocessProtocol()

    async def create() -> None:
        variable.set("creator")
        await loop.subprocess_exec(
            lambda: protocol, sys.executable, "-c", "print('data')", stdin=None, stderr=None
        )

    await loop.create_task(create())
    variable.set("caller")
    await protocol.called("connection_lost")
    protocol.transport.close()
    assert protocol.seen == dict.fromkeys(
        (
            "connection_made",
            "pipe_data_received",
            "pipe_connection_lost",
            "process_exited",
            "connection_lost",
        ),
        "creator",
    )


async def test_what_follows_an_executors_function_runs_in_the_waiting_tasks_context(
    loop: Loop,
) -> None:
    seen = []

    async def wait() -> None:
        variable.set("waiter")
        future = loop.run_in_executor(None, int)
        future.add_done_callback(lambda _: seen.append(variable.get()))
        await future
        seen.append(variable.get())

    await loop.create_task(wait())
    assert seen == ["waiter", "waiter"]
