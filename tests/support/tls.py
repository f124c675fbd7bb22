"""Certificates and TLS peers: a throw-away authority, and connections secured by it.

Blocking peers use ``ssl.SSLSocket``; what the loop does with TLS is thus tested against OpenSSL's
own socket layer. One authority serves the whole run (``authority`` in ``tests/conftest.py``).
"""

import asyncio
import contextlib
import copy
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Self

import trustme

from rloop import tls
from support.peers import stream_pair
from support.threads import PEER_TIMEOUT, eventually, in_thread

TLS_VERSIONS = {"tls1.2": ssl.TLSVersion.TLSv1_2, "tls1.3": ssl.TLSVersion.TLSv1_3}
SERVER_NAME = "localhost"

#: Reasons that are given for a record with a wrong tag: OpenSSL's newer one is from 3.2 on.
BROKEN_RECORD = frozenset({"DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "RECORD_LAYER_FAILURE"})


class Authority:
    """Issues one certificate for SERVER_NAME and 127.0.0.1, and makes contexts that trust it."""

    def __init__(self) -> None:
        self._authority = trustme.CA()
        self._leaf = self._authority.issue_cert(SERVER_NAME, "127.0.0.1")
        self._engine = "openssl"
        self._strict_options: int | None = None

    def serving(self, engine: str) -> Self:
        """Return this authority, making contexts that are ``rustls``' or plain ones.

        Blocking peers use either as OpenSSL's.
        """
        other = copy.copy(self)
        other._engine = engine
        return other

    @property
    def engine(self) -> str:
        """The name of the engine that :meth:`serving` takes."""
        return self._engine

    def being_strict(self, options: int = 0) -> Self:
        """Return this authority, making strict contexts with these options where rustls serves."""
        other = copy.copy(self)
        other._strict_options = options
        return other

    def _context(self, protocol: int) -> ssl.SSLContext:
        if self._engine != "rustls":
            return ssl.SSLContext(protocol)
        context = tls.Context(protocol)
        if self._strict_options is not None:
            context.options |= self._strict_options
            context._record.strict = True
        return context

    def server_context(self, version: str | None = None) -> ssl.SSLContext:
        """Return a context that presents the certificate, of one TLS version if it is named."""
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        self._leaf.configure_cert(context)
        return self._limit(context, version)

    def client_context(self, version: str | None = None) -> ssl.SSLContext:
        """Return a context that trusts the authority, of one TLS version if it is named."""
        context = self._context(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return self._limit(context, version)

    def present_in(self, context: ssl.SSLContext) -> None:
        """Have a context present the certificate."""
        self._leaf.configure_cert(context)

    def mutual_server_context(self) -> ssl.SSLContext:
        """Return a server's context that demands a certificate of the client."""
        context = self.server_context()
        self._authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def mutual_client_context(self) -> ssl.SSLContext:
        """Return a client's context that presents the certificate too."""
        context = self.client_context()
        self._leaf.configure_cert(context)
        return context

    @staticmethod
    def _limit(context: ssl.SSLContext, version: str | None) -> ssl.SSLContext:
        if version is not None:
            context.minimum_version = context.maximum_version = TLS_VERSIONS[version]
        # A context that moved to the other engine would be tested twice, and this one not at all.
        assert not isinstance(context, tls.Context) or context.engine == "rustls"
        return context


def wrap_server(context: ssl.SSLContext, peer: socket.socket) -> ssl.SSLSocket:
    """Handshake as the server of a blocking socket; call it in a thread."""
    return context.wrap_socket(peer, server_side=True)


def wrap_client(context: ssl.SSLContext, peer: socket.socket) -> ssl.SSLSocket:
    """Handshake as the client of a blocking socket; call it in a thread."""
    return context.wrap_socket(peer, server_hostname=SERVER_NAME)


class RecordPeer:
    """A TLS peer on a blocking socket that decides itself when which record is sent.

    ``ssl.SSLSocket`` cannot close its own side and go on reading, nor tell how many records came.
    """

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool = True
    ) -> None:
        self.sock = sock
        self.records: list[int] = []
        """The sizes of the bodies of all records that came whole, in bytes."""
        self._unsplit = b""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=None if server_side else SERVER_NAME,
        )

    def _send_all(self, ciphertext: bytes) -> None:
        self.sock.sendall(ciphertext)

    def _receive_ciphertext(self) -> bytes:
        return self.sock.recv(1 << 16)

    def _flush(self) -> None:
        self._send_all(self._outgoing.read())

    def _receive_some(self) -> None:
        ciphertext = self._receive_ciphertext()
        if not ciphertext:
            raise EOFError("the stream ended")
        self._incoming.write(ciphertext)
        self._unsplit += ciphertext
        while len(self._unsplit) >= 5:
            size = int.from_bytes(self._unsplit[3:5], "big")
            if len(self._unsplit) < 5 + size:
                break
            self.records.append(size)
            self._unsplit = self._unsplit[5 + size :]

    def shake_hands(self) -> None:
        """Do the handshake."""
        while True:
            try:
                self._session.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._receive_some()
            else:
                self._flush()
                return

    def encrypt(self, data: bytes) -> bytes:
        """Return the record of ``data`` instead of sending it."""
        self._session.write(data)
        return self._outgoing.read()

    def send(self, data: bytes) -> None:
        """Send ``data`` in one record."""
        self._send_all(self.encrypt(data))

    def encrypt_end(self) -> bytes:
        """Return the record of a close notification instead of sending it."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._session.unwrap()
        return self._outgoing.read()

    def end(self) -> None:
        """Send a close notification, and wait for none."""
        self.sock.sendall(self.encrypt_end())

    def receive(self) -> bytes:
        """Read until the other side's close notification, or its end of the stream."""
        received = bytearray()
        while True:
            try:
                data = self._session.read(1 << 16)
            except ssl.SSLWantReadError:
                try:
                    self._receive_some()
                except EOFError:
                    return bytes(received)
            except ssl.SSLZeroReturnError:
                return bytes(received)
            else:
                if not data:
                    return bytes(received)
                received += data

    def receive_some_data(self) -> bytes:
        """Read until there is some data, and return it."""
        while True:
            try:
                return self._session.read(1 << 16)
            except ssl.SSLWantReadError:
                self._receive_some()

    def receive_exactly(self, count: int) -> bytes:
        """Read that many bytes."""
        received = bytearray()
        while len(received) < count:
            try:
                received += self._session.read(count - len(received))
            except ssl.SSLWantReadError:
                self._receive_some()
        return bytes(received)


class NestedRecordPeer(RecordPeer):
    """A TLS peer whose records travel inside another TLS connection."""

    def __init__(self, outer: RecordPeer, context: ssl.SSLContext) -> None:
        super().__init__(outer.sock, context)
        self._outer = outer

    def _send_all(self, ciphertext: bytes) -> None:
        if ciphertext:
            self._outer.send(ciphertext)

    def _receive_ciphertext(self) -> bytes:
        return self._outer.receive_some_data()


@contextlib.asynccontextmanager
async def connected_to_record_peer(
    protocol: asyncio.BaseProtocol,
    authority: Authority,
    version: str | None = None,
    *,
    patience: float = PEER_TIMEOUT,
) -> AsyncIterator[tuple[asyncio.Transport, RecordPeer]]:
    """Attach a TLS client to the protocol; give its transport and the server as a RecordPeer.

    ``patience`` is how long the peer waits for anything, in seconds.
    """
    ours, sock = stream_pair("tcp")
    sock.settimeout(patience)
    loop = asyncio.get_running_loop()
    peer = RecordPeer(sock, authority.server_context(version))
    with sock:
        shaking_hands = in_thread(peer.shake_hands)
        transport, _ = await loop.create_connection(
            lambda: protocol,
            sock=ours,
            ssl=authority.client_context(version),
            server_hostname=SERVER_NAME,
        )
        try:
            await shaking_hands
            yield transport, peer
        finally:
            if ours.fileno() != -1:
                transport.abort()
            await eventually(lambda: ours.fileno() == -1)


@contextlib.asynccontextmanager
async def tls_connected(
    protocol: asyncio.BaseProtocol,
    authority: Authority,
    side: str = "client",
    version: str | None = None,
) -> AsyncIterator[tuple[asyncio.Transport, ssl.SSLSocket]]:
    """Attach one end of a TLS connection to the protocol; give its transport and the peer.

    ``side`` is the loop's role in the handshake. At the end the transport is aborted if the test
    did not close it, and is waited for.
    """
    ours, peer = stream_pair("tcp")
    loop = asyncio.get_running_loop()
    server, client = authority.server_context(version), authority.client_context(version)
    if side == "client":
        wrapping = in_thread(wrap_server, server, peer)
        transport, _ = await loop.create_connection(
            lambda: protocol, sock=ours, ssl=client, server_hostname=SERVER_NAME
        )
    else:
        wrapping = in_thread(wrap_client, client, peer)
        accepted = await loop.connect_accepted_socket(lambda: protocol, ours, ssl=server)
        transport = accepted[0]
    with await wrapping as secured:
        secured.settimeout(PEER_TIMEOUT)
        try:
            yield transport, secured
        finally:
            if ours.fileno() != -1:
                transport.abort()
            await eventually(lambda: ours.fileno() == -1)
