"""What a new memory does to older ones, decided in the background: the same is merged, a contradiction replaces.

One memory at a time, in a transaction of its own. The older one keeps its row, with the end of its validity and the
newer one's id: never are both lost, and never, of two of which one is to go, do both stay current.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from engine import retriever, spaces
from engine.connections import rows
from engine.errors import EngineError
from engine.faculties import Faculties, Verdict
from engine.migrations import SHIFT
from engine.records import COLUMNS, FATES, Filter, Memory, memory, reinforced, stamp
from engine.retriever import Sense
from engine.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from apsw import Connection
    from numpy.typing import NDArray

    from engine.shortlist import Shortlist

_log = logging.getLogger("engine.settling")
_COMPARED = 12  # of the older memories, the likest
_FATE = dict(zip(("same", "replaces"), FATES, strict=True))
# One that has no vector where others are searched waits until that is made.
_WAITING = f"SELECT memory FROM unjudged JOIN vectors ON key = (? << {SHIFT} | memory) ORDER BY memory LIMIT 1"


class Settling:
    """The judge's chore of one store. `cohort` returns the cohort's vectors in a space."""

    def __init__(
        self,
        store: Store,
        faculties: Faculties,
        index: Shortlist,
        cohort: Callable[[spaces.Place], NDArray[np.float32]],
    ) -> None:
        self._store, self._faculties, self._index, self._cohort = store, faculties, index, cohort

    def settle(self) -> bool:
        """Compare the next memory that was not compared; return whether there may be more."""
        if self._faculties.judge is None or not (self._store.is_writer and self._store.exists()):
            return False
        with self._store.read() as db:
            place = spaces.serving(db)
            waiting = rows(db, _WAITING, (place.number,)) if place else []
        if not waiting or place is None:
            return False
        seq, cohort = waiting[0][0], self._cohort(place)
        with self._store.read() as db:
            new = _current(db, seq)
            older = self._older(db, seq, new, place, cohort) if new else []
        verdicts = [(old, self._verdict(old, new, alike)) for old, alike in older] if new else []
        with self._store.write() as db:
            # If it was changed, forgotten or reinforced meanwhile, or an older one was: look again.
            if _current(db, seq) == new and _carry_out(db, new, verdicts):
                db.execute("DELETE FROM unjudged WHERE memory = ?", (seq,))
        return True

    def _verdict(self, old: Memory, new: Memory, alike: float) -> Verdict:
        judge = self._faculties.judge
        assert judge is not None
        try:
            return judge(old, new, alike)
        except EngineError:
            raise  # such as no room for the analyser: another time
        except Exception as error:  # noqa: BLE001 - who is not sure leaves both, and the next ones are to be compared
            _log.error("the judge failed on a pair, and both stay: %s", type(error).__name__)
            return "different"

    def _older(
        self, db: Connection, seq: int, new: Memory, place: spaces.Place, cohort: NDArray[np.float32]
    ) -> list[tuple[Memory, float]]:
        blob = spaces.stored(db, place.number, [seq]).get(seq)
        if blob is None:
            return []
        sense = Sense(place, spaces.decoded([blob], place.dim)[0], None, cohort)
        near = retriever.nearest(db, self._index, sense, Filter(new.user), retriever.NEAR)
        return [(one.memory, one.likeness) for one in near if one.seq < seq][:_COMPARED]


def _current(db: Connection, seq: int) -> Memory | None:
    found = rows(db, f"SELECT {COLUMNS} FROM memories WHERE seq = ? AND superseded_by IS NULL", (seq,))
    return memory(found[0]) if found else None


def _carry_out(db: Connection, new: Memory | None, verdicts: list[tuple[Memory, Verdict]]) -> bool:
    """Supersede; return False where an older one has changed since it was judged, and has to be judged again."""
    if new is None:
        return True
    done = [supersede(db, old, new, _FATE[verdict]) for old, verdict in verdicts if verdict != "different"]
    return all(done)


def supersede(db: Connection, old: Memory, new: Memory, fate: str) -> bool:
    """Let `new` take the place of `old`, if that is still current and as it was; return whether it is."""
    began = stamp(old.valid_from or old.created)
    ended = max(began, stamp(new.valid_from or new.created))  # a clock that was set back turns no time around
    db.execute(
        "UPDATE memories SET superseded_by = ?, fate = ?, valid_to = ? "
        "WHERE id = ? AND superseded_by IS NULL AND text = ?",
        (new.id, fate, ended, old.id, old.text),
    )
    if not db.changes():
        return False
    if fate == "merged":
        importance = reinforced(max(old.importance, new.importance))
        db.execute("UPDATE memories SET importance = max(importance, ?) WHERE id = ?", (importance, new.id))
    return True
