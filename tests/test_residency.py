"""Who is in memory, who leaves and who waits: the scheduler's cases with fake loads and a fake clock, no thread.

The cases of Ollama's scheduler are here by what they are about (same model again, changed options, eviction order,
reference counts, expiry while busy, already cancelled, load failure → evict all → retry once → fail fast), and those
that one budget and one waiting line bring. Sizes are small numbers; the budget is 16.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from house import MACHINE, House, granted, refusal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine.errors import EngineClosed, ModelCorrupt, OutOfBudget
from engine.residency import LOOK, Lease, Option, Want

# ---- the same model, and others beside it


def test_the_first_use_loads_and_the_second_shares() -> None:
    house = House()
    first = house.lease("chat", 5)
    assert not first.future.done()
    house.load("chat").made()
    second = house.lease("chat", 5)
    assert granted(first) and granted(second)
    assert house.started == ["chat"]
    assert house.budget.held == 5


def test_first_uses_at_once_load_once() -> None:
    house = House()
    leases = [house.lease("chat", 5) for _ in range(4)]
    assert house.started == ["chat"]
    assert house.budget.held == 5
    house.load("chat").made()
    assert all(granted(lease) for lease in leases)


def test_models_that_fit_together_stay_together() -> None:
    house = House()
    for name, size in (("chat", 8), ("embedding", 3), ("classification", 5)):
        house.loaded(name, size)
    assert house.names() == {"chat", "embedding", "classification"}
    assert house.evicted == []


def test_loads_of_two_models_may_be_under_way_together() -> None:
    house = House()
    first, second = house.lease("chat", 8), house.lease("embedding", 8)
    assert house.started == ["chat", "embedding"]
    house.load("embedding").made()
    assert granted(second) and not granted(first)
    house.load("chat").made()
    assert granted(first)


def test_changed_options_are_for_the_next_load() -> None:
    """A model that is in memory is used as it is; who wants other options has them once it has left."""
    house = House()
    house.loaded("chat", 5)
    again = house.lease("chat", 9)
    assert granted(again) and house.budget.held == 5
    house.release(again)
    house.drop("chat")
    house.lease("chat", 9)
    assert house.load("chat").option.bytes == 9


def test_another_file_of_the_same_name_is_another_model() -> None:
    house = House()
    one, other = house.want("a", 5), house.want("b", 5)
    house.ask(Want("a", "chat", one.options, one.start))
    house.ask(Want("b", "chat", other.options, other.start))
    assert house.started == ["a", "b"]
    assert [part.name for part in house.budget.parts()] == ["chat"]


# ---- eviction


def test_idle_models_leave_least_recently_used_first_and_only_as_many_as_needed() -> None:
    house = House()
    for used, name in enumerate(("old", "older", "new", "newest")):
        house.loaded(name, 4, used=(2, 1, 3, 4)[used])
    lease = house.lease("chat", 7)
    assert house.evicted == ["older", "old"]
    house.load("chat").made()
    assert granted(lease)


def test_what_was_used_again_is_not_the_oldest_any_more() -> None:
    house = House()
    house.loaded("a", 8, used=1)
    house.loaded("b", 8, used=2)
    house.now = 3
    house.release(house.lease("a", 8))
    house.lease("c", 8)
    assert house.evicted == ["b"]


def test_a_small_old_model_stays_where_its_room_would_not_be_needed() -> None:
    house = House()
    house.loaded("small", 2, used=1)
    house.loaded("large", 12, used=2)
    house.lease("chat", 12)
    assert house.evicted == ["large"]
    assert house.names() == {"small"}


def test_nothing_leaves_where_there_is_room() -> None:
    house = House()
    house.loaded("a", 8)
    house.lease("b", 8)
    assert house.evicted == []


def test_idle_models_leave_before_anybody_is_waited_for() -> None:
    house = House()
    using = house.lease("used", 8)
    house.load("used").made()
    house.now = 5
    house.loaded("idle", 8)  # used later, and yet it goes
    house.lease("chat", 8)
    assert house.evicted == ["idle"]
    assert granted(using)


def test_a_model_is_evicted_on_the_compute_thread_only() -> None:
    house = House()
    house.loaded("a", 10)
    lease = house.residency.lease(house.want("b", 10))
    assert house.evicted == [] and house.woken
    house.run()
    assert house.evicted == ["a"] and house.started == ["a", "b"]
    house.residency.release(lease)


# ---- reference counts


def test_a_leased_model_never_leaves() -> None:
    house = House(keep_alive=10)
    first = house.lease("a", 10)
    house.load("a").made()
    second = house.lease("a", 10)
    waits = house.lease("b", 10)
    house.release(first)
    house.sleep(100)
    assert house.names() == {"a"}  # the second has it still
    house.release(second)
    assert house.evicted == ["a"]
    house.load("b").made()
    assert granted(waits)


def test_a_busy_model_never_leaves() -> None:
    house = House(keep_alive=10)
    lease = house.lease("a", 10)
    house.load("a").made()
    house.busy.add("a")
    house.release(lease)  # as a stream does once it has begun
    waits = house.lease("b", 10)
    house.sleep(100)
    assert house.names() == {"a"} and not waits.future.done()
    house.answered()
    house.sleep(LOOK)
    assert house.evicted == ["a"]
    house.load("b").made()
    assert granted(waits)


def test_releasing_twice_counts_once() -> None:
    house = House()
    first, second = house.lease("a", 10), house.lease("a", 10)
    house.load("a").made()
    house.release(first)
    house.residency.release(first)
    house.lease("b", 10)
    assert house.evicted == []
    house.release(second)
    assert house.evicted == ["a"]


def test_a_release_that_comes_after_an_unload_and_a_new_load_does_not_count_for_the_new_one() -> None:
    house = House()
    old = house.lease("a", 10)
    house.load("a").made()
    house.drop("a")
    house.lease("a", 10)
    house.load("a").made()
    house.release(old)
    house.lease("b", 10)
    assert house.evicted == ["a"]  # unloaded by name, once
    assert house.names() == {"a"}


# ---- keep_alive


def test_an_idle_model_leaves_after_keep_alive() -> None:
    house = House(keep_alive=10)
    house.loaded("a", 5)
    house.sleep(9.9)
    assert house.names() == {"a"}
    house.sleep(0.2)
    assert house.evicted == ["a"]
    assert house.budget.held == 0


def test_keep_alive_counts_from_the_end_of_the_last_use() -> None:
    house = House(keep_alive=10)
    lease = house.lease("a", 5)
    house.load("a").made()
    house.sleep(25)
    house.release(lease)
    house.sleep(9.9)
    assert house.names() == {"a"}
    house.sleep(0.2)
    assert house.evicted == ["a"]


def test_keep_alive_counts_from_the_end_of_the_last_answer() -> None:
    house = House(keep_alive=10)
    lease = house.lease("a", 5)
    house.load("a").made()
    house.busy.add("a")
    house.release(lease)
    house.sleep(25)
    house.answered()
    house.sleep(8)
    assert house.names() == {"a"}
    house.sleep(3)
    assert house.evicted == ["a"]


def test_a_lease_that_ends_long_after_the_thread_went_to_sleep_wakes_it() -> None:
    """The thread is told to look again, or else it would sleep until the next job and the model stay."""
    house = House(keep_alive=10)
    lease = house.lease("a", 5)
    house.load("a").made()
    house.tend()
    house.residency.release(lease)
    house.leases.clear()
    house.sleep(10.1)
    assert house.evicted == ["a"]


def test_keep_alive_of_zero_unloads_at_once() -> None:
    house = House(keep_alive=0)
    lease = house.lease("a", 5)
    house.load("a").made()
    assert house.names() == {"a"}
    house.release(lease)
    assert house.evicted == ["a"]


def test_keep_alive_for_ever_keeps() -> None:
    house = House(keep_alive=math.inf)
    house.loaded("a", 5)
    house.sleep(1e9)
    assert house.names() == {"a"}
    assert house.residency.tend() is None
    house.lease("b", 15)
    assert house.evicted == ["a"]  # but not against who needs the room


def test_the_thread_is_never_told_to_sleep_longer_than_a_system_can() -> None:
    house = House(keep_alive=1e12)
    house.loaded("a", 5)
    pause = house.residency.tend()
    assert pause is not None and pause <= 4_294_967  # what Windows waits at most


# ---- already cancelled, and given up


def test_who_has_cancelled_before_is_not_granted_anything() -> None:
    house = House()
    house.loaded("a", 16)
    lease = house.residency.lease(house.want("b", 16))  # waits for the compute thread
    house.residency.release(lease)
    house.run()
    assert lease.future.cancelled()
    assert house.names() == {"a"} and house.started == ["a"]


def test_who_waits_for_room_may_give_up_and_the_next_one_is_served() -> None:
    house = House()
    using = house.lease("a", 10)
    house.load("a").made()
    first, second, third = house.lease("b", 12), house.lease("c", 5), house.lease("a", 10)
    assert not granted(second) and not granted(third)
    house.release(first)
    assert first.future.cancelled()
    assert granted(third) and house.started == ["a", "c"]
    assert granted(using)


def test_a_load_that_nobody_waits_for_is_given_up_and_its_bytes_come_back_when_it_has_ended() -> None:
    house = House(others=MACHINE - 16)
    lease = house.lease("a", 10)
    load = house.load("a")
    house.release(lease)
    assert load.given_up and house.budget.held == 10
    waits = house.lease("b", 10)
    assert house.started == ["a"]
    house.sleep(5)
    assert not waits.future.done()  # nor is it told that the machine is full: that load counts twice
    load.failed(RuntimeError("given up"))
    assert house.started == ["a", "b"] and house.budget.held == 10


def test_a_load_goes_on_while_anybody_waits_for_it() -> None:
    house = House()
    first, second = house.lease("a", 10), house.lease("a", 10)
    house.release(first)
    assert not house.load("a").given_up
    house.load("a").made()
    assert granted(second)


def test_a_load_that_was_given_up_too_late_is_not_adopted() -> None:
    house = House()
    lease = house.lease("a", 10)
    load = house.load("a")
    house.release(lease)
    assert load.made() is False
    assert house.budget.held == 0 and house.names() == set()


def test_who_asks_again_for_what_was_just_given_up_has_a_load_of_their_own() -> None:
    house = House()
    house.release(house.lease("a", 5))
    (old,) = house.loads
    lease = house.lease("a", 5)
    assert house.budget.held == 10
    new = house.load("a")
    assert old.made() is False  # and the new one is not confused with it
    assert not lease.future.done()
    new.made()
    assert granted(lease) and house.budget.held == 5


def test_what_becomes_of_a_load_that_was_given_up_is_not_taken_for_the_next_one() -> None:
    house = House()
    house.release(house.lease("a", 5))
    (old,) = house.loads
    lease = house.lease("a", 5)
    old.failed(ModelCorrupt("of the old one", path=""))
    assert not lease.future.done()
    house.load("a").made()
    assert granted(lease)


# ---- a load that fails


def test_a_load_that_fails_tells_everybody_who_waits_and_is_not_repeated() -> None:
    house = House()
    leases = [house.lease("a", 10) for _ in range(2)]
    error = ModelCorrupt("it is no model", path="a.gguf")
    house.load("a").failed(error)
    assert [lease.future.exception() for lease in leases] == [error, error]
    assert house.budget.held == 0 and house.started == ["a"]


def test_a_load_that_cannot_even_begin_is_told_and_holds_nothing() -> None:
    house = House()

    def start(_option: Option, _hold: object) -> object:
        raise RuntimeError("can't start new thread")

    lease = house.ask(Want("a", "a", (Option(5),), start))  # type: ignore[arg-type]
    assert isinstance(lease.future.exception(), RuntimeError)
    assert house.budget.held == 0
    other = house.lease("a", 5)
    house.load("a").made()
    assert granted(other)


def test_a_load_refused_by_the_system_is_tried_once_more_without_all_that_is_idle_then_fails_fast() -> None:
    house = House()
    house.loaded("x", 2)
    house.loaded("y", 2)
    lease = house.lease("a", 10)
    house.load("a").failed(MemoryError("mmap"))
    assert sorted(house.evicted) == ["x", "y"]
    assert house.started == ["x", "y", "a", "a"] and not lease.future.done()
    house.load("a").failed(MemoryError("mmap"))
    assert house.started.count("a") == 2
    error = refusal(lease)
    assert error.needed == 10 and "mmap" in str(error) and isinstance(error.__cause__, MemoryError)
    assert house.budget.held == 0


def test_the_second_try_may_be_the_good_one() -> None:
    house = House()
    house.loaded("x", 2)
    lease = house.lease("a", 10)
    house.load("a").failed(MemoryError())
    house.load("a").made()
    assert granted(lease)


def test_explicit_options_are_never_shrunk() -> None:
    """One option is all there is where the context was named; it is refused twice, and nothing smaller is tried."""
    house = House()
    lease = house.lease("a", 10)
    sizes = []
    while house.loads:
        sizes.append(house.load("a").option.bytes)
        house.load("a").failed(MemoryError())
    assert sizes == [10, 10]
    assert refusal(lease).needed == 10


def test_an_auto_context_is_shrunk_after_the_second_refusal() -> None:
    house = House()
    house.lease("a", 10, 8, 6)
    sizes = []
    while house.loads:
        sizes.append(house.load("a").option.bytes)
        house.load("a").failed(MemoryError())
    assert sizes == [10, 10, 8, 6]


def test_an_auto_context_is_shrunk_to_what_can_fit_at_all() -> None:
    house = House()
    house.lease("a", 20, 17, 15, 3)
    assert house.load("a").option.bytes == 15


def test_an_auto_context_is_not_shrunk_where_others_only_have_to_leave() -> None:
    house = House()
    house.loaded("x", 10)
    house.lease("a", 15, 3)
    assert house.load("a").option.bytes == 15
    assert house.evicted == ["x"]


def test_an_auto_context_is_not_shrunk_by_a_load_that_counts_twice() -> None:
    """What a load has taken already is not available, and reserved as well: that passes."""
    house = House(others=MACHINE - 16)
    first, second = house.lease("x", 5), house.lease("a", 12, 3)
    assert house.started == ["x"]
    house.load("x").made()
    house.release(first)
    assert house.load("a").option.bytes == 12
    house.load("a").made()
    assert granted(second)


def test_a_refusal_is_forgotten_with_who_wanted_it() -> None:
    house = House()
    house.loaded("x", 2)
    using = house.lease("x", 2)
    lease = house.lease("a", 16, 5)
    assert house.started == ["x"]
    house.release(using)
    house.load("a").failed(MemoryError())
    house.load("a").failed(MemoryError())  # next would be 5
    house.release(lease)
    assert [load.given_up for load in house.loads] == [True]
    house.loads[0].failed(RuntimeError("given up"))
    assert house.lease("a", 16, 5).future.done() is False
    assert house.load("a").option.bytes == 16


def test_a_refusal_is_forgotten_with_who_wanted_it_before_the_second_try() -> None:
    house = House()
    house.loaded("x", 2)
    lease = house.lease("a", 10, 5)
    load = house.load("a")
    house.loads.remove(load)
    house.residency.give_back(load.hold)
    house.residency.failed("a", load.hold, MemoryError())
    house.release(lease)  # before the compute thread came to it
    house.lease("a", 10, 5)
    assert house.names() == {"x"}, "it is the first try of a new caller"
    assert house.load("a").option.bytes == 10


def test_who_wants_fewer_options_than_were_refused_gets_the_last_one() -> None:
    house = House()
    first = house.lease("a", 10, 5)
    second = house.lease("a", 10)
    house.load("a").failed(MemoryError())
    load = house.load("a")
    house.loads.remove(load)
    house.residency.give_back(load.hold)
    house.residency.failed("a", load.hold, MemoryError())
    house.release(first)
    house.load("a").made()
    assert granted(second)


def test_a_refused_load_waits_for_who_is_at_work_and_nobody_else_joins_there() -> None:
    """The system had less than it said: now only the leaving of a model in use makes room, and no one may renew it."""
    house = House(limit=16, others=MACHINE - 16)
    using = house.lease("x", 6)
    house.load("x").made()
    waits = house.lease("a", 10)
    house.others += 4
    house.load("a").failed(MemoryError())
    late = house.lease("x", 6)
    assert not late.future.done()
    house.release(using)
    assert house.evicted == ["x"]
    house.load("a").made()
    assert granted(waits)


def test_a_failed_load_makes_room_for_the_next_one_in_line() -> None:
    house = House()
    first, second = house.lease("a", 10), house.lease("b", 10)
    house.load("a").failed(ModelCorrupt("no", path=""))
    assert first.future.done()
    house.load("b").made()
    assert granted(second)


# ---- a load that a GPU refuses


def on_gpu(size: int) -> Option:
    return Option(size, gpu=True)


def test_what_a_gpu_refused_is_loaded_without_it_at_once_and_the_idle_may_stay() -> None:
    house = House()
    house.loaded("x", 2)
    house.loaded("y", 2)
    lease = house.lease("a", on_gpu(4), on_gpu(3), 10, 8)
    assert house.budget.held == 8
    house.load("a").failed(MemoryError("cudaMalloc"), elsewhere=True)
    assert house.load("a").option == Option(10), "no other one with the GPU, and no second try"
    assert house.evicted == [] and house.budget.held == 14
    house.load("a").made()
    assert granted(lease) and house.started.count("a") == 2


def test_only_as_many_leave_as_the_cpu_needs_more() -> None:
    house = House()
    house.loaded("x", 6, used=1)
    house.loaded("y", 2, used=2)
    lease = house.lease("a", on_gpu(4), 10)
    house.load("a").failed(MemoryError("cudaMalloc"), elsewhere=True)
    assert house.evicted == ["x"]
    house.load("a").made()
    assert granted(lease)


def test_what_a_gpu_refused_waits_in_line_for_the_room_it_needs_without() -> None:
    house = House()
    using = house.lease("x", 8)
    house.load("x").made()
    lease = house.lease("a", on_gpu(4), 10)
    house.load("a").failed(MemoryError("cudaMalloc"), elsewhere=True)
    assert house.loads == [] and not lease.future.done(), "more was taken than there is room for"
    house.release(using)
    assert house.evicted == ["x"]
    house.load("a").made()
    assert granted(lease)


def test_without_a_gpu_the_system_may_refuse_as_ever() -> None:
    house = House()
    house.loaded("x", 2)
    lease = house.lease("a", on_gpu(4), 10, 8)
    house.load("a").failed(MemoryError("cudaMalloc"), elsewhere=True)
    assert house.evicted == []
    sizes = []
    while house.loads:
        sizes.append(house.load("a").option.bytes)
        house.load("a").failed(MemoryError())
    assert sizes == [10, 10, 8] and house.evicted == ["x"]
    assert refusal(lease).needed == 8


def test_what_a_gpu_refused_and_fits_nowhere_else_is_too_large() -> None:
    house = House()
    lease = house.lease("a", on_gpu(4), 17)
    house.load("a").failed(MemoryError("cudaMalloc"), elsewhere=True)
    error = refusal(lease)
    assert (error.needed, error.available) == (17, 16)
    assert house.budget.held == 0


def test_where_there_is_no_way_without_a_gpu_its_refusal_is_the_end() -> None:
    house = House()
    lease = house.lease("a", on_gpu(4), on_gpu(3))
    house.load("a").failed(MemoryError("cudaMalloc"), elsewhere=True)
    assert house.started == ["a"]
    error = refusal(lease)
    assert error.needed == 4 and "cudaMalloc" in str(error) and isinstance(error.__cause__, MemoryError)
    assert house.budget.held == 0
    house.lease("a", on_gpu(4), on_gpu(3))
    assert house.load("a").option == on_gpu(4), "the next caller begins anew"


def test_what_is_too_large_for_the_ram_beside_a_gpu_goes_on_without() -> None:
    house = House()
    house.lease("a", on_gpu(20), on_gpu(17), 15)
    assert house.load("a").option == Option(15)


# ---- who waits


def test_a_request_waits_for_a_running_model_then_loads() -> None:
    house = House()
    using = house.lease("a", 10)
    house.load("a").made()
    lease = house.lease("b", 10)
    house.sleep(1_000)
    assert house.residency.waiting == 1 and not lease.future.done()
    house.release(using)
    house.load("b").made()
    assert granted(lease) and house.residency.waiting == 0


def test_who_wants_a_leaving_model_stands_behind_who_waits_for_its_room() -> None:
    """Else two streams of callers that overlap could keep a third out for ever."""
    house = House()
    using = house.lease("a", 10)
    house.load("a").made()
    waits = house.lease("b", 10)
    late = house.lease("a", 10)
    assert not late.future.done()
    house.release(using)
    house.load("b").made()
    assert granted(waits) and not late.future.done()
    house.release(waits)
    assert house.evicted == ["a", "b"]
    house.load("a").made()
    assert granted(late)


def test_who_wants_a_model_that_stays_is_served_at_once() -> None:
    house = House()
    house.loaded("small", 4, used=1)
    using = house.lease("large", 12)
    house.load("large").made()
    waits = house.lease("other", 10)
    assert granted(house.lease("small", 4))  # the other one can only have the room of the large one
    house.release(using)
    assert house.evicted == ["large"]
    house.load("other").made()
    assert granted(waits)


def test_the_line_is_served_in_order() -> None:
    house = House()
    using = house.lease("a", 16)
    house.load("a").made()
    waiting = [house.lease(name, 16) for name in "bcd"]
    house.release(using)
    for name, lease in zip("bcd", waiting, strict=True):
        house.load(name).made()
        assert granted(lease)
        house.release(lease)
    assert house.made == ["a", "b", "c", "d"]


def test_room_that_other_programs_give_back_is_found() -> None:
    house = House(others=MACHINE - 10)
    using = house.lease("x", 2)
    house.load("x").made()
    house.others = MACHINE - 5
    lease = house.lease("a", 5)
    assert not lease.future.done() and not house.loads
    house.others = MACHINE - 12
    house.sleep(LOOK)
    house.load("a").made()
    assert granted(lease) and granted(using)


# ---- too large


def test_what_can_never_fit_is_refused_before_anything_begins_or_leaves() -> None:
    house = House()
    house.loaded("x", 10)
    error = refusal(house.lease("a", 17))
    assert house.started == ["x"] and house.evicted == [] and house.budget.held == 10
    assert (error.needed, error.available) == (17, 16)


def test_what_only_passes_makes_others_wait_and_refuses_nobody() -> None:
    house = House()
    preparation = house.ask(Want("child", "converting", (Option(8),), passes=True))
    lease = house.lease("a", 10)
    assert not lease.future.done() and house.started == []
    assert preparation.hold is not None
    house.residency.give_back(preparation.hold)
    house.run()
    assert house.started == ["a"]


def test_the_refusal_says_what_is_there_and_what_would_help() -> None:
    gigabyte = 1_000_000_000
    house = House(limit=16 * gigabyte, others=MACHINE - 20 * gigabyte)
    house.loaded("qwen", 5 * gigabyte)
    house.bytes(gigabyte, "the Korean analyser")
    wanted = replace(house.want("huge", 17 * gigabyte), advice=", or name a smaller model")
    message = str(refusal(house.ask(wanted)))
    for told in ("huge", "17.0 GB", "16.0 GB", "15.0 GB", "qwen 5.0 GB", "the Korean analyser 1.0 GB (stays)"):
        assert told in message
    assert message.endswith("Raise ram_budget, or name a smaller model.")


def test_where_the_machine_is_what_is_full_the_refusal_says_so() -> None:
    house = House(others=MACHINE - 8)
    message = str(refusal(house.lease("a", 9)))
    assert "this machine has no more" in message and "Close other programs" in message


def test_what_can_never_fit_is_refused_at_once_while_something_loads() -> None:
    house = House()
    house.lease("x", 5)
    assert refusal(house.lease("a", 17)).needed == 17


def test_who_can_never_fit_does_not_hold_up_the_line() -> None:
    house = House()
    using = house.lease("x", 10)
    house.load("x").made()
    waits, large, small = house.lease("a", 10), house.lease("b", 17), house.lease("c", 6)
    house.release(using)
    house.load("a").made()
    assert granted(waits)
    assert refusal(large).needed == 17
    assert house.load("c").option.bytes == 6 and not small.future.done()


def test_what_can_never_fit_is_refused_at_once_behind_others_who_wait() -> None:
    house = House()
    house.lease("x", 10)
    house.load("x").made()
    waits = house.lease("a", 10)
    assert refusal(house.lease("b", 17, 18)).needed == 18
    assert not waits.future.done()


def test_a_caller_who_is_interrupted_while_asking_leaves_nothing_behind() -> None:
    house = House()

    def wake() -> None:
        raise KeyboardInterrupt

    house.wake = wake  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        house.residency.lease(house.want("a", 5))
    assert house.residency.waiting == 0 and house.loads[0].given_up
    house.residency.give_back(house.loads[0].hold)
    assert house.budget.held == 0


def test_an_empty_budget_refuses() -> None:
    assert refusal(House(limit=0).lease("a", 1)).available == 0


# ---- what comes to more than was estimated


def test_a_model_that_came_to_more_makes_idle_ones_leave() -> None:
    house = House()
    house.loaded("x", 6)
    lease = house.lease("a", 10)
    house.load("a").made(size=12)
    assert house.evicted == ["x"] and granted(lease)
    assert house.budget.held == 12


def test_what_is_over_the_budget_leaves_when_it_is_idle() -> None:
    house = House()
    using = house.lease("x", 6)
    house.load("x").made()
    lease = house.lease("a", 10)
    house.load("a").made(size=12)
    assert granted(lease) and house.budget.held == 18
    house.now = 1
    house.release(using)
    assert house.evicted == ["x"]


# ---- bytes for what is no model


def test_bytes_are_granted_at_once_and_given_back() -> None:
    house = House()
    lease = house.bytes(6)
    assert granted(lease) and lease.hold is not None
    house.release(lease)
    assert house.budget.held == 6  # they stay until they are given back
    house.residency.give_back(lease.hold)
    assert house.budget.held == 0
    house.lease("a", 16)
    assert house.load("a").option.bytes == 16


def test_bytes_make_idle_models_leave_and_never_leave_themselves() -> None:
    house = House(keep_alive=10)
    house.loaded("x", 12)
    lease = house.bytes(6)
    assert house.evicted == ["x"] and granted(lease)
    house.sleep(100)
    house.loaded("y", 10)
    assert refusal(house.lease("a", 11)).available == 10
    assert house.budget.held == 16


def test_bytes_wait_for_who_is_at_work() -> None:
    house = House()
    using = house.lease("x", 12)
    house.load("x").made()
    lease = house.bytes(6)
    assert not lease.future.done()
    house.release(using)
    assert granted(lease)


def test_bytes_that_are_given_back_serve_who_waits() -> None:
    house = House()
    using = house.lease("x", 5)
    house.load("x").made()
    held = house.bytes(6)
    waits = house.lease("a", 10)
    house.release(using)
    assert house.evicted == ["x"] and held.hold is not None
    house.residency.give_back(held.hold)
    house.run()
    house.load("a").made()
    assert granted(waits)


def test_bytes_that_nobody_waits_for_any_more_are_not_held() -> None:
    house = House()
    using = house.lease("x", 12)
    house.load("x").made()
    house.release(house.bytes(6))
    house.release(using)
    assert house.budget.held == 12


def test_what_a_model_leaves_behind_is_held_for_good() -> None:
    """A library that stays in the process is apart from the model that brought it."""
    house = House()
    lease = house.lease("a", 10)
    load = house.load("a")
    house.budget.settle(load.hold, 10)
    house.residency.keep(house.budget.split(load.hold, "libraries", 3))
    load.made(size=7)
    house.release(lease)
    house.drop("a")
    assert house.budget.held == 3
    assert refusal(house.lease("b", 14)).available == 13


def test_who_waits_is_told_apart_by_whether_it_is_for_a_load() -> None:
    house = House()
    house.lease("a", 10)
    house.lease("b", 10)
    assert house.residency.loads("a") and not house.residency.loads("b")


# ---- unload and close


def test_unload_frees_an_idle_model_and_says_whether_there_was_one() -> None:
    house = House()
    house.loaded("a", 5)
    assert house.drop("a") is True
    assert house.drop("a") is False
    assert house.budget.held == 0


def test_unload_frees_a_model_in_use_too() -> None:
    house = House()
    lease = house.lease("a", 5)
    house.load("a").made()
    assert house.drop("a") is True
    house.release(lease)
    assert house.budget.held == 0


def test_unload_ends_a_load_and_who_waits_for_it() -> None:
    house = House()
    lease, other = house.lease("a", 5), house.lease("b", 5)
    load = house.load("a")
    house.drop("a")
    assert isinstance(lease.future.exception(), EngineClosed)
    assert load.given_up and not other.future.done()
    assert load.made() is False
    assert house.budget.held == 5


def test_unload_ends_who_waits_for_room() -> None:
    house = House()
    using = house.lease("x", 10)
    house.load("x").made()
    waits, behind = house.lease("a", 10), house.lease("x", 10)
    house.drop("a")
    assert isinstance(waits.future.exception(), EngineClosed)
    assert granted(behind) and granted(using)


def test_unload_makes_room_for_who_waits() -> None:
    house = House()
    house.lease("x", 10)
    house.load("x").made()
    waits = house.lease("a", 10)
    house.drop("x")
    house.load("a").made()
    assert granted(waits)


def test_close_ends_everybody_who_waits_and_who_comes() -> None:
    house = House()
    using = house.lease("x", 10)
    house.load("x").made()
    loading, waiting = house.lease("y", 5), house.lease("a", 10)
    house.residency.close("the engine is closed")
    late = house.residency.lease(house.want("x", 10))
    for lease in (loading, waiting, late):
        assert isinstance(lease.future.exception(), EngineClosed)
    house.residency.release(using)
    (load,) = house.loads
    house.models.clear()
    house.residency.give_back(load.hold)
    house.residency.failed("y", load.hold, EngineClosed("it was stopped"))
    assert house.budget.held == 0 and house.residency.waiting == 0
    assert house.residency.seen("x") is None


# ---- what is told


def test_what_is_seen_of_a_model() -> None:
    house = House()
    assert house.residency.seen("a") is None
    lease = house.lease("a", 5)
    assert house.residency.seen("a") is None
    house.load("a").made(size=6)
    house.now = 3
    hold, idle = house.residency.seen("a") or pytest.fail("it is there")
    assert (hold.bytes, idle) == (6, 0.0)
    house.release(lease)
    house.now = 10
    assert (house.residency.seen("a") or pytest.fail("it is there"))[1] == 7.0


def test_the_outlook_of_a_load() -> None:
    house = House()
    look = house.residency.outlook
    assert look(Option(16)) == ("fits", ())
    assert look(Option(17)) == ("too large", ())
    house.loaded("x", 6, used=1)
    house.loaded("y", 6, used=2)
    assert look(Option(4)) == ("fits", ())
    assert look(Option(9)) == ("evicts", ("x",))
    assert look(Option(16)) == ("evicts", ("x", "y"))
    using = house.lease("x", 6)
    assert look(Option(9)) == ("evicts", ("y",))
    assert look(Option(16)) == ("waits", ("y", "x"))
    house.bytes(2)
    assert look(Option(15)) == ("too large", ())
    house.release(using)
    assert house.evicted == []  # looking changes nothing


def test_the_outlook_beside_a_load_is_to_wait() -> None:
    house = House(others=MACHINE - 16)
    house.lease("x", 6)
    assert house.residency.outlook(Option(11))[0] == "waits"
    assert house.residency.outlook(Option(17))[0] == "too large"


# ---- anything, in any order

SIZES: dict[str, tuple[int | Option, ...]] = {
    "a": (10, 6), "b": (8,), "c": (5, 3, 2), "d": (3,), "e": (on_gpu(4), on_gpu(2), 9, 7), "huge": (17,),
}  # fmt: skip


class AnyOrder(RuleBasedStateMachine):
    """Callers, loads, other programs and the clock in any order; the house itself checks most of the rules."""

    def __init__(self) -> None:
        super().__init__()
        self.house = House(others=MACHINE - 20, keep_alive=7)
        self.waiting: list[Lease] = []
        self.holds: list[Lease] = []

    @rule(name=st.sampled_from(sorted(SIZES)))
    def lease(self, name: str) -> None:
        self.waiting.append(self.house.lease(name, *SIZES[name]))

    @rule(size=st.integers(1, 5))
    def bytes(self, size: int) -> None:
        self.waiting.append(self.house.bytes(size))

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.waiting:
            self._end(data.draw(st.sampled_from(self.waiting)))

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        if self.holds:
            self._give_back(data.draw(st.sampled_from(self.holds)))

    @rule(data=st.data(), more=st.integers(-1, 1))
    def load_ends(self, data: st.DataObject, more: int) -> None:
        if self.house.loads:
            load = data.draw(st.sampled_from(self.house.loads))
            load.made(load.option.bytes + more)

    @rule(data=st.data(), memory=st.booleans())
    def load_fails(self, data: st.DataObject, memory: bool) -> None:
        if self.house.loads:
            load = data.draw(st.sampled_from(self.house.loads))
            elsewhere = memory and load.option.gpu and data.draw(st.booleans())
            load.failed(MemoryError() if memory else ModelCorrupt("", path=""), elsewhere=elsewhere)

    @rule(data=st.data())
    def works(self, data: st.DataObject) -> None:
        using = sorted({str(lease.want.key) for lease in self.waiting if granted(lease) and lease.want.start})
        if using:
            self.house.busy |= {data.draw(st.sampled_from(using))} & set(self.house.models)

    @rule()
    def answered(self) -> None:
        self.house.answered()

    @rule(name=st.sampled_from(sorted(SIZES)))
    def unload(self, name: str) -> None:
        self.house.drop(name)
        for lease in [lease for lease in self.waiting if lease.want.key == name and granted(lease)]:
            self._end(lease)  # its next job ends with EngineClosed

    @rule(seconds=st.integers(1, 9))
    def time_passes(self, seconds: int) -> None:
        self.house.sleep(seconds)

    @rule(left=st.integers(6, 20))
    def others_take(self, left: int) -> None:
        self.house.others = MACHINE - left

    @invariant()
    def only_models_that_are_there_are_held(self) -> None:
        house = self.house
        models = sum(hold.bytes for hold in house.models.values())
        kept = sum(lease.hold.bytes for lease in (*self.waiting, *self.holds) if lease.hold)
        assert house.budget.held == models + kept + sum(load.hold.bytes for load in house.loads)
        for lease in self.waiting:
            if granted(lease) and lease.want.start:
                assert lease.want.key in house.models, "granted and not there"

    @invariant()
    def refused_is_only_what_does_not_fit(self) -> None:
        for lease in self.waiting:
            if lease.future.done() and isinstance(error := lease.future.exception(), OutOfBudget):
                assert error.__cause__ is not None or error.needed > error.available

    def teardown(self) -> None:
        house = self.house
        house.others = 0
        for _ in range(200):
            house.answered()
            for load in list(house.loads):
                load.made()
            for lease in [lease for lease in self.waiting if lease.future.done()]:
                self._end(lease)
            for lease in list(self.holds):
                self._give_back(lease)
            house.sleep(LOOK)
            if not self.waiting and not house.loads:
                break
        assert not self.waiting, "somebody waits though nothing is in the way"
        house.sleep(10)
        assert house.names() == set() and house.budget.held == 0, "something stayed"

    def _end(self, lease: Lease) -> None:
        self.waiting.remove(lease)
        self.house.release(lease)
        if lease.hold:
            self.holds.append(lease)

    def _give_back(self, lease: Lease) -> None:
        self.holds.remove(lease)
        assert lease.hold is not None
        self.house.residency.give_back(lease.hold)
        self.house.run()


AnyOrder.TestCase.settings = settings(
    max_examples=120, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyOrder = AnyOrder.TestCase
