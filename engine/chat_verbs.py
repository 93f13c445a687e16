"""What `/…` does in `gieok chat`: look at memories, forget them, what was condensed, which models there are."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from engine import InvalidInput
from engine.instructions import Language
from engine.quantities import bytes_text
from engine.reports import plans

if TYPE_CHECKING:
    from engine import Engine, Memory, Session

T = TypeVar("T")
_SAID: dict[str, tuple[str, str]] = {
    "memory": ("/memory [WORDS]\tthe last memories, or those that fit", "/기억 [찾을 말]\t기억을 보거나 찾습니다"),
    "forget": (
        "/forget NUMBER|WORDS|all\tforget what the last list numbers so, what fits, or everything; asks first",
        "/잊어 번호|찾을 말|전부\t목록의 번호, 찾은 기억, 또는 전부를 잊습니다. 먼저 물어봅니다",
    ),
    "summary": ("/summary\twhat was condensed, else a summary of all", "/요약\t줄여 둔 앞부분, 없으면 전체의 요약"),
    "model": ("/model\twhich models do what, and how fast", "/모델\t어떤 모델이 무슨 일을 하는지, 속도"),
    "status": ("/status\tmemory held, this session, what is still to do", "/상태\t쓰는 메모리, 이 대화, 남은 일"),
    "help": ("/help\tthis list", "/도움\t이 목록"),
    "quit": ("/quit\tleave, as the end of file does", "/끝\t나갑니다. Ctrl-D도 같습니다"),
    "which": ("there are {verbs}; what is to be said begins with //", "{verbs} 가운데 고르세요. /로 시작하는 말은 //…"),
    "none": ("no memory yet", "아직 기억이 없습니다"),
    "none found": ("no memory fits", "맞는 기억이 없습니다"),
    "more": ("… and more: /memory WORDS", "… 더 있습니다: /기억 찾을 말"),
    "what": ("say what to forget: a number, words, or all", "무엇을 잊을지 적으세요: 번호, 찾을 말, 전부"),
    "no number": ("no such number in the last list; /memory lists", "마지막 목록에 없는 번호입니다. /기억 으로 보세요"),
    "sure": ("forget for good? (yes/no) ", "완전히 잊을까요? (예/아니요) "),
    "sure first": (
        "forget number 1 for good? (yes, other numbers, or no) ",
        "1번을 완전히 잊을까요? (예, 다른 번호들, 아니요) ",
    ),
    "sure all": (
        "all {count} memories of {user}, and all that was said in any session, would be gone.\nto do so, type all: ",
        "{user}의 기억 {count}개와 모든 대화가 완전히 사라집니다.\n지우려면 '전부'라고 쓰세요: ",
    ),
    "forgotten": ("forgotten: {count}", "잊었습니다: {count}개"),
    "kept": ("nothing was forgotten", "아무것도 잊지 않았습니다"),
    "nothing": ("nothing was said yet", "아직 나눈 말이 없습니다"),
    "condensed": ("the first {count} turns, condensed:", "앞부분 {count}마디를 줄인 것:"),
    "loaded": ("loaded", "올라와 있음"),
    "not loaded": ("not loaded", "안 올라옴"),
    "rate": ("{rate:.1f} tokens/s", "초당 {rate:.1f} 토큰"),
    "missing": ("not installed: gieok models pull {model}", "설치 안 됨: gieok models pull {model}"),
    "session": ("session", "대화"),
    "session is": (
        "{name}, of {user}: {turns} turns, {condensed} of them condensed",
        "{name} (사용자 {user}): {turns}마디, 그중 {condensed}마디는 줄임",
    ),
    "memories": ("memories", "기억"),
    "held": ("memory held", "쓰는 메모리"),
    "held is": ("{held} of {budget}; the process has {resident}", "{budget} 중 {held}, 프로세스는 {resident}"),
    "background": ("background", "남은 일"),
    "waits": ("still at work", "하는 중"),
    "done": ("nothing waits", "없음"),
}  # fmt: skip
_NAMES: dict[str, tuple[str, ...]] = {  # the first two stand in lists
    "memory": ("memory", "기억", "memories"),
    "forget": ("forget", "잊어", "잊기"),
    "summary": ("summary", "요약", "summarize"),
    "model": ("model", "모델", "models"),
    "status": ("status", "상태"),
    "help": ("help", "도움", "도움말", "?"),
    "quit": ("quit", "끝", "exit", "종료", "나가기"),
}
_YES = {"y", "yes", "예", "네", "응", "ㅇ", "ㅇㅇ"}
_ALL = {"all", "everything", "전부", "모두"}
_LISTED, _FOUND = 20, 10  # memories that are shown
_COUNTED = 10_000  # memories that are counted; of more, it is said that there are more
_WIDTH = 160  # letters of a memory in a list

Result = tuple[Any, list[str]]  # for --json, and for people


class Ask(Protocol):
    """Show lines, then ask for a line; "" at the end of file."""

    def __call__(self, question: str, lines: Sequence[str] = ()) -> str: ...


@dataclass
class Talk:
    """What the verbs work on; `listed` is what the last list of memories numbered from 1."""

    engine: Engine
    session: Session
    user: str
    name: str
    language: Language
    run: Callable[[Coroutine[Any, Any, Any]], Any]  # until it is done or Ctrl-C is pressed
    ask: Ask
    listed: list[Memory] = field(default_factory=list)

    def said(self, what: str, /, **values: object) -> str:
        """Return a message in the user's language."""
        return _SAID[what][self.language == "ko"].format_map(values)


