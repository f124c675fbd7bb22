"""Connections that are made on several threads at the same time: the outcomes are OpenSSL's.

Both threads of a loop use the same contexts, one of each engine for a connection, and what comes of
it is what comes of two contexts of OpenSSL on asyncio. They begin at different places, so that what
one thread is told does not become the other's. The connections are those of
``test_outcome_matrix.py``; the option ``--outcomes`` says how many of them, 27 being all.
"""

import asyncio
import itertools
import ssl
from collections.abc import Callable, Iterable

import pytest

import rloop
from rloop import tls
from support.certificates import Certificates
from support.fast_tls import as_openssl
from support.leaks import LeakGuard
from support.outcome_matrix import (
    MODES,
    PROTOCOLS,
    QUALITIES,
    VERSIONS,
    Case,
    Side,
    client_cases,
    server_cases,
)
from support.shards import on_each_shard, several_shards
from support.tls_outcomes import Outcome, outcome_of

pytestmark = [*several_shards, pytest.mark.slow]

THREADS = 2

#: How many cases each quality has.
CASES = len(MODES) * len(PROTOCOLS) * 3


def some(cases: Iterable[Case], count: int, first: int) -> Iterable[Case]:
    """Choose about that many cases, evenly, and others for another ``first``."""
    step = max(1, CASES // count)
    return itertools.islice(cases, first % step, None, step)


async def by_openssl(cases: list[Case]) -> list[Outcome]:
    """Make each connection with OpenSSL on both sides."""
    return [
        await outcome_of(as_openssl(case.client()), as_openssl(case.server()), case.name)
        for case in cases
    ]


def contexts(case: Case) -> tuple[tls.Context, tls.Context]:
    """Make the client's and the server's context, with rustls on the side in question."""
    made: dict[Side, tls.Context] = {"client": case.client(), "server": case.server()}
    for side, context in made.items():
        if side == case.tested:
            assert context.engine == "rustls", context.engine_reason
        else:
            as_openssl(context)
    return made["client"], made["server"]


async def on_shards(cases: list[Case]) -> list[dict[int, Outcome]]:
    """Make each connection on every shard; return the outcomes by number."""
    shared = [contexts(case) for case in cases]

    async def make_all() -> dict[int, Outcome]:
        begin = rloop.current_shard() * len(cases) // THREADS
        order = [*range(begin, len(cases)), *range(begin)]
        made = {}
        for number in order:
            client, server = shared[number]
            made[number] = await outcome_of(client, server, cases[number].name)
        return made

    return await on_each_shard(make_all)


@pytest.mark.parametrize("name_cases", [client_cases, server_cases])
@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
def test_outcomes_are_the_same_on_every_thread(
    certificates: Certificates,
    guard: LeakGuard,
    request: pytest.FixtureRequest,
    name_cases: Callable[[Certificates, str, ssl.TLSVersion], Iterable[Case]],
    version: ssl.TLSVersion,
) -> None:
    count: int = request.config.getoption("outcomes")
    cases = [
        case
        for first, quality in enumerate(QUALITIES)
        for case in some(name_cases(certificates, quality, version), count, first)
    ]

    def make_loop() -> rloop.TokioLoop:
        loop = rloop.new_event_loop(threads=THREADS)
        loop.set_exception_handler(guard.record)
        guard.loops.append(loop)
        return loop

    # asyncio sends no alerts, by which one side learns why the other has failed.
    with asyncio.Runner(loop_factory=rloop.new_event_loop) as runner:
        expected = runner.run(by_openssl(cases))
    with asyncio.Runner(loop_factory=make_loop) as runner:
        found = runner.run(on_shards(cases))
    assert len(found) == THREADS
    for number, (case, outcome) in enumerate(zip(cases, expected, strict=True)):
        assert [outcomes[number] for outcomes in found] == [outcome] * THREADS, case.label
