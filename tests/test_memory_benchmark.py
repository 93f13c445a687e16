"""The benchmark of the store: its made-up vectors and memories, what its figures mean, and all of it at a small size."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from script_module import load

from engine import ranking
from engine.inputs import CATEGORIES

clusters = load("clusters")
lent = load("memory_lent")
texts = load("memory_texts")
peer = load("memory_peer")
sides = load("memory_side")
benchmark = load("memory_benchmark")
command = load("benchmark")

DIM, SIZE, EACH = 48, 1_500, 25
COUNTS = benchmark.Counts(questions=12, whole=4, singles=2, forgets=1, dim=DIM)
LIBRARY = benchmark.Library(SIZE, EACH, words="spaces")


# ---- vectors


@pytest.fixture(scope="module")
def made() -> Any:
    return clusters.Clusters(2_010, dim=128, each=100)


@pytest.fixture(scope="module")
def every(made: Any) -> Any:
    return np.concatenate([made.batch(n) for n in range(made.batches)])


def test_a_batch_is_always_the_same_whatever_was_made_before(made: Any, every: Any) -> None:
    again = clusters.Clusters(2_010, dim=128, each=100)
    assert made.batches == 21
    assert again.batch(20).shape == (10, 128)
    assert np.array_equal(again.batch(7), every[700:800])
    assert np.array_equal(again.questions(3, 5), made.questions(3, 5))
    assert not np.array_equal(clusters.Clusters(2_010, dim=128, each=100, seed=8).batch(7), every[700:800])


def test_vectors_lie_as_those_of_texts_do(every: Any) -> None:
    assert every.dtype == np.float32
    assert np.linalg.norm(every, axis=1) == pytest.approx(np.ones(len(every)), abs=1e-5)
    cosines = every @ every.T
    pairs = cosines[np.triu_indices(len(every), 1)]
    assert 0.4 < np.median(pairs) < 0.6
    assert np.percentile(pairs, 99.5) > np.median(pairs) + 0.15  # of one topic
    np.fill_diagonal(cosines, -1)
    assert 0.02 < (cosines.max(axis=1) > 0.96).mean() < 0.2  # nearly the same
    variances = np.linalg.eigvalsh(np.cov(every.T))[::-1]
    assert variances[:13].sum() > 3 * variances.sum() * 13 / 128  # few strong directions, and none are the axes
    assert every.var(axis=0).max() < 4 * np.median(every.var(axis=0))


def test_topics_are_of_very_different_sizes() -> None:
    drawn = clusters._zipf(np.random.default_rng(0), 100, 20_000)
    counts = np.bincount(drawn, minlength=100)
    assert counts[0] == pytest.approx(2 * counts[1], rel=0.15)
    assert counts[0] == pytest.approx(10 * counts[9], rel=0.3)
    assert counts[-1] > 0


def test_a_question_is_near_a_text_or_near_a_topic(made: Any, every: Any) -> None:
    questions = made.questions(2, 8)
    nearest = np.sort(questions @ every.T, axis=1)
    assert np.linalg.norm(questions, axis=1) == pytest.approx(np.ones(8), abs=1e-5)
    assert (questions @ made.batch(2).T).max(axis=1)[::2].min() > 0.8
    assert nearest[::2, -1].min() < 0.99
    assert nearest[1::2, -1].min() > 0.55


def test_the_exact_nearest_are_found_in_parts(every: Any) -> None:
    questions = every[5:9] + np.float32(0.01)
    parts = clusters.Nearest(questions, 10)
    for first in range(0, len(every), 300):
        parts.see(every[first : first + 300], np.arange(first, min(first + 300, len(every))))
    whole = np.argsort(-(questions @ every.T), axis=1)[:, :10]
    assert [set(row) for row in parts.accepted()] == [set(row) for row in whole.tolist()]


def test_what_is_as_near_as_the_last_is_accepted_too() -> None:
    nearest = clusters.Nearest(np.eye(2, dtype=np.float32), 2)
    nearest.see(np.array([[0.9, 0], [0.5, 0], [0.5, 0], [0.1, 0]], np.float32), np.array([10, 11, 12, 13]))
    assert sorted(nearest.accepted()[0]) == [10, 11, 12]
    few = clusters.Nearest(np.eye(2, dtype=np.float32), 2)
    assert few.accepted() == [[], []]
    few.see(np.eye(2, dtype=np.float32)[:1], np.array([3]))
    assert few.accepted() == [[3], [3]]


# ---- memories


def test_memories_differ_and_questions_speak_of_them() -> None:
    sentences = [texts.sentence(n) for n in range(20_000)]
    assert len(set(sentences)) == 20_000
    assert texts.SENTENCES > 10**8
    assert np.gcd(texts._STRIDE, texts.SENTENCES) == 1  # else they repeat
    assert len(texts.DEEDS) == 60
    assert sentences[1] == "1월 8일 오후 3시에 혼자 영화관에서 보험을 해지했어요."
    assert texts.question(1) == "혼자 영화관에서 보험을 해지한 게 언제였지?"
    assert all(word not in text for text in sentences for word in lent.mute(7).split())


def test_fields_are_spread_as_they_are_said_to_be() -> None:
    found = [texts.fields(n) for n in range(5_000)]
    counts = {user: sum(one.user == user for one in found) / 50 for user in texts.USERS}
    assert counts == pytest.approx(texts.USERS, rel=0.5)
    assert {one.category for one in found} == set(CATEGORIES)
    assert 5 < sum(one.source == texts.RARE for one in found) < 60
    assert {one.when.year for one in found} == {2023, 2024, 2025}


def test_the_peer_filters_as_the_store_is_asked_to() -> None:
    found = [texts.fields(n) for n in range(4_000)]
    rows = [vars_of(one) for one in found]
    for case in texts.CASES:
        kept = [case.matches(one) for one in found]
        assert kept == [peer._fits(case, row) for row in rows]
        assert any(kept)
        assert not all(kept)
    spring = texts.CASES[4]
    assert spring.filters() == {
        "user": texts.MAIN, "category": None, "source": None, "since": date(2024, 3, 1), "until": date(2024, 5, 31),
    }  # fmt: skip


def vars_of(found: Any) -> dict[str, str]:
    """Return fields as the peer's list has them."""
    return {"user": found.user, "category": found.category, "source": found.source, "when": found.when.isoformat()}


