"""The house: who may import whom, where each heavy library lives, and how large a room is."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "engine"
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))

# What stands on a floor may import what stands on it or below; nothing imports in a circle.
FLOORS = (
    {"errors", "metrics", "inputs", "sampling", "instructions", "toml_lines", "quantities", "names", "config"},
    {
        "layout", "hub", "repository", "folder", "fetch", "pins", "workplace", "upkeep", "wheel", "convert", "prompt", "schema", "closing", "constrain", "guard", "cache", "pace", "prefixes",
        "scheduler", "detokenize", "llama", "embedder", "index", "index_file", "migrations", "blanking", "holding", "connections", "store", "korean", "loader",
        "cohort", "identity", "proof",
        "views", "windows", "heads", "transformer", "fastpath", "prepared", "prepare", "compress",
        "tuning", "batch", "abort", "footprint", "gguf_shape", "adapters", "machine", "measured", "routing", "gguf_header", "notes", "digests", "interpreter", "probe", "pickles", "offload", "status", "budget", "residency",
    },
    {"generation", "scoring", "runner", "records", "faculties", "spaces", "lexical", "ranking", "shortlist", "retriever",
     "judge", "slots", "keeper", "backfill", "settling", "conversations", "transcript", "briefing", "forgetting", "exported", "transfer", "memory", "plans", "models", "tasks", "extraction", "classification", "summary", "tuner", "doctor", "checks", "fitting", "speed", "library", "ready", "played"},
    {"worker", "stream", "twins", "vectors", "classifier", "answers", "pool", "errands", "summarizer", "extractor", "bulk", "lending", "recording", "session", "sessions"},
    {"engine", "testing", ""},  # the facade, its double, and the package itself, which only names what is public
    {"console", "reports", "model_commands", "memory_commands", "chat_verbs", "chat_command", "manual", "cli", "demo", "demo_memory", "__main__", "__pyinstaller"},
)  # fmt: skip
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

HEAVY = {
    "apsw": "connections.py",
    "faiss": "index.py",
    "httpx2": "repository.py",
    "huggingface_hub": "repository.py",
    "jinja2": "prompt.py",
    "kiwipiepy": "korean/morphemes.py",
    "korean_lunar_calendar": "korean/lunar.py",
    "llama_cpp": "llama/library.py",
    "llguidance": "constrain.py",
    "nncf": "compress.py",
    "openvino": "fastpath.py",
    "psutil": "machine.py",
    "pydantic": "config.py",
    "rich": "console.py",
    "safetensors": "convert.py",
    "sentence_transformers": "transformer.py",
    "tokenizers": "convert.py",
    "torch": "transformer.py",
    "transformers": "transformer.py",
}
# A module that runs as a process of its own has what it needs there; tests/test_pickles.py and test_prepare.py see that
# it is only there. And fastpath.py makes a module of sentence-transformers, of whose tensors and tokenizer it has need.
CHILDREN = {
    "safetensors": {"pickles.py"},
    "sentence_transformers": {"fastpath.py"},
    "tokenizers": {"fastpath.py"},
    "torch": {"compress.py", "fastpath.py", "pickles.py"},
}
AT_MODULE_LEVEL = {"pydantic"}  # config's tables are its classes; `import engine` does not import config
LATER_ONLY = {*HEAVY, "numpy", "filelock", "platformdirs"} - AT_MODULE_LEVEL
POSIX_ONLY = {"fcntl", "grp", "pwd", "pty", "resource", "termios", "tty"}
TABLES = {"_configs"}  # one dict, a line a key
SOLD_AS = {"faiss": "faiss-cpu", "llama_cpp": "llama-cpp-python"}  # import name → distribution, where they differ
HOST = "PyInstaller"  # runs the file in engine/__pyinstaller, which nobody else imports


@dataclass(frozen=True)
class Import:
    """One imported module, dotted; `when` is "module", "function" or "types"."""

    module: str
    when: str
    line: int


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def room(file: Path) -> str:
    """Return the dotted name of a file below the package; "" is the package itself."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def imports(file: Path) -> list[Import]:
    found: list[Import] = []

    def visit(node: ast.AST, when: str) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            when = "function"
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            when = "types"
        elif isinstance(node, ast.Import):
            found.extend(Import(alias.name, when, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.extend(Import(name, when, node.lineno) for name in imported_from(node, file))
        for child in ast.iter_child_nodes(node):
            visit(child, when)

    visit(tree(file), "module")
    return found


def imported_from(node: ast.ImportFrom, file: Path) -> Iterator[str]:
    """Yield the modules that `from … import …` names: a name is a module where there is such a file."""
    base = node.module or ""
    if node.level:
        package = ("engine", *file.relative_to(PACKAGE).parts[:-1])
        base = ".".join((*package[: len(package) - node.level + 1], *filter(None, [node.module])))
    for alias in node.names:
        below = ROOT.joinpath(*base.split("."), alias.name)
        yield f"{base}.{alias.name}" if below.is_dir() or below.with_suffix(".py").is_file() else base


def inside(file: Path) -> dict[str, set[str]]:
    """Return the rooms of the house that a file imports, with when."""
    rooms: dict[str, set[str]] = {}
    for one in imports(file):
        if one.module.split(".")[0] == "engine":
            rooms.setdefault(one.module.removeprefix("engine").removeprefix("."), set()).add(one.when)
    return rooms


def outside(file: Path) -> list[Import]:
    """Return what a file imports that is neither ours nor Python's."""
    return [one for one in imports(file) if one.module.split(".")[0] not in {"engine", *sys.stdlib_module_names}]


named = pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(PACKAGE)) for file in FILES])


