"""What a user may rely on: names, signatures, errors, results, and an import that costs next to nothing."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from datetime import date, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import engine
from engine import Engine, errors
from engine.footprint import Footprint
from engine.inputs import CATEGORIES
from engine.metrics import Usage
from engine.records import Hit, Memory
from engine.status import LoadedModel, LoadPlan, Part, Replaced, Status
from engine.stream import Stream
from engine.tasks import Classification, ExtractedItem, ExtractedMemory, Reply, Summary, Understanding
from engine.vectors import Embeddings

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch", "llama_cpp", "faiss", "sentence_transformers", "transformers", "kiwipiepy", "apsw", "huggingface_hub",
    "llguidance", "jinja2", "safetensors", "tokenizers", "numpy", "openvino", "psutil", "filelock",
    "rich",
)  # fmt: skip
ONLY_FOR_CONFIG = ("pydantic", "platformdirs")  # an Engine reads models.toml; `import engine` does not


# ---- import


def loaded_after(code: str, home: Path) -> set[str]:
    """Return which libraries a fresh Python has imported after running `code`."""
    show = "import json, sys; print(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "GIEOK_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], capture_output=True, timeout=250, env=env, check=True
    )
    return set(json.loads(done.stdout))


def test_importing_the_engine_imports_nothing_heavy(tmp_path: Path) -> None:
    assert loaded_after("import engine", tmp_path) & {*HEAVY, *ONLY_FOR_CONFIG} == set()


@pytest.mark.parametrize(
    "code",
    [
        "from engine import Engine\nEngine(profile='starter').close()",
        "from engine import Engine\nwith Engine() as engine: engine.close()",
        "import asyncio, engine\nasync def use():\n    async with engine.Engine(): pass\nasyncio.run(use())",
    ],
)
def test_an_unused_engine_imports_nothing_heavy_and_makes_nothing(tmp_path: Path, code: str) -> None:
    loaded = loaded_after(code, tmp_path / "home")
    assert loaded & set(HEAVY) == set()
    assert loaded >= set(ONLY_FOR_CONFIG)
    assert not (tmp_path / "home").exists()


def test_the_check_of_imports_sees_them(tmp_path: Path) -> None:
    assert loaded_after("import numpy", tmp_path) >= {"numpy"}


# ---- names


def test_all_is_what_is_exported() -> None:
    public = {name for name, value in vars(engine).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    assert public == set(engine.__all__)
    assert len(engine.__all__) == len(set(engine.__all__))


def error_classes() -> list[type[errors.EngineError]]:
    return [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.EngineError)
    ]


def test_every_error_is_exported_and_has_a_code_of_its_own() -> None:
    kinds = error_classes()
    assert {kind.__name__ for kind in kinds} <= set(engine.__all__)
    assert len({kind.code for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert kind.code == re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()
        assert kind.__name__ in (errors.__doc__ or "")
        assert kind.__doc__


def test_the_tree_of_errors_is_the_contracts() -> None:
    children = {"StoreLocked": errors.StoreError, "MemoryNotFound": errors.StoreError}
    assert {kind.__name__ for kind in error_classes()} == {
        "EngineError", "ConfigError", "ModelNotFound", "ModelCorrupt", "DownloadError", "OutOfBudget",
        "ContextOverflow", "InvalidInput", "SchemaError", "StoreError", "StoreLocked", "MemoryNotFound",
        "EngineClosed", "Cancelled",
    }  # fmt: skip
    for kind in error_classes()[1:]:
        assert kind.__base__ is children.get(kind.__name__, errors.EngineError)
    assert issubclass(errors.InvalidInput, ValueError)


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (errors.ConfigError("m", file="f", line=3, nearest="n"), {"file": "f", "line": 3, "nearest": "n"}),
        (errors.ModelNotFound("m", model="x"), {"model": "x"}),
        (errors.ModelCorrupt("m", path="p"), {"path": "p"}),
        (errors.DownloadError("m", file="f"), {"file": "f"}),
        (errors.OutOfBudget("m", needed=2, available=1), {"needed": 2, "available": 1}),
        (errors.ContextOverflow(9, 8), {"tokens": 9, "limit": 8}),
        (errors.SchemaError("m", keyword="k"), {"keyword": "k"}),
        (errors.MemoryNotFound("i"), {"id": "i"}),
    ],
)
def test_an_errors_numbers_are_its_fields(error: errors.EngineError, fields: dict[str, object]) -> None:
    assert {name: getattr(error, name) for name in fields} == fields
    assert str(error)


def test_messages_hold_the_numbers_and_the_place() -> None:
    assert str(errors.ConfigError("m", file="f", line=3, nearest="n")) == "f:3: m Did you mean 'n'?"
    assert str(errors.ConfigError("m", file="f")) == "f: m"
    assert str(errors.ConfigError("m")) == "m"
    for error in (errors.ContextOverflow(90, 80), errors.ContextOverflow(90, 80, at_least=True)):
        assert "90" in str(error) and "80" in str(error)


# ---- methods


NOTHING = inspect.Parameter.empty
CONTRACT: dict[str, tuple[tuple[str, ...], dict[str, object]]] = {  # positional, then keyword-only with defaults
    "__init__": (
        ("config",), {"profile": None, "home": None, "models": None, "ram_budget": None, "progress": None},
    ),
    "chat": (("messages",), {"context": None, "schema": None, "model": None, "sampling": NOTHING}),
    "stream": (("messages",), {"context": None, "schema": None, "model": None, "sampling": NOTHING}),
    "extract_memory": (("dialogue",), {"at": None, "store": False, "user": "default"}),
    "extract_memories": (("dialogues",), {"at": None, "store": False, "user": "default"}),
    "session": (("name",), {"user": "default", "system": None, "memory": "auto"}),
    "classify": (("texts", "categories"), {"abstain": None}),
    "summarize": (("dialogue",), {"max_words": None}),
    "understand": (("text",), {"at": None}),
    "process": (("task", "text"), {}),
    "embed": (("texts",), {"kind": "passage", "heads": ("dense", "sparse", "multi")}),
    "remember": (
        ("texts",), {"category": None, "when": None, "source": None, "user": "default", "judge": True},
    ),
    "search": (
        ("query",),
        {
            "k": 5, "category": None, "since": None, "until": None, "source": None, "user": "default",
            "min_score": None, "explain": False,
        },
    ),
    "memories": (
        (),
        {
            "user": "default", "category": None, "since": None, "until": None, "superseded": False, "limit": None,
        },
    ),
    "memory": (("id",), {}),
    "history": (("id",), {}),
    "update": (("id",), {"fields": NOTHING}),
    "export": (("path",), {"user": None, "vectors": False}),
    "import_": (("path",), {}),
    "wait": (("timeout",), {}),
    "forget": (("id",), {}),
    "forget_all": (("user",), {}),
    "tokens": (("messages",), {"model": "chat"}),
    "load": (("role",), {}),
    "unload": (("role",), {}),
    "plan": (("role",), {}),
    "status": ((), {}),
    "pull": (("name",), {"progress": None}),
    "close": ((), {}),
}  # fmt: skip
OURS = {
    "backup",
    "catalogue",
    "doctor",
}  # what `gieok memory backup` does, and other commands show; not in the contract
TWINS = {"wait": "await_"}  # where a plain `a` before it is none of Python's names: `await`
PUBLIC = {name: value for name, value in vars(Engine).items() if name[0] != "_" and callable(value)}
SYNC = {name for name in PUBLIC if not (name[0] == "a" and name[1:] in PUBLIC)} - set(TWINS.values())


def test_every_public_method_is_the_contracts() -> None:
    assert set(CONTRACT) - {"__init__"} | OURS == SYNC


@pytest.mark.parametrize("name", CONTRACT)
def test_a_method_takes_what_the_contract_says(name: str) -> None:
    positional, keywords = CONTRACT[name]
    parameters = list(inspect.signature(getattr(Engine, name)).parameters.values())[1:]
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == list(positional)
    given = {p.name: p.default for p in parameters if p.kind is not p.POSITIONAL_OR_KEYWORD}
    assert given == keywords
    assert all(p.annotation is not NOTHING for p in parameters)


def test_the_categories_are_the_contracts() -> None:
    assert CATEGORIES == (
        "personal", "preference", "experience", "knowledge", "relationship", "goal", "health", "work",
    )  # fmt: skip
    assert inspect.signature(Engine.classify).parameters["categories"].default is CATEGORIES


@pytest.mark.parametrize("name", sorted(SYNC))
def test_every_method_has_an_async_twin_with_its_signature(name: str) -> None:
    method, twin = getattr(Engine, name), getattr(Engine, TWINS.get(name, f"a{name}"))
    assert inspect.signature(twin).parameters == inspect.signature(method).parameters
    assert twin.__name__ == f"a{name}"
    assert inspect.iscoroutinefunction(twin) is (
        name not in {"stream", "extract_memories"}
    )  # these are iterated, not awaited


@pytest.mark.parametrize("name", sorted(SYNC))
def test_every_methods_docstring_names_what_it_raises(name: str) -> None:
    doc = inspect.getdoc(getattr(Engine, name)) or ""
    assert doc[:1].isupper()
    named = {word for word in re.findall(r"`(\w+)`", doc) if hasattr(errors, word)}
    assert named or re.search(r"(like|as) `\w+`", doc), f"{name}: {doc}"


@pytest.mark.parametrize("name", engine.__all__)
def test_what_is_exported_is_documented(name: str) -> None:
    value = getattr(engine, name)
    if isinstance(value, type):
        assert (value.__doc__ or "").strip()
        assert not (value.__doc__ or "").startswith(f"{name}(")  # dataclasses write one of their own
        for attribute, member in vars(value).items():
            if attribute[0] != "_" and (inspect.isfunction(member) or isinstance(member, property)):
                assert (member.__doc__ or "").strip(), f"{name}.{attribute}"


# ---- results


NOW = datetime(2026, 3, 11, 9, 0).astimezone()
USAGE = Usage(10, 4, 3, 1, 0.1, 0.2)
ITEM = ExtractedItem("부산", "부산", "personal", 0, date(2026, 3, 9))
MEMORY = Memory("m", "글", "work", None, None, "default", NOW, NOW, NOW, None, None, 0.5)
PLAN = LoadPlan("m", "llm", True, "evicts", Footprint(4, 3, 2, 1), True, 2048, -1, 7, 16, 9, ("n",), None)
LOADED = LoadedModel("m", "llm", ("chat",), 1.0, 9, 4, 7, -1, 0.5, 2, 30, 2048, None, "llama.cpp")
RESULTS: tuple[Any, ...] = (
    USAGE,
    Reply("글", "model", "stop", USAGE, {"a": [1]}, (MEMORY,)),
    ITEM,
    ExtractedMemory(facts=(ITEM,)),
    Classification("work", {"work": 0.75, "goal": 0.25}, 0.75),
    Summary("글", USAGE),
    Understanding("statement", False, ("글",), (date(2026, 3, 9), date(2026, 3, 9)), False),
    MEMORY,
    Hit(MEMORY, 0.5, {"dense": 0.5}),
    PLAN,
    Status(
        "starter",
        "home",
        "models",
        16,
        9,
        12,
        8,
        4,
        (Part("m", 9, 4),),
        (LOADED,),
        1,
        (Replaced("chat", "large", "small", "it does not fit"),),
    ),
    Embeddings(np.ones((1, 2), np.float32), [{5: 0.5}], [np.ones((3, 2), np.float32)]),
)


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_a_result_is_frozen_and_turns_into_json(result: Any) -> None:
    fields = [field.name for field in dataclasses.fields(result)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(result, fields[0], None)
    as_dict = result.to_dict()
    assert set(fields) <= as_dict.keys()
    json.loads(json.dumps(as_dict))


def test_the_fields_of_a_result_are_the_contracts() -> None:
    contract = {
        Reply: "text model finish_reason usage parsed memories",
        ExtractedItem: "text quote category source when",
        ExtractedMemory: "facts preferences events relationships",
        Classification: "label scores confidence",
        Summary: "text usage",
        Understanding: "intent is_question keywords when needs_memory",
        Embeddings: "dense sparse multi",
        Hit: "memory score parts",
        Memory: "id text category kind source user created when valid_from valid_to superseded_by importance",
        engine.Progress: "task done total unit",
    }
    ours = {engine.Progress: ["part"]}  # last, and may be left out
    sizes = {"weights", "kv", "compute", "other", "mapped", "total"}
    assert PLAN.to_dict()["ram"].keys() == sizes and PLAN.to_dict()["ram"]["total"] == 10
    for kind, fields in contract.items():
        assert [field.name for field in dataclasses.fields(kind)] == [*fields.split(), *ours.get(kind, [])]
    assert engine.Progress("task", 0, 1, "bytes").part is None
    assert USAGE.to_dict().keys() == set(
        "prompt_tokens cached_tokens completion_tokens forced_tokens ttft seconds tokens_per_second".split()
    )


def test_a_stream_is_what_the_contract_says() -> None:
    promised = ("__iter__", "__next__", "__aiter__", "__anext__", "__enter__", "__aenter__", "cancel", "reply")
    assert set(promised) <= set(vars(Stream))


# ---- the repository


def tracked() -> list[Path]:
    """Return the files that a commit would hold."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in listed.decode("utf-8").split("\0") if name and (path := ROOT / name).is_file()]


