"""`FakeEngine`: an `Engine` without models, for the tests of programs that use Gieok.

All but the models is the engine's own code: checks and errors, streams, sessions, async twins, the memory store with
its files, search, export, rules of Korean. What a model would say is what a test gives it to say.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Unpack, cast

from engine.answers import Answers, Question, Running
from engine.classifier import Classifier
from engine.engine import Engine, Messages, _release
from engine.errands import Errands
from engine.errors import SchemaError
from engine.lending import Lender
from engine.metrics import ProgressCallback
from engine.sampling import Sampling
from engine.sessions import Sessions

if TYPE_CHECKING:
    from engine.config import ModelSpec
    from engine.inputs import Turn
    from engine.korean.morphemes import Analyser
    from engine.library import Library
    from engine.played import PlayedRunner
    from engine.records import Hit
    from engine.runner import Runner
    from engine.stream import Stream
    from engine.tasks import Classification

Context = str | Sequence["str | Hit"] | None
Replies = str | Sequence[str] | Mapping[str, str] | Callable[[list[dict[str, str]]], str]
Labels = Mapping[str, str] | Callable[[str], str | None]
_NO_LABELS: Labels = {}
_SURE = 1000.0  # a logit: beside it nothing is left of the others
_GIVEN: ContextVar[Context] = ContextVar("gieok_context", default=None)


@dataclass(frozen=True, slots=True)
class Asked:
    """An answer that a program asked for, by `chat`, `stream`, `process` or in a session.

    `messages` is what the model would read: context, memories and the earlier turns of a session are in it. `context`,
    `schema`, `sampling` and `model` are what was passed, `model` being "chat" where nothing was.
    """

    messages: tuple[dict[str, str], ...]
    context: Context
    schema: Any
    model: str
    sampling: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The last message of the user, with what stands before it in the same message."""
        return next((one["content"] for one in reversed(self.messages) if one["role"] == "user"), "")


@dataclass(eq=False, slots=True)
class _Script:
    """What the models of one engine are to say, and what they were asked."""

    replies: Replies
    labels: Labels
    pause: float
    asked: list[Asked] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _taken: int = 0

    def give(self, replies: Replies) -> None:
        """Let answers be other ones from now on; of several, the first comes next."""
        with self._lock:
            self.replies, self._taken = replies, 0

    def reply(self, asked: Asked) -> str:
        """Return the answer, and note what was asked. Raises `AssertionError` where the test gives none."""
        self.asked.append(asked)
        text = self._chosen(asked)
        if not isinstance(text, str):
            raise TypeError(f"a reply must be a str, not {type(text).__name__}")
        if asked.schema is not None:
            _check_schema(asked.schema, text)
        return text

    def labels_text(self, text: str) -> bool:
        """Return whether the test says what a text is."""
        return callable(self.labels) or text in self.labels

    def label(self, text: str, among: Mapping[str, str]) -> str | None:
        """Return the label that the test gives a text, None where it is to be unsure."""
        label = self.labels(text) if callable(self.labels) else self.labels[text]
        if label is not None and label not in among:
            raise AssertionError(f"labels= gives {label!r}, which is none of the categories {', '.join(among)}")
        return label

    def _chosen(self, asked: Asked) -> object:
        replies = self.replies
        if isinstance(replies, str):
            return replies
        if callable(replies):
            return replies([dict(message) for message in asked.messages])
        return self._found(replies, asked.text) if isinstance(replies, Mapping) else self._next(replies)

    def _found(self, replies: Mapping[str, str], text: str) -> str:
        fitting = [key for key in replies if text == key or text.endswith(f"\n{key}")]
        if not fitting:
            raise AssertionError("replies= has no answer to the last user message; it is asked[-1].text of the engine")
        return replies[max(fitting, key=len)]

    def _next(self, replies: Sequence[str]) -> str:
        with self._lock:
            if self._taken == len(replies):
                raise AssertionError(f"replies= holds {len(replies)}, and one more was asked for; see asked[-1]")
            self._taken += 1
            return replies[self._taken - 1]


