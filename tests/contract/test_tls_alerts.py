"""A peer is told why its TLS connection has failed, before it ends (RFC 8446, 6.2).

asyncio closes the connection without sending the alert that OpenSSL has written.
"""

import asyncio
import contextlib
import socket
import ssl
from typing import Any

import pytest

from support.peers import stream_pair
from support.threads import eventually, in_thread
from support.tls import (
    BROKEN_RECORD,
    SERVER_NAME,
    TLS_VERSIONS,
    Authority,
    RecordPeer,
    connected_to_record_peer,
)

Loop = asyncio.AbstractEventLoop

not_on_asyncio = pytest.mark.fails_on("asyncio", reason="the alert of a failure is not sent")


class Recorder(asyncio.Protocol):
    """Keeps how the connection ended."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


def reason_told(peer: RecordPeer) -> str:
    """Shake hands and read; return the reason of the failure. Call it in a thread."""
    with pytest.raises(ssl.SSLError) as failure:
        peer.shake_hands()
        received = peer.receive()
        raise AssertionError(f"no alert came, but {received!r}")
    assert failure.value.reason is not None
    return failure.value.reason


async def reason_told_by(
    loop: Loop, ours: ssl.SSLContext, theirs: ssl.SSLContext, *, server_side: bool
) -> str:
    """Have a handshake fail on the loop's side; return the reason that the peer is told."""
    near, far = stream_pair("tcp")
    far.settimeout(20)
    with far:
        peer = RecordPeer(far, theirs, server_side=not server_side)
        telling = in_thread(reason_told, peer)
        connecting: Any
        if server_side:
            connecting = loop.connect_accepted_socket(asyncio.Protocol, near, ssl=ours)
        else:
            connecting = loop.create_connection(
                asyncio.Protocol, sock=near, ssl=ours, server_hostname=SERVER_NAME
            )
        # A client of TLS 1.3 may have ended its handshake before.
        transport = None
        with contextlib.suppress(ssl.SSLError):
            transport, _ = await connecting
        try:
            return await telling
        finally:
            if transport is not None:
                transport.abort()
            await eventually(lambda: near.fileno() == -1)


@not_on_asyncio
@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("tls1.2", "SSLV3_ALERT_HANDSHAKE_FAILURE"),
        ("tls1.3", "TLSV13_ALERT_CERTIFICATE_REQUIRED"),
    ],
)
async def test_a_client_without_a_certificate_learns_that_it_needs_one(
    loop: Loop, authority: Authority, version: str, reason: str
) -> None:
    theirs = authority.client_context(version)
    ours = authority.mutual_server_context()
    assert await reason_told_by(loop, ours, theirs, server_side=True) == reason


@not_on_asyncio
async def test_a_client_with_an_unknown_certificate_learns_that_it_is_not_trusted(
    loop: Loop, authority: Authority
) -> None:
    stranger = Authority()
    theirs = authority.client_context()
    stranger.present_in(theirs)
    reason = await reason_told_by(loop, authority.mutual_server_context(), theirs, server_side=True)
    assert reason == "TLSV1_ALERT_UNKNOWN_CA"


@not_on_asyncio
async def test_a_server_learns_that_its_certificate_is_not_trusted(
    loop: Loop, authority: Authority
) -> None:
    ours, theirs = authority.client_context(), Authority().server_context()
    reason = await reason_told_by(loop, ours, theirs, server_side=False)
    assert reason == "TLSV1_ALERT_UNKNOWN_CA"


@not_on_asyncio
async def test_a_client_without_a_common_version_learns_so(
    loop: Loop, authority: Authority
) -> None:
    ours, theirs = authority.server_context("tls1.3"), authority.client_context("tls1.2")
    reason = await reason_told_by(loop, ours, theirs, server_side=True)
    assert reason == "TLSV1_ALERT_PROTOCOL_VERSION"


def send_changed_record(peer: RecordPeer) -> None:
    """Send a record that was changed on its way."""
    record = bytearray(peer.encrypt(b"x"))
    record[-1] ^= 1
    peer.sock.sendall(record)


def send_broken(peer: RecordPeer) -> str:
    """Send a record that was changed on its way; return the reason that comes back."""
    send_changed_record(peer)
    with pytest.raises(ssl.SSLError) as failure:
        peer.receive()
    assert failure.value.reason is not None
    return failure.value.reason


@not_on_asyncio
@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_a_peer_whose_record_is_broken_learns_so(authority: Authority, version: str) -> None:
    protocol = Recorder()
    async with connected_to_record_peer(protocol, authority, version) as (_, peer):
        reason = await in_thread(send_broken, peer)
        assert reason == "SSLV3_ALERT_BAD_RECORD_MAC"
        lost = await protocol.lost
        assert isinstance(lost, ssl.SSLError)
        assert lost.reason in BROKEN_RECORD


@not_on_asyncio
async def test_a_client_that_goes_on_sending_learns_that_it_needs_a_certificate(
    loop: Loop, authority: Authority
) -> None:
    """A client of TLS 1.3 sends its request before the server has refused it."""

    def send_then_read(peer: RecordPeer) -> str | None:
        peer.shake_hands()
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                peer.send(b"x" * 16_000)
        try:
            received = peer.receive()
        except ssl.SSLError as error:
            return error.reason
        raise AssertionError(f"no alert came, but {received!r}")

    near, far = stream_pair("tcp")
    far.settimeout(20)
    with far:
        peer = RecordPeer(far, authority.client_context("tls1.3"), server_side=False)
        telling = in_thread(send_then_read, peer)
        with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
            await loop.connect_accepted_socket(
                asyncio.Protocol, near, ssl=authority.mutual_server_context()
            )
        assert await telling == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        await eventually(lambda: near.fileno() == -1)


@not_on_asyncio
async def test_the_alert_comes_behind_what_was_written(authority: Authority) -> None:
    """The peer does not read until the connection has failed."""
    data = b"x" * (1 << 20)

    def fail_then_read(peer: RecordPeer) -> tuple[int, str | None]:
        send_changed_record(peer)
        count = 0
        try:
            while data := peer.receive_exactly(1):
                count += len(data)
        except ssl.SSLError as error:
            return count, error.reason
        raise AssertionError

    protocol = Recorder()
    async with connected_to_record_peer(protocol, authority) as (transport, peer):
        transport.write(data)
        count, reason = await in_thread(fail_then_read, peer)
        assert reason == "SSLV3_ALERT_BAD_RECORD_MAC"
        assert 0 < count <= len(data)
        assert isinstance(await protocol.lost, ssl.SSLError)


async def test_a_peer_that_reads_nothing_does_not_hold_up_the_end_of_a_failed_connection(
    authority: Authority,
) -> None:
    protocol = Recorder()
    async with connected_to_record_peer(protocol, authority) as (transport, peer):
        transport.write(b"x" * (1 << 24))
        send_changed_record(peer)
        async with asyncio.timeout(10):
            lost = await protocol.lost
        assert isinstance(lost, ssl.SSLError)
        assert transport.is_closing()


@pytest.mark.parametrize("version", TLS_VERSIONS)
async def test_an_alert_that_cannot_be_sent_hides_no_failure(
    authority: Authority, version: str
) -> None:
    protocol = Recorder()
    async with connected_to_record_peer(protocol, authority, version) as (transport, peer):
        # As if the peer were gone already: what it has sent can be read, and writing fails.
        transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
        send_changed_record(peer)
        async with asyncio.timeout(10):
            lost = await protocol.lost
        assert isinstance(lost, ssl.SSLError)
        assert lost.reason in BROKEN_RECORD
