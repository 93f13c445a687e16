"""What the judge does to the store: merged, superseded or left, each in one transaction, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import fake_embedder
import pytest

from engine import records, settling
from engine.connections import rows
from engine.errors import Cancelled, OutOfBudget
from engine.faculties import Space, Verdict
from engine.memory import MemoryStore
from engine.records import Memory

ME = "default"
SEOUL, AGAIN, BUSAN = "저는 서울에 살아요", "저는 서울에 살아요.", "저는 부산으로 이사했어요"
DOG = "강아지 이름은 보리예요"


class Judge:
    """Rules for the texts above, and a note of all that it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.alike: dict[tuple[str, str], float] = {}
        self.meanwhile: Callable[[Memory, Memory], object] = lambda old, new: None

    def __call__(self, old: Memory, new: Memory, likeness: float) -> Verdict:
        self.asked.append((old.text, new.text))
        self.alike[old.text, new.text] = likeness
        self.meanwhile(old, new)
        return self.verdict(old.text, new.text)

    def verdict(self, old: str, new: str) -> Verdict:
        if (old.startswith(SEOUL) and new.startswith(SEOUL)) or old.rstrip(".") == new.rstrip("."):
            return "same"
        return "replaces" if old.startswith(SEOUL) and new == BUSAN else "different"


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path, judge: Judge) -> Iterator[MemoryStore]:
    with closing(MemoryStore(home, fake_embedder.faculties(judge=judge))) as store:
        yield store


def remember(store: MemoryStore, *texts: str, user: str = ME, judge: bool = True) -> list[Memory]:
    return store.remember(list(texts), user=user, judge=judge)


def settled(store: MemoryStore, *texts: str, **asked: Any) -> list[Memory]:
    """Remember one after another, each being compared before the next comes."""
    found = []
    for text in texts:
        found += remember(store, text, **asked)
        store.wait()  # False where a chore failed
    return found


def current(store: MemoryStore, user: str = ME) -> list[str]:
    return [memory.text for memory in store.memories(user=user)][::-1]


def unjudged(store: MemoryStore) -> list[int]:
    with store._store.read() as db:
        return [seq for (seq,) in rows(db, "SELECT memory FROM unjudged ORDER BY memory")]


def fate(store: MemoryStore, memory: Memory) -> str | None:
    with store._store.read() as db:
        return rows(db, "SELECT fate FROM memories WHERE id = ?", (memory.id,))[0][0]  # type: ignore[no-any-return]


# ---- verdicts


def test_a_near_duplicate_is_merged(store: MemoryStore) -> None:
    old, new = settled(store, SEOUL, AGAIN)
    assert current(store) == [AGAIN]
    merged, left = store.memory(old.id), store.memory(new.id)
    assert (merged.superseded_by, merged.valid_to, fate(store, old)) == (new.id, new.valid_from, "merged")
    assert (merged.text, merged.valid_from) == (SEOUL, old.valid_from)
    assert (left.superseded_by, left.valid_to, fate(store, new)) == (None, None, None)
    assert left.importance > new.importance == old.importance, "it was said twice"
    assert store.history(old.id) == store.history(new.id) == [merged, left]
    assert [hit.memory.id for hit in store.search(SEOUL, user=ME, k=5)] == [new.id]


def test_a_contradiction_supersedes(store: MemoryStore) -> None:
    old, dog, new = settled(store, SEOUL, DOG, BUSAN)
    assert current(store) == [DOG, BUSAN]
    replaced, left = store.memory(old.id), store.memory(new.id)
    assert (replaced.superseded_by, replaced.valid_to, fate(store, old)) == (new.id, new.valid_from, "replaced")
    assert left == new, "nothing was said twice"
    assert store.memory(dog.id) == dog
    assert {memory.id for memory in store.memories(user=ME, superseded=True)} == {old.id, dog.id, new.id}
    assert old.id not in {hit.memory.id for hit in store.search(SEOUL, user=ME, k=5)}
    assert store.history(dog.id) == [dog]


def test_one_memory_may_end_several(store: MemoryStore) -> None:
    first, second = remember(store, SEOUL, AGAIN, judge=False)
    (new,) = settled(store, BUSAN)
    assert [store.memory(old.id).superseded_by for old in (first, second)] == [new.id] * 2
    assert [memory.id for memory in store.history(second.id)] == [first.id, second.id, new.id]
    assert current(store) == [BUSAN]


def test_a_history_is_told_from_any_of_its_memories(store: MemoryStore) -> None:
    ids = [memory.id for memory in settled(store, SEOUL, AGAIN, BUSAN)]
    assert all([memory.id for memory in store.history(one)] == ids for one in ids)


def test_what_is_different_stays(store: MemoryStore, judge: Judge) -> None:
    settled(store, DOG, BUSAN, SEOUL)
    assert current(store) == [DOG, BUSAN, SEOUL]
    assert unjudged(store) == []
    assert set(judge.asked) == {(DOG, BUSAN), (DOG, SEOUL), (BUSAN, SEOUL)}


