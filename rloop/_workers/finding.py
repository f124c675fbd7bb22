"""Which modules are the application's: where they are found, and by which distribution."""

import functools
import importlib.machinery
import importlib.util
import os
import re
import sysconfig

REGISTERING = frozenset({"django", "sanic"})
"""Distributions that keep the application's classes in globals of their own, under their names.

A second copy of the application would replace the first one's classes there.
"""
_LIBRARY_FOLDERS = ("site-packages", "dist-packages")
_STANDARD_LIBRARY = tuple(
    {os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib")}
)


def find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Return how a module is to be loaded, or None if there is none of that name."""
    try:
        return importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):
        # Its parent is no package, or it is in sys.modules without a spec.
        return None


def refuse_extension(spec: importlib.machinery.ModuleSpec) -> None:
    """Raise an ImportError for an extension module: a worker cannot have one for itself."""
    is_extension = isinstance(spec.loader, importlib.machinery.ExtensionFileLoader)
    if is_extension:
        raise ImportError(
            f"the extension module {spec.name} ({spec.origin}) cannot be imported once for each "
            "worker: let the workers share it, with 'python -m rloop --shared "
            f"{spec.name}' or rloop.run_workers(..., shared=[{spec.name!r}])",
            name=spec.name,
            path=spec.origin,
        )


def is_application(spec: importlib.machinery.ModuleSpec) -> bool:
    """Return whether a module is found outside of the standard library and of installed ones."""
    if not spec.has_location and spec.submodule_search_locations is None:
        return False
    places = list(spec.submodule_search_locations or (spec.origin or "",))
    return any(not _is_library(os.path.abspath(place)) for place in places)


@functools.cache
def registering_packages() -> frozenset[str]:
    """Return the top-level packages of the distributions in `REGISTERING`, and of their users."""
    from importlib import metadata

    # Most environments have none of them, and looking through all metadata takes a while.
    if all(importlib.util.find_spec(name) is None for name in REGISTERING):
        return frozenset()
    requirements = {
        _normalized(distribution.name): {
            _normalized(match[0])
            for requirement in distribution.requires or ()
            if (match := re.match(r"[\w.-]+", requirement)) is not None
        }
        for distribution in metadata.distributions()
    }
    found: set[str] = set()
    users = set(REGISTERING)
    while users:
        found |= users
        users = {name for name, required in requirements.items() if required & found} - found
    return frozenset(
        package
        for package, names in metadata.packages_distributions().items()
        if not found.isdisjoint(map(_normalized, names))
    )


def _normalized(name: str) -> str:
    """Return the name of a distribution as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_library(place: str) -> bool:
    return (
        any(folder in place.split(os.sep) for folder in _LIBRARY_FOLDERS)
        or os.path.realpath(place).startswith(_STANDARD_LIBRARY)
        or _has_distributions(os.path.dirname(place))
    )


@functools.cache
def _has_distributions(folder: str) -> bool:
    """Return whether distributions are installed into a folder, as by ``pip --target``."""
    try:
        return any(name.endswith(".dist-info") for name in os.listdir(folder))
    except OSError:
        return False
