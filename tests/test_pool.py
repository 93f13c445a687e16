"""Models in use with fake loads on the real threads: fallback, refusals, plans, ends. Waits are guards against hangs."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_preparation import REFUSAL, Preparations

from engine import Engine, config, fastpath, layout, ready
from engine.budget import Hold
from engine.errors import (
    Cancelled,
    ConfigError,
    EngineClosed,
    EngineError,
    InvalidInput,
    ModelCorrupt,
    ModelNotFound,
    OutOfBudget,
)
from engine.fastpath import CacheDamaged
from engine.footprint import Footprint
from engine.loader import Heed
from engine.metrics import Progress
from engine.models import Key, Loaded, Models, key_of, resolve_roles
from engine.offload import GpuRefused
from engine.plans import How
from engine.pool import Growing, Pool
from engine.residency import Lease
from engine.runner import Runner
from engine.status import LoadedModel, Part
from engine.worker import Scope

HANG = 60.0
SECOND = 0.01  # of a patient poll
SIZES = {"large": 10, "small": 4, "other": 12, "vectors": 3, "huge": 20}
MODELS = """
[profiles.test]
chat = "large"
summary = "large"
classification = "other"
embedding = "vectors"
fallback = "small"
"""
posix_only = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")


class FakeRunner(Runner):
    """A chat model without weights: it answers one step for each of `steps`."""

    def __init__(self, spec: config.ModelSpec) -> None:
        self.spec, self.steps, self.closed = spec, 0, threading.Event()
        self.n_gpu_layers, self.vram = 0, 0
        self.gate = threading.Event()
        self.gate.set()

    busy = property(lambda self: self.steps > 0)
    requests = property(lambda self: int(self.steps > 0))
    kv_cells = property(lambda self: 256)
    kv_used = property(lambda self: 7)
    tokens_per_second = property(lambda self: 5.0)

    def step(self) -> None:
        assert not self.closed.is_set(), "stepped after it was closed"
        if self.gate.wait(0.001):
            self.steps -= 1

    def interrupt(self) -> None: ...

    def close(self, error: BaseException) -> None:
        assert not self.closed.is_set(), "closed twice"
        self.steps = 0
        self.closed.set()


class FakeEmbedder:
    """An embedding model without weights."""

    def __init__(self, *, fast: bool) -> None:
        self.fast, self.device, self.interrupted = fast, "cpu", threading.Event()

    def interrupt(self) -> None:
        self.interrupted.set()

    def close(self) -> None: ...


class Stage:
    """The loads of a test: `acts` says what a load does before it ends well, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sizes = folder, dict(SIZES)
        self.acts: dict[str, Callable[[Heed], object]] = {}
        self.corrupt: set[str] = set()
        self.made: list[str] = []
        self.began = threading.Semaphore(0)
        self.pools: list[Pool] = []
        for name in SIZES:
            self.put(name)

    def put(self, name: str) -> None:
        place = self.folder / f"{name}.gguf"
        if name == "vectors":
            (self.folder / name).mkdir(exist_ok=True)
            (self.folder / name / "model.safetensors").write_bytes(b"weights")
        else:
            place.write_bytes(b"GGUF")

    def remove(self, name: str) -> None:
        (self.folder / f"{name}.gguf").unlink()

    def configured(self) -> config.Config:
        entries = [
            f'[models.{name}]\nkind = "llm"\nsource = {{ path = {str(self.folder / name) + ".gguf"!r} }}\n'
            if name != "vectors"
            else f'[models.{name}]\nkind = "embedding"\nsource = {{ path = {str(self.folder / name)!r} }}\n'
            for name in SIZES
        ]
        file = self.folder / "models.toml"
        file.write_text(MODELS + "\n".join(entries), encoding="utf-8")
        return config.load(file)

    def pool(self, *, budget: int = 16, keep_alive: float = 300.0, **named: str) -> Pool:
        settings = self.configured()
        pool = Pool(Models(settings, resolve_roles(settings, "test", named), named=named), budget, keep_alive)
        self.pools.append(pool)
        return pool

    def ways(self, spec: config.ModelSpec) -> list[How]:
        if spec.name in self.corrupt:
            raise ModelCorrupt("its header cannot be read", path="x")
        fast = spec.kind == "embedding" and ready.is_ready(spec, layout.locate(spec))
        return [How(Footprint(self.sizes[spec.name], 0, 0, 0), cells=256, fast=fast)]

    def make(self, spec: config.ModelSpec, how: How, heed: Heed) -> Loaded:
        self.began.release()
        if act := self.acts.get(spec.name):
            act(heed)
        self.made.append(spec.name)
        model: Any = FakeEmbedder(fast=how.fast) if spec.kind == "embedding" else FakeRunner(spec)
        return Loaded(spec, model, how, 0.5)

    def fails(self, name: str, error: BaseException) -> None:
        def fail(_heed: Heed) -> None:
            raise error

        self.acts[name] = fail

    def gate(self, name: str) -> threading.Event:
        """Let the loads of `name` wait for the event that is returned, or until nobody waits for them."""
        event = threading.Event()

        def wait(heed: Heed) -> None:
            while not event.wait(SECOND):
                heed()

        self.acts[name] = wait
        return event


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: ThreadPoolExecutor) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    monkeypatch.setattr("engine.plans.ways", lambda spec, _table, **_: stage.ways(spec))
    monkeypatch.setattr(Models, "make", lambda _models, spec, how, heed: stage.make(spec, how, heed))
    monkeypatch.setattr(fastpath, "available", lambda: False)
    yield stage
    for pool in stage.pools:
        pool.worker.close()
        assert pool.budget.held == sum(hold.bytes for hold in pool.residency._kept), "bytes were never given back"


