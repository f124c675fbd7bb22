"""Ctrl-C: a real SIGINT in every phase of a program, each in a process of its own."""

import signal
import sys

import pytest

from support.programs import run_program

#: Sends SIGINT to this process, from the calling or from another thread. asyncio has no wake-up
#: descriptor here: a signal that lands between its last bytecode and its wait is noticed with the
#: next event only, so it gets one, and so does every loop but TokioLoop.
#: The other thread is started by one native call: threading.Thread.start() waits under a condition
#: variable, and an interrupt there may come out as "RuntimeError: release unlocked lock".
SEND = """
import _thread, asyncio, contextlib, operator, os, signal, sys, threading, time

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

def be_interrupted():
    interrupt()
    while True:
        time.sleep(0)

def interrupt_from_a_thread():
    loop = asyncio.get_running_loop()
    def send():
        interrupt()
        if type(loop).__module__ != "rloop.loop":
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(int)
    _thread.start_new_thread(send, ())
"""

BEGIN_A_GENERATOR = """
        async def generate():
            try:
                yield
            finally:
                be_interrupted()
        async def begin():
            await anext(generator)
        generator = generate()
        loop.run_until_complete(begin())
"""

#: The two that sleep do so for a second: a signal that lands just before the system call does not
#: interrupt it.
PHASES = {
    "the loop waits for an event": """
        loop.call_soon(interrupt_from_a_thread)
        loop.run_forever()
    """,
    "a callback runs": """
        loop.call_soon(be_interrupted)
        loop.run_forever()
    """,
    "a task step runs": """
        async def step():
            be_interrupted()
        loop.run_until_complete(step())
    """,
    "a timer is pending": """
        loop.call_later(3600, print)
        loop.call_later(0.01, interrupt_from_a_thread)
        loop.run_forever()
    """,
    "a reader callback runs": """
        import socket
        ours, peer = socket.socketpair()
        peer.send(b"x")
        def read():
            loop.remove_reader(ours)
            be_interrupted()
        loop.add_reader(ours, read)
        loop.run_forever()
    """,
    "a protocol method runs": """
        import socket
        ours, peer = socket.socketpair()
        class Protocol(asyncio.Protocol):
            def data_received(self, data):
                be_interrupted()
        transport, _ = loop.run_until_complete(loop.create_connection(Protocol, sock=ours))
        peer.send(b"x")
        loop.run_forever()
    """,
    "other threads hand over native callbacks without end": """
        over = threading.Event()
        def flood():
            for _ in range(3_000_000):
                if over.is_set():
                    return
                loop.call_soon_threadsafe(int)
            os._exit(3)
        threads = [threading.Thread(target=flood) for _ in range(2)]
        try:
            for thread in threads:
                thread.start()
            loop.call_later(0.01, interrupt_from_a_thread)
            loop.run_forever()
        finally:
            over.set()
            for thread in threads:
                thread.join()
    """,
    "an executor works": """
        release = threading.Event()
        call = loop.run_in_executor(None, release.wait, 20)
        loop.call_soon(interrupt_from_a_thread)
        try:
            loop.run_until_complete(call)
        finally:
            release.set()
            loop.run_until_complete(loop.shutdown_default_executor())
    """,
    "the run is entered": """
        # Native calls alone, so that the interrupt is still pending when the run begins.
        list(map(operator.call, [_thread.interrupt_main, loop.run_forever]))
    """,
    "a native callback interrupts": """
        loop.call_soon(_thread.interrupt_main)
        loop.run_forever()
    """,
    "a native callback sleeps": """
        loop.call_soon(interrupt_from_a_thread)
        loop.call_soon(time.sleep, 1)
        loop.run_forever()
    """,
    "a callback sleeps": """
        def callback():
            interrupt_from_a_thread()
            time.sleep(1)
        loop.call_soon(callback)
        loop.run_forever()
    """,
    "asynchronous generators are shut down": BEGIN_A_GENERATOR
    + """
        shutting_down = loop.create_task(loop.shutdown_asyncgens())
        try:
            loop.run_until_complete(shutting_down)
        finally:
            # What ended the generator reaches who waits for it, too.
            with contextlib.suppress(KeyboardInterrupt):
                loop.run_until_complete(shutting_down)
    """,
    "a generator that was dropped is finished": BEGIN_A_GENERATOR
    + """
        del generator
        loop.run_forever()
    """,
    "the default executor is shut down": """
        release = threading.Event()
        call = loop.run_in_executor(None, release.wait, 20)
        shutting_down = loop.create_task(loop.shutdown_default_executor())
        loop.call_soon(interrupt_from_a_thread)
        try:
            loop.run_until_complete(shutting_down)
        finally:
            release.set()
            loop.run_until_complete(shutting_down)
    """,
    "a connection is made": """
        import socket
        ours, peer = socket.socketpair()
        class Protocol(asyncio.Protocol):
            def connection_made(self, transport):
                be_interrupted()
        loop.run_until_complete(loop.create_connection(Protocol, sock=ours))
    """,
    "a connection is lost": """
        import socket
        ours, peer = socket.socketpair()
        class Protocol(asyncio.Protocol):
            def connection_lost(self, error):
                be_interrupted()
        transport, _ = loop.run_until_complete(loop.create_connection(Protocol, sock=ours))
        peer.close()
        loop.run_forever()
    """,
    "a server makes a protocol": """
        import socket
        def make_protocol():
            # On a loop of several threads this is a worker, which a signal does not interrupt.
            interrupt()
            return asyncio.Protocol()
        server = loop.run_until_complete(loop.create_server(make_protocol, "127.0.0.1", 0))
        peer = socket.create_connection(server.sockets[0].getsockname())
        try:
            loop.run_forever()
        finally:
            server.close()
    """,
    "the loop is closed": """
        spare = new_loop()
        try:
            list(map(operator.call, [_thread.interrupt_main, spare.close]))
        finally:
            spare.close()
            assert spare.is_closed()
    """,
}


