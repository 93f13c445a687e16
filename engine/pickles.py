"""One pickle of weights → one safetensors file, in a child process; nothing else in Gieok unpickles.

A pickle is a program. torch's `weights_only` reader runs none of it, and should that reader ever be wrong, then in
a child that has limits, no input and nothing of the host's memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from engine.errors import DownloadError, ModelCorrupt
from engine.interpreter import interpreter
from engine.metrics import Progress, ProgressCallback, report
from engine.workplace import sync

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
NESTED = ("state_dict", "model_state_dict")  # where a checkpoint of a training run keeps its weights

POLL = 0.2  # seconds between two looks at the child, and between two reports
PIECE = 1 << 20  # bytes hashed at a time
START_SECONDS = 180.0  # importing torch from a slow disk
BYTES_PER_SECOND = 4e6  # slower than this is not a disk but a hang
GROWTH = 2  # tensors that share one storage are written once each; more than twice the file is a bomb
BESIDE = 400_000_000  # bytes of RAM for everything that does not grow with the file
ROOM = 1 << 30  # bytes of address space for everything that does not grow with the file

# Not `-m`: a checkout that is not installed stands on no path of a fresh interpreter. At the end of its path, since
# nothing there may stand before Python's own modules; -P keeps the current folder off it.
BOOT = "import sys; sys.path.append(sys.argv[1]); from engine.pickles import main; main(*sys.argv[2:])"
OUTSIDE = {-2: "SIGINT", -9: "SIGKILL", -15: "SIGTERM"}  # the endings that are not the file's fault
DONE = "done"  # the last word of a child that wrote all
ELSEWHERE = "Take a repository that has *.safetensors weights"


@dataclass(frozen=True, slots=True)
class _Job:
    """One conversion: `size` is that of the source, in bytes."""

    source: Path
    part: Path
    size: int
    progress: ProgressCallback | None

    def tell(self, written: int, hashed: int) -> None:
        """Report; writing is the first half and hashing the second. Raises `Cancelled`."""
        done = (min(written, self.size) + min(hashed, self.size)) // 2
        report(self.progress, Progress(f"convert {self.source.name}", done, self.size, "bytes"))


def is_pickle(name: str) -> bool:
    """Return whether a file of this name holds a pickle, which can run any program."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def safetensors_name(name: str) -> str:
    """Return what the pickle `name` of a repository is called once converted.

    Raises `DownloadError` for one part of several: their index is not converted.
    """
    path = PurePosixPath(name)
    if SHARD.search(path.stem):
        raise DownloadError(f"{name} is one part of a pickle in parts, which is not converted. {ELSEWHERE}.", file=name)
    stem = "model" if path.stem == "pytorch_model" else path.stem
    return str(path.with_name(f"{stem}.safetensors"))


def memory(source: Path) -> int:
    """Return how many bytes of RAM `convert` takes meanwhile, the pages of the file itself counted."""
    return source.stat().st_size + BESIDE


def convert(source: Path, target: Path, *, progress: ProgressCallback | None = None) -> str:
    """Write the tensors of the pickle `source` to `target` as safetensors, and return the sha256 of the new file.

    Names, values and dtypes stay as they are. `target` appears whole, or not at all; `source` is left alone.
    `progress` counts bytes of `source`. Raises `ModelCorrupt`; `DownloadError` for a part of several, or where no
    Python is there to run the child; `OSError` if `target` cannot be written; `Cancelled`.
    """
    safetensors_name(source.name)
    part = target.with_name(f"{target.name}.part")
    job = _Job(source.absolute(), part.absolute(), source.stat().st_size, progress)
    try:
        _write_in_child(job)
        digest = _hash(job)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    sync(target.parent)
    return digest


# ---- the parent


def _write_in_child(job: _Job) -> None:
    deadline = time.monotonic() + START_SECONDS + job.size / BYTES_PER_SECOND
    python = _interpreter(job.source)
    with tempfile.TemporaryFile() as output:
        with _child(python, job, output) as child:
            while child.poll() is None:
                if time.monotonic() > deadline:
                    raise _corrupt(job.source, "reading it takes too long")
                job.tell(_size(job.part), 0)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(POLL)
        said = _last_line(output)
        if child.returncode or said != DONE:  # a host that reaps children itself is told 0 of every one
            raise _failure(job.source, python, child.returncode, said)


