"""What `import rloop` offers: the factory, the runner, the policy, and the names of the past."""

import asyncio
import sys
from pathlib import Path

import pytest

import rloop
from support.programs import run_program


async def name_of_the_running_loop() -> str:
    """Return the class of the loop that runs this."""
    return type(asyncio.get_running_loop()).__name__


def test_run_returns_the_result_of_a_coroutine_on_a_tokio_loop() -> None:
    assert rloop.run(name_of_the_running_loop()) == "TokioLoop"


def test_run_passes_the_debug_mode_on() -> None:
    async def debug() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert rloop.run(debug(), debug=True) is True
    assert rloop.run(debug(), debug=False) is False


def test_run_raises_what_the_coroutine_raises() -> None:
    async def fail() -> None:
        raise LookupError("reason")

    with pytest.raises(LookupError, match="reason"):
        rloop.run(fail())


def test_run_refuses_to_start_inside_a_running_loop() -> None:
    async def nested() -> None:
        coroutine = name_of_the_running_loop()
        try:
            with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
                rloop.run(coroutine)
        finally:
            coroutine.close()

    rloop.run(nested())


def test_new_event_loop_is_a_loop_factory() -> None:
    with asyncio.Runner(loop_factory=rloop.new_event_loop) as runner:
        assert isinstance(runner.get_loop(), rloop.TokioLoop)
        assert runner.run(name_of_the_running_loop()) == "TokioLoop"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RLoop", "TokioLoop"),
        ("new_tokio_event_loop", "new_event_loop"),
        ("TokioEventLoopPolicy", "EventLoopPolicy"),
        ("TokioLoopPolicy", "EventLoopPolicy"),
    ],
)
def test_an_old_name_is_the_new_one_with_a_warning(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"rloop\.{old} is deprecated, use rloop\.{new}"):
        value = getattr(rloop, old)
    assert value is getattr(rloop, new)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'rloop' has no attribute 'nonsense'"):
        rloop.nonsense  # noqa: B018


def test_every_public_name_is_there() -> None:
    for name in rloop.__all__:
        assert getattr(rloop, name) is not None


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(rloop.__file__).with_name("py.typed").exists()


INSTALL = """
import asyncio, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import rloop
    rloop.install()
async def main():
    return type(asyncio.get_running_loop()).__name__
print([warning.category.__name__ for warning in caught], asyncio.run(main()))
"""


def test_install_makes_asyncio_run_use_tokio_loops() -> None:
    outcome = run_program(INSTALL, "rloop")
    warned = ["DeprecationWarning"] if sys.version_info >= (3, 14) else []
    assert (outcome.returncode, outcome.stdout) == (0, f"{warned} TokioLoop\n"), outcome.stderr


POLICY = """
import asyncio, rloop, warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    asyncio.set_event_loop_policy(rloop.EventLoopPolicy())
loop = asyncio.new_event_loop()
print(type(loop).__name__)
loop.close()
"""


def test_the_policy_makes_tokio_loops() -> None:
    outcome = run_program(POLICY, "rloop")
    assert (outcome.returncode, outcome.stdout) == (0, "TokioLoop\n"), outcome.stderr


UNSUPPORTED = """
import sys
sys.%s = %r
try:
    import rloop
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("platform", "win32", "rloop runs on Linux and on macOS, and not on Windows"),
        (
            "version_info",
            (3, 10, 14, "final", 0),
            "rloop runs on CPython 3.11 or later, and this is Python 3.10",
        ),
    ],
)
def test_import_on_an_unsupported_system_fails_and_says_so(
    name: str, value: object, message: str
) -> None:
    outcome = run_program(UNSUPPORTED % (name, value), "asyncio")
    assert (outcome.returncode, outcome.stdout) == (0, f"{message}\n"), outcome.stderr
