"""The machine and the interpreter of a run, as recorded next to every result.

Called by run.py and demo.py. A number without them cannot be compared with another.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import sysconfig
from pathlib import Path

from processes import Cores

CPU = Path("/sys/devices/system/cpu")


def interpreter_tag() -> str:
    """Return version and build of the running interpreter as in ``3.14t``."""
    free_threaded = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    return f"{sys.version_info.major}.{sys.version_info.minor}{free_threaded}"


def describe_machine(cores: Cores) -> dict[str, str]:
    """Return what a reader must know of the machine and of the running interpreter."""
    options = sysconfig.get_config_var("CONFIG_ARGS") or ""
    load, _, _ = os.getloadavg()
    return {
        "processor": _processor(),
        "cores": f"{os.cpu_count()}, server on {_list(cores.server)}, client on "
        f"{_list(cores.client)}" + ("" if cores.separate else " (the same: not comparable)"),
        "cores sharing a physical one with the server's": _siblings(cores),
        "kernel": f"{platform.system()} {platform.release()}",
        "load average at the start": f"{load:.2f}",
        "interpreter": f"CPython {platform.python_version()} ({interpreter_tag()}), "
        f"{platform.python_compiler()}",
        "profile-guided optimization": "yes" if "--enable-optimizations" in options else "no",
        "link-time optimization": "yes" if "--with-lto" in options else "no",
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"^model name\s*: (.+)$", information, re.MULTILINE)
    return model[1] if model else platform.machine()


def _siblings(cores: Cores) -> str:
    """Return the hardware threads that slow the server down when they work."""
    siblings = set()
    for core in cores.server:
        file = CPU / f"cpu{core}" / "topology" / "thread_siblings_list"
        if not file.is_file():
            return "unknown"
        siblings.add(file.read_text().strip())
    others = siblings - {str(core) for core in cores.server}
    return ", ".join(sorted(others)) or "none"


def _list(cores: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(cores)))
