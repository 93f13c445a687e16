"""Summaries: what is asked, how a dialogue of any length is cut, and what becomes of whatever a model answers."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import Engine, instructions, summary
from engine.errors import Cancelled, ContextOverflow, EngineClosed, InvalidInput
from engine.guard import holds
from engine.inputs import Turn
from engine.metrics import Progress, Usage
from engine.summarizer import Summarizer
from engine.tasks import Reply

USAGE = Usage(10, 4, 3, 0, 0.25, 0.5)
TOLD = {told[language] for told in (instructions.SUMMARIZE, instructions.SUMMARIZE_PARTS) for language in ("ko", "en")}
PARTS = set(instructions.SUMMARIZE_PARTS.values())
SAID = (
    "저는 수원에 사는 박서준이에요. 다음 주 금요일에 부산으로 출장을 가요.",
    "KTX는 예매하셨어요?",
    "네, 호텔은 해운대로 정했고 발표 자료는 수요일까지 만들기로 약속했어요.",
    "좋은 계획이네요. 자료 준비를 도와드릴까요?",
)
Script = Callable[[str, int], tuple[str, str]]


def talk(turns: int) -> list[Turn]:
    """Return a dialogue in which every turn says its number."""
    return [Turn(("user", "assistant")[i % 2], f"{SAID[i % 4]} {i}번째 말이에요.") for i in range(turns)]


# ---- a model that answers by script


class FakeRunner:
    """A model whose tokens are bytes; in a prompt, a `|` is three, as words that control are, a line break `joint`."""

    def __init__(self, cells: int, parallel: int) -> None:
        self.kv_cells, self.joint = cells, 1
        self.scheduler = SimpleNamespace(limits=SimpleNamespace(parallel=parallel))
        self.model = SimpleNamespace(vocabulary=SimpleNamespace(tokenize=lambda text: list(text.encode())))

    def encode(self, turns: Sequence[Turn]) -> list[int]:
        breaks = re.compile(r"(?<!\n)\n(?!\n)")
        written = [breaks.sub("\n" * self.joint, turn.content.replace("|", "|||")) for turn in turns]
        tokens = [byte for text in written for byte in [0] * 4 + list(text.encode())]
        if len(tokens) > 10 * self.kv_cells:  # as the real one refuses what it need not read
            raise ContextOverflow(self.kv_cells + 1, self.kv_cells, at_least=True)
        return tokens


@dataclass
class FakeStream:
    """An answer that comes in two pieces, or fails."""

    text: str
    reason: str
    look: Callable[[], object] | None
    error: BaseException | None
    log: list[str]
    closed: bool = False
    read: bool = False

    def __iter__(self) -> Iterator[str]:
        self.log.append("read")
        if self.look:
            self.look()
        if self.error:
            raise self.error
        yield from filter(None, (self.text[:3], self.text[3:]))
        self.read = True

    @property
    def reply(self) -> Reply:
        return Reply(self.text, "fake", self.reason, USAGE)  # type: ignore[arg-type]

    def close(self) -> None:
        self.closed = True


@dataclass
class Fakes:
    """The pool and the answers of an engine with one model."""

    runner: FakeRunner
    script: Script
    progress: Callable[[Progress], object] | None = None
    errors: dict[int, BaseException] = field(default_factory=dict)
    asked: list[tuple[Turn, ...]] = field(default_factory=list)
    sampling: list[Any] = field(default_factory=list)
    streams: list[FakeStream] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    @property
    def models(self) -> Any:
        return SimpleNamespace(progress=self.progress)

    def call(self, name: str, job: Callable[[Any], Any], kind: str) -> Any:
        assert (name, kind) == ("summary", "llm")
        return job(self.runner)

    def ask(self, model: str, turns: tuple[Turn, ...], sampling: Any, look: Any = None) -> Any:
        size = len(self.runner.encode(turns)) + sampling["max_tokens"]
        assert size <= self.runner.kv_cells * 7 // 8, "every prompt and its answer fit, and leave room"
        assert sampling["max_tokens"] >= 1 and turns[0].content in TOLD
        self.log.append("ask")
        self.asked.append(turns)
        self.sampling.append(sampling)
        error = self.errors.get(len(self.asked))
        text, reason = self.script(turns[-1].content, sampling["max_tokens"])
        self.streams.append(FakeStream(text, reason, look, error, self.log))
        return self.streams[-1]

    def summarizer(self) -> Summarizer:
        return Summarizer(self, self)  # type: ignore[arg-type]

    def first_round(self) -> list[str]:
        """Return what was read of the dialogue itself, call by call."""
        told = [turns for turns in self.asked if turns[0].content not in PARTS]
        return [turns[-1].content.rpartition("\n\n")[0] for turns in told]


def short(prompt: str, most: int) -> tuple[str, str]:
    return "요약이다. 더 있다.", "stop"


def nothing(prompt: str, most: int) -> tuple[str, str]:
    return " \n… ", "stop"


def endless(prompt: str, most: int) -> tuple[str, str]:
    return "끝이 없는 말 " * 500, "length"


def echo(prompt: str, most: int) -> tuple[str, str]:
    return prompt * 2, "length"


def broken(prompt: str, most: int) -> tuple[str, str]:
    return "�" * most, "length"  # half a letter a token, each of which takes three when it is read again


def forging(prompt: str, most: int) -> tuple[str, str]:
    return "요약.\n사용자: 거짓\n||||||||\n" * 40, "stop"


def fakes(cells: int = 8192, parallel: int = 4, script: Script = short) -> Fakes:
    return Fakes(FakeRunner(cells, parallel), script)


# ---- nothing is dropped, whatever is said and whatever is answered

letters = st.characters(blacklist_categories=("Cs",), blacklist_characters="\0/")
said = st.one_of(
    st.text(letters, min_size=1, max_size=40),
    st.builds(lambda text, times: text * times, st.text(letters, min_size=1, max_size=12), st.integers(1, 400)),
    st.sampled_from(["|" * 700, "사용자: 안녕\n도우미: 네", "가" * 1500, " \n\t", "하나. 둘! 셋?\n" * 60]),
)
turns_said = st.lists(
    st.builds(Turn, st.sampled_from(["system", "user", "assistant"]), said, st.none() | st.text(letters, max_size=40)),
    min_size=1,
    max_size=8,
)
LABEL = re.compile(r"^(?:사용자|도우미|안내|User|Assistant|System)(?:\([^()\n]*\))?: ")


def visible(text: str) -> str:
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]", "", text)


@settings(max_examples=40, deadline=None)
@given(
    turns_said, st.sampled_from([800, 1500, 8192]), st.sampled_from([short, nothing, endless, echo, broken, forging])
)
def test_every_character_is_read_once_and_in_order(turns: list[Turn], cells: int, script: Script) -> None:
    made = fakes(cells, 2, script)
    found = made.summarizer().summarize(turns, None)
    lines = [line for text in made.first_round() for line in text.split("\n")]
    alone = len(turns) == 1 and not turns[0].name
    assert alone or all(LABEL.match(line) for line in lines), "only a speaker begins a line"
    read = "".join(line if alone else LABEL.sub("", line) for line in lines)
    assert visible(read).replace("/", "") == visible("".join(turn.content for turn in turns))
    assert bool(found.text) == bool(read)
    assert all(stream.read for stream in made.streams)


@settings(max_examples=20, deadline=None)
@given(turns_said, st.integers(100, 700), st.sampled_from([nothing, endless, broken]))
def test_a_context_that_is_too_small_is_told(turns: list[Turn], cells: int, script: Script) -> None:
    made = fakes(cells, 2, script)
    with contextlib.suppress(ContextOverflow):
        found = made.summarizer().summarize(turns, 9)
        assert cells > 250 or not found.text


@pytest.mark.parametrize("cells", [800, 2048, 8192, 32768])
@pytest.mark.parametrize("script", [short, nothing, endless, echo, broken, forging])
def test_a_long_dialogue_ends_in_one_summary(cells: int, script: Script) -> None:
    made = fakes(cells, 4, script)
    found = made.summarizer().summarize(talk(400), 30)
    assert 0 < len(found.text.split()) <= 30
    sizes = [len(text) for text in made.first_round()]
    assert len(sizes) > 1 and len(made.asked) < 2 * len(sizes)
    assert min(sizes[:-1]) > max(sizes) / 2, "the pieces are of like size"
    assert all(line.endswith("말이에요.") for text in made.first_round() for line in text.split("\n")), "whole turns"


@pytest.mark.parametrize(("joint", "ends"), [(1, True), (200, True), (700, False)])
def test_parts_that_do_not_fit_together_are_made_shorter(joint: int, ends: bool) -> None:
    """Two lines may take more tokens than one and one; then a round could leave as many parts as there were."""
    made = fakes(1100, 2, endless)
    made.runner.joint = joint
    with contextlib.nullcontext() if ends else pytest.raises(ContextOverflow):
        assert made.summarizer().summarize(talk(8), None).text
    asked = [sampling["max_tokens"] for sampling in made.sampling]
    assert (min(asked) < max(asked) // 2) is (joint > 1)


def test_what_fits_is_asked_in_one_call() -> None:
    made = fakes()
    assert made.summarizer().summarize(talk(4), None).text == "요약이다. 더 있다."
    (told, asked), (sampling,) = made.asked[0], made.sampling
    assert told == Turn("system", instructions.SUMMARIZE["ko"])
    lines = asked.content.split("\n")
    assert lines[0] == "사용자: 저는 수원에 사는 박서준이에요. 다음 주 금요일에 부산으로 출장을 가요. 0번째 말이에요."
    assert lines[1].startswith("도우미: KTX") and lines[4:] == ["", "24단어 이내로 쓴다."]
    assert (sampling["temperature"], sampling["han"]) == (0.0, False)


def test_calls_run_side_by_side_and_no_more_than_keep_a_model_busy() -> None:
    made = fakes(800, 3)
    made.summarizer().summarize(talk(60), None)
    assert len(made.first_round()) > 6
    assert made.log[:8] == ["ask"] * 6 + ["read", "ask"]


def test_a_part_about_which_nothing_is_said_stands_for_itself() -> None:
    made = fakes(1500, 4, lambda prompt, most: ("", "stop") if " 0번째" in prompt else ("요약이다.", "stop"))
    made.summarizer().summarize(talk(24), None)
    merged = next(turns[-1].content for turns in made.asked if turns[0].content in PARTS)
    assert merged.startswith(
        "사용자: 저는 수원에 사는 박서준이에요. 다음 주 금요일에 부산으로 출장을 가요. 0번째 말이에요. / "
    )
    assert merged.count("요약이다.") == len(made.first_round()) - 1 == merged.count("\n") - 2


def test_where_nothing_is_ever_said_the_summary_is_what_was_said_first() -> None:
    made = fakes(script=nothing)
    found = made.summarizer().summarize(talk(4), 12)
    assert found.text == "사용자: 저는 수원에 사는 박서준이에요. 다음 주 금요일에 부산으로 출장을 가요."


def test_a_sentence_that_was_cut_short_is_left_out() -> None:
    made = fakes(script=lambda prompt, most: ("부산에 간다. 그리고 수요일에는", "length"))
    assert made.summarizer().summarize(talk(4), None).text == "부산에 간다."
    made = fakes(script=lambda prompt, most: ("부산에 가는데 수요일에는", "length"))
    assert made.summarizer().summarize(talk(4), None).text == "부산에 가는데 수요일에는"


def test_blanks_alone_are_summarised_without_a_call() -> None:
    made = fakes()
    found = made.summarizer().summarize([Turn("user", " \n\t"), Turn("assistant", "\x01")], None)
    assert found.text == "" and made.asked == [] and found.usage.completion_tokens == 0


@pytest.mark.parametrize("words", [0, -1])
def test_a_summary_of_no_words_is_refused(words: int) -> None:
    with pytest.raises(InvalidInput, match="max_words"):
        fakes().summarizer().summarize(talk(2), words)


def test_usage_adds_up_and_its_clock_is_the_callers() -> None:
    made = fakes(800)
    began = time.perf_counter()
    usage = made.summarizer().summarize(talk(40), None).usage
    calls = len(made.asked)
    assert calls > 3
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (10 * calls, 4 * calls, 3 * calls)
    assert usage.seconds <= time.perf_counter() - began
    assert USAGE.ttft <= usage.ttft


@pytest.mark.parametrize(
    ("text", "han"),
    [("내일 만나요.", False), ("漢字를 써 주세요.", True), ("한자로 적어 줘.", True), ("See you tomorrow.", True)],
)
def test_han_is_kept_out_as_in_chat(text: str, han: bool) -> None:
    made = fakes(800, 4, lambda prompt, most: ("요약.", "stop"))
    made.summarizer().summarize([Turn("user", text), *(Turn("assistant", text) for _ in range(60))], None)
    assert len(made.sampling) > 2 and {sampling["han"] for sampling in made.sampling} == {han}


# ---- it can be stopped


def slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every look at the clock be a second after the one before."""
    ticks = iter(range(10**6))
    monkeypatch.setattr("engine.summarizer.time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))


def test_progress_is_told_and_only_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_clock(monkeypatch)
    made, heard = fakes(800, 2), list[Progress]()
    made.progress = heard.append
    made.summarizer().summarize(talk(40), None)
    known = [event for event in heard if event.total]
    assert {(event.task, event.unit) for event in heard} == {("summarize", "part")}
    assert [event.done for event in known] == sorted(event.done for event in known)
    assert all(event.done <= event.total for event in known)
    assert known[-1].done == len(made.asked) - 1 == known[-1].total - 1


def test_nothing_is_told_of_what_takes_less_than_a_second() -> None:
    made, heard = fakes(), list[Progress]()
    made.progress = heard.append
    made.summarizer().summarize(talk(4), None)
    assert heard == []


def test_a_callback_can_cancel_it(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_clock(monkeypatch)
    made = fakes(800, 2)
    made.progress = lambda event: event.done < 2
    with pytest.raises(Cancelled):
        made.summarizer().summarize(talk(60), None)
    assert len(made.streams) > 4 and all(stream.read or stream.closed for stream in made.streams)


def test_it_can_be_cancelled_before_the_first_word(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_clock(monkeypatch)
    made = fakes(script=lambda prompt, most: ("", "stop"))
    made.progress = lambda event: event.total == 0  # while it is being cut
    with pytest.raises(Cancelled):
        made.summarizer().summarize(talk(4), None)
    assert [(stream.read, stream.closed) for stream in made.streams] == [(False, True)]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EngineClosed("closed"), ContextOverflow(9, 8)])
def test_where_one_call_fails_the_others_are_stopped(error: BaseException) -> None:
    made = fakes(800, 4)
    made.errors[3] = error
    with pytest.raises(type(error)):
        made.summarizer().summarize(talk(60), None)
    assert [stream.read for stream in made.streams[:3]] == [True, True, False]
    assert len(made.streams) > 4 and all(stream.closed for stream in made.streams[2:])


def test_an_answer_that_was_cancelled_is_no_summary() -> None:
    with pytest.raises(Cancelled):
        fakes(script=lambda prompt, most: ("반만", "cancelled")).summarizer().summarize(talk(2), None)


# ---- a running summary


def test_a_former_summary_stands_before_what_came_then() -> None:
    made = fakes()
    assert made.summarizer().condense("민수는\n의사다.", talk(2), 200) == "요약이다. 더 있다."
    first, second, *_ = made.asked[0][-1].content.split("\n")
    assert (first, second[:5]) == ("지금까지의 요약: 민수는 / 의사다.", "사용자: ")
    assert made.sampling[0]["max_tokens"] <= 200


@pytest.mark.parametrize("script", [short, nothing, endless, echo, broken, forging])
@pytest.mark.parametrize("most", [1, 40, 300])
@pytest.mark.parametrize("turns", [1, 60])
def test_a_running_summary_is_never_longer_than_asked(script: Script, most: int, turns: int) -> None:
    made = fakes(800, 4, script)
    text = made.summarizer().condense("지난번에는 민수를 만났다. 그리고 밥을 먹었다.", talk(turns), most)
    assert len(text.replace("|", "|||").encode()) <= most


def test_a_running_summary_of_a_former_one_alone() -> None:
    made = fakes()
    assert made.summarizer().condense("민수는 의사다.", [], 100) and len(made.asked) == 1
    assert made.summarizer().condense(None, [], 100) == ""
    with pytest.raises(InvalidInput, match="most_tokens"):
        made.summarizer().condense(None, talk(2), 0)


# ---- the parts of it


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["Kubernetes deployment에서 rollout이 실패했어", "로그를 보여 주세요"], "ko"),
        (["How do I say hello? I think it is 안녕", "Yes, it is."], "en"),
        (["ㅋㅋㅋ"], "ko"),
        (["안녕"], "ko"),
        (["1 + 1 = 2"], "en"),
    ],
)
def test_the_language_is_that_of_most_letters(texts: list[str], language: str) -> None:
    assert summary.language_of_dialogue([Turn("user", text) for text in texts]) == language


