"""nest_asyncio and nest_asyncio2 let the loop under test run inside its callbacks.

They patch asyncio itself, so each test is a process of its own. tests/contract/test_nested_runs.py
tests what they rely on.
"""

import sys

import pytest

from support.loops import of_one_thread
from support.programs import run_program

pytestmark = of_one_thread

LIBRARIES = ["nest_asyncio2"]
if sys.version_info < (3, 14):
    # On newer versions its tasks do not know that they are the current one, on asyncio as well.
    LIBRARIES.append("nest_asyncio")

PROGRAM = """
import asyncio
import {library} as library

async def sleep(seconds, result):
    await asyncio.sleep(seconds)
    return result

async def echo(reader, writer):
    writer.write(await reader.readexactly(4))
    writer.close()
    await writer.wait_closed()

async def ask(address):
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"echo")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer

async def deeper(depth):
    if depth == 0:
        return 0
    return 1 + asyncio.run(deeper(depth - 1))

async def main():
    {inside}
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    print(loop.run_until_complete(sleep(0.01, "slept")))
    print(asyncio.run(asyncio.wait_for(asyncio.ensure_future(sleep(0, "in time")), 10)))
    print(asyncio.run(ask(address)), loop.run_until_complete(ask(address)), await ask(address))
    print(loop.run_until_complete(asyncio.gather(deeper(4), sleep(0, "gathered"))))
    print(loop.run_until_complete(loop.run_in_executor(None, str, "executor")))
    server.close()
    await server.wait_closed()
    await loop.shutdown_default_executor()
    return "done"

loop = new_loop()
asyncio.set_event_loop(loop)
{before}
print(loop.run_until_complete(main()))
print(loop.run_until_complete(sleep(0, "once more")))
loop.close()
"""

OUTPUT = """\
slept
in time
b'echo' b'echo' b'echo'
[4, 'gathered']
executor
done
once more
"""


@pytest.mark.parametrize("when", ["before", "inside"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_runs_inside_tasks(loop_name: str, library: str, when: str) -> None:
    before, inside = ("library.apply(loop)", "") if when == "before" else ("", "library.apply()")
    source = PROGRAM.format(library=library, before=before, inside=inside)
    # They use deprecated parts of asyncio.
    finished = run_program(source, loop_name, options=["-W", "ignore::DeprecationWarning"])
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, OUTPUT, "")
