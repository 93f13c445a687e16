"""What the system says of memory: limits of cgroups in fake trees, and this very process."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.machine import Memory, Resident, memory, resident, trim

GIB = 1 << 30
WHOLE = Memory(16 * GIB, 10 * GIB)
HUGE = 9223372036854771712  # what version 1 says where there is no limit


class System:
    """A fake /sys/fs/cgroup and /proc/self."""

    def __init__(self, folder: Path) -> None:
        self.cgroups, self.process = folder / "cgroup", folder / "self"
        self.cgroups.mkdir()
        self.process.mkdir()

    def of_process(self, *lines: str) -> None:
        (self.process / "cgroup").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def cgroup(self, folder: str, **files: object) -> None:
        """Write files of a cgroup; `stat` is a table."""
        place = self.cgroups / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            text = "".join(f"{key} {n}\n" for key, n in value.items()) if isinstance(value, dict) else f"{value}\n"
            (place / f"memory.{name}").write_text(text, encoding="utf-8")

    @property
    def memory(self) -> Memory:
        return memory(self.cgroups, self.process)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    class Virtual:
        total, available = WHOLE.total, WHOLE.available

    monkeypatch.setattr(psutil, "virtual_memory", Virtual)
    return System(tmp_path)


# ---- cgroups


def test_without_cgroups_the_machine_is_all(system: System) -> None:
    assert system.memory == WHOLE
    system.of_process("0::/user.slice")
    assert system.memory == WHOLE


def test_a_limit_of_version_2_lowers_both(system: System) -> None:
    system.of_process("0::/a/b")
    system.cgroup(
        "a/b", max=4 * GIB, current=3 * GIB, stat={"anon": GIB, "inactive_file": GIB, "active_file": GIB // 2}
    )
    assert system.memory == Memory(4 * GIB, 2 * GIB + GIB // 2)


def test_the_tightest_level_counts_up_to_the_root(system: System) -> None:
    system.of_process("0::/a/b")
    system.cgroup("a/b", max="max", current=GIB)
    system.cgroup("a", max=8 * GIB, current=7 * GIB)
    assert system.memory == Memory(8 * GIB, GIB)
    system.cgroup("a/b", max=6 * GIB, current=GIB)
    assert system.memory == Memory(6 * GIB, GIB)
    system.cgroup("", max=5 * GIB, current=4 * GIB + GIB // 2)
    assert system.memory == Memory(5 * GIB, GIB // 2)


def test_where_a_cgroup_is_slowed_down_is_a_limit(system: System) -> None:
    system.of_process("0::/a")
    system.cgroup("a", max=8 * GIB, high=2 * GIB, current=GIB)
    assert system.memory == Memory(2 * GIB, GIB)


@pytest.mark.parametrize("own", ["/", "/docker/0123456789abcdef", "/../../init.scope", "/a//b"])
def test_a_container_finds_its_limit_at_the_mount(system: System, own: str) -> None:
    system.of_process(f"0::{own}")
    system.cgroup("", max=3 * GIB, current=GIB)
    assert system.memory == Memory(3 * GIB, 2 * GIB)


def test_a_name_cannot_lead_out_of_the_mount(system: System) -> None:
    outside = system.cgroups.with_name("outside")
    outside.mkdir()
    (outside / "memory.max").write_text("1\n", encoding="utf-8")
    system.of_process("0::/../outside")
    assert system.memory == WHOLE


def test_a_limit_of_version_1(system: System) -> None:
    system.of_process("5:devices:/x", "4:cpu,memory:/jobs/one", "0::/")
    system.cgroup("memory", limit_in_bytes=HUGE, usage_in_bytes=9 * GIB, stat={"hierarchical_memory_limit": HUGE})
    system.cgroup("memory/jobs", limit_in_bytes=4 * GIB, usage_in_bytes=3 * GIB)
    assert system.memory == Memory(4 * GIB, GIB)
    system.cgroup("memory/jobs/one", limit_in_bytes=2 * GIB, usage_in_bytes=2 * GIB, stat={"total_active_file": GIB})
    assert system.memory == Memory(2 * GIB, GIB)


def test_no_limit_of_version_1_is_none(system: System) -> None:
    system.of_process("4:memory:/")
    system.cgroup("memory", limit_in_bytes=HUGE, usage_in_bytes=GIB)
    assert system.memory == WHOLE


def test_of_a_cgroup_above_the_mount_the_limit_is_still_seen(system: System) -> None:
    system.of_process("4:memory:/")
    stat = {"hierarchical_memory_limit": 2 * GIB, "total_inactive_file": GIB // 2}
    system.cgroup("memory", limit_in_bytes=HUGE, usage_in_bytes=GIB, stat=stat)
    assert system.memory == Memory(2 * GIB, GIB + GIB // 2)


def test_who_is_over_the_limit_has_nothing_left(system: System) -> None:
    system.of_process("0::/a")
    system.cgroup("a", max=GIB, current=3 * GIB)
    assert system.memory == Memory(GIB, 0)


def test_more_than_the_machine_has_is_no_limit(system: System) -> None:
    system.of_process("0::/a")
    system.cgroup("a", max=64 * GIB, current=GIB)
    assert system.memory == WHOLE


WILD = st.binary(max_size=60) | st.sampled_from(
    [b"max", b"-1", b"", b"9" * 30, b"9" * 5000, "४".encode(), b"12\n13", b"inactive_file x\nactive_file 4\nfoo"]
)


@given(names=WILD, contents=st.lists(WILD, min_size=4, max_size=4), old=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_odd_files_never_raise(system: System, names: bytes, contents: list[bytes], old: bool) -> None:
    own = b"4:memory:/" if old else b"0::/"
    (system.process / "cgroup").write_bytes(own + names + b"\n:::::\n\n0\n" + own)
    files = ("limit_in_bytes", "usage_in_bytes", "stat", "x") if old else ("max", "current", "stat", "high")
    place = system.cgroups / ("memory" if old else "")
    place.mkdir(exist_ok=True)
    for name, content in zip(files, contents, strict=True):
        (place / f"memory.{name}").write_bytes(content)
    (system.process / "status").write_bytes(names)
    found = system.memory
    assert 0 <= found.available <= found.total <= WHOLE.total
    assert resident(system.process).total > 0


# ---- this machine and this process


def test_this_machine_has_memory() -> None:
    found = memory()
    assert 0 < found.available <= found.total <= psutil.virtual_memory().total


def test_what_a_process_has_as_linux_tells_it(tmp_path: Path) -> None:
    told = "Name:\tx\nVmRSS:\t 999 kB\nRssAnon:\t 10 kB\nRssFile:\t 20 kB\nRssShmem:\t 3 kB\nThreads:\t2\n"
    (tmp_path / "status").write_text(told, encoding="utf-8")
    assert resident(tmp_path) == Resident(10 * 1024, 23 * 1024)
    assert resident(tmp_path).total == 33 * 1024


def test_elsewhere_all_counts_as_its_own(tmp_path: Path) -> None:
    found = resident(tmp_path)
    assert found.file_backed == 0
    assert found.anonymous > 10_000_000  # an interpreter with pytest in it


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not tell them apart")
def test_memory_and_pages_of_a_file_are_told_apart(tmp_path: Path) -> None:
    size = 64_000_000
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    before = resident()
    # not from the heap, which may hold what earlier tests freed
    own = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    own.write(b"y" * size)
    between = resident()
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as pages:
        assert sum(pages[::4096]) > 0
        after = resident()
    own.close()
    assert between.anonymous - before.anonymous == pytest.approx(size, rel=0.1)
    assert after.file_backed - between.file_backed == pytest.approx(size, rel=0.1)


def test_freed_memory_is_given_back() -> None:
    pieces = [bytes(10_000) for _ in range(10_000)]  # too small to be mapped, so that the C library keeps them
    held = resident().total
    last = pieces[-1]
    del pieces
    trim()
    if sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "malloc_trim"):
        assert resident().total < held - 80_000_000
    assert len(last) == 10_000


def test_who_cannot_give_back_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for failure in (OSError, TypeError, AttributeError):

        def fail(_name: None, failure: type[Exception] = failure) -> None:
            raise failure

        monkeypatch.setattr(ctypes, "CDLL", fail)
        trim()
