"""What Korean time expressions look like: each pattern with its reading.

Patterns end in what may follow them (particles, a form of the copula, a time of day): 오늘날, 다음 주제 and
3년 전체 hold the syllables of a time expression and are none.
"""

from __future__ import annotations

import re
from functools import cache

from engine.korean import holidays, readings
from engine.korean.frame import Rule
from engine.korean.numerals import COUNT, DAYS, SINO, one_of
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
    "|이다|입니[가-힣]{1,3}|인(?:데|가|지|거)?[가-힣]{0,2}|일(?:까|지|텐데)?요?|였[가-힣]{1,6})"
)
_TIME = "(?:밤|낮|저녁|아침|새벽|오전|오후|점심)"
_CLOCK = f"{_TIME}(?:{_PARTICLE}){{0,2}}"
_TAIL = f"(?=(?:{_CLOCK}|(?:{_PARTICLE}){{0,2}}|(?:까지|부터|쯤|경|께)?{_COPULA})(?![가-힣0-9]))"
_AT = "(?=(?:에|엔|에는|에도|에만|까지|까진|까지는|까지만|부터|부턴|부터는)(?![가-힣]))"
_LEFT = "(?<![가-힣A-Za-z0-9])"
_LEFT_NUMBER = rf"(?:{_LEFT}(?!\d)|(?<![0-9A-Za-z.,:/-])(?<![제총매각윤])(?=\d))"

_WEEKDAY = "(?P<weekday>[월화수목금토일])(?:요일날?|욜)"
_NAMED_TOO = rf"(?:{_S}[월화수목금토일]요일|{_S}\([월화수목금토일]\))"
_IN_A_ROW = one_of({"월화수목금토일월"[n:m] for n in range(7) for m in range(n + 2, 9)} - {"일월"})
_LETTERS = f"(?:{_IN_A_ROW}|(?=[월화수목금토일]{{2}})월?화?수?목?금?토?일?)"
_APART = rf"[월화수목금토일](?:{_S}[·∙,/~∼-]{_S}[월화수목금토일])+"
_NUMBER = rf"(?:\d{{1,2}}|{SINO})"
_AMOUNT = (
    rf"(?![12]\d{{3}}{_S}년)(?P<amount>{DAYS}|반{_S}년"
    rf"|(?:{COUNT}{_S}{one_of(UNITS)}{_S}){{1,2}}(?:반{_S})?){_S}"
)
_MONTH = rf"(?P<month>\d{{1,2}}|{SINO}|유|시)월(?:달)?"
_YEAR_NUMBER = (
    rf"(?:[12]\d{{3}}|(?:이천|천구백){SINO}?)(?={_S}년)|\d\d(?=년{_S}{_NUMBER}월)"
    rf"|[7-9]\d(?=년(?:도|에(?!{_S}(?:한|걸쳐))))|0\d(?=년)"
)
_HOLIDAYS = "|".join(name.replace("_", _S) for name in sorted(map(re.escape, holidays.NAMES), key=len, reverse=True))
_FEASTS = "설|추석|한가위|크리스마스|어린이날|어버이날"
_YEAR_WORD = one_of([word for word in YEAR_WORDS if word != "올"])
_YEAR = (
    rf"(?:(?P<year>{_YEAR_WORD}|올(?={_S}(?:연|상반|하반|\d{{1,2}}월|{_FEASTS}))"
    rf"|{_YEAR_NUMBER})(?:{_S}년도?)?(?!{_S}(?:전|후|뒤|동안|만에))"
    rf"|(?P<ago>{COUNT}){_S}년{_S}(?P<side>전|후|뒤)"
    rf"(?=[ ](?:봄|여름|가을|겨울|이맘때|오늘|{_NUMBER}월|음력|{_FEASTS})))"
)

_TODAY = f"오늘|이맘때|이때|이{_S}시간"
_WEEK_PART = (
    f"(?:{_WEEKDAY}|(?P<run>{_LETTERS}|{_APART})(?:요일)?(?:{_S}(?:이틀|사흘|양일)(?:간|{_S}동안)?)?"
    f"|(?P<part>주말|평일|주중|초반|초|중반|중|후반|말|{_TODAY}))"
)
_DAY = rf"(?P<day>{_NUMBER})(?:일?{_S}[~∼-]{_S}(?P<until>{_NUMBER}))?일(?:날|자|생)?{_NAMED_TOO}?"
_ORDINAL = f"(?:(?:첫|두|세|네|다섯){_S}번째|첫째|둘째|셋째|넷째|다섯째|첫|마지막)"
_NTH = f"(?P<nth>{_ORDINAL}){_S}(?:주{_S})?{_WEEKDAY}"
_NTH_WEEK = f"(?P<nthweek>{_ORDINAL}){_S}(?:(?:주{_S})?(?P<weekpart>주말|평일)|주)"
_MONTH_PART = "(?P<part>초순|초반|초|상순|중순|중반|중|하순|후반|말일|말경|말|마지막 ?날|첫날"
_IN_MONTH = f"(?:{_OF}(?:{_DAY}|{_NTH}|{_NTH_WEEK}|{_MONTH_PART})))"
_IN_NEAR_MONTH = f"(?:{_OF}(?:{_DAY}|{_NTH}|{_NTH_WEEK}|{_MONTH_PART}|{_TODAY})))"
_SEASON = f"봄|여름|가을|겨울)(?:{_S}(?:방학|휴가))?"
_YEAR_PART = (
    f"(?P<part>초반|초|중반|중|후반|연말|말|연초|상반기|하반기|[1-4](?:사|/4)?분기|첫날|마지막 날|이맘때|오늘|{_SEASON}"
)

