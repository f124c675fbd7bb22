"""The list of private parts of the standard library: right, complete, and heeded by the import."""

import json
import sys
from pathlib import Path

import pytest

from rloop import _hooks
from support.hooks import counterparts, foreign_names, hooks_of
from support.programs import run_program

MATRIX = Path(__file__).parents[2] / "ci" / "matrix.json"


def test_the_hooks_of_the_running_interpreter_are_those_of_the_list() -> None:
    assert _hooks.changed_hooks(sys.version_info[:3]) == []


def test_every_hook_that_is_overridden_is_in_the_list() -> None:
    found = {hook for pair in counterparts() for hook in hooks_of(*pair)}
    # The search itself must find what is known to be overridden.
    assert ("asyncio.selector_events:BaseSelectorEventLoop", "_start_serving") in found
    assert ("asyncio.events:Handle", "_run") in found
    missing = {(owner, name) for owner, name in found if name not in _hooks.HOOKS.get(owner, {})}
    assert missing == set()


def test_every_hook_that_is_called_or_read_is_in_the_list() -> None:
    found = foreign_names()
    assert {"_child_watcher_callback", "_FlowControlMixin", "_io_refs"} <= found
    assert found - {name for hooks in _hooks.HOOKS.values() for name in hooks} == set()


def test_the_list_has_nothing_that_is_not_used() -> None:
    used = {hook for pair in counterparts() for hook in hooks_of(*pair)}
    names = foreign_names()
    idle = {
        (owner, name)
        for owner, hooks in _hooks.HOOKS.items()
        for name, shape in hooks.items()
        if _hooks.expected(shape, sys.version_info[:3]) not in (None, "any")
        and name not in names
        and (owner, name) not in used
    }
    assert idle == set()


def test_the_newest_tested_version_is_the_newest_of_the_matrix() -> None:
    versions = [
        tuple(map(int, tag.rstrip("t").split("."))) for tag in json.loads(MATRIX.read_text())
    ]
    assert max(versions) == _hooks.NEWEST_TESTED


@pytest.mark.parametrize(
    ("version", "shape"),
    [((3, 11, 0), None), ((3, 13, 0), "(old)"), ((3, 13, 4), "(new)"), ((3, 16, 0), "(new)")],
)
def test_a_shape_counts_from_a_version_on(version: tuple[int, ...], shape: str | None) -> None:
    assert _hooks.expected({"3.13": "(old)", "3.13.4": "(new)"}, version) == shape
    assert _hooks.expected("(always)", version) == "(always)"


IMPORT_ON = """
import sys, warnings
import asyncio.selector_events, asyncio.sslproto, asyncio.base_events
warnings.simplefilter("error")
sys.version_info = {version}
{change}
try:
    import rloop
except ImportError as error:
    print(error)
else:
    print("imported", "rloop._hooks" in sys.modules)
"""

#: Changes of hooks, each with what the import says about it.
CHANGES = {
    "nothing": ("", None),
    "a parameter": (
        "asyncio.base_events.Server._detach = lambda self, transport, reason: None",
        "asyncio.base_events.Server._detach is (self, transport, reason), not (self, transport)",
    ),
    "a method that is gone": (
        "del asyncio.base_events.Server._attach",
        "asyncio.base_events.Server._attach is missing, not (self, transport)",
    ),
    "a function that is gone": (
        "del asyncio.sslproto._create_transport_context",
        "asyncio.sslproto._create_transport_context is missing, not (server_side, server_hostname)",
    ),
    "an attribute that is gone": (
        "asyncio.selector_events.BaseSelectorEventLoop.__init__ = lambda self, selector: None",
        "asyncio.selector_events.BaseSelectorEventLoop._transports is missing, not stored",
    ),
    "a class that is gone": (
        "del asyncio.selector_events._SelectorDatagramTransport",
        "asyncio.selector_events._SelectorDatagramTransport is missing, not class",
    ),
}

is_newest = pytest.mark.skipif(
    sys.version_info[:2] != _hooks.NEWEST_TESTED, reason="the hooks are those of the newest Python"
)


@is_newest
@pytest.mark.parametrize("change", CHANGES)
def test_a_newer_python_is_refused_if_and_only_if_a_hook_has_changed(change: str) -> None:
    source, expected = CHANGES[change]
    newer = (*_hooks.NEWEST_TESTED[:1], _hooks.NEWEST_TESTED[1] + 1, 0, "final", 0)
    outcome = run_program(IMPORT_ON.format(version=newer, change=source), "asyncio")
    assert outcome.returncode == 0, outcome.stderr
    if expected is None:
        assert outcome.stdout == "imported True\n"
    else:
        assert outcome.stdout.startswith(
            f"CPython {newer[0]}.{newer[1]} has changed private parts of the standard library that "
        )
        assert expected in outcome.stdout
        assert "Install a release of tokioloop later than" in outcome.stdout
        assert outcome.stdout.endswith("or use CPython {}.{}.\n".format(*_hooks.NEWEST_TESTED))


@pytest.mark.parametrize("change", ["nothing", "a class that is gone"])
def test_on_a_tested_version_the_import_does_not_look_at_hooks(change: str) -> None:
    version = tuple(sys.version_info)
    # The transports are looked up when they are first used.
    source = CHANGES[change][0]
    outcome = run_program(IMPORT_ON.format(version=version, change=source), "asyncio")
    assert (outcome.returncode, outcome.stdout) == (0, "imported False\n"), outcome.stderr
