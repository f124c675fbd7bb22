"""Locks, events, semaphores, barriers and queues that all shards and all workers may share.

The classes of asyncio's ``locks`` and ``queues`` modules, with their API and semantics, for tasks
that may run on several threads of one loop, or on the loops of several workers
(``docs/threading.md``). Each is a subclass of asyncio's
class of the same name and replaces what reads and then changes state; the rest is inherited. They
work on every loop that runs asyncio's tasks, with one thread or many.

Theory of operation
    In asyncio, what a primitive does between two awaits is not interrupted by another task. Here
    each such section holds the primitive's mutex, so sections follow one another as they do on one
    thread, and asyncio's reasoning about them still holds. It is never held across an await.

    One thing does change inside a section: a waiter's future may be cancelled, by
    ``task.cancel()`` on any thread. So no section asks whether a future is done in order to
    complete it; `_wake` tries to, and says whether that took. The future decides atomically
    between its result and its cancellation (CPython locks it), so each wake-up is either given to a
    waiter or kept for the next.

    A waiter that was woken and then cancelled before its task ran passes the wake-up on, as in
    asyncio. A waiter that was cancelled is passed over at once: whom it stood before does not wait
    until the cancelled task has had its turn, since another shard may be slow to give it.

The mutex
    Completing a future calls ``loop.call_soon()`` while the mutex is held; that queues a callback
    and runs none. A queue's ``_put()`` and ``_get()``, which a subclass may define, and the
    comparison of a priority queue's items also run under the mutex, as in ``queue.Queue``: they
    must not wait for another thread. A finalizer or a signal handler may run anywhere, so the mutex
    is reentrant: such code finds the primitive in the state that it would find asyncio's in.
"""

import asyncio
import contextlib
import sys
import threading
from asyncio import BrokenBarrierError, QueueEmpty, QueueFull, events
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rloop import _rloop
from rloop._workers import current

if sys.version_info >= (3, 13):
    from asyncio import QueueShutDown
else:

    class QueueShutDown(Exception):
        """Raised when putting on to or getting from a queue that was shut down."""


__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "Condition",
    "Event",
    "LifoQueue",
    "Lock",
    "PriorityQueue",
    "Queue",
    "QueueEmpty",
    "QueueFull",
    "QueueShutDown",
    "Semaphore",
]

if TYPE_CHECKING:
    from _typeshed import SupportsRichComparison

_T = TypeVar("_T")
_Ordered = TypeVar("_Ordered", bound="SupportsRichComparison")
_Waiter = asyncio.Future[Any]


def _wake(waiter: _Waiter) -> bool:
    """Complete a waiter's future; return False if it was done or cancelled before."""
    loop = waiter.get_loop()
    try:
        if loop is events._get_running_loop() or not _is_loop_of_worker(loop):
            waiter.set_result(None)
        elif loop.is_closed():
            # Nobody cancelled the task before, and the loop refuses to wake it.
            with contextlib.suppress(RuntimeError):
                waiter.cancel()
            return False
        else:
            with current.waking():
                waiter.set_result(None)
    except asyncio.InvalidStateError:
        return False
    return True


def _is_loop_of_worker(loop: object) -> bool:
    return isinstance(loop, _rloop.EventLoop) and getattr(loop, "_worker", None) is not None


