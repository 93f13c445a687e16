"""Questions on the starter model: what the sampling keywords do, how a cut document ends, what a guard keeps out."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from pydantic import BaseModel, Field, field_validator

from engine import Engine, InvalidInput
from engine.guard import holds
from engine.llama import Model

pytestmark = pytest.mark.model


def test_what_cannot_be_closed_has_no_value(engine: Engine) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 9_999}
    reply = engine.chat("Count.", schema=schema, temperature=0, max_tokens=4)
    assert (reply.finish_reason, reply.parsed, reply.usage.completion_tokens) == ("length", None, 4)


def test_a_value_that_was_closed_may_be_refused_by_validators(engine: Engine) -> None:
    class Impossible(BaseModel):
        words: list[str]

        @field_validator("words")
        @classmethod
        def never(cls, value: list[str]) -> list[str]:
            raise ValueError("no")

    reply = engine.chat("List many words.", schema=Impossible, temperature=0, max_tokens=6)
    assert (reply.finish_reason, reply.parsed) == ("length", None)
    assert json.loads(reply.text)["words"]


@pytest.mark.parametrize("most", range(1, 30, 4))
def test_a_korean_value_is_closed_wherever_it_is_cut(engine: Engine, most: int) -> None:
    class Plan(BaseModel):
        title: str = Field(pattern="^[가-힣 ]{4,20}$")
        days: int = Field(ge=1, le=9)

    schema = Plan.model_json_schema() | {"required": ["title", "days"]}
    reply = engine.chat("제주도 여행 계획", schema=schema, temperature=1.0, seed=most, max_tokens=most)
    assert Plan.model_validate(reply.parsed)


def test_han_is_kept_out_of_korean_answers(engine: Engine) -> None:
    """A schema of the letters between Latin and Hangul, which are mostly Han: with the guard others must do."""
    asked: dict[str, Any] = {
        "schema": {"type": "string", "pattern": "^[^ -\u2e7f가-\uffff]{3}$"},
        "temperature": 5.0,
        "top_k": 0,
        "max_tokens": 24,
    }
    texts = [engine.chat("아무 글자나 세 개", seed=seed, **asked).text for seed in range(6)]
    assert not any(holds(text) for text in texts)
    free = [engine.chat("아무 글자나 세 개", seed=seed, han=True, **asked).text for seed in range(6)]
    forced = [engine.chat("Any letters", seed=seed, han=False, **asked).text for seed in range(6)]
    assert not any(holds(text) for text in forced)
    assert any(holds(text) for text in free)
    only = {**asked, "schema": {"enum": ["日", "月"]}, "han": False}
    assert engine.chat("고르세요", **only).parsed in ("日", "月"), "a schema that leaves nothing else is kept"


def test_every_sampling_keyword_does_something(engine: Engine) -> None:
    def said(**asked: Any) -> str:
        return engine.chat("Tell me about rain.", **{"max_tokens": 24, "seed": 3, **asked}).text

    wild = said(temperature=5.0, top_k=0, top_p=1.0)
    greedy = said(temperature=0, repeat_penalty=1.0)
    assert wild != greedy
    assert said(temperature=5.0, top_k=1, top_p=1.0, repeat_penalty=1.0) == greedy
    assert said(temperature=5.0, top_k=0, top_p=0.0, repeat_penalty=1.0) == greedy
    assert said(temperature=5.0, top_k=0, top_p=1.0, min_p=1.0, repeat_penalty=1.0) == greedy
    assert said(temperature=5.0, top_k=0, top_p=1.0, seed=4) != wild
    assert said(temperature=0, repeat_penalty=5.0) != greedy
    assert said(temperature=0, repeat_penalty=1.0, stop=greedy[5:9]) == greedy[: greedy.index(greedy[5:9])]


def test_a_logit_bias_makes_and_unmakes_words(engine: Engine, starter: Model) -> None:
    asked: Any = {"temperature": 0, "repeat_penalty": 1.0, "max_tokens": 3}
    plain = engine.chat("Say yes.", **asked).text
    written = starter.vocabulary.tokenize(plain)
    banned = engine.chat("Say yes.", logit_bias=dict.fromkeys(written, -math.inf), **asked).text
    assert not set(starter.vocabulary.tokenize(banned)) & set(written)
    [rain] = starter.vocabulary.tokenize(" rain")
    assert engine.chat("Say yes.", logit_bias={rain: 100}, **asked).text == " rain" * 3
    with pytest.raises(InvalidInput, match="logit_bias names token 1000000"):
        engine.chat("Say yes.", logit_bias={10**6: 1.0})
