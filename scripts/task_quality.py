"""How well the models of a profile do the tasks in Korean: everything is asked through `Engine`, one thing at a time.

What is asked stands in files of the project (scripts/task_sets.py), what the figures mean in scripts/task_figures.py.
Classification is measured both ways: by the logits of the profile's LLM and by the meaning of its embedder, whichever
of them the role itself takes. Tasks run at temperature 0, conversation too, with a seed, so that a second run on the
same machine finds the same. Models are loaded, and where an answer takes no time a first is given, before times
count. `peak` is the most that this process had in RAM during a task, or since it began where the system tells no more.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

import task_figures
import task_sets
from embedding_sides import forget_peak, peak
from korean_sets import NoData
from task_figures import Answer
from task_matching import HALF, LIKE, Floats, by_meaning
from task_sets import Dialogue, Split

from engine import Engine, config, extraction, layout
from engine.config import ModelSpec
from engine.errors import ContextOverflow, EngineError, InvalidInput, SchemaError
from engine.inputs import check_dialogue
from engine.korean.candidates import candidates
from engine.metrics import Progress, ProgressCallback
from engine.models import resolve_roles
from engine.tasks import ExtractedMemory

Task = Literal["classification", "extraction", "rules", "times", "understanding", "summary", "conversation"]
TASKS: tuple[Task, ...] = get_args(Task)
ROLES: Mapping[Task, tuple[str, ...]] = {
    "classification": ("classification",),
    "extraction": ("extraction", "embedding"),
    "rules": (),
    "times": (),
    "understanding": (),
    "summary": ("summary",),
    "conversation": ("chat",),
}
SEED = 20240229
ABSTAIN = 0.5
MAX_WORDS = 120  # of a summary
MAX_TOKENS = 128  # of an answer in conversation
# of these the first one counts for no time
AT_ONCE: frozenset[Task] = frozenset({"classification", "rules", "times", "understanding"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: tasks, with the models of a profile, on a half of the sets in `data`.

    `models` are laid over the profile's, by role; of each set at most `limit` count; `intents` is a file of 3i4K.
    """

    profile: str
    data: Path
    tasks: tuple[Task, ...] = TASKS
    split: Split = "test"
    models: Mapping[str, str] = field(default_factory=dict)
    config: Path | None = None
    limit: int | None = None
    intents: Path | None = None
    abstain: float = ABSTAIN
    max_words: int = MAX_WORDS

    def specs(self, over: Mapping[str, str]) -> dict[str, ModelSpec]:
        """Return role → entry; a role left out is the chat model. Raises `ConfigError`, `ModelNotFound`."""
        found = resolve_roles(config.load(self.config), self.profile, {**self.models, **over})
        return {role: found.get(role, found["chat"]) for role in config.ROLES if role != "fallback"}


@dataclass(frozen=True, slots=True)
class Section:
    """One row of work: a task in one way, what is asked and how, and what answers are worth.

    `models` are laid over the plan's; `figures` may ask the engine, too.
    """

    task: Task
    name: str
    items: Sequence[Any]
    ask: Callable[[Engine, Any], Any]
    figures: Callable[[Engine, Sequence[Answer[Any, Any]]], dict[str, Any]]
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Findings:
    """What was found so far: section → figures; the sentences whose times are wrong; models that a fallback replaced.

    `unfinished` names the section in which an interruption came; its figures are of what was answered until then.
    """

    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    wrong_times: list[dict[str, Any]] = field(default_factory=list)
    replaced: dict[str, str] = field(default_factory=dict)
    unfinished: str | None = None


# ---- what is asked


def sections(plan: Plan) -> list[Section]:
    """Return what is to be done, all sets read. Raises `NoData`, `ConfigError`, `ModelNotFound`."""
    makers: dict[Task, Callable[[Plan], list[Section]]] = {
        "classification": _classification, "extraction": _extraction, "rules": _rules,
        "times": _times, "understanding": _understanding, "summary": _summary, "conversation": _conversation,
    }  # fmt: skip
    found = [section for task in TASKS if task in plan.tasks for section in makers[task](plan)]
    return sorted(found, key=lambda section: bool(section.models))  # what needs an engine of its own comes last


