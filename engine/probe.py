"""A model file that this machine has not seen is opened once in a child process, which may die of it.

Contract: after `check` the file has been loaded, and has computed a token, with this version of llama.cpp on this
kind of processor; or no child could begin, which is only logged. The verdict is remembered by content: a yes at once,
a no where a second child says the same, and neither where it may be the machine's doing: want of memory or time, a
disk, somebody who ended the child. The child says `ready` when it could begin, then what came of it; what it leaves on
stderr is llama.cpp's own account. It has limits of time and memory, so that a hostile file cannot occupy the machine,
and ends with this process.
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
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, TYPE_CHECKING

from engine import adapters, digests
from engine.errors import EngineError, ModelCorrupt
from engine.gguf_header import NEXT_STEP, PART, read_header
from engine.interpreter import interpreter
from engine.llama.library import NO_MEMORY
from engine.notes import Notes
from engine.tuning import processor

if TYPE_CHECKING:
    from engine.llama import Context

_log = logging.getLogger("engine.probe")
Tell = Callable[[], object]
START_SECONDS = 60.0  # until a child is ready: Python and llama.cpp come from a disk, too
SECONDS, BYTES_PER_SECOND = 12.0, 4e6  # from then on, for any file; beside them so many for a slow disk
_LOOK = 0.05  # seconds between two looks whether anybody still waits
_SPACE, _TIMES = 4 << 30, 2  # bytes of address space for any file, and for each byte of it
_SHOWN = 200  # letters of llama.cpp's last words
_CONTEXT, _BATCH = 256, 32  # tokens; no context of an engine is smaller, and llama.cpp aborts with fewer than sequences
_TRIAL = 2  # raised when a trial finds more than before: older verdicts then no longer count
_NOTES = Notes(".verdicts.json")
_NOT_READ = re.compile(r"cannot be read|failed to open|Input/output error|Stale file handle", re.IGNORECASE)
_CRASHES = ("SIGSEGV", "SIGABRT", "SIGFPE", "SIGTRAP")  # what a file can do; other signals come from elsewhere
_WINDOWS = {  # Windows' statuses; https://learn.microsoft.com/openspecs/windows_protocols/ms-erref
    0x3: "SIGABRT",  # the C library's
    0x40010004: "SIGKILL",
    0xC0000005: "SIGSEGV",
    0xC0000006: "SIGBUS",
    0xC0000017: "SIGKILL",  # no memory
    0xC000001D: "SIGILL",
    0xC0000094: "SIGFPE",
    0xC00000FD: "SIGSEGV",  # the stack is full
    0xC000012D: "SIGKILL",  # no memory
    0xC000013A: "SIGINT",
    0xC0000374: "SIGABRT",  # the heap is broken
    0xC0000409: "SIGABRT",
}
_ERROR = "error loading model: "
_OTHER_ADAPTER = "Name an adapter that was made for {model}, or convert it again."
_READY, _OK, _UNREADABLE = "ready", "ok", "unreadable"
# Not `-m`: a checkout that is not installed stands on no path of another interpreter. At the end of its path, since
# nothing there may stand before Python's own modules; -P keeps the current folder off it.
_BOOT = "import sys; sys.path.append(sys.argv[1]); from engine.probe import main; main(*sys.argv[2:])"


@dataclass(frozen=True, slots=True)
class _Ended:
    """What a child left: its status, None where it took too long, its answer, and the end of llama.cpp's log.

    `took` counts the seconds after it was ready.
    """

    status: int | None
    said: list[str]
    account: str
    took: float

    @property
    def name(self) -> str:
        """The signal that ended it, "" where none did."""
        if self.status is None or self.status >= 0:
            return _WINDOWS.get(self.status or 0, "")
        with contextlib.suppress(ValueError):
            return signal.Signals(-self.status).name
        return f"signal {-self.status}"

    @property
    def words(self) -> str:
        """llama.cpp's reason: what it calls an error, else its last words. Paths, its own too, are left out."""
        lines = [line.strip() for line in self.account.splitlines() if line.strip()]
        telling = next((line for line in reversed(lines) if _ERROR in line), lines[-1] if lines else "")
        plain = re.sub(r"\S*/(?=\S)", "", telling.rpartition(_ERROR)[2])
        return "".join(letter if letter.isprintable() else " " for letter in plain)[:_SHOWN].strip(" .")


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a child is to try: the files of a model, or an adapter together with them."""

    model: list[Path]
    adapter: Path | None = None

    @property
    def all(self) -> list[Path]:
        """Every file of it."""
        return [*self.model, self.adapter] if self.adapter else self.model

    @property
    def new(self) -> Path:
        """The file that is on trial."""
        return self.adapter or self.model[0]


class _Unable(Exception):
    """The child could not be asked, which is not the file's fault."""


