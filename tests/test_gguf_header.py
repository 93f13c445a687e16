"""Headers of GGUF files: good ones are read as the reference reads them, hostile ones end in one typed error."""

from __future__ import annotations

import struct
import tracemalloc
from itertools import islice
from pathlib import Path

import gguf
import pytest
import tiny_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutants import HUGE, Original

from engine import gguf_header
from engine.errors import ModelCorrupt
from engine.gguf_header import read_header
from engine.llama import Model

U32, STRING, ARRAY = 4, 8, 9


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def field(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def number(name: str, value: int) -> bytes:
    return field(name, U32, struct.pack("<I", value))


def array(name: str, kind: int, count: int, values: bytes = b"") -> bytes:
    return field(name, ARRAY, struct.pack("<IQ", kind, count) + values)


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


NAMED = field("general.architecture", STRING, text("llama"))


def write(folder: Path, *fields: bytes, tensors: tuple[bytes, ...] = (), data: bytes = b"") -> Path:
    """Write a file of these parts, with its data at the next multiple of 32."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields)) + b"".join(fields) + b"".join(tensors)
    path = folder / "made.gguf"
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)
    return path


def refused(path: Path) -> str:
    with pytest.raises(ModelCorrupt) as caught:
        read_header(path)
    assert caught.value.path == str(path)
    said = str(caught.value)
    assert path.name in said and said.isprintable() and len(said) < 1000
    return said


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return Original(tiny_models.attention(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))


# ---- good files


@pytest.mark.parametrize("make", [tiny_models.attention, tiny_models.mamba, tiny_models.hybrid, tiny_models.sliding])
def test_a_good_file_is_read_as_the_reference_reads_it(make: type, tmp_path: Path) -> None:
    path = make(tmp_path / "model.gguf")
    header, reference = read_header(path), gguf.GGUFReader(path)
    fields = {name: one for name, one in reference.fields.items() if not name.startswith("GGUF.")}
    single = {name: one.contents() for name, one in fields.items() if one.types[0] != gguf.GGUFValueType.ARRAY}
    assert header.metadata == single
    assert header.arrays == {name: len(one.data) for name, one in fields.items() if name not in single}
    short = {name: one for name, one in fields.items() if name not in single and len(one.data) < 100}
    assert {name: list(value) for name, value in header.lists.items()}.items() >= {
        name: one.contents() for name, one in short.items() if type(one.contents()[0]) in (int, bool)
    }.items()
    assert header.architecture == single["general.architecture"]
    assert header.tensors == len(reference.tensors)
    assert header.tensor_bytes == sum(int(one.n_bytes) for one in reference.tensors) == sum(header.groups.values())
    assert header.groups["blk"] == sum(int(one.n_bytes) for one in reference.tensors if one.name.startswith("blk."))
    assert (header.vocabulary, header.split_no, header.split_count) == (tiny_models.SIZE, 0, 1)


def test_real_vocabularies_have_their_sizes(vocab_folder: Path) -> None:
    for name in ("qwen2", "llama-spm", "bert-bge", "gemma-4", "nomic-bert-moe"):
        path = vocab_folder / f"ggml-vocab-{name}.gguf"
        model = Model(path, vocab_only=True)
        assert read_header(path).vocabulary == model.vocabulary.size > 30_000
        model.close()


@pytest.mark.model
def test_a_quantised_model_has_the_bytes_that_llama_counts(starter: Model, starter_gguf: Path) -> None:
    header = read_header(starter_gguf)
    assert header.tensor_bytes == starter.size
    assert header.metadata["llama.context_length"] == starter.context_length


@pytest.mark.parametrize("window", [1, 7, 8, 9, 64])
def test_it_does_not_matter_how_much_is_read_at_once(
    tiny: Original, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    whole = read_header(tiny.path)
    monkeypatch.setattr(gguf_header, "_WINDOW", window)
    assert read_header(tiny.path) == whole


def test_types_that_are_not_known_need_only_begin_in_the_file(tmp_path: Path) -> None:
    assert read_header(write(tmp_path, NAMED, tensors=(tensor("x", (64,), 77, 32),), data=bytes(40))).tensor_bytes == 0


def test_a_part_says_which_it_is_and_needs_no_architecture(tmp_path: Path) -> None:
    header = read_header(write(tmp_path, number("split.no", 1), number("split.count", 3)))
    assert (header.split_no, header.split_count, header.architecture) == (1, 3, "")


def test_a_long_text_is_cut_and_what_follows_is_read(tmp_path: Path) -> None:
    long = field("long", STRING, text("가" * 100_000))
    header = read_header(write(tmp_path, long, NAMED))
    assert header.architecture == "llama" and len(str(header.metadata["long"]).encode()) <= (1 << 16) + 3


# ---- hostile files


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a GGUF file"),
        (b"GGU", "not a GGUF file"),
        (b"<html>404 Not Found</html>", "not a GGUF file"),
        (b"GGUF", "cut off"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "another byte order"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "architecture"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "9223372036854775808 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**64 - 1), "18446744073709551615 metadata fields"),
    ],
)
def test_what_does_not_begin_as_a_model_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "빈 파일.gguf"
    path.write_bytes(data)
    assert why in refused(path)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ((struct.pack("<Q", 2**62) + bytes(16),), "the name of a metadata field"),
        ((text("") + struct.pack("<I", U32) + bytes(8),), "the name of a metadata field"),
        ((field("x", STRING, struct.pack("<Q", 2**63)),), "'x' is longer than the file"),
        ((field("x", 13, bytes(16)),), "unknown type, 13"),
        ((field("x", 7, b"\2" + bytes(16)),), "neither true nor false"),
        ((array("x", ARRAY, 1, bytes(16)),), "array of an unknown type, 9"),
        ((array("x", 77, 1, bytes(16)),), "array of an unknown type, 77"),
        ((array("x", U32, 2**62),), "4611686018427387904 values in 'x'"),
        ((array("x", STRING, 2**40),), "1099511627776 strings in 'x'"),
        ((array("x", STRING, 3, text("a") + struct.pack("<Q", 2**64 - 1) + bytes(16)),), "longer than the file"),
        ((NAMED, NAMED), "'general.architecture' twice"),
        ((NAMED, array("general.architecture", U32, 0)), "'general.architecture' twice"),
        ((field("general.architecture", STRING, text("")),), "architecture"),
        ((number("general.architecture", 7),), "architecture"),
        ((NAMED, number("general.alignment", 0)), "power of two"),
        ((NAMED, number("general.alignment", 48)), "power of two"),
        ((NAMED, field("general.alignment", STRING, text("32"))), "no whole number"),
        ((NAMED, field("split.count", 5, struct.pack("<i", -1))), "no whole number"),
        ((field("\x1b[31m\u202e\n", 99, bytes(8)),), "unknown type, 99"),
    ],
)
def test_hostile_metadata_is_refused(tmp_path: Path, fields: tuple[bytes, ...], why: str) -> None:
    assert why in refused(write(tmp_path, *fields))


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ((tensor("x", (64,), 0, 0),), "cut off"),
        ((tensor("x", (32,), 0, 32),), "cut off"),
        ((tensor("x", (1,), 0, 2**63),), "outside"),
        ((tensor("x", (1,), 77, 2**63),), "outside"),
        ((tensor("x", (2**32, 2**32), 0),), "outside"),
        ((tensor("x", (2**64 - 1,), 0),), "outside"),
        ((tensor("x", (1, 1, 1, 1, 1), 0),), "5 dimensions"),
        ((tensor("x", (31,), 2),), "no whole blocks of 32"),
        ((tensor("x", (1,)), tensor("x", (1,))), "twice"),
        ((tensor("", (1,)),), "the name of a tensor"),
        ((tensor("x", (32,)), tensor("y", (32,))), "overlap"),
    ],
)
def test_hostile_tensors_are_refused(tmp_path: Path, tensors: tuple[bytes, ...], why: str) -> None:
    assert why in refused(write(tmp_path, NAMED, tensors=tensors, data=bytes(128)))


def test_more_strings_than_any_model_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be there, and would take minutes; the number is of all arrays together."""
    monkeypatch.setattr(gguf_header, "_MOST_STRINGS", 10)
    six = array("a", STRING, 6, bytes(48)), array("b", STRING, 6, bytes(48))
    assert read_header(write(tmp_path, NAMED, six[0])).arrays == {"a": 6}
    assert "6 strings in 'b'" in refused(write(tmp_path, NAMED, *six))


def test_numbers_of_a_short_array_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = array("a", 5, 3, struct.pack("<3i", -1, 0, 2**31 - 1))
    flags, floats = array("b", 7, 2, b"\x01\x00"), array("c", 6, 1, bytes(4))
    long = array("d", U32, 1025, bytes(4 * 1025))
    found = read_header(write(tmp_path, NAMED, numbers, flags, floats, long))
    assert found.lists == {"a": (-1, 0, 2**31 - 1), "b": (1, 0)}
    assert found.arrays == {"a": 3, "b": 2, "c": 1, "d": 1025}
    monkeypatch.setattr(gguf_header, "_MOST_LISTED_IN_ALL", 4)  # a hostile header may have thousands of them
    assert list(read_header(write(tmp_path, NAMED, numbers, flags)).lists) == ["a"]


def test_more_text_than_any_model_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_header, "_KEPT_IN_ALL", 1000)
    assert "more text" in refused(write(tmp_path, NAMED, field("x", STRING, text("a" * 1000))))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path)
    assert "cannot be read" in refused(tmp_path / "missing.gguf")