_AS_VERB = "거|것|게|수|때|돈|줄|만|뻔|예정|생각|필요|계획|테|텐|건|걸|사람|금액|시간"  # 낼 is also "to pay"
_TO_A_DAY = r"(?=(?:에서|[ ]?[~∼-])[ ]?\d{1,2}일|(?:과|이랑|하고|이나|,)[ ]?\d{1,2}일(?:에|까지|부터))"
_A_RATE = r"에[ ]?(?:한|두|세|네|하나|걸쳐|나눠|나누어|\d)"  # 3일에 한 번
_A_FRACTION = "컵|정도|만|가|이|을|를|은|는|의|밖|씩|배|인치|크기|분량|로|[ ]?(?:이상|이하|확률)"


def _near(words: str) -> str:
    return f"{_LEFT}(?<!그 )(?P<near>{one_of(words.split())})"


_NEAR_WEEK = _near("지지난 저저번 전전 지난 저번 이번 요번 다음 담 다다음 다음다음")
_NEAR_MONTH = _near("지지난 저저번 전전 지난 저번 이번 요번 이 다음 담 다다음 다음다음")
_COMING = "오는 돌아오는 다가오는"
_NEAR = f"지난 저번 이번 요번 다음 담 {_COMING}"
_HABIT = f"(?!(?:{_PARTICLE})?{_S}(?:항상|언제나|늘[ ]|보통|주로|대개|대체로|매번|마다))"
_PLAIN_DAY_WORD = one_of([word for word in DAY_WORDS if word not in ("낼", "그제")])

_DOT = r"(?:[-/]|\.[ ]?)"
_WRITTEN = (
    rf"{_LEFT_NUMBER}(?P<year>[12]\d{{3}}){_DOT}(?P<month>\d{{1,2}}){_DOT}(?P<day>\d{{1,2}})"
    rf"(?![-/]?\d|\.\d)\.?{_NAMED_TOO}?"
)
_WRITTEN_SHORT = (
    rf"(?:{_LEFT_NUMBER}|(?<=['’‘]))(?P<year>\d\d)\.[ ]?(?P<month>\d{{1,2}})\.[ ]?(?P<day>\d{{1,2}})"
    rf"(?:(?<=\d\d\.\d\d\.\d\d)(?!\.?\d)|\.(?!\d)){_NAMED_TOO}?"
)
_SLASHED = (
    rf"{_LEFT_NUMBER}(?P<month>\d{{1,2}})/(?P<day>\d{{1,2}})"
    rf"(?:{_S}[~∼-]{_S}(?P<until>\d{{1,2}})(?![\d/월]))?(?![\d/.]|{_A_FRACTION}){_NAMED_TOO}?"
)
# A number of days is no date: it needs a particle of time, a weekday, a time of day or another day to run to.
_DATED_DAY = (
    rf"{_LEFT_NUMBER}(?P<day>\d{{1,2}})일"
    rf"(?:날{_TAIL}|{_AT}(?!{_A_RATE})|{_NAMED_TOO}{_TAIL}|{_TO_A_DAY}|(?={_S}(?:오전|오후|아침|점심|저녁|새벽)))"
)

_PARTS = f"연말(?!{_S}정산)|연초|연내|상반기|하반기|[1-4](?:사|/4)?분기(?!{_S}(?:연속|동안|째|만에))"
_MONTHS = rf"(?P<since>\d{{1,2}}){_S}[~∼-]{_S}(?P<month>\d{{1,2}})월"
_AFTER_WEEKEND = (
    "잘|이틀|내내|동안|계획|약속|일정|저녁|아침|오전|오후|낮|밤|새벽|뭐|어때|어떻게|어디|즐겁|즐거|푹|재밌|재미"
)

