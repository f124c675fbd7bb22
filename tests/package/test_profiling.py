"""CPython 3.15's sampling profiler sees the tasks and callbacks of a program on TokioLoop."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(sys.version_info < (3, 15), reason="the profiler is new in CPython 3.15"),
    pytest.mark.skipif(sys.platform != "linux", reason="it needs root on macOS"),
]

PROGRAM = """
import asyncio, hashlib, rloop
def digest(block):
    for _ in range(500_000):
        block = hashlib.sha256(block).digest()
async def answer(reader, writer):
    digest(await reader.readline())
    writer.close()
async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello\\n")
    await asyncio.create_task(reader.read(), name="waiting client")
    writer.close()
    server.close()
rloop.run(main())
"""


def sampled_stacks(folder: Path, *options: str) -> list[str]:
    """Return the stacks, outermost frame first, that the profiler finds in `PROGRAM`."""
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    profiler = [sys.executable, "-m", "profiling.sampling", "run", "--collapsed", "-o", "stacks"]
    finished = subprocess.run(
        [*profiler, *options, "program.py"], capture_output=True, check=False, cwd=folder, text=True
    )
    assert finished.returncode == 0, finished.stderr
    return (folder / "stacks").read_text(encoding="utf-8").splitlines()


def test_the_profiler_sees_callbacks_below_run_forever(tmp_path: Path) -> None:
    stacks = sampled_stacks(tmp_path)
    busy = [stack for stack in stacks if ":digest:" in stack]
    assert busy
    for stack in busy:
        frames = [":TokioLoop.run_forever:", "program.py:answer:", "program.py:digest:"]
        places = [stack.find(frame) for frame in frames]
        assert places == sorted(places), stack
        assert min(places) > 0, stack


def test_the_profiler_sees_running_and_waiting_tasks(tmp_path: Path) -> None:
    stacks = sampled_stacks(tmp_path, "--async-aware", "--async-mode=all")
    assert any("<task>:waiting client:" in stack and ".read:" in stack for stack in stacks)
    assert any("program.py:answer:" in stack for stack in stacks)
