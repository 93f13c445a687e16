"""Every error a caller can meet.

    EngineError
    ├── ConfigError       a models.toml that cannot be understood
    ├── ModelNotFound     a model whose files are not on this machine
    ├── ModelCorrupt      a model file that cannot be read, or is not what it should be
    ├── DownloadError     a fetch that did not end with the right bytes
    ├── OutOfBudget       a model that does not fit the memory budget
    ├── ContextOverflow   a prompt that leaves no room for a single token
    ├── InvalidInput      a text or argument outside what is accepted (also a ValueError)
    ├── SchemaError       a JSON Schema that cannot be compiled
    ├── StoreError        the memory store failed
    │   ├── StoreLocked   another process writes to this home
    │   └── MemoryNotFound  no memory has this id
    ├── EngineClosed      use after close, after fork, or after the worker died
    └── Cancelled         the work was stopped by the caller

`code` is stable and meant for programs; the message says what happened and what to do next. Numbers that a
message names are also attributes. Messages never quote what a user wrote.
"""

from __future__ import annotations

from typing import ClassVar


class EngineError(Exception):
    """Something Gieok can explain; every other exception is a bug."""

    code: ClassVar[str] = "engine_error"


class ConfigError(EngineError):
    """A models.toml is malformed: `file`, `line` (1-based, or None) and `nearest` known key."""

    code = "config_error"

    def __init__(
        self, message: str, *, file: str | None = None, line: int | None = None, nearest: str | None = None
    ) -> None:
        place = f"{file}:{line}: " if file and line else f"{file}: " if file else ""
        hint = f" Did you mean {nearest!r}?" if nearest else ""
        super().__init__(f"{place}{message}{hint}")
        self.file, self.line, self.nearest = file, line, nearest


class ModelNotFound(EngineError):
    """`model` is not on this machine, or is not in the catalogue."""

    code = "model_not_found"

    def __init__(self, message: str, *, model: str) -> None:
        super().__init__(message)
        self.model = model


class ModelCorrupt(EngineError):
    """The file at `path` cannot be used as the model that it should be."""

    code = "model_corrupt"

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class DownloadError(EngineError):
    """`file` could not be fetched, or what came was not what was asked for."""

    code = "download_error"

    def __init__(self, message: str, *, file: str) -> None:
        super().__init__(message)
        self.file = file


class OutOfBudget(EngineError):
    """A load needs `needed` bytes where `available` are left."""

    code = "out_of_budget"

    def __init__(self, message: str, *, needed: int, available: int) -> None:
        super().__init__(message)
        self.needed, self.available = needed, available


class ContextOverflow(EngineError):
    """A prompt of `tokens` tokens (at least) does not fit a context of `limit` tokens."""

    code = "context_overflow"

    def __init__(self, tokens: int, limit: int, *, at_least: bool = False) -> None:
        number = f"at least {tokens}" if at_least else str(tokens)
        super().__init__(
            f"the prompt has {number} tokens; the context holds {limit} with room for one answer token. "
            "Shorten the input, or raise n_ctx of the model in models.toml."
        )
        self.tokens, self.limit = tokens, limit


class InvalidInput(EngineError, ValueError):
    """An argument has the right type and a value that cannot be used."""

    code = "invalid_input"


class SchemaError(EngineError):
    """A JSON Schema cannot be compiled; `keyword` is the part that is not supported, if known."""

    code = "schema_error"

    def __init__(self, message: str, *, keyword: str | None = None) -> None:
        super().__init__(message)
        self.keyword = keyword


class StoreError(EngineError):
    """The memory store cannot be read or written."""

    code = "store_error"


class StoreLocked(StoreError):
    """Another process is the writer of this home."""

    code = "store_locked"


class MemoryNotFound(StoreError):
    """No memory has the id `id`."""

    code = "memory_not_found"

    def __init__(self, id: str) -> None:
        super().__init__(f"no memory has the id {id!r}; Engine.memories() lists those there are.")
        self.id = id


class EngineClosed(EngineError):
    """The engine was closed, belongs to a parent process, or its worker died."""

    code = "engine_closed"


class Cancelled(EngineError):
    """The caller stopped the work before it ended."""

    code = "cancelled"
