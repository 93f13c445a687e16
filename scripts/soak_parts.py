"""The parts of a soak: each does for long what the suite does briefly, with the suite's own generators.

What is drawn is drawn from the order's seed. When a process is killed, or which thread is first, the machine decides.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import asdict
from functools import cache, partial
from itertools import count, product
from pathlib import Path
from types import ModuleType
from typing import Any

import soak_fuzz
import soak_growth
from soak_outcome import Order, Outcome, Part, Size
from soak_suite import few_memories, from_tests

from engine.errors import ConfigError, ModelNotFound
from engine.llama import Model

_EACH_PHASE = 100  # cycles from which on a kill must fall in each phase
_VERDICT = 20.0  # seconds that a file may be looked at


def run(part: Part, order: Order) -> Outcome:
    """Run a part once; what it raises is a failure, and so is what it warns of.

    Raises `ConfigError`, `ModelNotFound` where it lacks something.
    """
    warnings.simplefilter("error")
    began = time.perf_counter()
    try:
        outcome = part.run(order)
    except (ConfigError, ModelNotFound):
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what a soak looks for
        traceback.print_exc()
        outcome = Outcome(0, failures=[f"{type(error).__name__}: {error}"])
    outcome.seconds = time.perf_counter() - began
    return outcome


# ---- prompts, calls, schedules, files


def prompts(order: Order) -> Outcome:
    """Attack each vocabulary with its share of the messages."""
    hostile, outcome = from_tests("hostile"), Outcome(0)
    share = -(-order.sizes["messages"] // len(hostile.TARGETS))
    for name in hostile.TARGETS:
        tally = asdict(_attacked(hostile, name, share, order))
        outcome.counts[name] = tally
        outcome.tried += tally["messages"]
        outcome.failures += [f"{name}: {tally[what]} {what}" for what in ("forged", "different") if tally[what]]
    return outcome


def _attacked(hostile: ModuleType, name: str, messages: int, order: Order) -> Any:
    """Return the tally of one vocabulary, with its own template."""
    path = order.vocab / f"ggml-vocab-{name}.gguf"
    if not path.exists():
        raise ModelNotFound(f"there is no {path}", model=name)
    with contextlib.closing(Model(path, vocab_only=True)) as model:
        rng = random.Random(f"{order.seed} {name}")
        return hostile.attack(hostile.target(name, model), model.vocabulary, messages, rng)


def mixed(order: Order) -> Outcome:
    """Ask mixed calls; each must get its own answer."""
    with tempfile.TemporaryDirectory() as home:
        report = from_tests("mixed").soak(Path(home), order.sizes["calls"], order.seed)
    batches = report.batches
    answers = {
        "greedy answers": report.compared, "their tokens": report.tokens, "differ from the lone one": report.parted,
        "swapped answers noticed": report.noticed, "labels weighed": report.weighed, "batches": batches.total(),
        "batches of several requests": batches.total() - batches[1],
    }  # fmt: skip
    most = {
        "worst lead where one differs": report.lead, "its bound": report.bounds.lead, "logits apart": report.apart,
        "their bound": report.bounds.row, "log-probabilities of labels apart": report.shift,
        "requests in one batch": max(batches, default=0),
    }  # fmt: skip
    counts = {"calls": dict(report.kinds), "ends": dict(report.ends), "compared": answers}
    return Outcome(report.kinds.total(), counts, most, list(report.failures))


def scheduler(order: Order) -> Outcome:
    """Run random schedules; what fails is shown by hypothesis, as short as it can be made."""
    from hypothesis import HealthCheck, seed, settings
    from hypothesis.stateful import run_state_machine_as_test

    simulation, ran = from_tests("simulation"), count()

    class Schedules(simulation.Schedules):  # type: ignore[misc, name-defined]
        def teardown(self) -> None:
            next(ran)
            super().teardown()

    limits = settings(
        max_examples=order.sizes["examples"], stateful_step_count=50, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(seed(order.seed)(Schedules), settings=limits)
    examples = next(ran)
    few = examples < order.sizes["examples"]
    return Outcome(examples, failures=[f"only {examples} schedules were run"] if few else [])


def probe(order: Order) -> Outcome:
    """Check mutants; each must get a verdict in time, and this process live."""
    with tempfile.TemporaryDirectory() as folder:
        tally = from_tests("mutants").soak(Path(folder), order.sizes["files"], order.seed)
    failures = list(tally.failures)
    if tally.slowest > _VERDICT:
        failures.append(f"a verdict took {tally.slowest:.1f} s")
    counts = {"files": dict(tally.ends), "then used": {"loaded here": tally.loaded}}
    return Outcome(tally.ends.total(), counts, {"seconds of the slowest verdict": tally.slowest}, failures)


def downloads(order: Order) -> Outcome:
    """Pull through faults, and kill pulls; right bytes or an error must come of each, and little come twice."""
    pulls, storms = from_tests("pulls"), order.sizes["rounds"]
    with tempfile.TemporaryDirectory() as folder:
        stormy = pulls.storms(Path(folder), storms, order.seed)
        killed = pulls.kill_some(Path(folder), order.sizes["kills"], order.seed)
    again = max(killed.again, default=0)
    failures = stormy.failures + killed.failures
    if again > pulls.MIB:
        failures.append(f"{again} bytes were fetched again after a kill")
    counts = {
        "pulls through faults": dict(stormy.ends), "faults": dict(stormy.faults), "kills": dict(killed.places)
    }  # fmt: skip
    most = {"bytes fetched again after a kill": again}
    return Outcome(storms + killed.places.total(), counts, most, failures)


# ---- memory stores


def memory_kills(order: Order) -> Outcome:
    """Kill processes at a memory store; what each had promised must be so."""
    kills, cycles = from_tests("memory_kills"), order.sizes["cycles"]
    wanted = kills.PHASES if cycles >= _EACH_PHASE else ()  # a few hit them by luck only
    with few_memories() as folder:
        report = kills.kill_cycles(folder, cycles, order.seed, wanted)
    counts = {
        "aimed at": dict(report.aims), "killed in": dict(report.moments), "phases": dict(report.phases),
        "ends": dict(report.ends),
        "looked for": {"acknowledged": report.looked_for, "forgotten": report.looked_for_gone},
        "lives": {"killed": report.killed, "ended before the kill came": report.lived},
    }  # fmt: skip
    return Outcome(report.killed, counts, failures=report.failures)


def memory_faults(order: Order) -> Outcome:
    """Let disks fail under a memory store; every answer must be typed and nothing lost."""
    faults, outcome = from_tests("memory_faults"), Outcome(0)
    every = order.sizes["every"]
    for name, full, lasting in product(faults.FLOWS, (False, True), (False, True)):
        how = f"{name}, {'full' if full else 'broken'} {'from then on' if lasting else 'once'}"
        first = random.Random(f"{order.seed} {how}").randrange(every) + 1
        with few_memories() as folder:
            tally = faults.sweep(folder, name, full=full, lasting=lasting, every=every, first=first)
        outcome.tried += tally.steps.total()
        outcome.counts |= {f"failed: {how}": dict(tally.steps), f"ends: {how}": dict(tally.ends)}
        outcome.failures += tally.failures
    with few_memories() as folder:
        filled = faults.full_disk(folder)
    if filled is None:
        outcome.counts["no small file system could be mounted here, so none was filled"] = {}
    else:
        outcome.counts["a file system that is full"] = dict(filled.ends)
        outcome.failures += filled.failures
    return outcome


def memory_damage(order: Order) -> Outcome:
    """Damage the logs of killed stores; each must leave a prefix, or be refused with the backup's name."""
    with few_memories() as folder:
        tally = from_tests("memory_damage").damage(folder, order.sizes["points"], order.seed)
    counts = {"ends": dict(tally.ends), "acknowledged steps that were lost": dict(tally.back)}
    return Outcome(tally.points, counts, failures=tally.failures)


