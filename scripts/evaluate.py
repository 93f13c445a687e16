"""How good a model is, on public test sets that are not part of Gieok.

    python scripts/evaluate.py embedding FOLDER [--model NAME] [--json FILE]

`embedding`: KorSTS (Ham et al. 2020), FOLDER/korsts-dev.tsv: Spearman's rank correlation, times 100, between
the cosine of two sentences and the similarity that people gave them. Both sides are embedded as queries. Exit
status 0, 1 (the model is missing or cannot be loaded), 2 (no test set).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from engine import config, layout
from engine.embedder import Embedder
from engine.errors import EngineError

KORSTS = "korsts-dev.tsv"


@dataclass(frozen=True, slots=True)
class Result:
    """A measurement; times in seconds."""

    model: str
    pairs: int
    spearman: float
    load_seconds: float
    seconds: float


class NoData(Exception):
    """A test set is missing or is not what it should be."""


def read_korsts(folder: Path) -> list[tuple[float, str, str]]:
    """Return (score from 0 to 5, sentence, sentence) of every pair. Raises `NoData`."""
    path = folder / KORSTS
    if not path.is_file():
        raise NoData(f"there is no {path}; KorSTS is at github.com/kakaobrain/kor-nlu-datasets (sts-dev.tsv).")
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    try:
        columns = [header.split("\t").index(name) for name in ("score", "sentence1", "sentence2")]
        rows = [[line.split("\t")[i] for i in columns] for line in lines]
        return [(float(score), one, two) for score, one, two in rows]
    except (ValueError, IndexError) as error:
        raise NoData(f"{path} is not a KorSTS file: {error}.") from None


def korsts(model: str, folder: Path) -> Result:
    """Return how the named embedding model does on KorSTS. Raises `NoData`, `EngineError`."""
    pairs = read_korsts(folder)
    scores, first, second = zip(*pairs, strict=True)
    spec = config.load().model(model)
    start = time.perf_counter()
    embedder = Embedder(layout.locate(spec), spec)
    loaded = time.perf_counter()
    left, right = (embedder.embed(side, "query") for side in (first, second))
    done = time.perf_counter()
    embedder.close()
    correlation = float(spearmanr(np.sum(left * right, axis=1), scores).statistic)
    return Result(spec.name, len(pairs), round(100 * correlation, 2), round(loaded - start, 2), round(done - loaded, 2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure a model on a public test set.")
    commands = parser.add_subparsers(dest="command", required=True)
    embedding = commands.add_parser("embedding", help="sentence similarity in Korean (KorSTS)")
    embedding.add_argument("folder", type=Path, help=f"the folder that holds {KORSTS}")
    embedding.add_argument("--model", help="a name of the catalogue; default: the starter profile's")
    embedding.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        model = options.model or config.load().profile("starter")["embedding"]
        result = korsts(model, options.folder)
    except NoData as error:
        print(error, file=sys.stderr)
        return 2
    except EngineError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{'model':<28}{'pairs':>7}{'Spearman':>10}{'load s':>8}{'embed s':>9}")
    print(f"{result.model:<28}{result.pairs:>7}{result.spearman:>10}{result.load_seconds:>8}{result.seconds:>9}")
    if options.json:
        options.json.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
