"""What can be measured: the areas, and in each the measurements that one loop goes through.

Called by run.py. A measurement starts its processes, takes one sample of each of its numbers and
leaves nothing behind; rounds, order and failures are the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shards
from counting import Exchange, instructions_per_message, system_calls_per_message
from loops import FAST_TLS, RUST_ECHO
from processes import Cores, ServerProcess, run_pinned
from results import Reading
from toolchain import BENCHES, Binaries, echo_server_command, interpreter_for

LOAD_SECONDS = 60.0
"""How much longer than its window a load may take before it counts as hung."""

MICRO_SECONDS = 180.0
IDLE_CONNECTIONS = 4_000
IDLE_HOLD_SECONDS = 1.0
CONNECT_SIZE = 64
KIB = 1024
DATAGRAM_SIZE = 64
DATAGRAM_BURST = 32

ALL_MODES = ("protocol", "buffered", "streams-read", "streams-readline", "sock")
SERVING_MODES = ("protocol", "streams-read")
"""The modes that differ in what they hold and do for each connection."""

RUST_MODES = ("protocol",)
"""What the echo server without Python is compared with: it reads and writes in one way only."""

EXCHANGES = (
    *(Exchange(mode, KIB) for mode in ALL_MODES if mode != "sock"),
    *(Exchange(mode, KIB, at_rest=True) for mode in ("protocol", "sock")),
    Exchange("datagram", DATAGRAM_SIZE, at_rest=True),
    Exchange("datagram", DATAGRAM_SIZE, burst=DATAGRAM_BURST),
)
"""What is counted. The streams at rest are those whose loops' ways of waiting differ most.

The calls of sock_recv() are counted at rest only: whether the next message is there already decides
whether they wait, which is a matter of the machine.
"""


@dataclass(frozen=True)
class Setup:
    """What every measurement needs."""

    binaries: Binaries
    cores: Cores
    seconds: float
    """Length of a measured window."""


@dataclass(frozen=True)
class Measurement:
    """One thing to do with a loop that gives one sample of each of its numbers."""

    title: str
    take: Callable[[Setup, str], list[Reading]]
    """Takes the samples of the loop of this name; raises CellFailed."""
    rust: bool = False
    """Whether the echo server without Python takes part."""
    loops: tuple[str, ...] | None = None
    """The names of those that take part, if that is not for `rust` to say."""


@dataclass(frozen=True)
class Area:
    """Measurements that make sense together; one file of results."""

    title: str
    rounds: int
    """How often each measurement is taken unless the command line says otherwise."""
    measurements: tuple[Measurement, ...]
    free_threaded: bool = False
    """Whether it says something only of interpreters without the GIL."""


@dataclass(frozen=True)
class Echo:
    """One load on an echo server."""

    mode: str
    size: int
    connections: int
    depth: int = 1

    @property
    def title(self) -> str:
        """The row of the table."""
        size = f"{self.size // KIB} KiB" if self.size >= KIB else f"{self.size} bytes"
        plural = "s" if self.connections > 1 else ""
        depth = f", {self.depth} in flight on each" if self.depth > 1 else ""
        return f"{self.mode}, {size}, {self.connections} connection{plural}{depth}"

    def take(self, setup: Setup, loop: str) -> list[Reading]:
        """Load a fresh server and return what the load generator measured."""
        arguments = [
            f"--size={self.size}",
            f"--connections={self.connections}",
            f"--depth={self.depth}",
            f"--seconds={setup.seconds}",
        ]
        if self.mode == "streams-readline":
            arguments.append("--lines")
        if self.mode == "datagram":
            arguments.append("--datagrams")
        report = load(setup, loop, self.mode, ["echo", *arguments], setup.seconds)
        return [
            Reading(self.title, "cpu_ns", report["server_cpu"]["ns_per_request"]),
            Reading(self.title, "rate", report["requests_per_second"]),
            Reading(self.title, "p50_ns", report["latency_ns"]["p50"]),
            Reading(self.title, "p99_ns", report["latency_ns"]["p99"]),
        ]


ECHOES = (
    Echo("protocol", KIB, 1),
    Echo("protocol", KIB, 32),
    Echo("protocol", 64, 32, depth=8),
    Echo("protocol", 64 * KIB, 1),
    *(Echo(mode, KIB, connections) for mode in ALL_MODES[1:] for connections in (1, 32)),
    *(Echo("datagram", DATAGRAM_SIZE, connections) for connections in (1, 32)),
    Echo("datagram", DATAGRAM_SIZE, 1, depth=DATAGRAM_BURST),
)


def load(setup: Setup, loop: str, mode: str, arguments: list[str], seconds: float) -> Any:
    """Load a fresh echo server for about `seconds` and return the load generator's report."""
    command = echo_server_command(setup.binaries, loop, mode)
    with ServerProcess(command, setup.cores.server) as server:
        where = [f"--address={server.address}", f"--server-pid={server.process_id}"]
        return run_pinned(
            [setup.binaries.load_generator, *arguments, *where],
            setup.cores.client,
            timeout=seconds + LOAD_SECONDS,
        )


def take_connections(setup: Setup, loop: str, mode: str) -> list[Reading]:
    """Connect, exchange one message and close, again and again."""
    arguments = [f"--size={CONNECT_SIZE}", "--connections=8", f"--seconds={setup.seconds}"]
    report = load(setup, loop, mode, ["connect", *arguments], setup.seconds)
    return [
        Reading(mode, "connection_cpu_ns", report["server_cpu"]["ns_per_request"]),
        Reading(mode, "connection_rate", report["requests_per_second"]),
    ]


