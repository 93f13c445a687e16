"""Dialogue → what a model is asked for a summary, and what is kept of its answer. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from engine import instructions
from engine.inputs import Turn
from engine.instructions import language_of
from engine.korean.sentences import sentences


def summary_turns(turns: Sequence[Turn], max_words: int | None) -> tuple[Turn, ...]:
    """Return the messages that ask for a summary."""
    language = language_of("".join(turn.content for turn in turns))
    told = instructions.SUMMARIZE[language]
    if max_words is not None:
        told += " " + instructions.AT_MOST[language].format(words=max_words)
    listing = "\n".join(f"{turn.name or turn.role}: {turn.content}" for turn in turns)
    return Turn("system", told), Turn("user", listing)


def cut_words(text: str, max_words: int | None) -> str:
    """Return whole sentences of `text` up to `max_words` words, or that many words of its first sentence."""
    if max_words is None or len(text.split()) <= max_words:
        return text.strip()
    kept = ""
    for _, end in sentences(text):
        if len(text[:end].split()) > max_words:
            break
        kept = text[:end]
    return kept.strip() or " ".join(text.split()[:max_words])
