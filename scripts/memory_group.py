"""A group of processes that may hold only so much memory, where Linux lets one be made; and what processes hold."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

ENTER = 'echo $$ > "$0" && exec "$@"'  # the shell enters the group, then becomes the command
_EMPTY_WITHIN = 5.0  # seconds until a group whose processes were ended must be gone


@dataclass(frozen=True, slots=True)
class Kind:
    """How one version of Linux's control groups calls its files; `kills` and `held_back` name a line of theirs."""

    root: Path
    controllers: str | None
    limit: str
    swap: tuple[str, str | None]  # the file, and what it is given; None: the limit itself
    peak: str
    held_back: tuple[str, str | None]
    kills: tuple[str, str]


V1 = Kind(
    Path("/sys/fs/cgroup/memory"), None, "memory.limit_in_bytes", ("memory.memsw.limit_in_bytes", None),
    "memory.max_usage_in_bytes", ("memory.failcnt", None), ("memory.oom_control", "oom_kill"),
)  # fmt: skip
V2 = Kind(
    Path("/sys/fs/cgroup"), "cgroup.controllers", "memory.max", ("memory.swap.max", "0"),
    "memory.peak", ("memory.events", "max"), ("memory.events", "oom_kill"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Account:
    """What the kernel counted of a group: the most bytes it held, files it read included; None: not told.

    `held_back` is how often the limit was met, and pages of files had to go; `kills` how many processes it cost.
    """

    limit: int
    peak: int | None
    held_back: int | None
    kills: int | None

    def to_dict(self) -> dict[str, int | None]:
        """Return JSON-ready values."""
        return asdict(self)


class MemoryGroup:
    """One group, in a folder of the kernel's."""

    def __init__(self, kind: Kind, folder: Path, limit: int) -> None:
        self._kind, self._folder, self._limit = kind, folder, limit

    def command(self, command: Sequence[str]) -> list[str]:
        """Return a command that runs `command` inside the group from its first instruction."""
        return ["/bin/sh", "-c", ENTER, str(self._folder / "cgroup.procs"), *command]

    def processes(self) -> list[int]:
        """Return who is inside."""
        return [int(pid) for pid in _read(self._folder / "cgroup.procs").split()]

    def account(self) -> Account:
        """Return what was counted so far."""
        kind = self._kind
        peak, held_back, kills = (self._number(*place) for place in ((kind.peak, None), kind.held_back, kind.kills))
        return Account(self._limit, peak, held_back, kills)

    def _number(self, file: str, line: str | None) -> int | None:
        words = _read(self._folder / file).split()
        if line is not None:
            words = words[words.index(line) + 1 :] if line in words else []
        return int(words[0]) if words else None

    def bind(self) -> None:
        """Set the limits. Raises `OSError`."""
        (self._folder / self._kind.limit).write_text(str(self._limit), encoding="ascii")
        file, value = self._kind.swap
        with contextlib.suppress(OSError):  # a kernel that does not count swap has no such file
            (self._folder / file).write_text(value or str(self._limit), encoding="ascii")

    def remove(self) -> None:
        """End who is still inside, then remove the group. Raises `OSError` where that takes too long."""
        until = time.monotonic() + _EMPTY_WITHIN
        while True:
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                return self._folder.rmdir()
            except OSError:
                if time.monotonic() > until:
                    raise
            time.sleep(0.05)


@contextlib.contextmanager
def limited(limit: int, kinds: Sequence[Kind] = (V2, V1)) -> Iterator[MemoryGroup | None]:
    """Lend a group that holds at most `limit` bytes; None where none can be had. Afterwards it is empty and gone."""
    group = next(filter(None, (_make(kind, limit) for kind in kinds)), None)
    try:
        yield group
    finally:
        if group is not None:
            group.remove()


def _make(kind: Kind, limit: int) -> MemoryGroup | None:
    if kind.controllers and "memory" not in _read(kind.root / kind.controllers).split():
        return None
    folder = kind.root / f"gieok-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:  # no such controller, or not ours to use
        return None
    group = MemoryGroup(kind, folder, limit)
    try:
        group.bind()
    except OSError:
        group.remove()
        return None
    return group


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes of RAM of some processes: nobody else can have what is `anonymous`, pages of files can be read again.

    A page of a file counts for each process that has it mapped. Where a system does not tell the two apart, all is
    `anonymous`.
    """

    anonymous: int
    file_backed: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.anonymous + self.file_backed

    def __add__(self, other: Resident) -> Resident:
        return Resident(self.anonymous + other.anonymous, self.file_backed + other.file_backed)


def resident(pids: Sequence[int]) -> Resident:
    """Return what processes hold together; who has ended holds nothing.

    A process that was forked and is no other program yet shares its parent's memory, which counts once.
    """
    return sum((_resident(pid) for pid in pids if not _is_fork(pid, pids)), Resident(0, 0))


def family(pid: int) -> list[int]:
    """Return a process and its children, theirs too; nothing where it has ended."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.Error:
        return []


def _is_fork(pid: int, pids: Sequence[int]) -> bool:
    try:
        process = psutil.Process(pid)
        parent = process.ppid()
        return parent in pids and process.cmdline() == psutil.Process(parent).cmdline()
    except psutil.Error:
        return False


def _resident(pid: int) -> Resident:
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return Resident(0, 0)
    files = getattr(memory, "shared", 0)  # what Linux calls so is pages of files, and memory made to be shared
    return Resident(memory.rss - files, files)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def forget_pages(files: Sequence[Path]) -> None:
    """Ask the kernel to drop its copies of files, so that who reads them next is charged for them."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in files:
        with contextlib.suppress(OSError), file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
