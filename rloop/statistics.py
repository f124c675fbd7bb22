"""What a loop counts about its shards, and a group of workers about its workers."""

from dataclasses import dataclass

__all__ = ["ShardStatistics", "WorkerStatistics"]


@dataclass(frozen=True, slots=True)
class ShardStatistics:
    """The counts of one shard, see :meth:`rloop.TokioLoop.statistics`.

    Attributes:
        shard: the index of the shard.
        callbacks: how many callbacks and socket events have run.
        connections: how many transports, of sockets and pipes, live on the shard now.
        ready: how many callbacks and events were ready when the last turn began.
        pushes: how many calls came from other threads.
        wakeups: how many waits have ended.
        busy: the share of the time spent in callbacks, from 0 to 1, without the time when the loop
            was stopped. None for a loop of one shard, which is not timed.
        slowest_callback: how long the slowest callback took, in seconds, exact to a few
            milliseconds. None for a loop of one shard.
    """

    shard: int
    callbacks: int
    connections: int
    ready: int
    pushes: int
    wakeups: int
    busy: float | None
    slowest_callback: float | None


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """The counts of one worker, see :meth:`rloop.Worker.statistics`.

    Attributes:
        worker: the index of the worker.
        accepted: how many connections of shared listeners it has been given.
        connections: how many of them are open now, or on their way to the worker.
        loop: the counts of the loop that it runs now, or None if it runs no TokioLoop.
    """

    worker: int
    accepted: int
    connections: int
    loop: ShardStatistics | None
