"""What the fast path of an embedding model needs, made once in a child process and kept beside the weights.

Contract: after `prepare` the cache of a folder is ready, or says why only torch can run the model; or an error says
what was in the way, and the next call tries again. A cache appears whole or not at all. The child (`engine.compress`)
has no network, ends with this process, and whatever it imports stays in it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from engine import fastpath
from engine.config import ModelSpec
from engine.errors import EngineError, ModelCorrupt
from engine.interpreter import interpreter
from engine.layout import weights
from engine.machine import no_memory
from engine.metrics import Progress, ProgressCallback, report
from engine.prepared import Mark, Prepared, read, write
from engine.workplace import sync

Room = Callable[[str, int], AbstractContextManager[object]]
STEPS = ("read the weights", "convert", "compress", "write", "compare")
POLL = 0.2  # seconds between two looks at the child, and between two reports
START_SECONDS = 240.0  # importing torch and OpenVINO from a slow disk
BYTES_PER_SECOND = 4e6  # slower than this is not a machine but a hang; 100e6 on two cores of a server
BESIDE = 900_000_000  # bytes of RAM for everything that does not grow with the weights
SPARE = 64 << 20  # bytes of disk that are left free

# Not `-m`: a checkout that is not installed stands on no path of a fresh interpreter. At the end of its path, since
# nothing there may stand before Python's own modules; -P keeps the current folder off it.
BOOT = "import sys; sys.path.append(sys.argv[1]); from engine.compress import main; main(*sys.argv[2:])"
# The endings that are not the model's fault: somebody ended it, there was no memory, or a disk did not answer.
OUTSIDE = {
    -2: "SIGINT", -7: "SIGBUS", -9: "SIGKILL", -15: "SIGTERM",
    0x40010004: "ended", 0xC0000006: "a disk", 0xC0000017: "no memory", 0xC000012D: "no memory", 0xC000013A: "Ctrl-C",
}  # fmt: skip
_HEADER = 1 << 22  # bytes of a safetensors header that are read; BGE-M3 has 45,256
_LEAVES = 5.0  # seconds


class PreparationFailed(EngineError):
    """The cache could not be made this time, through no fault of the model; nothing was recorded."""


@dataclass(frozen=True, slots=True)
class _Job:
    """One preparation: the cache grows in `part`; `size` is that of the weights, in bytes."""

    folder: Path
    spec: ModelSpec
    part: Path
    size: int
    made_from: dict[str, Mark]
    progress: ProgressCallback | None

    def tell(self, step: int) -> None:
        """Report; raises `Cancelled`."""
        _tell(self.spec, step, self.progress)


def _tell(spec: ModelSpec, step: int, progress: ProgressCallback | None) -> None:
    part = Progress(STEPS[min(step, len(STEPS) - 1)], 0, 0, "steps")
    report(progress, Progress(f"prepare {spec.name}", step, len(STEPS), "steps", part))


def memory(folder: Path) -> int:
    """Return how many bytes of RAM `prepare` takes meanwhile, the pages of the mapped weights counted."""
    # Measured with weights of float32: 4.25 GB for 2.27 GB (BGE-M3's form), 1.55 GB for 0.47 GB (e5-small). That is the
    # mapped weights, a quarter of them in 8 bits, about another quarter while the largest is compressed, and libraries
    # and a tokenizer of 250,000 pieces. Halves are first made into floats, and their own pages come on top.
    size = sum(path.stat().st_size for path in weights(folder))
    floats = 4 * _numbers(folder)
    return floats * 3 // 2 + (size if floats > size * 3 // 2 else 0) + BESIDE


def prepare(
    folder: Path, spec: ModelSpec, *, room: Room | None = None, progress: ProgressCallback | None = None
) -> None:
    """Make the cache of a model's folder, unless another process just did; see the contract above.

    `room` is entered with a name and bytes of RAM for as long as the child takes them. `progress` counts steps. Raises
    `ModelCorrupt` for a folder that torch cannot load either, `PreparationFailed`, `Cancelled`, and `OSError` where
    nothing can be written beside the model, or the disk is full.
    """
    folder = folder.absolute()
    with _only_one(folder, spec, progress):
        if fastpath.state(folder) != "absent":
            return
        _sweep(folder)
        _interpreter(spec)  # what costs nothing to find out comes before others have to make room
        _check_room(folder)
        with room(f"preparing {spec.name}", memory(folder)) if room else nullcontext():
            _make(folder, spec, progress)


# ---- the parent


@contextlib.contextmanager
def _only_one(folder: Path, spec: ModelSpec, progress: ProgressCallback | None) -> Iterator[None]:
    """Keep other processes, and other threads of this one, from the cache; wait while one is at it."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / f"{fastpath.FOLDER}.lock")
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            lock.acquire(timeout=POLL)
            break
        except Timeout:
            report(progress, Progress(f"wait for another preparation of {spec.name}", 0, 0, "steps"))
            if time.monotonic() > deadline:
                raise PreparationFailed(f"another process has been preparing {spec.name} for too long.") from None
    try:
        yield
    finally:
        lock.release()


