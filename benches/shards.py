"""The area ``shards``: one loop on several threads, beside as many loops in as many threads.

Used by areas.py. It measures free-threaded interpreters: with the GIL, threads take turns.

The thread counts are 1, 2, 4 and so on up to the number of usable cores. If there are more than
two, the client keeps the first core for itself and the threads share the others; if there are two,
client and threads share both, and the client's part of the machine is missing in the throughput of
two threads. That is why CPU time per message and cores kept busy stand beside it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counting import callgrind_dumps, read_callgrind_calls
from processes import Cores, ServerProcess, run_pinned
from results import Reading
from toolchain import BENCHES, Binaries, interpreter_for

ONE_LOOP = "tokioloop"
"""The loop that has threads of its own."""

COMPARED = ("asyncio", "uvloop", ONE_LOOP)

WINDOWS = 3
WINDOW_SECONDS = 0.4
WARM_UP_SECONDS = 0.1
LOAD_SECONDS = 60.0
TASKS_SECONDS = 60.0
MICRO_SECONDS = 180.0
MESSAGE_BYTES = 64
IDLE_ECHO_BYTES = 1024

OPERATION_RUNS = 3

STOP_FUNCTION = "stop_the_world"
"""The function of CPython that stops all other threads."""
STOP_MESSAGES = (200, 1_200)
STOP_WARM_UP = 200
STOP_CONNECTIONS = 4
STOP_SECONDS = 120.0


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def thread_counts() -> list[int]:
    """Return the numbers of threads that are measured, 1 first."""
    most = usable_cores() - 1 if usable_cores() > 2 else 2
    doubled = [1]
    while doubled[-1] * 2 < most:
        doubled.append(doubled[-1] * 2)
    return [*doubled, most]


def shared_cores(cores: Cores) -> Cores:
    """Return where servers of several threads and their client run."""
    usable = frozenset(os.sched_getaffinity(0))
    if len(usable) > 2:
        return Cores(server=usable - cores.client, client=cores.client)
    return Cores(server=usable, client=usable)


def title(what: str, threads: int) -> str:
    """Return the row for something on so many threads."""
    plural = "s" if threads > 1 else ""
    return f"{what}, {threads} thread{plural} on {usable_cores()} cores"


def environment(loop: str, threads: int) -> dict[str, str]:
    """Return the environment in which TokioLoop has so many threads."""
    return {**os.environ, "RLOOP_THREADS": str(threads if loop == ONE_LOOP else 1)}


def server_command(loop: str, threads: int, kind: str) -> list[str | Path]:
    """Return the command that starts a server of `kind`; other loops need one for each thread."""
    loops = 1 if loop == ONE_LOOP else threads
    script = BENCHES / "shards_server.py"
    return [interpreter_for(loop), script, f"--loop={loop}", f"--loops={loops}", f"--kind={kind}"]


@dataclass(frozen=True)
class Window:
    """What a load found out about a server."""

    rate: float
    cpu_ns: float
    p50_ns: float
    p99_ns: float

    @property
    def busy_cores(self) -> float:
        """How many cores the server kept busy."""
        return self.rate * self.cpu_ns / 1e9


@dataclass(frozen=True)
class Computing:
    """A server whose handlers compute, loaded by a number of connections."""

    kind: str
    connections: Callable[[int], int]
    """The number of connections for the greatest number of threads."""
    how_many: str
    protocol: str = "echo"
    """What the load generator speaks."""
    windows: int = WINDOWS

    @property
    def what(self) -> str:
        """The row without the number of threads."""
        return f"{self.kind}, 100 µs each, {self.how_many}"

    def take(self, binaries: Binaries, cores: Cores, loop: str) -> list[Reading]:
        """Load a server of each number of threads in turn, in short windows.

        Each window has connections of its own: where they land is up to the server, or to chance.
        """
        counts = thread_counts()
        where = shared_cores(cores)
        connections = self.connections(counts[-1])
        with ExitStack() as running:
            servers = [
                running.enter_context(
                    ServerProcess(
                        server_command(loop, threads, self.kind),
                        where.server,
                        environment=environment(loop, threads),
                    )
                )
                for threads in counts
            ]
            windows = [
                [self.load(binaries, where, server, connections) for server in servers]
                for _ in range(self.windows)
            ]
        return [
            reading
            for index, threads in enumerate(counts)
            for reading in self.readings(threads, index, windows)
        ]

    def load(
        self, binaries: Binaries, cores: Cores, server: ServerProcess, connections: int
    ) -> Window:
        """Load a server for one window."""
        command: list[str | Path] = [
            binaries.load_generator,
            self.protocol,
            f"--address={server.address}",
            f"--server-pid={server.process_id}",
            f"--connections={connections}",
            f"--seconds={WINDOW_SECONDS}",
            f"--warm-up={WARM_UP_SECONDS}",
        ]
        if self.protocol == "echo":
            command.append(f"--size={MESSAGE_BYTES}")
        report = run_pinned(command, cores.client, timeout=LOAD_SECONDS)
        return Window(
            report["requests_per_second"],
            report["server_cpu"]["ns_per_request"],
            report["latency_ns"]["p50"],
            report["latency_ns"]["p99"],
        )

    def readings(
        self, threads: int, index: int, windows: Sequence[Sequence[Window]]
    ) -> list[Reading]:
        """Return the numbers of one number of threads.

        Means over the windows, not medians: which connections share a thread differs from window to
        window, and a user meets all of these cases.
        """
        row = title(self.what, threads)
        own = [window[index] for window in windows]
        found = [
            Reading(row, "rate", statistics.fmean(window.rate for window in own)),
            Reading(row, "cpu_ns", statistics.fmean(window.cpu_ns for window in own)),
            Reading(row, "busy_cores", statistics.fmean(window.busy_cores for window in own)),
            Reading(row, "p50_ns", statistics.fmean(window.p50_ns for window in own)),
            Reading(row, "p99_ns", statistics.fmean(window.p99_ns for window in own)),
        ]
        if index > 0:
            pairs = [(window[0], window[index]) for window in windows]
            speed_up = statistics.fmean(many.rate / one.rate for one, many in pairs)
            work = statistics.fmean(many.cpu_ns / one.cpu_ns for one, many in pairs)
            found += [Reading(row, "speed_up", speed_up), Reading(row, "work", work)]
        return found


MANY = 32
"""Connections for each thread, where there are many."""

FEW_WINDOWS = 6
UNEVEN_WINDOWS = 6
"""As often do few connections meet their threads anew."""

COMPUTING = (
    Computing("protocol", lambda threads: MANY * threads, "many connections"),
    Computing("streams", lambda threads: MANY * threads, "many connections"),
    Computing("starlette", lambda threads: MANY * threads, "many connections", "http"),
    Computing("aiohttp", lambda threads: MANY * threads, "many connections", "http"),
    Computing("protocol", lambda threads: threads, "a connection a thread", windows=FEW_WINDOWS),
    Computing("protocol", lambda threads: threads + 1, "one more", windows=FEW_WINDOWS),
    Computing("protocol", lambda threads: 4 * threads, "4 a thread", windows=FEW_WINDOWS),
)


HEAVY_BYTES = 2_048
"""A message for which the server computes for about 3 ms; one of `MESSAGE_BYTES`, for 100 µs."""
HEAVY_SECONDS = 0.8
HEAVY_LEAD_SECONDS = 0.2
"""How long the heavy connections have been busy when the others come."""
LIGHT_PAUSE_SECONDS = 0.002


def take_uneven(binaries: Binaries, cores: Cores, loop: str) -> list[Reading]:
    """Let light connections come while heavy ones keep all threads but one busy.

    There is a light connection for each thread. Each window has connections of its own, and the
    numbers are means over the windows, as for other few connections.
    """
    threads = thread_counts()[-1]
    where = shared_cores(cores)
    command = server_command(loop, threads, "weighed")

    def load(server: ServerProcess, connections: int, *more: str) -> Any:
        options = [f"--address={server.address}", f"--connections={connections}", *more]
        arguments: list[str | Path] = [binaries.load_generator, "echo", *options]
        return run_pinned(arguments, where.client, timeout=LOAD_SECONDS)

    heavy_rates, light_rates, tails = [], [], []
    with (
        ServerProcess(command, where.server, environment=environment(loop, threads)) as server,
        ThreadPoolExecutor() as executor,
    ):
        for _ in range(UNEVEN_WINDOWS):
            heavy = executor.submit(
                load,
                server,
                threads - 1,
                f"--size={HEAVY_BYTES}",
                f"--seconds={HEAVY_SECONDS}",
                f"--warm-up={WARM_UP_SECONDS}",
            )
            time.sleep(HEAVY_LEAD_SECONDS)
            light = load(
                server,
                threads,
                f"--size={MESSAGE_BYTES}",
                f"--pause={LIGHT_PAUSE_SECONDS}",
                f"--seconds={WINDOW_SECONDS}",
                f"--warm-up={WARM_UP_SECONDS}",
            )
            heavy_rates.append(heavy.result()["requests_per_second"])
            light_rates.append(light["requests_per_second"])
            tails.append(light["latency_ns"]["p99"])
    heavy_row = title("uneven: messages of 3 ms on all threads but one", threads)
    light_row = title("uneven: messages of 100 µs beside them, a connection a thread", threads)
    return [
        Reading(heavy_row, "rate", statistics.fmean(heavy_rates)),
        Reading(light_row, "rate", statistics.fmean(light_rates)),
        Reading(light_row, "p99_ns", statistics.fmean(tails)),
    ]


def take_tasks(_binaries: Binaries, _cores: Cores, loop: str) -> list[Reading]:
    """Let tasks compute on one thread and on several, without a client."""
    found: list[Reading] = []
    for threads in thread_counts()[1:]:
        report = run_tasks(loop, threads, "compute")
        one, many = title("tasks, 100 µs each", 1), title("tasks, 100 µs each", threads)
        if not found:
            found += [
                Reading(one, "rate", report["rate_of_one"]),
                Reading(one, "cpu_ns", report["cpu_ns_of_one"]),
            ]
        found += [
            Reading(many, "rate", report["rate"]),
            Reading(many, "cpu_ns", report["cpu_ns"]),
            Reading(many, "speed_up", report["speed_up"]),
            Reading(many, "work", report["work"]),
        ]
    return found


def take_at_once(_binaries: Binaries, _cores: Cores, loop: str) -> list[Reading]:
    """Do small things on all threads at once, and on one at a time."""
    return [
        Reading(title(f"{name} on every thread at once", threads), "at_once", ratio)
        for threads in thread_counts()[1:]
        for name, ratio in run_tasks(loop, threads, "operations").items()
    ]


ROUND_TRIPS = (
    ("coroutine on another thread and back", "coroutine", False),
    ("coroutine on another thread and back, neither asleep", "coroutine", True),
    ("future of another thread and back", "future", False),
    ("future of another thread and back, neither asleep", "future", True),
)


def take_round_trips(_binaries: Binaries, _cores: Cores, loop: str) -> list[Reading]:
    """Pass control from one thread to another and back."""
    found = []
    for what, kind, awake in ROUND_TRIPS:
        report = run_tasks(loop, 2, kind, *(["--awake"] if awake else []))
        row = title(what, 2)
        found += [
            Reading(row, "round_trip_p50_ns", report["p50_ns"]),
            Reading(row, "round_trip_p99_ns", report["p99_ns"]),
        ]
    return found


def run_tasks(loop: str, threads: int, measure: str, *more: str) -> Any:
    """Run shards_tasks.py and return its report."""
    command: list[str | Path] = [interpreter_for(loop), BENCHES / "shards_tasks.py"]
    options = [f"--loop={loop}", f"--threads={threads}", f"--measure={measure}", *more]
    return run_pinned(
        [*command, *options],
        frozenset(os.sched_getaffinity(0)),
        timeout=TASKS_SECONDS,
        environment=environment(loop, threads),
    )


def take_idle_echo(binaries: Binaries, cores: Cores, loop: str) -> list[Reading]:
    """Echo on one connection, with threads that have nothing to do beside it.

    The server is alone on its core whatever the number of its threads: the question is what threads
    cost that are there and idle.
    """
    echo = Computing("echo", lambda _: 1, "one connection")
    counts = sorted({1, 2, thread_counts()[-1]})
    found = []
    with ExitStack() as running:
        servers = [
            running.enter_context(
                ServerProcess(
                    server_command(loop, threads, "echo"),
                    cores.server,
                    environment=environment(loop, threads),
                )
            )
            for threads in counts
        ]
        windows = [
            [echo.load(binaries, cores, server, 1) for server in servers] for _ in range(WINDOWS)
        ]
    for index, threads in enumerate(counts):
        row = title("echo, one connection, server alone on its core", threads)
        own = [window[index] for window in windows]
        found += [
            Reading(row, "p50_ns", statistics.median(window.p50_ns for window in own)),
            Reading(row, "cpu_ns", statistics.median(window.cpu_ns for window in own)),
        ]
    return found


def take_operations(_binaries: Binaries, cores: Cores, loop: str) -> list[Reading]:
    """Measure scheduling and timers inside a loop with one and with several threads."""
    samples: dict[str, list[float]] = {}
    for _ in range(OPERATION_RUNS):
        for threads in sorted({1, 2, thread_counts()[-1]}):
            command: list[str | Path] = [interpreter_for(loop), BENCHES / "micro.py"]
            report = run_pinned(
                [*command, f"--loop={loop}", "--operations"],
                cores.server | cores.client,
                timeout=MICRO_SECONDS,
                environment=environment(loop, threads),
            )
            for name, value in report["cpu_ns_per_operation"].items():
                samples.setdefault(title(name, threads), []).append(value)
    return [Reading(row, "operation_ns", statistics.median(own)) for row, own in samples.items()]


@dataclass(frozen=True)
class Stops:
    """How often the interpreter stops all threads, per message to a server of two threads."""

    kind: str
    load: tuple[str, ...]
    """Arguments of the load generator: what a message is."""

    @property
    def what(self) -> str:
        """The row without the number of threads."""
        return f"{self.kind}, {self.load[0]}"

    def take(self, binaries: Binaries, cores: Cores, loop: str) -> list[Reading]:
        """Count the calls under callgrind, which runs one thread at a time."""

        def send(server: ServerProcess, messages: int, *, warming_up: bool) -> None:
            count = STOP_WARM_UP if warming_up else messages
            command: list[str | Path] = [
                binaries.load_generator,
                *self.load,
                f"--address={server.address}",
                f"--requests={count}",
                f"--connections={STOP_CONNECTIONS}",
            ]
            run_pinned(command, cores.client, timeout=STOP_SECONDS)

        few, many = STOP_MESSAGES
        dumps = callgrind_dumps(
            server_command(loop, 2, self.kind), cores, environment(loop, 2), STOP_MESSAGES, send
        )
        calls = [read_callgrind_calls(dump, STOP_FUNCTION) for dump in dumps]
        return [Reading(title(self.what, 2), "stops", (calls[1] - calls[0]) / (many - few))]


STOPS = (
    Stops("echo", ("echo",)),
    Stops("echo", ("connect",)),
    Stops("streams", ("echo",)),
    Stops("tasks", ("echo",)),
    Stops("spawned", ("echo",)),
    Stops("starlette", ("http",)),
    Stops("aiohttp", ("http",)),
)

Take = Callable[[Binaries, Cores, str], list[Reading]]

MEASUREMENTS: tuple[tuple[str, Take, tuple[str, ...]], ...] = (
    *((computing.what, computing.take, COMPARED) for computing in COMPUTING),
    ("uneven", take_uneven, COMPARED),
    ("tasks", take_tasks, COMPARED),
    ("at once", take_at_once, COMPARED),
    ("round trips", take_round_trips, COMPARED),
    ("idle echo", take_idle_echo, COMPARED),
    ("operations", take_operations, (ONE_LOOP,)),
    *((f"stops: {stops.what}", stops.take, (ONE_LOOP,)) for stops in STOPS),
)
"""What is measured, how, and with which loops."""
