"""Words and pairs of letters in FTS5: real SQLite in memory; the real analyser where Korean is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import apsw
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine import lexical
from engine.korean.morphemes import Analyser
from engine.lexical import asked, coverage, matches, put

EVERY = ("", [])


@pytest.fixture(scope="module")
def analyser() -> Analyser:
    return Analyser()


def opened() -> apsw.Connection:
    db = apsw.Connection(":memory:")
    db.execute("""
        CREATE TABLE memories (seq INTEGER PRIMARY KEY, text TEXT, user TEXT, category TEXT, superseded_by TEXT);
        CREATE VIRTUAL TABLE words USING fts5(morphemes, grams, tokenize="unicode61 remove_diacritics 0");
    """)
    return db


@pytest.fixture
def db() -> Iterator[apsw.Connection]:
    with_words = opened()
    yield with_words
    with_words.close()


def add(db: apsw.Connection, text: str, morphemes: Sequence[str] | None = None, user: str = "me") -> int:
    db.execute("INSERT INTO memories (text, user) VALUES (?, ?)", (text, user))
    seq = db.last_insert_rowid()
    put(db, seq, text.split() if morphemes is None else morphemes, text)
    return seq


def fill(db: apsw.Connection, count: int = 8) -> None:
    """Add memories that have nothing to do with any question here: what every other memory says weighs nothing."""
    for number in range(count):
        add(db, f"zz{number}")


def found(db: apsw.Connection, words: Sequence[str], text: str) -> list[int]:
    return [match.seq for match in matches(db, asked(db, words, text), *EVERY, 10)]


def test_the_memory_with_the_rarest_words_comes_first(db: apsw.Connection) -> None:
    fill(db)
    add(db, "강아지 산책")
    rare = add(db, "강아지 알레르기")
    add(db, "강아지 사료")
    assert found(db, ["강아지", "알레르기"], "강아지 알레르기")[0] == rare


def test_a_word_of_no_memory_finds_nothing(db: apsw.Connection) -> None:
    fill(db)
    assert found(db, ["떡볶이"], "떡볶이") == []


@pytest.mark.parametrize("empty", ["", "  ", "?!", "\0", "_"])
def test_a_question_without_words_finds_nothing(db: apsw.Connection, empty: str) -> None:
    one = add(db, "강아지")
    query = asked(db, [], empty)
    assert matches(db, query, *EVERY, 10) == []
    assert coverage(db, query, [one]) == {}


def test_an_empty_store_can_be_asked(db: apsw.Connection) -> None:
    query = asked(db, ["강아지"], "강아지")
    assert (matches(db, query, *EVERY, 10), coverage(db, query, [1])) == ([], {})


def test_a_row_is_replaced(db: apsw.Connection) -> None:
    fill(db)
    one = add(db, "강아지")
    put(db, one, ["고양이"], "고양이")
    assert found(db, ["강아지"], "강아지") == []
    assert found(db, ["고양이"], "고양이") == [one]


def test_a_memory_that_no_analyser_has_read_is_found_by_its_letters(db: apsw.Connection) -> None:
    fill(db)
    db.execute("INSERT INTO memories (text, user) VALUES ('민트초코를 좋아해', 'me')")
    put(db, one := db.last_insert_rowid(), None, "민트초코를 좋아해")
    (match,) = matches(db, asked(db, ["민트", "초코"], "민트초코"), *EVERY, 10)
    assert match.seq == one and match.bm25 > 0


def test_pairs_give_a_part_of_the_score(db: apsw.Connection) -> None:
    fill(db)
    add(db, "강아지 산책")
    (match,) = matches(db, asked(db, ["강아지"], "강아지"), *EVERY, 10)
    (without,) = matches(db, asked(db, ["강아지"], "?"), *EVERY, 10)
    assert 0 < without.bm25 < match.bm25


def test_a_name_that_the_analyser_cut_is_looked_for_as_letters(db: apsw.Connection) -> None:
    fill(db)
    one = add(db, "친구 이름은 한별", ["친구", "이름", "별"])
    query = asked(db, ["한별"], "한별이")
    assert [match.seq for match in matches(db, query, *EVERY, 10)] == [one]
    assert coverage(db, query, [one]) == {one: 1.0}


def test_letters_in_a_row_are_looked_for_where_each_pair_of_them_is_common(
    db: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(db, 20)
    for _ in range(6):
        add(db, "우리사이 노래이다")
    one = add(db, "칠성사이다")
    monkeypatch.setattr(lexical, "_MOST_ROWS", 5)
    assert found(db, ["사이다"], "사이다") == [one]


def test_filters_hold_before_the_best_are_cut(db: apsw.Connection) -> None:
    fill(db)
    for _ in range(20):
        add(db, "강아지", user="you")
    mine = add(db, "강아지 산책과 다른 많은 이야기")
    query = asked(db, ["강아지"], "강아지")
    assert [match.seq for match in matches(db, query, "user = ? OR user = ?", ["me", "nobody"], 1)] == [mine]


def test_what_was_superseded_is_not_found_whatever_the_filter_says(db: apsw.Connection) -> None:
    fill(db)
    old, new = add(db, "서울에 살아"), add(db, "서울에 산다")
    db.execute("UPDATE memories SET superseded_by = 'x' WHERE seq = ?", (old,))
    query = asked(db, ["서울"], "서울")
    assert [match.seq for match in matches(db, query, "user = ? OR TRUE", ["me"], 10)] == [new]


def test_of_equal_ones_the_newer_comes_first(db: apsw.Connection) -> None:
    fill(db)
    first, second = add(db, "강아지"), add(db, "강아지")
    assert found(db, ["강아지"], "강아지") == [second, first]


def test_common_words_are_left_out_where_they_would_take_long(
    db: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(db, 20)
    common = [add(db, "커피") for _ in range(6)]
    rare = add(db, "커피 원두")
    assert set(found(db, ["커피", "원두"], "커피 원두")) == {rare, *common}
    monkeypatch.setattr(lexical, "_MOST_ROWS", 5)
    assert found(db, ["커피", "원두"], "커피 원두") == [rare]
    assert set(found(db, ["커피"], "커피")) == {rare, *common}  # nothing else was asked


def test_words_that_ask_are_left_out_beside_others(db: apsw.Connection) -> None:
    fill(db)
    add(db, "누구 알리다")
    dog = add(db, "강아지")
    assert found(db, ["강아지", "알리다"], "강아지 누구 알려줘") == [dog]
    assert coverage(db, asked(db, ["강아지", "알리다"], "강아지 알려줘"), [dog]) == {dog: 1.0}
    assert found(db, ["알리다"], "알려줘") != []


def test_coverage_is_the_share_of_the_words_by_weight(db: apsw.Connection) -> None:
    fill(db, 10)
    both, one, none = add(db, "강아지 이름"), add(db, "고양이 이름"), add(db, "날씨")
    query = asked(db, ["강아지", "이름"], "강아지 이름")
    # 13 memories: one has 강아지, two 이름.
    dog, name = math.log(1 + 12.5 / 1.5), math.log(1 + 11.5 / 2.5)
    assert query.words == pytest.approx({"강아지": dog, "이름": name})
    shares = coverage(db, query, [both, one, none, 999])
    assert shares == pytest.approx({both: 1.0, one: name / (dog + name), none: 0.0})


def test_a_memory_without_a_row_yet_is_covered_by_its_text(db: apsw.Connection) -> None:
    fill(db)
    db.execute("INSERT INTO memories (text, user) VALUES ('강아지 이름', 'me')")
    one = db.last_insert_rowid()
    assert coverage(db, asked(db, ["강아지"], "강아지"), [one]) == {one: 1.0}


def test_a_word_that_no_memory_has_lowers_coverage_most(db: apsw.Connection) -> None:
    fill(db, 10)
    one = add(db, "강아지 생일")
    add(db, "고양이 생일")
    assert coverage(db, asked(db, ["지민", "생일"], "지민 생일"), [one])[one] < 0.45


def test_two_letters_do_not_meet_across_words_and_three_do(db: apsw.Connection) -> None:
    fill(db)
    one = add(db, "회사 과장 게임 회사")
    assert coverage(db, asked(db, ["사과"], "사과"), [one]) == {one: 0.0}
    assert coverage(db, asked(db, ["게임회사"], "게임회사"), [one]) == {one: 1.0}


@pytest.mark.parametrize(
    ("number", "other"),
    [
        ("010-1234-5678", "01012345678"),
        ("010 1234 5678", "010.1234.5678"),
        ("1,200,000원", "1200000원"),
        ("2024-03-05", "2024.03.05"),
        ("110-123-456789", "110123456789"),
        ("1588-1234", "15881234"),
    ],
)
def test_a_number_is_the_same_in_groups(db: apsw.Connection, number: str, other: str) -> None:
    fill(db)
    one, two = add(db, number, [number]), add(db, other, [other])
    for asked_for in (number, other):
        assert coverage(db, asked(db, [asked_for], asked_for), [one, two]) == {one: 1.0, two: 1.0}


@pytest.mark.parametrize(("number", "other"), [("10-20세", "1020세"), ("3.5", "35"), ("1, 2, 3", "123")])
def test_what_only_looks_like_groups_stays_apart(db: apsw.Connection, number: str, other: str) -> None:
    fill(db)
    one = add(db, number, [number])
    assert coverage(db, asked(db, [other], other), [one]) == {one: 0.0}


def test_without_morphemes_of_the_question_its_written_words_are_looked_for(db: apsw.Connection) -> None:
    fill(db)
    one = add(db, "강아지 산책")
    query = asked(db, (), "강아지")
    assert [match.seq for match in matches(db, query, *EVERY, 10)] == [one]
    assert coverage(db, query, [one]) == {one: 1.0}


def test_a_page_long_question_asks_for_no_more_than_fits(db: apsw.Connection) -> None:
    fill(db)
    one = add(db, "강아지")
    words = ["강아지", *(f"단어{number}" for number in range(5000))]
    query = asked(db, words, " ".join(words))
    assert [match.seq for match in matches(db, query, *EVERY, 10)] == [one]
    assert len(query.words) < 100
    many = [f"{one:c}{other:c}" for one in range(0xAC00, 0xAC40) for other in range(0xAC00, 0xAC10)]
    for start in range(0, len(many), 100):
        add(db, " ".join(many[start : start + 100]), [])
    assert asked(db, ["강아지"], " ".join(many)).expression.count(" OR ") < 100


def test_a_forgotten_row_leaves_no_word_in_the_table(db: apsw.Connection) -> None:
    fill(db)
    one = add(db, "비밀단어 이야기")
    db.execute("DELETE FROM words WHERE rowid = ?", (one,))
    db.execute("CREATE VIRTUAL TABLE vocabulary USING fts5vocab(words, 'row')")
    left = {term for (term,) in db.execute("SELECT term FROM vocabulary")}
    assert left
    assert not left & {"비밀단어", "비밀", "밀단", "이야기"}


@pytest.mark.parametrize(
    ("memory", "question"),
    [
        ("나는 게임 회사에서 일해", "게임회사"),
        ("게임회사에 다녀", "게임 회사 어디 다녀?"),
        ("난 민초단이야", "민초단 맞지?"),
        ("그래픽카드는 RTX4070을 써", "RTX 4070 쓰던가?"),
        ("RTX 4070 샀어", "rtx4070"),
        ("내 번호는 010-1234-5678이야", "01012345678 누구 번호야?"),
        ("엄마 번호는 01012345678이야", "010 1234 5678"),
        ("집 전화는 02 123 4567", "02-123-4567"),
        ("계좌는 110-123-456789", "110123456789"),
        ("월세 1,200,000원 낸다", "월세 1200000원"),
        ("2024-03-05에 계약했어", "2024.03.05"),
        ("지민이는 내 동생이야", "지민 누구야?"),
        ("친구 이름은 한별", "한별이 누구였지"),
        ("스물다섯 살이야", "스물다섯살"),
        ("ＫＴＸ 타고 감", "ktx"),
        ("차는 아반떼", "내 차 뭐지"),
        ("메일은 hong.gildong@example.com", "hong.gildong@example.com"),
        ("블루투스이어폰 잃어버림", "블루투스 이어폰"),
    ],
)
def test_what_is_written_differently_is_found(
    db: apsw.Connection, analyser: Analyser, memory: str, question: str
) -> None:
    for text in ("오늘 회의는 세 시", "공지를 받는 사람이 누구누구야?", "생일이 뭐였지", "010-9999-0000", "2023년 1월"):
        add(db, text, analyser.terms(text))
    one = add(db, memory, analyser.terms(memory))
    fill(db)
    assert found(db, analyser.terms(question), question)[0] == one


WILD = st.text(max_size=40) | st.text('"*^:(){}-+~ANDORNEARgrams민초단0189,.', max_size=20)


@settings(max_examples=300, deadline=None)
@given(memory=WILD, question=WILD, words=st.lists(WILD, max_size=4))
@example(memory="a", question="a\0b", words=['"', "a\0"])
@example(memory="NEAR(a b)", question='morphemes: "a" NOT grams', words=["NOT", "*", "^a", "{grams}:"])
@example(memory="𞤀𞤁", question="𞤀𞤁", words=["𞤀𞤁"])  # letters younger than SQLite's tables
def test_no_text_is_an_error_or_an_operator(memory: str, question: str, words: list[str]) -> None:
    db = opened()
    try:
        add(db, "abc")
        seq = add(db, memory, words)
        query = asked(db, words, question)
        hits = {match.seq for match in matches(db, query, *EVERY, 10)}
        pairs = {pair for text in (question, *words) for pair in lexical._pairs(lexical._written(text))}
        assert 1 not in hits or pairs & {"ab", "bc"}
        assert all(0.0 <= share <= 1.0 for share in coverage(db, query, [1, seq]).values())
    finally:
        db.close()


@pytest.mark.parametrize("question", ["강아지 NOT 산책", "강아지 AND 없는말", "강아지*", "-강아지", "grams:강아지"])
def test_operators_are_words_like_any_other(db: apsw.Connection, question: str) -> None:
    fill(db)
    one = add(db, "강아지 산책")
    assert found(db, question.split(), question) == [one]
