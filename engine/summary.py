"""Dialogue → what a model is asked for a summary, how a long one is cut, and what is kept of an answer. Pure.

Contract: a listing has one line a turn, which begins with who speaks; nothing that anyone says or is called begins a
line. Stretches hold every character of their turns in order, but for control characters and the width of blanks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from engine import instructions
from engine.errors import ContextOverflow
from engine.inputs import Turn
from engine.instructions import Language
from engine.korean.sentences import sentences

Count = Callable[[str], int]  # tokens of a text
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_BREAK = re.compile(r"[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")  # what any reader might take for the end of a line
_EDGES = re.compile(r"\A[\s\x00-\x1f\x7f-\x9f]+|[\s\x00-\x1f\x7f-\x9f]+\Z")
_FORGES = re.compile(r"[()\[\]<>:/（）［］＜＞：／]+")  # what a label or a listing is made of
_ENDS = re.compile(r"""[.!?。…‥][)\]}"'”’」』]*\Z""")
_HANGUL = re.compile("[가-힣ㄱ-ㆎᄀ-ᇿ]")
_KOREAN_SHARE = 5  # one letter in so many: Korean talk of software is largely Latin letters
_NAME = 30  # letters of a name that are shown: it stands in every line
_STRETCH = 1_000  # letters of a stretch: how long a tokenizer is busy with one
_SHORTEST, _LONGEST, _GROWTH = 20, 400, 4  # words of a summary: _GROWTH times the root of the dialogue's
_LETTERS_A_WORD = 6  # at most: for languages that put no blanks between words
_SLACK, _MARGIN = 1.25, 16  # tokens of an answer, over those of as many words of the dialogue
_LEAST_PART = 12  # tokens of a part, below which it may not hold a word
_LEAST_HEAD = 48  # tokens of a turn that say something
_LEAST_RATE = 2.0  # tokens a word, where a dialogue has stranger words than a summary of it


@dataclass(frozen=True, slots=True)
class Stretch:
    """A sentence or less of one turn: `label` begins its line, `lead` parts it from the stretch before."""

    turn: int
    label: str
    lead: str
    text: str

    def halves(self) -> tuple[Stretch, Stretch]:
        """Return it in two, cut at the blank nearest its middle, or in the middle; it needs two characters."""
        half, quarter = len(self.text) // 2, len(self.text) // 4
        blanks = [found.start() for found in re.finditer(" ", self.text[quarter : len(self.text) - quarter])]
        cut = min((quarter + at for at in blanks if quarter + at), key=lambda at: abs(at - half), default=half)
        rest = self.text[cut:]
        return replace(self, text=self.text[:cut]), replace(self, lead=" " * (rest[0] == " "), text=rest.lstrip(" "))


