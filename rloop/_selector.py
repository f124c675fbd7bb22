"""The descriptors a loop watches, in the shape of a selector.

The standard library keeps a selector on each selector event loop, asks it what is watched when it
shows a transport, and closes it with the loop. The descriptors themselves are in
``rloop._rloop``; this is a view of them.
"""

import selectors
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rloop.loop import TokioLoop


class WatchedDescriptors(selectors.BaseSelector):
    """A read-only selector: descriptors are added with ``loop.add_reader()`` and the like."""

    def __init__(self, event_loop: "TokioLoop") -> None:
        self._event_loop = event_loop

    def register(self, fileobj: Any, events: int, data: Any = None) -> NoReturn:
        """Raise RuntimeError: the loop owns its selector."""
        raise RuntimeError("use loop.add_reader() or loop.add_writer()")

    def unregister(self, fileobj: Any) -> NoReturn:
        """Raise RuntimeError: the loop owns its selector."""
        raise RuntimeError("use loop.remove_reader() or loop.remove_writer()")

    def select(self, timeout: float | None = None) -> list[Any]:
        """Take an iteration of the loop, for a program that has replaced `_run_once()`.

        Raises:
            RuntimeError: if the loop waits by itself, or has several threads.
        """
        self._event_loop._select(timeout)
        return []

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """Return the key of a descriptor, or of the object that has it.

        Raises:
            KeyError: if it is not watched.
        """
        keys = self.get_map()
        for key in keys.values():
            # A closed object does not know its number any more.
            if key.fileobj is fileobj:
                return key
        try:
            return keys[fileobj if isinstance(fileobj, int) else fileobj.fileno()]
        except KeyError:
            raise KeyError(f"{fileobj!r} is not registered") from None

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """Return the watched descriptors, as they are now."""
        keys: dict[int, selectors.SelectorKey] = {}
        for fd, fileobj, readable, writable in self._event_loop._watched_descriptors():
            events = selectors.EVENT_READ * readable | selectors.EVENT_WRITE * writable
            keys[fd] = selectors.SelectorKey(fd if fileobj is None else fileobj, fd, events, None)
        return keys

    def close(self) -> None:
        """Drop everything that is scheduled or watched: the loop is closed."""
        self._event_loop._release()
