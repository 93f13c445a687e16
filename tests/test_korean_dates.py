"""Time expressions: the project's own sentences, every rule by example, and wild input."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.korean.dates import find_dates, happens_on, resolve
from engine.korean.lunar import month_span, solar_day

THURSDAY = datetime(2026, 3, 5, 12, 0)
DATA = Path(__file__).parent / "data" / "dates.tsv"


def _sentences() -> list[list[str]]:
    lines = DATA.read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines[1:]]


def _days(text: str, at: datetime = THURSDAY) -> list[str]:
    """Spell the spans of `text`: 03-06, 03-09/03-15, with the year where it is not that of `at`."""

    def spell(day: date) -> str:
        return day.strftime("%m-%d") if day.year == at.year else day.isoformat()

    return [
        spell(span.start) if span.start == span.end else f"{spell(span.start)}/{spell(span.end)}"
        for span in find_dates(text, at)
    ]


def test_the_set_is_large_and_holds_sentences_without_a_date() -> None:
    rows = _sentences()
    assert len(rows) >= 200
    assert sum(row[2] == "" for row in rows) >= 30


@pytest.mark.parametrize("category", sorted({row[4] for row in _sentences()}))
def test_own_sentences_are_resolved_right(category: str) -> None:
    wrong = []
    for sentence, at, start, end, _ in (row for row in _sentences() if row[4] == category):
        found = resolve(sentence, datetime.fromisoformat(at))
        spelled = (found[0].isoformat(), found[1].isoformat()) if found else ("", "")
        if spelled != (start, end):
            wrong.append((sentence, (start, end), spelled))
    assert wrong == []


# As the Korea Astronomy and Space Science Institute publishes them.
@pytest.mark.parametrize(
    ("name", "days"),
    [
        ("설날", "2020-01-25 2021-02-12 2022-02-01 2023-01-22 2024-02-10 2025-01-29 2026-02-17 2027-02-07"),
        ("추석", "2020-10-01 2021-09-21 2022-09-10 2023-09-29 2024-09-17 2025-10-06 2026-09-25 2027-09-15"),
        ("부처님 오신 날", "2021-05-19 2022-05-08 2023-05-27 2024-05-15 2025-05-05 2026-05-24"),
        ("정월 대보름", "2024-02-24 2025-02-12 2026-03-03"),
    ],
)
def test_lunar_feasts_are_where_the_almanac_has_them(name: str, days: str) -> None:
    for day in days.split():
        assert resolve(f"{day[:4]}년 {name}", THURSDAY) == (date.fromisoformat(day), date.fromisoformat(day))


@pytest.mark.parametrize(
    ("text", "before", "on", "after"),
    [
        ("지난 추석", "2025-10-06", "2025-10-06", "2026-09-25"),
        ("이번 추석", "2026-09-25", "2026-09-25", "2027-09-15"),
        ("오는 추석", "2026-09-25", "2026-09-25", "2027-09-15"),
        ("다음 추석", "2026-09-25", "2027-09-15", "2027-09-15"),
        ("이번 추석에 뭐 했어", "2025-10-06", "2026-09-25", "2026-09-25"),
        ("추석에 갈 거야", "2026-09-25", "2026-09-25", "2027-09-15"),
        ("추석에 갔어", "2025-10-06", "2026-09-25", "2026-09-25"),
        ("추석", "2026-09-25", "2026-09-25", "2026-09-25"),
        ("작년 추석", "2025-10-06", "2025-10-06", "2025-10-06"),
    ],
)
def test_the_word_before_a_holiday_and_the_tense_choose_its_year(text: str, before: str, on: str, after: str) -> None:
    for at, expected in (("2026-09-20", before), ("2026-09-25", on), ("2026-09-26", after)):
        assert resolve(text, datetime.fromisoformat(at)) == (date.fromisoformat(expected), date.fromisoformat(expected))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("올해 설 연휴", ["02-16/02-18"]),
        ("올해 설 연휴 첫날", ["02-16"]),
        ("올해 설 연휴 다음 날", ["02-19"]),
        ("올해 설 전전날", ["02-15"]),
        ("올해 설날 사흘 전", ["02-14"]),
        ("올해 추석 두 달 전", ["07-25"]),
        ("올해 크리스마스 연휴", ["12-25"]),
        ("올해 추석부터 한글날까지", ["09-25/10-09"]),
    ],
)
def test_days_beside_a_holiday_are_counted_from_it(text: str, expected: list[str]) -> None:
    assert _days(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "음력 13월 1일",
        "음력 8월 31일",
        "음력 0월 0일",
        "올해 음력 윤6월 3일",  # 2026 has no leap month
        "1500년 음력 1월 1일",
        "2051년 추석",
        "음력 8월 0일",
    ],
)
def test_a_lunar_date_that_the_tables_lack_is_passed_over_whole(text: str) -> None:
    assert _days(text) == []


def test_a_lunar_year_runs_into_the_next_solar_one() -> None:
    assert _days("작년 섣달그믐") == ["02-16"]
    assert _days("2025년 음력 12월 1일") == ["01-19"]


@given(st.integers(1, 9999), st.integers(0, 14), st.booleans())
def test_lunar_months_have_29_or_30_days_in_a_row(year: int, month: int, leap: bool) -> None:
    try:
        first, last = month_span(year, month, leap)
    except ValueError:
        assert leap or not (1583 <= year < 2050 and 1 <= month <= 12)
        return
    assert (last - first).days in (28, 29)
    assert solar_day(year, month, 15, leap) == first + timedelta(days=14)
    assert solar_day(year, month, -1, leap) == last


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3월 5일부터 7일까지", ["03-05/03-07"]),
        ("다음 주 월요일부터 수요일까지", ["03-09/03-11"]),
        ("3월 2일(월)~3월 6일(금)", ["03-02/03-06"]),
        ("3월 5~7일 부재", ["03-05/03-07"]),
        ("작년 3월부터 5월까지 휴학", ["2025-03-01/2025-05-31"]),
        ("15일에서 20일 사이", ["03-15/03-20"]),
        ("오늘부터 금요일까지", ["03-05/03-06"]),
        ("from Monday to Wednesday", ["03-09/03-11"]),
    ],
)
def test_a_range_is_one_span_and_its_end_follows_its_start(text: str, expected: list[str]) -> None:
    assert _days(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("어제 오늘 계속 비가 왔어", ["03-04", "03-05"]),
        ("내일이나 모레 갈게", ["03-06", "03-07"]),
        ("지난주 금요일이랑 토요일에 쉬었어", ["02-27", "02-28"]),
        ("3월 5일과 7일에 만나자", ["03-05", "03-07"]),
    ],
)
def test_several_dates_come_in_order_and_a_listed_day_follows_the_one_before(text: str, expected: list[str]) -> None:
    assert _days(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("금요일에 회식 있어", ["03-06"]),
        ("금요일에 친구를 만났어", ["02-27"]),
        ("목요일에 만나자", ["03-05"]),
        ("금요일에 만나기로 했어", ["03-06"]),
        ("금요일에 시험이 있는데 공부를 못 했어", ["03-06"]),
        ("금요일에 치과 예약했어", ["03-06"]),
        ("I met her on Monday", ["03-02"]),
        ("I need it on Monday", ["03-09"]),
        ("8월에 휴가 갔었어", ["2025-08-01/2025-08-31"]),
        ("8월에 휴가 갈 거야", ["08-01/08-31"]),
        ("12월에 결혼할 거야", ["12-01/12-31"]),
        ("12월에 결혼했어", ["2025-12-01/2025-12-31"]),
        ("15일에 카드값이 나가", ["03-15"]),
        ("15일에 카드값이 나갔어", ["02-15"]),
        ("이번 겨울은 추웠어", ["2025-12-01/02-28"]),
    ],
)
def test_tense_decides_where_the_words_leave_it_open(text: str, expected: list[str]) -> None:
    assert _days(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("출산 예정일은 9월 30일이에요", ["09-30"]),
        ("면접은 9월 10일 오전이에요", ["09-10"]),
        ("결혼식이 12월 12일이야", ["12-12"]),
        ("전세 만기가 10월 1일이야", ["10-01"]),
        ("11월 20일이 마감이야", ["11-20"]),
        ("아빠 환갑이 10월 3일이야", ["10-03"]),
        ("우리 결혼기념일은 9월 20일이야", ["09-20"]),
        ("수능이 11월 19일이에요", ["11-19"]),
        ("마감은 11월 20일입니다", ["11-20"]),
        ("환불 마감일은 9월 30일까지예요", ["09-30"]),
        ("10월 20일이 시험이야", ["10-20"]),
        ("12월 12일 결혼식이야", ["12-12"]),
        ("12월 12일이 동생 결혼식이야", ["12-12"]),
        ("12월 12일이 결혼식인데 아직 준비를 못 했어", ["12-12"]),
        ("면접 날짜는 9월 10일이에요", ["09-10"]),
        ("이사는 10월 3일쯤이에요", ["10-03"]),
        ("졸업식은 11월이야", ["11-01/11-30"]),
        ("The deadline is November 20", ["11-20"]),
        ("November 20 is my wedding day", ["11-20"]),
    ],
)
def test_what_is_an_occasion_is_still_to_come(text: str, expected: list[str]) -> None:
    assert _days(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("결혼식이 12월 12일이었어", ["2025-12-12"]),
        ("11월 20일은 졸업식이었어", ["2025-11-20"]),
        ("사고 난 날이 10월 3일이야", ["2025-10-03"]),
        ("수술한 날이 10월 3일이야", ["2025-10-03"]),
        ("지난 면접은 9월 10일이야", ["2025-09-10"]),
        ("결혼식은 했고 사고 난 건 10월 3일이야", ["2025-10-03"]),
        ("졸업은 작년 12월이야", ["2025-12-01/2025-12-31"]),
        ("결혼식 사진을 찍은 게 12월 12일이야", ["2025-12-12"]),
        ("The wedding was on December 12", ["2025-12-12"]),
        ("내 생일은 12월 1일이에요", ["2025-12-01"]),  # it comes every year
    ],
)
def test_a_day_beside_no_coming_occasion_is_the_closest_or_past(text: str, expected: list[str]) -> None:
    assert _days(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "재택은 수요일이랑 금요일에 해",
        "화요일에 요가 다녀",
        "토요일에 봉사하러 다녀요",
        "월수금에 필라테스 다니고 있어",
        "주말에 등산 다녀",
        "수요일에 수영해",
        "일요일에 요가 수업 들어",
        "나는 5월에 태어났어",
        "저는 5월 17일에 태어났어요",
        "내가 5월에 태어났거든",
        "나 12월 3일생이야",
        "I was born in May",
        "I was born on May 17",
    ],
)
def test_what_recurs_has_no_day_of_its_own(text: str) -> None:
    assert happens_on(text, THURSDAY) is None


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("다음 주 화요일에 요가 하러 가", "2026-03-10"),
        ("이번 주 토요일에 봉사 다녀", "2026-03-07"),
        ("토요일에 봉사 다녀올 거야", "2026-03-07"),
        ("화요일에 요가 다녀왔어", "2026-03-03"),
        ("토요일에 이사해", "2026-03-07"),
        ("토요일에 알바 시작해", "2026-03-07"),
        ("월요일부터 운동해", "2026-03-09"),
        ("월요일에 출근해", "2026-03-09"),
        ("토요일에 결혼해", "2026-03-07"),
        ("금요일에 발표 해", "2026-03-06"),
        ("금요일에 회식 있어", "2026-03-06"),
        ("토요일에 수영 대회에 나가", "2026-03-07"),
        ("토요일에 운동하기로 했어", "2026-03-07"),
        ("나는 1990년 5월에 태어났어", "1990-05-01"),
        ("어제 조카가 태어났어", "2026-03-04"),
        ("조카가 2월 3일에 태어났어", "2026-02-03"),
        ("10월에 아이가 태어나요", "2026-10-01"),
        ("My niece was born in February", "2026-02-01"),
        ("I was born on May 17, 1990", "1990-05-17"),
    ],
)
def test_what_happens_once_has_a_day(text: str, day: str) -> None:
    span = happens_on(text, THURSDAY)
    assert span is not None and span[0].isoformat() == day


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("다음 달 초", ["04-01/04-10"]),
        ("다음 달 중순", ["04-11/04-20"]),
        ("다음 달 말", ["04-21/04-30"]),
        ("다음 주 초", ["03-09/03-10"]),
        ("다음 주 중반", ["03-11/03-12"]),
        ("다음 주 후반", ["03-13/03-15"]),
        ("다음 주말", ["03-14/03-15"]),
        ("작년 초", ["2025-01-01/2025-02-28"]),
        ("작년 말", ["2025-11-01/2025-12-31"]),
        ("연초에", ["01-01/01-31"]),
        ("연말에", ["12-01/12-31"]),
        ("올해 3분기", ["07-01/09-30"]),
        ("다음 달 둘째 주 수요일", ["04-08"]),
        ("5월 마지막 주 토요일", ["05-30"]),
        ("작년 이맘때", ["2025-03-05"]),
        ("3년 전 오늘", ["2023-03-05"]),
        ("두세 달 전", ["2025-12-05/01-05"]),
        ("2~3년 전", ["2023-03-05/2024-03-05"]),
        ("한 달 반 전", ["01-21"]),
        ("반년 전", ["2025-09-05"]),
    ],
)
def test_parts_and_vague_amounts_mean_what_the_documentation_says(text: str, expected: list[str]) -> None:
    assert _days(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "어제는",
        "어제요?",
        "어제였어",
        "어제부터",
        "어제까진",
        "어제의",
        "어제저녁에",
        "어제, 집에서",
        "“어제”",
        "어젯밤",
    ],
)
def test_particles_and_endings_may_be_attached(text: str) -> None:
    assert _days(text) == ["03-04"]


@pytest.mark.parametrize("text", ["다음 주 금요일", "다음주 금요일", "다음 주금요일", "다음주금요일", "담주 금욜"])
def test_spacing_is_free(text: str) -> None:
    assert _days(text) == ["03-13"]


@pytest.mark.parametrize(
    "text",
    [
        "2월 30일에 보자",
        "13월 5일",
        "2026-02-29",
        "다음 달 31일",
        "9/31에 만나",
        "2월 29일 모임",
        "9999년 뒤에",
    ],
)
def test_a_date_that_does_not_exist_is_passed_over_whole(text: str) -> None:
    assert _days(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "매주 월요일과 수요일에 수업이 있어",
        "매년 3월 5일에 모여",
        "월요일 아침마다 회의",
        "매달 25일에 받아",
        "every Monday",
        "시험 3일 전",
        "3월생",
        "5월호 잡지",
        "1990년대 노래",
        "1990년생이에요",
        "2년 동안",
        "이번 주제는",
        "지난번에 본 거",
        "보름달이 떴다",
        "15일째 금연 중",
        "1/2 확률",
        "주말 농장",
        "저번에 갔던 식당",
        "며칠 전에",
        "세금을 낼 때",
        "오늘내일 하신다",
        "이번 주식은 올랐어",
    ],
)
def test_what_only_looks_like_a_date_is_none(text: str) -> None:
    assert _days(text) == []


def test_a_span_tells_its_words_and_place() -> None:
    text = "우리 다음 주 금요일에 보자"
    (span,) = find_dates(text, THURSDAY)
    assert (span.text, text[span.begin : span.stop]) == ("다음 주 금요일", "다음 주 금요일")


def test_a_year_ahead_of_the_calendar_is_no_error() -> None:
    assert _days("100년 뒤", datetime(9950, 1, 1)) == []
    assert _days("2년 전", datetime(1, 1, 1)) == []
    assert _days("지난 여름", datetime(1, 1, 1)) == []
    assert _days("next March", datetime(9999, 5, 5)) == []
    assert _days("last March", datetime(1, 1, 1)) == []
    assert _days("다음 추석", datetime(9999, 5, 5)) == []


_WORDS = st.sampled_from(
    (
        "어제 오늘 다음 지난 이번 주 달 해 년 월 일 3 5 12 31 2026 요일 금요일 월말 초 말 부터 까지 전 뒤 한 "
        "두세 이삼 반 ~ - . / , 에 은 여름 매주 마지막 둘째 next last Friday in 2 days ago March May 사흘 "
        "주말 이맘때 올 작년 지난해 설 추석 크리스마스 연휴 음력 윤 정월 보름 그믐 초하루 대보름 월화수 말고 동안 분기 "
        "중순 오는 전날 this Christmas the end of"
    ).split()
)
_TEXTS = st.lists(_WORDS | st.just(" ") | st.text(max_size=2), max_size=14).map("".join)


@given(_TEXTS, st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))
def test_any_text_gives_ordered_spans_that_stand_in_it(text: str, at: datetime) -> None:
    end = 0
    for span in find_dates(text, at):
        assert span.text and span.text == text[span.begin : span.stop]
        assert span.begin >= end
        assert span.start <= span.end
        end = span.stop


@given(_TEXTS)
def test_a_sentence_around_it_keeps_resolve_and_find_dates_agreed(text: str) -> None:
    found = find_dates(text, THURSDAY)
    assert resolve(text, THURSDAY) == ((found[0].start, found[0].end) if found else None)
