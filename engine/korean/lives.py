"""Rules for what changes in a life by verbs and states of its own: home, work, school, whom one is with, an age."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.korean.persons import PERSONS, RANKS, SUBJECT
from engine.korean.regions import within
from engine.korean.statements import Reading, Word
from engine.korean.topics import (
    NOT_NOW,
    Case,
    aims,
    clause_of,
    content_of,
    forms_of,
    is_about,
    is_told,
    numbers_of,
    spoken_of,
    things_of,
    units_of,
)
from engine.korean.vocabulary import (
    APART,
    CHANGES,
    DIVORCED,
    FOCUS,
    GIVES,
    HELD,
    HOUSES,
    IDLE,
    LIGHT,
    LIVES,
    MARRIED,
    NAMED,
    OFTEN,
    ONCE,
    ORDERS,
    OVER,
    SHIFT,
    TIMES,
    TOGETHER,
    WORKS,
    words_of,
)


def shifted(case: Case) -> bool:
    """부산으로 이사했어요 of a home, 이직했어요 of work, 헤어졌어요 of whom one is with."""
    for word in case.new.words:
        slot = SHIFT.get(word.form)
        if slot is None or not is_told(word, case.new):
            continue
        if word.form in case.old.forms and slot != "home" and not case.old.forms & {"준비", "구하다"}:
            continue
        if slot not in case.near_old() or case.plans:
            continue
        spoken = [
            w for w in spoken_of(clause_of(case.new, word), case.old) if w.form not in SHIFT and w.form not in RANKS
        ]
        if slot != "home" and slot != "work" and not is_about(case, spoken, frozenset({slot})):
            continue
        if any(w.particle in SUBJECT | {"을", "를"} and not is_about(case, [w], frozenset({slot})) for w in spoken):
            continue
        if _FITS[slot](case, word):
            return True
    return False


def _moved_home(case: Case, verb: Word) -> bool:
    old = case.old
    lives = old.forms & LIVES or old.words[-1].kind != "verb" or old.forms & {"이사", "있다"}
    if not lives or any(word.denied for word in old.words) or not _tells_one(old, LIVES | {"이사", "있다"}):
        return False
    if "있다" in old.forms and any(w.particle in SUBJECT - {"은", "는"} and w.form != "집" for w in old.words):
        return False  # 제주도에 별장이 있어요
    target = [word for word in things_of(clause_of(case.new, verb)) if aims(word, case.new.words)]
    if not target and old.forms & {"이사"}:
        return False
    return not within(forms_of(target), forms_of(things_of(old.words)))


def elsewhere(case: Case) -> bool:
    """서울에 살아요 → 부산에 살아요; 기숙사에서 지내요 → 원룸 얻어서 살아요."""
    old, new = case.old, case.new
    homes = all(
        {"home"} & near and not any(word.denied or word.particle in {"을", "를", "의"} for word in reading.last)
        for near, reading in ((case.near_old(), old), (case.near_new(), new))
    )
    lived = old.predicate is not None and new.predicate is not None and old.predicate.form in LIVES
    if (
        any(word.only for word in (*old.words, *new.words))
        or not homes
        or not lived
        or case.plans
        or new.joined
        or new.forms & ONCE - old.forms
    ):
        return False
    if (
        new.predicate is None
        or new.predicate.form not in LIVES | {"옮기다"}
        or new.predicate.past > (new.predicate.form == "옮기다")
        or "decided" in new.moods
        or _modified(old)
        or _modified(new)
    ):
        return False
    here, there = forms_of(_places(old)), forms_of(_places(new))
    if here & HOUSES and there & HOUSES:
        return not here & there - {"혼자", "방"}
    if new.predicate.form == "옮기다":
        return False
    return bool(here and there) and not (here | there) & HOUSES and within(there, here) is False


def _places(reading: Reading) -> list[Word]:
    words = [word for word in things_of(reading.words) if word.form not in TIMES and word.kind != "number"]
    told = [word for word in words if word.particle in {"", "에", "에서", "로", "으로"}]
    return told if not reading.forms & {"독립"} else [*told, *(word for word in reading.words if word.form == "독립")]


def _modified(reading: Reading) -> bool:
    """Return whether it is not told of the subject's own home: 서울에 사는 친구."""
    return any(word.form in LIVES for word in reading.words[:-1])


