"""Many peers that begin a handshake and never end it: memory is bounded, and all are given up.

The server is a program of its own (``support.silent_server``), so that what it holds is its own,
and the limit of descriptors does not count both ends. It runs on one thread, and on two where
threads run at once.
"""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import pytest

from support.certificates import Certificates
from support.fast_tls import client_hello
from support.peers import LOOPBACK, reset
from support.threads import PEER_TIMEOUT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

#: So many connect before the first of them is served.
AT_ONCE = 500

#: Descriptors that a process has besides.
OTHER_DESCRIPTORS = 300

#: What a connection may hold in the middle of its handshake, kernel's buffers aside. asyncio's own
#: protocol allocates eight times as much for its buffer alone.
BYTES_EACH = {"openssl": 64 << 10, "rustls": 32 << 10}

#: The threads of the server.
THREADS = (1, 2) if sysconfig.get_config_var("Py_GIL_DISABLED") else (1,)

#: Longer than anything here takes, so that nothing is given up.
NEVER = 1000.0


class Held(NamedTuple):
    """What the server says of itself."""

    made: int
    fewest: int
    """How many of these on the thread that had fewest."""
    connections: int
    resident_bytes: int
    descriptors: int
    reports: int


class SilentServer:
    """The server's process."""

    def __init__(self, certificate: Path, engine: str, timeout: float, threads: int) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "support.silent_server"),
                *(str(certificate), engine, str(timeout), str(threads)),
            ],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = LOOPBACK, int(self._pipe(self._process.stdout).readline())

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def held(self) -> Held:
        """Ask what is held."""
        stdin = self._pipe(self._process.stdin)
        stdin.write("\n")
        stdin.flush()
        return Held(*map(int, self._pipe(self._process.stdout).readline().split()))

    def end(self) -> None:
        """End the server; it must end well."""
        self._process.communicate(timeout=PEER_TIMEOUT)
        assert self._process.returncode == 0


@contextlib.contextmanager
def serving(
    certificates: Certificates, engine: str, timeout: float, threads: int
) -> Iterator[SilentServer]:
    """Run a server."""
    server = SilentServer(certificates["good"][0].file, engine, timeout, threads)
    try:
        yield server
    finally:
        server.end()


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Iterator[int]:
    """How many connections there can be; the limit of descriptors is raised for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count: int = request.config.getoption("half_open")
    if hard != resource.RLIM_INFINITY:
        count = min(count, hard - OTHER_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + OTHER_DESCRIPTORS), hard))
    yield count
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def say(address: tuple[str, int], first_words: bytes) -> socket.socket:
    """Connect and send something."""
    peer = socket.create_connection(address, timeout=PEER_TIMEOUT)
    peer.sendall(first_words)
    return peer


@pytest.mark.parametrize("threads", THREADS)
def test_handshakes_that_are_not_finished_hold_little(
    certificates: Certificates, count: int, engine: str, threads: int
) -> None:
    hello = client_hello(certificates.trusted.file)
    peers: list[socket.socket] = []
    with serving(certificates, engine, NEVER, threads) as server, contextlib.ExitStack() as closing:
        descriptors = server.held().descriptors

        def open_some(until: int) -> None:
            while len(peers) < until:
                batch = [
                    say(server.address, hello) for _ in range(min(AT_ONCE, until - len(peers)))
                ]
                for peer in batch:
                    closing.callback(peer.close)
                    # The server has answered: its keys are derived, and it waits for the client.
                    assert peer.recv(1) == b"\x16"
                peers.extend(batch)

        open_some(count // 10)
        before = server.held()
        open_some(count)
        after = server.held()
        assert after.made == after.connections == count
        assert after.fewest >= count // threads // 2
        growth = after.resident_bytes - before.resident_bytes
        assert growth < BYTES_EACH[engine] * (after.connections - before.connections)
        for peer in peers:
            reset(peer)
        while (held := server.held()).connections or held.descriptors > descriptors:
            pass
        assert held.reports == 0


@pytest.mark.parametrize(
    ("words", "threads"),
    [("nothing", 1), ("half a hello", 1), *(("a hello", threads) for threads in THREADS)],
)
def test_each_handshake_that_takes_too_long_is_given_up(
    certificates: Certificates, count: int, engine: str, words: str, threads: int
) -> None:
    hello = client_hello(certificates.trusted.file)
    first_words = {"nothing": b"", "half a hello": hello[:100], "a hello": hello}[words]
    with serving(certificates, engine, 1.0, threads) as server, contextlib.ExitStack() as closing:
        descriptors = server.held().descriptors
        peers = [
            closing.enter_context(contextlib.closing(say(server.address, first_words)))
            for _ in range(count)
        ]
        for peer in peers:
            with contextlib.suppress(ConnectionResetError):
                while peer.recv(1 << 16):
                    pass
        while (held := server.held()).connections or held.descriptors > descriptors:
            pass
        assert (held.made, held.reports) == (len(peers), 0)
        assert held.fewest > 0
