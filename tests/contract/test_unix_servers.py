"""Unix sockets: servers and connections by path, Path, bytes, abstract name or socket."""

import asyncio
import os
import socket
import sys
import threading
from pathlib import Path

import pytest

from support.peers import receive_until_eof
from support.protocols import RecordingProtocol
from support.threads import PEER_TIMEOUT, in_thread, turns

Loop = asyncio.AbstractEventLoop

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux's")


def connect(path: str | bytes) -> socket.socket:
    """Connect a blocking peer to that path."""
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(PEER_TIMEOUT)
    peer.connect(path)
    return peer


async def greet(loop: Loop, path: str | Path | bytes, address: str | bytes) -> None:
    """Serve on path, be called by a plain peer and by the loop's own client, at address."""
    protocols: list[RecordingProtocol] = []

    class Greeting(RecordingProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            protocols.append(self)
            self.transport.write(b"hello")
            self.transport.close()

    server = await loop.create_unix_server(Greeting, path)  # type: ignore[arg-type]
    assert [sock.getsockname() for sock in server.sockets] == [address]
    with connect(address) as peer:
        assert await in_thread(receive_until_eof, peer) == b"hello"
    transport, client = await loop.create_unix_connection(RecordingProtocol, path)  # type: ignore[arg-type]
    assert transport.get_extra_info("peername") == address
    assert await client.received(5) == b"hello"
    await client.called("connection_lost")
    for protocol in protocols:
        await protocol.called("connection_lost")
    server.close()
    await server.wait_closed()


async def test_a_path_may_be_text_a_path_or_bytes(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    await greet(loop, str(path), str(path))
    await greet(loop, path, str(path))
    await greet(loop, os.fsencode(path), str(path))


@linux_only
async def test_an_abstract_name_needs_no_file(loop: Loop) -> None:
    name = f"\0rloop-test-{os.getpid()}-{threading.get_ident()}"
    await greet(loop, name, name.encode())
    await greet(loop, name.encode(), name.encode())


async def test_a_stale_socket_file_is_replaced(loop: Loop, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    await greet(loop, path, path)


async def test_a_file_that_is_no_socket_is_kept(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(OSError, match=r"Address .* is already in use"):
        await loop.create_unix_server(RecordingProtocol, str(path))
    assert path.read_text() == "precious"


async def test_the_socket_file_goes_with_the_server_since_3_13(loop: Loop, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = await loop.create_unix_server(RecordingProtocol, path)
    assert path.is_socket()
    server.close()
    await server.wait_closed()
    assert path.exists() is (sys.version_info < (3, 13))


@pytest.mark.skipif(sys.version_info < (3, 13), reason="cleanup_socket came with 3.13")
async def test_the_socket_file_stays_if_asked_or_if_it_is_anothers(
    loop: Loop, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    server = await loop.create_unix_server(RecordingProtocol, kept, cleanup_socket=False)
    server.close()
    assert kept.is_socket()
    replaced = tmp_path / "replaced"
    server = await loop.create_unix_server(RecordingProtocol, replaced)
    replaced.unlink()
    replaced.write_text("another file")
    server.close()
    assert replaced.read_text() == "another file"
    gone = tmp_path / "gone"
    server = await loop.create_unix_server(RecordingProtocol, gone)
    gone.unlink()
    server.close()


async def test_a_users_socket_is_served(loop: Loop, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    protocol = RecordingProtocol()
    server = await loop.create_unix_server(lambda: protocol, sock=sock)
    with connect(path) as peer:
        peer.sendall(b"hello")
        await protocol.received(5)
    await protocol.called("connection_lost")
    server.close()
    await server.wait_closed()
    assert sock.fileno() == -1


async def test_arguments_that_contradict_each_other_are_refused(loop: Loop, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as sock, socket.socket() as tcp:
        both = "path and sock can not be specified at the same time"
        with pytest.raises(ValueError, match=both):
            await loop.create_unix_server(RecordingProtocol, path, sock=sock)
        with pytest.raises(ValueError, match=both):
            await loop.create_unix_connection(RecordingProtocol, path, sock=sock)
        with pytest.raises(ValueError, match="path was not specified, and no sock specified"):
            await loop.create_unix_server(RecordingProtocol)
        with pytest.raises(ValueError, match="no path and sock were specified"):
            await loop.create_unix_connection(RecordingProtocol)
        expected = "A UNIX Domain Stream Socket was expected, got <socket"
        with pytest.raises(ValueError, match=expected):
            await loop.create_unix_server(RecordingProtocol, sock=tcp)
        with pytest.raises(ValueError, match=expected):
            await loop.create_unix_connection(RecordingProtocol, sock=tcp)


async def test_connecting_to_nobody_fails_and_leaves_nothing(loop: Loop, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with pytest.raises(FileNotFoundError):
        await loop.create_unix_connection(RecordingProtocol, path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        with pytest.raises(ConnectionRefusedError):
            await loop.create_unix_connection(RecordingProtocol, path)


async def test_the_path_is_in_the_error_when_a_folder_is_missing(
    loop: Loop, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        await loop.create_unix_server(RecordingProtocol, str(tmp_path / "missing" / "socket"))
    await turns(1)