def _check_schema(schema: Any, text: str) -> None:
    """Raise `SchemaError` unless a model could have written `text`, but for its spaces and order."""
    from engine.constrain import Grammar
    from engine.tasks import schema_of

    plain = schema_of(schema)
    try:
        value = json.loads(text)
        Grammar.json({**plain, "allOf": [*plain.get("allOf", ()), {"const": value}]})
    except (ValueError, RecursionError, SchemaError) as error:
        keyword = error.keyword if isinstance(error, SchemaError) else None
        message = "the answer that replies= gives does not follow the schema; give JSON that does"
        raise SchemaError(message, keyword=keyword) from None


# ---- the parts of an engine that a model speaks through


@dataclass(frozen=True, slots=True)
class _Question(Question):
    """A question that a caller asks, not a task; as it was passed."""

    context: Context = None
    given: Mapping[str, Any] = field(default_factory=dict)

    def asked_for(self) -> Asked:
        """Return what a test sees of it."""
        messages = tuple({"role": turn.role, "content": turn.content} for turn in self.turns)
        return Asked(messages, self.context, self.schema, self.model, dict(self.given))


class _Answers(Answers):
    """Answers that the script gives; tasks are answered with nothing, and make do with what rules tell."""

    def __init__(self, engine: FakeEngine, script: _Script) -> None:
        super().__init__(engine._config.engine.sampling, engine._pool, engine.threads.run)
        self._script = script

    def question(self, turns: tuple[Turn, ...], model: str, sampling: Mapping[str, Any], schema: Any) -> Question:
        """Return a question as `Answers.question` does, which remembers how it was asked."""
        checked = super().question(turns, model, sampling, schema)
        asked = {each.name: getattr(checked, each.name) for each in fields(Question)}
        return _Question(**asked, context=_GIVEN.get(), given=sampling)

    def begin(self, question: Question) -> Running:
        """Choose an answer on the thread that asks, and let it be played. Raises as `Answers.begin`, and the script."""
        began, text = time.perf_counter(), ""
        self._pool.call(question.model, lambda runner: runner.encode(question.turns), "llm")  # it may be refused
        if isinstance(question, _Question):
            text = self._script.reply(question.asked_for())
        return self._pool.start(question.model, partial(self._play, question, text, began))

    def _play(self, question: Question, text: str, began: float, runner: Runner) -> Running:
        """On the compute thread."""
        from engine.generation import Generation

        params = replace(self._params(question, runner.spec), logit_bias=())
        generation = Generation(runner.encode(question.turns), params, began=began)
        pause = self._script.pause if isinstance(question, _Question) else 0.0
        cast("PlayedRunner", runner).play(generation, text, pause)
        return Running(generation, runner, self._pool.worker.check)


class _Classifier(Classifier):
    """Classifies by what the script says, else by meaning, which is by letters here."""

    def __init__(self, engine: FakeEngine, script: _Script) -> None:
        super().__init__(engine._pool, engine._vectors)
        self._script = script

    def classify(
        self, texts: list[str], labels: dict[str, str], abstain: float | None, model: str = "classification"
    ) -> list[Classification]:
        """Return one classification a text, as `Classifier.classify` does."""
        self._pool.models.spec(model)
        return [self._one(text, labels, abstain) for text in texts]

    def _one(self, text: str, labels: dict[str, str], abstain: float | None) -> Classification:
        from engine.classification import by_logits

        if not self._script.labels_text(text):
            return self._by_meaning([text], labels, abstain, "embedding")[0]
        label = self._script.label(text, labels)
        logits = {name: _SURE if name == label else 0.0 for name in labels}
        return by_logits(logits, [0.0] * len(labels), abstain)


class _Errands(Errands):
    """Errands with one Korean analyser for all fakes of a process: it takes a second or two to load."""

    def analyser(self) -> Analyser:
        """Return what finds morphemes."""
        return _analyser()


@cache
def _analyser() -> Analyser:
    from engine.korean.morphemes import Analyser

    return Analyser()


