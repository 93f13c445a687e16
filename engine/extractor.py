"""Dialogues → memories, with models: rules find the sentences, an LLM decides on those that rules cannot tell."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from engine import extraction
from engine.errors import ContextOverflow
from engine.inputs import CATEGORIES, Turn
from engine.tasks import ExtractedMemory

if TYPE_CHECKING:
    from engine.answers import Answers
    from engine.classifier import Classifier
    from engine.extraction import Kept, Window
    from engine.korean.candidates import Candidate
    from engine.pool import Pool
    from engine.runner import Runner
    from engine.sampling import Sampling
    from engine.stream import Stream

_SPARE = 16  # tokens beside the longest answer: a model need not write words in as few as can be


@dataclass(frozen=True, slots=True)
class _Planned:
    window: Window
    most: int  # tokens of its answer


class Extractor:
    """Extracts for one engine."""

    def __init__(self, answers: Answers, pool: Pool, classifier: Classifier) -> None:
        self._answers, self._pool, self._classifier = answers, pool, classifier

    def extract(
        self, turns: Sequence[Turn], at: datetime, model: str = "extraction", asked: Collection[int] | None = None
    ) -> ExtractedMemory:
        """Return what the user said that is worth remembering, in the turns with the numbers `asked`, or in all.

        The other turns are context. No model is asked where rules find no sentence that could be a memory. Raises
        `ContextOverflow` where not even a part of one sentence fits the model, and as chat does.
        """
        from engine.korean.candidates import candidates

        found = [one for one in candidates(turns) if asked is None or one.turn in asked]
        kept = self._kept(turns, found, model)
        if not kept:
            return ExtractedMemory()
        return extraction.collect(turns, kept, self._categories(turns, kept), at)

    def _kept(self, turns: Sequence[Turn], found: Sequence[Candidate], model: str) -> list[Kept]:
        kept = {one: extraction.sure_of(turns, one) for one in found if one.sure}
        unsure = [one for one in found if not one.sure]
        kept.update({one.candidate: one for one in self._decided(turns, unsure, model)})
        return [kept[one] for one in found if one in kept]

    def _decided(self, turns: Sequence[Turn], asked: Sequence[Candidate], model: str) -> list[Kept]:
        """Return those of `asked` that the model keeps; all windows are under way at once."""
        with contextlib.ExitStack() as stack:
            running: list[tuple[Window, Stream]] = []
            while asked:
                planned = self._pool.call(model, partial(_plan, turns, asked), "llm")
                running.append((planned.window, stack.enter_context(self._start(planned, model))))
                asked = asked[len(planned.window.asked) :]
            return [one for window, stream in running for one in extraction.kept_of(stream.reply.text, window)]

    def _start(self, planned: _Planned, model: str) -> Stream:
        from engine.constrain import Grammar

        sampling: Sampling = {"temperature": 0.0, "repeat_penalty": 1.0, "max_tokens": planned.most}
        grammar = Grammar.lark(extraction.extraction_grammar(planned.window))
        return self._answers.ask(model, extraction.extraction_turns(planned.window), sampling, grammar)

    def _categories(self, turns: Sequence[Turn], kept: Sequence[Kept]) -> list[str]:
        """Return the category of each, by rule where that can tell, else by the model of that role, all at once."""
        from engine.classification import check_categories
        from engine.korean.kinds import category_of

        texts = [extraction.text_of(turns, one) for one in kept]
        told = [category_of(one.quote) or category_of(text) for one, text in zip(kept, texts, strict=True)]
        rest = [text for text, category in zip(texts, told, strict=True) if category is None]
        found = iter(self._classifier.classify(rest, check_categories(CATEGORIES), None) if rest else ())
        return [category or next(found).label or CATEGORIES[0] for category in told]


def _plan(turns: Sequence[Turn], asked: Sequence[Candidate], runner: Runner) -> _Planned:
    """On the compute thread: choose what is asked next by how many tokens it takes."""

    def lengths(window: Window) -> tuple[int, int]:
        told = extraction.extraction_turns(window)
        prompt = len(runner.encode(told))
        return prompt, len(runner.encode([*told, Turn("assistant", extraction.longest_answer(window))])) - prompt

    def fits(window: Window) -> bool:
        try:
            return sum(lengths(window)) + _SPARE <= runner.kv_cells
        except ContextOverflow:
            return False

    window = extraction.next_window(turns, asked, fits)
    return _Planned(window, lengths(window)[1] + _SPARE)
