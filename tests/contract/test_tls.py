"""TLS transports: data, ends, failures and facts, against OpenSSL's blocking sockets."""

import asyncio
import contextlib
import hashlib
import os
import socket
import ssl
from typing import Any

import pytest

from support.leaks import LeakGuard
from support.peers import receive_exactly
from support.protocols import RecordingBufferedProtocol, RecordingProtocol
from support.threads import eventually, in_thread, turns
from support.tls import (
    SERVER_NAME,
    TLS_VERSIONS,
    Authority,
    tls_connected,
)

Loop = asyncio.AbstractEventLoop

EIGHT_MEBIBYTES = 8 << 20

both_sides = pytest.mark.parametrize("side", ["client", "server"])
both_versions = pytest.mark.parametrize("version", TLS_VERSIONS)


@both_sides
@both_versions
async def test_data_passes_in_both_directions(
    authority: Authority, side: str, version: str
) -> None:
    protocol = RecordingProtocol()
    payload = os.urandom(1 << 20)
    async with tls_connected(protocol, authority, side, version) as (transport, peer):
        assert isinstance(transport, asyncio.Transport)
        assert protocol.log == ["connection_made"]
        assert protocol.transport is transport
        transport.write(b"")
        for start in range(0, len(payload), 1000):
            transport.write(payload[start : start + 1000])
        transport.writelines([b"<", bytearray(b"end"), memoryview(b">")])
        assert await in_thread(receive_exactly, peer, len(payload) + 5) == payload + b"<end>"
        sending = in_thread(peer.sendall, payload)
        assert await protocol.received(len(payload)) == payload
        await sending


class ThroughView(RecordingBufferedProtocol):
    """Hands out a memoryview of its buffer."""

    def get_buffer(self, sizehint: int) -> Any:
        return memoryview(super().get_buffer(sizehint))


BYTEARRAY_LOSES_RECORDS = pytest.mark.fails_on(
    "asyncio",
    reason="sslproto reads the second record into a copy of a slice of the bytearray",
)


@both_sides
@pytest.mark.parametrize(
    "make_protocol",
    [ThroughView, pytest.param(RecordingBufferedProtocol, marks=BYTEARRAY_LOSES_RECORDS)],
    ids=["memoryview", "bytearray"],
)
async def test_a_buffered_protocol_gets_the_same_bytes(
    authority: Authority, side: str, make_protocol: type[RecordingBufferedProtocol]
) -> None:
    protocol = make_protocol(1000)
    # Several records, and little enough to be sent at once.
    payload = os.urandom(1 << 16)
    async with tls_connected(protocol, authority, side) as (_, peer):
        peer.sendall(payload)
        # The wait is in vain on asyncio, which loses records.
        assert await protocol.received(len(payload), patience=3) == payload


def digest_slowly_and_close(sock: ssl.SSLSocket) -> tuple[int, str]:
    """Read to the end in small pieces, close, and return the number of bytes and their SHA-256."""
    digest, total = hashlib.sha256(), 0
    while chunk := sock.recv(16 * 1024):
        digest.update(chunk)
        total += len(chunk)
    sock.close()
    return total, digest.hexdigest()


@both_sides
@both_versions
async def test_close_delivers_everything_written_before_to_a_slow_reader(
    authority: Authority, side: str, version: str
) -> None:
    payload = os.urandom(EIGHT_MEBIBYTES)
    protocol = RecordingProtocol()
    async with tls_connected(protocol, authority, side, version) as (transport, peer):
        transport.write(payload)
        transport.close()
        assert transport.is_closing()
        received = await in_thread(digest_slowly_and_close, peer)
        assert received == (len(payload), hashlib.sha256(payload).hexdigest())
        assert await protocol.called("connection_lost") is None
        assert protocol.log[0] == "connection_made"
        assert protocol.log[-1] == "connection_lost"


@both_versions
async def test_an_orderly_end_by_the_peer_delivers_everything_and_the_eof(
    authority: Authority, version: str
) -> None:
    payload = os.urandom(1 << 20)
    protocol = RecordingProtocol()

    def send_and_end(peer: ssl.SSLSocket) -> None:
        peer.sendall(payload)
        peer.unwrap().close()

    async with tls_connected(protocol, authority, version=version) as (_, peer):
        ending = in_thread(send_and_end, peer)
        assert await protocol.called("connection_lost") is None
        await ending
        assert protocol.data == payload
        assert protocol.log == [
            "connection_made",
            "data_received",
            "eof_received",
            "connection_lost",
        ]


@both_versions
async def test_what_came_before_the_peers_end_is_delivered_although_reading_was_paused(
    authority: Authority, version: str
) -> None:
    protocol = RecordingProtocol()
    async with tls_connected(protocol, authority, version=version) as (transport, peer):
        transport.pause_reading()
        peer.sendall(b"last words")
        ending = in_thread(lambda: peer.unwrap().close())
        await turns(20)
        assert protocol.data == b""
        transport.resume_reading()
        await protocol.called("connection_lost")
        assert protocol.data == b"last words"
        with contextlib.suppress(OSError):
            await ending


