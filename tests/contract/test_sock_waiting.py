"""The sock_* methods while they wait: numbers that change hands, other waiters, cancellation."""

import asyncio
import os
import socket
import ssl
import sys

import pytest

from support.peers import LOOPBACK, open_pair, receive_exactly
from support.threads import in_thread, turns

Loop = asyncio.AbstractEventLoop


async def receive_after_waiting(loop: Loop, ours: socket.socket, peer: socket.socket) -> bytes:
    """Receive a message that is sent after the loop has begun to wait for it."""
    receiving = asyncio.ensure_future(loop.sock_recv(ours, 100))
    await turns(2)
    assert not receiving.done()
    peer.sendall(b"message")
    return await receiving


async def test_a_number_that_was_closed_is_watched_for_its_next_socket(loop: Loop) -> None:
    numbers = set()
    for _ in range(3):
        with open_pair("unix") as (ours, peer):
            numbers.add(ours.fileno())
            assert await receive_after_waiting(loop, ours, peer) == b"message"
            assert await receive_after_waiting(loop, ours, peer) == b"message"
    assert len(numbers) == 1


async def test_a_socket_whose_number_was_given_to_another_file_is_watched_anew(loop: Loop) -> None:
    """The socket object stays, the file under its number does not: only the kernel can tell."""
    with open_pair("unix") as (ours, peer), open_pair("unix") as (other, other_peer):
        assert await receive_after_waiting(loop, ours, peer) == b"message"
        os.dup2(other.fileno(), ours.fileno())
        assert await receive_after_waiting(loop, ours, other_peer) == b"message"


async def test_a_duplicate_is_watched_beside_its_original(loop: Loop) -> None:
    with open_pair("unix") as (ours, peer):
        with ours.dup() as twin:
            twin.setblocking(False)
            first = asyncio.ensure_future(loop.sock_recv(ours, 3))
            second = asyncio.ensure_future(loop.sock_recv(twin, 3))
            await turns(2)
            peer.sendall(b"onetwo")
            assert {await first, await second} == {b"one", b"two"}
        assert await receive_after_waiting(loop, ours, peer) == b"message"


async def test_an_abandoned_wait_takes_nothing_from_the_next_socket_of_its_number(
    loop: Loop,
) -> None:
    with open_pair("unix") as (ours, _):
        abandoned = asyncio.ensure_future(loop.sock_recv(ours, 100))
        await turns(2)
        number = ours.fileno()
        ours.close()
        with open_pair("unix") as (other, other_peer):
            assert number in (other.fileno(), other_peer.fileno())
            other_peer.sendall(b"to the other")
            await turns(3)
            assert not abandoned.done()
            assert await loop.sock_recv(other, 100) == b"to the other"
        abandoned.cancel()
        with pytest.raises(asyncio.CancelledError):
            await abandoned


async def test_a_socket_closed_in_the_turn_of_its_event_fails_the_operation(loop: Loop) -> None:
    """Whichever event is handled first, the other's operation finds its socket closed."""
    with open_pair("unix") as (one, one_peer), open_pair("unix") as (two, two_peer):

        async def receive_and_close_the_other(ours: socket.socket, other: socket.socket) -> bytes:
            data = await loop.sock_recv(ours, 100)
            other.close()
            return data

        receiving = [
            asyncio.ensure_future(receive_and_close_the_other(one, two)),
            asyncio.ensure_future(receive_and_close_the_other(two, one)),
        ]
        await turns(2)
        one_peer.sendall(b"message")
        two_peer.sendall(b"message")
        results = await asyncio.gather(*receiving, return_exceptions=True)
    assert b"message" in results
    for result in results:
        assert result == b"message" or isinstance(result, OSError)


async def test_what_is_there_is_received_without_suspending(loop: Loop) -> None:
    with open_pair("unix") as (ours, peer):
        assert await receive_after_waiting(loop, ours, peer) == b"message"
        for _ in range(3):
            peer.sendall(b"at once")
            ran: list[bool] = []
            loop.call_soon(ran.append, True)
            assert await loop.sock_recv(ours, 100) == b"at once"
            await loop.sock_sendall(ours, b"x")
            assert ran == []


