"""`Worker.call`: coroutines that one worker runs for another, and statistics of each."""

import asyncio
import contextvars
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import rloop
from rloop import sync
from rloop._workers.group import Group
from rloop._workers.modules import Copies
from support.applications import Application
from support.shards import Gate
from support.threads import PEER_TIMEOUT
from support.workers import Meeting, several_workers

pytestmark = several_workers


def run_calling(
    body: Callable[["rloop.Worker", "rloop.Worker"], Awaitable[Any]], **options: Any
) -> Any:
    """Run `body` on worker 0, with that and another worker, which runs until the body returns."""
    is_there, finished = sync.Barrier(2), sync.Event()

    async def main() -> Any:
        worker = rloop.current_worker()
        await is_there.wait()
        if worker.index == 1:
            return await finished.wait()
        try:
            async with asyncio.timeout(PEER_TIMEOUT):
                return await body(worker, worker.workers[1])
        finally:
            finished.set()

    return rloop.run_workers(main, workers=2, **options)[0]


async def where(*arguments: Any, **keywords: Any) -> Any:
    """Tell which worker runs this, and what it was given."""
    await asyncio.sleep(0)
    assert asyncio.get_running_loop() is rloop.current_worker()._active_loop
    return rloop.current_worker().index, arguments, keywords


def test_a_coroutine_runs_on_the_worker_that_is_called() -> None:
    async def body(own: rloop.Worker, other: rloop.Worker) -> None:
        assert await other.call(where()) == (1, (), {})
        assert await other.call(where, 1, two=2) == (1, (1,), {"two": 2})
        assert await own.call(where, 3) == (0, (3,), {})

        async def there_and_back() -> Any:
            return rloop.current_worker().index, await own.call(where)

        assert await other.call(there_and_back) == (1, (0, (), {}))
        results = await asyncio.gather(*(other.call(where, number) for number in range(100)))
        assert [number for _, (number,), _ in results] == list(range(100))

    run_calling(body)
    run_calling(body, debug=True)


def test_calls_of_one_caller_begin_in_their_order() -> None:
    began: list[int] = []

    async def begin(number: int) -> None:
        began.append(number)

    async def body(_: rloop.Worker, other: rloop.Worker) -> None:
        await asyncio.gather(*(other.call(begin, number) for number in range(1000)))

    run_calling(body)
    assert began == list(range(1000))


def test_what_the_coroutine_raises_is_raised() -> None:
    class Unusual(Exception):
        pass

    async def fail() -> None:
        raise Unusual("there")

    def fail_at_once() -> Any:
        raise StopIteration

    async def body(_: rloop.Worker, other: rloop.Worker) -> None:
        with pytest.raises(Unusual, match="there"):
            await other.call(fail())
        with pytest.raises(RuntimeError, match="StopIteration"):
            await other.call(fail_at_once)
        with pytest.raises(TypeError):
            await other.call(len, "abc")  # type: ignore[call-overload]

    run_calling(body)


def test_what_is_no_coroutine_and_no_function_is_refused() -> None:
    async def body(_: rloop.Worker, other: rloop.Worker) -> None:
        with pytest.raises(TypeError, match="an asynchronous function was expected, got 3"):
            other.call(3)  # type: ignore[call-overload]
        coroutine = where()
        with pytest.raises(TypeError, match="arguments go with a function"):
            other.call(coroutine, 1)  # type: ignore[call-overload]
        await coroutine

    run_calling(body)


def test_a_thread_without_a_running_loop_cannot_call() -> None:
    async def body(_: rloop.Worker, other: rloop.Worker) -> None:
        def call() -> None:
            with pytest.raises(RuntimeError, match="no running event loop"):
                other.call(where)

        await asyncio.to_thread(call)

    run_calling(body)


def test_any_loop_may_call_a_worker() -> None:
    async def body(_: rloop.Worker, other: rloop.Worker) -> Any:
        async def call() -> Any:
            return await other.call(where, "from elsewhere")

        def run() -> Any:
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                return runner.run(call())

        return await asyncio.to_thread(run)

    assert run_calling(body) == (1, ("from elsewhere",), {})


