"""Run for long what the suite runs briefly: kills, damaged files, failing disks, crowds, growth.

    python scripts/soak.py all --hours H [--parts NAME,NAME] [--seed S] [--log FILE] [--vocab DIR]
    python scripts/soak.py PART [--minutes M | --hours H] [--seed S] [--log FILE] [sizes of the part]
    python scripts/soak.py PART --round N --seed S [sizes of the part]
    python scripts/soak.py summary LOG [LOG…] [--details | --markdown]
    python scripts/soak.py lifecycle [--rounds N | --hours H] [--memories N] [--limit SIZE] [--shapes DIR]
                                     [--parts NAME,NAME] [--output FILE] [--quick]

A PART alone runs once, as long as its sizes say. With `--minutes` or `--hours` it runs in rounds of a minute or so, and
`all` runs every part so, each as long as the others; without a time, until Ctrl-C. Each round has a seed of its own,
made of `--seed` and its number, and runs in the process of its part. After each a line is appended to the log and is on
the disk: what was tried, what failed, seconds, and the resident memory, open files and threads of the process. A soak
that is started again with its log goes on with the next round, for what is left of its time; the round in which it was
killed is run again. A failure is told with the command that runs its round alone. At the end, and after Ctrl-C, a table
says what there was; `summary` says it again. `MB grown` compares the third round of a part's process with its last one.

`prompts`: hostile messages of every kind against the vocabularies of Qwen 2, Llama 3, Llama 2 and Gemma 4, in every
role, in context, memories, extraction, classification and summaries: no control token may come of what was typed.
Beside them harmless conversations, whose ids must be those of the template's own rendering. `parsed` counts
conversations that would have forged a token had their rendering been parsed as it is.

`mixed`: 8 threads and 16 tasks ask one engine, and sometimes a second one, for everything at once, on the starter
models; streams are closed and cancelled, tasks cancelled, models unloaded meanwhile. Each greedy answer must be that of
the same request alone on a fresh context, or first differ where that one's best token leads the chosen one by no more
than the bound that is printed; so must the logits. Answers that would not pass for another's are counted.

`scheduler`: random schedules of arrivals, cancels, aborts and overflows against a simulated cache.

`probe`: damaged and hostile GGUF files, made of the starter model and of tiny ones of four architectures, are checked
as an engine checks them. Each must get its verdict within 20 seconds, and the process live. Then it loads what was
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
left out that is in no summary, and at the end facts of the first turns must be found as memories. In the report `ttft`
are seconds to the first token, medians of the first, middle and last third of the turns.

`fuzz`: settings, exports, index files, stored prefixes and headers of models are damaged. Each is read right or refused
with an error that names the file and quotes no memory; of the index and the prefixes nothing may be lost but time.

`growth`: one engine on the starter models does everything, round after round, and leaves nothing behind. From the
seventh round on it is a failure if its process holds 128 MiB more than it did in the fourth to sixth, or 8 more files
or threads, however many rounds there were.

`lifecycle`: chat with a 7B model, classification with a 3B one, embedding, search over many memories, a summary, chat
with a 14B model, and again, inside a limit of memory that the kernel keeps where this user may make a control group
(root on Linux), else beside a look at resident memory four times a second. The models are of true shape with random
weights, 18 GB of files that are written once; the memories are put straight into the store with random vectors. Before
it (`--parts shapes,everything`) each model is loaded alone, to compare its estimate, and then all of the default
profile together. `--quick` shows with the starter models that all this works, and measures nothing. It has no rounds
with seeds, and is no part of `all`.

Exit status 0, 1 where something failed, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lifecycle as lifecycles
import lifecycle_cast
import shapes
import soak_parts
import soak_rounds
import soak_summary
from soak_log import Entry, Log, Unreadable, read
from soak_outcome import Order, Part, drawn
from soak_parts import PARTS
from soak_rounds import Soak
from soak_worker import Refused

from engine.config import ram_bytes
from engine.errors import ConfigError, ModelCorrupt, ModelNotFound


def once(arguments: argparse.Namespace) -> bool:
    """Run a part once, in this process; True if nothing failed."""
    part: Part = arguments.part
    seed, number = arguments.seed, arguments.round
    if number is not None:
        seed = drawn(seed, part.name, number)
    usual = {one.option: one.alone if number is None else one.a_round for one in part.sizes}
    outcome = soak_parts.run(part, Order(seed, usual | given(arguments), arguments.vocab))
    print("\n".join(outcome.lines()))
    if arguments.output:
        text = json.dumps(outcome.report or outcome.counts, ensure_ascii=False, indent=1)
        arguments.output.write_text(text + "\n", encoding="utf-8")
    return not outcome.failures


def given(arguments: argparse.Namespace) -> dict[str, int]:
    """Return the sizes that the command line names."""
    named = {one.option: getattr(arguments, one.option.replace("-", "_")) for one in arguments.part.sizes}
    return {option: size for option, size in named.items() if size is not None}


def one_part(arguments: argparse.Namespace) -> bool:
    """Run a part once, or in rounds where a time or a log is named."""
    if not (arguments.minutes or arguments.hours or arguments.log):
        return once(arguments)
    return rounds(arguments, [arguments.part], given(arguments))


def all_parts(arguments: argparse.Namespace) -> bool:
    """Run rounds of all parts, or of those that are named."""
    return rounds(arguments, [PARTS[name] for name in arguments.parts], {})


def rounds(arguments: argparse.Namespace, parts: Sequence[Part], sizes: dict[str, int]) -> bool:
    """Run rounds until the time is over, and sum up, also after Ctrl-C; True if nothing failed."""
    seconds = 60 * (arguments.minutes or 0) + 3600 * (arguments.hours or 0)
    log = Log.opened(arguments.log)
    if other := {entry.seed for entry in log.entries} - {arguments.seed}:
        raise Unreadable(f"{arguments.log} was begun with --seed {min(other)}; go on with it, or name another file.")
    try:
        soak_rounds.run(Soak(parts, arguments.seed, seconds or math.inf, sizes, arguments.vocab), log)
    finally:
        print("\n".join(soak_summary.summary(log.entries)), flush=True)
    return not any(entry.failures for entry in log.entries)


def sum_up(arguments: argparse.Namespace) -> bool:
    """Print what logs say; True if nothing failed."""
    entries: list[Entry] = [entry for path in arguments.logs for entry in read(path)]
    print("\n".join((soak_summary.markdown if arguments.markdown else soak_summary.summary)(entries)))
    if arguments.details:
        print("\n".join(soak_summary.details(entries)))
    return not any(entry.failures for entry in entries)


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


# ---- the command line


def named(known: Sequence[str], text: str) -> tuple[str, ...]:
    """Return the parts that an argument names."""
    names = tuple(text.split(","))
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"there is no {min(unknown)!r}; there are {', '.join(known)}")
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
    part.add_argument(
        "--parts", type=lambda text: named(lifecycles.PARTS, text), default=every, metavar="NAME,NAME",
        help="default: %(default)s",
    )  # fmt: skip
    part.add_argument("--output", type=Path, metavar="FILE", help="the report as JSON")
    part.add_argument("--quick", action="store_true", help="starter models, two rounds: shows that it works")
    part.set_defaults(run=lifecycle)


def for_rounds(parser: argparse.ArgumentParser, vocabularies: Path) -> None:
    """Add what whatever runs in rounds takes."""
    times = parser.add_mutually_exclusive_group()
    times.add_argument("--minutes", type=float, metavar="M", help="run rounds so long")
    times.add_argument("--hours", type=float, metavar="H", help="run rounds so long")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    parser.add_argument("--log", type=Path, metavar="FILE", help="a line for each round; goes on with what it has")
    parser.add_argument("--vocab", type=Path, default=vocabularies, metavar="DIR", help="default: %(default)s")


def for_part(parser: argparse.ArgumentParser, part: Part, vocabularies: Path) -> None:
    """Add what a part takes."""
    for_rounds(parser, vocabularies)
    for one in part.sizes:
        usual = f"default: {one.alone}, in rounds {one.a_round}"
        parser.add_argument(f"--{one.option}", type=int, metavar="N", help=usual)
    parser.add_argument("--round", type=int, metavar="N", help="run this round of the seed alone")
    parser.add_argument("--output", type=Path, metavar="FILE", help="what it found as JSON, where it is run once")
    parser.set_defaults(run=one_part, part=part)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="PART")
    folder = Path(sys.prefix, "share", "vocab")
    whole = commands.add_parser("all", help="rounds of every part, one after the other")
    for_rounds(whole, folder)
    every = ",".join(PARTS)
    whole.add_argument(
        "--parts", type=lambda text: named(tuple(PARTS), text), default=every, metavar="NAME,NAME",
        help="default: %(default)s",
    )  # fmt: skip
    whole.set_defaults(run=all_parts)
    for part in PARTS.values():
        for_part(commands.add_parser(part.name, help=part.says), part, folder)
    said = commands.add_parser("summary", help="what the logs of soaks say")
    said.add_argument("logs", type=Path, nargs="+", metavar="LOG")
    shape = said.add_mutually_exclusive_group()
    shape.add_argument("--details", action="store_true", help="everything that was counted, too")
    shape.add_argument("--markdown", action="store_true", help="the table for a README")
    said.set_defaults(run=sum_up)
    for_lifecycle(commands.add_parser("lifecycle", help="models come and go inside a limit of memory"), folder)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    arguments: Any = parsed(words)
    try:
        return 0 if arguments.run(arguments) else 1
    except KeyboardInterrupt:
        return 130
    except (ConfigError, OSError, Unreadable, shapes.CannotWrite) as error:
        print(error, file=sys.stderr)
        return 1
    except (ModelCorrupt, ModelNotFound, Refused) as error:
        print(f"{error}. `python3 scripts/dev.py test` fetches what the tests need.", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
