"""What Korean time expressions look like: each pattern with its reading.

Patterns end in what may follow them (particles, a form of the copula, a time of day): 오늘날, 다음 주제 and
3년 전체 hold the syllables of a time expression and are none.
"""

from __future__ import annotations

import re
from functools import cache

from engine.korean import readings
from engine.korean.frame import Rule
from engine.korean.numerals import COUNT, DAYS, SINO, one_of
from engine.korean.periods import ORDINALS
from engine.korean.readings import DAY_WORDS, UNITS, YEAR_WORDS

_S = "[ \t]{0,2}"
_OF = f"{_S}(?:의{_S})?"
_PARTICLE = one_of(
    (
        "은 는 이 가 을 를 에 엔 에는 에도 에만 에나 에야 에서 에선 도 만 만은 부터 부턴 부터는 까지 까진 "
        "까지는 까지만 의 와 과 랑 이랑 하고 나 이나 로 으로 쯤 쯤에 쯤엔 경 경에 께 면 이면 중 중에 중으로 "
        "내에 내로 내내 처럼 보다 때 요 이요"
    ).split()
)
_COPULA = (
    "(?:이?(?:야|에요|예요|지|지만|죠|라|라서|라고|라는|래|래요|니|니까|거든요?|잖아요?|네요?|고|며|던데"
    "|더라|냐|구나|군요|었[가-힣]{1,6})"
    "|입니[가-힣]{1,3}|인(?:데|가|지|거)?[가-힣]{0,2}|일(?:까|지|텐데)?요?|였[가-힣]{1,6})"
)
_TIME = "(?:밤|낮|저녁|아침|새벽|오전|오후|점심)"
_CLOCK = f"{_TIME}(?:{_PARTICLE}){{0,2}}"
_TAIL = f"(?=(?:{_CLOCK}|(?:{_PARTICLE}){{0,2}}|{_COPULA})(?![가-힣0-9]))"
_AT = "(?=(?:에|엔|에는|에도|에만|까지|까진|까지는|까지만|부터|부턴|부터는)(?![가-힣]))"
_LEFT = "(?<![가-힣A-Za-z0-9])"
_LEFT_NUMBER = rf"(?:{_LEFT}(?!\d)|(?<![0-9A-Za-z.,:/-])(?<![제총매각])(?=\d))"

_WEEKDAY = "(?P<weekday>[월화수목금토일])(?:요일날?|욜)"
_NAMED_TOO = rf"(?:{_S}[월화수목금토일]요일|{_S}\([월화수목금토일]\))"
_NUMBER = rf"(?:\d{{1,2}}|{SINO})"
_AMOUNT = (
    rf"(?![12]\d{{3}}{_S}년)(?P<amount>{DAYS}|반{_S}년"
    rf"|(?:{COUNT}{_S}{one_of(UNITS)}{_S}){{1,2}}(?:반{_S})?){_S}"
)
_MONTH = rf"(?P<month>\d{{1,2}}|{SINO}|유|시)월(?:달)?"
_YEAR_NUMBER = rf"(?:[12]\d{{3}}|(?:이천|천구백){SINO}?)(?={_S}년)|\d\d(?=년{_S}{_NUMBER}월)"
_YEAR_WORD = one_of([word for word in YEAR_WORDS if word != "올"])
_YEAR = (
    rf"(?:(?P<year>{_YEAR_WORD}|올(?={_S}(?:연|상반|하반|\d{{1,2}}월))"
    rf"|{_YEAR_NUMBER})(?:{_S}년도?)?(?!{_S}(?:전|후|뒤|동안|만에))"
    rf"|(?P<ago>{COUNT}){_S}년{_S}(?P<side>전|후|뒤)(?=[ ](?:봄|여름|가을|겨울|이맘때|오늘|{_NUMBER}월)))"
)

_WEEK_PART = f"(?:{_WEEKDAY}|(?P<part>주말|평일|주중|초반|초|중반|중|후반|말))"
_DAY = rf"(?P<day>{_NUMBER})(?:일?{_S}[~∼-]{_S}(?P<until>{_NUMBER}))?일(?:날|자|생)?{_NAMED_TOO}?"
_NTH = f"(?P<nth>{one_of([*ORDINALS, '두 번째', '세 번째', '네 번째'])}|마지막){_S}(?:주{_S})?{_WEEKDAY}"
_MONTH_PART = "(?P<part>초순|초반|초|상순|중순|중반|중|하순|후반|말일|말경|말|마지막 ?날|첫날)"
_IN_MONTH = f"(?:{_OF}(?:{_DAY}|{_NTH}|{_MONTH_PART}))"
_SEASON = f"봄|여름|가을|겨울)(?:{_S}(?:방학|휴가))?"
_YEAR_PART = f"(?P<part>초반|초|중반|중|후반|연말|말|연초|상반기|하반기|[1-4]분기|이맘때|오늘|{_SEASON}"

_AS_VERB = "거|것|게|수|때|돈|줄|만|뻔|예정|생각|필요|계획|테|텐|건|걸|사람|금액|시간"  # 낼 is also "to pay"
_TO_A_DAY = r"(?=(?:에서|[ ]?[~∼-])[ ]?\d{1,2}일)"
_A_RATE = r"에[ ]?(?:한|두|세|네|하나|걸쳐|나눠|나누어|\d)"  # 3일에 한 번
_A_FRACTION = "컵|정도|만|가|이|을|를|은|는|의|밖|씩|배|인치|크기|분량|로|[ ]?(?:이상|이하|확률)"


