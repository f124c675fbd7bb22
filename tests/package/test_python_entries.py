"""The list of functions of Python's C API that the extension calls.

Debug builds check at each of them that no lock is held. A function that the list lacks would be
called unchecked.
"""

import struct
import sys
from pathlib import Path

import pytest

from rloop import _rloop

LISTED = Path(__file__).parents[2] / "src" / "py" / "ffi" / "entries.txt"

#: Functions that never run Python code: they count a reference, read a field, or allocate an object
#: that the garbage collector does not track.
UNCHECKED = frozenset(
    {
        "PyByteArray_AsString",
        "PyByteArray_Size",
        "PyBytes_AsString",
        "PyBytes_FromStringAndSize",
        "PyBytes_Size",
        "PyBytesWriter_Create",
        "PyBytesWriter_Discard",
        "PyBytesWriter_FinishWithSize",
        "PyBytesWriter_GetData",
        "PyTuple_GetItem",
        "PyType_GetFlags",
        "Py_GetVersion",
        "Py_IsFinalizing",
        "Py_IsInitialized",
        "_Py_IncRef",
    }
)

#: Functions whose address is compared and that are never called.
COMPARED = frozenset({"PyObject_GenericGetAttr"})


def undefined_symbols(library: bytes) -> set[str]:
    """Return the names that a shared library for a 64-bit little-endian Linux imports."""
    (sections,) = struct.unpack_from("<Q", library, 0x28)
    size, count = struct.unpack_from("<HH", library, 0x3A)
    headers = [
        struct.unpack_from("<IIQQQQIIQQ", library, sections + index * size)
        for index in range(count)
    ]
    dynamic_symbols = 11
    (symbols,) = (header for header in headers if header[1] == dynamic_symbols)
    strings = headers[symbols[6]][4]
    names = set()
    for offset in range(symbols[4], symbols[4] + symbols[5], symbols[9]):
        name, _, _, section = struct.unpack_from("<IBBH", library, offset)
        if section == 0:
            start = strings + name
            names.add(library[start : library.index(b"\0", start)].decode())
    return names


def is_function_of_python(name: str) -> bool:
    """Tell whether a name is that of a function of the C API, and not of an object."""
    is_object = name.startswith("PyExc_") or name.endswith(("_Type", "Struct"))
    return name.startswith(("Py", "_Py")) and not is_object


@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file")
def test_every_function_of_the_c_api_that_is_called_is_checked_or_known_to_be_harmless() -> None:
    called = {
        name
        for name in undefined_symbols(Path(_rloop.__file__).read_bytes())
        if is_function_of_python(name)
    }
    listed = LISTED.read_text(encoding="utf-8").split()
    assert "PyObject_Vectorcall" in called
    assert called - UNCHECKED - COMPARED <= set(listed)
    assert listed == sorted(listed)
    assert not (UNCHECKED | COMPARED) & set(listed)
