"""What the doctor tells of a machine, a profile and a home, through an engine as its users have it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_preparation import REFUSAL, Preparations

from engine import Engine, EngineClosed, doctor, fastpath, machine, prepare
from engine.machine import Memory
from engine.metrics import Progress

GB = 10**9
NAMES = [
    "compiler flags", "gpu", "threads", "ram", "disk of models", "disk of home", "models folder", "home folder",
    "temporary folder", "embedding", "database", "index", "versions",
]  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "홍길동" / "기억"


@pytest.fixture
def bare(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine with the guide's profile on a machine where no model is."""
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path / "models"))
    with Engine(home=home) as opened:
        yield opened


@pytest.fixture
def starter(home: Path) -> Iterator[Engine]:
    with Engine(profile="starter", home=home) as opened:
        yield opened


def of(found: dict[str, Any], name: str) -> dict[str, Any]:
    [check] = [check for check in found["checks"] if check["name"] == name]
    return dict(check)


def profile(found: dict[str, Any], name: str) -> dict[str, Any]:
    [fit] = [fit for fit in found["profiles"] if fit["profile"] == name]
    return dict(fit)


def has(monkeypatch: pytest.MonkeyPatch, total: int, available: int) -> None:
    monkeypatch.setattr(machine, "memory", lambda: Memory(total, available))
    monkeypatch.setattr(machine, "resident", lambda: machine.Resident(0, 0))


# ---- before any download


def test_nothing_is_made_or_loaded_by_looking(bare: Engine, tmp_path: Path) -> None:
    found = bare.doctor()
    assert json.loads(json.dumps(found)) == found
    assert [check["name"] for check in found["checks"]] == NAMES
    assert all(bool(check["step"]) is (check["ok"] is not True) or check["ok"] is None for check in found["checks"])
    assert "speed" not in found
    assert list(tmp_path.iterdir()) == []
    assert bare.status().loaded == ()


