"""What is chosen from which times, on a stand-in whose times are given; and real runs on a tiny and the starter model."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models

from engine import Engine, config, runner, tuner, tuning
from engine.abort import AbortFlag
from engine.errors import Cancelled, EngineClosed, EngineError, InvalidInput, ModelCorrupt
from engine.llama import ContextParams, Model
from engine.pace import USUAL
from engine.tuner import best_threads, micro_batch, settle, thread_counts, tune, turn_seconds
from engine.tuning import MICRO_BATCHES, Timing, Tuning

CELLS = 512
HANG = 60.0
Cost = Callable[[bool, int, int, bool], float]  # repacked, tokens, threads, busy host → seconds


# ---- choosing


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 3, 4]), (8, [2, 4, 7, 8]), (64, [16, 32, 63, 64])]
)
def test_a_few_numbers_of_threads_are_worth_measuring(cores: int, counts: list[int]) -> None:
    assert thread_counts(cores) == counts


def timings(*rows: tuple[int, float, float]) -> list[Timing]:
    """Return timings of a single token, idle and busy, by threads."""
    return [Timing(False, 1, n, busy, s) for n, *both in rows for busy, s in zip((False, True), both, strict=True)]


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([(1, 0.080, 0.080), (2, 0.050, 0.160)], 1),
        ([(1, 0.080, 0.080), (2, 0.050, 0.080)], 2),
        ([(1, 1.037, 1.023), (2, 0.644, 1.294)], 2),
        ([(1, 0.082, 0.089), (2, 0.066, 0.197)], 1),
        ([(1, 0.080, 0.080), (2, 0.079, 0.079)], 1),
        ([(2, 0.080, 0.080), (4, 0.060, 0.060), (8, 0.058, 0.061)], 4),
        ([(1, 0.080, 0.080)], 1),
    ],
)
def test_threads_are_chosen_for_an_idle_and_a_busy_host(rows: list[tuple[int, float, float]], best: int) -> None:
    other = Timing(False, 64, 9, False, 0.001)
    assert best_threads([*timings(*rows), other], 1) == best


def test_a_turn_is_mostly_prompt() -> None:
    times = (Timing(False, 1, 1, False, 0.01), Timing(False, 4, 2, False, 0.02), Timing(False, 64, 2, False, 0.5))
    assert turn_seconds(Tuning(1, 2, False, 32, times)) == pytest.approx(8 * 0.5 + 16 * 0.01 + 8 * 0.02)


@pytest.mark.parametrize(
    ("token", "layers", "size"),
    [(0.024, 36, 256), (0.012, 36, 512), (0.0003, 30, 2048), (1.0, 30, 32), (0.1, 1, 32), (1e-9, 1, 2048)],
)
def test_no_node_takes_longer_than_a_cancel_may_wait(token: float, layers: int, size: int) -> None:
    assert micro_batch(token, layers) == size
    assert size == MICRO_BATCHES[0] or size * token / layers / 3 <= 0.1


# ---- measuring


class Machine:
    """Loads stand-ins whose batches take what `cost` says, on a clock that only they turn."""

    def __init__(self, cost: Cost) -> None:
        self.cost, self.now, self.cores_had = cost, 0.0, 1.0
        self.used = 0.0
        self.busy = False
        self.loads: list[FakeModel] = []
        self.contexts: list[FakeContext] = []

    def load(self, repack: bool, tell: tuner.Tell) -> Any:
        tell(0.5)
        self.loads.append(FakeModel(self, repack))
        return self.loads[-1]

    @contextmanager
    def busy_host(self) -> Iterator[None]:
        self.busy = True
        yield
        self.busy = False

    @property
    def open(self) -> list[bool]:
        """Which models are loaded, repacked or not."""
        return [model.repack for model in self.loads if not model.closed]


class FakeModel:
    layers = 36

    def __init__(self, machine: Machine, repack: bool) -> None:
        self.machine, self.repack, self.closed = machine, repack, False

    def close(self) -> None:
        self.closed = True


class FakeContext:
    n_vocab = 10
    waits = False  # for the abort flag, in every batch

    def __init__(self, model: FakeModel, params: ContextParams) -> None:
        self.machine, self.model, self.abort = model.machine, model, AbortFlag()
        self.threads, self.begun, self.closed = (params.n_threads, params.n_threads_batch), threading.Event(), False
        self.machine.contexts.append(self)

    def set_threads(self, one: int, many: int) -> None:
        self.threads = one, many

    def clear(self) -> None:
        pass

    def decode(self, chunks: list[Any]) -> bool:
        [chunk] = chunks
        assert all(0 <= token < self.n_vocab for token in chunk.tokens)
        threads = self.threads[len(chunk.tokens) > 1]
        seconds = self.machine.cost(self.model.repack, len(chunk.tokens), threads, self.machine.busy)
        self.machine.now += seconds
        self.machine.used += seconds * threads * self.machine.cores_had
        if self.waits:
            self.begun.set()
            while self.abort._byte[0] == b"\0":
                pass
            return False
        return True

    def logits(self, row: int) -> None:
        assert not self.closed

    def close(self) -> None:
        self.closed = True


def qwen(repack: bool, tokens: int, threads: int, busy: bool) -> float:
    """Qwen2.5-3B's shape on two cores, as measured."""
    one = {1: 0.080, 2: 0.160 if busy else 0.050}[threads]
    many = {1: 2.0, 2: 1.9 if busy else 1.0}[threads]
    plain, packed = {1: (1, 1), 4: (0.189, 0.122), 16: (0.26, 0.241), 64: (0.617, 0.796)}[tokens]
    return one if tokens == 1 else many * (packed if repack else plain)


