"""What the pages show is what happens: every Python block runs, every link leads somewhere, every claim has its place."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from doc_blocks import LANGUAGES, PAGES, ROOT, Block, all_blocks, anchors, blocks, libraries_kept, prose, read
from test_layers import FLOORS

from engine import Engine, config
from engine.quantities import bytes_text

# Blocks that open a window: they are compiled here; tests/test_examples.py runs a window where there is a display.
WINDOWS = re.compile(r"^(import|from) tkinter\b", re.MULTILINE)


@pytest.fixture(scope="module", autouse=True)
def _libraries() -> Iterator[None]:
    with libraries_kept():
        yield


def of_heading(heading: str, page: str = "README.md") -> Block:
    [found] = [block for block in blocks(page) if block.language == "python" and block.heading == heading]
    return found


# ---- every block


def test_every_page_is_read() -> None:
    assert {"README.md", "README.ko.md", "CHANGELOG.md", "docs/design.md", "docs/guide.md"} <= set(PAGES)
    assert len(all_blocks("python")) >= 10 and len(all_blocks("sh")) >= 10


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    assert [str(block) for block in blocks(page) if block.language not in LANGUAGES] == []
    assert prose(page).count("```") == 0  # none was left over, so none was read wrongly


def test_a_block_is_found_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doc_blocks.ROOT", tmp_path)
    text = "# One\n\n```sh\n# no heading\nls\n```\n\n## Two *b*\n\n- a\n\n  ```python\n  if 1:\n      print()\n  ```\n"
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    assert blocks("page.md") == [
        Block("page.md", 3, "One", "sh", "# no heading\nls\n"),
        Block("page.md", 12, "Two *b*", "python", "if 1:\n    print()\n"),
    ]
    assert anchors("page.md") == {"one", "two-b"}


def ran(block: Block) -> None:
    """Run a block as a program of its own would be, in this process: what is imported stays imported."""
    code = compile("\n" * block.line + block.text, block.page, "exec")
    if not WINDOWS.search(block.text):
        exec(code, {"__name__": "__main__"})


def of_pytest(block: Block) -> bool:
    return "def test_" in block.text


# README's sections have a test each, which also looks at what is printed.
SHOWN = {"Ten lines", "Within 16 GB", "Embeddings", "Memory", "Conversations", "Tasks"}


@pytest.mark.model
@pytest.mark.parametrize(
    "block",
    [block for block in all_blocks("python") if not (block.page == "README.md" and block.heading in SHOWN)],
    ids=str,
)
def test_python_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if of_pytest(block):
        (tmp_path / "test_shown.py").write_text(block.text, encoding="utf-8")
        installed = any(entry.name == "gieok" for entry in entry_points(group="pytest11"))  # else of an older set-up
        plugin = [] if installed else ["-p", "pytest_gieok"]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, "test_shown.py"]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        ran(block)


@pytest.mark.parametrize("block", all_blocks("toml"), ids=str)
def test_toml_is_understood(block: Block, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(block.text, encoding="utf-8")
    assert config.load(tmp_path / "my.toml").models


# ---- what README's blocks print


Shown = Callable[[str], list[str]]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Run the block below a heading of README and return the lines that it prints."""
    monkeypatch.chdir(tmp_path)

    def lines(heading: str) -> list[str]:
        ran(of_heading(heading))
        return capsys.readouterr().out.splitlines()

    return lines


@pytest.mark.model
def test_the_ten_lines_run(shown: Shown) -> None:
    found, label, when, *said = shown("Ten lines")
    assert found == "우리 집 강아지 이름은 보리예요"
    assert label == "work"
    assert when == "(datetime.date(2026, 3, 20), datetime.date(2026, 3, 20))"
    assert "".join(said).strip()


@pytest.mark.model
def test_the_lines_on_room_run(shown: Shown) -> None:
    plan, model, *parts = shown("Within 16 GB")
    assert plan.split()[0] == "fits" and int(plan.split()[1]) > 98_362_432
    assert model == "smollm2-135m-instruct" and parts[0].split()[0] == model


@pytest.mark.model
def test_the_lines_on_embeddings_run(shown: Shown) -> None:
    assert shown("Embeddings") == ["(2, 384)", "None None"]


@pytest.mark.model
def test_the_lines_on_remembering_run(shown: Shown) -> None:
    current, history, hit, gone = shown("Memory")
    assert current == "['저는 부산으로 이사했어요']"
    assert history == "[('저는 서울에 살아요', False), ('저는 부산으로 이사했어요', True)]"
    assert hit.startswith("저는 부산으로 이사했어요 True ['age', 'coverage', 'dense'")
    assert gone == "2"


