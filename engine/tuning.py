"""What was measured of one model on this machine, remembered beside the model.

Contract: what is remembered names the file, the machine and the library that it was measured with; what names others,
or cannot be read, is as good as nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.pace import USUAL, Pace, scaled

_log = logging.getLogger("engine.tuning")
_FORMAT = 1  # raised where something else is measured, or chosen in another way
MICRO_BATCHES: tuple[int, ...] = tuple(2**n for n in range(5, 12))
# those that llama.cpp and OpenVINO have kernels of their own for
_INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


@dataclass(frozen=True, slots=True)
class Timing:
    """The median `seconds` of a batch of `tokens`; `busy`: beside a thread of this process that never rests."""

    repack: bool
    tokens: int
    threads: int
    busy: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a model is run here, and the timings that speak for it; threads for one token, and for more."""

    n_threads: int
    n_threads_batch: int
    repack: bool
    n_ubatch: int
    timings: tuple[Timing, ...] = ()

    def seconds(self, tokens: int, *, busy: bool = False) -> float | None:
        """Return how long a batch takes with what was chosen, if that was measured."""
        return dict(self._points(busy)).get(tokens)

    @property
    def pace(self) -> Pace:
        """How long batches take while the host is idle; the usual ones, if nothing was measured."""
        points = self._points(busy=False)
        return scaled(points) if len(points) > 1 else USUAL

    @property
    def speeds(self) -> dict[str, float | None]:
        """Tokens a second of a prompt and of one stream, each beside an idle and a busy host; None: not measured."""
        largest = max((timing.tokens for timing in self.timings), default=1)
        taken = {
            "prefill": (largest, self.seconds(largest)),
            "prefill_busy": (largest, self.seconds(largest, busy=True)),
            "decode": (1, self.seconds(1)),
            "decode_busy": (1, self.seconds(1, busy=True)),
        }
        return {name: round(tokens / seconds, 1) if seconds else None for name, (tokens, seconds) in taken.items()}

    def _points(self, busy: bool) -> list[tuple[int, float]]:
        taken = {
            timing.tokens: timing.seconds
            for timing in self.timings
            if (timing.repack, timing.busy) == (self.repack, busy)
            and timing.threads == (self.n_threads if timing.tokens == 1 else self.n_threads_batch)
        }
        return sorted(taken.items())


def usual() -> Tuning:
    """Return what holds where nothing was measured.

    Threads spin while they wait for each other: beside a busy host all cores decode two to three times slower than
    half of them, while prefill never loses (DECISIONS, 2026-11-22).
    """
    cores = usable_cores()
    return Tuning(max(1, cores // 2), cores, repack=True, n_ubatch=MICRO_BATCHES[-1])


def recall(model: Path, on_gpu: bool = False) -> Tuning | None:
    """Return what is remembered of the model in a file, if all it was measured with is still the same.

    With layers `on_gpu` it is another matter, and is remembered apart.
    """
    for place in _places(model, on_gpu):
        try:
            return _parse(place.read_text(encoding="utf-8"), _identity(model))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            _log.info("%s is of no use here any more: %s", place.name, type(error).__name__)
    return None


def remember(model: Path, tuning: Tuning, on_gpu: bool = False) -> Path | None:
    """Write a tuning beside the model's file, or into the user's cache where that folder cannot be written.

    Returns where it is; None, and a warning in the log, if both refuse.
    """
    text = json.dumps({"format": _FORMAT, "of": _identity(model), "tuning": asdict(tuning)}, indent=1)
    for place in _places(model, on_gpu):
        try:
            _write(place, text)
        except OSError as error:
            _log.info("%s cannot be written: %s", place, error.strerror)
        else:
            return place
    _log.warning("%s was measured, but that cannot be remembered: no folder can be written", model.name)
    return None


def forget(model: Path) -> None:
    """Remove what is remembered of the model in a file, so that it is measured at its next load."""
    for on_gpu in (False, True):
        for place in _places(model, on_gpu):
            with contextlib.suppress(OSError):
                place.unlink()


@contextlib.contextmanager
def measured_anew(model: Path) -> Iterator[None]:
    """Let a load inside the block measure the model; what was remembered stays true unless it does."""
    before = recall(model)
    forget(model)
    try:
        yield
    finally:
        if before is not None and recall(model) is None:
            remember(model, before)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def processor() -> str:
    """Return what the processor is called and what of `_INSTRUCTIONS` it has, as far as the system tells.

    Virtual machines call processors alike that are not: what one has measured, or could run, another may not.
    """
    told = dict(_cpuinfo())
    name = told.get("model name") or platform.processor() or platform.machine()
    has = [one for one in _INSTRUCTIONS if one in told.get("flags", "").split()]
    return f"{name} ({' '.join(has)})" if has else name


def _cpuinfo() -> Iterator[tuple[str, str]]:
    """Yield what Linux tells of the first processor; nothing elsewhere."""
    with contextlib.suppress(OSError):
        first, _, _ = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")
        for line in first.splitlines():
            name, _, value = line.partition(":")
            yield name.strip(), value.strip()


def _places(model: Path, on_gpu: bool) -> Iterator[Path]:
    """Yield where a tuning may be, beside the real file first: links to one file share what was measured."""
    from hashlib import sha256

    from platformdirs import user_cache_path

    file, ending = model.resolve(), "gpu.tuning.json" if on_gpu else "tuning.json"
    yield file.with_name(f"{file.name}.{ending}")
    mark = sha256(os.fsencode(file)).hexdigest()[:16]
    yield (
        user_cache_path("gieok", appauthor=False) / "tuning" / f"{file.stem}-{mark}.{'gpu.json' if on_gpu else 'json'}"
    )


def _identity(model: Path) -> dict[str, Any]:
    """Return all that a tuning depends on, JSON-ready."""
    file = model.stat()
    return {
        "size": file.st_size,
        "modified": file.st_mtime_ns,
        "llama-cpp-python": version("llama-cpp-python"),
        "processor": processor(),
        "cores": usable_cores(),
    }


def _write(place: Path, text: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(place)
    finally:
        aside.unlink(missing_ok=True)


def _parse(text: str, identity: dict[str, Any]) -> Tuning:
    data = json.loads(text)
    if (data["format"], data["of"]) != (_FORMAT, identity):
        raise ValueError("measured with something else")
    fields = data["tuning"]
    tuning = Tuning(**{**fields, "timings": tuple(Timing(**timing) for timing in fields["timings"])})
    if not _sane(tuning):
        raise ValueError("not what was written")
    return tuning


def _sane(tuning: Any) -> bool:
    """Return whether llama.cpp may be given what a file says: it would start any number of threads."""
    return (
        type(tuning.repack) is bool
        and all(type(n) is int for n in (tuning.n_threads, tuning.n_threads_batch, tuning.n_ubatch))
        and all(0 < n <= usable_cores() for n in (tuning.n_threads, tuning.n_threads_batch))
        and tuning.n_ubatch in MICRO_BATCHES
        and all(map(_sane_timing, tuning.timings))
        and len(tuning._points(busy=False)) > 1
    )


def _sane_timing(timing: Any) -> bool:
    whole = all(type(n) is int and n > 0 for n in (timing.tokens, timing.threads))
    return whole and type(timing.seconds) is float and math.isfinite(timing.seconds) and timing.seconds > 0