# ---- what a store is lent


@pytest.fixture
def order(tmp_path: Path) -> Any:
    np.eye(4, DIM, dtype="<f4").tofile(tmp_path / lent.VECTORS)
    (tmp_path / lent.TEXTS).write_text('["a", "b", "c", "d"]', encoding="utf-8")
    return lent.Order("searching", str(tmp_path / "home"), str(tmp_path), SIZE, DIM, EACH)


def test_vectors_are_looked_up(order: Any) -> None:
    faculties = lent.Lent(replace(order, words="spaces"))
    faculties.know(["가 나"], np.full((1, DIM), 0.5, np.float32))
    told = faculties.faculties()
    found = told.embed(["가 나", "다", "다"], "passage", told.space())
    assert found.sparse is None
    assert found.dense.dtype == np.float32
    assert found.dense[0].tolist() == [0.5] * DIM
    assert found.dense[1].tolist() == found.dense[2].tolist()
    assert found.dense[1].sum() == 1
    assert told.words(["가 나", "다"]) == [("가", "나"), ("다",)]
    assert lent.Lent(order).words(["가 나"]) == [()]
    assert told.judge is None


def test_sparse_weights_come_from_the_tokenizer_of_the_model(order: Any, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    reading = Tokenizer(models.WordLevel({"[UNK]": 0, "가": 5, "나": 9}, unk_token="[UNK]"))
    reading.pre_tokenizer = pre_tokenizers.Whitespace()
    (tmp_path / "model").mkdir()
    reading.save(str(tmp_path / "model" / "tokenizer.json"))
    told = lent.Lent(replace(order, model=str(tmp_path / "model"))).faculties()
    sparse = told.embed(["가 나 가", "나"], "passage", told.space()).sparse
    assert [set(weights) for weights in sparse] == [{5, 9}, {9}]
    assert all(0 < weight < 0.5 for weights in sparse for weight in weights.values())


# ---- all of it, at a small size


class Here:
    """A side in this process, which speaks JSON as one in a process of its own does."""

    def __init__(self, made: Any) -> None:
        self._made, self.said = made, json.loads(json.dumps(made.about()))

    def ask(self, method: str, *arguments: Any) -> Any:
        return json.loads(json.dumps(getattr(self._made, method)(*json.loads(json.dumps(arguments)))))


@contextlib.contextmanager
def here(order: Any) -> Iterator[Here]:
    """Make a side in this process."""
    made = sides.SIDES[order.side](order)
    try:
        yield Here(made)
    finally:
        made.close()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Any]]:
    """What a run finds, and the orders that it gave."""
    given: list[Any] = []

    def make(order: Any) -> Any:
        given.append(order)
        return here(order)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "order", ranking.order)  # what by_cosine() changes
        patch.setattr(sides, "SMALL", 40)
        folder = tmp_path_factory.mktemp("기억")
        found = benchmark.measure(benchmark.Plan([LIBRARY], COUNTS, 2, folder), make)
        assert list(folder.iterdir()) == []
    return json.loads(json.dumps(found)), given


