"""How good models are: embeddings on public test sets, memories that are found, and every task in Korean.

    python scripts/evaluate.py embedding FOLDER [--model NAME|FOLDER] [--backend torch|openvino|both]
                                                [--tests NAME,NAME] [--blocks N] [--json FILE]
    python scripts/evaluate.py memory [--profile NAME] [--data FOLDER] [--paraphrases FOLDER]
                                      [--split dev|test|all] [--json FILE]
    python scripts/evaluate.py tasks [--profile NAME] [--models ROLE=NAME ...] [--config FILE] [--tasks TASK,TASK]
                                     [--split dev|test|all] [--data FOLDER] [--limit N] [--intents FILE]
                                     [--abstain X] [--max-words N] [--verbose] [--json FILE] [--plot FILE]

`embedding`: with torch in float32, with the fast path, or with both; by each view of a text that the model has (dense,
sparse, multi-vector) and by their combinations, of which scripts/retrieval.py has the formulas. The tests:

- `korsts`: KorSTS (Ham et al. 2020), FOLDER/korsts-dev.tsv: Spearman's rank correlation between the score of two
  sentences and the similarity that people gave them. Both are embedded as queries; by multi-vector, the first asks.
- `parakqc`: ParaKQC (Cho et al. 2020), FOLDER/parakqc-a.tsv: utterances in blocks of ten paraphrases. Each asks,
  embedded as a query, and is to find its nine siblings among all the others, embedded as passages: Recall@9, MRR@10,
  nDCG@10. For a model that puts the same before both, query and passage are one.
- `agreement`: the fast path beside torch, on the first 1,000 different sentences of KorSTS, embedded as queries: the
  cosines of a sentence's dense vectors, of its tokens' weights, and of the vectors of each of its tokens.

`memory`: whether the search for memories finds the right ones, and knows when there are none; with the project's own
questions, whose memories are in --data, and with ParaKQC where --paraphrases names its folder; and how often the judge
of memories is right. scripts/memory_quality.py tells how.

`tasks`: how good and how fast the models of a profile are at classification, extraction, times, understanding, summary
and conversation in Korean, and how much memory they take; `rules`, `times` and `understanding` ask no model. On the
project's own sets, in --data. scripts/task_quality.py tells how they are asked, scripts/task_figures.py what figures
mean. A memory that was found matches one that was to be found, one to one, where both stand in one place of one turn;
beside that, where their embeddings are alike, by the profile's own model (the bar was set with multilingual-e5-small);
both with any and with the same category: scripts/task_matching.py. scripts/task_table.py puts the JSON of profiles side
by side. --models lays other models over the profile's; --limit takes so many of each set, at even distances; --intents
is a file of 3i4K (Cho et al. 2018; class, tab, utterance), of which the classes 2 and 4 are questions and 1, 3 and 5
none; --abstain is the confidence below which a label does not count, --max-words the length of a summary; --verbose
lists the sentences whose times are wrong; --plot draws a picture (PNG or SVG), in Korean where a font can. The row of a
task names how many were asked, and how many failed with which error. The long dialogues are in both halves.

In the table all but cosines is times 100, and `tasks` writes %; in the JSON nothing is. The fast path is prepared where
that has not been done. Exit status 0; 1: a model is missing or cannot be loaded; 2: no test set, or the command line
asks for what cannot be; 130: Ctrl-C, and the table shows the backends that were done, of `tasks` all that was answered;
so does the JSON of `tasks`, which names the section that is `unfinished`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import judge_quality
import memory_quality
import retrieval
import task_plot
import task_quality
import task_sets
import task_table
from embedding_quality import SENTENCES, Backend, Cosines, Evaluation, Measured, Test, agreement
from korean_sets import BLOCK, KORSTS, PARAKQC, NoData, Sets, read_korsts, read_parakqc

from engine import config, fastpath, layout, models, prepare, tuning
from engine.config import ModelSpec
from engine.errors import EngineError, ModelCorrupt
from engine.metrics import Progress
from engine.views import Head, Views

TESTS: tuple[Test, ...] = get_args(Test)
BACKENDS: tuple[Backend, ...] = get_args(Backend)  # the reference first
PACKAGES = (
    "gieok", "torch", "openvino", "nncf", "sentence-transformers", "transformers", "numpy", "scipy",
    "llama-cpp-python", "llguidance", "kiwipiepy",
)  # fmt: skip
DATA = Path(__file__).parents[1] / "tests" / "data"
HEADER = "| backend | score | KorSTS | Recall@9 | MRR@10 | nDCG@10 |\n|---|---|---|---|---|---|"


class Unusable(Exception):
    """The command line asks for what cannot be; the text says what can."""


class Ticker:
    """Says on stderr how far a long task is: each second on a terminal, each five seconds elsewhere."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._terminal = clock, sys.stderr.isatty()
        self._task, self._told = "", 0.0

    def __call__(self, event: Progress) -> None:
        """Say it, unless that was just done or the task has only begun."""
        now = self._clock()
        if event.task != self._task:
            self._task, self._told = event.task, now
        if now - self._told < (1 if self._terminal else 5):
            return
        self._told = now
        line = f"{event.task}: {event.done:,} of {event.total:,} {event.unit}"
        print(f"\r{line:<78}" if self._terminal else line, end="" if self._terminal else "\n", file=sys.stderr)
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the line off a terminal."""
        if self._terminal:
            print(f"\r{'':<78}", end="\r", file=sys.stderr, flush=True)


# ---- what is asked for


def planned(options: argparse.Namespace, ticker: Ticker) -> tuple[Evaluation, tuple[Backend, ...]]:
    """Return what the command line asks for, and on what. Raises `Unusable`, `NoData`, `EngineError`."""
    settings = config.load()
    spec = models.find_spec(settings, options.model or settings.profile("starter")["embedding"])
    tests = wanted_tests(options.tests)
    pairs = read_korsts(options.folder) if tests & {"korsts", "agreement"} else ()
    sets = Sets(pairs, read_parakqc(options.folder, options.blocks) if "parakqc" in tests else ())
    folder = layout.locate(spec)
    backends = wanted_backends(options.backend, spec, folder, ticker)
    if len(backends) == 1 and "agreement" in tests:
        if options.tests:
            raise Unusable(f"agreement needs both backends, and there is {backends[0]} alone.")
        tests -= {"agreement"}
    return Evaluation(spec, folder, sets, tests, ticker), backends


def wanted_tests(named: str | None) -> frozenset[Test]:
    """Return the tests that are named, or all. Raises `Unusable`."""
    names = TESTS if named is None else named.split(",")
    if unknown := set(names) - set(TESTS):
        raise Unusable(f"there is no test {min(unknown)!r}; there are {', '.join(TESTS)}.")
    return frozenset(test for test in TESTS if test in names)


def wanted_backends(named: str | None, spec: ModelSpec, folder: Path, ticker: Ticker) -> tuple[Backend, ...]:
    """Return the backends that are named, or those that there are, the fast path prepared.

    Raises `Unusable` where the fast path is named and cannot be, `Cancelled`.
    """
    if named == "torch" or (named is None and spec.backend == "torch"):
        return ("torch",)
    why = prepared(spec, folder, ticker)
    if why is None:
        return ("openvino",) if named == "openvino" else BACKENDS
    if named is not None:
        raise Unusable(f"{spec.name} cannot be run by OpenVINO: {why}. --backend torch leaves it out.")
    print(f"{spec.name} is measured with torch alone, since OpenVINO cannot run it: {why}.", file=sys.stderr)
    return ("torch",)


def prepared(spec: ModelSpec, folder: Path, ticker: Ticker) -> str | None:
    """Prepare a model for the fast path where that has not been done; return why it cannot be, if it cannot."""
    if not fastpath.available():
        return "it is not installed here, or does not know this processor"
    try:
        if fastpath.state(folder) == "absent":
            prepare.prepare(folder, spec, progress=ticker)
    except (ModelCorrupt, prepare.PreparationFailed, OSError) as error:
        return str(error).rstrip(".")
    return None if fastpath.state(folder) == "ready" else (fastpath.refusal(folder) or "it was refused").rstrip(".")


# ---- what is shown


def table(found: Measured) -> Iterator[str]:
    """Yield the rows of a backend in Markdown."""
    for name in dict.fromkeys([*found.korsts, *found.parakqc]):
        cells = [f"{100 * found.korsts[name]:.2f}" if name in found.korsts else "–"]
        quality = found.parakqc.get(name)
        cells += [f"{100 * value:.2f}" for value in asdict(quality).values()] if quality else ["–"] * 3
        yield f"| {found.backend} | {name} | {' | '.join(cells)} |"


def agreement_table(cosines: Mapping[Head, Cosines]) -> Iterator[str]:
    """Yield a table in Markdown of how near the backends are."""
    yield "| cosine of the fast path to torch | vectors | mean | least |"
    yield "|---|---|---|---|"
    for head, found in cosines.items():
        yield f"| {head} | {found.count:,} | {found.mean:.5f} | {found.least:.5f} |"


def written(plan: Evaluation, rows: Sequence[Measured], cosines: Mapping[Head, Cosines]) -> dict[str, Any]:
    """Return all figures with what they were found with, JSON-ready; nothing tells where on the machine things lie."""
    return {
        "model": plan.spec.name,
        "settings": {
            "tests": [test for test in TESTS if test in plan.tests],
            "korsts_pairs": len(plan.sets.pairs),
            "parakqc_blocks": len(plan.sets.utterances) // BLOCK,
            "parakqc_utterances": len(plan.sets.utterances),
            "compared_sentences": min(SENTENCES, len(plan.sets.sentences)) if "agreement" in plan.tests else 0,
            "query_prefix": plan.spec.query_prefix,
            "passage_prefix": plan.spec.passage_prefix,
            "weights": retrieval.WEIGHTS,
            "rank_constant": retrieval.RANK_CONSTANT,
        },
        **surroundings(),
        "backends": {row.backend: {k: v for k, v in asdict(row).items() if k != "backend"} for row in rows},
        "agreement": {head: asdict(found) for head, found in cosines.items()},
    }


def surroundings() -> dict[str, Any]:
    """Return what is measured on and with."""
    return {
        "machine": {"processor": tuning.processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"python": platform.python_version(), **versions()},
    }


def versions() -> dict[str, str | None]:
    """Return package → version, None for one that is not there."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


