"""Protocol methods that a program replaces: each call looks its method up, as in asyncio.

A protocol may go on to its next state by replacing its own methods, a test may put a mock in the
place of one, a proxy may change what it stands for. Each kind of transport is asked with each way
to replace a method: the next event calls what attribute access gives.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import types
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest import mock

import pytest

from support.datagrams import ANY_PORT
from support.peers import connected, fill, stream_pair
from support.pipes import open_pipe
from support.threads import eventually, in_thread, turns
from support.tls import Authority, tls_connected

Loop = asyncio.AbstractEventLoop


class Channel:
    """An open transport, and the one method of its protocol that each event calls."""

    #: The bases of the protocols that it takes.
    bases: tuple[type, ...] = (asyncio.Protocol,)
    name = "data_received"

    def __init__(self) -> None:
        self.send: Callable[[], object] = lambda: None

    def open(self, protocol: Any) -> contextlib.AbstractAsyncContextManager[None]:
        """Open the transport; ``send`` makes the loop call the method once afterwards."""
        raise NotImplementedError

    def answer(self) -> Any:
        """Return what the method has to return."""


class Streams(Channel):
    """``data_received`` of a stream transport."""

    kind = "tcp"

    @contextlib.asynccontextmanager
    async def open(self, protocol: Any) -> AsyncIterator[None]:
        async with connected(protocol, self.kind) as (_, peer):
            self.send = lambda: peer.sendall(b"x")
            yield


class UnixStreams(Streams):
    """The same on a Unix socket."""

    kind = "unix"


class Buffers(Streams):
    """``get_buffer`` of a stream transport."""

    bases = (asyncio.BufferedProtocol,)
    name = "get_buffer"

    def answer(self) -> Any:
        # Room for more than what is sent: a full buffer may be asked for again at once.
        return bytearray(64)


class FilledBuffers(Buffers):
    """``buffer_updated`` of a stream transport."""

    name = "buffer_updated"


class SecureStreams(Channel):
    """``data_received`` over TLS."""

    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self._authority = authority

    @contextlib.asynccontextmanager
    async def open(self, protocol: Any) -> AsyncIterator[None]:
        async with tls_connected(protocol, self._authority) as (_, peer):
            self.send = lambda: peer.sendall(b"x")
            yield


class Datagrams(Channel):
    """``datagram_received`` of an endpoint."""

    bases = (asyncio.DatagramProtocol,)
    name = "datagram_received"

    @contextlib.asynccontextmanager
    async def open(self, protocol: Any) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: protocol, local_addr=ANY_PORT)
        with socket.socket(type=socket.SOCK_DGRAM) as peer:
            peer.connect(transport.get_extra_info("sockname"))
            self.send = lambda: peer.send(b"x")
            yield
        transport.abort()
        await turns(2)


class Pipes(Channel):
    """``data_received`` of a pipe."""

    @contextlib.asynccontextmanager
    async def open(self, protocol: Any) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        reading, writing = open_pipe()
        transport, _ = await loop.connect_read_pipe(lambda: protocol, reading)
        with writing:
            self.send = lambda: writing.write(b"x")
            yield
        transport.close()
        await turns(2)


class Children(Channel):
    """``pipe_data_received`` of a child's output."""

    bases = (asyncio.SubprocessProtocol,)
    name = "pipe_data_received"

    @contextlib.asynccontextmanager
    async def open(self, protocol: Any) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.subprocess_exec(
            lambda: protocol, "cat", stdin=subprocess.PIPE, stderr=None
        )
        stdin: Any = transport.get_pipe_transport(0)
        self.send = lambda: stdin.write(b"x")
        yield
        stdin.close()
        await eventually(lambda: transport.get_returncode() is not None)
        transport.close()
        await turns(3)


PLAIN_CHANNELS = [Streams, UnixStreams, Buffers, FilledBuffers, Datagrams, Pipes, Children]


@pytest.fixture(params=[kind.__name__ for kind in PLAIN_CHANNELS] + ["openssl", "rustls"])
def channel(request: pytest.FixtureRequest, authority_of_the_run: Authority) -> Channel:
    """A channel of each kind, and a TLS connection for each engine."""
    for kind in PLAIN_CHANNELS:
        if kind.__name__ == request.param:
            return kind()
    return SecureStreams(authority_of_the_run.serving(request.param))