class _Shared:
    """What the primitives have in common."""

    _loop: asyncio.AbstractEventLoop | None

    def _get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, to which asyncio binds a primitive that waits on it.

        Raises:
            RuntimeError: if the primitive is bound to another one, and not both are workers'.
        """
        running = events._get_running_loop()
        if running is not None and self._loop is not running and _is_loop_of_worker(running):
            if self._loop is None:
                self._loop = running
            if _is_loop_of_worker(self._loop):
                return running
        loop: asyncio.AbstractEventLoop = super()._get_loop()  # type: ignore[misc]
        return loop

    def _line_up(self, waiters: deque[_Waiter]) -> _Waiter:
        """Return a new future at the end of the line; the caller holds the mutex."""
        waiter: _Waiter = self._get_loop().create_future()
        waiters.append(waiter)
        return waiter


class Lock(_Shared, asyncio.Lock):
    """A mutual exclusion lock for tasks of all shards and workers. See :class:`asyncio.Lock`."""

    _locked: bool
    _waiters: deque[_Waiter]

    def __init__(self) -> None:
        super().__init__()
        self._mutex = threading.RLock()
        self._waiters = deque()

    async def acquire(self) -> Literal[True]:
        """Wait until the lock is unlocked and the caller is first in line; lock it.

        Raises:
            RuntimeError: if it has to wait and the lock is bound to a different event loop.
        """
        with self._mutex:
            if not self._locked and (
                not self._waiters or all(waiter.cancelled() for waiter in self._waiters)
            ):
                self._locked = True
                return True
            waiter = self._line_up(self._waiters)
        try:
            await waiter
        except BaseException:
            with self._mutex:
                self._waiters.remove(waiter)
                if not self._locked:
                    self._wake_first()
            raise
        with self._mutex:
            self._waiters.remove(waiter)
            self._locked = True
        return True

    def release(self) -> None:
        """Unlock the lock and wake the first task that waits for it.

        Raises:
            RuntimeError: if the lock is not locked.
        """
        with self._mutex:
            if not self._locked:
                raise RuntimeError("Lock is not acquired.")
            self._locked = False
            self._wake_first()

    def _wake_first(self) -> None:
        for waiter in self._waiters:
            # One that is done but not cancelled was woken before and is about to take the lock.
            if _wake(waiter) or not waiter.cancelled():
                return


class Event(_Shared, asyncio.Event):
    """A flag that tasks of all shards and workers can wait for. See :class:`asyncio.Event`."""

    # clear() and is_set() are inherited: one access to the flag needs no mutex.

    _value: bool
    _waiters: deque[_Waiter]

    def __init__(self) -> None:
        super().__init__()
        self._mutex = threading.RLock()

    def set(self) -> None:
        """Set the flag and wake every task that waits for it."""
        with self._mutex:
            if not self._value:
                self._value = True
                for waiter in self._waiters:
                    _wake(waiter)

    async def wait(self) -> Literal[True]:
        """Wait until the flag is set.

        Raises:
            RuntimeError: if it has to wait and the event is bound to a different event loop.
        """
        if self._value:
            return True
        with self._mutex:
            if self.is_set():
                return True
            waiter = self._line_up(self._waiters)
        try:
            await waiter
        finally:
            with self._mutex:
                self._waiters.remove(waiter)
        return True


class Condition(_Shared, asyncio.Condition):
    """A condition variable for tasks of all shards and workers. See :class:`asyncio.Condition`.

    Args:
        lock: the lock to use; by default a new one.

    Raises:
        TypeError: if `lock` is asyncio's own, which is not safe across shards.
    """

    _waiters: deque[_Waiter]

    def __init__(self, lock: asyncio.Lock | None = None) -> None:
        if isinstance(lock, asyncio.Lock) and not isinstance(lock, Lock):
            raise TypeError("rloop.sync.Condition needs an rloop.sync.Lock, not an asyncio.Lock")
        super().__init__(Lock() if lock is None else lock)
        self._mutex = threading.RLock()

    async def wait(self) -> Literal[True]:
        """Release the lock, wait until notified, and acquire the lock again.

        It may return without a notification, so the caller checks its condition once more.

        Raises:
            RuntimeError: if the lock is not locked, or bound to a different event loop.
        """
        if not self.locked():
            raise RuntimeError("cannot wait on un-acquired lock")
        waiter = self._get_loop().create_future()
        with self._mutex:
            # No notify() comes between the two: it needs the mutex.
            self.release()
            self._waiters.append(waiter)
        try:
            try:
                try:
                    await waiter
                finally:
                    with self._mutex:
                        self._waiters.remove(waiter)
            finally:
                await self._acquire_again()
        except BaseException:
            # The task may have been notified and cannot tell; another one shall look.
            self._notify(1)
            raise
        return True

    async def _acquire_again(self) -> None:
        """Acquire the lock even if cancelled meanwhile; raise that cancellation afterwards."""
        cancellation = None
        while True:
            try:
                await self.acquire()
                break
            except asyncio.CancelledError as error:
                cancellation = error
        if cancellation is not None:
            try:
                raise cancellation
            finally:
                cancellation = None  # Else it would refer to this frame, which refers to it.

    def notify(self, n: int = 1) -> None:
        """Wake `n` of the tasks that wait, or all if there are fewer.

        Raises:
            RuntimeError: if the lock is not locked.
        """
        if not self.locked():
            raise RuntimeError("cannot notify on un-acquired lock")
        self._notify(n)

    def notify_all(self) -> None:
        """Wake all tasks that wait.

        Raises:
            RuntimeError: if the lock is not locked.
        """
        with self._mutex:
            # Counted in here: one that has released the lock may not be in line yet.
            self.notify(len(self._waiters))

    def _notify(self, n: int) -> None:
        with self._mutex:
            for waiter in self._waiters:
                if n <= 0:
                    return
                n -= _wake(waiter)


class Semaphore(_Shared, asyncio.Semaphore):
    """A counter of permits for tasks of all shards and workers. See :class:`asyncio.Semaphore`.

    Args:
        value: how many permits there are at first.

    Raises:
        ValueError: if `value` is negative.
    """

    _waiters: deque[_Waiter]

    def __init__(self, value: int = 1) -> None:
        super().__init__(value)
        self._mutex = threading.RLock()
        self._waiters = deque()

    def locked(self) -> bool:
        """Return whether acquire() would wait."""
        with self._mutex:
            return self._must_wait()

    async def acquire(self) -> Literal[True]:
        """Wait until there is a permit and the caller is first in line; take the permit.

        Raises:
            RuntimeError: if it has to wait and the semaphore is bound to a different event loop.
        """
        with self._mutex:
            if not self._must_wait():
                self._value -= 1
                return True
            waiter = self._line_up(self._waiters)
        try:
            await waiter
        except BaseException:
            with self._mutex:
                if waiter.done() and not waiter.cancelled():
                    # It was given a permit, which is now another's.
                    self._value += 1
                self._leave(waiter)
            raise
        with self._mutex:
            self._leave(waiter)
        return True

    def release(self) -> None:
        """Return a permit, and give it to the first task that waits for one."""
        with self._mutex:
            self._value += 1
            self._wake_next()

    def _must_wait(self) -> bool:
        if self._waiters and any(not waiter.cancelled() for waiter in self._waiters):
            return True
        return self._value == 0

    def _leave(self, waiter: _Waiter) -> None:
        """Take `waiter` out of the line, and let those in who stood behind it."""
        self._waiters.remove(waiter)
        while self._value > 0 and self._wake_next():
            pass

    def _wake_next(self) -> bool:
        for waiter in self._waiters:
            if _wake(waiter):
                self._value -= 1
                return True
        return False


class BoundedSemaphore(Semaphore, asyncio.BoundedSemaphore):
    """A semaphore that never has more permits than at first.

    See :class:`asyncio.BoundedSemaphore`.
    """

    _bound_value: int

    def __init__(self, value: int = 1) -> None:
        super().__init__(value)

    def release(self) -> None:
        """Return a permit, and give it to the first task that waits for one.

        Raises:
            ValueError: if there are as many permits as at first.
        """
        with self._mutex:
            if self._value >= self._bound_value:
                raise ValueError("BoundedSemaphore released too many times")
            super().release()


class Barrier(asyncio.Barrier):
    """A meeting point for a number of tasks of all shards and workers.

    See :class:`asyncio.Barrier`.

    Args:
        parties: how many tasks meet.

    Raises:
        ValueError: if `parties` is less than 1.
    """

    # Everything it does, it does while it holds the lock of its condition.

    def __init__(self, parties: int) -> None:
        super().__init__(parties)
        self._cond = Condition()


class Queue(_Shared, asyncio.Queue[_T]):
    """A first-in, first-out queue between tasks of all shards and workers.

    See :class:`asyncio.Queue`. With several threads, what ``qsize()``, ``empty()`` and ``full()``
    return may be out of date when the caller looks at it. ``shutdown()`` is there on every version
    of Python.

    Args:
        maxsize: how many items it holds at most; unlimited if not positive.
    """

    # asyncio sets it where its own queues can be shut down.
    _is_shutdown = False
    _getters: deque[_Waiter]
    _putters: deque[_Waiter]
    _unfinished_tasks: int

    def __init__(self, maxsize: int = 0) -> None:
        self._mutex = threading.RLock()
        super().__init__(maxsize)
        self._finished = Event()
        self._finished.set()

    async def put(self, item: _T) -> None:
        """Put an item into the queue; wait while the queue is full.

        Raises:
            QueueShutDown: if the queue was shut down.
            RuntimeError: if it has to wait and the queue is bound to a different event loop.
        """
        while True:
            with self._mutex:
                if self._is_shutdown or not self.full():
                    return self.put_nowait(item)
                waiter = self._line_up(self._putters)
            await self._wait(waiter, self._putters, self.full)

    def put_nowait(self, item: _T) -> None:
        """Put an item into the queue.

        Raises:
            QueueFull: if the queue is full.
            QueueShutDown: if the queue was shut down.
        """
        with self._mutex:
            if self._is_shutdown:
                raise QueueShutDown
            if self.full():
                raise QueueFull
            self._put(item)
            self._unfinished_tasks += 1
            self._finished.clear()
            self._wakeup_next(self._getters)

    async def get(self) -> _T:
        """Take the next item out of the queue; wait while there is none.

        Raises:
            QueueShutDown: if the queue is empty and was shut down.
            RuntimeError: if it has to wait and the queue is bound to a different event loop.
        """
        while True:
            with self._mutex:
                if self._is_shutdown or not self.empty():
                    return self.get_nowait()
                waiter = self._line_up(self._getters)
            await self._wait(waiter, self._getters, self.empty)

    def get_nowait(self) -> _T:
        """Take the next item out of the queue.

        Raises:
            QueueEmpty: if the queue is empty.
            QueueShutDown: if the queue is empty and was shut down.
        """
        with self._mutex:
            if self.empty():
                if self._is_shutdown:
                    raise QueueShutDown
                raise QueueEmpty
            item = self._get()
            self._wakeup_next(self._putters)
            return item

    def task_done(self) -> None:
        """Say that the work on an item that was taken out is complete.

        Raises:
            ValueError: if it was called for every item already.
        """
        with self._mutex:
            if self._unfinished_tasks <= 0:
                raise ValueError("task_done() called too many times")
            self._unfinished_tasks -= 1
            if self._unfinished_tasks == 0:
                self._finished.set()

    def shutdown(self, immediate: bool = False) -> None:
        """Refuse further items, wake all who wait, and refuse getters once the queue is empty.

        Args:
            immediate: whether to empty the queue now; the items count as done.
        """
        with self._mutex:
            self._is_shutdown = True
            if immediate:
                while not self.empty():
                    self._get()
                    if self._unfinished_tasks > 0:
                        self._unfinished_tasks -= 1
                if self._unfinished_tasks == 0:
                    self._finished.set()
            for waiters in (self._getters, self._putters):
                while waiters:
                    _wake(waiters.popleft())

    async def _wait(
        self,
        waiter: _Waiter,
        waiters: deque[_Waiter],
        must_wait: Callable[[], bool],
    ) -> None:
        """Wait until woken; if cancelled, pass on a wake-up that others can use."""
        try:
            await waiter
        except BaseException:
            with self._mutex:
                # It is not done yet if the coroutine was closed.
                waiter.cancel()
                with contextlib.suppress(ValueError):
                    waiters.remove(waiter)
                if not waiter.cancelled() and not must_wait():
                    self._wakeup_next(waiters)
            raise

    def _wakeup_next(self, waiters: deque[_Waiter]) -> None:
        while waiters and not _wake(waiters.popleft()):
            pass

    def _format(self) -> str:
        with self._mutex:
            return super()._format()


class LifoQueue(Queue[_T], asyncio.LifoQueue[_T]):
    """A queue that returns the newest item first. See :class:`asyncio.LifoQueue`."""


class PriorityQueue(Queue[_Ordered], asyncio.PriorityQueue[_Ordered]):
    """A queue that returns the lowest item first. See :class:`asyncio.PriorityQueue`."""
