"""Names the event loops that a contract test can run on and makes them.

Called by the fixtures in ``tests/conftest.py`` and by the scripts that tests run in a process of
their own (``support.programs``). A loop that cannot be imported raises ImportError: a missing
loop is an error of the run, never a skipped test.
"""

import asyncio
import importlib
import os
from collections.abc import Callable
from typing import Any

import pytest

DEFAULT_LOOPS = ("asyncio", "rloop")
KNOWN_LOOPS = ("asyncio", "rloop", "uvloop", "zuvloop")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]

#: Carried by tests of what a loop of several threads refuses; tests/shards shows that it does.
of_one_thread = pytest.mark.skipif(
    os.environ.get("RLOOP_THREADS", "1") != "1", reason="a loop of several threads refuses this"
)


def class_of(loop_name: str) -> Any:
    """Return the class of the loops of that name, for classes that derive from it.

    Raises ValueError and ImportError as `factory_of` does.
    """
    loop = factory_of(loop_name)()
    loop.close()
    return type(loop)


def factory_of(loop_name: str) -> LoopFactory:
    """Return the function that makes a new loop of that name.

    Raises ValueError for a name that is not in KNOWN_LOOPS and ImportError if the package that
    provides the loop is not installed.
    """
    if loop_name not in KNOWN_LOOPS:
        raise ValueError(f"unknown loop {loop_name!r}: choose one of {', '.join(KNOWN_LOOPS)}")
    if loop_name == "asyncio":
        return asyncio.SelectorEventLoop
    factory: LoopFactory = importlib.import_module(loop_name).new_event_loop
    return factory
