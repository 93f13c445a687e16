"""The scheduler against a simulated llama.cpp cache: whatever happens, what it believes is what the cache holds."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.errors import ContextOverflow, InvalidInput
from engine.scheduler import Chunk, Cut, Fork, Job, Limits, Plan, Scheduler

ROOMY = Limits(cells=1000, sequences=8, batch=100, parallel=4, prefill_beside=10)


class Cache:
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

    def apply(self, operation: Fork | Cut) -> None:
        if isinstance(operation, Cut):
            del self.rows[operation.sequence][operation.start :]
            return
        assert not self.rows[operation.target], "seq_cp into a sequence that holds something mixes the two"
        assert len(self.rows[operation.source]) >= operation.length > 0
        self.rows[operation.target] = self.rows[operation.source][: operation.length]

    def write(self, sequence: int, start: int, tokens: list[int]) -> None:
        assert len(self.rows[sequence]) == start, "positions must follow each other"
        for token in tokens:
            self._made += 1
            self.rows[sequence].append((self._made, token))
        assert self.used <= self._limits.cells


@dataclass(eq=False)
class Client:
    """A job, what it will ask for, and what it was given."""

    job: Job
    forced: random.Random
    answer: int  # tokens it will write at most
    rows_seen: list[int] = field(default_factory=list)
    first_start: int | None = None
    computed: int = 0
    last_row: int = 0


class Simulation:
    """A caller of the scheduler that checks everything it is told."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.scheduler, self.cache = limits, Scheduler(limits), Cache(limits)
        self.clients: dict[Job, Client] = {}
        self.done: list[Client] = []

    def submit(self, job: Job, *, answer: int = 0, forced: int = 0, seed: int = 0) -> Client | None:
        needed = len(job.tokens) + min(job.room, 1)
        if needed > self.limits.cells:
            with pytest.raises(ContextOverflow) as caught:
                self.scheduler.submit(job)
            assert (caught.value.tokens, caught.value.limit) == (len(job.tokens), self.limits.cells)
            return None
        self.scheduler.submit(job)
        assert len(job.tokens) + job.room <= self.limits.cells
        client = Client(job, random.Random(seed), min(answer, job.room))
        self.clients[job] = client
        self._write(client, min(forced, client.answer))  # what a schema forces before the prompt is computed
        return client

    def step(self, *, aborted_after: int | None = None) -> Plan:
        waiting = [client.job for client in self.clients.values() if client.job.sequence is None]
        plan = self.scheduler.plan()
        for operation in plan.operations:
            self.cache.apply(operation)
        self._check_plan(plan, waiting)
        if aborted_after is not None:
            self._abort(plan, aborted_after)
            return plan
        for chunk in plan.chunks:
            self.cache.write(chunk.sequence, chunk.start, list(chunk.tokens))
        self.scheduler.commit(plan)
        for chunk in plan.chunks:
            self._receive(chunk)
        return plan

    def finish(self, client: Client) -> None:
        self.scheduler.finish(client.job)
        self.scheduler.finish(client.job)  # ending twice is harmless
        self.done.append(self.clients.pop(client.job))

    def run_to_the_end(self) -> None:
        left = sum(len(c.job.tokens) + c.job.room for c in self.clients.values())
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
            self.cache.apply(operation)
        assert self.scheduler.used_cells == self.cache.used == 0
        assert not any(self.scheduler._references)
        assert sorted(self.scheduler._free_ids) == list(range(self.limits.sequences))
        assert sorted(self.scheduler._free_cells) == list(range(self.limits.cells))

    def check(self) -> None:
        """What is always true, between any two calls."""
        scheduler = self.scheduler
        running = [job.sequence.id for job in self.clients if job.sequence]
        assert len(set(running)) == len(running) <= self.limits.parallel
        held = [cell for s in scheduler._sequences.values() for cell in s.cells]
        assert len(set(held)) == scheduler.used_cells
        assert [held.count(cell) for cell in range(self.limits.cells)] == scheduler._references
        assert sorted([*scheduler._sequences, *scheduler._free_ids]) == list(range(self.limits.sequences))

    def _check_plan(self, plan: Plan, waiting: list[Job]) -> None:
        assert bool(plan.chunks) == self.scheduler.busy, "a busy scheduler always has something to compute"
        assert sum(len(chunk.tokens) for chunk in plan.chunks) <= self.limits.batch
        assert len({chunk.sequence for chunk in plan.chunks}) == len(plan.chunks)
        for sequence in self.scheduler._sequences.values():
            assert self.cache.tokens(sequence.id) == sequence.tokens
        assert self.cache.used == self.scheduler.used_cells
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
        given = {chunk.job: len(chunk.tokens) for chunk in plan.chunks}
        streams = [job for job in self.clients if job.sequence and job.decoding]
        beside = sum(size for job, size in given.items() if not job.decoding)
        if streams:
            assert beside <= self.limits.prefill_beside
        for job in streams:
            waits_whole = given.get(job, 0) == len(job.tokens) - job.computed
            assert waits_whole or sum(given.values()) - beside == self.limits.batch

    def _check_admission(self, job: Job) -> None:
        assert job.sequence is not None
        assert self.cache.tokens(job.sequence.id) == job.tokens[: job.cached]
        assert 0 <= job.cached <= len(job.tokens) - job.rows

    def _abort(self, plan: Plan, after: int) -> None:
        """Some micro-batches stay in the cache when a decode is aborted; the caller cuts them off."""
        for chunk in plan.chunks:
            done, after = list(chunk.tokens[:after]), max(0, after - len(chunk.tokens))
            self.cache.write(chunk.sequence, chunk.start, done)
        for chunk in plan.chunks:
            self.cache.apply(Cut(chunk.sequence, chunk.start))

    def _receive(self, chunk: Chunk) -> None:
        client, end = self.clients[chunk.job], chunk.start + len(chunk.tokens)
        if client.first_start is None:
            client.first_start = chunk.start
            assert chunk.start == chunk.job.cached
        assert chunk.tokens == chunk.job.tokens[chunk.start : end]
        assert self.cache.tokens(chunk.sequence) == chunk.job.tokens[:end]
        client.computed += len(chunk.tokens)
        client.rows_seen += range(end - chunk.rows, end)
        if end < len(chunk.job.tokens):
            return
        assert chunk.rows
        if client.answer == 0:
            self._check_result(client)
            self.finish(client)
        else:
            self._write(client, client.forced.randint(1, client.answer))

    def _write(self, client: Client, count: int) -> None:
        if client.rows_seen:
            self._check_rows(client)
        client.job.append(client.forced.randrange(3) for _ in range(count))
        client.answer -= count

    def _check_rows(self, client: Client) -> None:
        job = client.job
        assert client.rows_seen == list(range(len(job.tokens) - len(client.rows_seen), len(job.tokens)))
        assert len(client.rows_seen) == (1 if len(job.tokens) - 1 > client.last_row > 0 else job.rows)
        client.last_row = client.rows_seen[-1]
        client.rows_seen.clear()

    def _check_result(self, client: Client) -> None:
        self._check_rows(client)
        assert client.computed == len(client.job.tokens) - client.job.cached


