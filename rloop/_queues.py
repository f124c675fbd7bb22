"""The timers and the ready queue of a loop, in the shape of the standard library's.

asyncio keeps them in a list and a deque on the loop, and programs look at them: to cancel what is
left at the end, or to fire timers in a test. Here they are native; these are views of them.
"""

import collections
from asyncio import Handle, TimerHandle
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    from rloop import _rloop

_T = TypeVar("_T")


class _View(Sequence[_T], Generic[_T]):
    """A sequence that is read anew by each method."""

    def __init__(self, event_loop: "_rloop.EventLoop") -> None:
        self._event_loop = event_loop

    def _read(self) -> list[_T]:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._read())

    def __iter__(self) -> Iterator[_T]:
        return iter(self._read())

    def __contains__(self, item: object) -> bool:
        return item in self._read()

    @overload
    def __getitem__(self, index: int) -> _T: ...
    @overload
    def __getitem__(self, index: slice) -> list[_T]: ...
    def __getitem__(self, index: int | slice) -> _T | list[_T]:
        return self._read()[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (list, collections.deque)):
            return self._read() == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._read())


class Timers(_View[TimerHandle]):
    """``loop._scheduled``: the timers, the next one first, and some that were cancelled.

    A timer is added with ``loop.call_at()`` and taken out with its ``cancel()``.
    """

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The type that asyncio has there, for ``isinstance()``."""
        return list

    def _read(self) -> list[Any]:
        return self._event_loop._timers()

    def copy(self) -> list[TimerHandle]:
        """Return the timers as they are now."""
        return self._read()

    def clear(self) -> None:
        """Drop all timers: none of them fires."""
        self._event_loop._clear_timers()


class ReadyQueue(_View[Handle]):
    """``loop._ready``: the callbacks that run in the next iteration, the next one first."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The type that asyncio has there, for ``isinstance()``."""
        return collections.deque

    def _read(self) -> list[Any]:
        return self._event_loop._ready_handles()

    def append(self, handle: Handle) -> None:
        """Queue a handle behind the others."""
        self._event_loop._add_callback(handle)

    def copy(self) -> "collections.deque[Handle]":
        """Return the handles as they are now."""
        return collections.deque(self._read())

    def clear(self) -> None:
        """Drop all handles: none of them runs."""
        self._event_loop._clear_ready()
