"""Measure event loops against each other; ``nox -s bench -- [area ...]`` calls this.

Each round takes every measurement with every loop in turn, so that what disturbs the machine for a
while disturbs all of them, and starts with another loop each time. When an area is done, its files
are written; see README.md of this folder for the method.

Exit status 1: a cell of the control or of TokioLoop failed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import areas
import tls
from areas import Measurement, Setup, takes_part
from loops import CONTROL, FAST_TLS, LABELS, LOOPS, RUST_ECHO
from machine import describe_machine, interpreter_tag
from processes import CellFailed, choose_cores, run_pinned
from report import heading, table, write_area
from results import METRICS, AreaResults
from toolchain import BENCHES, RESULTS, WORK, build_binaries, interpreter_for

AREAS = {**areas.AREAS, "tls": tls.AREA}
MUST_PASS = (CONTROL, "tokioloop", FAST_TLS)
DESCRIBE_SECONDS = 60.0


def main() -> int:
    """Read the command line, measure, write; returns the exit status."""
    options = read_options()
    binaries = build_binaries()
    setup = Setup(binaries, choose_cores(), options.seconds)
    about: dict[str, Any] = {
        "machine": describe_machine(setup.cores),
        "loops": {},
        "seconds": options.seconds,
    }
    unavailable = {}
    for loop in options.loop:
        try:
            about["loops"][loop] = describe_loop(loop)
        except CellFailed as failure:
            unavailable[loop] = about["loops"][loop] = str(failure)
            say(f"{LABELS[loop]} is not available: {failure}")
    failed = False
    for name in options.areas:
        area = AREAS[name]
        chosen = [m for m in area.measurements if options.case in m.title]
        rounds = options.rounds or area.rounds
        loops = [loop for loop in options.loop if any(takes_part(m, loop) for m in chosen)]
        results = AreaResults(name, loops)
        measure_area(setup, chosen, rounds, results, unavailable)
        print_tables(area.title, results)
        paths = write_area(options.output, area.title, results, {**about, "rounds": rounds})
        say("written: " + " ".join(str(path) for path in paths))
        failed = failed or any(loop in MUST_PASS for _, loop in results.failures)
    return int(failed)


def read_options() -> argparse.Namespace:
    """Return the command line's options, with what follows from others filled in."""
    suitable = [name for name, loop in LOOPS.items() if sys.version_info >= loop.minimum_python]
    every_loop = [*suitable, RUST_ECHO]
    parser = argparse.ArgumentParser(description="Measure event loops against each other.")
    parser.add_argument("areas", nargs="*", metavar="AREA", help=f"{', '.join(AREAS)}; default all")
    parser.add_argument("--loop", action="append", choices=every_loop, help="may be repeated")
    parser.add_argument("--case", default="", help="only measurements whose title contains this")
    parser.add_argument("--rounds", type=int, help="default: 3, or 1 where things are counted")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a measured window")
    parser.add_argument("--output", type=Path, help="folder to write to")
    options = parser.parse_args()
    unknown = [name for name in options.areas if name not in AREAS]
    if unknown:
        parser.error(f"no area {unknown[0]!r}; there are {', '.join(AREAS)}")
    free_threaded = interpreter_tag().endswith("t")
    if not free_threaded and any(AREAS[name].free_threaded for name in options.areas):
        parser.error("threads of one interpreter need one without the GIL, such as 3.14t")
    if options.output is None:
        # A run of a part must not replace the results of a whole one.
        partial = options.loop is not None or bool(options.case)
        options.output = (WORK if partial else RESULTS) / interpreter_tag()
    options.areas = options.areas or [
        name for name, area in AREAS.items() if free_threaded or not area.free_threaded
    ]
    options.loop = options.loop or every_loop
    return options


def describe_loop(loop: str) -> str:
    """Return what `loop` is in its interpreter; raises CellFailed if it is not there."""
    if loop == RUST_ECHO:
        return "benches/loadgen/src/bin/tokio_echo.rs; for TLS tokio_tls.rs, with tokio-rustls"
    command: list[str | Path] = [interpreter_for(loop), BENCHES / "loops.py", loop]
    is_ = run_pinned(command, choose_cores().server, timeout=DESCRIBE_SECONDS)
    return f"{is_['class']} {is_['version']}, GIL {'on' if is_['gil'] else 'off'}"


def measure_area(
    setup: Setup,
    measurements: list[Measurement],
    rounds: int,
    results: AreaResults,
    unavailable: dict[str, str],
) -> None:
    """Take all measurements with all loops in turn, `rounds` times, into `results`.

    A measurement that failed with a loop is not tried again with it.
    """
    for measurement in measurements:
        for loop in results.loops:
            if not takes_part(measurement, loop):
                results.not_applicable.add((measurement.title, loop))
            elif loop in unavailable:
                results.failures[measurement.title, loop] = unavailable[loop]
    for number in range(rounds):
        for measurement in measurements:
            for loop in rotated(results.loops, number):
                key = measurement.title, loop
                if key in results.not_applicable or key in results.failures:
                    continue
                progress = f"{results.area} {number + 1}/{rounds} · {measurement.title} · "
                try:
                    readings = measurement.take(setup, loop)
                except CellFailed as failure:
                    results.failures[key] = f"in round {number + 1}: {failure}"
                    say(f"{progress}{LABELS[loop]}: failed: {failure}")
                    continue
                for reading in readings:
                    results.add(measurement.title, loop, reading)
                first = readings[0]
                metric = METRICS[first.metric]
                say(f"{progress}{LABELS[loop]}: {metric.format(first.value)} {metric.unit}")


def rotated(names: list[str], by: int) -> Iterable[str]:
    """Return `names` in turn, beginning with another one for each `by`."""
    start = by % len(names)
    return [*names[start:], *names[:start]]


def print_tables(title: str, results: AreaResults) -> None:
    """Print the tables of an area, and what failed, to standard output."""
    print(f"\n{title}")
    for metric, rows in results.tables():
        print(f"\n{heading(METRICS[metric])}\n{table(METRICS[metric], rows, results)}")
    for (measurement, loop), reason in results.failures.items():
        print(f"failed: {measurement}, {LABELS[loop]}: {reason}")
    sys.stdout.flush()


def say(text: str) -> None:
    """Print progress to standard error."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