def verb(word: str, language: Language) -> str:
    """Return which verb a word or its beginning stands for. Raises `InvalidInput` with those there are."""
    asked = unicodedata.normalize("NFC", word).casefold()
    exact = [name for name, words in _NAMES.items() if asked in words]
    begun = [name for name, words in _NAMES.items() if asked and any(known.startswith(asked) for known in words)]
    found = exact or begun
    if len(found) == 1:
        return found[0]
    verbs = " ".join(f"/{_NAMES[name][language == 'ko']}" for name in found or _NAMES)
    raise InvalidInput(_SAID["which"][language == "ko"].format(verbs=verbs))


def act(talk: Talk, name: str, rest: str) -> Result:
    """Do what a verb stands for, with what was typed behind it; "quit" is not done here. Raises `EngineError`."""
    return _VERBS[name](talk, rest)


def short(memory: Memory) -> str:
    """Return a memory as one line that is not too long."""
    text = " ".join(memory.text.split())
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


# ---- memories


def _memory(talk: Talk, words: str) -> Result:
    if words:
        return _search(talk, words)
    found = talk.run(talk.engine.amemories(user=talk.user, limit=_LISTED + 1))
    talk.listed = found[:_LISTED]
    lines = _numbered(talk.listed) or [talk.said("none")]
    if len(found) > _LISTED:
        lines.append(talk.said("more"))
    return [memory.to_dict() for memory in talk.listed], lines


def _search(talk: Talk, words: str) -> Result:
    hits = talk.run(talk.engine.asearch(words, user=talk.user, k=_FOUND))
    talk.listed = [hit.memory for hit in hits]
    lines = [f"{line} · {hit.score:.2f}" for line, hit in zip(_numbered(talk.listed), hits, strict=True)]
    return [hit.to_dict() for hit in hits], lines or [talk.said("none found")]


def _numbered(memories: Sequence[Memory]) -> list[str]:
    return [
        f"{number:>2}. {short(memory)} · {(memory.when or memory.created).astimezone():%Y-%m-%d}"
        for number, memory in enumerate(memories, 1)
    ]


def _forget(talk: Talk, asked: str) -> Result:
    if not asked:
        raise InvalidInput(talk.said("what"))
    if asked.casefold() in _ALL:
        return _forget_all(talk)
    numbers = _numbers(asked)
    if numbers:
        chosen = _chosen(talk, numbers)
        agreed = _agreed(talk.ask(talk.said("sure"), _numbered(chosen)))
        return _gone(talk, chosen if agreed else [])
    _, lines = _search(talk, asked)
    if not talk.listed:
        return {"forgotten": []}, lines
    answer = talk.ask(talk.said("sure" if len(talk.listed) == 1 else "sure first"), lines)
    return _gone(talk, talk.listed[:1] if _agreed(answer) else _chosen(talk, _numbers(answer)))


def _numbers(text: str) -> list[int]:
    """Return the numbers of "3", "1, 3" or "1번 3번"; none where there is anything else."""
    words = re.findall(r"[^\s,]+", text)
    found = [re.fullmatch(r"([0-9]{1,9})번?", word) for word in words]
    return [int(one[1]) for one in found if one] if all(found) else []


