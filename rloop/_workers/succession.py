"""How a new worker takes the place of another: one by one on request, and after a failure.

On request, the new worker starts beside the old one. Once it has as many servers as the old one, or
runs its loop if the old one has none, it takes the place. Then the old one is ended by its own
means, so their listeners are served all the time. If the new worker ends before, the old one stays,
and the requests that came after this one are dropped: they would start the same program.

After a failure, where the group restarts workers, a new one takes the place at once, or after a
second if the worker ran for less than that.
"""

import collections
import signal
import time
from asyncio.log import logger
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rloop._workers.group import Group
    from rloop._workers.worker import Outcome, Worker

_RESTART_DELAY = 1.0
"""How long a worker has to run to be restarted at once, and else waits, in seconds."""


class Succession:
    """Replaces workers of a group. The supervising thread alone calls its methods."""

    def __init__(self, group: "Group", *, restarts: bool) -> None:
        """Replace nothing yet.

        Args:
            group: the group.
            restarts: whether a worker that fails is replaced.
        """
        self._group = group
        self._restarts = restarts
        self._requests: collections.deque[Worker] = collections.deque()
        # The worker that is being replaced, and the one that is to replace it.
        self._old: Worker | None = None
        self._new: Worker | None = None
        self._started_at: dict[Worker, float] = {}
        self._due: list[tuple[float, int]] = []

    def start(self, worker: "Worker") -> None:
        """Start a worker."""
        self._started_at[worker] = time.monotonic()
        worker._thread.start()

    def request(self, worker: "Worker") -> None:
        """Replace a worker once those that were requested before are replaced."""
        self._requests.append(worker)
        self.advance()

    def advance(self) -> None:
        """Do what can be done now: retire a worker, or start its successor."""
        if self._old is not None and self._new is not None and self._is_ready():
            new, self._new = self._new, None
            self._group.workers[new.index] = new
            if not self._old._has_ended:
                self._old._signals.deliver(signal.SIGTERM)
        while self._old is None and self._requests:
            old = self._requests.popleft()
            if old in self._group.workers and not old._has_ended and not self._group.is_ending():
                self._old = old
                self._new = self._group.add_worker(old.index)
                self.start(self._new)

    def _is_ready(self) -> bool:
        """Return whether the new worker serves what the old one serves."""
        assert self._old is not None
        assert self._new is not None
        if self._new._active_loop is None:
            return False
        return self._new.count_servers() >= self._old.count_servers()

    def take_end(self, worker: "Worker", outcome: "Outcome") -> bool:
        """Deal with the end of a worker; return False if it ends as one that is not replaced."""
        started_at = self._started_at.pop(worker, 0.0)
        if worker is self._new:
            if not self._group.is_ending():
                _log(f"{worker!r} ended before it could replace the one that runs", outcome)
            self._old = self._new = None
            self._requests.clear()
            return True
        if worker is self._old:
            self._old = None
            new, self._new = self._new, None
            if new is None:
                if outcome.is_failure():
                    _log(f"{worker!r}, which was replaced, failed", outcome)
                self.advance()
                return True
            if self._restarts or not outcome.is_failure():
                # It ended by itself, and the new one is there already.
                self._group.workers[new.index] = new
                self.advance()
                return True
        if self._restarts and outcome.is_failure() and not self._group.is_ending():
            _log(f"{worker!r} failed and is restarted", outcome)
            now = time.monotonic()
            delay = 0.0 if now - started_at >= _RESTART_DELAY else _RESTART_DELAY
            self._due.append((now + delay, worker.index))
            return True
        return False

    def is_waiting(self) -> bool:
        """Return whether a worker is to be started later."""
        return bool(self._due) and not self._group.is_ending()

    def due_at(self) -> float | None:
        """Return when the next worker is to be started, on the monotonic clock."""
        return min((when for when, _ in self._due), default=None)

    def start_due(self) -> None:
        """Start the workers whose time has come."""
        now = time.monotonic()
        due = [index for when, index in self._due if when <= now]
        self._due = [(when, index) for when, index in self._due if when > now]
        for index in due:
            worker = self._group.workers[index] = self._group.add_worker(index)
            self.start(worker)


def _log(what: str, outcome: "Outcome") -> None:
    logger.error("%s", what, exc_info=outcome.error)
