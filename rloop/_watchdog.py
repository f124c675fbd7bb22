"""The watchdog: reports a callback that keeps a shard from going on."""

import sys
import threading
import traceback
import weakref
from asyncio.log import logger
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rloop.loop import TokioLoop


class Watchdog:
    """A thread that looks at the shards' counts, twice per timeout.

    A shard is stuck if it is in a turn and has not finished a callback since the look before the
    last. It is reported once, with the Python stack of its thread; the shards pay nothing for this.
    """

    def __init__(self, event_loop: "TokioLoop", timeout: float) -> None:
        """Start to watch.

        Args:
            event_loop: the loop, which the watchdog does not keep alive.
            timeout: how long a callback may take, in seconds.
        """
        self.timeout = timeout
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._watch,
            args=(weakref.ref(event_loop),),
            name=f"rloop-{id(event_loop):x}-watchdog",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop watching and end the thread. Any thread may call this."""
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _watch(self, reference: "weakref.ref[TokioLoop]") -> None:
        # How many looks have found a shard in the callback that follows so many others.
        seen: dict[int, tuple[int, int]] = {}
        while not self._stopped.wait(self.timeout / 2):
            event_loop = reference()
            if event_loop is None or event_loop.is_closed():
                return
            for shard, (callbacks, *_, in_turn) in enumerate(event_loop._statistics()):
                before, looks = seen.get(shard, (-1, 0))
                looks = looks + 1 if in_turn and callbacks == before else 0
                seen[shard] = (callbacks, looks)
                if looks == 2:
                    self._report(event_loop, shard)
            del event_loop

    def _report(self, event_loop: "TokioLoop", shard: int) -> None:
        identity = event_loop._shard_thread(shard)
        frame = sys._current_frames().get(identity) if identity is not None else None
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "  unknown\n"
        logger.warning(
            "Shard %d of %r has been in one callback for more than %.3f seconds:\n%s",
            shard,
            event_loop,
            self.timeout,
            stack,
        )
