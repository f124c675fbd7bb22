"""set_protocol: the protocol of a live transport is replaced between two of its calls."""

import asyncio
from typing import Any

import pytest

from support.peers import connected
from support.protocols import Journal, RecordingBufferedProtocol, RecordingProtocol
from support.threads import in_thread, turns

MAKERS: list[Any] = [RecordingProtocol, RecordingBufferedProtocol]


@pytest.mark.parametrize("make_old", MAKERS)
@pytest.mark.parametrize("make_new", MAKERS)
async def test_the_new_protocol_gets_everything_from_the_next_call_on(
    kind: str, make_old: type[RecordingProtocol], make_new: type[RecordingProtocol]
) -> None:
    old, new = make_old(), make_new()
    async with connected(old, kind) as (transport, peer):
        peer.sendall(b"old")
        await old.received(3)
        assert transport.get_protocol() is old
        transport.set_protocol(new)
        assert transport.get_protocol() is new
        peer.sendall(b"new")
        assert await new.received(3) == b"new"
        peer.close()
        await new.called("connection_lost")
        assert old.data == b"old"
        assert new.log[0] != "connection_made"
        assert new.log[-2:] == ["eof_received", "connection_lost"]
        assert "connection_lost" not in old.log


@pytest.mark.parametrize("make_new", MAKERS)
async def test_switching_inside_data_received_loses_no_byte(
    kind: str, make_new: type[RecordingProtocol]
) -> None:
    new = make_new()

    class Upgrading(RecordingProtocol):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.set_protocol(new)

    old = Upgrading()
    payload = bytes(range(256)) * 4096
    async with connected(old, kind) as (_, peer):
        sending = in_thread(peer.sendall, payload)
        await old.called("data_received")
        await new.until(lambda: len(old.data) + len(new.data) == len(payload))
        await sending
        assert old.data + new.data == payload
        assert old.count("data_received") == 1


@pytest.mark.parametrize("make_old", MAKERS)
async def test_switching_while_paused_gives_the_new_protocol_what_was_waiting(
    kind: str, make_old: type[RecordingProtocol]
) -> None:
    old, new = make_old(), RecordingProtocol()
    async with connected(old, kind) as (transport, peer):
        transport.pause_reading()
        peer.sendall(b"waiting")
        await turns(3)
        transport.set_protocol(new)
        transport.resume_reading()
        assert await new.received(7) == b"waiting"
        assert old.data == b""


async def test_flow_control_calls_go_to_the_new_protocol() -> None:
    old, new = RecordingProtocol(), RecordingProtocol()
    async with connected(old, "unix") as (transport, peer):
        transport.write(bytes(1 << 20))
        assert old.log == ["connection_made", "pause_writing"]
        transport.set_protocol(new)
        transport.close()
        await in_thread(discard, peer.recv)
        await new.called("connection_lost")
        assert new.log == ["resume_writing", "connection_lost"]
        assert old.log == ["connection_made", "pause_writing"]


def discard(receive: object) -> None:
    """Read to the end of the stream."""
    assert callable(receive)
    while receive(1 << 20):
        pass


async def test_a_protocol_set_in_connection_made_is_the_one_that_is_used(kind: str) -> None:
    new = RecordingProtocol()

    class Delegating(RecordingProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.transport.set_protocol(new)

    old: Journal = Delegating()
    assert isinstance(old, asyncio.Protocol)
    async with connected(old, kind) as (transport, peer):
        peer.sendall(b"data")
        assert await new.received(4) == b"data"
        assert transport.get_protocol() is new
        assert old.log == ["connection_made"]
