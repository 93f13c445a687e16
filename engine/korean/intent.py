"""What the user wants, by rules over endings, question words and phrases; Korean and simple English."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from engine.korean.questions import MOOD, asks, asks_for_action, asks_for_advice
from engine.korean.recall import asks_about_user, speaks_of_self, tells_to_remember
from engine.korean.sentences import sentences
from engine.korean.small_talk import is_small_talk, without_greeting

Intent = Literal["question", "request", "statement", "small_talk", "memory_query", "memory_command"]

_HELP = (
    r"(?i)뭐\s?(?:먹|하|입|사|보)(?:지|을까|ㄹ까)|(?:할|갈|살|먹을|입을|마실|만날|좋을|나을|맞을|어울릴|뭘까|볼|줄)까요?$"
    r"|어떡|어떻게\s?(?:하|할)|좋을지|\bshould i\b"
)
_CAN_YOU = r"줄\s?수\s?(?:있|없)"


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
    parts = [part[-MOOD:] for part in parts]
    asking = [asks(without_greeting(part)) for part in parts]
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
    if all(map(is_small_talk, parts)):
        return "small_talk"
    for part, asked in zip(reversed(parts), reversed(asking), strict=True):
        if asks_for_advice(part) or asks_for_action(part):
            return "request"
        if asked:
            return "question"
    return "statement"


def _is_personal(sentence: str) -> bool:
    return (
        speaks_of_self(sentence)
        or asks_for_advice(sentence)
        or bool(re.search(_HELP, sentence.rstrip(" ?.!~")) and not re.search(_CAN_YOU, sentence))
    )