def test_the_context_of_the_caller_is_copied() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def change() -> tuple[str, int]:
        before = variable.get()
        variable.set("changed")
        # Threads that belong to no worker by themselves follow the context.
        return before, await asyncio.to_thread(lambda: rloop.current_worker().index)

    async def body(_: rloop.Worker, other: rloop.Worker) -> None:
        variable.set("the caller's")
        assert await other.call(change) == ("the caller's", 1)
        assert variable.get() == "the caller's"
        assert await asyncio.to_thread(lambda: rloop.current_worker().index) == 0

    run_calling(body)


class Waiting:
    """A coroutine function that waits until it is cancelled, and how it ended."""

    def __init__(self) -> None:
        self.began = sync.Event()
        self.ended: list[tuple[int, tuple[Any, ...]]] = []

    async def __call__(self) -> None:
        try:
            self.began.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            self.ended.append((rloop.current_worker().index, error.args))
            raise


def test_cancelling_the_future_or_its_task_cancels_the_coroutine_and_waits_for_it() -> None:
    async def body(_: rloop.Worker, other: rloop.Worker) -> list[tuple[int, tuple[Any, ...]]]:
        waiting = Waiting()

        async def call() -> None:
            await other.call(waiting)

        future = other.call(waiting)
        await waiting.began.wait()
        assert future.cancel("by the future")
        assert not future.done()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert future.cancelled()
        assert not future.cancel()

        waiting.began.clear()
        task = asyncio.create_task(call())
        await waiting.began.wait()
        task.cancel("by the task")
        with pytest.raises(asyncio.CancelledError):
            await task

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await other.call(waiting)
        return waiting.ended

    assert run_calling(body)[:2] == [(1, ("by the future",)), (1, ("by the task",))]


def test_a_coroutine_that_goes_on_when_it_is_cancelled_returns_its_result() -> None:
    async def body(_: rloop.Worker, other: rloop.Worker) -> Any:
        began = sync.Event()

        async def stubborn() -> str:
            try:
                began.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
            return "finished"

        future = other.call(stubborn)
        await began.wait()
        future.cancel()
        return await future

    assert run_calling(body) == "finished"


def test_a_call_that_is_cancelled_before_it_begins_does_not_begin() -> None:
    began: list[int] = []

    async def begin() -> None:
        began.append(1)

    async def hold(gate: Gate) -> None:
        gate.hold()

    async def body(_: rloop.Worker, other: rloop.Worker) -> None:
        gate = Gate()
        holding = other.call(hold, gate)
        await gate.held()
        futures = [other.call(begin), other.call(begin())]
        for future in futures:
            future.cancel()
        gate.open()
        for future in futures:
            with pytest.raises(asyncio.CancelledError):
                await future
        await holding

    run_calling(body)
    assert began == []


def test_calls_to_a_worker_that_has_ended_fail() -> None:
    is_there = sync.Barrier(2)
    began = sync.Event()

    async def never() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            # As the loop closes, tasks are cancelled, and this one takes its time.
            await asyncio.sleep(0)

    async def main() -> None:
        worker = rloop.current_worker()
        await is_there.wait()
        if worker.index == 1:
            await began.wait()
            return
        other = worker.workers[1]
        with pytest.raises(asyncio.CancelledError):
            await other.call(never)
        await asyncio.to_thread(other._thread.join)
        for call in (where, where()):
            with pytest.raises(RuntimeError, match="<Worker 1 of 2> runs no TokioLoop"):
                await other.call(call)
        gc.collect()

    rloop.run_workers(main, workers=2)


def test_calls_that_a_loop_has_not_begun_when_it_is_closed_fail() -> None:
    meeting = Meeting(2)

    async def main() -> None:
        worker = rloop.current_worker()
        if worker.index == 1:
            loop = rloop.TokioLoop()
            with worker._running(loop):
                meeting.wait()
                meeting.wait()
                loop.close()
            return
        meeting.wait()
        futures = [worker.workers[1].call(where), worker.workers[1].call(where())]
        meeting.wait()
        for future in futures:
            with pytest.raises(RuntimeError, match="was closed before the call was complete"):
                await future

    rloop.run_workers(main, workers=2)


