"""Which JSON Schemas can be kept: each keyword is either enforced while the answer is written, or says nothing of it.

llguidance refuses what it knows and has not built, passes over what it does not know, and in a few places over what it
does. What would be passed over is refused here. Drafts up to 2020-12.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from engine.closing import Hints
from engine.errors import SchemaError

Node = Mapping[str, Any]

_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})  # name → schema
_SEVERAL = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_INSIDE = frozenset({"items", "additionalItems", "additionalProperties"})  # a schema, a boolean, or a list of schemas
_NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_VALUES = frozenset({"const", "enum"})
_BOUNDS = frozenset({
    "minLength", "maxLength", "pattern", "format", "minItems", "maxItems", "required", "minProperties", "maxProperties",
})  # fmt: skip
_DEFINITIONS = frozenset({"$defs", "definitions"})
_NOTES = frozenset({
    "$schema", "$id", "id", "$anchor", "$comment", "$vocabulary", "title", "description", "default", "examples",
    "deprecated", "readOnly", "writeOnly", "contentMediaType", "contentEncoding", "contentSchema",
    "example", "discriminator",  # OpenAPI's, which pydantic and its users write
})  # fmt: skip
_KEPT = _NAMED | _SEVERAL | _INSIDE | _NUMBERS | _VALUES | _BOUNDS | _NOTES | {"$ref", "type"}
_OLD = re.compile(r"draft-0\d|2019-09")  # where prefixItems is not yet a keyword
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")  # what JSON can only spell as \u…
_CLASS = re.compile(r"\\(.)|(?<!\[)\.")
_OPERATORS = re.compile(r"[\^$()\[\]{}|?*+]")
_MARKS = "@.:/-"  # what formats are made of
_EXACT = 2**53  # whole numbers above it are not all floats, which llguidance computes with


def check_keywords(schema: Node) -> None:
    """Raise `SchemaError` naming the first keyword that would not be kept, wherever the root schema can reach it."""
    old = bool(_OLD.search(str(schema.get("$schema"))))
    left: list[Any] = [schema]
    seen: set[int] = set()
    while left:
        node = left.pop()
        if isinstance(node, Mapping) and id(node) not in seen:
            seen.add(id(node))
            for keyword in node:
                if _is_lost(keyword, node, old):
                    raise SchemaError(
                        f"the schema keyword {keyword!r}, as it is used, cannot be kept while an answer is written; "
                        "leave it out, and check the answer yourself",
                        keyword=keyword,
                    )
            left.extend(_below(node))
            left.extend(_referred(node.get("$ref"), schema))


def to_blame(schema: Node, compiles: Callable[[Node], bool]) -> str | None:
    """Return the keyword without which a schema that does not compile would; None if it is not one alone."""
    rank = {keyword: number for number, group in enumerate((_NUMBERS, _BOUNDS, _VALUES)) for keyword in group}
    used = sorted(_used(schema), key=lambda keyword: (keyword == "type", rank.get(keyword, len(rank)), keyword))
    return next((keyword for keyword in used if compiles(_without(schema, keyword))), None)


def hints(schema: Node) -> Hints:
    """Return what a search for values may try: patterns as if without operators, their words, their characters.

    Formats are made of marks. It is a guess, which costs nothing where it is wrong.
    """
    nodes = list(_nodes(schema))
    marks = _MARKS if any("format" in node for node in nodes) else ""
    patterns = [_CLASS.sub(_one_of, str(node["pattern"])) for node in nodes if "pattern" in node]
    words = [word for pattern in patterns for word in [_OPERATORS.sub("", pattern), *_OPERATORS.split(pattern)] if word]
    tried = tuple(dict.fromkeys([*words, *"".join(words), *marks]))
    return Hints(tried, any("multipleOf" in node for node in nodes))


def _one_of(found: re.Match[str]) -> str:
    """Return a character that a class of a pattern holds, or the one that is escaped."""
    return {"d": "1", "w": "a", "s": " ", None: "a"}.get(found[1], found[1])


def _is_lost(keyword: str, node: Node, old: bool) -> bool:
    value = node[keyword]
    if keyword == "prefixItems":  # passed over beside the older way of saying it
        return old or isinstance(node.get("items"), list)
    if keyword == "additionalItems":
        return not isinstance(node.get("items"), list)
    if keyword == "minProperties":  # nothing keeps two names that no property declares from being the same
        names = node.get("required", ())
        return isinstance(value, int) and isinstance(names, (list, tuple)) and value > len(names) + 1
    if keyword in _NUMBERS | _VALUES:
        return any(_cannot_be_spelt(part) for part in _leaves(value))
    return keyword not in _KEPT and (not keyword.startswith("x-") or keyword == "x-guidance")  # llguidance's switches


def _cannot_be_spelt(value: Any) -> bool:
    return (isinstance(value, int) and abs(value) > _EXACT) or (isinstance(value, str) and bool(_CONTROL.search(value)))


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the numbers and texts in a JSON value."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
        else:
            yield value


def _below(node: Node) -> Iterator[Any]:
    """Yield the schemas right inside `node`; definitions only count where they are referred to."""
    for keyword, value in node.items():
        if keyword in _NAMED - _DEFINITIONS and isinstance(value, Mapping):
            yield from value.values()
        elif keyword in _SEVERAL | _INSIDE:
            yield from value if isinstance(value, list) else [value]


def _referred(reference: Any, root: Node) -> list[Any]:
    """Return the schema that a `$ref` points to; where it goes by a name, all that have one."""
    if not isinstance(reference, str):
        return []
    if not reference.startswith("#/") and reference != "#":
        return [node for word in _DEFINITIONS for node in dict(root.get(word, {})).values()]
    from urllib.parse import unquote

    place: Any = root
    for part in unquote(reference).split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(place, list):
            place = place[int(part)] if part.isdecimal() and int(part) < len(place) else None
        else:
            place = place.get(part) if isinstance(place, Mapping) else None
    return [place]


def _nodes(schema: Node) -> Iterator[Node]:
    """Yield every schema in `schema`, the definitions included."""
    left: list[Any] = [schema]
    while left:
        node = left.pop()
        if isinstance(node, Mapping):
            yield node
            left.extend(_below(node))
            left.extend(part for word in _DEFINITIONS for part in dict(node.get(word, {})).values())


def _used(schema: Node) -> set[str]:
    return {keyword for node in _nodes(schema) for keyword in node if keyword in _KEPT - _NOTES - _DEFINITIONS}


def _without(node: Any, keyword: str) -> Any:
    """Return a schema less every use of `keyword`."""
    if not isinstance(node, Mapping):
        return node
    kept: dict[str, Any] = {}
    for key, value in node.items():
        if key in _NAMED and isinstance(value, Mapping):
            kept[key] = {name: _without(part, keyword) for name, part in value.items()}
        elif key in _SEVERAL | _INSIDE and isinstance(value, list):
            kept[key] = [_without(part, keyword) for part in value]
        else:
            kept[key] = _without(value, keyword) if key in _INSIDE else value
    kept.pop(keyword, None)
    return kept
