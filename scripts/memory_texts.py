"""Made-up memories for measuring a store: Korean sentences that all differ, who said them, and what is asked.

Memory n is the same in every process. Memories come in batches, as calls of `remember` do: those of a batch share
their user, category, source and day.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

from engine.inputs import CATEGORIES

WHO = """\
엄마와 아빠와 동생과 누나와 할머니와 삼촌과 사촌과 민수와 지영이와 하준이와 서연이와 도윤이와 팀장님과 이웃과
후배와 선배와 친구와 조카와 선생님과 혼자""".split()
PLACES = """\
시장 회사 학교 도서관 부산역 한강 제주도 강릉 수영장 병원 미용실 영화관 공원 카페 서점 체육관 은행 식당 공항 박물관
약국 경주 놀이터 백화점 집""".split()
_DEEDS = """\
김치찌개를 먹었어요 먹은|비빔밥을 시켰어요 시킨|만두를 빚었어요 빚은|생일 케이크를 샀어요 산|운동화를 골랐어요 고른|
우산을 잃어버렸어요 잃어버린|지갑을 찾았어요 찾은|사진을 찍었어요 찍은|자전거를 탔어요 탄|수영을 배웠어요 배운|
기타를 연습했어요 연습한|피아노를 쳤어요 친|발표를 준비했어요 준비한|보고서를 고쳤어요 고친|계약서를 읽었어요 읽은|
회의를 미뤘어요 미룬|면접을 봤어요 본|시험을 치렀어요 치른|영어를 공부했어요 공부한|소설책을 빌렸어요 빌린|
편지를 보냈어요 보낸|선물을 받았어요 받은|꽃을 심었어요 심은|강아지를 산책시켰어요 산책시킨|고양이를 입양했어요 입양한|
예방 주사를 맞았어요 맞은|감기약을 먹었어요 먹은|건강 검진을 받았어요 받은|안경을 맞췄어요 맞춘|이를 뽑았어요 뽑은|
머리를 잘랐어요 자른|이불을 빨았어요 빤|창문을 닦았어요 닦은|냉장고를 바꿨어요 바꾼|세탁기를 고쳤어요 고친|
월세를 냈어요 낸|적금을 들었어요 든|보험을 해지했어요 해지한|주식을 팔았어요 판|용돈을 드렸어요 드린|
기차표를 예매했어요 예매한|호텔을 예약했어요 예약한|여권을 갱신했어요 갱신한|짐을 쌌어요 싼|길을 헤맸어요 헤맨|
축구 경기를 응원했어요 응원한|등산을 했어요 한|요가를 시작했어요 시작한|마라톤을 뛰었어요 뛴|낚시를 갔어요 간|
전시회를 구경했어요 구경한|연극을 관람했어요 관람한|노래를 불렀어요 부른|그림을 그렸어요 그린|드라마를 봤어요 본|
커피를 마셨어요 마신|빵을 구웠어요 구운|김장을 담갔어요 담근|귤을 나눴어요 나눈|미역국을 끓였어요 끓인"""
TIMES = ("새벽에", "아침에", "오전 10시에", "점심때", "오후 3시에", "저녁에", "밤늦게", "퇴근길에")
DEEDS = [line.rsplit(" ", 2) for line in _DEEDS.replace("\n", "").split("|")]
FORMS = (
    "{day}에 {who} {place}에서 {what} {did}. {time} 있었던 일이에요.",
    "{day} {time} {who} {place}에서 {what} {did}.",
    "{place}에서 {who} {what} {did}. {day} {time} 그랬어요.",
    "{who} {what} {did}. {place}에서, {day} {time}.",
)
_STRIDE = 7_654_321  # shares no factor with the number of sentences: neighbours differ in every part
SENTENCES = len(WHO) * len(PLACES) * len(DEEDS) * len(TIMES) * len(FORMS) * 12 * 28

USERS = {"민지": 70, "준호": 20, "서연": 9, "할머니": 1}  # of a hundred memories
SOURCES = {"대화": 995, "일기장": 5}  # of a thousand
FIRST, DAYS = date(2023, 1, 1), 1_095
MAIN, RARE = "민지", "일기장"


def sentence(n: int) -> str:
    """Return memory n; no two of the first `SENTENCES` are alike."""
    return _parts(n)[0].format(**_parts(n)[1])


def question(n: int) -> str:
    """Return what somebody asks who wants to be told memory n."""
    return "{who} {place}에서 {what} {done} 게 언제였지?".format(**_parts(n)[1])


def _parts(n: int) -> tuple[str, dict[str, str]]:
    left = n * _STRIDE % SENTENCES
    places = []
    for size in (len(FORMS), len(TIMES), len(DEEDS), len(PLACES), len(WHO), 28):
        left, place = divmod(left, size)
        places.append(place)
    form, time, deed, place, who, day = places
    what, did, done = DEEDS[deed]
    parts = {"day": f"{left + 1}월 {day + 1}일", "who": WHO[who], "place": PLACES[place], "time": TIMES[time]}
    return FORMS[form], {**parts, "what": what, "did": did, "done": done}


@dataclass(frozen=True, slots=True)
class Fields:
    """What the memories of a batch share."""

    user: str
    category: str
    source: str
    when: date


@lru_cache(maxsize=65_536)
def fields(batch: int) -> Fields:
    """Return what the memories of a batch share; days come in no order."""
    drawn = random.Random(f"fields {batch}")
    (user,) = drawn.choices(list(USERS), list(USERS.values()))
    (source,) = drawn.choices(list(SOURCES), list(SOURCES.values()))
    return Fields(user, drawn.choice(CATEGORIES), source, FIRST + timedelta(days=drawn.randrange(DAYS)))


@dataclass(frozen=True, slots=True)
class Case:
    """A search with filters; `name` is short, `work` says what they are."""

    name: str
    work: str
    user: str = MAIN
    category: str | None = None
    since: date | None = None
    until: date | None = None
    source: str | None = None

    def matches(self, found: Fields) -> bool:
        """Return whether memories with these fields are looked for."""
        return (
            found.user == self.user
            and self.category in {None, found.category}
            and self.source in {None, found.source}
            and (self.since is None or found.when >= self.since)
            and (self.until is None or found.when <= self.until)
        )

    def filters(self) -> dict[str, Any]:
        """Return what `MemoryStore.search` is given."""
        days = {name: day for name, day in (("since", self.since), ("until", self.until)) if day}
        return {"user": self.user, "category": self.category, "source": self.source, **days}


_SPRING = date(2024, 3, 1), date(2024, 5, 31)
CASES = (
    Case("all", "no filter but the user, who has 70% of them"),
    Case("user", "another user, 20%", user="준호"),
    Case("small user", "another user, 1%", user="할머니"),
    Case("category", "one category of eight", category=CATEGORIES[0]),
    Case("time", "three months of three years", MAIN, None, *_SPRING),
    Case("both", "a category in three months", MAIN, CATEGORIES[0], *_SPRING),
    Case("source", "a rare source, 0.5%", source=RARE),
)