def _near(words: str) -> str:
    return f"{_LEFT}(?P<near>{one_of(words.split())})"


_NEAR_WEEK = _near("지지난 저저번 지난 저번 이번 요번 다음 담 다다음")
_NEAR_MONTH = _near("지지난 저저번 지난 저번 이번 요번 이 다음 담 다다음")
_PLAIN_DAY_WORD = one_of([word for word in DAY_WORDS if word not in ("낼", "그제")])

_DOT = r"(?:[-/]|\.[ ]?)"
_WRITTEN = (
    rf"{_LEFT_NUMBER}(?P<year>[12]\d{{3}}){_DOT}(?P<month>\d{{1,2}}){_DOT}(?P<day>\d{{1,2}})"
    rf"(?![-/]?\d|\.\d)\.?{_NAMED_TOO}?"
)
# A number of days is no date: it needs a particle of time, a weekday, a time of day or another day to run to.
_DATED_DAY = (
    rf"{_LEFT_NUMBER}(?P<day>\d{{1,2}})일"
    rf"(?:날{_TAIL}|{_AT}(?!{_A_RATE})|{_NAMED_TOO}{_TAIL}|{_TO_A_DAY}|(?={_S}(?:오전|오후|아침|점심|저녁|새벽)))"
)

_PATTERNS = (
    (f"{_LEFT}(?P<word>{_PLAIN_DAY_WORD}|그제(?!서?야)){_TAIL}", readings.day_word),
    (
        f"(?<![을를] ){_LEFT}(?P<word>낼)(?=(?:은|도|이나|부터|까지)?(?![가-힣]))(?!{_S}(?:{_AS_VERB}))",
        readings.day_word,
    ),
    (f"{_LEFT_NUMBER}{_AMOUNT}(?P<side>전|후|뒤){_TAIL}", readings.offset),
    (rf"{_LEFT}지난{_S}(?P<day>\d{{1,2}})일{_AT}", readings.last_day_of_month),
    (
        f"{_LEFT}(?P<side>지난|최근|앞으로|향후){_S}{_AMOUNT}(?:간|동안)?(?!{_S}(?:전|후|뒤|만|안)){_TAIL}",
        readings.stretch,
    ),
    (f"{_NEAR_WEEK}{_S}주(?:{_OF}{_WEEK_PART}|(?!인(?!데|가|지))){_TAIL}", readings.week),
    (f"{_near('금 내 차')}주{_S}{_WEEK_PART}{_TAIL}", readings.week),
    (
        f"{_LEFT_NUMBER}(?P<count>{COUNT}){_S}주일?{_S}(?P<side>전|후|뒤){_S}{_WEEK_PART}{_TAIL}",
        readings.week,
    ),
    (f"{_near('이번 요번 지난 저번 다음 담 오는 돌아오는')}{_S}{_WEEKDAY}{_TAIL}", readings.weekday),
    (f"{_LEFT}{_WEEKDAY}(?!{_S}{_TIME}마다){_TAIL}", readings.weekday),
    (f"{_LEFT}(?:오는|돌아오는){_S}주말{_TAIL}", readings.weekend),
    (f"{_LEFT}주말{_AT}", readings.weekend),
    (f"{_NEAR_MONTH}{_S}달{_IN_MONTH}?{_TAIL}", readings.near_month),
    (f"{_near('내')}달{_IN_MONTH}?{_TAIL}", readings.near_month),
    (f"{_LEFT}월(?P<part>초|말){_TAIL}", readings.near_month),
    (f"{_LEFT}{_YEAR}{_OF}{_MONTH}{_IN_MONTH}?{_TAIL}", readings.month_of_year),
    (f"{_LEFT_NUMBER}{_MONTH}(?:{_IN_MONTH}|(?!의|{_S}{_NUMBER}일)){_TAIL}", readings.month),
    (f"{_LEFT}{_YEAR}(?:{_OF}{_YEAR_PART})?{_TAIL}", readings.year),
    (f"{_near('지난 저번 이번 요번 이 다음 올')}{_S}(?P<part>{_SEASON}{_TAIL}", readings.season),
    (f"{_LEFT}(?P<part>연말)(?!{_S}정산){_TAIL}", readings.part_of_this_year),
    (f"{_LEFT}(?P<part>연초|상반기|하반기|[1-4]분기){_AT}", readings.part_of_this_year),
    (_WRITTEN, readings.written),
    (
        rf"{_LEFT_NUMBER}(?P<month>\d{{1,2}})/(?P<day>\d{{1,2}})(?![\d/.]|{_A_FRACTION}){_NAMED_TOO}?",
        readings.slashed,
    ),
    (_DATED_DAY, readings.day_of_month),
)


@cache
def rules() -> tuple[Rule, ...]:
    """Return the Korean rules; compiled on first use, which takes longer than importing all else."""
    return (
        *(Rule(re.compile(pattern), read) for pattern, read in _PATTERNS),
        Rule(re.compile(f"{_LEFT}{_DAY}{_TAIL}"), readings.day_of_month, joined=True),
    )
