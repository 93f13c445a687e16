"""The GPUs that llama.cpp can use here, and how it was built. Sizes are bytes.

ggml tells it; the functions are C's (ggml-backend.h), which llama_cpp 0.3.36 does not bind.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine.errors import EngineError
from engine.llama.library import ggml, ggml_parts, lib

_GPU, _INTEGRATED = 1, 2  # of `ggml_backend_dev_type`; 0 is the CPU, 3 an accelerator beside it, such as BLAS
# the ending of a library's name → what its backend calls itself
_GPU_BACKENDS = {
    "cuda": "CUDA",
    "hip": "ROCm",
    "musa": "MUSA",
    "vulkan": "Vulkan",
    "metal": "MTL",
    "sycl": "SYCL",
    "opencl": "OpenCL",
    "cann": "CANN",
    "webgpu": "WebGPU",
}
_POINTER, _TEXT, _SIZE, _NOTHING = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, None
_FUNCTIONS: dict[str, tuple[Any, ...]] = {  # name → result, arguments
    "ggml_backend_dev_count": (_SIZE,),
    "ggml_backend_dev_get": (_POINTER, _SIZE),
    "ggml_backend_dev_type": (ctypes.c_int, _POINTER),
    "ggml_backend_dev_name": (_TEXT, _POINTER),
    "ggml_backend_dev_description": (_TEXT, _POINTER),
    "ggml_backend_dev_memory": (_NOTHING, _POINTER, ctypes.POINTER(_SIZE), ctypes.POINTER(_SIZE)),
    "ggml_backend_dev_backend_reg": (_POINTER, _POINTER),
    "ggml_backend_reg_count": (_SIZE,),
    "ggml_backend_reg_get": (_POINTER, _SIZE),
    "ggml_backend_reg_name": (_TEXT, _POINTER),
    "ggml_backend_reg_dev_count": (_SIZE, _POINTER),
}


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU as its driver reports it now: `free` of `total` bytes, by which of llama.cpp's backends."""

    name: str
    description: str
    backend: str
    free: int
    total: int


def devices() -> tuple[Device, ...]:
    """Return the GPUs that llama.cpp would put layers on: integrated ones, of one backend, only without others.

    It chooses so itself (src/llama.cpp), but that it takes a GPU which two backends see but once. To ask CUDA for the
    free memory makes its context, which takes memory. Raises `EngineError` where ggml lacks a function.
    """
    found = [(_call("ggml_backend_dev_type", one), one) for one in _listed("ggml_backend_dev")]
    if gpus := [_device(one) for kind, one in found if kind == _GPU]:
        return tuple(gpus)
    integrated = [_device(one) for kind, one in found if kind == _INTEGRATED]
    return tuple(one for one in integrated if one.backend == integrated[0].backend)


def backends() -> tuple[tuple[str, int], ...]:
    """Return the name and the number of devices of each backend that is built in. Raises `EngineError`."""
    return tuple(
        (_text("ggml_backend_reg_name", one), int(_call("ggml_backend_reg_dev_count", one)))
        for one in _listed("ggml_backend_reg")
    )


def idle_backend() -> str | None:
    """Return the GPU backend that is built in and has no device: its driver is missing or too old, or no GPU is there.

    None where some backend has one, and on a build for the CPU alone. Vulkan is not even listed where it cannot begin,
    so the names of the libraries count as well. Raises `EngineError`.
    """
    listed = {name: count for name, count in backends() if name in _GPU_BACKENDS.values()}
    beside = [_GPU_BACKENDS[part] for part in ggml_parts() if part in _GPU_BACKENDS]
    return None if any(listed.values()) else next(iter([*listed, *beside]), None)


def system_info() -> str:
    """Return what of the processor llama.cpp was compiled to use, as it prints it."""
    raw: bytes = lib().llama_print_system_info()
    return raw.decode("utf-8", "replace").strip(" |\n")


def _device(one: Any) -> Device:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _call("ggml_backend_dev_memory", one, ctypes.byref(free), ctypes.byref(total))
    return Device(
        name=_text("ggml_backend_dev_name", one),
        description=_text("ggml_backend_dev_description", one),
        backend=_text("ggml_backend_reg_name", _call("ggml_backend_dev_backend_reg", one)),
        free=free.value,
        total=total.value,
    )


def _listed(kind: str) -> Iterator[Any]:
    for number in range(_call(f"{kind}_count")):
        yield _call(f"{kind}_get", number)


def _text(name: str, of: Any) -> str:
    raw: bytes | None = _call(name, of)
    return (raw or b"").decode("utf-8", "replace").strip()


def _call(name: str, *arguments: Any) -> Any:
    result, *kinds = _FUNCTIONS[name]
    for library in ggml():
        if (function := getattr(library, name, None)) is not None:
            function.restype, function.argtypes = result, kinds  # without them ctypes cuts pointers to 32 bits
            return function(*arguments)
    raise EngineError(f"this llama.cpp has no {name}; install llama-cpp-python anew.")
