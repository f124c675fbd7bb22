"""Fixtures of the contract tests: the kinds of connection that a stream test runs on."""

import socket
from collections.abc import Iterator

import pytest

from support.peers import LOOPBACK, STREAM_KINDS


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