class _Lender(Lender):
    """Lends a store the played embedding model, which has no files that could be told apart."""

    def _identity(self, spec: ModelSpec) -> str:
        return f"played, {spec.dim} numbers, {spec.heads}"


class FakeEngine(Engine):
    """An `Engine` that needs no model: it answers with `replies`, classifies by `labels`, and has the real store.

    `replies` is a text; texts, taken in turn; a dict of the last user message, or its last lines, to an answer; or a
    function of the messages, `[{"role", "content"}]`, to an answer. Texts that run out, and a message that is not in
    the dict, are an `AssertionError`. Under a schema an answer has to be JSON that follows it, else it is a
    `SchemaError`. `labels` is a dict of texts to labels, or a function of a text to its label, None where it is unsure;
    a text that is not in the dict gets the label that shares most letters with it. Both may be set anew at any time.
    `pause` is seconds between two pieces of an answer; `asked` is what was asked for, in order.

    A token is up to four letters; of the sampling only `stop` and `max_tokens` change an answer. Extraction is by rules
    alone, a summary is the first sentences, and near to each other are texts that share letters. Without `home`, a new
    folder is removed on `close`; nothing is ever downloaded. The other arguments are those of `Engine`.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | None = None,
        *,
        replies: Replies = "네, 알겠습니다.",
        labels: Labels = _NO_LABELS,
        pause: float = 0.0,
        profile: str | None = None,
        home: str | os.PathLike[str] | None = None,
        models: Mapping[str, str] | None = None,
        ram_budget: int | str | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        from engine.played import PlayedModels

        # never $GIEOK_HOME: a test must not meet what somebody remembers
        place = home or tempfile.mkdtemp(prefix="gieok-")
        super().__init__(config, profile=profile, home=place, models=models, ram_budget=ram_budget, progress=progress)
        self._release.detach()
        self._script = _Script(replies, labels, pause)
        self._models = self._pool.models = PlayedModels(
            self._config, self._models.specs, named=models or (), progress=progress, wake=self._pool.wake
        )
        self._answers, self._classifier = _Answers(self, self._script), _Classifier(self, self._script)
        self._errands = _Errands(self._config.routing, self._pool, self._answers, self._classifier)
        self._lender = _Lender(self._pool, self._vectors, self._errands, self._home)
        self._sessions = Sessions(self._pool, self._answers, self._errands, self._lender, self.threads)
        # registered first, done last
        self._remove = None if home else weakref.finalize(self, _remove, str(place), os.getpid())
        self._release = weakref.finalize(self, _release, self._worker, self.threads, self._sessions, self._lender)

    def close(self) -> None:
        """Stop everything, as `Engine.close` does; a home that nobody named is removed."""
        super().close()
        if self._remove is not None:
            self._remove()

    @property
    def replies(self) -> Replies:
        """What it answers with; several are taken from the first on when they are set."""
        return self._script.replies

    @replies.setter
    def replies(self, replies: Replies) -> None:
        self._script.give(replies)

    @property
    def labels(self) -> Labels:
        """What it classifies by."""
        return self._script.labels

    @labels.setter
    def labels(self, labels: Labels) -> None:
        self._script.labels = labels

    @property
    def asked(self) -> list[Asked]:
        """What was asked for, in order; a test may clear it."""
        return self._script.asked

    def astream(
        self,
        messages: Messages,
        *,
        context: Context = None,
        schema: Any = None,
        model: str | None = None,
        **sampling: Unpack[Sampling],
    ) -> Stream:
        """Answer as `Engine.astream` does, which all ways to ask go through; note the context."""
        token = _GIVEN.set(context)
        try:
            return super().astream(messages, context=context, schema=schema, model=model, **sampling)
        finally:
            _GIVEN.reset(token)

    @property
    def library(self) -> Library:
        """The models that can be had; none is fetched."""
        from engine.played import PlayedLibrary

        self._worker.check()
        return PlayedLibrary(self._config, self._models.wanted, self._worker.heed, self._pool.room, self._progress)


def _remove(home: str, pid: int) -> None:
    if os.getpid() == pid:  # not what a parent process still uses
        shutil.rmtree(home, ignore_errors=True)
