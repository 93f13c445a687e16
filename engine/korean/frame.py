"""Where a time expression is read from: today, the clause's tense, the date named just before."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from engine.korean.periods import Span

_SENTENCE_END = re.compile(r"[.?!。…\n]")
_FUTURE = re.compile(
    r"겠|려고|기로|남[았은]|(?:예정|계획)(?:이|입|인|임|중|$)|자$|(?:게|래|까)요?$|려면$|\bwill\b|'ll$|\bgoing$|^let's$"
    r"|^(?!morning|evening|during|spring|.*thing$|bring|being$|wedding|meeting|building|training)[a-z]{2,}ing$"
    r"|^(?:ends|starts|begins|opens|closes|leaves|expires|arrives|due)\b"
)
_HANGING = re.compile(r"(?:는데|은데|인데|니까|지만|으면|[있없]어서|라서)$")
# What is said of an act in the present tense, with a day named, is still to come: 12월에 결혼해, 뭐 하고 싶어?
_PRESENT = re.compile(
    r"(?:해|가|와|나|돼|봐|려|여|워|쳐|줘|춰|써|쉬어|떠|져|러|켜|있어|먹어|걸어|열어|늘어|받아|잡아|앉아|놀아|찾아|싶어|싶다"
    r"|싶은데|야지|어때|세요|십시오|습니다|[갑합옵납됩봅줍립칩집킵뜁씁갖낍깁]니다|[간한온난된본준린진친떠낸뗀]다|는다|는데"
    r"|대|재|냬)요?$"
)
_NO_ACT = re.compile(
    r"(?:이야|이에요|예요|입니다|이다|싫어하|좋아해?|많습니다|없습니다|좋습니다|필요해|중요해|비슷해|이래|이재)요?$"
)
# A word that tells what was done, before the noun it tells of: 토요일에 만난 사람
_DONE = frozenset(
    (
        "만난 본 간 산 온 먹은 마신 찍은 받은 들은 읽은 배운 다녀온 빌린 빌려준 잃어버린 보낸 주문한 구매한 구입한 "
        "시작한 계약한 등록한 결혼한 가입한 이사한 입사한 시킨 낸 맡긴 맡은 태어난 헤어진 다친 걸린 나온 생긴 세운 "
        "담근 심은 접수한 사귄 찾은 잡은 만든 그린 올린 넣은 쓴 지은 열린 있던 하던"
    ).split()
)
_ENGLISH_PAST = re.compile(
    r"(?:(?!need|indeed|feed|speed)[a-z]{2,}ed|was|were|went|did|had|saw|met|got|came|took|made|bought|ate)$",
    re.IGNORECASE,
)
# What a day is said to be of, in the present, is still to come: 면접은 9월 10일이에요, 11월 20일이 마감이야. A birthday
# is not: it comes every year.
_OCCASION = (
    "(?:예정|마감|만기|만료|환갑|칠순|팔순|기념|수능|면접|시험|수술|결혼|약속|회의|발표|출장|여행|휴가|입대|제대|전역"
    "|졸업|돌잔치|이사|공연|대회|마라톤|데이트|상견례|검진|예약|모임|동창회|소개팅|개강|종강|개학|출국|입국|귀국|진료"
    "|촬영|파티|입학|입주|퇴원|오픈|개봉|출시|콘서트|세미나|워크숍|납기|소풍|회식|접종|선거|첫 ?출근)(?:식|일|날)?"
)
_IS = "이?(?:야|에요|예요|입니다만?|인데요?|다|고|며|라|라서|니까|거든요?|죠|지|지만|네요?|래요?|랍니다)"
_OF_OCCASION = re.compile(
    rf"{_OCCASION}(?:\s?(?:예정일|날짜|일자|일정|기한|시작))?(?:은|는|이|가|도)?\s?(?:음력(?:으로)? )?$"
)
_IS_THE_DAY = re.compile(
    rf"(?:\s?(?:아침|점심|저녁|새벽|오전|오후|낮|밤))?(?:\s?\d{{1,2}}시(?:\s?(?:\d{{1,2}}분|반))?)?(?:까지|부터|쯤|경)?{_IS}"
    r"(?![가-힣])"
)
_IS_OCCASION = re.compile(rf"(?:이|은|는|가|에|까지)?\s(?:\S{{1,8}}\s){{0,2}}\S{{0,6}}{_OCCASION}{_IS}(?![가-힣])")
_OVER = re.compile("지난|저번|작년|재작년|그때|옛날|예전")
_OCCASION_EN = "(?:deadline|exam|test|wedding|interview|surgery|appointment|flight|graduation|concert|due date)"
_OF_OCCASION_EN = re.compile(rf"(?i)\b{_OCCASION_EN}(?: date| day)?(?: is|'s)(?: on| by)? $")
_IS_OCCASION_EN = re.compile(rf"(?i)(?: is|'s) (?:[\w'’]{{1,12}} ){{0,3}}{_OCCASION_EN}\b")
_ARRANGED = re.compile(
    "남았|잡았|잡혔|잡아|예약|예매|신청|약속|미뤘|미뤄|정했|정해|바꿨|바뀌"
)  # done already, but for a day to come
_HALF_A_YEAR = 193  # days; a lunar year may have 384
_FINAL_L, _FINAL_SS = 8, 20  # 받침 ㄹ and ㅆ, as places in the syllable block


@dataclass(frozen=True)
class Frame:
    """Where a reading stands: `tense` is -1, 0 or 1; `anchor` starts the date this one is joined to."""

    day: date
    tense: int = 0
    anchor: date | None = None

    def pick(self, spans: Sequence[Span], *, nearest: bool = False) -> Span | None:
        """Choose among the years, months or weeks that an incomplete date could mean; `spans` are in order.

        A joined date follows its anchor; a past clause cannot name a coming day, nor a future clause one that
        is over; else it is the next one, counting today, or, where `nearest`, the closest (of two equally
        close ones the later).
        """
        if self.anchor is not None:
            anchor = self.anchor
            return next((span for span in spans if span[0] >= anchor), None)
        if self.tense < 0:
            return next((span for span in reversed(spans) if span[0] <= self.day), None)
        if nearest and not self.tense:
            return min(
                (span for span in reversed(spans) if self._distance(span) <= _HALF_A_YEAR),
                key=self._distance,
                default=None,
            )
        return self._coming(spans)

    def choose(self, spans: Sequence[Span], near: str) -> Span | None:
        """Choose as 지난, 이번, 다음 or 오는 says; where `near` is empty, the closest that `pick` allows."""
        if near in ("지난", "저번"):
            return next((span for span in reversed(spans) if span[1] < self.day), None)
        if near in ("다음", "담"):
            return next((span for span in spans if span[0] > self.day), None)
        if near in ("오는", "돌아오는", "다가오는"):
            return self._coming(spans)
        return self.pick(spans, nearest=not near)

    def _coming(self, spans: Sequence[Span]) -> Span | None:
        return next((span for span in spans if span[1] >= self.day), None)

    def _distance(self, span: Span) -> int:
        return max((span[0] - self.day).days, (self.day - span[1]).days, 0)


@dataclass(frozen=True)
class Rule:
    """A pattern and its reading; a `joined` rule counts only beside another date (3월 5일과 7일)."""

    pattern: re.Pattern[str]
    read: Callable[[re.Match[str], Frame], Span | None]
    joined: bool = False


def tense(clause: str) -> int:
    """Return -1 or 1 for the first predicate of `clause` that shows the past or the future, else 0."""
    words = _SENTENCE_END.split(clause, maxsplit=1)[0].split()
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if _is_past(word, following):
            return -1
        if _is_future(word, following):
            return 1
        if _HANGING.search(word):
            return int(_is_act(word))
    return int(bool(words) and _is_act(words[-1]))


def is_to_come(before: str, after: str) -> bool:
    """Return whether the day between `before` and `after` is said to be that of an occasion."""
    before, after = _SENTENCE_END.split(before)[-1], _SENTENCE_END.split(after, maxsplit=1)[0]
    if _OVER.search(before):
        return False
    if _IS_OCCASION.match(after) or _IS_OCCASION_EN.match(after) or _OF_OCCASION_EN.search(before):
        return True
    return bool(_IS_THE_DAY.match(after) and _OF_OCCASION.search(before))


def _is_act(word: str) -> bool:
    return bool(_PRESENT.search(word)) and not _NO_ACT.search(word)


def _final(char: str) -> int:
    return (ord(char) - 0xAC00) % 28 if "가" <= char <= "힣" else 0


def _is_past(word: str, following: str) -> bool:
    if _ENGLISH_PAST.match(word) or (word in _DONE and following):
        return True
    if _ARRANGED.search(word) or (word.endswith("갔다") and following.startswith(("오", "올", "와"))):
        return False
    for place, char in enumerate(word):
        if _final(char) == _FINAL_SS and char not in "있겠" and not word.startswith("으면", place + 1):
            return True
    return False


def _is_future(word: str, following: str) -> bool:
    ahead = following if _final(word[-1]) == _FINAL_L else ""
    if ahead.startswith(("거", "것", "건데", "텐데", "예정", "계획", "생각")):
        return True
    inside = (word[n + 1] for n in range(len(word) - 1) if _final(word[n]) == _FINAL_L)
    return any(char == "거" for char in inside) or bool(_FUTURE.search(word))
