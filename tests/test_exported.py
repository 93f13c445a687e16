"""What a file of exported memories says: everything that may be wrong with it is told by its line, and never quoted."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidInput
from engine.exported import Line, read

SECRET = "비밀 secret"
HEADER = {"gieok": "memories", "version": 1}
PLAIN: dict[str, Any] = {"id": "a1", "text": SECRET, "user": "default", "created": "2026-03-05T09:00:00+09:00"}
UNIT = base64.b64encode(np.array([0.6, 0.8], "<f2").tobytes()).decode()


def written(path: Path, *lines: bytes, header: dict[str, Any] = HEADER, end: bytes = b"\n") -> Path:
    path.write_bytes(json.dumps(header).encode() + b"\n" + b"".join(line + end for line in lines))
    return path


def coded(**changed: Any) -> bytes:
    return json.dumps({**PLAIN, **changed}).encode()


def refused(path: Path) -> str:
    """Return why a file is refused, without the file's name and line, which the message must begin with."""
    with pytest.raises(InvalidInput) as caught:
        list(read(path))
    said = str(caught.value)
    assert "비밀" not in said and "secret" not in said
    assert said.startswith(str(path))
    return said.removeprefix(str(path))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "기억 파일.jsonl"


def only(path: Path) -> Line:
    [line] = read(path)
    return line


def test_the_least_that_a_line_says_is_enough(file: Path) -> None:
    line = only(written(file, coded()))
    assert (line.number, line.end) == (2, file.stat().st_size)
    found = line.memory
    assert (found.id, found.text, found.user, found.importance) == ("a1", SECRET, "default", 0.5)
    assert found.created.isoformat() == "2026-03-05T09:00:00+09:00"
    assert (line.fate, line.model, line.vector, line.weights) == (None, None, None, None)


def test_bom_crlf_and_empty_lines_do_no_harm(file: Path) -> None:
    lines = [coded(), b"", coded(id="a2"), b"  "]
    file.write_bytes(b"\xef\xbb\xbf" + b"".join(line + b"\r\n" for line in (json.dumps(HEADER).encode(), *lines)))
    assert [line.memory.id for line in read(file)] == ["a1", "a2"]


def test_the_last_line_may_lack_its_end(file: Path) -> None:
    assert only(written(file, coded(), end=b"")).memory.id == "a1"


def test_what_a_newer_version_adds_is_left_out(file: Path) -> None:
    header = {**HEADER, "made": "2030", "by": {"more": [1]}}
    assert only(written(file, coded(mood="glad", pages={"a": [1, 2]}), header=header)).memory.id == "a1"


def test_separators_of_unicode_end_no_line(file: Path) -> None:
    text = "하나\u2028둘\u2029셋\x85넷"
    line = json.dumps({**PLAIN, "text": text}, ensure_ascii=False).encode()
    assert only(written(file, line)).memory.text == text


@pytest.mark.parametrize("moment", ["1970-01-01T00:00:00+00:00", "2999-12-31T23:59:59.999999+14:00", "1901-02-03"])
def test_whatever_a_clock_said_is_kept(file: Path, moment: str) -> None:
    found = only(written(file, coded(created=moment, when=moment))).memory
    assert found.created == found.when
    assert found.created.isoformat().startswith(moment)


def test_a_time_without_an_offset_is_local(file: Path) -> None:
    found = only(written(file, coded(created="2026-03-05T09:00:00"))).memory
    assert found.created.tzinfo is not None
    assert found.created.replace(tzinfo=None).isoformat() == "2026-03-05T09:00:00"


def test_a_superseded_memory_without_a_fate_was_replaced(file: Path) -> None:
    assert only(written(file, coded(superseded_by="b1"))).fate == "replaced"
    assert only(written(file, coded(superseded_by="b1", fate="merged"))).fate == "merged"


def test_a_vector_comes_with_its_model(file: Path) -> None:
    line = only(written(file, coded(vector=UNIT, model="m", weights=base64.b64encode(b"\1\0\0\0\0<").decode())))
    assert (line.model, len(line.vector or b""), line.weights) == ("m", 4, b"\1\0\0\0\0<")
    assert only(written(file, coded(model=5))).model is None  # of no vector


