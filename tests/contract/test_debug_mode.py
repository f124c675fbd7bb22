"""Debug mode: how it is switched on, and what it reports that the normal mode does not."""

import asyncio
import logging
import re
import sys
import time

import pytest

from support.leaks import LeakGuard
from support.programs import run_program
from support.threads import turns

Loop = asyncio.AbstractEventLoop

SHOW_DEBUG = """
loop = new_loop()
print(loop.get_debug())
loop.close()
"""


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        ([], {}, "False"),
        (["-X", "dev"], {}, "True"),
        ([], {"PYTHONASYNCIODEBUG": "1"}, "True"),
    ],
    ids=["normal", "dev mode", "environment"],
)
def test_debug_mode_is_switched_on_from_outside(
    loop_name: str, options: list[str], environment: dict[str, str], expected: str
) -> None:
    outcome = run_program(SHOW_DEBUG, loop_name, options=options, environment=environment)
    assert outcome.stdout == f"{expected}\n", outcome.stderr


async def test_debug_mode_can_be_switched_at_run_time(loop: Loop) -> None:
    assert loop.get_debug() is False
    loop.set_debug(True)
    assert loop.get_debug() is True
    loop.set_debug(False)
    assert loop.get_debug() is False


async def test_a_slow_callback_is_logged_with_its_duration(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    def slow() -> None:
        deadline = time.monotonic() + 0.02
        while time.monotonic() < deadline:
            pass

    loop.set_debug(True)
    assert loop.slow_callback_duration == 0.1
    loop.slow_callback_duration = 0.01
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        loop.call_soon(slow)
        await turns(2)
    # A step of this test may be slow too, and any of them much slower than it tries to be.
    (message,) = [text for text in caplog.messages if "slow()" in text]
    assert re.fullmatch(
        r"Executing <Handle .*slow\(\).* created at .*test_debug_mode.py:\d+> "
        r"took \d+\.\d{3} seconds",
        message,
    )


async def test_a_slow_task_step_is_logged_with_the_task(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow_step() -> None:
        deadline = time.monotonic() + 0.02
        while time.monotonic() < deadline:
            pass

    loop.set_debug(True)
    loop.slow_callback_duration = 0.01
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        await loop.create_task(slow_step(), name="the slow one")
    (message,) = [text for text in caplog.messages if "slow_step" in text]
    assert re.fullmatch(
        r"Executing <Task .*name='the slow one'.*> took \d+\.\d{3} seconds", message
    )


async def test_nothing_slow_is_logged_without_debug_mode(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    loop.slow_callback_duration = 0.0
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        loop.call_soon(time.sleep, 0.002)
        await turns(2)
    assert caplog.messages == []


async def test_a_fast_callback_is_not_logged(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    loop.set_debug(True)
    loop.slow_callback_duration = 20.0
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        loop.call_soon(time.sleep, 0.002)
        await turns(2)
    assert caplog.messages == []


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
async def test_a_handle_tells_where_it_was_created(loop: Loop, method: str) -> None:
    loop.set_debug(True)
    delay = [] if method.startswith("call_soon") else [3600.0]
    handle = getattr(loop, method)(*delay, print)
    line = sys._getframe().f_lineno - 1
    assert f"created at {__file__}:{line}" in repr(handle)
    handle.cancel()
    assert f"created at {__file__}:{line}" in repr(handle)


async def test_a_report_carries_the_source_traceback(loop: Loop, guard: LeakGuard) -> None:
    def fail() -> None:
        raise ZeroDivisionError("on purpose")

    loop.set_debug(True)
    loop.call_soon(fail)
    line = sys._getframe().f_lineno - 1
    await turns(2)
    (report,) = guard.take_reports()
    frame = report["source_traceback"][-1]
    assert (frame.filename, frame.lineno) == (__file__, line)


def test_coroutine_origins_are_tracked_only_while_a_debugging_loop_runs(loop: Loop) -> None:
    async def depth() -> int:
        return sys.get_coroutine_origin_tracking_depth()

    async def toggled() -> list[int]:
        depths = [sys.get_coroutine_origin_tracking_depth()]
        for debug in (True, False):
            loop.set_debug(debug)
            await turns(2)
            depths.append(sys.get_coroutine_origin_tracking_depth())
        return depths

    before = sys.get_coroutine_origin_tracking_depth()
    assert loop.run_until_complete(depth()) == before
    assert loop.run_until_complete(toggled()) == [before, 10, before]
    loop.set_debug(True)
    assert loop.run_until_complete(depth()) == 10
    assert sys.get_coroutine_origin_tracking_depth() == before
