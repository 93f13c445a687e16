"""Tasks without a model: what every chat is asked with."""

from __future__ import annotations

import pytest

from engine import tasks
from engine.errors import InvalidInput
from engine.inputs import Turn


def test_context_is_quoted_before_the_last_user_message() -> None:
    turns = (Turn("user", "안녕"), Turn("assistant", "네"), Turn("user", "뭐 먹지?"))
    *before, last = tasks.with_context(turns, ["땅콩 알레르기", "매운 것 싫어함"])
    assert tuple(before) == turns[:2]
    assert last.content.endswith("뭐 먹지?")
    assert last.content.index("땅콩") < last.content.index("매운") < last.content.index("뭐 먹지?")
    assert tasks.with_context(turns, None) == turns
    with pytest.raises(InvalidInput):
        tasks.with_context((Turn("system", "x"),), "y")
    with pytest.raises(TypeError):
        tasks.with_context(turns, [3])  # type: ignore[list-item]
