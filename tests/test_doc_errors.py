"""docs/troubleshooting.md: every error class has its section, and each message there is one that a real call gives."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from doc_blocks import blocks, read

from engine import Engine, EngineError, Progress, errors

PAGE = "docs/troubleshooting.md"
CLASSES = {one.__name__: one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, EngineError)}
HEADING = re.compile(r"^### `(\w+)` · `(\w+)`$", re.MULTILINE)
_SIZE = re.compile(r"[\d.,]+ [MG]B")  # what a model takes is measured on each machine
PERSON = "/data/sujin"  # whose folder stands in the page for the test's own
MESSAGES = {block.heading.split("`")[1]: block.text.strip() for block in blocks(PAGE) if block.heading.startswith("`")}
HOLD = """
import sys
from engine.holding import Holding
from pathlib import Path
held = Holding(Path(sys.argv[1]), 0)
held.take()
print("held", flush=True)
sys.stdin.read()
"""
EXPORT = """{"gieok": "memories", "version": 1, "count": 1}
{"id": "1", "text": "저는 서울에 살아요", "user": "수진", "created": "2026-03-05T09:00:00+09:00"}
"""

Call = Callable[[Path, Engine], object]


def test_every_class_has_its_section_and_every_section_its_class() -> None:
    assert HEADING.findall(read(PAGE)) == [(name, one.code) for name, one in CLASSES.items()]
    assert len({one.code for one in CLASSES.values()}) == len(CLASSES)


def test_every_section_quotes_one_message_and_says_more() -> None:
    assert set(MESSAGES) == set(CLASSES)
    for section in re.split(r"^### ", read(PAGE).split("\n## Installing")[0], flags=re.MULTILINE)[1:]:
        assert len(section.split("```")) == 3 and len(section.split("```")[2]) > 100


# ---- a call for each


def engine_error(folder: Path, _engine: Engine) -> None:
    def ask(_event: Progress) -> None:
        opened.chat("나를 기다려")

    with Engine(profile="starter", home=folder / "home", progress=ask) as opened:
        opened.load("chat")


def config_error(folder: Path, _engine: Engine) -> None:
    (folder / "my.toml").write_text('[engine]\nram_buget = "12GB"\n', encoding="utf-8")
    Engine(config=folder / "my.toml")


def model_not_found(folder: Path, engine: Engine) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIEOK_MODELS", str(folder / "nowhere"))
        engine.library.verify("multilingual-e5-small")


def model_corrupt(folder: Path, _engine: Engine) -> None:
    (folder / "photo.gguf").write_bytes(b"JFIF" * 1000)
    with Engine(profile="starter", models={"chat": str(folder / "photo.gguf")}, home=folder / "home") as opened:
        opened.chat("안녕하세요")


def download_error(folder: Path, engine: Engine) -> None:
    engine.library.pull("bge-m3", source=folder / "usb")


def out_of_budget(folder: Path, _engine: Engine) -> None:
    with Engine(profile="starter", ram_budget="100MB", home=folder / "home") as opened:
        opened.chat("안녕하세요")


def context_overflow(_folder: Path, engine: Engine) -> None:
    engine.chat("가나다라 " * 2000)


def invalid_input(_folder: Path, engine: Engine) -> None:
    engine.search("약속", since="어제")


def schema_error(_folder: Path, engine: Engine) -> None:
    engine.chat("목록", schema={"type": "array", "items": {"type": "string"}, "uniqueItems": True})


def store_error(folder: Path, _engine: Engine) -> None:
    (folder / "home").mkdir()
    (folder / "home/memory.sqlite3").write_bytes(b"no database" * 1000)
    with Engine(profile="starter", home=folder / "home") as opened:
        opened.memories()


def store_locked(folder: Path, _engine: Engine) -> None:
    (folder / "home").mkdir()
    (folder / "mine.jsonl").write_text(EXPORT, encoding="utf-8")
    with Popen([sys.executable, "-c", HOLD, str(folder / "home")], stdin=PIPE, stdout=PIPE, encoding="utf-8") as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        with Engine(profile="starter", home=folder / "home") as opened:
            opened.import_(folder / "mine.jsonl")


def memory_not_found(_folder: Path, engine: Engine) -> None:
    engine.memory("00000000")


def engine_closed(folder: Path, _engine: Engine) -> None:
    opened = Engine(profile="starter", home=folder / "home")
    opened.close()
    opened.chat("안녕하세요")


def cancelled(_folder: Path, engine: Engine) -> None:
    engine.library.verify("smollm2-135m-instruct", progress=lambda _event: False)


CALLS: dict[str, Call] = {
    "EngineError": engine_error,
    "ConfigError": config_error,
    "ModelNotFound": model_not_found,
    "ModelCorrupt": model_corrupt,
    "DownloadError": download_error,
    "OutOfBudget": out_of_budget,
    "ContextOverflow": context_overflow,
    "InvalidInput": invalid_input,
    "SchemaError": schema_error,
    "StoreError": store_error,
    "StoreLocked": store_locked,
    "MemoryNotFound": memory_not_found,
    "EngineClosed": engine_closed,
    "Cancelled": cancelled,
}


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(profile="starter", home=tmp_path_factory.mktemp("home")) as opened:
        yield opened


@pytest.mark.model
@pytest.mark.parametrize("name", CLASSES)
def test_the_message_is_what_a_call_gives(name: str, starter: Engine, tmp_path: Path) -> None:
    with pytest.raises(CLASSES[name]) as raised:
        CALLS[name](tmp_path, starter)
    assert type(raised.value) is CLASSES[name]
    said = str(raised.value).replace(str(tmp_path), PERSON)
    assert _SIZE.sub("0 MB", said) == _SIZE.sub("0 MB", MESSAGES[name])