_WHICH_YEAR = f"(?:{_YEAR}|{_near(_NEAR)})"
_NO_DAY = (
    f"(?!{_S}(?:캐럴|캐롤|노래|트리|카드|선물|장식|영화|음식|특집|세일|분위기|시즌))"
    f"(?!(?:은|는|이|가|을|를)[ ](?:(?:제일|가장|정말|너무|참|별로)[ ])?(?:좋|싫))"
)
_BARE_SEOL = (
    f"설(?={_S}(?:연휴|명절|당일|전날|다음{_S}날|이튿날|때|쯤)"
    f"|(?:에|에는|엔|에도|부터|까지|까진)(?![가-힣])|을?{_S}(?:쇠|쇨|쇤))"
)


def _holiday(names: str) -> str:
    return (
        f"(?P<holiday>{names})(?:날)?(?:{_S}(?:당일|명절))?(?P<days>{_S}연휴(?:{_S}(?P<which>첫|마지막){_S}날)?)?"
        f"(?:{_S}(?P<beside>전전날|전{_S}날|다음{_S}날|담날|이튿날)|{_S}{_AMOUNT}(?P<from>전|후|뒤))?{_TAIL}{_HABIT}{_NO_DAY}"
    )


_LUNAR_DAY_WORDS = one_of(holidays.LUNAR_DAYS)
_OWN_MONTHS = one_of(holidays.LUNAR_MONTHS)
_LUNAR_DATE = (
    rf"(?P<leap>윤달?{_S})?(?P<month>{_NUMBER}월|유월|시월|{_OWN_MONTHS})(?:달)?"
    rf"(?:{_OF}(?:(?P<day>{_LUNAR_DAY_WORDS}|초?{_NUMBER}(?=일))일?(?:날)?))?"
)
# Without the word 음력 these months are lunar, and so is any whose day has a name.
_LUNAR_WORDS = (
    f"(?P<month>{_OWN_MONTHS}|(?:{_NUMBER}|유|시)월(?={_S}(?:{_LUNAR_DAY_WORDS})))"
    f"(?:{_S}(?P<day>{_LUNAR_DAY_WORDS})(?:날)?)?"
)

