"""One batch as llama.cpp reads it, over arrays that numpy owns."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.scheduler import Chunk


class Batch:
    """llama.cpp's batch over arrays that numpy owns, so that a step costs no per-token ctypes call."""

    def __init__(self, size: int, native: Any) -> None:
        import numpy as np

        self.token, self.pos, self.seq = (np.zeros(size, np.int32) for _ in range(3))
        self.n_seq_id, self.wanted = np.ones(size, np.int32), np.zeros(size, np.int8)
        self.own = self.seq.ctypes.data + 4 * np.arange(size, dtype=np.uintp)
        self.seq_rows = self.own.copy()
        self.shared: list[NDArray[np.int32]] = []
        pointers: dict[str, NDArray[Any]] = {
            "token": self.token, "pos": self.pos, "n_seq_id": self.n_seq_id, "seq_id": self.seq_rows,
            "logits": self.wanted,
        }  # fmt: skip
        for name, array in pointers.items():
            setattr(native, name, ctypes.cast(array.ctypes.data, dict(native._fields_)[name]))
        self.native = native

    def fill(self, chunks: Sequence[Chunk]) -> Any:
        """Return the native batch of `chunks`; lists first: a write to an array costs as much as many tokens."""
        token: list[int] = []
        pos: list[int] = []
        seq: list[int] = []
        wanted: list[int] = []
        for chunk in chunks:
            size = len(chunk.tokens)
            token += chunk.tokens
            pos += range(chunk.start, chunk.start + size)
            seq += [chunk.sequence] * size
            wanted += [0] * (size - chunk.rows) + [1] * chunk.rows
        end = len(token)
        self.token[:end], self.pos[:end], self.seq[:end], self.wanted[:end] = token, pos, seq, wanted
        self._share(chunks)
        self.native.n_tokens = end
        return self.native

    def _share(self, chunks: Sequence[Chunk]) -> None:
        """Say which tokens belong to more than one sequence."""
        if self.shared:
            self.n_seq_id[:], self.seq_rows[:] = 1, self.own
            self.shared.clear()
        at = 0
        for chunk in chunks:
            past = at + len(chunk.tokens)
            if chunk.also:
                self.n_seq_id[at:past] = 1 + len(chunk.also)
                self.seq_rows[at:past] = self._sequences(chunk)
            at = past

    def _sequences(self, chunk: Chunk) -> int:
        """Return the address of the ids of every sequence that a chunk belongs to."""
        import numpy as np

        self.shared.append(np.array([chunk.sequence, *chunk.also], np.int32))
        return int(self.shared[-1].ctypes.data)
