"""add_reader, add_writer: level-triggered, on any pollable descriptor; it stays the user's."""

import asyncio
import contextlib
import gc
import os
import socket
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from support.leaks import LeakGuard
from support.peers import connected, fill, open_pair, stream_pair
from support.protocols import RecordingProtocol
from support.threads import PEER_TIMEOUT, eventually, turns

Loop = asyncio.AbstractEventLoop


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with open_pair("unix") as (ours, peer):
        peer.setblocking(False)
        yield ours, peer


Pair = tuple[socket.socket, socket.socket]


def never_called() -> None:
    """Stand in for a callback whose descriptor gets ready for nothing."""
    raise AssertionError("called although nothing was ready")


def settle(future: "asyncio.Future[None]") -> None:
    """Resolve the future, once."""
    if not future.done():
        future.set_result(None)


async def test_a_reader_is_called_with_its_arguments_when_data_arrives(
    loop: Loop, pair: Pair
) -> None:
    ours, peer = pair
    called = loop.create_future()

    def read(*arguments: int) -> None:
        called.set_result((arguments, ours.recv(10)))
        loop.remove_reader(ours)

    loop.add_reader(ours, read, 1, 2)
    peer.send(b"data")
    assert await called == ((1, 2), b"data")


async def test_data_left_behind_calls_the_reader_again(loop: Loop, pair: Pair) -> None:
    ours, peer = pair
    chunks: list[bytes] = []
    loop.add_reader(ours, lambda: chunks.append(ours.recv(1)))
    peer.send(b"abcde")
    await eventually(lambda: len(chunks) == 5)
    assert chunks == [b"a", b"b", b"c", b"d", b"e"]
    loop.remove_reader(ours)


async def test_a_reader_that_reads_nothing_is_called_on_every_turn(loop: Loop, pair: Pair) -> None:
    ours, peer = pair
    calls: list[int] = []
    peer.send(b"ignored")
    loop.add_reader(ours, calls.append, 1)
    await eventually(lambda: len(calls) >= 10)
    loop.remove_reader(ours)
    seen = len(calls)
    await turns(3)
    assert len(calls) == seen


async def test_the_end_of_stream_calls_the_reader_until_it_is_removed(
    loop: Loop, pair: Pair
) -> None:
    ours, peer = pair
    reads: list[bytes] = []
    loop.add_reader(ours, lambda: reads.append(ours.recv(10)))
    peer.close()
    await eventually(lambda: len(reads) >= 3)
    assert set(reads) == {b""}
    loop.remove_reader(ours)


async def test_data_that_was_there_before_calls_the_reader(loop: Loop, pair: Pair) -> None:
    ours, peer = pair
    peer.send(b"early")
    await turns(2)
    called = loop.create_future()
    loop.add_reader(ours, partial(settle, called))
    await called
    loop.remove_reader(ours)


async def test_a_writer_is_called_while_the_socket_takes_data(loop: Loop, pair: Pair) -> None:
    ours, _ = pair
    calls: list[int] = []
    loop.add_writer(ours, calls.append, 1)
    await eventually(lambda: len(calls) >= 10)
    assert loop.remove_writer(ours) is True


async def test_a_writer_waits_until_a_full_socket_drains(loop: Loop, pair: Pair) -> None:
    ours, peer = pair
    filled = fill(ours)
    calls: list[int] = []
    loop.add_writer(ours, calls.append, 1)
    await turns(5)
    assert calls == []
    drained = 0
    while drained < filled:
        drained += len(peer.recv(1 << 20))
    await eventually(lambda: calls)
    loop.remove_writer(ours)


async def test_one_descriptor_has_a_reader_and_a_writer_at_once(loop: Loop, pair: Pair) -> None:
    ours, peer = pair
    reads: list[bytes] = []
    writes: list[int] = []
    loop.add_reader(ours, lambda: reads.append(ours.recv(10)))
    loop.add_writer(ours, writes.append, 1)
    await eventually(lambda: writes)
    peer.send(b"both")
    await eventually(lambda: reads)
    assert loop.remove_writer(ours) is True
    seen = len(writes)
    peer.send(b"reader only")
    await eventually(lambda: b"".join(reads) == b"bothreader only")
    assert len(writes) == seen
    assert loop.remove_reader(ours) is True