class Subject:
    """A protocol class made for a channel, with its base, and what its methods were called as."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.calls: list[str] = []
        methods: dict[str, Any] = {channel.name: self.method("class")}
        if isinstance(channel, FilledBuffers):
            methods["get_buffer"] = lambda protocol, sizehint: bytearray(64)
        elif isinstance(channel, Buffers):
            methods["buffer_updated"] = lambda protocol, count: None
        self.base: Any = types.new_class(
            "Base", channel.bases, {}, lambda body: body.update(methods)
        )
        self.kind: Any = type("Kind", (self.base,), {})
        self.protocol: Any = self.kind()

    def method(self, label: str) -> Callable[..., Any]:
        """Return a function that notes the label when it is called, as a method or not."""

        def called(*arguments: object) -> Any:
            self.calls.append(label)
            return self.channel.answer()

        return called

    async def expect(self, *labels: str) -> None:
        """Send once for each label, one after another, and demand that these were called."""
        for count, label in enumerate(labels, len(self.calls) + 1):
            await in_thread(self.channel.send)
            await eventually(lambda count=count: len(self.calls) >= count)  # type: ignore[misc]
            assert self.calls[-1] == label


def on_the_instance(subject: Subject) -> Callable[[], object]:
    setattr(subject.protocol, subject.channel.name, subject.method("new"))
    return lambda: delattr(subject.protocol, subject.channel.name)


def in_the_dictionary_of_the_instance(subject: Subject) -> Callable[[], object]:
    vars(subject.protocol)[subject.channel.name] = subject.method("new")
    return lambda: vars(subject.protocol).pop(subject.channel.name)


def by_another_dictionary(subject: Subject) -> Callable[[], object]:
    attributes = dict(vars(subject.protocol))
    subject.protocol.__dict__ = {**attributes, subject.channel.name: subject.method("new")}

    def undo() -> None:
        subject.protocol.__dict__ = attributes

    return undo


def on_the_class(subject: Subject) -> Callable[[], object]:
    setattr(subject.kind, subject.channel.name, subject.method("new"))
    return lambda: delattr(subject.kind, subject.channel.name)


def on_the_base(subject: Subject) -> Callable[[], object]:
    old = getattr(subject.base, subject.channel.name)
    setattr(subject.base, subject.channel.name, subject.method("new"))
    return lambda: setattr(subject.base, subject.channel.name, old)


def by_a_mock_on_the_instance(subject: Subject) -> Callable[[], object]:
    new = mock.Mock(side_effect=subject.method("new"))
    patch = mock.patch.object(subject.protocol, subject.channel.name, new)
    patch.start()
    return patch.stop


def by_a_mock_on_the_class(subject: Subject) -> Callable[[], object]:
    new = mock.Mock(side_effect=subject.method("new"))
    patch = mock.patch.object(subject.kind, subject.channel.name, new)
    patch.start()
    return patch.stop


def by_a_function_without_the_instance(subject: Subject) -> Callable[[], object]:
    setattr(subject.kind, subject.channel.name, staticmethod(subject.method("new")))
    return lambda: delattr(subject.kind, subject.channel.name)


def by_a_property(subject: Subject) -> Callable[[], object]:
    new = subject.method("new")
    setattr(subject.kind, subject.channel.name, property(lambda protocol: new))
    return lambda: delattr(subject.kind, subject.channel.name)


def by_another_class(subject: Subject) -> Callable[[], object]:
    old = subject.kind
    new = type("Other", (old,), {subject.channel.name: subject.method("new")})
    subject.protocol.__class__ = new

    def undo() -> None:
        subject.protocol.__class__ = old

    return undo


def by_other_bases(subject: Subject) -> Callable[[], object]:
    old = subject.kind.__bases__
    new = type("Other", old, {subject.channel.name: subject.method("new")})
    subject.kind.__bases__ = (new,)

    def undo() -> None:
        subject.kind.__bases__ = old

    return undo


def by_its_own_attribute_access(subject: Subject) -> Callable[[], object]:
    new = subject.method("new")

    def access(protocol: object, name: str) -> Any:
        return new if name == subject.channel.name else object.__getattribute__(protocol, name)

    subject.kind.__getattribute__ = access

    def undo() -> None:
        del subject.kind.__getattribute__

    return undo


WAYS = [
    on_the_instance,
    in_the_dictionary_of_the_instance,
    by_another_dictionary,
    on_the_class,
    on_the_base,
    by_a_mock_on_the_instance,
    by_a_mock_on_the_class,
    by_a_function_without_the_instance,
    by_a_property,
    by_another_class,
    by_other_bases,
    by_its_own_attribute_access,
]


@pytest.mark.parametrize("replace", WAYS, ids=lambda way: way.__name__)
async def test_a_replaced_method_is_called_by_the_next_event(
    loop: Loop, channel: Channel, replace: Callable[[Subject], Callable[[], object]]
) -> None:
    subject = Subject(channel)
    async with channel.open(subject.protocol):
        # Often enough for whoever keeps a method that did not change.
        await subject.expect(*["class"] * 3)
        undo = replace(subject)
        await subject.expect("new", "new")
        undo()
        await subject.expect(*["class"] * 3)
        undo = replace(subject)
        await subject.expect("new")
        undo()


async def test_a_method_that_replaces_itself_is_called_once(loop: Loop, channel: Channel) -> None:
    subject = Subject(channel)

    def first(protocol: Any, *arguments: object) -> Any:
        setattr(protocol, channel.name, subject.method("second"))
        return subject.method("first")()

    setattr(subject.kind, channel.name, first)
    async with channel.open(subject.protocol):
        await subject.expect("first", "second", "second")


async def test_a_method_replaced_while_the_connection_is_made_is_called(
    loop: Loop, channel: Channel
) -> None:
    subject = Subject(channel)

    def connection_made(protocol: Any, transport: object) -> None:
        setattr(protocol, channel.name, subject.method("new"))

    subject.kind.connection_made = connection_made
    async with channel.open(subject.protocol):
        await subject.expect("new", "new")


async def test_attributes_of_other_names_change_nothing(loop: Loop, channel: Channel) -> None:
    subject = Subject(channel)
    async with channel.open(subject.protocol):
        for count in range(40):
            # More names than instances of one class share.
            setattr(subject.protocol, f"attribute_{count}", count)
            await subject.expect("class")
        setattr(subject.protocol, channel.name, subject.method("new"))
        await subject.expect("new")


async def test_another_instance_of_the_class_keeps_its_method(loop: Loop, channel: Channel) -> None:
    subject = Subject(channel)
    other = subject.kind()
    async with channel.open(subject.protocol):
        await subject.expect("class", "class")
        setattr(other, channel.name, subject.method("other"))
        await subject.expect("class", "class")
        setattr(subject.protocol, channel.name, subject.method("new"))
        await subject.expect("new")
        delattr(subject.protocol, channel.name)
        await subject.expect("class")


async def test_a_proxy_gives_the_method_of_what_it_stands_for(loop: Loop, channel: Channel) -> None:
    subject = Subject(channel)

    class Proxy:
        """Has no method of its own, and looks like a protocol."""

        def __init__(self, target: Any) -> None:
            self.target = target

        def __getattr__(self, name: str) -> Any:
            return getattr(self.target, name)

        @property  # type: ignore[misc]
        def __class__(self) -> type:
            return type(self.target)

    proxy = Proxy(subject.protocol)
    async with channel.open(proxy):
        await subject.expect("class", "class")
        setattr(subject.protocol, channel.name, subject.method("new"))
        await subject.expect("new")
        proxy.target = subject.kind()
        await subject.expect("class")


async def test_a_mock_is_a_protocol(loop: Loop, channel: Channel) -> None:
    subject = Subject(channel)
    protocol = mock.create_autospec(subject.kind, instance=True)
    getattr(protocol, channel.name).side_effect = subject.method("mock")
    if isinstance(channel, FilledBuffers):
        protocol.get_buffer.return_value = bytearray(64)
    async with channel.open(protocol):
        await subject.expect("mock", "mock")
        getattr(protocol, channel.name).side_effect = subject.method("new")
        await subject.expect("new")


async def test_a_class_of_slots_is_a_protocol(loop: Loop, channel: Channel) -> None:
    subject = Subject(channel)
    body = {**vars(subject.base), "__slots__": ("attribute",)}
    for name in ("__dict__", "__weakref__"):
        body.pop(name, None)
    kind: Any = type("Slots", channel.bases, body)
    async with channel.open(kind()):
        await subject.expect("class", "class", "class")
        setattr(kind, channel.name, subject.method("new"))
        await subject.expect("new", "new")


async def test_a_bound_method_on_a_class_is_called_as_it_is(loop: Loop, channel: Channel) -> None:
    subject = Subject(channel)

    class Owner:
        def method(self, *arguments: object) -> Any:
            assert type(self) is Owner
            return subject.method("bound")()

    setattr(subject.kind, channel.name, Owner().method)
    async with channel.open(subject.protocol):
        await subject.expect("bound", "bound", "bound")


async def test_the_buffer_methods_over_tls_are_those_of_when_the_protocol_was_set(
    loop: Loop, authority: Authority
) -> None:
    """asyncio looks these two up when it gets the protocol, unlike all others."""
    calls: list[str] = []

    class Buffered(asyncio.BufferedProtocol):
        def get_buffer(self, sizehint: int) -> bytearray:
            return bytearray(8)

        def buffer_updated(self, nbytes: int) -> None:
            calls.append("class")

    protocol: Any = Buffered()
    async with tls_connected(protocol, authority) as (transport, peer):
        protocol.buffer_updated = lambda nbytes: calls.append("new")
        await in_thread(peer.sendall, b"x")
        await eventually(lambda: calls)
        transport.set_protocol(protocol)
        await in_thread(peer.sendall, b"y")
        await eventually(lambda: len(calls) == 2)
    assert calls == ["class", "new"]


# Methods that are called for other reasons than data.


class Eventful:
    """A protocol with every method, each of which notes its class."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None: ...

    def datagram_received(self, data: bytes, addr: object) -> None: ...

    def eof_received(self) -> None:
        self.calls.append("eof_received of the class")

    def pause_writing(self) -> None:
        self.calls.append("pause_writing of the class")

    def resume_writing(self) -> None:
        self.calls.append("resume_writing of the class")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("connection_lost of the class")

    def error_received(self, exc: Exception) -> None:
        self.calls.append("error_received of the class")


