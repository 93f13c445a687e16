"""The judge of two statements: what is merged, what is superseded, and what never is."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from script_module import load

from engine.faculties import Verdict
from engine.judge import LIKE_REPLACED, LIKE_SAME, Judge, Statement
from engine.korean.morphemes import Analyser
from engine.korean.statements import read

ALIKE = 3.0  # a likeness that objects to nothing
DATA = Path(__file__).parent / "data"
NOON = datetime(2026, 3, 5, 12)


# To an embedder that takes all texts for one, every slot is near: words alone must keep apart what differs.
judge = Judge(lambda texts: np.ones((len(texts), 1), np.float32))


@pytest.fixture(scope="module")
def said():
    """Return text, when → Statement; Kiwi is loaded once and dropped with the module."""
    analyser = Analyser()
    tokens = cache(analyser.tagged)

    def statement(text: str, when: datetime | None = None) -> Statement:
        return Statement(text, tokens(text), when)

    return statement


@pytest.fixture(scope="module")
def verdict(said):
    def of(old: str, new: str, likeness: float = ALIKE) -> Verdict:
        return judge(said(old), said(new), likeness)

    return of


# ---- the same


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("저는 인천에 살아요", "나 인천 살아"),
        ("우리 엄마는 약사야", "저희 어머니는 약사예요"),
        ("강아지를 세 마리 키워요", "반려견을 3마리 키우고 있습니다"),
        ("매일 아침 공원에서 산책을 해요", "매일 아침 산책을 공원에서 해요"),
        ("회의는 오후 세 시에 있어요", "회의는 오후 3시에 있습니다"),
        ("오이를 안 먹어요", "오이는 먹지 않아"),
        ("저는 통역사로 일해요", "제 직업은 통역사입니다"),
        ("와이프가 커피를 좋아해요", "아내는 커피를 정말 좋아합니다"),
        ("월급은 삼백만 원이에요", "월급은 300만 원이에요"),
        ("수영을 못 해요", "수영은 할 수 없어요"),
    ],
)
def test_the_same_in_other_words_is_merged(verdict, old, new):
    assert verdict(old, new) == "same"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("민지가 철수를 좋아해요", "철수가 민지를 좋아해요"),
        ("서울에서 부산으로 갔어요", "부산에서 서울로 갔어요"),
        ("민지는 철수보다 커요", "철수는 민지보다 커요"),
        ("책을 빌렸어요", "책을 빌려줬어요"),
        ("과장님이 승진했어요", "과장으로 승진했어요"),
        ("사과를 먹어요", "사과만 먹어요"),
        ("피아노를 배워요", "피아노를 배웠어요"),
        ("피아노를 배워요", "피아노를 배우고 싶어요"),
        ("고양이를 키워요", "세 살 된 고양이 나비를 키워요"),
        ("세 살 된 고양이 나비를 키워요", "고양이를 키워요"),
        ("커피를 마셔요", "커피를 다시 마셔요"),
        ("", ""),
        ("ㅋㅋ", "ㅋㅋ"),
    ],
)
def test_what_only_looks_the_same_is_kept(verdict, old, new):
    assert verdict(old, new) == "different"


def test_embeddings_that_differ_forbid_a_verdict(verdict):
    assert verdict("저는 인천에 살아요", "나 인천 살아", LIKE_SAME - 0.01) == "different"
    assert verdict("서울에 살아요", "부산으로 이사했어요", LIKE_REPLACED - 0.01) == "different"


def test_tomorrow_is_another_day_a_week_later(said):
    one, other = said("내일 치과에 가요", NOON), said("내일 치과 가요", NOON + timedelta(days=7))
    assert judge(one, other, ALIKE) == "different"
    assert judge(one, said("내일 치과 가요", NOON + timedelta(hours=1)), ALIKE) == "same"
    assert judge(one, said("내일 치과 가요"), ALIKE) == "different"


def test_what_happened_months_apart_happened_twice(said):
    one = said("감기에 걸렸어요", NOON)
    assert judge(one, said("저 감기에 걸렸어요", NOON + timedelta(days=90)), ALIKE) == "different"
    assert judge(one, said("저 감기에 걸렸어요", NOON), ALIKE) == "same"


def test_a_birthday_is_the_same_every_year(said):
    one, other = said("제 생일은 5월 17일이에요", NOON), said("내 생일은 5월 17일이야", NOON + timedelta(days=500))
    assert judge(one, other, ALIKE) == "same"


def test_clocks_with_and_without_a_zone_are_compared_by_their_days(said):
    aware = datetime.fromisoformat("2026-03-05T12:00:00+09:00")
    assert judge(said("감기에 걸렸어요", NOON), said("저 감기에 걸렸어요", aware), ALIKE) == "same"


# ---- never the same: numbers, dates, names, Latin words, negation


STATEMENTS = [
    "{name}는 {latin} 자격증을 {number}개 갖고 있어요",
    "{day}마다 {name}와 {number}시에 {latin} 수업을 들어요",
    "{name}의 생일은 {number}월이에요",
    "{latin} {number} 한 대를 {name}한테 받았어요",
    "우리 {name}는 {day}에 {number}시간 일해요",
]
CHOICES = {
    "name": ["민지", "철수", "서연", "지훈"],
    "latin": ["Python", "Rust", "AWS", "iPhone", "K5"],
    "number": ["2", "3", "7", "11", "12"],
    "day": ["월요일", "화요일", "금요일"],
}


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_statements_that_differ_in_a_detail_are_never_merged(verdict, data):
    template = data.draw(st.sampled_from(STATEMENTS))
    old = {key: data.draw(st.sampled_from(choices)) for key, choices in CHOICES.items()}
    changed = data.draw(st.sampled_from([key for key in CHOICES if f"{{{key}}}" in template]))
    value = data.draw(st.sampled_from([choice for choice in CHOICES[changed] if choice != old[changed]]))
    assert verdict(template.format(**old), template.format(**{**old, changed: value})) != "same"


PREDICATES = [
    ("커피를 마셔요", "커피를 {}마셔요"),
    ("민지는 고기를 먹어요", "민지는 고기를 {}먹어요"),
    ("주말에는 일해요", "주말에는 일 {}해요"),
    ("버스를 타요", "버스를 {}타요"),
]


@given(st.sampled_from(PREDICATES), st.sampled_from(["안 ", "못 "]), st.booleans())
def test_a_negation_is_never_merged_away(verdict, pair, denial, turned):
    both = (pair[0], pair[1].format(denial))
    old, new = both[::-1] if turned else both
    assert verdict(old, new) != "same"
    assert verdict(both[1], both[1]) == "same"


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_equal_numbers_only_are_merged(one, other):
    def tokens(number: int) -> list[tuple[str, str]]:
        return [("저금", "NNG"), ("은", "JX"), (str(number), "SN"), ("원", "NNB"), ("이", "VCP"), ("야", "EF")]

    found = judge(Statement(f"저금은 {one}원", tokens(one)), Statement(f"저금은 {other}원", tokens(other)), ALIKE)
    assert (found == "same") == (one == other)


@given(
    st.lists(st.tuples(st.text(max_size=3), st.sampled_from("NNG NNP SN NR MM VV VX EP EC EF JKS JX XSV SF".split())))
)
def test_no_tokens_break_it_and_nothing_replaces_itself(tokens):
    statement = Statement("", tokens)
    assert judge(statement, statement, ALIKE) != "replaces"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("서른두 살이에요", "32살"),
        ("삼십이 세예요", "32살"),
        ("15만 원이에요", "150000원"),
        ("1,200원이야", "1200원"),
        ("고3이에요", "3학년"),
    ],
)
def test_numerals_are_read_as_digits(said, text, number):
    assert number in read(said(text).tokens).forms


def test_numerals_that_make_no_number_stay_apart():
    two_three, three_two = ([(form, "SN") for form in pair] for pair in (("2", "3"), ("3", "2")))
    assert read(two_three).forms != read(three_two).forms


# ---- replaced


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("서울에 살아요", "부산으로 이사했어요"),
        ("엄마는 청주에 살아요", "엄마는 강릉으로 이사 오셨어요"),
        ("현대자동차에 다녀요", "LG전자로 이직했습니다"),
        ("현대자동차에 다녀요", "퇴사했어요"),
        ("대리예요", "과장으로 승진했어요"),
        ("취준생이에요", "드디어 취직했어요"),
        ("저는 마흔한 살이에요", "이제 마흔둘이에요"),
        ("아들이 초등학교 2학년이에요", "아들이 초등학교 3학년이 됐어요"),
        ("작년에 결혼했어요", "이혼했어요"),
        ("제 번호는 010-1111-2222예요", "번호가 010-3333-4444로 바뀌었어요"),
        ("가장 좋아하는 색은 초록이야", "가장 좋아하는 색은 보라야"),
        ("매운 음식을 좋아해요", "매운 음식을 못 먹어요"),
        ("담배를 하루에 한 갑 피워요", "담배 끊었어요"),
        ("운동을 안 해요", "운동을 시작했어요"),
        ("넷플릭스를 구독해요", "넷플릭스를 해지했어요"),
        ("차가 없어요", "차를 샀어요"),
        ("회의는 3시예요", "회의를 4시로 옮겼어요"),
        ("치과 예약은 화요일이에요", "치과 예약을 취소했어요"),
        ("아침 7시에 일어나요", "요즘은 6시에 일어나요"),
        ("마감은 4월 20일이에요", "마감은 4월이 아니라 5월 20일이에요"),
        ("룸메이트와 같이 살아요", "독립해서 혼자 살아요"),
        ("할머니와 살아요", "대구로 이사 왔어요"),
        ("입원해 있어요", "어제 퇴원했어요"),
        ("솔로예요", "남자친구가 생겼어요"),
        ("은행에서 근무해요", "지금은 스타트업에 다녀요"),
        ("체중이 80킬로예요", "74킬로까지 뺐어요"),
        ("통신사는 KT예요", "통신사를 SKT로 옮겼어요"),
        ("7월에 유럽 여행 갈 예정이에요", "유럽 여행은 안 가기로 했어요"),
        ("고양이 나비를 키워요", "나비가 하늘나라로 갔어요"),
        ("신문을 구독해요", "신문 구독을 끊었어요"),
        ("교회에 다녀요", "교회에 안 다녀요"),
    ],
)
def test_a_contradiction_supersedes(verdict, old, new):
    assert verdict(old, new) == "replaces"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("서울에 살아요", "동생이 부산으로 이사했어요"),  # somebody else
        ("민지는 은행에서 일해요", "퇴사했어요"),
        ("친구가 남자친구랑 사귀어요", "남자친구랑 헤어졌어요"),
        ("차는 소나타예요", "아내 차를 그랜저로 바꿨어요"),
        ("서울에 살아요", "부산으로 이사하고 싶어요"),  # wished, asked, planned, supposed, heard
        ("서울에 살아요", "부산으로 이사할까요?"),
        ("서울에 살아요", "부산으로 이사할 예정이에요"),
        ("서울에 살아요", "부산으로 이사하면 좋겠어요"),
        ("서울에 살아요", "부산으로 이사했대요"),
        ("서울에 살아요", "예전에 부산에 살았어요"),  # the past
        ("예전에 서울에 살았어요", "부산에 살아요"),
        ("서울에 살아요", "강남으로 이사했어요"),  # within
        ("서울에 사는 친구가 있어요", "부산에 사는 친구가 있어요"),
        ("커피를 마셔요", "아침에는 커피를 안 마셔요"),  # bounded
        ("커피를 마셔요", "오늘은 커피를 안 마셨어요"),
        ("커피를 좋아해요", "믹스커피를 싫어해요"),
        ("피아노를 배워요", "피아노를 팔았어요"),  # another thing ended
        ("강아지를 키워요", "강아지가 다 나았어요"),
        ("차가 두 대 있어요", "차를 팔았어요"),
        ("커피 머신을 샀어요", "커피를 끊었어요"),
        ("제주도 여행 사진이 많아요", "제주도 여행을 취소했어요"),
        ("도서관 예약은 금요일이에요", "치과 예약을 금요일 5시로 옮겼어요"),
        ("헬스장에 다녀요", "헬스장 끊었어요"),  # or bought
        ("김치찌개를 좋아해요", "된장찌개를 좋아해요"),
        ("월요일마다 요가를 해요", "화요일마다 요가를 해요"),
        ("아들은 일곱 살이에요", "딸은 여덟 살이에요"),
        ("저는 미혼이에요", "여자친구가 있어요"),
        ("현대차에 다녀요", "현대차를 팔았어요"),
        ("제주도에 별장이 있어요", "서울로 이사했어요"),
        ("월급이 300만 원이에요", "월세가 60만 원으로 올랐어요"),
        ("학원을 두 개 다녀요", "학원 하나를 그만뒀어요"),
        ("방이 세 개예요", "방 하나를 서재로 바꿨어요"),
        ("친구들이랑 여행 가기로 했어요", "친구가 여행을 취소했어요"),
        ("차를 살 거예요", "차를 팔았어요"),
        ("오전에 회의가 있어요", "오후 회의는 취소됐어요"),
        ("야구 보는 걸 좋아해요", "야구하는 건 싫어해요"),
        ("개발자예요", "회사를 옮겼어요"),
        ("저는 서울에 살아요", "여름에만 제주에서 살아요"),
        ("친구랑 같이 살아요", "친구가 이사를 도와줬어요"),
        ("취미는 등산이에요", "취미는 낚시예요"),
        ("차는 K5예요", "차 보험을 바꿨어요"),
        ("서울에서 개를 키우고 회사에 다녀요", "부산으로 이사했어요"),  # says more than one thing
    ],
)
def test_what_proves_no_contradiction_is_kept(verdict, old, new):
    assert verdict(old, new) == "different"


def test_long_texts_are_not_compared(said):
    text = " ".join(["저는 서울에 살아요."] * 60)
    assert judge(said(text), said(text), ALIKE) == "different"


# ---- the pairs of two authors

FLOORS = {"dev": {"same": 0.55, "replaces": 0.8}, "dev2": {"same": 0.4, "replaces": 0.4}}
HARD = "judge_pairs_hard.jsonl"  # of daily life, all different: what a reviewer found merged or superseded, and more
PAIRS = {"dev": "judge_pairs.jsonl", "dev2": "judge_pairs_more.jsonl"}


def pairs_of(split: str) -> list[dict[str, str]]:
    rows = [json.loads(line) for line in (DATA / PAIRS.get(split, HARD)).read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["split"] == split]


def test_the_second_authors_pairs_are_whole():
    pairs = pairs_of("dev2")
    assert Counter(pair["verdict"] for pair in pairs) == {"same": 40, "replaces": 60, "different": 60}
    assert {tuple(pair) for pair in pairs} == {("old", "new", "verdict", "kind", "split")}
    assert len({(pair["old"], pair["new"]) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize("split", sorted(PAIRS))
def test_words_alone_are_hardly_ever_wrong(verdict, split):
    found = [(pair["verdict"], verdict(pair["old"], pair["new"])) for pair in pairs_of(split)]
    for name in ("same", "replaces"):
        right = found.count((name, name))
        assert right >= 0.97 * sum(got == name for _, got in found)
        assert right >= FLOORS[split][name] * sum(want == name for want, _ in found)


def test_what_is_hard_to_tell_apart_is_kept(verdict):
    pairs = pairs_of("hard")
    assert len(pairs) == len({(pair["old"], pair["new"]) for pair in pairs}) >= 400
    assert {(pair["old"], pair["new"]) for pair in pairs if verdict(pair["old"], pair["new"]) != "different"} == set()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("몸무게가 5.5킬로예요", "몸무게가 55킬로예요"),
        ("시력이 1.5예요", "시력이 15예요"),
        ("키는 1.7m예요", "키는 17m예요"),
    ],
)
def test_a_sign_within_a_number_is_never_merged_away(verdict, old, new):
    assert verdict(old, new) != "same"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("고기를 안 먹어요", "고기를 안먹어요."),
        ("비밀번호는 qwe123!예요", "비밀번호는 qwe123! 예요"),
        ("월급은 3,000,000원이에요", "월급은 3000000원이에요"),
        ("민지는 저를 좋아해요", "민지는 나를 좋아해"),
        ("형이 저보다 커요", "형은 나보다 커"),
    ],
)
def test_what_is_written_alike_is_still_merged(verdict, old, new):
    assert verdict(old, new) == "same"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("이모는 대구에 살아요", "이모는 이제 부산에 살아요"),
        ("비밀번호는 1234예요", "이제 비밀번호는 5678이에요"),
        ("아이폰을 써요", "갤럭시로 바꿨어요"),
        ("넷플릭스를 구독해요", "넷플릭스 구독을 취소했어요"),
        ("해외 출장 중이에요", "출장에서 돌아왔어요"),
        ("토요일에 민지를 만나기로 했어요", "토요일에 민지를 못 만나게 됐어요"),
        ("딸기 알레르기가 있어요", "딸기가 아니라 바나나 알레르기가 있어요"),
        ("남편이 있어요", "남편과 이혼했어요"),
    ],
)
def test_what_says_that_it_changed_still_supersedes(verdict, old, new):
    assert verdict(old, new) == "replaces"


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("split", sorted(PAIRS))
def test_the_starter_model_judges_as_well(engine, split):
    figures = load("judge_quality").measure(engine, DATA / PAIRS[split], split)
    assert figures["violations"] == 0
    for name, floor in FLOORS[split].items():
        assert figures[name]["precision"] >= 0.95
        assert figures[name]["recall"] >= floor
