"""What a model will take of RAM: the sum, what is left out where an entry does not say it, and what is really held."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from script_module import load

from engine import config, layout, runner
from engine.config import ModelSpec, Source
from engine.footprint import SPARE_SEQUENCES, Footprint, cells, estimate, sequences

resident = load("resident")
CONFIG = config.load(config.packaged_file())
TABLE = CONFIG.engine
MINE = ModelSpec(
    name="mine",
    kind="llm",
    source=Source(path="mine.gguf"),
    size=10**9,
    context=4096,
    kv_bytes=1000,
    width=1024,
    vocab=100,
)


def changed(**values: object) -> ModelSpec:
    return MINE.model_copy(update=values)


def test_the_whole_is_the_sum_of_its_parts() -> None:
    found = Footprint(1, 20, 300, 4000)
    assert found.total == 4321
    assert found.to_dict() == {"weights": 1, "kv": 20, "compute": 300, "other": 4000, "total": 4321}


def test_the_cache_has_as_many_cells_as_the_engine_asks_for_and_the_model_can_use() -> None:
    assert estimate(MINE, TABLE).kv == 1000 * 4096
    assert estimate(changed(context=None), TABLE).kv == 1000 * TABLE.n_ctx
    assert estimate(changed(n_ctx=512), TABLE).kv == 1000 * 512
    assert cells(changed(n_ctx=99999), TABLE) == 4096


def test_a_state_is_kept_for_every_sequence() -> None:
    assert sequences(MINE, TABLE) == TABLE.parallel + SPARE_SEQUENCES
    assert sequences(changed(parallel=2), TABLE) == 2 + SPARE_SEQUENCES
    plain, hybrid = (estimate(changed(parallel=2, state_bytes=n), TABLE).kv or 0 for n in (0, 10**6))
    assert hybrid - plain == 10**6 * (2 + SPARE_SEQUENCES)


@pytest.mark.parametrize("unknown", ["size", "kv_bytes", "width", "vocab"])
def test_what_an_entry_does_not_say_is_not_made_up(unknown: str) -> None:
    found = estimate(changed(**{unknown: None}), TABLE)
    assert found.total is None
    assert None in {found.weights, found.kv, found.compute}
    assert found.other > 0


def test_a_path_that_is_no_entry_has_no_estimate() -> None:
    for kind in ("llm", "embedding"):
        bare = ModelSpec(name="x", kind=kind, source=Source(path="x"))
        assert estimate(bare, TABLE).total is None


def test_rows_of_tokens_that_never_occur_are_never_read() -> None:
    spec = CONFIG.model("bge-m3")
    assert spec.size and spec.vocab and spec.dim
    assert estimate(spec, TABLE).weights == spec.size - spec.vocab * spec.dim * 4
    assert estimate(spec, TABLE).kv == 0


def test_weights_that_are_converted_are_not_as_large_as_their_file() -> None:
    spec = CONFIG.model("multilingual-e5-small")
    assert spec.size and spec.weights
    assert spec.weights > 6 * spec.size
    assert (layout.locate(spec) / "model.safetensors").stat().st_size == spec.weights


def test_more_of_anything_takes_more() -> None:
    totals = [estimate(spec, TABLE).total or 0 for spec in (MINE, changed(size=2 * 10**9), changed(kv_bytes=2000))]
    assert totals[0] < min(totals[1:])
    larger = TABLE.model_copy(update={"n_batch": 2048, "n_ctx": 4096})
    assert (estimate(MINE, larger).total or 0) > totals[0]


def test_the_runner_makes_as_many_sequences_as_are_counted(starter_gguf: Path) -> None:
    spec = CONFIG.model("smollm2-135m-instruct").model_copy(update={"parallel": 3})
    loaded = runner.load(str(starter_gguf), spec, TABLE, lambda _done: None)
    try:
        limits = loaded.scheduler.limits
        assert (limits.cells, limits.sequences) == (cells(spec, TABLE), sequences(spec, TABLE))
    finally:
        loaded.close(RuntimeError("done"))


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "multilingual-e5-small"])
def test_the_starter_models_hold_what_was_estimated(name: str, tmp_path: Path) -> None:
    """The models of true shape are measured by `scripts/benchmark.py resident`, in the same way."""
    path = layout.locate(CONFIG.model(name))
    one = resident.row(name, path, tmp_path)
    loaded, worked = one.ratios
    assert 0.9 <= worked <= 1.1, one
    assert worked <= loaded <= 1.2, one  # of so small a model, what a batch needs is a larger part


def test_a_row_in_json_and_in_the_table() -> None:
    held = resident.Held(500, 1000)
    one = resident.Row("x", 100, Footprint(400, 300, 200, 50), held, None)
    assert one.ratios == (1.9, 0.95)
    found = json.loads(json.dumps(one.to_dict()))
    assert found["ratios"] == {"loaded": 1.9, "worked": 0.95}
    assert found["estimated"]["total"] == 950
    assert list(resident.table([one]))[-1].endswith("| 1.90 / 0.95 | – | – |")
    with pytest.raises(ValueError, match="does not say enough"):
        _ = replace(one, estimated=Footprint(None, 0, 0, 1)).ratios
