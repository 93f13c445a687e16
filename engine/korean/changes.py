"""Whether a statement ends what an earlier one said.

Three things are wanted. The earlier one tells of one thing, how it is (or is to be); the later one tells how it is now,
asserted, of the same person. Both are about the same: the later one names what the earlier one spoke of, or the slot
of a life that it fills (`engine.slots`: 이직 is of work, 휴대폰 of phones). And something shows that it is so no more:
a verb of change or end, the opposite said, another value of what has one value, or a correction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from engine.korean.lives import died, elsewhere, employed, measured, older, other_status, over, shifted
from engine.korean.persons import PERSONS, SEVERAL, SUBJECT, persons, same_holder
from engine.korean.statements import Mood, Reading, Word
from engine.korean.topics import (
    NOT_NOW,
    Case,
    Near,
    attitude,
    clause_of,
    content_of,
    days_of,
    focus_of,
    forms_of,
    in_part,
    is_about,
    is_told,
    numbers_of,
    same_unit,
    split_topic,
    spoken_of,
    tells_value,
    things_of,
    units_of,
)
from engine.korean.vocabulary import (
    BEGAN,
    BOUGHT,
    BRANDS,
    CALLED,
    CHANGES,
    DEGREES,
    DISLIKED,
    DOES,
    ENDS,
    ENJOYED,
    GIVES,
    HELD_LIGHT,
    LIGHT,
    LIKED,
    MANY,
    MEALS,
    ONCE,
    ONE_VALUE,
    SAID,
    SAVOURED,
    SINGLE,
    STANDS_FOR,
    TIMES,
    TURNED,
    words_of,
)
from engine.korean.wordings import NOW


def replaces(old: Reading, new: Reading, near_old: Near, near_new: Near) -> bool:
    """Return whether `new`, said later by the same speaker, makes `old` a thing of the past."""
    heard = frozenset[Mood]({"hearsay"}) if persons(new) & old.forms else frozenset[Mood]()  # as one speaks of others
    if not _can_end(old) or new.moods & (NOT_NOW - {"plan"} - heard) or not same_holder(old, new):
        return False
    if ("때" in new.forms and new.words[-1].past) or max(old.denials, new.denials) > 1:
        return False
    turns = new.marks or new.forms & (TURNED | _AMENDS)
    if (persons(old) | persons(new)) & SEVERAL and not turns:
        return False
    case = Case(old, new, near_old, near_new)
    if _corrects(case):
        return True
    if "plan" in new.moods:
        return False
    return any(rule(case) for rule in _RULES)


def _can_end(old: Reading) -> bool:
    if old.moods & (NOT_NOW - {"plan"}) or old.joined:
        return False
    return not any(word.past and word.form not in TURNED for word in old.words)


def _changed(case: Case) -> bool:
    """결혼식을 미뤘어, 폰을 아이폰으로 바꿨어: what is changed is what was spoken of."""
    for word in case.new.words:
        if word.form not in CHANGES or not is_told(word, case.new):
            continue
        clause = clause_of(case.new, word)
        spoken = spoken_of(clause[: clause.index(word)], case.old)
        later = [w for w in case.new.words if w.clause > word.clause and w.kind in {"foreign", "number", "name"}]
        come = [
            w for w in (*clause, *later) if w not in spoken and w is not word and w.form not in case.old.forms | DEGREES
        ]
        slots = case.slots & (ONE_VALUE | {"plan", "device"})
        if not spoken and word.form in _SWAPS and _other_brand(case, come):
            return True
        if _light_only(case, clause) or not _had_value(case, word, spoken):
            continue
        if spoken and come and is_about(case, spoken, slots) and not (case.old.forms & ENDS or in_part(clause[:-1])):
            return _keeps_unit(case, clause)
    return False


def _other_brand(case: Case, come: Sequence[Word]) -> bool:
    """Return whether all of `come` is a phone, or a car, and so is what one had."""
    told = forms_of([word for word in come if word.kind != "number"])
    return bool(told) and any(told <= brands and case.old.forms & brands for brands in BRANDS)


def _light_only(case: Case, clause: Sequence[Word]) -> bool:
    """Return whether 치과 약속 is spoken of where one only goes to the 치과."""
    timed = numbers_of(case.old.words) or days_of(case.old.words) or case.plans
    one_event = case.old.predicate is None or case.old.predicate.form == "있다"
    return bool(forms_of(clause) & HELD_LIGHT - case.old.forms) and not timed and not one_event


def _had_value(case: Case, verb: Word, spoken: Sequence[Word]) -> bool:
    """Return whether something was told of what is spoken of, or it is itself what is given up for another."""
    had = case.old.predicate
    if had is not None and had.form in LIKED | DISLIKED and not case.old.forms & {"제일", "최애"}:
        return False
    named = {STANDS_FOR["phone"], STANDS_FOR["vehicle"]}
    if verb.form not in _SWAPS and forms_of(spoken) & named and not numbers_of(case.old.words):
        return False  # 차를 주차장으로 옮겼어요
    told = [word for word in things_of(case.old.words) if word not in spoken and word.form not in forms_of(spoken)]
    return bool(told) or (verb.form in _SWAPS and had is not None and had.form in _SWAPPED)


def _keeps_unit(case: Case, words: Sequence[Word]) -> bool:
    """Return whether, where both tell numbers, something else is told in the same unit."""
    one, other = units_of(case.old.words), units_of(words)
    return not one or not other or bool(set(one) & set(other)) or "plan" in case.slots


def _ended(case: Case) -> bool:
    """헬스장 그만뒀어요, 등산 취소했어, 차 팔았어요: what ends is what was spoken of."""
    for word in case.new.words:
        if word.form not in ENDS or not is_told(word, case.new):
            continue
        if attitude(case.old) < 0 or case.old.forms & ENDS or (case.plans and word.form not in _CALLS_OFF):
            continue
        if _goes_on(case, word):
            continue
        spoken = [other for other in spoken_of(clause_of(case.new, word), case.old) if other is not word]
        if not spoken or (word.form == "끊다" and forms_of(spoken) & (BOUGHT | {"전화"})):
            continue
        if word.form in {"팔다", "처분", "죽다", "떠나다", "버리다"} and numbers_of(case.old.words):
            continue
        if days_of(case.old.words) and not days_of(clause_of(case.new, word)) <= days_of(case.old.words):
            continue
        named = [other for other in spoken if other.form in case.old.forms]
        if is_about(case, spoken, case.near_old() & {"work", "school", "plan"}) and (named or len(spoken) == 1):
            return _is_ended_by(word.form, case)
    return False


_SWAPS = words_of("바꾸다 갈아타다 넘어가다 변경 전환 교환")
_SWAPPED = words_of("쓰다 타다 하다 먹다 마시다 구독 몰다")  # of what one has one at a time
_AMENDS = words_of("정정 잘못 실수 착각")
_CALLS_OFF = words_of("취소 포기 그만두다 무산 접다 철회 엎어지다 파투 깨지다 중단 중지 끊다")
_NOT_HELD = words_of("취소 무산 철회 엎어지다 파투 깨지다 물거품")
_ARRANGED = words_of("있다 잡다 잡히다 예약 신청 구독")
_ENDED_BY = (  # verbs → what they can end
    (words_of("팔다 처분 버리다 잃다 잃어버리다"), words_of("있다 타다 쓰다 사다 가지다 몰다")),
    (words_of("죽다"), words_of("키우다 있다 살다")),
    (words_of("접다 폐업"), words_of("운영 하다 사업 장사 창업 개업 차리다")),
    (words_of("낫다 완치 완쾌 회복 사라지다"), words_of("아프다 있다 걸리다 받다 다니다 먹다 나다 앓다 다치다")),
)


def _goes_on(case: Case, ended: Word) -> bool:
    """Return whether something else ended, one of several, or what was taken up again; a taste does not end by acts."""
    clause = clause_of(case.new, ended)
    several = in_part(clause) or case.old.forms & {"많다", "여러"}
    return bool(several) or _taken_up_again(case, ended) or _is_taste(case.old) or _light_only(case, clause)


def _taken_up_again(case: Case, ended: Word) -> bool:
    """Return whether what ended goes on in a later clause: 끊었다가 다시 피워요."""
    last = case.new.predicate
    if last is None or last.clause <= ended.clause or last.denied:
        return False
    return last.form in case.old.forms or "다시" in case.new.marks


def _is_taste(reading: Reading) -> bool:
    return reading.predicate is not None and reading.predicate.form in LIKED | DISLIKED


def _is_ended_by(verb: str, case: Case) -> bool:
    had = case.old.predicate
    if verb in _NOT_HELD:
        return had is None or case.plans or bool(case.old.forms & _ARRANGED)
    ended = next((ends for verbs, ends in _ENDED_BY if verb in verbs), None)
    if had is not None and had.form == "사다" and not had.past and not case.plans:
        return False
    return ended is None or had is None or case.plans or bool(case.old.forms & ended) or had.form in case.new.forms


def _opposite(case: Case) -> bool:
    """매운 거 좋아해요 → 매운 건 이제 싫어요; 담배 안 피워요 → 담배를 피워요."""
    old, new = case.old, case.new
    last = new.predicate
    if (
        last is None
        or last.form in ENDS
        or _names_which(old)
        or _names_which(new)
        or ("지금" in new.marks and _is_taste(old))
        or ("decided" in new.moods) != case.plans
        or attitude(old) * attitude(new) >= 0
    ):
        return False
    if last.past and last.form not in TURNED and not new.marks:
        return False
    focus = focus_of(old.words)
    if forms_of(content_of(old.words)) == forms_of(content_of(new.words)) and not new.forms & ONCE - old.forms:
        return last.form == (old.predicate or last).form and not numbers_of((*old.words, *new.words))
    if not focus or focus not in (focus_of(new.last), focus_of(new.words)):
        return False
    if new.forms & ONCE - old.forms - {"밤"} or any(word.only for word in (*old.words, *new.words)):
        return False
    denying = new if attitude(new) < 0 else old
    return not numbers_of(denying.words) and _one_scale(old, new)


def _names_which(reading: Reading) -> bool:
    """Return whether a verb only tells which thing is meant (싫어하는 색은 노란색이에요)."""
    return reading.predicate is not None and reading.words[-1].kind in {"noun", "name", "foreign", "number"}


def _called_off(case: Case) -> bool:
    """여행 가기로 했어요 → 여행은 못 가게 됐어요."""
    old, new = case.old, case.new
    denied = next((word for word in reversed(new.words) if word.denied and word.kind == "verb"), None)
    planned = old.predicate
    if not case.plans or denied is None or planned is None or any(word.denied for word in old.words):
        return False
    times = forms_of([word for word in new.words if word.form in TIMES or word.kind == "number"])
    if not times <= old.forms:
        return False
    said = forms_of([word for word in things_of(content_of(new.words)) if word.form not in LIGHT])
    return bool(said) and said <= old.forms and denied.form in {planned.form, "가다", "하다"}


def _one_scale(old: Reading, new: Reading) -> bool:
    one, other = old.predicate or old.words[-1], new.predicate
    if other is None:
        return False
    tastes = LIKED | DISLIKED
    both = {one.form, other.form}
    if other.form in focus_of(old.words) and one.form in DOES:
        return True
    if both <= tastes:
        done, undone = (forms_of([word for word in said.words if word.kind == "verb"]) for said in (old, new))
        return not (done ^ undone) & focus_of(old.words)  # 야구 보는 걸, 야구하는 걸
    if one.form == other.form or both & {"시작"} or both <= MEALS:
        return True
    return bool(both & ENJOYED and both & tastes) and (
        bool(new.marks) or "못" in {one.denied, other.denied} or both <= SAVOURED
    )


def _began(case: Case) -> bool:
    """차가 없어요 → 차를 샀어요."""
    last, had = case.new.predicate, case.old.predicate
    if last is None or had is None or case.plans or "decided" in case.new.moods:
        return False
    if (
        had.form not in DOES | {"키우다", "배우다", "만나다"}
        or not had.denied
        or last.form not in BEGAN
        or last.denied
        or not last.past
    ):
        return False
    lacked = forms_of([word for word in things_of(content_of(case.old.words)) if word.form not in LIGHT])
    got = forms_of([w for w in things_of(content_of(case.new.last)) if w.form not in LIGHT and not _is_which(w, case)])
    kept = lacked - words_of("만나다")
    if got & PERSONS - lacked and not lacked & words_of("사람 애인 반려동물 아이"):
        return False  # 개집
    if lacked == {"반려동물"}:
        return bool(got & words_of("강아지 고양이 유기견 유기묘 햄스터 토끼 앵무새 거북이 고슴도치"))
    if lacked <= {"사람", "애인"} and lacked:
        return bool(got & words_of("여친 남친 애인 사람"))
    return bool(kept) and kept <= got


def _is_which(word: Word, case: Case) -> bool:
    """Return whether `word` only tells which (강아지 in 강아지 인형을 샀어요)."""
    following = next((two for one, two in pairwise(case.new.words) if one is word), None)
    noun = following is not None and following.kind in {"noun", "name", "foreign"}
    return noun and not word.particle and following is not None and following.form not in case.old.forms


def _other_value(case: Case) -> bool:
    """마감은 5일이에요 → 마감은 7일이에요; 6시에 일어난다 → 요즘은 8시에 일어난다; 스물아홉이야 → 서른이야."""
    old, new = case.old, case.new
    once = new.forms & ONCE - old.forms - words_of("이번 아침 점심 저녁")
    bounded = any(word.denied or word.only for word in (*old.words, *new.words))
    if case.plans or "decided" in new.moods or once or bounded or old.joined or new.joined:
        return False
    (topic, told), (named, now) = split_topic(old), split_topic(new)
    gone = [word for word in told if word.form not in new.forms | LIGHT | GIVES]
    come = [word for word in now if word.form not in old.forms | LIGHT | GIVES | CHANGES]
    if not gone or not come or any(word.kind in {"verb", "adverb"} for word in (*gone, *come)):
        return False
    if forms_of(topic) == forms_of(named) and forms_of(topic) - PERSONS - LIGHT and same_unit(gone, come):
        return _is_of_one(case, topic) and tells_value(told) and tells_value(now)
    nobody_else = forms_of(topic) == forms_of(named)
    return (nobody_else and older(case, gone, come)) or _otherwise_now(case, gone, come)


def _is_of_one(case: Case, topic: Sequence[Word]) -> bool:
    """Return whether `topic` is what has one value at a time, and both may tell of the same slot."""
    event = any(word.past and word.form not in GIVES | TURNED for word in case.new.words)
    several = forms_of(topic) & MANY and not forms_of(topic) & {"제일", "최애"}
    changed = (case.new.marks - case.old.marks) or case.new.forms & (CHANGES | _AMENDS)
    calendars = {"음력", "양력"} & (case.old.forms | case.new.forms)
    if not changed and (not forms_of(topic) & SINGLE or calendars):
        return False
    counted = any(word.particle in {"을", "를"} and word.kind == "number" for word in case.new.words)
    return not (event or several or counted) and bool(case.slots - {"other"})


def _otherwise_now(case: Case, gone: Sequence[Word], come: Sequence[Word]) -> bool:
    """매일 아침 6시에 일어난다 → 요즘은 8시에 일어난다."""
    one, other = case.old.predicate, case.new.predicate
    if (
        not (case.new.marks - case.old.marks) & (NOW - {"지금"})
        or (one and one.form) != (other and other.form)
        or (one and one.past) != (other and other.past)
    ):
        return False
    lost = [word for word in gone if word.form not in TIMES]
    found = [word for word in come if word.form not in TIMES]
    if len(lost) != 1 or not found or not same_unit(lost, found) or lost[0].particle != found[-1].particle:
        return False
    following = next((two for one, two in pairwise(case.old.words) if one is lost[0]), None)
    if not lost[0].particle and following is not None and following.kind == "noun":
        return False  # 혈압약을, 감기약을
    in_place = lost[0].particle in words_of("에 에서 로 으로") or (
        not lost[0].particle and bool(case.slots & ONE_VALUE)
    )
    return in_place and not [word for word in found[:-1] if word.particle]


def _corrects(case: Case) -> bool:
    """워크숍은 3월 20일이에요 → 3월이 아니라 4월 20일이에요."""
    old, new = case.old, case.new
    for place, word in enumerate(new.words[:-1]):
        right = new.words[place + 1 :]
        denied = word.denied == "안" and word.kind != "verb" and not right[0].denied
        if denied and word.form in old.forms and not forms_of(right) <= old.forms:
            named = [w for w in things_of(new.words[:place]) if w.form not in old.forms | SAID]
            strange = [w for w in right if w.form not in old.forms and w.particle in SUBJECT]
            return (
                not named
                and not strange
                and _keeps_predicate(old, new)
                and ("plan" not in new.moods or "정정" in new.forms)
            )
    said = [word for word in new.words if word.form not in SAID]
    come = [word for word in said if word.form not in old.forms]
    gone = [word for word in old.words if word.form not in new.forms and word.form not in CALLED]
    amended = bool(new.forms & _AMENDS)
    fewer = len(things_of(said)) <= len(things_of(old.words))
    return amended and len(come) == len(gone) == 1 and come[0].kind == gone[0].kind and fewer


def _keeps_predicate(old: Reading, new: Reading) -> bool:
    one, last = old.predicate, new.words[-1]
    return last.kind != "verb" or (one is not None and (one.form, one.past) == (last.form, last.past))


_Rule = Callable[[Case], bool]


_RULES: tuple[_Rule, ...] = (
    shifted, other_status, _changed, _ended, _opposite, _began, elsewhere, employed, _other_value, _called_off, died,
    measured, over,
)  # fmt: skip
