"""Of which kind a memory is, and of which category where rules can tell."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from engine.korean import selves

if TYPE_CHECKING:
    from engine.inputs import Kind

_MONTH = 31
_MARKS = " .?!~…ㅋㅎㅠㅜ^;,"
_LONG = 300  # letters at the end of a sentence, which tell
_HONOURED = re.compile(r"[가-힣](?:(?<!마)셔|십니다|신다)$|[계사]세요$")  # who is spoken of politely is not the speaker
_BESIDE = re.compile(
    r"사이(?:야|예요|이에요|다)|같이\s?살|사귀|사귄|절교|친구(?:야|예요|이에요|다)$|남매|형제|자매|결혼|이혼|약혼|"
    r"프러포즈"
)
_AIMED = re.compile(
    r"목표|꿈[이은을]|계획|예정|기로\s?(?:했|결정|결심|마음)|[가-힣]\s?(?:거야|거예요|거임|거다|참이|"
    r"작정)(?:[가-힣]{0,3})$|고\s?싶|버킷|다짐|결심|"
    r"마음\s?먹|야겠|야지$|려고요?$|[볼갈할]라고$|할래요?$|언젠가|\b(?:will|going to|plan to|hope to)\b"
)
_STUDIES = re.compile(r"(?<![가-힣])[고중][1-3]|학년|대학원생|대학생|고등학생|중학생|전공|자격증|졸업|학번")
_JOB = re.compile(
    r"일(?:해|한다|하고|하는데|했|합니다)|근무|출근(?!길)|재직|직장|이직|퇴사|입사|취업|임용|은퇴|퇴직|승진|발령|"
    r"알바|사업|농사|맡고|맡아|담당|교대|야근|"
    r"강사|교사|간호사|개발자|공무원|부서|프로젝트|마감|고객사|거래처|회의|매출|연봉|결재|면접|지원했|회사|업무|"
    r"논문|연구[하해]"
)


def kind_of(sentence: str, days: int | None) -> Kind:
    """Return the kind of a sentence in which its speaker tells of themselves; `days` are those of the time it names."""
    words = _words(sentence)
    if selves.TASTE.search(words) and not (days or selves.KIN.search(words) or selves.BODY.search(words)):
        return "preference"
    if _AIMED.search(words) or _happens(words, days):
        return "event"
    if selves.KIN.search(words) or _HONOURED.search(words) or _BESIDE.search(words):
        return "relationship"
    return "fact"


def _words(sentence: str) -> str:
    return unicodedata.normalize("NFC", sentence.rstrip(_MARKS)[-_LONG:])


def _happens(words: str, days: int | None) -> bool:
    done = bool(selves.PAST.search(words))
    if days is None:
        return done and bool(selves.ONCE.search(words))
    if done or selves.PLAN.search(words) or selves.OCCASION.search(words):
        return True
    return days <= _MONTH and not selves.HABIT.search(words)


def category_of(sentence: str) -> str | None:
    """Return the category of a sentence in which its speaker tells of themselves; None where rules cannot tell."""
    words = _words(sentence)
    aimed = bool(_AIMED.search(words))
    if selves.LEARNT.search(words):
        return "knowledge"
    if selves.BODY.search(words):
        return None if aimed or selves.KIN.search(words) else "health"
    near = _of_persons(words)
    if near is not None:
        return near
    if selves.TASTE.search(words):
        return None if aimed or selves.PAST.search(words) else "preference"
    return "goal" if aimed and not _JOB.search(words) else _of_life(words)


def _of_persons(words: str) -> str | None:
    """Return the category of what is told of, or done with, persons; None where there are none, or it is not told."""
    told_of = selves.KIN_TELLS.search(words) or _HONOURED.search(words)
    if not (told_of or selves.KIN.search(words) or _BESIDE.search(words)):
        return None
    if _AIMED.search(words):
        return "relationship" if told_of else "goal"
    if selves.TASTE.search(words) and not told_of:
        return "preference"
    done = selves.PAST.search(words) and not _BESIDE.search(words)
    return "experience" if done and not told_of else "relationship"


def _of_life(words: str) -> str | None:
    if _STUDIES.search(words):
        return "personal"
    if _JOB.search(words):
        return None if selves.HOME.search(words) else "work"
    if selves.PAST.search(words) and (selves.ONCE.search(words) or selves.LIFE.search(words)):
        return "experience"
    return "personal" if selves.HOME.search(words) else None
