"""TLS handshakes: what is negotiated, who is refused, and how long the loop waits."""

import asyncio
import contextlib
import socket
import ssl
from typing import Any

import pytest

from support.peers import LOOPBACK, receive_until_eof, stream_pair
from support.protocols import RecordingProtocol
from support.threads import PEER_TIMEOUT, eventually, in_thread
from support.tls import SERVER_NAME, Authority, wrap_client, wrap_server

Loop = asyncio.AbstractEventLoop


async def test_alpn_is_negotiated(authority: Authority, loop: Loop) -> None:
    server, client = authority.server_context(), authority.client_context()
    server.set_alpn_protocols(["http/1.1", "h2"])
    client.set_alpn_protocols(["h2"])
    ours, peer = stream_pair("tcp")
    wrapping = in_thread(wrap_server, server, peer)
    transport, protocol = await loop.create_connection(
        RecordingProtocol, sock=ours, ssl=client, server_hostname=SERVER_NAME
    )
    with await wrapping as secured:
        assert secured.selected_alpn_protocol() == "h2"
        assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        transport.abort()
        await protocol.called("connection_lost")


async def test_a_certificate_of_the_client_is_seen_by_the_server(
    authority: Authority, loop: Loop
) -> None:
    protocol = RecordingProtocol()
    server = await loop.create_server(
        lambda: protocol, LOOPBACK, 0, ssl=authority.mutual_server_context()
    )

    def exchange() -> bytes:
        raw = socket.create_connection(server.sockets[0].getsockname(), timeout=PEER_TIMEOUT)
        with wrap_client(authority.mutual_client_context(), raw) as secured:
            secured.sendall(b"hello")
            return secured.recv(100)

    exchanging = in_thread(exchange)
    assert await protocol.received(5) == b"hello"
    certificate = protocol.transport.get_extra_info("peercert")
    assert ("DNS", SERVER_NAME) in certificate["subjectAltName"]
    protocol.transport.write(b"welcome")
    assert await exchanging == b"welcome"
    await protocol.called("connection_lost")
    server.close()
    await server.wait_closed()


async def test_the_servers_sni_callback_is_called(authority: Authority, loop: Loop) -> None:
    names: list[Any] = []
    context = authority.server_context()
    context.sni_callback = lambda _object, name, _context: names.append(name)
    ours, peer = stream_pair("tcp")
    wrapping = in_thread(wrap_client, authority.client_context(), peer)
    transport, protocol = await loop.connect_accepted_socket(RecordingProtocol, ours, ssl=context)
    with await wrapping:
        assert names == [SERVER_NAME]
        transport.abort()
        await protocol.called("connection_lost")


@pytest.mark.parametrize(
    ("trusted", "name", "message"),
    [
        (False, SERVER_NAME, "certificate verify failed"),
        (True, "other.name", "Hostname mismatch"),
    ],
    ids=["unknown authority", "another name"],
)
async def test_a_certificate_that_does_not_verify_is_refused(
    authority: Authority, loop: Loop, trusted: bool, name: str, message: str
) -> None:
    context = authority.client_context() if trusted else ssl.create_default_context()
    ours, peer = stream_pair("tcp")

    def fail_to_wrap() -> None:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            # With TLS 1.3 the server learns of the refusal only when it reads.
            wrap_server(authority.server_context(), peer).recv(1)

    wrapping = in_thread(fail_to_wrap)
    protocol = RecordingProtocol()
    with pytest.raises(ssl.SSLCertVerificationError, match=message):
        await loop.create_connection(lambda: protocol, sock=ours, ssl=context, server_hostname=name)
    await wrapping
    peer.close()
    await eventually(lambda: ours.fileno() == -1)
    assert protocol.calls == []


