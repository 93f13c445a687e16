"""Korean by rule: dates, intents, sentences; and morphemes by Kiwi."""

from engine.korean.dates import TimeSpan, find_dates, resolve
from engine.korean.intent import Intent, Rules, understand_rules
from engine.korean.morphemes import Analyser
from engine.korean.sentences import sentences

__all__ = [
    "Analyser",
    "Intent",
    "Rules",
    "TimeSpan",
    "find_dates",
    "resolve",
    "sentences",
    "understand_rules",
]
