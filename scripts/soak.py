"""Run for long what the suite runs briefly.

    python scripts/soak.py prompts [--messages N] [--seed S] [--vocab DIR]
    python scripts/soak.py mixed [--calls N] [--seed S]
    python scripts/soak.py scheduler [--examples N] [--seed S]
    python scripts/soak.py probe [--files N] [--seed S]
    python scripts/soak.py downloads [--kills N] [--rounds N] [--seed S]
    python scripts/soak.py memory-kills [--cycles N] [--seed S]
    python scripts/soak.py memory-faults [--every N]
    python scripts/soak.py memory-damage [--points N] [--seed S]
    python scripts/soak.py memory-crowd [--seconds N] [--seed S]
    python scripts/soak.py session [--turns N] [--n-ctx N] [--output FILE]
    python scripts/soak.py lifecycle [--rounds N | --hours H] [--memories N] [--limit SIZE] [--shapes DIR]
                                     [--parts NAME,NAME] [--output FILE] [--quick]

`prompts`: hostile messages of every kind against the vocabularies of Qwen 2, Llama 3, Llama 2 and Gemma 4, in every
role, in context, memories, extraction, classification and summaries: no control token may come of what was typed.
Beside them harmless conversations, whose ids must be those of the template's own rendering. The table counts them;
`parsed` is how many conversations would have forged a token had their rendering been parsed as it is.

`mixed`: 8 threads and 16 tasks ask one engine, and sometimes a second one, for everything at once, on the starter
models; streams are closed and cancelled, tasks cancelled, models unloaded meanwhile. Each greedy answer must be that of
the same request alone on a fresh context, or first differ where that one's best token leads the chosen one by no more
than the bound that is printed; so must the logits. `swapped` is how many answers would not pass for another's.

`scheduler`: random schedules of arrivals, cancels, aborts and overflows against a simulated cache.

`probe`: damaged and hostile GGUF files, made of the starter model and of tiny ones of four architectures, are checked
as an engine checks them. Each must get its verdict within 20 seconds, and this process live. Then it loads what was
accepted of the tiny ones, and every fourth of the starter model's, as an engine loads it, and reads a few words.

`downloads`: from a faulty hub over the loopback. Random files through random faults must come right or end in an error
that names the file, and come right once the hub is well; pulls that are killed, while the listing comes, at a random
byte, or soon after the last one, must fetch at most 1 MiB again, counted where it is sent. No wrong file is ever in the
model's folder.

`memory-kills`: a process that changes a memory store is killed at a random moment, aimed at one kind of step after the
other, in one home several times. What it acknowledged must be there, word for word and to be found, what it forgot in
no file; the step in flight done or undone. `looked for` counts memories, each after every kill; `phases` what the files
showed to be under way. From 100 cycles on, more are killed until one fell in each phase; none in one is a failure.

`memory-faults`: the n-th write, sync, truncation or renaming fails, for every n until the flow has no more, once or
from then on, as a broken disk and as a full one; and, where this user may mount one, a small file system fills up.

`memory-damage`: the log that a killed process left is cut, flipped or blanked. The store must hold what it held after
some acknowledged step, or refuse and name the backup.

`memory-crowd`: 8 threads and 16 tasks add, change, forget, list and search memories of one store, while the
judge lets facts take the place of others.

`session`: a conversation with the starter model, much longer than its context. Nothing may overflow, no turn may be
left out that is in no summary, and at the end facts of the first turns must be found as memories. `ttft` are seconds to
the first token, medians of the first, middle and last third of the turns.

`lifecycle`: chat with a 7B model, classification with a 3B one, embedding, search over many memories, a summary, chat
with a 14B model, and again, inside a limit of memory that the kernel keeps where this user may make a control group
(root on Linux), else beside a look at resident memory four times a second. The models are of true shape with random
weights, 18 GB of files that are written once; the memories are put straight into the store with random vectors. Before
it (`--parts shapes,everything`) each model is loaded alone, to compare its estimate, and then all of the default
profile together. `--quick` shows with the starter models that all this works, and measures nothing.

Exit status 0, 1 where something failed, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import count, product
from pathlib import Path
from types import ModuleType
from typing import Any

import lifecycle as lifecycles
import lifecycle_cast
import shapes

from engine.config import ram_bytes
from engine.errors import ConfigError, ModelCorrupt, ModelNotFound
from engine.llama import Model

TESTS = Path(__file__).resolve().parents[1] / "tests"
_EACH_PHASE = 100  # cycles from which on a kill must fall in each phase


def from_tests(name: str) -> ModuleType:
    """Import what the suite uses too, so that there is one of it."""
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    return importlib.import_module(name)


def prompts(arguments: argparse.Namespace) -> bool:
    """Attack each vocabulary with its share of the messages; True if nothing was forged or came out different."""
    hostile = from_tests("hostile")
    share = -(-arguments.messages // len(hostile.TARGETS))
    tallies = {name: asdict(attacked(hostile, name, share, arguments)) for name in hostile.TARGETS}
    for number, (name, tally) in enumerate(tallies.items()):
        if not number:
            print(f"{'vocabulary':<12}" + "".join(f"{title:>15}" for title in tally))
        print(f"{name:<12}" + "".join(f"{count:>15}" for count in tally.values()))
    return not any(tally["forged"] or tally["different"] for tally in tallies.values())


def attacked(hostile: ModuleType, name: str, messages: int, arguments: argparse.Namespace) -> Any:
    """Return the tally of one vocabulary, with its own template."""
    path = arguments.vocab / f"ggml-vocab-{name}.gguf"
    with contextlib.closing(Model(path, vocab_only=True)) as model:
        rng = random.Random(f"{arguments.seed} {name}")
        return hostile.attack(hostile.target(name, model), model.vocabulary, messages, rng)


def mixed(arguments: argparse.Namespace) -> bool:
    """Ask mixed calls and say what came of them; True if each got its own answer."""
    with tempfile.TemporaryDirectory() as home:
        report = from_tests("mixed").soak(Path(home), arguments.calls, arguments.seed)
    for title, counter in (("calls", report.kinds), ("ends", report.ends)):
        print(f"{title} ({counter.total()})")
        for kind, number in counter.most_common():
            print(f"  {kind:<28}{number:>5}")
    bounds, batches = report.bounds, report.batches
    print(f"batches: {batches.total()}, of several requests: {batches.total() - batches[1]}, at most {max(batches)}")
    print(f"greedy answers: {report.compared}, {report.tokens} chosen tokens, {report.parted} differ from the lone one")
    print(f"worst lead where one differs: {report.lead:.2f}, bound {bounds.lead:.2f}")
    print(f"logits at most apart: {report.apart:.2f}, bound {bounds.row:.2f}")
    print(f"labels weighed: {report.weighed}, log-probabilities at most apart: {report.shift:.2f}")
    print(f"swapped answers noticed: {report.noticed} of {report.compared}")
    print(f"seconds: {report.seconds:.0f}")
    for failure in report.failures:
        print(f"FAILED {failure}")
    return not report.failures


def scheduler(arguments: argparse.Namespace) -> bool:
    """Run random schedules; what fails is shown by hypothesis, as short as it can be made."""
    from hypothesis import HealthCheck, seed, settings
    from hypothesis.stateful import run_state_machine_as_test

    simulation, began, ran = from_tests("simulation"), time.perf_counter(), count()

    class Schedules(simulation.Schedules):  # type: ignore[misc, name-defined]
        def teardown(self) -> None:
            next(ran)
            super().teardown()

    limits = settings(
        max_examples=arguments.examples, stateful_step_count=50, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(seed(arguments.seed)(Schedules), settings=limits)
    examples = next(ran)
    print(f"schedules: {examples}, seconds: {time.perf_counter() - began:.0f}")
    return examples >= int(arguments.examples)


def probe(arguments: argparse.Namespace) -> bool:
    """Check mutants; True if each got a verdict in time."""
    with tempfile.TemporaryDirectory() as folder:
        tally = from_tests("mutants").soak(Path(folder), arguments.files, arguments.seed)
    print(f"files ({tally.ends.total()})")
    for kind, number in tally.ends.most_common():
        print(f"  {kind:<28}{number:>5}")
    print(f"loaded here: {tally.loaded}, seconds: {tally.seconds:.0f}, slowest verdict: {tally.slowest:.1f} s")
    for failure in tally.failures:
        print(f"FAILED {failure}")
    return not tally.failures and bool(tally.slowest <= 20)


def downloads(arguments: argparse.Namespace) -> bool:
    """Pull through faults, and kill pulls; True if right bytes or an error came of each, and little came twice."""
    pulls = from_tests("pulls")
    with tempfile.TemporaryDirectory() as folder:
        stormy = pulls.storms(Path(folder), arguments.rounds, arguments.seed)
        killed = pulls.kill_some(Path(folder), arguments.kills, arguments.seed)
    print(f"pulls through faults: {arguments.rounds}, requests: {stormy.requests}")
    for title, counter in (("ends", stormy.ends), ("faults", stormy.faults), ("kills", killed.places)):
        print(f"{title} ({counter.total()})")
        for kind, number in counter.most_common():
            print(f"  {kind:<28}{number:>5}")
    print(f"bytes fetched again after a kill: at most {max(killed.again, default=0)}, bound {pulls.MIB}")
    for failure in stormy.failures + killed.failures:
        print(f"FAILED {failure}")
    return not (stormy.failures or killed.failures) and max(killed.again, default=0) <= pulls.MIB


def memory_kills(arguments: argparse.Namespace) -> bool:
    """Kill processes at a memory store; True if what each had promised was so."""
    kills = from_tests("memory_kills")
    wanted = kills.PHASES if arguments.cycles >= _EACH_PHASE else ()  # a few hit them by luck only
    with few_memories() as folder:
        report = kills.kill_cycles(folder, arguments.cycles, arguments.seed, wanted)
    counted(("aimed at", report.aims), ("killed in", report.moments), ("phases", report.phases), ("ends", report.ends))
    print(f"killed: {report.killed}, ended before the kill came: {report.lived}")
    print(f"looked for: {report.looked_for} acknowledged, {report.looked_for_gone} forgotten")
    return ended(report)


def memory_faults(arguments: argparse.Namespace) -> bool:
    """Let disks fail under a memory store; True if every answer was typed and nothing was lost."""
    faults, well = from_tests("memory_faults"), True
    for name, full, lasting in product(faults.FLOWS, (False, True), (False, True)):
        with few_memories() as folder:
            tally = faults.sweep(folder, name, full=full, lasting=lasting, every=arguments.every)
        print(f"{name}, {'full' if full else 'broken'} {'from then on' if lasting else 'once'}")
        counted(("failed", tally.steps), ("ends", tally.ends))
        well = ended(tally) and well
    with few_memories() as folder:
        filled = faults.full_disk(folder)
    if filled is None:
        print("no small file system could be mounted here, so none was filled")
        return well
    counted(("a file system that is full", filled.ends))
    return ended(filled) and well


def memory_damage(arguments: argparse.Namespace) -> bool:
    """Damage the logs of killed stores; True if each left a prefix, or was refused with the backup's name."""
    with few_memories() as folder:
        tally = from_tests("memory_damage").damage(folder, arguments.points, arguments.seed)
    counted(("ends", tally.ends), ("acknowledged steps that were lost", tally.back))
    return ended(tally)


