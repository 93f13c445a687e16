"""How texts become passes of the compute thread: how long these are, in which order they come back, how they end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_embedder

from engine import Cancelled, Engine, EngineClosed, InvalidInput, ModelCorrupt, OutOfBudget, Progress, vectors
from engine.budget import Budget
from engine.embedder import JOB_TOKENS, Embedder
from engine.inputs import MAX_TEXT_BYTES, TextKind
from engine.machine import Memory
from engine.models import Models
from engine.vectors import Vectors
from engine.views import HEADS, Head, Views
from engine.windows import Piece, Reader

HANG = 60.0
WIDTH, WINDOW = 8, 40  # numbers of a vector, tokens read at once


class Words(Embedder):
    """A model without weights: a token for each word, two markers, and a vector that tells the words and their order.

    With `slow` a pass does not end by itself. What `encode` may be told is as in the true one.
    """

    def __init__(self, heads: tuple[Head, ...] = HEADS) -> None:
        self.device, self._prepared, self.dim, self.heads, self.max_tokens = "cpu", True, WIDTH, heads, WINDOW
        self.multi_dim = WIDTH
        self.reader = Reader(self._tokenize, WINDOW, {"query": "", "passage": ""})
        self.passes: list[list[int]] = []
        self.asked: list[tuple[Head, ...]] = []
        self.slow, self.running, self.ended = False, threading.Semaphore(0), threading.Event()
        self.closed = False

    @staticmethod
    def _tokenize(texts: list[str]) -> list[list[int]]:
        return [[0, *(3 + len(word) for word in text.split()), 1] for text in texts]

    def encode(
        self, pieces: Sequence[Piece], heads: Sequence[Head] = ("dense",), stopped: threading.Event | None = None
    ) -> list[Views]:
        self.passes.append([len(piece.ids) for piece in pieces])
        self.asked.append(tuple(heads))
        self.running.release()
        while self.slow:
            if self.ended.is_set():
                raise EngineClosed("it was closed")
            if stopped is not None and stopped.wait(0.01):
                raise Cancelled("it was cancelled")
        return [self._tell(piece, heads) for piece in pieces]

    def interrupt(self) -> None:
        self.ended.set()

    def close(self) -> None:
        self.closed = True

    @staticmethod
    def _tell(piece: Piece, heads: Sequence[Head]) -> Views:
        dense = np.array([sum(piece.ids), len(piece.ids), piece.ids[len(piece.ids) // 2], *[1.0] * (WIDTH - 3)])
        return Views(
            (dense / np.linalg.norm(dense)).astype(np.float32) if "dense" in heads else None,
            {token: 1.0 for token in piece.ids if token > 2} if "sparse" in heads else None,
            np.ones((len(piece.ids) - 1, WIDTH), np.float32) if "multi" in heads else None,
        )


class Here:
    """A pool whose compute thread is the caller's."""

    def __init__(self, model: Embedder, limit: int = 1 << 40) -> None:
        self.model, self.leases = model, 0
        self.budget = Budget(limit, lambda: Memory(1 << 40, 1 << 40))

    @contextlib.contextmanager
    def leased(self, _name: str, kind: str) -> Iterator[str]:
        assert kind == "embedding"
        self.leases += 1
        try:
            yield "key"
        finally:
            self.leases -= 1

    def run(self, _key: str, job: Callable[[Any], Any]) -> Any:
        assert self.leases == 1, "between two jobs it must not leave"
        return job(self.model)


def vectors_of(model: Embedder, progress: Callable[[Progress], object] | None = None) -> Vectors:
    pool: Any = Here(model)
    return Vectors(pool, progress)


def words(*numbers: int) -> list[str]:
    return [" ".join(["가나다라"[: 1 + number % 4]] * number) for number in numbers]


# ---- jobs


def test_a_job_holds_at_most_so_many_padded_tokens_or_one_longer_piece() -> None:
    model = Words()
    texts = words(*[7, 1, 30, 3, 38, 2, 120, 5] * 40)
    vectors_of(model).views(texts, "passage", ("dense",))
    assert sum(map(len, model.passes)) == len(list(model.reader.pieces(texts, "passage")))
    for sizes in model.passes:
        assert len(sizes) * max(sizes) <= JOB_TOKENS or len(sizes) == 1, sizes
    full = [len(sizes) * max(sizes) for sizes in model.passes]
    assert sum(full) / len(full) > 0.8 * JOB_TOKENS, "short ones go together"


