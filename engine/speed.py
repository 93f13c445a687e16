"""The guide's four expectations, measured on this machine with the models that are here."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from engine import layout, tuning
from engine.errors import Cancelled, EngineClosed, EngineError
from engine.metrics import Progress, ProgressCallback, report

if TYPE_CHECKING:
    from engine.config import ModelSpec
    from engine.metrics import Usage

T = TypeVar("T")
_TASK = "measure speed"
MADE_UP = 64  # memories that are searched where the user has none
_SYSTEM = "당신은 사용자를 잘 아는 한국어 비서입니다. 짧고 정확하게, 존댓말로 답하세요."
# About a hundred tokens of context each, and all different: what was computed for one must not help the next.
_ASKED = {
    "오늘 저녁에 뭘 먹으면 좋을까요?": (
        "사용자는 부산에 살고, 게임 회사에서 서버 개발자로 일한다.",
        "땅콩 알레르기가 있어서 견과류를 먹지 않는다.",
        "강아지 보리와 함께 살며, 매주 화요일 저녁에는 수영을 배우러 다닌다.",
    ),
    "이번 주말에는 무엇을 하면 좋을까요?": (
        "여동생 수진이가 10월에 결혼한다.",
        "올해 안에 토익 900점을 넘기는 것이 목표이고, 커피 대신 녹차를 마신다.",
        "허리가 아파서 한 달에 한 번 정형외과에 가며, 주말에는 토마토를 키운다.",
    ),
    "휴가를 어디로 가면 좋을까요?": (
        "작년 여름에 가족과 강릉 바다에 다녀왔다.",
        "생일은 4월 17일이고 회색 자동차를 몬다. 매운 음식은 잘 먹지 못한다.",
        "다음 주 금요일에 치과 예약이 있으며, 밤 열한 시에는 자려고 한다.",
    ),
    "부모님께 어떤 선물을 드릴까요?": (
        "고등학교에서 수학을 가르치고, 아침마다 한 시간씩 걷는다.",
        "할머니께서 전주에 사셔서 명절마다 찾아뵙는다. 역사책을 즐겨 읽는다.",
        "최근에 기타를 배우기 시작했고, 사진 찍는 것을 좋아한다.",
    ),
}
_SAID = (
    "저는 매운 음식을 정말 좋아해요",
    "요즘 편두통이 심해서 약을 먹어요",
    "내년에는 마라톤을 완주하고 싶어요",
    "내일까지 보고서를 팀장님께 보내야 해요",
)
_SOUGHT = ("내가 못 먹는 음식이 뭐였지?", "어디에 살고 있더라?", "주말에 하는 일", "언제 병원에 가야 하지?")
_WHO = ("저는", "우리 형은", "여동생 수진이는", "친구 민지는", "팀장님은", "할머니는", "옆집 아저씨는", "사촌 동생은")
_DOES = (
    "땅콩을 먹지 못해요", "부산에 살아요", "화요일마다 수영을 배워요", "올해 토익 900점이 목표예요",
    "강릉 바다에 다녀왔어요", "베란다에서 토마토를 키워요", "금요일에 치과에 가요", "녹차를 즐겨 마셔요",
)  # fmt: skip


_ADVICE = {
    "first chat token": "a smaller chat model or a GPU answers sooner; gieok doctor --retune measures the threads anew",
    "classification": "an embedding model classifies faster: name it as classification in models.toml",
    "embedding": "name a smaller embedding model in models.toml",
    "memory search": "name a smaller embedding model in models.toml: most of a search is embedding the question",
}
_Taken = tuple[float, str | None]  # seconds, and what was read or searched


class Answer(Protocol):
    """What an answer cost."""

    @property
    def usage(self) -> Usage:
        """Tokens and times."""


class Pieces(Protocol):
    """An answer that comes piece by piece; leaving it ends it."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """End."""

    def __iter__(self) -> Iterator[str]:
        """Return the pieces."""

    @property
    def reply(self) -> Answer:
        """The answer as far as it came."""


class Facade(Protocol):
    """The part of an engine that is measured."""

    def stream(self, messages: Sequence[dict[str, str]], /, *, context: Sequence[str], max_tokens: int) -> Pieces:
        """Answer, piece by piece."""

    def classify(self, texts: str, /) -> object:
        """Say which category a text belongs to."""

    def embed(self, texts: str, /) -> object:
        """Return a text's vector."""

    def remember(self, texts: Sequence[str], /) -> object:
        """Store memories."""

    def search(self, query: str, /) -> object:
        """Find memories."""