def take_memory(setup: Setup, loop: str, mode: str) -> list[Reading]:
    """Hold idle connections."""
    arguments = [f"--connections={IDLE_CONNECTIONS}", f"--hold={IDLE_HOLD_SECONDS}"]
    report = load(setup, loop, mode, ["idle", *arguments], IDLE_HOLD_SECONDS)
    idle = report["server_cpu_ns_while_idle"] / report["hold_seconds"]
    return [
        Reading(mode, "connection_bytes", report["bytes_per_connection"]),
        Reading(mode, "idle_cpu_ns", idle),
    ]


def take_instructions(setup: Setup, loop: str, exchange: Exchange) -> list[Reading]:
    """Count user-space instructions under callgrind."""
    count = instructions_per_message(setup.binaries, setup.cores, loop, exchange)
    return [Reading(exchange_title(exchange), "instructions", count)]


def take_system_calls(setup: Setup, loop: str, exchange: Exchange) -> list[Reading]:
    """Count system calls under strace; the detail names those that are made more than rarely."""
    counts = system_calls_per_message(setup.binaries, setup.cores, loop, exchange)
    often = {name: count for name, count in counts.items() if count >= 0.005}
    detail = ", ".join(f"{name} {count:.2f}" for name, count in often.items())
    return [Reading(exchange_title(exchange), "system_calls", sum(counts.values()), detail)]


def exchange_title(exchange: Exchange) -> str:
    """Return the row of the table."""
    size = f", {exchange.size} bytes" if exchange.size < KIB else ""
    burst = f", {exchange.burst} in flight" if exchange.burst > 1 else ""
    rest = ", server at rest before each message" if exchange.at_rest else ""
    return f"{exchange.mode}{size}{burst}{rest}"


def take_micro(setup: Setup, loop: str) -> list[Reading]:
    """Measure what happens inside a loop; its second thread may have the client's core."""
    command: list[str | Path] = [interpreter_for(loop), BENCHES / "micro.py", f"--loop={loop}"]
    cores = setup.cores.server | setup.cores.client
    report = run_pinned(command, cores, timeout=MICRO_SECONDS)
    operations = report["cpu_ns_per_operation"].items()
    lateness = report["timer_lateness_us"].items()
    return [
        *(Reading(name, "operation_ns", value) for name, value in operations),
        *(Reading(delay, "late_median_us", late["median"]) for delay, late in lateness),
        *(Reading(delay, "late_p99_us", late["p99"]) for delay, late in lateness),
        *(Reading(delay, "late_least_us", late["earliest"]) for delay, late in lateness),
        *(
            Reading(delay, metric, late[name])
            for metric, name in (("kernel_median_us", "kernel"), ("kernel_p99_us", "kernel_p99"))
            for delay, late in lateness
            if name in late
        ),
    ]


def in_mode(take: Callable[[Setup, str, str], list[Reading]], mode: str) -> Measurement:
    """Return the measurement that calls `take` for one mode of the echo server."""
    return Measurement(mode, lambda setup, loop: take(setup, loop, mode), mode in RUST_MODES)


def in_exchange(
    take: Callable[[Setup, str, Exchange], list[Reading]], exchange: Exchange
) -> Measurement:
    """Return the measurement that calls `take` for one exchange with the echo server."""
    return Measurement(
        exchange_title(exchange),
        lambda setup, loop: take(setup, loop, exchange),
        exchange.mode in RUST_MODES,
    )


def on_threads(what: str, take: shards.Take, loops: tuple[str, ...]) -> Measurement:
    """Return the measurement of several threads that calls `take`."""
    return Measurement(
        what, lambda setup, loop: take(setup.binaries, setup.cores, loop), loops=loops
    )


AREAS = {
    "echo": Area(
        "Echo over TCP and UDP",
        3,
        tuple(Measurement(echo.title, echo.take, echo.mode in RUST_MODES) for echo in ECHOES),
    ),
    "micro": Area("Inside the loop", 3, (Measurement("micro", take_micro),)),
    "connections": Area(
        f"Connections: connect, echo {CONNECT_SIZE} bytes, close; 8 at a time",
        3,
        tuple(in_mode(take_connections, mode) for mode in SERVING_MODES),
    ),
    "memory": Area(
        f"Idle connections: {IDLE_CONNECTIONS:,}, after one message on each",
        3,
        tuple(in_mode(take_memory, mode) for mode in SERVING_MODES),
    ),
    "instructions": Area(
        "Instructions: echo on one connection, of 1 KiB unless said otherwise, by callgrind",
        1,
        tuple(in_exchange(take_instructions, exchange) for exchange in EXCHANGES),
    ),
    "syscalls": Area(
        "System calls: echo on one connection, of 1 KiB unless said otherwise, by strace",
        1,
        tuple(in_exchange(take_system_calls, exchange) for exchange in EXCHANGES),
    ),
    "shards": Area(
        "Several threads: one TokioLoop, or one other loop for each thread",
        3,
        tuple(on_threads(what, take, loops) for what, take, loops in shards.MEASUREMENTS),
        free_threaded=True,
    ),
}


def takes_part(measurement: Measurement, loop: str) -> bool:
    """Return whether `loop` goes through `measurement`."""
    if measurement.loops is not None:
        return loop in measurement.loops
    return loop != FAST_TLS and (loop != RUST_ECHO or measurement.rust)
