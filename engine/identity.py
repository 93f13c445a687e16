"""What tells whether two vectors may be compared: the sha256 of all that decides what an embedding model makes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine import digests, fastpath, layout

if TYPE_CHECKING:
    from engine.config import ModelSpec

_HOW = ("modules.json", "*/config.json")  # how token vectors become one
_MOST = 1 << 24  # bytes of such a file


def of_embedder(spec: ModelSpec, heed: Callable[[], object]) -> str:
    """Return the identity of an installed embedding model, in hex.

    Large files are hashed once, as long as they stay what they are; `heed` is called meanwhile, and what it raises ends
    it. Torch and the fast path have one identity: their vectors are compared with each other. Raises `ModelNotFound`,
    `OSError`.
    """
    folder = layout.locate(spec)
    files = {path.name: digests.sha256_of(path, heed) for path in fastpath.sources(folder)}
    files |= {path.relative_to(folder).as_posix(): _sha256(path) for path in _small(folder)}
    said = {
        "files": files,
        "pooling": spec.pooling,
        "heads": spec.heads,
        "max_tokens": spec.max_tokens,
        "prefixes": [spec.query_prefix, spec.passage_prefix],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _small(folder: Path) -> list[Path]:
    found = (path for pattern in _HOW for path in folder.glob(pattern))
    return sorted(path for path in found if path.is_file() and path.stat().st_size <= _MOST)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
