"""Interpreter exit: a loop in whatever state does not keep it from ending, and cleanly."""

import pytest

from support.programs import run_program

HAND_OVER = """
loop = new_loop()
loop.set_debug({debug})
started = threading.Event()
def hammer():
    while True:
        loop.call_soon_threadsafe(started.set)
for _ in range(2):
    threading.Thread(target=hammer, daemon=True).start()
threading.Thread(target=loop.run_forever, daemon=True).start()
started.wait()
"""

STATES = {
    "a loop that never ran": """
loop = new_loop()
""",
    "a loop that was not closed": """
loop = new_loop()
loop.run_until_complete(asyncio.sleep(0.001))
loop.call_later(3600, print)
loop.call_soon(print)
""",
    "an open connection": """
ours, peer = socket.socketpair()
loop = new_loop()
transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=ours))
transport.write(bytes(1 << 22))
""",
    "a loop that runs in a daemon thread": """
loop = new_loop()
started = threading.Event()
loop.call_soon(started.set)
threading.Thread(target=loop.run_forever, daemon=True).start()
started.wait()
""",
    "a daemon thread that is always busy": """
loop = new_loop()
started = threading.Event()
def again():
    loop.call_soon(again)
    started.set()
loop.call_soon(again)
threading.Thread(target=loop.run_forever, daemon=True).start()
started.wait()
""",
    "daemon threads that hand over callbacks": HAND_OVER.format(debug=False),
    "daemon threads that hand over callbacks in debug mode": HAND_OVER.format(debug=True),
    "a callback that never returns in a daemon thread": """
loop = new_loop()
started = threading.Event()
def stay():
    started.set()
    while True:
        pass
loop.call_soon(stay)
threading.Thread(target=loop.run_forever, daemon=True).start()
started.wait()
""",
    "a protocol that never returns in a daemon thread": """
started = threading.Event()
class Protocol(asyncio.Protocol):
    def data_received(self, data):
        started.set()
        while True:
            pass
ours, peer = socket.socketpair()
loop = new_loop()
transport, _ = loop.run_until_complete(loop.create_connection(Protocol, sock=ours))
peer.send(b"x")
threading.Thread(target=loop.run_forever, daemon=True).start()
started.wait()
""",
    "an exception handler that never returns in a daemon thread": """
loop = new_loop()
started = threading.Event()
def stay(*_):
    started.set()
    while True:
        pass
loop.set_exception_handler(stay)
loop.call_soon(int, "no number")
threading.Thread(target=loop.run_forever, daemon=True).start()
started.wait()
""",
    "a task that waits": """
loop = new_loop()
task = loop.create_task(asyncio.sleep(3600))
loop.run_until_complete(asyncio.sleep(0))
loop.set_exception_handler(lambda *_: None)
""",
}


@pytest.mark.parametrize("state", STATES)
def test_the_interpreter_ends_whatever_state_a_loop_is_in(loop_name: str, state: str) -> None:
    program = f"import asyncio, socket, threading\n{STATES[state]}\nprint('end', flush=True)\n"
    outcome = run_program(program, loop_name, options=["-W", "ignore::ResourceWarning"])
    assert (outcome.returncode, outcome.stdout) == (0, "end\n"), outcome.stderr
    assert "Fatal Python error" not in outcome.stderr


def test_an_exit_from_a_callback_ends_the_process_with_its_code(loop_name: str) -> None:
    program = """
import asyncio, sys
with asyncio.Runner(loop_factory=new_loop) as runner:
    async def main():
        asyncio.get_running_loop().call_soon(sys.exit, 42)
        await asyncio.sleep(3600)
    runner.run(main())
"""
    outcome = run_program(program, loop_name)
    assert (outcome.returncode, outcome.stderr) == (42, "")


def test_an_exit_hook_may_run_a_loop(loop_name: str) -> None:
    program = """
import asyncio, atexit

def last_words():
    with asyncio.Runner(loop_factory=new_loop) as runner:
        print(runner.run(asyncio.sleep(0.001, "last words")))

atexit.register(last_words)
"""
    outcome = run_program(program, loop_name)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "last words\n", "")