# ---- the command line


def embedding(options: argparse.Namespace, ticker: Ticker) -> None:
    """Measure an embedding model, print each backend as it is done, write JSON if asked."""
    plan, backends = planned(options, ticker)
    sizes = f"{len(plan.sets.pairs):,} pairs of KorSTS, {len(plan.sets.utterances):,} utterances of ParaKQC"
    print(f"{plan.spec.name}: {sizes}\n\n{HEADER}", flush=True)
    rows: list[Measured] = []
    compared: list[list[Views]] = []
    for backend in backends:
        found, views = plan.measure(backend)
        rows.append(found)
        compared.append(views)
        ticker.clear()
        print("\n".join(table(found)), flush=True)
    cosines = agreement(*compared) if "agreement" in plan.tests else {}
    if cosines:
        print("\n" + "\n".join(agreement_table(cosines)))
    print()
    for row in rows:
        print(f"{row.backend}: " + ", ".join(f"{part} {seconds} s" for part, seconds in row.seconds.items()))
    if options.json:
        text = json.dumps(written(plan, rows, cosines), ensure_ascii=False, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")


def memory(options: argparse.Namespace, ticker: Ticker) -> None:
    """Measure how memories are found and judged, print it, write JSON if asked."""
    plan = memory_quality.Plan(options.profile, options.data, options.paraphrases, options.split)
    model = config.load().profile(plan.profile)["embedding"]
    found = memory_quality.run(plan, ticker)
    ticker.clear()
    print("\n".join(memory_quality.table(found["sets"])))
    for half, judged in found["judge"].items():
        print(f"\nThe judge, {half}: {judged['pairs']} pairs\n\n{judge_quality.table(judged)}")
    if options.json:
        text = json.dumps({"model": model, **surroundings(), **found}, ensure_ascii=False, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")


def tasks(options: argparse.Namespace, ticker: Ticker) -> None:
    """Measure how a profile does the tasks; print, write and draw what was found, also where Ctrl-C ended it."""
    if options.plot and not task_plot.available():
        raise Unusable(task_plot.NO_MATPLOTLIB)
    plan = task_quality.Plan(
        options.profile, options.data, wanted_tasks(options.tasks), options.split, dict(options.models), options.config,
        options.limit, options.intents, options.abstain, options.max_words,
    )  # fmt: skip
    found = task_quality.Findings()
    try:
        task_quality.run(plan, ticker, found)
    except KeyboardInterrupt:
        ticker.clear()
        print(
            f"Stopped in {found.unfinished or 'the beginning'}; what was answered until then counts.", file=sys.stderr
        )
        raise
    finally:
        ticker.clear()
        if found.sections:
            show_tasks(plan, found, options)


def wanted_tasks(named: str | None) -> tuple[task_quality.Task, ...]:
    """Return the tasks that are named, or all. Raises `Unusable`."""
    names = task_quality.TASKS if named is None else named.split(",")
    if unknown := set(names) - set(task_quality.TASKS):
        raise Unusable(f"there is no task {min(unknown)!r}; there are {', '.join(task_quality.TASKS)}.")
    return tuple(task for task in task_quality.TASKS if task in names)


def show_tasks(plan: task_quality.Plan, found: task_quality.Findings, options: argparse.Namespace) -> None:
    """Print a table of what was found, write JSON and draw a picture if asked."""
    print("\n".join(task_table.table({plan.profile: found.sections})), flush=True)
    for role, why in found.replaced.items():
        print(f"{role}: {why}", file=sys.stderr)
    for wrong in found.wrong_times if options.verbose else ():
        days = (" to ".join(span) if span else "no time" for span in (wrong["wanted"], wrong["found"]))
        print(f"{task_sets.TIMES}:{wrong['line']}: {wrong['text']} ({wrong['at']}): wanted {' – found '.join(days)}")
    if options.json:
        report = {**task_quality.settings(plan), **surroundings(), **asdict(found)}
        options.json.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if options.plot and (remark := task_plot.draw(found.sections, plan.profile, options.plot)):
        print(remark, file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure a model on public test sets.")
    commands = parser.add_subparsers(dest="command", required=True)
    embedding = commands.add_parser("embedding", help="similarity of sentences and retrieval in Korean")
    embedding.add_argument("folder", type=Path, help=f"the folder that holds {KORSTS} and {PARAKQC}")
    embedding.add_argument("--model", help="a name of the catalogue or a model's folder; default: the starter's")
    embedding.add_argument("--backend", choices=[*BACKENDS, "both"], help="default: both where the fast path can run")
    embedding.add_argument("--tests", metavar="NAME,NAME", help=f"of {', '.join(TESTS)}; default: all")
    embedding.add_argument("--blocks", type=_positive, metavar="N", help="only the first N blocks of ParaKQC")
    embedding.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    memory = commands.add_parser("memory", help="how well Korean questions find memories")
    memory.add_argument("--profile", default="starter", metavar="NAME", help="whose embedding model; default: starter")
    memory.add_argument("--data", type=Path, default=DATA, metavar="FOLDER", help="the project's set; default: its own")
    memory.add_argument("--paraphrases", type=Path, metavar="FOLDER", help=f"the folder that holds {PARAKQC}")
    memory.add_argument("--split", choices=get_args(memory_quality.Split), default="test", help="default: test")
    memory.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    _add_tasks(commands.add_parser("tasks", help="how well a profile does the tasks in Korean"))
    return parser


def _add_tasks(tasks: argparse.ArgumentParser) -> None:
    tasks.add_argument("--profile", default="starter", metavar="NAME", help="whose models; default: starter")
    tasks.add_argument("--models", nargs="+", type=_assignment, default=[], metavar="ROLE=NAME", help="instead of its")
    tasks.add_argument("--config", type=Path, metavar="FILE", help="a models.toml that is laid over the packaged one")
    tasks.add_argument("--tasks", metavar="TASK,TASK", help=f"of {', '.join(task_quality.TASKS)}; default: all")
    tasks.add_argument("--split", choices=get_args(task_sets.Split), default="test", help="default: test")
    tasks.add_argument("--data", type=Path, default=DATA, metavar="FOLDER", help="the test sets; default: our own")
    tasks.add_argument("--limit", type=_positive, metavar="N", help="only so many of each set, at even distances")
    tasks.add_argument("--intents", type=Path, metavar="FILE", help="a file of 3i4K: also tell questions apart there")
    tasks.add_argument("--abstain", type=_share, default=task_quality.ABSTAIN, metavar="X", help="default: %(default)s")
    words = task_quality.MAX_WORDS
    tasks.add_argument(
        "--max-words", type=_positive, default=words, metavar="N", help="of a summary; default: %(default)s"
    )
    tasks.add_argument("--verbose", action="store_true", help="list the sentences whose times are wrong")
    tasks.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    tasks.add_argument("--plot", type=_picture, metavar="FILE", help="also draw them there, as .png or .svg")


def _assignment(text: str) -> tuple[str, str]:
    role, equals, name = text.partition("=")
    if not role or not equals or not name:
        raise argparse.ArgumentTypeError("must be ROLE=NAME")
    return role, name


def _share(text: str) -> float:
    if not 0 <= (number := float(text)) <= 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return number


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix not in task_plot.FORMATS:
        raise argparse.ArgumentTypeError(f"must end in {' or '.join(task_plot.FORMATS)}")
    return path


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    options, ticker = _parser().parse_args(arguments), Ticker()
    try:
        {"embedding": embedding, "memory": memory, "tasks": tasks}[options.command](options, ticker)
    except (NoData, Unusable) as error:
        status, why = 2, str(error)
    except (EngineError, MemoryError, OSError) as error:
        status, why = 1, str(error)
    except KeyboardInterrupt:
        status, why = 130, "interrupted"
    else:
        return 0
    ticker.clear()
    print(why, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
