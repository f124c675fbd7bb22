"""Functions of other modules that are replaced while workers run."""

from collections.abc import Callable
from typing import Any


class Replacements:
    """Attributes that have been replaced, and how to put the originals back."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any, Callable[[], None]]] = []

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Replace an attribute.

        Args:
            owner: the module or class that has it.
            name: its name.
            make: gets the original and returns the replacement.
        """
        original = getattr(owner, name)
        replacement = make(original)

        def restore() -> None:
            if is_own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)

        is_own = name in vars(owner)
        setattr(owner, name, replacement)
        self._undo.append((owner, name, replacement, restore))

    def undo(self) -> None:
        """Put the originals back, except where somebody else has replaced them since."""
        while self._undo:
            owner, name, replacement, restore = self._undo.pop()
            if vars(owner).get(name) is replacement:
                restore()