def called(pool: Pool, name: str) -> str:
    """Return which model a job for `name` ran on."""
    return str(pool.call(name, lambda runner: runner.spec.name))


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(SECOND)


def held_open(pool: Pool, name: str, threads: ThreadPoolExecutor) -> tuple[threading.Event, Future[None]]:
    """Lease a model on another thread until the event is set."""
    there, go = threading.Event(), threading.Event()

    def use() -> None:
        with pool.leased(name):
            there.set()
            assert go.wait(HANG)

    future = threads.submit(use)
    assert there.wait(HANG)
    return go, future


def loaded(pool: Pool) -> tuple[LoadedModel, ...]:
    return pool.status("test", "home").loaded


def names(pool: Pool) -> set[str]:
    return {model.name for model in loaded(pool)}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# ---- use


def test_a_model_is_loaded_when_first_used_and_then_shared(stage: Stage) -> None:
    pool = stage.pool()
    assert stage.made == [] and pool.budget.held == 0
    assert called(pool, "chat") == "large"
    assert called(pool, "summary") == "large"  # another role of the same model
    assert called(pool, "large") == "large"
    assert stage.made == ["large"] and pool.budget.held == 10


def test_first_uses_at_once_load_once(stage: Stage, threads: ThreadPoolExecutor) -> None:
    pool, gate = stage.pool(), stage.gate("large")
    calls = [threads.submit(called, pool, "chat") for _ in range(6)]
    until(lambda: pool.residency.waiting == 6)
    gate.set()
    assert [call.result(HANG) for call in calls] == ["large"] * 6
    assert stage.made == ["large"]


def test_models_that_do_not_fit_together_take_turns(stage: Stage) -> None:
    pool = stage.pool()
    for _ in range(3):
        assert called(pool, "chat") == "large"
        assert called(pool, "classification") == "other"
        assert pool.call("embedding", type) is FakeEmbedder
    assert pool.budget.held <= 16
    assert stage.made.count("vectors") == 1  # there was room for it beside the one


def test_a_model_that_is_at_work_does_not_leave(stage: Stage, threads: ThreadPoolExecutor) -> None:
    pool = stage.pool()

    def begin(runner: Any) -> Any:
        runner.gate.clear()
        runner.steps = 3
        return SimpleNamespace(cancel=lambda: None, runner=runner)

    stream = pool.start("chat", begin)
    waits = threads.submit(called, pool, "classification")
    until(lambda: pool.residency.waiting == 1)
    assert names(pool) == {"large"}
    assert loaded(pool)[0].requests == 1
    stream.runner.gate.set()
    assert waits.result(HANG) == "other"
    assert stream.runner.closed.is_set()


def test_a_model_that_is_in_memory_needs_its_files_no_more(stage: Stage) -> None:
    pool = stage.pool()
    called(pool, "chat")
    stage.remove("large")
    assert called(pool, "chat") == "large"
    assert not pool.replaced


def test_an_idle_model_leaves_though_nothing_else_happens(stage: Stage) -> None:
    pool = stage.pool(keep_alive=0.05)
    with pool.leased("chat") as key:
        pool.run(key, lambda _runner: None)
        time.sleep(0.2)  # the compute thread has gone to sleep by now, and is woken by the end of the lease only
        assert names(pool) == {"large"}
    until(lambda: not loaded(pool))
    until(lambda: pool.budget.held == 0)


def test_keep_alive_of_zero_unloads_after_each_use(stage: Stage) -> None:
    pool = stage.pool(keep_alive=0)
    called(pool, "chat")
    until(lambda: not loaded(pool))
    called(pool, "chat")
    assert stage.made == ["large", "large"]


def test_unknown_names_and_kinds_are_told_before_anything_loads(stage: Stage) -> None:
    pool = stage.pool()
    with pytest.raises(ModelNotFound), pool.leased("nobody"):
        pass
    with pytest.raises(InvalidInput), pool.leased("embedding", "llm"):
        pass
    assert stage.made == []


# ---- fallback


def missing(stage: Stage) -> None:
    stage.remove("large")


def corrupt(stage: Stage) -> None:
    stage.corrupt.add("large")


def too_large(stage: Stage) -> None:
    stage.sizes["large"] = 17


def load_fails(stage: Stage) -> None:
    stage.fails("large", ModelCorrupt("a tensor is missing", path="x"))


def no_memory(stage: Stage) -> None:
    stage.fails("large", MemoryError("cannot allocate"))


@pytest.mark.parametrize("trouble", [missing, corrupt, too_large, load_fails, no_memory])
def test_the_fallback_answers_loudly(
    stage: Stage, trouble: Callable[[Stage], None], caplog: pytest.LogCaptureFixture
) -> None:
    trouble(stage)
    pool = stage.pool()
    assert called(pool, "chat") == "small"
    assert called(pool, "chat") == "small"
    (warning,) = warnings(caplog)  # once, not for each answer
    assert "small" in warning and "large" in warning and "chat" in warning
    (replaced,) = pool.replaced.values()
    assert (replaced.role, replaced.wanted, replaced.by) == ("chat", "large", "small")
    assert replaced.why.split("held now")[0] in warning  # what is held changes


@pytest.mark.parametrize("trouble", [missing, corrupt, too_large, load_fails])
def test_the_wanted_model_answers_again_once_it_can(
    stage: Stage, trouble: Callable[[Stage], None], caplog: pytest.LogCaptureFixture
) -> None:
    trouble(stage)
    pool = stage.pool()
    assert called(pool, "chat") == "small"
    stage.put("large")
    stage.sizes["large"] = 10
    stage.corrupt.clear()
    stage.acts.clear()
    assert called(pool, "chat") == "large"
    assert pool.replaced == {}
    trouble(stage)
    pool.unload("chat")
    assert called(pool, "chat") == "small"
    assert len(warnings(caplog)) == 2  # it is news again


