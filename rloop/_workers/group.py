"""The workers of one run: how they start, fail, receive signals and end.

The thread that starts a group only waits for it. So the main thread, which receives the process's
signals, is never busy with a worker's callback.
"""

import asyncio
import contextlib
import functools
import importlib
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, ClassVar, Literal, TypeVar

from rloop._threads import count_workers
from rloop._workers import current, signals
from rloop._workers.events import Events
from rloop._workers.listeners import Listeners
from rloop._workers.modules import Copies
from rloop._workers.replacements import Replacements
from rloop._workers.signals import ENDING, Terminated
from rloop._workers.succession import Succession
from rloop._workers.worker import Outcome, Worker

__all__ = ["run_workers"]

_T = TypeVar("_T")

_SECOND_INTERRUPT_TIMEOUT = 0.25
"""How long workers may take to end after a second SIGINT, in seconds."""

_main_thread = threading.main_thread
_signal = signal.signal
_set_wakeup_fd = signal.set_wakeup_fd


class Group:
    """The workers of one run. Its methods are the starting thread's, if they do not say else."""

    running: ClassVar["Group | None"] = None
    """The group that runs: there is one at a time, because it replaces what a process has once."""

    def __init__(
        self,
        count: int,
        body: Callable[[Worker], Any],
        copies: Copies,
        *,
        keeps_copies: bool = False,
        runs_loop_only: bool = False,
        restarts: bool = False,
    ) -> None:
        """Start nothing yet.

        Args:
            count: how many workers.
            body: a worker's program, called on its thread.
            copies: which modules each worker has for itself.
            keeps_copies: whether they are to stay when all workers have ended.
            runs_loop_only: whether `body` does nothing but run a TokioLoop.
            restarts: whether another worker takes the place of one that fails.
        """
        self._body = body
        self._runs_loop_only = runs_loop_only
        self._succession = Succession(self, restarts=restarts)
        self.copies = copies
        self._keeps_copies = keeps_copies
        self.listeners = Listeners()
        self.inherited_handlers: dict[int, Any] = {}
        self._inherited_wakeup_fd: int | None = None
        self._events = Events()
        self._is_in_main_thread = threading.current_thread() is _main_thread()
        self._replacements = Replacements()
        self._removers: set[Callable[..., Any]] = set()
        self._is_ending = False
        self._interrupts = 0
        self._ended_by: int | None = None
        self._give_up_at: float | None = None
        self._outcomes: dict[Worker, Outcome] = {}
        self._alive: set[Worker] = set()
        self.workers = [self.add_worker(index) for index in range(count)]

    def add_worker(self, index: int) -> Worker:
        """Make one more worker, which is not started yet."""
        worker = Worker(self, index, self._body, runs_loop_only=self._runs_loop_only)
        self.copies.add(worker._copy)
        self._alive.add(worker)
        return worker

    def is_ending(self) -> bool:
        """Return whether the workers are to end, all of them."""
        return self._is_ending or self._ended_by is not None

    def run(self) -> list[Any]:
        """Run the workers and return what their programs returned, by index.

        Raises:
            RuntimeError: if a group is running already.
            KeyboardInterrupt: if Ctrl-C ended a worker.
            BaseException: the first failure of a worker.
        """
        with self._installed():
            for worker in self.workers:
                self._succession.start(worker)
            self._supervise()
        return self._results()

    @contextlib.contextmanager
    def _installed(self) -> Iterator[None]:
        """Let workers see a process of their own inside of the ``with`` statement."""
        if Group.running is not None:
            self._events.close()
            raise RuntimeError("workers are running already in this process")
        Group.running = self
        try:
            self.copies.install()
            signals.install(self._replacements)
            self._replacements.replace(threading.Thread, "start", current.inheriting)
            self._replacements.replace(socket.socket, "bind", self._sharing)
            for name in ("remove", "unlink"):
                self._replacements.replace(os, name, self._keeping)
            self._take_over_signals()
            yield
        finally:
            self._is_ending = True
            for signum, handler in self.inherited_handlers.items():
                _signal(signum, handler)
            if self._inherited_wakeup_fd is not None:
                _set_wakeup_fd(self._inherited_wakeup_fd)
            self._replacements.undo()
            os.supports_dir_fd.difference_update(self._removers)
            if not self._keeps_copies:
                self.copies.uninstall()
            Group.running = None
            self._handle_events_left()

    def _sharing(self, bind: Any) -> Any:
        """Return a ``socket.bind()`` that shares the sockets of workers."""

        def bind_or_share(sock: socket.socket, address: Any, /) -> None:
            self.listeners.bind(bind, sock, address)

        bind_or_share.__doc__ = bind.__doc__
        return bind_or_share

    def _keeping(self, remove: Any) -> Any:
        """Return an ``os.remove()`` that leaves the path of a socket that other workers serve."""

        def remove_unless_served(path: Any, *, dir_fd: int | None = None) -> None:
            if dir_fd is not None or not self.listeners.is_served_by_others(path):
                remove(path, dir_fd=dir_fd)

        remove_unless_served.__name__ = remove.__name__
        remove_unless_served.__doc__ = remove.__doc__
        if remove in os.supports_dir_fd:
            # shutil looks when it is imported.
            os.supports_dir_fd.add(remove_unless_served)
            self._removers.add(remove_unless_served)
        return remove_unless_served

    def _supervise(self) -> None:
        """Handle events until all workers have ended."""
        while self._alive or self._succession.is_waiting():
            times = [self._give_up_at, self._succession.due_at()]
            wake_at = min((when for when in times if when is not None), default=None)
            timeout = None if wake_at is None else max(wake_at - time.monotonic(), 0.0)
            event = self._events.get(timeout)
            if event is not None:
                event()
                continue
            if self._give_up_at is not None and self._give_up_at <= time.monotonic():
                # Their threads do not keep the interpreter from ending.
                raise KeyboardInterrupt
            if not self.is_ending():
                self._succession.start_due()

    def _handle_events_left(self) -> None:
        """Let nobody wait for an event that came too late."""
        while (event := self._events.get(0)) is not None:
            event()
        self._events.close()

    def _report_end(self, worker: Worker, outcome: Outcome) -> None:
        """Report that a worker's program has ended. The worker's thread calls this."""
        self._events.put(functools.partial(self._ended, worker, outcome))

    def _ended(self, worker: Worker, outcome: Outcome) -> None:
        worker._thread.join()
        self._alive.discard(worker)
        is_replaced = self._succession.take_end(worker, outcome)
        if is_replaced or not self._keeps_copies:
            self.copies.remove(worker._copy)
        if is_replaced:
            return
        self._outcomes[worker] = outcome
        if outcome.error is not None and not self._is_normal_end(outcome.error):
            self.end()

    def _is_normal_end(self, error: BaseException) -> bool:
        """Return whether the others go on after one worker has raised this."""
        return isinstance(error, SystemExit) and error.code in (None, 0)

    def report_progress(self) -> None:
        """Report that a worker began to run its loop, or to serve. Any thread may call this."""
        self._events.put(self._succession.advance)

    def replace(self, workers: Iterable[Worker]) -> None:
        """Replace workers, one by one. Any thread may call this."""
        for worker in workers:
            self._events.put(functools.partial(self._succession.request, worker))

    def end(self) -> None:
        """End the workers by their own means."""
        if not self._is_ending:
            self._is_ending = True
            self._deliver(signal.SIGTERM)

    def _results(self) -> list[Any]:
        """Return the results, or raise what ended the group."""
        failures = [
            (worker, outcome.error)
            for worker, outcome in self._outcomes.items()
            if outcome.error is not None and outcome.is_failure()
        ]
        if failures:
            (_, first), *others = failures
            for worker, error in others:
                first.add_note(f"worker {worker.index} failed as well: {error!r}")
            raise first
        errors = [outcome.error for outcome in self._outcomes.values()]
        signums = [error.signum for error in errors if isinstance(error, Terminated)]
        signums += [signal.SIGINT for error in errors if isinstance(error, KeyboardInterrupt)]
        if self._ended_by is not None and any(
            worker not in self._outcomes for worker in self.workers
        ):
            # It was about to be restarted.
            signums.append(self._ended_by)
        if signums:
            signum = self._ended_by or signums[0]
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            if self._is_in_main_thread:
                # The process ends as it would without workers, unless it has a handler.
                signal.raise_signal(signum)
        return [self._outcomes.get(worker, Outcome()).result for worker in self.workers]

    def _take_over_signals(self) -> None:
        """Receive the signals for the group, unless the program has handlers for them."""
        if self._is_in_main_thread:
            self._inherited_wakeup_fd = _set_wakeup_fd(
                self._events.write_fd, warn_on_full_buffer=False
            )
            for signum in (*ENDING, signal.SIGHUP):
                if signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler):
                    self._take_over(signum)

    def _take_over(self, signum: int) -> None:
        if signum not in self.inherited_handlers:
            self.inherited_handlers[signum] = _signal(signum, self._receive)

    def _listen_to(self, signum: int) -> None:
        """Receive a signal that a worker has a handler for. The worker's thread calls this."""
        if not self._is_in_main_thread or signum in self.inherited_handlers or self._is_ending:
            return
        done = threading.Event()

        def take_over() -> None:
            if not self._is_ending:
                self._take_over(signum)
            done.set()

        self._events.put(take_over)
        done.wait()

    def _receive(self, signum: int, _: object) -> None:
        """Be the process's signal handler."""
        self._events.put(functools.partial(self._received, signum))

    def _received(self, signum: int) -> None:
        if signum in ENDING and self._ended_by is None:
            self._ended_by = signum
        if signum == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts == 2:
                self._give_up_at = time.monotonic() + _SECOND_INTERRUPT_TIMEOUT
        alive = [worker for worker in self._alive if not worker._has_ended]
        if signum == signal.SIGHUP and not any(
            callable(worker._signals.get(signum)) for worker in alive
        ):
            self.replace(list(self.workers))
        else:
            self._deliver(signum)

    def _deliver(self, signum: int) -> None:
        for worker in list(self._alive):
            if not worker._has_ended:
                worker._signals.deliver(signum)


