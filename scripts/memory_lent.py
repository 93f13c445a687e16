"""What the sides of the memory benchmark are told, and what their stores are lent in the place of models.

Vectors are looked up, so that a store is measured and no embedding model; words are Kiwi's where that is asked for.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.faculties import Embedded, Faculties, Space
    from engine.inputs import TextKind
    from engine.korean.morphemes import Analyser

    Floats = NDArray[np.float32]

K = 10  # hits of every search
VECTORS, TEXTS, ENTRY = "questions.f32", "questions.json", "models.toml"
MODEL = "measured"  # what the embedding model is called
Words = Literal["kiwi", "spaces", "none"]


@dataclass(frozen=True, slots=True)
class Order:
    """What a side is made of: a store's home, its `size` memories of `dim` numbers in calls of `each`, the questions.

    `questions` is the folder where these lie. `words` says what finds the words of a text: "kiwi", "spaces", or "none"
    that finds none. `model` is an embedding model's folder, whose tokenizer gives each memory sparse weights, or "".
    `space` and `analyser` are what vectors and words are said to come from.
    """

    side: str
    home: str
    questions: str
    size: int
    dim: int
    each: int
    words: Words = "none"
    model: str = ""
    space: str = "0" * 64
    analyser: str = "measured"


class Lent:
    """Faculties that look vectors up: those of `known`, and for another text one of the questions', always the same."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.known: dict[str, Floats] = {}

    def faculties(self) -> Faculties:
        """Return them; nothing is judged, which would need a true embedding model."""
        from engine.faculties import Faculties, Space

        space = Space(self._order.space, MODEL)
        return Faculties(lambda: space, self._embed, self.words, self._order.analyser)

    def know(self, texts: Sequence[str], vectors: Floats) -> None:
        """Look up these texts from now on, and no others."""
        self.known = dict(zip(texts, vectors, strict=True))

    def words(self, texts: list[str]) -> list[tuple[str, ...]]:
        """Return the words of each text."""
        if self._order.words == "kiwi":
            return [analyser().terms(text) for text in texts]
        return [tuple(text.split()) if self._order.words == "spaces" else () for text in texts]

    def _embed(self, texts: list[str], _kind: TextKind, _space: Space) -> Embedded:
        import numpy as np

        from engine.faculties import Embedded

        dense = np.stack([self._vector(text) for text in texts])
        return Embedded(dense, self._sparse(texts) if self._sparse else None)

    def _vector(self, text: str) -> Floats:
        known = self.known.get(text)
        return self._others[zlib.crc32(text.encode("utf-8")) % len(self._others)] if known is None else known

    @cached_property
    def _others(self) -> Floats:
        return asked(self._order)

    @cached_property
    def _sparse(self) -> Callable[[Sequence[str]], list[dict[int, float]]] | None:
        """What gives texts sparse weights as a model with such a head does: one for each token, made up here."""
        if not self._order.model:
            return None
        from tokenizers import Tokenizer

        reading = Tokenizer.from_str(Path(self._order.model, "tokenizer.json").read_text(encoding="utf-8"))
        reading.no_padding()

        def weights(texts: Sequence[str]) -> list[dict[int, float]]:
            found = reading.encode_batch(list(texts), add_special_tokens=False)
            return [{token: 0.05 + token * 2_654_435_761 % 997 / 3_000 for token in one.ids} for one in found]

        return weights


@cache
def analyser() -> Analyser:
    """Return Kiwi, which loads on first use."""
    from engine.korean.morphemes import Analyser

    return Analyser()


def asked(order: Order) -> Floats:
    """Return the vectors of the questions."""
    import numpy as np

    return np.fromfile(Path(order.questions, VECTORS), dtype="<f4").reshape(-1, order.dim)


def texts_asked(order: Order) -> list[str]:
    """Return the texts of the questions."""
    found: list[str] = json.loads(Path(order.questions, TEXTS).read_text(encoding="utf-8"))
    return found


def mute(n: int) -> str:
    """Return the text of a question that shares no letters with a memory: only its vector can find anything."""
    return f"Q{n}Q"
