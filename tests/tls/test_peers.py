"""Other implementations as peers: OpenSSL's command line, and curl; and a scan of a server."""

import asyncio
import contextlib
import queue
import shutil
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rloop import tls
from support.certificates import HOST, Certificates
from support.fast_tls import on_loop
from support.peers import LOOPBACK, receive_until_eof
from support.threads import PEER_TIMEOUT, in_thread

Loop = asyncio.AbstractEventLoop

PATIENCE = 20

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")


async def run(*command: str, stdin: bytes = b"") -> tuple[int | None, str]:
    """Run a program to its end; return its exit status and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(stdin), PATIENCE)
    return process.returncode, output.decode("utf-8", "replace")


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a request of HTTP, or end with the peer."""
    try:
        if (await reader.readline()).startswith(b"GET"):
            writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello from the loop\n")
            await writer.drain()
    except (OSError, ssl.SSLError):
        pass
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def serving(certificates: Certificates, loop_name: str, **wishes: Any) -> AsyncIterator[int]:
    """Serve with the fast engine; give the port."""
    context = on_loop(tls.server_context(certificates["good"][0].file, **wishes), loop_name)
    server = await asyncio.start_server(answer, LOOPBACK, 0, ssl=context)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        yield port


@needs_curl
@pytest.mark.parametrize("option", ["--tls-max=1.2", "--tlsv1.3"])
async def test_curl_is_served(
    certificates: Certificates, loop_name: str, loop: Loop, option: str
) -> None:
    async with serving(certificates, loop_name, alpn=["http/1.1"]) as port:
        status, output = await run(
            *("curl", "--silent", "--show-error", *option.split("="), "--http1.1"),
            *("--cacert", str(certificates.trusted.file)),
            *("--resolve", f"{HOST}:{port}:{LOOPBACK}", f"https://{HOST}:{port}/"),
        )
    assert (status, output) == (0, "hello from the loop\n")


def over_asyncio(address: tuple[str, int], context: ssl.SSLContext) -> str:
    """Ask a server on a loop of asyncio's own, with a context of its own; call it in a thread."""

    async def ask() -> str:
        reader, writer = await asyncio.open_connection(*address, ssl=context, server_hostname=HOST)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        answered = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answered.decode().partition("\r\n\r\n")[2]

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(ask())


async def test_another_loop_is_served(
    certificates: Certificates, loop_name: str, loop: Loop
) -> None:
    plain = ssl.create_default_context(cafile=certificates.trusted.file)
    remembering = tls.client_context(certificates.trusted.file)
    async with serving(certificates, loop_name) as port:
        for context in (plain, remembering):
            answered = await in_thread(over_asyncio, (LOOPBACK, port), context)
            assert answered == "hello from the loop\n"


def served_by_asyncio(
    context: ssl.SSLContext, ports: queue.SimpleQueue[int], is_done: threading.Event
) -> None:
    """Serve on a loop of asyncio's own; call it in a thread."""

    async def serve() -> None:
        server = await asyncio.start_server(answer, LOOPBACK, 0, ssl=context)
        async with server:
            ports.put(server.sockets[0].getsockname()[1])
            await asyncio.to_thread(is_done.wait, PATIENCE)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(serve())


async def test_another_loop_is_talked_to(
    certificates: Certificates, loop_name: str, loop: Loop
) -> None:
    issued, name = certificates["good"]
    plain = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    plain.load_cert_chain(issued.file)
    client = on_loop(tls.client_context(certificates.trusted.file), loop_name)
    for context in (plain, tls.server_context(issued.file)):
        ports: queue.SimpleQueue[int] = queue.SimpleQueue()
        is_done = threading.Event()
        serving = in_thread(served_by_asyncio, context, ports, is_done)
        port = await in_thread(ports.get, timeout=PATIENCE)
        reader, writer = await asyncio.open_connection(
            LOOPBACK, port, ssl=client, server_hostname=name
        )
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert (await reader.read()).endswith(b"\r\n\r\nhello from the loop\n")
        writer.close()
        await writer.wait_closed()
        is_done.set()
        await serving


def s_client(port: int, *options: str) -> tuple[str, ...]:
    return ("openssl", "s_client", "-connect", f"{LOOPBACK}:{port}", *options)


