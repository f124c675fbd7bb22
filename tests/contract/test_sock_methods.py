"""The sock_* methods: coroutines over the user's own non-blocking sockets."""

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest

from support.peers import LOOPBACK, fill, open_pair, receive_exactly, reset
from support.threads import PEER_TIMEOUT, in_thread, turns

Loop = asyncio.AbstractEventLoop
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair(kind: str) -> Iterator[Pair]:
    with open_pair(kind) as ours_and_peer:
        yield ours_and_peer


@contextlib.contextmanager
def datagram_pair() -> Iterator[Pair]:
    """Give two UDP sockets bound to loopback: ours does not block, the peer has a timeout."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
    ):
        ours.bind((LOOPBACK, 0))
        peer.bind((LOOPBACK, 0))
        ours.setblocking(False)
        peer.settimeout(PEER_TIMEOUT)
        yield ours, peer


async def test_recv_returns_what_is_there_at_once(loop: Loop, pair: Pair) -> None:
    ours, peer = pair
    peer.sendall(b"0123456789")
    assert await loop.sock_recv(ours, 4) == b"0123"
    assert await loop.sock_recv(ours, 100) == b"456789"


async def test_recv_waits_for_data_and_for_the_end(loop: Loop, pair: Pair) -> None:
    ours, peer = pair
    receiving = asyncio.ensure_future(loop.sock_recv(ours, 100))
    await turns(3)
    assert not receiving.done()
    peer.sendall(b"late")
    assert await receiving == b"late"
    peer.close()
    assert await loop.sock_recv(ours, 100) == b""
    assert await loop.sock_recv(ours, 100) == b""


async def test_recv_into_fills_the_buffer_it_is_given(loop: Loop, pair: Pair) -> None:
    ours, peer = pair
    buffer = bytearray(b".....")
    peer.sendall(b"abcdefgh")
    assert await loop.sock_recv_into(ours, memoryview(buffer)[1:4]) == 3
    assert buffer == b".abc."
    assert await loop.sock_recv_into(ours, buffer) == 5
    assert buffer == b"defgh"
    receiving = asyncio.ensure_future(loop.sock_recv_into(ours, buffer))
    await turns(3)
    peer.sendall(b"xy")
    assert await receiving == 2
    assert buffer == b"xyfgh"


@pytest.mark.parametrize("size", [0, 5, 8 << 20])
async def test_sendall_delivers_every_byte_to_a_slow_reader(
    loop: Loop, pair: Pair, size: int
) -> None:
    ours, peer = pair
    payload = os.urandom(size)
    receiving = in_thread(receive_exactly, peer, size)
    await loop.sock_sendall(ours, payload)
    assert hashlib.sha256(await receiving).digest() == hashlib.sha256(payload).digest()


async def test_sendall_takes_every_bytes_like_object(loop: Loop, pair: Pair) -> None:
    ours, peer = pair
    for data in (b"bytes", bytearray(b"array"), memoryview(b"views")):
        await loop.sock_sendall(ours, data)
        assert await in_thread(receive_exactly, peer, 5) == bytes(data)


async def test_sendall_to_a_peer_that_is_gone_fails(loop: Loop, pair: Pair) -> None:
    ours, peer = pair
    sending = asyncio.ensure_future(loop.sock_sendall(ours, bytes(64 << 20)))
    await turns(3)
    assert not sending.done()
    peer.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await sending


async def test_recv_from_a_peer_that_reset_fails(loop: Loop) -> None:
    with open_pair("tcp") as (ours, peer):
        receiving = asyncio.ensure_future(loop.sock_recv(ours, 1))
        await turns(2)
        reset(peer)
        with pytest.raises(ConnectionResetError):
            await receiving


async def test_a_cancelled_recv_takes_no_data_and_frees_the_descriptor(
    loop: Loop, pair: Pair
) -> None:
    ours, peer = pair
    receiving = asyncio.ensure_future(loop.sock_recv(ours, 100))
    await turns(2)
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    assert loop.remove_reader(ours) is False
    peer.sendall(b"kept")
    await turns(3)
    assert await loop.sock_recv(ours, 100) == b"kept"


async def test_a_cancelled_sendall_frees_the_descriptor(loop: Loop, pair: Pair) -> None:
    ours, _ = pair
    fill(ours)
    sending = asyncio.ensure_future(loop.sock_sendall(ours, bytes(1 << 20)))
    await turns(2)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert loop.remove_writer(ours) is False


async def test_reading_and_writing_one_socket_at_once(loop: Loop, pair: Pair) -> None:
    ours, peer = pair
    payload = os.urandom(4 << 20)

    def echo() -> None:
        received = receive_exactly(peer, len(payload))
        peer.sendall(received)

    echoing = in_thread(echo)
    sending = asyncio.ensure_future(loop.sock_sendall(ours, payload))
    received = bytearray()
    while len(received) < len(payload):
        received += await loop.sock_recv(ours, 1 << 16)
    await sending
    await echoing
    assert received == payload


async def test_accept_gives_a_non_blocking_connection_and_its_address(loop: Loop) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        listener.setblocking(False)
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await turns(2)
        assert not accepting.done()
        with socket.create_connection(listener.getsockname()) as peer:
            connection, address = await accepting
            with connection:
                assert address == peer.getsockname()
                assert connection.gettimeout() == 0
                peer.sendall(b"hello")
                assert await loop.sock_recv(connection, 5) == b"hello"


async def test_a_cancelled_accept_loses_no_connection(loop: Loop) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        listener.setblocking(False)
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await turns(2)
        accepting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await accepting
        with socket.create_connection(listener.getsockname()) as peer:
            connection, address = await loop.sock_accept(listener)
            connection.close()
            assert address == peer.getsockname()


async def test_connect_reaches_a_listener(loop: Loop) -> None:
    with (
        socket.create_server((LOOPBACK, 0)) as listener,
        socket.socket() as ours,
    ):
        ours.setblocking(False)
        await loop.sock_connect(ours, listener.getsockname())
        assert ours.getpeername() == listener.getsockname()
        connection, _ = listener.accept()
        connection.close()


async def test_connect_resolves_a_host_name(loop: Loop) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener, socket.socket() as ours:
        ours.setblocking(False)
        await loop.sock_connect(ours, ("localhost", listener.getsockname()[1]))
        assert ours.getpeername() == listener.getsockname()


async def test_connect_to_a_port_nobody_listens_on_is_refused(
    loop: Loop, unused_address: tuple[str, int]
) -> None:
    with socket.socket() as ours:
        ours.setblocking(False)
        with pytest.raises(ConnectionRefusedError, match=r"Connect call failed \('127.0.0.1', "):
            await loop.sock_connect(ours, unused_address)
        assert loop.remove_writer(ours) is False


async def test_connect_to_a_unix_path(loop: Loop, tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "socket")
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as ours,
    ):
        ours.setblocking(False)
        with pytest.raises(FileNotFoundError):
            await loop.sock_connect(ours, path)
        listener.bind(path)
        listener.listen()
        await loop.sock_connect(ours, path)
        assert ours.getpeername() == path


async def test_recvfrom_and_sendto_carry_datagrams_and_addresses(loop: Loop) -> None:
    with datagram_pair() as (ours, peer):
        peer.sendto(b"first", ours.getsockname())
        assert await loop.sock_recvfrom(ours, 100) == (b"first", peer.getsockname())
        receiving = asyncio.ensure_future(loop.sock_recvfrom(ours, 3))
        await turns(2)
        peer.sendto(b"truncated", ours.getsockname())
        assert await receiving == (b"tru", peer.getsockname())
        assert await loop.sock_sendto(ours, b"answer", peer.getsockname()) == 6
        assert peer.recvfrom(100) == (b"answer", ours.getsockname())
        assert await loop.sock_sendto(ours, b"", peer.getsockname()) == 0
        assert peer.recvfrom(100) == (b"", ours.getsockname())


async def test_recvfrom_into_fills_the_buffer_it_is_given(loop: Loop) -> None:
    with datagram_pair() as (ours, peer):
        buffer = bytearray(10)
        peer.sendto(b"0123456789", ours.getsockname())
        assert await loop.sock_recvfrom_into(ours, buffer, 4) == (4, peer.getsockname())
        assert buffer == b"0123" + bytes(6)
        receiving = asyncio.ensure_future(loop.sock_recvfrom_into(ours, buffer))
        await turns(2)
        peer.sendto(b"abc", ours.getsockname())
        assert await receiving == (3, peer.getsockname())
        assert buffer[:3] == b"abc"


SOCKET_CALLS: dict[str, Callable[[Loop, socket.socket], Awaitable[object]]] = {
    "sock_recv": lambda loop, sock: loop.sock_recv(sock, 1),
    "sock_recv_into": lambda loop, sock: loop.sock_recv_into(sock, bytearray(1)),
    "sock_recvfrom": lambda loop, sock: loop.sock_recvfrom(sock, 1),
    "sock_recvfrom_into": lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(1)),
    "sock_sendall": lambda loop, sock: loop.sock_sendall(sock, b"x"),
    "sock_sendto": lambda loop, sock: loop.sock_sendto(sock, b"x", (LOOPBACK, 9)),
    "sock_accept": lambda loop, sock: loop.sock_accept(sock),
    "sock_connect": lambda loop, sock: loop.sock_connect(sock, (LOOPBACK, 9)),
}


@pytest.mark.parametrize("call", SOCKET_CALLS)
async def test_a_blocking_socket_is_refused_in_debug_mode(loop: Loop, call: str) -> None:
    loop.set_debug(True)
    with (
        socket.socket() as ours,
        pytest.raises(ValueError, match="the socket must be non-blocking"),
    ):
        await SOCKET_CALLS[call](loop, ours)


@pytest.mark.parametrize("call", SOCKET_CALLS)
async def test_a_closed_socket_is_an_error(loop: Loop, call: str) -> None:
    ours = socket.socket()
    ours.setblocking(False)
    ours.close()
    with pytest.raises((OSError, ValueError), match=r"Bad file descriptor|Invalid file desc"):
        await SOCKET_CALLS[call](loop, ours)


async def test_a_socket_of_a_transport_is_refused(loop: Loop) -> None:
    with open_pair("unix") as (ours, _):
        twin = socket.socket(fileno=os.dup(ours.fileno()))
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=twin)
        with pytest.raises(RuntimeError, match="is used by transport"):
            # The data is not there yet, so the loop must watch the descriptor.
            await loop.sock_recv(twin, 1)
        transport.close()
        await turns(2)


async def test_the_blocking_mode_of_a_users_socket_is_never_changed(loop: Loop) -> None:
    """Outside debug mode a blocking socket is allowed, and stays blocking."""
    with open_pair("unix") as (ours, peer):
        ours.setblocking(True)
        peer.sendall(b"data")
        assert await loop.sock_recv(ours, 10) == b"data"
        await loop.sock_sendall(ours, b"data")
        assert os.get_blocking(ours.fileno()) is True


async def test_each_call_watches_the_socket_anew(loop: Loop) -> None:
    with open_pair("unix") as (ours, peer):
        for number in range(100):
            receiving = asyncio.ensure_future(loop.sock_recv(ours, 10))
            await turns(1)
            peer.sendall(b"%d" % number)
            assert await receiving == b"%d" % number
