"""How a native computation is stopped from another thread, without asking Python."""

from __future__ import annotations

import ctypes
import sys
from typing import Any


class AbortFlag:
    """One byte that stops a running decode or load of weights; safe to set from any thread.

    llama.cpp asks for it before every graph node. The question is answered by C's own `strlen`, since a Python
    callback would wait for the interpreter lock some hundred times a step.
    """

    def __init__(self) -> None:
        self._byte = ctypes.create_string_buffer(2)

    def set(self) -> None:
        """Make the running decode return as soon as its current node is done."""
        self._byte[0] = b"\1"

    def clear(self) -> None:
        """Let decodes run again."""
        self._byte[0] = b"\0"

    def callback(self, kind: Any) -> tuple[Any, ctypes.c_void_p]:
        """Return the C function, as llama.cpp's type `kind`, and its data."""
        libc = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
        function = ctypes.cast(libc.strlen, kind)
        return function, ctypes.cast(self._byte, ctypes.c_void_p)
