"""The mutation check itself: what it changes, what it leaves alone, and how it judges a module of ten lines."""

from __future__ import annotations

import ast
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from script_module import SCRIPTS, load

changes = load("mutation_changes")
runs = load("mutation_runs")
mutation = load("mutation")

TINY = '''"""A module."""

from __future__ import annotations


def cut(text: str, most: int) -> str:
    """Return the first letters, and what stands for the others."""
    if len(text) > most:
        return text[: most - 1] + "…"
    return text
'''
TESTS = """
from engine import tiny

def test_short():
    assert tiny.cut("ab", 3) == "ab"

def test_long():
    assert tiny.cut("abcde", 4) == "abc…"
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with one module and its tests, which leave a text of `most` letters out."""
    monkeypatch.syspath_prepend(SCRIPTS)  # as where the script is started
    for folder in ("engine", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "engine" / "__init__.py").touch()
    (tmp_path / "engine" / "tiny.py").write_text(TINY, encoding="utf-8")
    (tmp_path / "tests" / "test_tiny.py").write_text(TESTS, encoding="utf-8")
    return tmp_path


def diffs(text: str) -> list[tuple[str, ...]]:
    return [mutant.diff for mutant in changes.mutants(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a < b", {"a <= b", "a >= b"}),
        ("a is None", {"a is not None"}),
        ("a in b", {"a not in b"}),
        ("a and b", {"a or b", "a", "b"}),
        ("a and b and c", {"a or b or c", "b and c", "a and c", "a and b"}),
        ("not a", {"a"}),
        ("a + b", {"a - b"}),
        ("a + 'x'", {"a", "'x'", "a + ''"}),
        ("f'x{a}'", {"f'{a}'"}),
        ("a // 2", {"a * 2", "a // 3", "a // 1"}),
        ("-a", {"a"}),
        ("[a]", {"[]"}),
        ("(a, True)", {"()", "(a, False)"}),
        ("{a: ''}", {"{}", "{a: 'x'}"}),
        ("a if b else c", {"a if True else c", "a if False else c"}),
        ("a[b:c]", {"a[:c]", "a[b:]"}),
        ("[a for b in c if d]", {"[a for b in c]"}),
        ("f(a, b, c=d)", {"f(a, c=d)", "f(a, b)"}),
        ("f(a)", set()),
        ("zip(a, b, strict=True)", {"zip(a, strict=True)"}),
        ("a.strip(b)", {"a"}),
    ],
)
def test_how_a_value_is_changed(text: str, expected: set[str]) -> None:
    found = diffs(f"x = {text}")
    assert {plus.removeprefix("+ x = ") for _, plus in found} == expected
    assert all(minus == f"- x = {ast.unparse(ast.parse(text))}" for minus, _ in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("if a:\n    b()", {"if True:", "if False:", "pass"}),
        ("while a:\n    b += c", {"while False:", "b -= c", "pass"}),
        ("for a in b:\n    break", {"continue"}),
        ("with a, b as c:\n    d.e = f", {"with b as c:", "pass"}),
        ("with suppress(A):\n    raise B", {"if True:", "with suppress():", "pass"}),
        ("try:\n    a()\nexcept (A, B):\n    c = d", {"pass", "except Exception:", "except (B,):", "except (A,):", "except ():", "raise"}),
        ("def f() -> bool:\n    return a", {"return not a"}),
        ("def f() -> list[int]:\n    return a", {"return []"}),
        ("def f(a=1):\n    return a", {"def f(a=2):", "def f(a=0):", "return None"}),
        ("a, b = (c, 1)", {"a, b = (c, 2)", "a, b = (c, 0)"}),
    ],
)  # fmt: skip
def test_how_a_statement_is_changed(text: str, expected: set[str]) -> None:
    assert {line.removeprefix("+ ") for diff in diffs(text) for line in diff if line[0] == "+"} == expected


def test_what_is_for_readers_and_for_mypy_is_left_alone_and_counted() -> None:
    text = '''"""Doc."""
import a
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import b
@c(frozen=True)
class D(E[1]):
    """Doc."""
    f: list[int]
    def g(self, h: int) -> "i":
        assert h == 1
        _log.warning("j: %s", 2)
    def __repr__(self) -> str:
        return "k"
    def l(self) -> None: ...
class M(Protocol):
    def n(self, o: int = 1) -> None: ...
'''
    skipped: Counter[str] = Counter()
    assert changes.mutants(text, skipped) == []
    assert {changes.DOCSTRING, changes.DECORATOR, changes.ASSERT, changes.LOG, changes.SHOWN} <= skipped.keys()


def test_every_mutant_compiles_differs_and_has_a_name_of_its_own() -> None:
    text = (SCRIPTS.parent / "engine" / "ranking.py").read_text(encoding="utf-8")
    made = changes.mutants(text)
    source, lines = changes.plain(text)
    assert len({mutant.source for mutant in made} | {source}) == len(made) + 1
    assert len({mutant.name for mutant in made}) == len(made) > 30
    assert made == changes.mutants(text)
    written, plain = text.splitlines(), source.splitlines()
    for mutant in made:
        assert ast.dump(ast.parse(mutant.source)) != ast.dump(ast.parse(source))
        assert mutant.line in lines.values()
    assert all(plain[line - 1].split("(")[0].split()[0] in written[at - 1] for line, at in lines.items())


