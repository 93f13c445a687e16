"""How well memories are found by Korean questions, and how well a search knows that there is no answer.

A set is stored through `Engine.remember` in a home of its own, and each of its questions asked through `Engine.search`:

- `project`: FOLDER/memories.jsonl, 400 memories of one user, and FOLDER/memory_questions.jsonl, questions with the
  memories that answer them, and some that no memory answers. What ranking was tuned on is their `dev` half.
- `parakqc`: ParaKQC (Cho et al. 2020), utterances in blocks of ten paraphrases: each asks and is to find the other nine
  among all. `dev` are the questions of the first half of the blocks.

Beside the whole search stand its legs alone: all memories by the cosine of their vectors with the question's, and by
BM25. nDCG@10 has gains of 0 and 1 (Järvelin and Kekäläinen 2002); the calibration error is that of ten bins of equal
width (Guo et al. 2017), over the first hits of every question. What the judge of memories finds is measured beside it
(judge_quality.py), on FOLDER/judge_pairs.jsonl.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import judge_quality
import numpy as np
from korean_sets import BLOCK, NoData, read_parakqc
from numpy.typing import NDArray

from engine import Engine, lexical
from engine.korean.morphemes import Analyser
from engine.metrics import Progress, ProgressCallback
from engine.store import Store

Way = Literal["hybrid", "dense", "bm25"]
Split = Literal["dev", "test", "all"]
Floats = NDArray[np.floating]

WAYS: tuple[Way, ...] = ("hybrid", "dense", "bm25")
CUT = 10
BARS = (0.05, 0.1, 0.2, 0.3, 0.5)  # values of min_score
NEAR = "unanswerable_near"  # questions that no memory answers, about things of which memories tell
BINS = 10
CALIBRATED = (1, 5, 10)  # of so many first hits; a search returns five
MEMORIES, QUESTIONS, PAIRS = "memories.jsonl", "memory_questions.jsonl", "judge_pairs.jsonl"
_AT_ONCE = 100  # texts in one call


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, the texts of the memories that answer it, what kind of question it is, and of which half."""

    text: str
    answers: frozenset[str]
    kind: str
    split: str


@dataclass(frozen=True, slots=True)
class Collection:
    """(text, category) of each memory, all texts different, and the questions; one never finds its own text."""

    name: str
    memories: Sequence[tuple[str, str | None]]
    questions: Sequence[Question]

    @property
    def texts(self) -> list[str]:
        """The texts of the memories."""
        return [text for text, _ in self.memories]


@dataclass(frozen=True, slots=True)
class Found:
    """What a question found: by each way the texts of ten memories, of the search also scores and seconds."""

    question: Question
    texts: Mapping[Way, Sequence[str]]
    scores: Sequence[float]
    seconds: float

    def right(self, way: Way) -> list[bool]:
        """Return of each place whether what stands there is an answer."""
        return [text in self.question.answers for text in self.texts[way]]

    @property
    def best(self) -> float:
        """The score of the first hit, 0 without one."""
        return max(self.scores, default=0.0)

    @property
    def best_right(self) -> float:
        """The highest score of an answer, -1 where none was found."""
        return max((score for score, good in zip(self.scores, self.right("hybrid"), strict=True) if good), default=-1.0)


# ---- sets