def test_a_piece_that_is_longer_than_a_job_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.embedder.JOB_TOKENS", 20)
    model = Words()
    vectors_of(model).views(words(30, 1, 38, 2), "passage", ("dense",))
    assert model.passes == [[3, 4], [32], [40]]


def test_ten_thousand_texts_at_once() -> None:
    model, told = Words(), []
    texts = words(*[number % 9 for number in range(1, 10_001)])
    found = vectors_of(model, told.append).views(texts, "passage", ("dense",)).dense
    assert found is not None and found.shape == (10_000, WIDTH) and found.dtype == np.float32
    few = vectors_of(Words()).views(texts[:9], "passage", ("dense",)).dense
    assert few is not None
    np.testing.assert_array_equal(found, np.concatenate([few] * 1112)[:10_000])
    assert len(model.passes) < 10_000 / 8
    done = [event.done for event in told]
    assert done == sorted(done) and (done[-1], told[-1].total, told[-1].unit) == (10_000, 10_000, "texts")
    assert {event.task for event in told} == {"embed"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedder]:
    opened = Embedder(tiny_embedder.once(tmp_path_factory, tiny_embedder.bge), tiny_embedder.spec(), threads=1)
    yield opened
    opened.close()


TEXTS = [
    "나는 오늘 김치",
    "a",
    "hello the " * 90,
    "안녕하세요 서울입니다. " * 30,
    " ",
    "ing",
    "나는 오늘 김치",
    "서울" * 60,
]


@pytest.mark.parametrize("group", [2048, 3, 1])
@pytest.mark.parametrize("kind", ["query", "passage"])
def test_the_views_are_those_of_the_embedder_in_order(
    tiny: Embedder, monkeypatch: pytest.MonkeyPatch, group: int, kind: TextKind
) -> None:
    monkeypatch.setattr(vectors, "_TEXTS", group)
    wanted = tiny.embed(TEXTS, kind, HEADS)
    found = vectors_of(tiny).views(TEXTS, kind, HEADS)
    assert found.dense is not None and found.sparse is not None and found.multi is not None
    assert len(found.dense) == len(found.sparse) == len(found.multi) == len(TEXTS)
    for dense, sparse, multi, views in zip(found.dense, found.sparse, found.multi, wanted, strict=True):
        assert views.dense is not None and views.sparse is not None and views.multi is not None
        np.testing.assert_allclose(dense, views.dense, atol=1e-5)
        assert sparse == pytest.approx(views.sparse, abs=1e-4)
        np.testing.assert_allclose(multi, views.multi, atol=1e-4)
    np.testing.assert_allclose(vectors_of(tiny).embed(TEXTS, kind), found.dense, atol=1e-6)


def test_letters_in_work_at_a_time_are_limited_but_for_one_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_LETTERS", 10)
    groups = list(vectors._groups(["12345", "12345", "1", "123456789012", "1", "2"]))
    assert groups == [["12345", "12345"], ["1"], ["123456789012"], ["1", "2"]]
    assert list(vectors._groups([])) == []


# ---- heads


def test_no_texts_have_no_vectors() -> None:
    model = Words(("dense", "multi"))
    found = vectors_of(model).views([], "query", HEADS)
    assert found.dense is not None and (found.dense.shape, found.dense.dtype) == ((0, WIDTH), np.float32)
    assert (found.sparse, found.multi, model.passes) == (None, [], [])
    assert vectors_of(model).embed([], "query").shape == (0, WIDTH)


@pytest.mark.parametrize("asked", [("dense",), ("sparse",), ("multi", "dense"), HEADS, HEADS[::-1]])
@pytest.mark.parametrize("there", [("dense",), ("dense", "sparse"), HEADS])
def test_what_was_not_asked_for_or_is_not_there_is_none(asked: tuple[Head, ...], there: tuple[Head, ...]) -> None:
    model = Words(there)
    found = vectors_of(model).views(words(3, 60, 1), "passage", asked)
    got = {head for head in HEADS if getattr(found, head) is not None}
    assert got == set(asked) & set(there)
    assert {frozenset(heads) for heads in model.asked} <= {frozenset(got)}, "no more is computed"


@pytest.mark.parametrize("asked", [(), ("sparse",)])
def test_where_nothing_can_be_told_nothing_is_computed(asked: tuple[Head, ...]) -> None:
    model = Words(("dense",))
    found = vectors_of(model).views(words(3, 60, 1), "passage", asked)
    assert (found.dense, found.sparse, found.multi) == (None, None, None)
    assert model.passes == []


