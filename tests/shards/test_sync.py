"""rloop.sync on several shards at once, with cancellations and timeouts at any moment."""

import asyncio
import threading
from typing import Any

import pytest

import rloop
from rloop import sync
from support.hammers import HAMMERS
from support.shards import Run, several_shards
from support.threads import PEER_TIMEOUT

pytestmark = several_shards

each_primitive = pytest.mark.parametrize("hammer", HAMMERS.values(), ids=HAMMERS)


@each_primitive
def test_totals_are_right_whatever_is_cancelled(hammer: Any, run: Run[None]) -> None:
    for seed in range(10):
        run(hammer(seed))


@pytest.mark.slow
@pytest.mark.timeout(180)
@each_primitive
def test_totals_are_right_in_many_rounds(hammer: Any, run: Run[None]) -> None:
    async def main() -> None:
        for seed in range(100, 600):
            await hammer(seed)

    run(main())


class ObservedMutex:
    """A mutex that tells when shard 1 asks for it."""

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        self.was_asked_for = threading.Event()

    def __enter__(self) -> None:
        if rloop.current_shard() == 1:
            self.was_asked_for.set()
        self._mutex.acquire()

    def __exit__(self, *_: object) -> None:
        self._mutex.release()


class LateLock(sync.Lock):
    """A lock that is released on shard 0 only while shard 1 asks for a mutex."""

    def __init__(self, mutex: ObservedMutex) -> None:
        super().__init__()
        self._observed = mutex

    def release(self) -> None:
        super().release()
        if rloop.current_shard() == 0:
            assert self._observed.was_asked_for.wait(PEER_TIMEOUT)


def test_who_is_about_to_wait_is_among_all_that_are_notified(run: Run[None]) -> None:
    async def notify(condition: sync.Condition) -> None:
        async with condition:
            condition.notify_all()

    async def main() -> None:
        mutex: Any = ObservedMutex()
        condition = sync.Condition(LateLock(mutex))
        condition._mutex = mutex
        async with asyncio.timeout(PEER_TIMEOUT), condition:
            notifying = rloop.on_shard(1, notify(condition))
            # It releases the lock, and is not in line yet when the other shard begins to notify.
            await condition.wait()
        await notifying

    run(main())