def memory_crowd(arguments: argparse.Namespace) -> bool:
    """Let many use one store; True if nobody lost anything and nothing forgotten was found."""
    with few_memories() as folder:
        report = from_tests("memory_crowd").crowd(folder / "home", arguments.seconds, arguments.seed)
    counted(("calls", report.calls))
    print(f"memories looked at: {report.seen}, left: {report.left}, superseded: {report.superseded}")
    return ended(report)


@contextlib.contextmanager
def few_memories() -> Iterator[Path]:
    """Lend an empty folder, and meanwhile let a few memories be enough for an index."""
    from engine import shortlist

    usual, shortlist.FEW = shortlist.FEW, from_tests("memory_life").FEW
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    finally:
        shortlist.FEW = usual


def counted(*counters: tuple[str, Counter[str]]) -> None:
    """Print how often each kind of thing came."""
    for title, counter in counters:
        print(f"{title} ({counter.total()})")
        for kind, number in counter.most_common():
            print(f"  {kind:<60}{number:>5}")


def ended(report: Any) -> bool:
    """Print what was wrong, and return whether nothing was."""
    print(f"seconds: {report.seconds:.0f}")
    for failure in report.failures:
        print(f"FAILED {failure}")
    return not report.failures


def lifecycle(arguments: argparse.Namespace) -> bool:
    """Let models come and go inside a limit; True if all that is wanted was reached."""
    quick = arguments.quick
    cast = lifecycle_cast.starters() if quick else lifecycle_cast.true_shapes(arguments.shapes, arguments.vocab)
    options = lifecycles.Options(
        cast,
        arguments.parts,
        2 if quick else arguments.rounds,
        arguments.hours,
        50 if quick else arguments.memories,
        ram_bytes(arguments.limit),
    )
    report = lifecycles.run(options)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    print("\n".join(lifecycles.table(report)))
    return all(report["checks"].values())