def _chosen(talk: Talk, numbers: Sequence[int]) -> list[Memory]:
    if not all(1 <= number <= len(talk.listed) for number in numbers):
        raise InvalidInput(talk.said("no number"))
    return [talk.listed[number - 1] for number in dict.fromkeys(numbers)]


def _agreed(answer: str) -> bool:
    return unicodedata.normalize("NFC", answer).strip().rstrip(".!").casefold() in _YES


def _gone(talk: Talk, chosen: Sequence[Memory]) -> Result:
    for memory in chosen:
        talk.run(talk.engine.aforget(memory.id))
    said = talk.said("forgotten", count=len(chosen)) if chosen else talk.said("kept")
    return {"forgotten": [memory.id for memory in chosen]}, [said]


def _forget_all(talk: Talk) -> Result:
    answer = talk.ask(talk.said("sure all", count=_counted(_count(talk)), user=talk.user))
    if unicodedata.normalize("NFC", answer).strip(" '\"").casefold() not in _ALL:
        return {"forgotten": 0}, [talk.said("kept")]
    count = talk.run(talk.engine.aforget_all(talk.user))
    talk.listed = []
    return {"forgotten": count}, [talk.said("forgotten", count=count)]


def _count(talk: Talk) -> int:
    return len(talk.run(talk.engine.amemories(user=talk.user, limit=_COUNTED + 1)))


def _counted(count: int) -> str:
    return str(count) if count <= _COUNTED else f"{_COUNTED}+"


# ---- the conversation


def _summary(talk: Talk, _rest: str) -> Result:
    history = talk.run(talk.session.ahistory())
    condensed = sum(said.condensed for said in history)
    text = talk.session.summary if condensed else None
    if text:
        return {"summary": text, "condensed": condensed}, [talk.said("condensed", count=condensed), text]
    if not history:
        return {"summary": None, "condensed": 0}, [talk.said("nothing")]
    dialogue = [{"role": said.role, "content": said.content, "at": said.at} for said in history]
    fresh = talk.run(talk.engine.asummarize(dialogue))
    return {"summary": fresh.text, "condensed": 0}, [fresh.text]


def _model(talk: Talk, _rest: str) -> Result:
    loaded = {model.name: model for model in talk.run(talk.engine.astatus()).loaded}
    planned, problems = talk.run(talk.engine.threads.run(partial(plans, talk.engine)))
    value, lines = [], []
    for plan in planned:
        name, here = plan["model"], loaded.get(plan["model"])
        rate = here.tokens_per_second if here else None
        state = [talk.said("loaded" if here else "not loaded" if plan["installed"] else "missing", model=name)]
        state += [talk.said("rate", rate=rate)] if rate else []
        lines.append(f"{name} ({', '.join(plan['roles'])})\t{' · '.join(state)}")
        value.append({"model": name, "roles": plan["roles"], "installed": plan["installed"], "loaded": bool(here),
                      "tokens_per_second": rate})  # fmt: skip
    return value, [*lines, *(f"{role}\t{why}" for role, why in problems.items())]


def _status(talk: Talk, _rest: str) -> Result:
    status = talk.run(talk.engine.astatus())
    history, count = talk.run(talk.session.ahistory()), _count(talk)
    done = talk.run(talk.session.await_(0))
    facts = {"name": talk.name, "user": talk.user, "turns": len(history),
             "condensed": sum(said.condensed for said in history)}  # fmt: skip
    sizes = {"held": status.held, "budget": status.budget, "resident": status.resident}
    told = {
        "session": talk.said("session is", **facts),
        "memories": _counted(count),
        "held": talk.said("held is", **{name: bytes_text(size) for name, size in sizes.items()}),
        "background": talk.said("done" if done else "waits"),
    }
    value = {"session": facts, "memories": count, **sizes, "idle": done}
    return value, [f"{talk.said(what)}\t{line}" for what, line in told.items()]


def _help(talk: Talk, _rest: str) -> Result:
    lines = [talk.said(name) for name in _NAMES]
    other = int(talk.language != "ko")
    also = [f"{line}\t/{_NAMES[name][other]}" for name, line in zip(_NAMES, lines, strict=True)]
    return {name: list(words) for name, words in _NAMES.items()}, also


_VERBS: dict[str, Callable[[Talk, str], Result]] = {
    "memory": _memory, "forget": _forget, "summary": _summary, "model": _model, "status": _status, "help": _help,
}  # fmt: skip
