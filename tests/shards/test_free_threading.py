"""Free-threaded CPython: the extension leaves the lock off, and other threads do no harm."""

import asyncio
import subprocess
import sys
import sysconfig
import threading

import pytest

from rloop import _rloop
from support.programs import run_program
from support.threads import run_beside_threads

Loop = asyncio.AbstractEventLoop

free_threaded_only = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this build of CPython has the lock"
)

THREADS = 8
CALLS_PER_THREAD = 100_000
CALLS_BETWEEN_PAUSES = 1_000


@free_threaded_only
def test_importing_leaves_the_lock_off_and_warns_of_nothing() -> None:
    outcome = subprocess.run(
        [
            sys.executable,
            "-P",
            "-W",
            "error",
            "-c",
            "import rloop, sys; print(sys._is_gil_enabled())",
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "False\n", "")


@free_threaded_only
@pytest.mark.skipif(not hasattr(sys, "_is_immortal"), reason="needs Python 3.14")
def test_threads_do_not_count_references_to_the_classes_of_handles() -> None:
    # Each callback has a handle, whose class all threads would count references to.
    for name in ("Handle", "TimerHandle", "ThreadSafeHandle"):
        assert sys._is_immortal(getattr(_rloop, name)), name


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_eight_threads_wake_an_idle_loop_each_time_and_every_call_runs(loop: Loop) -> None:
    """Each thread hands over a thousand calls, then waits for the loop to have run them all.

    Once all of them wait, a wake-up that was lost leaves the loop asleep for ever.
    """
    counts = [0] * THREADS

    def count(name: int) -> None:
        counts[name] += 1

    def hammer(name: int) -> None:
        answered = threading.Event()
        for _ in range(CALLS_PER_THREAD // CALLS_BETWEEN_PAUSES):
            for _ in range(CALLS_BETWEEN_PAUSES - 1):
                loop.call_soon_threadsafe(count, name)
            loop.call_soon_threadsafe(count, name)
            loop.call_soon_threadsafe(answered.set)
            assert answered.wait(60)
            answered.clear()

    run_beside_threads(loop, THREADS, hammer)
    assert counts == [CALLS_PER_THREAD] * THREADS


HAMMER = """
import asyncio, socket, threading

THREADS = 4
ROUNDS = {rounds}

class Protocol(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.lost = asyncio.get_running_loop().create_future()
    def connection_lost(self, exc):
        self.lost.set_result(exc)

async def one_round(loop):
    ours, peer = socket.socketpair()
    transport, protocol = await loop.create_connection(Protocol, sock=ours)
    reading = threading.Thread(target=read_all, args=(peer,))
    barrier = threading.Barrier(THREADS)
    threads = [
        threading.Thread(target=hammer, args=(transport, barrier)) for _ in range(THREADS)
    ]
    for thread in (reading, *threads):
        thread.start()
    await protocol.lost
    for thread in (reading, *threads):
        await asyncio.to_thread(thread.join)

def read_all(peer):
    with peer:
        try:
            while peer.recv(65536):
                pass
        except ConnectionResetError:
            pass

def hammer(transport, barrier):
    barrier.wait()
    for number in range(200):
        {action}
    transport.close()

async def main():
    loop = asyncio.get_running_loop()
    for _ in range(ROUNDS):
        await one_round(loop)
    return "survived"

with asyncio.Runner(loop_factory=new_loop) as runner:
    print(runner.run(main()))
"""

ACTIONS = {
    "write": "transport.write(bytes(100))",
    "write much": "transport.write(bytes(100_000))",
    "writelines": "transport.writelines([bytes(100), bytes(100)])",
    "pause and resume": "transport.pause_reading(); transport.resume_reading()",
    "ask": "transport.get_write_buffer_size(); transport.is_closing(); repr(transport)",
    "limit": "transport.set_write_buffer_limits(high=number)",
    "close and write": "transport.close(); transport.write(bytes(100))",
    "abort": "transport.write(bytes(100)); transport.abort()",
}


@pytest.mark.only_on("rloop")
@pytest.mark.parametrize("action", ACTIONS)
def test_transports_used_from_other_threads_do_not_crash(loop_name: str, action: str) -> None:
    """asyncio forbids it; a native extension must still not bring the process down."""
    outcome = run_program(HAMMER.format(action=ACTIONS[action], rounds=25), loop_name)
    assert (outcome.returncode, outcome.stdout) == (0, "survived\n"), outcome.stderr


HANDLES = """
import asyncio, threading

async def main():
    loop = asyncio.get_running_loop()
    for _ in range(50):
        handles = [loop.call_later(0.001, int) for _ in range(500)]
        handles += [loop.call_soon(int) for _ in range(500)]
        threads = [
            threading.Thread(target=lambda: [handle.cancel() for handle in handles])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        await asyncio.sleep(0.001)
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert all(handle.cancelled() for handle in handles)
        [repr(handle) for handle in handles]
    return "survived"

with asyncio.Runner(loop_factory=new_loop) as runner:
    print(runner.run(main()))
"""


@pytest.mark.only_on("rloop")
def test_handles_cancelled_from_other_threads_do_not_crash(loop_name: str) -> None:
    outcome = run_program(HANDLES, loop_name)
    assert (outcome.returncode, outcome.stdout) == (0, "survived\n"), outcome.stderr


COLLECTED = """
import asyncio, gc, threading

def collect():
    for _ in range(100):
        gc.collect()

collecting = threading.Thread(target=collect)
collecting.start()

async def main():
    loop = asyncio.get_running_loop()
    while collecting.is_alive():
        loop.call_soon(int)
        loop.call_later(0.001, int).cancel()
        cycle = [loop.call_later(0, int)]
        cycle.append(cycle)
        await asyncio.sleep(0)
    return "survived"

with asyncio.Runner(loop_factory=new_loop) as runner:
    print(runner.run(main()))
"""


@pytest.mark.only_on("rloop")
def test_a_collector_in_another_thread_does_no_harm(loop_name: str) -> None:
    outcome = run_program(COLLECTED, loop_name)
    assert (outcome.returncode, outcome.stdout) == (0, "survived\n"), outcome.stderr
