"""Of whom a statement speaks, as far as two of them can be told to speak of the same."""

from __future__ import annotations

from engine.korean.statements import Reading

RANKS = frozenset(
    "인턴 사원 주임 대리 과장 차장 부장 팀장 이사 상무 전무 수석 책임 선임 파트장 실장 본부장 조교수 부교수 정교수 "
    "교감 교장 점장 매니저 연구원 팀원".split()
)
PERSONS = frozenset(
    "어머니 아버지 부인 남편 부모 조부모 할머니 할아버지 외할머니 외할아버지 장모 장인 시어머니 시아버지 시댁 처가 "
    "동생 여동생 남동생 언니 형 아들 딸 아이 첫째 둘째 셋째 막내 큰딸 작은딸 큰아들 작은아들 손주 손자 손녀 조카 "
    "이모 고모 삼촌 외삼촌 이모부 고모부 숙모 사촌 큰아버지 작은아버지 큰어머니 작은어머니 형수 매형 형부 올케 제수 "
    "처남 처제 처형 시누이 며느리 사위 친척 가족 식구 친구 절친 여친 남친 애인 동료 대표 사장 상사 후배 선배 선생 "
    "교수 담임 룸메이트 룸메 이웃 옆집 윗집 아랫집 걔 그녀 그 쟤 얘 짝꿍 동기 약혼자 예비신랑 예비신부 "
    "강아지 고양이".split()
)
ATTACHED = frozenset(
    "여친 남친 애인 사람 강아지 고양이 약혼자 남편 부인".split()
)  # had and lost; not of whom is spoken
SEVERAL = PERSONS - frozenset(
    "어머니 아버지 부인 남편 부모 장모 장인 시어머니 시아버지 첫째 둘째 셋째 막내 큰딸 작은딸 큰아들 작은아들 "
    "여친 남친 애인 담임 약혼자 예비신랑 예비신부 가족 식구 시댁 처가".split()
)  # two 이모 may be two persons
SUBJECT = frozenset("이 가 은 는 ᆫ 께서 의 도".split())


_WITH = frozenset("와 과 랑 이랑 하고".split())


def same_holder(old: Reading, new: Reading) -> bool:
    """Return whether neither speaks of somebody of whom the other does not."""
    beside = {word.form for word in old.words if word.particle in _WITH} - ATTACHED
    if any(word.form in beside and word.particle in SUBJECT for word in new.words):
        return False
    return persons(old) - _left(old) <= new.forms and persons(new) - _left(new) <= old.forms | _left(old)


def _left(reading: Reading) -> frozenset[str]:
    """Return the persons of whom something is not told: whom one has, or lives with."""
    found = set()
    for word, following in zip(reading.words, (*reading.words[1:], None), strict=True):
        owner = (
            word.form not in {"강아지", "고양이"}
            and not word.particle
            and following is not None
            and following.kind in {"noun", "foreign"}
        )
        at_home = word.form == "부모" and following is not None and following.form == "집"
        had = following is not None and following.form in {"있다", "생기다"}
        born = following is not None and following.form in {"낳다", "출산"}
        if (
            born
            or (word.form in ATTACHED and not owner and (had or word.particle not in SUBJECT))
            or word.particle in _WITH
            or at_home
        ):
            found.add(word.form)
    return frozenset(found)


def persons(reading: Reading) -> frozenset[str]:
    """Return the kin, friends and named whom `reading` speaks of, but whom only the speaker's rank is named after."""
    named = {word.form for word in reading.words if word.kind == "name" and word.particle in SUBJECT}
    titled = {word.form for word in reading.words if word.form in RANKS and word.particle in SUBJECT - {"의"}}
    return frozenset(named | titled | (PERSONS & reading.forms))
