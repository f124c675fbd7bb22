"""The classes of transports: whose `write()` the interpreter calls without a detour."""

from typing import Any

import pytest

from rloop import _rloop
from rloop._tls import TlsTransport
from rloop._transport import SocketTransport

CLASSES = [(_rloop.StreamTransport, SocketTransport), (_rloop.TlsTransport, TlsTransport)]


def write_of(kind: type) -> Any:
    """Return the `write` that the class itself has."""
    return vars(kind)["write"]


@pytest.mark.parametrize(("native", "derived"), CLASSES)
def test_a_class_has_a_write_of_its_own(native: type, derived: type) -> None:
    # The interpreter specializes calls of native methods for instances of exactly this class.
    for kind in (native, derived):
        assert write_of(kind).__objclass__ is kind
        assert write_of(kind).__doc__ == write_of(native).__doc__


@pytest.mark.parametrize(("native", "derived"), CLASSES)
def test_a_class_that_writes_otherwise_keeps_its_write(native: type, derived: type) -> None:
    def write(self: object, data: bytes) -> None: ...

    counting = type("Counting", (derived,), {"write": write})
    assert write_of(counting) is write
    assert "write" not in vars(type("Further", (counting,), {}))
    mixed = type("Mixed", (type("Mixin", (), {"write": write}), derived), {})
    assert "write" not in vars(mixed)


@pytest.mark.parametrize(("native", "derived"), CLASSES)
def test_a_write_refuses_instances_of_other_classes(native: type, derived: type) -> None:
    for kind in (native, derived):
        with pytest.raises(TypeError, match="doesn't apply to a 'object' object"):
            write_of(kind)(object(), b"data")
