"""loop.statistics() and the report of a callback that does not end."""

import asyncio
import logging
import time
from typing import Any

import pytest

import rloop
from rloop._watchdog import Watchdog
from rloop.statistics import ShardStatistics
from support.peers import LOOPBACK
from support.shards import Gate, Run, on_each_shard, several_shards, shard_count
from support.threads import eventually, in_thread, turns

pytestmark = several_shards


def statistics() -> tuple[ShardStatistics, ...]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, rloop.TokioLoop)
    return loop.statistics()


async def count_to(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_callbacks_are_counted_where_they_run(run: Run[None]) -> None:
    async def main() -> None:
        before = statistics()
        await rloop.on_shard(1, count_to(1000))
        after = statistics()
        ran = [new.callbacks - old.callbacks for old, new in zip(before, after, strict=True)]
        assert 1000 <= ran[1] < 1100
        assert all(number < 100 for shard, number in enumerate(ran) if shard != 1)
        assert [shard.shard for shard in after] == list(range(shard_count()))

    run(main())


def test_pushes_and_wakeups_are_counted(run: Run[None]) -> None:
    async def main() -> None:
        await on_each_shard(turns, 1)
        before = statistics()[1]
        for _ in range(50):
            await rloop.on_shard(1, turns(1))
        after = statistics()[1]
        assert after.pushes - before.pushes >= 50
        assert after.wakeups > before.wakeups

    run(main())


def test_the_busy_share_and_the_slowest_callback_are_measured(run: Run[None]) -> None:
    async def be_busy(seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end:
            pass

    async def main() -> None:
        # Again, if this shard was held up before: that counts as busy.
        while True:
            await rloop.on_shard(1, be_busy(0.2))
            idle, after = statistics()[:2]
            assert after.slowest_callback is not None
            assert after.slowest_callback >= 0.15
            assert after.busy is not None
            assert 0 < after.busy <= 1
            assert idle.busy is not None
            if idle.busy < after.busy:
                break

    run(main())


def test_connections_are_counted_while_they_live(run: Run[None]) -> None:
    async def main() -> None:
        server = await asyncio.start_server(handle, LOOPBACK, 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            streams = [await asyncio.open_connection(LOOPBACK, port) for _ in range(shard_count())]
            await eventually(
                lambda: sum(shard.connections for shard in statistics()) == 2 * shard_count()
            )
            assert all(shard.connections for shard in statistics())
            for _, writer in streams:
                writer.close()
                await writer.wait_closed()
        await server.wait_closed()
        await eventually(lambda: not any(shard.connections for shard in statistics()))

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    run(main())


def test_they_may_be_asked_for_on_every_shard_and_thread(run: Run[None]) -> None:
    async def ask() -> None:
        for _ in range(200):
            assert len(statistics()) == shard_count()
            await asyncio.sleep(0)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        asking = in_thread(lambda: [loop.statistics() for _ in range(500)])
        await on_each_shard(ask)
        assert all(len(shards) == shard_count() for shards in await asking)

    run(main())


@pytest.mark.parametrize("shard", [0, 1])
def test_a_stuck_callback_is_reported_once_with_its_stack(
    shard: int, run: Run[None], caplog: pytest.LogCaptureFixture
) -> None:
    async def get_stuck_on_purpose(gate: Gate) -> None:
        gate.hold()

    def reports() -> list[logging.LogRecord]:
        # A machine that stands still makes others stuck as well.
        return [record for record in caplog.records if "in get_stuck" in record.getMessage()]

    def open_when_reported(gate: Gate) -> None:
        gate.wait_until_held()
        while not reports():
            time.sleep(0.001)
        gate.open()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, rloop.TokioLoop)
        assert loop.stuck_callback_timeout is None
        loop.stuck_callback_timeout = 0.05
        assert loop.stuck_callback_timeout == 0.05
        gate = Gate()
        opening = in_thread(open_when_reported, gate)
        await rloop.on_shard(shard, get_stuck_on_purpose(gate))
        await opening
        loop.stuck_callback_timeout = None

    run(main())
    (record,) = reports()
    assert record.levelno == logging.WARNING
    assert f"Shard {shard} of <TokioLoop" in record.getMessage()
    assert "more than 0.050 seconds" in record.getMessage()


class Scripted:
    """In place of a loop with one shard: what each look of the watchdog finds, and then the end."""

    def __init__(self, readings: list[tuple[int, bool]]) -> None:
        self._readings = list(reversed(readings))

    def is_closed(self) -> bool:
        return not self._readings

    def _statistics(self) -> list[tuple[int, bool]]:
        return [self._readings.pop()]

    def _shard_thread(self, _: int) -> None:
        return None


@pytest.mark.parametrize(
    ("readings", "reports"),
    [
        pytest.param([(7, False)] * 9, 0, id="idle"),
        pytest.param([(number, True) for number in range(9)], 0, id="short callbacks"),
        pytest.param([(7, True), (7, True), (8, True), (8, True)], 0, id="none for long enough"),
        pytest.param([(7, True)] * 9, 1, id="one stuck"),
        pytest.param([(7, True)] * 4 + [(8, True)] * 4, 2, id="one stuck after the other"),
    ],
)
def test_a_callback_is_reported_once_if_three_looks_find_it(
    readings: list[tuple[int, bool]], reports: int, caplog: pytest.LogCaptureFixture
) -> None:
    event_loop: Any = Scripted(readings)
    watchdog = Watchdog(event_loop, 0.002)
    watchdog._thread.join()
    assert len(caplog.records) == reports


def test_an_idle_shard_is_in_no_callback(run: Run[None]) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        await on_each_shard(count_to, 100)
        await eventually(lambda: not any(in_turn for *_, in_turn in loop._statistics()[1:]))

    run(main())


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_timeout_that_is_not_positive_is_refused(value: float, run: Run[None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, rloop.TokioLoop)
        with pytest.raises(ValueError, match="must be positive"):
            loop.stuck_callback_timeout = value

    run(main())
