"""What of a message its author says in their own voice: not what is quoted, pasted, or forged to look like another's.

Everything else is blotted out letter by letter, so that places in the result are places in the message. Where it
cannot be told whose words they are, they count as another's: so does a line with hidden characters inside a word.
What a request points at (번역해 줘: …) is found in `pasted`.
"""

from __future__ import annotations

import re

from engine.korean.pasted import pasted

BLOT = "\ufffc"  # no letter, no white space, ends no sentence
_WIDER = ord("！") - ord("!")
_LINES = re.IGNORECASE | re.MULTILINE
_CLOSING = {"“": "”", "„": "”", "‘": "’", "「": "」", "『": "』", "《": "》", "〈": "〉", "«": "»"}
_SAME = "\"'`"  # marks that open and close
_FIELD = (
    r"[ \t]*+[-*•·]?[ \t]*+(?:내\s|제\s)?(?:이름|성함|주소|사는\s?곳|거주지|생일|생년월일|나이|성별|직업|직장|"
    r"전화(?:번호)?|번호|"
    r"키|몸무게|혈액형|MBTI|"
    r"취미|고향|학교|회사|전공|알레르기|알러지|이?메일|가족|종교|좋아하는\s(?:것|거|음식)|싫어하는\s(?:것|거|"
    r"음식))[ \t]?:[^\n]+"
)
_OWN_HEAD = r"(?:내|제|나의|저의)\s?(?:기본\s?)?(?:정보|프로필|소개|신상)(?:야|예요|이에요|입니다)?[ \t]*+[:.]?"
_OWN_FIELD = re.compile(rf"\s*+{_FIELD}\s*", re.IGNORECASE)  # alone in a message
_OWN_FORM = re.compile(rf"\s*+{_OWN_HEAD}\s*+(?:\n{_FIELD}|{_FIELD})(?:\n+{_FIELD})*\s*", re.IGNORECASE)
OWN_HEAD = re.compile(_OWN_HEAD, re.IGNORECASE)
_OF_OTHERS = (
    re.compile(r"(```|~~~|\"\"\"|''').*?(?:\1|\Z)", re.DOTALL),
    re.compile(r"^[ \t]*([-=*_])\1{2,}[ \t]*$.*?(?:^[ \t]*\1{3,}[ \t]*$|\Z)", re.DOTALL | re.MULTILINE),
    re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL),
    re.compile(r"^[ \t]*[>|│].*$", re.MULTILINE),  # cited, or of a table
    # what stands here and below is another's: heads of mails, of articles and of turns, and control tokens
    re.compile(
        r"^[ \t]*+(?:[\[(【<]?[ \t]*+(?:\d{1,4}[ \t]*+[\])】>.]?[ \t]*+)?"
        r"(?:from|to|cc|bcc|subject|sent|re|fwd?|user|assistant|system|human|ai|bot|tool|developer|제목|"
        r"보낸\s?(?:사람|이)|"
        r"받는\s?(?:사람|이)|발신(?:자|인)?|수신(?:자|인)?|참조|작성자|글쓴이|작성일|사용자|어시스턴트|비서|시스템|"
        r"도우미|챗봇)"
        r"[ \t]*+[\])】]?[ \t]*+[:>]"
        r"|[\[【][^\]】\n]{1,40}[\]】]"
        r"|[^\n]*(?:<\|[^|\n]{1,40}\|>|<</?SYS>>|\[/?INST\]|<(?:start|end)_of_turn>|</?s>|"
        r"(?<!#)#{2,}+[ \t]*+\w++[ \t]*+:)).*\Z",
        _LINES | re.DOTALL,
    ),
    re.compile(r"^[ \t]*\d{4}[-./]\d\d?[-./]\d\d?[ T]\d\d?:\d\d.*$", re.MULTILINE),  # of a log
    re.compile(r"^.*(?:[{\[]\s*\"[^\"\n]*\"\s*[:,\]]|\"\w+\"\s*:|;\s*$|</?[a-z]\w{0,20}[^<>\n]{0,200}>).*$", _LINES),
    re.compile(
        r"^.*\b(?:INSERT INTO|SELECT .{1,200} FROM|UPDATE .{1,200} SET|def \w+\(|import \w+$|console\.log|print\().*$",
        re.MULTILINE,
    ),
    re.compile(  # a form, a script: 직업: 판사
        r"^[ \t]*+[-*•·]?[ \t]*+(?![^\n:]*(?:(?:기억|메모|기록|저장)\s?(?:좀\s?)?해|적어|메모|참고|추가|note|remember))"
        r"[^\n:.,?!]{1,24}:(?!\d|//)[ \t]*+\S.*$",
        _LINES,
    ),
    re.compile(  # an order to whoever reads it
        r"^.*(?:(?:이전|앞선|위의?|기존|모든)\s?(?:지시|명령|규칙|프롬프트|지침)|시스템\s?(?:프롬프트|메시지|명령|"
        r"알림)|장기\s?기억|"
        r"기억하(?:라|십시오)|저장하(?:라|시오|십시오)|기록하(?:라|시오|십시오)|간주하(?:라|시오|십시오)|"
        r"\b(?:ignore|disregard)\s(?:all|any|previous|"
        r"the|prior|your)\b|\boverride\b|\bsystem prompt\b|long-term memory).*$",
        _LINES,
    ),
)
_HIDDEN = re.compile(
    "[\u00ad\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f\x01-\x08\x0e-\x1f]"
    r"|(?<=\w)\u200d|\u200d(?=\w)"
)  # a joiner between two pictures is no trick
_THIN = "\u200b\u200c\u2060\ufeff"  # no width; beside a blank it hides nothing
_EDGE = re.compile(rf"(?:(?<=\s)|^)[{_THIN}]++|(?<![{_THIN}])[{_THIN}]++(?=\s|$)", re.MULTILINE)
_GREETED = re.compile(r"^[ \t]*(?:안녕하(?:세요|십니까)|(?:hi|hello|dear)\b[^\n]{0,30},[ \t]*$)", _LINES)
_SIGNED = re.compile(
    r"^[ \t]*(?:[가-힣]{2,4}(?:\s[가-힣]{1,4})?\s?(?:드림|올림|배상)|(?:(?:best|kind|warm)\s?)?(?:regards|wishes)|best|"
    r"sincerely|cheers|yours\s\w+)[ \t]*[.,]?[ \t]*$",
    _LINES,
)


