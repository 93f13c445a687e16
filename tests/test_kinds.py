"""Of which kind and of which category a memory is, by rule."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.inputs import CATEGORIES, KINDS
from engine.korean.kinds import category_of, kind_of


@pytest.mark.parametrize(
    ("text", "days", "kind", "category"),
    [
        ("나는 매운 음식을 좋아해", None, "preference", "preference"),
        ("어제 처음으로 스키를 타 봤어요.", 1, "event", "experience"),
        ("내년 봄에는 가게를 열 거야.", 92, "event", "goal"),
        ("우리 누나는 바로 옆집에 살아.", None, "relationship", "relationship"),
        ("당뇨가 있어서 약을 먹어요.", None, "fact", "health"),
        ("물리치료사로 일하고 있습니다.", None, "fact", "work"),
        ("고향은 강릉이에요.", None, "fact", "personal"),
        ("나는 올해 일흔이고 매일 걸어.", 365, "fact", "personal"),
        ("다음 주 목요일에 수술을 받아.", 1, "event", "health"),
        ("체인은 자주 닦아야 한다고 가게에서 배웠어.", None, "fact", "knowledge"),
        ("접이식이야.", None, "fact", None),
        ("커피는 하루에 두 잔만 마셔", None, "fact", None),
        ("할아버지는 주말마다 산에 가셔", None, "relationship", "relationship"),
    ],
)
def test_kind_and_category(text: str, days: int | None, kind: str, category: str | None) -> None:
    assert (kind_of(text, days), category_of(text)) == (kind, category)


@given(st.text(max_size=60), st.none() | st.integers(1, 400))
def test_every_sentence_has_a_kind_and_at_most_one_of_the_categories(text: str, days: int | None) -> None:
    assert kind_of(text, days) in KINDS
    assert category_of(text) in (*CATEGORIES, None)


def test_letters_that_make_syllables_are_read_as_these() -> None:
    assert kind_of(unicodedata.normalize("NFD", "나는 매운 음식을 좋아해"), None) == "preference"
    assert category_of(unicodedata.normalize("NFD", "당뇨가 있어서 약을 먹어요.")) == "health"