@pytest.mark.parametrize("trouble", [missing, corrupt, too_large, load_fails, no_memory])
def test_nobody_answers_for_a_model_that_the_caller_named(stage: Stage, trouble: Callable[[Stage], None]) -> None:
    trouble(stage)
    with pytest.raises((ModelNotFound, ModelCorrupt, OutOfBudget)):
        called(stage.pool(), "large")  # chat(model="large")
    with pytest.raises((ModelNotFound, ModelCorrupt, OutOfBudget)):
        called(stage.pool(chat="large"), "chat")  # Engine(models={"chat": "large"})
    assert called(stage.pool(chat="large", fallback="small"), "chat") == "small"  # both are the caller's choice
    assert called(stage.pool(chat="large"), "summary") == "small"  # that one was not named


def test_an_embedding_model_has_no_fallback(stage: Stage) -> None:
    stage.fails("vectors", ModelCorrupt("no", path="x"))
    with pytest.raises(ModelCorrupt):
        stage.pool().call("embedding", lambda model: model)


@pytest.mark.parametrize("error", [Cancelled("no"), ConfigError("no"), InvalidInput("no"), RuntimeError("a bug")])
def test_what_the_fallback_could_not_mend_is_raised(stage: Stage, error: Exception) -> None:
    stage.fails("large", error)
    pool = stage.pool()
    with pytest.raises(type(error)):
        called(pool, "chat")
    assert stage.made == [] and not pool.replaced
    stage.acts.clear()
    assert called(pool, "chat") == "large"  # nothing of it is left


@pytest.mark.parametrize("trouble", [missing, load_fails, no_memory])
def test_without_a_fallback_here_the_first_error_is_raised_with_a_note(
    stage: Stage, trouble: Callable[[Stage], None]
) -> None:
    trouble(stage)
    stage.remove("small")
    pool = stage.pool()
    for _ in range(3):
        with pytest.raises(EngineError) as told:
            called(pool, "chat")
        assert str(told.value).count("Its fallback is not here either") == 1
        assert "small" in str(told.value)
    assert not pool.replaced


def test_callers_who_hear_of_one_error_hear_of_the_fallback_once(stage: Stage, threads: ThreadPoolExecutor) -> None:
    stage.remove("small")
    go = threading.Event()

    def fail(_heed: Heed) -> None:
        assert go.wait(HANG)
        raise ModelCorrupt("a tensor is missing", path="x")

    stage.acts["large"] = fail
    pool = stage.pool()
    calls = [threads.submit(called, pool, "chat") for _ in range(3)]
    until(lambda: pool.residency.waiting == 3)
    go.set()
    for call in calls:
        assert str(call.exception(HANG)).count("Its fallback is not here either") == 1


def test_where_the_fallback_does_not_fit_either_that_is_said(stage: Stage) -> None:
    stage.sizes.update(large=17, small=18)
    with pytest.raises(OutOfBudget) as told:
        called(stage.pool(), "chat")
    assert told.value.needed == 17 and "Nor could its fallback be loaded: small needs" in str(told.value)


# ---- refused by the system


