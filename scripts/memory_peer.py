"""What one would write in an afternoon instead of a store: a flat FAISS index, and a list of texts in JSON."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_lent import K, Order, asked

if TYPE_CHECKING:
    import numpy as np
    from memory_texts import Case
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

INDEX, LIST = "peer.faiss", "peer.json"


class Piling:
    """Makes what a user would without us: all vectors in a flat index, all texts in a list that is written as JSON."""

    def __init__(self, order: Order) -> None:
        self._order = order

    def about(self) -> dict[str, Any]:
        """Return nothing: nothing was done yet."""
        return {}

    def pile(self) -> dict[str, int]:
        """Write both; return their bytes."""
        import faiss
        from clusters import Clusters
        from memory_texts import fields, sentence

        order, folder = self._order, Path(self._order.home)
        clusters, index, rows = Clusters(order.size, order.dim, order.each), faiss.IndexFlatIP(order.dim), []
        for n in range(clusters.batches):
            vectors, shared = clusters.batch(n), fields(n)
            index.add(vectors)
            told = {"user": shared.user, "category": shared.category, "source": shared.source}
            more = {**told, "when": shared.when.isoformat()}
            rows += [{"text": sentence(n * order.each + at), **more} for at in range(len(vectors))]
        folder.mkdir(parents=True, exist_ok=True)
        faiss.write_index(index, str(folder / INDEX))
        (folder / LIST).write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        return {name: (folder / name).stat().st_size for name in (INDEX, LIST)}

    def close(self) -> None:
        """Do nothing: what was written stays."""


class Peer:
    """Searches the flat index, and filters what it finds; looks for ten times as many where too few are left."""

    def __init__(self, order: Order) -> None:
        import faiss

        from engine import machine

        self._asked = asked(order)
        self._before = machine.resident().total
        began = time.perf_counter()
        self._index = faiss.read_index(str(Path(order.home, INDEX)))
        self._rows = json.loads(Path(order.home, LIST).read_text(encoding="utf-8"))
        self._seconds = time.perf_counter() - began

    def about(self) -> dict[str, Any]:
        """Return the seconds that it took to load."""
        return {"seconds": self._seconds}

    def times(self, case: int, first: int, step: int) -> list[list[Any]]:
        """Ask every `step`-th question from `first` on; return of each the milliseconds and the texts found."""
        from memory_texts import CASES

        found = list[list[Any]]()
        for n in range(first, len(self._asked), step):
            began = time.perf_counter()
            texts = self._search(CASES[case], self._asked[n : n + 1])
            found.append([(time.perf_counter() - began) * 1000, texts])
        return found

    def _search(self, case: Case, question: Floats) -> list[str]:
        total, most = self._index.ntotal, K
        while True:
            most = min(10 * most, total)
            _, numbers = self._index.search(question, most)
            rows = [self._rows[n] for n in numbers[0].tolist()]
            fitting = [row["text"] for row in rows if _fits(case, row)]
            if len(fitting) >= K or most == total:
                return fitting[:K]

    def held(self) -> dict[str, int]:
        """Return by how many bytes this process has grown since it had its libraries."""
        from engine import machine

        return {"now": machine.resident().total - self._before}

    def close(self) -> None:
        """Do nothing: what it holds goes with it."""


def _fits(case: Case, row: dict[str, str]) -> bool:
    return (
        row["user"] == case.user
        and (case.category is None or row["category"] == case.category)
        and (case.source is None or row["source"] == case.source)
        and (case.since is None or row["when"] >= case.since.isoformat())
        and (case.until is None or row["when"] <= case.until.isoformat())
    )
