"""What the sides of the runtime comparison are asked: the same words for all of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from engine.classification import check_categories, classification_turns
from engine.demo import MEMORIES, QUESTIONS, SENTENCES
from engine.extraction import Window, extraction_turns
from engine.inputs import CATEGORIES, KINDS, Turn
from engine.korean.candidates import candidates

Message = dict[str, str]
Messages = Sequence[Message]

WORDS = sorted({word for text in [*MEMORIES, *(one for one, _ in [*QUESTIONS, *SENTENCES])] for word in text.split()})
ASSISTANT = "너는 사용자를 오래 알고 지낸 다정한 비서다. 한국어로 짧고 분명하게 답하고, 모르는 것은 모른다고 말한다."
READER = "글에서 오래 기억할 만한 것을 세 가지 뽑아 JSON으로 적는다. quote는 글에 있는 말 그대로 쓴다."

# what the user says, about 30 words, and after > what the assistant answered. The answers stand in the script, so that
# every side reads the same history: random weights write bytes that no tokeniser cuts in the same way again
_CHAT = """\
안녕, 나는 지난달에 수원에서 부산으로 이사를 온 김하늘이라고 해. 새로 다니게 된 회사는 바닷가 바로 옆에 있는데
아침마다 버스를 두 번이나 갈아타야 해서 출근하는 데 한 시간이 넘게 걸려.
> 반가워요, 하늘 님. 새 도시에서 하는 긴 출근이 꽤 힘드시겠어요. 가까운 집도 알아보고 계신가요?

응, 회사 근처에 있는 작은 집을 몇 군데 보러 다녔는데 마음에 드는 곳은 월세가 너무 비싸고 싼 곳은 햇빛이 잘 들지
않아서 아직도 어디로 갈지 결정을 하지 못하고 고민만 하고 있어.
> 햇빛과 월세 가운데 무엇이 더 중요한지 먼저 정해 보면 고르기가 조금 쉬워질 거예요.

나는 아무래도 햇빛이 더 중요한 것 같아. 집에서 키우는 화분이 열두 개나 있고 주말에는 창가에 앉아서 커피를 마시며
책을 읽는 것을 정말 좋아하기 때문에 어두운 집에서는 오래 못 살 것 같거든.
> 화분 열두 개와 창가의 커피라니, 남향 집을 우선으로 찾아보시는 것이 좋겠어요.

그리고 내 동생 하준이가 다음 달 셋째 주 토요일에 결혼을 해서 온 가족이 서울에 모이기로 했어. 나는 축가를 부르기로
했는데 노래를 해 본 지가 오래되어서 요즘 퇴근하고 나면 매일 연습하고 있어.
> 동생분의 결혼을 축하드려요! 매일 연습하신다니 분명히 멋진 축가가 될 거예요.

고마워. 사실 나는 땅콩 알레르기가 심해서 결혼식 음식이 조금 걱정이야. 작년에 회사 회식에서 소스에 든 땅콩을 모르고
먹었다가 응급실에 실려 간 적이 있어서 그 뒤로는 어디를 가든지 꼭 미리 물어보고 먹어.
> 큰일 날 뻔하셨네요. 예식장에 알레르기를 미리 알려 두시는 것이 안전하겠어요.

좋은 생각이야, 내일 점심시간에 예식장에 전화를 해 볼게. 그나저나 새 회사에서는 내가 데이터 분석 팀의 팀장을 맡게
되어서 다음 주 수요일까지 올해의 계획을 발표해야 하는데 아직 자료를 한 장도 만들지 못했어.
> 발표까지 시간이 많지 않네요. 가장 중요한 목표 세 가지부터 적어 보면 어떨까요?

첫째 목표는 고객 자료를 한곳에 모으는 것이고 둘째는 매주 손으로 만들던 보고서를 자동으로 만드는 것이고 셋째는 신입
사원 두 명을 잘 가르치는 것인데 이 가운데 무엇을 먼저 이야기하는 것이 듣는 사람에게 좋을지 모르겠어.
> 듣는 분들이 바로 느낄 수 있는 보고서 자동화를 먼저 말씀하시는 것이 좋겠어요.

