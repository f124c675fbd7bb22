"""Python code that runs in the middle of a call: finalizers, functions that were replaced.

A finalizer runs where a reference is dropped, and on CPython 3.11 where an object is allocated,
which is inside most calls. It may call back into the transport that is in the middle of a call.
"""

import errno
import gc
import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from support.peers import connected, receive_until_eof, reset
from support.protocols import RecordingProtocol
from support.threads import PEER_TIMEOUT, in_thread

MEBIBYTE = 1 << 20


class Garbage:
    """A cycle that calls a function when it is collected, and leaves another one behind."""

    def __init__(self, calls: list[Callable[[], object]]) -> None:
        self.itself = self
        self.calls = calls

    def __del__(self) -> None:
        if self.calls:
            call = self.calls.pop()
            Garbage(self.calls)
            call()


@contextmanager
def collecting(function: Callable[[], object], times: int = 3) -> Iterator[None]:
    """Collect garbage as often as the interpreter can, and have its finalizers call a function.

    On CPython 3.11 that is at every allocation of an object that the collector tracks.
    """
    gc.collect()
    gc.disable()
    before = gc.get_threshold()
    calls = [function] * times
    Garbage(calls)
    gc.set_threshold(1)
    gc.enable()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        # At least once, also where the collector waits for the end of a native call.
        while len(calls) == times:
            gc.collect()
        calls.clear()


async def test_a_finalizer_that_writes_during_a_write_loses_no_byte(kind: str) -> None:
    async with connected(RecordingProtocol(), kind) as (transport, peer):
        received = in_thread(receive_until_eof, peer)
        with collecting(lambda: transport.write(b"finalizer")):
            transport.write(b"A" * 2 * MEBIBYTE)
            transport.write(b"B" * MEBIBYTE)
        transport.close()
        data = await received
    assert data.count(b"finalizer") >= 1
    assert data.replace(b"finalizer", b"") == b"A" * 2 * MEBIBYTE + b"B" * MEBIBYTE


@pytest.mark.only_on("rloop")
async def test_no_finalizer_s_bytes_come_into_the_middle_of_a_write(kind: str) -> None:
    async with connected(RecordingProtocol(), kind) as (transport, peer):
        received = in_thread(receive_until_eof, peer)
        with collecting(lambda: transport.write(b"finalizer")):
            transport.write(b"A" * 2 * MEBIBYTE)
            transport.write(bytearray(b"B" * MEBIBYTE))
        transport.close()
        data = await received
    assert b"A" * 2 * MEBIBYTE in data
    assert b"B" * MEBIBYTE in data


async def test_a_failed_write_eof_does_not_call_os_strerror(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "unix":
        pytest.skip("a Unix socket that was reset can be shut down")
    async with connected(RecordingProtocol(), kind) as (transport, peer):
        transport.pause_reading()
        poller = select.poll()
        poller.register(transport.get_extra_info("socket"), 0)
        reset(peer)
        assert poller.poll(PEER_TIMEOUT * 1000)

        def strerror(number: int) -> str:
            raise AssertionError(f"called with {number}, is_closing: {transport.is_closing()}")

        monkeypatch.setattr(os, "strerror", strerror)
        with pytest.raises(OSError, match="not connected") as raised:
            transport.write_eof()
        assert raised.value.errno == errno.ENOTCONN
