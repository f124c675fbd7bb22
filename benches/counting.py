"""Counts that hardly depend on how busy the machine is: instructions and system calls per message.

Called by run.py. A server answers two different numbers of messages under a counting tool; the
difference of the counts, divided by the difference of the numbers, is what one message costs. What
connecting costs is the same both times and cancels out.

Under strace, each number has a server of its own, and what starting and stopping cost cancels out
as well. Under callgrind, one server answers both, and the counters are read in between: starting
takes some billion instructions, whose variation would drown a few thousand.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from processes import CellFailed, Cores, ServerProcess, last_line, run_pinned
from toolchain import Binaries, echo_server_command

LOAD_SECONDS = 120.0
"""How long the counted messages may take; the tools slow a server down by up to 100 times."""

CONTROL_SECONDS = 60.0
"""How long callgrind may take to obey."""

WARM_UP_MESSAGES = 1_000
"""Messages before the instructions count, for which the interpreter specializes its bytecode."""

INSTRUCTION_MESSAGES = (500, 8_000)
SYSTEM_CALL_MESSAGES = (1_000, 5_000)
MESSAGES_AT_REST = (200, 1_200)
"""Messages of the two runs with pauses, under either tool."""

PAUSE_SECONDS = 0.005
"""A pause in which a server comes to rest even under callgrind."""


@dataclass(frozen=True)
class Exchange:
    """What is said between one client and a server while it is counted."""

    mode: str
    """The server's mode."""
    size: int
    """Bytes of each message."""
    at_rest: bool = False
    """Whether a pause lets the server wait before each message.

    Without it the next message may be there before a slow server looks, and a loop that then needs
    not wait looks cheaper than it is on a connection that is idle most of the time.
    """
    burst: int = 1
    """Messages in flight at a time."""


class Send(Protocol):
    """Has a server answer so many messages; nothing of the warm-up is counted."""

    def __call__(self, server: ServerProcess, messages: int, *, warming_up: bool) -> None: ...


INTERPRETER_FUNCTION = "_PyEval_EvalFrameDefault"
"""What every Python program calls: its name is there unless the interpreter was stripped."""

CALLGRIND_CALLS = re.compile(r"^(?:(c?fn)=\((\d+)\)(?: (.+))?|calls=(\d+) .*)$", re.MULTILINE)

STEADY = {"PYTHONHASHSEED": "0"}
"""Environment that makes two runs of one interpreter do the same."""


def instructions_per_message(
    binaries: Binaries, cores: Cores, loop: str, exchange: Exchange
) -> float:
    """Return user-space instructions per echoed message on one connection.

    Raises CellFailed, also if valgrind is not installed.
    """
    few, many = MESSAGES_AT_REST if exchange.at_rest else INSTRUCTION_MESSAGES
    command = echo_server_command(binaries, loop, exchange.mode)

    def send(server: ServerProcess, messages: int, *, warming_up: bool) -> None:
        rests = exchange.at_rest and not warming_up
        _echo(binaries, cores, server, replace(exchange, at_rest=rests), messages)

    dumps = callgrind_dumps(command, cores, os.environ, (few, many), send)
    totals = [read_callgrind_total(dump) for dump in dumps]
    return (totals[1] - totals[0]) / (many - few)


