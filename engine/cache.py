"""What the KV cache holds: sequences of tokens that share cells, and which go when cells are needed. Pure Python.

Contract: a mirror of llama.cpp's unified cache. Every change is recorded at once and written down in `operations`,
which the caller carries out in order before the next batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

_PINNED_SHARE = 3  # pins hold at most one cell in so many: conversations need the rest


@dataclass(frozen=True, slots=True)
class Fork:
    """Let `target` share the first `length` positions of `source`."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Forget positions `start` and later of `sequence`."""

    sequence: int
    start: int


@dataclass(frozen=True, slots=True)
class Clear:
    """Forget everything: after an aborted batch the states of other sequences may be spoilt, too."""


Operation = Fork | Cut | Clear


@dataclass(eq=False, slots=True)
class CachedSequence:
    """What one sequence id holds; cells are shared with sequences it was forked from."""

    id: int
    tokens: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    busy: bool = False
    pinned: bool = False
    used: int = 0


class Cache:
    """Sequences by id; idle ones stay, least recently used dropped first and pinned ones last.

    `whole`: the model keeps one state a sequence (recurrent, hybrid), so that a sequence can be continued, copied or
    dropped, but never cut.
    """

    def __init__(self, cells: int, sequences: int, *, whole: bool = False) -> None:
        self.cells, self.whole = cells, whole
        self.sequences: dict[int, CachedSequence] = {}
        self._free_ids = list(reversed(range(sequences)))
        self._free_cells = list(reversed(range(cells)))
        self._references = [0] * cells
        self._clock = count(1)
        self._operations: list[Operation] = []

    @property
    def used(self) -> int:
        """Cells that hold something."""
        return self.cells - len(self._free_cells)

    def tick(self) -> int:
        """Return the next moment: what was used later has the larger one."""
        return next(self._clock)

    def take_operations(self) -> list[Operation]:
        """Return what the caller has to carry out, in order, and forget it."""
        operations, self._operations = self._operations, []
        return operations

    def longest_prefix(self, tokens: Sequence[int], most: int) -> tuple[CachedSequence | None, int]:
        """Return the sequence that begins like `tokens`, and how many tokens of it, at most `most`, can be reused."""
        best: tuple[CachedSequence | None, int] = (None, 0)
        for sequence in sorted(self.sequences.values(), key=lambda s: s.used, reverse=True):
            length = common_prefix(sequence.tokens, tokens, most)
            if self.whole and length < len(sequence.tokens):
                continue
            if length > best[1]:
                best = (sequence, length)
        return best

    def make_room(self, need: int, reserved: int, source: CachedSequence | None, length: int) -> bool:
        """Evict until `need` new cells fit beside the first `length` of `source` and what others have `reserved`.

        False, with nothing evicted, if only the end of a running job can help.
        """
        kept = {cell for sequence in self.sequences.values() if sequence.busy for cell in sequence.cells}
        if source is not None:
            kept.update(source.cells[:length])
        need += reserved
        if need > self.cells - len(kept):
            return False
        idle_source = source is not None and not source.busy
        for victim in self._evictable():
            if need <= len(self._free_cells) and (self._free_ids or idle_source):
                return True
            if victim is not source:
                self._drop(victim)
        if source is not None and idle_source and need > len(self._free_cells):
            source.pinned = False
            self._truncate(source, length)
        return True

    def start(self, source: CachedSequence | None, length: int) -> CachedSequence:
        """Return a busy sequence that holds the first `length` tokens of `source`."""
        sequence = self._taken_over(source, length) or self._forked(source, length)
        sequence.busy = True
        return sequence

    def extend(self, sequence: CachedSequence, tokens: Sequence[int]) -> None:
        """Record that `tokens` were computed."""
        sequence.tokens.extend(tokens)
        for _ in tokens:
            cell = self._free_cells.pop()
            self._references[cell] = 1
            sequence.cells.append(cell)

    def rest(self, sequence: CachedSequence) -> None:
        """Nobody works on `sequence` any more; what it holds stays until its cells are needed."""
        sequence.busy, sequence.used = False, self.tick()
        if not sequence.tokens:
            self._drop(sequence)
        elif not self.whole:  # a state cannot be cut back, so the shorter one still has a use
            self._drop_covered_by(sequence)

    def forget(self) -> None:
        """Drop what nobody works on and nobody pinned: it may hold what has to be forgotten."""
        for sequence in list(self.sequences.values()):
            if not (sequence.busy or sequence.pinned):
                self._drop(sequence)

    def revert(self, sequence: CachedSequence) -> None:
        """Undo what an aborted batch may have left of `sequence` beyond what is recorded."""
        self._operations.append(Cut(sequence.id, len(sequence.tokens)))

    def pin(self, sequence: CachedSequence, length: int) -> list[int]:
        """Keep the first `length` tokens of `sequence` until all else is dropped; return the id if it is new."""
        prefix = sequence.tokens[:length]
        for other in self.sequences.values():
            if other.pinned and other.tokens == prefix:
                other.used = self.tick()
                return []
        if length > self.cells // _PINNED_SHARE or not self._free_id():
            return []
        pinned = self._forked(sequence, length)
        pinned.pinned = True
        self._unpin_surplus()
        return [pinned.id]

    def is_pinned(self, id: int) -> bool:
        """Whether `id` holds a pinned sequence."""
        return id in self.sequences and self.sequences[id].pinned

    def adopt(self, tokens: Sequence[int]) -> int | None:
        """Return the id of a new pinned sequence whose cells the caller fills himself; None if there is no space."""
        if len(tokens) > min(len(self._free_cells), self.cells // _PINNED_SHARE) or not self._free_ids:
            return None
        sequence = self._forked(None, 0)
        sequence.pinned = True
        self.extend(sequence, tokens)
        return sequence.id

    def release(self, id: int) -> None:
        """Drop an idle sequence."""
        self._drop(self.sequences[id])

    def borrow(self, sequence: CachedSequence, most: int) -> list[int]:
        """Return up to `most` ids that hold what `sequence` holds, for one batch; `give_back` ends that."""
        ids: list[int] = []
        while len(ids) < most and self._free_id():
            ids.append(self._free_ids.pop())
        if sequence.tokens:
            self._operations += [Fork(sequence.id, each, len(sequence.tokens)) for each in ids]
        return ids

    def give_back(self, id: int) -> None:
        """Forget what a borrowed id holds."""
        self._free_ids.append(id)
        self._operations.append(Cut(id, 0))

    def clear(self) -> None:
        """Forget every idle sequence.

        All ids are cut to what is recorded, not only those that held something: after a failed step nobody knows
        which operations were carried out.
        """
        for sequence in self._evictable():
            self._drop(sequence)
        self._operations = [Cut(free, 0) for free in self._free_ids]
        self._operations += [Cut(busy.id, len(busy.tokens)) for busy in self.sequences.values()]

    def lose(self) -> None:
        """Forget everything, since nothing is busy and an aborted batch may have spoilt any state."""
        self.clear()
        self._operations = [Clear()]

    def _taken_over(self, source: CachedSequence | None, length: int) -> CachedSequence | None:
        if source is None or source.busy:
            return None
        if self._free_ids and (source.pinned or len(source.tokens) > length):
            return None
        source.pinned = False
        self._truncate(source, length)
        return source

    def _forked(self, source: CachedSequence | None, length: int) -> CachedSequence:
        sequence = CachedSequence(self._free_ids.pop(), used=self.tick())
        self.sequences[sequence.id] = sequence
        if source is not None:
            source.used = self.tick()
            sequence.tokens, sequence.cells = source.tokens[:length], source.cells[:length]
            for cell in sequence.cells:
                self._references[cell] += 1
            self._operations.append(Fork(source.id, sequence.id, length))
        return sequence

    def _free_id(self) -> bool:
        """Whether an id is free, if need be after dropping the oldest idle sequence."""
        if not self._free_ids and (idle := self._evictable()):
            self._drop(idle[0])
        return bool(self._free_ids)

    def _evictable(self) -> list[CachedSequence]:
        idle = [sequence for sequence in self.sequences.values() if not sequence.busy]
        return sorted(idle, key=lambda sequence: (sequence.pinned, sequence.used))

    def _unpin_surplus(self) -> None:
        pinned = [sequence for sequence in self._evictable() if sequence.pinned]
        while sum(len(sequence.tokens) for sequence in pinned) > self.cells // _PINNED_SHARE:
            pinned.pop(0).pinned = False

    def _drop_covered_by(self, longer: CachedSequence) -> None:
        """Drop idle sequences that say nothing `longer` does not; they would only hold sequence ids."""
        for other in self._evictable():
            if other is longer or other.pinned or len(other.tokens) > len(longer.tokens):
                continue
            if longer.tokens[: len(other.tokens)] == other.tokens:
                self._drop(other)

    def _truncate(self, sequence: CachedSequence, length: int) -> None:
        if len(sequence.tokens) > length:
            self._release(sequence.cells[length:])
            del sequence.tokens[length:], sequence.cells[length:]
            self._operations.append(Cut(sequence.id, length))

    def _drop(self, sequence: CachedSequence) -> None:
        self._release(sequence.cells)
        del self.sequences[sequence.id]
        self._free_ids.append(sequence.id)
        self._operations.append(Cut(sequence.id, 0))

    def _release(self, cells: list[int]) -> None:
        for cell in cells:
            self._references[cell] -= 1
            if not self._references[cell]:
                self._free_cells.append(cell)


def common_prefix(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """Return how many leading ids agree, at most `most`; halving keeps the comparison in C."""
    low, high = 0, max(0, min(len(one), len(other), most))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
