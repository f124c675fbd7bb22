"""sendfile and sock_sendfile: exact bytes, exact counts, and the order around them."""

import asyncio
import io
import os
import re
import socket
import sys
from pathlib import Path
from typing import IO, Any

import pytest

from support.peers import connected, open_pair, receive_exactly, receive_until_eof
from support.protocols import RecordingProtocol
from support.threads import eventually, in_thread, turns
from support.tls import Authority, tls_connected

Loop = asyncio.AbstractEventLoop

CONTENT = os.urandom(3 << 20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with CONTENT."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


RANGES = [
    (0, None, CONTENT),
    (0, 1000, CONTENT[:1000]),
    (5000, None, CONTENT[5000:]),
    (5000, 70_000, CONTENT[5000:75_000]),
    (len(CONTENT) - 10, 1000, CONTENT[-10:]),
    (len(CONTENT), None, b""),
    (len(CONTENT) + 5, 10, b""),
]

every_range = pytest.mark.parametrize(
    ("offset", "count", "expected"),
    RANGES,
    ids=[f"{offset}+{count}" for offset, count, _ in RANGES],
)


@every_range
async def test_a_transport_sends_exactly_the_range(
    loop: Loop, kind: str, path: Path, offset: int, count: int | None, expected: bytes
) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, peer):
        receiving = in_thread(receive_until_eof, peer)
        with path.open("rb") as file:
            sent = await loop.sendfile(transport, file, offset, count)
            assert sent == len(expected)
            if expected:
                assert file.tell() == offset + len(expected)
        transport.close()
        assert await receiving == expected


@every_range
async def test_a_socket_sends_exactly_the_range(
    loop: Loop, kind: str, path: Path, offset: int, count: int | None, expected: bytes
) -> None:
    with open_pair(kind) as (ours, peer), path.open("rb") as file:
        receiving = in_thread(receive_exactly, peer, len(expected))
        assert await loop.sock_sendfile(ours, file, offset, count) == len(expected)
        assert await receiving == expected
        if expected:
            assert file.tell() == offset + len(expected)


@pytest.mark.parametrize("offset", [0, 7])
@pytest.mark.parametrize("way", ["native", "fallback"])
@pytest.mark.parametrize("by", ["transport", "socket"])
async def test_a_file_is_sent_from_the_offset_wherever_it_stands(
    loop: Loop, path: Path, by: str, way: str, offset: int
) -> None:
    if sys.version_info < (3, 14, 7) and way == "fallback" and not offset:
        pytest.skip("asyncio sends from where the file stands")

    async def send(target: Any, file: IO[bytes]) -> int:
        if by == "transport":
            return await loop.sendfile(target, file, offset, 1000)
        return await loop.sock_sendfile(target, file, offset, 1000)

    file = path.open("rb") if way == "native" else io.BytesIO(CONTENT)
    with file:
        file.seek(100)
        if by == "transport":
            async with connected(RecordingProtocol(), "tcp") as (transport, peer):
                assert await send(transport, file) == 1000
                received = await in_thread(receive_exactly, peer, 1000)
        else:
            with open_pair("tcp") as (ours, peer):
                ours.setblocking(False)
                assert await send(ours, file) == 1000
                received = await in_thread(receive_exactly, peer, 1000)
        assert received == CONTENT[offset : offset + 1000]
        assert file.tell() == offset + 1000


async def test_what_was_written_before_and_after_keeps_its_place(
    loop: Loop, kind: str, path: Path
) -> None:
    before, after = os.urandom(4 << 20), b"after"
    async with connected(RecordingProtocol(), kind) as (transport, peer):
        receiving = in_thread(receive_until_eof, peer)
        transport.write(before)
        with path.open("rb") as file:
            assert await loop.sendfile(transport, file) == len(CONTENT)
        transport.write(after)
        transport.close()
        assert await receiving == before + CONTENT + after


async def test_writing_while_a_file_is_sent_is_refused(loop: Loop, path: Path) -> None:
    async with connected(RecordingProtocol(), "unix") as (transport, peer):
        with path.open("rb") as file:
            sending = asyncio.ensure_future(loop.sendfile(transport, file))
            await turns(3)
            with pytest.raises(RuntimeError, match="unable to write; sendfile is in progress"):
                transport.write(b"in between")
            receiving = in_thread(receive_exactly, peer, len(CONTENT))
            assert await sending == len(CONTENT)
            assert await receiving == CONTENT