# ---- large answers


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Vectors, Any]]:
    """Let answers be counted from the first kilobyte on; returns what makes `Vectors` with a budget."""
    monkeypatch.setattr(vectors, "_LARGE", 1_000)
    monkeypatch.setattr(vectors, "_TEXTS", 10)

    def make(limit: int, progress: Callable[[Progress], object] | None = None) -> tuple[Vectors, Any]:
        pool: Any = Here(Words(), limit)
        return Vectors(pool, progress), pool

    return make


def test_a_large_answer_is_held_while_it_grows(counted: Callable[..., tuple[Vectors, Any]]) -> None:
    held: list[int] = []
    own, pool = counted(20_000, lambda _event: held.append(pool.budget.held))
    found = own.views(words(*[9] * 40), "passage", ("dense", "multi"))
    assert found.multi is not None and len(found.multi) == 40
    assert found.dense is not None and held[0] >= found.dense.nbytes
    rows = sum(each.nbytes for each in found.multi)
    assert held == sorted(held) and rows <= held[-1] - found.dense.nbytes <= 1.2 * rows
    assert pool.budget.held == 0, "it is the caller's memory now"


@pytest.mark.parametrize("limit", [1_000, 8_000])
def test_an_answer_that_does_not_fit_is_refused(counted: Callable[..., tuple[Vectors, Any]], limit: int) -> None:
    own, pool = counted(limit)
    with pytest.raises(OutOfBudget, match="fewer texts at a time") as caught:
        own.views(words(*[9] * 40), "passage", ("dense", "multi"))
    assert caught.value.needed > caught.value.available
    assert pool.budget.held == 0
    assert own.views(words(9), "passage", HEADS).multi is not None


def test_what_was_held_comes_back_however_a_call_ends(counted: Callable[..., tuple[Vectors, Any]]) -> None:
    own, pool = counted(1 << 20, lambda event: event.done < 20)
    with pytest.raises(Cancelled):
        own.views(words(*[9] * 40), "passage", ("dense", "multi"))
    assert pool.budget.held == 0


# ---- progress


def test_many_small_answers_are_a_large_one(counted: Callable[..., tuple[Vectors, Any]]) -> None:
    """Groups that are not worth counting alone, of which there is no end."""
    own, pool = counted(3_000)
    with pytest.raises(OutOfBudget, match="without the head"):
        own.views(words(*[1] * 400), "passage", ("multi",))
    assert pool.budget.held == 0


