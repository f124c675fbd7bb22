"""Ends of the stream with and without a close notification of TLS.

asyncio reports both in the same way. TokioLoop does too, and tells them apart where it is asked.
"""

import asyncio
import socket
import ssl

import pytest

from support.protocols import RecordingProtocol
from support.threads import in_thread
from support.tls import TLS_VERSIONS, Authority, RecordPeer, connected_to_record_peer

DATA = b"last words"


def notify(peer: RecordPeer) -> None:
    peer.send(DATA)
    peer.end()


def notify_and_end(peer: RecordPeer) -> None:
    peer.send(DATA)
    peer.end()
    peer.sock.shutdown(socket.SHUT_WR)


def end(peer: RecordPeer) -> None:
    peer.send(DATA)
    peer.sock.shutdown(socket.SHUT_WR)


def end_in_a_record(peer: RecordPeer) -> None:
    peer.sock.sendall(peer.encrypt(DATA) + peer.encrypt(b"lost")[:-1])
    peer.sock.shutdown(socket.SHUT_WR)


#: Ways to end, and whether they say so.
ENDS = {
    "close_notify": (notify, True),
    "close_notify and FIN": (notify_and_end, True),
    "FIN": (end, False),
    "FIN in a record": (end_in_a_record, False),
}

each_version = pytest.mark.parametrize("version", TLS_VERSIONS)
each_end = pytest.mark.parametrize("way", ENDS)


@each_version
@each_end
async def test_every_end_is_reported_as_an_end(
    authority: Authority, version: str, way: str
) -> None:
    protocol = RecordingProtocol()
    async with connected_to_record_peer(protocol, authority, version) as (_, peer):
        await in_thread(ENDS[way][0], peer)
        peer.sock.settimeout(0)
        await protocol.called("eof_received")
        assert protocol.data == DATA
        peer.sock.close()
        assert await protocol.called("connection_lost") is None


@pytest.mark.only_on("rloop")
@each_version
@each_end
async def test_a_close_notification_can_be_asked_for(
    authority: Authority, version: str, way: str
) -> None:
    class Asking(RecordingProtocol):
        def eof_received(self) -> None:
            self.answers = [self.transport.get_extra_info("close_notify_received")]
            super().eof_received()

    send_end, is_notified = ENDS[way]
    protocol = Asking()
    async with connected_to_record_peer(protocol, authority, version) as (transport, peer):
        assert transport.get_extra_info("close_notify_received") is False
        await in_thread(send_end, peer)
        await protocol.called("eof_received")
        assert protocol.answers == [is_notified]
        peer.sock.close()
        await protocol.called("connection_lost")
        assert transport.get_extra_info("close_notify_received") is is_notified


@pytest.mark.only_on("rloop")
@each_version
@pytest.mark.parametrize("is_notified", [False, True])
async def test_the_answer_to_our_close_notification_can_be_asked_for(
    authority: Authority, version: str, is_notified: bool
) -> None:
    protocol = RecordingProtocol()
    async with connected_to_record_peer(protocol, authority, version) as (transport, peer):
        transport.close()
        assert await in_thread(peer.receive) == b""
        if is_notified:
            peer.end()
        peer.sock.close()
        assert await protocol.called("connection_lost") is None
        assert transport.get_extra_info("close_notify_received") is is_notified


@pytest.fixture
def strict() -> Authority:
    """An authority whose contexts are strict, which only those of rustls can be."""
    return Authority().serving("rustls").being_strict()


@pytest.mark.only_on("rloop")
@each_version
@each_end
@pytest.mark.parametrize("is_paused", [False, True])
async def test_a_strict_context_refuses_an_end_without_a_close_notification(
    strict: Authority, version: str, way: str, is_paused: bool
) -> None:
    protocol = RecordingProtocol()
    send_end, is_notified = ENDS[way]
    async with connected_to_record_peer(protocol, strict, version) as (transport, peer):
        if is_paused:
            transport.pause_reading()
        await in_thread(send_end, peer)
        if is_paused:
            transport.resume_reading()
        if is_notified:
            await protocol.called("eof_received")
            peer.sock.close()
        lost = await protocol.called("connection_lost")
        assert protocol.data == DATA
        if is_notified:
            assert lost is None
        else:
            assert isinstance(lost, ssl.SSLEOFError)
            assert lost.errno == ssl.SSLErrorNumber.SSL_ERROR_EOF
            assert protocol.count("eof_received") == 0


@pytest.mark.only_on("rloop")
async def test_a_reader_of_a_strict_context_learns_of_an_end_without_a_close_notification(
    strict: Authority,
) -> None:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    async with connected_to_record_peer(protocol, strict) as (transport, peer):
        writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
        peer.send(DATA)
        assert await reader.readexactly(len(DATA)) == DATA
        peer.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(ssl.SSLEOFError):
            await reader.read()
        with pytest.raises(ssl.SSLEOFError):
            await writer.wait_closed()


@pytest.mark.only_on("rloop")
@pytest.mark.parametrize("reason", ["closed", "ignoring"])
async def test_a_strict_context_takes_an_end_that_does_not_matter(
    strict: Authority, reason: str
) -> None:
    """The application has closed the connection, or has said that it takes such an end."""
    protocol = RecordingProtocol()
    if reason == "ignoring":
        strict = strict.being_strict(ssl.OP_IGNORE_UNEXPECTED_EOF)
    async with connected_to_record_peer(protocol, strict) as (transport, peer):
        if reason == "closed":
            transport.close()
            assert await in_thread(peer.receive) == b""
        peer.sock.close()
        assert await protocol.called("connection_lost") is None