async def test_reading_is_held_while_a_file_is_sent(loop: Loop, path: Path) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, "unix") as (transport, peer):
        with path.open("rb") as file:
            sending = asyncio.ensure_future(loop.sendfile(transport, file))
            await turns(3)
            peer.sendall(b"meanwhile")
            await turns(5)
            assert protocol.data == b""
            receiving = in_thread(receive_exactly, peer, len(CONTENT))
            await sending
            await receiving
        assert await protocol.received(9) == b"meanwhile"


async def test_a_file_without_a_descriptor_is_sent_by_the_fallback(loop: Loop, kind: str) -> None:
    async with connected(RecordingProtocol(), kind) as (transport, peer):
        receiving = in_thread(receive_until_eof, peer)
        assert await loop.sendfile(transport, io.BytesIO(CONTENT), 100, 200_000) == 200_000
        transport.close()
        assert await receiving == CONTENT[100:200_100]
    with open_pair(kind) as (ours, peer):
        receiving = in_thread(receive_exactly, peer, 200_000)
        assert await loop.sock_sendfile(ours, io.BytesIO(CONTENT), 100, 200_000) == 200_000
        assert await receiving == CONTENT[100:200_100]


async def test_without_the_fallback_such_a_file_is_refused(loop: Loop) -> None:
    async with connected(RecordingProtocol()) as (transport, _):
        with pytest.raises(asyncio.SendfileNotAvailableError, match="not a regular file"):
            await loop.sendfile(transport, io.BytesIO(CONTENT), fallback=False)
    with (
        open_pair("tcp") as (ours, _),
        pytest.raises(asyncio.SendfileNotAvailableError, match="not a regular file"),
    ):
        await loop.sock_sendfile(ours, io.BytesIO(CONTENT), fallback=False)


async def test_a_tls_transport_sends_by_the_fallback_alone(
    loop: Loop, path: Path, authority: Authority
) -> None:
    async with tls_connected(RecordingProtocol(), authority) as (transport, peer):
        receiving = in_thread(receive_exactly, peer, len(CONTENT))
        with path.open("rb") as file:
            with pytest.raises(
                RuntimeError, match="fallback is disabled and native sendfile is not supported"
            ):
                await loop.sendfile(transport, file, fallback=False)
            assert await loop.sendfile(transport, file) == len(CONTENT)
        assert await receiving == CONTENT


async def test_a_peer_that_goes_away_ends_it_with_an_error(loop: Loop, path: Path) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol) as (transport, peer):
        with path.open("rb") as file:
            os.truncate(path, 256 << 20)
            sending = asyncio.ensure_future(loop.sendfile(transport, file))
            await in_thread(receive_exactly, peer, 1000)
            peer.close()
            with pytest.raises(ConnectionError):
                await sending
        await eventually(lambda: protocol.count("connection_lost"))


async def test_a_cancelled_sock_sendfile_leaves_the_socket_usable(loop: Loop, path: Path) -> None:
    with open_pair("unix") as (ours, peer), path.open("rb") as file:
        sending = asyncio.ensure_future(loop.sock_sendfile(ours, file))
        await turns(3)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await turns(1)
        assert loop.remove_writer(ours) is False
        receiving = in_thread(receive_until_eof, peer)
        await loop.sock_sendall(ours, b"tail")
        ours.close()
        received = await receiving
        assert received.endswith(b"tail")
        assert CONTENT.startswith(received[:-4])


WRONG_ARGUMENTS: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ("text", {}, ValueError, "file should be opened in binary mode"),
    ("file", {"count": 0}, ValueError, "count must be a positive integer (got 0)"),
    ("file", {"count": -5}, ValueError, "count must be a positive integer (got -5)"),
    ("file", {"count": "1"}, TypeError, "count must be a positive integer (got '1')"),
    ("file", {"offset": -1}, ValueError, "offset must be a non-negative integer (got -1)"),
    ("file", {"offset": "1"}, TypeError, "offset must be a non-negative integer (got '1')"),
]


