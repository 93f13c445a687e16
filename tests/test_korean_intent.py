"""Intents, questions and the need for memory, by rule."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.korean.intent import Intent, Rules, understand_rules
from engine.korean.recall import tells_to_remember

INTENTS: dict[Intent, list[str]] = {
    "memory_command": [
        "내 생일은 5월 17일이야. 기억해 줘",
        "이거 꼭 기억해 둬",
        "내가 매운 거 못 먹는다는 거 잊지 마",
        "아까 한 말은 잊어 줘",
        "내 전화번호 메모해 줘",
        "우리 집 비밀번호 저장해 둬",
        "제가 채식주의자라는 걸 기억해 주세요",
        "내 여자친구 이야기는 잊어버려",
        "내일 치과 예약 있다고 적어 둬",
        "방금 말한 거 다 지워 줘",
        "기억해줄래? 나 땅콩 알레르기 있어",
        "remember that I am allergic to peanuts",
        "Please forget what I said about my boss",
        "Don't forget my birthday is in May",
        "내가 커피 안 마신다는 거 기억하고 있어",
        "그 얘기는 기억에서 지워 줘",
        "내일 치과 예약 적어 놔",
        "회의 시간 적어 둬라",
        "내 혈액형 좀 적어 두세요",
        "이건 꼭 적어 놓으세요",
        "내 생일 적어 둘래?",
        "내 사이즈 적어 놓을래?",
        "내 차 번호 적어 두면 좋겠어",
        "까먹지 않게 적어 둬",
        "잊어버리지 않게 기억해 줘",
        "까먹지 않도록 메모해 줘",
        "내 생일 까먹으면 안 돼",
        "나 땅콩 못 먹는 거 잊으면 안 돼요",
        "내 약 시간 잊으면 안 된다",
        "내 주소 바뀌었으니까 고쳐 놔",
        "제 전화번호 바뀌었으니까 고쳐 주세요",
        "내 나이 틀렸으니까 고쳐 줘",
        "내 정보 좀 고쳐 줘",
        "못 들은 걸로 해 달라니까",
    ],
    "memory_query": [
        "내가 뭐라고 했지",
        "내 생일 언제야",
        "내가 좋아하는 음식 뭐였지",
        "지난주에 나 어디 갔었지",
        "내가 저번에 말한 식당 이름 기억나?",
        "우리 엄마 생신이 언제지?",
        "제 직업이 뭔지 아세요?",
        "나 어제 뭐 먹었더라",
        "내가 무슨 알레르기 있는지 알아?",
        "나에 대해 뭘 알고 있어?",
        "아까 뭐라고 했지?",
        "내 취미가 뭐라고 했지?",
        "우리 강아지 이름이 뭐야?",
        "제가 언제 이사했죠?",
        "내가 싫어하는 음식 알려 줘",
        "너 내 이름 알아?",
        "나 다음 주에 뭐 하기로 했지?",
        "내 여동생 이름 기억해?",
        "저번에 갔던 카페가 어디였지?",
        "What is my favorite food?",
        "When is my birthday?",
        "Do you remember my name?",
        "what did I say about my job?",
    ],
    "small_talk": [
        "안녕",
        "안녕하세요!",
        "반가워요",
        "고마워 ㅎㅎ",
        "정말 고마워요",
        "잘 자",
        "좋은 아침이에요",
        "ㅋㅋㅋㅋ",
        "응",
        "네 알겠습니다",
        "오늘도 수고했어",
        "밥은 먹었어?",
        "hello",
        "thanks a lot!",
        "How are you?",
        "잘 지냈어?",
        "미안해",
    ],
    "question": [
        "오늘 날씨 어때?",
        "대한민국의 수도가 어디야?",
        "파이썬에서 리스트를 어떻게 정렬해?",
        "내일 비 와?",
        "빛의 속도는 얼마인가요",
        "커피에 카페인이 얼마나 들어 있나요?",
        "오늘 뭐 먹지?",
        "서울에서 부산까지 몇 시간 걸려",
        "임진왜란이 언제 일어났는지 알려 줘",
        "안녕, 내일 날씨는 어때?",
        "광합성이 뭔지 설명해 줘",
        "이 단어 무슨 뜻이야",
        "달은 왜 모양이 바뀌나요?",
        "What is the capital of France?",
        "How do I sort a list in Python?",
        "tell me what photosynthesis is",
        "그 영화 재미있니",
        "너는 몇 살이야?",
    ],
    "request": [
        "불 좀 꺼 줘",
        "이 문장을 영어로 번역해 줘",
        "점심 메뉴 추천해 줘",
        "창문 좀 열어 줄래?",
        "내일 아침 7시에 깨워 주세요",
        "보고서 요약해 줄 수 있니?",
        "노래 틀어 주세요",
        "할머니 생신 선물 추천해 줄래?",
        "나 매운 거 좋아해. 점심 추천해 줘.",
        "이 파일 저장해 줘",
        "시를 한 편 써 줘",
        "천천히 말해 주세요",
        "Can you translate this?",
        "같이 산책 가자",
        "알람 좀 맞춰 줘",
        "이 문장 틀렸으니까 고쳐 줘",
        "맞춤법 틀린 거 고쳐 줘",
    ],
    "statement": [
        "나는 매운 음식을 좋아해.",
        "어제 친구랑 영화를 봤어.",
        "내 이름은 김민수야.",
        "저는 서울에 살아요",
        "다음 달에 이사해요",
        "요즘 허리가 아파",
        "우리 강아지는 세 살이야",
        "회사에서 승진했어!",
        "안녕하세요, 저는 민수예요.",
        "아무거나 잘 먹어요",
        "누구나 실수는 해",
        "언젠가 세계 여행을 하고 싶어",
        "나 어제 지갑을 잊어버렸어",
        "I like coffee.",
        "My sister lives in Busan.",
        "커피를 안 마신 지 3년 됐어",
        "그 일은 다 잊었어",
        "내가 왜 그랬는지 이제 알겠어",
        "일기에 적어 놓는 버릇이 있어",
        "비밀번호를 까먹지 않게 적어 두는 편이야",
        "요즘 자꾸 약을 까먹으면 안 되는데 까먹어",
        "나는 뭐든 적어 두고 살아",
        "중요한 건 수첩에 적어 놓았어",
        "장 볼 것을 미리 적어 뒀어",
        "잊으면 안 되는 날이 많아",
        "약 먹는 걸 잊지 않게 알람을 맞춰 놨어",
        "참고해 두는 글이 많아",
        "친구가 자기 얘기 잊어 달래",
        "친구가 그 얘기는 기억해 달래",
        "팀장님이 회의록은 삭제해 달래요",
    ],
}
DATA = Path(__file__).parent / "data" / "understanding_dev.tsv"
MISSED = {"가사 없는 노래로 바꿔", "예전에 말한 다이어트 목표는 삭제해도 돼"}  # known, and not worth a rule
CASES = [(text, intent) for intent, texts in INTENTS.items() for text in texts]


@pytest.mark.parametrize(("text", "intent"), CASES)
def test_intent(text: str, intent: Intent) -> None:
    assert understand_rules(text).intent == intent


@pytest.mark.parametrize(("text", "intent"), CASES)
def test_asking_goes_with_the_intent(text: str, intent: Intent) -> None:
    rules = understand_rules(text)
    if intent in ("question", "memory_query"):
        assert rules.is_question
    if intent in ("statement", "memory_command"):
        assert not rules.is_question
    assert not (intent == "memory_query" and not rules.needs_memory)


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("서울 날씨 알려 줘", True),
        ("불 꺼 줄래?", False),
        ("문 닫아 줄 수 있니", False),
        ("문이 잠겼는지 확인해 줘", True),
        ("커피 좋아하세요?", True),
        ("조심해서 들어가세요", False),
        ("점심 메뉴 추천해 줘", True),
        ("뭐든지 잘 먹어", False),
        ("얼마나 걸려", True),
        ("누가 왔어", True),
        ("아무도 안 왔어", False),
        ("언니가 왔으니까 괜찮아", False),
        ("내일 갑니까", True),
        ("추우니까", False),
        ("같이 갈래", True),
        ("그거 봤나", True),
        ("하나", False),
        ("비가 왔다. 우산 있어?", True),
        ("그건 내가 했지.", False),
    ],
)
def test_is_question_means_that_information_is_expected(text: str, asks: bool) -> None:
    assert understand_rules(text).is_question is asks


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("제 생일이 언제예요?", True),
        ("내 방 불 꺼 줘", True),
        ("우리 엄마 선물 추천해 줘", True),
        ("오늘 뭐 먹지?", True),
        ("What should I give my sister?", True),
        ("대한민국의 수도가 어디야?", False),
        ("저 사람 누구야?", False),
        ("내일 비 와?", False),
        ("우리나라 인구가 몇 명이야?", False),
        ("나는 서울에 살아.", False),
        ("안녕!", False),
    ],
)
def test_memory_is_needed_where_the_answer_depends_on_the_user(text: str, needs: bool) -> None:
    assert understand_rules(text).needs_memory is needs


def test_the_rules_hold_on_the_sentences_they_were_written_with() -> None:
    with DATA.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(rows) > 400
    wrong = [row["text"] for row in rows if understand_rules(row["text"]).intent != row["intent"]]
    assert set(wrong) <= MISSED


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("예약했어", "statement"),  # begins as 예 does
        ("응급실에 갔다 왔어", "statement"),
        ("그 영화 진짜 재밌다", "statement"),
        ("내일 강남에서 만나자", "request"),
        ("어머니가 국수를 좋아하세요.", "statement"),  # -세요 honours her
        ("나는 매일 가계부를 기록해", "statement"),
        ("나는 그날을 기억하고 있어", "statement"),
        ("나 잠을 못 자", "statement"),
        ("고양이가 세 시에 밥을 먹어", "statement"),
        ("우리 가게는 아홉 시에 문 닫아", "statement"),
        ("일요일에 돌잔치 가요", "statement"),
        ("친구한테 추천해 달라고 했어", "statement"),
        ("그걸로 할래.", "statement"),
        ("캘린더에 회의 추가해 줘", "request"),
        ("빨래 다 되면 알려 줘", "request"),
        ("이 파일 삭제해 줘", "request"),
        ("내가 저번에 추천해 달라고 한 게 뭐였지?", "memory_query"),
        ("내가 탄 버스 번호가 뭐였더라", "memory_query"),
        ("우리 집에 화분 몇 개나 두면 좋을까?", "question"),
        ("she forgot to tell me about it", "statement"),
    ],
)
def test_what_looks_like_another_intent(text: str, intent: Intent) -> None:
    assert understand_rules(text).intent == intent


@pytest.mark.parametrize(
    "part", ["줘, ", "해야 지", "내가 한 다는 ", "혹시 ", "어 봐", "로 ", "나는 다고 ", "냐고 ", "미안 ", "야 "]
)
def test_long_sentences_are_read_in_their_time(part: str) -> None:
    assert understand_rules(part * 20_000).intent in get_args(Intent)
    assert tells_to_remember(part * 20_000) in (True, False)


def test_of_several_sentences_the_one_that_wants_something_decides() -> None:
    assert understand_rules("나 땅콩 못 먹어. 기억해 줘. 고마워!").intent == "memory_command"
    assert understand_rules("오늘 힘들었어. 노래 틀어 줘").intent == "request"
    assert understand_rules("고마워! 내일 비 와?").intent == "question"


@pytest.mark.parametrize("text", ["", " ", "?", "...", "😀", "\x00", "ㅋ" * 1000, "어느" * 5000, "가" * 100_000])
def test_odd_text_has_an_intent(text: str) -> None:
    assert understand_rules(text).intent in get_args(Intent)


@given(st.text())
def test_any_text_gives_rules(text: str) -> None:
    rules = understand_rules(text)
    assert isinstance(rules, Rules)
    assert rules.intent in get_args(Intent)
