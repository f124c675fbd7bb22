"""One worker: a thread with a loop of its own, and how others reach it."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from rloop._workers import current
from rloop._workers.modules import Copy
from rloop._workers.signals import Signals, Terminated
from rloop.statistics import WorkerStatistics

if TYPE_CHECKING:
    from rloop._workers.group import Group
    from rloop.loop import TokioLoop

__all__ = ["Worker"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Outcome:
    """How a worker's program ended: what it returned, or what it raised."""

    result: Any = None
    error: BaseException | None = None

    def is_failure(self) -> bool:
        """Return whether the program failed, rather than returning or being interrupted."""
        if isinstance(self.error, SystemExit):
            return self.error.code not in (None, 0) and not isinstance(self.error, Terminated)
        return self.error is not None and not isinstance(self.error, KeyboardInterrupt)


class Worker:
    """One of the workers that :func:`rloop.run_workers` or ``python -m rloop --workers`` started.

    Any thread may read the attributes.

    Attributes:
        index: the number of the worker, from 0.
    """

    def __init__(
        self,
        group: "Group",
        index: int,
        body: "Callable[[Worker], Any]",
        *,
        runs_loop_only: bool = False,
    ) -> None:
        self.index = index
        self._runs_loop_only = runs_loop_only
        self._group = group
        self._body = body
        self._signals = Signals(self, group.inherited_handlers)
        self._copy = Copy(f"worker {index}")
        self._active_loop: TokioLoop | None = None
        # A listener's lock guards the first two; only the worker's thread changes the last.
        self._connections_under_way = 0
        self._connections_given = 0
        self._open_connections = 0
        self._calls: set[_Call] = set()
        # Calls that came before the worker ran its first loop; None from then on.
        self._early_calls: list[_Call] | None = []
        # Reentrant: a finalizer that runs in here may call a worker.
        self._calls_lock = threading.RLock()
        self._has_ended = False
        self._thread = threading.Thread(
            target=self._work, name=f"rloop-worker-{index}", daemon=True
        )

    def __repr__(self) -> str:
        return f"<Worker {self.index} of {len(self.workers)}>"

    @property
    def workers(self) -> tuple["Worker", ...]:
        """All workers of the group, this one included, by index."""
        return tuple(self._group.workers)

    @overload
    def call(self, coro: Coroutine[Any, Any, _T], /) -> "asyncio.Future[_T]": ...
    @overload
    def call(
        self, function: Callable[_P, Awaitable[_T]], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> "asyncio.Future[_T]": ...
    def call(self, coro: Any, /, *args: Any, **kwargs: Any) -> "asyncio.Future[Any]":
        """Run a coroutine, or an asynchronous function, on this worker.

        A coroutine that was made from a function of the caller's copy of the application keeps the
        globals of that copy. Given a function instead, the function of the same name in this
        worker's copy is called, so that it sees this worker's state.

        Args:
            coro: the coroutine or the function.
            args: the function's arguments.
            kwargs: the function's keyword arguments.

        Returns:
            A future of the calling loop with the result or the exception. Cancelling it cancels
            the task on the worker, and the future is done when the task is.

        Raises:
            RuntimeError: if no loop is running in the calling thread. The future raises it if the
                worker runs no TokioLoop any more, or its loop ends before the coroutine has.
            TypeError: if `coro` is neither a coroutine nor callable.
        """
        caller = asyncio.get_running_loop()
        if asyncio.iscoroutine(coro):
            if args or kwargs:
                raise TypeError("arguments go with a function, and this is a coroutine")
            call = _Call(self, lambda: coro, coro.close, caller)
        elif callable(coro):
            call = _Call(
                self, lambda: self._copy.find_own(coro)(*args, **kwargs), lambda: None, caller
            )
        else:
            raise TypeError(f"a coroutine or an asynchronous function was expected, got {coro!r}")
        call.send()
        return call.future

    def replace(self) -> None:
        """Start a new worker in the place of this one, which ends once the new one serves.

        The new worker imports the application's modules anew and runs the same program. It takes
        the place when it has as many servers as this one, or runs its loop if this one has none.
        Then this one is ended as by SIGTERM. Several workers are replaced one by one. If the new
        worker fails before, that is logged, and this one stays. Any thread may call this.
        """
        self._group.replace([self])

    def count_servers(self) -> int:
        """Return how many listening sockets the worker serves."""
        event_loop = self._active_loop
        return 0 if event_loop is None else len(event_loop._servings)

    def statistics(self) -> WorkerStatistics:
        """Return what the worker has counted so far."""
        event_loop = self._active_loop
        return WorkerStatistics(
            worker=self.index,
            accepted=self._connections_given,
            connections=self._load(),
            loop=None if event_loop is None else event_loop.statistics()[0],
        )

    def _load(self) -> int:
        """Return how many connections of shared listeners the worker has or is about to have."""
        return self._connections_under_way + self._open_connections

    @contextlib.contextmanager
    def _running(self, event_loop: "TokioLoop") -> Iterator[None]:
        """Have `event_loop` deliver the worker's signals and calls while it runs."""
        with self._calls_lock:
            outer, self._active_loop = self._active_loop, event_loop
            early, self._early_calls = self._early_calls, None
            for call in early or ():
                call.begin(event_loop)
        event_loop.call_soon(self._signals.run_pending)
        self._group.report_progress()
        try:
            yield
        finally:
            self._active_loop = outer

    def _fail_calls(self, event_loop: "TokioLoop") -> None:
        """Fail the calls that a loop has not completed; it is being closed."""
        with self._calls_lock:
            lost = [call for call in self._calls if call.event_loop is event_loop]
        for call in lost:
            call.fail(f"the loop of {self!r} was closed before the call was complete")

    def _work(self) -> None:
        """Run the worker's program. The body of its thread."""
        current.enter(self)
        try:
            outcome = Outcome(result=self._body(self))
        except BaseException as error:
            outcome = Outcome(error=error)
        self._has_ended = True
        with self._calls_lock:
            early, self._early_calls = self._early_calls, None
        for call in early or ():
            call.fail(f"{self!r} has ended")
        self._group._report_end(self, outcome)


class _CallFuture(asyncio.Future):  # type: ignore[type-arg]
    """The caller's future of a call to another worker."""

    def __init__(self, call: "_Call", event_loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=event_loop)
        self._call = call

    def cancel(self, msg: Any | None = None) -> bool:
        """Ask the task to end; the future is cancelled when the task is."""
        if self.done():
            return False
        self._call.cancel(msg)
        return True

    def finish(self, outcome: Outcome) -> None:
        """Take over the outcome. Runs on the calling loop."""
        if self.done():
            return
        if isinstance(outcome.error, asyncio.CancelledError):
            super().cancel(*outcome.error.args[:1])
        elif isinstance(outcome.error, StopIteration):
            # A future cannot raise it.
            error = RuntimeError("the function that a worker called raised StopIteration")
            error.__cause__ = outcome.error
            self.set_exception(error)
        elif outcome.error is not None:
            self.set_exception(outcome.error)
        else:
            self.set_result(outcome.result)


class _Call:
    """A coroutine that a worker runs for another loop."""

    def __init__(
        self,
        worker: Worker,
        make: Callable[[], Awaitable[Any]],
        discard: Callable[[], None],
        caller: asyncio.AbstractEventLoop,
    ) -> None:
        """Start nothing yet.

        Args:
            worker: who is to run it.
            make: returns what it is to run.
            discard: is called instead if it does not.
            caller: the loop that waits for the outcome.
        """
        self.future = _CallFuture(self, caller)
        self._worker = worker
        self._make = make
        self._discard = discard
        self._caller = caller
        self._context = contextvars.copy_context()
        self._context.run(current.enter_context, worker)
        self._task: asyncio.Future[Any] | None = None
        self.event_loop: TokioLoop | None = None

    def send(self) -> None:
        """Have the worker start the coroutine. Runs on the calling loop."""
        with self._worker._calls_lock:
            self._worker._calls.add(self)
            if self._worker._early_calls is not None:
                self._worker._early_calls.append(self)
            elif self._worker._active_loop is None:
                self.fail(f"{self._worker!r} runs no TokioLoop")
            else:
                self.begin(self._worker._active_loop)

    def begin(self, event_loop: "TokioLoop") -> None:
        """Have this loop of the worker start the coroutine. The caller holds the lock."""
        self.event_loop = event_loop
        self._send(self._start)

    def cancel(self, message: Any) -> None:
        """Have the worker cancel the task. Runs on the calling loop."""
        with self._worker._calls_lock:
            early = self._worker._early_calls
            if early is None or self not in early:
                if self.event_loop is not None:
                    self._send(self._cancel, message)
                return
            early.remove(self)
        self._discard()
        self.finish(Outcome(error=asyncio.CancelledError(message)))

    def fail(self, reason: str) -> None:
        """Fail the call: the worker does not run it, or not to its end."""
        if self._task is None:
            self._discard()
        self.finish(Outcome(error=RuntimeError(reason)))

    def finish(self, outcome: Outcome) -> None:
        """Hand the outcome to the caller. Any thread may call this."""
        with self._worker._calls_lock:
            self._worker._calls.discard(self)
        # Nobody waits for it if the calling loop is closed.
        with contextlib.suppress(RuntimeError):
            self._caller.call_soon_threadsafe(self.future.finish, outcome)

    def _send(self, function: Callable[..., None], *args: Any) -> None:
        """Call a function on the worker's loop, or fail the call if that is closed."""
        assert self.event_loop is not None, "it has begun"
        try:
            self.event_loop.call_soon_threadsafe(function, *args, context=self._context)
        except RuntimeError:
            self.fail(f"the loop of {self._worker!r} is closed")

    def _start(self) -> None:
        """Start the coroutine. Runs on the worker's loop."""
        try:
            self._task = asyncio.ensure_future(self._make())
        except BaseException as error:
            self.finish(Outcome(error=error))
            if not isinstance(error, Exception):
                raise
        else:
            self._task.add_done_callback(self._done)

    def _cancel(self, message: Any) -> None:
        if self._task is not None:
            self._task.cancel(message)

    def _done(self, task: "asyncio.Future[Any]") -> None:
        try:
            outcome = Outcome(result=task.result())
        except BaseException as error:
            outcome = Outcome(error=error)
        self.finish(outcome)
