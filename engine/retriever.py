"""A question → the memories that answer it: candidates from every leg, scored in SQLite, in one order.

Legs: vectors that are near, morphemes and letters that are the same; sparse weights, where a model has them, are scored
on what these two find. Everything is read in one snapshot, in which each hit is a live row that matches the filter.
"""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from engine import cohort, lexical, ranking, spaces
from engine.connections import rows
from engine.migrations import SHIFT
from engine.ranking import Signals
from engine.records import COLUMNS, Filter, Hit, Memory, memory, now

if TYPE_CHECKING:
    import numpy as np
    from apsw import Connection
    from numpy.typing import NDArray

    from engine.shortlist import Shortlist

    Floats = NDArray[np.floating[Any]]

NEAR = 200  # candidates of the vectors: 100 of their one-bit codes miss some of the nearest (DECISIONS)
_BY_WORDS = 100  # candidates of the words
_KEPT = 64  # of the vectors' candidates, once scored exactly: each that is looked at closer costs 20 µs
_BATCH = 4096  # vectors in work at a time, where all are scored
_DAY = 86_400_000_000  # microseconds
_WITH_VECTOR = f"LEFT JOIN vectors ON key = (? << {SHIFT} | seq)"


@dataclass(frozen=True, slots=True)
class Sense:
    """What a query means to one model: a unit vector (d,), sparse weights, and the (m, d) vectors of its cohort."""

    place: spaces.Place
    vector: Floats
    weights: dict[int, float] | None
    cohort: Floats


@dataclass(frozen=True, slots=True)
class Asked:
    """A query: its text, the words of it that a search could use, and its sense, None where no model can tell."""

    text: str
    words: tuple[str, ...]
    sense: Sense | None
    wanted: Filter


class _Found(NamedTuple):
    seq: int
    created: int
    importance: float
    weights: bytes | None
    cosine: float  # NaN where it has no vector yet


def search(db: Connection, index: Shortlist, asked: Asked, k: int) -> list[Hit]:
    """Return the best `k` memories, best first, of equal ones the newer first; every hit has its parts."""
    query = lexical.asked(db, asked.words, asked.text)
    matches = {match.seq: match for match in lexical.matches(db, query, *_current(asked.wanted), _BY_WORDS)}
    near = _nearest(db, index, asked, max(NEAR, 4 * k)) if asked.sense else []
    found = _live(db, asked, [*near, *matches])
    kept = _best(found, max(_KEPT, 2 * k), matches)
    if not kept:
        return []
    covered = lexical.coverage(db, query, [one.seq for one in kept])
    return _hits(db, kept, _signals(asked.sense, kept, matches, covered), k)


class Alike(NamedTuple):
    """A memory, its number, and how alike a text it is (`engine.cohort`)."""

    seq: int
    memory: Memory
    likeness: float


def nearest(db: Connection, index: Shortlist, sense: Sense, wanted: Filter, k: int) -> list[Alike]:
    """Return the `k` memories that are most alike a text, the likest first."""
    asked = Asked("", (), sense, wanted)
    found = [one for one in _live(db, asked, _nearest(db, index, asked, NEAR)) if one.cosine == one.cosine]
    kept = [one.seq for one in _best(found, max(_KEPT, 2 * k), ())]
    if not kept:
        return []
    vectors = spaces.stored(db, sense.place.number, kept)
    memories = _memories(db, kept)
    likeness = _likeness(sense, [vectors[seq] for seq in kept]).tolist()
    alike = [Alike(seq, memories[seq], value) for seq, value in zip(kept, likeness, strict=True)]
    return sorted(alike, key=lambda one: (-one.likeness, -one.seq))[:k]


def _best(found: Sequence[_Found], most: int, also: Container[int]) -> list[_Found]:
    """Return the `most` of the highest cosine, the newer of equal ones, and `also` those."""
    order = sorted(found, key=lambda one: (-1.0 if one.cosine != one.cosine else one.cosine, one.seq), reverse=True)
    return [*order[:most], *(one for one in order[most:] if one.seq in also)]


def _current(wanted: Filter) -> tuple[str, list[str | int]]:
    where, values = wanted.sql()
    return f"superseded_by IS NULL AND {where}", values


def _nearest(db: Connection, index: Shortlist, asked: Asked, most: int) -> list[int]:
    sense = asked.sense
    assert sense is not None
    near = index.near(db, sense.place, sense.vector, most, asked.wanted.wanted())
    return _all_scored(db, sense, asked.wanted, most) if near is None else near


