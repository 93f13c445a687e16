"""What memories lack, made in the background: vectors of another embedding model, morphemes of another analyser."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fake_embedder
import numpy as np
import pytest

from engine import memory as memory_module
from engine.connections import rows
from engine.errors import ModelNotFound, OutOfBudget, StoreLocked
from engine.faculties import Embedded, Space
from engine.memory import MemoryStore
from engine.metrics import Progress

ME = "default"
OLD, NEW, NEWER = fake_embedder.SPACE, Space("new", "new"), Space("newer", "newer")
TEXTS = [f"{number}번째로 적어 둔 말" for number in range(150)]


class Models:
    """The models on a machine: each has the fake embedder's vectors in an order of its own."""

    def __init__(self, present: Space = OLD) -> None:
        self.present, self.gone = present, {""}
        self.calls: list[tuple[str, str, list[str]]] = []
        self.before: Callable[[list[str], Space], object] = lambda texts, space: None

    def space(self) -> Space:
        return self.there(self.present)

    def there(self, space: Space) -> Space:
        if space.model in self.gone:
            raise ModelNotFound(f"{space.name} is not on this machine", model=space.name)
        return space

    def embed(self, texts: list[str], kind: Any, space: Space) -> Embedded:
        self.there(space)
        self.before(texts, space)
        self.calls.append((space.name, kind, texts))
        dense = np.roll(fake_embedder.embed(texts, kind), len(space.name), axis=1)
        return Embedded(
            dense if space != NEWER else np.concatenate([dense, dense], axis=1) / np.sqrt(2, dtype=np.float32)
        )

    def passages(self, space: Space) -> list[str]:
        return [
            text
            for name, kind, texts in self.calls
            for text in texts
            if (name, kind) == (space.name, "passage") and text in TEXTS
        ]


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def opened(tmp_path: Path, models: Models) -> Iterator[Callable[..., MemoryStore]]:
    """Open the home with the models there are."""
    with ExitStack() as stack:

        def open_(**others: Any) -> MemoryStore:
            progress = others.pop("progress", None)
            faculties = fake_embedder.faculties(**{"space": models.space, "embed": models.embed, **others})
            store = MemoryStore(tmp_path / "home", faculties, progress=progress)
            stack.callback(store.close)
            return store

        yield open_


def found(store: MemoryStore, query: str, k: int = 1) -> list[str]:
    return [hit.memory.text for hit in store.search(query, user=ME, k=k)]


def nearest(store: MemoryStore, query: str) -> tuple[str, float]:
    """Return the first hit for a query that shares no word with any memory, and its cosine."""
    (hit,) = store.search(query, user=ME, k=1, explain=True)
    assert hit.parts is not None
    return hit.memory.text, hit.parts["dense"]


def spaces(store: MemoryStore) -> dict[str, tuple[int, bool]]:
    """Return of each space how many vectors it has, and whether it is searched, complete."""
    sql = """
        SELECT name, (SELECT count(*) FROM vectors WHERE key >> 40 = number),
            complete AND number = (SELECT value FROM meta WHERE name = 'serving') FROM spaces ORDER BY number
    """
    with store._store.read() as db:
        return {name: (count, bool(serves)) for name, count, serves in rows(db, sql)}


# ---- vectors


def test_another_model_embeds_again_and_the_one_before_comes_back_for_free(
    opened: Callable[..., MemoryStore], models: Models
) -> None:
    first = opened()
    first.remember(TEXTS, user=ME)
    first.close()

    models.present = NEWER
    told: list[Progress] = []
    second = opened(progress=told.append)
    assert second.count() == 150 and models.passages(NEWER) == [], "looking needs no vectors"
    assert found(second, TEXTS[77]) == [TEXTS[77]]
    assert nearest(second, TEXTS[77])[1] == pytest.approx(1, abs=1e-3)
    assert models.passages(NEWER) == TEXTS
    assert [(event.done, event.total) for event in told] == [(64, 150), (128, 150), (150, 150)]
    assert spaces(second) == {OLD.name: (150, False), NEWER.name: (150, True)}
    second.close()

    models.calls.clear()
    models.present = OLD
    back = opened()
    assert found(back, TEXTS[3]) == [TEXTS[3]]
    assert back.wait() and models.passages(OLD) == []
    assert spaces(back)[OLD.name] == (150, True)


def test_the_space_before_the_last_is_dropped(opened: Callable[..., MemoryStore], models: Models) -> None:
    for space in (OLD, NEW, NEWER):
        models.present = space
        store = opened()
        store.remember([f"{space.name}의 기억"], user=ME)
        assert store.wait()
        store.close()
    assert spaces(opened()) == {NEW.name: (2, False), NEWER.name: (3, True)}