def run_workers(
    main: Callable[[], Awaitable[_T]] | str,
    *,
    workers: int | Literal["auto"] | None = None,
    modules: Iterable[str] | None = None,
    shared: Iterable[str] = (),
    restart: bool = False,
    debug: bool | None = None,
) -> list[_T]:
    """Run an asynchronous function on several workers, and return its results.

    Each worker is a thread with a :class:`TokioLoop` of its own, on which `main` is called once.
    Workers that serve the same address share one listening socket, and each connection goes to the
    worker with the fewest. SIGINT and SIGTERM cancel `main` on every worker, unless it has handlers
    for them. If one fails, the others are ended in the same way. SIGHUP replaces the workers one by
    one: a new one imports the modules and calls `main`; when it serves, the old one ends.

    Args:
        main: the function, or where each worker imports it from: ``"package.module:function"``.
        workers: how many workers; ``"auto"`` for as many as there are usable CPUs, on a
            free-threaded Python; by default what the environment variable ``RLOOP_WORKERS`` says,
            or else 1.
        modules: the top-level modules and packages that each worker imports for itself. By default
            none if `main` is a function. If it is a string, its own top-level package, and all that
            are found outside of the standard library and of installed distributions.
        shared: modules inside of those that all workers share, such as extension modules.
        restart: whether another worker takes the place of one that fails, rather than all ending.
        debug: the debug mode of the loops; by default that of the interpreter.

    Returns:
        What `main` returned on each worker, by index.

    Raises:
        KeyboardInterrupt: after Ctrl-C; after a second one at once, whatever the workers do.
        RuntimeError: if workers are running already in this process.
        TypeError: if `main` is neither a function nor a string, or `workers` not as above.
        ValueError: if the number is out of range, or the string names no function.
        BaseException: what `main` raised first on a worker.
    """
    count = count_workers(workers)
    given: object = main
    if isinstance(given, str):
        module, _, name = given.partition(":")
        if not (module and name):
            raise ValueError(f"main must be 'module:function', not {given!r}")
        find: Callable[[], Any] = functools.partial(_import_function, module, name)
        copies = Copies(
            copied=[module.partition(".")[0]] if modules is None else modules,
            shared=shared,
            by_location=modules is None,
        )
    elif callable(given):
        find = functools.partial(_return, given)
        copies = Copies(copied=modules or (), shared=shared)
    elif asyncio.iscoroutine(given):
        given.close()
        raise TypeError("run_workers() calls a function on each worker: pass main, and not main()")
    else:
        raise TypeError(f"main must be a function or a string, not {given!r}")

    def run(worker: Worker) -> Any:
        from rloop.loop import TokioLoop

        async def call() -> Any:
            return await find()()

        with asyncio.Runner(debug=debug, loop_factory=TokioLoop) as runner:
            try:
                return runner.run(call())
            finally:
                # The end of another worker must not cut this one's cleanup short.
                worker._signals.is_over = True

    return Group(count, run, copies, runs_loop_only=True, restarts=restart).run()


def _return(function: _T) -> _T:
    return function


def _import_function(module: str, name: str) -> Any:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _forget_in_child() -> None:
    """Be a process without workers: only the thread that forked lives on in the child."""
    group, Group.running = Group.running, None
    if group is not None:
        worker = current.find_worker()
        group._replacements.undo()
        if worker is not None:
            group.copies.adopt(worker._copy)
        current.leave()


os.register_at_fork(after_in_child=_forget_in_child)
