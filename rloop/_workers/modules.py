"""The application's modules, once for each worker.

While workers run, ``sys.modules`` holds the modules that all of them share, and each worker has a
dictionary of its own for the application's. A name that is not among the shared ones is looked up
in the dictionary of the worker that the calling thread belongs to. So modules keep their names, and
whatever looks a module up by its name finds the worker's: imports of every kind, pickle,
dataclasses, typing, pydantic, Django.

Theory of operation
    The interpreter's import code keeps a pointer to the dictionary that ``sys.modules`` was at the
    start, so a replacement of ``sys.modules`` is seen by Python code alone. This dictionary itself
    becomes an instance of `_Modules`, a subclass of dict of the same layout. The interpreter treats
    it as a mapping from then on. Shared modules are found in it as before, by C code, and only a
    miss calls ``__missing__()``.

    ``importlib`` begins an import by ``sys.modules.get(name, _NEEDS_LOADING)``. For a module of the
    application that is the place where the worker loads its own copy: under a lock of the worker,
    because importlib's lock of that name is one for all workers, and one worker would wait until
    another one has imported the module, which may take as long as the program runs. The lock is
    importlib's kind, which knows circular imports of several threads.

    For a shared module that is the place where a worker waits for other workers' imports. Packages
    with circular imports may give two threads that import them at the same time a module that is
    not complete.

    A shared module inside of a package of the application is not among the shared modules of the
    dictionary: it would be found there by a worker that has not imported its package yet. Such
    *inner* modules are kept apart. A worker that imports one imports its own package first, and
    then has the module in its own dictionary and as an attribute of its own package.

    A thread that belongs to no worker, such as one that a C library has started, gets the modules
    of the worker whose code it runs, by the globals of its frames, and else those of the host: the
    program that started the workers.

What does not work
    ``builtins.__import__``, or one for each module, is not asked by pickle and the like, which look
    into ``sys.modules``. Another ``sys.modules`` is not seen by ``PyImport_Import()``, which is
    what ``pickle.loads()`` calls, nor by ``from package import module`` in a circular import. Names
    of their own for the copies change ``__name__``, and with it loggers and pickles.
"""

import importlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, ClassVar

from rloop import _rloop
from rloop._workers import current
from rloop._workers.finding import (
    find_spec,
    is_application,
    refuse_extension,
    registering_packages,
)

_importlib: Any = importlib
_bootstrap: Any = importlib.import_module("importlib._bootstrap")
_ABSENT = object()


