"""What a server answers to hellos that no library sends any more, with either engine.

The hellos are made here, so that what is offered is what was meant, whatever the OpenSSL at hand
was built with. The engines are asked themselves: asyncio does not send the alert of a handshake
that failed, and just ends the connection.
"""

import asyncio
import os
import socket
import ssl
from dataclasses import dataclass

import pytest

from rloop import tls
from support.certificates import Certificates
from support.fast_tls import over_bios
from support.peers import LOOPBACK, receive_until_eof
from support.threads import PEER_TIMEOUT, in_thread

Loop = asyncio.AbstractEventLoop

NULL, DEFLATE, LZS = (0, 1, 64)

SSL_3, TLS_1_0, TLS_1_1, TLS_1_2, TLS_1_3 = (0x0300, 0x0301, 0x0302, 0x0303, 0x0304)

ALERT, HANDSHAKE = 21, 22
SERVER_HELLO = 2
FATAL = 2
UNEXPECTED_MESSAGE = 10
HANDSHAKE_FAILURE, ILLEGAL_PARAMETER, DECODE_ERROR, PROTOCOL_VERSION = (40, 47, 50, 70)
INAPPROPRIATE_FALLBACK = 86

SUPPORTED_GROUPS, SIGNATURE_ALGORITHMS, ALPN, PADDING = (10, 13, 16, 21)
SUPPORTED_VERSIONS, KEY_SHARE = (43, 51)
SECP256R1, X25519 = (0x0017, 0x001D)
ECDSA_SECP256R1_SHA256 = 0x0403

CIPHERS = (
    0x1301,  # TLS_AES_128_GCM_SHA256
    0xC02B,  # ECDHE-ECDSA-AES128-GCM-SHA256
    0xC009,  # ECDHE-ECDSA-AES128-SHA, for the old versions
    0xC023,  # ECDHE-ECDSA-AES128-SHA256
)


#: Not a cipher: the client has fallen back to an older version.
FALLBACK = 0x5600


def vector(content: bytes, size: int) -> bytes:
    """Return the content with its length before it, in so many bytes."""
    return len(content).to_bytes(size, "big") + content


def numbers(*values: int) -> bytes:
    """Return 16 bits for each."""
    return b"".join(value.to_bytes(2, "big") for value in values)


@dataclass(frozen=True)
class Hello:
    """A client's hello, as far as the tests vary it."""

    version: int = TLS_1_2
    """The one in the hello's own field; what is supported beside it says an extension."""
    compression: tuple[int, ...] = (NULL,)
    supported: tuple[int, ...] = ()
    ciphers: tuple[int, ...] = CIPHERS
    protocol: bytes = b""
    padding: int = 0
    """Bytes that say nothing (RFC 7685)."""

    def _extensions(self) -> bytes:
        extensions = {
            SUPPORTED_GROUPS: vector(numbers(X25519, SECP256R1), 2),
            SIGNATURE_ALGORITHMS: vector(numbers(ECDSA_SECP256R1_SHA256), 2),
        }
        if self.supported:
            extensions[SUPPORTED_VERSIONS] = vector(numbers(*self.supported), 1)
            share = numbers(X25519) + vector(os.urandom(32), 2)
            extensions[KEY_SHARE] = vector(share, 2)
        if self.protocol:
            extensions[ALPN] = vector(vector(self.protocol, 1), 2)
        if self.padding:
            extensions[PADDING] = bytes(self.padding)
        return b"".join(numbers(kind) + vector(it, 2) for kind, it in extensions.items())

    def records(self, size: int = 1 << 14) -> bytes:
        """Return the records, with fragments of at most `size` bytes."""
        body = (
            numbers(self.version)
            + os.urandom(32)
            + vector(b"", 1)
            + vector(numbers(*self.ciphers), 2)
            + vector(bytes(self.compression), 1)
            + vector(self._extensions(), 2)
        )
        version = min(self.version, TLS_1_0)
        message = b"\1" + vector(body, 3)
        fragments = (message[start : start + size] for start in range(0, len(message), size))
        head = bytes([HANDSHAKE]) + numbers(version)
        return b"".join(head + vector(fragment, 2) for fragment in fragments)


@dataclass(frozen=True)
class Accepted:
    """What a server's hello says."""

    version: int
    compression: int


@dataclass(frozen=True)
class Refused:
    """The fatal alert that a server sends in place of its hello."""

    description: int