def parts_of(text: str) -> tuple[str, ...]:
    """Return the parts that an argument names."""
    names = tuple(text.split(","))
    if unknown := set(names) - set(lifecycles.PARTS):
        raise argparse.ArgumentTypeError(f"there is no {min(unknown)!r}; there are {', '.join(lifecycles.PARTS)}")
    return names


def for_lifecycle(part: argparse.ArgumentParser, vocabularies: Path) -> None:
    """Add what `lifecycle` takes."""
    from platformdirs import user_cache_path

    part.add_argument("--rounds", type=int, default=10, metavar="N", help="default: %(default)s")
    part.add_argument("--hours", type=float, default=0.0, metavar="H", help="so long, instead of a number of rounds")
    part.add_argument("--memories", type=int, default=200_000, metavar="N", help="default: %(default)s")
    part.add_argument("--limit", default="16GB", metavar="SIZE", help="default: %(default)s")
    folder = user_cache_path("gieok", appauthor=False) / "shapes"
    part.add_argument("--shapes", type=Path, default=folder, metavar="DIR", help="models; default: %(default)s")
    part.add_argument("--vocab", type=Path, default=vocabularies, metavar="DIR", help="default: %(default)s")
    every = ",".join(lifecycles.PARTS)
    part.add_argument("--parts", type=parts_of, default=every, metavar="NAME,NAME", help="default: %(default)s")
    part.add_argument("--output", type=Path, metavar="FILE", help="the report as JSON")
    part.add_argument("--quick", action="store_true", help="starter models, two rounds: shows that it works")
    part.set_defaults(run=lifecycle)


