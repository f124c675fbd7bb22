"""Calls on a transport from another thread than the loop's, which the loop forwards."""

from support.programs import run_program

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
