"""Which models are prepared for the fast path, how often, and what becomes of those that cannot be."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_embedder
from fake_preparation import REFUSAL, Preparations

from engine import Engine, fastpath, layout, ready
from engine.config import ModelSpec, Source
from engine.errors import Cancelled, EngineClosed, EngineError, ModelCorrupt, ModelNotFound, OutOfBudget
from engine.metrics import Progress
from engine.prepare import PreparationFailed
from engine.ready import Ready

HANG = 60.0


@pytest.fixture
def preparations(monkeypatch: pytest.MonkeyPatch) -> Preparations:
    return Preparations(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with weights that nobody reads."""
    made = tmp_path / "모델 폴더"
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"weights")
    (made / "config.json").write_text("{}", encoding="utf-8")
    return made


@pytest.fixture
def rooms() -> list[tuple[str, int]]:
    """What was reserved and is not given back."""
    return []


@pytest.fixture
def made_ready(rooms: list[tuple[str, int]]) -> Ready:
    @contextlib.contextmanager
    def room(name: str, size: int) -> Iterator[None]:
        rooms.append((name, size))
        try:
            yield
        finally:
            rooms.remove((name, size))

    return Ready(room)


def spec(folder: Path, **fields: Any) -> ModelSpec:
    return tiny_embedder.spec(**{"source": {"path": str(folder)}, **fields})


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def prepared_in(folder: Path) -> bool:
    return fastpath.cache_of(folder).exists()


# ---- which, and how often


@pytest.mark.parametrize("backend", ["auto", "openvino"])
def test_a_model_is_prepared_once(
    made_ready: Ready, folder: Path, preparations: Preparations, rooms: list[tuple[str, int]], backend: str
) -> None:
    told: list[Progress] = []
    held: list[tuple[str, int]] = []
    preparations.act = lambda _job: held.extend(rooms)
    assert not ready.is_ready(spec(folder, backend=backend), folder)
    for _ in range(3):
        made_ready(spec(folder, backend=backend), told.append)
    assert preparations.made == 1
    assert ready.is_ready(spec(folder, backend=backend), folder)
    assert held == [("preparing tiny", 5)] and rooms == []
    assert {event.task for event in told} == {"prepare tiny"}
    assert (told[-1].done, told[-1].total) == (5, 5)


def test_what_was_prepared_of_other_weights_is_prepared_anew(
    made_ready: Ready, folder: Path, preparations: Preparations
) -> None:
    made_ready(spec(folder), None)
    (folder / "model.safetensors").write_bytes(b"others")
    assert not ready.is_ready(spec(folder), folder)
    made_ready(spec(folder), None)
    assert preparations.made == 2 and ready.is_ready(spec(folder), folder)


@pytest.mark.parametrize("backend", ["auto", "openvino"])
def test_only_embedding_models_that_are_here_are_prepared(
    made_ready: Ready, folder: Path, preparations: Preparations, backend: str
) -> None:
    made_ready(ModelSpec(name="m", kind="llm", source=Source(path=str(folder / "model.safetensors"))), None)
    made_ready(spec(folder / "nowhere", backend=backend), None)
    elsewhere = {
        "name": "no-such-model",
        "kind": "embedding",
        "source": {"repo": "a/b", "files": ["model.safetensors"]},
    }
    made_ready(ModelSpec.model_validate({**elsewhere, "backend": backend}), None)
    assert preparations.made == 0


def test_an_entry_that_asks_for_torch_gets_it(made_ready: Ready, folder: Path, preparations: Preparations) -> None:
    made_ready(spec(folder, backend="torch"), None)
    assert preparations.made == 0 and not prepared_in(folder)
    made_ready(spec(folder), None)
    assert not ready.is_ready(spec(folder, backend="torch"), folder)


