"""Outputs bound to a schema: drawn at random from what is allowed, or as badly as is allowed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llguidance.llamacpp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.constrain import Constraints, Grammar, Matcher
from engine.errors import SchemaError
from engine.llama import Model, Vocabulary

Schema = dict[str, Any]
PERSON: Schema = {
    "type": "object",
    "properties": {
        "이름": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "mood": {"enum": ["좋음", "나쁨", 'a "b"\n']},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        "more": {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": -10, "maximum": 10}]},
    },
    "required": ["이름", "age", "mood", "tags", "more"],
    "additionalProperties": False,
}
SURE: Schema = {
    "type": "object",
    "properties": {"first_name": {"const": "보리"}, "second_name": {"type": "boolean"}},
    "required": ["first_name", "second_name"],
    "additionalProperties": False,
}
TREE: Schema = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["children"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}


@pytest.fixture(scope="module")
def constraints(starter: Model) -> Constraints:
    return Constraints(*starter.vocabulary.raw, starter.vocabulary.eog)


@pytest.fixture(scope="module")
def vocabulary(starter: Model) -> Vocabulary:
    return starter.vocabulary


class Output:
    """One constrained output as the engine writes it: forced runs, and between them a token of `choose`."""

    def __init__(self, matcher: Matcher, vocabulary: Vocabulary) -> None:
        self.matcher, self.vocabulary = matcher, vocabulary
        self.tokens = matcher.forced()
        self.chosen = 0
        self.ended = False

    @property
    def text(self) -> str:
        return b"".join(map(self.vocabulary.pieces.__getitem__, self.tokens)).decode("utf-8", "replace")

    def allowed(self) -> list[int]:
        logits = np.zeros(self.vocabulary.size, np.float32)
        self.matcher.mask(logits)
        return [int(token) for token in np.flatnonzero(logits == 0)]

    def write(self, choose: Callable[[list[int]], int], limit: int) -> bool:
        """Write until the end or for `limit` choices; return whether it ended."""
        while not self.matcher.done and not self.ended and self.chosen < limit:
            token = choose(self.allowed())
            self.chosen += 1
            if token in self.vocabulary.eog:
                self.ended = True
            else:
                self.tokens += [token, *self.matcher.accept(token)]
        return self.ended or self.matcher.done


def is_a(value: Any, kind: str) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {
        "object": isinstance(value, dict), "array": isinstance(value, list), "string": isinstance(value, str),
        "boolean": isinstance(value, bool), "null": value is None, "number": number,
        "integer": number and float(value).is_integer(),
    }[kind]  # fmt: skip


def valid(value: Any, schema: Schema) -> bool:
    """Whether `value` is what `schema` asks for, for the keywords used here."""
    if "anyOf" in schema:
        return any(valid(value, option) for option in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return any(type(value) is type(one) and value == one for one in schema.get("enum", [schema.get("const")]))
    return is_a(value, schema["type"]) and in_bounds(value, schema) and all_valid(value, schema)


def in_bounds(value: Any, schema: Schema) -> bool:
    size = len(value) if isinstance(value, (str, list)) else 0
    number = value if isinstance(value, (int, float)) else 0
    least = max(schema.get("minLength", 0), schema.get("minItems", 0))
    most = min(schema.get("maxLength", size), schema.get("maxItems", size))
    return bool(least <= size <= most and schema.get("minimum", number) <= number <= schema.get("maximum", number))


def all_valid(value: Any, schema: Schema) -> bool:
    if isinstance(value, list):
        return all(valid(item, schema["items"]) for item in value)
    if isinstance(value, dict):
        known = schema["properties"]
        named = set(schema["required"]) <= set(value) <= set(known)
        return named and all(valid(item, known[name]) for name, item in value.items())
    return True


names = st.sampled_from(["a", "name", "이름", "나이", "x y", 'q"', "긴_이름_하나", "not", "type"])
values = st.sampled_from(["", "가", "나다라", "yes", "no", 0, 1, -7, 2.5, True, False, None, "😀", "\n"])


@st.composite
def integers(draw: st.DrawFn) -> Schema:
    low = draw(st.integers(-1000, 1000))
    return {"type": "integer", "minimum": low, "maximum": low + draw(st.integers(0, 500))}


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    properties = draw(st.dictionaries(names, inner, max_size=4))
    required = draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


schemas = st.recursive(
    st.one_of(
        st.sampled_from([{"type": "boolean"}, {"type": "null"}]),
        integers(),
        st.fixed_dictionaries({"type": st.just("string"), "maxLength": st.integers(0, 8)}),
        values.map(lambda value: {"const": value}),
        st.lists(values, min_size=1, max_size=5, unique_by=repr).map(lambda some: {"enum": some}),
    ),
    lambda inner: st.one_of(
        objects(inner),
        st.builds(
            lambda items, least, more: {"type": "array", "items": items, "minItems": least, "maxItems": least + more},
            inner, st.integers(0, 2), st.integers(0, 2),
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(schema=schemas, seed=st.integers(0, 2**32))
def test_whatever_is_drawn_is_valid(
    schema: Schema, seed: int, constraints: Constraints, vocabulary: Vocabulary
) -> None:
    output = Output(constraints.matcher(Grammar.json(schema)), vocabulary)
    assert output.write(random.Random(seed).choice, limit=400)
    assert valid(json.loads(output.text), schema), output.text


def test_a_person_a_hundred_times(constraints: Constraints, vocabulary: Vocabulary) -> None:
    rng, grammar = random.Random(1), Grammar.json(PERSON)
    seen = set()
    for _ in range(100):
        output = Output(constraints.matcher(grammar), vocabulary)
        assert output.write(rng.choice, limit=100)
        assert output.matcher.done, "the last bracket ends it, no end token is needed"
        person = json.loads(output.text)
        assert valid(person, PERSON)
        seen.add((person["mood"], person["more"] is None, len(person["tags"])))
    assert len(seen) > 10


def test_the_end_may_come_exactly_when_the_value_is_whole(constraints: Constraints, vocabulary: Vocabulary) -> None:
    rng = random.Random(2)
    for schema in ({"type": "integer", "minimum": 20, "maximum": 3000}, {"enum": [1, 12, 1234]}, PERSON):
        for _ in range(20):
            output = Output(constraints.matcher(Grammar.json(schema)), vocabulary)
            while not output.matcher.done:
                allowed = output.allowed()
                assert bool(vocabulary.eog & set(allowed)) == _is_whole(output.text, schema)
                token = rng.choice([token for token in allowed if token not in vocabulary.eog])
                output.tokens += [token, *output.matcher.accept(token)]
            assert _is_whole(output.text, schema)


def _is_whole(text: str, schema: Schema) -> bool:
    try:
        return valid(json.loads(text), schema)
    except ValueError:
        return False


def test_no_control_token_is_ever_allowed(constraints: Constraints, vocabulary: Vocabulary) -> None:
    matcher = constraints.matcher(Grammar.json({"type": "string"}))
    [quote] = vocabulary.tokenize('"')
    matcher.accept(quote)
    output = Output(matcher, vocabulary)
    assert len(output.allowed()) > 30_000
    assert not set(output.allowed()) & set(vocabulary.control.values())


def test_a_mask_leaves_the_allowed_logits_alone(constraints: Constraints, vocabulary: Vocabulary) -> None:
    logits = np.random.default_rng(1).normal(size=vocabulary.size).astype(np.float32)
    before = logits.copy()
    constraints.matcher(Grammar.json({"type": "boolean"})).mask(logits)
    kept = np.flatnonzero(np.isfinite(logits))
    assert {vocabulary.pieces[int(token)][:1] for token in kept} == {b"t", b"f"}
    assert np.array_equal(logits[kept], before[kept])
    assert np.all(logits[np.isinf(logits)] < 0)


# forced runs


def test_what_has_no_choice_is_forced(constraints: Constraints, vocabulary: Vocabulary) -> None:
    for value in ("가나다", 12, ["a", {"b": None}], ""):
        output = Output(constraints.matcher(Grammar.json({"const": value})), vocabulary)
        assert output.matcher.done
        assert json.loads(output.text) == value


def test_runs_are_forced_between_choices(constraints: Constraints, vocabulary: Vocabulary) -> None:
    output = Output(constraints.matcher(Grammar.json(SURE)), vocabulary)
    assert output.text.startswith('{"first_name":')
    assert output.write(lambda allowed: allowed[0], limit=20)
    assert json.loads(output.text)["first_name"] == "보리"
    assert output.chosen <= 3
    assert len(output.tokens) - output.chosen >= 12


def test_a_forced_run_is_the_models_own_spelling(constraints: Constraints, vocabulary: Vocabulary) -> None:
    output = Output(constraints.matcher(Grammar.json(SURE)), vocabulary)
    canonical = vocabulary.tokenize('{"first_name": "보리", "second_name": true}')
    assert output.tokens == canonical[: len(output.tokens)]


def test_most_of_a_document_is_forced(constraints: Constraints, vocabulary: Vocabulary) -> None:
    output = Output(constraints.matcher(Grammar.json(PERSON)), vocabulary)
    assert output.write(random.Random(3).choice, limit=100)
    assert output.chosen < len(output.tokens) / 2


def test_a_lark_grammar(constraints: Constraints, vocabulary: Vocabulary) -> None:
    grammar = Grammar.lark('start: "quote: " WORDS\nWORDS: %regex { "substring_words": "매운 음식을 못 먹어요" }')
    rng = random.Random(4)
    for _ in range(20):
        output = Output(constraints.matcher(grammar), vocabulary)
        assert output.write(rng.choice, limit=80)
        assert output.text.removeprefix("quote: ") in "매운 음식을 못 먹어요"


# schemas that cannot be used


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {"type": "string"}, "then": {}}, "if"),
        ({"type": "array", "contains": {}}, "contains"),
        ({"type": "object", "propertyNames": {"pattern": "^a"}}, "propertyNames"),
        ({"type": "object", "dependentSchemas": {}}, "dependentSchemas"),
        ({"unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}, "oneOf"),
        ({"type": "banana"}, "type"),
        ({"type": 3}, "type"),
        ({"type": "object", "properties": {"not": {"type": "banana"}}}, "type"),
        ({"type": "string", "format": "banana"}, "format"),
        ({"type": "array", "minItems": -1}, "minItems"),
        ({"type": "string", "pattern": "("}, "pattern"),
        ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
        ({"items": {"properties": {"a": {"type": "string", "minLength": 3, "pattern": "(?=a)b"}}}}, "pattern"),
        ({"type": "number", "multipleOf": 0}, "multipleOf"),
        ({"enum": []}, "enum"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "maximum"),
        ({"type": "string", "minLength": "3"}, "minLength"),
        ({"required": "a"}, "required"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "allOf"),
        ({"$ref": "#/nothing"}, "$ref"),
        ({"$ref": "https://example.com/schema.json"}, "$ref"),
        ({"$schema": "https://example.com/dialect", "type": "integer"}, None),
        # two at once: what holds both
        ({"type": "object", "properties": {"a": {"pattern": "("}, "b": {"enum": []}}, "required": ["a", "b"]}, "properties"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_kept(schema: Schema, keyword: str | None) -> None:
    with pytest.raises(SchemaError) as caught:
        Grammar.json(schema)
    assert caught.value.keyword == keyword
    assert "\n" not in str(caught.value)


def test_a_name_cannot_be_written_twice_in_another_spelling(constraints: Constraints, vocabulary: Vocabulary) -> None:
    """JSON takes the last of two names that are the same: the second would escape the schema of the first."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    of = {piece[0]: token for token, piece in enumerate(vocabulary.pieces) if len(piece) == 1}
    matcher = constraints.matcher(Grammar.json(schema))
    text = b"".join(vocabulary.pieces[token] for token in matcher.forced())
    for byte in b'{"a": 1, "'[len(text) :]:
        matcher.accept(of[byte])
    output = Output(matcher, vocabulary)
    starts = {vocabulary.pieces[token] for token in output.allowed()}
    assert b"b" in starts and b"\\" in starts
    matcher.accept(of[ord("\\")])
    assert not any(vocabulary.pieces[token].startswith(b"u") for token in output.allowed())