def test_what_runs_the_embedding_model_is_told(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    preparations = Preparations(monkeypatch)
    with Engine(home=home, models={"embedding": folder}) as engine:
        told = of(engine.doctor(), "embedding")
        assert told["ok"] is None and "`gieok models pull mine`" in told["step"]
        assert preparations.made == 0, "to look is not to prepare"
        spec = engine._models.spec("embedding")
        prepare.prepare(folder, spec)
        assert of(engine.doctor(), "embedding")["found"] == "OpenVINO runs mine"
        with monkeypatch.context() as without:
            without.setattr(fastpath, "available", lambda: False)
            assert "torch runs mine: OpenVINO is not installed" in of(engine.doctor(), "embedding")["found"]
        fastpath.discard(folder)
        preparations.refuses = True
        prepare.prepare(folder, spec)
        assert of(engine.doctor(), "embedding")["found"] == f"torch runs mine: {REFUSAL}"


def test_an_embedding_model_that_is_not_here_runs_nowhere(bare: Engine) -> None:
    told = of(bare.doctor(), "embedding")
    assert (told["ok"], told["found"], told["step"]) == (None, "bge-m3 is not here", "`gieok models pull bge-m3`")


def test_every_profile_is_judged_before_any_download(bare: Engine) -> None:
    found = bare.doctor()
    assert [fit["profile"] for fit in found["profiles"]] == ["default", "commercial", "starter"]
    default = profile(found, "default")
    assert default["models"] == ["qwen2.5-7b-instruct", "qwen2.5-3b-instruct", "bge-m3"]
    assert default["download"] > 8 * GB
    assert default["ram"] < 12 * GB  # the guide's profile stays below that with everything resident
    assert (default["commercial"], profile(found, "commercial")["commercial"]) == (False, True)
    assert default["licenses"]["qwen2.5-3b-instruct"] == "Qwen Research"


@pytest.mark.parametrize(
    ("available", "verdicts", "recommended"),
    [
        (64 * GB, ("runs", "runs", "runs"), "default"),
        (11 * GB, ("runs", "runs, one model at a time", "runs"), "default"),
        (9 * GB, ("runs, one model at a time", "runs, one model at a time", "runs"), "default"),
        (4 * GB, ("too large", "too large", "runs"), "starter"),
        (GB // 2, ("too large", "too large", "too large"), None),
    ],
)
def test_the_verdicts_follow_the_memory_of_the_machine(
    bare: Engine,
    monkeypatch: pytest.MonkeyPatch,
    available: int,
    verdicts: tuple[str, ...],
    recommended: str | None,
) -> None:
    has(monkeypatch, 64 * GB, available)
    found = bare.doctor()
    assert tuple(fit["verdict"] for fit in found["profiles"]) == verdicts
    assert found["recommended"] == recommended


def test_the_budget_counts_even_on_a_large_machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, 64 * GB, 64 * GB)
    with Engine(home=home, ram_budget="4GB") as small:
        found = small.doctor()
    assert found["ram_budget"] == 4 * GB
    assert profile(found, "default")["verdict"] == "too large"
    assert of(found, "ram")["step"].startswith("raise ram_budget")


def test_a_model_that_the_catalogue_does_not_know_makes_the_numbers_unknown(home: Path, tmp_path: Path) -> None:
    with Engine(home=home, models={"chat": str(tmp_path / "own.gguf")}) as own:
        found = own.doctor()
    mine = profile(found, "default")
    assert "own" in mine["models"]
    assert (mine["ram"], mine["verdict"], mine["download"]) == (None, None, None)
    assert of(found, "ram")["ok"] is None
    assert profile(found, "commercial")["ram"]  # the others are told as they are


# ---- with models and memories


def test_the_starter_profile_is_well_here(starter: Engine) -> None:
    found = starter.doctor()
    assert {check["name"] for check in found["checks"] if check["ok"] is False} <= {"ram", "disk of home"}
    assert profile(found, "starter")["download"] == 0
    assert "every model of starter is here" in of(found, "disk of models")["found"]


def test_memories_and_vectors_are_counted_while_they_are_open(starter: Engine, home: Path) -> None:
    starter.remember(["저는 땅콩을 못 먹어요", "강아지 이름은 보리예요"])
    found = starter.doctor()
    assert "sound, 2 memories" in of(found, "database")["found"]
    assert "2 of 2 memories have their vector" in of(found, "index")["found"]
    with Engine(home=home) as other:  # another embedding model, and not the process that holds the home
        assert "2 memories are searched by the vectors of multilingual-e5-small" in of(other.doctor(), "index")["found"]


def test_a_damaged_home_is_told_and_left_alone(starter: Engine, home: Path) -> None:
    home.mkdir(parents=True)
    (home / "memory.sqlite3").write_bytes(b"no database at all" * 1000)
    found = of(starter.doctor(), "database")
    assert found["ok"] is False
    assert "move memory.sqlite3 away" in found["step"]


def test_without_llama_cpp_the_doctor_still_tells(bare: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("libllama.so: cannot open shared object file")

    bare.doctor()
    for name in ("devices", "idle_backend", "system_info"):
        monkeypatch.setattr(sys.modules["engine.llama.devices"], name, broken)
    found = bare.doctor()
    assert found["gpu"] is None
    assert of(found, "compiler flags")["ok"] is False
    assert "libllama.so" in of(found, "gpu")["found"]


# ---- speed


@pytest.mark.model
def test_the_four_lines_are_measured_and_nothing_stays_in_the_home(home: Path) -> None:
    told: list[Progress] = []
    with Engine(profile="starter", home=home, progress=told.append) as starter:
        lines = starter.doctor(speed=True)["speed"]
        assert starter.status().loaded == ()
    assert [line["what"] for line in lines] == ["first chat token", "classification", "embedding", "memory search"]
    assert all(line["measured"] > 0 and line["met"] is (line["measured"] <= line["target"]) for line in lines)
    assert "made-up" in lines[-1]["over"]
    assert not home.exists()
    assert any(event.task.startswith("measure speed") for event in told)


@pytest.mark.model
def test_own_memories_are_searched_where_a_search_leaves_them_as_they_are(starter: Engine, home: Path) -> None:
    patient = doctor.Patient(starter._config, "starter", starter._models, starter.library, home, GB)
    assert doctor.own_search(patient, starter.search) is None
    starter.remember(["저는 땅콩을 못 먹어요", "강아지 이름은 보리예요"], user="수진")
    own = doctor.own_search(patient, starter.search)
    assert own is not None
    assert own.over == "2 memories"
    assert [hit.memory.user for hit in own.ask("못 먹는 음식")] == ["수진", "수진"]  # type: ignore[attr-defined]
    with Engine(home=home) as other:  # whose search would embed them anew
        patient = doctor.Patient(other._config, "default", other._models, other.library, home, GB)
        assert doctor.own_search(patient, other.search) is None


@pytest.mark.parametrize(("beside", "left"), [(15 * GB, GB), (16 * GB, 100_000_000), (17 * GB, 100_000_000)])
def test_the_second_engine_of_speed_gets_what_the_first_leaves(
    bare: Engine, home: Path, monkeypatch: pytest.MonkeyPatch, beside: int, left: int
) -> None:
    made: list[dict[str, Any]] = []

    def measure(given: Any) -> list[Any]:
        with given.engine(home):
            return []

    class Second(Engine):
        def __init__(self, *named: Any, **given: Any) -> None:
            made.append(given)
            super().__init__(*named, **given)

    monkeypatch.setattr("engine.speed.measure", measure)
    monkeypatch.setattr("engine.engine.Engine", Second)
    monkeypatch.setattr("engine.budget.Budget.held", property(lambda _: beside))
    assert bare.doctor(speed=True)["speed"] == []
    assert [given["ram_budget"] for given in made] == [left]


def test_speed_without_models_says_how_to_get_them(bare: Engine, tmp_path: Path) -> None:
    lines = bare.doctor(speed=True)["speed"]
    assert [line["measured"] for line in lines] == [None] * 4
    assert [line["step"] for line in lines] == [
        "gieok models pull qwen2.5-7b-instruct",
        "gieok models pull qwen2.5-3b-instruct",
        "gieok models pull bge-m3",
        "gieok models pull bge-m3",
    ]
    assert list(tmp_path.iterdir()) == []


def test_another_engine_finds_the_same_models(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        '[models.mine]\nkind = "llm"\nsource = { path = "mine.gguf" }\n[profiles.mine]\nchat = "mine"\n',
        encoding="utf-8",
    )
    given = {"chat": str(tmp_path / "x.gguf"), "summary": "qwen2.5:7b", "extraction": "mine"}
    with Engine(str(file), profile="mine", home=home, models=given) as one:
        patient = doctor.Patient(one._config, "mine", one._models, one.library, home, GB)
        over = doctor.laid_over(patient)
        with Engine(patient.config.file, profile="mine", home=home, models=over) as other:
            assert other._models.specs == one._models.specs
    assert over == {"chat": str(tmp_path / "x.gguf"), "summary": "qwen2.5-7b-instruct"}


def test_a_closed_engine_has_no_doctor(bare: Engine) -> None:
    bare.close()
    with pytest.raises(EngineClosed):
        bare.doctor(speed=True)
