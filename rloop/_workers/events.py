"""Events that the thread that starts a group handles, one after the other."""

import collections
import contextlib
import select
import socket
from collections.abc import Callable


class Events:
    """The work of the starting thread.

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