그렇게 할게. 요즘은 허리가 자주 아파서 회사 앞에 있는 병원에 일주일에 두 번씩 다니고 있는데 의사 선생님이 오래 앉아
있지 말고 저녁마다 삼십 분씩 걸으라고 하셔서 어제부터 바닷가를 따라서 걷기 시작했어.
> 바닷가 산책이라니 허리에도 마음에도 좋겠네요. 편한 신발을 꼭 신고 걸으세요.

대학 때 친구인 민지도 부산에 살고 있어서 이번 주말에 같이 걷기로 했어. 민지는 고등학교에서 수학을 가르치는
선생님인데 우리 둘 다 매운 음식을 좋아해서 만나기만 하면 늘 시장에 있는 떡볶이 집에 가곤 했어.
> 오랜 친구와 걷고 떡볶이도 드시겠네요. 즐거운 주말이 될 것 같아요.

마지막으로 하나만 더 물어볼게. 내년 여름에는 꼭 혼자서 제주도에 있는 올레길을 끝까지 걸어 보고 싶은데 지금처럼
허리가 아픈 사람이 여섯 달 동안 어떻게 준비를 하면 좋을지 차근차근 이야기해 줄 수 있을까?
> 첫 두 달은 평지를 걷고, 그다음에는 거리를 조금씩 늘려 보세요.
"""
TURNS = [tuple(" ".join(text.split()) for text in turn.split("\n> ")) for turn in _CHAT.split("\n\n")]


def said(role: str, content: str) -> Message:
    """Return one message."""
    return {"role": role, "content": content}


def prose(seed: str, words: int) -> str:
    """Return so many Korean words, whose first ones are those of no other seed."""
    drawn = random.Random(seed)
    return " ".join([f"{drawn.randrange(10**6)}번", *drawn.choices(WORDS, k=max(0, words - 1))])


def sized(tokens: int, make: Callable[[int], Messages], count: Callable[[Messages], int]) -> Messages:
    """Return what `make` makes of as many words as `count` lets into so many tokens, one at least."""
    low, high = 1, max(1, tokens)  # no word takes less than one token
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(make(middle)) <= tokens else (low, middle - 1)
    return make(low)


def conversation(turn: int) -> list[Message]:
    """Return the chat up to what the user says in that turn, counted from 0."""
    past = [said(role, text) for pair in TURNS[:turn] for role, text in zip(("user", "assistant"), pair, strict=True)]
    return [said("system", ASSISTANT), *past, said("user", TURNS[turn][0])]


def plain(turns: Sequence[Turn]) -> list[Message]:
    """Return an engine's own prompt in the form that others take."""
    return [said(turn.role, turn.content) for turn in turns]


def classification(text: str) -> list[Message]:
    """Return what our engine asks a model for a label of `text` out of the default eight."""
    return plain(classification_turns(text, check_categories(CATEGORIES)))


def extraction(text: str) -> list[Message]:
    """Return what our engine asks a model for the memories in one message."""
    turns = (Turn("user", text),)
    return plain(extraction_turns(Window(turns, tuple(candidates(turns)))))


LABEL = {
    "type": "object",
    "properties": {"category": {"enum": list(CATEGORIES)}},
    "required": ["category"],
    "additionalProperties": False,
}
LABEL_GRAMMAR = "root ::= " + " | ".join(f'"{name}"' for name in CATEGORIES)


def _items(quote: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the schema of a list of so many items; random weights would never end a string that had no bound."""
    choices = {"kind": {"enum": list(KINDS)}, "category": {"enum": list(CATEGORIES)}}
    item = {
        "type": "object",
        "properties": {"quote": {"type": "string", **quote}, **choices},
        "required": ["quote", "kind", "category"],
        "additionalProperties": False,
    }
    return {"type": "array", "items": item, "minItems": count, "maxItems": count}


def _object(name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": False}


EXTRACTED = _object("0", _items({"maxLength": 24}, 1))  # the shape of our engine's own grammar for one message
DOCUMENT = _object("items", _items({"minLength": 32, "maxLength": 48}, 3))
