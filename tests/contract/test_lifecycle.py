"""The life of a loop: run_forever, run_until_complete, stop and close, in every order."""

import asyncio
import contextlib
import gc
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from support.leaks import LeakGuard
from support.loops import LoopFactory, factory_of

Loop = asyncio.AbstractEventLoop


def test_a_new_loop_is_neither_running_nor_closed(loop: Loop) -> None:
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert not loop.is_running()
    assert not loop.is_closed()
    assert loop.get_debug() is False


def test_run_until_complete_returns_the_result(loop: Loop) -> None:
    async def answer() -> int:
        assert asyncio.get_running_loop() is loop
        assert asyncio.get_event_loop() is loop
        assert loop.is_running()
        return 42

    assert loop.run_until_complete(answer()) == 42
    assert not loop.is_running()
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


def test_run_until_complete_raises_what_the_coroutine_raised(loop: Loop) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("on purpose")

    with pytest.raises(ZeroDivisionError, match="on purpose"):
        loop.run_until_complete(fail())


def test_run_until_complete_takes_futures_tasks_and_awaitables(loop: Loop) -> None:
    class Awaitable:
        def __await__(self) -> Any:
            return asyncio.sleep(0, "awaited").__await__()

    future = loop.create_future()
    loop.call_soon(future.set_result, "future")
    assert loop.run_until_complete(future) == "future"
    assert loop.run_until_complete(future) == "future"
    task = loop.create_task(asyncio.sleep(0, "task"))
    assert loop.run_until_complete(task) == "task"
    assert loop.run_until_complete(Awaitable()) == "awaited"


def test_run_until_complete_refuses_what_is_not_awaitable(loop: Loop) -> None:
    with pytest.raises(TypeError, match=r"asyncio.Future, a coroutine or an awaitable is required"):
        loop.run_until_complete(42)  # type: ignore[arg-type]


def test_run_until_complete_refuses_a_future_of_another_loop(
    loop: Loop, loop_factory: LoopFactory
) -> None:
    with (
        contextlib.closing(loop_factory()) as other,
        pytest.raises(ValueError, match="belongs to a different loop"),
    ):
        loop.run_until_complete(other.create_future())


def test_stopping_before_the_future_is_done_is_an_error_and_the_loop_goes_on(loop: Loop) -> None:
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match="Event loop stopped before Future completed"):
        loop.run_until_complete(future)
    loop.call_soon(future.set_result, "later")
    assert loop.run_until_complete(future) == "later"


def test_stop_lets_the_callbacks_of_the_turn_run_and_no_later_ones(loop: Loop) -> None:
    ran: list[str] = []

    def first() -> None:
        ran.append("first")
        loop.stop()
        loop.call_soon(ran.append, "next run")

    loop.call_soon(first)
    loop.call_soon(ran.append, "same turn")
    loop.run_forever()
    assert ran == ["first", "same turn"]
    loop.call_soon(ran.append, "after that")
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == ["first", "same turn", "next run", "after that"]


def test_stop_before_the_run_runs_one_turn(loop: Loop) -> None:
    ran: list[str] = []

    def callback() -> None:
        ran.append("ready")
        loop.call_soon(ran.append, "too late")

    loop.call_soon(callback)
    loop.stop()
    loop.run_forever()
    assert ran == ["ready"]
    assert not loop.is_running()


def test_stop_twice_stops_once(loop: Loop) -> None:
    loop.stop()
    loop.stop()
    loop.run_forever()
    ran: list[int] = []
    loop.call_soon(ran.append, 1)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == [1]


def test_callbacks_scheduled_while_stopped_keep_their_order(loop: Loop) -> None:
    ran: list[int] = []
    for number in range(0, 300, 3):
        loop.call_soon(ran.append, number)
        loop.call_soon_threadsafe(ran.append, number + 1)
        loop.call_soon(ran.append, number + 2)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == list(range(300))


@pytest.mark.fails_on(
    "asyncio",
    "rloop",  # run_forever() is the standard library's.
    when=(3, 13) <= sys.version_info < (3, 13, 3),
    reason="https://github.com/python/cpython/issues/130145: the running loop is forgotten",
)
async def test_a_running_loop_cannot_be_run_again(loop: Loop, loop_factory: LoopFactory) -> None:
    with pytest.raises(RuntimeError, match="This event loop is already running"):
        loop.run_forever()
    assert loop.is_running()
    assert asyncio.get_running_loop() is loop
    coroutine = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="This event loop is already running"):
        loop.run_until_complete(coroutine)
    coroutine.close()
    with (
        contextlib.closing(loop_factory()) as other,
        pytest.raises(
            RuntimeError, match="Cannot run the event loop while another loop is running"
        ),
    ):
        other.run_forever()
    assert asyncio.get_running_loop() is loop


def test_a_running_loop_cannot_be_run_from_another_thread(loop: Loop) -> None:
    errors: list[BaseException] = []

    def intrude() -> None:
        try:
            loop.run_forever()
        except RuntimeError as error:
            errors.append(error)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=intrude)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert [str(error) for error in errors] == ["This event loop is already running"]


async def test_a_running_loop_cannot_be_closed(loop: Loop) -> None:
    with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
        loop.close()
    assert not loop.is_closed()


def test_closing_twice_is_harmless(loop: Loop) -> None:
    loop.close()
    loop.close()
    assert loop.is_closed()
    assert not loop.is_running()


