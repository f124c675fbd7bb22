"""Calls on a TLS transport from other threads, which are forwarded to its home in order.

asyncio forbids such calls, and loses bytes or its balance under them.
"""

import asyncio

import pytest

from support.protocols import RecordingProtocol
from support.threads import in_thread
from support.tls import Authority, connected_to_record_peer

pytestmark = pytest.mark.only_on("rloop")

WRITERS = 4
LINES_PER_WRITER = 2_000
ROUNDS = 5_000


def write_lines(name: int, transport: asyncio.Transport) -> None:
    for number in range(LINES_PER_WRITER):
        transport.write(b"%d %d\n" % (name, number))


@pytest.mark.timeout(60)
async def test_what_several_threads_write_arrives_whole_and_in_each_ones_order(
    authority: Authority,
) -> None:
    protocol = RecordingProtocol()
    async with connected_to_record_peer(protocol, authority) as (transport, peer):
        receiving = in_thread(peer.receive)
        await asyncio.gather(*(in_thread(write_lines, name, transport) for name in range(WRITERS)))
        # Forwarded like the writes before it.
        await in_thread(transport.close)
        lines = (await receiving).splitlines()
        peer.end()
        assert await protocol.called("connection_lost") is None
        for name in range(WRITERS):
            own = [line for line in lines if line.startswith(b"%d " % name)]
            assert own == [b"%d %d" % (name, number) for number in range(LINES_PER_WRITER)]
        assert len(lines) == WRITERS * LINES_PER_WRITER


@pytest.mark.timeout(60)
async def test_threads_that_pause_write_and_resume_at_once_lose_nothing(
    authority: Authority,
) -> None:
    class Echo(RecordingProtocol):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.write(data)

    protocol = Echo()
    payload = bytes(range(256)) * 4096

    async with connected_to_record_peer(protocol, authority) as (transport, peer):

        def meddle() -> None:
            for _ in range(ROUNDS):
                transport.pause_reading()
                transport.get_write_buffer_size()
                transport.get_extra_info("cipher")
                transport.resume_reading()

        def exchange() -> bytes:
            received = bytearray()
            for start in range(0, len(payload), 4096):
                peer.send(payload[start : start + 4096])
                received += peer.receive_exactly(4096)
            return bytes(received)

        meddling = [in_thread(meddle) for _ in range(2)]
        assert await in_thread(exchange) == payload
        await asyncio.gather(*meddling)


@pytest.mark.timeout(60)
async def test_one_thread_aborts_what_others_write_to(authority: Authority) -> None:
    protocol = RecordingProtocol()
    async with connected_to_record_peer(protocol, authority) as (transport, _):
        writing = [
            asyncio.ensure_future(in_thread(write_lines, name, transport))
            for name in range(WRITERS)
        ]
        await in_thread(transport.abort)
        assert await protocol.called("connection_lost") is None
        await asyncio.gather(*writing)
        assert protocol.count("connection_lost") == 1
