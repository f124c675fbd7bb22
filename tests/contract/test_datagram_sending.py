"""Where datagrams go, what becomes of those that cannot be sent, and flow control."""

import asyncio
import logging
import socket
import sys
from asyncio import selector_events
from pathlib import Path
from typing import Any

import pytest

from support.datagrams import ANY_PORT, endpoint, refusing_socket
from support.leaks import LeakGuard
from support.peers import LOOPBACK
from support.protocols import RecordingDatagramProtocol
from support.threads import PEER_TIMEOUT, eventually, turns

Loop = asyncio.AbstractEventLoop

forgets_headers = pytest.mark.fails_on(
    "asyncio",
    reason="3.13.0 adds a header for each queued datagram and takes none away again",
    when=sys.version_info >= (3, 13)
    and not hasattr(selector_events._SelectorDatagramTransport, "_header_size"),  # type: ignore[attr-defined]
)


def fill(transport: Any) -> int:
    """Send until a datagram is queued; return how many were sent, with that one."""
    count = 0
    while not transport.get_write_buffer_size():
        transport.sendto(b"fill")
        count += 1
    return count


@pytest.mark.parametrize("host", [LOOPBACK, "localhost", "127.1", ""], ids=repr)
async def test_a_host_is_whatever_a_socket_takes(host: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.settimeout(PEER_TIMEOUT)
        peer.bind(("0.0.0.0", 0))
        async with endpoint(local_addr=ANY_PORT) as (transport, _):
            transport.sendto(b"hello", (host, peer.getsockname()[1]))
            assert peer.recv(100) == b"hello"


async def test_an_answer_goes_to_where_the_datagram_came_from(peer: socket.socket) -> None:
    class Echo(RecordingDatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(data, addr)
            super().datagram_received(data, addr)

    async with endpoint(Echo(), local_addr=ANY_PORT) as (transport, protocol):
        address = transport.get_extra_info("sockname")
        with socket.socket(type=socket.SOCK_DGRAM) as other:
            other.settimeout(PEER_TIMEOUT)
            for number in range(20):
                for sender in (peer, other):
                    sender.sendto(b"%d" % number, address)
                await protocol.called_times("datagram_received", 2 * (number + 1))
                assert peer.recv(100) == other.recv(100) == b"%d" % number


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
async def test_addresses_of_ipv6_have_four_parts() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer:
        peer.settimeout(PEER_TIMEOUT)
        peer.bind(("::1", 0))
        async with endpoint(local_addr=("::1", 0)) as (transport, protocol):
            address = transport.get_extra_info("sockname")
            for destination in (peer.getsockname(), peer.getsockname()[:2]):
                transport.sendto(b"hello", destination)
                assert peer.recvfrom(100) == (b"hello", address)
            peer.sendto(b"answer", address)
            data, sender = await protocol.called("datagram_received")
            assert (data, sender) == (b"answer", peer.getsockname())
            transport.sendto(b"again", sender)
            assert peer.recv(100) == b"again"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux broadcasts to itself")
async def test_a_broadcast_reaches_who_listens() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.settimeout(PEER_TIMEOUT)
        peer.bind(("0.0.0.0", 0))
        destination = ("127.255.255.255", peer.getsockname()[1])
        async with endpoint(local_addr=ANY_PORT, allow_broadcast=True) as (transport, _):
            transport.sendto(b"to all", destination)
            assert peer.recv(100) == b"to all"
        async with endpoint(local_addr=ANY_PORT) as (transport, protocol):
            transport.sendto(b"without permission", destination)
            assert isinstance(await protocol.called("error_received"), PermissionError)


@pytest.mark.parametrize("name", ["path", "abstract", "none"])
async def test_unix_senders_are_known_by_path_or_abstract_name_or_not(
    tmp_path: Path, name: str
) -> None:
    if name != "path" and sys.platform != "linux":
        pytest.skip("abstract names, and senders without one, are Linux's")
    ours = str(tmp_path / "ours")
    names: dict[str, str | bytes | None] = {
        "path": str(tmp_path / "theirs"),
        "abstract": b"\0abstract " + ours.encode(),
        "none": None,
    }
    theirs = names[name]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.settimeout(PEER_TIMEOUT)
        if theirs is not None:
            peer.bind(theirs)
        async with endpoint(family=socket.AF_UNIX, local_addr=ours) as (transport, protocol):
            peer.sendto(b"hello", ours)
            assert await protocol.called("datagram_received") == (b"hello", theirs)
            if theirs is not None:
                transport.sendto(b"answer", theirs)
                assert peer.recvfrom(100) == (b"answer", ours)


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("no tuple", TypeError),
        ((LOOPBACK, 70_000), OverflowError),
        ((LOOPBACK, "80"), TypeError),
        ((7, 80), TypeError),
        (None, TypeError),
    ],
    ids=str,
)
async def test_an_address_that_is_none_ends_the_endpoint(
    guard: LeakGuard, address: Any, error: type[Exception]
) -> None:
    async with endpoint(local_addr=ANY_PORT) as (transport, protocol):
        transport.sendto(b"to nowhere", address)
        assert isinstance(await protocol.called("connection_lost"), error)
        (report,) = guard.take_reports()
        assert report["message"] == "Fatal write error on datagram transport"
        assert isinstance(report["exception"], error)
        assert report["protocol"] is protocol


