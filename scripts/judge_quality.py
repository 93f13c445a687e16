"""How often the judge of memories is right, on pairs of statements whose verdict people know.

    python scripts/judge_quality.py PAIRS [--split dev|dev2|hard|test] [--profile NAME] [--parakqc FOLDER] [--json FILE]

PAIRS is a file of JSON Lines: `old`, `new`, `verdict` (same, replaces, different), `kind`, `split`. Shown are precision
and recall of "same" and of "replaces" with their intervals of 95 percent, what became of each kind, and how many pairs
were called the same although their numbers or Latin words differ, which must be none. For information, `--parakqc`: of
500 pairs of paraphrases and 500 of utterances that are none (ParaKQC, Cho et al. 2020), how many are called the same;
the former often differ in detail.

Exit status 0; 1: the model is missing or cannot be loaded; 2: no pairs.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from korean_sets import BLOCK, NoData, read_parakqc

from engine import Engine, cohort
from engine.errors import EngineError
from engine.faculties import Verdict
from engine.judge import Judge, Statement
from engine.korean.morphemes import Analyser

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
SAMPLED, SEED = 500, 7
_Z = 1.96
_EXACT = re.compile(r"[\d.:+\-#@_%/]*\d[\d.:+\-#@_%/]*|[A-Za-z]+[+#\-]*")  # must not differ between two that are merged
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two statements, the second said later, and what it does to the first."""

    old: str
    new: str
    verdict: Verdict
    kind: str


def read_pairs(path: Path, split: str) -> list[Pair]:
    """Return the pairs of a split. Raises `NoData`."""
    try:
        with path.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines if line.strip()]
        pairs = [Pair(row["old"], row["new"], row["verdict"], row["kind"]) for row in rows if row["split"] == split]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoData(f"{path} is no file of pairs: {error}.") from None
    if not pairs or {pair.verdict for pair in pairs} - set(VERDICTS):
        raise NoData(f"{path} has no pairs of split {split!r}, or verdicts other than {', '.join(VERDICTS)}.")
    return pairs