def _classification(plan: Plan) -> list[Section]:
    items = task_sets.spread(task_sets.sentences(plan.data, plan.split), plan.limit)
    return [
        Section(
            "classification",
            f"classification by {way}",
            items,
            lambda engine, item: engine.classify(item.text),
            lambda _, answers: task_figures.classification(answers, plan.abstain),
            {} if name is None else {"classification": name},
        )
        for way, name in ways(plan.specs({}), plan.models).items()
    ]


def ways(specs: Mapping[str, ModelSpec], over: Mapping[str, str]) -> dict[str, str | None]:
    """Return the ways to classify, the role's own first, with the model that the other is done by; None: as it is.

    The other way is not there where the profile has no model for it.
    """
    own = "meaning" if specs["classification"].kind == "embedding" else "logits"
    role, kind, other = ("chat", "llm", "logits") if own == "meaning" else ("embedding", "embedding", "meaning")
    found: dict[str, str | None] = {own: None}
    if specs[role].kind == kind:
        found[other] = over.get(role, specs[role].name)
    return found


def _extraction(plan: Plan) -> list[Section]:
    items = task_sets.spread(task_sets.dialogues(plan.data, plan.split), plan.limit)
    return [
        Section(
            "extraction",
            "extraction",
            items,
            lambda engine, item: engine.extract_memory(item.dialogue, at=item.at),
            lambda engine, answers: task_figures.extraction(answers, by_meaning(partial(_embed, engine))),
        )
    ]


def _embed(engine: Engine, texts: Sequence[str]) -> Floats:
    vectors = engine.embed(texts, heads=("dense",)).dense
    if vectors is None:
        raise NoData("The embedding model has no dense vectors.")
    return vectors


def _rules(plan: Plan) -> list[Section]:
    items = task_sets.spread(task_sets.dialogues(plan.data, plan.split), plan.limit)
    return [
        Section(
            "rules",
            "extraction by rules alone",
            items,
            lambda _, item: sure(item),
            lambda _, answers: task_figures.rules(answers),
        )
    ]


def sure(item: Dialogue) -> ExtractedMemory:
    """Return what rules are sure of, which no model decides on; without categories."""
    turns = check_dialogue(item.dialogue)
    kept = [extraction.sure_of(turns, one) for one in candidates(turns) if one.sure]
    return extraction.collect(turns, kept, [""] * len(kept), item.at)


def _times(plan: Plan) -> list[Section]:
    items = task_sets.spread(task_sets.times(plan.data, plan.split), plan.limit)
    return [Section("times", "times", items, _understand, lambda _, answers: task_figures.times(answers))]


def _understanding(plan: Plan) -> list[Section]:
    items = task_sets.spread(task_sets.utterances(plan.data, plan.split), plan.limit)
    own = Section(
        "understanding",
        "understanding",
        items,
        _understand,
        lambda _, answers: task_figures.understanding(answers),
    )
    return [own, _questions(plan, plan.intents)] if plan.intents else [own]


def _questions(plan: Plan, file: Path) -> Section:
    return Section(
        "understanding",
        "questions of 3i4K",
        task_sets.spread(task_sets.intents(file), plan.limit),
        lambda engine, item: engine.understand(item.text),
        lambda _, answers: task_figures.questions(answers),
    )


def _understand(engine: Engine, item: Any) -> object:
    return engine.understand(item.text, at=item.at)


def _summary(plan: Plan) -> list[Section]:
    items = task_sets.spread(task_sets.long_dialogues(plan.data), plan.limit)
    return [
        Section(
            "summary",
            "summary",
            items,
            lambda engine, item: engine.summarize(item.dialogue, max_words=plan.max_words),
            lambda _, answers: task_figures.summary(answers),
        )
    ]


def _conversation(plan: Plan) -> list[Section]:
    items = task_sets.spread(task_sets.prompts(plan.data), plan.limit)
    return [
        Section(
            "conversation",
            "conversation",
            items,
            lambda engine, item: engine.chat(item.text, temperature=0, seed=SEED, max_tokens=MAX_TOKENS),
            lambda _, answers: task_figures.conversation(answers),
        )
    ]


# ---- asking


def run(plan: Plan, tell: ProgressCallback, found: Findings) -> None:
    """Do all that a plan names and put into `found` what came of it, also where an error or Ctrl-C ends it.

    Raises `NoData`, `EngineError`.
    """
    todo = sections(plan)
    check(plan, todo)
    for models, some in groupby(todo, lambda section: section.models):
        with _opened(plan, models) as engine:
            for section in some:
                found.unfinished = section.name
                measure(engine, section, tell, found)
    found.unfinished = None