def test_what_is_no_schema() -> None:
    circular: Schema = {}
    circular["properties"] = {"a": circular}
    deep: Schema = {}
    for _ in range(100_000):
        deep = {"items": deep}
    nan, key = float("nan"), (1, 2)
    things: list[Any] = [
        {"enum": {1}}, {"enum": [nan]}, {"minimum": -float("inf")}, {key: 1}, {"const": "\ud800"}, {"const": object()},
        circular, deep, True, [], 3, "x", None,
    ]  # fmt: skip
    for thing in things:
        with pytest.raises(SchemaError, match="not a JSON object"):
            Grammar.json(thing)


def test_a_grammar_that_is_none(constraints: Constraints) -> None:
    with pytest.raises(SchemaError, match="cannot be compiled"):
        Grammar.lark("start: nothing")
    with pytest.raises(SchemaError, match=r"cannot be followed: NoExtensionBias$"):
        constraints.matcher(Grammar.json({"$ref": "#"}))  # nothing can begin it: found out before anything runs


def test_after_a_refused_token_nothing_passes_for_an_end(
    constraints: Constraints, vocabulary: Vocabulary, capfd: pytest.CaptureFixture[str]
) -> None:
    matcher = constraints.matcher(Grammar.json({"type": "integer"}))
    [letter] = vocabulary.tokenize("x")
    with pytest.raises(SchemaError, match="cannot be followed"):
        matcher.accept(letter)
    for use in (matcher.forced, lambda: matcher.mask(np.zeros(vocabulary.size, np.float32))):
        with pytest.raises(SchemaError):
            use()
    assert capfd.readouterr() == ("", ""), "what the model wrote is not printed"


