"""Korean number words: Sino (이십삼), native (두, 열한), vague pairs (두세, 이삼) and counted days (사흘).

Every number is read as a pair (low, high); a plain number has both ends equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SINO = {"일": 1, "이": 2, "삼": 3, "사": 4, "오": 5, "육": 6, "륙": 6, "칠": 7, "팔": 8, "구": 9, "유": 6}
_PLACES = {"천": 1000, "백": 100, "십": 10, "시": 10}
_NATIVE_ONES = {
    "한": 1,
    "두": 2,
    "세": 3,
    "석": 3,
    "네": 4,
    "넉": 4,
    "다섯": 5,
    "여섯": 6,
    "일곱": 7,
    "여덟": 8,
    "아홉": 9,
}
_NATIVE_TENS = {"열": 10, "스무": 20, "스물": 20, "서른": 30}
_VAGUE = {
    "한두": (1, 2), "두어": (2, 3), "두세": (2, 3), "두서너": (2, 4), "서너": (3, 4), "너댓": (4, 5), "네댓": (4, 5),
    "네다섯": (4, 5), "대여섯": (5, 6), "예닐곱": (6, 7), "일이": (1, 2), "이삼": (2, 3), "삼사": (3, 4),
    "사오": (4, 5), "오륙": (5, 6), "육칠": (6, 7), "칠팔": (7, 8), "팔구": (8, 9),
}  # fmt: skip
COUNTED_DAYS = {
    "하루": (1, 1), "이틀": (2, 2), "사흘": (3, 3), "나흘": (4, 4), "닷새": (5, 5), "엿새": (6, 6),
    "이레": (7, 7), "여드레": (8, 8), "아흐레": (9, 9), "열흘": (10, 10), "열하루": (11, 11),
    "열이틀": (12, 12), "열사흘": (13, 13), "열나흘": (14, 14), "보름": (15, 15), "스무날": (20, 20),
    "스무 날": (20, 20),
    "하루이틀": (1, 2), "이삼일": (2, 3), "사나흘": (3, 4), "네댓새": (4, 5), "대엿새": (5, 6),
}  # fmt: skip


def one_of(words: Iterable[str]) -> str:
    """Return a regular expression for any of `words`, longest first."""
    return "(?:" + "|".join(sorted(map(re.escape, words), key=len, reverse=True)) + ")"


_2_TO_9 = "[이삼사오육칠팔구]"
_DIGITS = "일이삼사오육칠팔구십백천"
SINO = f"(?:(?=[{_DIGITS}])(?:{_2_TO_9}?천)?(?:{_2_TO_9}?백)?(?:{_2_TO_9}?십)?(?:일|{_2_TO_9})?(?<=[{_DIGITS}]))"
_ONES = one_of(_NATIVE_ONES)
NATIVE = f"(?:(?:열|스물|서른){_ONES}|열|스무|서른|{_ONES})"
DIGITS = r"\d{1,4}"
COUNT = rf"(?:{DIGITS}(?:[ ]?[~∼-][ ]?{DIGITS}|,[ ]?\d)?|{one_of(_VAGUE)}|{NATIVE}|{SINO})"
DAYS = one_of(COUNTED_DAYS)


def read_sino(word: str) -> int:
    """Return the value of digits or of a Sino-Korean numeral below 10,000; 유(월) and 시(월) are 6 and 10."""
    if word.isdecimal():
        return int(word)
    total, digit = 0, 0
    for char in word:
        if char in _PLACES:
            total, digit = total + max(digit, 1) * _PLACES[char], 0
        else:
            digit = _SINO[char]
    return total + digit


def read_count(word: str) -> tuple[int, int]:
    """Return (low, high) of a counting expression that `COUNT` or `DAYS` matched."""
    known = COUNTED_DAYS.get(word) or _VAGUE.get(word)
    if known:
        return known
    ends = re.findall(r"\d+", word)
    if ends:
        return int(ends[0]), int(ends[-1])
    value = _read_native(word) or read_sino(word)
    return value, value


def _read_native(word: str) -> int:
    for tens, value in _NATIVE_TENS.items():
        if word.startswith(tens):
            return value + _NATIVE_ONES.get(word[len(tens) :], 0)
    return _NATIVE_ONES.get(word, 0)