# ---- floors


def test_every_file_has_a_floor_and_every_floor_its_files() -> None:
    assert {room(file).split(".")[0] for file in FILES} == set(FLOOR)


@named
def test_imports_point_down(file: Path) -> None:
    own = FLOOR[room(file).split(".")[0]]
    up = {other for other in inside(file) if FLOOR[other.split(".")[0]] > own}
    assert up == set(), f"{room(file)} (floor {own}) imports what stands above it"


def test_not_even_types_are_imported_from_above_or_in_a_circle() -> None:
    order = TopologicalSorter({room(file): inside(file).keys() - {room(file)} for file in FILES})
    assert len(list(order.static_order())) == len(FILES)  # raises CycleError


def test_the_command_and_the_demo_use_the_facade_only() -> None:
    commands = ("chat_command", "chat_verbs", "model_commands", "memory_commands")
    for name in ("console", "reports", *commands, "cli", "demo"):
        uses = {other for other, when in inside(PACKAGE / f"{name}.py").items() if when != {"types"}}
        assert uses <= {
            "",
            "instructions",
            "inputs",
            "metrics",
            "quantities",
            "config",
            "console",
            "reports",
            "model_commands",
            "memory_commands",
            "chat_verbs",
            "chat_command",
            "manual",
            "proof",
            "demo",
            "demo_memory",  # whose child process has a store and no engine: it loads no model
        }, name


def test_what_this_file_reads_of_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "engine")
    file = tmp_path / "engine/korean/dates.py"
    file.parent.mkdir(parents=True)
    for name in ("engine/hub.py", "engine/korean/frame.py"):
        (tmp_path / name).touch()
    file.write_text(
        "import torch.nn\nfrom engine import hub, Engine\nfrom . import frame\nfrom .frame import Rule\n"
        "if TYPE_CHECKING:\n    from ..hub import x\ndef f():\n    from engine.korean import frame, dates as d\n",
        encoding="utf-8",
    )
    assert [(one.module, one.when) for one in imports(file)] == [
        ("torch.nn", "module"),
        ("engine.hub", "module"),
        ("engine", "module"),
        ("engine.korean.frame", "module"),
        ("engine.korean.frame", "module"),
        ("engine.hub", "types"),
        ("engine.korean.frame", "function"),
        ("engine.korean.dates", "function"),
    ]
    assert inside(file)["hub"] == {"module", "types"}
    assert [one.module for one in outside(file)] == ["torch.nn"]


# ---- libraries


@pytest.mark.parametrize("library", HEAVY)
def test_a_heavy_library_lives_in_one_file(library: str) -> None:
    users = {
        file.relative_to(PACKAGE).as_posix()
        for file in FILES
        for one in outside(file)
        if one.module.split(".")[0] == library and one.when != "types"
    }
    assert users == {HEAVY[library], *CHILDREN.get(library, ())}


@named
def test_a_heavy_library_is_imported_where_it_is_used(file: Path) -> None:
    early = {one.module for one in outside(file) if one.when == "module"}
    assert {module for module in early if module.split(".")[0] in LATER_ONLY} == set()


@named
def test_no_library_is_imported_by_a_computed_name(file: Path) -> None:
    names = {node.attr for node in ast.walk(tree(file)) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(tree(file)) if isinstance(node, ast.Name)}
    assert names & {"import_module", "__import__"} == set()


