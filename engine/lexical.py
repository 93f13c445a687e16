"""Finding memories by their words: morphemes, and pairs of letters for what morphemes miss, in SQLite's FTS5.

A row of the table `words` has a memory's number, its morphemes (words that a search could use, made by whoever calls)
and its pairs: 게임회사 is 게임 임회 회사. Pairs find what an analyser reads differently in a question and in a memory.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.korean.morphemes import ASKING, ASKING_STARTS

if TYPE_CHECKING:
    from apsw import Connection

ROWS = 1  # counts the ways in which put() has written rows; with morphemes.version() it says what must be made anew
# Measured on ParaKQC, nDCG@10: morphemes alone 0.861, pairs alone 0.802, both 0.887 (0.884 with 0.1, 0.884 with 0.5).
_PAIRS_WEIGHT = 0.2
# What the rows that a search reads may cost (a row found by a morpheme is 1). The rarest words come first; common ones
# tell little (DECISIONS).
_MOST_ROWS = 50_000
_PAIRS_PRICE = 3  # a pair tells less than a morpheme of as many rows
_MOST_WORDS, _MOST_PAIRS = 48, 32  # of one question: it may be a page long
# Numbers that people write in groups, and others without: telephones, dates, thousands, accounts.
_GROUPED = re.compile(
    r"(?<!\d)(?:0\d{1,2}[-. ]\d{3,4}[-. ]\d{4}|\d{3,4}-\d{4}|\d{1,3}(?:,\d{3})+|\d+(?:-\d+){2,}|\d+(?:\.\d+){2,})(?!\d)"
)
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for: the words of a question with their weights (rarer is heavier), and FTS5's expression.

    The expression is "" where nothing can be found.
    """

    words: dict[str, float]
    expression: str


@dataclass(frozen=True, slots=True)
class Match:
    """A memory found by words, and its BM25, the higher the better.

    BM25 has no fixed scale, and is near 0 for words that half of all memories have.
    """

    seq: int
    bm25: float


def put(db: Connection, seq: int, morphemes: Sequence[str] | None, text: str) -> None:
    """Make or replace the row of the memory `seq`; `morphemes` are None where no analyser could be asked."""
    forms = " ".join(_forms(morphemes or ()))
    db.execute(
        "INSERT OR REPLACE INTO words (rowid, morphemes, grams) VALUES (?, ?, ?)",
        (seq, forms, " ".join(_pairs(_written(text)))),
    )


def asked(db: Connection, words: Sequence[str], text: str) -> Query:
    """Return what a search for the question `text` looks for, whose morphemes are `words`.

    Words that only ask (뭐, 알려줘) are left out beside others, and common ones are not looked for where that would
    take long; without morphemes the words are as they are written. Weights are BM25's idf as Lucene has it,
    log(1 + (N - n + 0.5) / (n + 0.5)), over the memories of all users.
    """
    written = _written(text)
    written = [word for word in written if not word.startswith(ASKING_STARTS)] or written
    forms = list(_forms(words)) or written
    forms = [form for form in forms if form not in ASKING] or forms
    rows: dict[str, int] = {}  # part of the expression → what reading its rows costs
    weights: dict[str, float] = {}
    last = _last(db)
    for form in dict.fromkeys(forms[:_MOST_WORDS]):
        part, price = f"morphemes: {_quoted(form)}", 1
        found = _count(db, part)
        if not found and len(form) > 1:
            part, price = f"grams: {_quoted(' '.join(_pairs([form])))}", _PAIRS_PRICE
            found = _count(db, part)
        rows[part] = found * price
        weights[form] = math.log(1 + (max(last - found, 0) + 0.5) / (found + 0.5))
    for pair in list(dict.fromkeys(_pairs(written)))[:_MOST_PAIRS]:
        part = f"grams: {_quoted(pair)}"
        rows[part] = _count(db, part) * _PAIRS_PRICE
    return Query(weights, " OR ".join(_affordable(rows)))