def callgrind_dumps(
    command: Sequence[str | Path],
    cores: Cores,
    environment: Mapping[str, str],
    counts: Sequence[int],
    send: Send,
) -> list[str]:
    """Return what callgrind writes about a server that answers so many messages, for each count.

    `send` has them answered. Raises CellFailed, also if valgrind is not installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "callgrind"
        tool = [
            required_tool("valgrind"),
            "--tool=callgrind",
            "--instr-atstart=no",
            f"--callgrind-out-file={output}",
            # Its remarks on system calls that it does not know are no fault of the server.
            f"--log-file={output}.log",
        ]
        steady = {**environment, **STEADY}
        with ServerProcess([*tool, *command], cores.server, environment=steady) as server:
            send(server, WARM_UP_MESSAGES, warming_up=True)
            _control_callgrind(server, "--instr=on")
            for messages in counts:
                send(server, messages, warming_up=False)
                # Writes the counters to the next file and sets them to zero.
                _control_callgrind(server, "--dump")
        numbers = range(1, len(counts) + 1)
        return [Path(f"{output}.{number}").read_text() for number in numbers]


def system_calls_per_message(
    binaries: Binaries, cores: Cores, loop: str, exchange: Exchange
) -> dict[str, float]:
    """Return system calls per echoed message on one connection, by name.

    Raises CellFailed, also if strace is not installed.
    """
    few, many = MESSAGES_AT_REST if exchange.at_rest else SYSTEM_CALL_MESSAGES
    command = echo_server_command(binaries, loop, exchange.mode)
    summaries = []
    with tempfile.TemporaryDirectory() as folder:
        for messages in (few, many):
            output = Path(folder) / f"{messages}"
            tool = [required_tool("strace"), "-f", "-c", "-Ucalls,name", f"--output={output}"]
            with ServerProcess([*tool, *command], cores.server, environment=_steady()) as server:
                _echo(binaries, cores, server, exchange, messages)
            summaries.append(read_strace_summary(output.read_text()))
    before, after = summaries
    names = sorted(before.keys() | after.keys())
    return {name: (after.get(name, 0) - before.get(name, 0)) / (many - few) for name in names}


def required_tool(name: str) -> str:
    """Return the path of a tool, or raise CellFailed if it is not installed."""
    path = shutil.which(name)
    if path is None:
        raise CellFailed(f"{name} is not installed")
    return path


def read_callgrind_total(text: str) -> int:
    """Return the instructions that a callgrind output file adds up to."""
    totals = re.findall(r"^totals: (\d+)$", text, re.MULTILINE)
    if not totals:
        raise CellFailed("callgrind wrote no totals")
    return sum(map(int, totals))


def read_callgrind_calls(text: str, function: str) -> int:
    """Return how often a function was called, from a callgrind output file.

    Raises CellFailed if the file names none of the interpreter's functions: then a function that is
    not in it may have been called all the same.
    """
    if INTERPRETER_FUNCTION not in text:
        raise CellFailed("the interpreter has no symbol table")
    names: dict[str, str] = {}
    callee = ""
    calls = 0
    for kind, number, name, count in CALLGRIND_CALLS.findall(text):
        if count:
            calls += int(count) if callee == function else 0
        else:
            # A name is written once, where its number appears first.
            names.setdefault(number, name)
            callee = names[number] if kind == "cfn" else callee
    return calls


def read_strace_summary(text: str) -> dict[str, int]:
    """Return the number of calls for each name in a ``strace -c`` summary of calls and names."""
    rows = re.findall(r"^\s*(\d+)\s+(\w+)$", text, re.MULTILINE)
    counts = {name: int(calls) for calls, name in rows if name != "total"}
    if not counts:
        raise CellFailed("strace wrote no summary")
    return counts


def _steady() -> dict[str, str]:
    return {**os.environ, **STEADY}


def _echo(
    binaries: Binaries, cores: Cores, server: ServerProcess, exchange: Exchange, messages: int
) -> None:
    """Have exactly `messages` messages echoed on one connection."""
    command: list[str | Path] = [
        binaries.load_generator,
        "echo",
        f"--address={server.address}",
        f"--size={exchange.size}",
        f"--requests={messages}",
    ]
    if exchange.burst > 1:
        command.append(f"--depth={exchange.burst}")
    if exchange.at_rest:
        command.append(f"--pause={PAUSE_SECONDS}")
    if exchange.mode == "streams-readline":
        command.append("--lines")
    if exchange.mode == "datagram":
        command.append("--datagrams")
    run_pinned(command, cores.client, timeout=LOAD_SECONDS)


def _control_callgrind(server: ServerProcess, request: str) -> None:
    """Have callgrind do something now; it answers when it has."""
    command = [required_tool("callgrind_control"), request, str(server.process_id)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=CONTROL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise CellFailed(f"callgrind did not answer within {CONTROL_SECONDS:.0f} s") from None
    # callgrind_control's exit status is 0 for a process that it does not find.
    if done.returncode != 0 or "OK" not in done.stdout:
        raise CellFailed(f"callgrind: {last_line(done.stdout + done.stderr)}")
