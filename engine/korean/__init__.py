"""Korean by rule: dates, intents, sentences; and morphemes by Kiwi."""

from .dates import TimeSpan, find_dates, resolve
from .intent import Intent, Rules, understand_rules
from .morphemes import Analyser
from .sentences import sentences

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