async def test_a_peer_that_does_not_speak_tls_is_an_error(authority: Authority, loop: Loop) -> None:
    ours, peer = stream_pair("tcp")
    with peer:
        peer.sendall(b"220 this is not TLS\r\n")
        with pytest.raises(ssl.SSLError, match=r"WRONG_VERSION_NUMBER|wrong version number"):
            await loop.create_connection(
                RecordingProtocol,
                sock=ours,
                ssl=authority.client_context(),
                server_hostname=SERVER_NAME,
            )
        await eventually(lambda: ours.fileno() == -1)


async def test_a_peer_that_hangs_up_in_the_handshake_is_an_error(
    authority: Authority, loop: Loop
) -> None:
    ours, peer = stream_pair("tcp")
    connecting = asyncio.ensure_future(
        loop.create_connection(
            RecordingProtocol,
            sock=ours,
            ssl=authority.client_context(),
            server_hostname=SERVER_NAME,
        )
    )
    await in_thread(peer.recv, 100)
    peer.close()
    with pytest.raises(ConnectionResetError):
        await connecting
    await eventually(lambda: ours.fileno() == -1)


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_handshake_that_takes_too_long_is_aborted(
    authority: Authority, loop: Loop, side: str
) -> None:
    ours, peer = stream_pair("tcp")
    with peer:
        if side == "client":
            connecting: Any = loop.create_connection(
                RecordingProtocol,
                sock=ours,
                ssl=authority.client_context(),
                server_hostname=SERVER_NAME,
                ssl_handshake_timeout=0.05,
            )
        else:
            connecting = loop.connect_accepted_socket(
                RecordingProtocol,
                ours,
                ssl=authority.server_context(),
                ssl_handshake_timeout=0.05,
            )
        with pytest.raises(
            ConnectionAbortedError,
            match=r"SSL handshake is taking longer than 0.05 seconds: aborting the connection",
        ):
            await connecting
        await eventually(lambda: ours.fileno() == -1)


async def test_a_shutdown_that_takes_too_long_is_aborted(authority: Authority, loop: Loop) -> None:
    ours, peer = stream_pair("tcp")
    wrapping = in_thread(wrap_server, authority.server_context(), peer)
    transport, protocol = await loop.create_connection(
        RecordingProtocol,
        sock=ours,
        ssl=authority.client_context(),
        server_hostname=SERVER_NAME,
        ssl_shutdown_timeout=0.05,
    )
    with await wrapping:
        transport.close()
        error = await protocol.called("connection_lost")
        assert isinstance(error, TimeoutError)
        assert str(error) == "SSL shutdown timed out"


@pytest.mark.parametrize("option", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
@pytest.mark.parametrize("seconds", [0, -1])
async def test_a_timeout_must_be_positive(
    authority: Authority, loop: Loop, option: str, seconds: int
) -> None:
    timeout: dict[str, Any] = {option: seconds}
    ours, peer = stream_pair("tcp")
    with (
        ours,
        peer,
        pytest.raises(ValueError, match=f"{option} should be a positive number, got"),
    ):
        await loop.create_connection(
            RecordingProtocol,
            sock=ours,
            ssl=authority.client_context(),
            server_hostname=SERVER_NAME,
            **timeout,
        )


async def test_a_server_survives_clients_that_fail_the_handshake(
    authority: Authority, loop: Loop
) -> None:
    protocol = RecordingProtocol()
    server = await loop.create_server(lambda: protocol, LOOPBACK, 0, ssl=authority.server_context())
    address = server.sockets[0].getsockname()

    def send_nonsense() -> None:
        with socket.create_connection(address, timeout=PEER_TIMEOUT) as peer:
            peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                receive_until_eof(peer)

    def exchange() -> None:
        raw = socket.create_connection(address, timeout=PEER_TIMEOUT)
        with wrap_client(authority.client_context(), raw) as secured:
            secured.sendall(b"hello")
            receive_until_eof(secured)

    await in_thread(send_nonsense)
    exchanging = in_thread(exchange)
    assert await protocol.received(5) == b"hello"
    protocol.transport.close()
    await exchanging
    await protocol.called("connection_lost")
    server.close()
    await server.wait_closed()
