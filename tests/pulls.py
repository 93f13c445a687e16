"""Pulls from the fake hub that the suite runs a few of, and `scripts/soak.py downloads` many: storms of faults, and kills.

Whatever comes of a pull, the model's folder holds right files only, and what came once is not fetched again.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fake_hub
import pytest
from fake_hub import Asked, FakeHub, Fault

from engine import fetch, hub, layout
from engine.config import ModelSpec
from engine.errors import DownloadError
from engine.metrics import Progress

REPO = "org/repo"
MIB = 1 << 20
HANG = 60.0
PACE = 12 * MIB  # bytes a second while there are kills: a quick line, which the client keeps up with

CHILD = """
import json, sys
from engine import fetch, hub
from engine.config import ModelSpec
from engine.errors import EngineError
fetch.PATIENCE = fetch.Patience(tries=4, first_wait=0.01, longest_wait=0.05, stall=10.0)
wanted = ModelSpec.model_validate_json(sys.argv[1])
tasks = []
def tell(event):
    if event.task not in tasks:
        tasks.append(event.task)
        print(json.dumps({"task": event.task}), flush=True)
print(json.dumps({"ready": True}), flush=True)
if sys.argv[2:]:
    sys.stdin.readline()
try:
    print(json.dumps({"path": str(hub.pull(wanted, progress=tell))}))
except EngineError as error:
    print(json.dumps({"code": error.code, "message": str(error)}))
"""


def model(*files: str, repo: str = REPO, **fields: Any) -> ModelSpec:
    """Return the spec of an llm of these files."""
    source = {"repo": repo, "files": list(files)}
    return ModelSpec.model_validate({"name": "tiny", "kind": "llm", "source": source, **fields})


def patience(stall: float, tries: int = 4) -> fetch.Patience:
    return fetch.Patience(tries=tries, first_wait=0.01, longest_wait=0.05, stall=stall)


def wrong(right: Mapping[str, bytes]) -> list[str]:
    """Return what is in the model's folder and does not belong there, or not with these bytes."""
    home = layout.models_dir() / "tiny"
    there = (path for path in home.rglob("*") if path.is_file())
    return [name for path in there if path.read_bytes() != right.get(name := path.relative_to(home).as_posix())]


def whole(right: Mapping[str, bytes]) -> bool:
    """Return whether the model's folder holds exactly these files."""
    home = layout.models_dir() / "tiny"
    return not wrong(right) and {p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file()} == set(right)