def session(arguments: argparse.Namespace) -> bool:
    """Have a long conversation; True if nothing of it was lost."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        course = from_tests("long_session").run(home, arguments.turns, arguments.n_ctx, partial(show, arguments.turns))
    figures = {"n_ctx": arguments.n_ctx, **course.figures()}
    print(json.dumps(figures, ensure_ascii=False, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(figures | asdict(course), indent=1) + "\n", encoding="utf-8")
    return not (course.left_out or course.lost or course.missing)


def show(all_: int, turn: int) -> None:
    """Tell how far it is, every tenth turn."""
    if turn % 10 == 0:
        print(f"turn {turn} of {all_}", file=sys.stderr, flush=True)


def for_session(part: argparse.ArgumentParser) -> None:
    """Say what the long conversation can be told."""
    part.add_argument("--turns", type=int, default=200, metavar="N", help="default: %(default)s")
    part.add_argument("--n-ctx", type=int, default=768, metavar="N", help="default: %(default)s")
    part.add_argument("--output", type=Path, metavar="FILE", help="the report as JSON, each turn")
    part.set_defaults(run=session)


def for_memories(parts: Any) -> None:
    """Add the parts that soak a memory store."""
    wanted = (
        ("memory-kills", memory_kills, "processes that are killed at a memory store", ("--cycles", 200)),
        ("memory-faults", memory_faults, "disks that fail under a memory store", ("--every", 1)),
        ("memory-damage", memory_damage, "damaged logs of memory stores", ("--points", 500)),
        ("memory-crowd", memory_crowd, "threads and tasks at one memory store", ("--seconds", 60)),
    )
    for name, run, says, number in wanted:
        part = parts.add_parser(name, help=says)
        part.add_argument(number[0], type=int, default=number[1], metavar="N", help="default: %(default)s")
        if run is not memory_faults:
            part.add_argument("--seed", type=int, default=0, metavar="S")
        part.set_defaults(run=run)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True, metavar="PART")
    part = parts.add_parser("prompts", help="hostile messages against chat templates")
    part.add_argument("--messages", type=int, default=3000, metavar="N", help="default: %(default)s")
    part.add_argument("--seed", type=int, default=0, metavar="S")
    folder = Path(sys.prefix, "share", "vocab")
    part.add_argument("--vocab", type=Path, default=folder, metavar="DIR", help="vocabularies; default: %(default)s")
    part.set_defaults(run=prompts)
    part = parts.add_parser("mixed", help="threads and tasks ask engines for everything at once")
    part.add_argument("--calls", type=int, default=500, metavar="N", help="default: %(default)s")
    part.add_argument("--seed", type=int, default=0, metavar="S")
    part.set_defaults(run=mixed)
    part = parts.add_parser("scheduler", help="random schedules against a simulated cache")
    part.add_argument("--examples", type=int, default=10_000, metavar="N", help="default: %(default)s")
    part.add_argument("--seed", type=int, default=0, metavar="S")
    part.set_defaults(run=scheduler)
    part = parts.add_parser("probe", help="damaged and hostile model files")
    part.add_argument("--files", type=int, default=1000, metavar="N", help="default: %(default)s")
    part.add_argument("--seed", type=int, default=0, metavar="S")
    part.set_defaults(run=probe)
    part = parts.add_parser("downloads", help="pulls from a faulty hub, and killed ones")
    part.add_argument("--kills", type=int, default=20, metavar="N", help="default: %(default)s")
    part.add_argument("--rounds", type=int, default=200, metavar="N", help="default: %(default)s")
    part.add_argument("--seed", type=int, default=0, metavar="S")
    part.set_defaults(run=downloads)
    for_memories(parts)
    for_session(parts.add_parser("session", help="a conversation much longer than its context"))
    for_lifecycle(parts.add_parser("lifecycle", help="models come and go inside a limit of memory"), folder)
    arguments = parser.parse_args()
    try:
        return 0 if arguments.run(arguments) else 1
    except KeyboardInterrupt:
        return 130
    except (ConfigError, OSError, shapes.CannotWrite) as error:
        print(error, file=sys.stderr)
        return 1
    except (ModelCorrupt, ModelNotFound) as error:
        print(f"{error}. `python3 scripts/dev.py test` fetches what the tests need.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