def test_old_vectors_serve_while_new_ones_are_made(
    opened: Callable[..., MemoryStore], models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_WAIT_FOR", 10)  # more than these, and a search does not wait
    first = opened()
    first.remember(TEXTS, user=ME)
    first.close()
    models.present = NEW
    go = threading.Event()
    models.before = lambda texts, space: None if len(texts) < 64 or space != NEW else go.wait(timeout=30)
    second = opened()
    assert nearest(second, TEXTS[5]) == (TEXTS[5], pytest.approx(1, abs=1e-3))
    assert (OLD.name, "query", [TEXTS[5]]) in models.calls
    assert not second.wait(0.01)
    go.set()
    assert second.wait()
    assert spaces(second) == {OLD.name: (150, False), NEW.name: (150, True)}
    models.calls.clear()
    assert nearest(second, TEXTS[5]) == (TEXTS[5], pytest.approx(1, abs=1e-3))
    assert {name for name, *_ in models.calls} == {NEW.name}


def test_embedding_again_goes_on_where_it_was(opened: Callable[..., MemoryStore], models: Models) -> None:
    first = opened()
    first.remember(TEXTS, user=ME)
    first.close()
    models.present = NEW
    closing: list[MemoryStore] = []

    def close(texts: list[str], space: Space) -> None:
        if len(models.passages(NEW)) == 64 and closing:
            closing.pop().close()  # in the midst of the second batch, from the thread that does it

    models.before = close
    second = opened()
    closing.append(second)
    assert not second._store.is_writer
    second._store.claim()
    second._keeper.nudge()
    second._keeper.wait(30)
    models.before = lambda texts, space: None
    done = models.passages(NEW)
    models.calls.clear()
    third = opened()
    assert found(third, TEXTS[149]) == [TEXTS[149]]
    assert models.passages(NEW) == TEXTS[64:], "what was stored is not made again"
    assert done == TEXTS[:128]


def test_a_chore_that_is_put_off_goes_on_with_the_next_search(
    opened: Callable[..., MemoryStore], models: Models
) -> None:
    first = opened()
    first.remember(TEXTS, user=ME)
    first.close()
    models.present, left = NEW, [1]

    def full(texts: list[str], space: Space) -> None:
        if len(texts) > 1 and texts[0] in TEXTS and left:
            left.pop()
            raise OutOfBudget("full", needed=1, available=0)

    models.before = full
    second = opened()
    assert found(second, TEXTS[9]) == [TEXTS[9]]
    assert found(second, TEXTS[9]) == [TEXTS[9]]
    assert spaces(second)[NEW.name] == (150, True)


def test_another_model_in_the_midst_of_it_begins_with_the_first_memory(
    opened: Callable[..., MemoryStore], models: Models
) -> None:
    first = opened()
    first.remember(TEXTS, user=ME)
    first.close()
    models.present = NEW

    def full(texts: list[str], space: Space) -> None:
        if TEXTS[64] in texts and space == NEW:
            raise OutOfBudget("full", needed=1, available=0)

    models.before = full
    second = opened()
    found(second, TEXTS[9])
    assert not second.wait() and models.passages(NEW) == TEXTS[:64], "it was put off"
    models.present = NEWER
    assert nearest(second, TEXTS[9]) == (TEXTS[9], pytest.approx(1, abs=1e-3))
    assert second.wait() and spaces(second)[NEWER.name] == (150, True)


def test_memories_that_change_meanwhile_get_the_vectors_of_what_they_are(
    opened: Callable[..., MemoryStore], models: Models
) -> None:
    first = opened()
    ids = [memory.id for memory in first.remember(TEXTS[:20], user=ME)]
    first.close()
    models.present = NEW
    second = opened()

    def change(texts: list[str], space: Space) -> None:
        if len(texts) == 20:
            models.before = lambda texts, space: None
            second.update(ids[3], {"text": "이제는 다른 말이다"})
            second.forget(ids[4])
            second.remember(["그사이에 온 말"], user=ME)

    models.before = change
    second._store.claim()
    second._keeper.nudge()
    assert second.wait()
    assert spaces(second) == {OLD.name: (18, False), NEW.name: (20, True)}
    assert nearest(second, "이제는 다른 말이다") == ("이제는 다른 말이다", pytest.approx(1, abs=1e-3))
    assert nearest(second, "그사이에 온 말") == ("그사이에 온 말", pytest.approx(1, abs=1e-3))
    assert second.problems() == []


def test_without_the_old_model_few_are_embedded_while_a_search_waits(
    opened: Callable[..., MemoryStore], models: Models
) -> None:
    first = opened()
    first.remember(TEXTS, user=ME)
    first.close()
    models.present, models.gone = NEW, {OLD.model}
    second = opened()
    assert nearest(second, TEXTS[5]) == (TEXTS[5], pytest.approx(1, abs=1e-3))
    assert spaces(second)[NEW.name] == (150, True)


def test_without_the_old_model_many_are_found_by_words(
    opened: Callable[..., MemoryStore], models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_WAIT_FOR", 10)
    first = opened()
    first.remember([*TEXTS, "강아지 이름은 보리예요"], user=ME)
    first.close()
    models.present, models.gone = NEW, {OLD.model}
    go = threading.Event()
    models.before = lambda texts, space: go.wait(timeout=30) if len(texts) > 1 else None
    second = opened()
    assert found(second, "강아지 이름") == ["강아지 이름은 보리예요"]
    assert found(second, "보리예") == ["강아지 이름은 보리예요"], "letters, too"
    assert not second.wait(0.01)
    go.set()
    assert second.wait()
    assert spaces(second)[NEW.name] == (151, True)
    assert nearest(second, "강아지 이름은 보리예요")[1] == pytest.approx(1, abs=1e-3)


def test_a_model_that_is_not_there_at_all_is_told(opened: Callable[..., MemoryStore], models: Models) -> None:
    first = opened()
    first.remember(TEXTS[:3], user=ME)
    first.close()
    models.gone = {OLD.model, NEW.model}
    for space in (OLD, NEW):
        models.present = space
        second = opened()
        for _ in range(2):
            with pytest.raises(ModelNotFound):
                found(second, TEXTS[0])
            with pytest.raises(ModelNotFound):
                second.remember(["새 글"], user=ME)
        assert second.count() == 3
        second.close()


def test_a_model_that_got_another_name_is_the_same(opened: Callable[..., MemoryStore], models: Models) -> None:
    first = opened()
    first.remember(TEXTS[:3], user=ME)
    first.close()
    renamed = Space(OLD.model, "the same under another name")
    names: list[str] = []

    def embed(texts: list[str], kind: Any, space: Space) -> Embedded:
        names.append(space.name)
        return Embedded(fake_embedder.embed(texts, kind))

    second = opened(space=lambda: renamed, embed=embed)
    assert found(second, TEXTS[1]) == [TEXTS[1]]
    assert set(names) == {renamed.name}


def test_who_only_reads_makes_no_vectors(opened: Callable[..., MemoryStore], models: Models) -> None:
    writer = opened()
    writer.remember(TEXTS[:5], user=ME)
    assert writer.wait()
    models.present = NEW
    reader = opened()
    assert found(reader, TEXTS[2]) == [TEXTS[2]]
    assert reader.wait() and models.passages(NEW) == []
    with pytest.raises(StoreLocked):
        reader.remember(["새 글"], user=ME)
    writer.close()
    assert found(reader, TEXTS[2]) == [TEXTS[2]]
    assert spaces(reader)[NEW.name] == (5, True), "and begins when the other is gone"


# ---- morphemes


def words(store: MemoryStore) -> list[tuple[str, int]]:
    with store._store.read() as db:
        return rows(db, "SELECT morphemes, analysed FROM memories JOIN words ON words.rowid = seq ORDER BY seq")


def test_what_no_analyser_read_is_read_later(opened: Callable[..., MemoryStore]) -> None:
    full = True

    def some(texts: list[str]) -> list[tuple[str, ...]]:
        if full:
            raise OutOfBudget("full", needed=1, available=0)
        return fake_embedder.words(texts)

    store = opened(words=some)
    store.remember(["강아지 이름은 보리예요"], user=ME)
    assert not store.wait() and words(store) == [("", 0)]
    assert found(store, "강아지 이름") == ["강아지 이름은 보리예요"], "its letters are found without"
    full = False
    store.remember(["다른 말"], user=ME)
    assert store.wait()
    assert words(store) == [("강아지 이름은 보리예요", 1), ("다른 말", 1)]


def test_another_analyser_reads_everything_again(opened: Callable[..., MemoryStore]) -> None:
    first = opened()
    first.remember(TEXTS, user=ME)
    assert first.wait()
    first.close()
    asked: list[str] = []

    def reversed_(texts: list[str]) -> list[tuple[str, ...]]:
        asked.extend(texts)
        return [(text[::-1].replace(" ", ""),) for text in texts]

    second = opened(words=reversed_, analyser="another")
    second.remember(["새 글"], user=ME)
    assert second.wait()
    assert words(second) == [(text[::-1].replace(" ", ""), 1) for text in [*TEXTS, "새 글"]]
    second.close()
    asked.clear()
    third = opened(words=reversed_, analyser="another")
    third.remember(["더 새 글"], user=ME)
    assert third.wait()
    assert asked == ["더 새 글"], "it knows who has read them"
