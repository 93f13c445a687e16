"""Han and kana kept out, against a reading of the text itself; and when they are."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.guard import RANGES, Guard, holds, wanted
from engine.inputs import Turn
from engine.llama import Model

FORBIDDEN = [range(low, high + 1) for low, high in RANGES]
BYTES = [bytes([byte]) for byte in range(256)]
ALONE = Guard(BYTES)  # every token is a byte


def written_here(text: str) -> bool:
    return any(ord(char) in part for char in text for part in FORBIDDEN)


def doomed(data: bytes) -> bool:
    """Whether `data` ends in the beginning of a character, and every such character is forbidden."""
    for count in (1, 2, 3):
        begun = data[-count:]
        ends = CHARACTERS.get(begun) if len(begun) == count else None
        if ends is not None:
            return ends == {True}
    return False


def _characters() -> dict[bytes, set[bool]]:
    """Return the proper beginnings of all characters → whether those that begin so are forbidden."""
    found: dict[bytes, set[bool]] = {}
    for point in range(0x80, 0x110000):
        if not 0xD800 <= point < 0xE000:
            whole = chr(point).encode()
            bad = any(point in part for part in FORBIDDEN) if point >= RANGES[0][0] else False
            for length in range(1, len(whole)):
                found.setdefault(whole[:length], set()).add(bad)
    return found


CHARACTERS = _characters()


def refused(data: bytes) -> bool:
    """What the guard is for: the text holds a forbidden character, or can only go on to one."""
    return written_here(data.decode("utf-8", "replace")) or doomed(data)


def choose(pieces: list[bytes], guard: Guard, tokens: list[int]) -> None:
    """Follow `tokens` through the guard as long as it lets them; each verdict must be the text's."""
    text, pending = b"", b""
    for token in tokens:
        verdict = token in set(guard.forbidden(pending).tolist())
        assert verdict == refused(text + pieces[token]), (text[-8:], pieces[token])
        if not verdict:
            text += pieces[token]
            pending = guard.pending(pending, pieces[token])


def test_names_of_what_is_forbidden_and_of_what_is_not() -> None:
    scripts = ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA", "KATAKANA LETTER", "BOPOMOFO", "CJK RADICAL")
    for point in range(0x2000, 0x32000):
        name = unicodedata.name(chr(point), "")
        if name.startswith(scripts):
            assert written_here(chr(point)), name
        elif name.startswith(
            ("HANGUL", "FULLWIDTH", "EMOJI", "IDEOGRAPHIC COMMA", "CIRCLED HANGUL", "PARENTHESIZED H")
        ):
            assert not written_here(chr(point)), name


def test_every_character_byte_by_byte() -> None:
    """A character passes if and only if it is allowed, and a forbidden one is stopped as soon as it is certain."""
    for point in (*range(0x80, 0x3200), *range(0x3200, 0x10000, 7), *range(0x10000, 0x40000, 97)):
        if 0xD800 <= point < 0xE000:
            continue
        whole, pending = chr(point).encode(), b""
        for length in range(1, len(whole) + 1):
            stopped = whole[length - 1] in ALONE.forbidden(pending)
            assert stopped == refused(whole[:length]), hex(point)
            if stopped:
                break
            pending = ALONE.pending(pending, BYTES[whole[length - 1]])
        assert stopped == written_here(chr(point)), hex(point)


@given(
    st.lists(
        st.sampled_from([*b"\xe2\xe3\xe4\xe5\xe9\xea\xed\xef\xf0\xf3\x80\x81\x84\x86\xa0\xb7\xb8\xbd\xbf\x9f\x9b a"]),
        max_size=24,
    )
)
def test_any_bytes_in_any_order(data: list[int]) -> None:
    choose(BYTES, ALONE, data)


korean = "안녕하세요 ㅋㅋㅎㅎ ㅠㅠ 「따옴표」、。 ㈜ ① 100％ 😀👍🏽 ~♥ ……"
mixed = st.text(
    st.sampled_from(korean + "中文字漢字体你好ひらがなカタカナー々〆ㄅㄆ豈ﾊﾝ𠀀𛀀⺀䷀䶿一")
    | st.characters(codec="utf-8")
)


@given(mixed, st.data())
def test_any_text_cut_anywhere(text: str, data: st.DataObject) -> None:
    whole = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=8)) | {0, len(whole)})
    pieces = [whole[a:b] for a, b in pairwise(cuts)]
    choose(pieces, Guard(pieces), list(range(len(pieces))))
    assert holds(text) == written_here(text)


