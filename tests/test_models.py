"""Which model a role means, and what is loaded when; no weights are read here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine import config
from engine.config import Config, ModelSpec
from engine.errors import Cancelled, ConfigError, EngineClosed, InvalidInput, ModelCorrupt, ModelNotFound
from engine.loader import NotLoaded
from engine.metrics import Progress
from engine.models import LoadedModel, Models, Tell, find_spec, resolve_roles

SECONDS = 0.25


@dataclass
class Fake:
    """Stands in for a loaded model."""

    spec: ModelSpec
    closed: list[BaseException | None] = field(default_factory=list)

    def close(self, error: BaseException | None = None) -> None:
        self.closed.append(error)


@pytest.fixture(scope="module")
def catalogue() -> Config:
    return config.load(config.packaged_file())


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Fake]:
    """Replace the two loads, which tell the half and the whole of their weights; every model made is listed."""
    made: list[Fake] = []

    def load(self: Models, spec: ModelSpec, tell: Tell) -> Any:
        tell(0.5)
        tell(0.5)
        made.append(Fake(spec))
        tell(1.0)
        return made[-1]

    monkeypatch.setattr(Models, "_load_runner", load)
    monkeypatch.setattr(Models, "_load_embedder", load)
    return made


@pytest.fixture
def models(catalogue: Config, made: list[Fake]) -> Models:
    return Models(catalogue, resolve_roles(catalogue, "starter", {}))


def wanted_by_all() -> None:
    """Heed nothing: somebody waits for this load."""


def load(models: Models, name: str, heed: Callable[[], None] = wanted_by_all) -> Any:
    """Do what the loader thread and the compute thread do, here."""
    try:
        return models.get(name)
    except NotLoaded as absent:
        wanted = absent.load
    made = wanted.make(heed)
    assert not wanted.present()
    wanted.adopt(made, SECONDS)
    assert wanted.present()
    return models.get(name)


def names(models: Models) -> list[str]:
    return [model.name for model in models.loaded]


# ---- which


@pytest.mark.parametrize("profile", ["default", "commercial", "starter"])
def test_each_role_of_a_profile_has_its_entry(catalogue: Config, profile: str) -> None:
    specs = resolve_roles(catalogue, profile, {})
    assert {role: spec.name for role, spec in specs.items()} == catalogue.profile(profile)


def test_a_role_may_be_given_another_model(catalogue: Config) -> None:
    specs = resolve_roles(catalogue, "starter", {"chat": "qwen2.5:7b", "fallback": "llama3.2:3b"})
    assert specs["chat"].name == "qwen2.5-7b-instruct"
    assert specs["summary"].name == "smollm2-135m-instruct"
    assert specs["fallback"].name == "llama-3.2-3b-instruct"


@pytest.mark.parametrize("role", ["chatt", "", "CHAT", 5])
def test_an_unknown_role_is_told_those_there_are(catalogue: Config, role: Any) -> None:
    with pytest.raises(ConfigError, match="is not a role; there are chat, summary, extraction"):
        resolve_roles(catalogue, "starter", {role: "qwen2.5:7b"})


def test_an_unknown_profile_or_model_is_told(catalogue: Config) -> None:
    with pytest.raises(ConfigError, match="no profile is called 'none'"):
        resolve_roles(catalogue, "none", {})
    with pytest.raises(ModelNotFound, match="no model is called 'gpt'"):
        resolve_roles(catalogue, "starter", {"chat": "gpt"})


@pytest.mark.parametrize(
    ("name", "called", "kind"),
    [
        ("my.gguf", "my", "llm"),
        ("MY.GGUF", "MY", "llm"),
        ("folder/my.v2.gguf", "my.v2", "llm"),
        ("./한글 모델.gguf", "한글 모델", "llm"),
        ("./folder", "folder", "embedding"),
        ("folder/bge.v2", "bge.v2", "embedding"),
    ],
)
def test_a_path_is_a_model_of_ones_own(
    catalogue: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, called: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for form in (name, Path(name), tmp_path / name):
        if not isinstance(form, Path) or any(mark in str(form) for mark in "/.\\"):
            spec = find_spec(catalogue, form)
            assert (spec.name, spec.kind, spec.source.path) == (called, kind, str(tmp_path / name))


def test_a_tilde_is_the_users_home(catalogue: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert find_spec(catalogue, "~/my.gguf").source.path == str(tmp_path / "my.gguf")
    with pytest.raises(ModelNotFound, match="nobody-of-this-name"):
        find_spec(catalogue, "~nobody-of-this-name/my.gguf")


@pytest.mark.parametrize("name", [None, 5, b"my.gguf", ["my.gguf"]])
def test_a_model_of_another_type_is_a_type_error(catalogue: Config, name: Any) -> None:
    with pytest.raises(TypeError):
        resolve_roles(catalogue, "starter", {"chat": name})


@pytest.mark.parametrize("name", ["", "a\0.gguf", "\udcff.gguf", "\udcff/folder", "\udcff"])
def test_a_name_that_no_file_can_have_is_refused(catalogue: Config, name: str) -> None:
    with pytest.raises(InvalidInput, match="model"):
        find_spec(catalogue, name)


def test_the_spec_of_a_role_is_the_one_given_and_that_of_a_name_the_catalogues(catalogue: Config) -> None:
    models = Models(catalogue, resolve_roles(catalogue, "starter", {"chat": "/somewhere/my.gguf"}))
    assert models.spec("chat").name == "my"
    assert models.spec("summary").name == models.spec("smollm2-135m-instruct").name == "smollm2-135m-instruct"
    with pytest.raises(ModelNotFound, match="no model is called 'gpt'"):
        models.spec("gpt")


def test_a_role_that_the_profile_leaves_out_is_named(models: Models) -> None:
    calls: tuple[Callable[[str], object], ...] = (models.spec, models.key, models.get, models.runner, models.unload)
    for call in calls:
        with pytest.raises(ConfigError, match="names no fallback model"):
            call("fallback")
    bare = Models(models._config, {"chat": models.spec("chat")})
    calls = (bare.spec, bare.get, bare.embedder)
    for call in calls:
        with pytest.raises(ConfigError, match=r"names no embedding model.*models\.toml"):
            call("embedding")


# ---- when


def test_nothing_is_loaded_before_it_is_used(models: Models, made: list[Fake]) -> None:
    assert (models.loaded, tuple(models.steppable()), made) == ((), (), [])


def test_a_model_is_loaded_once_for_all_its_roles_and_names(models: Models, made: list[Fake]) -> None:
    first = load(models, "chat")
    assert models.runner("chat") is first
    for name in ("summary", "extraction", "smollm2-135m-instruct", "SmolLM2-135M-Instruct"):
        assert models.runner(name) is first
    assert [model.spec.name for model in made] == ["smollm2-135m-instruct"]
    assert list(models.steppable()) == [first]
    assert load(models, "embedding") is models.embedder() is models.embedder("classification")
    assert [model.spec.name for model in made] == ["smollm2-135m-instruct", "multilingual-e5-small"]
    assert list(models.steppable()) == [first]


def test_what_is_loaded_is_told_with_its_roles(models: Models) -> None:
    load(models, "chat")
    load(models, "multilingual-e5-small")
    chat, embedding = models.loaded
    assert chat == LoadedModel("smollm2-135m-instruct", "llm", ("chat", "summary", "extraction"), chat.load_seconds)
    assert (embedding.kind, embedding.roles) == ("embedding", ("classification", "embedding"))
    assert chat.load_seconds == SECONDS


def test_two_files_of_one_name_are_two_models(catalogue: Config, made: list[Fake]) -> None:
    over = {"chat": "/a/smollm2-135m-instruct.gguf", "summary": "/b/smollm2-135m-instruct.gguf"}
    models = Models(catalogue, resolve_roles(catalogue, "starter", over))
    for role in ("chat", "summary", "extraction"):
        load(models, role)
    assert [model.spec.source.path for model in made] == [*over.values(), None]
    assert [model.roles for model in models.loaded] == [("chat",), ("summary",), ("extraction",)]
    models.unload("summary")
    assert [len(model.closed) for model in made] == [0, 1, 0]
    assert [model.roles for model in models.loaded] == [("chat",), ("extraction",)]


def test_a_model_does_only_what_its_kind_can(models: Models, made: list[Fake]) -> None:
    with pytest.raises(InvalidInput, match="multilingual-e5-small is an embedding model and cannot chat"):
        models.runner("classification")  # before anything is loaded
    with pytest.raises(InvalidInput, match="smollm2-135m-instruct is a chat model and cannot embed"):
        models.embedder("chat")
    assert made == []


def test_unloading_frees_and_the_next_use_loads_again(models: Models, made: list[Fake]) -> None:
    load(models, "chat")
    load(models, "embedding")
    assert models.unload("summary") is True
    assert isinstance(made[0].closed[0], EngineClosed)
    assert "smollm2-135m-instruct was unloaded" in str(made[0].closed[0])
    assert (list(models.steppable()), [model.name for model in models.loaded]) == ([], ["multilingual-e5-small"])
    assert models.unload("classification") is True
    assert made[1].closed == [None]
    assert models.loaded == ()
    assert models.unload("chat") is False
    load(models, "chat")
    assert len(made) == 3


def test_closing_frees_everything_once(models: Models, made: list[Fake]) -> None:
    load(models, "chat")
    load(models, "embedding")
    error = EngineClosed("closed")
    models.close(error)
    models.close(error)
    assert [model.closed for model in made] == [[error], [None]]
    assert (models.loaded, list(models.steppable())) == ((), [])


def test_a_load_that_fails_leaves_nothing_behind(
    models: Models, made: list[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Models, spec: ModelSpec, tell: Tell) -> Any:
        raise ModelCorrupt("no", path="x")

    with monkeypatch.context() as patch:
        patch.setattr(Models, "_load_runner", fail)
        with pytest.raises(ModelCorrupt):
            load(models, "chat")
    assert names(models) == []
    load(models, "chat")
    assert names(models) == ["smollm2-135m-instruct"]


# ---- progress


def listening(catalogue: Config, answer: Callable[[Progress], object]) -> Models:
    return Models(catalogue, resolve_roles(catalogue, "starter", {}), answer)


def test_a_load_is_told_before_and_after_and_only_once(
    catalogue: Config, made: list[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.models._AGAIN", math.inf)
    seen: list[Progress] = []
    models = listening(catalogue, seen.append)
    load(models, "chat")
    load(models, "summary")
    assert seen == [Progress("load smollm2-135m-instruct", done, 100, "percent") for done in (0, 49, 99, 100)]


def test_a_load_that_does_not_move_can_be_cancelled_all_the_same(
    catalogue: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.models._AGAIN", -1.0)
    monkeypatch.setattr("engine.layout.locate", lambda _spec: tmp_path / "x.gguf")
    told: list[int] = []

    def check(_path: Path, tell: Callable[[], object]) -> None:
        for _ in range(9):
            tell()

    monkeypatch.setattr("engine.probe.check", check)
    with pytest.raises(Cancelled):
        load(listening(catalogue, lambda event: told.append(event.done) or len(told) < 5), "chat")
    assert told == [0] * 5


def test_a_load_that_nobody_waits_for_any_more_ends_when_it_tells_the_next_part(
    models: Models, made: list[Fake]
) -> None:
    heeded: list[int] = []

    def heed() -> None:
        heeded.append(1)
        if len(heeded) == 2:
            raise Cancelled("nobody waits")

    with pytest.raises(Cancelled):
        load(models, "chat", heed)
    assert (made, models.loaded) == ([], ())


def test_a_load_that_was_given_up_too_late_is_not_asked_to_end(models: Models, made: list[Fake]) -> None:
    def heed() -> None:
        if made:
            raise Cancelled("nobody waits")

    def tell_nothing(self: Models, spec: ModelSpec, tell: Tell) -> Any:
        made.append(Fake(spec))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Models, "_load_embedder", tell_nothing)
        assert load(models, "embedding", heed) is made[0]
    assert made[0].closed == []


def test_what_is_never_adopted_is_freed_as_its_kind_is(models: Models) -> None:
    for role, reason in (("chat", EngineClosed), ("embedding", type(None))):
        with pytest.raises(NotLoaded) as absent:
            models.get(role)
        made = absent.value.load.make(wanted_by_all)
        absent.value.load.free(made)
        assert [type(one) for one in made.closed] == [reason]
    assert models.loaded == ()


def test_a_callback_may_call_a_load_off(catalogue: Config, made: list[Fake]) -> None:
    models = listening(catalogue, lambda event: event.done > 0)
    with pytest.raises(Cancelled):
        load(models, "chat")
    assert (made, models.loaded) == ([], ())


@pytest.mark.parametrize("role", ["chat", "embedding"])
def test_what_is_called_off_at_the_last_moment_is_freed(catalogue: Config, made: list[Fake], role: str) -> None:
    models = listening(catalogue, lambda event: event.done < event.total)
    with pytest.raises(Cancelled):
        load(models, role)
    assert models.loaded == ()
    assert [len(model.closed) for model in made] == [1]


def test_a_missing_file_is_told_with_the_command_that_gets_it(
    catalogue: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path))
    over: Mapping[str, str] = {"chat": "qwen2.5:7b", "summary": str(tmp_path / "none.gguf")}
    models = Models(catalogue, resolve_roles(catalogue, "default", over))
    for role, command in (("chat", "gieok models pull qwen2.5-7b-instruct"), ("embedding", "pull bge-m3")):
        with pytest.raises(ModelNotFound, match=command):
            load(models, role)
    with pytest.raises(ModelNotFound, match=r"none\.gguf"):
        load(models, "summary")
    assert models.loaded == ()