def _sweep(folder: Path) -> None:
    """Remove what preparations left that were ended with their process; the lock is held."""
    for kind in ("part", "old"):
        for left in folder.glob(f"{fastpath.FOLDER}.{kind}-*"):
            shutil.rmtree(left, ignore_errors=True)


def _make(folder: Path, spec: ModelSpec, progress: ProgressCallback | None) -> None:
    _tell(spec, 0, progress)
    made_from = fastpath.marks(fastpath.sources(folder), lambda: _tell(spec, 0, progress))
    size = sum(path.stat().st_size for path in weights(folder))
    part = folder / f"{fastpath.FOLDER}.part-{os.getpid()}-{time.monotonic_ns()}"
    job = _Job(folder, spec, part, size, made_from, progress)
    part.mkdir()
    try:
        _work(job)
        _publish(job)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    if fastpath.state(folder) == "absent":
        raise PreparationFailed(f"{folder} was changed while {spec.name} was prepared. Run it again.")
    job.tell(len(STEPS))


def _check_room(folder: Path) -> None:
    needed, free = _numbers(folder) * 11 // 10 + SPARE, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed and {free:,} free", str(folder))


def _numbers(folder: Path) -> int:
    """Return how many weights a model has; each takes a byte of the cache. At most, where a file does not tell."""
    return sum(map(_numbers_of, weights(folder)))


