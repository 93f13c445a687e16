"""One side of the memory benchmark, in a process of its own: it does what it is asked, line by line of JSON.

A line that comes is [method, [arguments]]; the one that goes is {"answer": …} or {"error": …}, the first of them what
the side says of itself. Nothing but Python's own library is imported before a clock runs that counts imports. The
process ends when its input closes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedding_sides import forget_peak, peak, serve
from memory_lent import ENTRY, MODEL, K, Lent, Order, asked, mute, texts_asked
from memory_peer import Peer, Piling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.memory import MemoryStore

    Floats = NDArray[np.float32]

SMALL = 1_200  # memories of the store that is used before memory is measured: more than are searched without an index
LIBRARIES = ("numpy", "apsw", "faiss", "engine.memory")


class Filling:
    """Stores memories by `remember`, and finds out by the way which are the nearest to each question."""

    def __init__(self, order: Order) -> None:
        from clusters import Clusters, Nearest
        from memory_texts import CASES

        from engine.memory import MemoryStore

        self._order, self._clusters = order, Clusters(order.size, order.dim, order.each)
        self._lent = Lent(order)
        self._lent.words(["가나다"])  # loads the dictionary
        self._store = MemoryStore(Path(order.home), self._lent.faculties())
        self._nearest = {case: Nearest(asked(order), K) for case in CASES}
        self._matching = dict.fromkeys(CASES, 0)

    def about(self) -> dict[str, Any]:
        """Return nothing: nothing was done yet."""
        return {}

    def fill(self, first: int, last: int) -> list[float]:
        """Store these batches; return the seconds that each call of `remember` took."""
        return [self._store_batch(n) for n in range(first, min(last, self._clusters.batches))]

    def _store_batch(self, n: int) -> float:
        from memory_texts import fields, sentence

        start = n * self._order.each
        vectors, shared = self._clusters.batch(n), fields(n)
        texts = [sentence(start + at) for at in range(len(vectors))]
        self._lent.know(texts, vectors)
        began = time.perf_counter()
        self._store.remember(
            texts, user=shared.user, category=shared.category, when=shared.when, source=shared.source, judge=False
        )
        seconds = time.perf_counter() - began
        self._look(vectors, start, n)
        return seconds

    def _look(self, vectors: Floats, start: int, n: int) -> None:
        import numpy as np
        from memory_texts import fields

        stored = vectors.astype("<f2").astype(np.float32)
        stored /= np.linalg.norm(stored, axis=1, keepdims=True)
        for case, nearest in self._nearest.items():
            if case.matches(fields(n)):
                self._matching[case] += len(vectors)
                nearest.see(stored, np.arange(start, start + len(vectors)))

    def nearest(self) -> dict[str, list[list[str]]]:
        """Return of each case, for each question, the texts that are the exact nearest."""
        from memory_texts import sentence

        return {
            case.name: [[sentence(n) for n in numbers] for numbers in nearest.accepted()]
            for case, nearest in self._nearest.items()
        }

    def matching(self) -> dict[str, int]:
        """Return how many memories each case has."""
        return {case.name: count for case, count in self._matching.items()}

    def settle(self) -> dict[str, float]:
        """Search once, which asks for an index; return the milliseconds, and the seconds until all is done."""
        from memory_texts import MAIN

        began = time.perf_counter()
        self._store.search(mute(0), user=MAIN, k=K)
        found = time.perf_counter()
        self._store.wait()
        return {"first": (found - began) * 1000, "settled": time.perf_counter() - found}

    def close(self) -> None:
        """Close the store."""
        self._store.close()


class Searching:
    """Searches a store that others have filled; what it holds of memory counts from a small store on."""

    def __init__(self, order: Order) -> None:
        from engine import machine

        self._order = order
        self._store: MemoryStore | None = None
        self._texts, self._lent = texts_asked(order), Lent(order)
        if self._order.words == "none":
            self._texts = [mute(n) for n in range(len(self._texts))]
            by_cosine()
        _use(Path(order.questions, f"small-{os.getpid()}"), self._lent, order.dim)
        self._lent.know(self._texts, asked(order))
        machine.trim()
        forget_peak()
        self._before = machine.resident()

    def about(self) -> dict[str, Any]:
        """Return the bytes in RAM with all imported and a small store used."""
        return {"before": self._before.total}

    def open(self) -> float:
        """Open the store; return the milliseconds until the first search has returned."""
        from memory_texts import MAIN

        from engine.memory import MemoryStore

        began = time.perf_counter()
        self._store = MemoryStore(Path(self._order.home), self._lent.faculties())
        self._store.search(mute(0), user=MAIN, k=K)
        return (time.perf_counter() - began) * 1000

    def wait(self) -> bool:
        """Wait until the store has nothing left to do."""
        return self._opened().wait()

    def times(self, case: int, first: int, step: int) -> list[list[Any]]:
        """Ask every `step`-th question from `first` on; return of each the milliseconds and the texts found."""
        from memory_texts import CASES

        store, filters, found = self._opened(), CASES[case].filters(), list[list[Any]]()
        for n in range(first, len(self._texts), step):
            began = time.perf_counter()
            hits = store.search(self._texts[n], k=K, **filters)
            found.append([(time.perf_counter() - began) * 1000, [hit.memory.text for hit in hits]])
        return found

    def held(self) -> dict[str, int]:
        """Return by how many bytes this process has grown since the small store: now, of it anonymous, at the most."""
        from engine import machine

        now, before = machine.resident(), self._before
        most = peak() - before.total
        return {"now": now.total - before.total, "anonymous": now.anonymous - before.anonymous, "peak": most}

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()

    def _opened(self) -> MemoryStore:
        if self._store is None:
            raise ValueError("the store was not opened")
        return self._store


def by_cosine() -> None:
    """Let every search of this process bring the nearest first, which is what an exact search can be compared with.

    The product does the same work and then sorts by relevance, which a cosine is but a part of.
    """
    from engine import ranking

    ranking.order = lambda signals, _: signals.dense  # type: ignore[assignment]


def _use(home: Path, lent: Lent, dim: int) -> None:
    """Fill and search a small store, so that what is imported and allocated once is there."""
    import numpy as np
    from memory_texts import MAIN, question, sentence

    from engine.memory import MemoryStore

    store = MemoryStore(home, lent.faculties())
    drawn = np.random.default_rng(0).standard_normal((SMALL, dim), dtype=np.float32)
    texts = [sentence(n) for n in range(SMALL)]
    lent.know(texts, drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
    try:
        store.remember(texts, user=MAIN, judge=False)
        for _ in range(2):
            store.search(question(0), user=MAIN, k=K)
            store.wait()
    finally:
        store.close()


class Reopening:
    """Opens a store as a program that starts does, up to the first hits, with the libraries imported before or not."""

    def __init__(self, order: Order, ready: bool = False) -> None:
        if ready:
            for name in LIBRARIES:
                __import__(name)
        began = time.perf_counter()
        from engine.memory import MemoryStore

        self._store = MemoryStore(Path(order.home), Lent(order).faculties())
        self._found = len(self._search())
        self._opened = time.perf_counter()
        self._seconds = self._opened - began

    def about(self) -> dict[str, Any]:
        """Return the seconds, and how many hits there were."""
        return {"seconds": self._seconds, "found": self._found}

    def settled(self) -> dict[str, Any]:
        """Return the seconds until nothing was left to do, and the milliseconds of searches until then and after."""
        meanwhile = list[float]()
        while not self._store.wait(0.02):
            meanwhile.append(self._clocked())
        seconds = time.perf_counter() - self._opened
        return {"seconds": seconds, "meanwhile": meanwhile, "after": [self._clocked() for _ in range(20)]}

    def _clocked(self) -> float:
        began = time.perf_counter()
        self._search()
        return (time.perf_counter() - began) * 1000

    def _search(self) -> list[Any]:
        return self._store.search(mute(0), user="민지", k=K)  # whom an import names that would count

    def close(self) -> None:
        """Close the store."""
        self._store.close()


class Ready(Reopening):
    """The same with the libraries imported before the clock runs."""

    def __init__(self, order: Order) -> None:
        super().__init__(order, ready=True)


class Changing:
    """Changes a full store: one memory more, one less, a user less; and copies it."""

    def __init__(self, order: Order) -> None:
        from engine.memory import MemoryStore

        self._order = order
        lent = Lent(order)
        lent.words(["가나다"])
        self._store = MemoryStore(Path(order.home), lent.faculties())
        self._store.wait()

    def about(self) -> dict[str, Any]:
        """Return how many memories there are."""
        return {"count": self._store.count()}

    def one_by_one(self, count: int) -> list[float]:
        """Remember so many new texts, each alone; return the milliseconds of each."""
        from memory_texts import MAIN, sentence

        found = []
        for n in range(self._order.size, self._order.size + count):
            began = time.perf_counter()
            self._store.remember([sentence(n)], user=MAIN, when="2026-01-01")
            found.append((time.perf_counter() - began) * 1000)
            self._store.wait()
        return found

    def forget(self, count: int) -> list[float]:
        """Forget so many memories, each alone; return the seconds of each."""
        from memory_texts import MAIN

        found = []
        for one in self._store.memories(user=MAIN, limit=count):
            began = time.perf_counter()
            self._store.forget(one.id)
            found.append(time.perf_counter() - began)
        return found

    def forget_all(self, user: str) -> list[float]:
        """Forget all memories of a user; return the seconds and how many there were."""
        began = time.perf_counter()
        count = self._store.forget_all(user)
        return [time.perf_counter() - began, count]

    def search(self) -> float:
        """Return the milliseconds of a search."""
        from memory_texts import MAIN

        began = time.perf_counter()
        self._store.search(mute(1), user=MAIN, k=K)
        return (time.perf_counter() - began) * 1000

    def wait(self) -> float:
        """Return the seconds until the store has nothing left to do."""
        began = time.perf_counter()
        self._store.wait()
        return time.perf_counter() - began

    def backup(self, path: str) -> list[float]:
        """Copy the store; return the seconds and the bytes."""
        began = time.perf_counter()
        self._store.backup(Path(path))
        seconds = time.perf_counter() - began
        return [seconds, Path(path).stat().st_size]

    def close(self) -> None:
        """Close the store."""
        self._store.close()


class Whole:
    """An engine that embeds what it is asked, with an embedding model of true shape, over a store that is there."""

    def __init__(self, order: Order) -> None:
        from engine import Engine

        self._texts = texts_asked(order)
        self._engine = Engine(
            Path(order.questions, ENTRY), profile="starter", home=Path(order.home), models={"embedding": MODEL}
        )
        self._engine.load("embedding")
        self._embed(0)
        self._search(0)
        self._engine.wait()

    def about(self) -> dict[str, Any]:
        """Return what serves the model, how many hits the first question has, and which parts they have."""
        hits = self._search(0)
        parts = {name: value for hit in hits[:1] for name, value in (hit.parts or {}).items()}
        return {
            "backends": [model.backend for model in self._engine.status().loaded],
            "hits": len(hits),
            "parts": parts,
        }

    def times(self, count: int) -> list[list[float]]:
        """Ask so many questions; return of each the milliseconds of the search, and of embedding it once more."""
        return [[_clocked(self._search, n), _clocked(self._embed, n)] for n in range(count)]

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    def _search(self, n: int) -> list[Any]:
        from memory_texts import MAIN

        return self._engine.search(self._texts[n], k=K, user=MAIN, explain=True)

    def _embed(self, n: int) -> object:
        return self._engine.embed(self._texts[n], kind="query", heads=("dense", "sparse"))


def _clocked(work: Callable[[int], object], n: int) -> float:
    began = time.perf_counter()
    work(n)
    return (time.perf_counter() - began) * 1000


SIDES: dict[str, Callable[[Order], Any]] = {
    "filling": Filling, "searching": Searching, "reopening": Reopening, "ready": Ready, "changing": Changing,
    "piling": Piling, "peer": Peer, "whole": Whole,
}  # fmt: skip


def main(order: str) -> None:
    """Make the side and do what it is asked, until the input closes."""
    told = Order(**json.loads(order))
    serve(lambda: SIDES[told.side](told))


if __name__ == "__main__":
    main(sys.argv[1])
