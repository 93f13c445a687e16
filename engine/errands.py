"""Tasks for callers, with whichever model is named: a text or dialogue → the finished result."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from engine import routing
from engine.errors import InvalidInput
from engine.inputs import CATEGORIES, Moment, check_dialogue, check_moment

if TYPE_CHECKING:
    from engine.answers import Answers
    from engine.bulk import Keep, Steps
    from engine.classifier import Classifier
    from engine.config import RoutingTable
    from engine.extractor import Extractor
    from engine.inputs import Turn
    from engine.korean.morphemes import Analyser
    from engine.pool import Pool
    from engine.summarizer import Summarizer
    from engine.tasks import Classification, ExtractedMemory, Reply, Summary, Understanding

Messages = str | Sequence[Mapping[str, object]]
TASKS = ("chat", "extraction", "classification", "summary")


class Errands:
    """Extraction, summary, understanding, and the choice between two models, for one engine."""

    def __init__(self, table: RoutingTable, pool: Pool, answers: Answers, classifier: Classifier) -> None:
        self._table, self._pool, self._answers, self._classifier = table, pool, answers, classifier
        self._analysing = threading.Lock()
        self._morphemes: Analyser | None = None

    @property
    def extractor(self) -> Extractor:
        """What extracts memories."""
        from engine.extractor import Extractor

        return Extractor(self._answers, self._pool, self._classifier)

    def extract(self, dialogue: Messages, at: Moment | None, model: str = "extraction") -> ExtractedMemory:
        """Return what the user of a dialogue said that is worth remembering. Raises `InvalidInput`, as chat does."""
        moment = check_moment(at, "at") or datetime.now().astimezone()
        return self.extractor.extract(check_dialogue(dialogue), moment, model)

    @property
    def summarizer(self) -> Summarizer:
        """What summarises dialogues."""
        from engine.summarizer import Summarizer

        return Summarizer(self._pool, self._answers)

    def extractions(self, at: Moment | None, keep: Keep | None) -> Steps:
        """Return what is done with each of many dialogues. Raises `InvalidInput`."""
        from engine.bulk import Steps

        moment = check_moment(at, "at") or datetime.now().astimezone()

        def extract(turns: Sequence[Turn]) -> ExtractedMemory:
            self._pool.worker.heed()  # many dialogues need no model, which would look
            return self.extractor.extract(turns, moment)

        return Steps(extract, keep)

    def summarize(self, dialogue: Messages, max_words: int | None, model: str = "summary") -> Summary:
        """Return a summary of at most `max_words` words. Raises as `Summarizer.summarize` does."""
        return self.summarizer.summarize(check_dialogue(dialogue, limit=None), max_words, model)

    def understand(self, text: str, at: Moment | None) -> Understanding:
        """Return what a user wants, by rules. Raises `InvalidInput`."""
        from engine.korean.dates import resolve
        from engine.korean.intent import understand_rules
        from engine.tasks import Understanding

        rules = understand_rules(text)
        when = resolve(text, check_moment(at, "at") or datetime.now().astimezone())
        keywords = self.analyser().keywords(text)
        return Understanding(rules.intent, rules.is_question, keywords, when, rules.needs_memory)

    def process(self, task: str, text: str) -> Reply | ExtractedMemory | Classification | Summary:
        """Do one of `TASKS` with the light or the heavy model. Raises `InvalidInput` for another task, too."""
        from engine.classification import check_categories

        if task not in TASKS:
            raise InvalidInput(f"{task!r} is not a task; there are {', '.join(TASKS)}")
        if task == "classification":
            labels = check_categories(CATEGORIES)
            return self._classifier.classify([text], labels, None, self._table.light)[0]
        model = self._route(text)
        if task == "extraction":
            return self.extract(text, None, model)
        if task == "summary":
            return self.summarize(text, None, model)
        return self._answers.stream(self._answers.question(check_dialogue(text), model, {}, None)).open().reply

    def analyser(self) -> Analyser:
        """Return what finds morphemes, which has its place in the budget. Raises `OutOfBudget`, `Cancelled`."""
        from engine.footprint import ANALYSER
        from engine.korean.morphemes import Analyser

        with self._pool.turn(self._analysing):
            if self._morphemes is None:
                self._morphemes = self._pool.keep("Korean analyser", ANALYSER, Analyser)
            return self._morphemes

    def _route(self, text: str) -> str:
        """Return the role or name of the model that reads a text; one that only embeds can read none."""
        light, heavy = self._table.light, self._table.heavy
        if self._pool.models.spec(light).kind != "llm":
            return heavy
        there = self._pool.in_memory(light), self._pool.in_memory(heavy)
        chosen = routing.choose(routing.complexity(text, self._table.weights), self._table, there)
        return light if chosen == "light" else heavy
