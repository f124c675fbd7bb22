"""Fixtures of the contract tests: kinds of stream connections, peers, addresses."""

import socket
from collections.abc import Iterator

import pytest

from support.datagrams import ANY_PORT
from support.peers import LOOPBACK, STREAM_KINDS
from support.threads import PEER_TIMEOUT


@pytest.fixture(params=STREAM_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of stream, as ``support.peers.connected`` takes it."""
    kind: str = request.param
    return kind


@pytest.fixture
def unused_address() -> Iterator[tuple[str, int]]:
    """A loopback address that refuses connections: bound by us, and nobody listens on it."""
    with socket.socket() as holder:
        holder.bind((LOOPBACK, 0))
        address: tuple[str, int] = holder.getsockname()
        yield address


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    """A blocking UDP socket bound to loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PEER_TIMEOUT)
        sock.bind(ANY_PORT)
        yield sock
