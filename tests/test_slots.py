"""What a text is about, by the vectors of the examples of each slot."""

from __future__ import annotations

import numpy as np
import pytest

from engine.cohort import SENTENCES
from engine.slots import NEAR, SLOTS, Slots


class Embedder:
    """Gives every slot a direction of its own, the cohort's sentences all directions a little, and counts the texts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.asked += texts
        vectors = np.stack([self._vector(text) for text in texts]).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _vector(self, text: str) -> np.ndarray:
        spread = np.random.default_rng(SENTENCES.index(text) if text in SENTENCES else 0)
        vector = 0.01 * spread.random(len(SLOTS)) + (spread.random(len(SLOTS)) if text in SENTENCES else 0)
        for place, (name, told) in enumerate(SLOTS.items()):
            vector[place] += name in text.split() or text in told.split(" | ")
        return vector


@pytest.mark.parametrize("name", sorted(SLOTS))
def test_a_text_is_near_the_slot_that_it_is_about(name):
    assert Slots(Embedder()).near(f"about {name}") == {name}


def test_a_text_between_two_slots_is_near_both():
    assert Slots(Embedder()).near("home work") == {"home", "work"}


def test_a_text_is_embedded_once_and_the_examples_only_when_asked():
    embedder = Embedder()
    slots = Slots(embedder)
    assert not embedder.asked
    assert slots.near("about age") == slots.near("about age")
    assert embedder.asked.count("about age") == 1
    assert len(embedder.asked) == len(set(embedder.asked))


def test_every_slot_is_described_and_has_three_examples_or_more():
    assert NEAR > 0
    assert all(len(told.split(" | ")) >= 4 for told in SLOTS.values())
