"""Is this machine fit for Gieok? Each check says what was found and, where that is not well, what to do next."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import layout, tuning
from engine.errors import StoreError, StoreLocked
from engine.quantities import bytes_text

if TYPE_CHECKING:
    from engine.config import ModelSpec
    from engine.fitting import Fit
    from engine.llama.devices import Device
    from engine.store import Health

# What llama.cpp's CPU code gains most from, as it calls it → as Linux calls it: on x86-64, and on ARM.
_INSTRUCTIONS = {
    "AVX": "avx", "AVX2": "avx2", "FMA": "fma", "F16C": "f16c", "AVX512": "avx512f",
    "DOTPROD": "asimddp", "MATMUL_INT8": "i8mm",
}  # fmt: skip
_NEEDED = ("AVX2", "NEON")  # one of these has every processor of the last ten years that models run on
_SQLITE = (3, 51, 3)  # before it, two connections could lose what a log was reset under (docs/internals.md)
_PYTHON = (3, 11)
_SPARE = 100_000_000  # bytes of disk that a home should have left beside what its database needs


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: `ok` is None where it could not be told, or can be better; `step` is what to do."""

    name: str
    ok: bool | None
    found: str
    step: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


def rebuild(flag: str) -> str:
    """Return the command that builds llama-cpp-python here, with a flag of its CMake."""
    variable = f'set "CMAKE_ARGS={flag}" && ' if os.name == "nt" else f'CMAKE_ARGS="{flag}" '
    there = _version("llama-cpp-python")
    pinned = f"llama-cpp-python=={there}" if there else "llama-cpp-python"
    options = "--force-reinstall --no-deps --no-cache-dir --no-binary llama-cpp-python"
    return f"{variable}python -m pip install {options} {pinned}"


# ---- the processor and the GPU


def compiler_flags(info: str | None, processor: frozenset[str]) -> Check:
    """Compare llama.cpp's `info` of its build with what the processor can; None where it cannot be loaded."""
    name = "compiler flags"
    build = rebuild("-DGGML_NATIVE=ON")
    if info is None:
        return Check(name, False, "llama-cpp-python cannot be loaded", f"install it again: {build}")
    built = {flag for flag, on in re.findall(r"(\w+) = (\d+)", info) if on != "0"}
    unused = [flag for flag, known in _INSTRUCTIONS.items() if known in processor and flag not in built]
    found = ", ".join(sorted(built)) or "none are told"
    if unused:
        found = f"the processor has {', '.join(unused)}, which this build of llama.cpp does not use"
        return Check(name, False, found, f"build it for this processor, which makes answers faster: {build}")
    if processor or built.intersection(_NEEDED):
        return Check(name, True, found)
    step = f"if the processor is younger than 2014, build it here: {build}"
    return Check(name, None, f"{found}; what the processor can is not known", step)


def processor_flags() -> frozenset[str]:
    """Return what the processor can, as Linux tells it; nothing elsewhere."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"(?m)^(?:flags|Features)\s*:(.*)$", text):
            return frozenset(found[1].split())
    return frozenset()


def gpu(devices: Sequence[Device], idle: str | None, *, nvidia: bool) -> Check:
    """Say which GPUs llama.cpp can use; `idle` is what it was built for in vain, `nvidia` whether there is a driver."""
    if devices:
        return Check("gpu", True, "; ".join(map(_device, devices)))
    if idle:
        found = f"llama.cpp was built for {idle}, but there is no device that it can use: everything runs on the CPU"
        step = (
            "see that the GPU's driver is installed and new enough (NVIDIA: nvidia-smi must list the GPU; in a "
            f"container it must be handed in), or build for the CPU alone: {rebuild('-DGGML_NATIVE=ON')}"
        )
        return Check("gpu", False, found, step)
    if nvidia:
        found = "there is an NVIDIA GPU, but this build of llama.cpp is for the CPU alone"
        return Check("gpu", None, found, f"to use it, with the CUDA toolkit installed: {rebuild('-DGGML_CUDA=ON')}")
    return Check("gpu", True, "none: everything runs on the CPU")


def _device(one: Device) -> str:
    return f"{one.description} ({one.backend}), {bytes_text(one.free)} of {bytes_text(one.total)} free"


def has_nvidia() -> bool:
    """Return whether the system has a driver of NVIDIA's."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def threads(specs: Iterable[ModelSpec], cores: int) -> Check:
    """Look at how many threads each chat model would use, and whether that was measured."""
    name = "threads"
    chat = [spec for spec in specs if spec.kind == "llm"]
    over = [f"{spec.name} ({spec.n_threads})" for spec in chat if (spec.n_threads or 0) > cores]
    if over:
        step = f"lower n_threads in models.toml to {cores} or less, or leave it out: then it is measured"
        return Check(name, False, f"more threads than the {cores} cores that may be used: {', '.join(over)}", step)
    here = [spec for spec in chat if layout.installed(spec)]
    if not here:
        found = f"{cores} cores; no chat model is here to be measured"
        return Check(name, None, found, "gieok models pull gets those of the profile")
    fresh = [spec.name for spec in here if not spec.n_threads and tuning.recall(layout.locate(spec)) is None]
    if fresh:
        step = "the first load measures it; to do that now: gieok doctor --retune"
        return Check(name, None, f"{cores} cores; not measured yet: {', '.join(fresh)}", step)
    return Check(name, True, f"{cores} cores; measured or set: {', '.join(spec.name for spec in here)}")