@pytest.fixture(scope="module", params=["starter", "qwen2", "gemma-4"])
def pieces(request: pytest.FixtureRequest, starter: Model, vocab_folder: Path) -> Iterator[list[bytes]]:
    if request.param == "starter":
        yield starter.vocabulary.pieces
        return
    model = Model(vocab_folder / f"ggml-vocab-{request.param}.gguf", vocab_only=True)
    yield model.vocabulary.pieces
    model.close()


def test_what_a_whole_vocabulary_may_say(pieces: list[bytes]) -> None:
    guard = Guard(pieces)
    others = random.Random(1).sample(range(len(pieces)), 5_000)
    telling = {token for token, piece in enumerate(pieces) if piece and not piece.isascii()}.intersection(others)
    telling |= {token for token, piece in enumerate(pieces) if 0x80 <= piece[:1].ljust(1)[0] < 0xC0}
    for pending in (b"", b"\xe3", b"\xe3\x84", b"\xe2", b"\xef\xbd", b"\xf0", b"\xf0\x9f", b"\xf0\x9b\x85"):
        forbidden = guard.forbidden(pending)
        found = {token for token in telling.union(others) if refused(pending + pieces[token])}
        assert found == telling.union(others).intersection(forbidden.tolist())
        assert guard.forbidden(pending) is forbidden, "made once"


def test_random_tokens_of_a_vocabulary(pieces: list[bytes]) -> None:
    guard, rng = Guard(pieces), random.Random(1)
    odd = [token for token, piece in enumerate(pieces) if any(byte >= 0x80 for byte in piece)]
    split = [token for token in odd if not pieces[token][-1:].isascii()]
    choose(pieces, guard, [rng.choice(rng.choice((odd, split))) for _ in range(300)])


def test_korean_is_let_through_in_any_vocabulary(pieces: list[bytes]) -> None:
    guard = Guard(pieces)
    of = {piece[0]: token for token, piece in reversed(list(enumerate(pieces))) if len(piece) == 1}
    pending = b""
    for byte in korean.encode():
        if byte in of:
            assert of[byte] not in guard.forbidden(pending)
            pending = guard.pending(pending, pieces[of[byte]])
    assert pending == b""


# ---- when


def said(*contents: str, role: str = "user") -> tuple[Turn, ...]:
    return tuple(Turn(role, content) for content in contents)


@pytest.mark.parametrize(
    "text",
    [
        "오늘 뭐 먹지?", "ㅋㅋ 그래", "내일 일어나면 전화해", "여기 한자리 비었어요?", "집중문제 풀자", "간단한문제야", "지금 어디 가나요?",
        "인간체 같아", "Python이 뭐야?", "가나 초콜릿 맛있지", "한문단만 써줘", "갑자기 일어난 일이야",
    ],
)  # fmt: skip
def test_it_is_wanted_in_korean(text: str) -> None:
    assert wanted(said(text))
    assert wanted((*said("You are helpful.", role="system"), *said("Hi"), *said("你好", role="assistant"), *said(text)))


@pytest.mark.parametrize(
    "text",
    [
        "What shall I eat?", "大韓民國은 무슨 뜻이야?", "이름을 한자로 써줘", "중국어로 번역해줘", "일본어 인사말 알려줘", "일어로 뭐라고 해?",
        "Chinese로 말해줘", "일본말로", "すし 먹고 싶어", "간체로 써줘", "사자성어 하나", "kanji 뜻", "히라가나 표", "가타카나로", "가나로 적어줘",
        "번체 변환", "병음도 써줘", "중문으로", "한문 해석", "3박4일 中 여행",
    ],
)  # fmt: skip
def test_it_is_not_where_someone_uses_or_asks_for_them(text: str) -> None:
    assert not wanted(said(text))


def test_what_was_asked_before_still_counts() -> None:
    assert not wanted((*said("이제부터 일본어로 대답해"), *said("네", role="assistant"), *said("오늘 뭐 먹지?")))
    assert not wanted((*said("너는 한자 선생님이다", role="system"), *said("안녕")))
    assert not wanted((*said("안녕"), *said("Thanks!")))
    assert not wanted(said("안녕", role="system"))


def test_a_schema_that_holds_them_wants_them() -> None:
    plain = {"type": "object", "properties": {"이름": {"type": "string"}}}
    assert wanted(said("안녕"), plain)
    assert not wanted(said("안녕"), {"enum": ["日", "月"]})
    assert not wanted(said("안녕"), {"type": "object", "properties": {"かな": {}}})