@dataclass(frozen=True, slots=True)
class Line:
    """One expectation: seconds `measured` (the median) against the `target`; both are None where it was not measured.

    `over` says what was read or searched; `step` what is missing, or may help.
    """

    what: str
    target: float
    model: str | None = None
    measured: float | None = None
    met: bool | None = None
    over: str | None = None
    step: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Search:
    """How memories are searched, and which they are."""

    ask: Callable[[str], object]
    over: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What is measured: `roles` of a profile, through `engine`, which opens another one on a home of its own.

    `own` is None where the user has no memories that can be searched as they are: then made-up ones are.
    """

    engine: Callable[[Path], AbstractContextManager[Facade]]
    roles: Mapping[str, ModelSpec]
    own: Search | None
    progress: ProgressCallback | None


def measure(asked: Measured) -> list[Line]:
    """Return the lines, each with the models warm; nothing of it stays on disk, but how a model is run best.

    Raises `Cancelled`, `EngineClosed`; what else goes wrong is told in the line.
    """
    busy = _busy()
    with _borrowed_home() as home, asked.engine(home) as engine:
        lines = [
            _line(asked, Line("first chat token", 3.0), "chat", partial(_first_tokens, engine)),
            _line(asked, Line("classification", 0.5), "classification", partial(_said, engine.classify)),
            _line(asked, Line("embedding", 0.1), "embedding", partial(_said, engine.embed)),
        ]
        if asked.own is None:
            lines.append(_line(asked, Line("memory search", 0.2), "embedding", partial(_made_up_found, engine)))
    if asked.own is not None:  # by now the other engine has given its memory back
        lines.append(_line(asked, Line("memory search", 0.2), "embedding", partial(_found, asked.own)))
    report(asked.progress, Progress(_TASK, len(lines), len(lines), "lines"))
    return [replace(line, step=busy or _ADVICE[line.what]) if line.met is False else line for line in lines]


def _line(asked: Measured, line: Line, role: str, ask: Callable[[], _Taken]) -> Line:
    """Return a line with what measuring it came to."""
    report(asked.progress, Progress(f"{_TASK}: {line.what}", 0, 0, "s"))
    spec = asked.roles.get(role)
    if spec is None:
        return replace(line, step=f"the profile names no {role} model")
    line = replace(line, model=spec.name)
    if not layout.installed(spec):
        return replace(line, step=f"gieok models pull {spec.name}")
    try:
        seconds, over = ask()
    except (Cancelled, EngineClosed):
        raise
    except EngineError as error:
        return replace(line, step=str(error))
    return replace(line, measured=seconds, met=seconds <= line.target, over=over)


def _busy() -> str:
    """Return what to do where other programs use the processor, else nothing; Windows does not tell."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    cores = tuning.usable_cores()
    if load < cores / 2:
        return ""
    return f"other programs were busy (load {load:.1f} on {cores} cores): close them and measure again"


# ---- what is asked


def _first_tokens(engine: Facade) -> _Taken:
    tokens: list[int] = []

    def ask(asked: tuple[str, tuple[str, ...]]) -> None:
        question, context = asked
        messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": question}]
        with engine.stream(messages, context=context, max_tokens=8) as stream:
            next(iter(stream), "")
        tokens.append(stream.reply.usage.prompt_tokens)

    return _median(ask, _ASKED.items()), f"a prompt of {round(statistics.median(tokens))} tokens"


def _said(ask: Callable[[str], object]) -> _Taken:
    return _median(ask, _SAID), None


def _found(search: Search) -> _Taken:
    return _median(search.ask, _SOUGHT), search.over


def _made_up_found(engine: Facade) -> _Taken:
    engine.remember(made_up())
    return _found(Search(engine.search, f"{MADE_UP} made-up memories, removed again"))


def made_up() -> list[str]:
    """Return memories, each another one."""
    return [f"{who} {does}" for who in _WHO for does in _DOES][:MADE_UP]


def _median(ask: Callable[[T], object], given: Iterable[T]) -> float:
    """Return the median of the seconds that each takes but the first, which loads and warms what it needs."""
    first, *rest = given
    ask(first)
    taken = []
    for each in rest:
        began = time.perf_counter()
        ask(each)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


@contextmanager
def _borrowed_home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gieok-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
