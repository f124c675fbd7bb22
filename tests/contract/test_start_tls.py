"""start_tls: a plain connection turns into a TLS one, and a TLS one into TLS inside TLS."""

import asyncio
import contextlib
import select
import socket
import ssl
import sys
import threading
from asyncio import sslproto

import pytest

from support.peers import LOOPBACK, connected, receive_exactly, stream_pair
from support.protocols import RecordingProtocol
from support.threads import PEER_TIMEOUT, eventually, in_thread, turns
from support.tls import SERVER_NAME, TLS_VERSIONS, Authority, wrap_client, wrap_server

Loop = asyncio.AbstractEventLoop

both_versions = pytest.mark.parametrize("version", TLS_VERSIONS)


@both_versions
async def test_a_client_upgrades_after_plain_text(
    authority: Authority, loop: Loop, version: str
) -> None:
    protocol = RecordingProtocol()
    ours, peer = stream_pair("tcp")

    def serve() -> ssl.SSLSocket:
        assert receive_exactly(peer, 8) == b"STARTTLS"
        peer.sendall(b"GO")
        return wrap_server(authority.server_context(version), peer)

    serving = in_thread(serve)
    plain, _ = await loop.create_connection(lambda: protocol, sock=ours)
    plain.write(b"STARTTLS")
    assert await protocol.received(2) == b"GO"
    secured = await loop.start_tls(
        plain, protocol, authority.client_context(version), server_hostname=SERVER_NAME
    )
    with await serving as tls_peer:
        assert secured is not None
        assert secured is not plain
        assert secured.get_extra_info("ssl_object").version() == tls_peer.version()
        assert secured.get_protocol() is protocol
        # connection_made is not called a second time.
        assert protocol.count("connection_made") == 1
        secured.write(b"secret")
        assert await in_thread(receive_exactly, tls_peer, 6) == b"secret"
        tls_peer.sendall(b"answer")
        assert await protocol.received(8) == b"GOanswer"
        secured.close()
        await in_thread(tls_peer.recv, 1)
    await protocol.called("connection_lost")
    assert protocol.count("connection_lost") == 1


@both_versions
async def test_a_server_upgrades_although_the_hello_came_with_the_request(
    authority: Authority, loop: Loop, version: str
) -> None:
    """The client sends its request and its first TLS record at once; the server pauses in time."""

    class Upgrading(RecordingProtocol):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if data == b"S":
                self.transport.pause_reading()

    protocol = Upgrading()
    ours, peer = stream_pair("tcp")
    plain, _ = await loop.connect_accepted_socket(lambda: protocol, ours)
    peer.sendall(b"S")
    await protocol.received(1)
    wrapping = in_thread(wrap_client, authority.client_context(version), peer)
    # The hello now waits in the socket of the paused transport.
    await turns(20)
    secured = await loop.start_tls(
        plain, protocol, authority.server_context(version), server_side=True
    )
    assert secured is not None
    with await wrapping as tls_peer:
        tls_peer.sendall(b"secret")
        assert await protocol.received(7) == b"Ssecret"
        secured.write(b"answer")
        assert await in_thread(receive_exactly, tls_peer, 6) == b"answer"
        secured.close()
        await in_thread(tls_peer.recv, 1)
    await protocol.called("connection_lost")


async def test_a_stream_writer_upgrades_itself(authority: Authority) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"GO\n")
        await writer.drain()
        await writer.start_tls(authority.server_context())
        writer.write((await reader.readline()).upper())
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"STARTTLS\n")
    assert await reader.readline() == b"GO\n"
    await writer.start_tls(authority.client_context(), server_hostname=SERVER_NAME)
    writer.write(b"secret\n")
    assert await reader.readline() == b"SECRET\n"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


