"""Work on other shards: where it is placed, and how its result comes back."""

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rloop.loop import TokioLoop

__all__ = ["current_shard", "on_shard", "pinned", "spawn"]

_T = TypeVar("_T")

if TYPE_CHECKING:
    _Future = asyncio.Future
else:

    class _Future(asyncio.Future, Generic[_T]):
        """asyncio's future, which is no generic class for a subclass."""


class SpawnedFuture(_Future[_T]):
    """The outcome of a coroutine that runs as a task on its home shard.

    It may be awaited and cancelled on any shard, by many tasks at a time. Like
    :meth:`asyncio.Task.cancel`, :meth:`cancel` asks: the coroutine gets a CancelledError, and the
    future is cancelled when the task is.
    """

    _task: asyncio.Task[_T] | None = None

    def __init__(
        self,
        event_loop: TokioLoop,
        shard: int,
        context: contextvars.Context,
        on_done: Callable[[], None],
    ) -> None:
        super().__init__(loop=event_loop)
        self._context = context
        # Messages to the home shard need a context of their own: who sends one reads it, and a
        # context must not be read while another thread runs in it (docs/safety.md).
        self._home = event_loop._home_context(shard)
        self._on_done = on_done

    def cancel(self, msg: Any | None = None) -> bool:
        """Ask the task to end. Any shard may call this.

        Args:
            msg: the argument of the CancelledError.

        Returns:
            False if it is done already.
        """
        if self.done():
            return False
        # Behind the call that makes the task, which was queued before this future was handed out.
        self.get_loop().call_soon_threadsafe(self._cancel_task, msg, context=self._home)
        return True

    def __await__(self) -> Generator[Any, None, _T]:
        """Wait for the outcome. Like a task, it is cancelled with the task that awaits it."""
        if not self.done():
            waiter = _Waiter(self)
            self.add_done_callback(waiter.wake)
            yield from waiter
        return self.result()

    __iter__ = __await__

    def start(self, coroutine: Coroutine[Any, Any, _T], name: str | None) -> None:
        """Have the task made on the home shard."""
        self.get_loop().call_soon_threadsafe(self._start, coroutine, name, context=self._home)

    def _start(self, coroutine: Coroutine[Any, Any, _T], name: str | None) -> None:
        """Make the task. Runs on the home shard."""
        try:
            create_task = self.get_loop().create_task
            self._task = self._run(create_task, coroutine, name=name, context=self._context)
        except BaseException as error:
            self._on_done()
            self.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            self._task.add_done_callback(self._finish, context=self._home)

    def _cancel_task(self, message: Any) -> None:
        """Cancel the task. Runs on the home shard."""
        if self._task is not None:
            self._run(self._task.cancel, message)

    def _run(self, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Call what may change context variables: those of `_home` must stay as they are."""
        return self._context.copy().run(function, *args, **more)

    def _finish(self, task: asyncio.Task[_T]) -> None:
        """Take over the outcome. Runs on the home shard, once."""
        self._on_done()
        try:
            error = task.exception()
        except asyncio.CancelledError as cancellation:
            super().cancel(*cancellation.args[:1])
            return
        if error is None:
            self.set_result(task.result())
        else:
            self.set_exception(error)


class _Waiter(_Future[None]):
    """What one task waits for when it awaits a SpawnedFuture.

    A task marks the future that it is about to wait for, so two tasks of two shards must not wait
    for the same one.
    """

    def __init__(self, awaited: SpawnedFuture[Any]) -> None:
        super().__init__(loop=awaited.get_loop())
        self._awaited = awaited

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel what is awaited, as ``Task.cancel()`` does; that ends the wait in turn."""
        return self._awaited.cancel(msg)

    def wake(self, _: object) -> None:
        """End the wait."""
        self.set_result(None)


def spawn(
    coro: Coroutine[Any, Any, _T],
    *,
    name: str | None = None,
    context: contextvars.Context | None = None,
) -> "asyncio.Future[_T]":
    """Run a coroutine as a task on the least loaded shard of the running loop.

    The task has that shard as its home for life, and so has what it starts.

    Args:
        coro: the coroutine.
        name: the name of the task.
        context: the context the task runs in; by default a copy of the current one. A context that
            has a home already, because something ran in it, keeps that home.

    Returns:
        A future that carries the result, the exception or the cancellation. Any shard may await and
        cancel it.

    Raises:
        RuntimeError: if no TokioLoop is running in this thread.
        TypeError: if `coro` is not a coroutine.
    """
    event_loop = _running_loop("rloop.spawn()")
    shard = None if context is None else event_loop._home_of(context)
    if shard is None:
        shard = event_loop._place()
    else:
        event_loop._place_on(shard)
    return _start_on(event_loop, shard, coro, name, context)


def on_shard(
    shard: int, coro: Coroutine[Any, Any, _T], *, name: str | None = None
) -> "asyncio.Future[_T]":
    """Run a coroutine as a task on a given shard of the running loop.

    Args:
        shard: the index of the shard: 0 is the thread that runs the loop.
        coro: the coroutine.
        name: the name of the task.

    Returns:
        A future, as :func:`spawn` returns it.

    Raises:
        RuntimeError: if no TokioLoop is running in this thread.
        ValueError: if the loop has no such shard.
        TypeError: if `coro` is not a coroutine.
    """
    event_loop = _running_loop("rloop.on_shard()")
    try:
        event_loop._place_on(shard)
    except OverflowError:
        count = event_loop._shard_count()
        raise ValueError(f"the loop has {count} shard(s), so there is no shard {shard}") from None
    return _start_on(event_loop, shard, coro, name, None)


def current_shard() -> int:
    """Return the index of the shard that the calling thread drives.

    Raises:
        RuntimeError: if no TokioLoop is running in this thread.
    """
    shard = _running_loop("rloop.current_shard()")._current_shard()
    assert shard is not None
    return shard


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Keep the connections of servers that start inside on the shard that accepts them.

    For code that cannot bear parallelism: protocols that share state without locks. Servers that
    are created, or start serving, within the ``with`` statement handle all their connections on the
    shard of the caller.
    """
    token = TokioLoop._is_pinned.set(True)
    try:
        yield
    finally:
        TokioLoop._is_pinned.reset(token)


def _start_on(
    event_loop: TokioLoop,
    shard: int,
    coroutine: Coroutine[Any, Any, _T],
    name: str | None,
    context: contextvars.Context | None,
) -> "asyncio.Future[_T]":
    def done() -> None:
        event_loop._unplace(shard)

    given: object = coroutine
    if not asyncio.iscoroutine(given):
        done()
        raise TypeError(f"a coroutine was expected, got {coroutine!r}")
    if context is None:
        context = contextvars.copy_context()
    event_loop._set_home(context, shard)
    future: SpawnedFuture[_T] = SpawnedFuture(event_loop, shard, context, done)
    future.start(coroutine, name)
    return future


def _running_loop(function: str) -> TokioLoop:
    event_loop = asyncio.get_running_loop()
    if not isinstance(event_loop, TokioLoop):
        # As asyncio.get_running_loop() does: the wrong loop is as bad as none.
        raise RuntimeError(f"{function} needs a running TokioLoop, not {event_loop!r}")  # noqa: TRY004
    return event_loop
