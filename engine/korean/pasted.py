"""Which part of a message a request in it points at: 요약해 줘: …, 친구가 쓴 글이야, … 영어로. It is not its author's.

Where a request could as well point at words of the author's own, they count as pasted: a memory that is missed does
less harm than one that is wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.korean.questions import asks, asks_for_action
from engine.korean.recall import tells_to_remember
from engine.korean.sentences import sentences

_MOOD = 300  # letters at the end of a sentence, where Korean shows what it wants
_TEXT = (
    r"(?:(?:(?:(?<![가-힣])|(?<=[이위앞]))(?:글|시|말)|(?:이?메|전자\s?우)일|메일|편지|문자|메시지|문장|문단|단락|"
    r"구절|지문|본문|원문|원고|기사|뉴스|텍스트|"
    r"리뷰|후기|대화|대본|소설|"
    r"가사|노래|로그|코드|보고서|논문|초록|계약서|공지|안내문|자기\s?소개서?|자소서|이력서|프로필|게시글|댓글|답글|"
    r"답변|블로그|일기|발표문|연설문|"
    r"카톡|내용|오류|에러|문서|회의록|트윗|포스트|광고|대사|사연|인터뷰|표현)"
    r"(?=[을를은는이가의에도만로야임,.?!:\s]|인데|입니|예요|에요|으로|$)"
    r"|(?:post|e-?mail|text|article|message|passage|paragraph|sentence|letter|review|essay|log|code|story|note)s?\b)"
)
_WRITTEN = (
    r"(?:글|이?메일|메일|편지|문자|메시지|문장|문단|지문|리뷰|후기|카톡|댓글|답변|답글|가사|대사|자소서|이력서|표현)"
)
_FORWARD = re.compile(
    rf"(?:다음|아래|밑)(?:에|의)?\s?(?:있는\s)?(?:\S+\s)?{_TEXT}|(?:다음|아래)(?:을|를|\s것|\s중|\s보기)|"
    rf"\bthe following\b|\bbelow\b|(?:내용|{_WRITTEN})(?:은|는|이|가)?\s이(?:래|렇|러)",
    re.IGNORECASE,
)
_THIS = re.compile(
    rf"(?:^|\s)(?:이|요|이런|여기|첨부(?:한|된)?|붙인)\s?(?:\S{{1,8}}\s)?{_TEXT}|(?:^|\s)이거\s|"
    rf"\bthis\b.{{0,20}}{_TEXT}",
    re.IGNORECASE,
)
_THIS_WRITTEN = re.compile(rf"(?:^|\s)(?:이|요|이런|여기)\s(?:\S{{1,8}}\s)?{_WRITTEN}")  # not 이 노래
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
# what makes one text out of another: 점심 메뉴 골라 줘 does not
_TRANSFORMED = re.compile(
    r"번역|영역|영작|요약|교정|첨삭|다듬|윤문|맞춤법|띄어쓰기|이어서?\s?써|\b(?:translat|summar|proofread|rephras)",
    re.IGNORECASE,
)
_TONGUE = (
    r"(?:영어|일본어|일어|한국어|한글|중국어|프랑스어|불어|독일어|스페인어|존댓말|반말|표준어|영문|국문)로(?:는|도|만)?"
)
_TO_TONGUE = re.compile(
    rf"(?:{_TONGUE}|(?:다음|이거|이것|위)\S?\s{_TONGUE})\s?(?:요|좀|부탁\S*|뭐\S{{0,4}}|뭐라고\s?\S{{1,4}})?"
)
# nothing but what to do: the text stands beside it
_BARE = re.compile(
    rf"(?:(?:{_TONGUE}|이거|이것|좀|한번|다시|자연스럽게|공손하게|짧게)\s?)*+(?:번역|영역|영작|요약|교정|첨삭|윤문|"
    rf"맞춤법|띄어쓰기|답장|답변|답글|"
    rf"다듬)\S{{0,3}}(?:\s(?:\S{{0,3}}(?:봐|고쳐|써|쓰|작성|부탁|확인|해)\S{{0,4}}|좀|줘|주\S{{1,4}}))*+"
    rf"|(?:please\s)?(?:write\sa\s)?(?:reply|translate|summari[sz]e|proofread|rephrase)(?:\s(?:to|"
    rf"into)\s\w+)?(?:\splease)?",
    re.IGNORECASE,
)
_SHOWN = re.compile(
    rf"{_TEXT}(?:이야|야|이에요|예요|에요|입니다|임|이거든|인데)(?=[\s.,:!]|$)"
    rf"|(?:온|보낸|받은|쓴|올린)\s(?:{_WRITTEN}|쪽지|톡|DM)[\s.:!]*$"
    r"|(?:회의록|기사|메일|카톡|문자|대화|글|원문)\s?(?:공유|전문|복붙|캡처)[\s.:!]*$",
    re.IGNORECASE,
)
_SHOWN_THING = re.compile(  # 이거 후배가 쓴 건데
    r"(?:^|\s)(?:이거|이건|이게|이것|요거|요건)\S?\s.{0,30}(?:쓴|써\s?준|보낸|보내\s?준|온|올린|적은)\s?(?:거|건|"
    r"것|게|글)"
)
_ASKED_OF = re.compile(rf"{_WRITTEN}\S?\s(?:\S+\s)?(?:뜻|의미|해석|어때|어떤|평가|맞|어색|자연스)")


@dataclass(frozen=True, slots=True)
class _Message:
    text: str
    begin: int  # of its first word
    stop: int  # of its last
    plain: bool  # nothing of it is known to be another's
    lined: int  # where its last line begins, or -1


def treats_a_text(sentence: str) -> bool:
    """Return whether a sentence wants something done with a text (번역, 요약, 교정 …)."""
    return bool(_TREATED.search(sentence) and _wants(sentence)) or _is_bare(sentence)


def shows_a_text(sentence: str) -> bool:
    """Return whether a sentence says what a text is (친구가 쓴 글이야), which is to be read with it."""
    return bool(_SHOWN.search(sentence) or _SHOWN_THING.search(sentence))


def points_to_last_turn(own: str) -> bool:
    """Return whether a message is only a request for a text, or says what one is, that stands in a turn before it."""
    spans = sentences(own)
    if not 1 <= len(spans) <= 2:
        return False
    first = own[slice(*spans[0])]
    return _is_bare(first) or shows_a_text(first) or bool(_BACKWARD.search(first) and treats_a_text(first))


def pasted(text: str, blot: str) -> list[tuple[int, int]]:
    """Return where sentences that want something done with a text point to; `blot` marks what is known as another's."""
    begin = len(text) - len(text.lstrip())
    message = _Message(text, begin, len(text.rstrip()), blot not in text, text.rfind("\n"))
    before = 0
    for begin, stop in sentences(text):
        back = _points_back(message, begin, stop)
        after = 0 if back else _points_to(message, begin, stop)
        if not (back or after) or tells_to_remember(text[begin:stop]):
            continue
        if after:
            return [(0, before), (after, len(text))]
        before = begin
    return [(0, before)]