# ---- memory and disk


@dataclass(frozen=True, slots=True)
class Ram:
    """Bytes of RAM: the budget that is configured, and what this machine has in all and free."""

    budget: int
    total: int
    available: int

    @property
    def usable(self) -> int:
        """What Gieok may hold at this moment."""
        return min(self.budget, self.available)

    def at_most(self) -> int:
        """What it could hold with every other program closed."""
        return min(self.budget, self.total)


def ram(table: Ram, own: Fit) -> Check:
    """Compare the RAM with what the profile in use takes."""
    name, needed, least = "ram", own.ram, own.ram_least
    has = f"{bytes_text(table.available)} of {bytes_text(table.total)} free, budget {bytes_text(table.budget)}"
    if needed is None or least is None:
        return Check(name, None, f"{has}; what the models of {own.profile} take is not known")
    takes = f"{bytes_text(needed)} with all loaded and the Korean analyser, {bytes_text(least)} at least"
    wants = f"{has}; {own.profile} takes {takes}"
    if least <= table.usable:
        return Check(name, True, wants)
    if least <= table.at_most():
        return Check(name, False, wants, f"close other programs: {bytes_text(least - table.usable)} more must be free")
    if least <= table.total:
        return Check(name, False, wants, "raise ram_budget in models.toml, or take a smaller profile (below)")
    return Check(name, False, wants, "take a smaller profile (below), or smaller models in models.toml")


def disk(folder: Path, needed: int | None, profile: str) -> Check:
    """Compare what is free where models lie with what is still to come."""
    free = free_bytes(folder)
    found = f"{bytes_text(free)} free in {folder}"
    if needed is None:
        return Check("disk of models", None, f"{found}; what {profile} still needs is not known")
    if not needed:
        return Check("disk of models", True, f"{found}; every model of {profile} is here")
    found += f"; {profile} still needs {bytes_text(needed)}"
    if needed <= free:
        return Check("disk of models", True, found)
    step = f"free {bytes_text(needed - free)}, or set GIEOK_MODELS to a folder on another disk"
    return Check("disk of models", False, found, step)


def disk_of_home(home: Path, size: int) -> Check:
    """Compare what is free for memories with what their database takes; `forget` writes it anew beside itself."""
    free, needed = free_bytes(home), size + _SPARE
    found = f"{bytes_text(free)} free in {home}"
    if free >= needed:
        return Check("disk of home", True, found)
    step = f"free {bytes_text(needed - free)} there, or name a home on another disk (--home DIR or GIEOK_HOME)"
    return Check("disk of home", False, found, step)


def writable(folders: Mapping[str, Path]) -> Iterator[Check]:
    """Try to write into each folder, or where it would be made; nothing stays there."""
    for what, folder in folders.items():
        variable = {"models": "GIEOK_MODELS", "home": "GIEOK_HOME"}.get(what, "TMPDIR")
        name, place = f"{what} folder", nearest(folder)
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            step = f"make it yours to write, or set {variable} to another folder"
            yield Check(name, False, f"{place} cannot be written: {error.strerror}", step)
        else:
            yield Check(name, True, str(folder) if place == folder else f"{folder} (will be made)")