@pytest.mark.parametrize(("file_kind", "options", "error", "message"), WRONG_ARGUMENTS)
async def test_arguments_that_make_no_sense_are_refused(
    loop: Loop,
    path: Path,
    file_kind: str,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    file: IO[Any] = path.open("r" if file_kind == "text" else "rb")
    with file, open_pair("tcp") as (ours, _):
        with pytest.raises(error, match=re.escape(message)):
            await loop.sock_sendfile(ours, file, **options)
        async with connected(RecordingProtocol()) as (transport, _):
            with pytest.raises(error, match=re.escape(message)):
                await loop.sendfile(transport, file, **options)


async def test_a_datagram_socket_and_a_blocking_one_are_refused(loop: Loop, path: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as ours, path.open("rb") as file:
        ours.setblocking(False)
        with pytest.raises(ValueError, match="only SOCK_STREAM type sockets are supported"):
            await loop.sock_sendfile(ours, file)
    loop.set_debug(True)
    with (
        socket.socket() as ours,
        path.open("rb") as file,
        pytest.raises(ValueError, match="the socket must be non-blocking"),
    ):
        await loop.sock_sendfile(ours, file)


async def test_a_closing_transport_is_refused(loop: Loop, path: Path) -> None:
    async with connected(RecordingProtocol()) as (transport, _):
        transport.close()
        with (
            path.open("rb") as file,
            pytest.raises(RuntimeError, match="Transport is closing"),
        ):
            await loop.sendfile(transport, file)


async def test_others_run_while_a_file_is_sent(loop: Loop, path: Path) -> None:
    os.truncate(path, 32 << 20)
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(1)
        timer[0] = loop.call_soon(tick)

    timer = [loop.call_soon(tick)]
    with open_pair("unix") as (ours, peer), path.open("rb") as file:
        receiving = in_thread(receive_exactly, peer, 32 << 20)
        assert await loop.sock_sendfile(ours, file) == 32 << 20
        timer[0].cancel()
        # The socket holds much less than the file, so that it had to be waited for often.
        assert len(ticks) > 10
        assert len(await receiving) == 32 << 20


async def test_a_file_that_becomes_shorter_ends_where_it_ends(loop: Loop, path: Path) -> None:
    with open_pair("unix") as (ours, peer), path.open("rb") as file:
        sending = asyncio.ensure_future(loop.sock_sendfile(ours, file, 0, len(CONTENT)))
        await turns(3)
        assert not sending.done()
        os.truncate(path, len(CONTENT) - 1000)
        receiving = in_thread(receive_exactly, peer, len(CONTENT) - 1000)
        assert await sending == len(CONTENT) - 1000
        assert file.tell() == len(CONTENT) - 1000
        assert await receiving == CONTENT[:-1000]


async def test_a_file_that_becomes_longer_is_sent_to_its_new_end(loop: Loop, path: Path) -> None:
    with open_pair("unix") as (ours, peer), path.open("rb") as file:
        sending = asyncio.ensure_future(loop.sock_sendfile(ours, file))
        await turns(3)
        assert not sending.done()
        with path.open("ab") as appending:
            appending.write(b"more")
        receiving = in_thread(receive_exactly, peer, len(CONTENT) + 4)
        assert await sending == len(CONTENT) + 4
        assert await receiving == CONTENT + b"more"


async def test_two_files_at_once_on_one_transport_are_refused(loop: Loop, path: Path) -> None:
    async with connected(RecordingProtocol(), "unix") as (transport, peer):
        with path.open("rb") as file, path.open("rb") as second:
            sending = asyncio.ensure_future(loop.sendfile(transport, file))
            await turns(3)
            with pytest.raises((RuntimeError, KeyError)):
                await loop.sendfile(transport, second)
            receiving = in_thread(receive_exactly, peer, len(CONTENT))
            assert await sending == len(CONTENT)
            assert await receiving == CONTENT


async def test_files_follow_one_another(loop: Loop, kind: str, path: Path) -> None:
    async with connected(RecordingProtocol(), kind) as (transport, peer):
        receiving = in_thread(receive_until_eof, peer)
        with path.open("rb") as file:
            for _ in range(3):
                assert await loop.sendfile(transport, file) == len(CONTENT)
        transport.close()
        assert await receiving == CONTENT * 3


async def test_an_empty_file_is_sent_as_nothing(loop: Loop, kind: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    async with connected(RecordingProtocol(), kind) as (transport, peer):
        with empty.open("rb") as file:
            assert await loop.sendfile(transport, file) == 0
            transport.write(b"after")
        assert await in_thread(receive_exactly, peer, 5) == b"after"


async def test_a_pipe_has_no_size_and_is_sent_as_nothing(loop: Loop) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as file, open_pair("unix") as (ours, _):
        with open(writing, "wb", buffering=0) as source:
            source.write(b"through a pipe")
        assert await loop.sock_sendfile(ours, file) == 0
        assert file.read() == b"through a pipe"


async def test_an_unconnected_socket_is_not_available_for_sendfile(loop: Loop, path: Path) -> None:
    with socket.socket() as ours, path.open("rb") as file:
        ours.setblocking(False)
        with pytest.raises(asyncio.SendfileNotAvailableError, match=r"os\.sendfile call failed"):
            await loop.sock_sendfile(ours, file, fallback=False)