@pytest.mark.parametrize("file", [*FILES, *SCRIPTS], ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_module_needs_a_posix_system(file: Path) -> None:
    early = {one.module.split(".")[0] for one in imports_of_any(file) if one.when == "module"}
    assert early & POSIX_ONLY == set()


def imports_of_any(file: Path) -> list[Import]:
    return imports(file) if file.is_relative_to(PACKAGE) else script_imports(file)


def script_imports(file: Path) -> list[Import]:
    top = [node for node in tree(file).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    plain = [alias.name for node in top if isinstance(node, ast.Import) for alias in node.names]
    return [
        Import(name, "module", 0) for name in (*plain, *(n.module or "" for n in top if isinstance(n, ast.ImportFrom)))
    ]


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.match(r"[\w.-]+", line)[0].replace("_", "-") for line in project["dependencies"]}  # type: ignore[index]
    used = {one.module.split(".")[0] for file in FILES for one in outside(file) if one.when != "types"}
    assert {SOLD_AS.get(name, name).replace("_", "-") for name in used - {HOST}} == declared


# ---- rooms


@named
def test_a_module_says_what_it_is_for(file: Path) -> None:
    assert (ast.get_docstring(tree(file)) or "").strip()


@named
def test_a_module_is_one_idea(file: Path) -> None:
    # The facade is one class, and its signatures with what they promise are the contract.
    most = 520 if file.name == "engine.py" else 450
    assert len(file.read_text(encoding="utf-8").splitlines()) <= most


@named
def test_nothing_is_called_after_nothing(file: Path) -> None:
    assert file.stem not in {"utils", "util", "base", "common", "types", "helpers", "misc", "core"}


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(file)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


@named
def test_a_function_fits_a_screen(file: Path) -> None:
    for function in functions(file):
        doc = function.body[0] if ast.get_docstring(function) is not None else None
        code = (function.end_lineno or 0) - (doc.end_lineno or 0 if doc else function.lineno)
        assert code <= 40 or function.name in TABLES, f"{function.name}: {code} lines"


@named
def test_keywords_are_not_passed_through(file: Path) -> None:
    """Only typed ones may be: `Unpack` of a TypedDict, and the `kwargs` of a ParamSpec."""
    for function in functions(file):
        if (extra := function.args.kwarg) is not None and not typed(extra):
            passed = [
                keyword
                for node in ast.walk(function)
                if isinstance(node, ast.Call)
                for keyword in node.keywords
                if keyword.arg is None and isinstance(keyword.value, ast.Name) and keyword.value.id == extra.arg
            ]
            assert passed == [], f"{function.name}(**{extra.arg})"


def typed(extra: ast.arg) -> bool:
    return extra.annotation is not None and bool(
        re.fullmatch(r"Unpack\[\w+\]|\w+\.kwargs", ast.unparse(extra.annotation))
    )


@pytest.mark.parametrize("file", [*FILES, *SCRIPTS], ids=lambda file: file.relative_to(ROOT).as_posix())
def test_text_is_read_and_written_in_a_named_encoding(file: Path) -> None:
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Call):
            assert not in_unknown_encoding(node), f"{file.name}:{node.lineno}: {ast.unparse(node)}"


def in_unknown_encoding(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in keywords or None in keywords:
        return False
    if name in {"read_text", "write_text"}:
        return True
    if name in {"run", "Popen", "check_output", "check_call"}:
        return bool({"text", "universal_newlines"} & keywords.keys())
    words = [*call.args, *filter(None, [keywords.get("mode")])]
    texts = [word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)]
    modes = [text for text in texts if re.fullmatch(r"[rwaxbt+]{1,3}", text)]
    if name in {"open", "fdopen", "NamedTemporaryFile", "TemporaryFile"} and modes:
        return not any("b" in mode for mode in modes)
    return isinstance(call.func, ast.Name) and name == "open"


@pytest.mark.parametrize(
    ("code", "unknown"),
    [
        ("open(p)", True),
        ("open(p, 'r')", True),
        ("open(p, 'rb')", False),
        ("open(p, 'w', encoding='utf-8')", False),
        ("p.open('a')", True),
        ("p.open(mode='wb')", False),
        ("p.read_text()", True),
        ("p.write_text('x', encoding='utf-8')", False),
        ("subprocess.run(c, text=True)", True),
        ("subprocess.run(c, text=True, encoding='utf-8')", False),
        ("archive.open(file)", False),
        ("stream.open()", False),
    ],
)
def test_what_this_file_takes_for_a_named_encoding(code: str, unknown: bool) -> None:
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    assert in_unknown_encoding(call) is unknown
