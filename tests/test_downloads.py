"""Downloads from a faulty hub over the loopback: the right bytes, or a typed error; never a wrong file in its place."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import fake_hub
import pulls
import pytest
from fake_hub import FakeHub, Fault, sha256
from pulls import MIB, REPO, model, whole, wrong

from engine import fetch, hub, workplace
from engine.config import ModelSpec
from engine.errors import Cancelled, DownloadError
from engine.metrics import Progress

BIG = "weights.gguf"  # comes from the CDN
SMALL = "1_Pooling/config.json"  # comes from the hub itself, with git's id for a hash
RIGHT = {BIG: b"GGUF" + bytes(range(256)) * 1200, SMALL: b'{"pooling_mode_cls_token": true}' * 20}
SIZE = {name: len(content) for name, content in RIGHT.items()}
EITHER = pytest.mark.parametrize("name", [BIG, SMALL])
TOKEN = "hf_secretsecretsecret"
TRIES = 4


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models folder, which is never seen to hold a wrong file."""
    folder = tmp_path / "내 모델"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIEOK_MODELS", str(folder))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(fetch, "PATIENCE", pulls.patience(stall=pulls.HANG, tries=TRIES))
    return folder


@pytest.fixture(autouse=True, scope="module")
def _sockets() -> Iterator[None]:
    """Close the client that the hub's library shares between all calls."""
    from huggingface_hub.utils import close_session

    close_session()  # it has read the proxy's settings
    yield
    close_session()


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub(token=TOKEN) as running:
        running.commit(REPO, RIGHT)
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running


def pull(*names: str, progress: Callable[[Progress], object] | None = None, right: dict[str, bytes] = RIGHT) -> Path:
    """Pull, and look into the model's folder at every event: what is there is right at any time."""

    def look(event: Progress) -> object:
        assert not wrong(right)
        return progress(event) if progress else None

    try:
        return hub.pull(model(*(names or right)), progress=look)
    finally:
        assert not wrong(right)


def refused(*names: str, right: dict[str, bytes] = RIGHT) -> DownloadError:
    """Pull what cannot come, and return the error, which names its file."""
    with pytest.raises(DownloadError) as caught:
        pull(*names, right=right)
    assert caught.value.file in str(caught.value)
    return caught.value


def bodies(remote: FakeHub, name: str) -> list[fake_hub.Asked]:
    """Return the requests that should have sent bytes of a file."""
    return [asked for asked in remote.gets(name) if asked.status != 302]


def look_out(patch: pytest.MonkeyPatch, *faults: Fault) -> None:
    """Wait for bytes no longer than for a moment, where the hub will send none; elsewhere a busy machine may take long."""
    if any(fault.name == "stall" for fault in faults):
        patch.setattr(fetch, "PATIENCE", pulls.patience(stall=0.3, tries=TRIES))


# ---- faults that pass


class Passing(NamedTuple):
    """Faults, one a request, after which the right bytes come; `again` is how many bytes of the file may come twice."""

    faults: list[Fault]
    again: int = 0