class EventfulStream(Eventful, asyncio.Protocol):
    """For streams and pipes."""


class EventfulDatagrams(Eventful, asyncio.DatagramProtocol):
    """For endpoints."""


def replace_all(protocol: Any, place: str) -> None:
    """Replace every method that an event calls, on the instance or on a class of its own."""
    target = protocol
    if place == "class":
        target = protocol.__class__ = type("Own", (type(protocol),), {})
    for name in ("eof_received", "pause_writing", "resume_writing", "connection_lost"):

        def new(*arguments: object, name: str = name) -> None:
            protocol.calls.append(name)

        setattr(target, name, new)
    target.error_received = lambda *arguments: protocol.calls.append("error_received")


PLACES = pytest.mark.parametrize("place", ["instance", "class"])


@PLACES
async def test_every_method_of_a_stream_may_be_replaced(loop: Loop, kind: str, place: str) -> None:
    protocol: Any = EventfulStream()
    ours, peer = stream_pair(kind)
    transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
    replace_all(protocol, place)
    with peer:
        fill(ours)
        transport.write(bytes(1 << 20))
        await eventually(lambda: protocol.calls == ["pause_writing"])
        peer.setblocking(False)

        def receive() -> bool:
            with contextlib.suppress(BlockingIOError):
                peer.recv(1 << 20)
            return len(protocol.calls) == 2

        await eventually(receive)
        peer.shutdown(socket.SHUT_WR)
        await eventually(lambda: "connection_lost" in protocol.calls)
    assert protocol.calls == ["pause_writing", "resume_writing", "eof_received", "connection_lost"]


