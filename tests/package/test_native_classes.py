"""Python classes that derive from native ones: whose methods the interpreter calls directly."""

import types
from typing import Any

import pytest

from rloop import TokioLoop, _rloop
from rloop._tls import TlsTransport
from rloop._transport import (
    DatagramTransport,
    ReadPipeTransport,
    SocketTransport,
    WritePipeTransport,
)

CLASSES = [
    (_rloop.EventLoop, TokioLoop, "call_soon"),
    (_rloop.StreamTransport, SocketTransport, "write"),
    (_rloop.TlsTransport, TlsTransport, "write"),
    (_rloop.DatagramTransport, DatagramTransport, "sendto"),
    (_rloop.ReadPipeTransport, ReadPipeTransport, "pause_reading"),
    (_rloop.WritePipeTransport, WritePipeTransport, "write"),
]

of_each_class = pytest.mark.parametrize(
    ("native", "derived", "name"), CLASSES, ids=[derived.__name__ for _, derived, _ in CLASSES]
)


@of_each_class
def test_a_class_owns_the_native_methods_it_inherits(
    native: type, derived: type, name: str
) -> None:
    # The interpreter specializes calls of native methods for instances of exactly this class.
    further = type("Further", (derived,), {})
    for kind in (native, derived, further):
        methods = [
            getattr(kind, name)
            for name, method in vars(native).items()
            if isinstance(method, types.MethodDescriptorType)
        ]
        inherited = [method for method in methods if isinstance(method, types.MethodDescriptorType)]
        assert getattr(kind, name) in inherited
        assert all(method.__objclass__ is kind for method in inherited)
    assert getattr(further, name).__doc__ == getattr(native, name).__doc__


@of_each_class
def test_a_class_keeps_what_it_or_a_class_between_defines(
    native: type, derived: type, name: str
) -> None:
    def method(self: object) -> None: ...

    overriding = type("Overriding", (derived,), {name: method})
    assert vars(overriding)[name] is method
    assert name not in vars(type("Further", (overriding,), {}))
    mixin = type("Mixin", (), {name: method})
    assert name not in vars(type("Mixed", (mixin, derived), {}))
    # A native method of another class is none that it inherits.
    strange = type("Strange", (derived,), {name: str.upper})
    assert vars(strange)[name] is str.upper


@of_each_class
def test_a_method_refuses_instances_of_other_classes(
    native: type, derived: type, name: str
) -> None:
    for kind in (native, derived):
        with pytest.raises(TypeError, match="doesn't apply to a 'object' object"):
            vars(kind)[name](object())


@of_each_class
def test_other_bases_are_told_of_the_subclass(native: type, derived: type, name: str) -> None:
    told: list[Any] = []

    class Registered:
        def __init_subclass__(cls, *, label: str, **more: Any) -> None:
            super().__init_subclass__(**more)
            told.append((cls, label))

    made = types.new_class("Made", (derived, Registered), {"label": "one"})
    assert told == [(made, "one")]
    with pytest.raises(TypeError, match=r"takes no keyword arguments"):
        types.new_class("Unknown", (derived,), {"label": "two"})
