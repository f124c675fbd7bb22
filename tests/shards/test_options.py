"""How many threads a loop has, and who may have several."""

import asyncio
import os
import sys
import sysconfig
from typing import Any

import pytest

import rloop
from rloop._threads import MOST_THREADS
from support.programs import run_program
from support.shards import several_shards, shard_count

GIL_DISABLED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
IS_NEW = sys.version_info >= (3, 14)

new_enough = pytest.mark.skipif(not IS_NEW, reason="a loop of several threads needs 3.14")

COUNT = """
import asyncio, rloop
async def main():
    return len(asyncio.get_running_loop().statistics())
print(rloop.run(main()))
"""


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLOOP_THREADS", raising=False)


def count(**options: Any) -> int:
    async def main() -> int:
        return shard_count()

    return rloop.run(main(), **options)


def usable_cpus() -> int:
    count: int | None = getattr(os, "process_cpu_count", os.cpu_count)()
    return count or 1


def test_a_loop_has_one_thread_unless_told_otherwise() -> None:
    assert count() == 1
    assert count(threads=1) == 1
    assert count(threads=None) == 1


def test_auto_means_the_usable_processors_where_they_can_be_used() -> None:
    assert count(threads="auto") == (usable_cpus() if GIL_DISABLED and IS_NEW else 1)


@pytest.mark.parametrize("value", [0, -1, MOST_THREADS + 1])
def test_a_number_out_of_range_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=f"threads must be between 1 and {MOST_THREADS}"):
        rloop.new_event_loop(threads=value)


@pytest.mark.parametrize("value", ["2", "", "many"])
def test_a_word_other_than_auto_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="threads must be a number or 'auto'"):
        rloop.new_event_loop(threads=value)


@pytest.mark.parametrize("value", [2.0, True, [2], b"2"])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="threads must be an int, 'auto' or None"):
        rloop.new_event_loop(threads=value)


@pytest.mark.parametrize(("value", "expected"), [("", 1), ("1", 1), (" 1 ", 1)])
def test_the_environment_gives_the_number(
    value: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLOOP_THREADS", value)
    assert count() == expected


def test_the_environment_may_say_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLOOP_THREADS", "auto")
    assert count() == (usable_cpus() if GIL_DISABLED and IS_NEW else 1)


@pytest.mark.parametrize("value", ["0", "-3", "1025", "two", "2.0", "AUTO"])
def test_nonsense_in_the_environment_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLOOP_THREADS", value)
    with pytest.raises(ValueError, match="RLOOP_THREADS must be"):
        rloop.new_event_loop()


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLOOP_THREADS", "nonsense")
    assert count(threads=1) == 1


@new_enough
def test_the_environment_reaches_a_program_that_knows_nothing_of_threads() -> None:
    outcome = run_program(
        COUNT, "rloop", options=["-W", "ignore"], environment={"RLOOP_THREADS": "3"}
    )
    assert (outcome.returncode, outcome.stdout) == (0, "3\n"), outcome.stderr


@pytest.mark.skipif(IS_NEW, reason="newer versions can")
def test_older_versions_refuse_several_threads_and_say_why() -> None:
    with pytest.raises(RuntimeError, match=r"needs Python 3\.14 or later: before, asyncio keeps"):
        rloop.new_event_loop(threads=2)


WARN = """
import warnings, rloop
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        rloop.new_event_loop(threads=2).close()
print([(item.category.__name__, item.filename == __file__) for item in caught])
"""


@new_enough
def test_with_the_gil_several_threads_are_warned_of_once() -> None:
    source = f"__file__ = '<string>'\n{WARN}"
    outcome = run_program(source, "rloop")
    expected = [] if GIL_DISABLED else [("RuntimeWarning", True)]
    assert (outcome.returncode, outcome.stdout) == (0, f"{expected}\n"), outcome.stderr


def test_the_functions_of_several_shards_work_on_a_loop_of_one() -> None:
    async def main() -> None:
        assert rloop.current_shard() == 0
        assert await rloop.spawn(asyncio.sleep(0, 1)) == 1
        assert await rloop.on_shard(0, asyncio.sleep(0, 2)) == 2
        future = rloop.spawn(asyncio.sleep(3600))
        await asyncio.sleep(0)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        with rloop.pinned():
            assert rloop.current_shard() == 0

    rloop.run(main())


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("spawn", rloop.spawn),
        ("on_shard", lambda coroutine: rloop.on_shard(0, coroutine)),
        ("current_shard", lambda _: rloop.current_shard()),
    ],
)
def test_they_need_a_running_tokio_loop(name: str, use: Any) -> None:
    async def nothing() -> None:
        pass

    async def main() -> None:
        with pytest.raises(RuntimeError, match=rf"rloop\.{name}\(\) needs a running TokioLoop"):
            use(coroutine)

    coroutine = nothing()
    with pytest.raises(RuntimeError, match="no running event loop"):
        use(coroutine)
    asyncio.run(main())
    coroutine.close()


@several_shards[0]
@several_shards[1]
def test_several_loops_may_have_different_numbers_of_threads() -> None:
    assert [count(threads=number) for number in (2, 1, 3, 1)] == [2, 1, 3, 1]