def start(spec: ModelSpec, remote: FakeHub, models: Path, *, held: bool = False) -> subprocess.Popen[str]:
    """Pull in another process, which prints JSON lines; a `held` one begins when it reads a line."""
    settings = {"GIEOK_MODELS": str(models), "HF_ENDPOINT": remote.endpoint, "HF_HOME": str(models / ".." / "hf")}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CHILD, spec.model_dump_json(), *(["held"] if held else [])],
        env={**os.environ, **settings, "PYTHONUTF8": "1", "NO_PROXY": "127.0.0.1"},
        cwd=Path(hub.__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def end(child: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the last line of a child that ran to its end."""
    try:
        out, err = child.communicate(timeout=HANG)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise
    assert not err, err
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer


# ---- kills


@dataclass
class Kills:
    """What came of killed pulls: bytes `again` after each, where it was killed, and what was wrong."""

    again: list[int] = field(default_factory=list)
    places: Counter[str] = field(default_factory=Counter)
    pulls: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Blow:
    """Where a child dies: while the listing comes, after so many bytes of files, or so long after the last one."""

    place: str
    after: int = 0
    seconds: float = 0.0

    @classmethod
    def draw(cls, rng: random.Random, left: int) -> _Blow:
        place = rng.choices(("listing", "body", "end"), (1, 8, 3))[0]
        if place == "body" and left:
            return cls("body", rng.randrange(left))
        return cls("listing") if place == "listing" else cls("end", left, rng.uniform(0, 0.03))


def kill_some(folder: Path, kills: int, seed: int) -> Kills:
    """Pull models of some MB until `kills` pulls were killed, each pull up to four times, and see what they end with."""
    rng, report = random.Random(seed), Kills()
    with pytest.MonkeyPatch.context() as patch:
        while len(report.again) < kills and not report.failures:
            models = folder / f"killed-{report.pulls}"
            patch.setenv("GIEOK_MODELS", str(models))
            with FakeHub(pace=PACE) as remote:
                _kill_one(remote, models, min(4, kills - len(report.again)), rng, report)
            report.pulls += 1
    return report


def _kill_one(remote: FakeHub, models: Path, kills: int, rng: random.Random, report: Kills) -> None:
    sizes = {f"w-0000{i}-of-00003.gguf": rng.randrange(MIB // 2, 3 * MIB) for i in (1, 2, 3)}
    right = {name: rng.randbytes(size) for name, size in sizes.items()}
    remote.commit(REPO, right)
    spec, died = model(*right), False
    while True:
        before, left = remote.again(*right), sum(sizes.values()) - remote.sent(*right) + remote.again(*right)
        blow = _Blow.draw(rng, left) if kills else None
        child = start(spec, remote, models)
        hit = _aim(remote, child, blow) if blow else None
        out, err = child.communicate(timeout=HANG)
        if died:
            report.again.append(remote.again(*right) - before)
        report.failures += [f"{name} is wrong after a kill ({blow})" for name in wrong(right)]
        report.failures += _lock_failures(models)
        died = child.returncode != 0
        if not died or not hit:
            break
        report.places[blow.place if blow else ""] += 1
        kills -= 1
    remote.watch = None
    if err or "path" not in out or not whole(right):
        report.failures.append(f"the last pull failed: {out} {err}")


def _aim(remote: FakeHub, child: subprocess.Popen[str], blow: _Blow) -> threading.Event:
    """Kill the child from the hub's own thread, when it has sent what the blow says."""
    hit, base = threading.Event(), remote.sent()

    def watch(asked: Asked) -> None:
        listing = asked.about == REPO
        if hit.is_set() or listing != (blow.place == "listing") or remote.sent() - base < blow.after:
            return
        hit.set()
        remote.closing.wait(blow.seconds)
        child.kill()

    remote.watch = watch
    return hit


def _lock_failures(models: Path) -> list[str]:
    try:
        json.loads((models / "models.lock").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        return [f"models.lock is broken: {error}"]
    return []


# ---- storms


@dataclass
class Storms:
    """What came of pulls with random faults: their ends, the faults that came up, and what was wrong."""

    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    failures: list[str] = field(default_factory=list)


def storms(folder: Path, rounds: int, seed: int) -> Storms:
    """Pull random files through random faults, `rounds` times; then without faults, which must end well."""
    report = Storms()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        for number in range(rounds):
            patch.setenv("GIEOK_MODELS", str(folder / f"storm-{number}"))
            with FakeHub() as remote:
                patch.setenv("HF_ENDPOINT", remote.endpoint)
                patch.setattr(fetch, "PATIENCE", patience(stall=0.3))
                right = _storm(remote, random.Random(f"{seed} {number}"), f"storm {number}", report)
                patch.setattr(fetch, "PATIENCE", patience(stall=HANG))
                _calm(remote, right, f"after storm {number}", report)
    from huggingface_hub.utils import close_session

    close_session()
    return report


def _storm(remote: FakeHub, rng: random.Random, title: str, report: Storms) -> dict[str, bytes]:
    names = rng.sample(
        ("a.gguf", "b.gguf", "config.json", "1_Pooling/config.json", "model.safetensors"), rng.randint(1, 3)
    )
    right = {name: rng.randbytes(rng.choice((1, 90, 5000, 70_000, 600_000))) for name in names}
    remote.commit(REPO, right)
    _plan(remote, right, rng)
    spec = model(*names)

    def look(_event: Progress) -> None:
        report.failures += [f"{title}: {name} was in the folder" for name in wrong(right)]

    try:
        hub.pull(spec, progress=look)
        report.ends["right bytes"] += 1
        report.failures += [] if whole(right) else [f"{title}: ended with wrong files"]
    except DownloadError as error:
        report.ends["DownloadError"] += 1
        if error.file not in (*names, REPO) or error.file not in str(error):
            report.failures.append(f"{title}: an error that names no file: {error}")
    except Exception as error:  # noqa: BLE001 - whatever else it is, it is what a storm looks for
        report.failures.append(f"{title}: {type(error).__name__}: {error}")
    look(Progress("", 0, 0, "bytes"))
    report.requests += len(remote.asked)
    report.faults.update(asked.fault for asked in remote.asked if asked.fault)
    return right


def _calm(remote: FakeHub, right: Mapping[str, bytes], title: str, report: Storms) -> None:
    for about in (REPO, *right):
        remote.plan(about)
    try:
        hub.pull(model(*right))
    except Exception as error:  # noqa: BLE001
        report.failures.append(f"{title}: {type(error).__name__}: {error}")
    report.failures += [] if whole(right) else [f"{title}: wrong files"]


def _plan(remote: FakeHub, right: Mapping[str, bytes], rng: random.Random) -> None:
    for name, content in right.items():
        makers = _makers(rng, content)
        faults = [rng.choice(makers)() for _ in range(rng.choice((0, 1, 2, 3, 6)))]
        remote.plan(name, *faults, then=rng.choice(makers)() if rng.random() < 0.1 else None)
    passing = (fake_hub.status(503), fake_hub.closed(), fake_hub.drop(20), fake_hub.status(429, retry_after="1"))
    remote.plan(REPO, *rng.choices(passing, k=rng.choice((0, 0, 1, 2))))


def _makers(rng: random.Random, content: bytes) -> list[Callable[[], Fault]]:
    size, some = len(content), rng.randrange(1, len(content) + 1)
    other = rng.randbytes(rng.choice((size, some)))
    return [
        *[lambda: fake_hub.drop(rng.randrange(size + 1), reset=rng.random() < 0.5)] * 6,
        *[lambda: fake_hub.chunked(rng.randrange(size + 1))] * 2,
        lambda: fake_hub.short(some),
        lambda: fake_hub.long(some),
        lambda: fake_hub.flip(rng.randrange(size)),
        lambda: fake_hub.length(some),
        lambda: fake_hub.length(-some),
        fake_hub.whole,
        lambda: fake_hub.elsewhere(rng.choice((-some, some))),
        lambda: fake_hub.misnamed(rng.choice(("bytes */*", "", "bytes 0-0/1", f"bytes {some}-{size}/{size}"))),
        lambda: fake_hub.replaced(other),
        fake_hub.retagged,
        lambda: fake_hub.status(rng.choice((408, 500, 502, 503, 504)), gate=rng.random() < 0.5),
        lambda: fake_hub.status(429, retry_after=rng.choice(("0", "1", "x", "-5", "9" * 30))),
        lambda: fake_hub.status(rng.choice((403, 404, 410, 416))),
        lambda: fake_hub.closed(gate=rng.random() < 0.5),
        lambda: fake_hub.stall(rng.randrange(size + 1)),
        lambda: fake_hub.slow(2 * MIB),
        fake_hub.zipped,
        fake_hub.chunked,
        fake_hub.page,
        lambda: fake_hub.redirected(""),
    ]
