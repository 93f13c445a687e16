"""`gieok memory …` on a real store with the fake embedder: options, exports, and the proof that something is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import fake_embedder
import psutil
import pytest

from engine import cli, console, memory_commands
from engine.memory import MemoryStore
from engine.proof import Searched, occurrences, pieces
from engine.records import Hit, Memory

Output = pytest.CaptureFixture[str]
PEANUTS, BUSAN = "저는 땅콩 알레르기가 있어서 견과류를 못 먹어요", "저는 부산 바닷가에 살아요"


class OnStore:
    """The part of the facade that memories need, without models."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.asked: dict[str, Any] = {}
        self._open: MemoryStore | None = None

    @property
    def store(self) -> MemoryStore:
        self._open = self._open or MemoryStore(self.home, fake_embedder.faculties())
        return self._open

    def close(self) -> None:
        if self._open:
            self._open.close()
        self._open = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()  # the next call opens it again

    def status(self) -> SimpleNamespace:
        return SimpleNamespace(home=str(self.home))

    def remember(self, text: str, user: str = "default", **asked: Any) -> list[Memory]:
        self.asked = asked
        return self.store.remember([text], user=user, **asked)

    def search(self, query: str, user: str = "default", **asked: Any) -> list[Hit]:
        self.asked = asked
        return self.store.search(query, user=user, **{"k": 5, **asked})

    def memories(self, user: str = "default", superseded: bool = False) -> list[Memory]:
        return self.store.memories(user=user, superseded=superseded)

    def update(self, id: str, **fields: Any) -> Memory:
        return self.store.update(id, fields)  # type: ignore[arg-type]

    def export(self, path: str, **asked: Any) -> int:
        return self.store.export(Path(path), **asked)

    def import_(self, path: str) -> Any:
        return self.store.import_(Path(path))

    def backup(self, path: str | None = None) -> Path:
        return self.store.backup(None if path is None else Path(path))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnStore]:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    made = OnStore(tmp_path / "홍길동/내 문서")
    monkeypatch.setattr(console, "Engine", lambda **_: made)
    yield made
    made.close()


def run(*command: str) -> int:
    return cli.main([*command, "--quiet"])


def told(capsys: Output, *command: str, status: int = 0) -> Any:
    assert run("--json", *command) == status
    return json.loads(capsys.readouterr().out)


def supersede(store: MemoryStore, old: Memory, new: Memory, fate: str) -> None:
    with store._store.write() as db:
        db.execute("UPDATE memories SET superseded_by = ?, fate = ? WHERE id = ?", (new.id, fate, old.id))


# ---- options


def test_options_of_remember_and_search_reach_the_engine(opened: OnStore, capsys: Output) -> None:
    given = ["--category", "health", "--when", "2026-03-05", "--source", "병원", "--no-judge"]
    [stored] = told(capsys, "remember", PEANUTS, *given)
    assert opened.asked == {"category": "health", "when": "2026-03-05", "source": "병원", "judge": False}
    assert (stored["category"], stored["when"][:10], stored["source"]) == ("health", "2026-03-05", "병원")
    asked = ["-k", "2", "--category", "health", "--since", "2026-03-05", "--until", "2026-03-05", "--source", "병원"]
    [hit] = told(capsys, "search", "땅콩", *asked, "--min-score", "0", "--explain")
    assert opened.asked == {
        "k": 2, "category": "health", "since": "2026-03-05", "until": "2026-03-05", "source": "병원", "min_score": 0.0,
        "explain": True,
    }  # fmt: skip
    assert hit["memory"]["id"] == stored["id"] and hit["parts"]
    assert told(capsys, "search", "땅콩", "--until", "2026-03-04") == []
    run("remember", BUSAN)
    run("search", BUSAN)
    assert opened.asked == {}


def test_each_user_has_memories_of_their_own(opened: OnStore, capsys: Output) -> None:
    run("remember", PEANUTS)
    capsys.readouterr()
    [stored] = told(capsys, "remember", BUSAN, "--user", "지훈")
    assert stored["user"] == "지훈"
    assert [one["text"] for one in told(capsys, "memory", "list", "--user", "지훈")] == [BUSAN]
    assert [one["text"] for one in told(capsys, "memory", "list")] == [PEANUTS]
    assert [hit["memory"]["text"] for hit in told(capsys, "search", "저는", "--user", "지훈")] == [BUSAN]
    assert [hit["memory"]["text"] for hit in told(capsys, "search", "저는")] == [PEANUTS]


