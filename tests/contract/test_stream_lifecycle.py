"""Stream transports: which protocol method is called when, and what a failing one leads to."""

import asyncio
import errno
import gc
import warnings
from typing import Any

import pytest

from support.leaks import LeakGuard
from support.peers import connected, open_pair, receive_until_eof, reset, stream_pair
from support.protocols import RecordingBufferedProtocol, RecordingProtocol
from support.threads import eventually, in_thread, turns

Loop = asyncio.AbstractEventLoop


async def test_calls_come_in_order_from_connection_made_to_connection_lost(kind: str) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, peer):
        assert isinstance(transport, asyncio.Transport)
        assert protocol.log == ["connection_made"]
        assert protocol.transport is transport
        peer.sendall(b"data")
        peer.close()
        assert await protocol.called("connection_lost") is None
        assert protocol.log == [
            "connection_made",
            "data_received",
            "eof_received",
            "connection_lost",
        ]
        assert protocol.data == b"data"


async def test_data_sent_before_the_transport_exists_comes_after_connection_made(
    loop: Loop, kind: str
) -> None:
    ours, peer = stream_pair(kind)
    with peer:
        peer.sendall(b"early")
        protocol = RecordingProtocol()
        transport, same = await loop.connect_accepted_socket(lambda: protocol, ours)
        assert same is protocol
        assert await protocol.received(5) == b"early"
        assert protocol.log == ["connection_made", "data_received"]
        transport.close()
        await protocol.called("connection_lost")


async def test_received_data_is_bytes(kind: str) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (_, peer):
        peer.sendall(b"data")
        await protocol.received(4)
        assert {type(chunk) for chunk in protocol.values("data_received")} == {bytes}


async def test_no_byte_is_lost_or_changed_on_the_way_in(kind: str) -> None:
    payload = bytes(range(256)) * 16384
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (_, peer):
        sending = in_thread(peer.sendall, payload)
        assert await protocol.received(len(payload)) == payload
        await sending


async def test_a_reset_by_the_peer_reaches_connection_lost_without_an_eof() -> None:
    protocol = RecordingProtocol()
    async with connected(protocol) as (_, peer):
        reset(peer)
        error = await protocol.called("connection_lost")
        assert isinstance(error, ConnectionResetError)
        assert error.errno == errno.ECONNRESET
        assert protocol.log == ["connection_made", "connection_lost"]


async def test_the_users_socket_is_closed_only_after_connection_lost(loop: Loop, kind: str) -> None:
    ours, peer = stream_pair(kind)
    descriptors: list[int] = []

    class Protocol(RecordingProtocol):
        def connection_lost(self, exc: Exception | None) -> None:
            descriptors.append(ours.fileno())
            super().connection_lost(exc)

    with peer:
        protocol = Protocol()
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        number = ours.fileno()
        transport.close()
        assert ours.fileno() == number
        await protocol.called("connection_lost")
        await turns(1)
        assert descriptors == [number]
        assert ours.fileno() == -1


async def test_the_transport_makes_the_users_socket_non_blocking(loop: Loop, kind: str) -> None:
    ours, peer = stream_pair(kind)
    with peer:
        assert ours.getblocking()
        transport, _ = await loop.create_connection(RecordingProtocol, sock=ours)
        assert not ours.getblocking()
        transport.abort()
        await eventually(lambda: ours.fileno() == -1)


class Failure(Exception):
    """Raised by a protocol method on purpose."""


class FailingProtocol(RecordingProtocol):
    """Fails in the first call of the one method that is named."""

    def __init__(self, method: str, error: BaseException) -> None:
        super().__init__(keep_open=True)
        self._method = method
        self._error = error

    def note(self, name: str, value: Any = None) -> None:
        super().note(name, value)
        if name == self._method and self.count(name) == 1:
            raise self._error


@pytest.mark.parametrize("method", ["data_received", "eof_received"])
async def test_a_failing_read_callback_is_reported_and_loses_the_connection(
    kind: str, method: str, guard: LeakGuard
) -> None:
    failure = Failure()
    protocol = FailingProtocol(method, failure)
    async with connected(protocol, kind) as (transport, peer):
        peer.sendall(b"data")
        peer.close()
        assert await protocol.called("connection_lost") is failure
        assert protocol.log[-2:] == [method, "connection_lost"]
        (report,) = guard.take_reports()
        assert report == {
            "message": f"Fatal error: protocol.{method}() call failed.",
            "exception": failure,
            "transport": transport,
            "protocol": protocol,
        }