_PATTERNS = (
    (f"{_LEFT}(?P<word>{_PLAIN_DAY_WORD}|그제(?!서?야)){_TAIL}(?!{_S}같)", readings.day_word),
    (
        f"(?<![을를] ){_LEFT}(?P<word>낼)(?=(?:은|도|이나|부터|까지)?(?![가-힣]))(?!{_S}(?:{_AS_VERB}))",
        readings.day_word,
    ),
    (
        f"{_LEFT_NUMBER}{_AMOUNT}(?:(?:쯤|정도|가량){_S})?(?P<side>전|후|뒤)(?:{_OF}(?:{_TODAY}))?{_TAIL}",
        readings.offset,
    ),
    (f"{_LEFT}(?:오늘|지금)(?:으?로)?부터{_S}{_AMOUNT}(?P<side>후|뒤){_TAIL}", readings.offset),
    (rf"{_LEFT}지난{_S}(?P<day>\d{{1,2}})일{_AT}", readings.last_day_of_month),
    (
        f"{_LEFT}(?P<side>지난|최근|앞으로|향후){_S}{_AMOUNT}(?:간|동안)?(?!{_S}(?:전|후|뒤|만|안)){_TAIL}",
        readings.stretch,
    ),
    (f"{_NEAR_WEEK}{_S}주(?:{_OF}{_WEEK_PART}|(?!인(?!데|가|지))){_TAIL}", readings.week),
    (f"{_near('금 내 차')}주{_S}{_WEEK_PART}(?<!금주 중)(?<!금주중){_TAIL}", readings.week),
    (f"{_near('금 내 차')}주(?:{_AT}|(?={_S}(?:내|안)(?:에|으?로)?(?![가-힣])))", readings.week),
    (f"{_LEFT}(?P<near>)주(?P<part>초){_AT}", readings.week),
    (
        f"{_LEFT_NUMBER}(?P<count>{COUNT}){_S}주일?{_S}(?P<side>전|후|뒤){_S}{_WEEK_PART}{_TAIL}",
        readings.week,
    ),
    (f"{_near(_NEAR)}{_S}{_WEEKDAY}{_TAIL}", readings.weekday),
    (f"{_LEFT}{_WEEKDAY}(?!{_S}{_TIME}마다){_TAIL}{_HABIT}", readings.weekday),
    (f"{_LEFT}(?P<run>{_IN_A_ROW})(?<!수목)(?:요일)?(?!{_S}드라마){_TAIL}", readings.weekdays),
    (f"{_LEFT}(?:오는|돌아오는|다가오는){_S}주말{_TAIL}", readings.weekend),
    (f"{_LEFT}주말{_HABIT}(?:{_AT}|(?={_S}(?:{_AFTER_WEEKEND})))", readings.weekend),
    (f"{_NEAR_MONTH}{_S}달{_IN_NEAR_MONTH}?{_TAIL}", readings.near_month),
    (f"{_near('내')}달{_IN_MONTH}?{_TAIL}", readings.near_month),
    (f"{_near('익 당 전 금 내')}월{_IN_MONTH}?{_TAIL}", readings.near_month),
    (f"{_near('지난 저번 이번 요번 다음 담')}{_S}월(?P<part>초|말){_TAIL}", readings.near_month),
    (f"{_LEFT}월(?P<part>초|말){_TAIL}", readings.part_of_this_month),
    (f"{_LEFT}{_NTH}{_TAIL}", readings.part_of_this_month),
    (f"{_LEFT}(?P<part>말일{_AT}|(?:초순|상순|중순|하순)(?=쯤|경|께|에|까지|부터))", readings.part_of_this_month),
    (f"{_LEFT}{_YEAR}{_OF}{_MONTH}{_IN_MONTH}?{_TAIL}", readings.month_of_year),
    (f"{_LEFT_NUMBER}{_MONTH}(?:{_IN_MONTH}|(?!의|{_S}{_NUMBER}일)){_TAIL}", readings.month),
    (f"{_near(_NEAR)}{_S}{_MONTH}(?:{_IN_MONTH}|(?!의|{_S}{_NUMBER}일)){_TAIL}", readings.month),
    (f"{_LEFT}(?:{_YEAR}{_OF})?(?<!\\d){_MONTHS}{_TAIL}", readings.months),
    (f"{_LEFT}{_YEAR}(?:{_OF}{_YEAR_PART})?{_TAIL}", readings.year),
    (f"{_near('지난 저번 이번 요번 이 다음 올')}{_S}(?P<part>{_SEASON}{_TAIL}", readings.season),
    (f"{_LEFT}(?P<part>{_PARTS}){_TAIL}", readings.part_of_a_year),
    (f"{_near(_NEAR)}{_S}(?P<part>{_PARTS}){_TAIL}", readings.part_of_a_year),
    (f"{_near('지난 저번 이번 요번 다음 담')}{_S}분기{_TAIL}", readings.quarter),
    (_WRITTEN, readings.written),
    (_WRITTEN_SHORT, readings.written),
    (
        _SLASHED,
        readings.slashed,
    ),
    (rf"{_LEFT_NUMBER}(?P<month>\d{{1,2}})\.(?P<day>\d{{1,2}})\.?{_S}\([월화수목금토일]\)", readings.slashed),
    (_DATED_DAY, readings.day_of_month),
    (rf"{_near(_COMING + ' 이번')}{_S}(?P<day>\d{{1,2}})일{_TAIL}", readings.day_of_month),
    (f"{_LEFT}(?:{_WHICH_YEAR}{_OF})?{_holiday(_HOLIDAYS)}", holidays.holiday),
    (f"{_LEFT}{_WHICH_YEAR}{_OF}{_holiday('설')}", holidays.holiday),
    (f"{_LEFT}{_holiday(_BARE_SEOL)}", holidays.holiday),
    (f"{_LEFT}(?:{_WHICH_YEAR}{_OF})?음력(?:으로)?{_S}{_LUNAR_DATE}{_TAIL}", holidays.lunar_date),
    (f"{_LEFT}음력(?:으로)?{_S}{_YEAR}{_OF}{_LUNAR_DATE}{_TAIL}", holidays.lunar_date),
    (rf"{_LEFT}음력(?:으로)?{_S}(?P<month>\d{{1,2}})[/.]{_S}(?P<day>\d{{1,2}})(?![\d/.])", holidays.lunar_date),
    (rf"{_LEFT}(?:{_WHICH_YEAR}{_OF})?{_LUNAR_DATE}{_S}\(음력?\)", holidays.lunar_date),
    (f"{_LEFT}(?:{_WHICH_YEAR}{_OF})?{_LUNAR_WORDS}{_TAIL}", holidays.lunar_date),
)


@cache
def rules() -> tuple[Rule, ...]:
    """Return the Korean rules; compiled on first use, which takes longer than importing all else."""
    return (
        *(Rule(re.compile(pattern), read) for pattern, read in _PATTERNS),
        Rule(re.compile(f"{_LEFT}{_DAY}{_TAIL}"), readings.day_of_month, joined=True),
        Rule(re.compile(f"{_LEFT_NUMBER}{_AMOUNT}(?:간|동안)"), readings.lasting, joined=True),
        Rule(re.compile(f"{_LEFT}(?:지금|현재)(?=까지)"), readings.now, joined=True),
    )