def better_repacked(repack: bool, tokens: int, threads: int, busy: bool) -> float:
    return qwen(False, tokens, threads, busy) * (0.5 if repack else 1)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine of two cores where the model is not worth repacking."""
    made = Machine(qwen)
    clock = SimpleNamespace(perf_counter=lambda: made.now, process_time=lambda: made.used)
    monkeypatch.setattr(tuner, "time", clock)
    monkeypatch.setattr(tuner, "_busy_host", made.busy_host)
    monkeypatch.setattr("engine.llama.Context", FakeContext)
    monkeypatch.setattr(tuning, "usable_cores", lambda: 2)
    return made


def ignore(done: float) -> None:
    """Nobody asks how far it is."""


def test_what_is_best_in_the_measured_case(machine: Machine) -> None:
    model, chosen = tune(machine.load, False, ignore)
    assert (chosen.n_threads, chosen.n_threads_batch, chosen.repack, chosen.n_ubatch) == (1, 2, False, 512)
    assert [(n, round(s, 3)) for n, s in chosen.pace.points] == [(1, 0.08), (4, 0.189), (16, 0.26), (64, 0.617)]
    assert chosen.speeds == {"prefill": 103.7, "prefill_busy": 54.6, "decode": 12.5, "decode_busy": 12.5}
    assert [one.repack for one in machine.loads] == [False, True, False]
    assert machine.open == [False]
    assert model is machine.loads[-1]
    assert all(context.closed for context in machine.contexts)


def test_what_was_loaded_last_is_not_loaded_again(machine: Machine) -> None:
    machine.cost = better_repacked
    model, chosen = tune(machine.load, False, ignore)
    assert chosen.repack
    assert [one.repack for one in machine.loads] == [False, True]
    assert machine.open == [True]
    assert model is machine.loads[-1]
    assert None not in chosen.speeds.values()
    assert len(chosen.pace.points) == 4


@pytest.mark.parametrize(("gain", "repack"), [(0.04, False), (0.06, True)])
def test_a_gain_that_may_be_noise_is_not_worth_the_memory(machine: Machine, gain: float, repack: bool) -> None:
    machine.cost = lambda packed, *rest: qwen(False, *rest) * (1 - gain if packed else 1)
    assert tune(machine.load, False, ignore)[1].repack is repack


def test_on_a_gpu_there_is_nothing_to_repack(machine: Machine) -> None:
    machine.cores_had = 0.1  # the processor has little to do
    _, chosen = tune(machine.load, True, ignore)
    assert not chosen.repack
    assert machine.open == [False] and len(machine.loads) == 1


def test_progress_only_rises_and_ends_at_the_whole(machine: Machine) -> None:
    for cost in (qwen, better_repacked):
        machine.cost = cost
        heard: list[float] = []
        tune(machine.load, False, heard.append)
        assert heard == sorted(heard)
        assert heard[0] > 0
        assert 0.9 <= heard[-1] <= 1


def test_who_gives_up_is_heard_at_every_moment_and_nothing_stays_loaded(machine: Machine) -> None:
    heard: list[float] = []
    tune(machine.load, False, heard.append)
    for last in range(0, len(heard), 3):
        machine.loads.clear()
        told: list[float] = []

        def tell(done: float, told: list[float] = told, last: int = last) -> None:
            if len(told) == last:
                raise Cancelled("nobody waits")
            told.append(done)

        with pytest.raises(Cancelled):
            tune(machine.load, False, tell)
        assert machine.open == []
    assert all(context.closed for context in machine.contexts)


def test_a_batch_that_runs_is_aborted(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeContext, "waits", True)

    def tell(done: float) -> None:
        if any(context.begun.is_set() for context in machine.contexts):
            raise Cancelled("nobody waits")

    with pytest.raises(Cancelled):
        tune(machine.load, False, tell)
    assert machine.open == []
    assert not any(thread.name in ("gieok-tuner", "gieok-busy") for thread in threading.enumerate())


# ---- settling


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model, and a cache folder of its user's own."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    return tiny_models.attention(tmp_path / "tiny.gguf")


def test_what_was_measured_is_not_measured_again(machine: Machine, file: Path) -> None:
    _, chosen = settle(file, machine.load, False, ignore)
    assert tuning.recall(file) == chosen
    machine.loads.clear()
    machine.contexts.clear()
    assert settle(file, machine.load, False, ignore)[1] == chosen
    assert ([one.repack for one in machine.loads], machine.contexts) == ([False], [])


@pytest.mark.parametrize("error", [EngineError("no context"), ValueError("odd")])
def test_what_cannot_be_measured_runs_in_the_usual_way(
    machine: Machine, file: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fail(*_: object) -> float:
        raise error

    machine.cost = fail
    with caplog.at_level(logging.INFO, "engine"):
        model, chosen = settle(file, machine.load, False, ignore)
    assert chosen == tuning.usual()
    assert machine.open == [True]
    assert model is machine.loads[-1]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert tuning.recall(file) is None


def test_without_memory_nothing_is_tried_that_takes_more(machine: Machine, file: Path) -> None:
    def fail(*_: object) -> float:
        raise MemoryError("no room")

    machine.cost = fail
    with pytest.raises(MemoryError, match="no room"):
        settle(file, machine.load, False, ignore)
    assert ([one.repack for one in machine.loads], machine.open) == ([False], [])
    assert tuning.recall(file) is None


def test_on_a_gpu_a_model_is_measured_apart(machine: Machine, file: Path) -> None:
    _, chosen = settle(file, machine.load, True, ignore)
    assert (tuning.recall(file, on_gpu=True), tuning.recall(file)) == (chosen, None)
    machine.cost = better_repacked
    _, plain = settle(file, machine.load, False, ignore)
    assert plain != chosen
    assert (tuning.recall(file, on_gpu=True), tuning.recall(file)) == (chosen, plain)
    tuning.forget(file)
    assert (tuning.recall(file, on_gpu=True), tuning.recall(file)) == (None, None)


def test_beside_other_programs_nothing_is_measured(
    machine: Machine, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine.cores_had = 0.6
    with caplog.at_level(logging.INFO, "engine"):
        assert settle(file, machine.load, False, ignore)[1] == tuning.usual()
    assert [record.levelname for record in caplog.records] == ["INFO"]  # it will be measured another time
    assert tuning.recall(file) is None
    machine.cores_had = 1.0
    assert settle(file, machine.load, False, ignore)[1] != tuning.usual()


def test_other_programs_that_come_later_end_nothing(machine: Machine) -> None:
    def cost(repack: bool, tokens: int, threads: int, busy: bool) -> float:
        machine.cores_had = 0.6 if tokens in (4, 16) else 1.0
        return qwen(repack, tokens, threads, busy)

    machine.cost = cost
    _, chosen = tune(machine.load, False, ignore)
    assert (chosen.n_threads, chosen.n_threads_batch, chosen.repack) == (1, 2, False)
    assert chosen.seconds(4) == pytest.approx(0.189)


@pytest.mark.parametrize("error", [Cancelled("nobody waits"), EngineError("odd"), ZeroDivisionError()])
def test_what_the_caller_raises_is_no_failure_of_measuring(machine: Machine, file: Path, error: Exception) -> None:
    def tell(done: float) -> None:
        if done > 0.2:
            raise error

    with pytest.raises(type(error)):
        settle(file, machine.load, False, tell)
    assert (machine.open, tuning.recall(file)) == ([], None)


def test_a_file_that_is_corrupt_is_not_loaded_twice(file: Path) -> None:
    loads: list[bool] = []

    def load(repack: bool, tell: tuner.Tell) -> Any:
        loads.append(repack)
        raise ModelCorrupt("no", path="x")

    with pytest.raises(ModelCorrupt):
        settle(file, load, False, ignore)
    assert loads == [False]


# ---- real models


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure briefly, with one thread, and on a machine that others may use meanwhile."""
    monkeypatch.setattr(tuner, "_ENOUGH", 0.01)
    monkeypatch.setattr(tuner, "_OWN", 0.0)
    monkeypatch.setattr(tuning, "usable_cores", lambda: 1)


