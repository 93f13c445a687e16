"""The ways to load a model, by what a tiny file needs and what devices would have."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
from fake_preparation import Preparations

from engine import config, fastpath, footprint, measured, offload, plans, prepare
from engine.config import EngineTable, ModelSpec, Source
from engine.llama import Device
from engine.machine import Resident
from engine.offload import RESERVE

TABLE = config.load().engine
LAYERS = 3  # the file has two, and the output counts as one


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """The entry of a file that was trained for 4096 tokens, of which nothing was measured."""
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path))
    path = tiny_models.attention(tmp_path / "tiny.gguf")
    return ModelSpec(name="tiny", kind="llm", source=Source(path=str(path)))


def devices(monkeypatch: pytest.MonkeyPatch, *free: int) -> None:
    there = tuple(Device(f"CUDA{at}", "a GPU", "CUDA", one, 1 << 40) for at, one in enumerate(free))
    monkeypatch.setattr("engine.llama.devices", lambda: there)


def placed(spec: ModelSpec, table: EngineTable = TABLE) -> list[tuple[int | None, int]]:
    return [(how.cells, how.n_gpu_layers) for how in plans.ways(spec, table)]


def test_without_a_gpu_there_is_one_way_for_each_size_of_the_cache(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices(monkeypatch)
    assert placed(spec) == [(4096, 0), (2048, 0)]
    devices(monkeypatch, 1 << 40)
    assert placed(spec.model_copy(update={"n_gpu_layers": 0})) == [(4096, 0), (2048, 0)]


@pytest.mark.parametrize("wanted", ["auto", -1])
def test_the_ways_with_a_gpu_come_first_and_all_without_follow(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, wanted: str | int
) -> None:
    devices(monkeypatch, 1 << 40)
    table = TABLE.model_copy(update={"n_gpu_layers": wanted})
    assert placed(spec, table) == [(4096, LAYERS), (2048, LAYERS), (4096, 0), (2048, 0)]
    options = [how.option for how in plans.ways(spec, table)]
    assert [option.gpu for option in options] == [True, True, False, False]
    with_gpu, _, without, _ = options
    assert with_gpu.bytes < without.bytes, "what lies on the GPU needs no RAM"
    assert [how.vram > 0 for how in plans.ways(spec, table)] == [True, True, False, False]


def test_the_ways_without_a_gpu_are_those_of_a_machine_that_has_none(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices(monkeypatch)
    without = plans.ways(spec, TABLE)
    devices(monkeypatch, 1 << 40)
    assert plans.ways(spec, TABLE)[2:] == without


def test_a_number_of_cells_that_was_asked_for_is_kept_on_both(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    devices(monkeypatch, 1 << 40)
    assert placed(spec.model_copy(update={"n_ctx": 1000})) == [(1000, LAYERS), (1000, 0)]


def test_a_size_of_which_nothing_fits_on_the_gpu_keeps_its_place_and_stands_there_once(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = offload.shape_of(Path(spec.source.path or ""), 2048, TABLE.n_batch)
    one = offload.plan(small, [Device("CUDA0", "a GPU", "CUDA", 1 << 40, 1 << 40)], 1)
    devices(monkeypatch, one.vram + RESERVE)
    assert placed(spec) == [(4096, 0), (2048, 1), (2048, 0)]


# ---- embedding models


@pytest.fixture
def embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """The entry of a folder that was prepared, of which nothing was measured."""
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path))
    folder = tmp_path / "model"
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(400_000_000)  # a hole: it takes no disk
    (folder / "config.json").write_text('{"hidden_size": 64, "vocab_size": 1000}', encoding="utf-8")
    spec = ModelSpec(name="m", kind="embedding", source=Source(path=str(folder)))
    Preparations(monkeypatch)
    prepare.prepare(folder, spec)
    return spec


def only(spec: ModelSpec, *, libraries: bool = True) -> plans.How:
    (how,) = plans.ways(spec, TABLE, libraries=libraries)
    return how


def test_what_was_prepared_is_planned_and_what_was_not_as_before(
    embedding: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(embedding.source.path or "")
    fast = only(embedding)
    assert fast.fast and fast.estimated == footprint.of_cache(folder, embedding)
    assert fast.libraries == footprint.LIBRARIES + footprint.OPENVINO
    before = footprint.of_file(folder, embedding, TABLE, cells=0, repack=False)
    as_torch = only(embedding.model_copy(update={"backend": "torch"}))
    monkeypatch.setattr(fastpath, "available", lambda: False)
    for how in (as_torch, only(embedding)):
        assert (how.fast, how.estimated, how.libraries) == (False, before, footprint.LIBRARIES)
        assert (how.option.bytes or 0) > (fast.option.bytes or 0)


def test_libraries_that_are_there_are_not_planned_again(embedding: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = only(embedding), only(embedding, libraries=False)
    assert again.libraries == 0
    assert first.option.bytes - again.option.bytes == footprint.LIBRARIES + footprint.OPENVINO
    monkeypatch.setattr(fastpath, "available", lambda: False)
    first, again = only(embedding), only(embedding, libraries=False)
    assert first.option.bytes - again.option.bytes == footprint.LIBRARIES


def test_what_one_way_took_is_not_taken_for_what_the_other_will(
    embedding: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = only(embedding)
    ram = fast.estimated
    growth = Resident(int((ram.total or 0) * 1.05) - ram.mapped - ram.later, ram.mapped)
    taken = plans.loaded(embedding, TABLE, fast, growth)
    assert taken.known == measured.Measured(growth.total + ram.later, ram.mapped)
    assert only(embedding).known == taken.known
    assert not only(embedding, libraries=False).measured
    slow = embedding.model_copy(update={"backend": "torch"})
    assert not only(slow).measured
    monkeypatch.setattr(fastpath, "available", lambda: False)
    assert not only(embedding).measured
    plans.loaded(embedding, TABLE, only(embedding), Resident(900_000_000, 0))
    monkeypatch.undo()
    monkeypatch.setenv("GIEOK_MODELS", str(Path(embedding.source.path or "").parent))
    assert only(embedding).known == taken.known
