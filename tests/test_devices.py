"""What llama.cpp says of GPUs: on the build that runs here, and on builds with GPUs, whose ggml is replaced."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from engine.errors import EngineError
from engine.llama import Device, backends, devices, has_gpu, idle_backend, system_info

GIB = 1 << 30
CPU, GPU, INTEGRATED, ACCELERATOR = range(4)


@dataclass
class FakeDevice:
    kind: int
    name: str
    free: int = 0
    total: int = 0


@dataclass
class FakeGgml:
    """ggml's functions over backends and their devices; handles are numbers from 1."""

    registered: dict[str, list[FakeDevice]] = field(default_factory=dict)

    def functions(self) -> dict[str, Any]:
        names = list(self.registered)
        every = [(one, names.index(name)) for name, ones in self.registered.items() for one in ones]

        def memory(device: int, free: Any, total: Any) -> None:
            one = every[device - 1][0]
            free._obj.value, total._obj.value = one.free, one.total

        return {
            "ggml_backend_dev_count": lambda: len(every),
            "ggml_backend_dev_get": lambda number: number + 1,
            "ggml_backend_dev_type": lambda device: every[device - 1][0].kind,
            "ggml_backend_dev_name": lambda device: every[device - 1][0].name.encode(),
            "ggml_backend_dev_description": lambda device: b"NVIDIA GeForce \xff " if device else None,
            "ggml_backend_dev_memory": memory,
            "ggml_backend_dev_backend_reg": lambda device: every[device - 1][1] + 1,
            "ggml_backend_reg_count": lambda: len(names),
            "ggml_backend_reg_get": lambda number: number + 1,
            "ggml_backend_reg_name": lambda backend: names[backend - 1].encode(),
            "ggml_backend_reg_dev_count": lambda backend: len(self.registered[names[backend - 1]]),
        }


class Library:
    """A loaded library with some functions, which take `restype` and `argtypes` as ctypes' do."""

    def __init__(self, functions: dict[str, Any]) -> None:
        for name, function in functions.items():
            setattr(self, name, function)


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make llama.cpp one that was built with these backends, and has these libraries beside it."""

    def make(registered: dict[str, list[FakeDevice]], parts: tuple[str, ...] = ("base", "cpu")) -> None:
        functions = FakeGgml({**registered, "CPU": [FakeDevice(CPU, "CPU", 20 * GIB, 24 * GIB)]}).functions()
        registry = {name: functions.pop(name) for name in list(functions) if "reg_" in name or "dev_get" in name}
        module = sys.modules["engine.llama.devices"]
        monkeypatch.setattr(module, "ggml", lambda: (Library(registry), Library(functions)))  # as on Windows
        monkeypatch.setattr(module, "ggml_parts", lambda: list(parts))

    return make


def test_the_build_that_runs_here() -> None:
    """Whatever it is, it agrees with what llama.cpp says by its own function."""
    assert dict(backends())["CPU"] == 1
    assert bool(devices()) == has_gpu()
    assert all(0 < device.free <= device.total and device.name and device.backend for device in devices())
    assert idle_backend() is None or not has_gpu()
    assert "CPU : " in system_info() and not system_info().endswith("|")


def test_a_build_for_the_cpu(build: Any) -> None:
    build({"BLAS": [FakeDevice(ACCELERATOR, "BLAS")], "RPC": []}, ("base", "blas", "cpu", "rpc"))
    assert devices() == ()
    assert backends() == (("BLAS", 1), ("RPC", 0), ("CPU", 1))
    assert idle_backend() is None


def test_a_build_with_a_gpu_says_what_is_free(build: Any) -> None:
    build({"CUDA": [FakeDevice(GPU, "CUDA0", 11 * GIB, 12 * GIB)]}, ("base", "cpu", "cuda"))
    assert devices() == (Device("CUDA0", "NVIDIA GeForce \N{REPLACEMENT CHARACTER}", "CUDA", 11 * GIB, 12 * GIB),)
    assert idle_backend() is None


@pytest.mark.parametrize("name", ["CUDA", "ROCm", "MTL", "SYCL"])
def test_a_gpu_build_without_a_gpu_is_told(build: Any, name: str) -> None:
    build({name: []})
    assert devices() == ()
    assert idle_backend() == name


def test_a_vulkan_build_that_cannot_begin_is_told_by_its_library(build: Any) -> None:
    """It registers nothing where there is no loader of Vulkan."""
    build({}, ("base", "cpu", "vulkan"))
    assert idle_backend() == "Vulkan"


def test_one_backend_with_a_gpu_is_enough(build: Any) -> None:
    build({"CUDA": [], "Vulkan": [FakeDevice(GPU, "Vulkan0", GIB, GIB)]}, ("base", "cuda", "vulkan"))
    assert [device.name for device in devices()] == ["Vulkan0"]
    assert idle_backend() is None


def test_integrated_gpus_count_only_without_others(build: Any) -> None:
    inside = [FakeDevice(INTEGRATED, "Vulkan1", 7 * GIB, 8 * GIB)]
    build({"Vulkan": [FakeDevice(GPU, "Vulkan0", 5 * GIB, 6 * GIB), *inside]})
    assert [device.name for device in devices()] == ["Vulkan0"]
    build({"Vulkan": inside, "SYCL": [FakeDevice(INTEGRATED, "SYCL0", 7 * GIB, 8 * GIB)]})
    assert [device.name for device in devices()] == ["Vulkan1"], "two backends see the same one"


def test_a_llama_cpp_of_another_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["engine.llama.devices"], "ggml", lambda: (Library({}),))
    with pytest.raises(EngineError, match="ggml_backend_dev_count; install llama-cpp-python anew"):
        devices()
