"""Obeys ``RLOOP_INSTALL`` and ``RLOOP_AS_UVLOOP`` when an interpreter starts.

``tokioloop.pth`` imports this module when one of them is set, so that processes which a framework
spawns use TokioLoop, too. Each is ``1``, or empty or ``0`` for no.
"""

import os

from rloop._default import set_default_loop
from rloop._uvloop import AS_UVLOOP, as_uvloop

INSTALL = "RLOOP_INSTALL"
"""The environment variable that makes TokioLoop the loop of ``asyncio.run()``."""


def _is_set(name: str) -> bool:
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"the environment variable {name} must be 0 or 1, not {value!r}")
    return value == "1"


if _is_set(INSTALL):
    set_default_loop()
if _is_set(AS_UVLOOP):
    as_uvloop()
