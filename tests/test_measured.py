"""What a load took: what is believed of it, what is remembered, and of which file and settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import measured
from engine.footprint import Footprint
from engine.machine import Resident
from engine.measured import Measured, applied, corrected, recall, remember

SETTINGS = {"n_ctx": 2048, "repack": False}
TAKEN = Measured(1_000_000, 400_000)
MAPPED = Footprint(1000, 200, 100, 50, mapped=1000, later=60)
LAID_OUT = Footprint(1000, 200, 100, 50, later=60)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("GIEOK_MODELS", str(folder))
    return folder


@pytest.fixture
def model(models: Path) -> Path:
    path = models / "model.gguf"
    path.write_bytes(b"GGUF" * 100)
    return path


# ---- remembered


def test_what_was_measured_is_remembered(model: Path, models: Path) -> None:
    assert recall(model, SETTINGS) is None
    remember(model, SETTINGS, TAKEN)
    assert recall(model, SETTINGS) == TAKEN
    assert (models / ".footprints.json").is_file()
    remember(model, SETTINGS, Measured(7, 0))
    assert recall(model, SETTINGS) == Measured(7, 0)


def test_in_any_order_of_the_settings_but_only_of_these(model: Path) -> None:
    remember(model, SETTINGS, TAKEN)
    assert recall(model, dict(reversed(SETTINGS.items()))) == TAKEN
    assert recall(model, {**SETTINGS, "n_ctx": 4096}) is None
    assert recall(model, {**SETTINGS, "repack": True}) is None
    assert recall(model, {}) is None


def test_a_file_that_changed_is_another_one(model: Path) -> None:
    remember(model, SETTINGS, TAKEN)
    os.utime(model, ns=(1, 1))
    assert recall(model, SETTINGS) is None
    remember(model, SETTINGS, TAKEN)
    model.write_bytes(b"other")
    os.utime(model, ns=(1, 1))
    assert recall(model, SETTINGS) is None
    model.unlink()
    assert recall(model, SETTINGS) is None
    remember(model, SETTINGS, TAKEN)
    assert recall(model, SETTINGS) is None


def test_another_library_may_take_something_else(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(model, SETTINGS, TAKEN)
    monkeypatch.setattr(measured, "version", lambda _package: "9.9")
    assert recall(model, SETTINGS) is None


def test_of_a_folder_its_weights_count(models: Path) -> None:
    folder = models / "e5"
    folder.mkdir()
    weights, tokeniser = folder / "model.safetensors", folder / "tokenizer.json"
    weights.write_bytes(b"x" * 10)
    remember(folder, {}, TAKEN)
    tokeniser.write_bytes(b"y")
    assert recall(folder, {}) == TAKEN
    weights.write_bytes(b"x" * 11)
    assert recall(folder, {}) is None


def test_every_part_of_a_model_counts(models: Path) -> None:
    first, second = (models / f"m-0000{n}-of-00002.gguf" for n in (1, 2))
    for part in (first, second):
        part.write_bytes(b"x")
    remember(first, SETTINGS, TAKEN)
    assert recall(first, SETTINGS) == TAKEN
    second.write_bytes(b"xy")
    assert recall(first, SETTINGS) is None


@pytest.mark.parametrize(
    ("total", "mapped"),
    [(0, 0), (-5, 0), (1 << 60, 0), (10, 11), (10, -1), (True, False), (1.5, 0), ("9", 0), (None, 0)],
)
def test_insane_values_are_ignored(model: Path, models: Path, total: object, mapped: object) -> None:
    remember(model, SETTINGS, TAKEN)
    notes = models / ".footprints.json"
    known = json.loads(notes.read_text(encoding="utf-8"))
    for entry in known.values():
        entry.update(total=total, mapped=mapped)
    notes.write_text(json.dumps(known), encoding="utf-8")
    assert recall(model, SETTINGS) is None
    notes.unlink()
    remember(model, SETTINGS, Measured(total, mapped))  # type: ignore[arg-type]
    assert not notes.exists()


def test_notes_that_are_none_are_ignored(model: Path, models: Path) -> None:
    remember(model, SETTINGS, TAKEN)
    notes = models / ".footprints.json"
    for key in json.loads(notes.read_text(encoding="utf-8")):
        for text in (json.dumps({key: 3}), json.dumps({key: []}), "{", "[]"):
            notes.write_text(text, encoding="utf-8")
            assert recall(model, SETTINGS) is None


# ---- believed


def test_a_growth_near_the_estimate_is_believed() -> None:
    found, believed = corrected(MAPPED, Resident(280, 1000))
    assert believed
    assert found == Footprint(1000, 200, 100, 40, mapped=1000, later=60)
    assert found.total == 280 + 1000 + 60  # what the first full batch touches is still to come


def test_pages_that_were_dropped_meanwhile_come_back() -> None:
    found, believed = corrected(MAPPED, Resident(290, 300))
    assert believed
    assert (found.total, found.mapped) == (290 + 1000 + 60, 1000)


def test_pages_of_libraries_count_as_well() -> None:
    found, believed = corrected(MAPPED, Resident(290, 1100))
    assert believed
    assert (found.total, found.mapped) == (290 + 1100 + 60, 1100)
    found, believed = corrected(LAID_OUT, Resident(1290, 10))
    assert believed
    assert (found.total, found.mapped) == (1290 + 10 + 60, 10)


def test_where_pages_are_not_told_apart_nothing_counts_twice() -> None:
    found, believed = corrected(MAPPED, Resident(1290, 0))
    assert believed
    assert (found.total, found.mapped) == (1350, 1000)


def test_what_other_threads_took_or_freed_is_not_believed() -> None:
    assert corrected(LAID_OUT, Resident(900, 0)) == (LAID_OUT, False)
    assert corrected(LAID_OUT, Resident(-5000, -3)) == (LAID_OUT, False)
    found, believed = corrected(LAID_OUT, Resident(5000, 0))
    assert not believed
    assert found.total == 5060
    assert found.other == 5060 - 1300


def test_less_than_all_else_is_taken_from_the_parts() -> None:
    estimate = Footprint(1000, 30, 20, 10, later=20)
    found, believed = corrected(estimate, Resident(960, 0))
    assert believed
    assert found == Footprint(980, 0, 0, 0, mapped=0, later=0)


def test_a_little_less_is_believed_and_more_only_in_doubt() -> None:
    """Who plans with too little takes more than there is."""
    estimate = Footprint(1000, 0, 0, 0)
    assert [corrected(estimate, Resident(size, 0))[1] for size in (890, 910, 1240, 1260)] == [False, True, True, False]


def test_an_estimate_that_was_too_large_on_purpose_is_corrected() -> None:
    bound = Footprint(1000, 9000, 100, 50, mapped=1000, later=60, bound=True)
    found, believed = corrected(bound, Resident(290, 1000))
    assert believed
    assert (found.total, found.bound) == (1350, False)
    assert not corrected(bound, Resident(100, 0))[1]  # less than the weights


def test_who_knew_too_little_believes() -> None:
    found, believed = corrected(Footprint(1000, None, None, 50), Resident(1500, 20))
    assert believed
    assert found.total == 1520


PART = st.integers(0, 10**12)


@given(PART, PART, PART, PART, PART, st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12), st.booleans())
def test_parts_always_make_up_a_plausible_total(
    weights: int, kv: int, compute: int, other: int, later: int, anonymous: int, pages: int, bound: bool
) -> None:
    estimate = Footprint(weights, kv, compute, other, mapped=weights, later=min(later, compute), bound=bound)
    found, believed = corrected(estimate, Resident(anonymous, pages))
    assert found.total is not None
    assert min(found.weights or 0, found.kv or 0, found.compute or 0, found.other, found.mapped, found.later) >= 0
    assert found.mapped <= found.total
    assert found.later <= (found.compute or 0)
    if not believed:
        assert found.total >= (estimate.total or 0)


def test_what_is_remembered_is_laid_over_an_estimate() -> None:
    found = applied(MAPPED, Measured(1400, 1010))
    assert (found.total, found.mapped, found.weights, found.other) == (1400, 1010, 1000, 100)


# ---- a real load


LOAD = """
import json, sys
from pathlib import Path
from engine import config
from engine.config import ModelSpec, Source
from engine.footprint import of_file, sequences
from engine.llama import Context, ContextParams, Model
from engine.machine import Resident, resident
from engine.measured import corrected
from engine.scheduler import Chunk, Job

