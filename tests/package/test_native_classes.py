"""Python classes that derive from native ones: whose methods the interpreter calls directly."""

import sys
import types
from typing import Any

import pytest

from rloop import TokioLoop, _rloop
from rloop._tls import TlsProtocol, TlsTransport
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
    (_rloop.TlsProtocol, TlsProtocol, "buffer_updated"),
    (_rloop.DatagramTransport, DatagramTransport, "sendto"),
    (_rloop.ReadPipeTransport, ReadPipeTransport, "pause_reading"),
    (_rloop.WritePipeTransport, WritePipeTransport, "write"),
]

of_each_class = pytest.mark.parametrize(
    ("native", "derived", "name"), CLASSES, ids=[derived.__name__ for _, derived, _ in CLASSES]
)


@of_each_class
def test_a_class_of_the_package_owns_the_native_methods_it_inherits(
    native: type, derived: type, name: str
) -> None:
    # The interpreter specializes calls of native methods for instances of exactly this class.
    for kind in (native, derived):
        methods = [
            getattr(kind, name)
            for name, method in vars(native).items()
            if isinstance(method, types.MethodDescriptorType)
        ]
        inherited = [method for method in methods if isinstance(method, types.MethodDescriptorType)]
        assert getattr(kind, name) in inherited
        assert all(method.__objclass__ is kind for method in inherited)
    assert getattr(derived, name).__doc__ == getattr(native, name).__doc__


@of_each_class
def test_a_class_of_the_program_owns_what_it_defines_alone(
    native: type, derived: type, name: str
) -> None:
    further = type("Further", (derived,), {})
    assert vars(further).keys() <= {
        "__module__",
        "__doc__",
        "__dict__",
        "__firstlineno__",
        "__static_attributes__",
    }
    assert getattr(further, name) is vars(derived)[name]


@of_each_class
def test_a_class_that_is_given_its_methods_keeps_what_it_or_another_base_defines(
    native: type, derived: type, name: str
) -> None:
    def method(self: object) -> None: ...

    own: Any = _rloop._own_native_methods
    overriding = own(type("Overriding", (derived,), {name: method}))
    assert vars(overriding)[name] is method
    assert name not in vars(own(type("Further", (overriding,), {})))
    mixin = type("Mixin", (), {name: method})
    assert name not in vars(own(type("Mixed", (mixin, derived), {})))
    # A native method of another class is none that it inherits.
    strange = own(type("Strange", (derived,), {name: str.upper}))
    assert vars(strange)[name] is str.upper


@of_each_class
def test_a_method_refuses_instances_of_other_classes(
    native: type, derived: type, name: str
) -> None:
    for kind in (native, derived):
        with pytest.raises(TypeError, match="doesn't apply to a 'object' object"):
            vars(kind)[name](object())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="instances are laid out otherwise")
def test_methods_of_protocols_are_kept_between_events() -> None:
    # If not, a version of CPython lays instances out in another way, and each event costs a lookup.
    assert _rloop._keeps_methods()