def check_able(name: str) -> None:
    """Refuse a pickle that could not be converted here, before gigabytes are fetched. Raises `DownloadError`."""
    missing = [library for library in ("torch", "safetensors") if importlib.util.find_spec(library) is None]
    if _interpreter(Path(name)) == sys.executable and missing:
        raise DownloadError(
            f"{name} is a pickle, which {' and '.join(missing)} would have to convert, and this Python has not. Use "
            "one that has all of Gieok, or set GIEOK_PYTHON to it.",
            file=name,
        )


def _interpreter(source: Path) -> str:
    """Return the Python that runs the child. Raises `DownloadError` where there is none."""
    python = interpreter()
    if python is None:
        raise DownloadError(
            f"{source.name} is a pickle, which a Python of its own has to convert, and this application has none. "
            f"Set GIEOK_PYTHON to a Python that has Gieok, or download on a machine with one. {ELSEWHERE} else.",
            file=source.name,
        )
    return python


@contextlib.contextmanager
def _child(python: str, job: _Job, output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the child as long as the block runs. Its input is a pipe that ends when this process does."""
    root = str(Path(__file__).absolute().parents[1])
    env = {key: value for key, value in os.environ.items() if not key.startswith("TORCH_")}
    env.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", MALLOC_ARENA_MAX="1", PYTHONUTF8="1")
    try:
        child = subprocess.Popen(
            [python, "-P", "-c", BOOT, root, str(job.source), str(job.part)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,  # a Ctrl-C at the terminal is the parent's, which then ends the child
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError as error:
        why = f"{python} cannot be run: {error.strerror}"
        raise DownloadError(f"{job.source.name}: {why}. Correct GIEOK_PYTHON.", file=job.source.name) from error
    with child:
        try:
            yield child
        finally:
            child.kill()  # does nothing to one that has ended


def _last_line(output: IO[bytes]) -> str:
    output.seek(max(output.seek(0, os.SEEK_END) - 4_096, 0))
    lines = output.read().decode("utf-8", "replace").splitlines()
    return lines[-1] if lines else ""


def _failure(source: Path, python: str, status: int, said: str) -> Exception:
    """Return what to raise for a child that ended with `status` and last `said` this."""
    try:
        kind, why, number = json.loads(said)
    except (TypeError, ValueError):  # it ended before `main` began, or died in native code
        kind, why, number = ("python" if status in (0, 1, 2) else "crash"), said or f"its reader died ({status})", 0
    why = "".join(letter if letter.isprintable() else " " for letter in str(why))[:300]
    if kind == "disk" and isinstance(number, int):
        return OSError(number, why)
    if status in OUTSIDE:
        why = f"the conversion of {source.name} was ended from outside ({OUTSIDE[status]})"
        return DownloadError(f"{why}, perhaps for want of memory. Run it again.", file=source.name)
    if kind == "python":
        why = f"{source.name} cannot be converted, since {python} cannot run Gieok: {why.rstrip('.')}. Install it there"
        return DownloadError(f"{why}, or set GIEOK_PYTHON to a Python that has it.", file=source.name)
    return _corrupt(source, why, again=kind != "refused")


def _corrupt(source: Path, why: str, *, again: bool = True) -> ModelCorrupt:
    step = f"Fetch it again; if that brings the same, do not use it. {ELSEWHERE}." if again else f"{ELSEWHERE}."
    return ModelCorrupt(f"{source} cannot be converted to safetensors: {why.rstrip('.')}. {step}", path=str(source))


def _hash(job: _Job) -> str:
    digest, done, told = hashlib.sha256(), 0, 0.0
    with job.part.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            done += len(piece)
            if time.monotonic() - told > POLL:
                told = time.monotonic()
                job.tell(job.size, done)
    job.tell(job.size, job.size)
    return digest.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # the child has not begun it
        return 0


# ---- the child


class _Refused(Exception):
    """A pickle that does not hold what becomes a safetensors file; the text says why."""


def main(source: str, part: str) -> None:
    """Convert; the child's only duty. Ends with status 1 and one line of JSON, `[kind, why, errno]`, if it cannot."""
    threading.Thread(target=_end_with_parent, args=(part,), daemon=True).start()
    try:
        _rewrite(Path(source), Path(part))
        print("\n" + DONE, flush=True)
    except Exception as error:  # whatever torch makes of a damaged or hostile file
        print("\n" + json.dumps(_explain(error)), flush=True)
        raise SystemExit(1) from error


def _end_with_parent(part: str) -> None:
    os.read(0, 1)  # nothing is ever written there: it returns when the parent's end closes
    with contextlib.suppress(OSError):
        Path(part).unlink(missing_ok=True)
    os._exit(1)


def _rewrite(source: Path, part: Path) -> None:
    import torch
    from safetensors.torch import save_file

    size = source.stat().st_size
    _limit(size)
    zipped = _is_zip(source)
    if zipped:
        _check_zip(source)
    # A mapped file costs no memory of its own: what was written can be dropped, and is read again from the disk.
    loaded = torch.load(source, map_location="cpu", weights_only=True, mmap=zipped)
    weights = _tensors(loaded, GROWTH * size)
    save_file(_apart(weights), part, metadata={"format": "pt"})
    sync(part)


def _limit(size: int) -> None:
    """Leave no core file, and bound the address space from here on: torch's own part differs from build to build."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + (1 + GROWTH) * size + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    except (ImportError, OSError, ValueError):
        return  # a system without such limits, or with a narrower one already


def _is_zip(source: Path) -> bool:
    with source.open("rb") as file:
        return file.read(4) == b"PK\3\4"  # torch's own test: older files are pickles laid end to end


def _check_zip(source: Path) -> None:
    """Refuse what torch never writes: a compressed entry would be mapped as if it were plain, or be a bomb."""
    with zipfile.ZipFile(source) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise _Refused("it is a compressed archive, which torch.save does not write")


def _tensors(loaded: Any, most: int) -> dict[str, Tensor]:
    """Return name → dense tensor, contiguous, of at most `most` bytes together."""
    weights = _named(loaded)
    total = 0
    for name, tensor in weights.items():
        _check(name, tensor)
        total += tensor.nbytes
    if total > max(most, PIECE):
        raise _Refused(f"its tensors would take {total:,} bytes")
    return {name: tensor.detach().resolve_conj().resolve_neg().contiguous() for name, tensor in weights.items()}


def _named(loaded: Any) -> dict[Any, Any]:
    if not isinstance(loaded, dict):
        raise _Refused(f"it holds one {type(loaded).__name__} and no named tensors")
    for key in NESTED:
        if isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not loaded:
        raise _Refused("it holds no tensors")
    return dict(loaded)


def _check(name: object, tensor: object) -> None:
    import torch

    if not isinstance(name, str) or not name.isprintable() or name == "__metadata__":  # a word of the format
        raise _Refused(f"a tensor cannot be called {name!r:.80}")
    if not isinstance(tensor, torch.Tensor):
        raise _Refused(f"{name!r:.80} in it is of type {type(tensor).__name__}, not a tensor")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise _Refused(f"{name!r:.80} in it is not a plain dense tensor")


def _apart(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give every tensor that overlaps one before it in memory, as tied weights do, a copy of its own."""
    apart, end = dict(weights), 0
    for name in sorted(weights, key=lambda name: weights[name].data_ptr()):
        tensor = weights[name]
        if tensor.nbytes and tensor.data_ptr() < end:
            apart[name] = tensor.clone()
        end = max(end, tensor.data_ptr() + tensor.nbytes)
    return apart


def _explain(error: Exception) -> tuple[str, str, int]:
    """Return the kind of an error ("disk", "python", "refused", "corrupt"), its reason in one line, and its errno."""
    text = " ".join(str(error).split())
    code = re.search(r"\(os error (\d+)\)", text)  # of safetensors, when it writes
    number = int(code[1]) if code else getattr(error, "errno", None)
    if number:
        return "disk", os.strerror(number), number
    if isinstance(error, ImportError):
        return "python", text, 0
    return *_of_the_file(error, text), 0


def _of_the_file(error: Exception, text: str) -> tuple[str, str]:
    if isinstance(error, _Refused):
        return "refused", text
    if asked := re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", text):
        return "refused", f"it asks for {asked[1]}, which weights have no use for"
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return "corrupt", "it asks for more memory than a file of its size needs"
    # torch wraps its reason in advice to read the file without protection.
    reason = re.sub(r"^.*WeightsUnpickler error: | Check the documentation of .*$", "", text)
    return "corrupt", f"it cannot be read ({type(error).__name__}: {reason[:200]})"