def test_where_openvino_is_absent_nothing_is_prepared_and_nothing_used(
    made_ready: Ready,
    folder: Path,
    preparations: Preparations,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as without:
        without.setattr(fastpath, "available", lambda: False)
        made_ready(spec(folder), None)
        assert preparations.made == 0 and not prepared_in(folder)
        assert ready.obstacle(folder) == "OpenVINO is not installed, or does not know this processor"
    made_ready(spec(folder), None)
    assert ready.is_ready(spec(folder), folder)
    monkeypatch.setattr(fastpath, "available", lambda: False)
    assert not ready.is_ready(spec(folder), folder), "a cache that came from elsewhere"
    assert warnings(caplog) == []


def test_a_folder_without_weights_is_left_as_it_is(made_ready: Ready, folder: Path, preparations: Preparations) -> None:
    """A path that names the wrong folder: no child has to find out, and no lock is left in it."""
    (folder / "model.safetensors").unlink()
    made_ready(spec(folder), None)
    assert preparations.made == 0
    assert [path.name for path in folder.iterdir()] == ["config.json"]


# ---- failures


FAILURES = [
    OutOfBudget("it does not fit", needed=9, available=1),
    OSError(30, "Read-only file system"),
    PreparationFailed("it was ended from outside"),
    ModelCorrupt("it lacks weights", path="m"),
    MemoryError(),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_what_fails_leaves_it_to_torch_is_told_once_and_not_tried_again(
    made_ready: Ready,
    folder: Path,
    preparations: Preparations,
    caplog: pytest.LogCaptureFixture,
    rooms: list[tuple[str, int]],
    error: Exception,
) -> None:
    preparations.fails(error)
    for _ in range(3):
        made_ready(spec(folder), None)
    assert preparations.made == 1 and rooms == []
    assert not ready.is_ready(spec(folder), folder)
    (told,) = warnings(caplog)
    assert told.startswith("tiny is run by torch") and str(error) in told
    other = folder.with_name("another")
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"weights")
    preparations.act = lambda _job: None
    made_ready(spec(other), None)
    assert preparations.made == 2, "the next model is not to blame"


def test_room_that_is_refused_leaves_it_to_torch(
    folder: Path, preparations: Preparations, caplog: pytest.LogCaptureFixture
) -> None:
    @contextlib.contextmanager
    def none(_name: str, _size: int) -> Iterator[None]:
        raise FAILURES[0]
        yield

    made_ready = Ready(none)
    for _ in range(2):
        made_ready(spec(folder), None)
    assert preparations.made == 0 and len(warnings(caplog)) == 1
    with pytest.raises(OutOfBudget):
        made_ready(spec(folder, backend="openvino"), None)


def test_a_folder_that_cannot_be_written(made_ready: Ready, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / f"{fastpath.FOLDER}.lock").mkdir()  # root may write anywhere, but not that
    for _ in range(2):
        made_ready(spec(folder), None)
    (told,) = warnings(caplog)
    assert "is run by torch" in told


@pytest.mark.parametrize("backend", ["auto", "openvino"])
@pytest.mark.parametrize("error", [Cancelled("stop"), EngineClosed("closed"), KeyboardInterrupt()])
def test_who_gives_up_has_proved_nothing(
    made_ready: Ready,
    folder: Path,
    preparations: Preparations,
    caplog: pytest.LogCaptureFixture,
    rooms: list[tuple[str, int]],
    error: BaseException,
    backend: str,
) -> None:
    preparations.fails(error)
    for _ in range(2):
        with pytest.raises(type(error)):
            made_ready(spec(folder, backend=backend), None)
    assert warnings(caplog) == [] and rooms == []
    preparations.act = lambda _job: None
    made_ready(spec(folder, backend=backend), None)
    assert preparations.made == 3 and ready.is_ready(spec(folder), folder)


def test_a_callback_ends_it_by_returning_false(made_ready: Ready, folder: Path, preparations: Preparations) -> None:
    preparations.waits()
    with pytest.raises(Cancelled):
        made_ready(spec(folder), lambda event: event.done < 1)
    assert preparations.made == 1 and not prepared_in(folder)


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), EngineError("of a host's own"), KeyError("x")])
def test_an_error_of_a_callback_is_its_own_and_proves_nothing(
    made_ready: Ready, folder: Path, preparations: Preparations, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def progress(_event: Progress) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        made_ready(spec(folder), progress)
    assert caught.value is error and warnings(caplog) == []
    made_ready(spec(folder), None)
    assert ready.is_ready(spec(folder), folder)


def test_a_refused_model_is_torchs(
    made_ready: Ready, folder: Path, preparations: Preparations, caplog: pytest.LogCaptureFixture
) -> None:
    preparations.refuses = True
    for _ in range(2):
        made_ready(spec(folder), None)
    assert preparations.made == 1 and not ready.is_ready(spec(folder), folder)
    assert ready.obstacle(folder) == REFUSAL
    assert Ready(contextlib.nullcontext)(spec(folder), None) is None  # type: ignore[arg-type, func-returns-value]
    assert preparations.made == 1 and warnings(caplog) == []


# ---- an entry that asks for OpenVINO


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_who_asks_for_openvino_is_told_what_stands_against_it(
    made_ready: Ready, folder: Path, preparations: Preparations, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """With an error of the engine's own: every other exception is a bug (`engine.errors`)."""
    preparations.fails(error)
    for _ in range(2):
        with pytest.raises(EngineError) as caught:
            made_ready(spec(folder, backend="openvino"), None)
        if isinstance(error, EngineError):
            assert caught.value is error
    assert preparations.made == 2, "it is tried each time that it is asked for"
    assert warnings(caplog) == []
    preparations.act = lambda _job: None
    made_ready(spec(folder, backend="openvino"), None)


def test_a_refused_model_of_which_openvino_is_asked(
    made_ready: Ready, folder: Path, preparations: Preparations
) -> None:
    preparations.refuses = True
    for _ in range(2):
        with pytest.raises(ModelCorrupt) as caught:
            made_ready(spec(folder, backend="openvino"), None)
        assert REFUSAL in str(caught.value) and 'Set backend = "auto" of tiny in models.toml' in str(caught.value)
        assert caught.value.path == str(folder)
    assert preparations.made == 1


def test_where_openvino_is_absent_who_asks_for_it_hears_so_at_once(
    made_ready: Ready, folder: Path, preparations: Preparations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastpath, "available", lambda: False)
    with pytest.raises(ModelCorrupt, match=r"OpenVINO is not installed.*backend = \"auto\""):
        made_ready(spec(folder, backend="openvino"), None)
    assert preparations.made == 0, "what would come of it cannot be used"


# ---- several at once


def test_two_threads_prepare_once(made_ready: Ready, folder: Path, preparations: Preparations) -> None:
    go, told = preparations.waits(), threading.Event()

    def waits(event: Progress) -> None:
        if event.task.startswith("wait for another preparation"):
            told.set()

    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(made_ready, spec(folder), waits) for _ in range(2)]
        assert told.wait(HANG)
        go.set()
        for call in calls:
            call.result(HANG)
    assert preparations.made == 1 and ready.is_ready(spec(folder), folder)


def test_who_waits_for_anothers_preparation_can_be_cancelled(
    made_ready: Ready, folder: Path, preparations: Preparations
) -> None:
    go = preparations.waits()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(made_ready, spec(folder), None)
        assert preparations.began.wait(HANG)
        with pytest.raises(Cancelled, match="wait for another preparation"):
            made_ready(spec(folder), lambda _event: False)
        go.set()
        first.result(HANG)
    assert preparations.made == 1 and ready.is_ready(spec(folder), folder)


# ---- a progress callback that calls the engine


def asked_by(engine: Engine, folder: Path, how: str) -> Callable[[], object]:
    return {
        "embed": lambda: engine.embed("가"),
        "load": lambda: engine.load("embedding"),
        "pull": lambda: engine.pull("tiny"),
        "remember": lambda: engine.remember("가"),
    }[how]


@pytest.mark.parametrize("inner", ["embed", "load", "pull", "remember"])
@pytest.mark.parametrize("outer", ["embed", "pull"])
def test_a_callback_cannot_wait_for_the_preparation_that_calls_it(
    preparations: Preparations, tmp_path: Path, folder: Path, outer: str, inner: str
) -> None:
    heard: list[EngineError] = []

    def progress(event: Progress) -> None:
        assert not event.task.startswith("wait for another preparation"), "it would wait for ever"
        if event.task == "prepare tiny" and event.done == 1 and not heard:
            with pytest.raises(EngineError, match="cannot wait for itself") as caught:
                asked_by(engine, folder, inner)()
            heard.append(caught.value)

    def stop(_job: Any) -> None:
        _job.tell(1)
        raise Cancelled("enough")

    preparations.act = stop
    toml = tmp_path / "models.toml"
    toml.write_text(f'[models.tiny]\nkind = "embedding"\nsource.path = {str(folder)!r}\n', encoding="utf-8")
    with Engine(toml, models={"embedding": "tiny"}, home=tmp_path / "home", progress=progress) as engine:
        with pytest.raises(Cancelled, match="enough"):
            asked_by(engine, folder, outer)()
        assert len(heard) == 1
        with pytest.raises(Cancelled, match="enough"):  # nothing was given up
            asked_by(engine, folder, outer)()
    assert preparations.made == 2


# ---- the whole way


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    made = tmp_path / "tiny"
    made.mkdir()
    return tiny_embedder.bge(made)


TEXTS = ["안녕 서울", "나는 오늘 김치", "hello the 가나다 " * 40, " "]


def test_the_first_use_prepares_and_openvino_answers(tiny: Path, tmp_path: Path) -> None:
    """With a true child."""
    told: list[Progress] = []
    with Engine(models={"embedding": tiny}, home=tmp_path / "home", progress=told.append) as engine:
        found = engine.embed(TEXTS)
        (loaded,) = engine.status().loaded
        assert loaded.backend == "openvino"
    assert [event.done for event in told if event.task == "prepare tiny"][-1] == 5
    told.clear()
    toml = tmp_path / "models.toml"
    toml.write_text(
        f'[models.tiny]\nkind = "embedding"\nbackend = "torch"\nsource.path = {str(tiny)!r}\n', encoding="utf-8"
    )
    with Engine(toml, models={"embedding": "tiny"}, home=tmp_path / "home", progress=told.append) as engine:
        wanted = engine.embed(TEXTS)
        (loaded,) = engine.status().loaded
        assert loaded.backend == "torch"
    assert not [event for event in told if event.task.startswith("prepare")]
    assert found.dense is not None and wanted.dense is not None
    assert (found.dense * wanted.dense).sum(axis=1).min() > 0.99
    assert found.sparse is not None and wanted.sparse is not None
    assert found.sparse[2].keys() & wanted.sparse[2].keys() and found.sparse[3] == wanted.sparse[3] == {}
    assert found.multi is not None and wanted.multi is not None
    assert [one.shape for one in found.multi] == [one.shape for one in wanted.multi]
    for own, other in zip(found.multi, wanted.multi, strict=True):
        assert np.einsum("ij,ij->i", own, other).min() > 0.98


def test_a_cache_that_openvino_cannot_read_leaves_it_to_torch(
    preparations: Preparations, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is prepared here is no model: made anew once, it is no better, and then torch answers."""
    with Engine(models={"embedding": tiny}, home=tmp_path / "home") as engine:
        first = engine.embed("가")
        assert engine.status().loaded[0].backend == "torch"
        engine.unload("embedding")
        again = engine.embed("가")
        held = {part.name for part in engine.status().parts}
    assert preparations.made == 2
    assert first.dense is not None and again.dense is not None
    np.testing.assert_array_equal(first.dense, again.dense)
    assert held == {"tiny", "torch and its libraries"}
    assert len([line for line in warnings(caplog) if "is run by torch" in line]) == 1


def test_a_model_that_is_not_here_is_missing_not_prepared(preparations: Preparations, tmp_path: Path) -> None:
    with Engine(models={"embedding": tmp_path / "nowhere"}) as engine, pytest.raises(ModelNotFound):
        engine.embed("가")
    assert preparations.made == 0
    assert not layout.installed(spec(tmp_path / "nowhere"))