def employed(case: Case) -> bool:
    """은행에서 근무해요 → 스타트업에 다녀요; 취업 준비 중이에요 → 물류 회사에 출근하고 있어요."""
    old, new = case.old, case.new
    if not {"work"} & case.near_old() & case.near_new() or case.plans or new.joined or new.forms & ONCE - old.forms:
        return False
    had, has = old.predicate, new.predicate
    if has is None or has.form not in WORKS - {"하다"} or has.denied or has.past or "decided" in new.moods:
        return False
    if old.forms & IDLE and (old.forms & {"준비", "구하다", "구직", "백수", "무직", "취준생"}):
        return True
    if had is None or had.form not in WORKS - {"하다"} or had.denied or had.past or forms_of(old.words[:-1]) & WORKS:
        return False
    here, there = _employer(old), _employer(new)
    return bool(here and there) and not here & there


def _employer(reading: Reading) -> frozenset[str]:
    named = [word for word in things_of(content_of(reading.words)) if word.particle in {"에", "에서"}]
    return forms_of(named) - words_of(
        "학원 헬스장 수영장 교회 성당 절 병원 도서관 체육관 회사 주방 팀 부서 카페 집 필라테스 요가 헬스 피아노 동호회"
    )


_TESTS = ("시험", "면허", "자격증", "급", "토익", "대학교", "대학원", "고등학교", "오디션")


def _changed_work(case: Case, verb: Word) -> bool:
    old = case.old
    if verb.form in {"승진", "진급", "발령", "전환"} and (
        old.forms & RANKS or old.words[-1].form.endswith(("팀", "부서"))
    ):
        return not forms_of(things_of(case.new.words)) & old.forms & RANKS
    if verb.form in {"입사", "합격", "창업", "개업"}:
        passed = any(form.endswith(_TESTS) for form in forms_of(things_of(clause_of(case.new, verb))))
        return not passed and bool(old.forms & words_of("백수 무직 취준생 구직 준비 실업자 구하다 입사"))
    if verb.form in {"승진", "진급", "독립", "전환"}:
        return False
    return bool(old.forms & WORKS) and _tells_one(old, WORKS) and not any(word.denied for word in old.words)


def _changed_school(case: Case, verb: Word) -> bool:
    old = case.old
    away = old.forms & {"휴학"}
    if verb.form == "복학" or away:
        return bool(away) and verb.form in {"복학", "자퇴"}
    return not any(word.denied for word in old.words) and _tells_one(old, WORKS | {"재학", "공부"})


def other_status(case: Case) -> bool:
    """Return whether one is with somebody, or married, in one and not in the other."""
    if len((case.old.forms | case.new.forms) & {"여친", "남친"}) > 1 or case.plans or "decided" in case.new.moods:
        return False
    if "status" not in case.near_old() | case.near_new():
        return False
    said = (
        case.old.forms
        | PERSONS
        | TOGETHER
        | APART
        | MARRIED
        | DIVORCED
        | LIGHT
        | words_of("생기다 만나다 합치다 다시 드디어 나다")
    )
    subjects = [word for word in things_of(content_of(case.new.words)) if word.particle and word.form not in said]
    before, after = _relations(case.old), _relations(case.new)
    return not subjects and any(
        one is not None and other is not None and one != other for one, other in zip(before, after, strict=True)
    )


def _relations(reading: Reading) -> tuple[bool | None, bool | None]:
    """Return whether one is with somebody, and whether one is married; None for what is not told."""
    denied = any(word.denied for word in reading.words)
    forms = _told_forms(reading)
    if reading.moods & NOT_NOW - {"hearsay"} or forms & {"좋아하다", "싫어하다"}:
        return None, None
    if forms & DIVORCED:
        return (None, None) if denied else (None, False)
    if forms & APART and forms & (words_of("헤어지다 파혼 차이다 결별 이별 솔로 모태솔로")):
        return (None if "솔로" not in forms else True, None) if denied else (False, None)
    if forms & MARRIED:
        past = forms & words_of("결혼") and not (
            denied
            or any(word.past for word in reading.words)
            or numbers_of(reading.words)
            or forms & words_of("남편 부인")
        )
        weds = bool(
            forms & words_of("결혼 기혼 재혼 합치다 신혼") or (forms & words_of("남편 부인 부부") and "있다" in forms)
        )
        return (None, None) if past or not weds else (None if denied else True, not denied)
    if forms & TOGETHER:
        with_ = forms & words_of("연애 사귀다 재결합") or forms & words_of("있다 생기다 만나다")
        return (None, None) if not with_ else (not denied, None if denied else False)
    return None, None