async def test_refusals_are_reported_one_by_one_and_the_endpoint_goes_on(loop: Loop) -> None:
    with refusing_socket() as other:
        async with endpoint(remote_addr=other.getsockname()) as (transport, protocol):
            for count in range(1, 20):
                transport.sendto(b"to nobody")
                await protocol.called_times("error_received", count)
            errors = protocol.values("error_received")
            assert {type(error) for error in errors} == {ConnectionRefusedError}
            other.connect(transport.get_extra_info("sockname"))
            for number in range(10):
                other.send(b"%d" % number)
            await protocol.called_times("datagram_received", 10)


async def test_an_error_received_that_fails_is_the_senders_or_the_exception_handlers(
    guard: LeakGuard, peer: socket.socket
) -> None:
    class Failing(RecordingDatagramProtocol):
        def error_received(self, exc: Exception) -> None:
            super().error_received(exc)
            raise ZeroDivisionError("on purpose")

    async with endpoint(Failing(), remote_addr=peer.getsockname()) as (transport, protocol):
        with pytest.raises(ZeroDivisionError):
            transport.sendto(bytes(70_000))
        peer.close()
        transport.sendto(b"to nobody")
        await eventually(lambda: guard.reports)
        (report,) = guard.take_reports()
        assert isinstance(report["exception"], ZeroDivisionError)
        assert report["message"].startswith("Exception in callback ")
        assert not transport.is_closing()
        assert protocol.count("error_received") == 2


async def test_a_closed_connected_endpoint_drops_datagrams_and_warns_after_a_few(
    peer: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    async with endpoint(remote_addr=peer.getsockname()) as (transport, protocol):
        transport.abort()
        with caplog.at_level(logging.WARNING, "asyncio"):
            for _ in range(7):
                transport.sendto(b"dropped")
        assert [record.message for record in caplog.records] == [
            "socket.send() raised exception."
        ] * 3
        await protocol.called("connection_lost")
        await turns(1)
        with caplog.at_level(logging.WARNING, "asyncio"):
            transport.sendto(b"dropped")
    caplog.clear()
    peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.recv(100)


async def test_an_endpoint_without_remote_address_sends_until_it_is_closed(
    peer: socket.socket,
) -> None:
    async with endpoint(local_addr=ANY_PORT) as (transport, protocol):
        transport.close()
        transport.sendto(b"still open", peer.getsockname())
        assert peer.recv(100) == b"still open"
        await protocol.called("connection_lost")
        await turns(1)
        with pytest.raises(AttributeError):
            transport.sendto(b"closed", peer.getsockname())


@forgets_headers
async def test_what_is_queued_counts_by_its_bytes_and_a_header_and_is_what_it_was(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "theirs")
    header = 8 if sys.version_info >= (3, 13) else 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(path)
        peer.settimeout(PEER_TIMEOUT)
        async with endpoint(family=socket.AF_UNIX, remote_addr=path) as (transport, protocol):
            count = fill(transport)
            assert transport.get_write_buffer_size() == 4 + header
            changing = bytearray(b"before")
            transport.sendto(changing)
            changing[:] = b"after!"
            assert transport.get_write_buffer_size() == 10 + 2 * header
            transport.set_write_buffer_limits(high=9 + 2 * header)
            assert protocol.log == ["connection_made", "pause_writing"]
            await turns(3)
            assert transport.get_write_buffer_size() == 10 + 2 * header
            for _ in range(count - 1):
                assert peer.recv(100) == b"fill"
            await protocol.called("resume_writing")
            assert transport.get_write_buffer_size() == 0
            assert (peer.recv(100), peer.recv(100)) == (b"fill", b"before")
            transport.sendto(b"direct")
            assert peer.recv(100) == b"direct"


async def test_a_peer_that_goes_away_while_datagrams_are_queued_is_an_error_each(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "theirs")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(path)
        async with endpoint(family=socket.AF_UNIX, remote_addr=path) as (transport, protocol):
            fill(transport)
            transport.sendto(b"one more")
            transport.close()
            peer.close()
            assert await protocol.called("connection_lost") is None
            errors = protocol.values("error_received")
            assert len(errors) == 2
            assert all(isinstance(error, OSError) for error in errors)


@forgets_headers
async def test_reading_goes_on_while_the_socket_is_full(tmp_path: Path) -> None:
    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(theirs)
        peer.settimeout(PEER_TIMEOUT)
        async with endpoint(family=socket.AF_UNIX, local_addr=ours, remote_addr=theirs) as (
            transport,
            protocol,
        ):
            count = fill(transport)
            for number in range(1, 6):
                peer.sendto(b"%d" % number, ours)
                await protocol.called_times("datagram_received", number)
            assert transport.get_write_buffer_size()
            for _ in range(count - 1):
                peer.recv(100)
            await eventually(lambda: not transport.get_write_buffer_size())
            assert peer.recv(100) == b"fill"
            for number in range(6, 11):
                peer.sendto(b"%d" % number, ours)
                await protocol.called_times("datagram_received", number)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio's transport is none before 3.12")
async def test_a_datagram_transport_is_one_of_asyncios(peer: socket.socket) -> None:
    async with endpoint(remote_addr=peer.getsockname()) as (transport, _):
        assert isinstance(transport, asyncio.DatagramTransport)