def test_an_explained_hit_shows_its_parts_below_it(opened: OnStore, capsys: Output) -> None:
    run("remember", PEANUTS)
    assert run("search", "땅콩", "--explain") == 0
    _id, hit, *parts = capsys.readouterr().out.splitlines()
    assert hit.split("\t")[2] == PEANUTS
    assert parts and all(line.startswith("\t") and float(line.split("\t")[2]) >= 0 for line in parts)


@pytest.mark.parametrize(
    "command",
    [
        ["remember", "a", "--category", "food"],
        ["remember", "a", "--when", "tomorrow"],
        ["search", "a", "--since", "x"],
        ["search", "a", "-k", "0"],
        ["memory", "edit", "missing", "a"],
        ["memory", "history", "missing"],
        ["memory", "show", "missing", "--history"],
        ["memory", "forget", "missing"],
        ["memory", "forget", "missing", "--prove"],
        ["memory", "import", "missing.jsonl"],
    ],
)
def test_what_cannot_be_is_one_line_and_1(opened: OnStore, capsys: Output, command: list[str]) -> None:
    opened.remember(BUSAN)
    assert run(*command) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert [memory.text for memory in opened.memories()] == [BUSAN]


def test_former_memories_are_listed_and_shown_where_they_are_asked_for(opened: OnStore, capsys: Output) -> None:
    [old], [new] = opened.remember("저는 서울에 살아요"), opened.remember(BUSAN)
    supersede(opened.store, old, new, "replaced")
    assert [one["id"] for one in told(capsys, "memory", "list")] == [new.id]
    assert [one["id"] for one in told(capsys, "memory", "list", "--superseded")] == [new.id, old.id]
    assert [one["id"] for one in told(capsys, "memory", "history", new.id)] == [old.id, new.id]
    shown = told(capsys, "memory", "show", old.id, "--history")
    assert (shown["id"], [one["id"] for one in shown["history"]]) == (old.id, [old.id, new.id])
    assert "history" not in told(capsys, "memory", "show", old.id)
    run("memory", "list", "--superseded")
    assert [line.split("\t")[3:] for line in capsys.readouterr().out.splitlines()] == [[], [f"→ {new.id}"]]


def test_a_text_is_corrected(opened: OnStore, capsys: Output) -> None:
    [stored] = opened.remember(PEANUTS)
    changed = told(capsys, "memory", "edit", stored.id, BUSAN, "--category", "personal")
    assert (changed["id"], changed["text"], changed["category"]) == (stored.id, BUSAN, "personal")
    changed = told(capsys, "memory", "edit", stored.id, PEANUTS, "--when", "2026-03-05", "--source", "병원")
    assert (changed["category"], changed["when"][:10], changed["source"]) == ("personal", "2026-03-05", "병원")


# ---- files


def test_memories_go_out_and_come_in(opened: OnStore, capsys: Output, tmp_path: Path) -> None:
    [stored] = opened.remember(PEANUTS)
    file = str(tmp_path / "기억.jsonl")
    assert told(capsys, "memory", "export", file) == {"exported": 1, "path": file}
    assert told(capsys, "memory", "export", file, "--user", "nobody")["exported"] == 0
    assert told(capsys, "memory", "export", file, "--user", "default", "--vectors")["exported"] == 1
    assert '"vector"' in Path(file).read_text(encoding="utf-8")
    assert told(capsys, "memory", "import", file) == {"added": 0, "skipped": 1}
    opened.forget(stored.id)
    assert told(capsys, "memory", "import", file) == {"added": 1, "skipped": 0}
    assert [memory.to_dict() for memory in opened.memories()] == [stored.to_dict()]


def test_a_copy_is_made_where_it_is_wanted(opened: OnStore, capsys: Output, tmp_path: Path) -> None:
    opened.remember(PEANUTS)
    wanted = tmp_path / "copy.sqlite3"
    assert told(capsys, "memory", "backup", str(wanted)) == {"backup": str(wanted)}
    assert PEANUTS.encode() in wanted.read_bytes()
    usual = Path(told(capsys, "memory", "backup")["backup"])
    assert usual.is_file() and usual.is_relative_to(opened.home)


# ---- the proof


