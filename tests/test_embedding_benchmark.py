"""The embedding benchmark: its texts, its clocks, what its figures mean, and a part of it on a small random model."""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from script_module import load

from engine import Engine, config, layout
from engine.metrics import Progress
from engine.worker import Worker

benchmark = load("embedding_benchmark")
command = load("benchmark")
resident = load("resident")
sides = load("embedding_sides")

STARTER = "multilingual-e5-small"
COUNTS = benchmark.Counts(singles=4, sentences=20, batch=4, long=60, shorts=30, each=10, jobs=4)


@pytest.fixture(scope="module")
def donor() -> Path:
    """The folder of the starter embedding model, of whose family BGE-M3's tokenizer is."""
    return layout.locate(config.load().model(STARTER))


@pytest.fixture(scope="module")
def texts_of(donor: Path) -> Callable[..., Any]:
    """Texts for the starter model and a prefix; reading its tokenizer takes a second, so that is done once."""
    return cache(partial(benchmark.Texts, donor))


@pytest.fixture
def model(donor: Path, tmp_path: Path) -> Any:
    return benchmark.Model(donor, config.load().model(STARTER), str(tmp_path))


# ---- texts


def test_texts_are_exactly_so_many_tokens(donor: Path, texts_of: Callable[..., Any]) -> None:
    from tokenizers import Tokenizer

    reading = Tokenizer.from_file(str(donor / "tokenizer.json"))
    reading.no_truncation()
    for tokens in (12, 25, 32, 90, 700):
        found = texts_of("passage: ").of("x", tokens, 5)
        assert {len(reading.encode(f"passage: {text}").ids) for text in found} == {tokens}
        assert len(set(found)) == 5
        assert found == texts_of("passage: ").of("x", tokens, 5)
        assert all("가" <= letter <= "힣" or letter == " " for text in found for letter in text)


def test_sentences_are_about_so_long_and_in_no_order(texts_of: Callable[..., Any]) -> None:
    texts = texts_of("")
    sizes = [texts.count(text) for text in texts.about("x", 25, 20)]
    assert sorted(sizes) == sorted([23, 24, 25, 26, 27] * 4)
    assert sizes != sorted(sizes)


def test_what_no_words_fit_is_said() -> None:
    with pytest.raises(ValueError, match="exactly 7 tokens"):
        benchmark.exact("x", 7, lambda text: 2 * len(text.split()))


# ---- clocks and counters


def test_imports_are_counted_once_however_deep_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"aa_outer": "import aa_inner\nimport aa_other", "aa_inner": "", "aa_other": ""}.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    ticks = iter(range(100))
    monkeypatch.setattr(sides, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    with sides.ImportClock() as clock:
        import aa_outer  # noqa: F401
        from aa_inner import __name__ as name
    assert name == "aa_inner"
    assert clock.seconds == 2  # two statements of one tick each
    before = clock.seconds
    importlib.invalidate_caches()
    import aa_other  # noqa: F401

    assert clock.seconds == before


def test_what_failed_to_import_leaves_the_clock_as_it_was() -> None:
    with sides.ImportClock() as clock, pytest.raises(ModuleNotFoundError):
        import aa_not_there  # noqa: F401
    with clock:
        import json as again
    assert again is json


def test_the_most_memory_is_that_since_it_was_asked_to_forget() -> None:
    sides.forget_peak()
    before = sides.peak()
    block = bytearray(80_000_000)
    block[::4096] = b"x" * len(block[::4096])
    del block
    assert sides.peak() - before > 70_000_000
    sides.forget_peak()
    if sides.FORGET.exists():
        assert sides.peak() - before < 70_000_000
    assert abs(sides.resident() - sides.peak()) < 50_000_000


def test_times_are_those_of_each_text_after_a_warm_up() -> None:
    asked: list[str] = []
    found = sides.times(asked.append, ["a", "b", "c", "d"])
    assert asked == ["a", "b", "c", "a", "b", "c", "d"]
    assert len(found) == 4
    assert min(found) >= 0


def test_jobs_of_a_compute_thread_are_timed(tmp_path: Path) -> None:
    found = list[float]()
    post = Worker.post
    with Engine(profile="starter", home=tmp_path) as engine:
        with sides.timed_jobs(found):
            assert engine._worker.call(lambda: 3) == 3
            with pytest.raises(KeyError):
                engine._worker.call(lambda: {}["x"])
        engine._worker.call(lambda: 4)
    assert len(found) == 2
    assert Worker.post is post


GRANDCHILD = (
    "import time; x = bytearray(90_000_000); x[::4096] = b'x' * len(x[::4096]); print('.', flush=True); input()"
)
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {GRANDCHILD!r}])"


