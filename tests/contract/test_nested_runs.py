"""Runs inside callbacks of the same loop, which ``nest_asyncio`` makes possible."""

import asyncio
import contextvars
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from support.datagrams import ANY_PORT, endpoint
from support.leaks import LeakGuard
from support.loops import class_of, of_one_thread
from support.nesting import nest
from support.peers import connected, receive_until_eof
from support.pipes import open_pipe
from support.protocols import RecordingProtocol
from support.threads import PEER_TIMEOUT, eventually, in_thread, turns
from support.tls import Authority, tls_connected

pytestmark = of_one_thread

Nested = Callable[[Coroutine[Any, Any, Any]], Any]

MEBIBYTE = 1 << 20
ROUND_TRIPS = 200


@pytest.fixture(params=["before", "inside"])
def loop(request: pytest.FixtureRequest, loop_name: str, guard: LeakGuard) -> Iterator[Any]:
    """A loop of a class of its own: nested before it runs, or by the callback that nests runs."""
    cls: Any = type("Loop", (class_of(loop_name),), {})
    loop = cls()
    loop.set_exception_handler(guard.record)
    guard.loops.append(loop)
    if request.param == "before":
        nest(cls)
    yield loop
    loop._stopping = False
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def nested(loop: Any, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine inside the running callback."""
    nest(type(loop))
    return loop.run_until_complete(coroutine)


async def sleep() -> str:
    await asyncio.sleep(0.01)
    return "slept"


async def work_in_an_executor() -> int:
    loop = asyncio.get_running_loop()
    # A loop that misses the wake-ups of other threads and looks now and then takes longer.
    async with asyncio.timeout(PEER_TIMEOUT / 2):
        return sum([await loop.run_in_executor(None, int, 1) for _ in range(ROUND_TRIPS)])


async def exchange_datagrams() -> bytes:
    async with endpoint(local_addr=ANY_PORT) as (transport, protocol):
        transport.sendto(b"datagram", transport.get_extra_info("sockname"))
        data, _ = await protocol.called("datagram_received")
        return bytes(data)


async def write_more_than_fits() -> int:
    async with connected(RecordingProtocol()) as (transport, peer):
        transport.write(bytes(8 * MEBIBYTE))
        transport.write_eof()
        return len(await in_thread(receive_until_eof, peer))


async def echo_through_a_server() -> bytes:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(4))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"echo")
        received = await reader.read()
        writer.close()
        await writer.wait_closed()
    return received


async def talk_to_a_child() -> bytes:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; sys.stdout.write(sys.stdin.read().upper())",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await child.communicate(b"child" * 50_000)
    return output[:5]


async def fill_a_pipe() -> int:
    loop = asyncio.get_running_loop()
    reading, writing = open_pipe()
    protocol = RecordingProtocol()
    transport, _ = await loop.connect_write_pipe(lambda: protocol, writing)
    transport.write(bytes(MEBIBYTE))
    transport.close()
    with reading:
        received = len(await in_thread(reading.read))
    await protocol.called("connection_lost")
    return received


async def watch_descriptors() -> list[bytes]:
    loop = asyncio.get_running_loop()
    ours, peer = socket.socketpair()
    received: list[bytes] = []
    with ours, peer:
        ours.setblocking(False)
        loop.add_reader(ours, lambda: received.append(ours.recv(1)))
        peer.send(b"ab")
        await eventually(lambda: len(received) == 2)
        loop.remove_reader(ours)
        receiving = asyncio.ensure_future(loop.sock_recv(ours, 100))
        await asyncio.sleep(0)
        threading.Thread(target=peer.send, args=(b"from a thread",)).start()
        received.append(await receiving)
    return received


async def handle_a_signal() -> str:
    loop = asyncio.get_running_loop()
    handled = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, handled.set)
    try:
        await asyncio.gather(in_thread(os.kill, os.getpid(), signal.SIGUSR1), handled.wait())
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)
    return "handled"


async def go_deeper(depth: int = 5) -> int:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    return depth + loop.run_until_complete(go_deeper(depth - 1)) if depth else 0


#: What is done inside a callback, with its result.
DEEDS: dict[str, tuple[Callable[[], Coroutine[Any, Any, Any]], Any]] = {
    "timer": (sleep, "slept"),
    "executor": (work_in_an_executor, ROUND_TRIPS),
    "datagrams": (exchange_datagrams, b"datagram"),
    "large write": (write_more_than_fits, 8 * MEBIBYTE),
    "server": (echo_through_a_server, b"echo"),
    "child": (talk_to_a_child, b"CHILD"),
    "pipe": (fill_a_pipe, MEBIBYTE),
    "descriptors": (watch_descriptors, [b"a", b"b", b"from a thread"]),
    "signal": (handle_a_signal, "handled"),
    "depth": (go_deeper, 15),
}


@pytest.mark.parametrize("name", DEEDS)
def test_a_run_inside_a_task_does_everything(loop: Any, name: str) -> None:
    deed, result = DEEDS[name]

    async def main() -> list[Any]:
        # Once more, outside of the inner run.
        return [nested(loop, deed()), nested(loop, deed()), await deed()]

    assert loop.run_until_complete(main()) == [result] * 3


def test_a_run_inside_a_task_exchanges_data_over_tls(
    loop: Any, authority_of_the_run: Authority
) -> None:
    async def exchange() -> bytes:
        protocol = RecordingProtocol()
        async with tls_connected(protocol, authority_of_the_run) as (transport, peer):
            transport.write(bytes(MEBIBYTE))
            received = 0
            while received < MEBIBYTE:
                received += len(await in_thread(peer.recv, MEBIBYTE))
            await in_thread(peer.sendall, b"answer")
            return await protocol.received(6)

    async def main() -> list[bytes]:
        return [nested(loop, exchange()), await exchange()]

    assert loop.run_until_complete(main()) == [b"answer"] * 2


def test_a_run_inside_a_callback_that_is_no_task(loop: Any) -> None:
    results: list[str] = []

    def callback() -> None:
        results.append(nested(loop, sleep()))
        loop.stop()

    loop.call_soon(callback)
    loop.run_forever()
    assert results == ["slept"]


def test_the_current_task_is_the_inner_one_and_then_the_outer_one(loop: Any) -> None:
    async def current() -> Any:
        await asyncio.sleep(0)
        return asyncio.current_task()

    async def main() -> None:
        outer = asyncio.current_task()
        task = loop.create_task(current())
        nest(type(loop))
        assert loop.run_until_complete(task) is task
        assert asyncio.current_task() is outer
        await asyncio.sleep(0)
        assert asyncio.current_task() is outer

    loop.run_until_complete(main())


def test_other_tasks_go_on_during_an_inner_run_and_behind_it(loop: Any) -> None:
    order: list[str] = []

    async def other() -> None:
        for step in range(4):
            order.append(f"other {step}")
            await asyncio.sleep(0.01)

    async def main() -> None:
        task = loop.create_task(other())
        await asyncio.sleep(0)
        nested(loop, asyncio.sleep(0.015))
        order.append("inner run is over")
        await task

    loop.run_until_complete(main())
    assert order[:2] == ["other 0", "other 1"]
    assert sorted(order[2:]) == ["inner run is over", "other 2", "other 3"]


def test_data_that_comes_during_an_inner_run_reaches_a_connection_of_the_outer_one(
    loop: Any,
) -> None:
    async def main() -> bytes:
        protocol = RecordingProtocol()
        async with connected(protocol) as (_, peer):
            peer.send(b"first ")
            await protocol.received(6)

            async def receive() -> None:
                await in_thread(peer.send, b"second ")
                await protocol.received(13)

            nested(loop, receive())
            peer.send(b"third")
            return await protocol.received(18)

    assert loop.run_until_complete(main()) == b"first second third"


def test_a_connection_that_ends_during_an_inner_run_is_lost_once(loop: Any) -> None:
    async def main() -> None:
        protocol = RecordingProtocol()
        async with connected(protocol) as (_, peer):
            peer.close()
            nested(loop, protocol.called("connection_lost"))
            await asyncio.sleep(0)
            assert protocol.log == ["connection_made", "eof_received", "connection_lost"]

    loop.run_until_complete(main())


class RunsInside(RecordingProtocol, asyncio.DatagramProtocol):
    """Runs the loop once inside its receiving method, and notes when that is over."""

    def __init__(self, loop: Any) -> None:
        super().__init__()
        self._loop = loop
        self._send_more: Callable[[], object] | None = None
        self.order: list[bytes | str] = []

    def send_more_with(self, send: Callable[[], object]) -> None:
        self._send_more = send

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.order.append(data)
        if self._send_more is not None:
            send, self._send_more = self._send_more, None
            nested(self._loop, self._receive(send))
            self.order.append("the inner run is over")

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.data_received(data)

    async def _receive(self, send: Callable[[], object]) -> None:
        await in_thread(send)
        await turns(5)


# asyncio refuses to enter the context again and again, until the inner run is over.
@pytest.mark.only_on("rloop")
@pytest.mark.parametrize("kind", ["tcp", "unix", "udp", "pipe"])
def test_data_for_a_callback_that_runs_the_loop_waits_until_it_returns(
    loop: Any, kind: str
) -> None:
    protocol = RunsInside(loop)

    async def exchange(send: Callable[[bytes], object]) -> None:
        protocol.send_more_with(lambda: send(b"second"))
        await in_thread(send, b"first")
        await protocol.received(11)
        assert protocol.order == [b"first", "the inner run is over", b"second"]
        await in_thread(send, b"third")
        await protocol.received(16)

    async def main() -> None:
        if kind == "pipe":
            reading, writing = open_pipe()
            transport, _ = await loop.connect_read_pipe(lambda: protocol, reading)
            with writing:
                await exchange(writing.write)
                transport.close()
        elif kind == "udp":
            endpoint, _ = await loop.create_datagram_endpoint(lambda: protocol, local_addr=ANY_PORT)
            with socket.socket(type=socket.SOCK_DGRAM) as peer:
                peer.connect(endpoint.get_extra_info("sockname"))
                await exchange(peer.send)
            endpoint.close()
        else:
            async with connected(protocol, kind) as (_, peer):
                await exchange(peer.send)
        await protocol.called("connection_lost")

    loop.run_until_complete(main())


@pytest.mark.only_on("rloop")
def test_a_callback_whose_context_is_in_use_waits_until_the_inner_run_is_over(loop: Any) -> None:
    order: list[str] = []
    context = contextvars.copy_context()

    def inside() -> None:
        loop.call_soon(order.append, "same context", context=context)
        loop.call_soon(order.append, "other context")
        nested(loop, sleep())
        order.append("the inner run is over")

    async def main() -> None:
        loop.call_soon(inside, context=context)
        await asyncio.sleep(0)
        await eventually(lambda: len(order) == 3)

    loop.run_until_complete(main())
    assert order == ["other context", "the inner run is over", "same context"]


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
def test_the_exception_of_an_inner_run_reaches_the_callback(
    loop: Any, error: type[BaseException]
) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise error("on purpose")

    async def main() -> str:
        with pytest.raises(error):
            nested(loop, fail())
        return nested(loop, sleep())  # type: ignore[no-any-return]

    assert loop.run_until_complete(main()) == "slept"


def test_an_interrupt_leaves_the_inner_run(loop: Any) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    async def main() -> str:
        loop.call_soon(interrupt)
        task = loop.create_task(sleep())
        nest(type(loop))
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        return await task  # type: ignore[no-any-return]

    assert loop.run_until_complete(main()) == "slept"


def test_a_loop_that_is_stopped_inside_an_inner_run_stops_both(loop: Any) -> None:
    async def stop() -> None:
        loop.stop()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def main() -> None:
        inner = loop.create_task(stop())
        nest(type(loop))
        with pytest.raises(RuntimeError, match="stopped before Future completed"):
            loop.run_until_complete(inner)
        await inner

    task = loop.create_task(main())
    with pytest.raises(RuntimeError, match="stopped before Future completed"):
        loop.run_until_complete(task)
    loop._stopping = False
    loop.run_until_complete(task)


@pytest.mark.only_on("rloop")
@pytest.mark.skipif(sys.version_info < (3, 14), reason="a loop of several threads needs 3.14")
@pytest.mark.filterwarnings("ignore:.*the GIL is enabled")
@pytest.mark.parametrize("when", ["before", "inside"])
def test_a_loop_of_several_threads_is_refused(loop_name: str, when: str) -> None:
    cls: Any = type("Loop", (class_of(loop_name),), {})
    loop = cls(threads=2)
    future = loop.create_future()
    future.set_result("outer")

    def run() -> str:
        nest(cls)
        with pytest.raises(RuntimeError, match="make it with threads=1"):
            loop.run_until_complete(loop.create_future())
        return "refused"

    async def main() -> str:
        return run()

    try:
        assert (run() if when == "before" else loop.run_until_complete(main())) == "refused"
    finally:
        loop.close()


@pytest.mark.only_on("rloop")
def test_the_selector_of_a_loop_that_runs_itself_refuses_to_wait(loop_name: str) -> None:
    loop = class_of(loop_name)()
    try:
        with pytest.raises(RuntimeError, match="the loop waits for events itself"):
            loop._selector.select(0)
    finally:
        loop.close()