@pytest.mark.model
def test_the_lines_on_conversations_run(shown: Shown) -> None:
    *_, answer, told = shown("Conversations")
    assert answer.endswith("['저는 땅콩 알레르기가 있어요.']")
    assert told == "['저는 땅콩 알레르기가 있어요.']"


@pytest.mark.model
def test_the_lines_on_tasks_run(shown: Shown) -> None:
    home, dentist, two, one, label, *summary, understood = shown("Tasks")
    assert home == "fact personal 나는 수원에 사는 박서준이야 0 None"
    assert dentist == "event health 다음 주 금요일에 치과 예약이 있어 0 2026-03-20"
    assert (two, one, label) == ("2", "1", "환불")
    assert summary
    assert "memory_query" in understood and "datetime.date(2026, 3, 2)" in understood


# ---- both languages


def without_comments(block: Block) -> list[str]:
    return [line.split("  #")[0].rstrip() for line in block.text.splitlines()]


def test_both_languages_show_the_same_code() -> None:
    one, other = (
        [block.text for block in blocks(page) if block.language == "python"] for page in ("README.md", "README.ko.md")
    )
    assert one == other


def test_both_languages_have_the_same_sections() -> None:
    one, other = (re.findall(r"^## .*", prose(page), re.MULTILINE) for page in ("README.md", "README.ko.md"))
    assert len(one) == len(other), list(zip(one, other, strict=False))


def test_every_command_of_the_korean_readme_is_one_of_the_english_one() -> None:
    one, other = (
        [without_comments(block) for block in blocks(page) if block.language == "sh"]
        for page in ("README.md", "README.ko.md")
    )
    assert other and [commands for commands in other if commands not in one] == []


# ---- links


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if "://" not in link]
    lost = []
    for link in links:
        name, _, heading = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        there = target.exists() and (not heading or heading in anchors(target.resolve().relative_to(ROOT).as_posix()))
        if not there:
            lost.append(link)
    assert lost == []


def test_the_readmes_lead_to_every_page() -> None:
    for page in ("README.md", "README.ko.md"):
        text = read(page)
        assert [page for page in PAGES if page.startswith("docs/") and f"({page}" not in text] == []


# ---- figures and places that are told


def table(page: str, first: str) -> list[list[str]]:
    """Return the rows of the table whose head begins with `first`."""
    _, found = (ROOT / page).read_text(encoding="utf-8").split(f"| {first} |", 1)
    lines = found.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_figures_of_the_readmes_are_those_of_the_benchmark() -> None:
    measured = [row[1:] for row in table("docs/benchmarks/benchmark.md", "part")]
    shown = table("README.md", "work")
    assert len(shown) > 10
    assert [row for row in shown if row not in measured] == []
    assert [row[1:] for row in table("README.ko.md", "일")] == [
        ["예" if cell == "yes" else "아니요" if cell == "no" else cell for cell in row[1:]] for row in shown
    ]


def test_what_the_guide_says_of_memory_is_what_doctor_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path / "models"))  # none is here: the catalogue's figures
    [table] = [block for block in blocks("docs/guide.md") if block.language == "toml"]
    (tmp_path / "my.toml").write_text(table.text, encoding="utf-8")
    with Engine(tmp_path / "my.toml", home=tmp_path / "home") as engine:
        fits = {fit["profile"]: fit for fit in engine.doctor()["profiles"]}
    rows = re.findall(
        r"^\| \d+ GB \| `(\w+)`[^|]*\|[^|]*\| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", read("docs/guide.md"), re.MULTILINE
    )
    assert [row[0] for row in rows] == ["small", "default", "commercial", "large"]
    for profile, *told in rows:
        assert told == [bytes_text(fits[profile][what]) for what in ("download", "ram", "ram_least")], profile


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_is_there(page: str) -> None:
    named = re.findall(r"`((?:tests|scripts|engine|docs|examples)/[\w./-]+\.\w+)", prose(page))
    assert [name for name in named if not (ROOT / name).is_file()] == []


# ---- the house


def test_the_table_of_modules_is_the_house() -> None:
    """docs/internals.md names each module of the package once, on its floor."""
    rows = re.findall(r"^\| (\d) \| (`[^|]*`) \|", read("docs/internals.md"), re.MULTILINE)
    named = [(int(floor), name) for floor, names in rows for name in re.findall(r"`(\w+)`", names)]
    house = [(floor, room) for floor, rooms in enumerate(FLOORS) for room in rooms if room not in ("", "__main__")]
    assert sorted(named) == sorted(house)