def load(file: Path, tell: tuner.Tell = ignore, **over: Any) -> runner.Runner:
    spec = config.load().model("smollm2-135m-instruct").model_copy(update=over)
    return runner.load(str(file), spec, config.load().engine, tell, cells=CELLS, n_gpu_layers=0)


def close(each: runner.Runner) -> None:
    each.close(EngineClosed("the test is over"))


def test_a_runner_runs_as_was_measured(file: Path) -> None:
    times = (Timing(False, 1, 1, False, 0.1), Timing(False, 64, 1, False, 0.9))
    tuning.remember(file, Tuning(1, 1, False, 64, times))
    each = load(file)
    params, beside = each._context.params, each.scheduler.limits.beside
    close(each)
    assert (params.n_threads, params.n_threads_batch, params.n_ubatch) == (1, 1, 64)
    assert beside(1) == Tuning(1, 1, False, 64, times).pace.beside(1, params.n_batch) != USUAL.beside(1, params.n_batch)


def test_threads_of_the_entry_go_before_the_measured_ones(file: Path) -> None:
    tuning.remember(file, Tuning(1, 1, False, 64, (Timing(False, 1, 1, False, 0.1), Timing(False, 64, 1, False, 0.9))))
    each = load(file, n_threads=2)
    params = each._context.params
    close(each)
    assert (params.n_threads, params.n_threads_batch, params.n_ubatch) == (2, 2, 64)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("make", [tiny_models.attention, tiny_models.mamba, tiny_models.hybrid, tiny_models.sliding])
