"""Where sentences begin and end, by rule."""

from __future__ import annotations

import re

# A run of enders, with the quotes and brackets that close on it, ends a sentence where white space or Hangul
# follows, or where the text ends; so 3.14, 2026.3.5, e.g. file.txt stay whole. A run is read once, neither from its
# middle nor back again: a text of enders alone would take hours.
_END = re.compile(r"""(?<![.!?。…‥?!])[.!?。…‥?!]++[)\]}"'”’」』]*+(?=\s|$|[가-힣「『“‘])|[。]|\n""")
_NUMBERED = re.compile(r"(?:^|\s|[(])\d{1,4}(?:\.\s?\d{1,2})*\.$")


def sentences(text: str) -> list[tuple[int, int]]:
    """Return the (begin, stop) of each sentence, in order and without surrounding white space.

    A sentence ends at a run of `. ? ! 。 …` or at a newline. A full stop after a number and before another
    one (2026. 3. 5.), or one that numbers a line (1. 우유), does not end it. Every character but white space
    is in exactly one sentence.
    """
    spans, begin = [], 0
    for match in _END.finditer(text):
        if match[0] == "." and _goes_on(text, begin, match.end()):
            continue
        spans.append(_trimmed(text, begin, match.end()))
        begin = match.end()
    spans.append(_trimmed(text, begin, len(text)))
    return [span for span in spans if span[0] < span[1]]


def _goes_on(text: str, begin: int, stop: int) -> bool:
    written = text[max(begin, stop - 16) : stop]
    if not _NUMBERED.search(written):
        return False
    numbers_a_line = written.lstrip()[:-1].isdecimal() and not text[begin : stop - len(written)].strip()
    following = text[stop : stop + 4].lstrip(" ")
    return numbers_a_line or following[:1].isdecimal()


def _trimmed(text: str, begin: int, stop: int) -> tuple[int, int]:
    inside = text[begin:stop]
    return begin + len(inside) - len(inside.lstrip()), stop - len(inside) + len(inside.rstrip())