@PLACES
async def test_every_method_over_tls_may_be_replaced(
    loop: Loop, authority: Authority, place: str
) -> None:
    protocol: Any = EventfulStream()
    async with tls_connected(protocol, authority) as (transport, peer):
        replace_all(protocol, place)
        transport.set_write_buffer_limits(high=10)
        while "pause_writing" not in protocol.calls:
            transport.write(bytes(1 << 20))
            await turns(1)
        peer.setblocking(False)

        def receive() -> bool:
            with contextlib.suppress(OSError):
                peer.recv(1 << 20)
            return "resume_writing" in protocol.calls

        await eventually(receive)
        transport.abort()
        await eventually(lambda: "connection_lost" in protocol.calls)
    assert protocol.calls == ["pause_writing", "resume_writing", "connection_lost"]


@PLACES
async def test_every_method_of_a_pipe_that_is_read_may_be_replaced(loop: Loop, place: str) -> None:
    protocol: Any = EventfulStream()
    reading, writing = open_pipe()
    await loop.connect_read_pipe(lambda: protocol, reading)
    replace_all(protocol, place)
    writing.close()
    await eventually(lambda: "connection_lost" in protocol.calls)
    assert protocol.calls == ["eof_received", "connection_lost"]


@PLACES
async def test_every_method_of_a_pipe_that_is_written_may_be_replaced(
    loop: Loop, place: str
) -> None:
    protocol: Any = EventfulStream()
    reading, writing = open_pipe()
    transport, _ = await loop.connect_write_pipe(lambda: protocol, writing)
    replace_all(protocol, place)
    transport.write(bytes(1 << 20))
    assert protocol.calls == ["pause_writing"]
    os.set_blocking(reading.fileno(), False)
    await eventually(lambda: [reading.read(1 << 20), "resume_writing" in protocol.calls][1])
    transport.close()
    await eventually(lambda: "connection_lost" in protocol.calls)
    reading.close()
    assert protocol.calls == ["pause_writing", "resume_writing", "connection_lost"]


@PLACES
async def test_every_method_of_an_endpoint_may_be_replaced(loop: Loop, place: str) -> None:
    protocol: Any = EventfulDatagrams()
    with socket.socket(type=socket.SOCK_DGRAM) as gone:
        gone.bind(ANY_PORT)
        address = gone.getsockname()
    transport, _ = await loop.create_datagram_endpoint(lambda: protocol, remote_addr=address)
    replace_all(protocol, place)
    transport.sendto(b"refused")
    await eventually(lambda: protocol.calls)
    transport.close()
    await eventually(lambda: "connection_lost" in protocol.calls)
    assert protocol.calls == ["error_received", "connection_lost"]
