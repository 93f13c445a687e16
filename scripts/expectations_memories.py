"""Many memories for a home, as another machine would have exported them: a file that `Engine.import_` takes.

A sample is remembered by the engine itself and exported with its vectors. The others have sentences of their own, and
vectors drawn from the normal distribution that has the sample's mean and covariance: they lie as those of this model
do, so that a question finds some that stand out. Embedding a hundred thousand would take hours and tell no more.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_texts import sentence

from engine import Engine
from engine.inputs import CATEGORIES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

SAMPLE = 256
_BATCH = 1_000  # vectors in RAM at once
_FIRST = datetime(2023, 1, 1, 9, tzinfo=UTC)
_APART = timedelta(minutes=15)


def fill(engine: Engine, count: int, folder: Path) -> None:
    """Give the engine's empty home `count` memories and see all that is made of them done; `folder` is for files.

    Raises as `Engine.remember`, `export`, `import_` and `wait` do.
    """
    sample = min(SAMPLE, count // 4)
    engine.remember([sentence(n) for n in range(sample)], judge=False)
    exported, made = folder / "sample.jsonl", folder / "memories.jsonl"
    engine.export(exported, vectors=True)
    write(made, exported, count - sample)
    engine.import_(made)
    made.unlink()
    engine.search(sentence(0))  # asks for an index
    engine.wait()


def write(path: Path, sample: Path, count: int) -> None:
    """Write `count` memories like those of the export `sample`, whose sentences are not among them."""
    with sample.open(encoding="utf-8") as exported:
        head, *lines = map(json.loads, exported)
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps({**head, "count": count}) + "\n")
        for number, vector in enumerate(drawn([_vector(line) for line in lines], count), len(lines)):
            file.write(json.dumps(_line(lines[number % len(lines)], number, vector), ensure_ascii=False) + "\n")


def drawn(sample: Sequence[Floats], count: int) -> Iterator[Floats]:
    """Yield `count` vectors of unit length that have mean and covariance of a `sample`, before they are scaled."""
    import numpy as np

    rows = np.stack(sample)
    mean = rows.mean(axis=0)
    away = (rows - mean) / np.sqrt(len(rows))
    random = np.random.default_rng(0)
    for first in range(0, count, _BATCH):
        weights = random.standard_normal((min(_BATCH, count - first), len(rows)), np.float32)
        vectors = mean + weights @ away
        yield from vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _vector(line: dict[str, Any]) -> Floats:
    import numpy as np

    return np.frombuffer(base64.b64decode(line["vector"]), "<f2").astype(np.float32)


def _line(like: dict[str, Any], number: int, vector: Floats) -> dict[str, Any]:
    """Return memory `number`; of a remembered one it has the user, the model and, where there are any, the weights."""
    when = (_FIRST + number * _APART).isoformat()
    own = {
        "id": f"made-up-{number}", "text": sentence(number), "category": CATEGORIES[number % len(CATEGORIES)],
        "created": when, "when": when, "valid_from": when,
        "vector": base64.b64encode(vector.astype("<f2").tobytes()).decode("ascii"),
    }  # fmt: skip
    return {**like, **own}
