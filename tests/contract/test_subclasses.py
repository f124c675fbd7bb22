"""Classes that derive from the loop's: overrides, and methods replaced on a base, are called."""

import asyncio
import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from support.datagrams import ANY_PORT, endpoint
from support.leaks import LeakGuard
from support.loops import class_of
from support.peers import connected, stream_pair
from support.pipes import open_pipe
from support.protocols import RecordingProtocol
from support.threads import in_thread
from support.tls import Authority, tls_connected

Call = Callable[[Any], object]

CALLS: dict[str, Call] = {
    "call_soon": lambda loop: loop.call_soon(print).cancel(),
    "call_soon_threadsafe": lambda loop: loop.call_soon_threadsafe(print).cancel(),
    "call_later": lambda loop: loop.call_later(60, print).cancel(),
    "call_at": lambda loop: loop.call_at(60, print).cancel(),
    "time": lambda loop: loop.time(),
    "create_future": lambda loop: loop.create_future(),
    "is_running": lambda loop: loop.is_running(),
    "get_debug": lambda loop: loop.get_debug(),
    "stop": lambda loop: (loop.stop(), loop.run_forever()),
    "create_task": lambda loop: loop.create_task(asyncio.sleep(0)),
}
"""Methods that a loop may have native, and how to have each called."""

of_each_method = pytest.mark.parametrize("method", CALLS)


@pytest.fixture
def base(loop_name: str) -> Any:
    """The class of the loops under test."""
    return class_of(loop_name)


@contextlib.contextmanager
def opened(kind: Any, guard: LeakGuard) -> Iterator[Any]:
    """Make a loop of a class, and close it."""
    loop = kind()
    loop.set_exception_handler(guard.record)
    with contextlib.closing(loop):
        yield loop
        loop.run_until_complete(asyncio.sleep(0))


def counting(base: Any, method: str) -> Any:
    """Return a class that overrides a method, counts its calls, and goes on to the next class."""

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return getattr(super(kind, self), method)(*args, **kwargs)

    kind: Any = type("Counting", (base,), {"count": 0, method: counted})
    return kind


@of_each_method
def test_an_override_is_called(base: Any, method: str, guard: LeakGuard) -> None:
    with opened(counting(base, method), guard) as loop:
        CALLS[method](loop)
        assert loop.count > 0


@of_each_method
def test_an_override_of_a_sibling_is_called(base: Any, method: str, guard: LeakGuard) -> None:
    named = type("Named", (base,), {})
    both: Any = type("Both", (named, counting(base, method)), {})
    with opened(both, guard) as loop:
        CALLS[method](loop)
        assert loop.count > 0


@of_each_method
def test_an_override_of_a_mixin_is_called(base: Any, method: str, guard: LeakGuard) -> None:
    mixin = counting(object, method)
    both: Any = type("Both", (mixin, type("Named", (base,), {})), {})
    with opened(both, guard) as loop:
        CALLS[method](loop)
        assert loop.count > 0


@of_each_method
def test_what_replaces_a_method_of_the_base_is_called(
    base: Any, method: str, guard: LeakGuard
) -> None:
    with opened(type("Derived", (base,), {}), guard) as loop:
        original = getattr(base, method)
        calls: list[Any] = []

        def replacement(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(self)
            return original(self, *args, **kwargs)

        with mock.patch.object(base, method, replacement):
            CALLS[method](loop)
        assert set(calls) == {loop}
        calls.clear()
        CALLS[method](loop)
        assert not calls


def test_other_bases_are_told_of_the_subclass(base: Any) -> None:
    told: list[Any] = []

    class Registered:
        def __init_subclass__(cls, *, label: str, **more: Any) -> None:
            super().__init_subclass__(**more)
            told.append((cls, label))

    made = types.new_class("Made", (base, Registered), {"label": "one"})
    assert told == [(made, "one")]
    with pytest.raises(TypeError, match=r"takes no keyword arguments"):
        types.new_class("Unknown", (base,), {"label": "two"})


class Recording:
    """A mixin whose ``call_soon`` notes what it is given, and lets it run an iteration later."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.names: list[str] = []
        super().__init__(*args, **kwargs)

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        self.names.append(getattr(callback, "__name__", ""))
        schedule = super().call_soon  # type: ignore[misc]
        return schedule(schedule, callback, *args, context=context)


@pytest.fixture
def recording(base: Any, guard: LeakGuard) -> Iterator[Any]:
    """A loop that schedules by a method of its own."""
    kind: Any = type("RecordingLoop", (Recording, base), {})
    with opened(kind, guard) as loop:
        yield loop


def test_a_stream_is_made_and_lost_by_call_soon(recording: Any, kind: str) -> None:
    async def main() -> None:
        protocol = RecordingProtocol()
        ours, peer = stream_pair(kind)
        with peer:
            peer.sendall(b"data")
            await recording.create_connection(lambda: protocol, sock=ours)
            await protocol.received(4)
        await protocol.called("connection_lost")
        assert protocol.log == [
            "connection_made",
            "data_received",
            "eof_received",
            "connection_lost",
        ]

    recording.run_until_complete(main())
    assert recording.names.count("connection_made") == 1
    assert recording.names.count("_call_connection_lost") == 1
    assert "_set_result_unless_cancelled" in recording.names


def test_a_tls_connection_is_made_and_lost_by_call_soon(
    recording: Any, authority: Authority
) -> None:
    async def main() -> None:
        protocol = RecordingProtocol()
        async with tls_connected(protocol, authority) as (_, peer):
            await in_thread(peer.sendall, b"data")
            await protocol.received(4)
            protocol.transport.abort()
            await protocol.called("connection_lost")

    recording.run_until_complete(main())
    assert recording.names.count("connection_made") == 1
    assert "connection_lost" in recording.names


def test_an_endpoint_is_made_and_lost_by_call_soon(recording: Any) -> None:
    async def main() -> None:
        async with endpoint(local_addr=ANY_PORT):
            """Is opened and closed."""

    recording.run_until_complete(main())
    assert recording.names.count("connection_made") == 1
    assert recording.names.count("_call_connection_lost") == 1


def test_pipes_are_made_and_lost_by_call_soon(recording: Any) -> None:
    async def main() -> None:
        reading, writing = open_pipe()
        reader, writer = RecordingProtocol(), RecordingProtocol()
        await recording.connect_read_pipe(lambda: reader, reading)
        transport, _ = await recording.connect_write_pipe(lambda: writer, writing)
        transport.write(b"data")
        await reader.received(4)
        transport.close()
        await writer.called("connection_lost")
        await reader.called("connection_lost")
        assert reader.log == [
            "connection_made",
            "data_received",
            "eof_received",
            "connection_lost",
        ]

    recording.run_until_complete(main())
    assert recording.names.count("connection_made") == 2
    assert recording.names.count("eof_received") == 1
    assert recording.names.count("_call_connection_lost") == 2


async def test_the_end_of_a_stream_calls_a_close_that_was_replaced(loop: Any, kind: str) -> None:
    protocol = RecordingProtocol()
    async with connected(protocol, kind) as (transport, peer):
        close = transport.close
        closed: list[bool] = []

        def replacement() -> None:
            closed.append(True)
            close()

        transport.close = replacement  # type: ignore[method-assign]
        peer.close()
        await protocol.called("connection_lost")
    assert closed == [True]
