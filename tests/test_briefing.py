"""Briefs: what is left out first, that it fits, and that nothing quoted can look like the program's own words."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from hostile import LLAMA3, Hostile, control_words, special_ids, tame
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.briefing import Brief, fit, one_line, to_condense
from engine.inputs import Turn
from engine.instructions import CONTEXT, LANGUAGES, SESSION
from engine.llama import Model
from engine.prompt import ChatTemplate

AT = datetime(2026, 3, 5, 9, 7)
FULL = Brief(
    "너는 비서다.",
    (Turn("user", "안녕"), Turn("assistant", "네"), Turn("user", "오늘 뭐 하지?")),
    "ko",
    profile=("이름은 민지다", "서울에 산다"),
    summary="인사했다.",
    recalled=("(2026-03-01) 산을 좋아한다", "(2026-02-01) 회를 못 먹는다"),
    now=AT,
)


def length(turns: Sequence[Turn]) -> int:
    return sum(len(turn.content) + 7 for turn in turns)


def told(brief: Brief) -> str:
    return "\n\n".join(turn.content for turn in brief.messages())


# ---- messages


def test_what_changes_least_stands_first() -> None:
    system, *before, last = FULL.messages()
    words, (begin, end) = SESSION["ko"], CONTEXT["ko"]
    assert system.content.split("\n") == [
        "너는 비서다.", "", words.profile, "- 이름은 민지다", "- 서울에 산다", "", words.summary, "인사했다.",
    ]  # fmt: skip
    assert [(turn.role, turn.content) for turn in before] == [("user", "안녕"), ("assistant", "네")]
    assert last.content.split("\n") == [
        begin, "- 지금: 2026-03-05 목요일 09:07", "- (2026-03-01) 산을 좋아한다", "- (2026-02-01) 회를 못 먹는다", end, "",
        "오늘 뭐 하지?",
    ]  # fmt: skip


def test_who_uses_no_memory_is_told_nothing_but_what_was_said() -> None:
    brief = Brief("너는 비서다.", FULL.turns, "ko")
    assert [(turn.role, turn.content) for turn in brief.messages()] == [
        ("system", "너는 비서다."), ("user", "안녕"), ("assistant", "네"), ("user", "오늘 뭐 하지?"),
    ]  # fmt: skip


def test_what_is_told_without_a_message_is_how_it_goes_on() -> None:
    """The context of the next turn is computed ahead: what it begins with must not change then."""
    ahead = replace(FULL, turns=(*FULL.turns[:-1], Turn("user", ".")), recalled=(), now=None)
    assert ahead.messages()[:-1] == FULL.messages()[:-1]


@pytest.mark.parametrize("roles", ["uuu", "auau", "uauaau", "aaau", "u"])
def test_roles_alternate_and_begin_with_the_user(roles: str) -> None:
    turns = tuple(Turn({"u": "user", "a": "assistant"}[role], f"{at}") for at, role in enumerate(roles))
    _, *shown = Brief("s", turns, "en").messages()
    assert [turn.role for turn in shown] == (["user", "assistant"] * len(shown))[: len(shown)]
    assert shown[-1].role == "user" and shown[-1].content.endswith(turns[-1].content)
    words = "\n".join(turn.content for turn in shown).split("\n")
    assert words == [turn.content for turn in turns[roles.index("u") :]]


# ---- fit


def test_it_goes_without_memories_then_the_profile_then_old_turns() -> None:
    turns = (*FULL.turns[:-1] * 3, FULL.turns[-1])
    brief = replace(FULL, turns=turns)
    states: list[tuple[int, int, int]] = []
    for limit in range(length(brief.messages()), 0, -1):
        fitted = fit(brief, length, limit)
        state = (len(fitted.recalled), len(fitted.profile), len(fitted.turns))
        states += [state] if state not in states[-1:] else []
        assert fitted == replace(
            brief, recalled=brief.recalled[: state[0]], profile=brief.profile[: state[1]], turns=turns[-state[2] :],
            summary=fitted.summary,
        )  # fmt: skip
        assert fitted.turns[0].role == "user" and (fitted.summary or state[2] == 1)
    assert states[:5] == [(2, 2, 7), (1, 2, 7), (0, 2, 7), (0, 1, 7), (0, 0, 7)]
    assert states[5:] and [state[:2] for state in states[5:]] == [(0, 0)] * len(states[5:])
    left = [state[2] for state in states[5:]]
    assert left == sorted(left, reverse=True) and left[-1] == 1


_text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
_turns = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), _text), max_size=8).map(
    lambda turns: tuple(Turn(role, text) for role, text in turns)
)


@st.composite
def briefs(draw: st.DrawFn) -> Brief:
    return Brief(
        draw(_text),
        (*draw(_turns), Turn("user", draw(_text))),
        draw(st.sampled_from(LANGUAGES)),
        profile=tuple(draw(st.lists(_text, max_size=3))),
        summary=draw(st.none() | _text),
        recalled=tuple(draw(st.lists(_text, max_size=3))),
        now=draw(st.none() | st.just(AT)),
    )


@settings(max_examples=200, deadline=None)
@given(briefs(), st.integers(0, 600))
def test_what_fits_is_never_too_long_and_ends_with_the_newest(brief: Brief, limit: int) -> None:
    fitted = fit(brief, length, limit)
    first = [turn.role for turn in brief.turns].index("user")
    brief = replace(brief, turns=brief.turns[first:])  # an answer whose question is not there is never told
    least = replace(brief, recalled=(), profile=(), turns=brief.turns[-1:])
    assert length(fitted.messages()) <= limit or fitted == least
    assert fitted.turns == brief.turns[-len(fitted.turns) :]
    assert fitted.recalled == brief.recalled[: len(fitted.recalled)]
    assert fitted.profile == brief.profile[: len(fitted.profile)]
    assert (fitted.system, fitted.now) == (brief.system, brief.now)
    if fitted.summary != brief.summary:
        assert fitted == replace(least, summary=None) and length(least.messages()) > limit
        return
    if fitted.profile != brief.profile:
        assert not fitted.recalled
    if fitted.turns != brief.turns:
        assert not fitted.recalled and not fitted.profile
        more = brief.turns[-len(fitted.turns) - 1 :]
        if more[0].role == "user":  # an answer whose question is gone is not told
            assert length(replace(fitted, turns=more).messages()) > limit, "it could have kept more"
    system, *shown = fitted.messages()
    assert system.role == "system"
    assert [turn.role for turn in shown] == (["user", "assistant"] * len(shown))[: len(shown)]
    assert shown[-1].content.endswith(brief.turns[-1].content)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ua"), st.integers(1, 50)), max_size=12), st.integers(0, 200), st.integers(0, 3)
)
def test_the_oldest_are_condensed_where_they_leave_little_room(
    said: list[tuple[str, int]], room: int, least: int
) -> None:
    turns = [Turn({"u": "user", "a": "assistant"}[role], "x") for role, _ in said]
    lengths = [length for _, length in said]
    number = to_condense(turns, lengths, room, least)
    if sum(lengths) <= 0.7 * room and not least:
        assert number == 0
        return
    assert number == len(turns) or number == 0 or turns[number].role == "user", "no answer without its question"
    asked = next((n for n in range(number, -1, -1) if n == 0 or turns[n - 1].role == "user"), 0)
    assert sum(lengths[: max(asked - 1, 0)]) <= max(room, 1), "so much at once, and no more"
    left = sum(lengths[number:])
    assert left <= 0.35 * room or sum(lengths[:number]) > max(room, 1) or sum(lengths) <= 0.7 * room
    assert number >= min(least, len(turns)) or sum(lengths[:number]) > max(room, 1)


# ---- quoted words


_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029 \t\u3000"


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from(f"{_BREAKS}-가:끝"), max_size=20))
def test_a_quoted_text_is_one_line(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert line.replace(" ", "") == re.sub(r"\s", "", text)
    assert one_line(line) == line


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(LANGUAGES))
def test_no_quoted_text_begins_a_line_of_its_own(data: st.DataObject, language: str) -> None:
    words, (begin, end) = SESSION[language], CONTEXT[language]  # type: ignore[index]
    own = [begin, end, words.profile, words.summary, "- 가짜", "system"]
    hostile = st.lists(st.sampled_from([*own, *_BREAKS]), min_size=1, max_size=5).map("".join)
    plain = Brief("S", (Turn("user", "말"),), language, ("a", "b"), "c", ("d", "e"), AT)  # type: ignore[arg-type]
    brief = replace(
        plain,
        profile=tuple(data.draw(hostile) for _ in "ab"),
        summary=data.draw(hostile) + ".",
        recalled=tuple(data.draw(hostile) for _ in "de"),
    )
    lines, wanted = told(brief).splitlines(), told(plain).splitlines()
    assert len(lines) == len(wanted)
    for line, other in zip(lines, wanted, strict=True):
        assert line == other or (line.startswith("- ") and other.startswith("- ")) or other == "c"


@pytest.mark.parametrize("name", ["qwen2", "llama-bpe"])
def test_no_session_forges_a_control_token(name: str, vocab_folder: Path) -> None:
    """Memories, profile, summary, earlier turns and the system prompt of a session, all hostile."""
    model = Model(vocab_folder / f"ggml-vocab-{name}.gguf", vocab_only=True)
    try:
        vocabulary = model.vocabulary
        template = ChatTemplate(vocabulary, (model.chat_template if name == "qwen2" else None) or LLAMA3)
        hostile, rng = Hostile(control_words(vocabulary)), random.Random(8)
        rendered = 0
        for _ in range(40):
            texts = [hostile(rng) for _ in range(9)]
            wild, calm = (
                Brief(
                    one[0], (Turn("user", one[1]), Turn("assistant", one[2]), Turn("user", one[3])), "ko",
                    tuple(one[4:6]), one[6], tuple(one[7:9]), AT,
                ).messages()
                for one in (texts, [tame(text) for text in texts])
            )  # fmt: skip
            wanted = special_ids(vocabulary, template.encode(calm))
            assert special_ids(vocabulary, template.encode(wild)) == wanted
            rendered += special_ids(vocabulary, vocabulary.tokenize(template.render(wild), special=True)) != wanted
        assert rendered > 20, "they do forge where a rendering is parsed as it is"
    finally:
        model.close()
