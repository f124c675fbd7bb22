"""A TLS server for test_half_open.py: a program of its own, which tells what it holds.

``python -m support.silent_server CERTIFICATE ENGINE TIMEOUT THREADS`` listens on loopback with
that limit for handshakes, in seconds, and prints its port. For each line that it reads it prints
how many connections were made, how many on the thread that had fewest, how many are held, its
resident memory in bytes, its descriptors, and how often its exception handler was called. It ends
with its input.
"""

import asyncio
import collections
import resource
import sys
import weakref
from typing import Any

import rloop
from rloop import tls
from support.memory import measure
from support.peers import LOOPBACK


class Silent(asyncio.Protocol):
    """Does nothing; the handshake never ends."""


def tell(*values: object) -> None:
    """Print one line at once."""
    print(*values, flush=True)


async def main(certificate: str, engine: str, timeout: float, threads: int) -> None:
    """Serve until the input ends."""
    context = tls.server_context(certificate)
    if engine == "openssl":
        context.post_handshake_auth = True
    assert context.engine == engine
    # Every thread adds to it: nothing but what a list does in one step.
    made: list[tuple[int, weakref.ref[Silent]]] = []

    def make() -> Silent:
        protocol = Silent()
        made.append((rloop.current_shard(), weakref.ref(protocol)))
        return protocol

    loop = asyncio.get_running_loop()
    reports: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, report: reports.append(report))
    server = await loop.create_server(
        make, LOOPBACK, 0, ssl=context, ssl_handshake_timeout=timeout, backlog=1000
    )
    async with server:
        tell(server.sockets[0].getsockname()[1])
        while await asyncio.to_thread(sys.stdin.readline):
            usage = measure()
            on_shards = collections.Counter(shard for shard, _ in made)
            tell(
                len(made),
                min(on_shards[shard] for shard in range(threads)),
                sum(protocol() is not None for _, protocol in made),
                usage.resident_bytes,
                usage.descriptors,
                len(reports),
            )


if __name__ == "__main__":
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    certificate, engine, timeout, threads = sys.argv[1:]
    serving = main(certificate, engine, float(timeout), int(threads))
    rloop.run(serving, threads=int(threads))
