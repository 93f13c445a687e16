"""Keywords that are kept, refused by name, or say nothing; against llguidance itself where it decides."""

from __future__ import annotations

from typing import Any

import pytest

from engine.closing import Hints
from engine.constrain import Grammar
from engine.errors import SchemaError
from engine.schema import check_keywords, hints

WHOLE = {"type": "integer"}
DRAFT_7 = "http://json-schema.org/draft-07/schema#"

# every keyword of draft 2020-12 and of draft 7, with a use of it
KEPT: dict[str, Any] = {
    "type": {"type": ["integer", "null"]},
    "enum": {"enum": ["가", 1, None, [1], {"a": "\n"}]},
    "const": {"const": {"a": 1.5}},
    "multipleOf": {"multipleOf": 0.5},
    "maximum": {"maximum": 3},
    "exclusiveMaximum": {"exclusiveMaximum": 3},
    "minimum": {"minimum": -3},
    "exclusiveMinimum": {"exclusiveMinimum": 3},
    "maxLength": {"maxLength": 3},
    "minLength": {"minLength": 3},
    "pattern": {"pattern": "^[가-힣]+$"},
    "format": {"format": "date"},
    "prefixItems": {"prefixItems": [WHOLE], "items": False},
    "items": {"items": WHOLE},
    "additionalItems": {"items": [WHOLE], "additionalItems": False},
    "maxItems": {"maxItems": 3},
    "minItems": {"minItems": 3},
    "maxProperties": {"maxProperties": 3, "additionalProperties": WHOLE},
    "minProperties": {"minProperties": 1, "additionalProperties": WHOLE},
    "required": {"required": ["a"]},
    "properties": {"properties": {"not": WHOLE, "uniqueItems": {"type": "null"}}},
    "patternProperties": {"patternProperties": {"^a": WHOLE}},
    "additionalProperties": {"additionalProperties": WHOLE},
    "allOf": {"allOf": [WHOLE, {"minimum": 3}]},
    "anyOf": {"anyOf": [WHOLE, {"type": "null"}]},
    "oneOf": {"oneOf": [WHOLE, {"type": "null"}]},
    "$ref": {"$ref": "#/$defs/a", "$defs": {"a": WHOLE}},
    "$defs": {"$defs": {"a": {"not": {}}}},
    "definitions": {"$schema": DRAFT_7, "definitions": {"a": WHOLE}, "$ref": "#/definitions/a"},
    "$anchor": {"$ref": "#a", "$defs": {"b": {"$anchor": "a", "type": "integer"}}},
    "$id": {"$id": "https://example.com/a", "type": "integer"},
    "x-order": {"x-order": 3, "type": "integer"},
    "notes": {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$comment": "c", "title": "t", "description": "d",
        "default": {"not": 1}, "examples": [{"not": 1}], "example": 1, "deprecated": True, "readOnly": True,
        "writeOnly": True, "contentMediaType": "text/html", "contentEncoding": "base64", "contentSchema": {},
        "discriminator": {"propertyName": "kind"}, "type": "string",
    },
}  # fmt: skip