class Clock:
    """The pool's clock."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("engine.pool.time", clock)
    return clock


def counted(stage: Stage, error: BaseException) -> list[float]:
    """Let loads of the large model fail, and count them."""
    tries: list[float] = []

    def fail(_heed: Heed) -> None:
        tries.append(1)
        raise error

    stage.acts["large"] = fail
    return tries


def test_a_refused_model_is_not_tried_for_a_role_for_a_minute_however_often_it_is_wanted(
    stage: Stage, clock: Clock
) -> None:
    tries, pool = counted(stage, MemoryError("no")), stage.pool()
    for _ in range(7):
        assert called(pool, "chat") == "small"
        clock.now += 9
    assert len(tries) == 2  # once, and once more without all that is idle
    assert called(pool, "chat") == "small"  # more than a minute since the first: asking did not make it longer
    assert len(tries) == 4
    clock.now += 61
    stage.acts.clear()
    assert called(pool, "chat") == "large" and not pool.replaced


def test_a_refused_model_is_tried_for_who_names_it(stage: Stage, clock: Clock) -> None:
    tries, pool = counted(stage, MemoryError("no")), stage.pool()
    assert called(pool, "chat") == "small"
    with pytest.raises(OutOfBudget):
        called(pool, "large")
    assert len(tries) == 4
    stage.acts.clear()
    assert called(pool, "large") == "large"
    assert called(pool, "chat") == "large"  # and now the role has it, too


def test_a_refusal_keeps_nothing_of_who_was_refused(stage: Stage, clock: Clock) -> None:
    """A traceback holds what callers had in their hands: their words."""
    counted(stage, MemoryError("no"))
    pool = stage.pool()

    class Words:
        pass

    def ask() -> weakref.ref[Words]:
        words = Words()
        assert called(pool, "chat") == "small"
        return weakref.ref(words)

    asked = [ask() for _ in range(3)]
    gc.collect()
    assert [words() for words in asked] == [None] * 3


# ---- a GPU that refuses


def test_what_a_gpu_refuses_is_loaded_on_the_cpu_with_room_of_its_own(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, threads: ThreadPoolExecutor
) -> None:
    """In the room made for the GPU, what the CPU takes would come on top of all that is held."""
    pool = stage.pool()
    tried: list[tuple[int, int | None, int]] = []
    there = [How(Footprint(4, 0, 0, 0), n_gpu_layers=9), How(Footprint(3, 0, 0, 0), n_gpu_layers=9)]
    there.append(How(Footprint(10, 0, 0, 0)))
    usual, make = stage.ways, stage.make

    def ways(spec: config.ModelSpec) -> list[How]:
        return there if spec.name == "large" else usual(spec)

    def refusing(spec: config.ModelSpec, how: How, heed: Heed) -> Loaded:
        if spec.name == "large":
            tried.append((how.n_gpu_layers, how.ram.total, pool.budget.held))
        if how.n_gpu_layers:
            raise GpuRefused("cudaMalloc failed")
        return make(spec, how, heed)

    monkeypatch.setattr(stage, "ways", ways)
    monkeypatch.setattr(stage, "make", refusing)
    go, using = held_open(pool, "classification", threads)  # 12 of 16
    answer = threads.submit(called, pool, "chat")
    until(lambda: tried and not pool.residency.loads(key_of(pool.models.spec("chat"))))
    assert tried == [(9, 4, 16)] and not answer.done() and pool.residency.waiting == 1
    go.set()
    using.result(HANG)
    assert answer.result(HANG) == "large"
    assert tried == [(9, 4, 16), (0, 10, 10)] and not pool.replaced
    assert [model.n_gpu_layers for model in loaded(pool)] == [0]


# ---- waiting for oneself


def test_who_has_a_model_cannot_wait_for_another(stage: Stage) -> None:
    pool = stage.pool()
    with pool.leased("chat"):
        for nested in (
            lambda: called(pool, "classification"),
            lambda: called(pool, "chat"),
            lambda: pool.keep("index", 1, lambda: None),
        ):
            with pytest.raises(EngineError, match="cannot wait for itself"):
                nested()
    assert called(pool, "classification") == "other"


def test_a_load_cannot_wait_for_the_engine(stage: Stage) -> None:
    pool = stage.pool()
    told: list[str] = []

    def nested(_heed: Heed) -> None:
        with pytest.raises(EngineError, match="cannot wait for itself"):
            called(pool, "small")
        told.append("yes")

    stage.acts["large"] = nested
    assert called(pool, "chat") == "large" and told


# ---- giving up


def cancelled_while(pool: Pool, threads: ThreadPoolExecutor, reached: Callable[[], object], name: str) -> None:
    """Cancel a call for `name` once `reached`."""
    scope = Scope()

    def ask() -> str:
        with scope.entered():
            return called(pool, name)

    call = threads.submit(ask)
    until(reached)
    scope.cancel()
    assert isinstance(call.exception(HANG), Cancelled)


def test_cancelling_a_load_gives_it_up_and_the_next_caller_has_one_of_their_own(
    stage: Stage, threads: ThreadPoolExecutor
) -> None:
    pool = stage.pool(budget=30)
    go, slow = threading.Event(), threading.Event()

    def stubborn(_heed: Heed) -> None:
        slow.set()
        assert go.wait(HANG)  # as a library that cannot be aborted

    stage.acts["large"] = stubborn
    cancelled_while(pool, threads, slow.is_set, "chat")
    assert pool.budget.held == 10  # its bytes are in use until it has ended
    again = threads.submit(called, pool, "chat")
    until(lambda: pool.budget.held == 20)
    go.set()
    assert again.result(HANG) == "large"
    until(lambda: pool.budget.held == 10)
    assert stage.made.count("large") in (1, 2) and len(loaded(pool)) == 1


def test_cancelling_one_of_two_callers_leaves_the_load_to_the_other(stage: Stage, threads: ThreadPoolExecutor) -> None:
    pool, gate = stage.pool(), stage.gate("large")
    other = threads.submit(called, pool, "chat")
    cancelled_while(pool, threads, lambda: pool.residency.waiting == 2, "chat")
    gate.set()
    assert other.result(HANG) == "large" and stage.made == ["large"]


def test_cancelling_who_waits_for_room(stage: Stage, threads: ThreadPoolExecutor) -> None:
    pool = stage.pool()
    go, using = held_open(pool, "chat", threads)
    cancelled_while(pool, threads, lambda: pool.residency.waiting == 1, "classification")
    assert pool.residency.waiting == 0
    assert called(pool, "chat") == "large"
    go.set()
    using.result(HANG)
    assert stage.made == ["large"]


def test_who_was_cancelled_before_holds_nothing(stage: Stage) -> None:
    pool, scope = stage.pool(), Scope()
    scope.cancel()
    with scope.entered():
        with pytest.raises(Cancelled):
            pool.reserve("index", 5)
        with pytest.raises(Cancelled), pool.room("preparation", 5):
            pytest.fail("it was cancelled")
        with pytest.raises(Cancelled):
            called(pool, "chat")
    until(lambda: pool.budget.held == 0)


def test_a_ctrl_c_that_comes_with_the_bytes_gives_them_back(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = stage.pool()

    def interrupted(future: Future[None], *_: object) -> None:
        future.result(HANG)
        raise KeyboardInterrupt

    monkeypatch.setattr(pool.worker, "obtain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.reserve("index", 5)
    assert pool.budget.held == 0


@pytest.fixture
def can_be_interrupted() -> Iterator[None]:
    """A background shell starts its children with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@posix_only
def test_ctrl_c_while_a_model_loads(stage: Stage, can_be_interrupted: None) -> None:
    pool, gate = stage.pool(), stage.gate("large")

    def press() -> None:
        assert stage.began.acquire(timeout=HANG)
        time.sleep(0.1)  # the caller waits by now
        os.kill(os.getpid(), signal.SIGINT)

    finger = threading.Thread(target=press)
    finger.start()
    with pytest.raises(KeyboardInterrupt):
        called(pool, "chat")
    finger.join()
    until(lambda: pool.budget.held == 0)
    assert pool.residency.waiting == 0
    gate.set()
    assert called(pool, "chat") == "large"