def test_the_memory_of_a_childs_child_is_seen() -> None:
    words = [sys.executable, "-c", CHILD]
    with (
        benchmark.children_watched() as most,
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child,
    ):
        assert child.stdout
        assert child.stdin
        child.stdout.read(1)
        until = time.monotonic() + 20
        while max(most.values(), default=0) < 90_000_000 and time.monotonic() < until:
            time.sleep(0.01)
        child.stdin.close()
    assert child.pid not in most
    assert 90_000_000 < max(most.values()) < 200_000_000


# ---- processes


def order(side: str, folder: Path) -> Any:
    spec = benchmark.in_folder(folder)
    return sides.Order(side, str(folder), spec.model_dump_json(), str(folder))


def test_a_side_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with pytest.raises(benchmark.SideFailed, match="KeyError: 'nobody'"), benchmark.apart(order("nobody", tmp_path)):
        pass


def test_a_side_answers_each_question_until_the_block_ends(tmp_path: Path) -> None:
    with benchmark.apart(order("preparing", tmp_path)) as side:
        assert side.said == {}
        for _ in range(2):
            with pytest.raises(benchmark.SideFailed, match="AttributeError"):
                side.ask("nothing")
        assert side.ask("about") == {}
    assert side._process.poll() == 0
    with pytest.raises((benchmark.SideFailed, ValueError)):
        side.ask("about")


def test_a_side_whose_process_dies_is_told_from_one_that_answers(tmp_path: Path) -> None:
    with benchmark.apart(order("preparing", tmp_path)) as side:
        side._process.kill()
        with pytest.raises(benchmark.SideFailed, match="ended with status"):
            side.ask("about")


# ---- what was measured


SAID: dict[str, dict[str, Any]] = {
    "fast": {"fast": True, "heads": ["dense", "sparse", "multi"], "max_tokens": 512, "load": 2.5, "imports": 4.0}
    | {"resident": 1_400_000_000},
    "bare": {"threads": 2},
    "whole": {"resident": 1_500_000_000},
    "preparing": {},
}
ANSWERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("fast", "times"): lambda texts, heads: [30.0 + 2 * (len(heads) > 1)] * len(texts),
    ("bare", "times"): lambda texts: [100.0] * len(texts),
    ("fast", "vector"): lambda _text: [0.6, 0.8],
    ("bare", "vector"): lambda _text: [3.0, 4.0],
    ("fast", "all_of"): lambda texts, _batch: len(texts) / 50,
    ("bare", "all_of"): lambda texts, _batch: len(texts) / 20,
    ("whole", "all_of"): lambda texts: len(texts) / 30,
    ("fast", "held"): lambda _texts, _heads: {"seconds": 3.0, "before": 10**9, "peak": 1.2e9, "after": 1.1e9},
    ("whole", "many"): lambda _texts, _each: {
        "seconds": 9.0, "before": 1e9, "peak": 1.3e9, "marks": [[10, 10**9], [30, 10**9 + 4_000_000]],
        "vectors": 46_080,
    },
    ("whole", "beside_a_chat"): lambda _texts: {"jobs": [90.0, 151.0, 80.0], "gaps": [20.0] * 95 + [99.0] * 5},
    ("preparing", "prepare"): lambda: 25.0,
}  # fmt: skip


class Recorded:
    """A side that answers as one did once."""

    def __init__(self, name: str, answers: dict[tuple[str, str], Callable[..., Any]], asked: list[Any]) -> None:
        self.name, self.said = name, dict(SAID[name])
        self._answers, self._asked = {**ANSWERS, **answers}, asked

    def ask(self, method: str, *arguments: Any) -> Any:
        self._asked.append((self.name, method, *arguments))
        return self._answers[self.name, method](*arguments)


