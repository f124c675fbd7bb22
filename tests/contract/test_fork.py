"""fork: the child of a running loop has none, can make one, and leaves the parent's alone."""

import pytest

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


@pytest.mark.only_on("rloop")
def test_pipes_and_datagrams_of_the_parent_survive_a_child_that_closes_them(
    loop_name: str,
) -> None:
    """On asyncio, the child takes the parent's registrations out of the epoll set they share."""
    program = """
import asyncio, gc, os, socket, warnings
warnings.simplefilter("ignore")

class Protocol(asyncio.Protocol, asyncio.DatagramProtocol):
    def __init__(self):
        self.received = asyncio.Queue()
    def data_received(self, data):
        self.received.put_nowait(data)
    def datagram_received(self, data, addr):
        self.received.put_nowait(data)

async def open_all(loop):
    reading, writing = os.pipe()
    reader = await loop.connect_read_pipe(Protocol, open(reading, "rb", 0))
    writer = await loop.connect_write_pipe(Protocol, open(writing, "wb", 0))
    datagrams = await loop.create_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0))
    return [reader, writer, datagrams]

async def exchange(everything, text):
    (_, reader), (writer, _), (datagrams, receiver) = everything
    writer.write(text)
    assert await reader.received.get() == text
    datagrams.sendto(text, datagrams.get_extra_info("sockname"))
    assert await receiver.received.get() == text

async def main():
    loop = asyncio.get_running_loop()
    everything = await open_all(loop)
    await exchange(everything, b"before")
    pid = os.fork()
    if pid == 0:
        try:
            for transport, _ in everything:
                transport.abort() if hasattr(transport, "abort") else transport.close()
            everything = transport = None
            gc.collect()
            async def child_main():
                theirs = await open_all(asyncio.get_running_loop())
                await exchange(theirs, b"in the child")
            with asyncio.Runner(loop_factory=new_loop) as child_runner:
                child_runner.run(child_main())
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = await loop.run_in_executor(None, os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    await exchange(everything, b"after")
    process = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    print((await process.communicate(b"parent goes on"))[0].decode())
    for transport, _ in everything:
        transport.close()
    await asyncio.sleep(0)

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
"""
    outcome = run_program(program, loop_name)
    assert outcome.stdout == "parent goes on\n", outcome.stderr
    assert outcome.returncode == 0