def check(plan: Plan, todo: Sequence[Section]) -> None:
    """See to it that no model is missing; a fallback must not answer for it. Raises `ModelNotFound`."""
    for section in todo:
        specs = plan.specs(section.models)
        for role in ROLES[section.task]:
            layout.locate(specs[role])


@contextmanager
def _opened(plan: Plan, models: Mapping[str, str]) -> Iterator[Engine]:
    over = {**plan.models, **models}
    with (
        tempfile.TemporaryDirectory() as home,
        Engine(plan.config, profile=plan.profile, home=home, models=over) as engine,
    ):
        yield engine


def measure(engine: Engine, section: Section, tell: ProgressCallback, found: Findings) -> None:
    """Ask all of a section and put its figures into `found`, also where that is interrupted."""
    forget_peak()
    answers: list[Answer[Any, Any]] = []
    try:
        ask(engine, section, tell, answers)
    except (KeyboardInterrupt, EngineError):
        with suppress(EngineError):  # an engine that is dead has told why already
            keep(engine, section, answers, found)
        raise
    keep(engine, section, answers, found)


def keep(engine: Engine, section: Section, answers: Sequence[Answer[Any, Any]], found: Findings) -> None:
    """Put into `found` what the answers to a section are worth, if there are any."""
    if answers:
        found.sections[section.name] = figures(engine, section, answers)
    if section.task == "times":
        found.wrong_times = task_figures.wrong_times(answers)
    for one in engine.status().replaced:
        found.replaced[one.role] = f"{one.by} answered instead of {one.wanted}: {one.why}"


def ask(engine: Engine, section: Section, tell: ProgressCallback, answers: list[Answer[Any, Any]]) -> None:
    """Ask one thing after the other and add what came; what an input is to blame for is an answer, too."""
    for role in ROLES[section.task]:
        engine.load(role)
    if section.task in AT_ONCE:
        section.ask(engine, section.items[0])
    for number, item in enumerate(section.items):
        tell(Progress(section.name, number, len(section.items), "done"))
        with _listening(engine) as heard:
            began = time.perf_counter()
            try:
                value, error = section.ask(engine, item), None
            except (ContextOverflow, InvalidInput, SchemaError) as failed:
                value, error = None, failed.code
            seconds = time.perf_counter() - began
        answers.append(Answer(item, value, seconds, error, tuple(heard)))


@contextmanager
def _listening(engine: Engine) -> Iterator[list[str]]:
    """Collect what the model writes under a grammar; the facade tells only what is made of it."""
    answers = getattr(engine, "_answers", None)
    texts: list[str] = []
    if answers is None:
        yield texts
        return
    plain, streams = answers.stream, []

    def stream(question: Any, *more: Any) -> Any:
        made = plain(question, *more)
        if question.grammar is not None:
            streams.append(made)
        return made

    answers.stream = stream
    try:
        yield texts
    finally:
        del answers.stream  # what its class has is back
    texts.extend(one.reply.text for one in streams)


def figures(engine: Engine, section: Section, answers: Sequence[Answer[Any, Any]]) -> dict[str, Any]:
    """Return what is known of a section, JSON-ready; `of` is how many there were to ask."""
    return {
        "task": section.task,
        "done": len(answers),
        "of": len(section.items),
        "errors": dict(Counter(one.error for one in answers if one.error)),
        **section.figures(engine, answers),
        "seconds": task_figures.percentiles(one.seconds for one in answers),
        "total_seconds": sum(one.seconds for one in answers),
        "peak": peak(),
    }


def settings(plan: Plan) -> dict[str, Any]:
    """Return what was measured and how, JSON-ready; nothing tells where on the machine things lie."""
    return {
        "profile": plan.profile,
        "models": {role: spec.name for role, spec in plan.specs({}).items()},
        "settings": {
            "tasks": list(plan.tasks),
            "split": plan.split,
            "limit": plan.limit,
            "abstain": plan.abstain,
            "max_words": plan.max_words,
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
            "seed": SEED,
            "overlap": HALF,
            "like": LIKE,
        },
    }
