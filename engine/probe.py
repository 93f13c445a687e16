"""A model file that this machine has not seen is opened once in a child process, which may die of it.

Contract: after `check` the file has been loaded, and has computed a token, with this version of llama.cpp. The verdict
is remembered by content. The child, `python -m engine.probe`, says `ready` when it could begin, then what came of it;
what it leaves on stderr is llama.cpp's own account. It has limits of time and memory, so that a hostile file cannot
occupy the machine, and ends with this process where the system can see to that.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from engine import digests
from engine.errors import EngineError, ModelCorrupt
from engine.gguf_header import NEXT_STEP, read_header
from engine.notes import Notes

_log = logging.getLogger("engine.probe")
Tell = Callable[[], object]
SECONDS, BYTES_PER_SECOND = 15.0, 50e6  # for any file; beside them so many for a slow disk
_LOOK = 0.05  # seconds between two looks whether anybody still waits
_SPACE, _TIMES = 4 << 30, 2  # bytes of address space for any file, and for each byte of it
_SHOWN = 200  # letters of llama.cpp's last words
_CONTEXT, _BATCH = 256, 32  # tokens
_NOTES = Notes(".verdicts.json")
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)
_NO_MEMORY = re.compile(r"bad_alloc|failed to allocate|MemoryError|[Cc]annot allocate memory")
_FROM_OUTSIDE = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")  # a file does not send these
_ERROR = "error loading model: "
_READY, _OK, _UNREADABLE = "ready", "ok", "unreadable"


@dataclass(frozen=True, slots=True)
class _Ended:
    """What a child left: its status, None where it took too long, its answer, and the end of llama.cpp's log."""

    status: int | None
    said: list[str]
    account: str

    @property
    def words(self) -> str:
        """llama.cpp's reason: what it calls an error, else its last words. Paths, its own too, are left out."""
        lines = [line.strip() for line in self.account.splitlines() if line.strip()]
        telling = next((line for line in reversed(lines) if _ERROR in line), lines[-1] if lines else "")
        plain = re.sub(r"\S*/(?=\S)", "", telling.rpartition(_ERROR)[2])
        return "".join(letter if letter.isprintable() else " " for letter in plain)[:_SHOWN].strip(" .")


class _Unable(Exception):
    """The child could not be asked, which is not the file's fault."""


def check(path: Path, tell: Tell) -> None:
    """Return if the GGUF file `path`, and the parts that go with it, may be loaded in this process.

    `tell` is called while that is found out; what it raises ends it, and is raised here. Raises `ModelCorrupt`.
    """
    files = parts(path)
    python = _interpreter()
    if python is None:
        return
    try:
        known = _known_as(files, tell)
        verdict = _NOTES.get(known) if known else None
        if not isinstance(verdict, str):
            verdict = _ask(python, files, tell)
            if known:
                _NOTES.put(known, verdict)
    except _Unable as reason:
        _log.warning("%s is loaded without having been tried in a process of its own: %s", path.name, reason)
        return
    if verdict != _OK:
        raise _corrupt(path, verdict, NEXT_STEP)


def parts(path: Path) -> list[Path]:
    """Return the files of a model, of which `path` is the first, by what their headers say.

    Raises `ModelCorrupt` where a header cannot be true, or a part is missing.
    """
    first = read_header(path)
    if first.split_count == 1 and not first.split_no:
        return [path]
    named = _PART.fullmatch(path.name)
    if named is None or int(named[3]) != first.split_count:
        raise _corrupt(path, f"it is one of {first.split_count} parts, and its name must end in -00001-of-0000N.gguf")
    if first.split_no or int(named[2]) != 1:
        raise _corrupt(path, f"it is a later part; name {named[1]}-00001-of-{named[3]}{named[4]} instead")
    files = [path.with_name(f"{named[1]}-{n:05}-of-{named[3]}{named[4]}") for n in range(1, first.split_count + 1)]
    for number, file in enumerate(files):
        if not file.is_file():
            raise _corrupt(path, f"{file.name} is missing beside it; `gieok models pull` gets it")
        header = read_header(file)
        if (header.split_no, header.split_count) != (number, first.split_count):
            raise _corrupt(file, f"it says that it is part {header.split_no + 1} of {header.split_count}")
    return files


def _corrupt(path: Path, why: str, step: str = "") -> ModelCorrupt:
    return ModelCorrupt(f"{path.name} cannot be loaded: {why}. {step}".rstrip(), path=str(path))


def _interpreter() -> str | None:
    """Return what can run the child; a frozen application is no interpreter."""
    if named := os.environ.get("GIEOK_PYTHON"):
        return named
    return None if getattr(sys, "frozen", False) else sys.executable or None


def _library() -> str:
    """Return the version of llama.cpp's package, "" where the application does not bring its metadata."""
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return ""


def _known_as(files: Sequence[Path], tell: Tell) -> str | None:
    """Return what a verdict on these contents is remembered by, None where it cannot be."""
    library = _library()
    try:
        contents = " ".join(digests.sha256_of(file, tell) for file in files)
    except OSError as error:
        raise _corrupt(files[0], f"it cannot be read: {error.strerror}") from None
    return f"{hashlib.sha256(contents.encode()).hexdigest()} {library}" if library else None