class Copy:
    """The application's modules of one worker, or of the host."""

    def __init__(self, owner: str) -> None:
        """Start without modules.

        Args:
            owner: whose they are, for the names of locks.
        """
        self.modules: dict[str, Any] = {}
        self.reloading: dict[str, Any] = {}
        self._owner = owner
        # Which thread loads a module that is not complete yet.
        self._loading: dict[str, int] = {}

    def find_own(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function of this copy that has the name of a function of any copy.

        Raises:
            ValueError: if the function is the application's but has no name in its module.
        """
        name = getattr(function, "__module__", None)
        if not isinstance(name, str) or name not in self.modules:
            return function
        found: Any = self.modules[name]
        if found.__dict__ is getattr(function, "__globals__", None):
            return function
        try:
            for part in function.__qualname__.split("."):
                found = getattr(found, part)
        except AttributeError:
            raise ValueError(
                f"{name}.{function.__qualname__} is not a global of its module, so another worker "
                "cannot find its own: pass a module's function and its arguments"
            ) from None
        return found  # type: ignore[no-any-return]

    def wait_for(self, name: str) -> None:
        """Wait until a module that another thread loads is complete."""
        if self._loading.get(name, threading.get_ident()) != threading.get_ident():
            _bootstrap._lock_unlock_module(self._lock_name(name))

    def load(self, name: str, default: Any) -> Any:
        """Return a module of the application, and load it first if need be.

        Args:
            name: its absolute name.
            default: is returned if there is no such module, for importlib to say so.

        Raises:
            ImportError: if it is an extension module.
        """
        parent = name.rpartition(".")[0]
        if parent:
            importlib.import_module(parent)
        try:
            with _bootstrap._ModuleLockManager(self._lock_name(name)):
                module = self.modules.get(name, _ABSENT)
                if module is not _ABSENT:
                    return module
                spec = find_spec(name)
                if spec is None:
                    return default
                refuse_extension(spec)
                self._loading[name] = threading.get_ident()
                try:
                    return _bootstrap._find_and_load_unlocked(name, _bootstrap._gcd_import)
                finally:
                    del self._loading[name]
        except _bootstrap._DeadlockError:
            # A circular import by several threads: as importlib, accept an incomplete module.
            return self.modules.get(name, default)

    def _lock_name(self, name: str) -> str:
        return f"{name} of {self._owner}"


class Copies:
    """Decides which modules each worker has for itself, and where they are looked up."""

    installed: ClassVar["Copies | None"] = None
    """Those that ``sys.modules`` asks."""

    def __init__(
        self, *, copied: Iterable[str] = (), shared: Iterable[str] = (), by_location: bool = False
    ) -> None:
        """Decide nothing before `install`.

        Args:
            copied: top-level modules and packages that each worker imports for itself.
            shared: modules and packages inside of those that all workers share.
            by_location: whether to copy, beside `copied`, whatever is found outside of the standard
                library and of folders into which distributions are installed; and of these, the
                distributions in `REGISTERING` and those that require one of them.
        """
        self._copied = frozenset(copied)
        self._shared = frozenset(shared)
        self._by_location = by_location
        self._kinds = {"rloop": False}
        self._namespaces: set[str] = set()
        self._inner: dict[str, Any] = {}
        self._host = Copy("the host")
        self._copies: list[Copy] = [self._host]
        self._import_lock = threading.Lock()
        self._importer: int | None = None
        self._not_found: dict[int, str] = {}

    def install(self) -> None:
        """Let each worker have its own modules from here on."""
        if not (self._copied or self._by_location):
            return
        for name, module in list(sys.modules.items()):
            if self._is_copied_of_host(name, module):
                self._host.modules[name] = sys.modules.pop(name)
            elif self._is_inner(name):
                self._host.modules[name] = self._inner[name] = sys.modules.pop(name)
        Copies.installed = self
        _rloop._set_dict_class(sys.modules, _Modules)
        _importlib._RELOADING = _Reloading()

    def uninstall(self) -> None:
        """Have one dictionary again, with the modules of the host."""
        if Copies.installed is self:
            _importlib._RELOADING = {}
            _rloop._set_dict_class(sys.modules, dict)
            Copies.installed = None
            sys.modules.update(self._inner)
            sys.modules.update(self._host.modules)

    def add(self, copy: Copy) -> None:
        """Let one more worker have its own modules."""
        self._copies = [*self._copies, copy]

    def remove(self, copy: Copy) -> None:
        """Let go of the modules of a worker that has ended."""
        self._copies = [other for other in self._copies if other is not copy]

    def adopt(self, copy: Copy) -> None:
        """Make a worker's modules those of the host: this process is the child of a fork."""
        self._host = copy

    def find_copy(self) -> Copy:
        """Return the modules of the worker that the calling thread belongs to."""
        worker = current.find_worker()
        return worker._copy if worker is not None else self._find_by_frames()

    def is_copied(self, name: str) -> bool:
        """Return whether each worker has this module for itself."""
        kind = self._kinds.get(name)
        if kind is None:
            kind = self._decide(name)
            if kind is None:
                return False
            self._kinds[name] = kind
        return kind

    def get(self, name: str, default: Any) -> Any:
        """Return a module that is not among the shared ones; see `_Modules.get`."""
        copy = self.find_copy()
        module = copy.modules.get(name, _ABSENT)
        if module is not _ABSENT:
            copy.wait_for(name)
            return module
        if default is not _bootstrap._NEEDS_LOADING:
            return default
        if self.is_copied(name):
            return copy.load(name, default)
        if self._is_inner(name):
            return self._import_inner(name, default, copy)
        return self._import_shared(name, default)

    def put(self, name: str, module: Any, setter: str | None) -> bool:
        """Keep a module of the application; return False if this is none.

        Args:
            name: its name.
            module: the module, or whatever takes its place.
            setter: the name of the module whose code sets it. A name that no finder knows is the
                application's if this one is.
        """
        if not self.is_copied(name):
            if self._is_inner(name):
                self._inner[name] = module
            elif name in self._kinds or setter is None or not self.is_copied(setter):
                return False
            else:
                self._kinds[name] = True
        self.find_copy().modules[name] = module
        return True

    def _is_inner(self, name: str) -> bool:
        """Return whether this is a shared module inside of a package of the application."""
        parent = name.rpartition(".")[0]
        return bool(parent) and (
            (self.is_copied(parent) and not self.is_copied(name)) or self._is_inner(parent)
        )

    def _import_inner(self, name: str, default: Any, copy: Copy) -> Any:
        """Import a shared module of a package that the worker has for itself."""
        parent, _, child = name.rpartition(".")
        importlib.import_module(parent)
        module = self._inner.get(name, _ABSENT)
        if module is _ABSENT:
            return self._import_shared(name, default)
        if getattr(getattr(module, "__spec__", None), "_initializing", False):
            # Another thread imports it, or this one does, in a circle.
            _bootstrap._lock_unlock_module(name)
        copy.modules[name] = module
        setattr(sys.modules[parent], child, module)
        return module

    def _import_shared(self, name: str, default: Any) -> Any:
        """Import a module that all workers share, while no other worker imports one."""
        thread = threading.get_ident()
        if current.own_worker() is None or self._importer == thread:
            return default
        if self._not_found.get(thread) == name:
            # importlib asks again with its own lock, which must not be held while waiting for ours.
            del self._not_found[thread]
            return default
        with self._import_lock:
            self._importer = thread
            try:
                return _bootstrap._find_and_load(name, _bootstrap._gcd_import)
            except ModuleNotFoundError as error:
                if error.name != name:
                    raise
                # importlib looks again, and says so or not, as it was asked.
                self._not_found[thread] = name
                return default
            finally:
                self._importer = None

    def _is_copied_of_host(self, name: str, module: Any) -> bool:
        """Return whether to take a module that the host has imported out of the shared ones."""
        top = name.partition(".")[0]
        if top not in self._kinds and top not in self._copied:
            spec = getattr(sys.modules.get(top), "__spec__", None)
            self._kinds[top] = (
                self._by_location
                and spec is not None
                and (is_application(spec) or top in registering_packages())
            )
        return self.is_copied(name)

    def _decide(self, name: str) -> bool | None:
        """Return whether to copy a module, or None if there is none of that name."""
        if name in self._shared:
            return False
        parent = name.rpartition(".")[0]
        if parent and parent not in self._namespaces:
            return self.is_copied(parent)
        if not parent and (name in self._copied or not self._by_location):
            return name in self._copied
        if dict.__contains__(sys.modules, name):
            return False
        spec = find_spec(name)
        if spec is None:
            return None
        if spec.origin is None:
            self._namespaces.add(name)
        return is_application(spec) or (not parent and name in registering_packages())

    def _find_by_frames(self) -> Copy:
        """Return the modules of the worker whose code the calling thread runs, or the host's."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            name: Any = frame.f_globals.get("__name__")
            for copy in self._copies:
                module = copy.modules.get(name)
                if getattr(module, "__dict__", None) is frame.f_globals:
                    return copy
            frame = frame.f_back
        return self._host


class _Modules(dict[str, Any]):
    """``sys.modules`` while workers run: the shared modules, and below them the thread's own."""

    __slots__ = ()

    def __missing__(self, name: str) -> Any:
        copies = Copies.installed
        if copies is None:
            raise KeyError(name)
        copy = copies.find_copy()
        module = copy.modules[name]
        copy.wait_for(name)
        return module

    def __contains__(self, name: object) -> bool:
        return dict.__contains__(self, name) or name in _own_modules()

    def __iter__(self) -> Iterator[str]:
        return iter(self.copy())

    def __len__(self) -> int:
        return dict.__len__(self) + len(_own_modules())

    def __setitem__(self, name: str, module: Any) -> None:
        setter = sys._getframe(1).f_globals.get("__name__")
        copies = Copies.installed
        if copies is None or not copies.put(name, module, setter):
            dict.__setitem__(self, name, module)

    def __delitem__(self, name: str) -> None:
        if dict.__contains__(self, name):
            dict.__delitem__(self, name)
        else:
            del _own_modules()[name]

    def __eq__(self, other: object) -> bool:
        return self is other or self.copy() == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __repr__(self) -> str:
        return repr(self.copy())

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def __reversed__(self) -> Iterator[str]:
        return reversed(self.copy())

    def get(self, name: str, default: Any = None) -> Any:
        """Return a module; load it if importlib asks, which names its own default."""
        module = dict.get(self, name, _ABSENT)
        if module is not _ABSENT:
            return module
        copies = Copies.installed
        return default if copies is None else copies.get(name, default)

    def copy(self) -> dict[str, Any]:
        """Return what the calling thread sees."""
        # dict.copy() of a subclass would come back here.
        return {**dict(list(dict.items(self))), **_own_modules()}

    def keys(self) -> Any:
        """Return the names that the calling thread sees now."""
        return self.copy().keys()

    def values(self) -> Any:
        """Return the modules that the calling thread sees now."""
        return self.copy().values()

    def items(self) -> Any:
        """Return what the calling thread sees now."""
        return self.copy().items()

    def pop(self, name: str, *default: Any) -> Any:
        """Remove a module and return it."""
        if dict.__contains__(self, name):
            return dict.pop(self, name, *default)
        return _own_modules().pop(name, *default)

    def popitem(self) -> tuple[str, Any]:
        """Remove the module that was imported last, and return its name and it."""
        own = _own_modules()
        return own.popitem() if own else dict.popitem(self)

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Return a module, or set it if there is none."""
        if name not in self:
            self[name] = default
        return self[name]

    def update(self, *others: Any, **more: Any) -> None:
        """Set modules."""
        for name, module in dict(*others, **more).items():
            self[name] = module

    def clear(self) -> None:
        """Remove all modules that the calling thread sees."""
        _own_modules().clear()
        dict.clear(self)


class _Reloading:
    """The modules that ``importlib.reload()`` is reloading, by name: each worker has its own."""

    def __contains__(self, name: str) -> bool:
        return name in self._own()

    def __getitem__(self, name: str) -> Any:
        return self._own()[name]

    def __setitem__(self, name: str, module: Any) -> None:
        self._own()[name] = module

    def __delitem__(self, name: str) -> None:
        del self._own()[name]

    def _own(self) -> dict[str, Any]:
        copies = Copies.installed
        return {} if copies is None else copies.find_copy().reloading


def _own_modules() -> dict[str, Any]:
    copies = Copies.installed
    return {} if copies is None else copies.find_copy().modules