# the worst that a model can choose

WORST: dict[str, Callable[[Vocabulary, list[int]], int]] = {
    "lowest": lambda vocabulary, allowed: allowed[0],
    "highest": lambda vocabulary, allowed: allowed[-1],
    "longest": lambda vocabulary, allowed: max(allowed, key=lambda token: len(vocabulary.pieces[token])),
    "shortest": lambda vocabulary, allowed: min(allowed, key=lambda token: len(vocabulary.pieces[token]) or 99),
    "never closing": lambda vocabulary, allowed: (
        [token for token in allowed if vocabulary.pieces[token] and not set(vocabulary.pieces[token]) & set(b'"}]')]
        or [token for token in allowed if vocabulary.pieces[token]]
        or allowed
    )[-1],
}


@pytest.mark.parametrize("worst", WORST)
def test_a_bounded_schema_ends_whatever_is_chosen(worst: str, constraints: Constraints, vocabulary: Vocabulary) -> None:
    output = Output(constraints.matcher(Grammar.json(PERSON)), vocabulary)
    assert output.write(lambda allowed: WORST[worst](vocabulary, allowed), limit=120)
    assert valid(json.loads(output.text), PERSON)


@pytest.mark.parametrize("worst", WORST)
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"type": "string", "minLength": 10**7},
        {"type": "number"},
        {},
        TREE,
        {"type": "array", "items": {"const": 1}, "minItems": 3000},
        {"type": "string", "pattern": "^(a|aa|aaa)*b{500}$"},
        {"type": "string", "pattern": "^(.*a.{20}b)+$"},
    ],
    ids=str,
)
def test_an_endless_schema_goes_on_or_says_why_not(
    worst: str, schema: Schema, constraints: Constraints, vocabulary: Vocabulary
) -> None:
    """There is a token to choose at every step until the end, or a `SchemaError`: never an empty choice."""
    output = Output(constraints.matcher(Grammar.json(schema)), vocabulary)
    try:
        ended = output.write(lambda allowed: WORST[worst](vocabulary, allowed), limit=40)
    except SchemaError:
        return
    assert output.chosen == 40 or ended
    if ended:
        json.loads(output.text)


