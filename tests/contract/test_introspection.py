"""Introspection: asyncio's own tools see the tasks of a loop, from inside and from outside."""

import asyncio
import io
import subprocess
import sys
from pathlib import Path

import pytest

from support.programs import run_program

Loop = asyncio.AbstractEventLoop

since_3_14 = pytest.mark.skipif(sys.version_info < (3, 14), reason="call graphs came with 3.14")


async def wait_inside(future: "asyncio.Future[None]") -> None:
    await future


async def test_the_stack_of_a_waiting_task_is_known(loop: Loop) -> None:
    future = loop.create_future()
    task = loop.create_task(wait_inside(future), name="waiting")
    await asyncio.sleep(0)
    assert [frame.f_code.co_name for frame in task.get_stack()] == ["wait_inside"]
    assert asyncio.all_tasks() == {task, asyncio.current_task()}
    future.set_result(None)
    await task


@since_3_14
async def test_the_call_graph_of_a_waiting_task_is_known(loop: Loop) -> None:
    future = loop.create_future()

    async def outer() -> None:
        await inner

    inner = loop.create_task(wait_inside(future), name="inner")
    waiter = loop.create_task(outer(), name="outer")
    await asyncio.sleep(0)
    graph = asyncio.format_call_graph(inner)
    assert "name='inner'" in graph
    assert "wait_inside()" in graph
    assert "name='outer'" in graph
    printed = io.StringIO()
    asyncio.print_call_graph(inner, file=printed)
    assert printed.getvalue() == f"{graph}\n"
    future.set_result(None)
    await waiter


@since_3_14
@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="reads another process's memory")
@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_asyncio_ps_sees_the_tasks_of_a_running_process(loop_name: str, command: str) -> None:
    program = f"""
import asyncio, os, subprocess, sys

async def main():
    task = asyncio.create_task(asyncio.sleep(3600), name="the sleeper")
    process = await asyncio.to_thread(
        subprocess.run,
        [{sys.executable!r}, "-P", "-m", "asyncio", "{command}", str(os.getpid())],
        capture_output=True,
        text=True,
        timeout=20,
    )
    print(process.stdout, process.stderr)
    task.cancel()

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
"""
    try:
        outcome = run_program(program, loop_name)
    except subprocess.TimeoutExpired:
        pytest.fail(f"asyncio {command} did not come back")
    if "PermissionError" in outcome.stdout:
        pytest.skip("this system forbids reading another process's memory")
    assert "the sleeper" in outcome.stdout, outcome.stdout + outcome.stderr
