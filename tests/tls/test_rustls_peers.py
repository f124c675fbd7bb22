"""Another program's rustls as peer of both engines: ``crates/rloop-tls/examples/blocking_peer.rs``.

Both sides present a certificate, agree upon a protocol, take up the session of an earlier
connection and send a mebibyte each way before one of them ends the connection. The program fails if
a stream ends without a close notification.
"""

import asyncio
import contextlib
import hashlib
import os
import random
import ssl
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives import hashes

from rloop import tls
from support.certificates import HOST, Certificates
from support.peers import LOOPBACK
from support.threads import PEER_TIMEOUT

Loop = asyncio.AbstractEventLoop

ROOT = Path(__file__).parents[2]
PROGRAM = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"), "debug/examples/blocking_peer")

#: Bytes that go each way.
SIZE = 1 << 20

FROM_LOOP = random.Random(1).randbytes(SIZE)
FROM_PEER = random.Random(2).randbytes(SIZE)

VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}

pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason="`nox -s rust` builds the peer"),
    pytest.mark.parametrize("version", VERSIONS),
    pytest.mark.parametrize("ends_first", ["peer", "loop"]),
]


class Told(NamedTuple):
    """What one side knows at the end of a connection."""

    version: str | None
    alpn: str | None
    is_resumed: bool
    certificate: str
    """The hash of the other side's certificate in DER."""
    received: str
    """The hash of all that came."""


def digest(data: bytes) -> str:
    """Return the hash in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def configured(
    context: ssl.SSLContext, certificates: Certificates, version: str, engine: str
) -> ssl.SSLContext:
    """Have a context demand and present a certificate, and agree upon HTTP/2."""
    context.load_cert_chain(certificates["good"][0].file)
    context.load_verify_locations(certificates.trusted.file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = VERSIONS[version]
    if isinstance(context, tls.Context):
        assert context.engine == engine, context.engine_reason
    return context


@contextlib.asynccontextmanager
async def peer(
    certificates: Certificates, side: str, address: tuple[str, int], version: str, ends_first: str
) -> AsyncIterator[Process]:
    """Run the program for two connections; it must end well."""
    process = await asyncio.create_subprocess_exec(
        *(PROGRAM, side, "{}:{}".format(*address), version),
        *(certificates.trusted.file, certificates["good"][0].file),
        *("first" if ends_first == "peer" else "last", "2"),
        stdin=PIPE,
        stdout=PIPE,
    )
    assert process.stdin is not None
    try:
        process.stdin.write(FROM_PEER)
        process.stdin.close()
        yield process
        assert await asyncio.wait_for(process.wait(), PEER_TIMEOUT) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def said_by(process: Process) -> Told:
    """Read what the program says of one connection."""
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), PEER_TIMEOUT)
    version, alpn, handshake, *digests = line.decode().split()
    certificate, received = (it.removeprefix("SHA256:") for it in digests)
    return Told(version.replace("_", "."), alpn, handshake == "Resumed", certificate, received)


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends_first: str
) -> Told:
    """Exchange, end, and say what became of it."""
    writer.write(FROM_LOOP)
    received = await (reader.read() if ends_first == "peer" else reader.readexactly(SIZE))
    connection = writer.get_extra_info("ssl_object")
    writer.close()
    await writer.wait_closed()
    return Told(
        connection.version(),
        connection.selected_alpn_protocol(),
        connection.session_reused,
        digest(connection.getpeercert(True)),
        digest(received),
    )


def expected(certificates: Certificates, version: str, is_resumed: bool, data: bytes) -> Told:
    """Return what a side has to say. Both present the same certificate."""
    certificate = certificates["good"][0].certificate
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    return Told(version, "h2", is_resumed, fingerprint, digest(data))


async def test_a_client_of_rustls_is_served(
    certificates: Certificates, loop: Loop, engine: str, version: str, ends_first: str
) -> None:
    kind = tls.Context if engine == "rustls" else ssl.SSLContext
    context = configured(kind(ssl.PROTOCOL_TLS_SERVER), certificates, version, engine)
    told: asyncio.Queue[Told] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.put_nowait(await exchange(reader, writer, ends_first))

    server = await asyncio.start_server(serve, LOOPBACK, 0, ssl=context)
    address = server.sockets[0].getsockname()
    async with server, peer(certificates, "client", address, version, ends_first) as process:
        for is_resumed in (False, True):
            says = await said_by(process)
            assert says == expected(certificates, version, is_resumed, FROM_LOOP)
            says = await asyncio.wait_for(told.get(), PEER_TIMEOUT)
            assert says == expected(certificates, version, is_resumed, FROM_PEER)


async def test_a_server_of_rustls_is_talked_to(
    certificates: Certificates, loop: Loop, engine: str, version: str, ends_first: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if engine == "rustls":
        context = tls.client_context(certificates.trusted.file, resume=True)
    configured(context, certificates, version, engine)
    address = LOOPBACK, 0
    async with peer(certificates, "server", address, version, ends_first) as process:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), PEER_TIMEOUT)
        port = int(line.rpartition(b":")[2])
        for is_resumed in (False, engine == "rustls"):
            connection = await asyncio.open_connection(
                LOOPBACK, port, ssl=context, server_hostname=HOST
            )
            says = await asyncio.wait_for(exchange(*connection, ends_first), PEER_TIMEOUT)
            assert says == expected(certificates, version, is_resumed, FROM_PEER)
            assert await said_by(process) == expected(certificates, version, is_resumed, FROM_LOOP)
