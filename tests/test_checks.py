"""What the doctor looks at, with machines as they are found."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine import checks, tuning
from engine.checks import Check, Ram
from engine.config import ModelSpec, Source
from engine.fitting import Fit
from engine.llama.devices import Device
from engine.store import Health
from engine.tuning import Timing, Tuning

FULL = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | AVX512 = 1 | LLAMAFILE = 1 | REPACK = 1"
BARE = "CPU : SSE3 = 1 | LLAMAFILE = 1 | AVX2 = 0 | REPACK = 1"
ZEN5 = frozenset("sse sse2 avx f16c avx2 fma avx512f avx512_vnni".split())
APPLE = "Metal : EMBED_LIBRARY = 1 | CPU : NEON = 1 | ARM_FMA = 1 | DOTPROD = 1 | ACCELERATE = 1"
H100 = Device("CUDA0", "NVIDIA H100 80GB HBM3", "CUDA", 79_000_000_000, 85_000_000_000)
FIT = Fit("default", ("a", "b"), 12_000, 8_000, 500, 600, {}, True, (), "runs", True, 16_000)


def healthy(check: Check) -> bool:
    """Whether nothing is to be done, which `ok` and `step` must agree about."""
    assert (check.ok is True) == (check.step == "")
    return check.ok is True


# ---- the processor and the GPU


@pytest.mark.parametrize(
    ("info", "processor", "ok", "told"),
    [
        (FULL, ZEN5, True, "AVX2"),
        (FULL, ZEN5 - {"avx512f"}, True, "AVX2"),
        (FULL, frozenset(), True, "AVX2"),  # a system that does not tell: what is built in runs
        (APPLE, frozenset(), True, "NEON"),
        (BARE, frozenset({"sse", "sse2"}), True, "SSE3"),  # an old processor has no more
        (BARE, ZEN5, False, "the processor has AVX, AVX2, FMA, F16C, AVX512"),
        (FULL.replace("AVX512 = 1", "AVX512 = 0"), ZEN5, False, "the processor has AVX512, which"),
        ("CPU : NEON = 1 | DOTPROD = 0", frozenset({"asimd", "asimddp", "i8mm"}), False, "DOTPROD, MATMUL_INT8"),
        (BARE, frozenset(), None, "is not known"),
        (None, ZEN5, False, "cannot be loaded"),
    ],
)
def test_a_build_that_leaves_the_processor_unused_is_found(
    info: str | None, processor: frozenset[str], ok: bool | None, told: str
) -> None:
    check = checks.compiler_flags(info, processor)
    assert check.ok is ok
    assert told in check.found
    assert healthy(check) or "llama-cpp-python" in check.step


def test_this_build_uses_this_processor() -> None:
    from engine.llama.devices import system_info

    check = checks.compiler_flags(system_info(), checks.processor_flags())
    assert check.ok, check  # scripts/dev.py builds it here
    if platform.machine() == "x86_64" and platform.system() == "Linux":
        assert "sse2" in checks.processor_flags()


def test_the_command_that_rebuilds_keeps_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    command = checks.rebuild("-DGGML_CUDA=ON")
    assert "CMAKE_ARGS" in command
    assert "-DGGML_CUDA=ON" in command
    assert "--no-binary llama-cpp-python" in command
    monkeypatch.setattr(checks, "_version", lambda _: "9.8.7")
    assert checks.rebuild("x").endswith("llama-cpp-python==9.8.7")
    monkeypatch.setattr(checks, "_version", lambda _: None)
    assert checks.rebuild("x").endswith(" llama-cpp-python")


@pytest.mark.parametrize(
    ("devices", "idle", "nvidia", "ok", "told"),
    [
        ((), None, False, True, "on the CPU"),
        ((H100,), None, True, True, "NVIDIA H100 80GB HBM3 (CUDA), 79.0 GB of 85.0 GB free"),
        ((H100, replace(H100, description="RTX 3060")), None, True, True, "RTX 3060"),
        ((), "CUDA", True, False, "built for CUDA"),
        ((), "Vulkan", False, False, "built for Vulkan"),
        ((), None, True, None, "for the CPU alone"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_found(
    devices: tuple[Device, ...], idle: str | None, nvidia: bool, ok: bool | None, told: str
) -> None:
    check = checks.gpu(devices, idle, nvidia=nvidia)
    assert (check.ok, told in check.found) == (ok, True)
    assert healthy(check) or "-DGGML" in check.step


# ---- threads


@pytest.fixture
def chat(tmp_path: Path) -> Callable[..., ModelSpec]:
    """Make the entry of a chat model whose file is there or not."""

    def make(name: str = "tiny", *, here: bool = True, n_threads: int | None = None) -> ModelSpec:
        file = tmp_path / f"{name}.gguf"
        if here:
            file.write_bytes(b"GGUF")
        return ModelSpec(name=name, kind="llm", source=Source(path=str(file)), n_threads=n_threads)

    return make


def test_more_threads_than_cores_are_found(chat: Callable[..., ModelSpec]) -> None:
    specs = [chat(), chat("wide", here=False, n_threads=9), chat("narrow", n_threads=8)]
    check = checks.threads(specs, 8)
    assert check.ok is False
    assert "wide (9)" in check.found
    assert "narrow" not in check.found
    assert "n_threads in models.toml to 8" in check.step


def test_a_model_that_was_not_measured_is_named_until_it_is(chat: Callable[..., ModelSpec], tmp_path: Path) -> None:
    spec, cores = chat(), tuning.usable_cores()
    check = checks.threads([spec, chat("away", here=False), chat("set", n_threads=1)], cores)
    assert (check.ok, check.found) == (None, f"{cores} cores; not measured yet: tiny")
    assert "gieok doctor --retune" in check.step
    timings = (Timing(False, 1, 1, False, 0.1), Timing(False, 64, 1, False, 0.9))
    tuning.remember(tmp_path / "tiny.gguf", Tuning(1, 1, False, 64, timings))
    assert healthy(checks.threads([spec], cores))


def test_without_a_chat_model_there_is_nothing_to_measure(chat: Callable[..., ModelSpec]) -> None:
    embedder = ModelSpec(name="e", kind="embedding", source=Source(path="e"))
    check = checks.threads([embedder, chat("away", here=False)], 4)
    assert (check.ok, check.found) == (None, "4 cores; no chat model is here to be measured")


# ---- memory and disk


@pytest.mark.parametrize(
    ("ram", "ok", "step"),
    [
        (Ram(16_000, 16_000, 14_000), True, ""),
        (Ram(16_000, 16_000, 8_000), True, ""),
        (Ram(16_000, 16_000, 7_000), False, "close other programs: 1 kB more"),
        (Ram(7_000, 16_000, 14_000), False, "raise ram_budget"),
        (Ram(16_000, 7_000, 6_000), False, "take a smaller profile"),
    ],
)
def test_a_profile_that_the_ram_cannot_hold_is_found(ram: Ram, ok: bool, step: str) -> None:
    check = checks.ram(ram, FIT)
    assert check.ok is ok
    assert check.step.startswith(step)
    assert check.found.endswith("takes 12 kB with all loaded and the Korean analyser, 8 kB at least")
    assert healthy(check) is ok


def test_ram_that_is_not_known_is_not_guessed() -> None:
    check = checks.ram(Ram(1, 1, 1), replace(FIT, ram=None))
    assert check.ok is None
    assert "not known" in check.found


def test_too_little_disk_is_found_before_a_download(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    free = checks.free_bytes(folder)
    assert free > 0
    assert healthy(checks.disk(folder, 0, "default"))
    assert healthy(checks.disk(folder, 1000, "default"))
    check = checks.disk(folder, 10**18, "default")
    assert check.ok is False
    assert "GIEOK_MODELS" in check.step
    assert checks.disk(folder, None, "default").ok is None
    assert healthy(checks.disk_of_home(folder, 0))
    check = checks.disk_of_home(folder, 10**18)
    assert check.ok is False
    assert "--home" in check.step
    assert not folder.parent.exists()


def test_a_folder_is_tried_by_writing_and_nothing_stays(tmp_path: Path) -> None:
    there, later = tmp_path / "글", tmp_path / "a" / "b"
    there.mkdir()
    first, second = checks.writable({"home": there, "models": later})
    assert healthy(first)
    assert healthy(second)
    assert second.found == f"{later} (will be made)"
    assert list(tmp_path.rglob("*")) == [there]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(checks.tempfile, "TemporaryFile", refuse)
    for what, variable in (("models", "GIEOK_MODELS"), ("home", "GIEOK_HOME"), ("temporary", "TMPDIR")):
        (check,) = checks.writable({what: tmp_path})
        assert check == Check(
            f"{what} folder",
            False,
            f"{tmp_path} cannot be written: Read-only file system",
            f"make it yours to write, or set {variable} to another folder",
        )


@pytest.mark.skipif(os.name == "nt" or getattr(os, "getuid", int)() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_found(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    (check,) = checks.writable({"home": tmp_path / "home"})
    tmp_path.chmod(0o700)
    assert check.ok is False


# ---- the memories


@pytest.mark.parametrize(
    ("health", "ok", "told"),
    [
        (None, True, "nothing"),
        (Health(1, (), {}, 0), True, "nothing"),
        (Health(1, (), {"a": 5}, 5, "bge-m3"), True, "5 of 5 memories"),
        (Health(1, (), {"a": 5, "b": 2}, 3, "bge-m3"), None, "4 of 7 memories have no vector"),
        (Health(1, (), {"a": 5}, 5, "e5"), None, "5 memories are searched by the vectors of e5"),
    ],
)
def test_by_what_memories_are_searched_is_told(health: Health, ok: bool | None, told: str) -> None:
    check = checks.index(health, "bge-m3")
    assert (check.ok, told in check.found) == (ok, True)
    healthy(check)


# ---- versions


def test_what_is_installed_here_is_new_enough() -> None:
    from engine.connections import sqlite_version

    check = checks.versions(sqlite_version())
    assert healthy(check), check
    assert f"SQLite {sqlite_version()}" in check.found
    assert dict(checks._declared())["apsw"]  # the installed distribution does say what it needs


def test_old_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"torch": "2.9.1+cpu", "apsw": "3.100.0.0", "numpy": None, "jinja2": "3.1.6"}
    asked = [("torch", "2.13"), ("apsw", "3.54"), ("numpy", "2.0"), ("jinja2", "3.1.6")]
    monkeypatch.setattr(checks, "_declared", lambda: iter(asked))
    monkeypatch.setattr(checks, "_version", there.get)
    monkeypatch.setattr(platform, "python_version", lambda: "3.10.14")
    check = checks.versions("3.51.2")
    assert check.ok is False
    assert check.found == (
        "Python 3.10.14 is older than 3.11; torch 2.9.1+cpu is older than 2.13; numpy is missing; "
        "SQLite 3.51.2 is older than 3.51.3"
    )
    assert "pip install" in check.step


# ---- what runs the embedding model


@pytest.mark.parametrize(
    ("backend", "state", "why", "ok", "found"),
    [
        ("auto", "ready", None, True, "OpenVINO runs m"),
        ("openvino", "ready", None, True, "OpenVINO runs m"),
        ("torch", "ready", None, True, "torch runs m, as its entry says"),
        ("torch", "absent", None, True, "torch runs m, as its entry says"),
        ("torch", "absent", "no openvino", True, "torch runs m, as its entry says"),
        ("auto", "absent", None, None, "m"),
        ("openvino", "absent", None, None, "m"),
        ("auto", "refused", "its tokenizer is one in Python", None, "torch runs m: its tokenizer is one in Python"),
        ("auto", "absent", "no openvino", None, "torch runs m: no openvino"),
        ("auto", "ready", "no openvino", None, "torch runs m: no openvino"),
        ("openvino", "refused", "its tokenizer is one in Python", False, "its tokenizer is one in Python"),
        ("openvino", "absent", "no openvino", False, "no openvino"),
        ("openvino", "ready", "no openvino", False, "no openvino"),
    ],
)
def test_what_runs_the_embedding_model_is_told(
    backend: str, state: str, why: str | None, ok: bool | None, found: str
) -> None:
    check = checks.embedding("m", backend, state, why)
    assert (check.name, check.ok) == ("embedding", ok)
    assert found in check.found
    assert (check.step == "") is (ok is True or (ok is None and why is not None))
    if (state, why) == ("absent", None) and backend != "torch":
        assert "`gieok models pull m`" in check.step
    if ok is False:
        assert 'backend = "auto"' in check.step
    if backend == "openvino":
        assert "torch" not in check.found, "it never runs it"
