"""The scheduler against a simulated llama.cpp cache: whatever happens, what it believes is what the cache holds.

`Schedules` is the machine that tests and the soak script run; `Simulation` is a caller that checks all it is told.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.cache import Clear, Cut, Operation
from engine.errors import ContextOverflow
from engine.scheduler import Chunk, Job, Limits, Plan, Scheduler

LOST = -1  # what a state holds that was written to in part


def limits(cells: int, sequences: int, batch: int, parallel: int, beside: int = 10, *, whole: bool = False) -> Limits:
    return Limits(cells, sequences, batch, parallel, lambda streams: beside, whole)


class FakeCache:
    """What llama.cpp's unified cache does: cells are shared by forks and live while a sequence holds them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._made = 0
        self.rows: dict[int, list[tuple[int, int]]] = {i: [] for i in range(limits.sequences)}  # (cell, token)

    def tokens(self, sequence: int) -> list[int]:
        return [token for _, token in self.rows[sequence]]

    @property
    def used(self) -> int:
        return len({cell for row in self.rows.values() for cell, _ in row})

    def apply(self, operation: Operation) -> None:
        if isinstance(operation, Clear):
            for row in self.rows.values():
                row.clear()
            return
        if isinstance(operation, Cut):
            whole = operation.start in (0, len(self.rows[operation.sequence]))
            assert whole or not self._limits.whole, "a state cannot be cut"
            del self.rows[operation.sequence][operation.start :]
            return
        assert not self.rows[operation.target], "seq_cp into a sequence that holds something mixes the two"
        assert len(self.rows[operation.source]) >= operation.length > 0
        assert not self._limits.whole or len(self.rows[operation.source]) == operation.length
        self.rows[operation.target] = self.rows[operation.source][: operation.length]

    def write(self, chunk: Chunk, tokens: list[int]) -> None:
        sequences = [chunk.sequence, *chunk.also]
        assert len(set(sequences)) == len(sequences)
        for sequence in sequences:
            assert len(self.rows[sequence]) == chunk.start, "positions must follow each other"
        for token in tokens:
            self._made += 1
            for sequence in sequences:
                self.rows[sequence].append((self._made, token))
        assert self.used <= self._limits.cells


@dataclass(eq=False)
class Client:
    """A job, what it will ask for, and what it was given."""

    job: Job
    forced: random.Random
    answer: int  # tokens it will write at most
    rows_seen: list[int] = field(default_factory=list)
    branches_seen: list[int] = field(default_factory=list)
    computed: int = 0
    paused: bool = False
    last_row: int = 0