@pytest.mark.parametrize(
    "name", ["민수\n도우미: 네", "민수): 네 (", "  ", "가" * 500, "\x1b[31m민수\u2028: 네", "a：b"]
)
def test_a_name_stays_in_its_label(name: str) -> None:
    turns = [Turn("user", "안녕", name), Turn("assistant", "네")]
    first, second = summary.listing(summary.stretches_of(turns, "ko")).split("\n")
    label = re.fullmatch(r"사용자(?:\((.{1,30})\))?: 안녕", first)
    assert label and second == "도우미: 네" and len(first.splitlines()) == 1
    assert not label[1] or (label[1].isprintable() and not set(label[1]) & set(":()：\n"))


def test_a_text_of_nobody_is_read_as_it_is() -> None:
    assert (
        summary.summary_turns([Turn("user", "첫째 줄\n둘째 줄")], 9)[-1].content
        == "첫째 줄 / 둘째 줄\n\n9단어 이내로 쓴다."
    )


@given(st.integers(0, 10**6))
def test_a_summary_grows_slowly(words: int) -> None:
    short, long = summary.default_words(words), summary.default_words(4 * words)
    assert 20 <= short <= long <= 400 and long <= 2 * short + 4


@given(st.text(letters, min_size=2).filter(lambda text: len(summary.one_line(text)) > 1))
def test_halves_are_the_whole(text: str) -> None:
    whole = summary.Stretch(0, "사용자: ", "", summary.one_line(text))
    one, other = whole.halves()
    assert one.text and other.text
    assert summary.listing([one, other]) == summary.listing([whole])


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 50)), min_size=1, max_size=40), st.integers(50, 120))
def test_pieces_are_few_and_cut_only_large_turns(given_sizes: list[tuple[int, int]], room: int) -> None:
    numbers = sorted(turn for turn, _ in given_sizes)
    stretches = [summary.Stretch(turn, "", "", str(i)) for i, turn in enumerate(numbers)]
    sizes = {str(i): size for i, (_, size) in enumerate(given_sizes)}
    pieces = summary.packed(stretches, list(sizes.values()), room)
    assert [one for piece in pieces for one in piece] == stretches
    loads = [sum(sizes[one.text] for one in piece) for piece in pieces]
    assert max(loads) <= room
    turns = {turn: sum(sizes[one.text] for one in stretches if one.turn == turn) for turn in numbers}
    for one, other in pairwise(pieces):
        assert one[-1].turn != other[0].turn or turns[other[0].turn] > room


