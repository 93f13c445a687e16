"""Whether a later statement says the same as an earlier one, takes its place, or neither.

How alike two embeddings are does not tell: 월요일마다 수영장에 가요 and 목요일마다 수영장에 가요 are as near to each
other as paraphrases are. So morphemes decide; embeddings tell which slot of a life each fills (`engine.slots`), and may
object. Where nothing speaks for more, the statements are different and both are kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from typing import TYPE_CHECKING

from engine.faculties import Verdict
from engine.korean.changes import replaces
from engine.korean.dates import find_dates
from engine.korean.statements import Reading, Word, read
from engine.korean.vocabulary import DEGREES, TIMES
from engine.slots import Slots

if TYPE_CHECKING:
    from engine.slots import Embed

LIKE_SAME = 1.5  # least likeness of two statements that are merged, in standard deviations of the cohort
LIKE_REPLACED = 0.3
_LONGEST = 150  # morphemes; what is longer says more than one thing
_UNSAID = frozenset(
    "직업 음식 경기 곳 지나다 있다 성격 스타일 체질 타입".split()
)  # 직업은 약사예요 says no more than 약사예요
_COUNTERS = re.compile("(?<=\\d)(?:명|인|마리|개|대|권|채|벌)$")
_ROLES = {
    "이": "subject", "가": "subject", "께서": "subject", "을": "object", "를": "object", "ᆯ": "object",
    "에게": "to", "한테": "to", "께": "to", "로": "toward", "으로": "toward", "에서": "at", "부터": "from",
    "에게서": "from", "한테서": "from", "까지": "until", "보다": "than",
}  # fmt: skip
_NOWADAYS = frozenset("지금 현재 요즘 요새 되다".split())  # what is told is of now anyway
_STRICT = frozenset({"to", "from", "until", "than", "at"})  # to be said of the same words, or of none
_ONCE = 1  # days within which what happened may be told twice
_FROM_NOW = re.compile("전|뒤|후|지난|다음|이번|작년|내년|올해")
_CLOSING = re.compile(r"(?<=[가-힣])[.,!~…:]+(?=\s|$)")  # says nothing after a Korean word; abc! is a password
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_EXACT = re.compile(r"[^\s가-힣ㄱ-ㅣ?]+")  # numbers, Latin words and signs as they are written: C++, 5.5, a_b@c.kr
_SOME_DAY = datetime(2024, 1, 1)


@dataclass(frozen=True, slots=True)
class Statement:
    """What a user said, its morphemes as (form, tag) of Kiwi, when, and of which category."""

    text: str
    tokens: Sequence[tuple[str, str]]
    when: datetime | None = None
    category: str | None = None


class Judge:
    """Judges statements of one user; `embed` makes the unit vectors (n, d) that tell what slots they fill."""

    def __init__(self, embed: Embed) -> None:
        self._near = Slots(embed).near

    def __call__(self, old: Statement, new: Statement, likeness: float) -> Verdict:
        """Return what `new`, said later by the same user, does to `old`: "same", "replaces" or "different".

        "same": `new` holds all that `old` says, with the same numbers, dates, names, foreign words and negations, so
        `old` can go. "replaces": `old` was true and by `new` is so no more. `likeness` is `cohort.likeness` of the
        embeddings. Texts are embedded only where the words leave it open.
        """
        if max(len(old.tokens), len(new.tokens)) > _LONGEST:
            return "different"
        before, after = read(old.tokens), read(new.tokens)
        if not before.words or not after.words:
            return "different"
        alike = likeness >= LIKE_SAME and before.moods == after.moods and _exactly(old.text, new.text)
        if alike and (_spelt_alike(old, new) or _same(before, after)) and _same_time(old, new, before):
            return "same"
        near = partial(self._near, old.text), partial(self._near, new.text)
        return "replaces" if likeness >= LIKE_REPLACED and replaces(before, after, *near) else "different"


# ---- the same


def _same(old: Reading, new: Reading) -> bool:
    return (
        max(old.denials, new.denials) <= 1  # 안 먹는 건 아니다
        and old.speaker == new.speaker
        and old.marks - _NOWADAYS == new.marks - _NOWADAYS
        and _words(old) == _words(new)
        and _in_order(old, new)
        and _roles_agree(old, new)
    )


def _spelt_alike(old: Statement, new: Statement) -> bool:
    """Return whether both are one text, written together or apart (안하고, 안 하고), with the same names."""
    names = [{form for form, tag in one.tokens if tag == "NNP"} for one in (old, new)]
    denied = [sum(word.denied != "" for word in read(one.tokens).words) for one in (old, new)]  # 잘못하다, 잘 못하다
    return names[0] == names[1] and denied[0] == denied[1] and _letters(old.text) == _letters(new.text) != ""


def _letters(text: str) -> str:
    return "".join(_CLOSING.sub("", text).split())


def _exactly(old: str, new: str) -> bool:
    """Return whether numbers, Latin words and signs are the same; a whole number may be spelled (세 시, 3시)."""
    one, other = (Counter(_EXACT.findall(_THOUSANDS.sub("", _CLOSING.sub("", text)))) for text in (old, new))
    plain, numbers = ({run: found[run] for run in found if run.isdecimal()} for found in (one, other))
    fewer = Counter(plain) <= Counter(numbers) or Counter(numbers) <= Counter(plain)
    return fewer and one - Counter(plain) == other - Counter(numbers)


def _words(reading: Reading) -> Counter[tuple[str, str, bool, bool]]:
    """Return each word with what is denied of it, whether it is past, and whether it is the only one."""
    return Counter((_counted(word), word.denied, word.past, word.only) for word in _said(reading))


def _said(reading: Reading) -> list[Word]:
    words = reading.words
    after = zip(words[1:], words, strict=False)
    jobs = [word for word, before in after if word.form == "일" and before.particle in {"로", "으로"}]
    return [word for word in words if (word.form not in _UNSAID or word.denied) and word not in jobs] or list(words)


def _in_order(old: Reading, new: Reading) -> bool:
    """Return whether words stand in one order, or whole phrases of a plain sentence do not (산책을 공원에서 해요)."""
    said = _said(old), _said(new)
    if [word.form for word in said[0]] == [word.form for word in said[1]]:
        return True
    for words in said:
        several = [sum(word.kind in kinds for word in words) for kinds in (("verb",), ("number",))]
        if max(several) > 1 or words[-1].clause:
            return False
    return _chunks(said[0]) == _chunks(said[1])


def _chunks(words: Sequence[Word]) -> Counter[tuple[str, ...]]:
    """Return the words of each phrase: up to a particle other than 의; a time or an adverb alone is one."""
    found: list[tuple[str, ...]] = [()]
    for word in words:
        alone = word.kind in {"adverb", "verb"} or (not word.particle and word.form in TIMES | DEGREES)
        if alone:
            found += [(word.form,), ()]
        else:
            found[-1] = (*found[-1], _counted(word))
            found += [()] if word.particle not in {"", "의"} else []
    return Counter(phrase for phrase in found if phrase)


def _counted(word: Word) -> str:
    """Return the word, of a number what it counts left out: 손주가 셋, 손주가 세 명."""
    return _COUNTERS.sub("", word.form) if word.kind == "number" else word.form


def _roles_agree(old: Reading, new: Reading) -> bool:
    """Return whether nobody does in one what is done to them in the other (민지가 철수를, 철수가 민지를)."""
    before, after = _roles(old.words), _roles(new.words)
    played = {form: role for role, forms in before.items() for form in forms}
    if any(played.get(form, role) != role for role, forms in after.items() for form in forms):
        return False
    is_equation = all(reading.words[-1].kind not in {"verb", "adverb"} for reading in (old, new))  # A가 B다, B가 A다
    for role in (before.keys() | after.keys()) - ({"subject"} if is_equation else set()):
        one, other = before.get(role, frozenset()), after.get(role, frozenset())
        if one != other and (role in _STRICT or (one and other)):
            return False
    return True


def _roles(words: Sequence[Word]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for word in words:
        role = _ROLES.get(word.particle)
        if role:
            found[role] = found.get(role, frozenset()) | {word.form}
    return found


def _same_time(old: Statement, new: Statement, reading: Reading) -> bool:
    """Return whether 내일 is the same day in both, and whether what happened can be one event."""
    if old.when is None and new.when is None:
        return True
    begun, then = old.when or _SOME_DAY, new.when or _SOME_DAY
    if (old.when is None) != (new.when is None):
        return not (_days(old.text, begun) or any(word.past for word in reading.words))
    told_at_once = abs((then.date() - begun.date()).days) <= _ONCE
    happened = any(word.past for word in reading.words)
    days = _days(old.text, begun)
    return days == _days(new.text, then) and (told_at_once or bool(days) or not happened)


def _days(text: str, when: datetime) -> list[tuple[date, date]]:
    """Return the days that are named by how far they are from `when`; 5월 3일 is the same in every year."""
    spans = [span for span in find_dates(text, when) if _FROM_NOW.search(span.text) or not re.search(r"\d", span.text)]
    return [(span.start, span.end) for span in spans]
