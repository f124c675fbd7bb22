"""Work on other shards: where it is placed, and how its result comes back."""

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

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

    Any thread may cancel it, and tasks of any shard may await it, several at a time. It behaves as
    :class:`asyncio.Task`: :meth:`cancel` throws a CancelledError into the coroutine, which may
    catch it, and the future is cancelled when the task is.

    Only the home shard knows whether the task has ended. A request to cancel it that was made
    elsewhere is *undecided* until that shard has dealt with it. A task that has ended takes no
    request. Then :meth:`_finish` refuses it: the task that awaits is cancelled instead, as it is in
    asyncio when ``Task.cancel()`` returns False.

    Requests that are undecided at the same time count as one, with the message of the first. So
    shards that go on cancelling cannot fill the memory of a home shard that is busy.
    """

    _task: asyncio.Task[_T] | None = None
    _has_ended = False

    def __init__(
        self,
        event_loop: TokioLoop,
        shard: int,
        context: contextvars.Context,
        coroutine: Coroutine[Any, Any, _T],
        name: str | None,
    ) -> None:
        super().__init__(loop=event_loop)
        self._shard = shard
        self._context = context
        self._arguments = (coroutine, name)
        # Commands to the home shard need a context of their own: the sender reads it, and a context
        # must not be read while another thread runs in it (docs/safety.md).
        self._home = event_loop._home_context(shard)
        # The message of each request, by who waits for its effect, if anybody does. Every thread
        # that cancels adds to it, the home shard takes out. The operations on a dict are atomic,
        # and a signal handler may call cancel() between any two of them.
        self._undecided: dict[_Waiter | None, tuple[Any]] = {}

    def cancel(self, msg: Any | None = None) -> bool:
        """Ask the task to end. Any thread may call this.

        Args:
            msg: the argument of the CancelledError.

        Returns:
            False if it has ended already, or never will because the loop is closed. On another
            thread than its own, True may be wrong: the task then has ended meanwhile.
        """
        return self._request(msg, None)

    def __await__(self) -> Generator[Any, None, _T]:
        """Wait for the outcome. Like a task, it is cancelled with the task that awaits it."""
        if not self.done():
            waiter = _Waiter(self)
            self.add_done_callback(waiter.wake)
            yield from waiter
        return self.result()

    __iter__ = __await__

    def start(self) -> None:
        """Make the task: at once if its home is the calling shard, else there."""
        event_loop = self._loop_of_home()
        if event_loop._current_shard() == self._shard:
            self._make_task(event_loop.create_task)
            return
        event_loop._unstarted[self] = None
        event_loop.call_soon_threadsafe(self.start_at_home, context=self._home)

    def start_at_home(self) -> None:
        """Make the task, unless that was done. Runs on the home shard, or while the loop stops."""
        event_loop = self._loop_of_home()
        try:
            del event_loop._unstarted[self]
        except KeyError:
            return
        self._make_task(functools.partial(self._run, event_loop.create_task))
        self._decide()

    def _loop_of_home(self) -> TokioLoop:
        return cast("TokioLoop", self.get_loop())

    def _make_task(self, create_task: Callable[..., asyncio.Task[_T]]) -> None:
        coroutine, name = self._arguments
        del self._arguments
        try:
            self._task = create_task(coroutine, name=name, context=self._context)
        except BaseException as error:
            self._end()
            self.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            self._task.add_done_callback(self._finish, context=self._home)

    def _request(self, message: Any, waiter: "_Waiter | None") -> bool:
        """Cancel the task, for `waiter` if that is what a task awaits.

        Returns:
            False if the task has ended. True if it was cancelled, or `waiter` will be.
        """
        event_loop = self._loop_of_home()
        if self.done() or event_loop.is_closed():
            return False
        is_here = not event_loop._is_driven_elsewhere(self._shard)
        if is_here and self._task is not None:
            return self._task.cancel(message)
        request = (message,)
        is_new = self._undecided.setdefault(waiter, request) is request
        # If `_finish` has not seen the request, then this sees that `_finish` has begun.
        if self._has_ended:
            return self._undecided.pop(waiter, None) is None
        if is_new and not is_here:
            try:
                event_loop.call_soon_threadsafe(self._decide, context=self._home)
            except RuntimeError:
                # The loop was closed meanwhile.
                return self._undecided.pop(waiter, None) is None
        return True

    def _decide(self) -> None:
        """Cancel the task for each request there is. Runs on the home shard."""
        if self._task is None:
            # `start_at_home` follows.
            return
        for waiter, (message,) in self._undecided.copy().items():
            if self._run(self._task.cancel, message):
                self._undecided.pop(waiter, None)

    def _run(self, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Call code that may change context variables: those of `_home` must stay as they are."""
        return self._context.copy().run(function, *args, **more)

    def _finish(self, task: asyncio.Task[_T]) -> None:
        """Take over the outcome. Runs on the home shard, once."""
        self._end()
        try:
            error = task.exception()
        except asyncio.CancelledError as cancellation:
            super().cancel(*cancellation.args[:1])
            return
        if error is None:
            self.set_result(task.result())
        else:
            self.set_exception(error)

    def _end(self) -> None:
        """Refuse the requests that came too late."""
        self._loop_of_home()._unplace(self._shard)
        self._has_ended = True
        with contextlib.suppress(KeyError):
            while True:
                waiter, refusal = self._undecided.popitem()
                if waiter is not None:
                    waiter.refusal = refusal


class _Waiter(_Future[None]):
    """The future that one task waits for when it awaits a SpawnedFuture.

    A task marks the future that it is about to wait for, so two tasks of two shards must not wait
    for the same one.
    """

    refusal: tuple[Any] | None = None
    """The message of a cancellation that the awaited task was too late for."""

    def __init__(self, awaited: SpawnedFuture[Any]) -> None:
        super().__init__(loop=awaited.get_loop())
        self._awaited = awaited

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the awaited task, as ``Task.cancel()`` does; that ends the wait in turn."""
        return self._awaited._request(msg, self)

    def wake(self, _: object) -> None:
        """End the wait."""
        if self.refusal is None:
            self.set_result(None)
        else:
            super().cancel(*self.refusal)


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
def pinned(pin: bool = True) -> Iterator[None]:
    """Keep the connections of servers that start inside on the shard that accepts them.

    For code that cannot bear parallelism: protocols that share state without locks. Servers that
    are created, or start serving, within the ``with`` statement handle all their connections on the
    shard of the caller. Servers of aiohttp and websockets do that anyway.

    Args:
        pin: False lets the connections of any server live on all shards.
    """
    token = TokioLoop._is_pinned.set(pin)
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
    given: object = coroutine
    if not asyncio.iscoroutine(given):
        event_loop._unplace(shard)
        raise TypeError(f"a coroutine was expected, got {coroutine!r}")
    if context is None:
        context = contextvars.copy_context()
    event_loop._set_home(context, shard)
    future: SpawnedFuture[_T] = SpawnedFuture(event_loop, shard, context, coroutine, name)
    future.start()
    return future


def _running_loop(function: str) -> TokioLoop:
    event_loop = asyncio.get_running_loop()
    if not isinstance(event_loop, TokioLoop):
        # As asyncio.get_running_loop() does: the wrong loop is as bad as none.
        raise RuntimeError(f"{function} needs a running TokioLoop, not {event_loop!r}")  # noqa: TRY004
    return event_loop