def test_an_answer_that_cannot_be_allocated_is_not_held(
    counted: Callable[..., tuple[Vectors, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    own, pool = counted(1 << 20)
    monkeypatch.setattr("numpy.empty", full)
    with pytest.raises(MemoryError):
        own.views(words(*[1] * 400), "passage", ("dense",))
    assert pool.budget.held == 0


def test_progress_goes_up_to_the_number_of_texts() -> None:
    told: list[Progress] = []
    vectors_of(Words(), told.append).views(words(*[5, 130, 1] * 20), "passage", ("dense",))
    done = [event.done for event in told]
    assert len(done) > 9 and done == sorted(done)
    assert done[-1] == 60 and {(event.task, event.total, event.unit) for event in told} == {("embed", 60, "texts")}


def test_progress_goes_on_from_group_to_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_TEXTS", 7)
    told: list[Progress] = []
    vectors_of(Words(), told.append).views(words(*[5, 130, 1] * 20), "passage", ("dense",))
    done = [event.done for event in told]
    assert done == sorted(done) and done[-1] == 60 and {7, 14, 21} <= set(done)


def test_one_short_text_is_not_worth_telling() -> None:
    told: list[Progress] = []
    vectors_of(Words(), told.append).views(words(5), "passage", ("dense",))
    assert told == []


def test_a_long_text_tells_of_its_windows() -> None:
    told: list[Progress] = []
    vectors_of(Words(), told.append).views(words(900), "passage", ("dense",))
    done = [event.done for event in told]
    assert len(done) > 9 and done == sorted(done) and done[-1] == told[-1].total
    assert {event.unit for event in told} == {"windows"}


def test_a_callback_ends_it_by_returning_false() -> None:
    model = Words()
    with pytest.raises(Cancelled, match="embed was cancelled"):
        vectors_of(model, lambda event: event.done < 30).views(words(*[9] * 60), "passage", ("dense",))
    assert 1 < len(model.passes) < 6


# ---- a pass that runs and is not wanted any more


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Words:
    made = Words()
    monkeypatch.setattr(Models, "_load_embedder", lambda *_: made)
    monkeypatch.setattr("engine.fastpath.available", lambda: False)
    return made


@pytest.fixture
def engine(model: Words, tmp_path: Path) -> Iterator[Engine]:
    folder = tmp_path / "모델"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text('{"hidden_size": 8, "vocab_size": 10}', encoding="utf-8")
    with Engine(models={"embedding": folder}, home=tmp_path / "home") as opened:
        yield opened
        model.ended.set()


def works(engine: Engine, model: Words) -> None:
    model.slow = False
    assert engine.embed(words(3, 4)).dense is not None


def test_a_task_that_is_cancelled_stops_its_pass(engine: Engine, model: Words) -> None:
    async def use() -> None:
        model.slow = True
        task = asyncio.create_task(engine.aembed(words(*[9] * 60)))
        while not model.running.acquire(blocking=False):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(use())
    assert len(model.passes) == 1
    engine._worker.call(lambda: None)  # the compute thread is free, though nothing else ended the pass
    works(engine, model)


@pytest.mark.skipif(not hasattr(os, "kill") or os.name == "nt", reason="needs signals of POSIX")
def test_ctrl_c_stops_a_pass(engine: Engine, model: Words) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
    model.slow = True

    def press() -> None:
        assert model.running.acquire(timeout=HANG)
        os.kill(os.getpid(), signal.SIGINT)

    finger = threading.Thread(target=press)
    finger.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.embed(words(*[9] * 60))
    finally:
        finger.join()
        signal.signal(signal.SIGINT, before)
    engine._worker.call(lambda: None)
    works(engine, model)


def test_close_ends_a_pass_with_engine_closed(engine: Engine, model: Words) -> None:
    model.slow = True
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(engine.embed, words(*[9] * 60)) for _ in range(2)]
        assert model.running.acquire(timeout=HANG)
        engine.close()
        for call in calls:
            assert isinstance(call.exception(HANG), EngineClosed)
    assert len(model.passes) <= 2 and model.closed


def test_unload_between_two_passes_ends_with_engine_closed(engine: Engine, model: Words) -> None:
    engine.load("embedding")
    gone: list[object] = []

    def progress(_event: Progress) -> None:
        if not gone:
            with ThreadPoolExecutor(1) as threads:
                gone.append(threads.submit(engine.unload, "embedding").result(HANG))

    engine._vectors._progress = progress
    with pytest.raises(EngineClosed, match="unloaded"):
        engine.embed(words(*[9] * 60))
    assert gone and engine.status().held <= sum(part.bytes for part in engine.status().parts)


def test_other_callers_come_between_two_passes(engine: Engine, model: Words) -> None:
    """Many passes of one caller leave room for another's single one."""
    seen: list[int] = []

    def progress(event: Progress) -> None:
        if event.done == 10:
            with ThreadPoolExecutor(1) as threads:
                seen.append(len(threads.submit(engine.embed, "하나").result(HANG).dense))

    engine._vectors._progress = progress
    assert len(engine.embed(words(*[48] * 20)).dense) == 20
    assert seen == [1]


# ---- what may be asked of an engine


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "text is empty"),
        ("가\0나", "NUL character at position 1"),
        ("가\ud800", "lone surrogate.* at position 1"),
        ("a" * 1_000_000, "1,000,000 bytes long; the limit is 262,144"),
        ("가" * (MAX_TEXT_BYTES // 3 + 1), "262,146 bytes long; the limit is 262,144"),
    ],
    ids=["empty", "NUL", "surrogate", "1 MB", "a byte too long"],
)
def test_a_text_that_is_none(engine: Engine, model: Words, text: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        engine.embed(text)
    with pytest.raises(InvalidInput, match=told.replace("text is", "text 1 is")):
        engine.embed(["하나", text])
    assert model.passes == []


def test_the_longest_text_is_read_to_its_end(engine: Engine, model: Words) -> None:
    text = "ab " * (MAX_TEXT_BYTES // 3) + "c"
    assert len(text.encode("utf-8")) == MAX_TEXT_BYTES
    found = engine.embed(text)
    assert found.dense is not None and found.dense.shape == (1, WIDTH)
    assert found.multi is None or sum(map(len, found.multi)) > 0
    read = sum(sum(sizes) - 2 * len(sizes) for sizes in model.passes)
    assert read == len(text.split())
    all_of_it = engine.embed(text, heads=HEADS)
    assert all_of_it.sparse == [{5: 1.0, 4: 1.0}], "the last word, too"


@pytest.mark.parametrize("text", [" ", "\n\t\u3000", "\u200b", "\ufeff", "😀" * 9, "e\u0301"])
def test_odd_texts_have_a_direction(tiny: Embedder, engine: Engine, text: str) -> None:
    for one in (vectors_of(tiny), engine._vectors):
        (row,) = one.embed([text], "passage")
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)


def test_one_text_several_and_none(engine: Engine) -> None:
    one, several, none = engine.embed("가"), engine.embed(["가", "나 다"]), engine.embed([])
    assert [found.dense.shape for found in (one, several, none)] == [(1, WIDTH), (2, WIDTH), (0, WIDTH)]  # type: ignore[union-attr]
    assert len(engine.embed(text for text in ("가", "나")).dense) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize("heads", [("colbert",), ("dense", "lexical"), "dense", ("",)])
def test_an_unknown_head_is_told_with_those_there_are(engine: Engine, model: Words, heads: Any) -> None:
    with pytest.raises(InvalidInput, match="is not a head; there are dense, sparse, multi"):
        engine.embed("가", heads=heads)
    assert model.passes == []


@pytest.mark.parametrize("heads", [5, None, ([],)])
def test_heads_of_another_type(engine: Engine, heads: Any) -> None:
    with pytest.raises(TypeError):
        engine.embed("가", heads=heads)


def test_any_iterable_of_heads_is_read_once(engine: Engine) -> None:
    heads: Any = iter(["sparse", "dense"])
    found = engine.embed("가", heads=heads)
    assert found.dense is not None and found.sparse is not None and found.multi is None
    twice = engine.embed("가", heads=("sparse", "sparse"))
    assert (twice.dense, twice.sparse) == (None, [{4: 1.0}])


@pytest.mark.parametrize("kind", ["document", "", None, "Query"])
def test_kinds_are_two(engine: Engine, kind: Any) -> None:
    with pytest.raises(InvalidInput, match="kind must be 'passage' or 'query'"):
        engine.embed("가", kind=kind)


def test_each_kind_has_its_prefix(tmp_path_factory: pytest.TempPathFactory) -> None:
    spec = tiny_embedder.spec(query_prefix="hello: ", passage_prefix="the: ")
    opened = Embedder(tiny_embedder.once(tmp_path_factory, tiny_embedder.bge), spec, threads=1)
    try:
        query, passage = (vectors_of(opened).embed(["나는 오늘"], kind)[0] for kind in ("query", "passage"))
        bare = vectors_of(opened)
        opened.reader = Reader(opened.reader._tokenize, opened.max_tokens, {"query": "", "passage": ""})
        expected = [bare.embed([text], "query")[0] for text in ("hello: 나는 오늘", "the: 나는 오늘")]
        np.testing.assert_allclose([query, passage], expected, atol=1e-5)
        assert abs(query @ passage) < 0.9999
    finally:
        opened.close()


# ---- what is no number


@pytest.mark.parametrize("head", ["dense", "sparse", "multi"])
def test_what_is_no_number_is_an_error(tiny: Embedder, monkeypatch: pytest.MonkeyPatch, head: Head) -> None:
    spoil(tiny, monkeypatch)
    with pytest.raises(ModelCorrupt, match=r"tiny: it.*Point source\.path at"):
        vectors_of(tiny).views(["가", "나"], "passage", (head,))


def test_memories_are_never_kept_with_what_is_no_number(
    tiny: Embedder, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Models, "_load_embedder", lambda *_: SimpleNamespace(device="cpu", **members(tiny)))
    with monkeypatch.context() as broken:
        spoil(tiny, broken)
        with pytest.raises(ModelCorrupt, match="no direction"):
            engine.remember(["하나", "둘"])
        assert engine.memories() == []
    assert [one.text for one in engine.remember("하나")] == ["하나"]
    assert [hit.memory.text for hit in engine.search("하나")] == ["하나"]
    with monkeypatch.context() as broken:
        spoil(tiny, broken)
        with pytest.raises(ModelCorrupt, match="no direction"):
            engine.search("하나")


def members(tiny: Embedder) -> dict[str, Any]:
    """Return what an engine uses of an embedder, but not its end: it is other tests', too."""
    names = ("heads", "dim", "multi_dim", "reader", "batch_tokens", "encode", "join", "fast", "interrupt")
    return {**{name: getattr(tiny, name) for name in names}, "close": lambda: None}


def spoil(model: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the transformer answer with NaN."""
    opened: Any = model._open()
    first = opened._model[0]
    forward = first.forward

    def bad(features: dict[str, Any], **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = forward(features, **options)
        found["token_embeddings"][-1] = float("nan")
        return found

    monkeypatch.setattr(first, "forward", bad)