# ---- wild schedules

tokens = st.lists(st.integers(0, 1), min_size=1, max_size=14)
sizes = st.builds(
    lambda cells, parallel, spare, batch, beside: Limits(cells, parallel + spare, batch, parallel, min(beside, batch)),
    st.integers(4, 40), st.integers(1, 4), st.integers(0, 3), st.integers(1, 12), st.integers(1, 6),
)  # fmt: skip


class Schedules(RuleBasedStateMachine):
    """Arrivals, ends, aborts and cancels in any order, in caches that are far too small."""

    @initialize(limits=sizes)
    def start(self, limits: Limits) -> None:
        self.simulation = Simulation(limits)

    @rule(prompt=tokens, room=st.integers(1, 20), forced=st.integers(0, 6), seed=st.integers(0, 99), late=st.booleans())
    def ask(self, prompt: list[int], room: int, forced: int, seed: int, late: bool) -> None:
        job = Job(prompt, room, priority=int(late))
        self.simulation.submit(job, answer=room - seed % room, forced=forced, seed=seed)

    @rule(prompt=tokens, room=st.sampled_from([0, 0, 3]), data=st.data())
    def weigh(self, prompt: list[int], room: int, data: st.DataObject) -> None:
        rows = data.draw(st.integers(1, len(prompt)))
        self.simulation.submit(Job(prompt, room, rows=rows), answer=room)

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


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(deadline=None, max_examples=120, stateful_step_count=40)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_long_conversations_in_a_small_cache(seed: int) -> None:
    chance = random.Random(seed)
    parallel = chance.randint(1, 5)
    limits = Limits(chance.randint(30, 120), parallel + chance.randint(0, 4), chance.randint(4, 20), parallel, 4)
    simulation = Simulation(limits)
    heads = [[chance.randrange(3) for _ in range(chance.randint(1, 20))] for _ in range(3)]
    for _ in range(120):
        what = chance.random()
        if what < 0.3:
            prompt = chance.choice(heads)[: chance.randint(1, 20)] + [chance.randrange(3)] * chance.randint(0, 6)
            room = chance.randint(1, 15)
            simulation.submit(Job(prompt, room), answer=chance.randint(1, room), seed=chance.randrange(99))
        elif what < 0.36 and simulation.clients:
            simulation.finish(chance.choice(list(simulation.clients.values())))
        else:
            simulation.step(aborted_after=chance.randrange(20) if what > 0.9 else None)
    simulation.end()