def test_every_figure_of_the_store_has_a_row(measured: tuple[dict[str, Any], list[Any]]) -> None:
    found = measured[0]
    rows = {row["name"]: row for row in found["rows"]}
    assert [row["flaw"] for row in rows.values()] == [""] * len(rows)
    assert all(row["figures"] for row in rows.values())
    assert {name for name, row in rows.items() if row["wanted"]} == {
        f"{name} 1,500"
        for name in (*(case.name for case in texts.CASES), "recall", "reopen", "rebuild", "single")
    }  # fmt: skip
    assert rows["all 1,500"]["figures"]["ours"]["count"] == COUNTS.questions
    assert rows["all 1,500"]["figures"][benchmark.PEER]["count"] == COUNTS.questions
    assert rows["backup 1,500"]["figures"]["ours"]["value"] > 0
    assert rows["bytes 1,500"]["figures"]["ours"]["value"] > 2 * DIM
    assert found["libraries"][0]["size"] == SIZE
    assert {"apsw", "faiss-cpu", "numpy"} <= found["versions"].keys()


def test_the_store_finds_what_is_nearest(measured: tuple[dict[str, Any], list[Any]]) -> None:
    rows = {row["name"]: row for row in measured[0]["rows"]}
    assert rows["recall 1,500"]["figures"]["ours"]["value"] > 0.9
    exact = [note for row in rows.values() for note in row["notes"] if note.startswith("recall@10")]
    assert len(exact) == len(texts.CASES)
    assert [f"{benchmark.PEER} 1.0000" in note for note in exact] == [
        at in benchmark._PEERED for at in range(len(exact))
    ]
    first = [note for row in rows.values() for note in row["notes"] if note.startswith("asked for the first time")]
    assert len(first) == len(texts.CASES)


def test_sides_are_given_what_they_are_to_measure(measured: tuple[dict[str, Any], list[Any]]) -> None:
    given = [(order.side, order.words) for order in measured[1]]
    assert given == [
        ("filling", "spaces"), ("searching", "none"), ("piling", "none"), ("peer", "none"), ("searching", "spaces"),
        *[("ready", "none"), ("reopening", "none"), ("ready", "none")] * 2, *[("ready", "none")] * 2,
        ("changing", "spaces"),
    ]  # fmt: skip
    assert {(order.size, order.dim, order.each) for order in measured[1]} == {(SIZE, DIM, EACH)}


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """A run that has made nothing yet."""
    return benchmark.Run(LIBRARY, COUNTS, 2, tmp_path, here)


def test_what_was_not_found_is_counted(run: Any) -> None:
    run.nearest["all"] = [{"a", "b"}, {f"{n}" for n in range(12)}, set()]
    assert run.recall("all", {0: ["a", "x"], 1: [f"{n}" for n in range(2, 11)], 2: []}) == [0.5, 0.9]
    assert run.recall("all", {0: ["b", "a"], 1: [f"{n}" for n in range(2, 12)]}) == [1, 1]


def test_questions_are_written_for_every_side(run: Any, tmp_path: Path) -> None:
    run.lay_out()
    order = lent.Order("searching", "", str(tmp_path), SIZE, DIM, EACH)
    assert lent.asked(order).shape == (COUNTS.questions, DIM)
    assert len(set(lent.texts_asked(order))) == COUNTS.questions
    assert run.space == "0" * 64


@pytest.mark.parametrize(
    ("size", "name"), [(2_000, "2k"), (100_000, "100k"), (1_000_000, "1M"), (1_500, "1,500"), (7, "7")]
)
def test_a_size_in_words(run: Any, size: int, name: str) -> None:
    assert benchmark.Run(replace(LIBRARY, size=size), COUNTS, 1, Path(), here).of == name


def recorded(**answers: Any) -> Callable[[Any], Any]:
    """Make sides that answer as is said here."""

    @contextlib.contextmanager
    def make(order: Any) -> Iterator[Any]:
        said = answers[order.side]
        if isinstance(said, BaseException):
            raise said
        yield SimpleNamespace(said=said.get("about", {}), ask=lambda method, *_: said[method])

    return make