def read_hello(body: bytes) -> Accepted:
    """Read a server's hello (RFC 8446, 4.1.3, which has the layout of RFC 5246, 7.4.1.3)."""
    rest = body[35 + body[34] :]
    version, compression = int.from_bytes(body[:2], "big"), rest[2]
    extensions = rest[5:]
    while extensions:
        kind, size = (int.from_bytes(extensions[at : at + 2], "big") for at in (0, 2))
        if kind == SUPPORTED_VERSIONS:
            version = int.from_bytes(extensions[4 : 4 + size], "big")
        extensions = extensions[4 + size :]
    return Accepted(version, compression)


def server_context(certificates: Certificates, engine: str) -> ssl.SSLContext:
    """Make a server's context with the defaults of the ``ssl`` module."""
    kind = tls.Context if engine == "rustls" else ssl.SSLContext
    context = kind(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates["good"][0].file)
    return context


def answer_of(context: ssl.SSLContext, sent: bytes) -> Accepted | Refused:
    """Ask the engine of a context, which is sent some bytes at a time."""
    if isinstance(context, tls.Context):
        over_bios(context)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_side=True)
    for start in range(0, len(sent), 1460):
        incoming.write(sent[start : start + 1460])
        # It fails, or wants to hear more.
        with pytest.raises(ssl.SSLError) as failure:
            connection.do_handshake()
        if outgoing.pending:
            break
    answer = outgoing.read()
    kind, size = answer[0], int.from_bytes(answer[3:5], "big")
    content = answer[5 : 5 + size]
    if kind == ALERT:
        assert not isinstance(failure.value, ssl.SSLWantReadError)
        assert (len(answer), content[0]) == (7, FATAL), "nothing but the alert"
        return Refused(content[1])
    assert (kind, content[0]) == (HANDSHAKE, SERVER_HELLO)
    return read_hello(content[4 : 4 + int.from_bytes(content[1:4], "big")])


@pytest.mark.parametrize(
    "compression", [(NULL,), (NULL, DEFLATE), (DEFLATE, NULL)], ids=["none", "last", "first"]
)
def test_compression_that_is_offered_is_not_chosen(
    certificates: Certificates, engine: str, compression: tuple[int, ...]
) -> None:
    hello = Hello(compression=compression)
    answer = answer_of(server_context(certificates, engine), hello.records())
    assert answer == Accepted(TLS_1_2, NULL)


@pytest.mark.parametrize(
    "compression", [(DEFLATE,), (DEFLATE, LZS), ()], ids=["one", "two", "no method"]
)
def test_a_client_that_insists_on_compression_is_refused(
    certificates: Certificates, engine: str, compression: tuple[int, ...]
) -> None:
    """The null method must be in the list (RFC 5246, 7.4.1.2); no alert is named for it."""
    hello = Hello(compression=compression)
    answer = answer_of(server_context(certificates, engine), hello.records())
    assert isinstance(answer, Refused)
    assert answer.description in {HANDSHAKE_FAILURE, ILLEGAL_PARAMETER, DECODE_ERROR}


@pytest.mark.parametrize("compression", [(NULL, DEFLATE), (DEFLATE, NULL), (DEFLATE,)])
def test_tls_1_3_refuses_every_offer_of_compression(
    certificates: Certificates, engine: str, compression: tuple[int, ...]
) -> None:
    """RFC 8446, 4.1.2, which names the alert."""
    hello = Hello(compression=compression, supported=(TLS_1_3,))
    answer = answer_of(server_context(certificates, engine), hello.records())
    # OpenSSL before 3.6 looks for the null method first, whatever the version.
    looks_first = engine == "openssl" and ssl.OPENSSL_VERSION_INFO < (3, 6)
    lacks_null = looks_first and NULL not in compression
    assert answer == Refused(DECODE_ERROR if lacks_null else ILLEGAL_PARAMETER)


@pytest.mark.parametrize(
    ("supported", "chosen"),
    [
        ((), TLS_1_2),
        ((TLS_1_2, TLS_1_1), TLS_1_2),
        ((TLS_1_3, TLS_1_2), TLS_1_3),
        ((TLS_1_0, TLS_1_3), TLS_1_3),
    ],
)
def test_the_best_common_version_is_chosen(
    certificates: Certificates, engine: str, supported: tuple[int, ...], chosen: int
) -> None:
    """So that a refusal of other hellos is one of what they offer."""
    hello = Hello(supported=supported)
    answer = answer_of(server_context(certificates, engine), hello.records())
    assert answer == Accepted(chosen, NULL)