def test_calls_that_reach_a_worker_as_it_ends_are_completed_or_fail() -> None:
    meeting = Meeting(2)

    async def main() -> None:
        worker = rloop.current_worker()
        if worker.index == 1:
            meeting.wait()
            meeting.wait()
            return
        meeting.wait()
        futures = [worker.workers[1].call(where), worker.workers[1].call(where())]
        meeting.wait()
        for result in await asyncio.gather(*futures, return_exceptions=True):
            assert result == (1, (), {}) or type(result) in (RuntimeError, asyncio.CancelledError)

    rloop.run_workers(main, workers=2)


@pytest.mark.parametrize("then", ["it runs a loop", "it ends", "the caller cancels"])
def test_a_call_waits_for_the_first_loop_of_a_worker(then: str) -> None:
    meeting = Meeting(2)
    finished = sync.Event()

    async def call(other: rloop.Worker) -> list[Any]:
        futures = [other.call(where, 1), other.call(where())]
        if then == "the caller cancels":
            for future in futures:
                future.cancel()
        meeting.wait()
        results = await asyncio.gather(*futures, return_exceptions=True)
        finished.set()
        return results

    def body(worker: rloop.Worker) -> Any:
        if worker.index == 1:
            meeting.wait()
            if then == "it ends":
                return None
        with asyncio.Runner(loop_factory=rloop.TokioLoop) as runner:
            return runner.run(finished.wait() if worker.index else call(worker.workers[1]))

    results, _ = Group(2, body, Copies()).run()
    if then == "it runs a loop":
        assert results == [(1, (1,), {}), (1, (), {})]
    elif then == "it ends":
        assert [str(error) for error in results] == ["<Worker 1 of 2> has ended"] * 2
    else:
        assert [type(error) for error in results] == [asyncio.CancelledError] * 2


def test_a_function_is_called_in_the_copy_of_the_worker_that_is_called(app: Application) -> None:
    sources = {
        "app.py": """
            import rloop
            from rloop import sync
            from recorder import barrier

            state = rloop.current_worker().index

            async def read():
                return state

            class Class:
                @staticmethod
                async def read():
                    return state

            async def main():
                worker = rloop.current_worker()
                async def nested(): ...
                try:
                    await worker.workers[1 - worker.index].call(nested)
                except ValueError as error:
                    message = str(error)
                await barrier.wait()
                other = worker.workers[1 - worker.index]
                found = [await other.call(read), await other.call(Class.read)]
                # A coroutine keeps the globals of the function that made it.
                found.append(await other.call(read()))
                await barrier.wait()
                return found, message
        """
    }
    app.share(barrier=sync.Barrier(2))
    message = (
        "app.main.<locals>.nested is not a global of its module, so another worker cannot find its "
        "own: pass a module's function and its arguments"
    )
    assert app.run(sources) == [([1, 1, 0], message), ([0, 0, 1], message)]


def test_statistics_tell_what_each_worker_does() -> None:
    async def body(own: rloop.Worker, other: rloop.Worker) -> None:
        before = other.statistics()
        await asyncio.gather(*(other.call(where) for _ in range(50)))
        after = other.statistics()
        assert (own.statistics().worker, after.worker) == (0, 1)
        assert before.loop is not None
        assert after.loop is not None
        assert after.loop.callbacks - before.loop.callbacks >= 50
        assert after.loop.pushes > before.loop.pushes
        assert (after.accepted, after.connections) == (0, 0)

    run_calling(body)


def test_a_worker_that_has_ended_has_no_statistics_of_a_loop() -> None:
    is_there = sync.Barrier(2)

    async def main() -> None:
        worker = rloop.current_worker()
        await is_there.wait()
        if worker.index == 0:
            await asyncio.to_thread(worker.workers[1]._thread.join)
            assert worker.workers[1].statistics().loop is None
            assert worker.statistics().loop is not None

    rloop.run_workers(main, workers=2)
