"""How a loop learns of the end of its children, whatever else watches or reaps children."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from support.loops import LoopFactory
from support.protocols import RecordingSubprocessProtocol
from support.threads import eventually, turns

Loop = asyncio.AbstractEventLoop

PIPE = subprocess.PIPE


async def exit_code(code: int) -> int:
    """Run a child that ends with that code and return what the loop says of it."""
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", f"exit {code}")
    return await process.wait()


@pytest.fixture
def child_signal() -> Iterator[None]:
    """Put the handler of SIGCHLD back."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


async def test_no_handler_of_sigchld_is_set() -> None:
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
    await process.communicate(b"")
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL


@pytest.mark.only_on("rloop")
async def test_children_need_no_threads() -> None:
    before = threading.active_count()
    processes = [await asyncio.create_subprocess_exec("cat", stdin=PIPE) for _ in range(5)]
    assert threading.active_count() == before
    for process in processes:
        await process.communicate(b"")
        assert process.returncode == 0


async def test_a_handler_of_sigchld_that_is_the_programs_is_left_alone(
    child_signal: None,
) -> None:
    seen = []
    signal.signal(signal.SIGCHLD, lambda number, _: seen.append(number))
    assert [await exit_code(code) for code in (3, 4)] == [3, 4]
    assert set(seen) == {signal.SIGCHLD}


@pytest.mark.only_on("rloop")
async def test_a_child_that_somebody_else_has_reaped_counts_as_255(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio's outcome, where its watcher does not come first."""
    with caplog.at_level(logging.WARNING, "asyncio"):
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
        process.kill()
        assert os.waitpid(process.pid, 0) == (process.pid, signal.SIGKILL)
        assert await process.wait() == 255
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        f"child process pid {process.pid} exit status already read: will report returncode 255"
    ]
    caplog.clear()
    assert await exit_code(7) == 7


async def test_children_that_the_system_reaps_by_itself_count_as_255(
    child_signal: None, caplog: pytest.LogCaptureFixture
) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with caplog.at_level(logging.ERROR, "asyncio"):
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE)
        assert process.stdin is not None
        process.stdin.close()
        assert await process.wait() == 255


@pytest.mark.only_on("rloop")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EMFILE])
async def test_without_pidfds_children_are_waited_for_as_well(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    processes = [
        await asyncio.create_subprocess_exec("/bin/sh", "-c", f"exit {code}") for code in range(5)
    ]
    assert [await process.wait() for process in processes] == list(range(5))
    process = await asyncio.create_subprocess_exec("sleep", "3600")
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    await eventually(
        lambda: not any("asyncio-waitpid" in thread.name for thread in threading.enumerate())
    )


@pytest.mark.only_on("rloop")
def test_a_loop_in_any_thread_needs_no_child_watcher_and_gives_no_warning(
    loop_factory: LoopFactory,
) -> None:
    outcomes: list[Any] = []

    def body() -> None:
        with contextlib.closing(loop_factory()) as loop:
            outcomes.append(loop.run_until_complete(exit_code(9)))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        body()
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
    assert outcomes == [9, 9]


@pytest.mark.only_on("rloop")
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there are no child watchers any more")
@pytest.mark.parametrize("name", ["SafeChildWatcher", "FastChildWatcher", "ThreadedChildWatcher"])
def test_a_child_watcher_that_the_program_set_is_not_asked(
    loop_factory: LoopFactory, name: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        # typeshed knows the newest Python only, which has no watchers.
        policy: Any = asyncio.get_event_loop_policy()
        before = policy.get_child_watcher()
        policy.set_child_watcher(getattr(asyncio, name)())
    try:
        with contextlib.closing(loop_factory()) as loop:
            assert loop.run_until_complete(exit_code(5)) == 5
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            policy.set_child_watcher(before)


@pytest.mark.only_on("rloop")
def test_a_loop_that_is_closed_before_its_child_ends_keeps_no_descriptor(
    loop_factory: LoopFactory,
) -> None:
    """asyncio keeps the child's pidfd; the leak guard would see it."""
    with contextlib.closing(loop_factory()) as loop:
        transport, _ = loop.run_until_complete(
            loop.subprocess_exec(
                RecordingSubprocessProtocol, "sleep", "3600", stdin=None, stdout=None, stderr=None
            )
        )
    child = transport.get_extra_info("subprocess")
    transport.close()
    assert child.wait(20) == -signal.SIGKILL


async def test_a_start_that_is_cancelled_leaves_no_child_behind(loop: Loop) -> None:
    def factory() -> RecordingSubprocessProtocol:
        starting.cancel()
        return RecordingSubprocessProtocol()

    starting = asyncio.ensure_future(loop.subprocess_exec(factory, "sleep", "3600"))
    with pytest.raises(asyncio.CancelledError):
        await starting
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    await turns(3)


async def test_signals_reach_a_child_that_handles_them() -> None:
    script = "trap 'echo caught' USR1; echo ready; while :; do read line || exit 6; done"
    process = await asyncio.create_subprocess_shell(script, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    process.stdin.write(b"go on\n")
    assert await process.stdout.readline() == b"caught\n"
    process.stdin.close()
    assert await process.wait() == 6
