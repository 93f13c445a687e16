"""What is released: the wheel and the sdist without the repository, a program frozen with it, what its users read."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import re
import shlex
import sys
import tomllib
import types
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import script_module
import yaml

import engine
from engine import Engine, config, errors, footprint, metrics, records, status
from engine.bulk import Extractions
from engine.library import Library

ROOT = Path(__file__).parents[1]
release = script_module.load("release")


# ---- the wheel and the sdist


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A bench on which everything was checked but the demo, which has a test of its own."""
    folder = tmp_path_factory.mktemp("release")
    assert release.main(["check", "--skip", "demo", "--keep", str(folder)]) == 0
    return release.Bench(folder, full=False)


@pytest.mark.model
def test_what_is_built_works_where_there_is_no_repository(bench: Any) -> None:
    assert (bench.wheel.name, bench.sdist.name) == (
        f"gieok-{version('gieok')}-py3-none-any.whl",
        f"gieok-{version('gieok')}.tar.gz",
    )
    assert (bench.site / "engine/words/ko.toml").is_file()
    logs = {path.stem.split()[0] for path in (bench.folder / "log").iterdir()}
    assert logs == {"build", "venv", "install", "import", "help", "types", "status"}


@pytest.mark.model
def test_a_checkout_within_reach_is_noticed(bench: Any) -> None:
    back = bench.site / "back.pth"
    back.write_text(f"{ROOT}\n", encoding="utf-8")
    try:
        with pytest.raises(release.CheckFailed, match="engine lies in"):
            release.located(bench)
    finally:
        back.unlink()
    release.located(bench)


@pytest.mark.model
def test_a_package_without_types_is_noticed(bench: Any) -> None:
    marker = bench.site / "engine/py.typed"
    marker.unlink()
    try:
        with pytest.raises(release.CheckFailed, match=r"missing library stubs or py\.typed marker"):
            release.types(bench)
    finally:
        marker.touch()


@pytest.mark.model
def test_a_wheel_that_lacks_a_file_is_noticed(bench: Any, tmp_path: Path) -> None:
    lame = release.Bench(tmp_path, full=False)
    lame.dist.mkdir()
    with zipfile.ZipFile(bench.wheel) as whole, zipfile.ZipFile(lame.dist / bench.wheel.name, "w") as wheel:
        for name in whole.namelist():
            if name != "engine/words/ko.toml":
                wheel.writestr(name, whole.read(name))
    with pytest.raises(release.CheckFailed, match=r"the wheel lacks \['engine/words/ko.toml'\], has besides \[\]"):
        release.look_inside(lame)


@pytest.mark.parametrize(
    ("held", "why"),
    [
        ({}, r"lacks \['a'\], has besides \[\], and differs in \[\]"),
        ({"a": b"1", "b": b""}, r"lacks \[\], has besides \['b'\], and differs in \[\]"),
        ({"a": b"2"}, r"lacks \[\], has besides \[\], and differs in \['a'\]"),
    ],
)
def test_a_difference_is_named(held: dict[str, bytes], why: str) -> None:
    release.compare("it", {"a": b"1"}, {"a": b"1"})
    with pytest.raises(release.CheckFailed, match=f"it {why}"):
        release.compare("it", held, {"a": b"1"})


METADATA = "Metadata-Version: 2.4\nName: gieok\nVersion: 1\nDescription-Content-Type: text/markdown\n{more}\n\n{readme}"


