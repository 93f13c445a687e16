"""Who runs next and what is already computed: requests, sequences, the shared cache. Pure Python, no llama.

Contract: token ids only. `plan` says which cache operations and which tokens come next, the caller carries them
out, `commit` records that they happened. A plan that was aborted is simply not committed and planned again. Every
running job has cells for its prompt and all it may still generate, so that no stream can be stopped half-way by
another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from engine.errors import ContextOverflow, InvalidInput


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
class Chunk:
    """Consecutive tokens of one sequence; the last `rows` of them want their logits."""

    job: Job
    sequence: int
    start: int
    tokens: Sequence[int]
    rows: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Cache operations, in order, then one batch."""

    operations: list[Fork | Cut]
    chunks: list[Chunk]


@dataclass(eq=False, slots=True)
class Job:
    """One request as the scheduler sees it: tokens to compute, and room for `room` more.

    `rows` trailing prompt positions want logits (at least the last). Lower `priority` goes first.
    """

    tokens: list[int]
    room: int
    rows: int = 1
    priority: int = 0
    sequence: _Sequence | None = None
    cached: int = 0
    prompt: int = field(init=False)
    served: int = 0
    order: int = 0

    def __post_init__(self) -> None:
        self.prompt = len(self.tokens)

    @property
    def computed(self) -> int:
        """Tokens of this job that are in the cache."""
        return len(self.sequence.tokens) if self.sequence else 0

    @property
    def decoding(self) -> bool:
        """Whether the prompt is in the cache, so that only chosen tokens are left to compute."""
        return self.computed >= self.prompt

    def append(self, tokens: Iterable[int]) -> None:
        """Add chosen tokens; never more than there is room for."""
        before = len(self.tokens)
        self.tokens.extend(tokens)
        self.room -= len(self.tokens) - before
        assert self.room >= 0, "a job outgrew its reservation"


@dataclass(eq=False, slots=True)
class _Sequence:
    """What one sequence id of the cache holds; cells are shared with sequences it was forked from."""

    id: int
    tokens: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    job: Job | None = None
    used: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """KV cells, sequence ids, tokens a batch, jobs at once, prompt tokens a batch beside running streams."""

    cells: int
    sequences: int
    batch: int
    parallel: int
    prefill_beside: int


