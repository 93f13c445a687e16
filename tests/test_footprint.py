"""What a model will take of RAM: the sum, what is left out where an entry does not say it, and what is really held."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gguf
import pytest
import tiny_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from script_module import load

from engine import config, fastpath, footprint, layout, runner
from engine.config import ModelSpec, Source
from engine.errors import ModelCorrupt
from engine.footprint import (
    SPARE_SEQUENCES,
    Footprint,
    cells,
    contexts,
    estimate,
    files,
    of_cache,
    of_file,
    sequences,
    shape_of_file,
)

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


def bare(path: Path) -> ModelSpec:
    """Return an entry that says nothing of its file, as of a path that a caller names."""
    return ModelSpec(name="x", kind="llm", source=Source(path=str(path)))


def test_the_whole_is_the_sum_of_its_parts() -> None:
    found = Footprint(1, 20, 300, 4000, mapped=1, later=200, bound=True)
    assert found.total == 4321
    assert found.to_dict() == {"weights": 1, "kv": 20, "compute": 300, "other": 4000, "mapped": 1, "total": 4321}


def test_the_cache_has_as_many_cells_as_the_engine_asks_for_and_the_model_can_use() -> None:
    assert estimate(MINE, TABLE).kv == 1000 * 4096
    assert estimate(changed(context=None), TABLE).kv == 1000 * 8192
    assert estimate(changed(n_ctx=512), TABLE).kv == 1000 * 512
    assert cells(changed(n_ctx=99999), TABLE) == 4096


def test_an_auto_context_may_be_smaller_where_memory_is_scarce_and_a_fixed_one_not() -> None:
    assert TABLE.n_ctx == "auto"
    assert contexts(MINE, TABLE, None) == (8192, 4096, 2048)
    assert contexts(MINE, TABLE, 32768) == (8192, 4096, 2048)
    assert contexts(MINE, TABLE, 4096) == (4096, 2048)
    assert contexts(MINE, TABLE, 5000) == (5000, 4096, 2048)
    assert contexts(MINE, TABLE, 512) == (512,)
    assert contexts(changed(n_ctx=1024), TABLE, 4096) == (1024,)
    assert contexts(changed(n_ctx=9999), TABLE, 4096) == (4096,)
    fixed = TABLE.model_copy(update={"n_ctx": 3000})
    assert contexts(MINE, fixed, None) == (3000,)
    assert contexts(changed(n_ctx="auto"), fixed, None) == (8192, 4096, 2048)


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
    found = estimate(spec, TABLE)
    assert found.weights == found.mapped == spec.size - spec.vocab * spec.dim * 4
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


# ---- what a file says


def test_the_file_says_what_the_catalogue_says(starter_gguf: Path) -> None:
    known = CONFIG.model("smollm2-135m-instruct")
    found = of_file(starter_gguf, bare(starter_gguf), TABLE, cells=cells(known, TABLE), repack=False)
    expected = estimate(known, TABLE)
    assert (found.weights, found.kv, found.compute) == (expected.weights, expected.kv, expected.compute)
    assert (found.other, found.later, found.bound) == (expected.other, expected.later, False)
    assert found.mapped == found.weights == starter_gguf.stat().st_size
    assert of_file(starter_gguf, bare(starter_gguf), TABLE, cells=8192, repack=True).mapped == 0


def test_a_part_of_the_weights_and_the_cache_may_lie_elsewhere(starter_gguf: Path) -> None:
    def at(share: float) -> Footprint:
        return of_file(starter_gguf, bare(starter_gguf), TABLE, cells=2048, repack=False, offload=share)

    whole, half, none = at(0.0), at(0.5), at(1.0)
    assert half.weights == (whole.weights or 0) // 2 == half.mapped
    assert half.kv == (whole.kv or 0) // 2
    assert (half.compute, half.other) == (whole.compute, whole.other)
    assert (none.weights, none.kv, none.mapped) == (0, 0, 0)
    assert at(7.0) == none
    assert at(-1.0) == whole


def test_llama_cpp_makes_whole_blocks_of_cells(starter_gguf: Path) -> None:
    spec = bare(starter_gguf)
    assert of_file(starter_gguf, spec, TABLE, cells=1000, repack=True) == of_file(
        starter_gguf, spec, TABLE, cells=1024, repack=True
    )


def test_states_count_for_every_sequence(tmp_path: Path) -> None:
    path = tiny_models.hybrid(tmp_path / "tiny.gguf")
    spec, shape = bare(path), shape_of_file(path)
    found = of_file(path, spec, TABLE, cells=256, repack=True)
    assert shape.state_bytes > 0
    assert found.kv == shape.kv_bytes * 256 + shape.state_bytes * sequences(spec, TABLE)


def test_all_parts_of_a_model_are_counted(tmp_path: Path) -> None:
    first, second = (tmp_path / f"m-0000{n}-of-00002.gguf" for n in (1, 2))
    tiny_models.attention(first)
    second.write_bytes(b"x" * 1234)
    (tmp_path / "m-00003-of-00003.gguf").write_bytes(b"another model's")
    assert files(first) == [first, second]
    assert of_file(first, bare(first), TABLE, cells=256, repack=True).weights == first.stat().st_size + 1234
    second.unlink()
    assert files(first) == [first]
    odd = tmp_path / "m-00001-of-99999.gguf"
    assert files(odd) == [odd]


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = tiny_models.attention(tmp_path / "tiny.gguf")
    before = shape_of_file(path)
    tiny_models.mamba(path)
    assert shape_of_file(path) != before
    path.write_bytes(b"no model")
    with pytest.raises(ModelCorrupt):
        shape_of_file(path)
    with pytest.raises(ModelCorrupt):
        of_file(path, bare(path), TABLE, cells=256, repack=True)


NUMBER = st.integers(0, 2**32 - 1) | st.integers(0, 300)


KEYS = [
    "block_count", "embedding_length", "context_length", "vocab_size", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "ssm.inner_size", "ssm.state_size",
]  # fmt: skip


@given(values=st.dictionaries(st.sampled_from(KEYS), NUMBER), cells=st.integers(1, 2**31 - 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_wild_file_gets_a_sane_total(tmp_path: Path, values: dict[str, int], cells: int) -> None:
    path = tmp_path / "wild.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in values.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    found = of_file(path, bare(path), TABLE, cells=cells, repack=False)
    assert found.total is not None
    assert path.stat().st_size < found.total < 1 << 53
    assert min(found.weights or 0, found.kv or 0, found.compute or 0, found.later, found.mapped) >= 0
    assert found.later <= (found.compute or 0)


# ---- folders


def test_the_folder_says_what_the_catalogue_says() -> None:
    known = CONFIG.model("multilingual-e5-small")
    folder = layout.locate(known)
    expected = estimate(known, TABLE)
    unknown = ModelSpec(name="x", kind="embedding", source=Source(path=str(folder)))
    for spec in (known, unknown):
        found = of_file(folder, spec, TABLE, cells=0, repack=False)
        assert found == expected
        assert found.mapped == found.weights
        assert found.later == found.compute


def folder_of(place: Path, config: str | None) -> ModelSpec:
    place.mkdir(exist_ok=True)
    (place / "model.safetensors").write_bytes(b"x" * 1_000_000)
    (place / "sparse_linear.safetensors").write_bytes(b"x" * 5_000)
    if config is not None:
        (place / "config.json").write_text(config, encoding="utf-8")
    return ModelSpec(name="x", kind="embedding", source=Source(path=str(place)))


def test_halves_are_made_into_whole_floats_that_are_not_mapped(tmp_path: Path) -> None:
    spec = folder_of(tmp_path, '{"hidden_size": 16, "vocab_size": 1000, "torch_dtype": "float16"}')
    found = of_file(tmp_path, spec, TABLE, cells=0, repack=False)
    assert (found.weights, found.mapped) == (2_000_000, 0)


@pytest.mark.parametrize(
    "said", [None, "", "[]", "no json", '{"hidden_size": -4}', '{"hidden_size": "9", "vocab_size": true}', "[" * 5000]
)
def test_a_folder_that_says_nothing_gets_the_most_it_may_take(tmp_path: Path, said: str | None) -> None:
    found = of_file(tmp_path, folder_of(tmp_path, said), TABLE, cells=0, repack=False)
    assert (found.weights, found.mapped, found.bound) == (1_000_000, 1_000_000, True)
    assert found.total is not None


def test_a_folder_cannot_make_it_huge_or_less_than_nothing(tmp_path: Path) -> None:
    spec = folder_of(tmp_path, f'{{"hidden_size": {10**30}, "vocab_size": {10**30}}}')
    found = of_file(tmp_path, spec, TABLE, cells=0, repack=False)
    assert found.weights == 0
    assert found.total is not None
    assert found.total < 1 << 53


# ---- caches of the fast path


def cache_of(place: Path, size: int) -> None:
    weights = fastpath.weights_of(place)
    weights.parent.mkdir(exist_ok=True)
    with weights.open("wb") as file:
        file.truncate(size)  # a hole: it takes no disk


@pytest.mark.parametrize(
    ("said", "numbers", "most"),
    [
        ('{"hidden_size": 1024, "vocab_size": 250002, "max_position_embeddings": 8194}', 567_000_000, 2.4e9),  # BGE-M3
        ('{"hidden_size": 384, "vocab_size": 250037, "max_position_embeddings": 514}', 117_500_000, 0.9e9),  # e5-small
    ],
)
def test_eight_bits_take_less_than_floats(tmp_path: Path, said: str, numbers: int, most: float) -> None:
    spec = folder_of(tmp_path, said)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(4 * numbers)
    cache_of(tmp_path, numbers)
    found, floats = of_cache(tmp_path, spec), of_file(tmp_path, spec, TABLE, cells=0, repack=False)
    assert found.total is not None and floats.total is not None
    if numbers > 500_000_000:  # of a small one the libraries are more: 845 MB were held, and 830 MB by torch
        assert (found.weights or 0) < 0.55 * (floats.weights or 0)
    assert footprint.LIBRARIES + footprint.OPENVINO < found.total < most
    assert found.mapped * 2 == found.weights and found.later == found.compute and not found.bound


def test_the_table_of_a_cache_is_hardly_read(tmp_path: Path) -> None:
    spec = folder_of(tmp_path, '{"hidden_size": 16, "vocab_size": 1000}')
    cache_of(tmp_path, 50_000)
    assert of_cache(tmp_path, spec).mapped == 50_000 - 16_000


@pytest.mark.parametrize(
    "said",
    [
        None,
        "",
        "[]",
        '{"hidden_size": -4}',
        f'{{"hidden_size": {10**30}, "vocab_size": {10**30}}}',
        f'{{"hidden_size": 16, "vocab_size": 9, "max_position_embeddings": {10**30}}}',
        "[" * 5000,
    ],
)
def test_no_folder_makes_a_cache_huge_or_less_than_nothing(tmp_path: Path, said: str | None) -> None:
    spec = folder_of(tmp_path, said)
    cache_of(tmp_path, 50_000)
    found = of_cache(tmp_path, spec)
    assert found.total is not None and found.weights is not None
    assert 0 <= found.mapped <= found.weights <= 100_000 and found.total < 1 << 53


def test_a_cache_that_went_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"model\.bin"):
        of_cache(tmp_path, folder_of(tmp_path, None))


# ---- what is really held


def test_the_runner_makes_as_many_sequences_as_are_counted(starter_gguf: Path) -> None:
    spec = CONFIG.model("smollm2-135m-instruct").model_copy(update={"parallel": 3})
    loaded = runner.load(str(starter_gguf), spec, TABLE, lambda _done: None, cells=2048, n_gpu_layers=0)
    try:
        limits = loaded.scheduler.limits
        assert (limits.cells, limits.sequences) == (2048, sequences(spec, TABLE))
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
