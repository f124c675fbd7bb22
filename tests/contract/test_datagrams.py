"""Datagram endpoints: UDP and Unix, connected or not, through errors and pressure."""

import asyncio
import gc
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from support.datagrams import ANY_PORT, endpoint, refusing_socket
from support.leaks import LeakGuard
from support.peers import LOOPBACK, fill
from support.protocols import RecordingDatagramProtocol
from support.threads import PEER_TIMEOUT, eventually, in_thread, turns

Loop = asyncio.AbstractEventLoop


async def test_datagrams_come_whole_and_with_their_sender(peer: socket.socket) -> None:
    async with endpoint(local_addr=ANY_PORT) as (transport, protocol):
        assert isinstance(transport, asyncio.BaseTransport)
        assert protocol.log == ["connection_made"]
        address = transport.get_extra_info("sockname")
        messages = [b"", b"x", b"hello", bytes(65507)]
        for message in messages:
            peer.sendto(message, address)
        await protocol.until(lambda: protocol.count("datagram_received") == len(messages))
        assert protocol.values("datagram_received") == [
            (message, peer.getsockname()) for message in messages
        ]


async def test_datagrams_go_to_the_address_they_are_given(peer: socket.socket) -> None:
    async with endpoint(local_addr=ANY_PORT) as (transport, _):
        for message in (b"bytes", bytearray(b"bytearray"), memoryview(b"view")):
            transport.sendto(message, peer.getsockname())
            assert peer.recvfrom(100) == (bytes(message), transport.get_extra_info("sockname"))


async def test_a_connected_endpoint_needs_no_address_and_takes_no_other(
    peer: socket.socket,
) -> None:
    async with endpoint(remote_addr=peer.getsockname()) as (transport, protocol):
        assert transport.get_extra_info("peername") == peer.getsockname()
        transport.sendto(b"implicit")
        data, address = peer.recvfrom(100)
        assert data == b"implicit"
        assert address == transport.get_extra_info("sockname")
        transport.sendto(b"explicit", peer.getsockname())
        assert peer.recvfrom(100)[0] == b"explicit"
        expected = f"Invalid address: must be None or {peer.getsockname()}"
        with pytest.raises(ValueError, match=re.escape(expected)):
            transport.sendto(b"elsewhere", (LOOPBACK, 9))
        peer.sendto(b"answer", address)
        assert await protocol.called("datagram_received") == (b"answer", peer.getsockname())


async def test_a_refused_datagram_reaches_error_received_and_the_endpoint_stays_open(
    loop: Loop,
) -> None:
    with refusing_socket() as other:
        address = other.getsockname()
        async with endpoint(remote_addr=address) as (transport, protocol):
            transport.sendto(b"to nobody")
            error = await protocol.called("error_received")
            assert isinstance(error, ConnectionRefusedError)
            assert not transport.is_closing()
            other.connect(transport.get_extra_info("sockname"))
            transport.sendto(b"to somebody")
            assert other.recv(100) == b"to somebody"
            other.send(b"answer")
            assert await protocol.called("datagram_received") == (b"answer", address)


async def test_a_datagram_too_large_for_the_network_reaches_error_received(
    peer: socket.socket,
) -> None:
    async with endpoint(remote_addr=peer.getsockname()) as (transport, protocol):
        transport.sendto(bytes(70_000))
        error = await protocol.called("error_received")
        assert isinstance(error, OSError)
        assert "Message too long" in str(error)
        transport.sendto(b"fits")
        assert peer.recvfrom(100)[0] == b"fits"


async def test_an_empty_datagram_is_sent_since_3_13(peer: socket.socket) -> None:
    async with endpoint(remote_addr=peer.getsockname()) as (transport, _):
        transport.sendto(b"")
        transport.sendto(b"next")
        received = peer.recvfrom(100)[0]
        assert received == (b"" if sys.version_info >= (3, 13) else b"next")


@pytest.mark.parametrize("data", ["text", None, 1, [b"list"]])
async def test_what_is_not_bytes_is_refused(peer: socket.socket, data: Any) -> None:
    async with endpoint(remote_addr=peer.getsockname()) as (transport, _):
        with pytest.raises(
            TypeError,
            match=f"data argument must be a bytes-like object, not '{type(data).__name__}'",
        ):
            transport.sendto(data)