Measure = Callable[..., dict[str, Any]]


@pytest.fixture
def measured(model: Any, texts_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Measure with recorded sides, whose answers can be others; `asked` is what they were asked, in order."""
    monkeypatch.setattr(benchmark, "Texts", lambda _folder, prefix: texts_of(prefix))

    def measure(
        *names: str, answers: dict[tuple[str, str], Callable[..., Any]] | None = None, asked: list[Any] | None = None
    ) -> dict[str, Any]:
        @contextlib.contextmanager
        def make(order: Any) -> Iterator[Recorded]:
            yield Recorded(order.side, answers or {}, [] if asked is None else asked)

        found: dict[str, Any] = benchmark.measure(model, 2, COUNTS, names or tuple(benchmark.SECTIONS), make)
        return found

    return measure


def by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in found["rows"]}


def test_every_figure_that_is_to_be_reached_has_a_row(measured: Measure, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(json.dumps(measured()))
    rows = by_name(found)
    assert {name: row["reached"] for name, row in rows.items() if row["wanted"]} == {
        "load": True, "resident": True, "text": True, "dense": True, "all heads": True, "heads": True,
        "batches": True, "engine": False, "jobs": False,
    }  # fmt: skip
    assert rows["text"]["ratio"] == pytest.approx(0.3)
    assert rows["heads"]["ratio"] == pytest.approx(32 / 30)
    assert rows["batches"]["ratio"] == pytest.approx(2.5)
    assert rows["engine"]["ratio"] == pytest.approx(1.5)
    assert rows["text"]["figures"]["ours"] == {"value": 30.0, "low": 30.0, "high": 30.0, "count": 8}
    assert found["sides"]["bare"] == {"threads": 2}
    assert found["sides"]["cosine"] == pytest.approx(1)
    assert found["interrupted"] is False
    assert {"torch", "sentence-transformers", "numpy"} <= found["versions"].keys()
    out = capsys.readouterr().out
    assert "| one text of 32 tokens, dense | 30.0 ms (30.0–30.0) | 100 ms (100–100), SentenceTransformer, fp32 |" in out
    assert "0.30× | ≤ 0.4× | yes |" in out
    assert "| beside a running chat, texts of up to 90 tokens: longest job | 151 ms |" in out
    assert "≤ 150 ms | no |" in out
    assert "- short: from 10 to 30 texts +4.0 MB, +2.00 MB each 10" in out


def test_sides_take_turns_on_the_same_texts(measured: Measure, model: Any) -> None:
    asked: list[Any] = []
    measured("single", "throughput", asked=asked)
    prefix = model.spec.passage_prefix
    times = [(name, given) for name, method, *given in asked if method == "times"]
    assert [name for name, _ in times] == ["fast", "bare", "fast"] * 2
    (one, _), (other,), (third, every) = (given for _, given in times[:3])
    assert [prefix + text for text in one] == other
    assert one == third
    assert every == ["dense", "sparse", "multi"]
    assert not set(one) & set(times[3][1][0])
    batches = [(name, given) for name, method, *given in asked if method == "all_of"]
    assert [name for name, _ in batches] == ["fast", "bare", "whole"] * 3
    assert [len(given[0]) for _, given in batches] == [4] * 3 + [10] * 6
    assert len({text for name, given in batches[3:] for text in given[0] if name == "fast"}) == 20
    assert all(given[1] == COUNTS.batch for name, given in batches if name != "whole")


def test_texts_are_as_long_as_the_model_reads(measured: Measure, texts_of: Callable[..., Any]) -> None:
    asked: list[Any] = []
    measured("long", "beside", asked=asked)
    texts = texts_of("passage: ")
    given = {(name, method): arguments[0] for name, method, *arguments in asked if arguments}
    assert [texts.count(text) for text in given["fast", "held"]] == [60]
    assert sorted(texts.count(text) for text in given["whole", "beside_a_chat"]) == [25, 25, 90, 90]


def test_sides_that_differ_or_are_not_fast_reach_nothing(
    measured: Measure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = by_name(measured("single", answers={("bare", "vector"): lambda _: [4.0, 3.0]}))
    assert [rows[name]["reached"] for name in ("text", "dense", "all heads", "heads")] == [False] * 4
    assert rows["text"]["flaw"] == "the sides' vectors differ, cosine 0.9600"
    monkeypatch.setitem(SAID, "fast", {**SAID["fast"], "fast": False})
    rows = by_name(measured("load", "single"))
    assert [rows[name]["reached"] for name in ("load", "resident", "text")] == [False] * 3
    assert "- text: torch served it, not what was prepared" in capsys.readouterr().out


def test_a_section_that_fails_leaves_the_others(measured: Measure, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*_: Any) -> Any:
        raise benchmark.SideFailed("MemoryError: no room")

    answers = {("fast", "held"): fails, ("whole", "many"): lambda *_: {}}
    rows = by_name(measured("long", "shorts", "beside", answers=answers))
    assert rows["long"]["flaw"] == "failed, SideFailed: MemoryError: no room"
    assert rows["shorts"]["flaw"] == "failed, KeyError: 'marks'"
    assert rows["jobs"]["reached"] is False
    assert list(rows) == ["prepare", "prepare memory", "long", "shorts", "jobs", "pieces"]
    assert "KeyError: 'marks'" in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_measured(measured: Measure, capsys: pytest.CaptureFixture[str]) -> None:
    def stops(*_: Any) -> Any:
        raise KeyboardInterrupt

    found = measured(answers={("bare", "times"): stops})
    assert list(by_name(found)) == [
        "prepare",
        "prepare memory",
        "load",
        "imports",
        "start",
        "resident",
        "resident later",
    ]
    assert found["interrupted"] is True
    assert "Interrupted" in capsys.readouterr().out


def test_growth_of_one_look_is_no_growth() -> None:
    assert list(benchmark.growth([(10, 5)], 4_000_000, 10)) == ["the vectors that it returns take 4.0 MB"]


def test_memory_is_looked_at_each_so_many_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = object.__new__(sides.Whole)
    whole._told = lambda _: None

    def embed(texts: list[str], heads: list[str]) -> Any:
        assert heads == ["dense"]
        for done in (4, 10, 14, 19, 31, 40):
            whole._told(Progress("embed", done, 40, "texts"))
            whole._told(Progress("load x", 50, 60, "bytes"))
        return SimpleNamespace(dense=SimpleNamespace(nbytes=len(texts)))

    whole._engine = SimpleNamespace(embed=embed)
    monkeypatch.setattr(sides, "resident", lambda: 7)
    found = whole.many(["a"] * 40, 10)
    assert found["marks"] == [(10, 7), (31, 7), (40, 7)]
    assert (found["before"], found["vectors"]) == (7, 40)


# ---- models


def test_a_model_is_linked_without_its_cache(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("model.safetensors", "1_Pooling/config.json", ".openvino-int8/model.xml"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name, encoding="utf-8")
    target = benchmark.linked(source, tmp_path / "target")
    assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()) == [
        "1_Pooling/config.json",
        "model.safetensors",
    ]
    assert (target / "model.safetensors").samefile(source / "model.safetensors")
    (target / ".openvino-int8").mkdir()
    assert [path.name for path in (source / ".openvino-int8").iterdir()] == ["model.xml"]


def test_a_model_is_named_or_lies_in_a_folder(donor: Path, tmp_path: Path) -> None:
    assert benchmark.model_of(STARTER, None) == (config.load().model(STARTER), donor)
    spec, folder = benchmark.model_of(str(tmp_path), None)
    assert (spec.name, folder) == (tmp_path.name, tmp_path)
    spec, folder = benchmark.model_of("", None)
    assert (spec.name, folder) == ("bge-m3", None)
    assert benchmark.model_of("", tmp_path / "not yet")[1] is None
    assert benchmark.model_of("", tmp_path)[1] == tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--shape qwen2.5-3b", "there is no 'qwen2.5-3b'; there are bge-m3"),
        ("--rows single,nothing", "there is no 'nothing'; there are preparation, load, single"),
        ("--model nothing", "nothing"),
    ],
)
def test_what_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, words: str, message: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "embedding", *words.split()])
    with pytest.raises(SystemExit, match=message):
        command.main()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BGE-M3's shape, but for its width and depth."""
    folder: Path = resident.write_embedding(tmp_path_factory.mktemp("모델") / "작은 모델", layers=2, width=64)
    return folder


def test_the_heads_of_the_shape_are_those_of_the_download(tiny: Path) -> None:
    from safetensors.numpy import load_file

    shapes = {
        name: {key: tensor.shape for key, tensor in load_file(tiny / name).items()}
        for name in ("sparse_linear.safetensors", "colbert_linear.safetensors")
    }
    assert shapes == {
        "sparse_linear.safetensors": {"weight": (1, 64), "bias": (1,)},
        "colbert_linear.safetensors": {"weight": (64, 64), "bias": (64,)},
    }


class Here:
    """A side in this process, which has imported the libraries already."""

    def __init__(self, made: Any) -> None:
        self._made, self.said = made, json.loads(json.dumps(made.about()))

    def ask(self, method: str, *arguments: Any) -> Any:
        return json.loads(json.dumps(getattr(self._made, method)(*json.loads(json.dumps(arguments)))))


@pytest.fixture
def here() -> Iterator[Callable[[Any], Any]]:
    """Make sides in this process, each once, since that takes seconds; the preparation is a recorded one."""
    made: dict[str, Any] = {}

    @contextlib.contextmanager
    def make(order: Any) -> Iterator[Any]:
        if order.side == "preparing":
            yield Recorded(order.side, {}, [])
            return
        if order.side not in made:
            made[order.side] = sides.SIDES[order.side](order)
        yield Here(made[order.side])

    yield make
    for side in made.values():
        side.close()


def test_all_of_it_on_a_small_random_model_that_torch_runs(
    tiny: Path, tmp_path: Path, here: Callable[[Any], Any]
) -> None:
    spec = benchmark.in_folder(tiny).model_copy(update={"backend": "torch"})
    counts = replace(benchmark.QUICK, shorts=25)
    measured = benchmark.measure(benchmark.Model(tiny, spec, str(tmp_path)), 1, counts, make=here)
    found = json.loads(json.dumps(measured))
    rows = by_name(found)
    assert {name for name, row in rows.items() if not row["values"].get("ours")} == {"prepare memory"}
    torch = "torch served it, not what was prepared"
    assert {name: row["flaw"] for name, row in rows.items() if row["flaw"]} == dict.fromkeys(
        (
            "load", "resident", "text", "dense", "all heads", "heads", "batches", "engine", "long", "short",
            "short time", "jobs",
        ),
        torch,
    )  # fmt: skip
    assert found["sides"]["fast"]["heads"] == ["dense", "sparse", "multi"]
    assert found["sides"]["fast"]["max_tokens"] == 8192
    assert rows["text"]["figures"]["SentenceTransformer, fp32"]["count"] == 2
    assert 0 < rows["short"]["values"]["ours"][0] < 8


@pytest.mark.parametrize(("backend", "fast"), [("openvino", True), ("torch", False)])
def test_the_entry_says_what_serves_the_model(
    backend: str, fast: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr("engine.embedder.Embedder", lambda _folder, _spec, fast: asked.append(fast))
    spec = benchmark.in_folder(tmp_path).model_copy(update={"backend": backend, "query_prefix": 'a "b"\n'})
    told = sides.Order("fast", str(tmp_path), spec.model_dump_json(), str(tmp_path))
    sides._embedder(told)
    assert asked == [fast]
    entry = config.load(sides.laid(told)).model("measured")
    assert (entry.backend, entry.query_prefix, entry.heads) == (backend, 'a "b"\n', None)
    assert entry.source.path == str(tmp_path)


def test_what_is_opened_is_served_from_its_cache_or_not_at_all(tiny: Path) -> None:
    with benchmark.opened(str(tiny), None, None) as model:
        assert model.spec.backend == "openvino"
        assert model.folder.parent == Path(model.home)
        assert model.folder.is_dir()
    assert not model.folder.exists()
    assert [path.name for path in tiny.parent.iterdir()] == [tiny.name]