@pytest.mark.parametrize("protocols", [(), ("h2",)], ids=["no protocols", "protocols"])
@pytest.mark.parametrize("fragment", [1, 2, 7, 1000])
@pytest.mark.parametrize("padding", [1, 11_000, 60_000])
def test_a_hello_in_many_records_is_taken(
    certificates: Certificates, engine: str, protocols: tuple[str, ...], fragment: int, padding: int
) -> None:
    context = server_context(certificates, engine)
    context.set_alpn_protocols(protocols)
    hello = Hello(supported=(TLS_1_3,), protocol=b"h2", padding=padding)
    assert answer_of(context, hello.records(fragment)) == Accepted(TLS_1_3, NULL)


@pytest.mark.parametrize("protocols", [(), ("h2",)], ids=["no protocols", "protocols"])
def test_a_fallback_to_an_older_version_is_refused(
    certificates: Certificates, engine: str, protocols: tuple[str, ...]
) -> None:
    """RFC 7507: the client has tried a newer version that the server has."""
    context = server_context(certificates, engine)
    context.set_alpn_protocols(protocols)
    ciphers = (*CIPHERS, FALLBACK)
    answer = answer_of(context, Hello(ciphers=ciphers).records())
    assert answer == Refused(INAPPROPRIATE_FALLBACK)
    answer = answer_of(context, Hello(ciphers=ciphers, supported=(TLS_1_3,)).records())
    assert answer == Accepted(TLS_1_3, NULL)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    answer = answer_of(context, Hello(ciphers=ciphers).records())
    assert answer == Accepted(TLS_1_2, NULL)


@pytest.mark.parametrize("protocols", [(), ("h2",)], ids=["no protocols", "protocols"])
@pytest.mark.parametrize(
    ("kind", "content"),
    [(20, b"\1"), (23, b"data"), (HANDSHAKE, b"\x14\0\0\x20" + bytes(32))],
    ids=["change of ciphers", "data", "finished"],
)
def test_what_is_no_hello_is_unexpected(
    certificates: Certificates,
    engine: str,
    kind: int,
    content: bytes,
    protocols: tuple[str, ...],
) -> None:
    context = server_context(certificates, engine)
    context.set_alpn_protocols(protocols)
    sent = bytes([kind]) + numbers(TLS_1_2) + vector(content, 2)
    assert answer_of(context, sent) == Refused(UNEXPECTED_MESSAGE)


def test_an_empty_alert_in_place_of_a_hello_is_unexpected(
    certificates: Certificates, engine: str
) -> None:
    """RFC 8446, 5.1: such a record must not be sent."""
    sent = bytes([ALERT]) + numbers(TLS_1_2) + vector(b"", 2)
    answer = answer_of(server_context(certificates, engine), sent)
    assert answer == Refused(UNEXPECTED_MESSAGE)


OLD = {
    "SSL 3.0": Hello(version=SSL_3),
    "TLS 1.0": Hello(version=TLS_1_0),
    "TLS 1.1": Hello(version=TLS_1_1),
    "old ones by the extension": Hello(supported=(TLS_1_1, TLS_1_0, SSL_3)),
}


@pytest.mark.parametrize("hello", OLD.values(), ids=OLD)
def test_old_versions_are_refused(certificates: Certificates, engine: str, hello: Hello) -> None:
    answer = answer_of(server_context(certificates, engine), hello.records())
    # OpenSSL has another word for SSL.
    is_ssl = engine == "openssl" and hello.version == SSL_3
    assert answer == Refused(HANDSHAKE_FAILURE if is_ssl else PROTOCOL_VERSION)


def said_to(address: tuple[str, int], hello: Hello) -> bytes:
    """Send a hello, and return all that comes; call it in a thread."""
    with socket.create_connection(address, timeout=PEER_TIMEOUT) as peer:
        peer.sendall(hello.records())
        return receive_until_eof(peer)


async def test_a_server_ends_the_connection_of_a_hello_that_it_refuses(
    certificates: Certificates, loop_name: str, loop: Loop, engine: str
) -> None:
    """On TokioLoop behind an alert, which asyncio does not send."""
    context = server_context(certificates, engine)
    server = await loop.create_server(asyncio.Protocol, LOOPBACK, 0, ssl=context)
    async with server:
        address = server.sockets[0].getsockname()
        for hello in (Hello(compression=(DEFLATE,)), *OLD.values()):
            said = await in_thread(said_to, address, hello)
            if loop_name == "rloop":
                assert said[0] == ALERT
                assert said[5] == FATAL
            else:
                assert said == b""