def test_the_check_finds_what_tests_miss_and_leaves_the_tree_alone(root: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*.py")}
    report = mutation.planned(mutation.target("engine/tiny.py", root), seed=1, limit=None)
    kept = tmp_path / "kept.json"
    mutation.Tries(2, kept).run(report)
    assert {mutant.diff for mutant in report.survivors} == {("- if len(text) > most:", "+ if len(text) >= most:")}
    assert len(report.counted) == len(report.mutants) == 13
    assert report.score == pytest.approx(100 * 12 / 13)
    assert {path: path.read_bytes() for path in root.rglob("*.py")} == before
    by = {report.verdicts[mutant.name].by for mutant in report.mutants if mutant.diff[1] == "+ if False:"}
    assert by == {"tests/test_tiny.py::test_long"}
    lines = list(report.lines())
    assert lines[0] == "engine/tiny.py:8: comparison in cut survived"
    assert lines[-1] == "engine/tiny.py: 12 of 13 mutants noticed, 92.3 %"

    again = mutation.planned(mutation.target("engine/tiny.py", root), seed=2, limit=None)
    again.recall(json.loads(kept.read_text(encoding="utf-8"))["engine/tiny.py"], survivors=False)
    assert again.verdicts == report.verdicts and again.trial == report.trial, "it would run nothing again"
    with (root / "tests" / "test_tiny.py").open("a", encoding="utf-8") as file:
        file.write("\ndef test_edge():\n    assert tiny.cut('abc', 3) == 'abc'\n")
    third = mutation.planned(mutation.target("engine/tiny.py", root), seed=1, limit=None)
    third.recall(json.loads(kept.read_text(encoding="utf-8"))["engine/tiny.py"], survivors=False)
    assert third.verdicts == {}, "with other tests it runs all"
    mutation.Tries(1, kept, survivors=True).run(third)
    assert third.score == 100 and len(third.counted) == 13


def test_one_that_hangs_is_killed_and_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "LEAST_SECONDS", 1.0)
    text = "def run(n: int) -> int:\n    while n > 0:\n        n -= 1\n    return 5\n"
    (root / "engine" / "tiny.py").write_text(text, encoding="utf-8")
    tests = "from engine import tiny\n\ndef test_run():\n    assert tiny.run(3) == 5\n"
    (root / "tests" / "test_tiny.py").write_text(tests, encoding="utf-8")
    report = mutation.planned(mutation.target("engine/tiny.py", root), seed=0, limit=None)
    report.mutants = [mutant for mutant in report.mutants if mutant.diff[1] == "+ n += 1"]
    mutation.Tries(1, None).run(report)
    assert [verdict.end for verdict in report.verdicts.values()] == ["hung"] and report.score == 100


def test_tests_that_fail_anyway_are_told(root: Path) -> None:
    with (root / "tests" / "test_tiny.py").open("a", encoding="utf-8") as file:
        file.write("\ndef test_wrong():\n    assert tiny.cut('', 1) == 4\n")
    report = mutation.planned(mutation.target("engine/tiny.py", root), seed=0, limit=2)
    with pytest.raises(runs.CannotTry, match=r"(?s)do not pass as it is.*test_wrong"):
        mutation.Tries(1, None).run(report)
    assert report.verdicts == {} and report.score == 0


def test_what_no_test_can_tell_is_named_with_its_reason(root: Path, tmp_path: Path) -> None:
    chosen = mutation.target("engine/tiny.py", root)
    file = tmp_path / "equivalents.toml"
    one: dict[str, Any] = {"module": "engine/tiny.py", "where": "cut", "reason": "as long"}
    change = "- if len(text) > most:\\n+ if len(text) >= most:"
    text = "[[mutant]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in one.items())
    file.write_text(f'{text}change = "{change}"\n', encoding="utf-8")
    report = mutation.planned(chosen, seed=0, limit=None, file=file)
    assert len(report.mutants) == 12 and list(report.equivalent.values()) == ["as long"]
    file.write_text(f'{text}change = "- gone"\n', encoding="utf-8")
    with pytest.raises(runs.CannotTry, match=r"no mutant of engine/tiny\.py"):
        mutation.planned(chosen, seed=0, limit=None, file=file)


def test_the_named_equivalents_are_mutants_of_today() -> None:
    for name in mutation.TESTS:
        report = mutation.planned(mutation.target(name), seed=0, limit=None)
        assert all(reason for reason in report.equivalent.values())
        assert len(report.equivalent) < len(report.mutants) / 10


def test_what_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert mutation.main(["engine/nothing.py"]) == 2
    assert "there is no engine/nothing.py" in capsys.readouterr().err
    assert mutation.main(["engine/words.py"]) == 2


def test_mutants_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert mutation.main(["engine/ranking.py", "--list", "--limit", "3", "--seed", "5"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("engine/ranking.py:") == 3 and shown.count("\n    + ") >= 3
    mutation.main(["engine/ranking.py", "--list", "--limit", "3", "--seed", "5"])
    assert capsys.readouterr().out == shown