# ---- single cases


def run(simulation: Simulation, prompt: list[int], *, room: int = 1, rows: int = 1) -> Client:
    client = simulation.submit(Job(prompt, room, rows=rows), answer=room)
    assert client is not None
    simulation.run_to_the_end()
    return client


def test_a_prompt_must_leave_room_for_one_token() -> None:
    scheduler = Scheduler(Limits(8, 2, 8, 1, 4))
    with pytest.raises(ContextOverflow) as caught:
        scheduler.submit(Job([0] * 8, 1))
    assert (caught.value.tokens, caught.value.limit) == (8, 8)
    assert not scheduler.busy
    fits = Job([0] * 7, 100)
    scheduler.submit(fits)
    assert fits.room == 1
    scheduler.submit(Job([0] * 8, 0))


def test_a_job_without_tokens_is_refused() -> None:
    scheduler = Scheduler(ROOMY)
    with pytest.raises(InvalidInput):
        scheduler.submit(Job([], 5))
    assert not scheduler.busy


def test_what_was_computed_is_not_computed_again() -> None:
    simulation = Simulation(ROOMY)
    first = run(simulation, list(range(50)), room=5)
    again = run(simulation, list(range(50)), room=5)
    longer = run(simulation, [*first.job.tokens, 7, 8, 9])
    assert (first.job.cached, again.job.cached) == (0, 49)
    assert longer.job.cached == len(first.job.tokens)


def test_positions_whose_logits_are_wanted_are_computed_again() -> None:
    simulation = Simulation(ROOMY)
    run(simulation, list(range(50)))
    assert run(simulation, list(range(50)), rows=10, room=0).job.cached == 40


def test_a_running_prompt_is_shared_before_it_ends() -> None:
    simulation = Simulation(ROOMY)
    simulation.submit(Job(list(range(60)), 20), answer=20)
    simulation.step()
    twin = simulation.submit(Job(list(range(60)), 20), answer=20)
    plan = simulation.step()
    assert twin is not None and twin.job.cached == 59
    assert [type(operation) for operation in plan.operations] == [Fork]
    simulation.end()