path, cells, repack = Path(sys.argv[1]), 2048, sys.argv[2] == "repack"
table = config.load(config.packaged_file()).engine
spec = ModelSpec(name="x", kind="llm", source=Source(path=str(path)))
estimate = of_file(path, spec, table, cells=cells, repack=repack)
before = resident()
model = Model(path, repack=repack)
context = Context(model, ContextParams(cells, table.n_batch, sequences(spec, table), 1, 2))
model.vocabulary.read()
loaded = resident()
tokens = [5 + n for n in range(table.n_batch)]
context.decode([Chunk(Job(tokens, 1), 0, 0, tokens, 1)])
worked = resident().total - before.total
growth = Resident(loaded.anonymous - before.anonymous, loaded.file_backed - before.file_backed)
found, believed = corrected(estimate, growth)
model.close()
print(json.dumps([estimate.total, found.total, believed, worked]))
"""


@pytest.mark.parametrize("how", ["repack", "map"])
def test_what_a_real_load_takes_is_told_before_its_first_batch(starter_gguf: Path, how: str) -> None:
    """In a process of its own: this one has memory that it freed, and would use it first."""
    command = [sys.executable, "-c", LOAD, str(starter_gguf), how]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    estimate, found, believed, worked = json.loads(said.stdout)
    assert believed
    assert estimate == pytest.approx(worked, rel=0.1)
    assert found == pytest.approx(worked, rel=0.1)
