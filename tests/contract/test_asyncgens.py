"""Asynchronous generators: the loop finishes those that nobody iterates any more."""

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncGenerator

import pytest

from support.leaks import LeakGuard
from support.threads import PEER_TIMEOUT, eventually, turns

Loop = asyncio.AbstractEventLoop


async def numbers(ended: list[str]) -> AsyncGenerator[int, None]:
    try:
        yield 1
        yield 2
    finally:
        await asyncio.sleep(0)
        ended.append("ended")


async def test_an_abandoned_generator_is_finished_by_the_loop() -> None:
    ended: list[str] = []
    generator = numbers(ended)
    assert await anext(generator) == 1
    del generator
    gc.collect()
    await eventually(lambda: ended)
    assert ended == ["ended"]


async def test_a_generator_dropped_on_another_thread_is_finished_on_the_loop(
    loop: Loop,
) -> None:
    finished: asyncio.Future[int] = loop.create_future()

    async def generate() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            finished.set_result(threading.get_ident())

    holder = [generate()]
    await anext(holder[0])

    def drop() -> None:
        # By then the loop sleeps, most likely, and has to be woken.
        threading.Event().wait(0.05)
        holder.clear()
        gc.collect()

    thread = threading.Thread(target=drop)
    thread.start()
    async with asyncio.timeout(PEER_TIMEOUT):
        assert await finished == threading.get_ident()
    thread.join()


def test_shutdown_asyncgens_closes_every_open_generator(loop: Loop) -> None:
    ended: list[str] = []

    async def open_two() -> list[AsyncGenerator[int, None]]:
        generators = [numbers(ended), numbers(ended)]
        for generator in generators:
            await anext(generator)
        return generators

    generators = loop.run_until_complete(open_two())
    assert ended == []
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert ended == ["ended", "ended"]
    del generators


def test_a_generator_started_after_the_shutdown_warns(loop: Loop) -> None:
    loop.run_until_complete(loop.shutdown_asyncgens())
    ended: list[str] = []

    async def start_one() -> None:
        generator = numbers(ended)
        with pytest.warns(
            ResourceWarning, match=r"was scheduled after loop.shutdown_asyncgens\(\) call"
        ):
            await anext(generator)
        await generator.aclose()

    loop.run_until_complete(start_one())


def test_a_generator_that_fails_to_close_is_reported(loop: Loop, guard: LeakGuard) -> None:
    async def stubborn() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            raise ZeroDivisionError("on purpose")

    async def open_one() -> AsyncGenerator[int, None]:
        generator = stubborn()
        await anext(generator)
        return generator

    generator = loop.run_until_complete(open_one())
    loop.run_until_complete(loop.shutdown_asyncgens())
    (report,) = guard.take_reports()
    assert report["message"].startswith("an error occurred during closing of asynchronous gen")
    assert isinstance(report["exception"], ZeroDivisionError)
    assert report["asyncgen"] is generator


def test_the_hooks_are_set_while_the_loop_runs_and_restored_after(loop: Loop) -> None:
    async def hooks() -> tuple[object, object]:
        firstiter, finalizer = sys.get_asyncgen_hooks()
        return firstiter, finalizer

    before = sys.get_asyncgen_hooks()
    firstiter, finalizer = loop.run_until_complete(hooks())
    assert callable(firstiter)
    assert callable(finalizer)
    assert sys.get_asyncgen_hooks() == before


async def test_a_generator_run_to_its_end_leaves_nothing() -> None:
    ended: list[str] = []
    assert [number async for number in numbers(ended)] == [1, 2]
    assert ended == ["ended"]
    await turns(2)