@pytest.mark.parametrize(
    ("more", "shown", "why"),
    [
        ("Requires-Dist: torch >>1", None, "requires-dist"),
        ("Classifier: x", "other", "another description"),
    ],
)
def test_metadata_that_an_index_refuses_are_noticed(more: str, shown: str | None, why: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    release.check_metadata(METADATA.format(more="Classifier: x", readme=readme).encode())
    with pytest.raises(release.CheckFailed, match=why):
        release.check_metadata(METADATA.format(more=more, readme=shown or readme).encode())


def test_a_child_hears_nothing_of_this_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PYTHONPATH", "GIEOK_CONFIG", "GIEOK_HOME", "GIEOK_MODELS", "VIRTUAL_ENV", "MYPYPATH"):
        monkeypatch.setenv(name, str(ROOT))
    for full in (False, True):
        kept = release.Bench(tmp_path, full).variables()
        assert {name for name in kept if name.startswith(release.LEADS_BACK)} == (set() if full else {"GIEOK_MODELS"})
        assert kept["HOME"] == str(tmp_path / "home")


def test_a_failure_shows_the_end_of_its_log(tmp_path: Path) -> None:
    made = release.Bench(tmp_path, full=False)
    for folder in (made.stand, tmp_path / "log"):
        folder.mkdir()
    with pytest.raises(release.CheckFailed, match=r"one\ntwo\ntrial: ended with 3, expected 0"):
        release.run(made, "trial", sys.executable, "-c", "print('one'); print('two'); raise SystemExit(3)")
    assert (tmp_path / "log/trial.log").read_text(encoding="utf-8").split() == ["one", "two"]


def test_the_repository_is_no_place_to_work_in(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    for folder in (ROOT / "out", tmp_path):
        assert release.main(["check", "--keep", str(folder)]) == 1
        assert "name another one" in capsys.readouterr().err


# ---- programs frozen with PyInstaller


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Run the hook as PyInstaller does; its functions say what they were asked for, and libraries are really here."""
    asked = types.ModuleType("PyInstaller.utils.hooks")
    asked.__dict__.update(
        PY_DYLIB_PATTERNS=["*.dll", "*.dylib", "lib*.so"],
        copy_metadata=lambda name, recursive=False: [("metadata", name, recursive)],
        collect_data_files=lambda package: [("data", package)],
        collect_dynamic_libs=lambda package, search_patterns: [("library", package)],
        collect_submodules=lambda package: [package],
    )
    for name in ("PyInstaller", "PyInstaller.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, asked.__name__, asked)
    [folder] = importlib.import_module("engine.__pyinstaller").get_hook_dirs()
    spec = importlib.util.spec_from_file_location("hook_engine", Path(folder) / "hook-engine.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pyinstaller_finds_the_hook() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["entry-points"]["pyinstaller40"]["hook-dirs"].partition(":")
    [folder] = getattr(importlib.import_module(module), function)()
    assert [path.name for path in Path(folder).glob("hook-*.py")] == ["hook-engine.py"]


def test_the_hook_names_what_is_looked_for_at_run_time(hook: Any) -> None:
    assert ("metadata", "gieok", True) in hook.datas  # with that of all it requires: versions are read
    assert {("data", "engine"), ("data", "kiwipiepy_model")} <= set(hook.datas)
    assert ("library", "llama_cpp") in hook.binaries
    needed = {word.partition(".")[0] for word in hook.hiddenimports} | {package for _, package, *_ in hook.binaries}
    assert [name for name in needed if importlib.util.find_spec(name) is None] == []
    folder = Path(str(importlib.util.find_spec("transformers").origin)).parent  # type: ignore[union-attr]
    assert [name for name in hook.MODELS if not (folder / "models" / name).is_dir()] == []


# ---- what the documentation of the code says

SIZES = {"ram", "vram", "budget", "held", "resident", "anonymous", "file_backed", "bytes", "mapped", "weights", "kv"}
TIMES = {"ttft", "seconds", "load_seconds", "idle"}


def results() -> set[type]:
    """Return the public types that have fields, and the types of ours that their fields have."""
    todo = [value for name in engine.__all__ if dataclasses.is_dataclass(value := getattr(engine, name))]
    seen: set[type] = set()
    while todo:
        kind: Any = todo.pop()
        if kind not in seen:
            seen.add(kind)
            words = {word for field in dataclasses.fields(kind) for word in re.findall(r"\w+", str(field.type))}
            todo += [value for name in words if dataclasses.is_dataclass(value := OURS.get(name))]
    return seen


OURS = {name: value for module in (status, footprint, records, metrics) for name, value in vars(module).items()}


KINDS = sorted(results(), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_says_in_what_its_sizes_and_times_are(kind: Any) -> None:
    fields, told = {field.name for field in dataclasses.fields(kind)}, f"{kind.__doc__}".lower()
    assert "bytes" in told or not fields & SIZES
    assert "seconds" in told or not fields & TIMES


def test_the_results_are_all_seen() -> None:
    names = {kind.__name__ for kind in results()}
    assert {"Status", "LoadPlan", "LoadedModel", "Part", "Footprint", "Usage", "Memory", "Embeddings"} <= names


def test_arrays_say_their_shapes() -> None:
    for told in (engine.Embeddings.__doc__, Engine.embed.__doc__):
        assert re.search(r"\(n, d\) float32", " ".join(f"{told}".split()))


@pytest.mark.parametrize("method", ["plan", "catalogue", "status", "doctor"])
def test_a_method_that_returns_sizes_says_in_what(method: str) -> None:
    assert "bytes" in f"{getattr(Engine, method).__doc__}"


def named(told: str | None) -> set[str]:
    return {word for word in re.findall(r"`(\w+)`", f"{told}") if hasattr(errors, word)}


@pytest.mark.parametrize("method", ["chat", "embed", "search", "remember", "load", "summarize", "extract_memory"])
def test_what_loads_a_model_says_that_it_may_not_be_there(method: str) -> None:
    assert {"ModelNotFound", "EngineClosed"} <= named(getattr(Engine, method).__doc__)


def test_a_schema_a_context_and_a_budget_that_do_not_do_are_named() -> None:
    assert {"SchemaError", "ContextOverflow", "OutOfBudget", "ModelCorrupt", "InvalidInput"} <= named(
        Engine.chat.__doc__
    )


@pytest.mark.parametrize("kind", [Library, Extractions, engine.Session, engine.Stream])
def test_what_the_facade_hands_out_is_documented(kind: type) -> None:
    assert inspect.getdoc(kind)
    for name, member in vars(kind).items():
        if name[0] != "_" and (inspect.isfunction(member) or isinstance(member, property)):
            assert inspect.getdoc(member), name


# ---- what contributors are given


def loaded(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_workflow_is_the_newcomers_command_on_three_systems() -> None:
    text = (ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8")
    assert text.startswith("# Never run by us")
    [job] = loaded(".github/workflows/test.yml")["jobs"].values()
    assert {system.partition("-")[0] for system in job["strategy"]["matrix"]["os"]} == {"ubuntu", "windows", "macos"}
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert "python scripts/dev.py test" in commands
    [python] = [step["with"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    oldest = ".".join(map(str, release.dev.MIN_PYTHON))
    assert (python["python-version"], python["cache"]) == (oldest, "pip")
    assert all((ROOT / path).is_file() for path in python["cache-dependency-path"].split())
    assert [command for command in commands if not understood(command)] == []


def test_the_hook_before_a_commit_is_lint_and_needs_no_network() -> None:
    [repository] = loaded(".pre-commit-config.yaml")["repos"]
    [hook] = repository["hooks"]
    assert (repository["repo"], hook["language"], "additional_dependencies" in hook) == ("local", "system", False)
    assert hook["entry"] == "python3 scripts/dev.py lint"


def understood(command: str) -> bool:
    """Return whether a command is one of ours with a verb that it has, or one that shows a version."""
    match shlex.split(command):
        case [_, "scripts/dev.py", verb, *_]:
            return verb in release.dev.COMMANDS
        case [_, "scripts/release.py", *given]:
            return release.parsed(given) is not None
        case [_, script, *_] if script.startswith("scripts/"):
            return (ROOT / script).is_file()
        case [program, "--version"]:
            return program == "cmake"
    return False


def test_every_command_of_the_guide_to_contributing_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    fence = re.compile(r"```sh\n(.*?)```", re.DOTALL)
    told = [line.partition("#")[0].strip() for block in fence.findall(text) for line in block.splitlines()]
    told += [words for words in re.findall(r"`([^`]+)`", fence.sub("", text)) if " scripts/" in words]
    assert len(told) >= 7
    assert [command for command in told if not understood(command)] == []
    files = set(re.findall(r"\b(?:engine|tests|docs|scripts)/[\w/.-]+\.\w+", text))
    assert [name for name in files if not (ROOT / name).is_file()] == []
    assert len(text.splitlines()) <= 60  # one page


def test_the_version_is_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == version("gieok")
    assert config.packaged_file().is_file()