def memory_crowd(order: Order) -> Outcome:
    """Let many use one store; nobody may lose anything, and nothing forgotten be found."""
    with few_memories() as folder:
        report = from_tests("memory_crowd").crowd(folder / "home", order.sizes["seconds"], order.seed)
    memories = {"looked at": report.seen, "left": report.left, "superseded": report.superseded}
    counts = {"calls": dict(report.calls), "memories": memories}
    return Outcome(report.calls.total(), counts, failures=report.failures)


# ---- conversations, files, growth


def session(order: Order) -> Outcome:
    """Have a long conversation; nothing of it may be lost."""
    turns, n_ctx = order.sizes["turns"], order.sizes["n-ctx"]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        course = from_tests("long_session").run(home, turns, n_ctx, partial(_show, turns), seed=order.seed)
    figures = course.figures()
    wrong = {"turns in no summary": course.left_out, "turns lost": course.lost, "facts not found": len(course.missing)}
    failures = [f"{what}: {number}" for what, number in wrong.items() if number]
    counts = {"turns": {"told": turns, "condensed": figures["condensed"]}, "wrong": wrong}
    most = {"longest prompt": figures["longest prompt"], "seconds to a first token": figures["ttft, slowest"]}
    for third, seconds in zip(("first", "middle", "last"), figures["ttft"], strict=True):
        most[f"seconds to the median first token, {third} third"] = seconds
    return Outcome(turns, counts, most, failures, report={"n_ctx": n_ctx, **figures, **asdict(course)})


