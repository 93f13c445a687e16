"""Who runs next, over a simulated cache: wild schedules, and the single cases that explain them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import Client, Schedules, Simulation, limits

from engine.cache import Cut, Fork
from engine.errors import ContextOverflow, InvalidInput
from engine.scheduler import Job, Scheduler

ROOMY = limits(cells=1000, sequences=8, batch=100, parallel=4)

TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_long_conversations_in_a_small_cache(seed: int) -> None:
    chance = random.Random(seed)
    parallel = chance.randint(1, 5)
    cells, spare, batch = chance.randint(30, 120), chance.randint(1, 4), chance.randint(4, 20)
    whole = chance.random() < 0.3
    simulation = Simulation(limits(cells, parallel + spare, batch, parallel, 4, whole=whole))
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


def run(simulation: Simulation, prompt: list[int], *, room: int = 1, pin: int = 0) -> Client:
    client = simulation.submit(Job(prompt, room, pin=pin), answer=room)
    assert client is not None
    simulation.run_to_the_end()
    return client


def test_a_prompt_must_leave_room_for_one_token() -> None:
    scheduler = Scheduler(limits(8, 2, 8, 1, 4))
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
    simulation = Simulation(limits(cells=40, sequences=8, batch=40, parallel=2, beside=40))
    run(simulation, [1] * 10, room=0)
    run(simulation, [2] * 10, room=0)
    run(simulation, [1] * 10, room=0)  # used again: [2] is now the oldest
    run(simulation, [3] * 15, room=0)
    run(simulation, [4] * 15, room=0)
    assert run(simulation, [1] * 10, room=0).job.cached == 9
    assert run(simulation, [2] * 10, room=0).job.cached == 0


def test_reading_a_prefix_counts_as_use() -> None:
    simulation = Simulation(limits(cells=40, sequences=8, batch=40, parallel=2, beside=40))
    first = [*[1] * 10, *[2] * 5]
    run(simulation, first, room=0)
    run(simulation, [3] * 15, room=0)
    run(simulation, [*[1] * 10, *[4] * 5], room=0)  # of the first; the second is now the oldest
    run(simulation, [5] * 10, room=0)
    assert run(simulation, first, room=0).job.cached == 14
    assert run(simulation, [3] * 15, room=0).job.cached == 0


def test_writing_counts_as_use_until_it_ends() -> None:
    simulation = Simulation(limits(cells=40, sequences=8, batch=40, parallel=2, beside=40))
    long = simulation.submit(Job([1] * 10, 10), answer=10)
    assert long is not None
    simulation.step()
    run(simulation, [2] * 10, room=0)
    assert long not in simulation.clients.values()
    simulation.submit(Job([3] * 20, 0))
    simulation.run_to_the_end()
    assert run(simulation, [2] * 10, room=0).job.cached == 0


def test_what_a_new_job_reuses_is_not_evicted_for_it() -> None:
    simulation = Simulation(limits(cells=40, sequences=8, batch=40, parallel=2, beside=40))
    run(simulation, [1] * 20, room=0)  # the oldest, and the only one that helps
    run(simulation, [2] * 15, room=0)
    long = run(simulation, [*[1] * 20, *[5] * 18], room=0)
    assert long.job.cached == 20


def test_a_source_longer_than_needed_gives_its_tail_away_when_cells_are_short() -> None:
    simulation = Simulation(limits(cells=40, sequences=8, batch=40, parallel=2, beside=40))
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
    simulation = Simulation(limits(cells=200, sequences=3, batch=50, parallel=2))
    run(simulation, [1] * 20, room=0)
    run(simulation, [2] * 20, room=0)
    assert run(simulation, [*[1] * 10, 3], room=0).job.cached == 10
    simulation.end()


def test_without_a_free_sequence_an_idle_one_makes_way_for_a_fork_of_a_running_one() -> None:
    simulation = Simulation(limits(cells=200, sequences=3, batch=50, parallel=2))
    run(simulation, [2] * 20, room=0)
    run(simulation, [3] * 20, room=0)
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
    kinds = [[type(operation) for operation in plan.operations] for plan in (first, second, third)]
    assert kinds == [[Fork], [Cut], [Cut]]
    assert first.chunks == second.chunks == third.chunks
    assert forked is not None and forked.job.cached == 10
    simulation.end()


def test_a_job_that_ends_before_it_computed_anything_leaves_nothing() -> None:
    simulation = Simulation(ROOMY)
    client = simulation.submit(Job([1] * 5, 5), answer=5)
    assert client is not None
    simulation.step(aborted_after=3)
    simulation.finish(client)
    assert simulation.scheduler.cache.used == 0 and not simulation.scheduler.busy
    assert not simulation.scheduler.cache.sequences
    simulation.step()
    simulation.end()


def test_a_sequence_that_a_longer_one_repeats_is_dropped() -> None:
    simulation = Simulation(ROOMY)
    run(simulation, [1] * 20, room=0)
    run(simulation, [*[1] * 20, 2], room=0)
    assert len(simulation.scheduler.cache.sequences) == 1
    simulation.end()


def test_clear_tells_the_cache_again_what_is_empty() -> None:
    """After a failed step nobody knows which operations were carried out."""
    simulation = Simulation(ROOMY)
    run(simulation, [1] * 20, room=0)
    simulation.scheduler.clear()
    simulation.scheduler.plan()  # lost
    assert simulation.cells.used == 20
    simulation.scheduler.clear()
    for operation in simulation.scheduler.plan().operations:
        simulation.cells.apply(operation)
    assert simulation.cells.used == 0


def test_priority_goes_before_arrival() -> None:
    simulation = Simulation(limits(100, 4, 20, 1, 10))
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
    simulation = Simulation(limits(cells=200, sequences=5, batch=4, parallel=4, beside=4))
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


# ---- what comes together


def test_jobs_that_come_together_compute_what_they_share_once() -> None:
    simulation = Simulation(ROOMY)
    head = [7] * 60
    for i in range(4):
        simulation.submit(Job([*head, i, i, i], 2), answer=2)
    first, second = simulation.step(), simulation.step()
    assert [len(chunk.tokens) for chunk in first.chunks] == [60]
    assert [len(chunk.tokens) for chunk in second.chunks] == [3, 3, 3, 3]
    simulation.end()
    assert sorted(client.job.cached for client in simulation.done) == [0, 60, 60, 60]


def test_a_short_shared_beginning_is_not_waited_for() -> None:
    simulation = Simulation(ROOMY)
    for i in range(3):
        simulation.submit(Job([*[7] * 5, *[i] * 20], 1), answer=1)
    assert len(simulation.step().chunks) == 3
    simulation.end()


def test_who_waited_for_a_job_that_was_given_up_computes_it_himself() -> None:
    simulation = Simulation(ROOMY)
    clients = [simulation.submit(Job([*[7] * 300, i], 1), answer=1) for i in range(2)]
    simulation.step()
    assert clients[0] and clients[1] and clients[1].job.sequence is None
    simulation.finish(clients[0])
    simulation.end()
    assert clients[1].job.cached == 100


# ---- background


def test_chat_pauses_background_work_and_loses_none_of_it() -> None:
    simulation = Simulation(ROOMY)
    background = simulation.submit(Job([1] * 30, 20, priority=1), answer=20)
    simulation.step()
    chat = simulation.submit(Job([2] * 30, 5), answer=5)
    assert background and chat
    while chat.job in simulation.clients:
        assert [chunk.job for chunk in simulation.step().chunks] == [chat.job]
    plan = simulation.step()
    assert [(chunk.job, chunk.start) for chunk in plan.chunks] == [(background.job, 30)], "it goes on where it was"
    simulation.end()
    assert background.job.cached == 0


def test_a_paused_job_makes_way_for_chat_and_computes_again_what_that_took() -> None:
    simulation = Simulation(limits(cells=60, sequences=4, batch=60, parallel=2))
    background = simulation.submit(Job([1] * 30, 10, priority=1), answer=10)
    simulation.step()
    chat = simulation.submit(Job([2] * 45, 5), answer=5)
    assert background and chat and simulation.step().chunks[0].job is chat.job
    simulation.end()
    assert simulation.done == [chat, background]


# ---- pins


def test_a_pinned_instruction_outlives_what_came_later() -> None:
    simulation = Simulation(limits(cells=90, sequences=8, batch=90, parallel=2))
    run(simulation, [1] * 20 + [2] * 5, room=0, pin=20)
    for i in range(3, 9):
        run(simulation, [i] * 40, room=0)
    assert run(simulation, [1] * 20 + [9], room=0, pin=20).job.cached == 20
    assert run(simulation, [8] * 10, room=0).job.cached == 9, "what was not pinned is there, too, while there is space"


def test_a_pinned_instruction_is_dropped_where_a_job_needs_its_cells() -> None:
    simulation = Simulation(limits(cells=90, sequences=8, batch=90, parallel=2))
    run(simulation, [1] * 20 + [2] * 5, room=0, pin=20)
    assert run(simulation, [3] * 85, room=0).job.cached == 0
    assert run(simulation, [1] * 20 + [2] * 5, room=0).job.cached == 0
    simulation.end()


def test_pins_hold_a_third_of_the_cells_at_most() -> None:
    simulation = Simulation(limits(cells=90, sequences=12, batch=90, parallel=2))
    for i in range(4):
        run(simulation, [i] * 20 + [9], room=0, pin=20)
    pinned = [s.tokens[0] for s in simulation.scheduler.cache.sequences.values() if s.pinned]
    assert pinned == [3]
    run(simulation, [5] * 40, room=0, pin=31)
    assert [s.tokens[0] for s in simulation.scheduler.cache.sequences.values() if s.pinned] == [3]
    simulation.end()


def test_an_instruction_from_disk_is_a_pin() -> None:
    simulation = Simulation(limits(cells=90, sequences=4, batch=90, parallel=2))
    cache = simulation.scheduler.cache
    number = cache.adopt([1] * 20)
    assert number is not None and cache.adopt([2] * 31) is None
    simulation.cells.rows[number] = [(-i, 1) for i in range(1, 21)]
    assert run(simulation, [1] * 20 + [2], room=0, pin=20).job.cached == 20
    assert cache.sequences[number].pinned
    cache.release(number)
    simulation.end()


# ---- branches


def test_branches_run_in_the_batch_that_ends_their_prompt() -> None:
    simulation = Simulation(ROOMY)
    simulation.submit(Job([1] * 120, 0, branches=[[2, 3], [2], [4] * 5]))
    assert [len(chunk.tokens) for chunk in simulation.step().chunks] == [100]
    prompt, *branches = simulation.step().chunks
    assert (len(prompt.tokens), prompt.rows, len(prompt.also)) == (20, 1, 3)
    assert [(chunk.start, chunk.rows) for chunk in branches] == [(120, 2), (120, 1), (120, 5)]
    assert not simulation.scheduler.busy
    simulation.end()


def test_more_branches_than_sequences_take_turns() -> None:
    simulation = Simulation(limits(cells=200, sequences=4, batch=50, parallel=2))
    client = simulation.submit(Job([1] * 5, 0, branches=[[i, i] for i in range(8)]))
    steps = 0
    while simulation.scheduler.busy:
        simulation.step()
        steps += 1
    assert client in simulation.done and steps == 3
    simulation.end()


def test_a_branch_longer_than_a_batch_is_refused() -> None:
    scheduler = Scheduler(limits(200, 4, 10, 2))
    with pytest.raises(ContextOverflow):
        scheduler.submit(Job([1], 0, branches=[[2] * 10]))
    assert not scheduler.busy


# ---- models that cannot be cut


def test_a_state_is_continued_or_copied_and_never_cut() -> None:
    simulation = Simulation(limits(1000, 8, 100, 4, whole=True))
    first = run(simulation, [1] * 30, room=5, pin=20)
    follow_up = run(simulation, [*first.job.tokens, 2, 2], room=2)
    other = run(simulation, [1] * 20 + [3] * 5, room=2, pin=20)
    near = run(simulation, [1] * 19 + [4], room=2)
    assert follow_up.job.cached == len(first.job.tokens)
    assert (other.job.cached, near.job.cached) == (20, 0)
    simulation.end()


def test_a_state_that_was_written_to_in_part_is_computed_again() -> None:
    simulation = Simulation(limits(1000, 8, 100, 4, whole=True))
    client = simulation.submit(Job([1] * 30, 5), answer=5)
    simulation.step()
    simulation.step(aborted_after=0)
    assert client and simulation.step().chunks[0].start == 0
    simulation.end()