def _wants(sentence: str) -> bool:
    end = sentence[-_MOOD:]
    return asks(end) or asks_for_action(end)


def _is_bare(sentence: str) -> bool:
    words = sentence[-_MOOD:].strip(" \t.?!~:ㅋㅎㅠ")
    return bool(_BARE.fullmatch(words) or _TO_TONGUE.fullmatch(words))


def _points_back(message: _Message, begin: int, stop: int) -> bool:
    sentence = message.text[begin:stop]
    last, first = stop >= message.stop, begin <= message.begin
    if first:
        return False
    if _is_bare(sentence) or _SHOWN_THING.search(sentence):
        return last
    if not treats_a_text(sentence):
        return False
    return bool(_BACKWARD.search(sentence) or (last and message.plain and _THIS.search(sentence)))


def _points_to(message: _Message, begin: int, stop: int) -> int:
    """Return where the text begins that the sentence `begin:stop` points to; 0 if it points to none."""
    sentence = message.text[begin:stop]
    colon = re.search(r":(?!\d|//)", sentence)
    head = sentence[: colon.start()] if colon else sentence
    forward, treated = bool(_FORWARD.search(sentence)), treats_a_text(head)
    if colon and (forward or treated):
        return begin + colon.end()
    if forward or (treated and _THIS.search(sentence)):
        return stop
    asked_of = _THIS.search(sentence) or _ASKED_OF.search(sentence)
    wanted = treated or (bool(asked_of) and _wants(sentence))
    if not (wanted or shows_a_text(sentence)):
        return 0
    return stop if _takes_the_line(message, begin, sentence) else _next_line(message, stop)


def _takes_the_line(message: _Message, begin: int, sentence: str) -> bool:
    """Return whether what stands behind a sentence on its line is the text, as nothing stands before it."""
    if begin > message.begin:
        return _is_bare(sentence)
    known = _TRANSFORMED.search(sentence) or _THIS_WRITTEN.search(sentence) or _ASKED_OF.search(sentence)
    return bool(known) or shows_a_text(sentence) or _is_bare(sentence)


def _next_line(message: _Message, stop: int) -> int:
    return max(0, message.text.find("\n", stop)) if stop <= message.lined else 0