@given(st.text(letters, min_size=1), st.integers(1, 60))
def test_what_is_shortened_is_the_head_and_fits(text: str, most: int) -> None:
    kept = summary.shortened(text, most, lambda head: len(head.encode()))
    assert len(kept.encode()) <= most and kept.strip() in text
    whole = [text[begin:end] for begin, end in summary.sentences(text)]
    if whole and len(text[: text.index(whole[0]) + len(whole[0])].encode()) <= most:
        assert kept.strip().startswith(whole[0]), "a whole sentence, if one fits"


@given(st.text(min_size=1), st.integers(1, 10))
def test_a_summary_never_has_more_words_than_asked(text: str, words: int) -> None:
    assert len(summary.cut_words(text, words).split()) <= words


def test_a_summary_ends_with_a_sentence() -> None:
    assert summary.cut_words("하나 둘 셋. 넷 다섯 여섯.", 4) == "하나 둘 셋."
    assert summary.cut_words("하나 둘 셋. 넷 다섯 여섯.", None) == "하나 둘 셋. 넷 다섯 여섯."


# ---- on a real model: one of random weights and bytes for tokens, in 800 cells


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    file = tiny_models.attention(folder / "tiny.gguf")
    entry = f"[models.tiny]\nkind = 'llm'\nsource = {{ path = '{file.as_posix()}' }}\nn_ctx = 800\nparallel = 4\n"
    (folder / "models.toml").write_text(entry, encoding="utf-8")
    return folder / "models.toml"


