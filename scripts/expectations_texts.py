"""What is said and asked where the guide's expectations are measured: everyday Korean."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memory_texts import question, sentence
from runtime_texts import TURNS

TOLD = tuple(said for said, _ in TURNS)  # ten turns that tell something, before the short questions
OPENINGS = (
    "오늘 저녁에 나는 뭘 먹으면 좋을까?",
    "이번 주말에 우리 가족은 어디로 가면 좋을까?",
    "내가 작년 여름에 다녀온 곳이 어디였지?",
    "나한테 맞는 운동을 하나 골라 줄래?",
    "내 친구 생일에 어떤 선물을 주면 좋을까?",
)
SHORT = (
    "내일 아침에 나는 뭘 먹으면 좋을까?",
    "내가 무슨 알레르기가 있다고 했지?",
    "우리 동생 결혼식이 언제라고 했지?",
    "주말에 나는 민지랑 어디를 걸으면 좋을까?",
    "발표에서 내가 무엇부터 말하면 좋을까?",
    "내가 다니는 병원이 어디에 있더라?",
    "내 화분에는 물을 며칠에 한 번 주면 돼?",
    "이번 달에 내가 꼭 해야 할 일이 뭐였지?",
    "내가 요즘 어떤 운동을 한다고 했지?",
    "떡볶이 말고 우리가 먹을 만한 게 뭐가 있을까?",
    "출근길에 내가 읽을 만한 책을 골라 줄래?",
    "새로 온 직원에게 내가 무엇을 가르치면 좋을까?",
    "축가로 내가 부를 만한 노래가 뭐가 있을까?",
    "제주도에 가기 전에 내가 준비할 게 뭐야?",
    "오늘 저녁에 나는 뭘 하면서 쉬면 좋을까?",
)
_AMONG = 8  # sentences for each that is taken, since it has about the right length
_FAR = 1_000_000  # no memory of any store has such a number: what is asked of a model is in none


def of_about(tokens: int, count: int, lengths: Callable[[Sequence[str]], Sequence[int]], tail: str = "") -> list[str]:
    """Return `count` sentences that are nearest to so many tokens, by `lengths`; each ends with `tail`."""
    texts = [sentence(_FAR + n) + tail for n in range(_AMONG * count)]
    order = sorted(zip(lengths(texts), texts, strict=True), key=lambda found: abs(found[0] - tokens))
    return [text for _, text in order[:count]]


def queries(count: int, memories: int) -> list[str]:
    """Return what is searched for: each asks for one of so many memories, spread over all of them."""
    return [question(n * memories // count) for n in range(count)]