async def never() -> None:
    raise AssertionError("ran on a closed loop")


CLOSED_LOOP_CALLS: list[tuple[str, Callable[[Loop], object]]] = [
    ("call_soon", lambda loop: loop.call_soon(print)),
    ("call_soon_threadsafe", lambda loop: loop.call_soon_threadsafe(print)),
    ("call_later", lambda loop: loop.call_later(1, print)),
    ("call_at", lambda loop: loop.call_at(1, print)),
    ("run_forever", lambda loop: loop.run_forever()),
    ("run_in_executor", lambda loop: loop.run_in_executor(None, print)),
    ("add_signal_handler", lambda loop: loop.add_signal_handler(10, print)),
]


@pytest.mark.parametrize(
    "call", [call for _, call in CLOSED_LOOP_CALLS], ids=[name for name, _ in CLOSED_LOOP_CALLS]
)
def test_a_closed_loop_refuses_work(loop: Loop, call: Callable[[Loop], object]) -> None:
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        call(loop)


def test_a_closed_loop_refuses_coroutines(loop: Loop) -> None:
    loop.close()
    for method in (loop.run_until_complete, loop.create_task):
        coroutine = never()
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            method(coroutine)
        coroutine.close()


def test_a_closed_loop_still_tells_the_time_and_its_state(loop: Loop) -> None:
    loop.close()
    assert loop.time() > 0
    assert loop.get_debug() is False
    assert "closed=True" in repr(loop)
    loop.stop()


def test_what_is_scheduled_when_the_loop_closes_never_runs(loop: Loop) -> None:
    ran: list[int] = []
    loop.call_soon(ran.append, 1)
    loop.call_later(0, ran.append, 2)
    loop.close()
    assert ran == []


def test_the_repr_tells_the_state(loop: Loop) -> None:
    async def running() -> str:
        return repr(loop)

    assert "running=False closed=False debug=False" in repr(loop)
    assert "running=True closed=False debug=False" in loop.run_until_complete(running())


def test_a_loop_collected_unclosed_warns_and_frees_its_descriptors(loop_name: str) -> None:
    loop = factory_of(loop_name)()
    loop.run_until_complete(asyncio.sleep(0))
    with pytest.warns(ResourceWarning, match=r"unclosed event loop <.*>"):
        del loop
        gc.collect()


def test_many_loops_may_exist_and_run_in_turn(loop_factory: LoopFactory) -> None:
    with contextlib.ExitStack() as stack:
        loops = [stack.enter_context(contextlib.closing(loop_factory())) for _ in range(20)]
        for round_number in range(3):
            for loop in loops:
                result = loop.run_until_complete(asyncio.sleep(0, round_number))
                assert result == round_number


def test_each_thread_runs_a_loop_of_its_own(loop_factory: LoopFactory) -> None:
    barrier = threading.Barrier(4, timeout=20)
    outcomes: list[bool] = []

    def body() -> None:
        async def main() -> None:
            inside = asyncio.get_running_loop()
            barrier.wait()
            await asyncio.sleep(0.001)
            outcomes.append(asyncio.get_running_loop() is inside is loop)

        with contextlib.closing(loop_factory()) as loop:
            loop.run_until_complete(main())

    threads = [threading.Thread(target=body) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 4


def test_a_loop_may_be_run_in_another_thread_than_the_one_that_made_it(loop: Loop) -> None:
    results: list[str] = []
    thread = threading.Thread(
        target=lambda: results.append(loop.run_until_complete(asyncio.sleep(0, "elsewhere")))
    )
    thread.start()
    thread.join()
    assert results == ["elsewhere"]
    assert loop.run_until_complete(asyncio.sleep(0, "here")) == "here"


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_interrupt_in_a_callback_leaves_run_forever_and_the_rest_runs_later(
    loop: Loop, error: type[BaseException]
) -> None:
    ran: list[str] = []

    def interrupt() -> None:
        raise error("on purpose")

    loop.call_soon(ran.append, "before")
    loop.call_soon(interrupt)
    loop.call_soon(ran.append, "after")
    with pytest.raises(error):
        loop.run_forever()
    assert ran == ["before"]
    assert not loop.is_running()
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == ["before", "after"]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_interrupt_in_a_task_leaves_run_until_complete(
    loop: Loop, error: type[BaseException]
) -> None:
    async def interrupt() -> None:
        raise error("on purpose")

    with pytest.raises(error):
        loop.run_until_complete(interrupt())
    assert loop.run_until_complete(asyncio.sleep(0, "usable")) == "usable"


def test_asyncio_run_uses_the_loop_and_closes_it(loop_factory: LoopFactory) -> None:
    seen: list[Loop] = []

    async def main() -> str:
        seen.append(asyncio.get_running_loop())
        return "done"

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) == "done"
        assert runner.run(main()) == "done"
        assert runner.get_loop() is seen[0] is seen[1]
    assert seen[0].is_closed()


def test_a_task_never_awaited_is_reported_when_it_is_collected(
    loop_factory: LoopFactory, guard: LeakGuard
) -> None:
    loop = loop_factory()
    task = loop.create_task(asyncio.sleep(3600))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    guard.loops.clear()
    del task, loop
    gc.collect()
    (report,) = guard.take_reports()
    assert report["message"] == "Task was destroyed but it is pending!"
