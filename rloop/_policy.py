"""The event loop policy, for the Python versions that have policies (before 3.16)."""

import sys
from asyncio import unix_events

from rloop.loop import TokioLoop

if sys.version_info >= (3, 14):
    # Its public name is deprecated, and warns when it is looked up.
    _DefaultPolicy = unix_events._DefaultEventLoopPolicy
else:
    _DefaultPolicy = unix_events.DefaultEventLoopPolicy


class EventLoopPolicy(_DefaultPolicy):
    """asyncio's default policy with :class:`rloop.TokioLoop` for its loops."""

    _loop_factory = TokioLoop
