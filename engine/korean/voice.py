"""What of a message its author says in their own voice: not what is quoted, pasted, or forged to look like another's.

Everything else is blotted out letter by letter, so that places in the result are places in the message. Where it
cannot be told whose words they are, they count as another's.
"""

from __future__ import annotations

import re

from engine.korean.questions import asks, asks_for_action
from engine.korean.recall import tells_to_remember
from engine.korean.sentences import sentences

BLOT = "\ufffc"  # no letter, no white space, ends no sentence
_MOOD = 300  # letters at the end of a sentence, where Korean shows what it wants
_WIDER = ord("！") - ord("!")
_LINES = re.IGNORECASE | re.MULTILINE
_CLOSING = {"“": "”", "„": "”", "‘": "’", "「": "」", "『": "』", "《": "》", "〈": "〉", "«": "»"}
_SAME = "\"'`"  # marks that open and close
_OWN_FIELD = re.compile(  # alone in a message
    r"\s*(?:내\s|제\s)?(?:이름|주소|생일|나이|직업|전화(?:번호)?|번호|키|몸무게|혈액형|MBTI|취미|고향|학교|회사|"
    r"알레르기|이?메일)\s?:[^\n]+",
    re.IGNORECASE,
)
_OF_OTHERS = (
    re.compile(r"(```|~~~|\"\"\"|''').*?(?:\1|\Z)", re.DOTALL),
    re.compile(r"^[ \t]*([-=*_])\1{2,}[ \t]*$.*?(?:^[ \t]*\1{3,}[ \t]*$|\Z)", re.DOTALL | re.MULTILINE),
    re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL),
    re.compile(r"^[ \t]*[>|│].*$", re.MULTILINE),  # cited, or of a table
    # what stands here and below is another's: heads of mails, of articles and of turns, and control tokens
    re.compile(
        r"^[ \t]*(?:[\[(【<]?[ \t]*(?:\d{1,4}[ \t]*[\])】>.]?[ \t]*)?"
        r"(?:from|to|cc|bcc|subject|sent|re|fwd?|user|assistant|system|human|ai|bot|tool|developer|제목|"
        r"보낸\s?(?:사람|이)|"
        r"받는\s?(?:사람|이)|발신(?:자|인)?|수신(?:자|인)?|참조|작성자|글쓴이|작성일|사용자|어시스턴트|비서|시스템|"
        r"도우미|챗봇)"
        r"[ \t]*[\])】]?[ \t]*[:>]"
        r"|[\[【][^\]】\n]{1,40}[\]】]"
        r"|[^\n]*(?:<\|[^|\n]{1,40}\|>|<</?SYS>>|\[/?INST\]|<(?:start|end)_of_turn>|</?s>|#{2,}[ \t]*\w+[ \t]*:)).*\Z",
        _LINES | re.DOTALL,
    ),
    re.compile(r"^[ \t]*\d{4}[-./]\d\d?[-./]\d\d?[ T]\d\d?:\d\d.*$", re.MULTILINE),  # of a log
    re.compile(r"^.*(?:[{\[]\s*\"[^\"\n]*\"\s*[:,\]]|\"\w+\"\s*:|;\s*$|</?[a-z]\w{0,20}[^<>\n]{0,200}>).*$", _LINES),
    re.compile(
        r"^.*\b(?:INSERT INTO|SELECT .{1,200} FROM|UPDATE .{1,200} SET|def \w+\(|import \w+$|console\.log|print\().*$",
        re.MULTILINE,
    ),
    re.compile(  # a form, a script: 직업: 판사
        r"^[ \t]*[-*•·]?[ \t]*(?![^\n:]*(?:(?:기억|메모|기록|저장)\s?(?:좀\s?)?해|적어|메모|참고|추가|note|remember))"
        r"[^\n:.,?!]{1,24}:(?!\d|//).*$",
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
_TEXT = (
    r"(?:(?:글|(?:이?메|전자\s?우)일|메일|편지|문자|메시지|문장|문단|단락|구절|지문|본문|원문|원고|기사|뉴스|텍스트|"
    r"리뷰|후기|대화|대본|소설|시|"
    r"가사|노래|로그|코드|보고서|논문|초록|계약서|공지|안내문|자기\s?소개서?|자소서|이력서|프로필|게시글|댓글|답글|"
    r"답변|블로그|일기|발표문|연설문|"
    r"카톡|내용|오류|에러|문서|회의록|트윗|포스트|광고|대사|사연|인터뷰|표현|"
    r"말)(?=[을를은는이가의에도만로야임,.?!:\s]|인데|입니|예요|에요|으로|$)"
    r"|(?:post|e-?mail|text|article|message|passage|paragraph|sentence|letter|review|essay|log|code|story|note)s?\b)"
)
_FORWARD = re.compile(
    rf"(?:다음|아래|밑)(?:에|의)?\s?(?:있는\s)?(?:\S+\s)?{_TEXT}|(?:다음|아래)(?:을|를|\s것|\s중|\s보기)|"
    rf"\bthe following\b|\bbelow\b",
    re.IGNORECASE,
)
_THIS = re.compile(
    rf"(?:^|\s)(?:이|요|이런|여기|첨부(?:한|된)?|붙인)\s?(?:\S{{1,8}}\s)?{_TEXT}|(?:^|\s)이거\s|"
    rf"\bthis\b.{{0,20}}{_TEXT}",
    re.IGNORECASE,
)
_BACKWARD = re.compile(
    rf"(?:위|앞|방금|이상)(?:에|의)?\s?(?:있는\s|쓴\s)?(?:\S+\s)?{_TEXT}|(?:^|\s)위(?:를|에)?\s|\b(?:the )?above\b",
    re.IGNORECASE,
)
_TREATED = re.compile(
    r"번역|영역|영작|요약|교정|첨삭|다듬|고쳐|바꿔|바꾸어|검토|윤문|맞춤법|문법|띄어쓰기|분석|해석|풀이|옮겨|정리|"
    r"찾아|골라|세어|추출|분류|평가|채점|"
    r"피드백|답장|답글|댓글|읽고|읽어|봐\s?(?:줘|주)|이어서?\s?써|이어\s?줘|\b(?:translat|summar|proofread|rewrit|"
    r"rephras|correct|fix|edit|explain|"
    r"analy[sz]e|extract|count|polish|reply)",
    re.IGNORECASE,
)
_SHOWN = re.compile(rf"{_TEXT}(?:이야|야|이에요|예요|에요|입니다|임|이거든|인데)(?=[\s.,:!]|$)", re.IGNORECASE)


def own_words(text: str) -> str:
    """Return `text` with all that is not in its author's own voice blotted out; length and places stay.

    Latin letters and marks of full width come in their usual one.
    """
    masked = "".join(map(_usual, text))
    if not _OWN_FIELD.fullmatch(masked):
        for pattern in _OF_OTHERS:
            masked = pattern.sub(lambda match: _blot(match[0]), masked)
    masked = _without_pasted(_without_quotes(masked))
    return "\n".join(_blot(line) if _HIDDEN.search(line) else line for line in masked.split("\n"))


def treats_a_text(sentence: str) -> bool:
    """Return whether a sentence wants something done with a text (번역, 요약, 교정 …)."""
    return bool(_TREATED.search(sentence)) and _wants(sentence)


def shows_a_text(sentence: str) -> bool:
    """Return whether a sentence says what a text is (친구가 쓴 글이야), which is to be read with it."""
    return bool(_SHOWN.search(sentence))


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


def _wants(sentence: str) -> bool:
    end = sentence[-_MOOD:]
    return asks(end) or asks_for_action(end)


def _without_pasted(text: str) -> str:
    """Blot out what a sentence that wants something done with a text points to."""
    for begin, stop in sentences(text):
        sentence = text[begin:stop]
        if tells_to_remember(sentence):
            continue
        if _points_back(text, begin, stop):
            text = _blot(text[:begin]) + text[begin:]
        elif after := _points_to(text, begin, stop):
            return text[:after] + _blot(text[after:])
    return text


def _points_back(text: str, begin: int, stop: int) -> bool:
    sentence = text[begin:stop]
    if not treats_a_text(sentence):
        return False
    alone = not text[stop:].strip() and BLOT not in text
    return bool(_BACKWARD.search(sentence) or (alone and _THIS.search(sentence)))


def _points_to(text: str, begin: int, stop: int) -> int:
    """Return where the text begins that the sentence `begin:stop` points to; 0 if it points to none."""
    sentence = text[begin:stop]
    colon = re.search(r":(?!\d|//)", sentence)
    head = sentence[: colon.start()] if colon else sentence
    line = max(0, text.find("\n", stop))
    forward, treated = bool(_FORWARD.search(sentence)), treats_a_text(head)
    if forward or treated:
        if colon:
            return begin + colon.end()
        return stop if forward or _THIS.search(sentence) else line
    return line if shows_a_text(sentence) or (_THIS.search(sentence) and _wants(sentence)) else 0
