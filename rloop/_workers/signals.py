"""The signals of one worker.

Python runs signal handlers in the main thread only, and there is one handler for each signal. Here
each worker has handlers of its own, and its thread counts as the main thread: on that thread
``signal.signal()``, ``getsignal()``, ``set_wakeup_fd()``, ``raise_signal()`` and
``threading.main_thread()`` are about the worker. So ``asyncio.Runner``, uvicorn, hypercorn and
aiohttp install the handlers that they install in a process, and end as they do there.

A signal that the process receives is delivered to every worker. The main thread receives it; the
worker's loop writes to its wake-up descriptor and calls the handler, between two callbacks. For a
worker whose thread runs no TokioLoop, the main thread calls the handler. A default handler, which
would end the worker, waits until the worker runs a loop.
"""

import collections
import contextlib
import os
import signal
import sys
import threading
from asyncio.log import logger
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from rloop._workers import current
from rloop._workers.replacements import Replacements

if TYPE_CHECKING:
    from rloop._workers.worker import Worker

_Handler = Callable[[int, FrameType | None], Any] | int | None

ENDING = (signal.SIGINT, signal.SIGTERM)
"""The signals that end workers which have no handler for them."""

_signal = signal.signal
_getsignal = signal.getsignal
_valid_signals = signal.valid_signals()


class Terminated(SystemExit):
    """Ends a worker as a signal without a handler ends a process.

    Attributes:
        signum: the number of the signal.
    """

    def __init__(self, signum: int = signal.SIGTERM) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class Signals:
    """The handlers of one worker, and how they are called."""

    def __init__(self, worker: "Worker", inherited: dict[int, _Handler]) -> None:
        """Start with the handlers of the process.

        Args:
            worker: the worker.
            inherited: the handlers that the process had before the group took signals over.
        """
        self._worker = worker
        self._inherited = inherited
        self._handlers: dict[int, _Handler] = {}
        self._pending: collections.deque[int] = collections.deque()
        self.is_over = False
        """Whether the worker's program has ended, and only cleans up."""
        self._wakeup_fd = -1
        # Guards the descriptor: the worker may close it once set_wakeup_fd() has returned.
        self._wakeup_lock = threading.Lock()

    def get(self, signum: int) -> _Handler:
        """Return the handler. See :func:`signal.getsignal`."""
        if signum in self._handlers:
            return self._handlers[signum]
        if signum in self._inherited:
            return self._inherited[signum]
        return _getsignal(signum)

    def set(self, signum: int, handler: _Handler) -> _Handler:
        """Set the handler and return the previous one. See :func:`signal.signal`."""
        signum = int(signum)
        if signum not in _valid_signals:
            raise ValueError("signal number out of range")
        if not callable(handler) and handler not in (signal.SIG_DFL, signal.SIG_IGN):
            raise TypeError(
                "signal handler must be signal.SIG_IGN, signal.SIG_DFL, or a callable object"
            )
        if signum in (signal.SIGKILL, signal.SIGSTOP):
            raise OSError(22, os.strerror(22))
        previous = self.get(signum)
        self._handlers[signum] = handler if callable(handler) else signal.Handlers(handler)
        if callable(handler):
            self._worker._group._listen_to(signum)
        return previous

    def set_wakeup_fd(self, fd: int) -> int:
        """Set the wake-up descriptor, or -1, and return the previous one."""
        with self._wakeup_lock:
            previous, self._wakeup_fd = self._wakeup_fd, fd
        return previous

    def raise_here(self, signum: int) -> None:
        """Act on a signal on the worker's own thread. See :func:`signal.raise_signal`."""
        handler = self.get(signum)
        if handler == signal.SIG_DFL:
            raise Terminated(signum)
        self._call(handler, signum)

    def deliver(self, signum: int) -> None:
        """Act on a signal that the process has received. The main thread calls this."""
        handler = self.get(signum)
        if handler == signal.SIG_IGN or (handler == signal.SIG_DFL and signum not in ENDING):
            return
        self._pending.append(signum)
        event_loop = self._worker._active_loop
        if event_loop is not None:
            # It may be closed by now.
            with contextlib.suppress(RuntimeError):
                event_loop.call_soon_threadsafe(self.run_pending)
                return
        if not self._worker._runs_loop_only:
            self._run_on_main_thread()

    def run_pending(self) -> None:
        """Call the handlers of the signals that were delivered. Runs on the worker's own thread."""
        while self._pending:
            self._run(self._pending.popleft())

    def _run(self, signum: int) -> None:
        handler = self.get(signum)
        if handler == signal.SIG_DFL:
            # asyncio.Runner's handler for SIGINT cancels the main task.
            handler = self.get(signal.SIGINT)
            if not callable(handler) or handler is signal.default_int_handler:
                if self.is_over:
                    return
                raise Terminated(signum)
        self._call(handler, signum)

    def _call(self, handler: _Handler, signum: int) -> None:
        if callable(handler):
            # Not on delivery: a handler may have been set since, with a descriptor.
            self._write_to_wakeup_fd(signum)
            handler(signum, sys._getframe())

    def _run_on_main_thread(self) -> None:
        """Call the handlers for a worker that runs no loop, except those that would end it."""
        own = current.own_worker()
        current.enter(self._worker)
        try:
            for signum in list(self._pending):
                handler = self.get(signum)
                if handler not in (signal.SIG_DFL, signal.default_int_handler):
                    self._pending.remove(signum)
                    self._call(handler, signum)
        except BaseException:
            # It cannot be raised in the worker: an exception that appears in the middle of a
            # statement there may leave the interpreter's import lock locked.
            logger.exception("A signal handler of %r failed", self._worker)
        finally:
            current.leave()
            if own is not None:
                current.enter(own)

    def _write_to_wakeup_fd(self, signum: int) -> None:
        with self._wakeup_lock:
            if self._wakeup_fd != -1:
                # It is full if nobody reads it, and closed if it was closed too early.
                with contextlib.suppress(OSError):
                    os.write(self._wakeup_fd, bytes((signum,)))


