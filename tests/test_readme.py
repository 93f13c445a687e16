"""What the README shows is what happens."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from engine import cli

ROOT = Path(__file__).parents[1]
READMES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md")}


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.model
def test_the_ten_lines_run(capsys: pytest.CaptureFixture[str]) -> None:
    block, _, _, _, *_ = python_blocks(READMES["README.md"])
    exec(compile(block, "README.md", "exec"), {})
    found, label, when, *said = capsys.readouterr().out.splitlines()
    assert found == "우리 집 강아지 이름은 보리예요"
    assert label == "work"
    assert when == "(datetime.date(2026, 3, 20), datetime.date(2026, 3, 20))"
    assert "".join(said).strip()


@pytest.mark.model
def test_the_lines_on_memory_run(capsys: pytest.CaptureFixture[str]) -> None:
    _, block, _, _, *_ = python_blocks(READMES["README.md"])
    exec(compile(block, "README.md", "exec"), {})
    plan, model, *parts = capsys.readouterr().out.splitlines()
    assert plan.split()[0] == "fits" and int(plan.split()[1]) > 98_362_432
    assert model == "smollm2-135m-instruct" and parts[0].split()[0] == model


@pytest.mark.model
def test_the_lines_on_embeddings_run(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, block, _, *_ = python_blocks(READMES["README.md"])
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == ["(2, 384)", "None None"]


@pytest.mark.model
def test_the_lines_on_remembering_run(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, _, block, *_ = python_blocks(READMES["README.md"])
    exec(compile(block, "README.md", "exec"), {})
    current, history, hit, gone = capsys.readouterr().out.splitlines()
    assert current == "['저는 부산으로 이사했어요']"
    assert history == "[('저는 서울에 살아요', False), ('저는 부산으로 이사했어요', True)]"
    assert hit.startswith("저는 부산으로 이사했어요 True ['age', 'coverage', 'dense'")
    assert gone == "2"


@pytest.mark.model
def test_the_lines_on_conversations_run(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, _, _, block, _ = python_blocks(READMES["README.md"])
    exec(compile(block, "README.md", "exec"), {})
    *_, answer, told = capsys.readouterr().out.splitlines()
    assert answer.endswith("['저는 땅콩 알레르기가 있어요.']")
    assert told == "['저는 땅콩 알레르기가 있어요.']"


@pytest.mark.model
def test_the_lines_on_tasks_run(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, _, _, _, block = python_blocks(READMES["README.md"])
    exec(compile(block, "README.md", "exec"), {})
    home, dentist, two, one, label, *summary, understood = capsys.readouterr().out.splitlines()
    assert home == "fact personal 나는 수원에 사는 박서준이야 0 None"
    assert dentist == "event health 다음 주 금요일에 치과 예약이 있어 0 2026-03-20"
    assert (two, one, label) == ("2", "1", "환불")
    assert summary
    assert "memory_query" in understood and "datetime.date(2026, 3, 2)" in understood


def test_both_languages_show_the_same_code() -> None:
    one, other = (python_blocks(text) for text in READMES.values())
    assert one == other


@pytest.mark.parametrize("name", READMES)
def test_every_link_leads_to_a_file(name: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", READMES[name]) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


@pytest.mark.parametrize("file", ["README.md", "README.ko.md", "docs/models.md"])
def test_every_command_that_is_shown_is_understood(file: str) -> None:
    shown = re.findall(r"^gieok .*", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert shown
    for line in shown:
        cli._parser("en").parse_args(shlex.split(line, comments=True)[1:])
