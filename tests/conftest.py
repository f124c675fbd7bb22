"""Fixtures of every suite: the loop under test, coroutine tests, the leak guard.

A test that takes ``loop_name``, ``loop_factory`` or ``loop`` runs once for each loop; a coroutine
test runs on ``loop`` whether it names it or not. ``--loop NAME`` (repeatable) chooses the loops.
A test that takes ``authority`` runs on TokioLoop once with plain contexts, and once with contexts
of ``rloop.tls`` that rustls serves.
Warnings are errors here (pyproject.toml), so what is garbage-collected unclosed becomes an
unraisable error, which the leak guard reports.
"""

import asyncio
import contextlib
import gc
import inspect
import signal
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from support.leaks import SETTLING_TIME, TIME_BETWEEN_LOOKS, LeakGuard
from support.loops import DEFAULT_LOOPS, KNOWN_LOOPS, LoopFactory, factory_of

if TYPE_CHECKING:
    from support.tls import Authority

#: What makes the TLS connections of TokioLoop; other loops have OpenSSL only.
ENGINES = ("openssl", "rustls")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--loop",
        action="append",
        choices=KNOWN_LOOPS,
        help=f"run the tests on this loop (repeatable; default: {', '.join(DEFAULT_LOOPS)})",
    )
    parser.addoption(
        "--programs",
        type=int,
        default=2_000,
        metavar="N",
        help="how many random programs tests/shards compares with asyncio (default: %(default)s)",
    )
    parser.addoption(
        "--half-open",
        type=int,
        default=1_000,
        metavar="N",
        help="how many TLS handshakes tests/tls leaves half open at once (default: %(default)s)",
    )
    parser.addoption(
        "--outcomes",
        type=int,
        default=2,
        metavar="N",
        help="how many of the 27 TLS connections of each kind tests/tls makes on two threads at "
        "once (default: %(default)s)",
    )
    parser.addoption(
        "--rounds",
        type=int,
        default=1,
        metavar="N",
        help="how often tests/shards stops busy loops, forks and ends busy processes "
        "(default: %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "slow: takes more than two seconds; runs by default",
        "only_on(*names): the promise is made by these loops alone",
        "fails_on(name, reason=, when=True): a known defect of another loop, strictly expected",
    ):
        config.addinivalue_line("markers", line)
    # What a shell starts in the background ignores Ctrl-C, and so do its children.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A program that nohup starts ignores SIGHUP.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    has_engine = "engine" in metafunc.fixturenames
    if "loop_name" not in metafunc.fixturenames:
        if has_engine:
            metafunc.parametrize("engine", ENGINES)
        return
    names = metafunc.config.getoption("loop") or DEFAULT_LOOPS
    only = metafunc.definition.get_closest_marker("only_on")
    if only is not None:
        names = [name for name in names if name in only.args]
    if has_engine:
        chosen = [(name, "openssl") for name in names]
        chosen += [(name, "rustls") for name in names if name == "rloop"]
        identifiers = [
            name if engine == "openssl" else f"{name}-{engine}" for name, engine in chosen
        ]
        metafunc.parametrize(("loop_name", "engine"), chosen, ids=identifiers)
    else:
        metafunc.parametrize("loop_name", names)


def pytest_pycollect_makeitem(collector: Any, name: str, obj: object) -> None:
    if inspect.iscoroutinefunction(obj) and collector.istestfunction(obj, name):
        pytest.mark.usefixtures("loop")(obj)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        callspec = getattr(item, "callspec", None)
        for defect in item.iter_markers("fails_on"):
            if (
                callspec is not None
                and callspec.params.get("loop_name") in defect.args
                and defect.kwargs.get("when", True)
            ):
                item.add_marker(pytest.mark.xfail(strict=True, reason=defect.kwargs["reason"]))


def pytest_collection_finish() -> None:
    # What the collection made lives as long as the run. The leak guard collects garbage after every
    # test, and need not look through all that each time.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # At once: a run that faulthandler's watchdog ends later has no summary. A process of xdist
    # has no terminal, and its end does not end the run.
    if report.failed and not hasattr(item.config, "workerinput"):
        item.config.get_terminal_writer().line(f"\n{report.nodeid}\n{report.longreprtext}")
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    loop: Any = pyfuncitem.funcargs["loop"]
    loop.run_until_complete(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(autouse=True)
def guard() -> Iterator[LeakGuard]:
    """The leak guard around this test; take out of it what the test provokes on purpose."""
    with LeakGuard().watching() as watched:
        yield watched


@pytest.fixture
def loop_factory(loop_name: str, guard: LeakGuard) -> LoopFactory:
    """Make loops whose exception handler calls reach the guard; the test closes them."""
    make = factory_of(loop_name)

    def make_guarded() -> asyncio.AbstractEventLoop:
        loop = make()
        loop.set_exception_handler(guard.record)
        guard.loops.append(loop)
        return loop

    return make_guarded


async def _wind_up(loop: asyncio.AbstractEventLoop) -> set[asyncio.Task[Any]]:
    """Shut down what the loop runs; return the tasks that did not end by themselves."""
    forgotten = asyncio.all_tasks() - {asyncio.current_task()}
    # Looks are counted, as the leak guard's are.
    for _ in range(round(SETTLING_TIME / TIME_BETWEEN_LOOKS)):
        if not forgotten:
            break
        _, forgotten = await asyncio.wait(forgotten, timeout=TIME_BETWEEN_LOOKS)
    for task in forgotten:
        task.cancel()
    await asyncio.gather(*forgotten, return_exceptions=True)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
    return forgotten


@pytest.fixture
def loop(loop_factory: LoopFactory) -> Iterator[asyncio.AbstractEventLoop]:
    """A new loop, closed after the test; a task that does not end by itself fails the test."""
    loop = loop_factory()
    with contextlib.closing(loop):
        yield loop
        if loop.is_closed():
            return
        forgotten = loop.run_until_complete(_wind_up(loop))
        assert not forgotten, f"the test left tasks behind: {forgotten!r}"


@pytest.fixture(scope="session")
def authority_of_the_run() -> "Authority":
    """The certificate authority that every TLS test of the run trusts."""
    # Imported here, so that suites without TLS need no package that makes certificates.
    from support.tls import Authority

    return Authority()


@pytest.fixture
def authority(authority_of_the_run: "Authority", engine: str) -> "Authority":
    """The authority, making contexts for one engine."""
    return authority_of_the_run.serving(engine)
