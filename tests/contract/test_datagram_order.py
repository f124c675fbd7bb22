"""What comes between two datagrams, and what becomes of those that are already there."""

import asyncio
import contextlib
import contextvars
import socket
from typing import Any

import pytest

from support.datagrams import ANY_PORT, endpoint
from support.leaks import LeakGuard
from support.loops import LoopFactory
from support.protocols import RecordingDatagramProtocol
from support.threads import PEER_TIMEOUT, eventually, turns

Loop = asyncio.AbstractEventLoop


def send_burst(peer: socket.socket, transport: Any, count: int) -> list[bytes]:
    """Send that many datagrams, all of which are there before the loop looks; return them."""
    messages = [b"%d" % number for number in range(count)]
    for message in messages:
        peer.sendto(message, transport.get_extra_info("sockname"))
    return messages


def data_of(protocol: RecordingDatagramProtocol) -> list[bytes]:
    """Return the data of every datagram so far."""
    return [data for data, _ in protocol.values("datagram_received")]


async def test_a_task_that_a_datagram_woke_runs_before_the_next_datagram(
    loop: Loop, peer: socket.socket
) -> None:
    class Waking(RecordingDatagramProtocol):
        waiter: asyncio.Future[bytes] = loop.create_future()

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.waiter.set_result(data)

    protocol = Waking()

    async def consume(count: int) -> list[bytes]:
        received = []
        for _ in range(count):
            received.append(await protocol.waiter)
            protocol.waiter = loop.create_future()
        return received

    async with endpoint(protocol, local_addr=ANY_PORT) as (transport, _):
        consuming = asyncio.ensure_future(consume(50))
        await turns(1)
        messages = send_burst(peer, transport, 50)
        assert await asyncio.wait_for(consuming, PEER_TIMEOUT) == messages


async def test_a_large_burst_arrives_in_order(peer: socket.socket) -> None:
    async with endpoint(local_addr=ANY_PORT) as (transport, protocol):
        messages = send_burst(peer, transport, 150)
        await protocol.called_times("datagram_received", 150)
        assert data_of(protocol) == messages


async def test_bursts_of_several_senders_keep_their_addresses(peer: socket.socket) -> None:
    async with endpoint(local_addr=ANY_PORT) as (transport, protocol):
        with contextlib.ExitStack() as stack:
            peers = [peer] + [
                stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(4)
            ]
            for other in peers[1:]:
                other.bind(ANY_PORT)
            for number in range(40):
                sender = peers[number % len(peers)]
                sender.sendto(b"%d" % number, transport.get_extra_info("sockname"))
            await protocol.called_times("datagram_received", 40)
            assert protocol.values("datagram_received") == [
                (b"%d" % number, peers[number % len(peers)].getsockname()) for number in range(40)
            ]


async def test_what_came_before_a_pause_is_delivered_after_it(peer: socket.socket) -> None:
    class Pausing(RecordingDatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            self.transport.pause_reading()

    async with endpoint(Pausing(), local_addr=ANY_PORT) as (transport, protocol):
        messages = send_burst(peer, transport, 20)
        for count in range(1, 21):
            await protocol.called_times("datagram_received", count)
            await turns(3)
            assert data_of(protocol) == messages[:count]
            assert not transport.is_reading()
            transport.resume_reading()
            assert transport.is_reading()


@pytest.mark.parametrize("method", ["close", "abort"])
async def test_nothing_is_delivered_after_a_close(peer: socket.socket, method: str) -> None:
    class Closing(RecordingDatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            getattr(self.transport, method)()

    async with endpoint(Closing(), local_addr=ANY_PORT) as (transport, protocol):
        send_burst(peer, transport, 10)
        assert await protocol.called("connection_lost") is None
        assert protocol.log == ["connection_made", "datagram_received", "connection_lost"]
        assert protocol.count("datagram_received") == 1


def test_datagrams_after_one_whose_protocol_left_the_loop_are_not_lost(
    loop_factory: LoopFactory, peer: socket.socket
) -> None:
    class Leaving(RecordingDatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if data == b"3":
                raise SystemExit(data)

    with contextlib.closing(loop_factory()) as loop:

        async def main() -> Any:
            return await loop.create_datagram_endpoint(Leaving, local_addr=ANY_PORT)

        transport, protocol = loop.run_until_complete(main())
        messages = send_burst(peer, transport, 10)
        with pytest.raises(SystemExit):
            loop.run_forever()
        assert data_of(protocol) == messages[:4]
        loop.run_until_complete(protocol.called_times("datagram_received", 10))
        assert data_of(protocol) == messages
        transport.close()
        loop.run_until_complete(protocol.called("connection_lost"))
        loop.run_until_complete(turns(1))


async def test_a_failing_datagram_received_is_reported_as_a_callbacks_error(
    peer: socket.socket, guard: LeakGuard
) -> None:
    class Failing(RecordingDatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            raise ZeroDivisionError("on purpose")

    async with endpoint(Failing(), local_addr=ANY_PORT) as (transport, _):
        send_burst(peer, transport, 3)
        await eventually(lambda: len(guard.reports) == 3)
        for report in guard.take_reports():
            assert report["message"].startswith("Exception in callback ")
            assert "_read_ready" in report["message"]
            assert isinstance(report["exception"], ZeroDivisionError)
            assert isinstance(report["handle"], asyncio.Handle)
        assert not transport.is_closing()


async def test_datagrams_are_delivered_in_the_context_of_the_endpoints_creation(
    peer: socket.socket,
) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    class Looking(RecordingDatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.note("seen", variable.get())
            variable.set("changed by the protocol")

    variable.set("creation")
    async with endpoint(Looking(), local_addr=ANY_PORT) as (transport, protocol):
        variable.set("later")
        send_burst(peer, transport, 1)
        assert await protocol.called("seen") == "creation"
        assert variable.get() == "later"


async def test_a_new_protocol_gets_what_comes_after(peer: socket.socket) -> None:
    async with endpoint(local_addr=ANY_PORT) as (transport, first):
        send_burst(peer, transport, 1)
        await first.called("datagram_received")
        second = RecordingDatagramProtocol()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        send_burst(peer, transport, 1)
        await second.called("datagram_received")
        transport.set_protocol(first)


async def test_a_transports_descriptor_is_not_watched_by_anybody_else(
    loop: Loop, peer: socket.socket
) -> None:
    async with endpoint(local_addr=ANY_PORT) as (transport, _):
        number = transport.get_extra_info("socket").fileno()
        with pytest.raises(RuntimeError, match=f"File descriptor {number} is used by transport"):
            loop.add_reader(number, print)


async def test_an_endpoint_with_the_number_of_a_closed_one_gets_its_own_datagrams(
    loop: Loop, peer: socket.socket
) -> None:
    for _ in range(30):
        async with endpoint(local_addr=ANY_PORT) as (old, _):
            send_burst(peer, old, 3)
        async with endpoint(local_addr=ANY_PORT) as (transport, protocol):
            peer.sendto(b"new", transport.get_extra_info("sockname"))
            await protocol.called("datagram_received")
            await turns(2)
            assert data_of(protocol) == [b"new"]
