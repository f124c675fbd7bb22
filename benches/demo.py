"""Real servers on asyncio, uvloop and TokioLoop, asked by real clients and loaded in turn.

``nox -s demo`` calls this. For each kind of server, one is started on every loop; httpx, aiohttp or
a plain stream check its answers; then all of them are loaded in turn, round after round, while the
others idle. At the end stands one table. A server that fails is shown as failed, and the exit
status is 1.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loops import BASELINE, LABELS, LOOPS
from machine import describe_machine, interpreter_tag
from processes import CellFailed, Cores, ServerProcess, choose_cores, run_pinned
from toolchain import BENCHES, Binaries, build_binaries, interpreter_for

DEMO_LOOPS = ("asyncio", "uvloop", "tokioloop")
ROUNDS = 3
WINDOW_SECONDS = 1.0
WARM_UP_SECONDS = 0.3
CONNECTIONS = 16
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Kind:
    """A kind of server."""

    label: str
    script: str
    options: tuple[str, ...]
    protocol: str
    """What the clients speak: ``http`` or ``echo``."""

    def command(self, loop: str) -> list[str | Path]:
        """Return the command that starts it on `loop`."""
        return [interpreter_for(loop), BENCHES / self.script, *self.options, f"--loop={loop}"]


KINDS = (
    Kind("uvicorn, ASGI app", "demo_server.py", ("--framework=uvicorn",), "http"),
    Kind("aiohttp app", "demo_server.py", ("--framework=aiohttp",), "http"),
    Kind("start_server echo, 1 KiB", "server.py", ("--mode=streams-read",), "echo"),
)


class Contestant:
    """One server on one loop, with what became of it."""

    def __init__(
        self, kind: Kind, loop: str, binaries: Binaries, cores: Cores, threads: int = 1
    ) -> None:
        self.kind = kind
        self.loop = loop
        self.label = LABELS[loop] if threads == 1 else f"{LABELS[loop]}, {threads} threads"
        self.binaries = binaries
        self.cores = cores
        # Several threads get all cores, and share the client's if there are only two.
        where = cores.server if threads == 1 else frozenset(os.sched_getaffinity(0))
        environment = {**os.environ, "RLOOP_THREADS": str(threads)}
        self.server = ServerProcess(kind.command(loop), where, environment=environment)
        self.running = False
        self.reports: list[Any] = []
        self.failure: str | None = None

    def start(self) -> str:
        """Start the server."""
        self.server.start()
        self.running = True
        return f"listens on {self.server.address}"

    def check(self) -> str:
        """Have the real clients check what it answers."""
        command: list[str | Path] = [
            interpreter_for(self.loop),
            BENCHES / "demo_client.py",
            f"--protocol={self.kind.protocol}",
            f"--loop={self.loop}",
            f"--address={self.server.address}",
        ]
        report = run_pinned(command, self.cores.client, timeout=TIMEOUT_SECONDS)
        return f"{report['right_answers']} right answers"

    def load(self) -> str:
        """Load it for one window."""
        command: list[str | Path] = [
            self.binaries.load_generator,
            self.kind.protocol,
            f"--address={self.server.address}",
            f"--server-pid={self.server.process_id}",
            f"--connections={CONNECTIONS}",
            f"--seconds={WINDOW_SECONDS}",
            f"--warm-up={WARM_UP_SECONDS}",
        ]
        report = run_pinned(command, self.cores.client, timeout=TIMEOUT_SECONDS)
        self.reports.append(report)
        return f"{report['requests_per_second']:,} requests a second"

    def stop(self) -> str:
        """End it."""
        self.running = False
        self.server.stop()
        return "ended"

    def attempt(self, step: Callable[[], str], round_number: int | None = None) -> None:
        """Take one step, unless one has failed, and say how it went."""
        if self.failure is not None and step != self.stop:
            return
        which = f", round {round_number} of {ROUNDS}" if round_number else ""
        doing = f"{self.kind.label} on {self.label}, {step.__name__}{which}"
        try:
            say(f"{doing}: {step()}")
        except CellFailed as failure:
            self.failure = self.failure or f"{step.__name__}: {failure}"
            say(f"{doing}: failed: {failure}")

    def median(self, read: Callable[[Any], float]) -> float:
        """Return the median over the rounds of the number that `read` finds in a report."""
        return statistics.median(map(read, self.reports))


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--loop", action="append", choices=LOOPS, help="may be repeated")
    parser.add_argument(
        "--threads",
        type=int,
        help="also TokioLoop on so many threads; needs Python without the GIL",
    )
    options = parser.parse_args()
    loops = options.loop or DEMO_LOOPS
    if options.threads is not None and not interpreter_tag().endswith("t"):
        parser.error("threads of one interpreter need one without the GIL, such as 3.14t")
    started = time.monotonic()
    say("building the load generator")
    binaries = build_binaries()
    cores = choose_cores()
    contestants = []
    for kind in KINDS:
        group = [Contestant(kind, loop, binaries, cores) for loop in loops]
        if options.threads is not None:
            group.append(Contestant(kind, "tokioloop", binaries, cores, options.threads))
        run_group(group)
        contestants += group
    print("\n" + "\n".join(f"{name}: {value}" for name, value in describe_machine(cores).items()))
    print(f"{CONNECTIONS} connections, medians of {ROUNDS} windows of {WINDOW_SECONDS:g} s\n")
    print(table(contestants))
    failed = [contestant for contestant in contestants if contestant.failure is not None]
    for contestant in failed:
        print(f"failed: {contestant.kind.label} on {contestant.label}: {contestant.failure}")
    print(f"\n{time.monotonic() - started:.0f} seconds")
    return 1 if failed else 0


def run_group(group: Sequence[Contestant]) -> None:
    """Start servers of one kind, check them, load them in turn and stop them."""
    try:
        for contestant in group:
            contestant.attempt(contestant.start)
            contestant.attempt(contestant.check)
        for number in range(1, ROUNDS + 1):
            for contestant in group:
                contestant.attempt(contestant.load, number)
    finally:
        for contestant in group:
            if contestant.running:
                contestant.attempt(contestant.stop)


def table(contestants: Sequence[Contestant]) -> str:
    """Return the results as lines of aligned columns."""
    lines = [("server", "loop", "requests/s", "p50 µs", "p99 µs", "CPU µs/request", "CPU ratio")]
    for contestant in contestants:
        names = contestant.kind.label, contestant.label
        if contestant.failure is not None:
            lines.append((*names, "failed", "failed", "failed", "failed", ""))
            continue
        cpu = contestant.median(cpu_per_request)
        lines.append(
            (
                *names,
                f"{contestant.median(lambda report: report['requests_per_second']):,.0f}",
                f"{contestant.median(lambda report: report['latency_ns']['p50']) / 1e3:,.0f}",
                f"{contestant.median(lambda report: report['latency_ns']['p99']) / 1e3:,.0f}",
                f"{cpu / 1e3:,.1f}",
                ratio(cpu, contestant.kind, contestants),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([aligned[0], "-" * len(aligned[0]), *aligned[1:]])


def ratio(cpu: float, kind: Kind, contestants: Sequence[Contestant]) -> str:
    """Return `cpu` by that of the baseline with the same kind of server, if it has one."""
    for contestant in contestants:
        same = contestant.kind == kind and contestant.loop == BASELINE
        if same and contestant.failure is None:
            return f"{cpu / contestant.median(cpu_per_request):.2f}x"
    return ""


def cpu_per_request(report: Any) -> float:
    """Return the server's CPU time per request, in nanoseconds."""
    nanoseconds: float = report["server_cpu"]["ns_per_request"]
    return nanoseconds


def say(text: str) -> None:
    """Print progress."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
