"""The event loop policy, for the Python versions that have policies (before 3.16)."""

import functools
import sys
from asyncio import unix_events
from typing import Literal

from rloop.loop import TokioLoop

if sys.version_info >= (3, 14):
    # Its public name is deprecated, and warns when it is looked up.
    _DefaultPolicy = unix_events._DefaultEventLoopPolicy
else:
    _DefaultPolicy = unix_events.DefaultEventLoopPolicy


class EventLoopPolicy(_DefaultPolicy):
    """asyncio's default policy with :class:`rloop.TokioLoop` for its loops."""

    def __init__(self, *, threads: int | Literal["auto"] | None = None) -> None:
        """Make a policy.

        Args:
            threads: how many threads each loop is to have, see :class:`rloop.TokioLoop`.
        """
        super().__init__()
        self._loop_factory = functools.partial(TokioLoop, threads=threads)
