"""Ends of pipes, as the file objects that a loop's pipe transports take."""

import os
from typing import IO, Any


def open_raw(path: str | int, mode: str) -> IO[Any]:
    """Open without a buffer; a transport will close it."""
    return open(path, mode, 0)


def open_pipe(flags: int = 0) -> tuple[IO[Any], IO[Any]]:
    """Return an unbuffered file object for each end of a new pipe."""
    reading, writing = os.pipe2(flags | os.O_CLOEXEC) if flags else os.pipe()
    return open_raw(reading, "rb"), open_raw(writing, "wb")