async def test_a_failing_datagram_received_is_reported_and_the_endpoint_stays_open(
    peer: socket.socket, guard: LeakGuard
) -> None:
    class Failing(RecordingDatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            raise ZeroDivisionError("on purpose")

    async with endpoint(Failing(), local_addr=ANY_PORT) as (transport, protocol):
        address = transport.get_extra_info("sockname")
        peer.sendto(b"first", address)
        peer.sendto(b"second", address)
        await protocol.until(lambda: protocol.count("datagram_received") == 2)
        await eventually(lambda: len(guard.reports) == 2)
        reports = guard.take_reports()
        assert {type(report["exception"]) for report in reports} == {ZeroDivisionError}
        assert not transport.is_closing()


async def test_close_is_orderly_and_once(peer: socket.socket) -> None:
    protocol = RecordingDatagramProtocol()
    async with endpoint(protocol, remote_addr=peer.getsockname()) as (transport, _):
        transport.sendto(b"last")
        transport.close()
        transport.close()
        assert transport.is_closing()
        assert await protocol.called("connection_lost") is None
        transport.close()
        assert peer.recvfrom(100)[0] == b"last"
        await turns(2)
        assert protocol.count("connection_lost") == 1


async def test_a_transport_without_a_reference_that_was_not_closed_warns(loop: Loop) -> None:
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind(ANY_PORT)
    transport, protocol = await loop.create_datagram_endpoint(RecordingDatagramProtocol, sock=sock)
    # A loop keeps a transport alive that is reading.
    transport.pause_reading()  # type: ignore[attr-defined]
    protocol.transport = None
    protocol.calls.clear()
    with pytest.warns(ResourceWarning, match="unclosed transport <"):
        del transport
        gc.collect()
    assert sock.fileno() == -1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "unexpected address family"),
        ({"local_addr": "127.0.0.1"}, TypeError, "2-tuple is expected"),
        ({"local_addr": (LOOPBACK, 0, 0)}, TypeError, "2-tuple is expected"),
        ({"family": socket.AF_UNIX, "local_addr": 7}, TypeError, "string is expected"),
        (
            {"local_addr": (LOOPBACK, 0), "remote_addr": ("::1", 9)},
            ValueError,
            "can not get address information",
        ),
    ],
    ids=str,
)
async def test_addresses_that_make_no_sense_are_refused(
    loop: Loop, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await loop.create_datagram_endpoint(RecordingDatagramProtocol, **options)


async def test_a_users_socket_is_used_and_closed(loop: Loop, peer: socket.socket) -> None:
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind(ANY_PORT)
    async with endpoint(sock=sock) as (transport, protocol):
        assert sock.gettimeout() == 0
        peer.sendto(b"hello", sock.getsockname())
        assert await protocol.called("datagram_received") == (b"hello", peer.getsockname())
        transport.sendto(b"answer", peer.getsockname())
        assert peer.recvfrom(100)[0] == b"answer"
    assert sock.fileno() == -1


async def test_a_socket_excludes_other_options_and_streams(loop: Loop) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock, socket.socket() as stream:
        with pytest.raises(
            ValueError,
            match=r"socket modifier keyword arguments can not be used when sock is specified. "
            r"\(local_addr=\('127.0.0.1', 0\), reuse_port=True\)",
        ):
            await loop.create_datagram_endpoint(
                RecordingDatagramProtocol, sock=sock, local_addr=ANY_PORT, reuse_port=True
            )
        with pytest.raises(
            ValueError, match=r"A (datagram|UDP) [Ss]ocket was expected, got <socket"
        ):
            await loop.create_datagram_endpoint(RecordingDatagramProtocol, sock=stream)


async def test_options_reach_the_socket(loop: Loop) -> None:
    async with endpoint(local_addr=ANY_PORT, reuse_port=True, allow_broadcast=True) as (
        transport,
        _,
    ):
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
        async with endpoint(local_addr=sock.getsockname(), reuse_port=True):
            pass


async def test_a_broadcasting_endpoint_is_not_connected(peer: socket.socket) -> None:
    async with endpoint(remote_addr=peer.getsockname(), allow_broadcast=True) as (transport, _):
        assert transport.get_extra_info("peername") is None
        transport.sendto(b"to the remote address")
        assert peer.recvfrom(100)[0] == b"to the remote address"


async def test_unix_datagrams_travel_by_path(loop: Loop, tmp_path: Path) -> None:
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(theirs)
        async with endpoint(family=socket.AF_UNIX, local_addr=ours, remote_addr=theirs) as (
            transport,
            protocol,
        ):
            assert transport.get_extra_info("sockname") == ours
            assert transport.get_extra_info("peername") == theirs
            transport.sendto(b"question")
            assert peer.recvfrom(100) == (b"question", ours)
            peer.sendto(b"answer", ours)
            assert await protocol.called("datagram_received") == (b"answer", theirs)


async def test_a_full_socket_pauses_the_protocol_and_nothing_is_lost(tmp_path: Path) -> None:
    """Unix datagrams are reliable, so what is queued above the mark must all arrive, in order."""
    path = str(tmp_path / "theirs")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(path)
        peer.settimeout(PEER_TIMEOUT)
        async with endpoint(family=socket.AF_UNIX, remote_addr=path) as (transport, protocol):
            transport.set_write_buffer_limits(high=50_000, low=1_000)
            count = 0
            while not protocol.count("pause_writing"):
                assert count < 10_000
                transport.sendto(b"%05d" % count + bytes(995))
                count += 1
            assert transport.get_write_buffer_size() > 50_000
            assert protocol.log == ["connection_made", "pause_writing"]
            transport.close()
            received = await in_thread(lambda: [int(peer.recv(2000)[:5]) for _ in range(count)])
            assert received == list(range(count))
            assert await protocol.called("connection_lost") is None
            assert protocol.log[-2:] == ["resume_writing", "connection_lost"]


async def test_abort_drops_what_is_queued(tmp_path: Path) -> None:
    path = str(tmp_path / "theirs")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(path)
        async with endpoint(family=socket.AF_UNIX, remote_addr=path) as (transport, protocol):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
                filler.setblocking(False)
                filler.connect(path)
                fill(filler)
            for _ in range(1000):
                transport.sendto(b"queued")
            assert transport.get_write_buffer_size() > 0
            transport.abort()
            assert await protocol.called("connection_lost") is None


async def test_a_flood_is_received_while_other_callbacks_run(
    loop: Loop, peer: socket.socket
) -> None:
    async with endpoint(local_addr=ANY_PORT) as (transport, protocol):
        address = transport.get_extra_info("sockname")
        count = 200
        sending = in_thread(lambda: [peer.sendto(b"x" * 100, address) for _ in range(count)])
        await protocol.until(lambda: protocol.count("datagram_received") == count)
        await sending
