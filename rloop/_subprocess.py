"""Subprocesses: how a loop learns that a child has ended.

The transports are the standard library's. Its child watchers are not used: before Python 3.14 they
belong to the event loop policy, where a program may have put any of them, and some of those set a
handler of SIGCHLD, start a thread for each child, or reap children that are not the loop's.

A loop watches the pidfd of each of its children, and reaps exactly the process that the pidfd is
of. Where there is no pidfd (macOS, an old kernel, a sandbox, no descriptor left), a thread waits
for the child, as asyncio does there.
"""

import asyncio
import contextvars
import os
from asyncio import unix_events
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rloop.loop import TokioLoop

_NAMES = vars(unix_events)
_THREADED_WATCHER: Any = _NAMES.get("_ThreadedChildWatcher") or _NAMES["ThreadedChildWatcher"]
"""Its name is private from Python 3.14 on, where the public one is gone."""

_ALREADY_REAPED = 255
"""The exit code of a child whose own was taken by somebody else, as in asyncio."""


class Children:
    """The children of one loop that have not ended."""

    def __init__(self) -> None:
        self._pidfds: set[int] = set()
        self._threads: Any = None

    async def start(self, event_loop: "TokioLoop", *args: Any, **kwargs: Any) -> Any:
        """Start a child and connect its pipes; return its transport.

        Args:
            event_loop: the loop.
            args: the arguments of asyncio's subprocess transport after the loop.
            kwargs: its other arguments, and those of :class:`subprocess.Popen`.

        Raises:
            OSError: if the child cannot be started.
        """
        waiter = event_loop.create_future()
        make_transport: Any = unix_events._UnixSubprocessTransport  # type: ignore[attr-defined]
        transport = make_transport(event_loop, *args, waiter=waiter, **kwargs)
        self._watch(event_loop, transport)
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await asyncio.shield(transport._wait())
            raise
        return transport

    def close(self) -> None:
        """Forget the children that have not ended: the loop is closed."""
        while self._pidfds:
            os.close(self._pidfds.pop())

    def _watch(self, event_loop: "TokioLoop", transport: Any) -> None:
        pid: int = transport.get_pid()
        # From Python 3.14 on, asyncio finds out for each loop whether there are pidfds.
        watcher = getattr(event_loop, "_watcher", None)
        if isinstance(watcher, _THREADED_WATCHER):
            self._threads = watcher
            self._watch_in_thread(event_loop, transport)
            return
        try:
            pidfd = os.pidfd_open(pid)  # type: ignore[attr-defined, unused-ignore]
        except (AttributeError, OSError):
            self._watch_in_thread(event_loop, transport)
            return
        try:
            event_loop._add_reader(pidfd, self._on_end, event_loop, pidfd, transport)
        except BaseException:
            os.close(pidfd)
            raise
        self._pidfds.add(pidfd)

    def _on_end(self, event_loop: "TokioLoop", pidfd: int, transport: Any) -> None:
        event_loop._remove_reader(pidfd)
        self._pidfds.discard(pidfd)
        pid: int = transport.get_pid()
        try:
            returncode = _reap(pid, pidfd)
        except ChildProcessError:
            returncode = _ALREADY_REAPED
            logger.warning(
                "child process pid %d exit status already read: will report returncode %d",
                pid,
                returncode,
            )
        finally:
            os.close(pidfd)
        event_loop._child_watcher_callback(pid, returncode, transport)

    def _watch_in_thread(self, event_loop: "TokioLoop", transport: Any) -> None:
        if self._threads is None:
            self._threads = _THREADED_WATCHER()
        context = contextvars.copy_context()
        home = event_loop._current_shard()

        def on_end(pid: int, returncode: int) -> None:
            if event_loop._threads is None or event_loop._current_shard() == home:
                # In one step with the reaping, so that nobody signals the number in between.
                event_loop._child_watcher_callback(pid, returncode, transport)
                return
            # Where the transport lives, which the thread's own context may not tell.
            event_loop.call_soon_threadsafe(
                event_loop._child_watcher_callback, pid, returncode, transport, context=context
            )

        self._threads.add_child_handler(transport.get_pid(), on_end)


def _reap(pid: int, pidfd: int) -> int:
    """Return the exit code of a child that has ended, as :class:`subprocess.Popen` gives it.

    Raises:
        ChildProcessError: if somebody else has reaped it.
    """
    try:
        status = os.waitid(
            os.P_PIDFD,  # type: ignore[attr-defined, unused-ignore]
            pidfd,
            os.WEXITED,
        )
    except ChildProcessError:
        raise
    except OSError:
        # Linux before 5.4 has pidfds and cannot wait for them.
        status = os.waitid(os.P_PID, pid, os.WEXITED)
    assert status is not None
    return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
