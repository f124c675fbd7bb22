"""Servers of a process that is out of file descriptors."""

import asyncio
import contextlib
import os
import resource
import socket
from asyncio import constants
from collections.abc import Iterator

import pytest

from support.leaks import LeakGuard
from support.peers import LOOPBACK
from support.protocols import RecordingProtocol
from support.threads import eventually

Loop = asyncio.AbstractEventLoop

BACKLOG = 10

#: Seconds between two attempts to accept.
DELAY = 0.02


@pytest.fixture(autouse=True)
def short_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the loop try again soon."""
    monkeypatch.setattr(constants, "ACCEPT_RETRY_DELAY", DELAY)


@contextlib.contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Use up the descriptors that this process may have."""
    hoard: list[int] = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 5, limits[1])
    )
    try:
        with contextlib.suppress(OSError):
            while True:
                hoard.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in hoard:
            os.close(descriptor)


async def test_attempts_to_accept_do_not_multiply(
    loop: Loop, loop_name: str, guard: LeakGuard
) -> None:
    protocol = RecordingProtocol()
    server = await loop.create_server(lambda: protocol, LOOPBACK, 0, backlog=BACKLOG)
    duration = 30 * DELAY
    with contextlib.closing(server), socket.socket() as client:
        with no_descriptors_left():
            client.connect(server.sockets[0].getsockname())
            await asyncio.sleep(duration)
            reports = guard.take_reports()
        # asyncio goes on to accept after a failure, and each failure makes a further attempt.
        reports_at_a_time = 1 if loop_name == "rloop" else BACKLOG + 1
        assert 2 <= len(reports) <= (duration / DELAY + 2) * reports_at_a_time
        for report in reports:
            assert report["message"] == "socket.accept() out of system resource"
            assert report["socket"].fileno() == server.sockets[0].fileno()
        await protocol.called("connection_made")
        guard.take_reports()
    await protocol.called("connection_lost")


def test_a_loop_runs_without_further_descriptors(loop: Loop) -> None:
    async def run() -> None:
        future = loop.create_future()
        loop.call_later(DELAY, future.set_result, None)
        await future

    with no_descriptors_left():
        loop.run_until_complete(run())


async def test_a_server_has_its_backlog_after_it_was_out_of_descriptors(
    loop: Loop, guard: LeakGuard
) -> None:
    protocols: list[RecordingProtocol] = []

    def make_protocol() -> RecordingProtocol:
        protocols.append(RecordingProtocol())
        return protocols[-1]

    server = await loop.create_server(make_protocol, LOOPBACK, 0, backlog=BACKLOG)
    with contextlib.ExitStack() as stack:
        stack.callback(server.close)
        clients = [stack.enter_context(socket.socket()) for _ in range(BACKLOG)]
        with no_descriptors_left():
            for client in clients:
                client.connect(server.sockets[0].getsockname())
            await eventually(lambda: guard.reports)
        await eventually(lambda: len(protocols) == BACKLOG)
        guard.take_reports()
    for protocol in protocols:
        await protocol.called("connection_lost")


@pytest.mark.fails_on("asyncio", reason="the next attempt asks for the number of a closed socket")
async def test_a_server_may_be_closed_while_it_is_out_of_descriptors(
    loop: Loop, guard: LeakGuard
) -> None:
    server = await loop.create_server(RecordingProtocol, LOOPBACK, 0, backlog=BACKLOG)
    with socket.socket() as client:
        with no_descriptors_left():
            client.connect(server.sockets[0].getsockname())
            await eventually(lambda: guard.reports)
            guard.take_reports()
            server.close()
        await asyncio.sleep(3 * DELAY)
        assert guard.take_reports() == []
