"""Fairness: whoever is always busy, callbacks, timers, sockets and threads all get their turn."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.peers import connected, open_pair
from support.protocols import RecordingProtocol
from support.threads import in_thread

Loop = asyncio.AbstractEventLoop


@contextmanager
def busy_callbacks(loop: Loop) -> Iterator[None]:
    """Keep the ready queue from ever being empty."""
    handle = loop.call_soon(int)

    def again() -> None:
        nonlocal handle
        handle = loop.call_soon(again)

    again()
    yield
    handle.cancel()


async def test_callbacks_that_never_end_do_not_starve_a_transport(loop: Loop, kind: str) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (_, peer):
        with busy_callbacks(loop):
            for number in range(1, 50):
                peer.sendall(b"x")
                await protocol.received(number)


async def test_callbacks_that_never_end_do_not_starve_a_reader(loop: Loop) -> None:
    with open_pair("unix") as (ours, peer), busy_callbacks(loop):
        for _ in range(50):
            peer.sendall(b"x")
            assert await loop.sock_recv(ours, 1) == b"x"


async def test_callbacks_that_never_end_do_not_starve_timers(loop: Loop) -> None:
    with busy_callbacks(loop):
        for _ in range(20):
            await asyncio.sleep(0.001)


async def test_callbacks_that_never_end_do_not_starve_other_threads(loop: Loop) -> None:
    with busy_callbacks(loop):
        for _ in range(20):
            assert await in_thread(int) == 0


async def test_timers_that_are_always_due_do_not_starve_a_transport(loop: Loop) -> None:
    protocol = RecordingProtocol()
    timer = loop.call_later(0, int)

    def again() -> None:
        nonlocal timer
        timer = loop.call_later(0, again)

    again()
    async with connected(protocol) as (_, peer):
        for number in range(1, 50):
            peer.sendall(b"x")
            await protocol.received(number)
    timer.cancel()


async def test_a_peer_that_never_stops_sending_does_not_starve_the_rest(loop: Loop) -> None:
    stop = threading.Event()

    def flood(sock: socket.socket) -> None:
        while not stop.is_set():
            sock.sendall(bytes(1 << 16))

    quiet = RecordingProtocol()
    async with (
        connected(asyncio.Protocol()) as (_, loud_peer),
        connected(quiet) as (_, quiet_peer),
    ):
        flooding = in_thread(flood, loud_peer)
        try:
            for number in range(1, 50):
                quiet_peer.sendall(b"x")
                await quiet.received(number)
                await asyncio.sleep(0.0001)
        finally:
            stop.set()
        await flooding


@pytest.mark.parametrize("schedule", ["call_soon_threadsafe", "call_soon"])
async def test_a_flood_of_callbacks_is_run_in_turns(loop: Loop, schedule: str) -> None:
    """What is scheduled while a turn runs waits for the next, so a timer comes in between."""
    ran: list[str] = []

    def multiply(depth: int) -> None:
        if depth and not ran:
            for _ in range(2):
                getattr(loop, schedule)(multiply, depth - 1)

    loop.call_later(0.001, ran.append, "timer")
    multiply(40)
    async with asyncio.timeout(20):
        while not ran:
            await asyncio.sleep(0)
