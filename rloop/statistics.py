"""What a loop counts about its shards."""

from dataclasses import dataclass

__all__ = ["ShardStatistics"]


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
