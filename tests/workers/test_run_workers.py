"""`rloop.run_workers`: how workers start, return, fail and know each other."""

import asyncio
import contextvars
import os
import sys
import threading
import warnings

import pytest

import rloop
from support.threads import eventually
from support.workers import Meeting, several_workers

pytestmark = several_workers


async def index() -> int:
    """Return the index of the worker that runs this."""
    return rloop.current_worker().index


def test_results_come_in_the_order_of_the_workers() -> None:
    assert rloop.run_workers(index, workers=3) == [0, 1, 2]


def test_each_worker_has_a_thread_and_a_loop_of_its_own() -> None:
    meeting = Meeting(3)

    async def main() -> tuple[int, int, str, int]:
        # All are there at once, so no identity is used twice.
        await meeting.meet()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, rloop.TokioLoop)
        return (
            id(loop),
            threading.get_ident(),
            threading.current_thread().name,
            len(loop.statistics()),
        )

    found = rloop.run_workers(main, workers=3)
    assert len({loop for loop, *_ in found}) == 3
    assert len({thread for _, thread, *_ in found} | {threading.get_ident()}) == 4
    assert [name for *_, name, _ in found] == [f"rloop-worker-{number}" for number in range(3)]
    assert [shards for *_, shards in found] == [1, 1, 1]


def test_a_worker_has_a_loop_of_one_thread_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RLOOP_THREADS", "3")

    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, rloop.TokioLoop)
        return len(loop.statistics())

    assert rloop.run_workers(main, workers=1) == [1]


def test_the_first_failure_ends_the_other_workers_and_is_raised() -> None:
    meeting = Meeting(3)
    cancelled = []

    async def main() -> None:
        try:
            await meeting.meet()
            if rloop.current_worker().index == 1:
                raise LookupError("this worker fails")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(rloop.current_worker().index)
            raise

    with pytest.raises(LookupError, match="this worker fails"):
        rloop.run_workers(main, workers=3)
    assert sorted(cancelled) == [0, 2]


def test_a_later_failure_is_noted_on_the_first() -> None:
    meeting = Meeting(2)

    async def main() -> None:
        try:
            await meeting.meet()
            if rloop.current_worker().index == 1:
                raise LookupError
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("while it ended") from None

    with pytest.raises(LookupError) as caught:
        rloop.run_workers(main, workers=2)
    assert caught.value.__notes__ == ["worker 0 failed as well: ValueError('while it ended')"]


def test_a_worker_that_returns_leaves_the_others_running() -> None:
    returned = threading.Event()

    async def main() -> int:
        worker = rloop.current_worker()
        if worker.index == 0:
            await eventually(lambda: not worker.workers[1]._thread.is_alive())
            returned.set()
        return worker.index

    assert rloop.run_workers(main, workers=2) == [0, 1]
    assert returned.is_set()


def test_a_worker_that_exits_without_a_status_leaves_the_others_running() -> None:
    async def main() -> int:
        worker = rloop.current_worker()
        if worker.index == 0:
            await eventually(lambda: not worker.workers[1]._thread.is_alive())
            return 7
        raise SystemExit

    assert rloop.run_workers(main, workers=2) == [7, None]


def test_a_worker_that_exits_with_a_status_ends_the_group_with_it() -> None:
    async def main() -> None:
        if rloop.current_worker().index == 0:
            await asyncio.Event().wait()
        sys.exit(4)

    with pytest.raises(SystemExit) as caught:
        rloop.run_workers(main, workers=2)
    assert caught.value.code == 4


def test_an_interrupt_that_a_worker_raises_ends_the_group() -> None:
    async def main() -> None:
        if rloop.current_worker().index == 0:
            await asyncio.Event().wait()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rloop.run_workers(main, workers=2)


def test_workers_know_each_other_by_index() -> None:
    async def main() -> tuple[str, list[int], bool]:
        worker = rloop.current_worker()
        indices = [other.index for other in worker.workers]
        return repr(worker), indices, worker.workers[worker.index] is worker

    assert rloop.run_workers(main, workers=2) == [
        ("<Worker 0 of 2>", [0, 1], True),
        ("<Worker 1 of 2>", [0, 1], True),
    ]


def test_threads_and_executors_belong_to_the_worker_that_starts_them() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        found = []

        def look() -> None:
            found.append(rloop.current_worker().index)

        thread = threading.Thread(target=look)
        thread.start()
        await asyncio.to_thread(look)
        await loop.run_in_executor(None, look)
        await asyncio.to_thread(thread.join)
        return found

    assert rloop.run_workers(main, workers=2) == [[0, 0, 0], [1, 1, 1]]


