"""Gieok: the brain of an offline, Korean-first assistant, in this process. `from engine import Engine`."""

import logging

from engine.engine import Engine
from engine.errors import (
    Cancelled,
    ConfigError,
    ContextOverflow,
    DownloadError,
    EngineClosed,
    EngineError,
    InvalidInput,
    MemoryNotFound,
    ModelCorrupt,
    ModelNotFound,
    OutOfBudget,
    SchemaError,
    StoreError,
    StoreLocked,
)
from engine.inputs import CATEGORIES
from engine.metrics import Progress, Usage
from engine.records import Hit, Memory
from engine.sampling import Sampling
from engine.session import Session
from engine.status import LoadPlan, Status
from engine.stream import Stream
from engine.tasks import Classification, ExtractedItem, ExtractedMemory, Reply, Summary, Understanding
from engine.transcript import Said
from engine.transfer import Imported
from engine.vectors import Embeddings

__all__ = [
    "CATEGORIES",
    "Cancelled",
    "Classification",
    "ConfigError",
    "ContextOverflow",
    "DownloadError",
    "Embeddings",
    "Engine",
    "EngineClosed",
    "EngineError",
    "ExtractedItem",
    "ExtractedMemory",
    "Hit",
    "Imported",
    "InvalidInput",
    "LoadPlan",
    "Memory",
    "MemoryNotFound",
    "ModelCorrupt",
    "ModelNotFound",
    "OutOfBudget",
    "Progress",
    "Reply",
    "Said",
    "Sampling",
    "SchemaError",
    "Session",
    "Status",
    "StoreError",
    "StoreLocked",
    "Stream",
    "Summary",
    "Understanding",
    "Usage",
]

# where a program sets up no logging, Python would write a library's warnings to stderr
logging.getLogger("engine").addHandler(logging.NullHandler())