def _own_signals() -> Signals | None:
    worker = current.own_worker()
    return None if worker is None else worker._signals


def install(replacements: Replacements) -> None:
    """Replace the functions that are about one worker when that worker calls them."""

    def make_signal(original: Any) -> Any:
        def signal(signalnum: int, handler: Any) -> Any:
            own = _own_signals()
            return original(signalnum, handler) if own is None else own.set(signalnum, handler)

        signal.__doc__ = original.__doc__
        return signal

    def make_getsignal(original: Any) -> Any:
        def getsignal(signalnum: int) -> Any:
            own = _own_signals()
            return original(signalnum) if own is None else own.get(signalnum)

        getsignal.__doc__ = original.__doc__
        return getsignal

    def make_set_wakeup_fd(original: Any) -> Any:
        def set_wakeup_fd(fd: int, /, *, warn_on_full_buffer: bool = True) -> int:
            own = _own_signals()
            if own is None:
                previous: int = original(fd, warn_on_full_buffer=warn_on_full_buffer)
                return previous
            return own.set_wakeup_fd(fd)

        set_wakeup_fd.__doc__ = original.__doc__
        return set_wakeup_fd

    def make_raise_signal(original: Any) -> Any:
        def raise_signal(signalnum: int, /) -> None:
            own = _own_signals()
            if own is None:
                original(signalnum)
            else:
                own.raise_here(signalnum)

        raise_signal.__doc__ = original.__doc__
        return raise_signal

    def make_main_thread(original: Any) -> Any:
        def main_thread() -> threading.Thread:
            worker = current.find_worker()
            thread: threading.Thread = original() if worker is None else worker._thread
            return thread

        main_thread.__doc__ = original.__doc__
        return main_thread

    replacements.replace(signal, "signal", make_signal)
    replacements.replace(signal, "getsignal", make_getsignal)
    replacements.replace(signal, "set_wakeup_fd", make_set_wakeup_fd)
    replacements.replace(signal, "raise_signal", make_raise_signal)
    replacements.replace(threading, "main_thread", make_main_thread)
