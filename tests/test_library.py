"""What models need before they come, told from the catalogue alone; and how they come from a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_preparation import REFUSAL, Preparations

from engine import Engine, config, fastpath, pins
from engine.errors import Cancelled, DownloadError, ModelCorrupt, ModelNotFound
from engine.library import Library
from engine.metrics import Progress
from engine.pins import Pin, PinnedFile

WEIGHTS = b"GGUF" + b"w" * 5000
SHA = hashlib.sha256(WEIGHTS).hexdigest()
OWN = f"""
[models.tiny]
kind = "llm"
source = {{ repo = "org/tiny", files = ["tiny.gguf"] }}
sha256 = {{ "tiny.gguf" = "{SHA}" }}
license = "Apache-2.0"
size = {len(WEIGHTS)}
[models.pair]
kind = "llm"
source = {{ repo = "org/pair", files = ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"] }}
gated = true
"""


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    monkeypatch.setenv("GIEOK_MODELS", str(folder))
    return folder


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    file = tmp_path / "models.toml"
    file.write_text(OWN, encoding="utf-8")
    with Engine(str(file), profile="starter", home=tmp_path / "home") as engine:
        yield engine.library


@pytest.mark.parametrize("name", sorted(config.load().models))
def test_every_entry_can_be_planned_without_any_file(library: Library, models: Path, name: str) -> None:
    (plan,) = library.plan(name)
    spec = config.load().model(name)
    assert (plan.model, plan.license, plan.commercial) == (name, spec.license, spec.commercial)
    assert not plan.installed
    assert plan.download == spec.size
    assert plan.disk == (spec.weights if spec.convert else spec.size)
    assert plan.ram.total is not None
    assert plan.ram.total > 0
    assert len(plan.files) == len(spec.source.files)
    assert json.loads(json.dumps(plan.to_dict()))["ram"]["total"] == plan.ram.total
    assert not models.exists()


def test_a_profile_is_planned_as_a_whole(library: Library) -> None:
    names = {spec.model for spec in library.plan("default")}
    assert names == {"qwen2.5-7b-instruct", "qwen2.5-3b-instruct", "bge-m3"}
    assert {spec.model for spec in library.plan()} == {"smollm2-135m-instruct", "multilingual-e5-small"}
    assert [spec.model for spec in library.plan("embedding")] == ["multilingual-e5-small"]
    with pytest.raises(ModelNotFound, match=r"qwen2\.5:7b"):
        library.plan("qwen2.5:7")


def test_a_plan_knows_what_is_here(library: Library, models: Path) -> None:
    (models / "pair").mkdir(parents=True)
    (models / "pair" / "x-00001-of-00002.gguf").write_bytes(b"GGUF")
    (plan,) = library.plan("pair")
    assert [(file.size, file.installed) for file in plan.files] == [(None, True), (None, False)]
    assert (plan.download, plan.installed, plan.gated) == (None, False, True)
    names = ("x-00001-of-00002.gguf", "x-00002-of-00002.gguf")
    pins.write("pair", Pin("org/pair", "c", {name: PinnedFile(70, "a" * 64) for name in names}))
    (plan,) = library.plan("pair")
    assert (plan.download, plan.disk) == (70, 140)
    (models / "pair" / names[1]).write_bytes(b"GGUF")
    (plan,) = library.plan("pair")
    assert (plan.download, plan.installed) == (0, True)


def test_entries_say_what_is_installed(library: Library, models: Path) -> None:
    assert not any(entry["installed"] for entry in library.entries())
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "tiny.gguf").write_bytes(WEIGHTS)
    entries = {entry["name"]: entry for entry in library.entries()}
    assert [name for name, entry in entries.items() if entry["installed"]] == ["tiny"]
    assert entries["qwen2.5-7b-instruct"]["ram"] > entries["qwen2.5-7b-instruct"]["size"] == 4683073632


def test_the_disk_of_a_folder_that_is_not_there_yet(library: Library, models: Path) -> None:
    told = library.disk()
    assert told["folder"] == str(models)
    assert told["free"] > 0


def test_models_of_a_folder_are_recognised_and_verified(library: Library, models: Path, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    with pytest.raises(ModelNotFound, match="nothing in"):
        library.take(stick)
    (stick / "tiny.gguf").write_bytes(WEIGHTS)
    (stick / "other.gguf").write_bytes(WEIGHTS)
    with pytest.raises(ModelNotFound, match="nothing in"):
        library.take(stick / "other.gguf")
    assert library.take(stick) == [models / "tiny" / "tiny.gguf"]
    assert [found.state for found in library.verify()] == ["ok"]
    assert library.remove("tiny") == len(WEIGHTS)
    assert library.take(stick / "tiny.gguf") == [models / "tiny" / "tiny.gguf"]
    library.remove("tiny")
    assert library.take(stick / "other.gguf", "tiny") == [models / "tiny" / "tiny.gguf"]
    library.remove("tiny")
    (stick / "tiny.gguf").write_bytes(b"GGUF" + b"v" * 5000)
    with pytest.raises(DownloadError, match="sha256"):
        library.take(stick)
    with pytest.raises(DownloadError, match="has no x-00001"):
        library.take(stick, "pair")
    with pytest.raises(DownloadError, match="there is no folder"):
        library.pull("tiny", source=tmp_path / "none")


def test_one_of_several_parts_brings_the_others(library: Library, models: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"x-0000{number}-of-00002.gguf").write_bytes(WEIGHTS)
    (path,) = library.take(tmp_path / "x-00002-of-00002.gguf")
    assert path == models / "pair" / "x-00001-of-00002.gguf"
    assert [found.state for found in library.verify("pair")] == ["ok", "ok"]


def test_a_closed_engine_has_no_library(tmp_path: Path) -> None:
    engine = Engine(profile="starter", home=tmp_path)
    engine.close()
    with pytest.raises(Exception, match="closed"):
        engine.library.plan()


def test_the_fallback_of_a_profile_is_optional(library: Library, models: Path) -> None:
    assert library.optional("default") == "llama-3.2-3b-instruct"
    assert "llama-3.2-3b-instruct" not in [plan.model for plan in library.plan("default")]
    assert [library.optional(name) for name in (None, "starter", "qwen2.5:7b")] == [None] * 3  # who have none
    (file,) = config.load().model("llama-3.2-3b-instruct").source.files
    (models / "llama-3.2-3b-instruct").mkdir(parents=True)
    (models / "llama-3.2-3b-instruct" / file).write_bytes(WEIGHTS)
    assert library.optional("default") is None  # it is here


# ---- embedding models, which are made ready once they are here


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the user's own, with weights that nobody reads."""
    made = tmp_path / "mine"
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"weights")
    return made


@pytest.fixture
def own(tmp_path: Path, folder: Path) -> Iterator[Engine]:
    file = tmp_path / "own.toml"
    file.write_text(
        f"[models.mine]\nkind = 'embedding'\nsource.path = '{folder.as_posix()}'\n"
        f"[models.forced]\nkind = 'embedding'\nbackend = 'openvino'\nsource.path = '{folder.as_posix()}'\n" + OWN,
        encoding="utf-8",
    )
    with Engine(str(file), profile="starter", models={"embedding": "mine"}, home=tmp_path / "home") as engine:
        yield engine


def test_what_is_pulled_is_prepared_in_room_of_its_own(
    own: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparations, told, held = Preparations(monkeypatch), list[Progress](), list[str]()
    preparations.act = lambda _job: held.extend(part.name for part in own.status().parts)
    for _ in range(2):
        assert own.pull("mine", progress=told.append) == [folder]
    assert preparations.made == 1 and fastpath.state(folder) == "ready"
    assert held == ["preparing mine"] and own.status().parts == ()
    assert [event.done for event in told if event.task == "prepare mine"][-1] == 5


def test_a_chat_model_that_is_pulled_is_not_prepared(
    own: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparations = Preparations(monkeypatch)
    (tmp_path / "tiny.gguf").write_bytes(WEIGHTS)
    own.library.take(tmp_path / "tiny.gguf")
    assert preparations.made == 0


def test_a_pull_does_not_fail_for_want_of_the_fast_path(
    own: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preparations = Preparations(monkeypatch)
    preparations.fails(OSError(28, "No space left on device"))
    assert own.pull("mine") == [folder]
    assert own.status().parts == ()
    preparations.act = lambda _job: None
    preparations.refuses = True
    assert own.library.pull("mine") == [folder]
    with pytest.raises(ModelCorrupt, match=REFUSAL):
        own.pull("forced")


def test_a_pull_can_be_cancelled_while_it_prepares(own: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preparations = Preparations(monkeypatch)
    preparations.waits()
    with pytest.raises(Cancelled):
        own.pull("mine", progress=lambda event: not preparations.made)
    assert own.status().parts == () and not fastpath.cache_of(folder).exists()
