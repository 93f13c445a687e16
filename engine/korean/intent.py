"""What the user wants, by rules over endings, question words and phrases; Korean and simple English."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from engine.korean.questions import asks, asks_for_action, asks_for_advice
from engine.korean.recall import asks_about_user, speaks_of_self, tells_to_remember
from engine.korean.sentences import sentences

Intent = Literal["question", "request", "statement", "small_talk", "memory_query", "memory_command"]

_SMALL_TALK = (
    r"(?i)(?:안녕|하이|헬로|반가|반갑|고마|고맙|감사|땡큐|미안|죄송|사랑해|수고|축하해|축하드|잘\s?자"
    r"|잘\s?가|굿\s?모닝|굿\s?나잇|좋은\s?(?:아침|밤|하루|저녁)"
    r"|심심해|심심하|괜찮아|오랜만|(?:만나서|뵙게\s?되어)\s?(?:반가|반갑)|잘\s?(?:지냈|지내|있었|잤)"
    r"|밥\s?(?:은\s)?먹었|또\s?(?:봐|보자|만나)|다음에\s?(?:봐|보자)"
    r"|힘내|파이팅|화이팅|최고|대박|그렇구나|그래|알겠|알았어|아하|오케이|응|네|예|아니|넵|ㅇㅇ|ㅇㅋ"
    r"|뭐\s?해|뭐하니|넌\s?누구|너는\s?누구|누구세요)[가-힣]{0,6}"
    r"|[ㅋㅎㅠㅜ]+|\b(?:hi|hello|hey|thanks|thank you|bye|goodbye|good (?:morning|night|evening|afternoon)"
    r"|how are you|see you|nice to meet you"
    r"|sorry|lol|haha|ok|okay|yes|no|great|cool|what'?s up)\b"
)
_FILLER = (
    r"(?:정말|진짜|너무|오늘도|오늘|그동안|여러분|친구야|다들|모두|늘|항상|많이|so much|very much|there"
    r"|again|later|today|you|doing|a lot)"
)
_MOOD = 300  # characters at the end of a sentence, where Korean shows what it wants
_LEFT_OVER = 2  # letters; a name or a particle may stand beside a greeting
_HELP = r"(?i)뭐\s?(?:먹|하|입|사|보)(?:지|을까|ㄹ까)|[가-힣]까요?$|어떡|어떻게\s?(?:하|할)|좋을지|\bshould i\b"


@dataclass(frozen=True)
class Rules:
    """What rules say of a text; `needs_memory`: what is known of this user could change the answer."""

    intent: Intent
    is_question: bool
    needs_memory: bool


def understand_rules(text: str) -> Rules:
    """Return what the user wants.

    `is_question` means that information is expected back: "날씨 알려 줘" is a question, "불 꺼 줄래?" is
    none, and a rhetorical question counts. Of several sentences, a memory command or query decides first,
    then the last one that asks for something. `needs_memory` holds for memory queries, and for questions and
    requests that name the speaker (나, 내, 저, 제, 우리, my) or ask for advice.
    """
    parts = [text[begin:stop] for begin, stop in sentences(text)] or [text]
    parts = [part[-_MOOD:] for part in parts]
    asking = [asks(part) for part in parts]
    intent = _intent(text, parts, asking)
    is_question = any(asking) and intent != "memory_command"
    if intent not in ("question", "request"):
        return Rules(intent, is_question, intent == "memory_query")
    wanting = [part for part, asked in zip(parts, asking, strict=True) if asked or asks_for_action(part)]
    return Rules(intent, is_question, any(map(_is_personal, wanting)))


def _intent(text: str, parts: list[str], asking: list[bool]) -> Intent:
    if any(map(tells_to_remember, parts)):
        return "memory_command"
    if any(asked and asks_about_user(part) for part, asked in zip(parts, asking, strict=True)):
        return "memory_query"
    if _is_small_talk(text):
        return "small_talk"
    for part, asked in zip(reversed(parts), reversed(asking), strict=True):
        if asks_for_advice(part) or asks_for_action(part):
            return "request"
        if asked:
            return "question"
    return "statement"


def _is_small_talk(text: str) -> bool:
    rest = re.sub(_FILLER, " ", re.sub(_SMALL_TALK, " ", text))
    left = re.findall(r"[^\W_]", rest)
    return bool(re.search(_SMALL_TALK, text)) and len(left) <= _LEFT_OVER


def _is_personal(sentence: str) -> bool:
    return speaks_of_self(sentence) or asks_for_advice(sentence) or bool(re.search(_HELP, sentence.rstrip(" ?.!~")))
