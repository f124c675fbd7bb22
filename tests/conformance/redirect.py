"""Decides what "every place that makes a loop" means: points asyncio's own names at another loop.

Called by worker.py before any test module is imported, because some test classes read
``asyncio.EventLoop`` while they are being defined. What must hold afterwards: whoever asks asyncio
in this process for a new loop, by class name, by ``new_event_loop``, by a default policy, by
``asyncio.run``, ``asyncio.Runner`` or ``unittest.IsolatedAsyncioTestCase``, gets the loop under
test.

Three things are left alone: ``asyncio.BaseEventLoop`` and
``asyncio.selector_events.BaseSelectorEventLoop``, because the tests that build those test
asyncio's base classes; the suite's ``TestLoop``, for the same reason; and child interpreters that
a test starts, which are programs of their own.

The EPoll, Poll and Select variants of a test pass a selector to the loop class. It is closed and
ignored, so that they run the same loop three times.
"""

import asyncio
import importlib
from asyncio import locks, queues, unix_events
from collections.abc import Callable
from typing import Any, NoReturn

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

# For each name that --loop accepts: the module and the attribute that makes a loop.
LOOPS = {
    "asyncio": ("asyncio", "SelectorEventLoop"),
    "uvloop": ("uvloop", "new_event_loop"),
    "zuvloop": ("zuvloop", "new_event_loop"),
    "rloop": ("rloop", "new_event_loop"),
}

# What --primitives accepts: modules with the names of asyncio's locks and queues.
PRIMITIVES = ("asyncio", "rloop.sync")

# What --contexts accepts: modules whose contexts the tests get from ssl.
CONTEXTS = ("ssl", "rloop.tls")


def find_loop_factory(name: str) -> LoopFactory:
    """Return what makes the loop called ``name``, one of ``LOOPS``.

    Raises:
        ImportError: if its package is not installed.
    """
    module, attribute = LOOPS[name]
    factory: LoopFactory = getattr(importlib.import_module(module), attribute)
    return factory


class RedirectedLoopClass(type):
    """The type of what stands in for asyncio's loop class: callable, and fit for isinstance()."""

    factory: LoopFactory
    loop_class: type[asyncio.AbstractEventLoop]
    loops_made: int

    def __call__(cls, selector: Any = None) -> asyncio.AbstractEventLoop:
        """Make a loop under test, and count it."""
        if selector is not None:
            selector.close()
        cls.loops_made += 1
        return cls.factory()

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.loop_class)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.loop_class)


def redirect_loop_creation(factory: LoopFactory) -> RedirectedLoopClass:
    """Make every way of creating a loop in this process call ``factory``.

    Returns:
        What asyncio's names now refer to; its ``loops_made`` counts the calls.
    """
    probe = factory()
    loop_class = type(probe)
    probe.close()

    def refuse(*_: object, **__: object) -> NoReturn:
        # A subclass of the stand-in would be no loop at all; better to stop here.
        raise TypeError("a test derives a class from asyncio's loop class")

    original = unix_events.SelectorEventLoop
    stand_in = RedirectedLoopClass(
        "SelectorEventLoop",
        (),
        {
            "factory": staticmethod(factory),
            "loop_class": loop_class,
            "loops_made": 0,
            "__init_subclass__": classmethod(refuse),
            # A loop that derives from asyncio's may call its initialiser by the public name.
            "__init__": original.__init__,
        },
    )
    for namespace in (asyncio, unix_events):
        for name, value in list(vars(namespace).items()):
            if value is original:
                setattr(namespace, name, stand_in)
            elif getattr(value, "_loop_factory", None) is original:
                # A default policy; its name differs between versions.
                value._loop_factory = stand_in
    return stand_in


def redirect_primitives(name: str) -> None:
    """Make ``asyncio.Lock`` and its like the classes of ``name``, a value of ``PRIMITIVES``."""
    replacement = importlib.import_module(name)
    for namespace in (locks, queues):
        for public in namespace.__all__:
            setattr(asyncio, public, getattr(replacement, public))


def redirect_contexts(name: str) -> None:
    """Make ``ssl.SSLContext`` what ``name`` says, a value of ``CONTEXTS``."""
    if name != "ssl":
        importlib.import_module(name).install()


def relax_loop_cleanup(test_case: Any) -> None:
    """Let ``test.test_asyncio.utils.TestCase`` close a loop that has no ``_default_executor``.

    Its clean-up reads that private attribute of every loop. A loop that is not built on
    asyncio.BaseEventLoop would fail nearly each test for that alone, and we would learn nothing.
    """
    close_as_asyncio_does = test_case.close_loop

    def close_loop(loop: asyncio.AbstractEventLoop) -> None:
        if hasattr(loop, "_default_executor"):
            close_as_asyncio_does(loop)
            return
        if not loop.is_closed():
            loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    test_case.close_loop = staticmethod(close_loop)