def _numbers_of(path: Path) -> int:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _HEADER:
                return size // 2
            header = json.loads(file.read(length))
        held = (table["data_offsets"] + [4 if table["dtype"] == "F32" else 2] for table in _tensors(header))
        return int(sum((end - start) // width for start, end, width in held))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # the child says what is wrong with it
        return size // 2


def _tensors(header: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (table for name, table in header.items() if name != "__metadata__")


def _publish(job: _Job) -> None:
    target, old = fastpath.cache_of(job.folder), job.folder / f"{job.part.name.replace('.part-', '.old-')}"
    sync(job.part)
    with contextlib.suppress(FileNotFoundError):
        target.rename(old)
    job.part.rename(target)
    sync(job.folder)
    shutil.rmtree(old, ignore_errors=True)


def _work(job: _Job) -> None:
    deadline = time.monotonic() + START_SECONDS + job.size / BYTES_PER_SECOND
    python = _interpreter(job.spec)
    with _child(python, job) as (child, heard):
        while child.poll() is None:
            if time.monotonic() > deadline:
                raise PreparationFailed(f"preparing {job.spec.name} takes too long on this machine; it was ended.")
            job.tell(heard.step)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL)
    if child.returncode or heard.end != ["done"]:  # a host that reaps children itself is told 0 of every one
        _refuse(job, _refusal(job, python, child.returncode, heard))
    else:
        write(job.part, replace(read(job.part), made_from=job.made_from))


def _interpreter(spec: ModelSpec) -> str:
    python = interpreter()
    if python == sys.executable and importlib.util.find_spec("nncf") is None:
        raise PreparationFailed(f"{spec.name} cannot be prepared for OpenVINO without nncf: `pip install nncf`.")
    if python is None:
        raise PreparationFailed(
            f"{spec.name} is prepared for OpenVINO by a Python of its own, and this application has none. Set "
            "GIEOK_PYTHON to a Python that has Gieok."
        )
    return python


@contextlib.contextmanager
def _child(python: str, job: _Job) -> Iterator[tuple[subprocess.Popen[bytes], _Heard]]:
    """Run the child as long as the block runs. Its input is a pipe that ends when this process does."""
    root, spec = str(Path(__file__).absolute().parents[1]), job.spec.model_dump_json()
    env = {key: value for key, value in os.environ.items() if not key.startswith("TORCH_")}
    env.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", PYTHONUTF8="1")
    try:
        child = subprocess.Popen(
            [python, "-P", "-c", BOOT, root, str(job.folder), str(job.part), spec],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,  # a Ctrl-C at the terminal is the parent's, which then ends the child
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError as error:
        raise PreparationFailed(f"{python} cannot be run: {error.strerror}. Correct GIEOK_PYTHON.") from error
    with child:
        heard = _Heard(child.stdout)
        try:
            yield child, heard
        finally:
            child.kill()  # does nothing to one that has ended
            if child.stdin:
                child.stdin.close()  # what a script started in its place ends by that
            heard.join(_LEAVES)


class _Heard(threading.Thread):
    """What the child said: a JSON list a line, between whatever its libraries print."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        super().__init__(name="gieok-prepare", daemon=True)
        self._pipe, self.step, self.end, self.noise = pipe, 0, [""], ""
        self.start()

    def run(self) -> None:
        for line in self._pipe or ():
            words = _words(line)
            if not words:
                self.noise = line.decode("utf-8", "replace").strip() or self.noise
            elif words[0] == "step":
                self.step += 1
            else:
                self.end = words


def _words(line: bytes) -> list[str]:
    """Return a list of texts that the child said, an empty one for all else."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return []
    return said if isinstance(said, list) and all(isinstance(word, str) for word in said) else []


def _refusal(job: _Job, python: str, status: int, heard: _Heard) -> str:
    """Return why the model cannot be prepared here; raises what was in the way where that is something else."""
    kind, why, number = (*heard.end, "", "")[:3]
    if not kind:  # it ended before `main` began, or died in native code
        kind, why = ("python" if status in (0, 1, 2) else "crash"), heard.noise or "it said nothing"
    why = "".join(letter if letter.isprintable() else " " for letter in why)[:300].rstrip(".")
    name = job.spec.name
    if status in OUTSIDE:
        raise PreparationFailed(
            f"preparing {name} was ended from outside ({OUTSIDE[status]}), perhaps for want of memory."
        )
    if kind == "disk":
        raise OSError(int(number) if number.isdecimal() else errno.EIO, why, str(job.folder))
    if kind == "corrupt":
        raise ModelCorrupt(why, path=str(job.folder))
    if kind == "memory" or (kind == "crash" and no_memory(why)):
        raise PreparationFailed(f"there was no memory to prepare {name} ({why}). Close other programs first.")
    if kind == "python":
        step = "Install what is missing there, or set GIEOK_PYTHON to a Python that has all of Gieok"
        raise PreparationFailed(f"{name} cannot be prepared, since {python} cannot run Gieok: {why}. {step}.")
    return why if kind == "refused" else f"converting it ended with status {status}: {why}"


def _refuse(job: _Job, why: str) -> None:
    for path in job.part.iterdir():
        path.unlink()
    write(job.part, Prepared(job.made_from, fastpath.versions(), fastpath.machine(), {}, None, 0, None, why))