def _all_scored(db: Connection, sense: Sense, wanted: Filter, most: int) -> list[int]:
    """Return the numbers of the `most` nearest, every vector having been looked at."""
    import numpy as np

    where, values = _current(wanted)
    sql = f"SELECT seq, vector FROM memories {_WITH_VECTOR} WHERE vector IS NOT NULL AND {where}"
    cursor = db.execute(sql, (sense.place.number, *values))
    seqs, scores = np.empty(0, np.int64), np.empty(0, np.float32)
    while batch := list(islice(cursor, _BATCH)):
        cosines = spaces.decoded([row[1] for row in batch], len(sense.vector)) @ sense.vector
        seqs, scores = np.concatenate([seqs, [row[0] for row in batch]]), np.concatenate([scores, cosines])
        best = np.lexsort((-seqs, -scores))[:most]
        seqs, scores = seqs[best], scores[best]
    numbers: list[int] = seqs.tolist()
    return numbers


def _live(db: Connection, asked: Asked, seqs: Sequence[int]) -> list[_Found]:
    """Return those of the candidates that are live and match now, scored by their exact vectors."""
    import numpy as np

    where, values = _current(asked.wanted)
    # NOT INDEXED: they are looked up by their number; by way of an index of users each would take steps more.
    sql = f"""
        SELECT seq, created, importance, weights, vector FROM memories NOT INDEXED {_WITH_VECTOR}
        WHERE seq IN (SELECT value FROM json_each(?)) AND {where}
    """
    number = asked.sense.place.number if asked.sense else 0
    found = rows(db, sql, (number, json.dumps(seqs), *values))
    cosines = np.full(len(found), np.nan)
    there = [at for at, row in enumerate(found) if row[4] is not None]
    if asked.sense and there:
        vectors = spaces.decoded([found[at][4] for at in there], len(asked.sense.vector))
        cosines[there] = (vectors @ asked.sense.vector).round(6)  # those of equal vectors may differ in the last bits
    return [_Found(row[0], row[1], row[2], row[3], cosine) for row, cosine in zip(found, cosines.tolist(), strict=True)]


def _memories(db: Connection, seqs: Sequence[int]) -> dict[int, Memory]:
    sql = f"SELECT seq, {COLUMNS} FROM memories WHERE seq IN (SELECT value FROM json_each(?))"
    return {row[0]: memory(row[1:]) for row in rows(db, sql, (json.dumps(seqs),))}


def _signals(
    sense: Sense | None, found: Sequence[_Found], matches: dict[int, lexical.Match], covered: dict[int, float]
) -> Signals:
    import numpy as np

    none, present = np.zeros(len(found)), now()
    dense, prominence = _dense(sense, found) if sense else (none, none)
    weights = sense.weights if sense else None
    return Signals(
        dense=dense,
        prominence=prominence,
        words=np.array([matches[one.seq].bm25 if one.seq in matches else 0.0 for one in found]),
        coverage=np.array([covered.get(one.seq, 0.0) for one in found]),
        sparse=np.array([spaces.product(weights, one.weights) for one in found]) if weights else none,
        age=np.array([(present - one.created) / _DAY for one in found]),
        importance=np.array([one.importance for one in found]),
    )


def _dense(sense: Sense, found: Sequence[_Found]) -> tuple[Floats, Floats]:
    """Return the cosine of each, and its prominence; one that has no vector yet is like any other text."""
    import numpy as np

    one = cohort.standing(sense.vector[None], sense.cohort)[0]
    dense = np.array([one[0] if each.cosine != each.cosine else each.cosine for each in found])
    return dense, cohort.prominence(dense, one)


def _likeness(sense: Sense, blobs: Sequence[bytes]) -> Floats:
    vectors = spaces.decoded(blobs, len(sense.vector))
    one = cohort.standing(sense.vector[None], sense.cohort)[0]
    return cohort.likeness(vectors @ sense.vector, one, cohort.standing(vectors, sense.cohort)).round(5)


def _hits(db: Connection, found: Sequence[_Found], signals: Signals, k: int) -> list[Hit]:
    evidence = ranking.evidence(signals)
    relevant, order = ranking.relevance(evidence), ranking.order(signals, evidence)
    best = sorted(range(len(found)), key=lambda at: (order[at], found[at].seq), reverse=True)[:k]
    memories = _memories(db, [found[at].seq for at in best])
    return [Hit(memories[found[at].seq], float(relevant[at]), _parts(signals, at)) for at in best]


def _parts(signals: Signals, at: int) -> dict[str, float]:
    return {one.name: float(getattr(signals, one.name)[at]) for one in fields(signals)}
