"""What a statement speaks of, and what it tells of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

from engine.korean.persons import PERSONS, SUBJECT
from engine.korean.statements import Mood, Reading, Word
from engine.korean.vocabulary import (
    CALLED,
    CHANGES,
    COUNTERS,
    DEGREES,
    DISLIKED,
    DONE,
    ENDS,
    FOCUS,
    GIVES,
    LIGHT,
    LIKED,
    NOWADAYS,
    PARTS,
    SHIFT,
    STANDS_FOR,
    TIMES,
    VERBS,
    WORKS,
)

Near = Callable[[], frozenset[str]]  # the slots that a statement is near


NOT_NOW: Final[frozenset[Mood]] = frozenset({"question", "wish", "plan", "if", "hearsay", "unsure", "remote"})


@dataclass(frozen=True)
class Case:
    """Two statements that are compared, and what tells the slots that each is near."""

    old: Reading
    new: Reading
    near_old: Near
    near_new: Near

    @cached_property
    def slots(self) -> frozenset[str]:
        """The slots of which both can be."""
        return self.near_old() & self.near_new()

    @cached_property
    def plans(self) -> bool:
        """Whether the earlier statement tells what is to be."""
        return bool(self.old.moods & {"plan", "decided"})


def things_of(words: Sequence[Word]) -> list[Word]:
    return [word for word in words if word.kind in {"noun", "name", "foreign", "number"}]


def forms_of(words: Sequence[Word]) -> frozenset[str]:
    return frozenset(word.form for word in words)


def content_of(words: Sequence[Word]) -> list[Word]:
    """Return `words` without when, how much, and numbers."""
    return [word for word in words if word.form not in TIMES | DEGREES and word.kind != "number"]


def clause_of(reading: Reading, word: Word) -> list[Word]:
    return [other for other in reading.words if other.clause == word.clause]


def spoken_of(words: Sequence[Word], old: Reading) -> list[Word]:
    """Return the things that `words` speak of: not when, and not what something is changed to (금요일 5시로)."""
    told = [word for word in things_of(content_of(words)) if word.form not in LIGHT and word.particle != "때문"]
    return [word for word in told if word.form in old.forms or not aims(word, words)]


def aims(word: Word, words: Sequence[Word]) -> bool:
    """Return whether `word` is of a target: it has the particle, or stands without one right before what has."""
    for distance, following in enumerate(words[words.index(word) :]):
        if following.particle or following.kind == "verb":
            return following.particle in {"로", "으로", "까지"} and (distance < 2 or word.kind in {"name", "foreign"})
    return False


def is_about(case: Case, spoken: Sequence[Word], slots: frozenset[str]) -> bool:
    """Return whether `spoken` is what the earlier statement speaks of: by its words, or as what its slot is called."""
    names = {STANDS_FOR.get(slot) for slot in slots if slot != "work" or case.old.forms & WORKS}
    return all(
        (word.form in case.old.forms and not _modifies(word, case.old, case.new))
        or word.form in names
        or word.form in PERSONS
        for word in spoken
    )


def _modifies(word: Word, reading: Reading, new: Reading) -> bool:
    """Return whether `word` stands before another noun, of which `new` does not speak (여행 in 여행 사진)."""
    for one, following in pairwise(reading.words):
        if one.form == word.form:
            noun = following.kind in {"noun", "name"} and following.form not in TIMES
            return noun and not one.particle and following.form not in new.forms
    return False


def numbers_of(words: Sequence[Word]) -> list[str]:
    return [word.form for word in words if word.kind == "number"]


def units_of(words: Sequence[Word]) -> list[str]:
    return [number.lstrip("0123456789._") for number in numbers_of(words)]


def is_told(word: Word, new: Reading) -> bool:
    """Return whether `word` is asserted: past (팔고 갈아탔어요), decided, or as a note (취소, 변경)."""
    last = new.words[-1]
    if word.kind != "verb" and word is not last and new.words[new.words.index(word) + 1].form not in DONE:
        return False  # 이사를 도와줬어요
    turned = word.clause < last.clause and (last.past or word.form in SHIFT or word.form in ENDS)  # 자퇴하고 …해요
    done = word.past or turned or "decided" in new.moods or word.kind != "verb"
    return not word.denied and (done or "되다" in new.marks or word is last)


def days_of(words: Sequence[Word]) -> frozenset[str]:
    return frozenset(word.form for word in words if word.form.endswith("요일") or word.form in PARTS)


def in_part(words: Sequence[Word]) -> bool:
    """Return whether `words` count what they speak of (학원 하나를): what is left is not told."""
    counted = [word for word in words if word.kind == "number" and word.particle not in {"로", "으로", "까지", "에"}]
    return bool({"", *COUNTERS} & set(units_of(counted)))


def attitude(reading: Reading) -> int:
    """Return 1 or -1 for what is said last of liking, doing or having."""
    last = reading.predicate or reading.words[-1]
    if last.form in DISLIKED | ENDS:
        return 0 if last.denied else -1
    return -1 if last.denied or "별로" in reading.forms else 1


def focus_of(words: Sequence[Word]) -> frozenset[str]:
    """Return what `words` are about with what stands before it (매운 음식): not where, with whom, how much."""
    found: list[str] = []
    kept: list[str] = []
    taken = bool(forms_of(words) & (LIKED | DISLIKED))  # with 에
    for word in words:
        if (word.form in TIMES | DEGREES and word.particle not in FOCUS) or word.kind == "number":
            continue
        if word.particle and word.particle not in FOCUS and not (taken and word.particle == "에"):
            kept = []
        elif word.form not in VERBS | LIGHT and word.kind != "adverb":
            kept.append(word.form)
        if word.particle in FOCUS or word.form in VERBS or (taken and word.particle == "에"):
            found += kept
            kept = []
    return frozenset(found or kept)


def split_topic(reading: Reading) -> tuple[list[Word], list[Word]]:
    """Return what a statement names, up to its last subject or what a slot is called, and what it tells of it."""
    words = [word for word in reading.words if word.form not in NOWADAYS | DEGREES - {"제일"}]
    ends = [
        place for place, word in enumerate(words[:-1]) if word.particle in SUBJECT - {"의"} and word.kind != "number"
    ]
    if not ends:
        ends = [
            place
            for place, (word, following) in enumerate(pairwise(words))
            if not word.particle and word.form in CALLED | PERSONS and following.kind not in {"noun", "verb"}
        ]
    place = ends[-1] + 1 if ends else 0
    return words[:place], words[place:]


def tells_value(words: Sequence[Word]) -> bool:
    verbs = [word.form for word in words if word.kind == "verb"]
    return not verbs or verbs[-1] in GIVES | CHANGES


def same_unit(gone: Sequence[Word], come: Sequence[Word]) -> bool:
    """Return whether both values are amounts of a kind, or neither is one."""
    one, other = units_of(gone), units_of(come)
    if {word.kind for word in (*gone, *come)} & {"name", "foreign"}:  # 아이폰 15, 갤럭시
        one, other = [unit for unit in one if unit], [unit for unit in other if unit]
    return sorted(one) == sorted(other) or (len(one) == len(other) == 1 and "" in (*one, *other))