def _ask(python: str, files: Sequence[Path], tell: Tell) -> str:
    """Return the verdict of a child. Raises `_Unable`, `ModelCorrupt` for one that is not to be remembered."""
    first, size = files[0], sum(file.stat().st_size for file in files)
    seconds, space = SECONDS + size / BYTES_PER_SECOND, _SPACE + _TIMES * size
    _log.info("%s is new here, and is tried in a process of its own", first.name)
    ended = _run([python, "-P", "-m", "engine.probe", str(first), _library(), str(seconds), str(space)], seconds, tell)
    if ended.said[:1] != [_READY]:
        raise _Unable(ended.words or f"{python} ended with status {ended.status}")
    if ended.status is None:
        raise _corrupt(first, f"it took longer than {seconds:.0f} s to try; if this machine is busy now, try again")
    if ended.status == 0 and ended.said[1:] == [_OK]:
        return _OK
    if _NO_MEMORY.search(ended.account):
        raise _corrupt(
            first, f"it asks for more memory than {space / 1e9:.0f} GB, or than this process may have", NEXT_STEP
        )
    return _why_not(first, ended.status, ended)


def _why_not(file: Path, status: int, ended: _Ended) -> str:
    """Return why a file is refused, of a child that answered no or died. Raises as `_ask` does, and `EngineError`."""
    name = _signal_name(status)
    words = f" ({ended.words})" if ended.words else ""
    if name in _FROM_OUTSIDE or (status == 1 and not words):  # 1: the task manager's way
        raise _Unable(f"something ended that process ({name or status})")
    if name == "SIGILL":
        raise EngineError("llama.cpp was built for another processor than this one; install llama-cpp-python anew.")
    if status == 1:  # an error of Python, which another version of Gieok may not have
        raise _corrupt(file, f"it could not be tried{words}", NEXT_STEP)
    if status == 0 and ended.said[1:] == [_UNREADABLE]:
        return f"llama.cpp refuses it{words}"
    return f"llama.cpp crashes of it, {name or f'status {status}'}{words}"


def _signal_name(status: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name if status < 0 else ""
    return f"signal {-status}"


# ---- the parent's side


def _run(command: Sequence[str], seconds: float, tell: Tell) -> _Ended:
    """Run a child until it ends, its time is over or `tell` raises; none is left behind."""
    with contextlib.ExitStack() as stack:
        try:
            said, account = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=account, env=_environment(command[0]),
                start_new_session=True, creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )  # fmt: skip
        except OSError as error:
            raise _Unable(f"{error.filename or command[0]}: {error.strerror}") from None
        try:
            status = _wait(child, seconds, tell)
        finally:
            if child.returncode is None:
                _end(child)
        return _Ended(status, _tail(said).split(), _tail(account))


def _environment(python: str) -> dict[str, str]:
    """Return the child's environment: our modules, no network, no GPU, no debugger that writes a backtrace."""
    ours = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "GGML_NO_BACKTRACE": "1"}
    few = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}  # address space goes by threads
    found = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} if python == sys.executable else {}
    return {**os.environ, **ours, **few, **found, "PYTHONUTF8": "1"}


def _wait(child: subprocess.Popen[bytes], seconds: float, tell: Tell) -> int | None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        tell()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(_LOOK)
    return None


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill a child and what it started, and see it buried."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)  # it leads a group of its own
        else:
            child.kill()
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        _log.warning("process %d waits for its disk and cannot be ended", child.pid)


def _tail(file: IO[bytes]) -> str:
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 4096))
    return file.read().decode("utf-8", "replace")


# ---- the child's side


def main(path: str, library: str, seconds: str, space: str) -> None:
    """Try one file in this process, and say what came of it; whoever runs this must be ready for its death."""
    from engine.llama import has_gpu

    if library and version("llama-cpp-python") != library:
        sys.exit(f"this interpreter has another llama-cpp-python than {library}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what C prints is no answer
    has_gpu()  # llama.cpp starts here
    _limit(float(seconds), int(space))
    print(_READY, file=answers, flush=True)
    try:
        _try(Path(path))
    except EngineError:
        print(_UNREADABLE, file=answers, flush=True)
    else:
        print(_OK, file=answers, flush=True)
    os._exit(0)  # whatever the file did to this process, it is over


def _try(path: Path) -> None:
    """Do once what an engine does with a file."""
    from engine.llama import Context, ContextParams, Model
    from engine.scheduler import Chunk, Job

    model = Model(path, repack=False)
    model.vocabulary.read()
    model.vocabulary.tokenize("가 a")
    context = Context(model, ContextParams(min(_CONTEXT, model.context_length), _BATCH, 1, 2, 2))
    token = max(0, min(model.vocabulary.bos, model.vocabulary.size - 1))
    context.decode([Chunk(Job([token], 1), 0, 0, [token], 1)])
    context.logits(0)
    model.close()


def _limit(seconds: float, space: int) -> None:
    """Bind this process, as far as its system can; it may be bound more tightly already."""
    try:
        import resource
    except ImportError:
        return
    wanted = ((resource.RLIMIT_AS, space), (resource.RLIMIT_CPU, int(2 * seconds) + 1), (resource.RLIMIT_CORE, 0))
    for kind, most in (*wanted, (resource.RLIMIT_FSIZE, 1 << 20)):
        _, hard = resource.getrlimit(kind)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    _die_with_parent()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    main(*sys.argv[1:])