class Scheduler:
    """Continuous batching over one unified cache whose finished sequences stay until their cells are needed."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._sequences: dict[int, _Sequence] = {}
        self._free_ids = list(reversed(range(limits.sequences)))
        self._free_cells = list(reversed(range(limits.cells)))
        self._references = [0] * limits.cells
        self._clock = count(1)
        self._may_admit = True
        self._operations: list[Fork | Cut] = []

    @property
    def busy(self) -> bool:
        """Whether any job waits or runs."""
        return bool(self._waiting or self._running)

    @property
    def used_cells(self) -> int:
        """Cells that hold something, cached sequences included."""
        return self.limits.cells - len(self._free_cells)

    def submit(self, job: Job) -> None:
        """Queue a job; more room than there are cells is cut down.

        Raises `ContextOverflow` if it could never run, `InvalidInput` if it has no token to compute.
        """
        if not job.tokens:
            raise InvalidInput("the prompt is empty: the model's chat template made no tokens of it")
        wanted = len(job.tokens) + min(job.room, 1)
        if wanted > self.limits.cells:
            raise ContextOverflow(len(job.tokens), self.limits.cells)
        job.room = min(job.room, self.limits.cells - len(job.tokens))
        job.order = next(self._clock)
        self._waiting.append(job)
        self._waiting.sort(key=lambda waiting: (waiting.priority, waiting.order))
        self._may_admit = True

    def plan(self) -> Plan:
        """Admit what fits and return the next step; no chunks means that there is nothing to do."""
        while self._may_admit and self._admit_next():
            pass
        operations, self._operations = self._operations, []
        return Plan(operations, self._chunks())

    def commit(self, plan: Plan) -> None:
        """Record that the chunks of `plan` are in the cache."""
        for chunk in plan.chunks:
            sequence = self._sequences[chunk.sequence]
            sequence.tokens.extend(chunk.tokens)
            for _ in chunk.tokens:
                cell = self._free_cells.pop()
                self._references[cell] = 1
                sequence.cells.append(cell)
            chunk.job.served = next(self._clock)

    def finish(self, job: Job) -> None:
        """End a job, whether it is done or given up; what it computed stays cached."""
        self._may_admit = True
        if job in self._waiting:
            self._waiting.remove(job)
            return
        if job not in self._running:
            return
        self._running.remove(job)
        sequence = job.sequence
        assert sequence is not None
        sequence.job, sequence.used = None, next(self._clock)
        if not sequence.tokens:
            self._drop(sequence)
        else:
            self._drop_covered_by(sequence)

    def clear(self) -> None:
        """Forget every cached sequence that no job uses.

        All free ids are cut, not only those that held something: after a failed step nobody knows which operations
        were carried out.
        """
        for sequence in [s for s in self._sequences.values() if s.job is None]:
            self._drop(sequence)
        self._operations = [Cut(free, 0) for free in self._free_ids]
        self._may_admit = True

    def _chunks(self) -> list[Chunk]:
        chunks: list[Chunk] = []
        room = self.limits.batch
        decoding = [job for job in self._running if job.decoding]
        for job in sorted(decoding, key=lambda job: job.served):
            room -= self._take(job, room, chunks)
        if decoding:
            room = min(room, self.limits.prefill_beside)
        for job in sorted(self._running, key=lambda job: (job.priority, job.order)):
            if not job.decoding:
                room -= self._take(job, room, chunks)
        return chunks

    def _take(self, job: Job, room: int, chunks: list[Chunk]) -> int:
        start, end = job.computed, min(job.computed + room, len(job.tokens))
        if end <= start or job.sequence is None:
            return 0
        first_row = len(job.tokens) - (1 if job.decoding else job.rows)
        rows = max(0, end - max(start, first_row))
        chunks.append(Chunk(job, job.sequence.id, start, job.tokens[start:end], rows))
        return end - start

    def _admit_next(self) -> bool:
        self._may_admit = False
        if not self._waiting or len(self._running) >= self.limits.parallel:
            return False
        job = self._waiting[0]
        source, length = self._longest_prefix(job)
        if not self._make_room(job, source, length):
            return False
        self._waiting.pop(0)
        self._running.append(job)
        job.sequence = self._start(source, length)
        job.sequence.job, job.cached = job, length
        self._may_admit = True
        return True

    def _longest_prefix(self, job: Job) -> tuple[_Sequence | None, int]:
        most = len(job.tokens) - job.rows  # positions that want logits must be computed, not reused
        best: tuple[_Sequence | None, int] = (None, 0)
        for sequence in sorted(self._sequences.values(), key=lambda s: s.used, reverse=True):
            length = _common_prefix(sequence.tokens, job.tokens, most)
            if length > best[1]:
                best = (sequence, length)
        return best

    def _make_room(self, job: Job, source: _Sequence | None, length: int) -> bool:
        """Evict until the job fits; False, with nothing evicted, if only the end of another job can help."""
        need = len(job.tokens) - length + job.room
        kept = {cell for running in self._running for cell in _cells(running)}
        if source is not None:
            kept.update(source.cells[:length])
        if need + self._reserved() > self.limits.cells - len(kept):
            return False
        idle_source = source is not None and source.job is None
        for victim in self._evictable():
            if self._fits(need) and (self._free_ids or idle_source):
                return True
            if victim is not source:
                self._drop(victim)
        if source is not None and idle_source and not self._fits(need):
            self._truncate(source, length)
        return True

    def _fits(self, need: int) -> bool:
        return need + self._reserved() <= len(self._free_cells)

    def _start(self, source: _Sequence | None, length: int) -> _Sequence:
        idle = source is not None and source.job is None
        if source is not None and idle and (len(source.tokens) == length or not self._free_ids):
            self._truncate(source, length)
            return source
        sequence = _Sequence(self._free_ids.pop(), used=next(self._clock))
        self._sequences[sequence.id] = sequence
        if source is not None:
            source.used = next(self._clock)
            sequence.tokens, sequence.cells = source.tokens[:length], source.cells[:length]
            for cell in sequence.cells:
                self._references[cell] += 1
            self._operations.append(Fork(source.id, sequence.id, length))
        return sequence

    def _evictable(self) -> list[_Sequence]:
        idle = [sequence for sequence in self._sequences.values() if sequence.job is None]
        return sorted(idle, key=lambda sequence: sequence.used)

    def _reserved(self) -> int:
        return sum(len(job.tokens) - job.computed + job.room for job in self._running)

    def _drop_covered_by(self, longer: _Sequence) -> None:
        """Drop idle sequences that say nothing `longer` does not; they would only hold sequence ids."""
        for other in self._evictable():
            if other is longer or len(other.tokens) > len(longer.tokens):
                continue
            if longer.tokens[: len(other.tokens)] == other.tokens:
                self._drop(other)

    def _truncate(self, sequence: _Sequence, length: int) -> None:
        if len(sequence.tokens) > length:
            self._release(sequence.cells[length:])
            del sequence.tokens[length:], sequence.cells[length:]
            self._operations.append(Cut(sequence.id, length))

    def _drop(self, sequence: _Sequence) -> None:
        self._release(sequence.cells)
        del self._sequences[sequence.id]
        self._free_ids.append(sequence.id)
        self._operations.append(Cut(sequence.id, 0))

    def _release(self, cells: list[int]) -> None:
        for cell in cells:
            self._references[cell] -= 1
            if not self._references[cell]:
                self._free_cells.append(cell)


def _cells(job: Job) -> list[int]:
    return job.sequence.cells if job.sequence else []


def _common_prefix(one: Sequence[int], other: Sequence[int], most: int) -> int:
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