def _told_forms(reading: Reading) -> frozenset[str]:
    """Return the words without those that only tell which (이혼 전문 변호사), and an end that was undone."""
    parting = APART | DIVORCED
    kept = set()
    for word, following in zip(reading.words, (*reading.words[1:], None), strict=True):
        inside = following is not None and following.clause == word.clause
        which = inside and not word.particle and following is not None and following.kind in {"noun", "name"}
        asserted = not inside or (following is not None and following.kind in {"adverb", "number"})
        if not which and (word.form not in parting or asserted or word.form == "혼자"):
            kept.add(word.form)
    return frozenset(kept - parting if kept & {"재결합", "재혼"} else kept)


def _tells_one(old: Reading, verbs: frozenset[str]) -> bool:
    """Return whether the predicate of `old` is one of `verbs`, or there is none (copula)."""
    return old.predicate is None or old.predicate.form in verbs or old.words[-1].kind != "verb"


_FITS: dict[str, Callable[[Case, Word], bool]] = {
    "home": _moved_home,
    "work": _changed_work,
    "school": _changed_school,
    "name": lambda case, verb: "이름" in case.old.forms,
}


def older(case: Case, gone: Sequence[Word], come: Sequence[Word]) -> bool:
    """서른두 살이에요 → 서른셋 됐어요; 고등학교 2학년 → 고3."""
    ages = [word for word in (*gone, *come) if word.form not in TIMES | NAMED["age"] and not word.form.endswith("학교")]
    units = {*units_of(gone), *units_of(come)}
    if len(ages) != 2 or [word.kind for word in ages] != ["number", "number"] or not units <= {"살", "학년", ""}:
        return False
    return bool(units - {""}) or "age" in case.near_old() & case.near_new()


def died(case: Case) -> bool:
    """강아지 초코를 키워요 → 초코가 무지개다리를 건넜어요."""
    verb = next((word for word in case.new.words if word.form == "죽다"), None)
    if verb is None or not is_told(verb, case.new) or "pet" not in case.near_old():
        return False
    gone = [word for word in things_of(content_of(case.new.words)) if word.form not in LIGHT]
    return bool(gone) and forms_of(gone) <= case.old.forms and not numbers_of(case.old.words)


def measured(case: Case) -> bool:
    """체중이 80킬로 나가요 → 74킬로까지 뺐어요; 키가 165cm예요 → 키가 더 커서 168cm예요."""
    last, new = case.new.last, case.new
    verb = next((word for word in reversed(last) if word.kind == "verb"), None)
    one, other = numbers_of(case.old.words), numbers_of(last)
    if (
        case.plans
        or len(one) != 1
        or len(other) != 1
        or one == other
        or units_of(case.old.words) != units_of(last)
        or units_of(last)[0] in ORDERS
    ):
        return False
    named = forms_of([word for word in spoken_of(last, case.old) if word.kind != "number"])
    known = named & case.old.forms
    changed = bool(new.forms & CHANGES)
    told = verb is None or (verb.form in (CHANGES | GIVES) - {"있다", "살다", "타다"} and is_told(verb, new))
    return (
        told
        and "measure" in case.slots
        and bool(known & NAMED["measure"] or changed)
        and named <= case.old.forms | {"살"}
    )


def over(case: Case) -> bool:
    """입원해 있어요 → 퇴원했어요."""
    for word in case.new.words:
        states = next((words_of(told) for ends, told in OVER if word.form in ends.split()), frozenset[str]())
        if not states & case.old.forms or not is_told(word, case.new) or case.plans or word.form in case.old.forms:
            continue
        had = case.old.predicate
        if any(other.denied for other in case.old.words) or (had and had.form not in states | HELD):
            continue
        if case.new.forms & words_of("오늘 잠깐 잠시 하루 일찍") or case.old.forms & OFTEN:
            continue
        spoken = [other for other in spoken_of(clause_of(case.new, word), case.old) if other.particle in FOCUS]
        if all(other.form in case.old.forms | {"아이", "문", "자리"} for other in spoken):
            return True
    return False
