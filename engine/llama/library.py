"""llama.cpp as it was built and is loaded here: the only file that imports llama_cpp."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import re
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

_log = logging.getLogger("engine.llama")
_LEVELS = {2: logging.DEBUG, 3: logging.INFO, 4: logging.WARNING}  # ggml's info, warn, error; the rest is noise
_ERROR, _KEPT = 4, 20  # ggml's level, and lines of it that are kept
# what llama.cpp reports as errors where a decode was aborted, as it was told to
_ABORTED = re.compile(rb"compute_async failed with error 1\b|compute status: 1\b|failed to decode, ret = 2\b")
# what llama.cpp, a driver and Python say where there is no memory, or no room for a thread
NO_MEMORY = re.compile(
    r"bad_alloc|(?:failed|unable|not able) to allocate|MemoryError|cannot allocate memory|mem_buffer"
    r"|Thread creation failed|Resource temporarily|insufficient memory|out of memory|paging file"
    r"|ErrorOutOf(?:Device|Host)Memory|memory allocation of size \d+ failed",
    re.IGNORECASE,
)
_hearing = threading.local()
_starting, _ready = threading.Lock(), list[bool]()


def lib() -> Any:
    """Import llama_cpp once and send its log to ours; it would go to stderr otherwise."""
    return _started() if _ready else _first()


def _first() -> Any:
    with _starting:  # of two callbacks that two threads made, llama.cpp might be left with the one that is dropped
        started = _started()
        _ready.append(True)
        return started


@cache
def _started() -> Any:
    import llama_cpp

    llama_cpp.llama_log_set(_log_callback(llama_cpp), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


@cache
def ggml() -> tuple[Any, ...]:
    """Return the libraries that hold ggml's own functions, most of which llama_cpp does not bind."""
    from llama_cpp import _ggml
    from llama_cpp._ctypes_extensions import load_shared_library

    lib()
    found = [_ggml.libggml]
    with contextlib.suppress(FileNotFoundError):  # where a library does not answer for those that it needs (Windows)
        found.append(load_shared_library("ggml-base", _ggml.libggml_base_path))
    return tuple(found)


def ggml_parts() -> list[str]:
    """Return what ggml's libraries beside llama.cpp are for, by their names: "base", "cpu", perhaps "cuda"."""
    from llama_cpp import _ggml

    names = (re.match(r"(?:lib)?ggml-([a-z]+)\b", file.name) for file in _ggml.libggml_base_path.iterdir())
    return sorted({name[1] for name in names if name})


@cache
def _log_callback(llama_cpp: Any) -> Any:
    def forward(level: int, text: bytes, _data: object) -> None:
        aborted = _ABORTED.search(text) is not None
        if level == _ERROR and not aborted:
            _keep(text)
        shown = logging.DEBUG if aborted else _LEVELS.get(level)
        if shown is not None and _log.isEnabledFor(shown):
            _log.log(shown, "%s", text.decode("utf-8", "replace").rstrip())

    return llama_cpp.llama_log_callback(forward)


def _keep(text: bytes) -> None:
    lines: deque[str] | None = getattr(_hearing, "lines", None)
    if lines is not None:
        lines.append(text.decode("utf-8", "replace").strip())


@contextlib.contextmanager
def errors() -> Iterator[Sequence[str]]:
    """Collect the last lines that llama.cpp reports as errors on this thread meanwhile; other threads have theirs."""
    heard: deque[str] = deque(maxlen=_KEPT)
    _hearing.lines = heard
    try:
        yield heard
    finally:
        _hearing.lines = None


def no_memory(wanted: str, said: Sequence[str]) -> MemoryError | None:
    """Return the error for what was `wanted` where llama.cpp `said` that there was no memory for it."""
    telling = next((line for line in said if NO_MEMORY.search(line)), None)
    return None if telling is None else MemoryError(f"there was no memory for {wanted} (llama.cpp: {telling})")


def has_gpu() -> bool:
    """Return whether this build of llama.cpp can use a GPU here, now."""
    return bool(lib().llama_supports_gpu_offload())
