"""Calls on a transport from another thread than the loop's, which the loop forwards."""

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

import rloop
from support.peers import receive_until_eof
from support.programs import run_program
from support.threads import PEER_TIMEOUT

PROGRAM = """
import asyncio, socket, threading
async def main():
    loop = asyncio.get_running_loop()
    reported = loop.create_future()
    loop.set_exception_handler(lambda _, context: reported.set_result(context["exception"]))
    ours, peer = socket.socketpair()
    with peer:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        transport.write_eof()
        thread = threading.Thread(target=transport.write, args=(b"late",))
        thread.start()
        print(repr(await asyncio.wait_for(reported, 20)))
        thread.join()
        transport.abort()
        await asyncio.sleep(0)
with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
"""


def test_a_forwarded_call_that_fails_is_reported_and_the_loop_goes_on() -> None:
    outcome = run_program(PROGRAM, "rloop")
    expected = "RuntimeError('Cannot call write() after write_eof()')\n"
    assert (outcome.returncode, outcome.stdout) == (0, expected), outcome.stderr


FLOOD = """
import asyncio, itertools, os, signal, socket, threading, time

LONG_ENOUGH = 500_000
MOST_WAITING = 1_000_000
over = threading.Event()

async def flooded(transport):
    loop = asyncio.get_running_loop()

    def ran():
        return loop.statistics()[0].callbacks

    def flood(sends_signal):
        began, sent = ran(), None
        for count in itertools.count():
            if over.is_set():
                return
            if sends_signal and count == 10_000:
                sent = ran()
                os.kill(os.getpid(), signal.{signal})
            if count % 1000 == 0:
                # By what the loop has done since: it may have had no time for anything.
                if sent is not None and ran() - sent > LONG_ENOUGH and not over.is_set():
                    os._exit(3)
                while count - (ran() - began) > MOST_WAITING and not over.is_set():
                    time.sleep(0.001)
            transport.resume_reading()

    def finish():
        print("handled")
        over.set()

    loop.add_signal_handler(signal.SIGUSR1, finish)
    threads = [threading.Thread(target=flood, args=(sends,)) for sends in (True, False)]
    for thread in threads:
        thread.start()
    try:
        await asyncio.sleep(3600 if signal.{signal} == signal.SIGINT else 0)
        while not over.is_set():
            await asyncio.sleep(0.01)
    finally:
        over.set()
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
        transport.abort()
        await asyncio.sleep(0)

async def main():
    ours, peer = socket.socketpair()
    with peer:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        await flooded(transport)

try:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    ("number", "expected"), [("SIGUSR1", "handled\n"), ("SIGINT", "interrupted\n")]
)
def test_a_flood_of_forwarded_calls_does_not_starve_signals(number: str, expected: str) -> None:
    outcome = run_program(FLOOD.format(signal=number), "rloop")
    assert (outcome.returncode, outcome.stdout) == (0, expected), outcome.stderr


async def open_transport(ours: socket.socket) -> asyncio.Transport:
    """Attach a socket to the running loop."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    return transport


@pytest.mark.parametrize("method", ["write", "writelines"])
def test_writes_of_two_threads_on_a_stopped_loop_arrive_whole(method: str) -> None:
    pieces = [b"A" * 300_000, b"B" * 300_000]
    with closing(rloop.new_event_loop()) as loop:
        for _ in range(20):
            ours, peer = socket.socketpair()
            with peer:
                peer.settimeout(PEER_TIMEOUT)
                ours.setblocking(False)
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                transport = loop.run_until_complete(open_transport(ours))
                barrier = threading.Barrier(len(pieces), timeout=PEER_TIMEOUT)

                def write(
                    piece: bytes,
                    transport: asyncio.Transport = transport,
                    barrier: threading.Barrier = barrier,
                ) -> None:
                    barrier.wait()
                    if method == "write":
                        transport.write(bytearray(piece))
                    else:
                        transport.writelines([piece[:1000], b"", piece[1000:]])

                with ThreadPoolExecutor(len(pieces)) as pool:
                    for written in [pool.submit(write, piece) for piece in pieces]:
                        written.result()
                transport.close()
                with ThreadPoolExecutor(1) as pool:
                    received = loop.run_until_complete(
                        loop.run_in_executor(pool, receive_until_eof, peer)
                    )
                assert sorted(received) == sorted(b"".join(pieces))
                assert all(piece in received for piece in pieces)
