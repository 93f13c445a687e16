"""scripts/task_matching.py: which memory that was found is which that was to be found."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import fake_embedder
import numpy as np
import pytest
from script_module import load

from engine.tasks import ExtractedItem

matching = load("task_matching")
task_sets = load("task_sets")

A, B, C = "저는 수원에서 동생과 살아요.", "매운 떡볶이를 정말 좋아해요.", "지난주에 무릎을 수술했어요."


def found(text: str, category: str = "personal", source: int = 0) -> object:
    return matching.Found("fact", ExtractedItem(text, text, category, source, None))


def gold(text: str, category: str = "personal", source: int = 0) -> object:
    return task_sets.Gold(text, "fact", category, source, None)


def dialogue(*memories: object, turns: Sequence[str] = ()) -> object:
    said = [{"role": "user", "content": content} for content in turns]
    return task_sets.Dialogue("n", "dev", "normal", None, said, list(memories), [])


@pytest.fixture(scope="module")
def meaning() -> object:
    return matching.by_meaning(lambda texts: fake_embedder.embed(list(texts), "passage"))


def pairs(matcher: object, items: Sequence[object], one: object, **how: bool) -> list[tuple[str, str]]:
    made = matcher.pairs(one, items, **how)  # type: ignore[attr-defined]
    return [(item.item.text, other.text) for item, other in made]


# ---- by place

TURN = f"{A} {B} 아니, 진짜야. {C}"


def placed(*items: object, turns: Sequence[str] = (TURN,), wanted: Sequence[object] = ()) -> list[tuple[str, str]]:
    return pairs(matching.by_place(), items, dialogue(*(wanted or (gold(A), gold(B), gold(C))), turns=turns))


def test_by_place_each_finds_its_own_in_any_order_and_a_stranger_finds_none() -> None:
    assert placed(found(C), found("아니, 진짜야."), found(A)) == [(C, C), (A, A)]


def test_by_place_opposites_are_two_things() -> None:
    """By meaning they are one: the texts differ in a word."""
    one, other = "작년에 결혼했어요.", "작년에 이혼했어요."
    assert placed(found(other), turns=[f"{one} {other}"], wanted=[gold(one)]) == []


def test_by_place_half_of_the_shorter_is_enough_and_less_is_not() -> None:
    turn, wanted = "가나다라마바 사아자차카타", "다라마바"
    for text, hit in [("가나다라", True), ("가나다", False), ("라마바 사아", True), ("마바 사아자", True),
                      ("바 사아자", False), (turn, True)]:  # fmt: skip
        assert bool(placed(found(text), turns=[turn], wanted=[gold(wanted)])) == hit, text
    assert placed(found("가나다라마"), turns=[turn], wanted=[gold("라마바 사아자")]) == []  # two of five


def test_by_place_blanks_and_marks_are_no_letters() -> None:
    """Half of the five characters are shared, and one of four letters."""
    assert placed(found("가 나다라"), turns=["가 나다라마바"], wanted=[gold("라마바")]) == []
    assert placed(found("나... "), turns=["가나... 다"], wanted=[gold("... 다")]) == []


def test_by_place_two_in_one_and_two_halves_of_one_are_one_match() -> None:
    assert placed(found(f"{A} {B}")) == [(f"{A} {B}", A)]
    assert len(placed(found("저는 수원에서"), found("동생과 살아요."))) == 1


def test_by_place_another_turn_is_another_place_and_a_text_that_is_not_there_has_none() -> None:
    assert placed(found(A, source=1), turns=[TURN, TURN]) == []
    assert placed(found(A, source=9)) == placed(found("저는 수원에 삽니다.")) == placed(found("")) == []


def test_by_place_a_sentence_said_twice_stands_in_both_places() -> None:
    turn = "네. 저는 학생이에요. 네."
    assert placed(found("네."), turns=[turn], wanted=[gold("저는 학생이에요. 네.")]) != []


# ---- by meaning


def test_each_finds_its_own_in_any_order_and_a_stranger_finds_none(meaning: object) -> None:
    wanted = dialogue(gold(A), gold(B), gold(C))
    assert pairs(meaning, [found(C), found("프린터 잉크가 떨어졌네"), found(A)], wanted) == [(C, C), (A, A)]


def test_a_part_of_a_sentence_is_still_it(meaning: object) -> None:
    part = "매운 떡볶이를 정말"
    assert pairs(meaning, [found(part)], dialogue(gold(A), gold(B))) == [(part, B)]


def test_the_same_turn_is_preferred_and_not_needed(meaning: object) -> None:
    two = dialogue(gold(A, source=2), gold(A, source=4))
    assert [other.source for _, other in meaning.pairs(two, [found(A, source=4)])] == [4]  # type: ignore[attr-defined]
    assert len(pairs(meaning, [found(A, source=4)], dialogue(gold(A, source=2)))) == 1


# ---- by either


@pytest.mark.parametrize("way", ["place", "meaning"])
def test_one_to_one_and_with_the_same_category_others_do_not_count(way: str, meaning: object) -> None:
    matcher = matching.by_place() if way == "place" else meaning
    assert len(pairs(matcher, [found(A), found(A)], dialogue(gold(A), turns=[TURN]))) == 1
    assert len(pairs(matcher, [found(A)], dialogue(gold(A), gold(A), turns=[TURN]))) == 1
    wanted = dialogue(gold(A, "personal"), gold(B, "preference"), turns=[TURN])
    items = [found(A, "work"), found(B, "preference")]
    assert pairs(matcher, items, wanted, same_category=True) == [(B, B)]
    assert len(pairs(matcher, items, wanted)) == 2
    assert pairs(matcher, [], wanted) == pairs(matcher, items, dialogue(turns=[TURN])) == []


def test_two_pairs_are_better_than_one_from_the_same_turn() -> None:
    """Who takes the best pair first would leave the other without."""
    likeness = np.array([[9.0, 3.0], [8.0, 0.0]])
    turns = np.array([[True, False], [False, False]])
    allowed = likeness >= matching.LIKE
    assert best(matching.worth(likeness, turns, allowed)) == ((0, 1), (1, 0))


def test_of_equally_many_pairs_turns_go_before_likeness() -> None:
    likeness = np.array([[9.0, 3.0], [3.0, 9.0]])
    turns = np.array([[False, True], [True, False]])
    assert best(matching.worth(likeness, turns, likeness > 0)) == ((0, 1), (1, 0))


def best(worth: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return the assignment of the highest sum, every one being tried."""
    size = range(len(worth))
    every = [tuple(zip(size, columns, strict=True)) for columns in itertools.permutations(size)]
    return max(every, key=lambda pairs: sum(worth[pair] for pair in pairs))
