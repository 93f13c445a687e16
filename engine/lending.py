"""An engine's memory store, and what it is lent: the embedding model, the analyser, the judge, room in the budget."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.conversations import Saying
from engine.errors import ModelNotFound, StoreError
from engine.faculties import Embedded, Faculties, Space, Verdict
from engine.korean.morphemes import version
from engine.lexical import ROWS
from engine.views import Head

if TYPE_CHECKING:
    from engine.config import ModelSpec
    from engine.errands import Errands
    from engine.inputs import TextKind, Turn
    from engine.judge import Judge, Statement
    from engine.memory import MemoryStore
    from engine.pool import Pool
    from engine.records import Memory
    from engine.tasks import ExtractedItem, ExtractedMemory
    from engine.vectors import Vectors

ROLE = "embedding"
_LONG = 2_000  # letters of a text that says more than one thing
_TAGGED = 64  # texts whose morphemes are kept
_HEADS: tuple[Head, ...] = ("dense", "sparse")


class Lender:
    """The faculties of one engine, from whatever thread the memory store asks."""

    def __init__(self, pool: Pool, vectors: Vectors, errands: Errands, home: Path) -> None:
        self._pool, self._vectors, self._errands, self._home = pool, vectors, errands, home
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._store: MemoryStore | None = None
        self._judge: Judge | None = None
        self._tagged: dict[str, list[tuple[str, str]]] = {}  # text → morphemes: one is compared with several others
        self._known: dict[str, str] = {}  # name of a model → its identity, which stays for as long as this engine

    def store(self) -> MemoryStore:
        """Return the memory store, made by the first call."""
        from engine.memory import MemoryStore

        with self._making:
            if self._store is None:
                self._store = MemoryStore(self._home, self.faculties(), progress=self._pool.models.progress)
            return self._store

    def keep(self, found: ExtractedMemory, turns: Sequence[Turn], user: str) -> None:
        """Remember what was found in a dialogue, each item with the turn that it comes from."""
        conversation = uuid.uuid4().hex
        for kind, item in found.items():
            self.keep_item(kind, item, Saying(conversation, item.source, turns[item.source]), user)

    def keep_item(self, kind: str, item: ExtractedItem, said: Saying, user: str) -> Memory:
        """Remember one thing that was said. Raises `InvalidInput` where that was forgotten meanwhile."""
        return self.store().remember(
            [item.text], category=item.category, when=item.when, source=f"turn {said.place}", user=user, kind=kind,
            said=said,
        )[0]  # fmt: skip

    def wait(self, timeout: float | None) -> bool:
        """Wait as `MemoryStore.wait` does; a store that nobody used has nothing to do."""
        return self._store is None or self._store.wait(timeout)

    def close(self) -> None:
        """Close the memory store."""
        if self._store is not None:
            self._store.close()

    def faculties(self) -> Faculties:
        """Return what a memory store needs."""
        from engine.pool import Growing

        return Faculties(
            space=self.space,
            embed=self.embed,
            words=self.words,
            analyser=f"{version()}, rows {ROWS}",
            judge=self.judge,
            room=Growing(self._pool, "vector index"),
            forgotten=self.forgotten,
        )

    def space(self) -> Space:
        """Return the space of the embedding role. Raises `ModelNotFound`, `ConfigError`."""
        spec = self._pool.models.spec(ROLE, "embedding")
        return Space(self._identity(spec), spec.name)

    def embed(self, texts: list[str], kind: TextKind, space: Space) -> Embedded:
        """Embed with the model of a space. Raises `ModelNotFound` where it is gone, and as `views` does."""
        name = ROLE if space == self.space() else space.name
        if self._identity(self._pool.models.spec(name, "embedding")) != space.model:
            raise ModelNotFound(f"{space.name} no longer is what made its vectors", model=space.name)
        found = self._vectors.views(texts, kind, _HEADS, name)
        assert found.dense is not None
        return Embedded(found.dense, found.sparse)

    def words(self, texts: list[str]) -> list[tuple[str, ...]]:
        """Return the words of each text that a search could use. Raises `OutOfBudget`."""
        analyser = self._errands.analyser()
        return [analyser.terms(text) for text in texts]

    def judge(self, old: Memory, new: Memory, likeness: float) -> Verdict:
        """Return what a new memory does to an older one. Raises `OutOfBudget`."""
        from engine.judge import LIKE_REPLACED, Judge

        if likeness < LIKE_REPLACED or max(len(old.text), len(new.text)) > _LONG:  # no rule looks at these
            return "different"
        judge = self._judge or Judge(lambda texts: self._vectors.embed(texts, "passage"))
        self._judge = judge  # `forgotten` may take it away meanwhile
        return judge(self._statement(old), self._statement(new), likeness)

    def _statement(self, memory: Memory) -> Statement:
        from engine.judge import Statement

        tagged = self._tagged.get(memory.text)
        if tagged is None:
            tagged = self._errands.analyser().tagged(memory.text)
            if len(self._tagged) >= _TAGGED:
                self._tagged = {}
            self._tagged[memory.text] = tagged
        return Statement(memory.text, tagged, memory.when, memory.category)

    def forgotten(self) -> None:
        """Drop what chat models keep of conversations that are over: they may have quoted what was forgotten."""
        self._judge, self._tagged = None, {}
        self._pool.worker.call(self._forget_conversations)

    def _forget_conversations(self) -> None:
        for loaded in self._pool.models.loaded:
            if loaded.runner is not None:
                loaded.runner.forget()

    def _identity(self, spec: ModelSpec) -> str:
        from engine import identity

        with self._pool.turn(self._lock):
            if spec.name not in self._known:
                try:
                    self._known[spec.name] = identity.of_embedder(spec, self._pool.worker.heed)
                except OSError as error:
                    raise StoreError(f"{spec.name} cannot be read: {error.strerror}") from error
            return self._known[spec.name]