def call_with_the_hello_in_the_same_packet(
    address: tuple[str, int], context: ssl.SSLContext
) -> None:
    """Send the request and the first TLS record at once, then go on as a TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=SERVER_NAME)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    with socket.create_connection(address, timeout=PEER_TIMEOUT) as peer:
        peer.sendall(b"STARTTLS\n" + outgoing.read())
        while answer := peer.recv(1 << 16):
            incoming.write(answer)
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                peer.sendall(outgoing.read())
            else:
                client.write(b"secret")
                peer.sendall(outgoing.read())
                peer.recv(1)
                return


@pytest.mark.fails_on(
    "asyncio",
    when=sys.version_info < (3, 14),
    reason="https://github.com/python/cpython/issues/142352: the buffered hello is lost",
)
async def test_a_hello_that_the_stream_reader_already_buffered_is_not_lost(
    authority: Authority, loop: Loop, loop_name: str
) -> None:
    upgraded = loop.create_future()
    # As little as is enough where the hello is lost, which only the timeout tells.
    patience = 1 if loop_name == "asyncio" and sys.version_info < (3, 14) else PEER_TIMEOUT

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        try:
            await writer.start_tls(authority.server_context(), ssl_handshake_timeout=patience)
            upgraded.set_result(await reader.readexactly(6))
        except OSError as error:
            upgraded.set_exception(error)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    address = server.sockets[0].getsockname()
    calling = in_thread(call_with_the_hello_in_the_same_packet, address, authority.client_context())
    try:
        assert await upgraded == b"secret"
    finally:
        with contextlib.suppress(ConnectionResetError):
            await calling
        server.close()
        await server.wait_closed()


def relay(outer: ssl.SSLSocket, inner: socket.socket) -> None:
    """Copy both directions until one ends, which may be by a reset, and end the inner one.

    On one thread: OpenSSL's sessions are not made for two at once.
    """
    data = b"some"
    with contextlib.suppress(OSError):
        while data:
            source = outer if outer.pending() else select.select([outer, inner], [], [])[0][0]
            data = source.recv(1 << 16)
            (inner if source is outer else outer).sendall(data)
    with contextlib.suppress(OSError):
        inner.shutdown(socket.SHUT_WR)


def serve_tls_in_tls(peer: socket.socket, authority: Authority) -> bytes:
    """Be a TLS proxy in front of a TLS server; return what that server got, having answered."""
    inner_client_end, inner_server_end = socket.socketpair()
    received: list[bytes] = []

    def serve_inner() -> None:
        with wrap_server(authority.server_context(), inner_server_end) as inner:
            received.append(receive_exactly(inner, 6))
            inner.sendall(b"answer")
            inner.recv(1)

    with wrap_server(authority.server_context(), peer) as outer, inner_client_end:
        serving = threading.Thread(target=serve_inner)
        serving.start()
        relay(outer, inner_client_end)
        serving.join()
    return received[0]


async def test_tls_inside_tls(authority: Authority, loop: Loop) -> None:
    protocol = RecordingProtocol()
    ours, peer = stream_pair("tcp")
    serving = in_thread(serve_tls_in_tls, peer, authority)
    outer, _ = await loop.create_connection(
        lambda: protocol,
        sock=ours,
        ssl=authority.client_context(),
        server_hostname=SERVER_NAME,
    )
    inner = await loop.start_tls(
        outer, protocol, authority.client_context(), server_hostname=SERVER_NAME
    )
    assert inner is not None
    inner.write(b"secret")
    assert await protocol.received(6) == b"answer"
    inner.abort()
    assert await serving == b"secret"
    await eventually(lambda: ours.fileno() == -1)


async def test_tls_inside_tls_of_the_same_loop_at_both_ends(
    authority: Authority, loop: Loop
) -> None:
    """Every record of the inner session is plaintext of the outer one, on both sides."""
    client, server = RecordingProtocol(), RecordingProtocol()
    ours, theirs = stream_pair("tcp")
    theirs.settimeout(0)
    outer_client, outer_server = await asyncio.gather(
        loop.create_connection(
            lambda: client, sock=ours, ssl=authority.client_context(), server_hostname=SERVER_NAME
        ),
        loop.connect_accepted_socket(lambda: server, theirs, ssl=authority.server_context()),
    )
    inner_client, inner_server = await asyncio.gather(
        loop.start_tls(
            outer_client[0], client, authority.client_context(), server_hostname=SERVER_NAME
        ),
        loop.start_tls(outer_server[0], server, authority.server_context(), server_side=True),
    )
    assert inner_client is not None
    assert inner_server is not None
    payload = bytes(range(256)) * 4096
    inner_client.write(payload)
    assert await server.received(len(payload)) == payload
    inner_server.write(payload)
    inner_server.close()
    assert await client.called("connection_lost") is None
    assert client.data == payload
    assert await server.called("connection_lost") is None
    await eventually(lambda: ours.fileno() == theirs.fileno() == -1)


async def test_tls_over_a_transport_of_another_kind(authority: Authority, loop: Loop) -> None:
    """The transport below is the standard library's TLS, which calls its protocol from Python."""
    protocol = RecordingProtocol()
    ours, peer = stream_pair("tcp")
    address = peer.getsockname()
    serving = in_thread(serve_tls_in_tls, peer, authority)
    secured = loop.create_future()
    outer = sslproto.SSLProtocol(
        loop, protocol, authority.client_context(), secured, server_hostname=SERVER_NAME
    )
    await loop.create_connection(lambda: outer, sock=ours)
    await secured
    inner = await loop.start_tls(
        protocol.transport, protocol, authority.client_context(), server_hostname=SERVER_NAME
    )
    assert inner is not None
    inner.write(b"secret")
    assert await protocol.received(6) == b"answer"
    assert inner.get_extra_info("peername") == address
    inner.abort()
    assert await serving == b"secret"
    assert await protocol.called("connection_lost") is None
    await eventually(lambda: ours.fileno() == -1)


async def test_a_context_is_required(authority: Authority, loop: Loop) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol) as (transport, _):
        with pytest.raises(
            TypeError, match=r"sslcontext is expected to be an instance of ssl.SSLContext, got None"
        ):
            await loop.start_tls(transport, protocol, None)  # type: ignore[arg-type]


async def test_a_transport_that_cannot_be_upgraded_is_refused(
    authority: Authority, loop: Loop
) -> None:
    class Foreign(asyncio.Transport):
        """A transport of nobody."""

    with pytest.raises(TypeError, match=r"transport <.*> is not supported by start_tls\(\)"):
        await loop.start_tls(Foreign(), RecordingProtocol(), authority.client_context())


async def test_an_upgrade_that_fails_closes_the_connection(
    authority: Authority, loop: Loop
) -> None:
    ours, peer = stream_pair("tcp")
    with peer:
        protocol = RecordingProtocol()
        plain, _ = await loop.create_connection(lambda: protocol, sock=ours)
        peer.sendall(b"this is not TLS\r\n")
        with pytest.raises(ssl.SSLError):
            await loop.start_tls(
                plain, protocol, authority.client_context(), server_hostname=SERVER_NAME
            )
        await eventually(lambda: ours.fileno() == -1)
