"""The public Korean test sets that embedding models are tried on, read from a folder; they are no part of Gieok."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KORSTS, PARAKQC = "korsts-dev.tsv", "parakqc-a.tsv"
BLOCK = 10  # paraphrases of one another, in succession


class NoData(Exception):
    """A test set is missing or is not what it should be."""


@dataclass(frozen=True, slots=True)
class Sets:
    """(score from 0 to 5, sentence, sentence) of KorSTS, and the utterances of ParaKQC; a set may be left out."""

    pairs: Sequence[tuple[float, str, str]] = ()
    utterances: Sequence[str] = ()

    @property
    def sentences(self) -> list[str]:
        """The different sentences of KorSTS, in their order."""
        return list(dict.fromkeys(sentence for _, *both in self.pairs for sentence in both))


def read_korsts(folder: Path) -> list[tuple[float, str, str]]:
    """Return (score from 0 to 5, sentence, sentence) of every pair, at least two. Raises `NoData`."""
    path = folder / KORSTS
    header, *lines = _lines(path, "KorSTS is at github.com/kakaobrain/kor-nlu-datasets (sts-dev.tsv)")
    try:
        columns = [header.split("\t").index(name) for name in ("score", "sentence1", "sentence2")]
        rows = [[line.split("\t")[i] for i in columns] for line in lines]
        pairs = [(float(score), one, two) for score, one, two in rows]
    except (ValueError, IndexError) as error:
        raise NoData(f"{path} is not a KorSTS file: {error}.") from None
    if len(pairs) < 2:
        raise NoData(f"{path} has too few pairs for a correlation.")
    return pairs


def read_parakqc(folder: Path, blocks: int | None = None) -> list[str]:
    """Return the utterances of the first `blocks` blocks, or of all; each ten are one block. Raises `NoData`."""
    path = folder / PARAKQC
    lines = _lines(path, "ParaKQC is at github.com/warnikchow/paraKQC (data/paraKQC_v1.txt, or whole blocks of it)")
    try:
        rows = [(int(topic), int(act), text) for topic, act, text in (line.split("\t") for line in lines)]
    except ValueError as error:
        raise NoData(f"{path} is not a ParaKQC file: {error}.") from None
    for at in range(0, len(rows), BLOCK):
        block = rows[at : at + BLOCK]
        if len(block) < BLOCK or len({(topic, act) for topic, act, _ in block}) > 1:
            raise NoData(f"{path} is not a ParaKQC file: line {at + 1} does not begin ten paraphrases.")
    return [text for *_, text in rows[: None if blocks is None else BLOCK * blocks]]


def _lines(path: Path, where: str) -> list[str]:
    """Return the lines of a file, at least one."""
    if not path.is_file():
        raise NoData(f"there is no {path}; {where}.")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise NoData(f"{path} is not in UTF-8: {error.reason}.") from None
    if not lines:
        raise NoData(f"{path} is empty.")
    return lines
