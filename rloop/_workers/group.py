"""The workers of one run: how they start, fail, receive signals and end.

The thread that starts a group only waits for it. So the main thread, which receives the process's
signals, is never busy with a worker's callback.
"""

import asyncio
import collections
import contextlib
import functools
import importlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, ClassVar, Literal, TypeVar

from rloop._threads import count_workers
from rloop._workers import current, signals
from rloop._workers.listeners import Listeners
from rloop._workers.modules import Copies
from rloop._workers.replacements import Replacements
from rloop._workers.signals import ENDING, Terminated
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
    ) -> None:
        """Start nothing yet.

        Args:
            count: how many workers.
            body: a worker's program, called on its thread.
            copies: which modules each worker has for itself.
            keeps_copies: whether they are to stay when all workers have ended.
            runs_loop_only: whether `body` does nothing but run a TokioLoop.
        """
        self.copies = copies
        self._keeps_copies = keeps_copies
        self.listeners = Listeners()
        self.inherited_handlers: dict[int, Any] = {}
        self._inherited_wakeup_fd: int | None = None
        self._events = _Events()
        self._is_in_main_thread = threading.current_thread() is _main_thread()
        self._replacements = Replacements()
        self._is_ending = False
        self._interrupts = 0
        self._ended_by: int | None = None
        self._give_up_at: float | None = None
        self._outcomes: dict[Worker, Outcome] = {}
        self.workers = [
            Worker(self, index, body, runs_loop_only=runs_loop_only) for index in range(count)
        ]
        self._alive = set(self.workers)

    def run(self) -> list[Any]:
        """Run the workers and return what their programs returned, by index.

        Raises:
            RuntimeError: if a group is running already.
            KeyboardInterrupt: if Ctrl-C ended a worker.
            BaseException: the first failure of a worker.
        """
        with self._installed():
            for worker in self.workers:
                worker._thread.start()
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
            for worker in self.workers:
                self.copies.add(worker._copy)
            self.copies.install()
            signals.install(self._replacements)
            self._replacements.replace(threading.Thread, "start", current.inheriting)
            self._replacements.replace(socket.socket, "bind", self._sharing)
            self._take_over_ending_signals()
            yield
        finally:
            self._is_ending = True
            for signum, handler in self.inherited_handlers.items():
                _signal(signum, handler)
            if self._inherited_wakeup_fd is not None:
                _set_wakeup_fd(self._inherited_wakeup_fd)
            self._replacements.undo()
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

    def _supervise(self) -> None:
        """Handle events until all workers have ended."""
        while self._alive:
            timeout = None
            if self._give_up_at is not None:
                timeout = max(self._give_up_at - time.monotonic(), 0.0)
            event = self._events.get(timeout)
            if event is not None:
                event()
            elif timeout == 0.0:
                # Their threads do not keep the interpreter from ending.
                raise KeyboardInterrupt

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
        self._outcomes[worker] = outcome
        if not self._keeps_copies:
            self.copies.remove(worker._copy)
        if outcome.error is not None and not self._is_normal_end(outcome.error):
            self.end()

    def _is_normal_end(self, error: BaseException) -> bool:
        """Return whether the others go on after one worker has raised this."""
        return isinstance(error, SystemExit) and error.code in (None, 0)

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
        if signums:
            signum = self._ended_by or signums[0]
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            if self._is_in_main_thread:
                # The process ends as it would without workers, unless it has a handler.
                signal.raise_signal(signum)
        return [self._outcomes[worker].result for worker in self.workers]

    def _take_over_ending_signals(self) -> None:
        """Receive the signals that end a process, unless the program has handlers for them."""
        if self._is_in_main_thread:
            self._inherited_wakeup_fd = _set_wakeup_fd(
                self._events.write_fd, warn_on_full_buffer=False
            )
            for signum in ENDING:
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
        self._deliver(signum)

    def _deliver(self, signum: int) -> None:
        for worker in self.workers:
            if worker in self._alive and not worker._has_ended:
                worker._signals.deliver(signum)


class _Events:
    """What the starting thread has to do.

    It waits for a descriptor: one that waits for a lock is not woken by a signal that the kernel
    hands to another thread, or after which it restarts the wait.
    """

    def __init__(self) -> None:
        self._events: collections.deque[Callable[[], None]] = collections.deque()
        self._read_end, self._write_end = socket.socketpair()
        self._read_end.setblocking(False)
        self._write_end.setblocking(False)
        self.write_fd = self._write_end.fileno()

    def put(self, event: Callable[[], None]) -> None:
        """Add something to do. Any thread may call this, and a signal handler."""
        self._events.append(event)
        # A full buffer wakes as well.
        with contextlib.suppress(OSError):
            self._write_end.send(b"\0")

    def get(self, timeout: float | None) -> Callable[[], None] | None:
        """Return the next thing to do, or None after a timeout in seconds or a signal."""
        if not self._events:
            poll = select.poll()
            poll.register(self._read_end, select.POLLIN)
            poll.poll(None if timeout is None else timeout * 1000)
            with contextlib.suppress(BlockingIOError):
                self._read_end.recv(4096)
        return self._events.popleft() if self._events else None

    def close(self) -> None:
        """Free the descriptors. Nobody is woken from here on."""
        self._read_end.close()
        self._write_end.close()


def run_workers(
    main: Callable[[], Awaitable[_T]] | str,
    *,
    workers: int | Literal["auto"] | None = None,
    modules: Iterable[str] | None = None,
    shared: Iterable[str] = (),
    debug: bool | None = None,
) -> list[_T]:
    """Run an asynchronous function on several workers, and return its results.

    Each worker is a thread with a :class:`TokioLoop` of its own, on which `main` is called once.
    Workers that serve the same address share one listening socket, and each connection goes to the
    worker with the fewest. SIGINT and SIGTERM cancel `main` on every worker, unless it has handlers
    for them. If one fails, the others are ended in the same way.

    Args:
        main: the function, or where each worker imports it from: ``"package.module:function"``.
        workers: how many workers; ``"auto"`` for as many as there are usable CPUs, on a
            free-threaded Python; by default what the environment variable ``RLOOP_WORKERS`` says,
            or else 1.
        modules: the top-level modules and packages that each worker imports for itself. By default
            none if `main` is a function. If it is a string, its own top-level package, and all that
            are found outside of the standard library and of installed distributions.
        shared: modules inside of those that all workers share, such as extension modules.
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

    def run(_: Worker) -> Any:
        from rloop.loop import TokioLoop

        async def call() -> Any:
            return await find()()

        with asyncio.Runner(debug=debug, loop_factory=TokioLoop) as runner:
            return runner.run(call())

    return Group(count, run, copies, runs_loop_only=True).run()


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