ALL = MIB  # the file came anew
CUT = fake_hub.drop(300)  # leaves a part, so that the next request is for a range
PASSING = {
    "dropped": Passing([fake_hub.drop(1), fake_hub.drop(100), fake_hub.drop(300)]),
    "dropped at once": Passing([fake_hub.drop(0)] * (TRIES - 1)),
    "dropped at its end": Passing([fake_hub.drop(SIZE[SMALL] - 1)]),
    "dropped more often than there are tries": Passing([fake_hub.drop(9)] * 3 * TRIES),
    "reset": Passing([fake_hub.drop(300, reset=True)] * 2, again=ALL),  # a reset discards what was on its way
    "closed before an answer": Passing([fake_hub.closed(), CUT, fake_hub.closed()]),
    "short": Passing([fake_hub.short(10)], again=ALL),
    "short rest": Passing([CUT, fake_hub.short(200), fake_hub.short(10)]),
    "empty": Passing([fake_hub.short(10**9)]),
    "long": Passing([fake_hub.long(10)], again=ALL),
    "a flipped bit": Passing([fake_hub.flip(99)], again=ALL),
    "a flipped bit in the rest": Passing([CUT, fake_hub.flip(-1)], again=ALL),
    "length too large": Passing([fake_hub.length(10)], again=ALL),
    "length too small": Passing([fake_hub.length(-10)], again=ALL),
    "length of the rest too large": Passing([CUT, fake_hub.length(10)], again=ALL),
    "length of the rest too small": Passing([CUT, fake_hub.length(-10)], again=ALL),
    "no length": Passing([fake_hub.chunked(300), fake_hub.chunked()]),
    "range ignored": Passing([CUT, fake_hub.whole()], again=300),
    "range from elsewhere": Passing([CUT, fake_hub.elsewhere(7)], again=ALL),
    "range from later on": Passing([CUT, fake_hub.elsewhere(-7)], again=ALL),
    "range from the start": Passing([CUT, fake_hub.elsewhere(10**9)], again=ALL),
    "range of another name": Passing([CUT, fake_hub.misnamed("bytes 0-1/2")], again=ALL),
    "range without a name": Passing([CUT, fake_hub.misnamed("")], again=ALL),
    "range that cannot be": Passing([CUT, fake_hub.misnamed("bytes 5000000-1/x")], again=ALL),
    "another file, with its ETag": Passing([CUT, fake_hub.replaced(b"x" * SIZE[BIG])], again=ALL),
    "a shorter file, with its ETag": Passing([CUT, fake_hub.replaced(b"x" * 9)], again=ALL),
    "another ETag alone": Passing([CUT, fake_hub.retagged()], again=300),
    "416": Passing([CUT, fake_hub.status(416)], again=ALL),
    "429 with seconds": Passing([fake_hub.status(429, retry_after="1"), CUT, fake_hub.status(429, retry_after="0")]),
    "429 with a date": Passing([fake_hub.status(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT")]),
    "429 with nonsense": Passing([fake_hub.status(429, retry_after="9" * 40), fake_hub.status(429, retry_after="-1")]),
    "a burst of 503": Passing([fake_hub.status(503)] * (TRIES - 1) + [CUT] + [fake_hub.status(503)] * (TRIES - 2)),
    "408, 500, 502, 504": Passing([fake_hub.status(n) for n in (408, 500, 502)] + [CUT, fake_hub.status(504)]),
    "slow": Passing([fake_hub.slow(2 * MIB)]),
    "stalled at once": Passing([fake_hub.stall(0)]),
    "stalled": Passing([fake_hub.stall(300), fake_hub.stall(9)]),
    "gzip": Passing([fake_hub.zipped()], again=ALL),
    "gzip for a range": Passing([CUT, fake_hub.zipped()], again=ALL),
    "a page of the network": Passing([fake_hub.page()], again=ALL),
}


@EITHER
@pytest.mark.parametrize("case", PASSING.values(), ids=PASSING)
def test_the_right_bytes_come_after(remote: FakeHub, monkeypatch: pytest.MonkeyPatch, name: str, case: Passing) -> None:
    remote.plan(name, *case.faults)
    look_out(monkeypatch, *case.faults)
    pull()
    assert whole(RIGHT)
    assert remote.planned(name) == 0, "every fault came up"
    assert remote.again(name) <= case.again


@pytest.mark.parametrize(
    "fault",
    [fake_hub.status(503, gate=True), fake_hub.status(429, retry_after="0", gate=True), fake_hub.closed(gate=True)],
)
def test_the_address_of_a_large_file_is_asked_for_again(remote: FakeHub, fault: Fault) -> None:
    remote.plan(BIG, fault, CUT, fault)
    pull()
    assert whole(RIGHT) and remote.again(BIG) == 0 and remote.planned(BIG) == 0


@pytest.mark.parametrize(
    "faults",
    [
        [fake_hub.status(503)] * (TRIES - 1),
        [fake_hub.status(429, retry_after="0"), fake_hub.status(500)],
        [fake_hub.closed(), fake_hub.drop(9), fake_hub.drop(50, reset=True)],
        [fake_hub.stall(0), fake_hub.stall(9)],
        [fake_hub.chunked()],
    ],
)
def test_the_listing_is_asked_for_again(remote: FakeHub, monkeypatch: pytest.MonkeyPatch, faults: list[Fault]) -> None:
    remote.plan(REPO, *faults)
    look_out(monkeypatch, *faults)
    pull()
    assert whole(RIGHT) and len(remote.gets(REPO)) == len(faults) + (faults[0].name != "chunked")


# ---- faults that stay


class Staying(NamedTuple):
    """What every request gets, and what the error says; `asks` is how often a file is asked for, where that is fixed."""

    fault: Fault
    says: str
    asks: int | None = None


STAYING = {
    "401": Staying(fake_hub.status(401), "401.*HF_TOKEN", 1),
    "403": Staying(fake_hub.status(403), "403.*HF_TOKEN", 1),
    "403 of a gated repository": Staying(fake_hub.status(403, "GatedRepo"), "accept its terms.*HF_TOKEN", 1),
    "404": Staying(fake_hub.status(404, "EntryNotFound"), "404.*source.files", 1),
    "404 without a word": Staying(fake_hub.status(404), "404", 1),
    "410": Staying(fake_hub.status(410), "410", 1),
    "429": Staying(fake_hub.status(429, retry_after="1"), "429.*4 times", TRIES),
    "503": Staying(fake_hub.status(503), "503.*4 times", TRIES),
    "dropped": Staying(fake_hub.drop(0), "4 times in a row.*kept", TRIES),
    "closed": Staying(fake_hub.closed(), "4 times in a row", TRIES),
    "reset": Staying(fake_hub.drop(0, reset=True), "4 times in a row", TRIES),
    "stalled": Staying(fake_hub.stall(0), "4 times in a row", TRIES),
    "empty": Staying(fake_hub.short(10**9), "has 0 bytes .* expected, twice", 2),
    "416": Staying(fake_hub.status(416), "416|after 0 of"),
    "a flipped bit": Staying(fake_hub.flip(5), "twice; (nothing of it was|what came before is) kept", 2),
    "long": Staying(fake_hub.long(5), "(is longer than|bytes at its source where).*twice", 2),
    "length too large": Staying(fake_hub.length(5), "bytes at its source where .* expected", 2),
    "another file": Staying(fake_hub.replaced(b"x" * 5000), "twice; (nothing of it was|what came before is) kept", 2),
    "a page of the network": Staying(fake_hub.page(), "twice; (nothing of it was|what came before is) kept", 2),
    "redirect loop": Staying(fake_hub.redirected(""), "redirect", 1),
    "redirect to nowhere": Staying(fake_hub.redirected("http://127.0.0.1:9/x"), "times in a row"),
    "redirect to no address": Staying(fake_hub.redirected("gopher://x/y"), "address|protocol|redirect", 1),
}


@EITHER
@pytest.mark.parametrize("case", STAYING.values(), ids=STAYING)
def test_what_never_comes_is_an_error(
    remote: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch, name: str, case: Staying
) -> None:
    remote.plan(name, then=case.fault)
    look_out(monkeypatch, case.fault)
    with pytest.raises(DownloadError, match=f"(?is){name}.*({case.says})") as caught:
        pull()
    assert caught.value.file == name
    assert not (models / "tiny" / name).exists()
    reached = bodies(remote, name) if case.fault.name not in ("loop", "redirected") else []
    assert case.asks is None or not reached or len(reached) == case.asks
    remote.plan(name)
    pull()
    assert whole(RIGHT), "it comes when the hub is well again"


def test_a_redirect_loop_is_left_soon(remote: FakeHub) -> None:
    remote.plan(BIG, then=fake_hub.redirected(""))
    refused()
    assert len(remote.gets(BIG)) <= 50


REFUSALS = [
    (fake_hub.status(401, "RepoNotFound"), r"401.*source\.repo", 1),
    (fake_hub.status(403, "GatedRepo"), "403.*HF_TOKEN", 1),
    (fake_hub.status(404, "RepoNotFound"), r"404.*source\.repo", 1),
    (fake_hub.status(404, "RevisionNotFound"), "404.*revision", 1),
    (fake_hub.status(503), "503.*4 times", TRIES),
    (fake_hub.page(), "HF_ENDPOINT", 1),
    (fake_hub.page("[1, 2]"), "HF_ENDPOINT", 1),
    (fake_hub.page('{"siblings": 3}'), "HF_ENDPOINT", 1),
    (fake_hub.page(""), "HF_ENDPOINT", 1),
    (fake_hub.redirected(""), "redirect", None),
    (fake_hub.stall(3), "4 times", TRIES),
]


@pytest.mark.parametrize(("fault", "says", "asks"), REFUSALS)
def test_a_listing_that_never_comes_is_an_error(
    remote: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, says: str, asks: int | None
) -> None:
    remote.plan(REPO, then=fault)
    look_out(monkeypatch, fault)
    with pytest.raises(DownloadError, match=f"(?is){REPO}.*{says}"):
        pull()
    assert asks in (None, len(remote.gets(REPO)))
    assert not (models / "tiny").exists()


def test_no_hub_at_all(remote: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "times in a row" in str(refused())
    monkeypatch.setenv("HF_ENDPOINT", "not an address")
    with pytest.raises(DownloadError, match=r"not an address.*HF_ENDPOINT"):
        pull()
    assert not remote.asked


@EITHER
@pytest.mark.parametrize("told", [{"size": 7}, {"size": 10**6}, {"size": 0}, {"sha256": "1" * 64, "blobId": "1" * 40}])
def test_a_listing_that_lies_is_an_error(remote: FakeHub, models: Path, name: str, told: dict[str, Any]) -> None:
    remote.claim(REPO, name, **told)
    assert refused().file == name
    assert not (models / "tiny" / name).exists()


def test_a_hash_of_the_catalogue_is_believed_more_than_the_hub(remote: FakeHub, models: Path) -> None:
    for name in RIGHT:
        with pytest.raises(DownloadError, match="0000"):
            hub.pull(model(name, sha256={name: "0" * 64}))
        assert not (models / "tiny" / name).exists()
    assert remote.sent(BIG) == 0, "the listing has told its hash"


@pytest.mark.parametrize(
    "name", ["../escape.json", "/escape.json", "a/../../../escape.json", "C:\\escape.json", "a\nb.json"]
)
def test_a_repository_cannot_write_outside_of_its_folder(remote: FakeHub, tmp_path: Path, name: str) -> None:
    """All files of an embedding model are wanted, whatever the listing calls them."""
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    remote.commit(REPO, {"model.safetensors": b"weights", name: b"bad"})
    spec = ModelSpec.model_validate({"name": "tiny", "kind": "embedding", "source": {"repo": REPO}})
    with contextlib.suppress(DownloadError):  # or the file is left out
        hub.pull(spec)
    after = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert not [path for path in after if "escape" in path.name or path.read_bytes() == b"bad"]


# ---- going on


def test_a_pull_goes_on_where_the_last_one_gave_up(remote: FakeHub) -> None:
    remote.plan(BIG, fake_hub.drop(200_000), then=fake_hub.drop(0))
    assert "kept" in str(refused())
    remote.plan(BIG)
    pull()
    assert whole(RIGHT) and remote.again(*RIGHT) == 0
    assert bodies(remote, BIG)[-1].range == "bytes=200000-"


@pytest.mark.parametrize("stop", [Cancelled, KeyboardInterrupt])
def test_a_pull_goes_on_where_it_was_stopped(remote: FakeHub, stop: type[BaseException]) -> None:
    """The stop comes while the hub says nothing, when all that it sent has arrived."""
    remote.plan(BIG, fake_hub.drop(200_000), then=fake_hub.status(503))

    def halt(event: Progress) -> bool | None:
        if event.done < 200_000:
            return None
        if stop is KeyboardInterrupt:
            raise KeyboardInterrupt
        return False

    with pytest.raises(stop):
        pull(progress=halt)
    remote.plan(BIG)
    pull()
    assert whole(RIGHT) and remote.again(*RIGHT) == 0


def test_finished_files_are_kept_when_a_later_one_fails(remote: FakeHub) -> None:
    right = {f"w-0000{i}-of-00003.gguf": bytes([i]) * 100_000 for i in (1, 2, 3)}
    remote.commit(REPO, right)
    remote.plan("w-00003-of-00003.gguf", then=fake_hub.status(404))
    assert refused(right=right).file == "w-00003-of-00003.gguf"
    remote.plan("w-00003-of-00003.gguf")
    pull(right=right)
    assert whole(right) and remote.again(*right) == 0 and remote.sent() == 300_000


def leftover(models: Path) -> Path:
    """Return the largest file that a pull left, which did not end."""
    there = (path for path in (models / ".pull-tiny").rglob("*") if path.is_file())
    return max(there, key=lambda path: path.stat().st_size)


def spoil(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"flipped": bytes(data), "longer": bytes(data) + bytes(MIB), "empty": b""}[how])


@pytest.mark.parametrize("how", ["flipped", "longer", "empty"])
@pytest.mark.parametrize("fault", [fake_hub.drop(0), fake_hub.status(404)], ids=["a part", "a finished file"])
def test_what_was_left_is_not_trusted(remote: FakeHub, models: Path, how: str, fault: Fault) -> None:
    """Between two pulls the disk, or somebody, changes what the first one left."""
    if fault.name == "404":
        remote.plan(SMALL, then=fault)  # the big one is whole then
    else:
        remote.plan(BIG, fake_hub.drop(200_000), then=fault)
    refused()
    spoil(leftover(models), how)
    remote.plan(BIG)
    remote.plan(SMALL)
    pull()
    assert whole(RIGHT)


@pytest.mark.parametrize("size", [SIZE[BIG], 5000], ids=["same size", "shorter"])
def test_a_repository_that_moves_on_between_two_pulls(remote: FakeHub, size: int) -> None:
    """No file is put together of two commits, with hashes (BIG) or without them."""
    remote.plan(BIG, fake_hub.drop(200_000), then=fake_hub.drop(0))
    refused()
    new = {BIG: b"NEWS" * (size // 4), SMALL: b"{}"}
    remote.commit(REPO, new)
    remote.plan(BIG)
    hub.pull(model(*RIGHT))
    assert whole(new) or whole(RIGHT)


def test_a_pinned_commit_that_is_gone_does_not_matter_where_its_files_are_the_same(
    remote: FakeHub, models: Path
) -> None:
    pull()
    (models / "tiny" / BIG).unlink()
    remote.commit(REPO, {**RIGHT, SMALL: b"{}"})
    remote.forget(REPO)
    pull()
    assert whole(RIGHT)
    (models / "tiny" / BIG).unlink()
    remote.commit(REPO, {**RIGHT, BIG: b"NEWS" * 1000})
    remote.forget(REPO)
    with pytest.raises(DownloadError, match=r"models\.lock.*models remove"):
        pull()


def test_a_repository_that_moves_on_during_a_pull(remote: FakeHub) -> None:
    def push(asked: fake_hub.Asked) -> None:
        if asked.about == BIG:
            remote.watch = None
            remote.commit(REPO, {BIG: b"NEWS" * 1000, SMALL: b"{}"})

    remote.watch = push
    pull()
    assert whole(RIGHT), "all of one commit"


def test_the_lock_tells_what_came(remote: FakeHub, models: Path) -> None:
    commit = remote.commit(REPO, RIGHT)
    pull()
    text = (models / "models.lock").read_text(encoding="utf-8")
    assert commit in text
    entries = json.loads(text)["models"]["tiny"]["files"]
    assert {n: (e["size"], e["sha256"]) for n, e in entries.items()} == {
        n: (len(c), sha256(c)) for n, c in RIGHT.items()
    }


def test_nothing_but_the_model_stays(remote: FakeHub, models: Path) -> None:
    remote.plan(BIG, fake_hub.drop(9), fake_hub.flip(1))
    pull()
    assert {path.name for path in models.iterdir() if not path.name.endswith(".lock")} <= {
        "tiny",
        ".digests.json",
        ".hashes",
    }
    assert remote.sent() and not pull().is_dir()


# ---- kills, and two at once


@pytest.mark.slow
def test_a_killed_pull_fetches_little_again(tmp_path: Path) -> None:
    """Some of what `scripts/soak.py downloads` runs."""
    report = pulls.kill_some(tmp_path, 3, seed=4)
    assert not report.failures
    assert len(report.again) == 3 and max(report.again) <= MIB


@pytest.mark.slow
def test_two_processes_fetch_once(remote: FakeHub, models: Path) -> None:
    """The first byte is held back until one of them waits for the other."""
    right = {f"w-0000{i}-of-00002.gguf": os.urandom(MIB) for i in (1, 2)}
    remote.commit(REPO, right)
    waits = threading.Event()
    remote.watch = lambda asked: asked.about in right and waits.wait(pulls.HANG)
    children = [pulls.start(model(*right), remote, models, held=True) for _ in range(2)]
    lines: list[list[dict[str, Any]]] = [[], []]

    def listen(i: int) -> None:
        for line in children[i].stdout or ():
            lines[i].append(json.loads(line))
            if "wait" in lines[i][-1].get("task", ""):
                waits.set()

    threads = [threading.Thread(target=listen, args=(i,)) for i in range(2)]
    for thread, child in zip(threads, children, strict=True):
        thread.start()
        assert child.stdin
        child.stdin.write("go\n")
        child.stdin.close()
    for thread, child in zip(threads, children, strict=True):
        thread.join(pulls.HANG)
        child.wait(pulls.HANG)
        for pipe in (child.stdout, child.stderr):
            assert pipe
            with pipe:
                assert not pipe.read()
    assert waits.is_set() and whole(right)
    assert [said[-1].get("path") for said in lines] == [str(models / "tiny" / "w-00001-of-00002.gguf")] * 2
    assert {name: remote.sent(name) for name in right} == dict.fromkeys(right, MIB)


# ---- a full disk


class Disk(NamedTuple):
    """A small disk for models: `fill` takes what is left of it, `free` gives that back."""

    folder: Path
    fill: Callable[[], object]
    free: Callable[[], object]


ROOM = 4 * MIB


@contextlib.contextmanager
def tmpfs(folder: Path, _patch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A small file system, where one may be mounted."""
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", folder], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("no file system can be mounted here")

    def fill() -> None:
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    try:
        yield Disk(folder / "models", fill, (folder / "filler").unlink)
    finally:
        subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def quota(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Writes under a folder that fail, as on a full disk, beyond a limit."""
    limit, real = [ROOM], io.open

    def used() -> int:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    class Counted:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_error: object) -> None:
            self._file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def write(self, data: Any) -> Any:
            if used() + len(data) > limit[0]:
                raise OSError(28, os.strerror(28))
            return self._file.write(data)

    def opened(path: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        file = real(path, mode, *args, **more)
        ours = not isinstance(path, int) and folder in Path(path).parents and mode.strip("bt") != "r"
        return Counted(file) if ours else file

    patch.setattr(io, "open", opened)
    patch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(ROOM, used(), max(0, limit[0] - used())))  # type: ignore[attr-defined]
    yield Disk(folder, lambda: limit.__setitem__(0, used()), lambda: limit.__setitem__(0, ROOM))


@pytest.fixture(params=[tmpfs, quota])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    monkeypatch.setattr(workplace, "_SPARE", 0)
    with request.param(tmp_path / "disk", monkeypatch) as made:
        monkeypatch.setenv("GIEOK_MODELS", str(made.folder))
        yield made


def test_too_large_a_model_is_not_begun(remote: FakeHub, disk: Disk) -> None:
    right = {BIG: bytes(2 * ROOM)}
    remote.commit(REPO, right)
    error = refused(right=right)
    assert error.file in (BIG, "tiny") and re.search(r"\b8 MB", str(error))
    assert remote.sent(BIG) == 0


def test_a_disk_that_fills_up_meanwhile(remote: FakeHub, disk: Disk) -> None:
    right = {BIG: os.urandom(3 * MIB)}
    remote.commit(REPO, right)
    remote.pace = 8 * MIB

    def fill(asked: fake_hub.Asked) -> None:
        if asked.about == BIG and asked.sent >= MIB:
            remote.watch = None
            disk.fill()

    remote.watch = fill
    error = refused(right=right)
    assert BIG in str(error) or error.file == "tiny"
    assert re.search(r"\b[23] MB", str(error)), "it says how much room is needed"
    disk.free()
    pull(right=right)
    assert whole(right)
    assert remote.again(BIG) <= MIB and bodies(remote, BIG)[-1].status == 206


# ---- the token


class Everything(logging.Handler):
    """All that any logger says, whatever its level."""

    def __init__(self) -> None:
        super().__init__(0)
        self.text: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.text.append(f"{record.name} {record.getMessage()} {record.args} {record.exc_info}")


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    import huggingface_hub.file_download  # noqa: F401 - its loggers have levels of their own

    monkeypatch.setattr("huggingface_hub.constants.HF_DEBUG", True)
    named = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    before, handler = [(logger, logger.level) for logger in (logging.root, *named)], Everything()
    for logger, _ in before:
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)
    yield handler.text
    for logger, level in before:
        logger.removeHandler(handler)
        logger.setLevel(level)


SECRET_CASES = {
    "well": [],
    "dropped": [CUT, fake_hub.status(503), fake_hub.stall(3)],
    "gated": [fake_hub.status(403, "GatedRepo", gate=True)],
    "401": [fake_hub.status(401, gate=True)],
    "wrong bytes": [fake_hub.flip(3), fake_hub.flip(3)],
    "redirect loop": [fake_hub.redirected("")] * 99,
}


@pytest.mark.parametrize("faults", SECRET_CASES.values(), ids=SECRET_CASES)
def test_a_token_goes_to_the_hub_alone(
    remote: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str], faults: list[Fault]
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    remote.commit(REPO, RIGHT, gated=True)
    remote.plan(BIG, *faults)
    look_out(monkeypatch, *faults)
    seen: list[str] = []
    try:
        hub.pull(model(*RIGHT), progress=lambda event: seen.append(repr(event)))
        assert whole(RIGHT)
    except DownloadError as error:
        chain = [error, error.__cause__, error.__context__]
        seen += [f"{link} {link!r} {vars(link)}" for link in chain if link]
    files = [path.read_bytes() for path in models.rglob("*") if path.is_file()]
    assert seen and files and any("<TOKEN>" in text for text in logged), "it would be seen"
    assert not [text for text in (*seen, *logged) if TOKEN in text]
    assert not [data for data in files if TOKEN.encode() in data]
    assert {asked.token for asked in remote.asked if asked.origin == "hub"} == {f"Bearer {TOKEN}"}
    assert {asked.token for asked in remote.asked if asked.origin == "cdn"} <= {None}


def test_a_wrong_token_says_what_to_do(remote: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    remote.commit(REPO, RIGHT, gated=True)
    for token in ("hf_another", ""):
        monkeypatch.setenv("HF_TOKEN", token)
        error = refused()
        assert "terms" in str(error) and "HF_TOKEN" in str(error) and "hf_another" not in str(error)


@pytest.mark.parametrize("about", [REPO, SMALL])
def test_a_redirect_takes_no_token_to_another_hub(remote: FakeHub, monkeypatch: pytest.MonkeyPatch, about: str) -> None:
    """Even one that answers well."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with FakeHub() as other:
        commit = other.commit(REPO, RIGHT)
        path = f"/api/models/{REPO}?blobs=true" if about == REPO else f"/{REPO}/resolve/{commit}/{SMALL}"
        remote.plan(about, fake_hub.redirected(other.endpoint + path, 307))
        pull()
    assert whole(RIGHT) and other.asked
    assert {asked.token for asked in other.asked} == {None}


def test_a_mirror_is_named_by_the_environment(remote: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two, in one process, the one that is named when `pull` is called."""
    pull(SMALL)
    with FakeHub() as mirror:
        mirror.commit(REPO, {"other.gguf": b"of the mirror"})
        monkeypatch.setenv("HF_ENDPOINT", f"{mirror.endpoint}/")
        path = hub.pull(ModelSpec.model_validate({**model("other.gguf").model_dump(), "name": "other"}))
    assert path.read_bytes() == b"of the mirror"
    assert {asked.about for asked in remote.asked} == {REPO, SMALL}


# ---- all at once


@pytest.mark.slow
def test_storms_of_faults(tmp_path: Path) -> None:
    """Some of what `scripts/soak.py downloads` runs."""
    report = pulls.storms(tmp_path, 12, seed=9)
    assert not report.failures
    assert report.ends["right bytes"] and report.faults.total() > 10


def test_the_hash_is_of_all_bytes(remote: FakeHub) -> None:
    """The comparison that these tests stand on can fail."""
    pull()
    path = hub.pull(model(*RIGHT))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert wrong(RIGHT) == [BIG] and not whole(RIGHT)
    assert hashlib.sha256(path.read_bytes()).hexdigest() != sha256(RIGHT[BIG])
