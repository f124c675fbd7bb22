"""fork: the child of a running loop has none, can make one, and leaves the parent's alone."""

from support.programs import run_program

FORK = """
import asyncio, os, socket, warnings
warnings.simplefilter("ignore", DeprecationWarning)

async def main():
    loop = asyncio.get_running_loop()
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    waiting = asyncio.ensure_future(loop.sock_recv(ours, 100))
    await asyncio.sleep(0.01)
    pid = os.fork()
    if pid == 0:
        try:
            {child}
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = await loop.run_in_executor(None, os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    peer.send(b"parent goes on")
    print((await waiting).decode())
    ours.close()
    peer.close()

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
"""


def test_the_child_has_no_running_loop(loop_name: str) -> None:
    child = """
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                pass
            else:
                os._exit(3)
    """
    outcome = run_program(FORK.format(child=child.strip()), loop_name)
    assert outcome.stdout == "parent goes on\n", outcome.stderr
    assert outcome.returncode == 0


def test_the_child_runs_a_loop_of_its_own_while_the_parents_goes_on(loop_name: str) -> None:
    child = """
            async def child_main():
                first, second = socket.socketpair()
                reader, writer = await asyncio.open_connection(sock=first)
                second.send(b"hello")
                assert await reader.readexactly(5) == b"hello"
                writer.close()
                await asyncio.sleep(0.01)
                second.close()
                return "done"
            with asyncio.Runner(loop_factory=new_loop) as child_runner:
                assert child_runner.run(child_main()) == "done"
    """
    outcome = run_program(FORK.format(child=child.strip()), loop_name)
    assert outcome.stdout == "parent goes on\n", outcome.stderr
    assert outcome.returncode == 0


def test_a_multiprocessing_child_runs_a_loop(loop_name: str) -> None:
    program = """
import asyncio, multiprocessing, warnings
warnings.simplefilter("ignore", DeprecationWarning)

def child(connection):
    async def main():
        await asyncio.sleep(0.01)
        return "from the child"
    with asyncio.Runner(loop_factory=new_loop) as runner:
        connection.send(runner.run(main()))

async def main():
    loop = asyncio.get_running_loop()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
    process.start()
    print(await loop.run_in_executor(None, ours.recv))
    await loop.run_in_executor(None, process.join)
    assert process.exitcode == 0
    process.close()

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
"""
    outcome = run_program(program, loop_name)
    assert outcome.stdout == "from the child\n", outcome.stderr
    assert outcome.returncode == 0