REFUSED: dict[str, Any] = {
    "uniqueItems": {"type": "array", "items": WHOLE, "uniqueItems": True},
    "contains": {"contains": WHOLE},
    "minContains": {"minContains": 1},
    "maxContains": {"maxContains": 1},
    "propertyNames": {"propertyNames": {"pattern": "^a"}},
    "dependentRequired": {"dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {"dependentSchemas": {"a": {}}},
    "dependencies": {"$schema": DRAFT_7, "dependencies": {"a": ["b"]}},
    "unevaluatedItems": {"unevaluatedItems": False},
    "unevaluatedProperties": {"unevaluatedProperties": False},
    "not": {"not": {"type": "string"}},
    "if": {"if": {"type": "string"}, "then": {"minLength": 3}},
    "then": {"then": {}},
    "else": {"else": {}},
    "$dynamicRef": {"$dynamicRef": "#a"},
    "$dynamicAnchor": {"$dynamicAnchor": "a"},
    "$recursiveRef": {"$recursiveRef": "#"},
    "$recursiveAnchor": {"$recursiveAnchor": True},
    # of nobody, of other drafts and dialects
    "minLenght": {"type": "string", "minLenght": 3},
    "nullable": {"type": "string", "nullable": True},
    "extends": {"extends": {}},
    "divisibleBy": {"divisibleBy": 2},
    # llguidance's own switch, which would turn its checks off
    "x-guidance": {"x-guidance": {"lenient": True}, "type": "integer"},
}


@pytest.mark.parametrize("keyword", KEPT)
def test_what_is_kept(keyword: str) -> None:
    Grammar.json(KEPT[keyword])


@pytest.mark.parametrize("keyword", REFUSED)
@pytest.mark.parametrize(
    "place",
    [
        lambda schema: schema,
        lambda schema: {"type": "object", "properties": {"a": schema}},
        lambda schema: {"type": "array", "items": schema},
        lambda schema: {"type": "array", "items": [WHOLE, schema]},
        lambda schema: {"type": "array", "prefixItems": [schema]},
        lambda schema: {"additionalProperties": schema},
        lambda schema: {"patternProperties": {"^a": schema}},
        lambda schema: {"allOf": [WHOLE, schema]},
        lambda schema: {"$ref": "#/$defs/a~1b", "$defs": {"a/b": schema}},
        lambda schema: {"anyOf": [WHOLE, {"$ref": "#/anyOf/2"}, schema]},
        lambda schema: {"$ref": "#named", "$defs": {"a": {"$anchor": "named", **schema}}},
    ],
)  # fmt: skip
def test_what_is_refused_is_named_wherever_it_stands(keyword: str, place: Any) -> None:
    with pytest.raises(SchemaError, match="schema keyword") as caught:
        Grammar.json(place(REFUSED[keyword]))
    assert caught.value.keyword == keyword
    assert keyword in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        # llguidance reads items as additionalItems here, and drops prefixItems
        ({"prefixItems": [WHOLE], "additionalItems": False}, "additionalItems"),
        ({"prefixItems": [WHOLE], "items": [WHOLE]}, "prefixItems"),
        ({"additionalItems": False}, "additionalItems"),
        ({"items": WHOLE, "additionalItems": False}, "additionalItems"),
        ({"$schema": DRAFT_7, "type": "array", "prefixItems": [WHOLE]}, "prefixItems"),
        ({"$schema": "https://json-schema.org/draft/2019-09/schema", "prefixItems": [WHOLE]}, "prefixItems"),
        # a keyword that the older draft does not know
        ({"$schema": DRAFT_7, "type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "contains": {"const": 3}}, "contains"),
        # a name that is written twice counts once
        ({"type": "object", "minProperties": 2, "additionalProperties": WHOLE}, "minProperties"),
        ({"type": "object", "minProperties": 4, "required": ["a", "b"]}, "minProperties"),
        # numbers that no float is, and characters that llguidance leaves out
        ({"const": 2**53 + 1}, "const"),
        ({"enum": [1, [{"a": -(2**60)}]]}, "enum"),
        ({"type": "integer", "minimum": 2**53 + 1}, "minimum"),
        ({"const": "a\x01b"}, "const"),
        ({"enum": ["\x7f"]}, "enum"),
    ],
)  # fmt: skip
def test_what_would_be_passed_over_is_refused(schema: Any, keyword: str) -> None:
    with pytest.raises(SchemaError) as caught:
        Grammar.json(schema)
    assert caught.value.keyword == keyword


def test_data_is_not_taken_for_keywords() -> None:
    for schema in ({"const": {"not": 1}}, {"enum": [{"uniqueItems": True}]}, {"default": {"if": 1}, "type": "object"}):
        Grammar.json(schema)


def test_definitions_that_nothing_refers_to_may_hold_anything() -> None:
    unused = {"type": "integer", "$defs": {"a": {"not": {"$ref": "#/$defs/b"}}, "b": {"if": {}}}}
    Grammar.json(unused)
    with pytest.raises(SchemaError) as caught:
        Grammar.json({**unused, "anyOf": [{"$ref": "#/$defs/b"}]})
    assert caught.value.keyword == "if"


def test_a_schema_that_refers_to_itself_is_read_once() -> None:
    check_keywords({"properties": {"a": {"$ref": "#"}, "b": {"$ref": "#/properties/a"}}})
    check_keywords({"$ref": "#/nowhere/at/all", "anyOf": [{"$ref": "#/anyOf/9"}, {"$ref": "#/anyOf/x"}]})


def test_what_the_strings_of_a_schema_may_need() -> None:
    assert hints({"type": "string", "minLength": 9}) == Hints()
    assert hints({"pattern": r"^ab\d+c$"}).words == ("ab1c", "ab1", "c", "a", "b", "1")
    assert hints({"items": {"multipleOf": 3}}) == Hints((), multiples=True)
    assert hints({"pattern": r"^.+@.+[.]k\.r$"}).words[0] == "a@a.k.r"
    assert set(hints({"$defs": {"a": {"format": "email"}}}).words) == set("@.:/-")
