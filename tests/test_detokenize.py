"""The text of a stream: whole characters, nothing lost, no part of a stop string."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.detokenize import TextStream
from engine.llama import Model, Vocabulary

KOREAN = "가나다 안녕하세요 뷁 똠방각하 ㄱㄴㄷ ㅏㅑㅓ ㅋㅋㅋㅋ ㅠㅠ ᄒᆞᆫ글 각 밥을 먹었다. 1,234원 “인용” …".split(" ")
EMOJI = "😀 👨‍👩‍👧‍👦 👩🏽‍🚀 🏳️‍🌈 👋🏿 👋🏻 🇰🇷 🇺🇸🇯🇵 ❤️ ☕ 1️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🧑‍🤝‍🧑 🫠 ☺︎".split(
    " "
)  # families, skin tones, flags, key caps, text style
MIXED = (
    "hello Ünïcödé ß 日本語 中文 العربية हिन्दी \u200b \ufeff � \x00 \x7f <b> {'a':1} \\n `x` # \ue000 \U0010ffff"
).split(" ")
GAPS = ("", "", " ", "  ", "\n", "\n\n", "\t", "\r\n", "\u3000", "\xa0")


@pytest.fixture(scope="module", params=["starter", "qwen2"])
def vocabulary(request: pytest.FixtureRequest, starter: Model, vocab_folder: Path) -> Iterator[Vocabulary]:
    if request.param == "starter":
        yield starter.vocabulary
        return
    model = Model(vocab_folder / f"ggml-vocab-{request.param}.gguf", vocab_only=True)
    yield model.vocabulary
    model.close()


def unfinished(data: bytes) -> int:
    """Return how many bytes at the end begin a character and do not end it (Unicode 16, table 3-7).

    Half a surrogate counts as such a beginning, as it does for Python's decoder.
    """
    seconds = {0xE0: range(0xA0, 0xC0), 0xF0: range(0x90, 0xC0), 0xF4: range(0x80, 0x90)}
    for count in (1, 2, 3):
        lead, *rest = data[-count:] or [0]
        length = 2 if 0xC2 <= lead <= 0xDF else 3 if 0xE0 <= lead <= 0xEF else 4 if 0xF0 <= lead <= 0xF4 else 0
        continued = all(0x80 <= byte <= 0xBF for byte in rest)
        if count < length and continued and (not rest or rest[0] in seconds.get(lead, range(0x80, 0xC0))):
            return count
    return 0


def text_of(data: bytes) -> str:
    return data[: len(data) - unfinished(data)].decode("utf-8", "replace")


def stream(parts: Sequence[bytes], stop: tuple[str, ...] = ()) -> list[str]:
    text = TextStream(stop)
    return [*(text.push(part) for part in parts), text.end()]


def random_text(rng: random.Random) -> str:
    words = rng.choice([KOREAN, EMOJI, KOREAN + EMOJI, KOREAN + EMOJI + MIXED])
    return "".join(rng.choice(words) + rng.choice(GAPS) for _ in range(rng.randint(1, 12)))


def test_no_vocabulary_entry_is_lost(vocabulary: Vocabulary) -> None:
    control = set(vocabulary.control.values())
    assert len(vocabulary.pieces) == vocabulary.size > 49_000
    lost = [token for token in range(vocabulary.size) if not vocabulary.pieces[token] and token not in control]
    assert not lost
    assert not any(vocabulary.pieces[token] for token in control)


def test_every_entry_alone(vocabulary: Vocabulary) -> None:
    wrong = [piece for piece in vocabulary.pieces if "".join(stream([piece])) != text_of(piece)]
    assert not wrong


def test_every_entry_in_one_stream(vocabulary: Vocabulary) -> None:
    tokens = list(range(vocabulary.size))
    for seed in (None, 1, 2):
        if seed:
            random.Random(seed).shuffle(tokens)
        pieces = [vocabulary.pieces[token] for token in tokens]
        assert "".join(stream(pieces)) == text_of(b"".join(pieces))


def test_entries_are_the_bytes_that_llama_cpp_reads_back(vocabulary: Vocabulary) -> None:
    """A wrong byte table would still pass the tests above: tokenise what the pieces say, and compare."""
    control = set(vocabulary.control.values())
    rng = random.Random(3)
    tokens = [t for t in rng.sample(range(vocabulary.size), 3000) if t not in control]
    for token in tokens:
        piece = vocabulary.pieces[token]
        if not unfinished(piece) and "\ufffd" not in piece.decode("utf-8", "replace"):
            assert b"".join(map(vocabulary.pieces.__getitem__, vocabulary.tokenize(piece.decode()))) == piece


def test_a_thousand_texts_come_back(vocabulary: Vocabulary) -> None:
    rng = random.Random(20260301)
    for _ in range(1000):
        text = random_text(rng)
        pieces = stream([vocabulary.pieces[token] for token in vocabulary.tokenize(text)])
        assert "".join(pieces) == text
        assert sum(piece.count("\ufffd") for piece in pieces) == text.count("\ufffd")


def test_a_sentencepiece_vocabulary_streams_too(vocab_folder: Path) -> None:
    model = Model(vocab_folder / "ggml-vocab-llama-spm.gguf", vocab_only=True)
    try:
        vocabulary, rng = model.vocabulary, random.Random(5)
        assert [t for t in range(vocabulary.size) if not vocabulary.pieces[t]] == sorted(vocabulary.control.values())
        for _ in range(300):
            text = random_text(rng)
            pieces = stream([vocabulary.pieces[token] for token in vocabulary.tokenize(text)])
            assert "".join(pieces) == " " + text  # its own dummy prefix
            assert "�" in text or not any("�" in piece for piece in pieces)
    finally:
        model.close()


@st.composite
def split_bytes(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> list[bytes]:
    data = draw(source)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=len(data))))
    return [data[i:j] for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True)]


anything = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(str.encode),
    st.lists(st.sampled_from([b"\xea", b"\xb0", b"\x80", b"\xf0\x9f", b"\x98", b"\xed", b"\xa0", b"a", b"\xff"])).map(
        b"".join
    ),
)


@settings(deadline=None, max_examples=1000)
@given(split_bytes(anything))
def test_any_split_of_any_bytes_gives_the_text(parts: list[bytes]) -> None:
    assert "".join(stream(parts)) == text_of(b"".join(parts))


@settings(deadline=None, max_examples=300)
@given(split_bytes(st.text().map(str.encode)))
def test_a_character_is_shown_with_its_last_byte(parts: list[bytes]) -> None:
    text, seen = TextStream(), b""
    shown = ""
    for part in parts:
        seen += part
        shown += text.push(part)
        assert shown == text_of(seen)
    assert text.end() == ""


def until_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Letter by letter: the first stop to be complete ends the text; the longest, where two end together."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def may_show(text: str, stops: Sequence[str]) -> str:
    """All but the longest end of `text` that begins a stop."""
    held = max((n for stop in stops for n in range(len(stop)) if n and text.endswith(stop[:n])), default=0)
    return text[: len(text) - held]


letters = st.text("ab가😀", max_size=14)
stop_strings = st.lists(st.text("ab가😀", min_size=1, max_size=5), max_size=4)


@settings(deadline=None, max_examples=2000)
@given(split_bytes(letters.map(str.encode)), stop_strings)
def test_stop_strings(parts: list[bytes], stops: list[str]) -> None:
    text, shown, seen = TextStream(tuple(stops)), "", b""
    for part in parts:
        seen += part
        shown += text.push(part)
        wanted, stopped = until_stop(text_of(seen), stops)
        assert text.stopped == stopped
        assert shown == (wanted if stopped else may_show(wanted, stops))
    shown += text.end()
    assert shown == until_stop(seen.decode(), stops)[0]
    assert text.end() == ""


def test_a_stop_over_token_borders_is_never_shown_in_part() -> None:
    text = TextStream(("\nUser:", "###"))
    assert [text.push(part) for part in (b"hi", b"\nUs", b"e", b"rs\n", b"#", b"#", b" ok\nUser", b": and more")] == [
        "hi", "", "", "\nUsers", "\n", "", "## ok", "",
    ]  # fmt: skip
    assert text.stopped
    assert text.push(b"more") == ""
    assert text.end() == ""


def test_what_could_have_been_a_stop_is_shown_at_the_end() -> None:
    text = TextStream(("END",))
    assert text.push("가 EN".encode() + "가".encode()[:2]) == "가 "
    assert text.end() == "EN"
    assert not text.stopped


def test_stops_of_one_text_do_not_depend_on_how_it_was_cut() -> None:
    for parts in ([b"xabc"], [b"xa", b"bc"], [b"xab", b"c"]):
        text = TextStream(("b", "abc"))
        assert "".join(text.push(part) for part in parts) == "xa"
        assert text.stopped
