"""The rows of the runtime comparison: what each side does, and what is wanted of it."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from runtime_benchmark import CACHED, Counts, Run
from runtime_sides import Answer, Bare, Cancelled, Ours, Setup, Side, apart, settings
from runtime_table import OURS, PEER, THEIRS, Row, Wanted, p95
from runtime_texts import ASSISTANT, DOCUMENT, READER, TURNS, Messages, conversation, prose, said, sized

LEAN, BARE, WITHOUT = "with a lean grammar", "a bare loop", "nothing on disk"
STREAMS = 8
FIRST = "time to the first token of a turn"
QUESTION = "바닷가 작은 마을의 하루를 길게 이야기해 줘."
CHILD = """
import json, sys, time
from engine import Engine
settings, text = json.loads(sys.argv[1]), sys.argv[2]
began = time.perf_counter()
with Engine(**settings) as engine:
    engine.load("classification")
    loaded = time.perf_counter()
    label = engine.classify(text).label
    done = time.perf_counter()
print(json.dumps([done - began, done - loaded, label]))
"""


def decode(run: Run) -> Row:
    """One stream, against a loop around `llama_decode`."""
    tokens = run.counts.decode
    with run.ours() as ours, apart(Bare, run.setup) as bare:
        asked = [[said("user", f"{n}. {QUESTION}")] for n in range(run.rounds)]
        speeds = run.alternate(
            {
                OURS: lambda n: speed(ours.chat(asked[n], tokens)),
                BARE: lambda n: bare.speed(ours.ids(asked[n]), tokens),
            },
            run.rounds,
        )
    return Row(
        "decode", f"one stream, {tokens} tokens: decode", "tokens/s", speeds, BARE, Wanted("ours/theirs", True, 0.98)
    )


def speed(answer: Answer) -> float:
    """Return the tokens a second after the first one."""
    return (answer.tokens - 1) / (answer.seconds - answer.first)


def prefill(run: Run) -> Row:
    """A prompt that nobody has read before; each side computes the same tokens."""
    wanted = run.counts.prefill
    with run.sides() as (ours, theirs, _):
        texts = fresh(ours, "prefill", wanted, run.rounds)
        read: list[Answer] = []

        def our_speed(n: int) -> float:
            read.append(ours.chat(texts[n], 1))
            return (read[n].prompt - read[n].cached) / read[n].first

        def their_speed(n: int) -> float:
            ids = ours.ids(texts[n])[read[n].cached :]
            return len(ids) / theirs.prefill(ids)

        work = {OURS: our_speed, THEIRS: their_speed}
        if server := run.peer:
            work[PEER] = lambda n: (read[n].prompt - read[n].cached) / server.chat(texts[n], 1).first
        speeds = run.alternate(work, run.rounds)
    computed = sorted({answer.prompt - answer.cached for answer in read})
    notes = (f"{computed[0]} to {computed[-1]} tokens were new; theirs is `reset()` and `eval()` of just these",)
    limit = Wanted("ours/theirs", True, 1.4)
    return Row("prefill", f"prefill of {wanted} new tokens", "tokens/s", speeds, wanted=limit, notes=notes)


def fresh(ours: Ours, seed: str, tokens: int, count: int) -> list[Messages]:
    """Return messages of which about so many tokens are new to a model that has read others of their kind."""
    head = ours.chat([said("user", prose(f"{seed} head", 4))], 1).cached

    def message(n: int, words: int) -> Messages:
        return [said("user", prose(f"{seed} {n}", words))]

    # two less, since numbers that begin with the same digits share tokens
    return [sized(head + tokens - 2, partial(message, n), lambda asked: len(ours.ids(asked))) for n in range(count)]


def turns(run: Run) -> Row:
    """A chat whose turns alternate with background work."""
    found, wanted = chat_turns(run, cache=False), Wanted("theirs/ours", True, 6)
    row = Row("turns", "", "s", found, pick="mean", wanted=wanted, repeats=1)
    between = ", an extraction and a classification between" if run.counts.background else ""
    return replace(row, work=f"{run.counts.turns} turns of chat{between}: {FIRST}")


def turns_cached(run: Run) -> Row:
    """The same, where `llama_cpp.Llama` keeps the states of earlier prompts."""
    row = Row("turns-cached", f"the same against set_cache(LlamaRAMCache()): {FIRST}", "s", pick="mean", repeats=1)
    return replace(row, values=chat_turns(run, cache=True), against=CACHED)


def chat_turns(run: Run, *, cache: bool) -> dict[str, list[float]]:
    """Return the seconds to the first token of each turn, by side."""
    with run.sides(cache=cache) as (_, _, sides):

        def turn(side: Side, n: int) -> float:
            first = side.chat(conversation(n), run.counts.reply).first
            if run.counts.background:
                side.extract(TURNS[n][0])
                side.classify(TURNS[n][0])
            return first

        return run.alternate({name: partial(turn, side) for name, side in sides.items()}, run.counts.turns)


def shared(run: Run) -> Row:
    """Requests with a common prefix: at once, against one after the other."""
    counts = run.counts
    with run.sides() as (ours, _, sides):
        asked = [family(ours, n, counts, STREAMS) for n in range(run.rounds)]
        work = {
            name: partial(lambda side, n: side.together(asked[n], counts.written), side) for name, side in sides.items()
        }
        found = run.alternate(work, run.rounds)
    written = ", ".join(f"{name} {statistics.median(n for _, n in each):.0f}" for name, each in found.items())
    return Row(
        "shared",
        f"{STREAMS} requests at once, {counts.prefix} tokens in common, {counts.own} own, {counts.written} written",
        "s",
        {name: [spent for spent, _ in each] for name, each in found.items()},
        wanted=Wanted("theirs/ours", True, 2),
        notes=(f"tokens written: {written}; theirs are asked one after the other, its own prefix cache at work",),
    )


def family(ours: Ours, n: int, counts: Counts, streams: int) -> list[Messages]:
    """Return so many conversations that begin alike, of the tokens that the row wants."""

    def count(messages: Messages) -> int:
        return len(ours.ids(messages))

    def common(words: int) -> Messages:
        return [said("system", prose(f"shared {n}", words)), said("user", "네")]

    prefix = sized(counts.prefix, common, count)

    def own(i: int, words: int) -> Messages:
        return [prefix[0], said("user", prose(f"own {n} {i}", words))]

    return [sized(count(prefix) + counts.own, partial(own, i), count) for i in range(streams)]


def document(run: Run) -> Row:
    """A JSON document that follows a schema."""
    with run.sides() as (_, _, sides):

        def write(side: Side, n: int) -> Answer:
            asked = [said("system", READER), said("user", prose(f"document {n}", 60))]
            return side.document(asked, DOCUMENT, run.counts.document)

        for side in sides.values():
            write(side, -1)  # compiles the schema and reads the instruction, once for all
        work = {name: partial(write, side) for name, side in sides.items()}
        found = run.alternate(work, run.rounds)
    return Row(
        "document",
        "extraction of a 3-item document, same schema and prompt",
        "s",
        {name: [answer.seconds for answer in each] for name, each in found.items()},
        wanted=Wanted("theirs/ours", True, 2),
        notes=(
            *(f"{name}: {documents(each)}" for name, each in found.items()),
            f"theirs took {each_token(found[THEIRS]) / each_token(found[OURS]):.2f}× as long for each token",
        ),
    )


def documents(answers: Sequence[Answer]) -> str:
    """Return what the texts of documents are like; random weights write other ones on each side."""
    columns = zip(*((one.tokens, one.forced, len(one.text)) for one in answers), strict=True)
    tokens, forced, letters = (statistics.median(column) for column in columns)
    cut = sum(answer.finish == "length" for answer in answers)
    ended = f"; {cut} of {len(answers)} were cut" if cut else ""
    return (
        f"{tokens:.0f} tokens ({forced:.0f} forced), {letters:.0f} letters, {each_token(answers):.0f} ms a token{ended}"
    )


def each_token(answers: Sequence[Answer]) -> float:
    """Return the milliseconds that a token of an answer took."""
    return statistics.median(answer.seconds * 1000 / answer.tokens for answer in answers)


def classify(run: Run) -> Row:
    """Labels, one after the other."""
    return labels(run, "classify", run.counts.texts, lambda side, n: None, 0.6)


def classify_between(run: Run) -> Row:
    """Labels, with a chat turn before each."""

    def chat(side: Side, n: int) -> None:
        side.chat([said("system", ASSISTANT), said("user", prose(f"between {n}", 12))], 4)

    return labels(run, "classify-between", run.counts.between, chat, 0.15)


def labels(run: Run, name: str, texts: int, before: Callable[[Side, int], None], limit: float) -> Row:
    """Time labels after `before`; of the two ways to ask theirs, the faster counts."""
    with run.sides() as (ours, theirs, sides):
        asked = classified(ours, run.counts.text, 2 * texts + 1)

        def one(side: Side, ask: Callable[[str], float], first: int, n: int) -> float:
            before(side, n)
            return ask(asked[first + n])

        work = {who: partial(one, side, side.classify, 1) for who, side in sides.items()}
        # texts of its own: theirs would find the whole prompt in its cache
        work[LEAN] = partial(one, theirs, theirs.classify_lean, 1 + texts)
        for do in work.values():
            do(-1)
        found = run.alternate(work, texts)
    faster = min(THEIRS, LEAN, key=lambda side: statistics.median(found[side]))
    both = ", ".join(f"{side} {statistics.median(found[side]):.2f} s" for side in (THEIRS, LEAN))
    work_name = f"classification of a {run.counts.text}-token text, " + (
        "a chat turn between" if name == "classify-between" else "one after the other"
    )
    wanted = Wanted("ours/theirs", False, limit)
    return Row(name, work_name, "s", found, faster, wanted, notes=(f"{both}; the faster counts",))


def classified(ours: Ours, tokens: int, count: int) -> list[str]:
    """Return texts of so many tokens."""
    frame = len(ours.ids([said("user", "네")])) - 1

    def message(n: int, words: int) -> Messages:
        return [said("user", prose(f"classified {n}", words))]

    found = [sized(frame + tokens, partial(message, n), lambda asked: len(ours.ids(asked))) for n in range(count)]
    return [messages[0]["content"] for messages in found]


def restart(run: Run) -> Row:
    """The first label of a new process, with what an earlier one left on disk, and without."""
    home = Path(run.setup.home, "restart")
    home.mkdir()
    asked, kept = settings(Setup(run.setup.model, str(home))), home / "prefixes"
    first_label(asked, -1)  # reads the file once, and lets the engine measure the machine

    def cold(n: int) -> tuple[float, float, str]:
        shutil.rmtree(kept, ignore_errors=True)
        return first_label(asked, n)

    def warm(n: int) -> tuple[float, float, str]:
        return first_label(asked, n)

    found = run.alternate({WITHOUT: cold, OURS: warm}, run.rounds)
    size = sum(file.stat().st_size for file in kept.rglob("*") if file.is_file())
    loaded = {name: statistics.median(after for _, after, _ in each) for name, each in found.items()}
    differ = sum(one[2] != other[2] for one, other in zip(found[OURS], found[WITHOUT], strict=False))
    return Row(
        "restart",
        "new process, first classification, prefix on disk",
        "s",
        {name: [whole for whole, _, _ in each] for name, each in found.items()},
        WITHOUT,
        Wanted("theirs/ours", True, 4),
        notes=(
            f"without the load of the model: {loaded[OURS]:.2f} s against {loaded[WITHOUT]:.2f} s",
            f"{size / 1e6:.1f} MB on disk; {differ} of {len(found[OURS])} labels differed",
        ),
        flaw="" if size else "the engine left nothing on disk",
    )


def first_label(asked: dict[str, Any], n: int) -> tuple[float, float, str]:
    """Return the seconds of a new process from before its engine, and from when it was loaded, and the label."""
    command = [sys.executable, "-c", CHILD, json.dumps(asked), prose(f"restart {n}", 10)]
    whole, after, label = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return whole, after, label


def cancel(run: Run) -> Row:
    """Cancels inside a prefill, and whether the engine answers afterwards as a fresh one does."""
    count, every = run.counts.cancels, -(-run.counts.cancels // run.counts.probes)
    answers: list[str] = []
    with run.ours() as ours:
        texts = fresh(ours, "cancel", run.counts.prefill, count + 1)
        whole = ours.chat(texts[count], 1).first

        def stop(n: int) -> Cancelled:
            found = ours.cancel(texts[n], whole * (0.05 + 0.75 * n / count))
            if n % every == every - 1 or n == count - 1:
                answers.append(ours.chat(probe(len(answers)), run.counts.reply).text)
            return found

        found = run.alternate({OURS: stop}, count)[OURS]
    with run.ours() as ours:
        expected = [ours.chat(probe(i), run.counts.reply).text for i in range(len(answers))]
    inside = [one for one in found if one.inside]
    differ = [first_difference(*pair) for pair in zip(answers, expected, strict=True) if pair[0] != pair[1]]
    idle = f"; nothing ran any more after {p95([one.idle * 1000 for one in inside]):.0f} ms (p95)" if inside else ""
    return Row(
        "cancel",
        f"cancel inside a {run.counts.prefill}-token prefill, host thread busy",
        "ms",
        {OURS: [one.ended * 1000 for one in inside]},
        wanted=Wanted("ours", False, 150),
        pick="p95",
        notes=(f"{len(inside)} of {len(found)} came inside the prefill{idle}",),
        repeats=1,
        flaw=f"{len(differ)} of {len(answers)} answers are not a fresh engine's: {differ[0]}" if differ else "",
    )


def probe(n: int) -> Messages:
    """Return what is asked after cancels."""
    return [said("user", f"{n}. {QUESTION}")]


def first_difference(one: str, other: str) -> str:
    """Return where two texts part."""
    shorter = min(len(one), len(other))
    at = next((i for i in range(shorter) if one[i] != other[i]), shorter)
    return f"they part at letter {at}, {one[at : at + 12]!r} for {other[at : at + 12]!r}"


def python_time(run: Run) -> Row:
    """What a decode step of several streams spends outside llama.cpp."""
    asked = [[said("user", f"{i}. {QUESTION}")] for i in range(STREAMS)]
    with run.ours() as ours:
        steps = run.alternate({OURS: lambda n: ours.python_time(asked, run.counts.steps)}, run.rounds)[OURS]
    each = [1000 * seconds for part in steps for seconds in part]
    return Row(
        "python",
        f"Python time a decode step, {STREAMS} streams, sampling excluded",
        "ms",
        {OURS: each},
        wanted=Wanted("ours", False, 1),
        pick="mean",
        notes=(f"{len(each)} steps that gave each of {STREAMS} streams one token",),
        repeats=run.rounds,
    )


ROWS: dict[str, Callable[[Run], Row]] = {
    "decode": decode,
    "prefill": prefill,
    "turns": turns,
    "turns-cached": turns_cached,
    "shared": shared,
    "document": document,
    "classify": classify,
    "classify-between": classify_between,
    "restart": restart,
    "cancel": cancel,
    "python": python_time,
}