def check(path: Path, tell: Tell, adapter: Path | None = None) -> None:
    """Return if the GGUF file `path`, and the parts that go with it, may be loaded in this process.

    With an `adapter`, whether that may be applied to this model, which was checked before. Only headers are read where
    no child can be run. `tell` is called while that is found out; what it raises ends it, and is raised here. Raises
    `ModelCorrupt`, `EngineError` where the trial could not be finished, `ConfigError` for no adapter of this model.
    """
    if _known_good(_Subject([path], adapter), tell):
        return
    subject = _Subject(parts(path), adapter)
    if adapter:
        adapters.check(adapter, path)
    python = interpreter()
    if python is None:
        return
    try:
        known = _known_as(subject, tell)
        verdict = _NOTES.get(known) if known else None
        if not isinstance(verdict, str):
            verdict = _ask(python, subject, tell)
            if known:
                _NOTES.put(known, verdict)
    except _Unable as reason:
        _log.warning("%s is loaded without having been tried in a process of its own: %s", subject.new.name, reason)
        return
    if verdict != _OK:
        raise _corrupt(subject.new, verdict, _OTHER_ADAPTER.format(model=path.name) if adapter else NEXT_STEP)


def _known_good(subject: _Subject, tell: Tell) -> bool:
    """Return whether a model of this file alone was tried, so that its header need not be read again."""
    with contextlib.suppress(ModelCorrupt, _Unable):
        known = _known_as(subject, tell)
        return known is not None and _NOTES.get(known) == _OK
    return False


def parts(path: Path) -> list[Path]:
    """Return the files of a model, of which `path` is the first, by what their headers say.

    Raises `ModelCorrupt` where a header cannot be true, or a part is missing.
    """
    first = read_header(path)
    context = first.metadata.get(f"{first.architecture}.context_length")
    if isinstance(context, int) and context < _CONTEXT:
        raise _corrupt(
            path, f"it says that it reads {context} tokens at most, where {_CONTEXT} are the least", NEXT_STEP
        )
    if first.split_count == 1 and not first.split_no:
        return [path]
    named = PART.fullmatch(path.name)
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


def _library() -> str:
    """Return the version of llama.cpp's package, "" where the application does not bring its metadata."""
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return ""


def _known_as(subject: _Subject, tell: Tell) -> str | None:
    """Return what a verdict on these contents is remembered by, None where it cannot be."""
    library = _library()
    try:
        contents = " ".join(digests.sha256_of(file, tell) for file in subject.all)
    except OSError as error:
        raise _corrupt(subject.new, f"it cannot be read: {error.strerror}") from None
    return f"{hashlib.sha256(contents.encode()).hexdigest()} {_TRIAL} {library} {processor()}" if library else None