def test_a_file_that_ends_early_is_refused_wherever_it_ends(tiny: Original, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    ends = [*range(0, tiny.header, 37), *range(tiny.header, len(tiny.data), 40_009), len(tiny.data) - 1]
    for end in ends:
        path.write_bytes(tiny.data[:end])
        refused(path)


def test_no_number_makes_it_hold_much(tiny: Original, tmp_path: Path) -> None:
    path, window = tmp_path / "huge.gguf", gguf_header._WINDOW
    places = [*tiny.counts[:4], *tiny.lengths[:40:3], *tiny.lengths[-6:], *tiny.dimensions[:4], *tiny.offsets[:2]]
    tracemalloc.start()
    try:
        for at, form in places:
            data = bytearray(tiny.data)
            struct.pack_into(form, data, at, HUGE[at % len(HUGE)] % 2 ** (8 * struct.calcsize(form)))
            path.write_bytes(data)
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            refused(path)
            assert tracemalloc.get_traced_memory()[1] - before < 3 * window
    finally:
        tracemalloc.stop()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 8000), data=st.binary(min_size=1, max_size=64))
def test_other_bytes_are_read_or_refused(tiny: Original, tmp_path: Path, at: int, data: bytes) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(tiny.data[:at] + data + tiny.data[at + len(data) :])
    try:
        header = read_header(path)
    except ModelCorrupt:
        return
    assert 0 <= header.tensor_bytes <= len(tiny.data)


def test_mutants_are_read_or_refused(tiny: Original, tmp_path: Path) -> None:
    seen = set()
    for mutant in islice(tiny.mutants("header"), 190):
        try:
            read_header(mutant.write(tiny.data, tmp_path / "mutant.gguf"))
        except ModelCorrupt:
            seen.add(mutant.kind)
    assert {"cut off", "hostile count", "hostile length", "hostile type", "hostile offset"} <= seen
    assert "longer" not in seen, "what follows the tensors does no harm"