def own_words(text: str) -> str:
    """Return `text` with all that is not in its author's own voice blotted out; length and places stay.

    Latin letters and marks of full width come in their usual one.
    """
    masked = _EDGE.sub(lambda match: " " * len(match[0]), "".join(map(_usual, text)))
    if not (_OWN_FIELD.fullmatch(masked) or is_own_form(masked)):
        for pattern in _OF_OTHERS:
            masked = pattern.sub(lambda match: _blot(match[0]), masked)
    masked = _without_letters(_without_quotes(masked))
    for begin, stop in pasted(masked, BLOT):
        masked = masked[:begin] + _blot(masked[begin:stop]) + masked[stop:]
    return "\n".join(_blot(line) if _HIDDEN.search(line) else line for line in masked.split("\n"))


def is_own_form(text: str) -> bool:
    """Return whether a message is a form that its author says is theirs: 내 정보, and below it 이름: … and so on."""
    return bool(_OWN_FORM.fullmatch(text))


def _without_letters(text: str) -> str:
    """Blot out a letter: what is signed, from its greeting on."""
    signed = _SIGNED.search(text)
    if signed is None or "\n" not in text[: signed.start()].strip():
        return text
    greeted = _GREETED.search(text, 0, signed.start())
    begin = greeted.start() if greeted else 0
    return text[:begin] + _blot(text[begin : signed.end()]) + text[signed.end() :]


def _usual(char: str) -> str:
    return chr(ord(char) - _WIDER) if "！" <= char <= "～" else char


def _blot(text: str) -> str:
    return "".join(char if char.isspace() else BLOT for char in text)


def _without_quotes(text: str) -> str:
    parts, at = [], 0
    while at < len(text):
        stop = _quoted_to(text, at)
        parts.append(_blot(text[at:stop]) if stop > at else text[at])
        at = max(stop, at + 1)
    return "".join(parts)


def _quoted_to(text: str, at: int) -> int:
    """Return where the quotation that opens at `at` ends, or `at`; without an end it goes to that of the text."""
    mark, before, after = text[at], text[at - 1 : at] if at else "", text[at + 1 : at + 2]
    if mark in _SAME and not (before.isalnum() or not after or after.isspace()):  # not I'm, nor 27"
        end = text.find(mark, at + 1)
        while mark == "'" and end >= 0 and _is_apostrophe(text, end):
            end = text.find(mark, end + 1)
    elif mark in _CLOSING:
        end = text.find(_CLOSING[mark], at + 1)
    else:
        return at
    return end + 1 if end >= 0 else at if mark in "'`" else len(text)


def _is_apostrophe(text: str, at: int) -> bool:
    around = text[at - 1 : at], text[at + 1 : at + 2]
    return all(char.isascii() and char.isalpha() for char in around)
