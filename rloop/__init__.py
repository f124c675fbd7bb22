"""TokioLoop: a drop-in asyncio event loop on tokio.

``rloop.run(main())`` runs a coroutine on a :class:`TokioLoop`; ``rloop.new_event_loop`` is a loop
factory for everything that takes one.
"""

from rloop.loop import TokioLoop

__all__ = ["TokioLoop", "new_event_loop"]


def new_event_loop() -> TokioLoop:
    """Return a new :class:`TokioLoop`, for use as a loop factory."""
    return TokioLoop()
