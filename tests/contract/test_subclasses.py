"""Classes that derive from the loop's: overrides, and methods replaced on a base, are called."""

import asyncio
import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from support.leaks import LeakGuard
from support.loops import class_of

Call = Callable[[Any], object]

CALLS: dict[str, Call] = {
    "call_soon": lambda loop: loop.call_soon(print).cancel(),
    "call_soon_threadsafe": lambda loop: loop.call_soon_threadsafe(print).cancel(),
    "call_later": lambda loop: loop.call_later(60, print).cancel(),
    "call_at": lambda loop: loop.call_at(60, print).cancel(),
    "time": lambda loop: loop.time(),
    "create_future": lambda loop: loop.create_future(),
    "is_running": lambda loop: loop.is_running(),
    "get_debug": lambda loop: loop.get_debug(),
    "stop": lambda loop: (loop.stop(), loop.run_forever()),
    "create_task": lambda loop: loop.create_task(asyncio.sleep(0)),
}
"""Methods that a loop may have native, and how to have each called."""

of_each_method = pytest.mark.parametrize("method", CALLS)


@pytest.fixture
def base(loop_name: str) -> Any:
    """The class of the loops under test."""
    return class_of(loop_name)


@contextlib.contextmanager
def opened(kind: Any, guard: LeakGuard) -> Iterator[Any]:
    """Make a loop of a class, and close it."""
    loop = kind()
    loop.set_exception_handler(guard.record)
    with contextlib.closing(loop):
        yield loop
        loop.run_until_complete(asyncio.sleep(0))


def counting(base: Any, method: str) -> Any:
    """Return a class that overrides a method, counts its calls, and goes on to the next class."""

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return getattr(super(kind, self), method)(*args, **kwargs)

    kind: Any = type("Counting", (base,), {"count": 0, method: counted})
    return kind


@of_each_method
def test_an_override_is_called(base: Any, method: str, guard: LeakGuard) -> None:
    with opened(counting(base, method), guard) as loop:
        CALLS[method](loop)
        assert loop.count > 0


@of_each_method
def test_an_override_of_a_sibling_is_called(base: Any, method: str, guard: LeakGuard) -> None:
    named = type("Named", (base,), {})
    both: Any = type("Both", (named, counting(base, method)), {})
    with opened(both, guard) as loop:
        CALLS[method](loop)
        assert loop.count > 0


@of_each_method
def test_an_override_of_a_mixin_is_called(base: Any, method: str, guard: LeakGuard) -> None:
    mixin = counting(object, method)
    both: Any = type("Both", (mixin, type("Named", (base,), {})), {})
    with opened(both, guard) as loop:
        CALLS[method](loop)
        assert loop.count > 0


@of_each_method
def test_what_replaces_a_method_of_the_base_is_called(
    base: Any, method: str, guard: LeakGuard
) -> None:
    with opened(type("Derived", (base,), {}), guard) as loop:
        original = getattr(base, method)
        calls: list[Any] = []

        def replacement(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(self)
            return original(self, *args, **kwargs)

        with mock.patch.object(base, method, replacement):
            CALLS[method](loop)
        assert set(calls) == {loop}
        calls.clear()
        CALLS[method](loop)
        assert not calls


def test_other_bases_are_told_of_the_subclass(base: Any) -> None:
    told: list[Any] = []

    class Registered:
        def __init_subclass__(cls, *, label: str, **more: Any) -> None:
            super().__init_subclass__(**more)
            told.append((cls, label))

    made = types.new_class("Made", (base, Registered), {"label": "one"})
    assert told == [(made, "one")]
    with pytest.raises(TypeError, match=r"takes no keyword arguments"):
        types.new_class("Unknown", (base,), {"label": "two"})
