"""Says when a program under ``python -m rloop`` runs another loop than TokioLoop."""

import asyncio
import atexit
import sys
from asyncio import events
from typing import Any

from rloop.loop import TokioLoop

__all__ = ["watch"]

_SWITCHES = {
    "uvicorn": "give uvicorn the option '--loop rloop:new_event_loop'",
    "anyio": "give anyio.run() the argument backend_options={'loop_factory': rloop.new_event_loop}",
}
"""How the programs of a framework choose their loop, by the framework's module."""


def watch() -> None:
    """Look at the first loop that runs in this process, and say so if it is another one.

    Every loop calls ``asyncio._set_running_loop()`` when it begins to run. The function is given
    back once the first loop has called it.
    """
    original = events._set_running_loop

    def set_running_loop(loop: Any) -> None:
        original(loop)
        if loop is not None and events._set_running_loop is set_running_loop:
            give_back()
            if not isinstance(loop, TokioLoop):
                _say(f"the program runs on {_name(loop)}, not on TokioLoop. {_advice(loop)}")

    def give_back() -> None:
        atexit.unregister(at_exit)
        events._set_running_loop = asyncio._set_running_loop = original

    def at_exit() -> None:
        _say(
            "no event loop ran in this process. For loops in processes that the program starts, "
            "set RLOOP_INSTALL=1 in the environment"
        )

    events._set_running_loop = asyncio._set_running_loop = set_running_loop
    atexit.register(at_exit)


def _name(loop: object) -> str:
    return f"{type(loop).__module__}.{type(loop).__qualname__}"


def _advice(loop: object) -> str:
    """Return what makes the program run on TokioLoop."""
    for module, switch in _SWITCHES.items():
        if module in sys.modules:
            return f"To change that, {switch}"
    if type(loop).__module__.partition(".")[0] == "uvloop":
        return "'python -m rloop --as-uvloop' answers the name uvloop by TokioLoop"
    return "To change that, have the program make its loop by rloop.new_event_loop()"


def _say(message: str) -> None:
    print(f"rloop: {message}", file=sys.stderr, flush=True)