def test_every_kind_of_model_can_be_measured(file: Path, make: Callable[[Path], Path]) -> None:
    make(file)
    heard: list[float] = []
    close(load(file, heard.append))
    assert heard == sorted(heard)
    known = tuning.recall(file)
    assert known is not None
    assert (known.n_threads, known.n_threads_batch) == (1, 1)
    assert all(speed is not None and speed > 0 for speed in known.speeds.values())
    close(load(file))


@pytest.mark.model
@pytest.mark.usefixtures("quick")
def test_the_starter_model_is_measured(starter_gguf: Path) -> None:
    model, chosen = tune(lambda repack, tell: Model(starter_gguf, repack=repack, listen=tell), False, ignore)
    try:
        assert model.contexts == []
        assert [tokens for tokens, _ in chosen.pace.points] == [1, 4, 16, 64]
        assert chosen.n_ubatch in MICRO_BATCHES
        assert all(speed is not None and 0.01 < speed < 1e6 for speed in chosen.speeds.values())
    finally:
        model.close()


@pytest.mark.model
def test_a_real_batch_is_aborted(starter_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "_ENOUGH", HANG)  # so long one timing would go on
    monkeypatch.setattr(tuner, "_ROUNDS", 10**9)
    made: list[Model] = []

    def load_one(repack: bool, tell: tuner.Tell) -> Model:
        made.append(Model(starter_gguf, repack=repack))
        return made[-1]

    looks = iter(range(4))

    def tell(done: float) -> None:
        if next(looks, None) is None:
            raise Cancelled("nobody waits")

    with pytest.raises(Cancelled):
        tune(load_one, False, tell)
    with pytest.raises(EngineClosed):
        _ = made[0].handle