@dataclass(frozen=True, slots=True)
class Aim:
    """How long an answer should be: the words that the model is told, the tokens that it may take."""

    words: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What of a model and a dialogue decides how it is cut.

    `cells` is the model's KV cache in tokens, `overhead` what a prompt takes beside the dialogue, `words` and
    `tokens` are the dialogue's.
    """

    cells: int
    overhead: int
    words: int
    tokens: int

    @property
    def _rate(self) -> float:
        return max(_LEAST_RATE, _SLACK * self.tokens / max(1, self.words))

    def words_in(self, tokens: int) -> int:
        """Return how many words an answer of so many tokens has room for."""
        return max(1, int((tokens - _MARGIN) / self._rate))

    def tokens_for(self, words: int) -> int:
        """Return how many tokens an answer of so many words may take."""
        return _MARGIN + math.ceil(words * self._rate)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the model: what its answer aims at, and the tokens that prompt and answer may take together.

    `room` of these is for what it reads; negative where it has none.
    """

    aim: Aim
    most: int
    room: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a dialogue is summarised: `part` where it takes several calls, for each before the last."""

    last: Call
    part: Call

    def tighter(self) -> Plan:
        """Return it with parts half as long. Raises `ContextOverflow` where they would say nothing."""
        aim = Aim(max(1, self.part.aim.words // 2), self.part.aim.tokens // 2)
        if aim.tokens < _LEAST_PART:
            raise ContextOverflow(self.part.most, self.part.most)
        return replace(self, part=replace(self.part, aim=aim))


def plan_for(measured: Measured, words: int, most: int | None = None) -> Plan:
    """Return the plan for a summary of about `words` words and at most `most` tokens.

    A call has 7/8 of the cells. Where it takes several, those before the last have a quarter of them each, or 2,048,
    so that some run side by side. A part is at most a quarter of what its call has: three fit the next one.
    """
    whole = measured.cells * 7 // 8
    share = max(measured.cells // 4, min(whole, 2_048))
    free, shared = whole - measured.overhead, share - measured.overhead
    last = _aim(measured, words, min(free // 3, measured.cells // 4, most or measured.cells))
    part = _aim(measured, default_words(measured.words_in(shared)), shared // 4)
    return Plan(Call(last, whole, free - last.tokens), Call(part, share, shared - part.tokens))


def _aim(measured: Measured, words: int, most: int) -> Aim:
    tokens = max(1, min(measured.tokens_for(words), most))
    return Aim(min(words, measured.words_in(tokens)), tokens)


def default_words(words: int) -> int:
    """Return how long a summary of so many words is: it grows with their square root, from 20 to 400."""
    return max(_SHORTEST, min(_LONGEST, _GROWTH * math.isqrt(words)))


def count_words(text: str) -> int:
    """Return the words of a text, or what its letters would make where few blanks part them."""
    return max(len(text.split()), len(text) // _LETTERS_A_WORD)


def language_of_dialogue(turns: Sequence[Turn]) -> Language:
    """Return "ko" where a fifth of all letters is Hangul, which says more with fewer letters; else "en"."""
    letters = sum(sum(map(str.isalpha, turn.content)) for turn in turns)
    hangul = sum(len(_HANGUL.findall(turn.content)) for turn in turns)
    return "ko" if hangul and hangul * _KOREAN_SHARE >= letters else "en"


def stretches_of(turns: Sequence[Turn], language: Language, former: str | None = None) -> list[Stretch]:
    """Return what is said, cut at sentences, a former summary first; a turn of blanks alone says nothing.

    The only turn of a text that nobody's name belongs to has no label: it is no conversation.
    """
    speakers = instructions.SPEAKERS[language]
    alone = len(turns) == 1 and not turns[0].name and not former
    label = f"{speakers['former']}: "
    said = [(label, former.removeprefix(label))] if former else []  # what stood in for one has the label
    said += [("" if alone else _label(turn, speakers[turn.role]), turn.content) for turn in turns]
    return [one for number, (label, text) in enumerate(said) for one in _stretches(number, label, text)]


def stretches_of_parts(parts: Sequence[str]) -> list[Stretch]:
    """Return partial summaries for the next call, each a stretch and a line."""
    return [Stretch(i, "", "", one_line(part)) for i, part in enumerate(parts)]


def _label(turn: Turn, role: str) -> str:
    printable = "".join(char if char.isprintable() else " " for char in turn.name or "")
    name = " ".join(_FORGES.sub(" ", printable).split())[:_NAME].strip()
    return f"{role}({name}): " if name else f"{role}: "


def _stretches(number: int, label: str, text: str) -> list[Stretch]:
    found: list[Stretch] = []
    past = 0
    for begin, end in sentences(text):
        lead = _BLANK.sub(_blank, text[past:begin])
        found += _short(Stretch(number, label, lead, one_line(text[begin:end])))
        past = end
    return [one for one in found if one.text]


def _short(stretch: Stretch) -> list[Stretch]:
    waiting, found = [stretch], []
    while waiting:
        one = waiting.pop()
        if len(one.text) <= _STRETCH:
            found.append(one)
        else:
            waiting += reversed(one.halves())
    return found


def one_line(text: str) -> str:
    """Return a text in one line: runs of blanks and control characters become a blank, with a line break ` / `."""
    return _BLANK.sub(_blank, _EDGES.sub("", text))


def _blank(run: re.Match[str]) -> str:
    return " / " if _BREAK.search(run[0]) else " "


def written(stretches: Sequence[Stretch]) -> list[str]:
    """Return what each stretch adds to a listing; a line break begins every turn."""
    texts, turn = [], None
    for one in stretches:
        texts.append(one.lead + one.text if one.turn == turn else f"\n{one.label}{one.text}")
        turn = one.turn
    return texts


def listing(stretches: Sequence[Stretch]) -> str:
    """Return stretches as the model reads them, one line a turn."""
    return "".join(written(stretches)).removeprefix("\n")


def in_two(stretches: Sequence[Stretch]) -> tuple[list[Stretch], list[Stretch]]:
    """Return what is too long for one call in two: cut where a turn begins near the middle, else there.

    A single stretch needs two characters.
    """
    if len(stretches) == 1:
        one, other = stretches[0].halves()
        return [one], [other]
    half, quarter = len(stretches) // 2, len(stretches) // 4
    begins = [i for i in range(1, len(stretches)) if stretches[i].turn != stretches[i - 1].turn]
    near = [i for i in begins if quarter <= i <= len(stretches) - quarter]
    cut = min(near, key=lambda i: abs(i - half), default=half)
    return list(stretches[:cut]), list(stretches[cut:])


def prompt(told: str, text: str, words: int, language: Language) -> tuple[Turn, Turn]:
    """Return the messages that ask for a summary of a listing in at most `words` words.

    The number stands last, where small models heed it, and what is told stays the same for every length.
    """
    return Turn("system", told), Turn("user", f"{text}\n\n{instructions.AT_MOST[language].format(words=words)}")


def summary_turns(turns: Sequence[Turn], max_words: int | None) -> tuple[Turn, Turn]:
    """Return the messages that ask for a summary of a dialogue that is not cut."""
    language = language_of_dialogue(turns)
    text = listing(stretches_of(turns, language))
    words = max_words or default_words(count_words(text))
    return prompt(instructions.SUMMARIZE[language], text, words, language)


def packed(stretches: Sequence[Stretch], sizes: Sequence[int], room: int) -> list[list[Stretch]]:
    """Return stretches in as few pieces of at most `room` as whole turns allow, of like size; `sizes` are theirs.

    Only a turn larger than a piece is cut, at a stretch. Each of `sizes` is at most `room`.
    """
    groups: list[list[tuple[Stretch, int]]] = []
    for _, said in groupby(zip(stretches, sizes, strict=True), key=lambda pair: pair[0].turn):
        turn = list(said)
        groups += [turn] if sum(size for _, size in turn) <= room else [[pair] for pair in turn]
    pieces = _filled(groups, room)
    low, high = sum(sizes) // len(pieces), room
    while low < high:
        middle = (low + high) // 2
        tried = _filled(groups, middle)
        if len(tried) <= len(pieces):
            pieces, high = tried, middle
        else:
            low = middle + 1
    return pieces


def _filled(groups: Sequence[Sequence[tuple[Stretch, int]]], room: int) -> list[list[Stretch]]:
    """Put what stays together one after another into pieces of `room`; what is larger is one of its own."""
    pieces: list[list[Stretch]] = []
    left = 0
    for group in groups:
        size = sum(size for _, size in group)
        if not pieces or size > left:
            pieces.append([])
            left = room
        pieces[-1] += [one for one, _ in group]
        left -= size
    return pieces


def shortened(text: str, most: int, count: Count) -> str:
    """Return the leading whole sentences of `text` that are at most `most` tokens, or the head of its first one."""
    if count(text) <= most:
        return text
    ends = [end for _, end in sentences(text)]
    kept = text[: _longest(ends, text, most, count)].strip()
    if kept:
        return kept
    cut = _longest(range(1, len(text)), text, most, count)
    blank = text.rfind(" ", cut // 2, cut + 1)
    return text[: cut if blank < 0 else blank].strip()


def _longest(ends: Sequence[int], text: str, most: int, count: Count) -> int:
    """Return the last of `ends` up to which a text is at most `most` tokens; 0 if none is."""
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high + 1) // 2
        if count(text[: ends[middle - 1]]) <= most:
            low = middle
        else:
            high = middle - 1
    return ends[low - 1] if low else 0


def heads(stretches: Sequence[Stretch], most: int, count: Count) -> str:
    """Return at most `most` tokens of a listing: the head of every turn, or of all where that would say nothing."""
    turns = [listing(list(said)) for _, said in groupby(stretches, key=lambda one: one.turn)]
    share = most // len(turns) - 2  # a line break, and what is lost on it
    if share < _LEAST_HEAD:
        return shortened("\n".join(turns), most, count)
    return "\n".join(shortened(turn, share, count) for turn in turns)


def finished(text: str) -> str:
    """Return an answer that was cut short without the sentence that it was cut in, unless there is no other."""
    spans = sentences(text)
    if len(spans) > 1 and not _ENDS.search(text.rstrip()):
        spans.pop()
    return text[: spans[-1][1]] if spans else ""


def says_something(text: str) -> bool:
    """Return whether an answer holds a letter or a digit."""
    return any(map(str.isalnum, text))


def cut_words(text: str, max_words: int | None) -> str:
    """Return whole sentences of `text` up to `max_words` words, or that many words of its first sentence."""
    if max_words is None or len(text.split()) <= max_words:
        return text.strip()
    kept = ""
    for _, end in sentences(text):
        if len(text[:end].split()) > max_words:
            break
        kept = text[:end]
    return kept.strip() or " ".join(text.split()[:max_words])