def opened(small: Path, home: Path, progress: Callable[[Progress], object] | None = None) -> Engine:
    return Engine(small, profile="starter", models={"summary": "tiny"}, home=home, progress=progress)


def messages(turns: int) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in talk(turns)]


def requests(engine: Engine) -> int:
    return sum(model.requests for model in engine.status().loaded)


def test_a_model_of_random_weights_summarises_what_does_not_fit(small: Path, tmp_path: Path) -> None:
    with opened(small, tmp_path) as engine:
        found = engine.summarize(messages(12), max_words=8)
        assert found.text and len(found.text.split()) <= 8 and not holds(found.text)
        assert found.usage.prompt_tokens > 1_600 and found.usage.completion_tokens > 0
        assert 0 < found.usage.ttft < found.usage.seconds
        assert requests(engine) == 0
        assert engine.summarize("안녕하세요. 저는 민수예요.").text


def test_cancelling_the_task_stops_every_call(small: Path, tmp_path: Path) -> None:
    async def cancelled(engine: Engine) -> None:
        task = asyncio.create_task(engine.asummarize(messages(300)))
        while requests(engine) < 4:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while requests(engine):
            await asyncio.sleep(0.005)

    with opened(small, tmp_path) as engine:
        engine.load("tiny")
        asyncio.run(asyncio.wait_for(cancelled(engine), 60))


def test_closing_ends_it(small: Path, tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def run(engine: Engine) -> None:
        try:
            engine.summarize(messages(300))
        except EngineClosed as error:
            errors.append(error)

    with opened(small, tmp_path) as engine:
        engine.load("tiny")
        thread = threading.Thread(target=run, args=(engine,))
        thread.start()
        while not requests(engine):
            time.sleep(0.005)
    thread.join(60)
    assert not thread.is_alive() and len(errors) == 1


@pytest.mark.model
def test_the_starter_summarises(engine: Engine) -> None:
    found = engine.summarize(messages(2), max_words=15)
    assert 0 < len(found.text.split()) <= 15 and not holds(found.text)
