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


@pytest.fixture(scope="module")
def matcher() -> object:
    return matching.Matcher(lambda texts: fake_embedder.embed(list(texts), "passage"))


def texts(pairs: Sequence[tuple[object, object]]) -> list[tuple[str, str]]:
    return [(one.item.text, other.text) for one, other in pairs]  # type: ignore[attr-defined]


def test_each_finds_its_own_in_any_order_and_a_stranger_finds_none(matcher: object) -> None:
    pairs = matcher.pairs([found(C), found("프린터 잉크가 떨어졌네"), found(A)], [gold(A), gold(B), gold(C)])  # type: ignore[attr-defined]
    assert texts(pairs) == [(C, C), (A, A)]


def test_a_sentence_counts_once_however_often_it_was_found(matcher: object) -> None:
    assert len(matcher.pairs([found(A), found(A)], [gold(A)])) == 1  # type: ignore[attr-defined]
    assert len(matcher.pairs([found(A)], [gold(A), gold(A)])) == 1  # type: ignore[attr-defined]


def test_a_part_of_a_sentence_is_still_it(matcher: object) -> None:
    assert texts(matcher.pairs([found("매운 떡볶이를 정말")], [gold(A), gold(B)])) == [("매운 떡볶이를 정말", B)]  # type: ignore[attr-defined]


def test_the_same_turn_is_preferred_and_not_needed(matcher: object) -> None:
    pairs = matcher.pairs([found(A, source=4)], [gold(A, source=2), gold(A, source=4)])  # type: ignore[attr-defined]
    assert [other.source for _, other in pairs] == [4]
    assert len(matcher.pairs([found(A, source=4)], [gold(A, source=2)])) == 1  # type: ignore[attr-defined]


def test_with_the_same_category_others_do_not_count(matcher: object) -> None:
    items = [found(A, "work"), found(B, "preference")]
    wanted = [gold(A, "personal"), gold(B, "preference")]
    assert texts(matcher.pairs(items, wanted, same_category=True)) == [(B, B)]  # type: ignore[attr-defined]
    assert len(matcher.pairs(items, wanted)) == 2  # type: ignore[attr-defined]


def test_nothing_beside_something_is_no_pair(matcher: object) -> None:
    assert matcher.pairs([], [gold(A)]) == matcher.pairs([found(A)], []) == []  # type: ignore[attr-defined]


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
