"""Who runs next: jobs are admitted, paused, batched and ended over one cache. Pure Python, no llama.

Contract: token ids only. `plan` says which cache operations and which tokens come next, the caller carries them
out, `commit` records that they happened, `abandon` that they were aborted. Every running job has cells for its
prompt and all it may still generate, so that no stream can be stopped half-way by another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, count

from engine.cache import Cache, CachedSequence, Operation, common_prefix
from engine.errors import ContextOverflow, InvalidInput

_WORTH_WAITING = 16  # tokens that another job is about to compute, from which on it is better to wait for them


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence; the last `rows` of them want their logits.

    Their cells belong to the sequences in `also`, too. `branch` is the number of the job's branch that they are.
    """

    job: Job
    sequence: int
    start: int
    tokens: Sequence[int]
    rows: int
    also: tuple[int, ...] = ()
    branch: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Cache operations, in order, then one batch."""

    operations: list[Operation]
    chunks: list[Chunk]


@dataclass(eq=False, slots=True)
class Job:
    """One request as the scheduler sees it: tokens to compute, and room for `room` more.

    The last token wants its logits. Lower `priority` goes first, and pauses what is higher. The first `pin` tokens
    are an instruction that will come again. `branches` are continuations of the tokens that want logits at every
    position and are forgotten at once.
    """

    tokens: list[int]
    room: int
    priority: int = 0
    pin: int = 0
    branches: Sequence[Sequence[int]] = ()
    sequence: CachedSequence | None = None
    cached: int = 0
    prompt: int = field(init=False)
    pending: list[int] = field(init=False)
    branch_room: int = field(init=False)
    answered: bool = False
    stop: int = 0
    served: int = 0
    order: int = 0

    def __post_init__(self) -> None:
        self.prompt = len(self.tokens)
        self.pending = list(range(len(self.branches)))
        self.branch_room = sum(map(len, self.branches))

    @property
    def computed(self) -> int:
        """Tokens of this job that are in the cache."""
        return len(self.sequence.tokens) if self.sequence else 0

    @property
    def decoding(self) -> bool:
        """Whether the prompt is in the cache, so that only chosen tokens and branches are left to compute."""
        return self.computed >= self.prompt

    @property
    def reserve(self) -> int:
        """Cells that this job may still need."""
        return len(self.tokens) - self.computed + self.room + (self.branch_room if self.pending else 0)

    def append(self, tokens: Iterable[int]) -> None:
        """Add chosen tokens; never more than there is room for."""
        before = len(self.tokens)
        self.tokens.extend(tokens)
        self.room -= len(self.tokens) - before
        assert self.room >= 0, "a job outgrew its reservation"


@dataclass(frozen=True, slots=True)
class Limits:
    """KV cells, sequence ids (more than `parallel`), tokens a batch, jobs at once.

    `beside` says how many tokens a batch may hold beside one of each of so many running streams. `whole`: see `Cache`.
    """

    cells: int
    sequences: int
    batch: int
    parallel: int
    beside: Callable[[int], int]
    whole: bool = False


class Scheduler:
    """Continuous batching over one unified cache whose finished sequences stay until their cells are needed."""

    def __init__(self, limits: Limits) -> None:
        assert limits.sequences > limits.parallel, "branches and pins need an id that no running job holds"
        self.limits = limits
        self.cache = Cache(limits.cells, limits.sequences, whole=limits.whole)
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._orders = count(1)
        self._may_admit = True

    @property
    def busy(self) -> bool:
        """Whether any job waits or runs."""
        return bool(self._waiting or self._running)

    def submit(self, job: Job) -> None:
        """Queue a job; more room than there are cells is cut down.

        Raises `ContextOverflow` if it could never run, `InvalidInput` if it has no token to compute.
        """
        if not job.tokens:
            raise InvalidInput("the prompt is empty: the model's chat template made no tokens of it")
        longest = max(map(len, job.branches), default=0)
        wanted = len(job.tokens) + min(job.room, 1) + longest
        if wanted > self.limits.cells or longest >= self.limits.batch:
            limit = self.limits.cells if wanted > self.limits.cells else self.limits.batch
            raise ContextOverflow(len(job.tokens) + longest, limit)
        job.room = min(job.room, self.limits.cells - len(job.tokens) - longest)
        job.branch_room = min(job.branch_room, self.limits.cells - len(job.tokens) - job.room)
        job.order = next(self._orders)
        self._queue(job)

    def plan(self) -> Plan:
        """Admit what fits and return the next step; no chunks means that there is nothing to do."""
        self._pause_background()
        while self._may_admit and self._admit_next():
            pass
        chunks = self._chunks()
        return Plan(self.cache.take_operations(), chunks)

    def commit(self, plan: Plan) -> list[int]:
        """Record that the chunks of `plan` are in the cache; return the ids of new pinned sequences."""
        pinned: list[int] = []
        for chunk in plan.chunks:
            job = chunk.job
            job.served = next(self._orders)
            if chunk.branch is not None:
                self.cache.give_back(chunk.sequence)
                job.pending.remove(chunk.branch)
            elif job.sequence is not None:
                self.cache.extend(job.sequence, chunk.tokens)
                job.answered = job.answered or chunk.rows > 0
                pinned += self._pin(job, chunk)
                self._reached(job)
        return [each for each in pinned if self.cache.is_pinned(each)]  # one pin may have taken another's place

    def abandon(self, plan: Plan) -> None:
        """Record that the batch of `plan` was aborted, with any part of it in the cache."""
        for chunk in plan.chunks:
            if chunk.branch is not None:
                self.cache.give_back(chunk.sequence)
            elif chunk.job.sequence is not None:
                self.cache.revert(chunk.job.sequence)
        if self.limits.whole:
            self._start_over()

    def finish(self, job: Job) -> None:
        """End a job, whether it is done or given up; what it computed stays cached."""
        self._may_admit = True
        if job in self._waiting:
            self._waiting.remove(job)
        elif job in self._running:
            self._stop(job)

    def clear(self) -> None:
        """Forget every cached sequence that no job uses."""
        self.cache.clear()
        self._may_admit = True

    # ---- one step

    def _chunks(self) -> list[Chunk]:
        chunks: list[Chunk] = []
        room = self.limits.batch
        streams = sorted((job for job in self._running if job.decoding), key=lambda job: job.served)
        prompts = sorted((job for job in self._running if not job.decoding), key=lambda job: (job.priority, job.order))
        extra = self.limits.beside(len(streams)) if streams and len(self._running) > 1 else room
        for_prompts = (extra + 1) // 2 if prompts else 0  # else forced runs could starve them
        extra -= for_prompts
        for job in streams:
            took = self._take(job, min(room, 1 + extra), chunks) + self._take_branches(job, room, chunks)
            room, extra = room - took, max(0, extra - max(0, took - 1))
        if streams:
            room = min(room, extra + for_prompts)
        for job in prompts:
            room -= self._take(job, room, chunks)
        return chunks

    def _take(self, job: Job, room: int, chunks: list[Chunk]) -> int:
        """Add the job's next tokens, and with the end of a prompt its branches; return how many tokens that is."""
        start, end = job.computed, min(job.computed + max(0, room), len(job.tokens))
        end = min([end, *(border for border in self._borders(job) if start < border)])
        if end <= start or job.sequence is None:
            return 0
        last = end == len(job.tokens) and not (job.branches and job.answered)
        main = len(chunks)
        chunks.append(Chunk(job, job.sequence.id, start, job.tokens[start:end], int(last)))
        took = end - start
        if job.pending and last and not self.limits.whole:
            took += self._add_branches(job, room - took, chunks)
            ids = tuple(chunk.sequence for chunk in chunks[main + 1 :])
            chunks[main] = replace(chunks[main], also=ids)
        return took

    def _take_branches(self, job: Job, room: int, chunks: list[Chunk]) -> int:
        """Add branches of a job whose tokens are all in the cache."""
        return self._add_branches(job, room, chunks) if job.computed == len(job.tokens) else 0

    def _add_branches(self, job: Job, room: int, chunks: list[Chunk]) -> int:
        """Add as many pending branches as there are tokens, cells and ids for."""
        assert job.sequence is not None
        sizes = accumulate(len(job.branches[i]) for i in job.pending)
        fits = sum(size <= min(room, job.branch_room) for size in sizes)
        took = 0
        for i, sequence in zip(job.pending, self.cache.borrow(job.sequence, fits), strict=False):
            tokens = job.branches[i]
            chunks.append(Chunk(job, sequence, len(job.tokens), tokens, len(tokens), branch=i))
            took += len(tokens)
        return took

    def _borders(self, job: Job) -> list[int]:
        """Return positions at which a chunk has to end."""
        return [job.stop, job.pin] if self.limits.whole else [job.stop]

    # ---- in and out

    def _start_over(self) -> None:
        """Send every job back to the queue and forget all that was computed."""
        for job in list(self._running):
            job.served = 0
            self._stop(job)
            self._queue(job)
        self.cache.lose()

    def _queue(self, job: Job) -> None:
        self._waiting.append(job)
        self._waiting.sort(key=lambda waiting: (waiting.priority, waiting.order))
        self._may_admit = True

    def _pause_background(self) -> None:
        """Send back to the queue what is less urgent than anything else; what it computed stays cached."""
        first = min((job.priority for job in [*self._waiting[:1], *self._running]), default=0)
        for job in [job for job in self._running if job.priority > first]:
            self._stop(job)
            self._queue(job)

    def _stop(self, job: Job) -> None:
        self._running.remove(job)
        assert job.sequence is not None
        self.cache.rest(job.sequence)
        job.sequence, job.stop = None, 0
        self._may_admit = True

    def _admit_next(self) -> bool:
        self._may_admit = False
        if not self._waiting or len(self._running) >= self.limits.parallel:
            return False
        job = self._waiting[0]
        if any(running.priority < job.priority for running in self._running):
            return False
        source, length = self.cache.longest_prefix(job.tokens, self._reusable(job))
        if self._joins_later(job, length) or not self._make_room(job, source, length):
            return False
        self._waiting.pop(0)
        self._running.append(job)
        job.sequence = self.cache.start(source, length)
        job.cached = job.cached if job.served else length  # one that was paused finds what it computed itself
        self._may_admit = True
        return True

    def _reusable(self, job: Job) -> int:
        """Return how many tokens need not be computed: a position that wants logits must be."""
        return len(job.tokens) - int(not (job.branches and job.answered))

    def _make_room(self, job: Job, source: CachedSequence | None, length: int) -> bool:
        reserved = sum(running.reserve for running in self._running)
        return self.cache.make_room(job.reserve - length, reserved, source, length)

    def _joins_later(self, job: Job, cached: int) -> bool:
        """Whether a running job is about to compute more of this job's tokens than are cached; it stops there."""
        most, leader, shared = self._reusable(job), None, cached + _WORTH_WAITING - 1
        for running in self._running:
            length = common_prefix(running.tokens[: running.prompt], job.tokens, most)
            if running.computed < length and length > shared:
                leader, shared = running, length
        if leader is not None:
            leader.stop = min(leader.stop or shared, shared)
        return leader is not None

    def _reached(self, job: Job) -> None:
        if job.stop and job.computed >= job.stop:
            job.stop, self._may_admit = 0, True

    def _pin(self, job: Job, chunk: Chunk) -> list[int]:
        """Pin the job's instruction when it is there; return the id that holds it, if it is new."""
        assert job.sequence is not None
        if not chunk.start < job.pin <= job.computed or (self.limits.whole and job.pin != job.computed):
            return []
        return self.cache.pin(job.sequence, job.pin)