WRONG: list[tuple[bytes, str]] = [
    (b"{", "no JSON"),
    (b'{"text": "\xb1\xe8"}', "not UTF-8"),
    (json.dumps(PLAIN, ensure_ascii=False).encode("utf-16"), "not UTF-8"),
    (b'{"text": "\xed\xa0\x80"}', "not UTF-8"),
    (b'{"text": "secret\0"}', "no JSON"),
    (b"[1]", "no JSON object"),
    (b'"secret"', "no JSON object"),
    (b"null", "no JSON object"),
    (coded(text="secret\0"), "NUL"),
    (b'{"id": "a", "text": "secret \\ud800", "user": "u", "created": "2026-03-05"}', "half a character"),
    (b'{"secret": 1, "secret": 2}', "twice"),
    (b'{"x": {"a": 1, "a": 1}}', "twice"),
    (coded(importance=float("nan")), "NaN"),
    (coded(importance=float("-inf")), "NaN"),
    (coded()[:-1] + b', "importance": 1e999}', "importance"),
    (b'{"x": ' + b"9" * 5_000 + b"}", "too long"),
    (b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    (b'{"x": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", "nested"),
    (coded(text=None), "text"),
    (coded(text=""), "text is empty"),
    (coded(text=["secret"]), "text must be a str"),
    (coded(text="가" * 90_000), "bytes long"),
    (coded(user=5), "user must be"),
    (coded(user=""), "user is empty"),
    (coded(source=5), "source"),
    (coded(source=""), "source is empty"),
    (coded(id=None), "id or created"),
    (coded(id=SECRET), "id has not the form"),
    (coded(id="a\n"), "id has not the form"),
    (coded(id=5), "id has not the form"),
    (coded(id="x" * 65), "id has not the form"),
    (coded(superseded_by="a1"), "itself"),
    (coded(superseded_by=SECRET), "superseded_by"),
    (coded(category="secret"), "category must be one of"),
    (coded(category=["work"]), "category must be"),
    (coded(kind="secret"), "kind must be one of"),
    (coded(fate="secret", superseded_by="b"), "fate must be one of"),
    (coded(fate="merged"), "nothing supersedes"),
    (coded(created=None), "id or created"),
    (coded(created="secret"), "created is not an ISO"),
    (coded(created=1_700_000_000), "created must be an ISO time"),
    (coded(when="0001-01-01T00:00:00+14:00"), "outside the years"),
    (coded(valid_to={"secret": 1}), "valid_to must be"),
    (coded(importance=1.5), "importance"),
    (coded(importance=True), "importance"),
    (coded(importance="secret"), "importance"),
    (coded(vector=UNIT), "model must be a str"),
    (coded(vector="secret!", model="m"), "not base64"),
    (coded(vector=UNIT[:-1], model="m"), "not base64"),
    (coded(vector="", model="m"), "base64"),
    (coded(vector=5, model="m"), "base64"),
    (coded(vector=base64.b64encode(b"abc").decode(), model="m"), "halves"),
    (coded(vector=base64.b64encode(bytes(2 * 65_537)).decode(), model="m"), "halves"),
    (coded(vector=base64.b64encode(bytes(4)).decode(), model="m"), "unit length"),
    (coded(vector=base64.b64encode(np.array([np.nan, 1], "<f2").tobytes()).decode(), model="m"), "unit length"),
    (coded(vector=base64.b64encode(np.array([np.inf, 1], "<f2").tobytes()).decode(), model="m"), "unit length"),
    (coded(vector=base64.b64encode(b"\1\x7c\0\x3c").decode(), model="m"), "unit length"),  # a signalling NaN
    (coded(weights=base64.b64encode(b"12345").decode()), "weights"),
    (coded(weights=base64.b64encode(b"\1\0\0\0\0\x7c").decode()), "weights"),
]


@pytest.mark.parametrize(("line", "why"), WRONG, ids=[f"{n}-{why}" for n, (_, why) in enumerate(WRONG)])
def test_a_line_that_cannot_be_is_named_and_not_quoted(file: Path, line: bytes, why: str) -> None:
    said = refused(written(file, coded(id="first"), line))
    assert said.startswith(", line 3: ")
    assert why in said


def test_a_line_without_end_is_not_read_to_its_end(file: Path) -> None:
    with file.open("wb") as out:
        out.write(json.dumps(HEADER).encode() + b"\n")
        out.truncate(1 << 30)  # a gigabyte of NUL that takes no disk
    assert "longer than 16 MiB" in refused(file)
    file.write_bytes(b"")
    with file.open("wb") as out:
        out.truncate(1 << 30)
    assert "longer than 16 MiB" in refused(file)


@pytest.mark.parametrize("left", [1, 20, len(coded()) - 1])
def test_a_file_that_ends_within_a_line_was_cut_short(file: Path, left: int) -> None:
    written(file, coded(id="b"), coded()[:left], end=b"\n")
    file.write_bytes(file.read_bytes()[:-1])
    assert refused(file) == ", line 3: the file ends within this line; it was cut short"


def test_a_file_that_ends_between_two_lines_was_cut_short(file: Path) -> None:
    written(file, coded(), coded(id="a2"), header={**HEADER, "count": 3})
    assert "2 memories of 3" in refused(file)
    assert len(list(read(written(file, coded(), coded(id="a2"), header={**HEADER, "count": 2})))) == 2


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (b"", "no export"),
        (b"\n", "no export"),
        (coded(), "no export"),
        (b"# notes", "no export"),
        (b'{"gieok": "models", "version": 1}', "no export"),
        (b'{"gieok": "memories"}', "whole numbers"),
        (b'{"gieok": "memories", "version": "1"}', "whole numbers"),
        (b'{"gieok": "memories", "version": true}', "whole numbers"),
        (b'{"gieok": "memories", "version": 0}', "whole numbers"),
        (b'{"gieok": "memories", "version": 1, "count": "3"}', "whole numbers"),
        (b'{"gieok": "memories", "version": 2}', "newer Gieok wrote this (version 2"),
        (b"SQLite format 3\0", "no export"),
        ("기억".encode("cp949"), "not UTF-8"),
    ],
)
def test_another_file_is_refused_at_its_first_line(file: Path, first: bytes, why: str) -> None:
    file.write_bytes(first + b"\n" + coded() + b"\n")
    said = refused(file)
    assert said.startswith(", line 1: ")
    assert why in said


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        assert " cannot be read: " in refused(path)


@given(st.binary(max_size=300))
def test_no_bytes_bring_another_error(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.jsonl"
    path.write_bytes(json.dumps(HEADER).encode() + b"\n" + junk)
    with suppress(InvalidInput):
        list(read(path))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([*PLAIN, "when", "fate", "vector", "model", "importance", "kind"]), values))
def test_no_value_brings_another_error(tmp_path_factory: pytest.TempPathFactory, changed: dict[str, Any]) -> None:
    path = written(tmp_path_factory.getbasetemp() / "wild.jsonl", coded(**changed))
    with suppress(InvalidInput):
        list(read(path))
