"""Runs random sequences on a loop, and says which promises they broke.

``nox -s chaos`` calls it. A seed names a sequence: ``--first 4711 --sequences 1`` runs it again.
Sequences run in child processes, so that a crash or a hang ends one batch and names its seed. With
``--inject``, strace lets system calls of the child fail.
"""

import argparse
import faulthandler
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent

#: Sequences that one child process runs.
BATCH = 500
#: Seconds that one batch may take.
BATCH_SECONDS = 600
#: Descriptors that a child may open: few enough that some sequences reach the limit.
DESCRIPTORS = 256

INJECTIONS = (
    ("sendto", ("ENOBUFS", "ECONNRESET", "EPIPE", "EINTR", "EAGAIN")),
    ("sendmsg", ("ENOBUFS", "ECONNRESET", "EAGAIN")),
    ("recvfrom", ("ECONNRESET", "EINTR", "EAGAIN")),
    ("write", ("EPIPE", "EAGAIN")),
    ("accept4", ("EMFILE", "ECONNABORTED")),
    ("shutdown", ("ENOTCONN",)),
    ("epoll_ctl", ("ENOMEM", "ENOSPC")),
)
"""System calls that may fail under ``--inject``, and how."""


def run_batch(loop_name: str, first: int, count: int, *, starves: bool) -> int:
    """Run sequences in this process; return how many broke a promise."""
    from chaos.sequences import make_contexts, run_sequence
    from support.loops import factory_of

    faulthandler.enable()
    until = time.monotonic() + BATCH_SECONDS
    contexts = make_contexts()
    make_loop = factory_of(loop_name)
    broken = 0
    for seed in range(first, first + count):
        if time.monotonic() > until:
            print(f"sequences from {seed} on were not run in time", file=sys.stderr)
            return broken + 1
        # The last line before a crash names its sequence.
        print(f"sequence {seed}", flush=True)
        faulthandler.dump_traceback_later(90, exit=True)
        failures = run_sequence(make_loop, seed, contexts, starves=starves)
        for failure in failures:
            print(f"sequence {seed}: {failure}", file=sys.stderr, flush=True)
        broken += bool(failures)
    faulthandler.cancel_dump_traceback_later()
    return broken


def injecting(seed: int) -> list[str]:
    """Return the beginning of a command line under which system calls fail."""
    source = random.Random(seed)
    name, errors = source.choice(INJECTIONS)
    when = f"{source.randrange(20, 400)}+{source.randrange(50, 400)}"
    expression = f"inject={name}:error={source.choice(errors)}:when={when}"
    return ["strace", "-f", "-qq", "-e", f"trace={name}", "-e", expression, "-o", os.devnull]


def batches(first: int, count: int) -> Iterator[tuple[int, int]]:
    for start in range(first, first + count, BATCH):
        yield start, min(BATCH, first + count - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--loop", default="rloop")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--sequences", type=int, default=1_000)
    parser.add_argument("--threads", type=int, default=1, help="threads of the loop")
    parser.add_argument("--inject", action="store_true", help="let system calls fail, by strace")
    parser.add_argument("--starve", action="store_true", help="let single allocations fail")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        sys.path.insert(0, str(TESTS))
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        first, count = arguments.first, arguments.sequences
        return min(run_batch(arguments.loop, first, count, starves=arguments.starve), 1)
    if arguments.inject and shutil.which("strace") is None:
        parser.error("--inject needs strace")
    failed = 0
    for start, count in batches(arguments.first, arguments.sequences):
        command = [sys.executable, __file__, "--child", f"--loop={arguments.loop}"]
        command += [f"--first={start}", f"--sequences={count}"]
        if arguments.starve:
            command.append("--starve")
        if arguments.inject:
            command = injecting(start) + command
        outcome = subprocess.run(
            command,
            env={**os.environ, "RLOOP_THREADS": str(arguments.threads)},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if outcome.returncode:
            failed += 1
            last = (outcome.stdout.splitlines() or ["no sequence"])[-1]
            print(f"{' '.join(command)}: status {outcome.returncode}, the last was {last}")
            print(outcome.stderr[-20_000:])
    print(f"{arguments.sequences} sequences on {arguments.loop}, {failed} batches failed")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