def test_the_oldest_idle_sequence_goes_first() -> None:
    simulation = Simulation(Limits(cells=40, sequences=8, batch=40, parallel=2, prefill_beside=40))
    run(simulation, [1] * 10, room=0)
    run(simulation, [2] * 10, room=0)
    run(simulation, [1] * 10, room=0)  # used again: [2] is now the oldest
    run(simulation, [3] * 15, room=0)
    run(simulation, [4] * 15, room=0)
    assert run(simulation, [1] * 10, room=0).job.cached == 9
    assert run(simulation, [2] * 10, room=0).job.cached == 0


def test_reading_a_prefix_counts_as_use() -> None:
    simulation = Simulation(Limits(cells=40, sequences=8, batch=40, parallel=2, prefill_beside=40))
    first = [*[1] * 10, *[2] * 5]
    run(simulation, first, room=0)
    run(simulation, [3] * 15, room=0)
    run(simulation, [*[1] * 10, *[4] * 5], room=0)  # of the first; the second is now the oldest
    run(simulation, [5] * 10, room=0)
    assert run(simulation, first, room=0).job.cached == 14
    assert run(simulation, [3] * 15, room=0).job.cached == 0


def test_writing_counts_as_use_until_it_ends() -> None:
    simulation = Simulation(Limits(cells=40, sequences=8, batch=40, parallel=2, prefill_beside=40))
    long = simulation.submit(Job([1] * 10, 10), answer=10)
    assert long is not None
    simulation.step()
    run(simulation, [2] * 10, room=0)
    assert long not in simulation.clients.values()
    simulation.submit(Job([3] * 20, 0))
    simulation.run_to_the_end()
    assert run(simulation, [2] * 10, room=0).job.cached == 0


def test_what_a_new_job_reuses_is_not_evicted_for_it() -> None:
    simulation = Simulation(Limits(cells=40, sequences=8, batch=40, parallel=2, prefill_beside=40))
    run(simulation, [1] * 20, room=0)  # the oldest, and the only one that helps
    run(simulation, [2] * 15, room=0)
    long = run(simulation, [*[1] * 20, *[5] * 18], room=0)
    assert long.job.cached == 20


def test_a_source_longer_than_needed_gives_its_tail_away_when_cells_are_short() -> None:
    simulation = Simulation(Limits(cells=40, sequences=8, batch=40, parallel=2, prefill_beside=40))
    run(simulation, [*[1] * 10, *[2] * 25], room=0)
    other = run(simulation, [*[1] * 10, *[3] * 28], room=0)
    assert other.job.cached == 10
    simulation.end()


def test_a_source_keeps_its_tail_while_there_is_space() -> None:
    simulation = Simulation(ROOMY)
    run(simulation, [*[1] * 10, *[2] * 10], room=0)
    assert run(simulation, [*[1] * 10, *[3] * 10], room=0).job.cached == 10
    assert run(simulation, [*[1] * 10, *[2] * 10], room=0).job.cached == 19
    simulation.end()


def test_a_conversation_goes_on_in_its_own_sequence() -> None:
    simulation = Simulation(ROOMY)
    first = run(simulation, [1] * 10, room=5)
    simulation.submit(Job([*first.job.tokens, 2, 2], 5), answer=5)
    assert simulation.step().operations == []
    simulation.end()


def test_without_a_free_sequence_an_idle_one_is_taken_over() -> None:
    simulation = Simulation(Limits(cells=200, sequences=2, batch=50, parallel=2, prefill_beside=10))
    run(simulation, [1] * 20, room=0)
    run(simulation, [2] * 20, room=0)
    assert run(simulation, [*[1] * 10, 3], room=0).job.cached == 10
    simulation.end()


def test_without_a_free_sequence_an_idle_one_makes_way_for_a_fork_of_a_running_one() -> None:
    simulation = Simulation(Limits(cells=200, sequences=2, batch=50, parallel=2, prefill_beside=10))
    run(simulation, [2] * 20, room=0)
    simulation.submit(Job([1] * 20, 30), answer=30)
    simulation.step()
    second = simulation.submit(Job([1] * 20, 5), answer=5)
    plan = simulation.step()
    assert second is not None and second.job.cached == 19
    assert [type(operation) for operation in plan.operations] == [Cut, Fork]
    simulation.end()


