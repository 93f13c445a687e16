"""Texts cut into pieces that a model reads at once: nothing is lost, and the cuts are where a reader would make them."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise
from typing import Any

import pytest
import tiny_embedder
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_embedder import WINDOW

from engine.windows import Piece, Reader, batches

PREFIXES: dict[Any, str] = {"query": "query: ", "passage": ""}
TOKENIZER = tiny_embedder.tokenizer()
SENTENCES = [
    "오늘은 비가 옵니다.",
    "우산 있어요?",
    "네, 두 개 있어요!",
    "그럼 하나 빌려 주세요…",
    "The weather is bad.",
]
WILD = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    st.lists(st.sampled_from([*SENTENCES, " ", "\n", "  ", "가나다라마", "🍚", "<mask>", "x" * 70]), max_size=60).map(
        "".join
    ),
)


def tokenize(texts: list[str]) -> list[list[int]]:
    return [each.ids for each in TOKENIZER.encode_batch(texts)]


def reader(max_tokens: int = WINDOW) -> Reader:
    return Reader(tokenize, max_tokens, PREFIXES)


def cut(text: str, max_tokens: int = WINDOW) -> list[str]:
    return [piece.text for piece in reader(max_tokens).pieces([text], "passage")]


def check(texts: list[str], pieces: list[Piece], kind: Any, max_tokens: int) -> None:
    """Check all that holds for the pieces of any texts."""
    prefix = PREFIXES[kind]
    assert all(piece.text.startswith(prefix) for piece in pieces)
    found = {owner: [p.text[len(prefix) :] for p in group] for owner, group in groupby(pieces, lambda p: p.owner)}
    assert ["".join(found[owner]) for owner in range(len(texts))] == texts  # in order, and nothing left out
    assert [piece.owner for piece in pieces] == sorted(piece.owner for piece in pieces)
    assert [list(piece.ids) for piece in pieces] == tokenize([piece.text for piece in pieces])
    assert max((len(piece.ids) for piece in pieces), default=0) <= max_tokens
    assert all(isinstance(piece.ids, tuple) and piece.weight >= 1 for piece in pieces)


@settings(deadline=None)
@given(texts=st.lists(WILD, max_size=6), kind=st.sampled_from(["query", "passage"]), max_tokens=st.integers(24, 80))
def test_nothing_is_cut_off(texts: list[str], kind: Any, max_tokens: int) -> None:
    check(texts, list(reader(max_tokens).pieces(texts, kind)), kind, max_tokens)


@settings(deadline=None)
@given(text=WILD)
def test_what_fits_is_not_cut(text: str) -> None:
    if len(tokenize([text])[0]) <= WINDOW:
        assert cut(text) == [text]
    else:
        assert len(cut(text)) > 1


@pytest.mark.parametrize("size", [WINDOW - 3, WINDOW - 2, WINDOW - 1])
def test_a_text_of_just_the_windows_size(size: int) -> None:
    text = "각" * (size - 1)  # and the piece that stands for the beginning of a word
    assert len(tokenize([text])[0]) == size + 2
    assert len(cut(text)) == (1 if size + 2 <= WINDOW else 2)


# Where it is cut


def test_a_line_is_not_cut_where_lines_fit() -> None:
    lines = [f"{SENTENCES[n % 5]} {SENTENCES[n % 3]}" for n in range(40)]
    for piece in cut("\n".join(lines)):
        assert piece.strip("\n").split("\n") == [line for line in piece.split("\n") if line]
        assert set(piece.strip("\n").split("\n")) <= set(lines)


@pytest.mark.parametrize("gap", [" ", "  "])
def test_a_sentence_is_not_cut_where_sentences_fit(gap: str) -> None:
    text = gap.join(SENTENCES * 12)
    pieces = cut(text)
    assert len(pieces) > 4
    for piece in pieces:
        assert piece.strip()[-1] in ".?!…"
        assert any(piece.strip().startswith(sentence) for sentence in SENTENCES)


@pytest.mark.parametrize("close", ['"', "”", "'", "’", ")", "」", "』", "]", '")'])
def test_a_sentence_ends_behind_the_quotes_that_close_on_it(close: str) -> None:
    text = " ".join(f"{word}라고 그는 다시 말했다.{close}" for word in ["밥", "국", "집에 가자", "왜 그래"] * 12)
    pieces = cut(text)
    assert len(pieces) > 4
    assert all(piece.strip().endswith("." + close) for piece in pieces)


def test_a_sentence_ends_where_the_next_follows_without_a_space() -> None:
    text = "".join(["오늘은 비가 많이 옵니다.", "우산은 집에 있어요?", "네, 두 개 있어요!"] * 16)
    pieces = cut(text)
    assert len(pieces) > 4
    assert all(piece.strip()[-1] in ".?!" for piece in pieces)


@pytest.mark.parametrize("sentence", ["생일은 2026. 3. 5. 저녁이라고 해요.", "아침 6. 5 그램을 3. 5. 에 먹어요."])
def test_a_full_stop_behind_a_number_ends_no_sentence(sentence: str) -> None:
    for count in range(12, 30):
        pieces = cut(" ".join([sentence] * count))
        assert len(pieces) > 1
        assert all(piece.strip().endswith("요.") for piece in pieces)


def test_a_word_is_not_cut_where_words_fit() -> None:
    words = [random.Random(n).choice(["가나다", "김치찌개", "서울역", "hello"]) for n in range(200)]
    for piece in cut(" ".join(words)):
        assert set(piece.split()) <= set(words)


def test_a_mark_within_a_word_ends_no_sentence() -> None:
    text = "값은 3.14입니다 그리고 www.a.b.kr 주소와 e.g.file.txt " * 12
    for piece in cut(text):
        assert set(piece.split()) <= set(text.split())


@pytest.mark.parametrize("text", ["각" * 5_000, "x" * 5_000, "가나.다라" * 900])
def test_an_endless_word_is_cut_somewhere(text: str) -> None:
    pieces = list(reader().pieces([text], "query"))
    check([text], pieces, "query", WINDOW)
    assert len(pieces) < 2 * len(text) / (WINDOW / 4)


@pytest.mark.parametrize("text", [" ", "\n", " \t\n" * 400, "\u3000" * 3_000, "", "🍚" * 3_000])
def test_what_has_hardly_a_token_is_one_piece(text: str) -> None:
    (piece,) = reader().pieces([text], "query")
    assert (piece.owner, piece.text, piece.weight) == (0, "query: " + text, pytest.approx(1, abs=1))


def test_a_desert_between_two_words() -> None:
    text = "가 " * 60 + " " * 20_000 + "나 " * 60
    check([text], list(reader().pieces([text], "passage")), "passage", WINDOW)


def test_the_largest_text_there_may_be() -> None:
    """256 KB, of which most is Hangul of three bytes each."""
    text = ""
    choose = random.Random(1)
    while len(text.encode("utf-8")) < 256 * 1024:
        text += "".join(choose.choices(SENTENCES, k=50)) + choose.choice(["\n", " ", ""])
    pieces = list(reader().pieces([text], "passage"))
    check([text], pieces, "passage", WINDOW)
    assert len(pieces) < 4 * sum(len(piece.ids) for piece in pieces) / WINDOW


@pytest.mark.parametrize("mark", [".", "?!", "…", ".'", '."”'])
def test_an_endless_run_of_marks_is_read_once(mark: str) -> None:
    """A search that begins anew at each mark, and reads to the run's end, would take an hour for the largest text."""
    text = mark * (100_000 // len(mark)) + "가"
    check([text], list(reader().pieces([text], "passage")), "passage", WINDOW)


def test_pieces_hold_about_as_much() -> None:
    """Of a text that is alike all through, no piece is less than a quarter of what fits."""
    pieces = list(reader().pieces([" ".join(SENTENCES * 40)], "passage"))
    assert min(piece.weight for piece in pieces) >= WINDOW // 4 - 2


# Prefixes, weights


@pytest.mark.parametrize(("kind", "prefix"), PREFIXES.items())
def test_each_piece_has_its_prefix_once(kind: Any, prefix: str) -> None:
    text = " ".join(SENTENCES * 12)
    pieces = list(reader().pieces([text, "query: 안녕", ""], kind))
    assert len(pieces) > 5
    assert "".join(piece.text.removeprefix(prefix) for piece in pieces) == text + "query: 안녕"
    assert [piece.text for piece in pieces[-2:]] == [prefix + "query: 안녕", prefix]


@pytest.mark.parametrize("kind", PREFIXES)
def test_the_weight_is_the_number_of_the_texts_own_tokens(kind: Any) -> None:
    texts = ["안녕하세요", "서울 김치 hello", "가나다라마바사"]
    for text, piece in zip(texts, reader().pieces(texts, kind), strict=True):
        assert piece.weight == len(TOKENIZER.encode(text, add_special_tokens=False).ids)


def test_the_weights_of_a_long_texts_pieces_are_its_tokens() -> None:
    text = " ".join(SENTENCES * 12)
    whole = len(TOKENIZER.encode(text, add_special_tokens=False).ids)
    for kind in PREFIXES:
        assert sum(piece.weight for piece in reader().pieces([text], kind)) == whole


# Many texts, many threads


def test_many_texts_are_read_as_they_are_needed() -> None:
    """Ten thousand texts are never all in memory as tokens."""
    read = 0

    def count(texts: list[str]) -> list[list[int]]:
        nonlocal read
        read += len(texts)
        return tokenize(texts)

    pieces = Reader(count, WINDOW, PREFIXES).pieces(["안녕하세요"] * 10_000, "passage")
    assert [next(iter(pieces)).owner for _ in range(3)] == [0, 1, 2]
    assert read < 1_000
    assert [piece.owner for piece in pieces] == list(range(3, 10_000))


def test_no_texts_are_no_pieces() -> None:
    assert list(reader().pieces([], "query")) == []


def test_any_threads_may_use_one_reader_at_once() -> None:
    shared = reader()
    jobs: list[tuple[list[str], Any]] = []
    for seed in range(48):
        choose = random.Random(seed)
        texts = [" ".join(choose.choices(SENTENCES, k=choose.randint(1, 60))) for _ in range(20)]
        jobs.append((texts, choose.choice(list(PREFIXES))))
    alone = [list(shared.pieces(texts, kind)) for texts, kind in jobs]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda job: list(shared.pieces(*job)), jobs))
    assert together == alone


# Batches


@given(sizes=st.lists(st.integers(1, 300), max_size=80), most=st.integers(1, 400))
def test_batches_are_as_large_as_they_may_be(sizes: list[int], most: int) -> None:
    found = list(batches(sizes, most))
    assert sorted(at for batch in found for at in batch) == list(range(len(sizes)))
    assert [sizes[at] for batch in found for at in batch] == sorted(sizes)
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(sizes[at] for at in batch) <= most
    for batch, following in pairwise(found):
        assert (len(batch) + 1) * sizes[following[0]] > most
