"""Calls to an engine, a mixture of all kinds, of which no two ask the same; each knows what must hold of its result."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count, product
from typing import Any

import numpy as np

from engine import ContextOverflow, InvalidInput, MemoryNotFound, SchemaError

THREADS, TASKS = 8, 16
GREEDY: dict[str, Any] = {"temperature": 0.0, "repeat_penalty": 1.0, "max_tokens": 12}
TEMPLATES = (
    "Write one sentence about {}.", "Why do people like {}?", "What is {} made of?", "Tell me a joke about {}.",
    "Where would you find {}?", "Write the first line of a poem about {}.", "Name three things that go with {}.",
    "Explain {} to a child.", "What would a king say about {}?", "How much does it cost to buy {}?", "{}: 이게 뭐야?",
)  # fmt: skip
THINGS = (
    "a lighthouse", "an old violin", "green tea", "a bicycle", "the moon", "a glass of milk", "winter boots", "a castle",
    "fresh bread", "an umbrella", "a steam train", "the desert", "honey", "a chess board", "a wooden spoon", "a volcano",
    "a blue whale", "a paper kite", "cold rain", "a garden gate", "an apple tree", "a silver ring", "a school bus",
    "the alphabet", "a birthday cake", "a rusty key", "soap bubbles", "an elephant", "a library card", "a rocket",
    "warm socks", "a wine bottle", "the harbour", "a broken clock", "salt water", "a red balloon", "an empty theatre",
    "a snowman", "a big drum", "ripe tomatoes", "a tall ladder", "the night shift", "a kitchen knife", "a lazy cat",
    "a stone bridge", "a postcard", "hot chilli", "a pocket mirror", "a wild horse", "clean windows", "a dark cave",
)  # fmt: skip
NAMES = ("Anna", "Boris", "Carla", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Irene", "Jonas")
LABELS = ("food", "travel", "music", "sport", "work")
KNOWN = tuple(f"I keep {thing} at home." for thing in THINGS[:8])
DELAYS = (0.0, 0.005, 0.02, 0.1, 0.4)
WRONG: tuple[tuple[str, tuple[Any, ...], dict[str, Any], type[Exception]], ...] = (
    ("chat", ("",), {}, InvalidInput),
    ("stream", ("x",), {"max_tokens": 0}, InvalidInput),
    ("stream", ("x",), {"colour": "red"}, TypeError),
    ("chat", ("rain " * 3000,), {}, ContextOverflow),
    ("chat", ("x",), {"schema": {"not": {"type": "string"}}}, SchemaError),
    ("extract_memory", ([{"role": "nobody", "content": "x"}],), {}, InvalidInput),
    ("classify", ("x", []), {}, InvalidInput),
    ("embed", ("",), {}, InvalidInput),
    ("search", ("x",), {"k": 0}, InvalidInput),
    ("memory", ("nothing",), {}, MemoryNotFound),
)


@dataclass(frozen=True)
class Ask:
    """One call: what to ask, what must hold of the result, and whether it is broken off.

    A stream is read to its end, or closed after `pieces`, or cancelled `delay` seconds after its start from another
    thread; any other call with a `delay` is a task that is cancelled then. `again`: the same call alone gives the same.
    """

    kind: str
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    check: Callable[[Any], object] = lambda _: None
    pieces: int | None = None
    delay: float | None = None
    error: type[Exception] | None = None
    again: Callable[[Any, Any], bool] | None = None
    beside: bool = False  # asked of the second engine, whose chat model classifies too
    question: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.question}"


# ---- what is asked: (a question, nothing else asks it; chance) → Ask


def chat(question: str, chance: random.Random) -> Ask:
    return Ask("chat", "chat", (question,), GREEDY)


def beside(question: str, chance: random.Random) -> Ask:
    ask = chance.choice((chat, stream, chat_with_schema, summarize))(question, chance)
    return replace(ask, kind="second engine", beside=True)


def chat_with_history(question: str, chance: random.Random) -> Ask:
    said = "You are a helpful guide in a museum of everyday things. Answer in one short and friendly sentence."
    turns = [("system", said), ("user", "Hello! Who are you?"), ("assistant", "I am your guide."), ("user", question)]
    return Ask("chat, history", "chat", ([{"role": role, "content": text} for role, text in turns],), GREEDY)


def chat_with_context(question: str, chance: random.Random) -> Ask:
    return Ask("chat, context", "chat", (question,), {**GREEDY, "context": list(KNOWN[: chance.randint(1, 3)])})


def chat_by_chance(question: str, chance: random.Random) -> Ask:
    return Ask("chat, not greedy", "chat", (question,), {"temperature": 0.9, "seed": chance.randint(0, 99)})


def chat_with_schema(question: str, chance: random.Random) -> Ask:
    number = chance.randint(0, 10**9)
    person = {"type": "object", "properties": {"id": {"const": number}, "mood": {"enum": ["good", "bad"]}},
              "required": ["id", "mood"], "additionalProperties": False}  # fmt: skip

    def check(reply: Any) -> None:
        assert reply.parsed["id"] == number and reply.parsed["mood"] in ("good", "bad"), reply.parsed

    return Ask("chat, schema", "chat", (question,), {**GREEDY, "max_tokens": 60, "schema": person}, check)


def stream(question: str, chance: random.Random) -> Ask:
    return Ask("stream", "stream", (question,), GREEDY)


def stream_closed(question: str, chance: random.Random) -> Ask:
    return Ask("stream, closed", "stream", (question,), GREEDY, pieces=chance.randint(0, 6))


def stream_cancelled(question: str, chance: random.Random) -> Ask:
    return Ask("stream, cancelled", "stream", (question,), {**GREEDY, "max_tokens": 30}, delay=chance.choice(DELAYS))


def task_cancelled(question: str, chance: random.Random) -> Ask:
    ask = chance.choice((chat, chat_with_schema, extract, classify_one, summarize, remember, search))(question, chance)
    return replace(ask, kind="task, cancelled", delay=chance.choice(DELAYS))


def extract(question: str, chance: random.Random) -> Ask:
    said = f"My name is {chance.choice(NAMES)} and I asked a friend: {question}"

    def check(found: Any) -> None:
        assert all(item.quote in said and item.source == 0 for _, item in found.items()), found

    return Ask("extract_memory", "extract_memory", (said,), {"at": "2026-03-02"}, check)


def classify_one(question: str, chance: random.Random) -> Ask:
    return Ask("classify", "classify", (question, LABELS), check=_classified, beside=True)


def classify_list(question: str, chance: random.Random) -> Ask:
    texts = [f"{name} asks: {question}" for name in chance.sample(NAMES, 2)]

    def check(found: Any) -> None:
        assert len(found) == 2
        for each in found:
            _classified(each)

    return Ask("classify, list", "classify", (texts, LABELS), check=check, beside=True)


def classify_by_meaning(question: str, chance: random.Random) -> Ask:
    return Ask("classify, by meaning", "classify", (question, LABELS), check=_classified, again=_alike)


def summarize(question: str, chance: random.Random) -> Ask:
    return Ask("summarize", "summarize", (f"{chance.choice(NAMES)} wanted to know: {question} Nobody could say.",))


def embed(question: str, chance: random.Random) -> Ask:
    texts = [question, *chance.sample(KNOWN, chance.randint(0, 3))]
    return Ask("embed", "embed", (texts,), again=lambda a, b: np.allclose(a.dense, b.dense, atol=1e-5))


def remember(question: str, chance: random.Random) -> Ask:
    text, user = f"I was asked: {question}", f"user {question}"

    def check(found: Any) -> None:
        assert [(memory.text, memory.user) for memory in found] == [(text, user)], found

    return Ask("remember", "remember", (text,), {"user": user}, check)


def search(question: str, chance: random.Random) -> Ask:
    text = chance.choice(KNOWN)

    def check(hits: Any) -> None:
        assert hits[0].memory.text == text and {hit.memory.text for hit in hits} <= set(KNOWN), hits

    return Ask("search", "search", (text,), {"k": 3, "user": "reader"}, check)


def understand(question: str, chance: random.Random) -> Ask:
    text = f"{chance.choice(('어제', '내일', '다음 주'))} 물어본 건데, {question}"
    return Ask("understand", "understand", (text,), {"at": "2026-03-02"}, again=lambda a, b: a == b)


def tokens(question: str, chance: random.Random) -> Ask:
    return Ask("tokens", "tokens", (question,), again=lambda a, b: a == b)


def status(question: str, chance: random.Random) -> Ask:
    def check(found: Any) -> None:
        assert {model.name for model in found.loaded} <= {"smollm2-135m-instruct", "multilingual-e5-small"}

    return Ask("status", "status", (), check=check)


def wrong(question: str, chance: random.Random) -> Ask:
    method, args, kwargs, error = chance.choice(WRONG)
    return Ask("wrong input", method, args, kwargs, error=error)


def unload(question: str, chance: random.Random) -> Ask:
    return Ask("unload", "unload", (chance.choice(("chat", "chat", "embedding")),))


def _classified(found: Any) -> None:
    assert found.label in LABELS and abs(sum(found.scores.values()) - 1) < 1e-6, found


def _alike(one: Any, other: Any) -> bool:
    return one.label == other.label and all(abs(one.scores[label] - other.scores[label]) < 1e-4 for label in LABELS)


KINDS: dict[Callable[[str, random.Random], Ask], int] = {
    chat: 9, stream: 7, chat_with_schema: 5, chat_with_history: 4, stream_closed: 4, stream_cancelled: 4,
    task_cancelled: 4, wrong: 4, extract: 3, classify_one: 3, chat_with_context: 2, chat_by_chance: 2, classify_list: 1,
    classify_by_meaning: 2, beside: 4, summarize: 2, embed: 2, remember: 2, search: 2, understand: 2, tokens: 2,
    status: 1, unload: 1,
}  # fmt: skip


def plan(calls: int, seed: int) -> list[list[Ask]]:
    """Deal `calls` calls, among them each kind, to the threads and then the tasks; same seed, same calls."""
    chance = random.Random(seed)
    pairs = [template.format(thing) for template, thing in product(TEMPLATES, THINGS)]
    chance.shuffle(pairs)
    questions = (pair if not i else f"({i}) {pair}" for i in count() for pair in pairs)
    kinds = [*KINDS, *chance.choices(list(KINDS), list(KINDS.values()), k=max(0, calls - len(KINDS)))][:calls]
    chance.shuffle(kinds)
    actors: list[list[Ask]] = [[] for _ in range(THREADS + TASKS)]
    for i, kind in enumerate(kinds):
        if kind is task_cancelled and i % len(actors) < THREADS:
            kind = stream_cancelled
        question = next(questions)
        actors[i % len(actors)].append(replace(kind(question, chance), question=question))
    return actors