async def test_receiving_and_sending_wait_for_one_socket_at_once(loop: Loop) -> None:
    payload = os.urandom(4 << 20)
    with open_pair("unix") as (ours, peer):
        receiving = asyncio.ensure_future(loop.sock_recv(ours, 100))
        sending = asyncio.ensure_future(loop.sock_sendall(ours, payload))
        await turns(3)
        peer.sendall(b"first")
        assert await receiving == b"first"
        receiving = asyncio.ensure_future(loop.sock_recv(ours, 100))
        assert await in_thread(receive_exactly, peer, len(payload)) == payload
        await sending
        assert not receiving.done()
        peer.sendall(b"second")
        assert await receiving == b"second"


async def test_a_second_wait_takes_the_place_of_the_first(loop: Loop) -> None:
    with open_pair("unix") as (ours, peer):
        first = asyncio.ensure_future(loop.sock_recv(ours, 100))
        await turns(2)
        second = asyncio.ensure_future(loop.sock_recv(ours, 100))
        await turns(2)
        peer.sendall(b"message")
        assert await second == b"message"
        assert not first.done()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await receive_after_waiting(loop, ours, peer) == b"message"


async def test_a_cancelled_wait_leaves_its_successor_alone(loop: Loop) -> None:
    with open_pair("unix") as (ours, peer):
        first = asyncio.ensure_future(loop.sock_recv(ours, 100))
        await turns(2)
        first.cancel()
        second = asyncio.ensure_future(loop.sock_recv(ours, 100))
        await turns(3)
        peer.sendall(b"message")
        assert await second == b"message"
        assert first.cancelled()


async def test_a_reader_takes_the_place_of_a_wait_and_is_removed_like_one(loop: Loop) -> None:
    with open_pair("unix") as (ours, peer):
        receiving = asyncio.ensure_future(loop.sock_recv(ours, 100))
        await turns(2)
        assert loop.remove_reader(ours) is True
        peer.sendall(b"message")
        await turns(3)
        assert not receiving.done()
        readable = asyncio.Event()
        loop.add_reader(ours, readable.set)
        await readable.wait()
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert loop.remove_reader(ours) is True
        assert await loop.sock_recv(ours, 100) == b"message"


async def test_a_reader_added_after_a_wait_stays_level_triggered(loop: Loop) -> None:
    with open_pair("unix") as (ours, peer):
        assert await receive_after_waiting(loop, ours, peer) == b"message"
        peer.sendall(b"left behind")
        calls: list[bool] = []
        loop.add_reader(ours, calls.append, True)
        await turns(10)
        assert len(calls) > 3
        loop.remove_reader(ours)
        assert await loop.sock_recv(ours, 100) == b"left behind"
        assert await receive_after_waiting(loop, ours, peer) == b"message"


async def test_a_wait_beside_a_writer_sees_each_message(loop: Loop) -> None:
    with open_pair("unix") as (ours, peer):
        calls: list[bool] = []
        loop.add_writer(ours, calls.append, True)
        for _ in range(3):
            assert await receive_after_waiting(loop, ours, peer) == b"message"
        assert calls
        before = len(calls)
        await turns(5)
        assert len(calls) > before
        assert loop.remove_writer(ours) is True
        assert await receive_after_waiting(loop, ours, peer) == b"message"


async def test_cancelling_in_the_turn_of_the_event_leaves_the_data(loop: Loop) -> None:
    with open_pair("unix") as (ours, peer):
        for _ in range(20):
            receiving = asyncio.ensure_future(loop.sock_recv(ours, 100))
            await turns(2)
            peer.sendall(b"kept")
            receiving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await receiving
            assert await loop.sock_recv(ours, 100) == b"kept"


async def test_cancelling_in_the_turn_of_a_connection_leaves_it_in_the_backlog(
    loop: Loop, loop_name: str
) -> None:
    if loop_name == "asyncio" and sys.version_info < (3, 14, 7):
        pytest.skip("asyncio accepts it for the cancelled future (cpython#153761)")
    with socket.create_server((LOOPBACK, 0)) as listener:
        listener.setblocking(False)
        for schedule in (lambda task: loop.call_soon(task.cancel), lambda task: task.cancel()):
            accepting = asyncio.ensure_future(loop.sock_accept(listener))
            await turns(2)
            with socket.create_connection(listener.getsockname()) as peer:
                schedule(accepting)
                with pytest.raises(asyncio.CancelledError):
                    await accepting
                accepted, address = await loop.sock_accept(listener)
                with accepted:
                    assert address == peer.getsockname()
                    peer.sendall(b"kept")
                    assert await loop.sock_recv(accepted, 100) == b"kept"