@needs_openssl
@pytest.mark.parametrize(("option", "version"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
async def test_openssls_client_verifies_the_server(
    certificates: Certificates, loop_name: str, loop: Loop, option: str, version: str
) -> None:
    async with serving(certificates, loop_name, alpn=["h2"]) as port:
        status, output = await run(
            *s_client(port, option, "-CAfile", str(certificates.trusted.file)),
            *("-servername", HOST, "-verify_hostname", HOST, "-verify_return_error"),
            *("-alpn", "h2", "-ign_eof"),
            stdin=b"GET / HTTP/1.0\r\n\r\n",
        )
    assert status == 0
    assert "Verification: OK" in output
    assert "ALPN protocol: h2" in output
    assert f"New, {version}" in output
    assert "Compression: NONE" in output
    assert "hello from the loop" in output


@needs_openssl
@pytest.mark.parametrize("option", ["-tls1_2", "-tls1_3"])
async def test_openssls_server_is_talked_to(
    certificates: Certificates, loop_name: str, loop: Loop, option: str
) -> None:
    issued, name = certificates["good"]
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_server", "-accept", f"{LOOPBACK}:0", "-cert", str(issued.file)),
        *("-key", str(issued.file), "-rev", option),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        line = b""
        while not line.startswith(b"ACCEPT"):
            line = await asyncio.wait_for(process.stdout.readline(), PATIENCE)
            assert line
        port = int(line.rsplit(b":", 1)[1])
        client = on_loop(tls.client_context(certificates.trusted.file), loop_name)
        reader, writer = await asyncio.open_connection(
            LOOPBACK, port, ssl=client, server_hostname=name
        )
        for word in (b"rustls", b"loop" * 10):
            writer.write(word + b"\n")
            assert await reader.readline() == word[::-1] + b"\n"
        writer.close()
        await writer.wait_closed()
    finally:
        process.kill()
        await process.communicate()


@needs_openssl
@pytest.mark.parametrize("option", ["-tls1", "-tls1_1"])
async def test_a_scan_finds_no_old_version(
    certificates: Certificates, loop_name: str, loop: Loop, option: str
) -> None:
    async with serving(certificates, loop_name) as port:
        status, output = await run(*s_client(port, option, "-cipher", "ALL:@SECLEVEL=0"))
    assert status != 0
    assert "Cipher is (NONE)" in output


def ciphers_of_tls_1_2() -> list[str]:
    """Return every cipher that OpenSSL has, however weak."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    return [it["name"] for it in context.get_ciphers() if not it["name"].startswith("TLS_")]


def agrees_upon(cipher: str, port: int) -> bool:
    """Offer a server that one cipher; call it in a thread."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{cipher}:@SECLEVEL=0")
    raw = socket.create_connection((LOOPBACK, port), timeout=PEER_TIMEOUT)
    with context.wrap_socket(raw, do_handshake_on_connect=False) as secured:
        try:
            secured.do_handshake()
        except ssl.SSLError:
            with socket.socket(fileno=secured.detach()) as refused:
                # Until the server is done with it as well.
                refused.settimeout(PEER_TIMEOUT)
                with contextlib.suppress(OSError):
                    refused.shutdown(socket.SHUT_WR)
                    receive_until_eof(refused)
            return False
        agreed = secured.cipher()
        return agreed is not None and agreed[0] == cipher


async def test_a_scan_finds_no_weak_cipher(
    certificates: Certificates, loop_name: str, loop: Loop
) -> None:
    every = ciphers_of_tls_1_2()
    assert len(every) > 50
    async with serving(certificates, loop_name) as port:
        accepted = {cipher for cipher in every if await in_thread(agrees_upon, cipher, port)}
    assert accepted == {
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    }


@needs_openssl
async def test_a_scan_finds_the_strong_ciphers_of_tls_1_3(
    certificates: Certificates, loop_name: str, loop: Loop
) -> None:
    accepted = set()
    async with serving(certificates, loop_name) as port:
        for cipher in (
            "TLS_AES_256_GCM_SHA384",
            "TLS_AES_128_GCM_SHA256",
            "TLS_CHACHA20_POLY1305_SHA256",
            "TLS_AES_128_CCM_SHA256",
            "TLS_AES_128_CCM_8_SHA256",
        ):
            status, output = await run(*s_client(port, "-tls1_3", "-ciphersuites", cipher))
            if status == 0 and f"Cipher is {cipher}" in output:
                accepted.add(cipher)
    assert accepted == {
        "TLS_AES_256_GCM_SHA384",
        "TLS_AES_128_GCM_SHA256",
        "TLS_CHACHA20_POLY1305_SHA256",
    }
