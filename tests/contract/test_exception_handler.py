"""The exception handler: who is called, with what, and what happens when it fails itself."""

import asyncio
import logging
import sys
from typing import Any

import pytest

from support.leaks import LeakGuard
from support.threads import turns

Loop = asyncio.AbstractEventLoop


class Failure(Exception):
    """Raised on purpose."""


def fail() -> None:
    raise Failure("on purpose")


async def test_a_handler_gets_the_loop_and_the_context(loop: Loop) -> None:
    calls: list[tuple[Loop, dict[str, Any]]] = []
    loop.set_exception_handler(lambda *call: calls.append(call))
    assert loop.get_exception_handler() is not None
    context = {"message": "hello", "extra": 1}
    loop.call_exception_handler(context)
    assert calls == [(loop, context)]
    assert calls[0][1] is context


async def test_without_a_handler_the_default_logs_message_and_context(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    loop.set_exception_handler(None)
    assert loop.get_exception_handler() is None
    with caplog.at_level(logging.ERROR, logger="asyncio"):
        loop.call_exception_handler(
            {"message": "what happened", "key": "value", "exception": Failure("why")}
        )
    (record,) = caplog.records
    assert record.name == "asyncio"
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "what happened\nkey: 'value'"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], Failure)


async def test_without_a_message_the_default_says_so(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="asyncio"):
        loop.default_exception_handler({})
    assert caplog.messages == ["Unhandled exception in event loop"]


async def test_a_failing_callback_is_logged_by_default_with_its_handle(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    loop.set_exception_handler(None)
    with caplog.at_level(logging.ERROR, logger="asyncio"):
        loop.call_soon(fail)
        await turns(2)
    (message,) = caplog.messages
    assert message.startswith("Exception in callback fail() at ")
    assert "\nhandle: <Handle fail() at " in message


async def test_a_handler_that_fails_is_reported_to_the_default(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    def failing_handler(_loop: Loop, _context: dict[str, Any]) -> None:
        raise Failure("the handler's own")

    loop.set_exception_handler(failing_handler)
    with caplog.at_level(logging.ERROR, logger="asyncio"):
        loop.call_exception_handler({"message": "first"})
    (record,) = caplog.records
    assert record.getMessage().startswith("Unhandled error in exception handler")
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "the handler's own"


async def test_only_a_callable_or_none_can_be_the_handler(loop: Loop) -> None:
    with pytest.raises(TypeError, match="A callable object or None is expected, got 'no'"):
        loop.set_exception_handler("no")  # type: ignore[arg-type]


async def test_a_task_exception_nobody_retrieved_is_reported(loop: Loop, guard: LeakGuard) -> None:
    async def body() -> None:
        fail()

    task = loop.create_task(body())
    await turns(2)
    del task
    await turns(1)
    (report,) = guard.take_reports()
    assert report["message"] == "Task exception was never retrieved"
    assert isinstance(report["exception"], Failure)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="3.11 calls the handler in any context")
async def test_the_handler_runs_in_the_context_of_the_failed_callback(loop: Loop) -> None:
    import contextvars

    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []
    loop.set_exception_handler(lambda _loop, _context: seen.append(variable.get()))
    context = contextvars.copy_context()
    context.run(variable.set, "callback")
    loop.call_soon(fail, context=context)
    await turns(2)
    assert seen == ["callback"]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_interrupt_in_the_handler_leaves_the_loop(
    loop: Loop, error: type[BaseException], guard: LeakGuard
) -> None:
    def interrupting_handler(_loop: Loop, _context: dict[str, Any]) -> None:
        raise error("from the handler")

    loop.set_exception_handler(interrupting_handler)
    loop.call_soon(fail)
    with pytest.raises(error, match="from the handler"):
        loop.run_forever()
    loop.set_exception_handler(guard.record)