async def test_a_failing_connection_made_is_reported_and_the_connection_stays(
    kind: str, guard: LeakGuard
) -> None:
    failure = Failure()
    protocol = FailingProtocol("connection_made", failure)
    async with connected(protocol, kind) as (_, peer):
        (report,) = guard.take_reports()
        assert report["exception"] is failure
        assert report["message"].startswith("Exception in callback ")
        assert "connection_made" in report["message"]
        peer.sendall(b"data")
        assert await protocol.received(4) == b"data"


async def test_a_failing_connection_lost_is_reported_and_the_socket_is_closed(
    loop: Loop, kind: str, guard: LeakGuard
) -> None:
    failure = Failure()
    protocol = FailingProtocol("connection_lost", failure)
    async with connected(protocol, kind) as (transport, peer):
        transport.close()
        assert await in_thread(receive_until_eof, peer) == b""
        await eventually(lambda: guard.reports)
        (report,) = guard.take_reports()
        assert report["exception"] is failure
        assert report["message"].startswith("Exception in callback ")


@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
async def test_a_failing_flow_control_callback_is_reported_and_the_connection_stays(
    method: str, guard: LeakGuard
) -> None:
    failure = Failure()
    protocol = FailingProtocol(method, failure)
    async with connected(protocol, "unix") as (transport, peer):
        payload = bytes(1 << 20)
        transport.write(payload)
        transport.write_eof()
        assert len(await in_thread(receive_until_eof, peer)) == len(payload)
        await protocol.called("resume_writing")
        (report,) = guard.take_reports()
        assert report == {
            "message": f"protocol.{method}() failed",
            "exception": failure,
            "transport": transport,
            "protocol": protocol,
        }
        assert not transport.is_closing()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("method", ["connection_made", "data_received", "eof_received"])
def test_an_interrupt_in_a_protocol_method_leaves_the_running_loop(
    loop: Loop, method: str, error: type[BaseException]
) -> None:
    failure = error("on purpose")
    with open_pair("unix") as (ours, peer):
        peer.sendall(b"data")
        peer.close()

        async def connect() -> FailingProtocol:
            protocol = FailingProtocol(method, failure)
            await loop.create_connection(lambda: protocol, sock=ours)
            return protocol

        connecting = loop.create_task(connect())
        with pytest.raises(error) as raised:
            loop.run_forever()
        assert raised.value is failure
        assert not loop.is_running()
        protocol = loop.run_until_complete(connecting)
        protocol.transport.abort()
        loop.run_until_complete(protocol.called("connection_lost"))


@pytest.mark.parametrize("make_protocol", [RecordingProtocol, RecordingBufferedProtocol])
async def test_a_transport_without_a_reference_that_was_not_closed_warns(
    loop: Loop, make_protocol: type[RecordingProtocol]
) -> None:
    ours, peer = stream_pair("unix")
    with peer:
        transport, protocol = await loop.create_connection(make_protocol, sock=ours)
        transport.pause_reading()
        await turns(2)
        protocol.transport = None
        protocol.calls.clear()
        with pytest.warns(ResourceWarning, match=r"unclosed transport <.*>"):
            del transport
            gc.collect()
        assert ours.fileno() == -1
        assert await in_thread(receive_until_eof, peer) == b""


async def test_a_closed_transport_does_not_warn(kind: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        protocol = RecordingProtocol()
        async with connected(protocol, kind) as (transport, _):
            transport.close()
            await protocol.called("connection_lost")
        del transport, protocol
        gc.collect()
    assert caught == []


async def test_the_repr_tells_the_state(kind: str) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, _):
        number = transport.get_extra_info("socket").fileno()
        assert f"fd={number}" in repr(transport)
        assert "closing" not in repr(transport)
        transport.close()
        assert "closing" in repr(transport)
        await protocol.called("connection_lost")
        await turns(1)
        assert "closed" in repr(transport)
