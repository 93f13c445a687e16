"""The memory of this machine and of this process, as the system tells it; sizes are bytes."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

CGROUPS, PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self")
_Level = Callable[[Path], "tuple[int, int] | None"]
# what systems, torch, numpy and OpenVINO say: often as a plain RuntimeError or OSError
_NO_MEMORY = re.compile(
    r"bad_alloc|DefaultCPUAllocator|can(?:'|no)t allocate memory|unable to allocate|(?:out of|not enough) memory",
    re.IGNORECASE,
)


def no_memory(said: str) -> bool:
    """Return whether an error that says this is for want of memory."""
    return _NO_MEMORY.search(said) is not None


@dataclass(frozen=True, slots=True)
class Memory:
    """RAM in all, and what a process could still have of it without anything being swapped."""

    total: int
    available: int


@dataclass(frozen=True, slots=True)
class Resident:
    """What a process has in RAM: its own memory, and pages of files, which the system can drop and read again."""

    anonymous: int
    file_backed: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.anonymous + self.file_backed


def memory(cgroups: Path = CGROUPS, process: Path = PROCESS) -> Memory:
    """Return this machine's memory, lowered to what the cgroups of this process leave it.

    `cgroups` is where the system mounts them, `process` what it tells of this process; other systems than Linux have
    neither. Raises `OSError` where the system cannot tell now, since no file can be opened, say.
    Sources: https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/memory.html beside it.
    """
    import psutil

    try:
        machine = psutil.virtual_memory()
    except psutil.Error as error:
        raise OSError(str(error)) from None
    total, available = int(machine.total), int(machine.available)
    for limit, left in _limits(cgroups, process):
        total, available = min(total, limit), min(available, left)
    return Memory(total, min(total, available))


def resident(process: Path = PROCESS) -> Resident:
    """Return what this process has in RAM; all of it counts as anonymous where the system does not tell them apart."""
    told = _table(process / "status")  # of kB
    if "RssAnon:" in told:
        return Resident(1024 * told["RssAnon:"], 1024 * (told.get("RssFile:", 0) + told.get("RssShmem:", 0)))
    import psutil

    return Resident(int(psutil.Process().memory_info().rss), 0)


def trim() -> None:
    """Give memory that was freed back to the system, where the C library keeps it and can do that (glibc)."""
    with contextlib.suppress(OSError, TypeError, AttributeError):  # Windows has no such handle, others no such function
        ctypes.CDLL(None).malloc_trim(0)


def _limits(cgroups: Path, process: Path) -> Iterator[tuple[int, int]]:
    """Yield the limit of every cgroup above this process that has one, and how much of it is left."""
    for line in _read(process / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, own = rest.partition(":")
        if "memory" in controllers.split(","):
            yield from _levels(cgroups / "memory", own, _of_version_1)
        elif number == "0" and not controllers:
            yield from _levels(cgroups, own, _of_version_2)


def _levels(mount: Path, own: str, level: _Level) -> Iterator[tuple[int, int]]:
    """Yield the limits from a process's own cgroup up to the mount.

    A container may see the names that its host uses, and its own cgroup at the mount: what is not there is passed by.
    """
    names = [name for name in PurePosixPath(own).parts if name not in ("/", "..")]
    for depth in range(len(names), -1, -1):
        found = level(mount.joinpath(*names[:depth]))
        if found is not None:
            yield found


def _of_version_2(folder: Path) -> tuple[int, int] | None:
    """Above `memory.high` a process is slowed down and its pages are taken, so it is a limit as well."""
    limits = [_number(folder / name) for name in ("memory.max", "memory.high")]
    pages = _pages(_table(folder / "memory.stat"), "")
    return _left(limits, _number(folder / "memory.current"), pages)


def _of_version_1(folder: Path) -> tuple[int, int] | None:
    """No limit is a huge one here, which changes nothing; of cgroups above the mount only the limit can be seen."""
    told = _table(folder / "memory.stat")
    limits = [_number(folder / "memory.limit_in_bytes"), told.get("hierarchical_memory_limit")]
    return _left(limits, _number(folder / "memory.usage_in_bytes"), _pages(told, "total_"))


def _left(limits: Sequence[int | None], used: int | None, pages: int) -> tuple[int, int] | None:
    """Return the lowest limit and what is left of it, or None; pages of files make room where it is needed."""
    limit = min((limit for limit in limits if limit is not None), default=None)
    return None if limit is None else (limit, max(0, limit - max(0, (used or 0) - pages)))


def _pages(told: Mapping[str, int], prefix: str) -> int:
    return sum(told.get(f"{prefix}{kind}_file", 0) for kind in ("inactive", "active"))


def _table(file: Path) -> dict[str, int]:
    """Return name → number of every line that has both."""
    lines = (line.split() for line in _read(file).splitlines())
    found = {words[0]: _whole(words[1]) for words in lines if len(words) in (2, 3)}
    return {name: number for name, number in found.items() if number is not None}


def _number(file: Path) -> int | None:
    return _whole(_read(file).strip())


def _whole(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 20 else None


def _read(file: Path) -> str:
    """Return what a file of the system holds, "" where there is none that may be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # a limit must not vanish for that
            raise
        return ""
    except ValueError:
        return ""