@pytest.mark.parametrize("phase", PHASES)
def test_without_a_runner_ctrl_c_leaves_the_run_and_the_loop_stays_usable(
    loop_name: str, phase: str
) -> None:
    body = "\n".join("        " + line for line in PHASES[phase].splitlines())
    program = f"""{SEND}
loop = new_loop()
try:
    if True:
{body}
except KeyboardInterrupt:
    assert not loop.is_running()
    print("interrupted", loop.run_until_complete(asyncio.sleep(0, "usable")))
loop.close()
"""
    outcome = run_program(program, loop_name, options=["-W", "ignore::ResourceWarning"])
    assert (outcome.returncode, outcome.stdout) == (0, "interrupted usable\n"), outcome.stderr


RUNNER = f"""{SEND}
def run(main):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)
"""


def test_the_runner_cancels_the_main_task_and_raises_keyboard_interrupt(loop_name: str) -> None:
    program = f"""{RUNNER}
async def main():
    try:
        asyncio.get_running_loop().call_soon(interrupt_from_a_thread)
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        await asyncio.sleep(0.01)
        print("cleaned up")
        raise

try:
    run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    outcome = run_program(program, loop_name)
    assert outcome.stdout == "cleaned up\ninterrupted\n", outcome.stderr
    assert outcome.returncode == 0
    assert outcome.stderr == ""


def test_an_uncaught_ctrl_c_ends_the_process_by_the_signal(loop_name: str) -> None:
    program = f"""{RUNNER}
async def main():
    asyncio.get_running_loop().call_soon(interrupt_from_a_thread)
    await asyncio.sleep(3600)

run(main())
"""
    outcome = run_program(program, loop_name)
    assert outcome.returncode == -signal.SIGINT
    assert outcome.stderr.rstrip().endswith("KeyboardInterrupt")


def test_a_second_ctrl_c_interrupts_a_main_task_that_does_not_yield(loop_name: str) -> None:
    program = f"""{RUNNER}
async def main():
    interrupt()
    interrupt()
    while True:
        time.sleep(0)

try:
    run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    outcome = run_program(program, loop_name)
    assert outcome.stdout == "interrupted\n", outcome.stderr


def test_a_main_task_that_survives_its_cancellation_returns_its_result(loop_name: str) -> None:
    program = f"""{RUNNER}
async def main():
    asyncio.get_running_loop().call_soon(interrupt_from_a_thread)
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        return "survived"

print(run(main()))
"""
    outcome = run_program(program, loop_name)
    assert outcome.stdout == "survived\n", outcome.stderr


def test_the_runner_leaves_a_users_own_sigint_handler_alone(loop_name: str) -> None:
    program = f"""{RUNNER}
received = []
signal.signal(signal.SIGINT, lambda *_: received.append("mine"))

async def main():
    interrupt()
    while not received:
        await asyncio.sleep(0)
    return received

print(run(main()))
"""
    outcome = run_program(program, loop_name)
    assert outcome.stdout == "['mine']\n", outcome.stderr


def test_ctrl_c_during_the_runners_closing_still_closes_the_loop(loop_name: str) -> None:
    program = f"""{RUNNER}
async def main():
    async def stubborn():
        try:
            await asyncio.sleep(3600)
        finally:
            interrupt_from_a_thread()
            await asyncio.sleep(3600)
    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)

runner = asyncio.Runner(loop_factory=new_loop)
try:
    with runner:
        loop = runner.get_loop()
        runner.run(main())
except KeyboardInterrupt:
    print("interrupted", loop.is_closed())
"""
    outcome = run_program(program, loop_name)
    assert outcome.stdout == "interrupted True\n", outcome.stderr


def test_ctrl_c_goes_to_the_main_thread_when_the_loop_runs_in_another(loop_name: str) -> None:
    program = f"""{SEND}
loop = new_loop()
started = threading.Event()
loop.call_soon(started.set)
thread = threading.Thread(target=loop.run_forever)
thread.start()
started.wait()
try:
    interrupt()
    threading.Event().wait(20)
except KeyboardInterrupt:
    print("main thread interrupted", loop.is_running())
loop.call_soon_threadsafe(loop.stop)
thread.join()
loop.close()
"""
    outcome = run_program(program, loop_name)
    assert outcome.stdout == "main thread interrupted True\n", outcome.stderr


@pytest.mark.only_on("rloop")
@pytest.mark.skipif(sys.version_info < (3, 14), reason="a loop of several threads needs 3.14")
@pytest.mark.parametrize("busy", [(0, 1), (1,)], ids=["all are busy", "the main thread waits"])
def test_ctrl_c_leaves_the_run_of_a_loop_of_several_threads(
    loop_name: str, busy: tuple[int, ...]
) -> None:
    program = f"""{SEND}
import rloop
over = []

def spin():
    if not over:
        loop.call_soon(spin)

async def begin():
    spin()

async def begin_all():
    for shard in {busy}:
        await rloop.on_shard(shard, begin())
    loop.call_soon(interrupt_from_a_thread)

loop = rloop.new_event_loop(threads=2)
beginning = loop.create_task(begin_all())
try:
    loop.run_forever()
except KeyboardInterrupt:
    assert not loop.is_running()
    over.append(True)
    print("interrupted", loop.run_until_complete(asyncio.sleep(0, "usable")))
loop.close()
"""
    outcome = run_program(program, loop_name)
    assert (outcome.returncode, outcome.stdout) == (0, "interrupted usable\n"), outcome.stderr