def _ask(python: str, subject: _Subject, tell: Tell) -> str:
    """Return a verdict that may be remembered. Raises `_Unable`; `EngineError` for one that may not."""
    try:
        first, size = subject.new, sum(file.stat().st_size for file in subject.all)
    except OSError as error:
        raise _Unable(f"{subject.new.name}: {error.strerror}") from None
    seconds, space = SECONDS + size / BYTES_PER_SECOND, _SPACE + _TIMES * size
    opened = [str(file.absolute()) for file in (subject.model[0], subject.adapter) if file]
    command = [python, "-P", "-c", _BOOT, _root(), _library(), f"{seconds}", f"{space}", *opened]
    _log.info("%s is new here, and is tried in a process of its own", first.name)
    ended = _run(command, seconds, tell)
    verdict = _verdict(first, ended, seconds)
    if verdict == _OK:
        return _OK
    try:
        again = _run(command, max(0.0, seconds - ended.took), tell)
        second = _verdict(first, again, seconds)
    except _Unable as reason:  # the file is not loaded after what it did to the first
        raise _corrupt(first, f"{verdict}; and no second trial could begin: {reason}. Try again") from None
    if (again.status, again.said) != (ended.status, ended.said):
        raise _corrupt(first, f"of two trials, the first ended so: {verdict}; and the other so: {second}. Try again")
    return second


def _verdict(file: Path, ended: _Ended, seconds: float) -> str:
    """Return what one child says of a file. Raises as `_ask` does."""
    if ended.said[:1] != [_READY]:
        raise _Unable(ended.words or f"the child was not ready, and ended with status {ended.status}")
    if ended.status is None or ended.name == "SIGXCPU":
        raise _corrupt(file, f"it took longer than {seconds:.0f} s to try; if this machine is busy now, try again")
    words = f" ({ended.words})" if ended.words else ""
    if ended.status == 0 and ended.said[1:] == [_OK]:
        return _OK
    _heed_the_machine(file, ended, words)
    if ended.status == 0 and ended.said[1:] == [_UNREADABLE]:
        return f"llama.cpp refuses it{words}"
    if ended.name in _CRASHES:
        return f"llama.cpp crashes of it, {ended.name}{words}"
    raise EngineError(
        f"{file.name} was not loaded: something ended the process that tried it ({ended.name or ended.status}), "
        "perhaps for want of memory. Free some, take a smaller model or lower its n_ctx, and try again."
    )


def _heed_the_machine(file: Path, ended: _Ended, words: str) -> None:
    """Raise what ended a trial and need not be the file's fault."""
    if NO_MEMORY.search(ended.account):
        step = "Close other programs, or take a smaller model."
        raise _corrupt(file, f"it asks for more memory than there is for it here{words}", step)
    if ended.name == "SIGILL":
        raise EngineError("llama.cpp was built for another processor than this one; install llama-cpp-python anew.")
    if ended.name == "SIGBUS" or _NOT_READ.search(ended.account):
        raise _corrupt(file, f"it cannot be read to its end{words}. See whether its disk is well, and try again")
    if ended.status == 1 and words:  # an error of Python, which another version of Gieok may not have
        raise _corrupt(file, f"it could not be tried{words}. Try again; if that stays so, install Gieok anew")


# ---- the parent's side


def _run(command: Sequence[str], seconds: float, tell: Tell) -> _Ended:
    """Run a child until it ends, its time is over or `tell` raises; none is left behind."""
    with contextlib.ExitStack() as stack:
        try:
            said, account = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=said, stderr=account, env=_environment(command[0]),
                start_new_session=True, creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )  # fmt: skip
        except OSError as error:
            raise _Unable(f"{error.filename or command[0]}: {error.strerror}") from None
        if child.stdin:
            stack.callback(child.stdin.close)  # open as long as somebody waits
        try:
            status, took = _wait(child, said, seconds, tell)
        finally:
            if child.returncode is None:
                _end(child)
        return _Ended(status, _tail(said).split(), _tail(account), took)


def _environment(python: str) -> dict[str, str]:
    """Return the child's environment: our modules, no network, no GPU, no debugger that writes a backtrace."""
    ours = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "GGML_NO_BACKTRACE": "1"}
    few = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}  # address space goes by threads
    entries: list[object] = [*sys.path]  # hosts put paths there, too, which Python passes over; "" is this folder
    paths = [str(Path(entry).absolute()) for entry in entries if isinstance(entry, str)]
    found = {"PYTHONPATH": os.pathsep.join(paths)} if python == sys.executable else {}
    return {**os.environ, **ours, **few, **found, "PYTHONUTF8": "1"}