async def test_removing_the_reader_leaves_the_writer(loop: Loop, pair: Pair) -> None:
    ours, peer = pair
    reads: list[int] = []
    writes: list[int] = []
    peer.send(b"unread")
    loop.add_reader(ours, reads.append, 1)
    loop.add_writer(ours, writes.append, 1)
    assert loop.remove_reader(ours) is True
    await eventually(lambda: len(writes) >= 3)
    assert reads == []
    loop.remove_writer(ours)


async def test_a_second_reader_replaces_the_first(loop: Loop, pair: Pair) -> None:
    ours, peer = pair
    calls: list[str] = []
    loop.add_reader(ours, calls.append, "first")
    loop.add_reader(ours, calls.append, "second")
    peer.send(b"x")
    await eventually(lambda: calls)
    assert set(calls) == {"second"}
    assert loop.remove_reader(ours) is True
    assert loop.remove_reader(ours) is False


async def test_a_replaced_reader_that_was_already_due_does_not_run(loop: Loop, pair: Pair) -> None:
    ours, peer = pair
    calls: list[str] = []

    def first() -> None:
        calls.append("first")
        loop.add_reader(ours, second)

    def second() -> None:
        calls.append("second")
        ours.recv(10)
        loop.remove_reader(ours)

    loop.add_reader(ours, first)
    peer.send(b"x")
    await eventually(lambda: "second" in calls)
    assert calls == ["first", "second"]


async def test_removing_what_was_never_added_answers_false(loop: Loop, pair: Pair) -> None:
    ours, _ = pair
    assert loop.remove_reader(ours) is False
    assert loop.remove_writer(ours) is False
    assert loop.remove_reader(ours.fileno()) is False
    loop.add_reader(ours, never_called)
    assert loop.remove_writer(ours) is False
    assert loop.remove_reader(ours) is True


async def test_a_callback_removes_a_reader_that_is_due_in_the_same_turn(loop: Loop) -> None:
    with open_pair("unix") as (first, first_peer), open_pair("unix") as (second, second_peer):
        calls: list[str] = []

        def read(name: str, other: socket.socket) -> None:
            calls.append(name)
            loop.remove_reader(first)
            loop.remove_reader(second)
            other.recv(1)

        loop.add_reader(first, read, "first", first)
        loop.add_reader(second, read, "second", second)
        first_peer.send(b"x")
        second_peer.send(b"x")
        await eventually(lambda: calls)
        await turns(3)
        assert len(calls) == 1


async def test_an_integer_and_a_file_object_name_the_same_registration(
    loop: Loop, pair: Pair
) -> None:
    ours, _ = pair
    loop.add_reader(ours.fileno(), never_called)
    assert loop.remove_reader(ours) is True


@contextlib.asynccontextmanager
async def reopened(loop: Loop) -> AsyncIterator[tuple[int, socket.socket]]:
    """Close a watched descriptor, open another file under its number; give number and peer."""
    old, old_peer = stream_pair("unix")
    number = old.fileno()
    loop.add_reader(number, raise_for_the_old_file)
    await turns(2)
    old.close()
    old_peer.close()
    with open_pair("unix") as (ours, peer):
        if ours.fileno() == number:
            yield number, peer
            return
        os.dup2(ours.fileno(), number)
        try:
            yield number, peer
        finally:
            os.close(number)


def raise_for_the_old_file() -> None:
    raise AssertionError("the reader of a closed file was called")


async def test_a_descriptor_closed_and_opened_again_is_watched_anew_after_removal(
    loop: Loop,
) -> None:
    async with reopened(loop) as (number, peer):
        assert loop.remove_reader(number) is True
        reads: list[bytes] = []
        loop.add_reader(number, lambda: reads.append(os.read(number, 10)))
        peer.send(b"new")
        await eventually(lambda: reads)
        assert reads == [b"new"]
        assert loop.remove_reader(number) is True


@pytest.mark.fails_on(
    "asyncio", reason="the selector believes that the number is still registered with epoll"
)
async def test_a_descriptor_closed_and_opened_again_is_watched_anew_without_removal(
    loop: Loop, loop_name: str
) -> None:
    # Who fails is not waited for as long as who may only be late.
    patience = 1 if loop_name == "asyncio" else PEER_TIMEOUT
    async with reopened(loop) as (number, peer):
        reads: list[bytes] = []
        loop.add_reader(number, lambda: reads.append(os.read(number, 10)))
        try:
            peer.send(b"new")
            await eventually(lambda: reads, patience)
            assert reads == [b"new"]
        finally:
            assert loop.remove_reader(number) is True


