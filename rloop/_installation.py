"""Refuses an installation that cannot work, with an ImportError that says why and what to do.

Imported by ``rloop/__init__.py`` before anything else. It costs the import one ``stat``, and on a
Python that is newer than the tests a comparison of private parts of the standard library.
"""

import os
import sys

if sys.platform == "win32":
    raise ImportError("rloop runs on Linux and on macOS, and not on Windows")
if sys.version_info < (3, 11):  # noqa: UP036 - reached if the files were copied, not installed
    found = ".".join(map(str, sys.version_info[:2]))
    raise ImportError(f"rloop runs on CPython 3.11 or later, and this is Python {found}")
if os.path.exists(os.path.join(os.path.dirname(__file__), "_compat.py")):
    # A module of the other distribution. The import raises an ImportError that explains it.
    from rloop import _compat  # noqa: F401

from rloop import _rloop

VERSION = "0.1.0"
"""The version of the distribution ``tokioloop``."""

if getattr(_rloop, "BUILD", None) != f"tokioloop {VERSION}":
    raise ImportError(
        f"{_rloop.__file__} is not the extension module of tokioloop {VERSION}, to which the "
        f"other files belong: run 'pip install --force-reinstall tokioloop=={VERSION}'"
    )

if sys.version_info >= (3, 16):
    from rloop import _hooks

    _hooks.check(VERSION)