def free_bytes(folder: Path) -> int:
    """Return how many bytes are free on the disk of a folder that need not exist yet."""
    return shutil.disk_usage(nearest(folder)).free


def nearest(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.exists())


# ---- the memories


def database(path: Path, health: Health | StoreError | None) -> Check:
    """Say what looking at a home's database came to."""
    if isinstance(health, StoreLocked):
        return Check("database", None, f"{path} is being written by another program", "look again when that has ended")
    if isinstance(health, StoreError):
        return Check("database", False, f"{path} cannot be used", str(health))
    if health is None:
        return Check("database", True, f"{path}: none yet, the first memory makes it")
    if health.problems:
        step = (
            f"close Gieok, copy {path} and its -wal and -shm files away (they may be repairable), and put a backup "
            "there or start anew"
        )
        return Check("database", False, f"{path} is damaged: {'; '.join(health.problems[:3])}", step)
    memories = sum(health.memories.values())
    return Check("database", True, f"{path}: sound, {memories} memories in {bytes_text(health.size)}")


def embedding(name: str, backend: str, state: str, why: str | None) -> Check:
    """Say what runs an embedding model; `backend` is what its entry asks for, `state` that of `fastpath.state`."""
    if state == "ready" and backend != "torch" and why is None:
        return Check("embedding", True, f"OpenVINO runs {name}")
    if backend == "torch":
        return Check("embedding", True, f"torch runs {name}, as its entry says")
    if why is None:
        step = f"its first use prepares it; so does `gieok models pull {name}`"
        return Check("embedding", None, f"{name} is not prepared for OpenVINO yet", step)
    if backend == "auto":
        return Check("embedding", None, f"torch runs {name}: {why}")
    step = f'set backend = "auto" of {name} in models.toml'
    return Check("embedding", False, f"OpenVINO, which its entry asks for, cannot run {name}: {why}", step)


def index(health: Health | None, model: str | None) -> Check:
    """Say by which model's vectors memories are searched; `model` is the one that is in use now."""
    if health is None or not health.memories:
        return Check("index", True, "nothing to find yet")
    memories = sum(health.memories.values())
    if model is not None and health.model != model:
        found = f"{memories} memories are searched by the vectors of {health.model}"
        step = f"the next program that stores or searches has {model} make new ones, in the background"
        return Check("index", None, found, step)
    if health.vectors == memories:
        return Check("index", True, f"{memories} of {memories} memories have their vector")
    found = f"{memories - health.vectors} of {memories} memories have no vector yet, and are found by their words"
    return Check("index", None, found, "the next program that stores or searches makes them, in the background")


# ---- versions


def versions(sqlite: str | None) -> Check:
    """Compare Python, the libraries and SQLite with what Gieok declares that it needs."""
    old = list(_too_old(sqlite))
    if old:
        return Check("versions", False, "; ".join(old), "python -m pip install --upgrade gieok")
    return Check("versions", True, f"Python {platform.python_version()}, SQLite {sqlite}, every library new enough")


def _too_old(sqlite: str | None) -> Iterator[str]:
    if _numbers(platform.python_version()) < _PYTHON:
        yield f"Python {platform.python_version()} is older than {'.'.join(map(str, _PYTHON))}"
    for library, least in _declared():
        there = _version(library)
        if there is None:
            yield f"{library} is missing"
        elif _numbers(there) < _numbers(least):
            yield f"{library} {there} is older than {least}"
    if sqlite is not None and _numbers(sqlite) < _SQLITE:
        yield f"SQLite {sqlite} is older than {'.'.join(map(str, _SQLITE))}"


def _declared() -> Iterator[tuple[str, str]]:
    """Yield each library that Gieok's distribution asks for, and from which version on."""
    try:
        lines = requires("gieok") or []
    except PackageNotFoundError:  # run from a checkout that is not installed
        return
    for line in lines:
        if found := re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", line):
            yield found[1], found[2]


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()