def test_two_jobs_of_one_plan_share_one_source() -> None:
    simulation = Simulation(ROOMY)
    run(simulation, [1] * 20, room=0)
    clients = [simulation.submit(Job([*[1] * 20, i, i], 2), answer=2) for i in (5, 6)]
    simulation.step()
    assert [client.job.cached for client in clients if client] == [20, 20]
    simulation.end()


def test_an_aborted_plan_loses_no_operation_and_repeats_none() -> None:
    simulation = Simulation(ROOMY)
    run(simulation, [1] * 20, room=0)
    forked = simulation.submit(Job([*[1] * 10, 2, 2], 2), answer=2)
    first = simulation.step(aborted_after=1)
    second = simulation.step(aborted_after=0)
    third = simulation.step()
    assert [len(plan.operations) for plan in (first, second, third)] == [1, 0, 0]
    assert first.chunks == second.chunks == third.chunks
    assert forked is not None and forked.job.cached == 10
    simulation.end()


def test_a_job_that_ends_before_it_computed_anything_leaves_nothing() -> None:
    simulation = Simulation(ROOMY)
    client = simulation.submit(Job([1] * 5, 5), answer=5)
    assert client is not None
    simulation.step(aborted_after=3)
    simulation.finish(client)
    assert simulation.scheduler.used_cells == 0 and not simulation.scheduler.busy
    assert not simulation.scheduler._sequences
    simulation.step()
    simulation.end()


def test_a_sequence_that_a_longer_one_repeats_is_dropped() -> None:
    simulation = Simulation(ROOMY)
    run(simulation, [1] * 20, room=0)
    run(simulation, [*[1] * 20, 2], room=0)
    assert len(simulation.scheduler._sequences) == 1
    simulation.end()


def test_clear_tells_the_cache_again_what_is_empty() -> None:
    """After a failed step nobody knows which operations were carried out."""
    simulation = Simulation(ROOMY)
    run(simulation, [1] * 20, room=0)
    simulation.scheduler.clear()
    simulation.scheduler.plan()  # lost
    assert simulation.cache.used == 20
    simulation.scheduler.clear()
    for operation in simulation.scheduler.plan().operations:
        simulation.cache.apply(operation)
    assert simulation.cache.used == 0


def test_priority_goes_before_arrival() -> None:
    simulation = Simulation(Limits(100, 4, 20, 1, 10))
    jobs = [Job([i] * 5, 1, priority=priority) for i, priority in enumerate((1, 1, 0))]
    clients = [simulation.submit(job, answer=1) for job in jobs]
    simulation.run_to_the_end()
    assert simulation.done == [clients[2], clients[0], clients[1]]


def test_a_stream_is_served_in_every_step_beside_a_long_prompt() -> None:
    simulation = Simulation(ROOMY)
    stream = simulation.submit(Job([1] * 3, 30), answer=30, seed=1)
    assert stream is not None
    simulation.step()
    simulation.submit(Job([2] * 300, 1), answer=1)
    while stream.job in simulation.clients:
        assert stream.job in [chunk.job for chunk in simulation.step().chunks]
    simulation.end()


def test_streams_take_turns_where_forced_runs_fill_the_batch() -> None:
    simulation = Simulation(Limits(cells=200, sequences=4, batch=4, parallel=4, prefill_beside=4))
    for i in range(4):
        simulation.submit(Job([i], 40), answer=40, seed=i)
    waited = dict.fromkeys(simulation.clients, 0)
    while simulation.clients:
        served = {chunk.job for chunk in simulation.step().chunks}
        waited = {job: 0 if job in served else waited[job] + 1 for job in simulation.clients}
        assert max(waited.values(), default=0) < 4
    simulation.end()


def test_a_job_that_outgrows_its_reservation_is_a_bug() -> None:
    job = Job([1], 2)
    job.append([1, 1])
    with pytest.raises(AssertionError):
        job.append([1])