def texts() -> dict[str, str]:
    found = {}
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content:
            found[path.relative_to(ROOT).as_posix()] = content.decode("utf-8")
    return found


MACHINE_PATH = re.compile(r"(?<![\w.~-])/((root|work)\b|(home|Users)/\w)|[A-Z]:[\\/]Users[\\/]\w")


def hits(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts().items()
        if name != "tests/test_public.py"
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]


def test_no_file_names_a_path_of_this_machine() -> None:
    assert hits(MACHINE_PATH) == []


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("see /root/.cache", True),
        ("'/home/minji/x'", True),
        ("C:\\Users\\minji", True),
        ("/Users/minji", True),
        ("cd /work/main", True),
        ("home/minji", False),
        ("~/home/x", False),
        ("C:/x.gguf", False),
        ("https://host/home/x", False),
        ("/rooted", False),
        ("network/work", False),
    ],
)
def test_what_counts_as_a_path_of_a_machine(line: str, is_one: bool) -> None:
    assert bool(MACHINE_PATH.search(line)) is is_one


def test_every_text_is_utf8_without_a_mark() -> None:
    for name, text in texts().items():
        assert not text.startswith("\ufeff"), name
        assert "\r" not in text, name


def test_the_package_is_marked_as_typed() -> None:
    assert (ROOT / "engine/py.typed").is_file()