# ---- the doctor


@pytest.fixture
def engine(file: Path, tmp_path: Path) -> Iterator[Engine]:
    with Engine(profile="starter", home=tmp_path / "home", models={"chat": str(file)}) as opened:
        yield opened


def chat_model(found: dict[str, Any]) -> dict[str, Any]:
    [model] = [model for model in found["models"] if "chat" in model["roles"]]
    return dict(model)


@pytest.mark.usefixtures("quick")
def test_the_doctor_tells_and_measures(engine: Engine, file: Path) -> None:
    found = engine.doctor()
    assert chat_model(found) == {
        "name": "tiny", "kind": "llm", "roles": ["chat"], "installed": True, "tuning": None,
    }  # fmt: skip
    assert found["cores"] == 1 and found["ram"] > 2**28 and found["versions"]["numpy"] and found["gpu"] in (True, False)
    known = chat_model(engine.doctor(retune="chat"))["tuning"]
    assert known["n_threads"] == 1 and known["tokens_per_second"]["decode"] > 0
    assert engine.status().loaded == ()
    again = chat_model(engine.doctor(retune=str(file)))["tuning"]
    assert again["tokens_per_second"] != known["tokens_per_second"]  # it was measured, not recalled
    assert chat_model(engine.doctor())["tuning"] == again


def test_a_failed_or_cancelled_retune_keeps_what_was_known(
    engine: Engine, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Tuning(1, 1, False, 64, (Timing(False, 1, 1, False, 0.1), Timing(False, 64, 1, False, 0.9)))
    tuning.remember(file, before)

    def fail(*_: object) -> None:
        raise EngineError("no")

    monkeypatch.setattr(tuner, "tune", fail)
    engine.doctor(retune="chat")
    assert tuning.recall(file) == before

    def cancel(*_: object) -> None:
        raise ModelCorrupt("no", path="x")

    monkeypatch.setattr(tuner, "tune", cancel)
    with pytest.raises(ModelCorrupt):
        engine.doctor(retune="chat")
    assert tuning.recall(file) == before


def test_only_chat_models_are_measured(engine: Engine) -> None:
    with pytest.raises(InvalidInput, match="only chat models are measured"):
        engine.doctor(retune="embedding")