async def test_a_reader_of_a_closed_descriptor_can_still_be_removed(loop: Loop) -> None:
    ours, peer = stream_pair("unix")
    number = ours.fileno()
    loop.add_reader(number, never_called)
    await turns(2)
    ours.close()
    peer.close()
    await turns(2)
    assert loop.remove_reader(number) is True
    assert loop.remove_reader(number) is False


METHODS = pytest.mark.parametrize(
    ("add", "remove"), [("add_reader", "remove_reader"), ("add_writer", "remove_writer")]
)


@METHODS
async def test_a_closed_socket_is_removed_by_its_identity(
    loop: Loop, add: str, remove: str
) -> None:
    ours, peer = stream_pair("unix")
    with peer:
        getattr(loop, add)(ours, never_called)
        ours.close()
        assert getattr(loop, remove)(ours) is True
        with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
            getattr(loop, remove)(ours)


async def test_a_closed_socket_is_found_for_each_side(loop: Loop) -> None:
    ours, peer = stream_pair("unix")
    with peer, ours.dup() as twin:
        loop.add_writer(ours, never_called)
        loop.add_reader(ours, never_called)
        ours.close()
        # The duplicate keeps the file open, but the number is gone.
        with pytest.raises(OSError, match="Bad file descriptor"):
            loop.remove_reader(ours)
        assert twin.fileno() != -1
        # As in selectors, nothing is watched any more after a request that was refused.
        with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
            loop.remove_writer(ours)


async def test_the_first_object_of_a_descriptor_is_the_one_that_is_found(loop: Loop) -> None:
    ours, peer = stream_pair("unix")
    with peer:
        number = ours.fileno()
        loop.add_reader(number, never_called)
        loop.add_reader(ours, never_called)
        ours.close()
        with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
            loop.remove_reader(ours)
        assert loop.remove_reader(number) is True


async def test_an_object_is_let_go_of_with_its_last_callback(loop: Loop, pair: Pair) -> None:
    class File:
        def fileno(self) -> int:
            return pair[0].fileno()

    file = File()
    reference = weakref.ref(file)
    loop.add_reader(file, never_called)
    loop.add_writer(file, lambda: None)
    assert loop.remove_reader(file) is True
    assert loop.remove_writer(file) is True
    del file
    await turns(2)
    gc.collect()
    assert reference() is None


