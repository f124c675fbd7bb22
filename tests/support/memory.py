"""Measures what a long run may not accumulate: resident memory and live Python objects."""

import gc
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from support.leaks import open_descriptors

_PAGE = os.sysconf("SC_PAGE_SIZE")

#: Bytes by which an allocator's reserve may grow in a run that accumulates nothing.
_RESERVE = 4 << 20


@dataclass(frozen=True)
class Usage:
    """What the process holds: resident bytes, objects known to the collector, descriptors."""

    resident_bytes: int
    objects: int
    descriptors: int


def measure() -> Usage:
    """Collect garbage, then count."""
    for _ in range(3):
        gc.collect()
    if sys.platform == "linux":
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    else:
        # The peak is the nearest that the standard library knows: flat if nothing accumulates.
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Usage(resident, len(gc.get_objects()), len(open_descriptors()))


def assert_flat(before: Usage, after: Usage, *, cycles: int) -> None:
    """Demand that ``cycles`` repetitions between the two measurements accumulated nothing.

    A leaked descriptor, one object in ten cycles, or 200 bytes a cycle beyond the allocator's
    reserve fail; what happens once passes.
    """
    assert after.descriptors <= before.descriptors, (before, after)
    assert after.objects - before.objects < cycles / 10, (before, after)
    assert after.resident_bytes - before.resident_bytes < max(cycles * 200, _RESERVE), (
        before,
        after,
    )