def test_what_was_superseded_may_become_true_again(store: MemoryStore) -> None:
    first, _, again = settled(store, SEOUL, BUSAN, SEOUL)
    assert again.id != first.id
    assert current(store) == [BUSAN, SEOUL], "this judge knows of no way back"


# ---- what is compared with what


def test_only_older_current_memories_of_the_same_user_are_seen(store: MemoryStore, judge: Judge) -> None:
    remember(store, SEOUL, user="남")
    remember(store, AGAIN, BUSAN, user=ME)
    assert store.wait()
    assert judge.asked == [(AGAIN, BUSAN)]
    settled(store, "저는 서울에 살아요!!")
    assert (BUSAN, "저는 서울에 살아요!!") in judge.asked
    assert not any(old == AGAIN for old, _ in judge.asked[1:]), "it was superseded"
    assert current(store, "남") == [SEOUL]


def test_nothing_is_compared_where_nobody_wants_it(home: Path, store: MemoryStore, judge: Judge) -> None:
    settled(store, SEOUL, AGAIN, BUSAN, judge=False)
    assert (judge.asked, unjudged(store), len(current(store))) == ([], [], 3)
    store.close()
    with closing(MemoryStore(home, fake_embedder.faculties())) as without:
        settled(without, DOG)
        assert unjudged(without) == []


def test_an_exact_duplicate_is_not_compared(store: MemoryStore, judge: Judge) -> None:
    first, again = settled(store, SEOUL, SEOUL)
    assert (first.id, judge.asked, unjudged(store)) == (again.id, [], [])


def test_newer_memories_do_not_keep_older_ones_from_being_compared(store: MemoryStore, judge: Judge) -> None:
    """All are stored before the first of them is judged."""
    (old,) = settled(store, BUSAN.replace("부산", "대구"))
    judge.verdict = lambda old, new: "different"  # type: ignore[method-assign]
    texts = [f"저는 부산으로 이사했어요 {number}" for number in range(40)]
    remember(store, *texts)
    assert store.wait()
    assert (old.text, texts[0]) in judge.asked
    for new in texts:
        compared = [text for text, other in judge.asked if other == new]
        assert len(compared) == min(texts.index(new) + 1, settling._COMPARED), "the likest, and no more"


def test_likeness_is_higher_the_more_alike_two_texts_are(store: MemoryStore, judge: Judge) -> None:
    settled(store, SEOUL, DOG, AGAIN)
    assert judge.alike[SEOUL, AGAIN] > judge.alike[DOG, AGAIN] + 1


# ---- what happens meanwhile


def test_a_memory_that_changes_while_the_judge_thinks_is_judged_again(store: MemoryStore, judge: Judge) -> None:
    old = settled(store, SEOUL)[0]

    def change(_: Memory, new: Memory) -> None:
        judge.meanwhile = lambda old, new: None
        store.update(new.id, {"text": DOG})

    judge.meanwhile = change
    (new,) = settled(store, BUSAN)
    assert judge.asked == [(SEOUL, BUSAN), (SEOUL, DOG)]
    assert current(store) == [SEOUL, DOG]
    assert store.memory(old.id) == old and store.memory(new.id).text == DOG
    assert unjudged(store) == []


def test_a_memory_that_is_forgotten_while_the_judge_thinks_supersedes_nothing(store: MemoryStore, judge: Judge) -> None:
    (old,) = settled(store, SEOUL)
    judge.meanwhile = lambda old, new: store.forget(new.id)
    settled(store, BUSAN)
    assert store.memories(user=ME, superseded=True) == [old]
    assert unjudged(store) == []


@pytest.mark.parametrize("change", ["forgotten", "changed", "superseded"])
def test_an_older_one_that_is_another_by_then_is_left_alone(store: MemoryStore, judge: Judge, change: str) -> None:
    (old,) = settled(store, SEOUL)

    def meanwhile(old: Memory, new: Memory) -> None:
        if old.text != SEOUL:
            return
        if change == "forgotten":
            store.forget(old.id)
        elif change == "changed":
            store.update(old.id, {"text": DOG})
        else:
            with store._store.write() as db:
                settling.supersede(db, old, store.memory(other.id), "replaced")

    (other,) = remember(store, "다른 말", judge=False)
    judge.meanwhile = meanwhile
    (new,) = settled(store, AGAIN)
    left = {memory.id: memory for memory in store.memories(user=ME, superseded=True)}
    assert left[new.id] == new, "nothing was merged into it"
    if change == "forgotten":
        assert old.id not in left
    elif change == "changed":
        assert (left[old.id].text, left[old.id].superseded_by) == (DOG, None)
    else:
        assert (left[old.id].superseded_by, fate(store, old)) == (other.id, "replaced")