class Simulation:
    """A caller of the scheduler that checks everything it is told."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.scheduler, self.cells = limits, Scheduler(limits), FakeCache(limits)
        self.clients: dict[Job, Client] = {}
        self.done: list[Client] = []

    def submit(self, job: Job, *, answer: int = 0, forced: int = 0, seed: int = 0) -> Client | None:
        longest = max(map(len, job.branches), default=0)
        if len(job.tokens) + min(job.room, 1) + longest > self.limits.cells or longest >= self.limits.batch:
            with pytest.raises(ContextOverflow) as caught:
                self.scheduler.submit(job)
            assert caught.value.tokens == len(job.tokens) + longest
            assert caught.value.limit in (self.limits.cells, self.limits.batch)
            return None
        self.scheduler.submit(job)
        assert len(job.tokens) + job.room + job.branch_room <= self.limits.cells
        client = Client(job, random.Random(seed), min(answer, job.room))
        self.clients[job] = client
        self._write(client, min(forced, client.answer))  # what a schema forces before the prompt is computed
        return client

    def step(self, *, aborted_after: int | None = None) -> Plan:
        waiting = [client.job for client in self.clients.values() if client.job.sequence is None]
        plan = self.scheduler.plan()
        for operation in plan.operations:
            self.cells.apply(operation)
        self._note_paused(waiting)
        self._check_plan(plan, waiting)
        if aborted_after is not None:
            self._abort(plan, aborted_after)
            return plan
        for chunk in plan.chunks:
            self.cells.write(chunk, list(chunk.tokens))
        for sequence in self.scheduler.commit(plan):
            assert self.scheduler.cache.sequences[sequence].pinned
        for chunk in plan.chunks:
            self._receive(chunk)
        return plan

    def finish(self, client: Client) -> None:
        self.scheduler.finish(client.job)
        self.scheduler.finish(client.job)  # ending twice is harmless
        self.done.append(self.clients.pop(client.job))

    def run_to_the_end(self) -> None:
        left = sum(len(c.job.tokens) + c.job.room + sum(map(len, c.job.branches)) for c in self.clients.values())
        while self.scheduler.busy:
            left -= sum(len(chunk.tokens) for chunk in self.step().chunks)
            assert left >= 0, "more was computed than there was to compute"
        assert not self.clients
        self.check()

    def end(self) -> None:
        """Finish everything; nothing may be left in the cache."""
        self.run_to_the_end()
        self.scheduler.clear()
        for operation in self.scheduler.plan().operations:
            self.cells.apply(operation)
        cache = self.scheduler.cache
        assert cache.used == self.cells.used == 0
        assert not any(cache._references) and not cache.sequences
        assert sorted(cache._free_ids) == list(range(self.limits.sequences))
        assert sorted(cache._free_cells) == list(range(self.limits.cells))

    def check(self) -> None:
        """What is always true, between any two calls."""
        cache = self.scheduler.cache
        running = [job.sequence.id for job in self.clients if job.sequence]
        assert len(set(running)) == len(running) <= self.limits.parallel
        assert sorted(running) == sorted(s.id for s in cache.sequences.values() if s.busy)
        held = [cell for s in cache.sequences.values() for cell in s.cells]
        assert len(set(held)) == cache.used
        assert [held.count(cell) for cell in range(self.limits.cells)] == cache._references
        assert sorted([*cache.sequences, *cache._free_ids]) == list(range(self.limits.sequences))

    def _note_paused(self, waiting: list[Job]) -> None:
        for client in self.clients.values():
            client.paused |= client.job.sequence is None and client.job not in waiting

    def _check_plan(self, plan: Plan, waiting: list[Job]) -> None:
        assert bool(plan.chunks) == self.scheduler.busy, "a busy scheduler always has something to compute"
        assert sum(len(chunk.tokens) for chunk in plan.chunks) <= self.limits.batch
        assert len({chunk.sequence for chunk in plan.chunks}) == len(plan.chunks)
        for sequence in self.scheduler.cache.sequences.values():
            assert self.cells.tokens(sequence.id) == sequence.tokens
        first = min((job.priority for job in self.clients), default=0)
        assert all(chunk.job.priority == first for chunk in plan.chunks), "what is less urgent is paused"
        self._check_order(waiting)
        self._check_shares(plan)
        for job in waiting:
            if job.sequence is not None:
                self._check_admission(job)

    def _check_order(self, waiting: list[Job]) -> None:
        in_order = sorted(waiting, key=lambda job: (job.priority, job.order))
        admitted = [job.sequence is not None for job in in_order]
        assert admitted == sorted(admitted, reverse=True), "nobody overtakes"

    def _check_shares(self, plan: Plan) -> None:
        given = {chunk.job: len(chunk.tokens) for chunk in plan.chunks if chunk.branch is None}
        running = [job for job in self.clients if job.sequence]
        streams = [job for job in running if job.decoding]
        if streams and len(running) > 1:
            extra = sum(size - 1 if job.decoding else size for job, size in given.items())
            assert extra <= self.limits.beside(len(streams)), "streams wait too long"
        full = sum(len(chunk.tokens) for chunk in plan.chunks) == self.limits.batch
        for job in streams:
            assert full or job in given or job.computed == len(job.tokens), "a stream was passed over"

    def _check_admission(self, job: Job) -> None:
        assert job.sequence is not None
        assert self.cells.tokens(job.sequence.id) == job.tokens[: job.computed]
        assert 0 <= job.cached <= len(job.tokens) - 1

    def _abort(self, plan: Plan, after: int) -> None:
        """Some micro-batches stay in the cache when a decode is aborted, and a state may be half-way anywhere."""
        for chunk in plan.chunks:
            done, after = list(chunk.tokens[:after]), max(0, after - len(chunk.tokens))
            self.cells.write(chunk, done)
            if not after:
                break
        if self.limits.whole:
            for row in self.cells.rows.values():
                row[:] = [(cell, LOST) for cell, _ in row]
        self.scheduler.abandon(plan)

    def _receive(self, chunk: Chunk) -> None:
        client, end = self.clients[chunk.job], chunk.start + len(chunk.tokens)
        if chunk.branch is not None:
            self._receive_branch(client, chunk)
            return
        if not client.computed:
            assert chunk.start == chunk.job.cached
        assert chunk.tokens == chunk.job.tokens[chunk.start : end]
        assert self.cells.tokens(chunk.sequence) == chunk.job.tokens[:end]
        client.computed += len(chunk.tokens)
        client.rows_seen += range(end - chunk.rows, end)
        if end < len(chunk.job.tokens):
            assert not chunk.rows
        elif client.answer == 0:
            self._end_if_complete(client)
        else:
            assert chunk.rows == 1
            self._write(client, client.forced.randint(1, client.answer))

    def _receive_branch(self, client: Client, chunk: Chunk) -> None:
        job = client.job
        assert self.cells.tokens(chunk.sequence) == [*job.tokens, *chunk.tokens]
        assert chunk.branch is not None and chunk.tokens == job.branches[chunk.branch]
        assert chunk.rows == len(chunk.tokens)
        client.branches_seen.append(chunk.branch)
        self._end_if_complete(client)

    def _end_if_complete(self, client: Client) -> None:
        if len(client.branches_seen) == len(client.job.branches) and client.rows_seen:
            self._check_result(client)
            self.finish(client)

    def _write(self, client: Client, count: int) -> None:
        if client.rows_seen:
            self._check_rows(client)
        client.job.append(client.forced.randrange(3) for _ in range(count))
        client.answer -= count

    def _check_rows(self, client: Client) -> None:
        assert client.rows_seen == [len(client.job.tokens) - 1], "one row, of the last token"
        assert client.rows_seen[0] >= client.last_row
        client.last_row = client.rows_seen[0]
        client.rows_seen.clear()

    def _check_result(self, client: Client) -> None:
        self._check_rows(client)
        assert sorted(client.branches_seen) == list(range(len(client.job.branches)))
        needed = len(client.job.tokens) - client.job.cached
        assert client.paused or self.limits.whole or client.computed == needed


# ---- wild schedules

tokens = st.lists(st.integers(0, 1), min_size=1, max_size=14)
long_tokens = st.builds(lambda head, own: [*[1] * head, *own], st.integers(0, 24), tokens)
sizes = st.builds(
    lambda cells, parallel, spare, batch, beside, whole: limits(
        cells, parallel + spare, batch, parallel, min(beside, batch), whole=whole
    ),
    st.integers(4, 60), st.integers(1, 4), st.integers(1, 4), st.integers(2, 12), st.integers(1, 6), st.booleans(),
)  # fmt: skip


class Schedules(RuleBasedStateMachine):
    """Arrivals, ends, aborts and cancels in any order, in caches that are far too small."""

    @initialize(limits=sizes)
    def start(self, limits: Limits) -> None:
        self.simulation = Simulation(limits)

    @rule(
        prompt=st.one_of(tokens, long_tokens),
        room=st.integers(1, 20),
        forced=st.integers(0, 6),
        seed=st.integers(0, 99),
        late=st.booleans(),
        pin=st.integers(0, 20),
    )
    def ask(self, prompt: list[int], room: int, forced: int, seed: int, late: bool, pin: int) -> None:
        job = Job(prompt, room, priority=int(late), pin=min(pin, len(prompt) - 1))
        self.simulation.submit(job, answer=room - seed % room, forced=forced, seed=seed)

    @rule(prompt=tokens, branches=st.lists(tokens, max_size=5), late=st.booleans(), pin=st.integers(0, 6))
    def weigh(self, prompt: list[int], branches: list[list[int]], late: bool, pin: int) -> None:
        job = Job(prompt, 0, priority=int(late), branches=branches, pin=min(pin, len(prompt) - 1))
        self.simulation.submit(job)

    @precondition(lambda self: self.simulation.done)
    @rule(data=st.data(), more=tokens)
    def follow_up(self, data: st.DataObject, more: list[int]) -> None:
        before = data.draw(st.sampled_from(self.simulation.done))
        self.simulation.submit(Job([*before.job.tokens, *more], 3), answer=3)

    @rule(times=st.integers(1, 4))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.simulation.step()

    @rule(after=st.integers(0, 12))
    def abort(self, after: int) -> None:
        self.simulation.step(aborted_after=after)

    @precondition(lambda self: self.simulation.clients)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        self.simulation.finish(data.draw(st.sampled_from(list(self.simulation.clients.values()))))

    @rule()
    def clear(self) -> None:
        self.simulation.scheduler.clear()

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "simulation"):
            self.simulation.check()

    def teardown(self) -> None:
        if hasattr(self, "simulation"):
            self.simulation.end()