async def test_an_end_without_a_close_notify_still_delivers_what_came(
    authority: Authority,
) -> None:
    protocol = RecordingProtocol()
    async with tls_connected(protocol, authority) as (_, peer):
        peer.sendall(b"cut off")
        raw = socket.socket(fileno=peer.detach())
        raw.close()
        await protocol.called("connection_lost")
        assert protocol.data == b"cut off"


async def test_abort_ends_at_once(authority: Authority) -> None:
    protocol = RecordingProtocol()
    async with tls_connected(protocol, authority) as (transport, _):
        transport.write(bytes(EIGHT_MEBIBYTES))
        transport.abort()
        assert transport.is_closing()
        assert await protocol.called("connection_lost") is None
        assert protocol.count("connection_lost") == 1


async def test_closing_twice_loses_the_connection_once(authority: Authority) -> None:
    protocol = RecordingProtocol()
    async with tls_connected(protocol, authority) as (transport, peer):
        transport.close()
        transport.close()
        await in_thread(digest_slowly_and_close, peer)
        assert await protocol.called("connection_lost") is None
        await turns(2)
        assert protocol.count("connection_lost") == 1


async def test_half_closing_is_not_offered(authority: Authority) -> None:
    async with tls_connected(RecordingProtocol(), authority) as (transport, _):
        assert transport.can_write_eof() is False
        with pytest.raises(NotImplementedError):
            transport.write_eof()


async def test_wrong_types_are_refused(authority: Authority) -> None:
    async with tls_connected(RecordingProtocol(), authority) as (transport, _):
        with pytest.raises(TypeError, match="data: expecting a bytes-like instance, got str"):
            transport.write("text")  # type: ignore[arg-type]


async def test_reading_is_paused_and_resumed(authority: Authority) -> None:
    protocol = RecordingProtocol()
    async with tls_connected(protocol, authority) as (transport, peer):
        transport.pause_reading()
        assert not transport.is_reading()
        peer.sendall(b"held back")
        await turns(20)
        assert protocol.data == b""
        transport.resume_reading()
        assert transport.is_reading()
        assert await protocol.received(9) == b"held back"


async def test_writing_is_paused_and_resumed(authority: Authority) -> None:
    protocol = RecordingProtocol()
    async with tls_connected(protocol, authority) as (transport, peer):
        low, high = transport.get_write_buffer_limits()
        assert 0 <= low < high
        written = 0
        # How much the connection below takes before it is full is not promised.
        while not protocol.count("pause_writing"):
            assert written < 8 * EIGHT_MEBIBYTES
            written += EIGHT_MEBIBYTES // 8
            transport.write(bytes(EIGHT_MEBIBYTES // 8))
        receiving = in_thread(receive_exactly, peer, written)
        await protocol.called("resume_writing")
        await receiving
        await eventually(lambda: transport.get_write_buffer_size() == 0)


async def test_a_protocol_set_mid_stream_gets_what_follows(authority: Authority) -> None:
    old, new = RecordingProtocol(), RecordingBufferedProtocol()
    async with tls_connected(old, authority) as (transport, peer):
        peer.sendall(b"old")
        await old.received(3)
        transport.set_protocol(new)
        assert transport.get_protocol() is new
        peer.sendall(b"new")
        assert await new.received(3) == b"new"
        assert old.data == b"old"


@both_sides
@both_versions
async def test_extra_info_has_the_facts_of_the_ssl_module(
    authority: Authority, side: str, version: str
) -> None:
    async with tls_connected(RecordingProtocol(), authority, side, version) as (transport, peer):
        information = transport.get_extra_info
        assert isinstance(information("ssl_object"), ssl.SSLObject)
        assert isinstance(information("sslcontext"), ssl.SSLContext)
        assert information("cipher") == information("ssl_object").cipher()
        assert information("cipher")[0] == peer.cipher()[0]  # type: ignore[index]
        assert information("compression") is None
        assert information("ssl_object").version() == peer.version()
        assert information("peername") == peer.getsockname()
        assert information("sockname") == peer.getpeername()
        assert information("socket").family == socket.AF_INET
        certificate = information("peercert")
        if side == "client":
            assert ("DNS", SERVER_NAME) in certificate["subjectAltName"]
        else:
            assert not certificate


@pytest.mark.parametrize("method", ["data_received", "eof_received"])
async def test_a_failing_read_callback_is_reported_and_loses_the_connection(
    authority: Authority, method: str, guard: LeakGuard
) -> None:
    failure = ZeroDivisionError("on purpose")

    class Failing(RecordingProtocol):
        def note(self, name: str, value: Any = None) -> None:
            super().note(name, value)
            if name == method:
                raise failure

    protocol = Failing()
    async with tls_connected(protocol, authority) as (_, peer):
        peer.sendall(b"data")
        ending = in_thread(lambda: peer.unwrap().close())
        error = await protocol.called("connection_lost")
        with contextlib.suppress(OSError):
            await ending
        (report,) = guard.take_reports()
        assert report["exception"] is failure
        assert error is failure