def test_a_memory_that_is_said_again_while_the_judge_thinks_keeps_both(store: MemoryStore, judge: Judge) -> None:
    settled(store, SEOUL)

    def again(old: Memory, new: Memory) -> None:
        judge.meanwhile = lambda old, new: None
        remember(store, AGAIN)

    judge.meanwhile = again
    (new,) = settled(store, AGAIN)
    assert current(store) == [AGAIN]
    twice, once = records.reinforced(records.reinforced(new.importance)), records.reinforced(new.importance)
    assert once < store.memory(new.id).importance == pytest.approx(twice)


@pytest.mark.parametrize("error", [OutOfBudget("full", needed=1, available=0), Cancelled("비밀")])
def test_a_judge_that_fails_leaves_all_for_the_next_time(
    home: Path, store: MemoryStore, judge: Judge, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    old = settled(store, SEOUL)[0]

    def fail(old: Memory, new: Memory) -> None:
        raise error

    judge.meanwhile = fail
    (new,) = settled(store, BUSAN)
    assert len(unjudged(store)) == 1 and current(store) == [SEOUL, BUSAN]
    assert all(word not in caplog.text for word in ("비밀", SEOUL, BUSAN))
    store.close()
    judge.meanwhile = lambda old, new: None
    with closing(MemoryStore(home, fake_embedder.faculties(judge=judge))) as again:
        settled(again, DOG)
        assert unjudged(again) == []
        assert again.memory(old.id).superseded_by == new.id


def test_a_verdict_is_carried_out_whole_or_not_at_all(
    home: Path, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends in the midst of it: the mark stays, nothing is lost and nothing half superseded."""
    first, second = remember(store, SEOUL, AGAIN, judge=False)
    supersede, calls = settling.supersede, []

    def dies(*asked: Any) -> None:
        supersede(*asked)
        calls.append(asked)
        if len(calls) % 2 == 0:
            raise MemoryError

    monkeypatch.setattr(settling, "supersede", dies)
    settled(store, BUSAN)
    assert calls
    assert (current(store), len(unjudged(store))) == ([SEOUL, AGAIN, BUSAN], 1)
    monkeypatch.undo()
    store.close()
    with closing(MemoryStore(home, fake_embedder.faculties(judge=Judge()))) as again:
        settled(again, DOG)
        assert current(again) == [BUSAN, DOG]
        assert [memory.id for memory in again.history(first.id)][:2] == [first.id, second.id]


def test_a_memory_waits_for_its_vector_before_it_is_compared(home: Path, judge: Judge) -> None:
    """The embedding model has changed, and embedding what is there fails: the new space does not serve yet."""
    with closing(MemoryStore(home, fake_embedder.faculties(judge=judge))) as first:
        (old,) = settled(first, SEOUL)
    other, failing = Space("other", "other"), True

    def embed(texts: list[str], kind: Any, space: Space) -> Any:
        if failing and SEOUL in texts:
            raise OutOfBudget("full", needed=1, available=0)
        return fake_embedder.embedded(texts, kind, fake_embedder.SPACE)

    with closing(MemoryStore(home, fake_embedder.faculties(judge=judge, embed=embed, space=lambda: other))) as store:
        (new,) = settled(store, BUSAN)
        assert (judge.asked, len(unjudged(store))) == ([], 1)
        failing = False
        settled(store, DOG)
        assert store.memory(old.id).superseded_by == new.id
        assert unjudged(store) == []


def test_clocks_that_jump_turn_no_history_around(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        year: ClassVar[int] = 2026  # type: ignore[assignment]

        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime(cls.year, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(records, "datetime", Clock)
    ids = []
    for year, text in ((2026, SEOUL), (2036, AGAIN), (2016, "저는 서울에 살아요!"), (2026, BUSAN)):
        monkeypatch.setattr(Clock, "year", year)
        ids += [settled(store, text)[0].id]
    monkeypatch.undo()
    history = store.history(ids[0])
    assert [memory.id for memory in history] == ids
    for memory in history[:-1]:
        assert memory.valid_from is not None and memory.valid_to is not None
        assert memory.valid_to >= memory.valid_from
    assert history[-1].valid_to is None


def test_closing_ends_the_judging_and_keeps_what_is_left(home: Path, judge: Judge) -> None:
    store = MemoryStore(home, fake_embedder.faculties(judge=judge))
    settled(store, SEOUL)
    judge.meanwhile = lambda old, new: store.close()
    remember(store, AGAIN, BUSAN)
    store._keeper.wait(30)
    with closing(MemoryStore(home, fake_embedder.faculties())) as again:
        assert again.count() == 3
        assert len(unjudged(again)) in {1, 2}
        assert again.problems() == []


def test_a_pair_on_which_the_judge_breaks_stays_and_keeps_none_of_the_others(
    store: MemoryStore, judge: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(old: Memory, new: Memory) -> None:
        raise ValueError("비밀")

    settled(store, SEOUL)
    judge.meanwhile = fail
    settled(store, BUSAN)
    assert unjudged(store) == [] and current(store) == [SEOUL, BUSAN]
    assert "비밀" not in caplog.text
