"""Lets a loop run inside its own callbacks, by the means of ``nest_asyncio``.

That package replaces methods of the class of a loop, ``_run_once()`` among them, and relies on
private parts of ``asyncio.BaseEventLoop``. This does the same with a class of one test.
"""

import asyncio
import contextlib
import heapq
import threading
from asyncio import events, tasks
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def no_current_task(loop: Any) -> Iterator[None]:
    """Let other tasks run inside a step of the current one."""
    task: Any = asyncio.current_task(loop)
    if task is not None:
        tasks._leave_task(loop, task)
    try:
        yield
    finally:
        if task is not None:
            tasks._enter_task(loop, task)


def run_once(loop: Any) -> None:
    """Take one iteration, as asyncio's ``_run_once()`` does."""
    timers, ready = loop._scheduled, loop._ready
    while timers and timers[0]._cancelled:
        heapq.heappop(timers)
    timeout = None
    if ready or loop._stopping:
        timeout = 0
    elif timers:
        timeout = max(timers[0]._when - loop.time(), 0)
    loop._process_events(loop._selector.select(timeout))
    end_time = loop.time() + loop._clock_resolution
    while timers and timers[0]._when < end_time:
        ready.append(heapq.heappop(timers))
    for _ in range(len(ready)):
        if not ready:
            break
        handle = ready.popleft()
        if not handle._cancelled:
            with no_current_task(loop):
                handle._run()


@contextlib.contextmanager
def running(loop: Any) -> Iterator[None]:
    """Mark the loop as running, inside another run of it or not."""
    loop._check_closed()
    outer = loop._thread_id, events._get_running_loop()
    loop._thread_id = threading.get_ident()
    events._set_running_loop(loop)
    try:
        yield
    finally:
        loop._thread_id = outer[0]
        events._set_running_loop(outer[1])


def run_forever(loop: Any) -> None:
    """Run until the loop is stopped."""
    with running(loop):
        while True:
            loop._run_once()
            if loop._stopping:
                break
    loop._stopping = False


def run_until_complete(loop: Any, future: Any) -> Any:
    """Run until the future is done, inside another run or not."""
    with running(loop):
        future = asyncio.ensure_future(future, loop=loop)
        while not future.done():
            loop._run_once()
            if loop._stopping:
                break
        if not future.done():
            raise RuntimeError("Event loop stopped before Future completed.")
        return future.result()


def nest(cls: Any) -> None:
    """Replace the methods of a class of loops."""
    cls._run_once = run_once
    cls.run_forever = run_forever
    cls.run_until_complete = run_until_complete
    cls._check_running = lambda loop: None