def test_a_load_that_was_given_up_and_ends_late_leaves_the_next_one_alone(stage: Stage) -> None:
    pool = stage.pool()
    called(pool, "chat")
    spec = pool.models.spec("chat")
    late: Any = FakeRunner(spec)
    made = Loaded(spec, late, stage.ways(spec)[0], 0.5)
    with pytest.raises(EngineClosed, match="given up"):
        pool.worker.call(lambda: pool._adopt(Hold("large", 1, 0), made))
    assert called(pool, "chat") == "large"
    assert stage.made == ["large"] and [one.model for one in pool.models.loaded] != [late]


def test_a_ctrl_c_while_a_lease_ends_does_not_keep_the_model(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = stage.pool()
    release, presses = pool.residency.release, [KeyboardInterrupt()]

    def pressed(lease: Lease) -> None:
        if presses:
            raise presses.pop()
        release(lease)

    monkeypatch.setattr(pool.residency, "release", pressed)
    with pytest.raises(KeyboardInterrupt):
        called(pool, "chat")
    assert pool.plan("classification").verdict == "evicts"  # nobody has it any more


def test_a_callback_that_hears_of_the_wait_cannot_wait_itself(stage: Stage, threads: ThreadPoolExecutor) -> None:
    pool, heard = stage.pool(), []

    def progress(event: Progress) -> None:
        if event.task.startswith("wait for room"):
            with pytest.raises(EngineError, match="cannot wait for itself"):
                called(pool, "chat")
            heard.append(event.task)

    pool.models.progress = progress
    with pool.leased("chat"):
        waiting = threads.submit(called, pool, "classification")
        until(lambda: heard)
    assert waiting.result(HANG) == "other" and heard[0] == "wait for room for other"


def test_libraries_are_counted_once_and_stay(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def ways(_spec: object, _table: object, *, libraries: bool = True) -> list[How]:
        return [How(Footprint(2, 0, 0, 5 if libraries else 1), libraries=4 if libraries else 0)]

    monkeypatch.setattr("engine.plans.ways", ways)
    pool = stage.pool()
    stale = pool._want(pool.models.spec("embedding"))
    for _ in range(2):
        assert pool.call("embedding", type) is FakeEmbedder
        assert set(pool.budget.parts()) == {Part("vectors", 3, 0), Part("torch and its libraries", 4, 0)}
        assert pool._want(pool.models.spec("embedding")).options[0].bytes == 3
        pool.unload("embedding")
        assert pool.budget.parts() == (Part("torch and its libraries", 4, 0),)
    pool._release(pool._granted(stale))  # who planned with them before they came
    assert pool.budget.held == 7


# ---- an embedding model that is to be prepared before it loads


@pytest.fixture
def preparations(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Preparations:
    monkeypatch.setattr(fastpath, "available", lambda: True)
    return Preparations(monkeypatch)


def backend(pool: Pool) -> str:
    """Return what runs the embedding model for a call."""
    return "openvino" if pool.call("embedding", lambda model: model.fast) else "torch"


def damages(stage: Stage, times: float, wait: threading.Event | None = None) -> list[bool]:
    """Let so many loads find that the cache is no good; return which loads there were, True of a fast one."""
    folder, loads = stage.folder / "vectors", []

    def load(_heed: Heed) -> None:
        loads.append(fastpath.state(folder) == "ready")
        if loads[-1] and sum(loads) <= times:
            assert wait is None or wait.wait(HANG)
            fastpath.discard(folder)  # as `fastpath.load` does
            raise CacheDamaged("it is damaged", path="x")

    stage.acts["vectors"] = load
    return loads


def test_a_model_is_prepared_before_its_first_load_in_room_of_its_own(stage: Stage, preparations: Preparations) -> None:
    pool, parts = stage.pool(), []
    called(pool, "chat")
    preparations.needs = 9
    preparations.act = lambda _job: parts.extend(pool.budget.parts())
    for _ in range(2):
        assert backend(pool) == "openvino"
    assert parts == [Part("preparing vectors", 9, 0)], "an idle model made room"
    assert pool.budget.parts() == (Part("vectors", 3, 0),)
    assert (preparations.made, stage.made) == (1, ["large", "vectors"])
    (shown,) = loaded(pool)
    assert shown.backend == "openvino"
    pool.unload("embedding")
    assert backend(pool) == "openvino" and preparations.made == 1


def test_a_preparation_waits_for_room(stage: Stage, preparations: Preparations, threads: ThreadPoolExecutor) -> None:
    pool = stage.pool()
    preparations.needs = 9
    go, using = held_open(pool, "chat", threads)
    call = threads.submit(backend, pool)
    until(lambda: pool.residency.waiting == 1)
    assert preparations.made == 0
    go.set()
    using.result(HANG)
    assert call.result(HANG) == "openvino"


def test_a_chat_model_and_one_that_is_in_memory_are_not_prepared(stage: Stage, preparations: Preparations) -> None:
    pool = stage.pool()
    called(pool, "chat")
    assert preparations.made == 0
    preparations.refuses = True
    assert backend(pool) == "torch"
    fastpath.discard(stage.folder / "vectors")
    assert backend(pool) == "torch" and preparations.made == 1, "in memory it needs nothing"
    assert REFUSAL not in str(loaded(pool))


@pytest.mark.parametrize("needs", [5, 17], ids=["fails", "does not fit"])
def test_what_cannot_be_prepared_is_loaded_as_before_and_nothing_stays_held(
    stage: Stage, preparations: Preparations, caplog: pytest.LogCaptureFixture, needs: int
) -> None:
    pool = stage.pool(keep_alive=0)
    preparations.needs = needs
    preparations.fails(OSError(28, "No space left on device"))
    for _ in range(3):
        assert backend(pool) == "torch"
        until(lambda: pool.budget.held == 0)
    assert preparations.made == (1 if needs == 5 else 0)
    (told,) = warnings(caplog)
    assert told.startswith("vectors is run by torch")
    assert ("No space left" if needs == 5 else "Raise ram_budget") in told


def test_cancelling_a_preparation_gives_all_back_and_the_next_call_begins_anew(
    stage: Stage, preparations: Preparations, threads: ThreadPoolExecutor
) -> None:
    pool = stage.pool()
    preparations.waits()
    cancelled_while(pool, threads, preparations.began.is_set, "embedding")
    assert pool.budget.held == 0 and pool.residency.waiting == 0
    assert stage.made == []
    preparations.act = lambda _job: None
    assert backend(pool) == "openvino" and preparations.made == 2


def test_cancelling_who_waits_for_the_room_of_a_preparation(
    stage: Stage, preparations: Preparations, threads: ThreadPoolExecutor
) -> None:
    pool = stage.pool()
    preparations.needs = 9
    go, using = held_open(pool, "chat", threads)
    cancelled_while(pool, threads, lambda: pool.residency.waiting == 1, "embedding")
    assert pool.residency.waiting == 0
    go.set()
    using.result(HANG)
    assert preparations.made == 0 and backend(pool) == "openvino"


def test_close_ends_a_preparation(stage: Stage, preparations: Preparations, threads: ThreadPoolExecutor) -> None:
    pool = stage.pool()
    preparations.waits()
    call = threads.submit(backend, pool)
    assert preparations.began.wait(HANG)
    pool.worker.close()
    assert isinstance(call.exception(HANG), EngineClosed)
    assert pool.budget.held == 0
    assert not fastpath.cache_of(stage.folder / "vectors").exists()


def test_close_ends_a_pass_that_runs(stage: Stage, preparations: Preparations, threads: ThreadPoolExecutor) -> None:
    pool, running = stage.pool(), threading.Event()

    def job(model: Any) -> None:
        running.set()
        assert model.interrupted.wait(HANG)
        raise EngineClosed("it was closed")

    call = threads.submit(pool.call, "embedding", job)
    assert running.wait(HANG)
    pool.worker.close()
    assert isinstance(call.exception(HANG), EngineClosed)


def test_callers_at_once_prepare_once(stage: Stage, preparations: Preparations, threads: ThreadPoolExecutor) -> None:
    pool, go = stage.pool(), preparations.waits()
    calls = [threads.submit(backend, pool) for _ in range(4)]
    assert preparations.began.wait(HANG)
    assert called(pool, "fallback") == "small", "nobody else waits for it"
    go.set()
    assert [call.result(HANG) for call in calls] == ["openvino"] * 4
    assert preparations.made == 1 and stage.made.count("vectors") == 1
    assert set(pool.budget.parts()) == {Part("vectors", 3, 0), Part("small", 4, 0)}


def test_a_cache_that_proves_damaged_is_made_anew_once(stage: Stage, preparations: Preparations) -> None:
    pool, loads = stage.pool(), damages(stage, times=1)
    assert backend(pool) == "openvino"
    assert (loads, preparations.made) == ([True, True], 2)
    assert pool.budget.parts() == (Part("vectors", 3, 0),)


def test_a_damaged_cache_is_made_anew_for_all_who_wait(
    stage: Stage, preparations: Preparations, threads: ThreadPoolExecutor
) -> None:
    pool, go = stage.pool(), threading.Event()
    loads = damages(stage, times=1, wait=go)
    calls = [threads.submit(backend, pool) for _ in range(3)]
    until(lambda: pool.residency.waiting == 3)
    go.set()
    assert [call.result(HANG) for call in calls] == ["openvino"] * 3
    assert (loads, preparations.made) == ([True, True], 2)
    assert pool.budget.parts() == (Part("vectors", 3, 0),)


def test_a_cache_that_is_damaged_again_leaves_the_model_to_torch(
    stage: Stage, preparations: Preparations, caplog: pytest.LogCaptureFixture
) -> None:
    pool, loads = stage.pool(), damages(stage, times=99)
    for _ in range(2):
        assert backend(pool) == "torch"
        pool.unload("embedding")
    assert (loads, preparations.made) == ([True, True, False, False], 2)
    assert len([line for line in warnings(caplog) if "is run by torch" in line]) == 1
    assert pool.budget.held == 0


def test_a_cache_that_stays_damaged_is_torchs_for_all_who_wait(
    stage: Stage, preparations: Preparations, threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    pool, go = stage.pool(), threading.Event()
    loads = damages(stage, times=99, wait=go)
    calls = [threads.submit(backend, pool) for _ in range(3)]
    until(lambda: pool.residency.waiting == 3)
    go.set()
    assert [call.result(HANG) for call in calls] == ["torch"] * 3
    assert loads.count(True) <= 4 and preparations.made <= 4, "nobody goes on for ever"
    assert len([line for line in warnings(caplog) if "is run by torch" in line]) == 1
    assert pool.budget.parts() == (Part("vectors", 3, 0),)


def test_a_cache_that_is_damaged_again_is_told_to_who_asks_for_openvino(
    stage: Stage, preparations: Preparations
) -> None:
    pool, loads = stage.pool(), damages(stage, times=99)
    spec = pool.models.specs["embedding"]
    pool.models.specs["embedding"] = spec.model_copy(update={"backend": "openvino"})
    with pytest.raises(CacheDamaged):
        backend(pool)
    assert (loads, preparations.made, pool.budget.held) == ([True, True], 2, 0)


def test_a_damaged_cache_that_cannot_be_removed_leaves_the_model_to_torch(
    stage: Stage, preparations: Preparations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder that may be read only: what lies there stays, and looks like what was prepared."""
    pool, real = stage.pool(), fastpath.load

    def load(_heed: Heed) -> None:
        if fastpath.state(stage.folder / "vectors") == "ready":
            real(stage.folder / "vectors")  # finds that OpenVINO cannot read it

    def refuse(_folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    stage.acts["vectors"] = load
    monkeypatch.setattr(fastpath, "discard", refuse)
    assert backend(pool) == "torch"
    pool.unload("embedding")
    assert backend(pool) == "torch"
    assert pool.budget.parts() == (Part("vectors", 3, 0),)


# ---- bytes for what is no model


def test_bytes_count_while_they_are_had(stage: Stage) -> None:
    pool = stage.pool()
    called(pool, "chat")
    with pool.room("preparation", 8):
        assert pool.budget.parts() == (Part("preparation", 8, 0),)  # the idle model made room
    assert pool.budget.held == 0
    assert pool.keep("analyser", 5, lambda: "kiwi") == "kiwi"
    assert pool.budget.held == 5
    with pytest.raises(OutOfBudget), pool.room("preparation", 12):
        pytest.fail("there is no room")


def test_bytes_for_what_could_not_be_made_come_back(stage: Stage) -> None:
    pool = stage.pool()
    with pytest.raises(ZeroDivisionError):
        pool.keep("analyser", 5, lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError), pool.room("preparation", 5):
        _ = 1 // 0
    assert pool.budget.held == 0


def test_what_only_grows_is_reserved_in_steps(stage: Stage) -> None:
    pool = stage.pool(budget=50_000_000)
    grow = Growing(pool, "index")
    grow(0)
    assert pool.budget.held == 0
    grow(1)
    assert pool.budget.held == 16_000_000
    grow(15_000_000)
    assert pool.budget.held == 16_000_000
    grow(40_000_000)
    assert pool.budget.held == 40_000_000
    with pytest.raises(OutOfBudget):
        grow(51_000_000)
    assert pool.budget.parts() == (Part("index", 40_000_000, 0),)


# ---- plans


def test_the_verdicts_of_a_plan(stage: Stage, threads: ThreadPoolExecutor) -> None:
    pool = stage.pool()
    plan = pool.plan("chat")
    assert (plan.model, plan.verdict, plan.ram.total, plan.evicts, plan.fallback) == ("large", "fits", 10, (), "small")
    assert (plan.budget, plan.held, plan.installed, plan.n_ctx) == (16, 0, True, 256)
    go, using = held_open(pool, "chat", threads)
    assert pool.plan("chat").verdict == "loaded"
    assert (pool.plan("other").verdict, pool.plan("other").evicts) == ("waits", ("large",))
    go.set()
    using.result(HANG)
    assert (pool.plan("other").verdict, pool.plan("other").evicts) == ("evicts", ("large",))
    assert (pool.plan("huge").verdict, pool.plan("huge").fallback) == ("too large", None)
    assert names(pool) == {"large"} and stage.made == ["large"]  # a plan changes nothing


def test_a_plan_takes_the_first_way_that_could_fit(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = stage.pool()
    ways = [How(Footprint(size, 0, 0, 0), cells=size) for size in (40, 16, 3)]
    monkeypatch.setattr("engine.plans.ways", lambda *_, **__: ways)
    assert (pool.plan("chat").n_ctx, pool.plan("chat").verdict) == (16, "fits")
    monkeypatch.setattr("engine.plans.ways", lambda *_, **__: ways[:1])
    assert (pool.plan("chat").n_ctx, pool.plan("chat").verdict) == (40, "too large")


def test_a_plan_of_what_is_not_here(stage: Stage) -> None:
    pool = stage.pool()
    stage.remove("large")
    assert pool.plan("chat").installed is False
    stage.corrupt.add("large")
    with pytest.raises(ModelCorrupt):
        pool.plan("chat")
    with pytest.raises(ModelNotFound):
        pool.plan("nobody")


# ---- what is told


def test_what_is_loaded_is_told_with_its_numbers(stage: Stage) -> None:
    pool = stage.pool(keep_alive=1e6)
    called(pool, "chat")
    pool.call("embedding", lambda _model: None)
    chat, vectors = loaded(pool)
    assert (chat.name, chat.kind, chat.roles, chat.ram) == ("large", "llm", ("chat", "summary", "extraction"), 10)
    assert (chat.requests, chat.kv_used, chat.kv_cells, chat.tokens_per_second) == (0, 7, 256, 5.0)
    assert (chat.load_seconds, chat.mapped, chat.vram) == (0.5, 0, 0) and 0 <= chat.idle < HANG
    assert (vectors.name, vectors.ram, vectors.kv_cells, vectors.tokens_per_second) == ("vectors", 3, 0, None)
    assert (chat.backend, vectors.backend) == ("llama.cpp", "torch")
    assert sum(part.bytes for part in pool.budget.parts()) == pool.budget.held == 13


def test_a_fallback_is_told_by_role(stage: Stage) -> None:
    pool = stage.pool()
    stage.remove("large")
    called(pool, "chat")
    called(pool, "summary")
    assert set(pool.replaced) == {"chat", "summary"}
    assert [(one.role, one.wanted, one.by) for one in pool.status("test", "home").replaced] == [
        ("chat", "large", "small"),
        ("summary", "large", "small"),
    ]
    assert [model.name for model in loaded(pool)] == ["small"]


# ---- unload, close, fork


def test_unload_frees_a_model_and_ends_who_uses_it(stage: Stage, threads: ThreadPoolExecutor) -> None:
    pool = stage.pool()
    assert pool.unload("chat") is False
    called(pool, "chat")
    assert pool.unload("summary") is True  # the same model
    assert not pool.in_memory("chat") and pool.budget.held == 0
    with pool.leased("chat") as key:
        assert pool.unload("chat") is True
        with pytest.raises(EngineClosed, match="large was unloaded"):
            pool.run(key, lambda runner: runner)
    assert called(pool, "chat") == "large"


def test_unload_while_a_model_loads(stage: Stage, threads: ThreadPoolExecutor) -> None:
    pool = stage.pool()
    gate = stage.gate("large")
    call = threads.submit(called, pool, "chat")
    assert stage.began.acquire(timeout=HANG)
    pool.unload("chat")
    error = call.exception(HANG)
    assert isinstance(error, EngineClosed) and "unloaded" in str(error)
    until(lambda: pool.budget.held == 0)
    gate.set()
    assert called(pool, "chat") == "large" and not pool.replaced


def test_unload_makes_room_for_who_waits(stage: Stage, threads: ThreadPoolExecutor) -> None:
    pool = stage.pool()
    go, using = held_open(pool, "chat", threads)
    waits = threads.submit(called, pool, "classification")
    until(lambda: pool.residency.waiting == 1)
    pool.unload("chat")
    assert waits.result(HANG) == "other"
    go.set()
    using.result(HANG)


def test_close_ends_who_waits_for_room_and_who_waits_for_a_load(stage: Stage, threads: ThreadPoolExecutor) -> None:
    pool = stage.pool()
    stage.gate("small")
    go, using = held_open(pool, "chat", threads)
    calls = [threads.submit(called, pool, name) for name in ("small", "classification", "huge")]
    assert isinstance(calls[2].exception(HANG), OutOfBudget)
    until(lambda: pool.residency.waiting == 2)
    pool.worker.close()
    for call in calls[:2]:
        assert isinstance(call.exception(HANG), EngineClosed)
    go.set()
    using.result(HANG)
    assert pool.budget.held == 0 and not loaded(pool)
    with pytest.raises(EngineClosed):
        called(pool, "chat")


@posix_only
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_cannot_use_the_models(stage: Stage) -> None:
    pool = stage.pool()
    called(pool, "chat")
    child = os.fork()
    if child == 0:
        told = 0
        try:
            called(pool, "chat")
        except EngineClosed as error:
            told = 7 if "fork" in str(error) else 1
        finally:
            os._exit(told)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert called(pool, "chat") == "large"


def test_a_thread_that_cannot_start_is_told_and_nothing_is_held(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = stage.pool()
    pool.unload("chat")  # the compute thread runs; the loader does not

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            called(pool, "large")
    assert pool.budget.held == 0
    assert called(pool, "large") == "large"


# ---- all at once


def test_two_models_that_do_not_fit_together_and_many_callers(stage: Stage, threads: ThreadPoolExecutor) -> None:
    pool = stage.pool()
    most: list[int] = []
    began = stage.make

    def make(spec: config.ModelSpec, how: How, heed: Heed) -> Loaded:
        most.append(pool.budget.held)
        return began(spec, how, heed)

    stage.make = make  # type: ignore[method-assign]

    def hammer(number: int) -> int:
        wanted = ("large", "other", "small")
        for turn in range(9):
            name = wanted[(number + turn) % 3]
            assert called(pool, name) == name
            most.append(pool.budget.held)
        return 9

    assert sum(threads.map(hammer, range(6))) == 54
    assert max(most) <= 16
    assert pool.residency.waiting == 0


def test_callers_who_give_up_at_any_moment_leave_nothing_behind(stage: Stage, threads: ThreadPoolExecutor) -> None:
    pool = stage.pool()

    def patient(heed: Heed) -> None:
        for _ in range(4):
            time.sleep(0.0005)
            heed()

    stage.acts["large"] = stage.acts["other"] = patient

    def hammer(number: int) -> int:
        answers = 0
        for turn in range(25):
            scope = Scope()
            timer = threading.Timer(0.0004 * ((number * 7 + turn * 3) % 11), scope.cancel)
            timer.start()
            try:
                with scope.entered():
                    called(pool, ("large", "other")[turn % 2])
                answers += 1
            except Cancelled:
                pass
            timer.join()
        return answers

    list(threads.map(hammer, range(4)))
    until(lambda: pool.budget.held == sum(model.ram for model in loaded(pool)))
    assert called(pool, "large") == "large" and called(pool, "other") == "other"


# ---- the whole way


@pytest.mark.model
def test_a_reply_names_the_model_that_answered(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(
        '[profiles.test]\nchat = "gone"\nembedding = "multilingual-e5-small"\nfallback = "smollm2-135m-instruct"\n'
        f'[models.gone]\nkind = "llm"\nsource = {{ path = {str(tmp_path / "gone.gguf")!r} }}\n',
        encoding="utf-8",
    )
    with Engine(file, profile="test", home=tmp_path / "home") as engine:
        assert engine.chat("안녕", max_tokens=1).model == "smollm2-135m-instruct"
        (replaced,) = engine.status().replaced
        assert (replaced.role, replaced.wanted, replaced.by) == ("chat", "gone", "smollm2-135m-instruct")
        with pytest.raises(ModelNotFound):
            engine.chat("안녕", model="gone")
    with Engine(file, profile="test", models={"chat": "gone"}) as engine, pytest.raises(ModelNotFound):
        engine.chat("안녕")


def test_keys_tell_files_apart(stage: Stage) -> None:
    spec = stage.configured().model("large")
    keys: set[Key] = {key_of(spec), key_of(spec.model_copy(update={"source": config.Source(path="/elsewhere")}))}
    assert len(keys) == 2
