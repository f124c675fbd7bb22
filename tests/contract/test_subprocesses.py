"""Subprocesses: their pipes, exit codes and signals, beside children that are not the loop's."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import cast

import pytest

from support.loops import LoopFactory
from support.protocols import RecordingSubprocessProtocol
from support.threads import eventually, turns

Loop = asyncio.AbstractEventLoop

PIPE = subprocess.PIPE


async def test_the_protocol_is_told_everything_in_order(loop: Loop) -> None:
    transport, protocol = await loop.subprocess_exec(
        RecordingSubprocessProtocol, "/bin/sh", "-c", "echo out; echo err >&2; exit 7"
    )
    assert isinstance(transport, asyncio.SubprocessTransport)
    assert protocol.log[0] == "connection_made"
    await protocol.called("connection_lost")
    assert protocol.data == b"out\n"
    received = protocol.values("pipe_data_received")
    assert b"".join(data for fd, data in received if fd == 2) == b"err\n"
    assert sorted(protocol.values("pipe_connection_lost")) == [(0, None), (1, None), (2, None)]
    assert protocol.count("process_exited") == 1
    assert protocol.log[-1] == "connection_lost"
    assert transport.get_returncode() == 7
    transport.close()


async def test_wait_returns_though_a_grandchild_keeps_the_pipe() -> None:
    if sys.version_info < (3, 14, 7):
        pytest.skip("asyncio waits for the end of the pipes as well (cpython#119710)")
    process = await asyncio.create_subprocess_exec(
        # The grandchild ends when its standard input does.
        *("/bin/sh", "-c", "exec 3<&0; cat <&3 & exit 7"),
        stdin=PIPE,
        stdout=PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.wait() == 7
    assert not process.stdout.at_eof()
    process.stdin.write(b"still here")
    process.stdin.close()
    assert await process.stdout.read() == b"still here"
    await process.stdin.wait_closed()


@pytest.mark.parametrize("code", [0, 1, 42, 255])
async def test_exit_codes_are_exact(code: int) -> None:
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", f"exit {code}")
    assert await process.wait() == code
    assert process.returncode == code
    assert await process.wait() == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1])
async def test_a_process_ended_by_a_signal_has_its_negative_number(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec("sleep", "3600")
    process.send_signal(number)
    assert await process.wait() == -number


async def test_terminate_and_kill_end_a_process() -> None:
    for method, number in (("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)):
        process = await asyncio.create_subprocess_exec("sleep", "3600")
        getattr(process, method)()
        assert await process.wait() == -number


@pytest.mark.parametrize("method", ["kill", "terminate"])
async def test_signalling_a_process_that_has_ended_is_an_error(method: str) -> None:
    process = await asyncio.create_subprocess_exec("true", stdin=PIPE, stdout=PIPE)
    await process.communicate(b"")
    await turns(5)
    with pytest.raises(ProcessLookupError):
        getattr(process, method)()


async def test_communicate_passes_megabytes_both_ways() -> None:
    payload = os.urandom(4 << 20)
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    stdout, stderr = await process.communicate(payload)
    assert stdout == payload
    assert stderr == b""
    assert process.returncode == 0


async def test_the_shell_interprets_its_command(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_shell(
        'echo "$VALUE"; pwd; exit 3', stdout=PIPE, cwd=tmp_path, env={"VALUE": "given"}
    )
    stdout, _ = await process.communicate()
    assert stdout.decode().splitlines() == ["given", str(tmp_path)]
    assert process.returncode == 3


async def test_a_program_that_does_not_exist_is_an_error(loop: Loop) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        await asyncio.create_subprocess_exec("no-such-program", stdin=PIPE, stdout=PIPE)


async def test_a_conversation_goes_line_by_line() -> None:
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    for number in range(100):
        process.stdin.write(b"%d\n" % number)
        await process.stdin.drain()
        assert await process.stdout.readline() == b"%d\n" % number
    process.stdin.close()
    assert await process.stdout.read() == b""
    assert await process.wait() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="opens Linux's /dev/stdin")
@pytest.mark.fails_on("uvloop", reason="the child's standard input is a socket pair")
async def test_a_child_can_open_its_standard_input_by_name() -> None:
    process = await asyncio.create_subprocess_exec(
        "cat", "/dev/stdin", stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    stdout, stderr = await process.communicate(b"through a real pipe")
    assert (stdout, stderr) == (b"through a real pipe", b"")


async def test_a_child_that_does_not_read_is_no_error_of_communicate() -> None:
    process = await asyncio.create_subprocess_exec("true", stdin=PIPE, stdout=PIPE)
    stdout, _ = await process.communicate(bytes(1 << 20))
    assert stdout == b""
    assert process.returncode == 0


async def test_standard_streams_may_be_shared_or_discarded() -> None:
    script = "echo out; echo err >&2"
    process = await asyncio.create_subprocess_shell(
        script, stdout=PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    )
    stdout, stderr = await process.communicate()
    assert sorted(stdout.split()) == [b"err", b"out"]
    # typeshed promises bytes even for a stream that is not captured.
    assert cast("object", stderr) is None
    process = await asyncio.create_subprocess_shell(
        script, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    outcome: object = await process.communicate()
    assert outcome == (None, None)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
async def test_no_descriptor_of_a_sibling_leaks_into_a_child() -> None:
    siblings = [
        await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE) for _ in range(3)
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        "-c",
        "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[3:-1])",
        stdin=PIPE,
        stdout=PIPE,
    )
    stdout, _ = await process.communicate(b"")
    assert stdout == b"[]\n"
    for sibling in siblings:
        await sibling.communicate(b"")
        assert sibling.returncode == 0


async def test_children_of_other_code_are_not_reaped() -> None:
    foreign = [subprocess.Popen(["/bin/sh", "-c", f"exit {code}"]) for code in range(10)]
    processes = [
        await asyncio.create_subprocess_exec("/bin/sh", "-c", f"exit {code}") for code in range(10)
    ]
    assert [await process.wait() for process in processes] == list(range(10))
    assert [child.wait(20) for child in foreign] == list(range(10))


def test_loops_in_many_threads_get_the_exit_codes_of_their_own_children(
    loop_factory: LoopFactory,
) -> None:
    async def run_children(offset: int) -> list[int]:
        codes = []
        for number in range(10):
            process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", f"exit {offset + number}"
            )
            codes.append(await process.wait())
        return codes

    outcomes: dict[int, list[int]] = {}

    def body(offset: int) -> None:
        with contextlib.closing(loop_factory()) as loop:
            outcomes[offset] = loop.run_until_complete(run_children(offset))

    threads = [threading.Thread(target=body, args=(offset,)) for offset in range(0, 80, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {offset: list(range(offset, offset + 10)) for offset in range(0, 80, 10)}


async def test_closing_the_transport_kills_the_child(loop: Loop) -> None:
    transport, protocol = await loop.subprocess_exec(RecordingSubprocessProtocol, "sleep", "3600")
    assert transport.get_returncode() is None
    transport.close()
    await protocol.called("process_exited")
    await eventually(lambda: transport.get_returncode() == -signal.SIGKILL)
    await protocol.called("connection_lost")


async def test_a_cancelled_communicate_leaves_a_process_that_can_be_killed() -> None:
    process = await asyncio.create_subprocess_exec("sleep", "3600", stdout=PIPE)
    talking = asyncio.ensure_future(process.communicate())
    await turns(3)
    talking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await talking
    process.kill()
    assert await process.wait() == -signal.SIGKILL


async def test_the_transport_tells_pid_pipes_and_popen(loop: Loop) -> None:
    transport, protocol = await loop.subprocess_exec(RecordingSubprocessProtocol, "cat")
    process = transport.get_extra_info("subprocess")
    assert isinstance(process, subprocess.Popen)
    assert transport.get_pid() == process.pid
    stdin, stdout = transport.get_pipe_transport(0), transport.get_pipe_transport(1)
    assert isinstance(stdin, asyncio.WriteTransport)
    assert isinstance(stdout, asyncio.ReadTransport)
    assert transport.get_pipe_transport(5) is None
    stdin.write(b"hello")
    assert await protocol.received(5) == b"hello"
    stdin.close()
    await protocol.called("connection_lost")
    transport.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"universal_newlines": True}, "universal_newlines must be False"),
        ({"text": True}, "text must be False"),
        ({"encoding": "utf-8"}, "encoding must be None"),
        ({"errors": "strict"}, "errors must be None"),
        ({"shell": True}, "shell must be False"),
        ({"bufsize": 1}, "bufsize must be 0"),
    ],
    ids=str,
)
async def test_text_mode_is_refused(loop: Loop, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        await loop.subprocess_exec(RecordingSubprocessProtocol, "true", **options)  # type: ignore[arg-type]