# the vocabulary as llguidance wants it


class Captured:
    """What `llguidance.llamacpp` would make its tokenizer of."""

    @staticmethod
    def from_llamacpp(**arguments: Any) -> dict[str, Any]:
        return arguments


@pytest.fixture(params=["starter", "qwen2", "phi-3", "gemma-4", "llama-spm"])
def any_vocabulary(request: pytest.FixtureRequest, starter: Model, vocab_folder: Path) -> Iterator[Vocabulary]:
    if request.param == "starter":
        yield starter.vocabulary
        return
    model = Model(vocab_folder / f"ggml-vocab-{request.param}.gguf", vocab_only=True)
    yield model.vocabulary
    model.close()


def test_tokens_are_what_llguidance_makes_of_llama_cpp(
    any_vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, pointer, function = any_vocabulary.raw
    monkeypatch.setattr(llguidance.llamacpp, "LLTokenizer", Captured)
    with pytest.warns(DeprecationWarning, match="llama_token_get_attr"):
        theirs: dict[str, Any] = llguidance.llamacpp.lltokenizer_from_vocab(pointer)  # type: ignore[assignment, arg-type]
    assert theirs["tokenize_fptr"] == function
    differing = {i for i, (a, b) in enumerate(zip(tokens, theirs["tokens"], strict=True)) if a != b}
    # only unknown tokens: they have no text, so that no output may hold them; llguidance leaves them unmarked
    assert all(tokens[i] == b"\xff" + theirs["tokens"][i] and not any_vocabulary.pieces[i] for i in differing)
    assert not differing or "<unk>" in any_vocabulary.control