class Finalized:
    """A callback that calls a function when it is dropped."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function

    def __call__(self) -> None:
        """Stand in for a callback."""

    def __del__(self) -> None:
        self.function()


@METHODS
@pytest.mark.parametrize("how", ["replace", "remove", "refused"])
async def test_a_callback_that_is_dropped_may_add_and_remove_others(
    loop: Loop, pair: Pair, add: str, remove: str, how: str
) -> None:
    ours, peer = stream_pair("unix")
    other = pair[0]
    results: list[object] = []

    def use_the_registry() -> None:
        results.append(loop.remove_writer(other))
        loop.add_writer(other, lambda: None)
        results.append(loop.remove_reader(other))

    with peer:
        number = ours.fileno()
        loop.add_writer(other, lambda: None)
        getattr(loop, "add_writer" if add == "add_reader" else "add_reader")(number, lambda: None)
        getattr(loop, add)(number, Finalized(use_the_registry))
        if how == "replace":
            getattr(loop, add)(number, lambda: None)
        elif how == "remove":
            assert getattr(loop, remove)(number) is True
        else:
            ours.close()
            with pytest.raises(OSError, match="Bad file descriptor"):
                getattr(loop, remove)(number)
        await turns(2)
        gc.collect()
        assert results == [True, False]
        for watched in (number, other.fileno()):
            loop.remove_reader(watched)
            loop.remove_writer(watched)
        ours.close()


async def test_two_descriptors_of_one_file_are_watched_apart(loop: Loop, pair: Pair) -> None:
    ours, peer = pair
    with ours.dup() as twin:
        calls: list[str] = []
        loop.add_reader(ours, calls.append, "original")
        loop.add_reader(twin, calls.append, "twin")
        peer.send(b"x")
        await eventually(lambda: {"original", "twin"} <= set(calls))
        assert loop.remove_reader(ours) is True
        calls.clear()
        await eventually(lambda: calls)
        assert set(calls) == {"twin"}
        assert loop.remove_reader(twin) is True


@pytest.mark.parametrize("blocking", [True, False])
async def test_the_blocking_mode_of_a_users_descriptor_is_never_changed(
    loop: Loop, blocking: bool
) -> None:
    reading, writing = os.pipe()
    try:
        os.set_blocking(reading, blocking)
        os.set_blocking(writing, blocking)
        called = loop.create_future()
        loop.add_reader(reading, partial(settle, called))
        loop.add_writer(writing, lambda: loop.remove_writer(writing))
        os.write(writing, b"x")
        await called
        assert [os.get_blocking(reading), os.get_blocking(writing)] == [blocking] * 2
        loop.remove_reader(reading)
        loop.remove_writer(writing)
        assert [os.get_blocking(reading), os.get_blocking(writing)] == [blocking] * 2
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.skipif(sys.platform != "linux", reason="kqueue takes regular files")
@pytest.mark.parametrize("method", ["add_reader", "add_writer"])
async def test_a_regular_file_is_refused(loop: Loop, method: str, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+") as file:
        with pytest.raises(PermissionError):
            getattr(loop, method)(file, never_called)
        removal = method.replace("add", "remove")
        assert getattr(loop, removal)(file) is False


@pytest.mark.parametrize("method", ["add_reader", "add_writer"])
@pytest.mark.parametrize(
    ("descriptor", "error", "message"),
    [
        (-1, ValueError, "Invalid file descriptor: -1"),
        ("name", ValueError, "Invalid file object: 'name'"),
        (None, ValueError, "Invalid file object: None"),
    ],
)
async def test_what_is_no_descriptor_is_refused(
    loop: Loop, method: str, descriptor: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        getattr(loop, method)(descriptor, never_called)


async def test_a_number_that_is_not_open_is_refused(loop: Loop) -> None:
    number = os.dup(0)
    os.close(number)
    with pytest.raises(OSError, match="Bad file descriptor"):
        loop.add_reader(number, never_called)
    assert loop.remove_reader(number) is False


@pytest.mark.parametrize("method", ["add_reader", "add_writer", "remove_reader", "remove_writer"])
async def test_a_descriptor_of_a_transport_is_refused(loop: Loop, method: str) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol) as (transport, _):
        callback = [never_called] if method.startswith("add") else []
        sock = transport.get_extra_info("socket")
        for descriptor in (sock, sock.fileno()):
            with pytest.raises(RuntimeError, match=r"File descriptor .* is used by transport <.*>"):
                getattr(loop, method)(descriptor, *callback)


def test_adding_to_a_closed_loop_is_refused_and_removing_answers_false(
    loop: Loop, pair: Pair
) -> None:
    ours, _ = pair
    loop.close()
    for add in (loop.add_reader, loop.add_writer):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            add(ours, print)
    assert loop.remove_reader(ours) is False
    assert loop.remove_writer(ours) is False


def test_closing_the_loop_forgets_readers_without_closing_their_descriptors(
    loop: Loop, pair: Pair
) -> None:
    ours, peer = pair
    loop.add_reader(ours, print)
    loop.close()
    peer.send(b"still open")
    assert ours.recv(100) == b"still open"


def test_a_reader_stays_registered_while_the_loop_is_stopped(loop: Loop, pair: Pair) -> None:
    ours, peer = pair
    reads: list[bytes] = []
    loop.add_reader(ours, lambda: reads.append(ours.recv(10)))
    loop.run_until_complete(turns(1))
    peer.send(b"meanwhile")
    loop.run_until_complete(eventually(lambda: reads))
    assert reads == [b"meanwhile"]
    loop.remove_reader(ours)


async def test_a_failing_reader_is_reported_and_stays(
    loop: Loop, pair: Pair, guard: LeakGuard
) -> None:
    ours, peer = pair
    calls = 0

    def fail() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            loop.remove_reader(ours)
        raise ZeroDivisionError("on purpose")

    loop.add_reader(ours, fail)
    peer.send(b"x")
    await eventually(lambda: calls == 2)
    await turns(1)
    reports = guard.take_reports()
    assert [type(report["exception"]) for report in reports] == [ZeroDivisionError] * 2
    assert all(report["message"].startswith("Exception in callback") for report in reports)