async def test_a_socket_that_a_transport_takes_over_has_no_wait_left(loop: Loop) -> None:
    with open_pair("unix") as (ours, peer):
        receiving = asyncio.ensure_future(loop.sock_recv(ours, 100))
        await turns(2)
        receiving.cancel()
        await turns(2)
        reader, writer = await asyncio.open_connection(sock=ours)
        peer.sendall(b"message\n")
        assert await reader.readline() == b"message\n"
        writer.close()
        await writer.wait_closed()


async def test_many_sockets_wait_at_once(loop: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(300)]
    try:
        for ours, _ in pairs:
            ours.setblocking(False)
        for _ in range(3):
            receiving = [asyncio.ensure_future(loop.sock_recv(ours, 10)) for ours, _ in pairs]
            await turns(2)
            for number, (_, peer) in enumerate(pairs):
                peer.sendall(b"%d" % number)
            assert await asyncio.gather(*receiving) == [b"%d" % n for n in range(len(pairs))]
    finally:
        for pair in pairs:
            for sock in pair:
                sock.close()


async def test_a_wait_of_a_task_that_is_thrown_away_ends_with_it(loop: Loop) -> None:
    with open_pair("unix") as (ours, _):
        coroutine = loop.sock_recv(ours, 100)
        coroutine.send(None)
        assert loop.remove_reader(ours) is True
        coroutine.close()
        assert loop.remove_reader(ours) is False


async def test_a_socket_with_methods_of_its_own_has_them_called(loop: Loop) -> None:
    class Shouting(socket.socket):
        def recv(self, bufsize: int, flags: int = 0) -> bytes:
            return super().recv(bufsize, flags).upper()

        def send(self, data: bytes, flags: int = 0) -> int:  # type: ignore[override]
            return super().send(bytes(data)[:1].lower(), flags)

    with open_pair("unix") as (plain, peer), Shouting(fileno=plain.detach()) as ours:
        ours.setblocking(False)
        assert await receive_after_waiting(loop, ours, peer) == b"MESSAGE"
        await loop.sock_sendall(ours, b"ABC")
        assert await in_thread(receive_exactly, peer, 3) == b"abc"


async def test_a_tls_socket_is_refused(loop: Loop) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with open_pair("tcp") as (ours, _):
        tls = context.wrap_socket(ours, server_hostname="x", do_handshake_on_connect=False)
        with tls:
            for operation in (
                loop.sock_recv(tls, 1),
                loop.sock_recv_into(tls, bytearray(1)),
                loop.sock_sendall(tls, b"x"),
                loop.sock_accept(tls),
            ):
                with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
                    await operation


async def test_sizes_are_those_of_the_socket_methods(loop: Loop) -> None:
    with open_pair("unix") as (ours, peer):
        assert await loop.sock_recv(ours, 0) == b""
        assert await loop.sock_recv_into(ours, bytearray()) == 0
        payload = os.urandom(100_000)
        sending = in_thread(peer.sendall, payload)
        received = b""
        while len(received) < len(payload):
            received += await loop.sock_recv(ours, 1 << 21)
        await sending
        assert received == payload
        with pytest.raises(ValueError, match="negative buffersize"):
            await loop.sock_recv(ours, -1)
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            await loop.sock_recv(ours, 1.5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="read-write bytes-like object"):
            await loop.sock_recv_into(ours, b"constant")
        with pytest.raises(TypeError, match="a bytes-like object is required, not 'str'"):
            await loop.sock_sendall(ours, "text")  # type: ignore[arg-type]


async def test_a_long_datagram_is_received_whole(loop: Loop) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
    ):
        ours.bind((LOOPBACK, 0))
        ours.setblocking(False)
        payload = os.urandom(60_000)
        receiving = asyncio.ensure_future(loop.sock_recv(ours, 1 << 20))
        await turns(2)
        peer.sendto(payload, ours.getsockname())
        assert await receiving == payload


@pytest.mark.only_on("rloop")
async def test_a_blocking_socket_does_not_stop_the_loop(loop: Loop) -> None:
    """asyncio's methods wait inside the system call then, and everything else with them."""
    with open_pair("unix") as (ours, peer):
        ours.setblocking(True)
        loop.call_soon(peer.sendall, b"message")
        assert await loop.sock_recv(ours, 100) == b"message"
        # Not what the socket object believes.
        assert os.get_blocking(ours.fileno()) is True