def read_project(folder: Path) -> Collection:
    """Return the project's set. Raises `NoData`."""
    try:
        memories = {row["id"]: (str(row["text"]), row["category"]) for row in _rows(folder / MEMORIES)}
        questions = [
            Question(row["question"], frozenset(memories[key][0] for key in row["answers"]), row["kind"], row["split"])
            for row in _rows(folder / QUESTIONS)
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoData(f"{folder} does not hold {MEMORIES} and {QUESTIONS}: {error!r}.") from None
    return Collection("project", list(memories.values()), questions)


def read_paraphrases(folder: Path) -> Collection:
    """Return ParaKQC; an utterance that was said before is one memory. Raises `NoData`."""
    texts = read_parakqc(folder)
    half = len(texts) // BLOCK // 2
    questions = [
        Question(text, frozenset(texts[at - at % BLOCK :][:BLOCK]) - {text}, "paraphrase", _half(at // BLOCK < half))
        for at, text in enumerate(texts)
    ]
    return Collection("parakqc", [(text, None) for text in dict.fromkeys(texts)], questions)


def _half(first: bool) -> Split:
    return "dev" if first else "test"


def _rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


# ---- searching


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: a profile's embedding model, on FOLDER, on ParaKQC where its folder is given, on which half."""

    profile: str
    data: Path
    paraphrases: Path | None
    split: Split

    @property
    def halves(self) -> tuple[Split, ...]:
        """What figures are given for: of `all`, both halves too."""
        return ("dev", "test", "all") if self.split == "all" else (self.split,)


def run(plan: Plan, tell: ProgressCallback) -> dict[str, Any]:
    """Return set → half → figures, and half → those of the judge, JSON-ready. Raises `NoData`, `EngineError`."""
    sets = [read_project(plan.data), *([read_paraphrases(plan.paraphrases)] if plan.paraphrases else [])]
    found = {}
    for one in sets:
        with _opened(plan.profile) as (engine, home):
            found[one.name] = measure(engine, home, one, plan, tell)
    with _opened(plan.profile) as (engine, _):
        pairs = plan.data / PAIRS
        judged = {half: judge_quality.measure(engine, pairs, half) for half in plan.halves if half != "all"}
    return {"sets": found, "judge": judged}


@contextmanager
def _opened(profile: str) -> Iterator[tuple[Engine, Path]]:
    with tempfile.TemporaryDirectory() as home, Engine(profile=profile, home=home) as engine:
        yield engine, Path(home)


def measure(
    engine: Engine, home: Path, wanted: Collection, plan: Plan, tell: ProgressCallback
) -> dict[str, dict[str, Any]]:
    """Return half → what `figures` says of its questions.

    The memories are stored in `home`, which is the engine's. Raises `EngineError`.
    """
    store(engine, wanted, tell)
    asked = [question for question in wanted.questions if plan.split in ("all", question.split)]
    found = list(search(engine, home, Collection(wanted.name, wanted.memories, asked), tell))
    return {half: figures([one for one in found if half in ("all", one.question.split)]) for half in plan.halves}


def store(engine: Engine, wanted: Collection, tell: ProgressCallback) -> None:
    """Remember all; nothing is merged, since questions ask for near duplicates."""
    done = 0
    for category, group in groupby(wanted.memories, lambda memory: memory[1]):
        texts = [text for text, _ in group]
        for at in range(0, len(texts), _AT_ONCE):
            stored = engine.remember(texts[at : at + _AT_ONCE], category=category, judge=False)
            done += len(stored)
            tell(Progress(f"{wanted.name}: remember", done, len(wanted.memories), "memories"))
    engine.wait()


def search(engine: Engine, home: Path, wanted: Collection, tell: ProgressCallback) -> Iterator[Found]:
    """Ask every question in every way."""
    by_cosine = dense(engine, wanted, tell)
    by_words = words(home, wanted)
    for at, (question, near, alike) in enumerate(zip(wanted.questions, by_cosine, by_words, strict=True)):
        if at % _AT_ONCE == 0:
            tell(Progress(f"{wanted.name}: search", at, len(wanted.questions), "questions"))
        began = time.perf_counter()
        hits = engine.search(question.text, k=CUT + 1, explain=True)
        seconds = time.perf_counter() - began
        others = [hit for hit in hits if hit.memory.text != question.text][:CUT]
        texts: dict[Way, list[str]] = {
            "hybrid": [hit.memory.text for hit in others],
            "dense": near,
            "bm25": alike,
        }
        yield Found(question, texts, [hit.score for hit in others], seconds)


def dense(engine: Engine, wanted: Collection, tell: ProgressCallback) -> list[list[str]]:
    """Return the ten memories that are nearest to each question, all vectors being compared."""
    texts = wanted.texts
    passages = _vectors(engine, texts, "passage", tell)
    queries = _vectors(engine, [question.text for question in wanted.questions], "query", tell)
    found = []
    for question, query in zip(wanted.questions, queries, strict=True):
        nearest = np.argsort(-(passages @ query), kind="stable")[: CUT + 1]
        found.append([texts[at] for at in nearest if texts[at] != question.text][:CUT])
    return found


def _vectors(engine: Engine, texts: Sequence[str], kind: Literal["passage", "query"], tell: ProgressCallback) -> Floats:
    parts = []
    for at in range(0, len(texts), _AT_ONCE):
        tell(Progress(f"embed as {kind}", at, len(texts), "texts"))
        vectors = engine.embed(texts[at : at + _AT_ONCE], kind=kind, heads=("dense",)).dense
        if vectors is None:
            raise NoData("The embedding model has no dense vectors.")
        parts.append(vectors)
    return np.concatenate(parts)


def words(home: Path, wanted: Collection) -> list[list[str]]:
    """Return the ten memories whose words fit each question best, by BM25 as the search has it."""
    analyser, read_only = Analyser(), Store(home)
    try:
        with read_only.read() as db:
            texts = {int(seq): str(text) for seq, text in db.execute("SELECT seq, text FROM memories")}
            found = []
            for question in wanted.questions:
                query = lexical.asked(db, analyser.terms(question.text), question.text)
                matches = [texts[match.seq] for match in lexical.matches(db, query, "", (), CUT + 1)]
                found.append([text for text in matches if text != question.text][:CUT])
            return found
    finally:
        read_only.close()


# ---- figures


@dataclass(frozen=True, slots=True)
class Quality:
    """How good rankings are, from 0 to 1: means over the questions that have answers."""

    ndcg: float
    recall: float
    mrr: float


def figures(found: Sequence[Found]) -> dict[str, Any]:
    """Return all that is known of some questions and what they found, JSON-ready."""
    answerable = [one for one in found if one.question.answers]
    seconds = sorted(one.seconds for one in found)
    report: dict[str, Any] = {
        "questions": len(found),
        "answerable": len(answerable),
        "ways": {way: asdict(quality(answerable, way)) for way in WAYS} if answerable else {},
        "kinds": {
            kind: {"questions": len(some), **{way: quality(some, way).ndcg for way in WAYS}}
            for kind, some in _kinds(answerable)
        },
        "milliseconds": {"p50": 1000 * _percentile(seconds, 50), "p95": 1000 * _percentile(seconds, 95)},
    }
    if len(answerable) < len(found):
        report["knowing"] = knowing(found)
    return report


def _kinds(found: Iterable[Found]) -> list[tuple[str, list[Found]]]:
    kinds: dict[str, list[Found]] = {}
    for one in found:
        kinds.setdefault(one.question.kind, []).append(one)
    return sorted(kinds.items())


def _percentile(ordered: Sequence[float], share: int) -> float:
    return float(np.percentile(ordered, share)) if ordered else 0.0


def quality(found: Sequence[Found], way: Way) -> Quality:
    """Return nDCG@10, Recall@10 and MRR@10 of questions that have answers, at least one."""
    discounts = 1 / np.log2(2 + np.arange(CUT))
    gains, recalls, ranks = [], [], []
    for one in found:
        right = np.array(one.right(way)[:CUT], dtype=float)
        wanted = len(one.question.answers)
        gains.append(float(right @ discounts[: len(right)] / discounts[:wanted].sum()))
        recalls.append(float(right.sum() / wanted))
        ranks.append(float(1 / (1 + right.argmax())) if right.any() else 0.0)
    return Quality(statistics.fmean(gains), statistics.fmean(recalls), statistics.fmean(ranks))


def knowing(found: Sequence[Found]) -> dict[str, Any]:
    """Return how far scores tell whether there is an answer: error of calibration, and what each `min_score` does."""
    answerable = [one for one in found if one.question.answers]
    without = [one for one in found if not one.question.answers]
    return {
        "calibration_error": {str(hits): _calibration_error(found, hits) for hits in CALIBRATED},
        "told_apart": told_apart([one.best for one in answerable], [one.best for one in without]),
        "bars": {
            str(bar): {
                "false_recalls": _share(one.best >= bar for one in without),
                "false_recalls_near": _share(one.best >= bar for one in without if one.question.kind == NEAR),
                "lost": _share(one.best_right < bar for one in answerable),
                "hits": statistics.fmean(sum(score >= bar for score in one.scores) for one in found),
            }
            for bar in BARS
        },
    }


def _share(flags: Iterable[bool]) -> float | None:
    every = list(flags)
    return sum(every) / len(every) if every else None


def _calibration_error(found: Sequence[Found], hits: int) -> float | None:
    scores = [score for one in found for score in one.scores[:hits]]
    right = [good for one in found for good in one.right("hybrid")[:hits]]
    return calibration_error(np.array(scores), np.array(right, dtype=float))


def calibration_error(scores: Floats, right: Floats) -> float | None:
    """Return the mean distance of scores from the share that is right, of ten bins weighted by what is in them."""
    if not len(scores):
        return None
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    parts = [scores[bins == number].sum() - right[bins == number].sum() for number in range(BINS)]
    return float(np.abs(parts).sum() / len(scores))


def told_apart(good: Sequence[float], bad: Sequence[float]) -> float | None:
    """Return how often one of `good` is above one of `bad`, a draw being half: the area under the ROC curve."""
    if not good or not bad:
        return None
    one, other = np.array(good)[:, None], np.array(bad)[None]
    return float(((one > other) + 0.5 * (one == other)).mean())


# ---- what is shown


def table(sets: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    """Yield what was measured, set → half → figures, as tables in Markdown; all but times is times 100."""
    yield "| set | questions | found by | nDCG@10 | Recall@10 | MRR@10 |"
    yield "|---|---|---|---|---|---|"
    for name, half, found in _parts(sets):
        for way, row in found["ways"].items():
            cells = " | ".join(f"{100 * value:.2f}" for value in row.values())
            yield f"| {name}, {half} | {found['answerable']:,} | {way} | {cells} |"
    for name, half, found in _parts(sets):
        if len(found["kinds"]) > 1:
            yield from _kinds_table(f"{name}, {half}", found["kinds"])
        if "knowing" in found:
            yield from _knowing_table(f"{name}, {half}", found["knowing"])
    yield ""
    for name, half, found in _parts(sets):
        times = found["milliseconds"]
        yield f"{name}, {half}: a search takes {times['p50']:.1f} ms, p95 {times['p95']:.1f} ms"


def _parts(sets: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for name, halves in sets.items():
        for half, found in halves.items():
            yield name, half, found


def _kinds_table(name: str, kinds: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    yield f"\n| {name}, nDCG@10 | questions | {' | '.join(WAYS)} |"
    yield "|---|---|---|---|---|"
    for kind, row in kinds.items():
        yield f"| {kind} | {row['questions']} | {' | '.join(f'{100 * row[way]:.2f}' for way in WAYS)} |"


def _knowing_table(name: str, found: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n| {name}, min_score | false recalls | of them near | lost answers | hits a question |"
    yield "|---|---|---|---|---|"
    for bar, row in found["bars"].items():
        shares = [row[name] for name in ("false_recalls", "false_recalls_near", "lost")]
        yield f"| {bar} | {' | '.join(_percent(share) for share in shares)} | {row['hits']:.2f} |"
    errors = ", ".join(f"{hits}: {_percent(error)}" for hits, error in found["calibration_error"].items())
    apart = _percent(found["told_apart"])
    yield f"\n{name}: calibration error of the first hits, {errors}; answerable told from unanswerable {apart} (AUC)"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"
