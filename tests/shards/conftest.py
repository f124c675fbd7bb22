"""Fixtures of the tests of loops with several threads."""

import asyncio
import sysconfig
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

import rloop
from support.leaks import LeakGuard
from support.shards import THREADS, print_waiting_tasks

T = TypeVar("T")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # They look for what happens when threads run at once, which the GIL does not let them do.
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return
    long = pytest.mark.skip(reason="a long run of several threads is for free-threaded builds")
    for item in items:
        of_several = "threads" in getattr(item, "fixturenames", ())
        if of_several and item.get_closest_marker("slow"):
            item.add_marker(long)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "round_number" in metafunc.fixturenames:
        metafunc.parametrize("round_number", range(metafunc.config.getoption("rounds")))


@pytest.fixture(params=THREADS, ids="threads={}".format)
def threads(request: pytest.FixtureRequest) -> int:
    """How many threads the loop under test has."""
    count: int = request.param
    return count


@pytest.fixture
def make_loop(threads: int, guard: LeakGuard) -> Callable[[], rloop.TokioLoop]:
    """Make loops of several threads whose reports reach the guard; the test closes them."""

    def make() -> rloop.TokioLoop:
        loop = rloop.new_event_loop(threads=threads)
        loop.set_exception_handler(guard.record)
        guard.loops.append(loop)
        return loop

    return make


@pytest.fixture
def run(make_loop: Callable[[], rloop.TokioLoop]) -> Callable[[Coroutine[Any, Any, T]], T]:
    """Run a coroutine on a new loop of several threads, and close the loop."""

    def run_and_close(main: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            try:
                return runner.run(main)
            except pytest.fail.Exception:
                # The timeout: what does it wait for?
                print_waiting_tasks(runner.get_loop())
                raise

    return run_and_close