def test_code_that_runs_in_the_context_of_a_worker_belongs_to_it() -> None:
    contexts: list[contextvars.Context] = []

    async def main() -> None:
        contexts.append(contextvars.copy_context())
        meeting.wait()

    meeting = Meeting(2)
    found: list[int] = []

    def look() -> None:
        meeting.wait()
        found.append(contexts[0].run(rloop.current_worker).index)

    thread = threading.Thread(target=look)
    thread.start()
    rloop.run_workers(main, workers=1)
    thread.join()
    assert found == [0]


def test_a_thread_of_no_worker_has_no_current_worker() -> None:
    with pytest.raises(RuntimeError, match="belongs to no worker"):
        rloop.current_worker()


def test_a_second_group_is_refused() -> None:
    async def main() -> str:
        with pytest.raises(RuntimeError) as caught:
            rloop.run_workers(index, workers=1)
        return str(caught.value)

    assert rloop.run_workers(main, workers=1) == ["workers are running already in this process"]


def test_groups_may_follow_one_another() -> None:
    assert rloop.run_workers(index, workers=2) == [0, 1]
    assert rloop.run_workers(index, workers=2) == [0, 1]


def test_a_coroutine_in_place_of_a_function_is_refused() -> None:
    with pytest.raises(TypeError, match=r"pass main, and not main\(\)"):
        rloop.run_workers(index(), workers=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("main", [3, None])
def test_what_is_no_function_is_refused(main: object) -> None:
    with pytest.raises(TypeError, match="must be a function or a string"):
        rloop.run_workers(main, workers=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("main", ["module", ":function", "module:"])
def test_a_string_that_names_no_function_is_refused(main: str) -> None:
    with pytest.raises(ValueError, match="must be 'module:function'"):
        rloop.run_workers(main, workers=2)


@pytest.mark.parametrize("workers", [0, -1, 1025])
def test_a_number_out_of_range_is_refused(workers: int) -> None:
    with pytest.raises(ValueError, match="workers must be between 1 and 1024"):
        rloop.run_workers(index, workers=workers)


@pytest.mark.parametrize("workers", [2.0, True, b"2"])
def test_what_is_no_number_is_refused(workers: object) -> None:
    with pytest.raises(TypeError, match="workers must be an int"):
        rloop.run_workers(index, workers=workers)  # type: ignore[arg-type]


def test_the_environment_gives_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLOOP_WORKERS", "3")
    assert rloop.run_workers(index) == [0, 1, 2]
    monkeypatch.setenv("RLOOP_WORKERS", "many")
    with pytest.raises(ValueError, match="RLOOP_WORKERS must be a number or 'auto', not 'many'"):
        rloop.run_workers(index)
    monkeypatch.delenv("RLOOP_WORKERS")
    assert rloop.run_workers(index) == [0]


def test_auto_is_as_many_as_there_are_cpus_without_the_gil() -> None:
    has_gil = sys.version_info < (3, 13) or sys._is_gil_enabled()
    expected = 1 if has_gil else os.process_cpu_count()
    assert len(rloop.run_workers(index, workers="auto")) == expected


def test_the_gil_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rloop._threads._warned", set())
    has_gil = sys.version_info < (3, 13) or sys._is_gil_enabled()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rloop.run_workers(index, workers=2)
        rloop.run_workers(index, workers=2)
        rloop.run_workers(index, workers=1)
    messages = [str(warning.message) for warning in caught]
    assert [message.partition(",")[0] for message in messages] == [
        "a group of 2 workers runs Python code on one core at a time"
    ] * has_gil


def test_the_debug_mode_reaches_every_loop() -> None:
    async def main() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert rloop.run_workers(main, workers=2, debug=True) == [True, True]


def test_nothing_of_the_process_stays_replaced() -> None:
    import signal
    import socket

    def functions() -> list[object]:
        names = ("signal", "getsignal", "set_wakeup_fd", "raise_signal")
        return [
            *(getattr(signal, name) for name in names),
            threading.main_thread,
            threading.Thread.start,
            socket.socket.bind,
            "bind" in vars(socket.socket),
            type(sys.modules),
            os.remove,
            os.unlink,
            set(os.supports_dir_fd),
            signal.getsignal(signal.SIGINT),
            signal.getsignal(signal.SIGTERM),
            signal.getsignal(signal.SIGHUP),
        ]

    before = functions()
    during: list[object] = []

    async def main() -> None:
        during.extend(functions())

    rloop.run_workers(main, workers=1, modules=["json"])
    assert functions() == before
    # All but the handlers of SIGTERM and SIGHUP.
    changed = [one != other for one, other in zip(before, during, strict=True)]
    assert changed == [True] * 13 + [False] * 2
