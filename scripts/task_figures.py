"""What the answers to the tasks are worth: figures from 0 to 1, JSON-ready; times are seconds. Pure, runs no model.

Where nothing can be divided (precision with nothing found) a figure is None. What failed with an error counts as wrong:
no label, nothing found, no fact covered.

- classification: accuracy, macro-F1, expected calibration error (ten bins), and at a threshold of confidence the part
  of the texts that keep their label and the accuracy there (scripts/calibration.py).
- extraction: `valid`, the part of dialogues that gave a result whose every item has the type, category, turn and date
  that the contract promises; `json`, the part of the answers of the model that parse; `sources`, the part of items
  whose quote stands word for word in the user turn that they name. Precision, recall and F1 of matched memories
  over all dialogues together, with any and with the same category: matched by place, and under `by_meaning` by the
  likeness of embeddings (scripts/task_matching.py). Of those matched by place, how many have the right time, kind and
  category. `unmatched`: items that match nothing; `false_memories`: what dialogues gave that hold no memory; `never`:
  items that hold, or lie in, what no memory may hold.
- rules: the same of the sentences alone that rules are sure of, without the category, which rules leave open in part.
- times and understanding: parts that are right; of each intent, how often it was right where it was found.
- summary: the part of all facts that are covered, of which each group of keys has an alternative in the summary,
  whatever the spacing; words; the part in the language of the dialogue.
- conversation: the part of answers with stray Han characters or kana, and with at least half of its letters in Hangul.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Generic, TypeVar

import calibration
import numpy as np
from calibration import Judged
from task_matching import Found, Matcher, Pair, by_place
from task_sets import Asked, Dated, Dialogue, Long, Prompt, Sentence, Span, Utterance

from engine.guard import holds
from engine.inputs import CATEGORIES
from engine.instructions import language_of
from engine.tasks import Classification, ExtractedItem, ExtractedMemory, Reply, Summary, Understanding

Item = TypeVar("Item")
Value = TypeVar("Value")
Turns = Sequence[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Answer(Generic[Item, Value]):
    """What was asked, what came in how many seconds, or the code of the error that came instead.

    `generated` is what the model wrote under a grammar, as far as that was heard.
    """

    item: Item
    value: Value | None
    seconds: float
    error: str | None = None
    generated: tuple[str, ...] = ()


Answers = Sequence[Answer[Item, Value]]
Extracted = tuple[Answer[Dialogue, ExtractedMemory], list[Found]]


def share(flags: Iterable[bool]) -> float | None:
    """Return the part of the flags that are true, None of none."""
    every = list(flags)
    return sum(every) / len(every) if every else None


def percentiles(values: Iterable[float]) -> dict[str, float] | None:
    """Return the 50th and the 95th percentile, None of nothing."""
    every = list(values)
    return {f"p{part}": float(np.percentile(every, part)) for part in (50, 95)} if every else None


# ---- classification


def classification(answers: Answers[Sentence, Classification], abstain: float) -> dict[str, Any]:
    """Return how good labels and confidences are; at least one answer."""
    judged = [_judged(answer) for answer in answers]
    (kept,) = calibration.coverage(judged, [abstain])
    return {
        "accuracy": calibration.accuracy(judged),
        "macro_f1": calibration.macro_f1(judged),
        "ece": calibration.ece(judged),
        "confident": asdict(kept),
    }


def _judged(answer: Answer[Sentence, Classification]) -> Judged:
    found = answer.value
    return Judged(answer.item.category, found.label, found.confidence) if found else Judged(answer.item.category, None)


# ---- extraction


def extraction(answers: Answers[Dialogue, ExtractedMemory], by_meaning: Matcher) -> dict[str, Any]:
    """Return how good extractions are."""
    both = [(answer, _found(answer)) for answer in answers]
    place, meaning = matched(both, by_place()), matched(both, by_meaning)
    return {
        "valid": share(_valid(answer) for answer in answers),
        "json": share(_parses(text) for answer in answers for text in answer.generated),
        "sources": share(_quoted(answer.item.dialogue, one.item) for answer, items in both for one in items),
        **place,
        "by_meaning": {key: meaning[key] for key in ("memories", "any_category", "same_category")},
        **_wrong(both),
    }


def rules(answers: Answers[Dialogue, ExtractedMemory]) -> dict[str, Any]:
    """Return how good what rules are sure of is, alone."""
    both = [(answer, _found(answer)) for answer in answers]
    place = matched(both, by_place())
    of_matched = {key: place["of_matched"][key] for key in ("when", "when_dated", "kind")}
    return {
        "memories": place["memories"],
        "any_category": place["any_category"],
        "of_matched": of_matched,
        **_wrong(both),
    }


def matched(both: Sequence[Extracted], matcher: Matcher) -> dict[str, Any]:
    """Return what was found beside what was to be found, of all dialogues together."""
    gold = sum(len(answer.item.memories) for answer, _ in both)
    found = sum(len(items) for _, items in both)
    pairs = [pair for answer, items in both for pair in matcher.pairs(answer.item, items)]
    strict = sum(len(matcher.pairs(answer.item, items, same_category=True)) for answer, items in both)
    return {
        "memories": {"gold": gold, "found": found, "matched": len(pairs), "unmatched": found - len(pairs)},
        "any_category": rates(len(pairs), found, gold),
        "same_category": rates(strict, found, gold),
        "of_matched": _of_matched(pairs),
    }


def rates(right: int, found: int, gold: int) -> dict[str, float | None]:
    """Return precision, recall and F1; F1 is 1 where nothing was to be found and nothing was."""
    precision, recall = (right / whole if whole else None for whole in (found, gold))
    return {"precision": precision, "recall": recall, "f1": 2 * right / (found + gold) if found + gold else 1.0}


def _of_matched(pairs: Sequence[Pair]) -> dict[str, float | None]:
    return {
        "when": share(one.item.when == gold.when for one, gold in pairs),
        "when_dated": share(one.item.when == gold.when for one, gold in pairs if gold.when),
        "kind": share(one.kind == gold.kind for one, gold in pairs),
        "category": share(one.item.category == gold.category for one, gold in pairs),
    }


def _wrong(both: Sequence[Extracted]) -> dict[str, dict[str, int]]:
    hits = [(answer.item.type, sum(_forbidden(answer.item, one.item) for one in items)) for answer, items in both]
    never = {"all": sum(n for _, n in hits), "hostile": sum(n for kind, n in hits if kind == "hostile")}
    return {"false_memories": _nothing(both), "never": never}


def _nothing(both: Sequence[Extracted]) -> dict[str, int]:
    """Return how many memories dialogues gave that hold none, and how many of these dialogues gave any."""
    counts = [len(items) for answer, items in both if answer.item.type == "nothing"]
    return {"dialogues": len(counts), "with_memories": sum(map(bool, counts)), "memories": sum(counts)}


def _found(answer: Answer[Dialogue, ExtractedMemory]) -> list[Found]:
    return [Found(kind, item) for kind, item in answer.value.items()] if answer.value else []


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _valid(answer: Answer[Dialogue, ExtractedMemory]) -> bool:
    found, turns = answer.value, answer.item.dialogue
    if not isinstance(found, ExtractedMemory) or not _parses(json.dumps(found.to_dict())):
        return False
    return all(_well_formed(item, turns) for _, item in found.items())


def _well_formed(item: ExtractedItem, turns: Turns) -> bool:
    words = bool(item.text.strip() and item.quote.strip())
    dated = item.when is None or type(item.when) is date
    return words and dated and item.category in CATEGORIES and item.source in range(len(turns))


def _quoted(turns: Turns, item: ExtractedItem) -> bool:
    turn = turns[item.source] if item.source in range(len(turns)) else {}
    return turn.get("role") == "user" and item.quote in turn["content"]


def _forbidden(dialogue: Dialogue, item: ExtractedItem) -> bool:
    """Return whether an item holds what no memory may hold, or all of its quote lies in it wherever it stands."""
    turn = dialogue.dialogue[item.source]["content"] if item.source in range(len(dialogue.dialogue)) else ""
    return any(text in item.text or _within(item.quote, text, turn) for text in dialogue.never)


def _within(quote: str, text: str, turn: str) -> bool:
    return quote in text and text in turn and quote not in turn.replace(text, "\n")


# ---- rules


def times(answers: Answers[Dated, Understanding]) -> dict[str, Any]:
    """Return how many sentences were given the right days, by half."""
    halves = sorted({answer.item.split for answer in answers})
    return {"halves": {half: _dated([one for one in answers if one.item.split == half]) for half in halves}}


def _dated(answers: Answers[Dated, Understanding]) -> dict[str, Any]:
    right = [_when(answer) == answer.item.when for answer in answers]
    return {"right": sum(right), "of": len(right), "share": share(right)}


def wrong_times(answers: Answers[Dated, Understanding]) -> list[dict[str, Any]]:
    """Return the sentences whose days are wrong, JSON-ready: where they stand, and both answers."""
    return [
        {"line": one.item.line, "text": one.item.text, "at": one.item.at.isoformat(),
         "wanted": _days(one.item.when), "found": _days(_when(one))}
        for one in answers if _when(one) != one.item.when
    ]  # fmt: skip


def _when(answer: Answer[Any, Understanding]) -> Span | None:
    return answer.value.when if answer.value else None


def _days(span: Span | None) -> list[str] | None:
    return [day.isoformat() for day in span] if span else None


def understanding(answers: Answers[Utterance, Understanding]) -> dict[str, Any]:
    """Return how good the understanding of utterances is; at least one answer."""
    judged = [Judged(one.item.intent, one.value.intent if one.value else None) for one in answers]
    return {
        "intent": {
            "accuracy": calibration.accuracy(judged),
            "macro_f1": calibration.macro_f1(judged),
            "precision": precisions(judged),
        },
        "is_question": _agree(answers, lambda item, found: found.is_question == item.is_question),
        "when": _agree(answers, lambda item, found: found.when == item.when),
        "needs_memory": _agree(answers, lambda item, found: found.needs_memory == item.needs_memory),
    }


def _agree(
    answers: Answers[Utterance, Understanding], agree: Callable[[Utterance, Understanding], bool]
) -> float | None:
    return share(one.value is not None and agree(one.item, one.value) for one in answers)


def precisions(judged: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """Return by label how often it was found, how often it was to be, and how often it was right where found."""
    found, gold = Counter(one.label for one in judged), Counter(one.gold for one in judged)
    right = Counter(one.gold for one in judged if one.gold == one.label)
    return {
        label: {"found": found[label], "gold": gold[label], "precision": _part(right[label], found[label])}
        for label in sorted(gold.keys() | {label for label in found if label})
    }


def _part(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def questions(answers: Answers[Asked, Understanding]) -> dict[str, Any]:
    """Return how often questions are told from what is none, and of each how many were found out."""
    right = [one.value is not None and one.value.is_question == one.item.is_question for one in answers]
    both = list(zip(answers, right, strict=True))
    return {
        "accuracy": share(right),
        "questions": share(good for one, good in both if one.item.is_question),
        "others": share(good for one, good in both if not one.item.is_question),
    }


# ---- what is written


def summary(answers: Answers[Long, Summary]) -> dict[str, Any]:
    """Return what summaries keep, how long they are, and in which language."""
    written = [(one.item, one.value.text) for one in answers if one.value]
    kept = [covered(fact.keys, one.value.text) if one.value else False for one in answers for fact in one.item.facts]
    speaks = [language_of(" ".join(turn["content"] for turn in item.dialogue)) for item, _ in written]
    return {
        "facts": len(kept),
        "coverage": share(kept),
        "words": percentiles(len(text.split()) for _, text in written),
        "language": share(_in(text, want) for (_, text), want in zip(written, speaks, strict=True)),
        "stray": share(holds(text) for _, text in written),
    }


def covered(keys: Iterable[Iterable[str]], text: str) -> bool:
    """Return whether of each group one alternative stands in a text; spaces and case do not matter."""
    plain = _plain(text)
    return all(any(_plain(key) in plain for key in group) for group in keys)


def _plain(text: str) -> str:
    return "".join(text.split()).casefold()


def conversation(answers: Answers[Prompt, Reply]) -> dict[str, Any]:
    """Return the purity and the speed of answers."""
    replies = [one.value for one in answers if one.value]
    return {
        "stray": share(holds(reply.text) for reply in replies),
        "korean": share(_in(reply.text, "ko") for reply in replies),
        "empty": sum(not reply.text.strip() for reply in replies),
        "ttft": percentiles(reply.usage.ttft for reply in replies),
        "tokens_per_second": percentiles(reply.usage.tokens_per_second for reply in replies),
    }


def hangul(text: str) -> float | None:
    """Return the part of the letters of a text that are Hangul, None without letters."""
    return share("가" <= char <= "힣" or "ㄱ" <= char <= "ㆎ" for char in text if char.isalpha())


def _in(text: str, language: str) -> bool:
    part = hangul(text)
    return part is not None and (part >= 0.5) == (language == "ko")
