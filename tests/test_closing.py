"""Documents that are cut anywhere and closed: always valid, soon, and without touching the output itself."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from engine.closing import MOST_TOKENS
from engine.constrain import Constraints, Grammar, Matcher
from engine.llama import Model, Vocabulary

Schema = dict[str, Any]


@pytest.fixture(scope="module")
def vocabulary(starter: Model) -> Vocabulary:
    return starter.vocabulary


@pytest.fixture(scope="module")
def constraints(vocabulary: Vocabulary) -> Constraints:
    return Constraints(*vocabulary.raw, vocabulary.eog)


def spell(vocabulary: Vocabulary, tokens: list[int]) -> bytes:
    return b"".join(vocabulary.pieces[token] for token in tokens)


def allowed(matcher: Matcher, vocabulary: Vocabulary) -> np.ndarray[Any, Any]:
    logits = np.zeros(vocabulary.size, np.float32)
    matcher.mask(logits)
    return np.flatnonzero(logits == 0)


def write(matcher: Matcher, vocabulary: Vocabulary, seed: int, count: int) -> bytes | None:
    """Write `count` random choices and what they force; None if that ended the document."""
    rng, tokens = random.Random(seed), matcher.forced()
    for _ in range(count):
        if matcher.done:
            return None
        choices = allowed(matcher, vocabulary)
        # most tokens are long: half of the time only bytes, so that characters are cut as well
        short = [token for token in choices if len(vocabulary.pieces[token]) == 1]
        token = int(rng.choice(short if short and rng.random() < 0.5 else list(choices)))
        if token in vocabulary.eog:
            return None
        tokens += [token, *matcher.accept(token)]
    return None if matcher.done else spell(vocabulary, tokens)


def feed(matcher: Matcher, vocabulary: Vocabulary, text: bytes) -> bytes:
    """Write `text` by bytes; return what stands there then, with what it forced."""
    of = {piece[0]: token for token, piece in enumerate(vocabulary.pieces) if len(piece) == 1}
    tokens = matcher.forced()
    while len(written := spell(vocabulary, tokens)) < len(text):
        assert text.startswith(written)
        token = of[text[len(written)]]
        tokens += [token, *matcher.accept(token)]
    return written


def close(matcher: Matcher, vocabulary: Vocabulary, written: bytes) -> str | None:
    end = matcher.closing(written)
    assert end is None or len(end) <= MOST_TOKENS
    return None if end is None else (written + spell(vocabulary, end)).decode()


# ---- valid values, judged by hand


def valid(value: Any, schema: Schema, defs: Schema) -> bool:
    if "$ref" in schema:
        return valid(value, defs[schema["$ref"].rpartition("/")[2]], defs)
    if "anyOf" in schema:
        return any(valid(value, option, defs) for option in schema["anyOf"])
    if "enum" in schema:
        return any(type(value) is type(one) and value == one for one in schema["enum"])
    judge = {
        "object": valid_object, "array": valid_array, "string": valid_string, "number": valid_number,
        "integer": valid_number, "boolean": lambda *_: isinstance(value, bool), "null": lambda *_: value is None,
    }[schema["type"]]  # fmt: skip
    return bool(judge(value, schema, defs))


def valid_object(value: Any, schema: Schema, defs: Schema) -> bool:
    known = schema["properties"]
    return (
        isinstance(value, dict)
        and set(schema["required"]) <= set(value) <= set(known)
        and all(valid(part, known[name], defs) for name, part in value.items())
    )


def valid_array(value: Any, schema: Schema, defs: Schema) -> bool:
    least, most = schema.get("minItems", 0), schema.get("maxItems", 10**9)
    return (
        isinstance(value, list)
        and least <= len(value) <= most
        and all(valid(item, schema["items"], defs) for item in value)
    )


def valid_string(value: Any, schema: Schema, defs: Schema) -> bool:
    least, most = schema.get("minLength", 0), schema.get("maxLength", 10**9)
    fits = isinstance(value, str) and least <= len(value) <= most
    return fits and ("pattern" not in schema or re.search(schema["pattern"], value) is not None)


def valid_number(value: Any, schema: Schema, defs: Schema) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    whole = schema["type"] == "number" or float(value).is_integer()
    multiple = "multipleOf" not in schema or value % schema["multipleOf"] == 0
    return whole and multiple and schema.get("minimum", value) <= value <= schema.get("maximum", value)


# ---- schemas at random

names = st.sampled_from(["a", "name", "이름", "나이", "x y", 'q"', "긴_이름_하나", "\\"])
texts = st.sampled_from(["", "가", "나다라마바사", "yes", "no", "😀", "\n", 'a"b', "\\"])
numbers = st.sampled_from([0, 1, -7, 2.5, True, False, None])
patterns = st.sampled_from([
    "^[a-z]{2,}$", "^(a|b)*c$", "^[A-Z]{3}-[0-9]{4}$", "foo", "^[가-힣]{2,5}$", "[0-9]{2}$", "^01[016]-[0-9]{3,4}-[0-9]{4}$",
    '^"x"', "^.+@.+[.]kr$", "^(ab|cd)+e$",
])  # fmt: skip


@st.composite
def bounded(draw: st.DrawFn, kind: str, least: str, most: str) -> Schema:
    low = draw(st.integers(0, 12))
    return {"type": kind, least: low, **({most: low + draw(st.integers(0, 9))} if draw(st.booleans()) else {})}


leaves = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "number"}, {"type": "integer"}, {"type": "string"}]),
    st.builds(
        lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
        st.integers(-999, 999), st.integers(0, 500),
    ),
    st.builds(lambda low, of: {"type": "integer", "minimum": low, "multipleOf": of}, st.integers(0, 99), st.integers(1, 9)),
    bounded("string", "minLength", "maxLength"),
    st.builds(lambda pattern: {"type": "string", "pattern": pattern}, patterns),
    st.lists(texts | numbers, min_size=1, max_size=5, unique_by=repr).map(lambda some: {"enum": some}),
)  # fmt: skip


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    properties = draw(st.dictionaries(names, inner, max_size=4))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    least = draw(st.integers(0, 4))
    return {"type": "array", "items": draw(inner), "minItems": least, "maxItems": least + draw(st.integers(0, 3))}


def trees(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    options = st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some})
    return objects(inner) | arrays(inner) | options


@st.composite
def roots(draw: st.DrawFn) -> Schema:
    """A schema, or one that goes round: through a list that may be empty, or beside something that ends it."""
    plain = draw(st.recursive(leaves, trees, max_leaves=6))
    again = {"$ref": "#/$defs/node"}
    more = draw(st.sampled_from([
        None,
        {"type": "array", "items": again},
        {"anyOf": [again, {"type": "null"}]},
        {"anyOf": [again, {"type": "object", "properties": {"end": {"enum": ["끝"]}}, "required": ["end"], "additionalProperties": False}]},
    ]))  # fmt: skip
    if more is None:
        return plain
    node = {
        "type": "object", "properties": {"value": plain, "more": more}, "required": ["value", "more"],
        "additionalProperties": False,
    }  # fmt: skip
    return {"$ref": "#/$defs/node", "$defs": {"node": node}}


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(schema=roots(), seed=st.integers(0, 2**32), count=st.integers(0, 25))
def test_what_is_cut_anywhere_is_closed_to_a_valid_value(
    schema: Schema, seed: int, count: int, constraints: Constraints, vocabulary: Vocabulary
) -> None:
    matcher = constraints.matcher(Grammar.json(schema))
    written = write(matcher, vocabulary, seed, count)
    if written is None:
        return
    before = allowed(matcher, vocabulary)
    text = close(matcher, vocabulary, written)
    assert text is not None, written
    assert valid(json.loads(text), schema, schema.get("$defs", {})), text
    assert np.array_equal(allowed(matcher, vocabulary), before), "the output itself stays where it is"


# ---- cuts that were thought of

PERSON: Schema = {
    "type": "object",
    "properties": {"이름": {"type": "string"}, "n": {"type": "number"}, "tags": {"type": "array", "items": {"type": "string"}}},
    "required": ["이름", "n", "tags"],
    "additionalProperties": False,
}  # fmt: skip
FULL = '{"이름": "매운 \\n음식", "n": -12.5e-3, "tags": ["a", ""]}'.encode()


@pytest.mark.parametrize("cut", range(len(FULL) + 1))
def test_a_document_cut_at_every_byte(cut: int, constraints: Constraints, vocabulary: Vocabulary) -> None:
    matcher = constraints.matcher(Grammar.json(PERSON))
    written = feed(matcher, vocabulary, FULL[:cut])
    text = close(matcher, vocabulary, written)
    assert text is not None
    assert text.encode().startswith(FULL[:cut])
    value = json.loads(text)
    assert valid(value, PERSON, {})
    assert len(text.encode()) <= len(FULL) + 12, "nothing is added but what is needed"


@pytest.mark.parametrize(
    ("schema", "written", "text"),
    [
        ({"type": "integer"}, "12", "12"),
        ({"type": "number"}, "12.", "12.1"),
        ({"type": "number"}, "1e", "1e1"),
        ({"type": "number"}, "-", "-1"),
        ({"type": "integer", "minimum": 50}, "5", "51"),
        ({"type": "integer", "minimum": 50, "multipleOf": 97}, "4", "485"),
        ({"type": "string"}, '"가나', '"가나"'),
        ({"type": "string"}, '"a\\', '"a\\""'),
        ({"type": "string", "pattern": "foo"}, '"a', '"afoo"'),
        ({"type": "string", "pattern": "^[0-9]{3}-[A-Z]$"}, '"1', '"111-A"'),
        ({"type": "string", "format": "date"}, '"2026-1', '"2026-11-11"'),
        ({"enum": ["yes", "yesterday"]}, '"yes', '"yes"'),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3}, "[7", "[7, 1, 1]"),
        ({"type": "array", "items": {}}, "[", "[]"),
        ({}, '{"a": [', '{"a": []}'),
        (
            {"type": "object", "properties": {"a": {}}, "required": ["a", "z"]},
            '{"a": {"',
            '{"a": {"": null}, "z": null}',
        ),
    ],
)
def test_how_it_is_closed(
    schema: Schema, written: str, text: str, constraints: Constraints, vocabulary: Vocabulary
) -> None:
    matcher = constraints.matcher(Grammar.json(schema))
    assert close(matcher, vocabulary, feed(matcher, vocabulary, written.encode())) == text


def test_a_tree_ends_where_it_is_cut(constraints: Constraints, vocabulary: Vocabulary) -> None:
    add = {"op": {"const": "add"}, "left": {"$ref": "#/$defs/e"}, "right": {"$ref": "#/$defs/e"}}
    number = {"op": {"const": "number"}, "value": {"type": "integer"}}
    options = [
        {"type": "object", "properties": one, "required": list(one), "additionalProperties": False}
        for one in (add, number)
    ]
    matcher = constraints.matcher(Grammar.json({"$ref": "#/$defs/e", "$defs": {"e": {"anyOf": options}}}))
    written = feed(matcher, vocabulary, b'{"op": "add", "left": {"op": "add", "left": ')
    leaf = '{"op": "number", "value": 1}'
    text = close(matcher, vocabulary, written)
    assert text is not None
    assert re.sub("[0-9]+", "1", text) == (
        f'{{"op": "add", "left": {{"op": "add", "left": {leaf}, "right": {leaf}}}, "right": {leaf}}}'
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": MOST_TOKENS + 1},
        {"type": "array", "items": {"type": "integer"}, "minItems": MOST_TOKENS},
    ],
)
def test_what_would_take_too_many_tokens_is_not_closed(
    schema: Schema, constraints: Constraints, vocabulary: Vocabulary
) -> None:
    matcher = constraints.matcher(Grammar.json(schema))
    assert matcher.closing(spell(vocabulary, matcher.forced())) is None
    assert len(allowed(matcher, vocabulary)), "the output can still go on"


def test_a_pydantic_model(constraints: Constraints, vocabulary: Vocabulary) -> None:
    class Place(BaseModel):
        city: str
        lat: float

    class Trip(BaseModel):
        name: str
        places: list[Place]
        guide: Place | None
        days: int = 3

    grammar = Grammar.json(Trip.model_json_schema())
    full = '{"name": "제주 여행", "places": [{"city": "서귀포", "lat": 33.25}], "guide": {"city": "제주", "lat": 33'.encode()
    for cut in range(0, len(full), 3):
        matcher = constraints.matcher(grammar)
        text = close(matcher, vocabulary, feed(matcher, vocabulary, full[:cut]))
        assert text is not None
        Trip.model_validate_json(text)
