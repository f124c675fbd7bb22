"""What the supervisor and its worker processes say to each other: one JSON value a line.

The supervisor writes ``Orders`` to the worker's standard input. The worker answers on the file
descriptor named in them, with these messages, in this order:

- ``{"collected": [id, ...]}``, which the supervisor answers with the list of the ids to run; or
  ``{"skipped_module": reason}`` and nothing more;
- ``{"started": id}`` and then ``{"finished": id, ...}`` with the other fields of ``Outcome``, for
  each test;
- ``{"fixture": id, "status": ..., "detail": ...}`` when a class or module fixture fails or skips;
- ``{"ended": true}``.

An id is unittest's without the package, such as ``test_locks.LockTests.test_repr``.
"""

from dataclasses import dataclass
from typing import Literal, TypedDict

#: Seconds that a worker may take to import its module. No limit of a test is meant for that.
START_SECONDS = 60.0

Status = Literal["passed", "failed", "skipped"]


class Orders(TypedDict):
    """What the supervisor asks of one worker process."""

    package: str
    """The test package, such as ``test.test_asyncio``."""
    module: str
    """The module in it, such as ``test_events``."""
    loop: str
    """A name in ``redirect.LOOPS``."""
    primitives: str
    contexts: str
    """One of ``redirect.PRIMITIVES``."""
    timeout: float
    """Seconds that one test may take."""
    timeouts: dict[str, float]
    """The same for single tests, by id."""
    report: int
    """The file descriptor to write messages to."""


@dataclass(frozen=True)
class Outcome:
    """How one test ended."""

    test: str
    """Its id. What is no test but failed has a name in angle brackets, as ``test_locks.<exit>``."""
    status: Status
    detail: str = ""
    """The tracebacks of a failure or the reason of a skip."""
    seconds: float = 0.0
    """How long it ran, fixtures of its own included; 0 if it never ran to its end."""
    loops_made: int = 0
    """How many loops under test it made. A test that makes none says nothing about the loop."""

    @property
    def is_test(self) -> bool:
        """Whether this is the outcome of a test."""
        return "<" not in self.test
