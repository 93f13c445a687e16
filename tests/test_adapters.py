"""LoRA adapters: what they do to the weights, what is refused, and that nothing made with one is used with another."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import script_module
import tiny_adapters
import tiny_models
from numpy.typing import NDArray
from tiny_adapters import STARTER, TINY, Said, matrices, write

from engine import Engine, adapters, config, footprint, plans, probe, tuning
from engine.errors import ConfigError, EngineClosed, EngineError, ModelCorrupt, ModelNotFound
from engine.llama import Context, ContextParams, Model
from engine.llama.library import lib
from engine.model_commands import _plan_lines, _row
from engine.models import key_of
from engine.reports import status_lines
from engine.scheduler import Chunk, Job
from engine.tuning import Timing

SIZES = ContextParams(n_ctx=256, n_batch=32, n_seq=1, n_threads=1, n_threads_batch=1)
PROMPT = [1, 70, 80, 90, 100]
ROUNDED = 1e-3  # float32, in another order; the logits of these models lie within 10
LABELS = ["weather", "food", "sports", "music"]


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder in which nothing is known yet."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("GIEOK_MODELS", str(folder))
    monkeypatch.delenv("GIEOK_PYTHON", raising=False)
    return folder


@pytest.fixture
def tiny(models: Path) -> Path:
    """A tiny model that need not be measured."""
    path = tiny_models.attention(models / "tiny.gguf")
    usual = tuning.usual()
    timings = tuple(Timing(True, n, usual.n_threads if n == 1 else usual.n_threads_batch, False, 0.01) for n in (1, 64))
    assert tuning.remember(path, replace(usual, timings=timings))
    return path


def logits(model: Path, adapted: Sequence[tuple[Path, float]] = (), repack: bool = False) -> NDArray[np.float32]:
    """What the model answers to a prompt with these adapters."""
    opened = Model(model, repack=repack)
    try:
        for path, scale in adapted:
            opened.adapt(path, scale)
        context = Context(opened, SIZES)
        assert context.decode([Chunk(Job([1], 1), 0, 0, PROMPT, 1)])
        return context.logits(len(PROMPT) - 1).copy()
    finally:
        opened.close()


def apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.abs(one - other).max())


# ---- what they do


@pytest.mark.parametrize("scale", [1.0, 0.5, -1.0])
def test_an_adapter_adds_its_product_to_the_weights(tiny: Path, tmp_path: Path, scale: float) -> None:
    pairs = matrices(TINY)
    adapter = write(tmp_path / "하나 😀.gguf", pairs)
    merged = tiny_adapters.merge(tiny_models.attention(tmp_path / "merged.gguf"), pairs, scale)
    with_it = logits(tiny, [(adapter, scale)])
    assert apart(with_it, logits(merged)) < ROUNDED < 0.05 < apart(with_it, logits(tiny))


def test_two_adapters_add_up(tiny: Path, tmp_path: Path) -> None:
    one, two = matrices(TINY, seed=1), matrices(TINY, seed=2, rank=8)
    merged = tiny_models.attention(tmp_path / "merged.gguf")
    tiny_adapters.merge(tiny_adapters.merge(merged, one), two, 0.5)
    files = write(tmp_path / "one.gguf", one), write(tmp_path / "two.gguf", two)
    both = logits(tiny, [(files[0], 1.0), (files[1], 0.5)])
    assert apart(both, logits(merged)) < ROUNDED
    assert min(apart(both, logits(tiny, [(file, 1.0)])) for file in files) > 0.05


@pytest.mark.model
@pytest.mark.parametrize("repack", [False, True])
def test_on_the_starter_model(starter_gguf: Path, tmp_path: Path, repack: bool) -> None:
    adapter = write(tmp_path / "one.gguf", matrices(STARTER, spread=0.05))
    found = {scale: logits(starter_gguf, [(adapter, scale)], repack) for scale in (0.0, 0.5, 1.0)}
    without = logits(starter_gguf, (), repack)
    assert np.array_equal(found[0.0], without), "scale 0 is no adapter"
    assert min(apart(found[0.5], without), apart(found[1.0], without), apart(found[0.5], found[1.0])) > 1.0


def test_they_are_freed_between_the_contexts_and_the_weights(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: list[str] = []

    def watched(name: str) -> Callable[[Any], None]:
        real = getattr(lib(), name)

        def free(handle: Any) -> None:
            freed.append(name)
            real(handle)

        return free

    for name in ("llama_free", "llama_adapter_lora_free", "llama_model_free"):
        monkeypatch.setattr(lib(), name, watched(name))
    model = Model(tiny, repack=False)
    for seed in range(2):
        model.adapt(write(tmp_path / f"{seed}.gguf", matrices(TINY, seed)), 1.0)
    Context(model, SIZES)
    with pytest.raises(EngineError, match="comes after it"):
        model.adapt(tmp_path / "0.gguf", 1.0)
    model.close()
    model.close()
    assert freed == ["llama_free", *["llama_adapter_lora_free"] * 2, "llama_model_free"]
    with pytest.raises(EngineClosed):
        model.adapt(tmp_path / "0.gguf", 1.0)


# ---- what models.toml may say


def entry(adapted: str, kind: str = "llm") -> str:
    source = 'source = { path = "tiny.gguf" }'
    return f'[models.tiny]\nkind = "{kind}"\n{source}\nadapters = {adapted}\n\n[profiles.tiny]\nchat = "tiny"\n'


@pytest.fixture
def parsed(tmp_path: Path) -> Callable[..., config.Config]:
    def parse(adapted: str, kind: str = "llm") -> config.Config:
        file = tmp_path / "models.toml"
        file.write_text(entry(adapted, kind), encoding="utf-8")
        return config.load(file)

    return parse


def test_a_path_alone_or_with_a_scale(parsed: Callable[..., config.Config], models: Path, tmp_path: Path) -> None:
    absolute = tmp_path / "two.gguf"
    for path in (models / "one.gguf", absolute):
        path.touch()
    spec = parsed(f"['one.gguf', {{ path = '{absolute}', scale = 2 }}]").model("tiny")
    assert adapters.located(spec) == [
        adapters.Located(models / "one.gguf", 1.0),
        adapters.Located(absolute, 2.0),
    ]
    assert spec.adapted == ("one.gguf", "two.gguf × 2")
    assert parsed("[]").model("tiny").adapted == ()


@pytest.mark.parametrize(
    ("adapted", "words"),
    [
        ("'one.gguf'", "should be a valid list"),
        ("[1]", "adapters.0"),
        ("['']", "at least 1 character"),
        ("[{ scale = 1.0 }]", r"adapters\.0\.path"),
        ("[{ path = 'a', scail = 1.0 }]", "unknown key .*scail.*scale"),
        ("[{ path = 'a', scale = '1' }]", r"adapters\.0\.scale"),
        ("[{ path = 'a', scale = nan }]", "less than or equal to 100"),
        ("[{ path = 'a', scale = inf }]", "less than or equal to 100"),
        ("['a', { path = 'a', scale = 0.5 }]", "no adapter twice"),
    ],
)
def test_what_is_no_list_of_adapters(parsed: Callable[..., config.Config], adapted: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parsed(adapted)
    assert caught.value.line == 4


def test_an_embedding_model_has_none(parsed: Callable[..., config.Config]) -> None:
    with pytest.raises(ConfigError, match="adapters' is a key of kind llm"):
        parsed("['a']", "embedding")


@pytest.mark.parametrize("path", ["gone.gguf", "~nobody-here/x.gguf", "folder", "a\\u0000b"])
def test_a_file_that_is_not_there(parsed: Callable[..., config.Config], models: Path, tiny: Path, path: str) -> None:
    (models / "folder").mkdir()
    spec = parsed(f'["{path}"]').model("tiny")
    for look in (adapters.located, lambda spec: plans.ways(spec, config.load().engine)):
        with pytest.raises(ModelNotFound, match=r"there is no adapter .*models\.toml"):
            look(spec)
    assert adapters.size(spec) in (0, (models / "folder").stat().st_size)


def test_it_is_counted(parsed: Callable[..., config.Config], models: Path, tiny: Path) -> None:
    size = write(models / "one.gguf", matrices(TINY, rank=16)).stat().st_size
    table = config.load().engine
    plain, adapted = (parsed(text).model("tiny") for text in ("[]", "['one.gguf']"))
    for repack in (False, True):
        without, with_it = (footprint.of_file(tiny, spec, table, cells=512, repack=repack) for spec in (plain, adapted))
        assert (with_it.weights, with_it.mapped) == ((without.weights or 0) + size, without.mapped)
    whole = {"size": 10**6, "kv_bytes": 1, "vocab": 1, "width": 1}
    estimates = [footprint.estimate(spec.model_copy(update=whole), table) for spec in (plain, adapted)]
    assert estimates[1].weights == (estimates[0].weights or 0) + size
    settings = [plans._settings(spec, table, tiny, plans.ways(spec, table)[0]) for spec in (plain, adapted)]
    assert settings[0] != settings[1], "what a load took without it says nothing of a load with it"
    assert key_of(plain) != key_of(adapted)


# ---- what is refused


def refused(model: Path, adapter: Path, kind: type[EngineError] = ModelCorrupt) -> str:
    with pytest.raises(EngineError) as caught:
        probe.check(model, lambda: None, adapter)
    assert type(caught.value) is kind
    said = str(caught.value)
    assert adapter.name in said and said.isprintable() and len(said) < 600
    return said


HEADERS = {
    "model": (Said(general="model"), ConfigError, "it is a model, not an adapter"),
    "nothing": (Said(general=None), ConfigError, "it is a model, not an adapter"),
    "control vector": (Said(kind="control"), ConfigError, "another kind than LoRA"),
    "no kind": (Said(kind=None), ConfigError, "another kind than LoRA"),
    "aLoRA": (Said(more={"adapter.alora.invocation_tokens": [1, 2]}), ConfigError, "aLoRA"),
    "architecture": (Said("qwen2"), ConfigError, "made for the architecture 'qwen2', and this model is 'llama'"),
    "no alpha": (Said(alpha=None), ModelCorrupt, "no adapter.lora.alpha"),
    "alpha": (Said(alpha=float("nan")), ModelCorrupt, "no adapter.lora.alpha"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_of_something_else(tiny: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said, kind, words = HEADERS[name]
    monkeypatch.setattr(probe, "_run", None)  # no child is needed for that
    assert words in refused(tiny, write(tmp_path / "x.gguf", matrices(TINY), said), kind)


def test_a_model_is_no_adapter_and_neither_is_what_is_cut_off(tiny: Path, tmp_path: Path) -> None:
    assert "it is a model" in refused(tiny, tiny, ConfigError)
    assert "no matrices" in refused(tiny, write(tmp_path / "none.gguf", {}))
    whole = write(tmp_path / "whole.gguf", matrices(TINY)).read_bytes()
    for size in (0, 20, 400, len(whole) // 2, len(whole) - 32):
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(whole[:size])
        refused(tiny, cut)


def test_a_good_adapter_is_tried_once_and_so_is_a_bad_one(
    tiny: Path, tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Sequence[str]] = []
    real = probe._run

    def run(command: Sequence[str], seconds: float, tell: probe.Tell) -> probe._Ended:
        runs.append(command)
        return real(command, seconds, tell)

    monkeypatch.setattr(probe, "_run", run)
    good = write(tmp_path / "good.gguf", matrices(TINY))
    for _ in range(2):
        probe.check(tiny, lambda: None, good)
    assert len(runs) == 1
    wide = write(
        tmp_path / "wide.gguf", matrices({name: (rows, 2 * columns) for name, (rows, columns) in TINY.items()})
    )
    assert "incorrect shape" in (said := refused(tiny, wide)) and "made for tiny.gguf" in said
    assert refused(tiny, wide) == said and len(runs) == 3, "a no is asked for twice"
    other = tiny_models.attention(tmp_path / "other.gguf")
    tiny_adapters.merge(other, matrices(TINY, seed=9))
    probe.check(other, lambda: None, good)
    assert len(runs) == 4, "what one model bears, another may not"
    verdicts = json.loads((models / ".verdicts.json").read_text(encoding="utf-8"))
    assert sorted(map(len, verdicts.values())) == [
        2,
        2,
        len(verdicts[next(k for k in verdicts if verdicts[k] != "ok")]),
    ]


def test_what_would_end_this_process_ends_a_child(tiny: Path, tmp_path: Path) -> None:
    """llama.cpp aborts where a value is of another type than it expects."""
    said = refused(tiny, write(tmp_path / "bad.gguf", matrices(TINY), Said(double=True)))
    assert "crashes of it" in said and "made for tiny.gguf" in said


def test_answers_that_are_no_numbers_are_refused(tiny: Path, tmp_path: Path) -> None:
    assert "no numbers" in refused(tiny, write(tmp_path / "large.gguf", matrices(TINY, spread=1e30)))


def test_llama_refuses_in_this_process_what_no_child_was_asked_about(tiny: Path, tmp_path: Path) -> None:
    model = Model(tiny, repack=False)
    try:
        far = write(tmp_path / "far.gguf", matrices({"blk.9.attn_q.weight": (64, 64)}))
        with pytest.raises(ModelCorrupt, match=r"cannot apply far\.gguf to tiny\.gguf"):
            model.adapt(far, 1.0)
        assert model.adapters == []
    finally:
        model.close()


# ---- in an engine


@pytest.fixture
def opened(tmp_path: Path, tiny: Path) -> Callable[[str], Engine]:
    """Open an engine whose chat model has these adapters; all have one home."""

    def opening(adapted: str) -> Engine:
        file = tmp_path / "models.toml"
        file.write_text(entry(adapted), encoding="utf-8")
        return Engine(config=file, profile="tiny", home=tmp_path / "home")

    return opening


def stored(home: Path) -> list[Path]:
    return sorted((home / "prefixes").rglob("*.prefix"))


def test_no_prefix_is_used_with_other_adapters(opened: Callable[[str], Engine], models: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    write(models / "one.gguf", matrices(TINY, spread=0.3))

    def scores(adapted: str, left: int) -> list[float]:
        with opened(adapted) as engine:
            engine.load("chat")
            assert len(stored(home)) == left, adapted
            return list(engine.classify("It rains.", LABELS).scores.values())

    half = "[{ path = 'one.gguf', scale = 0.5 }]"
    fresh = [scores(adapted, 0) for adapted in ("[]", "['one.gguf']", half)]
    assert min(np.abs(np.subtract(fresh[0], other)).max() for other in fresh[1:]) > 1e-3, "it works in an engine"
    assert np.allclose(scores(half, 1), fresh[2], atol=1e-4), "the same adapters go on from it"
    write(models / "one.gguf", matrices(TINY, seed=5, spread=0.3))
    assert not np.allclose(scores(half, 0), fresh[2], atol=1e-3), "another file of that name"


def test_it_is_told(opened: Callable[[str], Engine], models: Path) -> None:
    write(models / "one.gguf", matrices(TINY))
    with opened("[{ path = 'one.gguf', scale = 0.5 }]") as engine:
        planned = engine.plan("chat")
        engine.load("chat")
        (loaded,) = engine.status().loaded
        assert loaded.adapters == planned.adapters == ("one.gguf × 0.5",)
        lines = status_lines(engine.status().to_dict(), [{**planned.to_dict(), "roles": ["chat"]}], "en")
        assert sum("LoRA one.gguf × 0.5" in line for line in lines) == 2
        (model,) = engine.library.plan("tiny")
        shown = {"models": [model.to_dict()], "download": 0, "disk": 0, "ram": 0, **engine.library.disk()}
        assert "    LoRA: one.gguf × 0.5" in list(_plan_lines(shown, "ko"))
        (row,) = (_row(one, "en") for one in engine.library.entries() if one["name"] == "tiny")
        assert row[1] == "tiny + one.gguf × 0.5"


def test_a_bad_adapter_ends_no_engine(opened: Callable[[str], Engine], models: Path, tiny: Path) -> None:
    write(models / "qwen.gguf", matrices(TINY), Said("qwen2"))
    (models / "cut.gguf").write_bytes(write(models / "one.gguf", matrices(TINY)).read_bytes()[:-64])
    kinds = {"gone.gguf": ModelNotFound, "qwen.gguf": ConfigError, "tiny.gguf": ConfigError, "cut.gguf": ModelCorrupt}
    for name, kind in kinds.items():
        with opened(f"['{name}']") as engine:
            for _ in range(2):
                with pytest.raises(kind, match=name):
                    engine.chat("hi", max_tokens=1)
            assert engine.chat("hi", model=str(tiny), max_tokens=1).usage.completion_tokens == 1


def test_what_one_costs_can_be_measured(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script_module.load("lora_cost").main([str(tiny), "--rank", "2", "--rounds", "1"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("tiny.gguf: rank 2, 0.0 MB beside 0 MB")
    assert [line.count(" ms |") for line in said[-2:]] == [2, 2]