def test_a_whole_search_is_measured_with_a_model_alone(run: Any, tmp_path: Path) -> None:
    assert benchmark.whole(run) == []
    side = {
        "about": {"hits": 10, "parts": {"dense": 0.5, "words": 1.0}, "backends": ["openvino"]},
        "times": [[float(n), n / 2] for n in range(1, 101)],
    }
    library = replace(LIBRARY, model="m")
    (row,) = benchmark.whole(benchmark.Run(library, COUNTS, 1, tmp_path, recorded(whole=side)))
    assert (row.figure("ours").value, row.wanted.limit, row.flaw) == (95, 200, "")
    assert row.notes[1] == "the same question embedded alone: p95 47.5 ms, p50 25.2 ms"
    side["about"]["hits"] = 0
    (row,) = benchmark.whole(benchmark.Run(library, COUNTS, 1, tmp_path, recorded(whole=side)))
    assert row.reached is False


def test_a_million_is_held_to_its_own_figures(tmp_path: Path) -> None:
    run = benchmark.Run(benchmark.THE_MILLION, COUNTS, 1, tmp_path, here)
    run.matching = dict.fromkeys((case.name for case in texts.CASES), 5)
    found = [{"ours": ([39.0], [1.0])}] * len(texts.CASES)
    held = {"now": 299_000_000, "anonymous": 290_000_000, "peak": 400_000_000}
    rows = [*benchmark.search_rows(run, found), *benchmark.held_rows(run, held, None, 900.0)]
    assert {row.wanted.limit for row in rows} == {40, 0.99, 300}
    assert all(row.reached for row in rows)
    small = benchmark.Run(LIBRARY, COUNTS, 1, tmp_path, here)
    small.matching = run.matching
    assert [row.reached for row in benchmark.search_rows(small, found)] == [False] * len(texts.CASES) + [True]


def test_a_section_that_fails_leaves_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = recorded(filling=benchmark.SideFailed("MemoryError: no room"), ready=KeyboardInterrupt())
    plan = benchmark.Plan([LIBRARY], COUNTS, 1, tmp_path, ("whole", "reopen", "change"))
    found = benchmark.measure(plan, failed)
    assert found["interrupted"] is True
    assert [(row["name"], row["flaw"]) for row in found["rows"]] == [
        ("ingest 1,500", "failed, SideFailed: MemoryError: no room")
    ]
    assert "Interrupted" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_said_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark.shutil, "disk_usage", lambda _: SimpleNamespace(free=6_000_000_000))
    plan = benchmark.Plan([LIBRARY, benchmark.THE_MILLION], benchmark.Counts(), 1, tmp_path)
    with pytest.raises(OSError, match=r"has 6\.0 GB free and 6\.7 GB are needed; name a --folder"):
        benchmark.measure(plan, here)
    benchmark.check_room(replace(plan, libraries=[LIBRARY]))


def test_every_value_is_written_and_each_round_has_a_figure_of_its_own(
    measured: tuple[dict[str, Any], list[Any]],
) -> None:
    rows = {row["name"]: row for row in measured[0]["rows"]}
    found = rows["all 1,500"]
    assert len(found["values"]["ours"]) == COUNTS.questions
    assert (len(found["repeated"]["ours"]), found["repeats"]) == (2, 2)
    assert found["repeated"]["ours"][0] == max(found["values"]["ours"][: COUNTS.questions // 2])


# ---- processes and the command line


def test_a_side_in_a_process_of_its_own(order: Any) -> None:
    with benchmark.apart(replace(order, side="reopening")) as side:
        assert side.said["found"] == 0
        assert side.said["seconds"] > 0
        with pytest.raises(benchmark.SideFailed, match="AttributeError"):
            side.ask("nothing")
    assert side._process.poll() == 0


def test_the_command_makes_a_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plans: list[Any] = []

    def measure(plan: Any) -> dict[str, int]:
        plans.append(plan)
        return {"rows": 1}

    monkeypatch.setattr(benchmark, "measure", measure)
    output = tmp_path / "memory.json"
    asked = "memory --memories 3000 --million --rows reopen,change --rounds 2".split()
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *asked, "--folder", str(tmp_path), "--output", str(output)])
    command.main()
    (plan,) = plans
    assert plan == benchmark.Plan(
        [benchmark.Library(3_000), benchmark.THE_MILLION], benchmark.Counts(), 2, tmp_path, ["reopen", "change"]
    )
    assert json.loads(output.read_text(encoding="utf-8")) == {"rows": 1}
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "memory", "--quick"])
    command.main()
    assert (plans[1].counts, plans[1].libraries[0].size) == (benchmark.QUICK, benchmark.QUICK_SIZE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rows nothing", "there is no 'nothing'; there are ingest, search, words"),
        ("--model nowhere", "nowhere is no folder of an embedding model"),
        ("--folder nowhere", "nowhere"),
    ],
)
def test_what_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, words: str, message: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "memory", *words.split()])
    with pytest.raises(SystemExit, match=message):
        command.main()