def _show(all_: int, turn: int) -> None:
    """Tell how far it is, every tenth turn."""
    if turn % 10 == 0:
        print(f"turn {turn} of {all_}", file=sys.stderr, flush=True)


def fuzz(order: Order) -> Outcome:
    """Damage files that an engine reads; each must be read right, or refused in words."""
    with few_memories() as folder:
        return soak_fuzz.fuzz(folder, order.sizes["files"], order.seed)


_growing = cache(soak_growth.Growing)  # one engine for all rounds of a process


def growth(order: Order) -> Outcome:
    """Use one engine for everything; what the process holds must not grow with it."""
    return _growing().round(random.Random(order.seed), order.sizes["steps"])


_ALL = (
    Part("prompts", "hostile messages against chat templates", "messages", [Size("messages", 3000, 2000)], prompts),
    Part("mixed", "threads and tasks ask engines for everything at once", "calls", [Size("calls", 500, 40)], mixed),
    Part("scheduler", "random schedules against a simulated cache", "schedules", [Size("examples", 10_000, 500)],
         scheduler),
    Part("probe", "damaged and hostile model files", "files", [Size("files", 1000, 60)], probe),
    Part("downloads", "pulls from a faulty hub, and killed ones", "pulls",
         [Size("kills", 20, 6), Size("rounds", 200, 40)], downloads),
    Part("memory-kills", "processes that are killed at a memory store", "kills", [Size("cycles", 200, 15)],
         memory_kills),
    Part("memory-faults", "disks that fail under a memory store", "faults", [Size("every", 1, 10)], memory_faults),
    Part("memory-damage", "damaged logs of memory stores", "logs", [Size("points", 500, 100)], memory_damage),
    Part("memory-crowd", "threads and tasks at one memory store", "calls", [Size("seconds", 60, 20)], memory_crowd),
    Part("session", "a conversation much longer than its context", "turns",
         [Size("turns", 200, 16), Size("n-ctx", 768, 768)], session),
    Part("fuzz", "damaged settings, exports, index, prefix and header files", "files", [Size("files", 2000, 250)],
         fuzz),
    Part("growth", "one engine that does everything, and what it holds", "steps", [Size("steps", 200, 12)], growth),
)  # fmt: skip
PARTS = {part.name: part for part in _ALL}