def likenesses(engine: Engine, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Return how alike each two texts are, by the engine's embedding model and the cohort."""
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    vectors = _dense(engine, texts)
    standing = dict(zip(texts, cohort.standing(vectors, _dense(engine, list(cohort.SENTENCES))), strict=True))
    found = dict(zip(texts, vectors, strict=True))
    return [
        float(cohort.likeness(found[one] @ found[other][:, None], standing[one], standing[other][None])[0])
        for one, other in pairs
    ]


def _dense(engine: Engine, texts: list[str]) -> NDArray[np.float32]:
    dense = engine.embed(texts).dense
    if dense is None:
        raise NoData("The embedding model has no dense vectors.")
    return dense


def verdicts(engine: Engine, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
    """Return the judge's verdict on each (old, new)."""
    analyser = Analyser()
    tokens = {text: analyser.tagged(text) for pair in pairs for text in pair}
    alike, judge = likenesses(engine, pairs), Judge(partial(_dense, engine))
    return [
        judge(Statement(old, tokens[old]), Statement(new, tokens[new]), likeness)
        for (old, new), likeness in zip(pairs, alike, strict=True)
    ]


def score(pairs: Sequence[Pair], found: Sequence[Verdict]) -> dict[str, Any]:
    """Return precision and recall, the confusion, how many of each kind were right, and violations; JSON-ready.

    A precision where nothing was found, or a recall where nothing was to be found, is None. Each has its interval of 95
    percent beside it.
    """
    both = list(zip(pairs, found, strict=True))
    confusion = Counter((pair.verdict, verdict) for pair, verdict in both)
    figures: dict[str, Any] = {"pairs": len(pairs)}
    for verdict in ("same", "replaces"):
        right = confusion[verdict, verdict]
        figures[verdict] = {
            **_rate("precision", right, sum(count for (_, got), count in confusion.items() if got == verdict)),
            **_rate("recall", right, sum(count for (want, _), count in confusion.items() if want == verdict)),
        }
    figures["confusion"] = {want: {got: confusion[want, got] for got in VERDICTS} for want in VERDICTS}
    figures["kinds"] = _kinds(both)
    figures["violations"] = sum(verdict == "same" and _differ(pair.old, pair.new) for pair, verdict in both)
    return figures


def _rate(name: str, part: int, whole: int) -> dict[str, Any]:
    """Return a share and its interval of 95 percent (Wilson 1927); None where there is nothing to share."""
    if not whole:
        return {name: None, f"{name}_95": None}
    share, spread = part / whole, _Z**2 / whole
    middle, half = share + spread / 2, math.sqrt(spread * (share * (1 - share) + spread / 4))
    interval = [(middle - half) / (1 + spread), (middle + half) / (1 + spread)]
    return {name: share, f"{name}_95": interval}


def _kinds(both: Sequence[tuple[Pair, Verdict]]) -> dict[str, dict[str, int]]:
    """Return by verdict and kind how many pairs there are, and how many were judged right."""
    found: dict[str, dict[str, int]] = {}
    for pair, verdict in both:
        row = found.setdefault(f"{pair.verdict}: {pair.kind}", {"pairs": 0, "right": 0})
        row["pairs"] += 1
        row["right"] += verdict == pair.verdict
    return dict(sorted(found.items()))


def _differ(old: str, new: str) -> bool:
    """Return whether both have digits, or both Latin letters, and not the same ones; 삼십 may stand for 30."""
    for is_latin in (False, True):
        one, other = (
            Counter(word for word in _EXACT.findall(_THOUSANDS.sub("", text)) if word[0].isalpha() == is_latin)
            for text in (old, new)
        )
        if one and other and one != other:
            return True
    return False


def measure(engine: Engine, path: Path, split: str) -> dict[str, Any]:
    """Return what `score` says of the pairs of a split. Raises `NoData`, `EngineError`."""
    pairs = read_pairs(path, split)
    return score(pairs, verdicts(engine, [(pair.old, pair.new) for pair in pairs]))


def paraphrases(engine: Engine, folder: Path) -> dict[str, dict[str, int]]:
    """Return how many of 500 pairs of a block, and of 500 of two blocks, get each verdict. Raises `NoData`."""
    texts, dice = read_parakqc(folder), random.Random(SEED)
    siblings: list[tuple[str, str]] = []
    strangers: list[tuple[str, str]] = []
    while len(siblings) < SAMPLED or len(strangers) < SAMPLED:
        one, other = dice.sample(range(len(texts)), 2)
        near = one - one % BLOCK + dice.randrange(BLOCK)
        if one // BLOCK != other // BLOCK:
            strangers.append((texts[one], texts[other]))
        if near != one:
            siblings.append((texts[one], texts[near]))
    named = {"paraphrases": siblings[:SAMPLED], "others": strangers[:SAMPLED]}
    return {name: dict(Counter(verdicts(engine, pairs))) for name, pairs in named.items()}


def table(figures: dict[str, Any]) -> str:
    """Return what `score` found as Markdown."""
    lines = ["| verdict | precision | recall | same | replaces | different |", "|---|---|---|---|---|---|"]
    for want, row in figures["confusion"].items():
        shares = [_percent(figures[want], name) if want in figures else "" for name in ("precision", "recall")]
        lines.append(f"| {want} | {' | '.join(shares)} | {' | '.join(str(row[got]) for got in VERDICTS)} |")
    lines += ["", f"{figures['violations']} of {figures['pairs']} merged although numbers or Latin words differ.", ""]
    lines += ["| kind | judged right | of |", "|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {kind} | {row['right']} | {row['pairs']} |" for kind, row in figures["kinds"].items())]
    )


def _percent(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return "–"
    low, high = row[f"{name}_95"]
    return f"{100 * row[name]:.1f} ({100 * low:.0f}–{100 * high:.0f})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="How often the judge of memories is right.")
    parser.add_argument("pairs", type=Path, help="a file of pairs, JSON Lines")
    parser.add_argument("--split", default="test", choices=("dev", "dev2", "hard", "test"))
    parser.add_argument("--profile", default="starter")
    parser.add_argument("--parakqc", type=Path, metavar="FOLDER", help="also try parakqc-a.tsv of this folder")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        with Engine(profile=options.profile) as engine:
            figures = measure(engine, options.pairs, options.split)
            if options.parakqc:
                figures["parakqc"] = paraphrases(engine, options.parakqc)
    except NoData as error:
        print(error, file=sys.stderr)
        return 2
    except EngineError as error:
        print(error, file=sys.stderr)
        return 1
    print(table(figures))
    if options.parakqc:
        print(f"\nParaKQC: {json.dumps(figures['parakqc'])}")
    if options.json:
        options.json.write_text(json.dumps(figures, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