def _root() -> str:
    """Return the folder that holds the package."""
    return str(Path(__file__).absolute().parents[1])


def _wait(child: subprocess.Popen[bytes], said: IO[bytes], seconds: float, tell: Tell) -> tuple[int | None, float]:
    """Return the status of a child, None where its time was over, and the seconds since it was ready."""
    ready, end = None, time.monotonic() + START_SECONDS
    while True:
        tell()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(_LOOK), time.monotonic() - ready if ready else 0.0
        now = time.monotonic()
        if ready is None and os.fstat(said.fileno()).st_size:  # to read it would move where the child writes
            ready, end = now, now + seconds
        if now > end:
            return None, seconds


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


def main(library: str, seconds: str, space: str, path: str, adapter: str | None = None) -> None:
    """Try one file in this process, and say what came of it; whoever runs this must be ready for its death."""
    from engine.llama import has_gpu

    _end_with_parent()
    if library and version("llama-cpp-python") != library:
        sys.exit(f"this interpreter has another llama-cpp-python than {library}")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what C prints is no answer
    has_gpu()  # llama.cpp starts here
    files = [Path(file) for file in (path, adapter) if file]
    _read(files)  # what this process cannot read says nothing of the file
    _limit(float(seconds), int(space))
    print(_READY, file=answers, flush=True)
    try:
        _try(*files)
    except EngineError:
        _read(files)  # can it be read still?
        print(_UNREADABLE, file=answers, flush=True)
    else:
        print(_OK, file=answers, flush=True)
    os._exit(0)  # whatever the file did to this process, it is over


def _read(files: Sequence[Path]) -> None:
    for file in files:
        parts(file)


def _try(path: Path, adapter: Path | None = None) -> None:
    """Do once what an engine does with a file."""
    from engine.llama import Context, ContextParams, Model
    from engine.scheduler import Chunk, Job

    model = Model(path, repack=False)
    if adapter:
        model.adapt(adapter, 1.0)
    model.vocabulary.read()
    for text in _letters():  # of a byte that is no token, llama.cpp dies when a text first has it
        model.vocabulary.tokenize(text)
    context = Context(model, ContextParams(min(_CONTEXT, model.context_length), _BATCH, 1, 2, 2))
    token = max(0, min(model.vocabulary.bos, model.vocabulary.size - 1))
    context.decode([Chunk(Job([token], 1), 0, 0, [token], 1)])
    if adapter:
        _answer(context)
    model.close()


def _answer(context: Context) -> None:
    """See that what the model answers with its adapter are numbers."""
    try:
        context.logits(0)
    except EngineError:
        _log.error("what the model answers with it are no numbers")
        raise


def _letters() -> Iterator[str]:
    """Yield every letter of the first plane, and of each other one enough for all bytes that UTF-8 is made of."""
    planes = ((first, first + 0x1000) for first in range(0x10000, 0x110000, 0x10000))
    for first, end in ((0, 0xD800), (0xE000, 0x10000), *planes):  # in between are halves of letters
        for start in range(first, end, 256):
            yield "".join(map(chr, range(start, start + 256)))


def _limit(seconds: float, space: int) -> None:
    """Bind this process from here on, as far as its system can; it may be bound more tightly already."""
    try:
        import resource
    except ImportError:
        return
    processor_time = int(time.process_time() + 2 * seconds) + 1
    wanted = [(resource.RLIMIT_CPU, processor_time), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 1 << 20)]
    with contextlib.suppress(OSError, ValueError):  # llama.cpp for a GPU reserves much before it is asked for anything
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        wanted.append((resource.RLIMIT_AS, pages * resource.getpagesize() + space))
    for kind, most in wanted:
        _, hard = resource.getrlimit(kind)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _end_with_parent() -> None:
    """End this process when the parent's end of its input closes; nothing is ever written there."""

    def watch() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
