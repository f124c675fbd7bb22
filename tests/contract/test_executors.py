"""Executors: blocking functions run in threads and their outcome comes back to the loop."""

import asyncio
import contextvars
import threading
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from support.loops import LoopFactory

Loop = asyncio.AbstractEventLoop


async def test_the_default_executor_runs_a_function_in_another_thread(loop: Loop) -> None:
    ident = await loop.run_in_executor(None, threading.get_ident)
    assert ident != threading.get_ident()


async def test_arguments_results_and_exceptions_pass_through(loop: Loop) -> None:
    assert await loop.run_in_executor(None, divmod, 17, 5) == (3, 2)
    with pytest.raises(ZeroDivisionError):
        await loop.run_in_executor(None, divmod, 17, 0)


async def test_many_calls_run_at_once(loop: Loop) -> None:
    barrier = threading.Barrier(4, timeout=20)
    with ThreadPoolExecutor(4) as executor:
        calls = [loop.run_in_executor(executor, barrier.wait) for _ in range(4)]
        assert sorted(await asyncio.gather(*calls)) == [0, 1, 2, 3]


async def test_the_default_executor_can_be_chosen(loop: Loop) -> None:
    executor = ThreadPoolExecutor(1, thread_name_prefix="chosen")
    loop.set_default_executor(executor)
    name = await loop.run_in_executor(None, lambda: threading.current_thread().name)
    assert name.startswith("chosen")


async def test_only_a_thread_pool_can_be_the_default_executor(loop: Loop) -> None:
    with (
        Executor() as executor,
        pytest.raises(TypeError, match="executor must be ThreadPoolExecutor instance"),
    ):
        loop.set_default_executor(executor)


async def test_after_its_shutdown_the_default_executor_takes_no_work(loop: Loop) -> None:
    await loop.run_in_executor(None, int)
    await loop.shutdown_default_executor()
    with pytest.raises(RuntimeError, match="Executor shutdown has been called"):
        await loop.run_in_executor(None, int)
    with ThreadPoolExecutor(1) as executor:
        assert await loop.run_in_executor(executor, int) == 0


async def test_shutdown_waits_for_the_work_that_was_given(loop: Loop) -> None:
    release, finished = threading.Event(), threading.Event()

    def work() -> None:
        release.wait(20)
        finished.set()

    running = loop.run_in_executor(None, work)
    loop.call_later(0.01, release.set)
    await loop.shutdown_default_executor()
    assert finished.is_set()
    await running


async def test_to_thread_carries_the_context(loop: Loop) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("carried")
    assert await asyncio.to_thread(variable.get) == "carried"


def test_closing_the_loop_ends_the_threads_of_the_default_executor(
    loop_factory: LoopFactory,
) -> None:
    loop = loop_factory()
    loop.run_until_complete(loop.run_in_executor(None, int))
    loop.close()


async def test_a_cancelled_wait_does_not_disturb_the_loop(loop: Loop) -> None:
    release = threading.Event()
    running = loop.run_in_executor(None, release.wait, 20)
    waiter = asyncio.ensure_future(asyncio.wait_for(running, 0.001))
    with pytest.raises(TimeoutError):
        await waiter
    release.set()
    assert await loop.run_in_executor(None, int) == 0


async def test_a_coroutine_function_is_refused_in_debug_mode(loop: Loop) -> None:
    async def coroutine_function() -> None:
        """Be refused."""

    loop.set_debug(True)
    with pytest.raises(TypeError, match=r"coroutines cannot be used with run_in_executor\(\)"):
        loop.run_in_executor(None, coroutine_function)


async def test_names_are_resolved_without_blocking_the_loop(loop: Loop) -> None:
    (found,) = await loop.getaddrinfo("127.0.0.1", 80, type=1, proto=6)
    assert found[4] == ("127.0.0.1", 80)
    host, service = await loop.getnameinfo(("127.0.0.1", 80), 3)
    assert (host, service) == ("127.0.0.1", "80")
    with pytest.raises(OSError, match=r".+"):
        await loop.getaddrinfo("name.invalid", 80, flags=4)
