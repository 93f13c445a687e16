"""A conversation much longer than the context, with a real model: what the suite does briefly and a soak for long.

Early turns tell facts; the others are everyday utterances. After each turn the background gets its time, as it does
while a user reads and types.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from engine import Engine, sessions
from engine.briefing import Brief

UTTERANCES = Path(__file__).parent / "data" / "utterances.jsonl"
# what is told early on, and what is asked for at the end
FACTS = (
    ("우리 집 고양이 이름은 두부야.", "고양이 이름이 뭐야?"),
    ("나는 땅콩 알레르기가 있어.", "나 무슨 알레르기가 있다고 했지?"),
    ("저는 부산 해운대구에 살아요.", "내가 어디에 살지?"),
    ("저는 소아과 간호사로 일해요.", "내 직업이 뭐야?"),
    ("우리 누나는 파리에서 그림을 공부해.", "누나는 어디에 있어?"),
    ("나는 매운 떡볶이를 제일 좋아해.", "내가 좋아하는 음식은?"),
    ("올해는 마라톤을 완주하는 게 목표야.", "내 올해 목표가 뭐였지?"),
    ("작년 여름에 몽골로 여행을 다녀왔어.", "나 어디로 여행 갔었지?"),
)
_SHORT = 40  # letters of an utterance, so that the smallest context holds several
_ANSWER = 12  # tokens


@dataclass
class Course:
    """What was seen, a number a turn; `left_out` are turns that were neither told nor in the summary."""

    ttft: list[float] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    condensed: list[int] = field(default_factory=list)
    left_out: int = 0
    missing: list[str] = field(default_factory=list)  # facts that are not found at the end
    lost: int = 0  # turns that are not in the history

    def figures(self) -> dict[str, Any]:
        """Return what to report: seconds are medians of the first, the middle and the last third."""
        third = max(1, len(self.ttft) // 3)
        thirds = [self.ttft[start : start + third] for start in (0, third, len(self.ttft) - third)]
        return {
            "turns": len(self.ttft), "longest prompt": max(self.prompt), "condensed": self.condensed[-1],
            "left out": self.left_out, "lost": self.lost, "facts": len(FACTS), "missing": len(self.missing),
            "ttft": [round(statistics.median(part), 3) for part in thirds],
            "ttft, slowest": round(max(self.ttft), 3),
        }  # fmt: skip


def messages(turns: int, seed: int) -> Iterator[str]:
    """Yield so many messages: of the first, every second one is a fact. The seed 0 leaves the others in their order."""
    lines = UTTERANCES.read_text(encoding="utf-8").splitlines()
    texts = [text for text in (json.loads(line)["text"] for line in lines) if len(text) <= _SHORT]
    if seed:
        random.Random(seed).shuffle(texts)
    for number in range(turns):
        fact, odd = divmod(number, 2)
        yield FACTS[fact][0] if not odd and fact < len(FACTS) else texts[number % len(texts)]


def run(home: Path, turns: int, n_ctx: int, tell: Callable[[int], object] = lambda _: None, *, seed: int = 0) -> Course:
    """Have the conversation in an empty `home`, in a context of `n_ctx` tokens; `tell` is called with each turn."""
    settings = home.parent / "long-session.toml"
    settings.write_text(f"[engine]\nn_ctx = {n_ctx}\n", encoding="utf-8")
    course = Course()
    with Engine(settings, profile="starter", home=home) as engine, mock.patch.object(sessions, "fit", _watched(course)):
        session = engine.session()
        for number, text in enumerate(messages(turns, seed)):
            usage = session.chat(text, temperature=0, max_tokens=_ANSWER, seed=1).usage
            course.ttft.append(usage.ttft)
            course.prompt.append(usage.prompt_tokens)
            course.cached.append(usage.cached_tokens)
            session.wait()
            history = session.history()
            course.condensed.append(sum(said.condensed for said in history))
            tell(number + 1)
        course.lost = turns - sum(said.role == "user" for said in history)
        for fact, question in FACTS[: (turns + 1) // 2]:
            if fact not in [hit.memory.text for hit in engine.search(question)]:
                course.missing.append(fact)
    return course


def _watched(course: Course) -> Callable[..., Brief]:
    fit = sessions.fit

    def watched(brief: Brief, *others: Any) -> Brief:
        fitted = fit(brief, *others)
        course.left_out = max(course.left_out, len(brief.turns) - len(fitted.turns))
        return fitted

    return watched
