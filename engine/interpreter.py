"""Which Python runs the children of this process: an application that has one inside must not start itself again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def interpreter() -> str | None:
    """Return the Python that a child is run by, None where there is none.

    GIEOK_PYTHON names one. In a frozen application, and in one that holds Python as a library (uWSGI, Blender),
    `sys.executable` is the application.
    """
    if named := os.environ.get("GIEOK_PYTHON"):
        return named
    is_python = Path(sys.executable or "").name.lower().startswith(("python", "pypy"))
    return sys.executable if is_python and not getattr(sys, "frozen", False) else None
