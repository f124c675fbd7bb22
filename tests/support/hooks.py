"""Finds the private parts of the standard library that rloop overrides, calls or reads.

Three sources: methods and attributes that a class of rloop has in common with the class of the
standard library that it extends or stands in for; private names in rloop's Python code; private
names in strings of its Rust code. A name in the code counts if rloop does not define it, or if
asyncio has it as well and it is used on another object than ``self``.
"""

import ast
import asyncio
import importlib
import pkgutil
import re
from asyncio import base_events, events, selector_events, sslproto, unix_events
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import rloop
from rloop import _hooks, _rloop, _server, _shards, _streams, _tls, _transport, sync
from rloop._default import HAS_POLICIES
from rloop._workers.listeners import SharedServer

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rloop"
EXTENSION = ROOT / "src"

#: Names of the `sys` module and of named tuples that are documented although they look private.
DOCUMENTED = frozenset({"_current_frames", "_getframe", "_make"})

#: Names in strings that are rloop's own: of a module, and of attributes that are set by string.
OWN = frozenset({"_record", "_rloop", "_rloop_first_shard"})

#: Names that asyncio has, too, and that rloop uses on objects that are its own.
OWN_ON_OTHERS = frozenset({"_lock", "_release", "_threads"})


def is_private(name: str) -> bool:
    """Return whether a name is private and not special."""
    return re.fullmatch(r"_[A-Za-z]\w*", name) is not None


def counterparts() -> Iterator[tuple[type, type]]:
    """Return the classes of rloop, each with the standard library's that it stands in for."""
    selector, unix, tls = vars(selector_events), vars(unix_events), vars(sslproto)
    pairs: list[tuple[Any, Any]] = [
        (rloop.TokioLoop, asyncio.SelectorEventLoop),
        (_transport.SocketTransport, selector["_SelectorSocketTransport"]),
        (_transport.DatagramTransport, selector["_SelectorDatagramTransport"]),
        (_transport.ReadPipeTransport, unix["_UnixReadPipeTransport"]),
        (_transport.WritePipeTransport, unix["_UnixWritePipeTransport"]),
        (_tls.TlsTransport, tls["_SSLProtocolTransport"]),
        (_tls.TlsProtocol, sslproto.SSLProtocol),
        (_rloop.Handle, events.Handle),
        (_rloop.TimerHandle, events.TimerHandle),
        (_server.Server, base_events.Server),
        (SharedServer, base_events.Server),
        (_shards.SpawnedFuture, asyncio.Future),
        (_streams.StreamReader, asyncio.StreamReader),
        (_streams.StreamReaderProtocol, asyncio.StreamReaderProtocol),
    ]
    pairs += [
        (getattr(sync, name), getattr(asyncio, name))
        for name in sync.__all__
        if hasattr(asyncio, name)
    ]
    if HAS_POLICIES:
        policy = rloop.EventLoopPolicy
        pairs.append((policy, policy.__base__))
    yield from pairs


def names_of(ours: type) -> set[str]:
    """Return the private names that a class of rloop has, and those that its methods mention."""
    names: set[str] = set()
    for base in ours.__mro__:
        if base.__module__.partition(".")[0] == "rloop":
            for name, member in vars(base).items():
                names.add(name)
                if isinstance(member, FunctionType):
                    names.update(member.__code__.co_names)
    return set(filter(is_private, names))


def hooks_of(ours: type, theirs: type) -> Iterator[tuple[str, str]]:
    """Return owner and name of what the two classes have in common."""
    for name in names_of(ours):
        for base in theirs.__mro__:
            if base.__module__.partition(".")[0] != "rloop" and base is not object:
                owner = f"{base.__module__}:{base.__qualname__}"
                if base.__module__ != "builtins" and is_in(base, owner, name):
                    yield owner, name
                    break


def is_in(base: type, owner: str, name: str) -> bool:
    """Return whether a class itself defines or stores something of that name."""
    return name in vars(base) or _hooks.shape_of(owner, name) == "stored"


class _Names(ast.NodeVisitor):
    """Collects the private names that a module uses and those that it defines."""

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.used_on_others: set[str] = set()
        self.defined: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        """Skip declarations for the type checker."""
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)
            return
        for statement in node.orelse:
            self.visit(statement)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        (self.defined if isinstance(node.ctx, ast.Store) else self.used).add(node.attr)
        if ast.unparse(node.value) not in ("self", "cls"):
            self.used_on_others.add(node.attr)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.defined.add(node.name)
        self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.defined.add(node.name)
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.defined.add(node.name)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.defined.add(node.id)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Only with a value: without one it tells the type checker what the base class has."""
        if node.value is not None:
            self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module is not None and node.module.partition(".")[0] == "asyncio":
            self.used.update(alias.name for alias in node.names)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Names for getattr() and the like."""
        if isinstance(node.value, str) and is_private(node.value):
            self.used.add(node.value)


def names_of_asyncio() -> set[str]:
    """Return the private names that asyncio's modules and classes have, or store in objects."""
    names: set[str] = set()
    for information in pkgutil.iter_modules(asyncio.__path__):
        if information.name.startswith(("windows", "proactor", "__")):
            continue
        module = importlib.import_module(f"asyncio.{information.name}")
        names.update(vars(module))
        for member in vars(module).values():
            if isinstance(member, type):
                names.update(vars(member))
                for function in vars(member).values():
                    code = getattr(getattr(function, "__func__", function), "__code__", None)
                    names.update(
                        name
                        for name in getattr(code, "co_names", ())
                        if is_private(name) and _hooks.stores(member, name)
                    )
    return set(filter(is_private, names))


def foreign_names() -> set[str]:
    """Return the private names in rloop's code that are those of the standard library."""
    names = _Names()
    for file in PACKAGE.rglob("*.py"):
        if file.name != "_hooks.py":
            names.visit(ast.parse(file.read_text(encoding="utf-8")))
    stubs = ast.parse((PACKAGE / "_rloop.pyi").read_text(encoding="utf-8"))
    for node in ast.walk(stubs):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.defined.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.defined.add(node.target.id)
    for file in EXTENSION.rglob("*.rs"):
        text = file.read_text(encoding="utf-8")
        for literal in re.findall(r'"([\w.]+)"', text):
            names.used.update(literal.split("."))
        names.used_on_others.update(re.findall(r'intern!\([\w.()]+, "(\w+)"\)', text))
    undefined = names.used - names.defined - DOCUMENTED - OWN
    ambiguous = names.used_on_others & names.defined & names_of_asyncio() - OWN_ON_OTHERS
    return set(filter(is_private, undefined | ambiguous))