def test_forgetting_is_proved_over_every_file(opened: OnStore, capsys: Output) -> None:
    [stored], [other] = opened.remember(PEANUTS), opened.remember(BUSAN)
    opened.backup()
    assert opened.wait(60)
    opened.close()
    done = told(capsys, "memory", "forget", stored.id, "--prove")
    assert done["forgotten"] == stored.id
    proof = done["proof"]
    before, after = proof["before"], proof["after"]
    assert proof["pieces"] > 5 and proof["words"] > 5
    assert before["files"] >= 3 and before["bytes"] > len(PEANUTS)
    copies = {name for name in before["pieces"] if name.startswith("backups/")}
    assert copies and {name.split("-wal")[0] for name in before["pieces"]} - copies == {"memory.sqlite3"}
    assert (after["pieces"], after["words"], after["unread"]) == ({}, {}, [])
    assert after["files"] >= 2
    assert [memory.id for memory in opened.memories()] == [other.id]


def test_nothing_of_the_home_is_open_while_it_is_searched(
    opened: OnStore, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that reads a file loses its locks on it, and with them what another one has not yet written back."""
    still_open: list[list[str]] = []

    def search(home: Path, *given: Any) -> Searched:
        still_open.append([one.path for one in psutil.Process().open_files() if Path(one.path).is_relative_to(home)])
        return occurrences(home, *given)

    [stored] = opened.remember(PEANUTS)
    assert [one.path for one in psutil.Process().open_files() if Path(one.path).is_relative_to(opened.home)]
    opened.close()
    monkeypatch.setattr(memory_commands, "occurrences", search)
    assert told(capsys, "memory", "forget", stored.id, "--prove")["forgotten"] == stored.id
    assert still_open == [[], []]


def test_the_search_tells_how_far_it_is_unless_it_is_to_be_quiet(
    opened: OnStore, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_FILE_SECONDS", 0)
    for quiet in ([], ["--quiet"]):
        [stored] = opened.remember(PEANUTS)
        opened.close()
        assert cli.main(["memory", "forget", stored.id, "--prove", *quiet]) == 0
        assert ("search files: " in capsys.readouterr().err) is (not quiet)


def test_the_proof_is_told_in_both_languages(opened: OnStore, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    for locale, (looked, before, after, nowhere) in {
        "C": ("looked for", "before", "after", "nowhere"),
        "ko_KR.UTF-8": ("찾은 것", "지우기 전", "지운 뒤", "어디에도 없음"),
    }.items():
        monkeypatch.setenv("LC_ALL", locale)
        [stored] = opened.remember(PEANUTS)
        opened.close()
        assert run("memory", "forget", stored.id, "--prove") == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split("\t")[0] for line in lines if not line.startswith(" ")] == [looked, before, after]
        assert any(line.startswith("  memory.sqlite3") for line in lines)
        assert lines[-1] == f"  {nowhere}"


def test_what_other_memories_say_too_is_not_looked_for(opened: OnStore, capsys: Output) -> None:
    [stored], _ = opened.remember(PEANUTS), opened.remember(f"{PEANUTS} 정말")
    opened.close()
    proof = told(capsys, "memory", "forget", stored.id, "--prove")["proof"]
    assert (proof["pieces"], proof["words"]) == (0, 0)


def test_what_was_merged_into_it_is_proved_gone_and_what_it_replaced_stays(opened: OnStore, capsys: Output) -> None:
    [former], [same], [last] = opened.remember("저는 서울에 살아요"), opened.remember(BUSAN), opened.remember(PEANUTS)
    supersede(opened.store, former, same, "replaced")
    supersede(opened.store, same, last, "merged")
    alone = len(pieces(PEANUTS))
    opened.close()
    proof = told(capsys, "memory", "forget", last.id, "--prove")["proof"]
    assert proof["pieces"] > alone  # those of the merged one, too
    assert proof["after"]["pieces"] == {}
    assert [memory.id for memory in opened.memories(superseded=True)] == [former.id]


def test_a_trace_that_is_left_is_told_with_its_file(opened: OnStore, capsys: Output) -> None:
    [stored] = opened.remember(PEANUTS)
    (opened.home / "notes").mkdir()
    (opened.home / "notes/copy.txt").write_bytes(b"\0" * 99 + PEANUTS.encode()[20:60])
    opened.close()
    assert cli.main(["--json", "memory", "forget", stored.id, "--prove"]) == 1
    out, err = capsys.readouterr()
    after = json.loads(out)["proof"]["after"]
    assert list(after["pieces"]) == ["notes/copy.txt"] and after["pieces"]["notes/copy.txt"] > 0
    assert "notes/copy.txt" in err and err.count("\n") == 1
    assert PEANUTS[:5] not in err