def matches(db: Connection, query: Query, where: str, values: Sequence[str | int], limit: int) -> list[Match]:
    """Return the at most `limit` current memories that fit `query` best, best first, of equal ones the newer first.

    `where` with its `values` is a condition on `memories`, which must hold; "" is none.
    """
    if not query.expression:
        return []
    sql = f"""
        SELECT words.rowid, bm25(words, 1, {_PAIRS_WEIGHT}) AS whole
        FROM words JOIN memories ON memories.seq = words.rowid
        WHERE words MATCH ? AND superseded_by IS NULL AND ({where or "TRUE"})
        ORDER BY whole, words.rowid DESC LIMIT ?
    """
    found = db.execute(sql, (query.expression, *values, limit))
    return [Match(int(seq), -float(whole)) for seq, whole in found]


def coverage(db: Connection, query: Query, seqs: Iterable[int]) -> dict[int, float]:
    """Return which share of the question's words, by weight, each of these memories has: 0 to 1.

    A word counts if it is one of the memory's morphemes, or if letters of the text spell it, spaces aside for three
    letters and more. Memories that are gone are left out, and all of them where the question has no words.
    """
    total = math.fsum(query.words.values())
    if not total:
        return {}
    sql = """
        SELECT seq, coalesce(morphemes, ''), text FROM memories LEFT JOIN words ON words.rowid = seq
        WHERE seq IN (SELECT value FROM json_each(?))
    """
    found = db.execute(sql, (json.dumps(list(seqs)),))
    return {
        int(seq): math.fsum(query.words[form] for form in _contained(query.words, str(forms), str(text))) / total
        for seq, forms, text in found
    }


def _contained(words: Iterable[str], forms: str, text: str) -> Iterator[str]:
    morphemes, plain = set(forms.split()), _plain(text)
    joined = "".join(plain.split())
    for word in words:
        if word in morphemes or (len(word) > 1 and (_spells(plain, word) or (len(word) > 2 and _spells(joined, word)))):
            yield word


def _spells(text: str, word: str) -> bool:
    """Return whether letters of a text are this word; a number or foreign word counts whole (1일 is not in 21일)."""
    at = text.find(word)
    while at >= 0:
        after = at + len(word)
        if not (_runs_on(text[at - 1 : at], word[0]) or _runs_on(word[-1], text[after : after + 1])):
            return True
        at = text.find(word, at + 1)
    return False


def _runs_on(before: str, after: str) -> bool:
    pair = before + after
    return len(pair) == 2 and pair.isascii() and (pair.isdigit() or pair.isalpha())


def _affordable(rows: dict[str, int]) -> list[str]:
    """Return the parts with the fewest rows that together have no more than a search may read, one at least."""
    kept: list[str] = []
    left = _MOST_ROWS
    for part, cost in sorted(rows.items(), key=lambda item: item[1]):
        left -= cost
        if kept and left < 0:
            break
        if cost:
            kept.append(part)
    return kept


def _last(db: Connection) -> int:
    """Return the last memory's number: no less than how many there are, and free to know."""
    ((last,),) = db.execute("SELECT coalesce(max(rowid), 0) FROM words")
    return int(last)


def _count(db: Connection, part: str) -> int:
    """Return how many rows have it, and no more than need be known to leave it out."""
    sql = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"
    ((found,),) = db.execute(sql, (part, _MOST_ROWS + 1))
    return int(found)


def _quoted(text: str) -> str:
    """Return an FTS5 string, in which nothing is an operator; a NUL would end the whole expression."""
    return '"' + text.replace('"', '""').replace("\0", " ") + '"'


def _forms(words: Iterable[str]) -> Iterator[str]:
    """Yield each word in the one spelling that is stored and looked for; none without a letter or digit."""
    for word in words:
        if _WORD.search(form := "".join(_plain(word).split())):
            yield form


def _written(text: str) -> list[str]:
    return _WORD.findall(_plain(text))


def _pairs(words: Iterable[str]) -> list[str]:
    """Return the overlapping pairs of letters of each word; a letter that stands alone is itself."""
    return [word[start : start + 2] for word in words for start in range(max(len(word) - 1, 1))]


def _plain(text: str) -> str:
    """Return `text` in one width and case, numbers that are written in groups as one."""
    same = unicodedata.normalize("NFKC", text).casefold()
    return _GROUPED.sub(lambda number: re.sub(r"\D", "", number[0]), same)
