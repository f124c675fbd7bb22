"""The methods of protocols that raise on the second thread of a loop; see the contract's tests."""

import functools
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import rloop
from support.raising import STAGES, Seen, differences, interrupts_first, methods_of
from support.shards import several_shards

if TYPE_CHECKING:
    from support.tls import Authority

pytestmark = several_shards

METHODS = [
    pytest.param(kind, shape, method, id=f"{kind}-{shape}-{method}")
    for kind in STAGES
    if kind != "tls"
    for shape, method in methods_of(kind)
]
TLS_METHODS = [
    pytest.param(shape, method, id=f"{shape}-{method}") for shape, method in methods_of("tls")
]

make_loop = functools.partial(rloop.new_event_loop, threads=2)
on_second_shard = functools.partial(rloop.on_shard, 1)


def without_callers(seen: Seen) -> Seen:
    """Leave out who is told of an exception: a forwarded call has no caller to raise it to.

    Whether a connection pauses depends on when such a call arrives, and so does whether the data is
    received at once or in parts, and whether a buffer is asked for that nothing is received into. A
    peer's reset is found by a read or by a write.
    """
    calls: list[str] = []
    for call in seen.calls:
        if call == "connection_lost(ConnectionResetError)" and calls[-1:] == ["get_buffer()"]:
            del calls[-1]
        is_one_more = call in ("get_buffer()", "buffer_updated()") and call in calls
        if not call.endswith("_writing()") and not is_one_more:
            calls.append(call)
    told = seen.reports + interrupts_first(seen).raised
    errors = sorted({error for line in told for error in re.findall(r": (\w+)", line)})
    return replace(interrupts_first(seen), reports=errors, raised=[], calls=calls)


@pytest.mark.parametrize(("kind", "shape", "method"), METHODS)
def test_an_exception_on_the_second_shard_goes_where_asyncio_sends_it(
    kind: str, shape: str, method: str
) -> None:
    found = differences(make_loop, kind, shape, method, play=on_second_shard)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("shape", "method"), TLS_METHODS)
def test_an_exception_of_tls_on_the_second_shard_goes_where_asyncio_sends_it(
    authority: "Authority", engine: str, shape: str, method: str
) -> None:
    found = differences(make_loop, "tls", shape, method, authority, play=on_second_shard)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("kind", "shape", "method"), METHODS)
def test_an_exception_of_a_call_from_another_shard_is_contained_alike(
    kind: str, shape: str, method: str
) -> None:
    found = differences(
        make_loop, kind, shape, method, connect=on_second_shard, simplify=without_callers
    )
    assert not found, "\n".join(found)
