"""Decides whether a test left something behind: descriptors, threads, errors nobody looked at.

``tests/conftest.py`` opens one LeakGuard around every test. What a test provokes on purpose it
takes out of the guard (``take_reports``, ``take_unraisable``); whatever is still there at the end
fails the test, as do descriptors and threads that did not exist before.
"""

import asyncio
import contextlib
import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

#: Seconds that a task or a thread on its way out, or a descriptor it holds, may take to go.
SETTLING_TIME = 20.0
TIME_BETWEEN_LOOKS = 0.005

Report = dict[str, Any]


@dataclass(frozen=True)
class Descriptor:
    """An open file: two descriptors are the same one only if number, device and inode agree."""

    number: int
    device: int
    inode: int

    def __str__(self) -> str:
        with contextlib.suppress(OSError):
            return f"{self.number} -> {os.readlink(f'/proc/self/fd/{self.number}')}"
        return str(self.number)


def open_descriptors() -> set[Descriptor]:
    """Return every descriptor of this process (through /dev/fd, which Linux and macOS share)."""
    found = set()
    for name in os.listdir("/dev/fd"):
        # The descriptor that listdir used is in the listing and already closed again.
        with contextlib.suppress(OSError):
            status = os.fstat(int(name))
            found.add(Descriptor(int(name), status.st_dev, status.st_ino))
    return found


def running_threads() -> set[str]:
    """Return a name for every thread; on Linux also for those that Python did not start."""
    known = {thread.native_id: thread.name for thread in threading.enumerate()}
    if not os.path.isdir("/proc/self/task"):
        return {f"{native_id} ({name})" for native_id, name in known.items()}
    natives = os.listdir("/proc/self/task")
    # The kernel ends a listing early at a thread that ends meanwhile.
    while natives != (again := os.listdir("/proc/self/task")):
        natives = again
    return {f"{name} ({known.get(int(name), 'native')})" for name in natives}


@dataclass
class LeakGuard:
    """What one test may not leave behind.

    reports: contexts that loops made by the ``loop_factory`` fixture handed to their exception
        handler. unraisable: errors raised where Python can only print them (finalizers, threads).
    loops: every loop the fixtures made; each must be closed at the end.
    """

    reports: list[Report] = field(default_factory=list)
    unraisable: list[BaseException | str] = field(default_factory=list)
    loops: list[asyncio.AbstractEventLoop] = field(default_factory=list)

    def record(self, _loop: asyncio.AbstractEventLoop, context: Report) -> None:
        """Be the exception handler of a loop under test."""
        self.reports.append(context)

    def take_reports(self) -> list[Report]:
        """Return the exception handler's calls so far and forget them: the test expected them."""
        taken, self.reports[:] = list(self.reports), []
        return taken

    def take_unraisable(self) -> list[BaseException | str]:
        """Return the unraisable errors so far and forget them: the test expected them."""
        gc.collect()
        taken, self.unraisable[:] = list(self.unraisable), []
        return taken

    def _on_unraisable(self, event: "sys.UnraisableHookArgs") -> None:
        # The traceback would keep the frames, and so the objects that a test counts, alive.
        error = event.exc_value.with_traceback(None) if event.exc_value else event.exc_type
        self.unraisable.append(f"{event.err_msg or 'ignored in'} {event.object!r}: {error!r}")

    def _on_thread_error(self, event: threading.ExceptHookArgs) -> None:
        name = event.thread.name if event.thread else "unknown"
        self.unraisable.append(f"thread {name} died of {event.exc_value!r}")

    @contextlib.contextmanager
    def watching(self) -> Iterator["LeakGuard"]:
        """Guard the body of the ``with`` statement; raise AssertionError for what it left."""
        descriptors, threads = open_descriptors(), running_threads()
        hooks = sys.unraisablehook, threading.excepthook
        generator_hooks = sys.get_asyncgen_hooks()
        sys.unraisablehook = self._on_unraisable
        threading.excepthook = self._on_thread_error
        try:
            yield self
            gc.collect()
            # Looks are counted, because a machine that stands still settles nothing meanwhile.
            for _ in range(round(SETTLING_TIME / TIME_BETWEEN_LOOKS)):
                if not (open_descriptors() - descriptors or running_threads() - threads):
                    break
                time.sleep(TIME_BETWEEN_LOOKS)
        finally:
            sys.unraisablehook, threading.excepthook = hooks
            left_generator_hooks = sys.get_asyncgen_hooks()
            sys.set_asyncgen_hooks(*generator_hooks)
        left = {
            "descriptors": sorted(map(str, open_descriptors() - descriptors)),
            "descriptors that vanished": sorted(map(str, descriptors - open_descriptors())),
            "threads": sorted(running_threads() - threads),
            "unraisable errors": self.unraisable,
            "exception handler calls": self.reports,
            # A run that CPython 3.13.0 refuses takes away what the running one would restore.
            "hooks of asynchronous generators": [
                hook
                for hook in left_generator_hooks
                if hook not in generator_hooks and sys.version_info[:3] != (3, 13, 0)
            ],
            "open loops": [loop for loop in self.loops if not loop.is_closed()],
        }
        assert not any(left.values()), "the test left behind: " + "; ".join(
            f"{what}: {things!r}" for what, things in left.items() if things
        )
