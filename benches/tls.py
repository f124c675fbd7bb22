"""What is measured of TLS: the area ``tls``.

Called by run.py, like areas.py. The load generator offers TLS 1.3 with one cipher and one group, so
that every server does the same work; what was agreed upon stands below the tables. TokioLoop takes
part twice, once for each of its engines.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from areas import (
    IDLE_CONNECTIONS,
    IDLE_HOLD_SECONDS,
    KIB,
    LOAD_SECONDS,
    Area,
    Measurement,
    Setup,
)
from loops import BASELINE, CONTROL, FAST_TLS, LOOPS, RUST_ECHO
from processes import ServerProcess, choose_cores, run_pinned
from results import Reading
from toolchain import BENCHES, WORK, Binaries, interpreter_for

CONNECTIONS = 32
HANDSHAKE_SIZE = 64
"""Bytes that are echoed on a connection that is made for its handshake."""

HANDSHAKES_AT_ONCE = 8
DOWNLOAD_SIZE = 64 * KIB * KIB
DOWNLOADS = 16
FRAMEWORKS = ("uvicorn", "aiohttp")

EVERYWHERE = (*LOOPS, RUST_ECHO)
WITH_FRAMEWORKS = (CONTROL, BASELINE, "tokioloop", FAST_TLS)
"""The loops in whose environment the frameworks are installed."""


@functools.cache
def certificates(binaries: Binaries) -> Path:
    """Return a folder with certificates that this run's servers and clients share."""
    folder = WORK / "certificates"
    command: list[str | Path] = [binaries.load_generator, "certificates", f"--folder={folder}"]
    run_pinned(command, choose_cores().client, timeout=LOAD_SECONDS)
    return folder


def server_command(setup: Setup, loop: str, mode: str) -> list[str | Path]:
    """Return the command that starts the TLS server of `loop` in `mode`."""
    folder = certificates(setup.binaries)
    if loop == RUST_ECHO:
        return [setup.binaries.rust_tls, mode, folder]
    if mode in FRAMEWORKS:
        script: list[str | Path] = [BENCHES / "demo_server.py", f"--framework={mode}"]
    else:
        script = [BENCHES / "tls_server.py", f"--mode={mode}"]
    return [interpreter_for(loop), *script, f"--loop={loop}", f"--certificates={folder}"]


def load(setup: Setup, loop: str, mode: str, *arguments: str) -> tuple[Any, str]:
    """Load a fresh server; return the load generator's report and what was agreed upon."""
    folder = certificates(setup.binaries)
    with ServerProcess(server_command(setup, loop, mode), setup.cores.server) as server:
        report = run_pinned(
            [
                setup.binaries.load_generator,
                *arguments,
                f"--tls={folder / 'root.pem'}",
                f"--address={server.address}",
                f"--server-pid={server.process_id}",
            ],
            setup.cores.client,
            timeout=setup.seconds + LOAD_SECONDS,
        )
    agreed = report["tls"]
    return report, f"{agreed['version']}, {agreed['cipher']}, {agreed['group']}"


def take_echo(setup: Setup, loop: str, size: int, case: str) -> list[Reading]:
    """Echo messages."""
    report, agreed = load(
        setup,
        loop,
        "echo",
        "echo",
        f"--size={size}",
        f"--connections={CONNECTIONS}",
        f"--seconds={setup.seconds}",
    )
    return [
        Reading(case, "cpu_ns", report["server_cpu"]["ns_per_request"], agreed),
        Reading(case, "rate", report["requests_per_second"]),
        Reading(case, "p50_ns", report["latency_ns"]["p50"]),
        Reading(case, "p99_ns", report["latency_ns"]["p99"]),
    ]


def take_handshakes(setup: Setup, loop: str, resumes: bool, case: str) -> list[Reading]:
    """Connect, shake hands, exchange one message and close, again and again."""
    report, agreed = load(
        setup,
        loop,
        "echo",
        "connect",
        f"--size={HANDSHAKE_SIZE}",
        f"--connections={HANDSHAKES_AT_ONCE}",
        f"--seconds={setup.seconds}",
        *(["--resume"] if resumes else []),
    )
    return [
        Reading(case, "connection_cpu_ns", report["server_cpu"]["ns_per_request"], agreed),
        Reading(case, "connection_rate", report["requests_per_second"]),
    ]


def take_download(setup: Setup, loop: str, case: str) -> list[Reading]:
    """Download on one connection."""
    report, agreed = load(
        setup,
        loop,
        "download",
        "download",
        f"--size={DOWNLOAD_SIZE}",
        f"--requests={DOWNLOADS}",
    )
    rate = report["requests"] * DOWNLOAD_SIZE / report["seconds"]
    cpu = report["server_cpu"]["ns_per_request"] / (DOWNLOAD_SIZE / KIB)
    return [
        Reading(case, "kib_cpu_ns", cpu, agreed),
        Reading(case, "byte_rate", rate),
    ]


def take_memory(setup: Setup, loop: str, case: str) -> list[Reading]:
    """Hold idle connections."""
    arguments = [f"--connections={IDLE_CONNECTIONS}", f"--hold={IDLE_HOLD_SECONDS}"]
    report, agreed = load(setup, loop, "echo", "idle", *arguments)
    return [Reading(case, "connection_bytes", report["bytes_per_connection"], agreed)]


def take_requests(setup: Setup, loop: str, framework: str, case: str) -> list[Reading]:
    """Ask a real server by HTTPS, on connections that are kept."""
    arguments = [f"--connections={CONNECTIONS}", f"--seconds={setup.seconds}"]
    report, agreed = load(setup, loop, framework, "http", *arguments)
    cpu = report["server_cpu"]["ns_per_request"]
    return [
        Reading(case, "requests_per_cpu_second", 1e9 / cpu, agreed),
        Reading(case, "rate", report["requests_per_second"]),
    ]


def measure(
    case: str, take: Callable[[Setup, str, str], list[Reading]], loops: tuple[str, ...] = EVERYWHERE
) -> Measurement:
    """Return the measurement of the row `case`."""
    return Measurement(case, lambda setup, loop: take(setup, loop, case), loops=loops)


def https(framework: str) -> Measurement:
    """Return the measurement of a framework."""
    return measure(
        f"{framework}, HTTPS GET, {CONNECTIONS} connections",
        lambda setup, loop, case: take_requests(setup, loop, framework, case),
        WITH_FRAMEWORKS,
    )


AREA = Area(
    "TLS",
    3,
    (
        measure(
            f"echo, 1 KiB, {CONNECTIONS} connections",
            lambda setup, loop, case: take_echo(setup, loop, KIB, case),
        ),
        measure(
            f"echo, 64 KiB, {CONNECTIONS} connections",
            lambda setup, loop, case: take_echo(setup, loop, 64 * KIB, case),
        ),
        measure(
            "full handshake",
            lambda setup, loop, case: take_handshakes(setup, loop, False, case),
        ),
        measure(
            "resumed handshake",
            lambda setup, loop, case: take_handshakes(setup, loop, True, case),
        ),
        measure("download, 1 GiB, 1 connection", take_download),
        measure("idle connection", take_memory),
        *map(https, FRAMEWORKS),
    ),
)
