"""Which model a role means, and what is loaded when; no weights are read here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from engine import config
from engine.config import Config, ModelSpec
from engine.errors import Cancelled, ConfigError, EngineClosed, InvalidInput, ModelCorrupt, ModelNotFound
from engine.footprint import Footprint
from engine.machine import Resident
from engine.measured import Measured
from engine.metrics import Progress
from engine.models import Kind, Loaded, Models, find_spec, key_of, resolve_roles
from engine.plans import How
from engine.runner import Runner


@dataclass
class FakeEmbedder:
    """Stands in for a loaded embedding model."""

    spec: ModelSpec
    closed: list[BaseException | None] = field(default_factory=list)
    fast: bool = False
    device: str = "cpu"

    def close(self) -> None:
        self.closed.append(None)


class FakeRunner(Runner):
    """Stands in for a loaded chat model; of a runner it has only the type."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.closed: list[BaseException | None] = []

    def close(self, error: BaseException) -> None:
        self.closed.append(error)


Fake = FakeRunner | FakeEmbedder
HOW = How(Footprint(100, 20, 3, 7, mapped=100), cells=2048)


@dataclass
class Machine:
    """What the process is said to hold: `grows` more each time that it is asked."""

    grows: Resident = Resident(0, 0)  # noqa: RUF009 - frozen
    asked: int = 0
    trimmed: int = 0

    def resident(self) -> Resident:
        self.asked += 1
        return Resident(self.asked * self.grows.anonymous, self.asked * self.grows.file_backed)

    def trim(self) -> None:
        self.trimmed += 1


@pytest.fixture(scope="module")
def catalogue() -> Config:
    return config.load(config.packaged_file())


@pytest.fixture(autouse=True)
def system(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr("engine.machine.resident", machine.resident)
    monkeypatch.setattr("engine.machine.trim", machine.trim)
    return machine


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Measured]]:
    """What would be kept for the plans to come."""
    found: list[tuple[str, Measured]] = []
    monkeypatch.setattr("engine.measured.remember", lambda path, settings, what: found.append((path.name, what)))
    return found


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Fake]:
    """Replace the two loads, the first of which tells the half and the whole; every model made is listed."""
    made: list[Fake] = []

    def load_runner(self: Models, spec: ModelSpec, how: How, told: Any) -> Any:
        told.part(0.5)
        told.part(0.5)
        made.append(FakeRunner(spec))
        told.part(1.0)
        return made[-1]

    def load_embedder(self: Models, spec: ModelSpec, how: How) -> Any:
        made.append(FakeEmbedder(spec))
        return made[-1]

    monkeypatch.setattr(Models, "_load_runner", load_runner)
    monkeypatch.setattr(Models, "_load_embedder", load_embedder)
    return made


@pytest.fixture
def models(catalogue: Config, made: list[Fake]) -> Models:
    return Models(catalogue, resolve_roles(catalogue, "starter", {}))


def wanted_by_all() -> None:
    """Heed nothing: somebody waits for this load."""


def load(models: Models, name: str, heed: Callable[[], None] = wanted_by_all, how: How = HOW) -> Any:
    """Do what the loader thread and the compute thread do, here."""
    spec = models.spec(name)
    loaded = models.make(spec, how, heed)
    models.keep(loaded)
    assert models.at(key_of(spec)) is loaded
    return loaded.model


def unload(models: Models, name: str) -> None:
    models.free(key_of(models.spec(name)))


def names(models: Models) -> list[str]:
    return [loaded.spec.name for loaded in models.loaded]


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
    calls: tuple[Callable[[str], object], ...] = (models.spec, models.name, models.wanted)
    for call in calls:
        with pytest.raises(ConfigError, match="names no fallback model"):
            call("fallback")
    bare = Models(models._config, {"chat": models.spec("chat")})
    for call in (bare.spec, bare.name, bare.wanted):
        with pytest.raises(ConfigError, match=r"names no embedding model.*models\.toml"):
            call("embedding")


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("classification", "llm", "multilingual-e5-small is an embedding model and cannot chat"),
        ("multilingual-e5-small", "llm", "multilingual-e5-small is an embedding model and cannot chat"),
        ("chat", "embedding", "smollm2-135m-instruct is a chat model and cannot embed"),
    ],
)
def test_a_model_does_only_what_its_kind_can(models: Models, name: str, kind: Kind, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        models.spec(name, kind)
    assert models.spec("chat", "llm") is models.spec("chat")
    assert models.spec("embedding", "embedding") is models.spec("embedding")


def test_a_model_is_loaded_as_one_whatever_it_is_called(models: Models) -> None:
    called = ("chat", "summary", "extraction", "smollm2-135m-instruct", "SmolLM2-135M-Instruct")
    assert {key_of(models.spec(name)) for name in called} == {("smollm2-135m-instruct", None)}
    assert key_of(models.spec("embedding")) == key_of(models.spec("classification")) != key_of(models.spec("chat"))


# ---- who answers instead


WITH_FALLBACK = {"chat": "qwen2.5:7b", "fallback": "llama3.2:3b"}


@pytest.mark.parametrize(
    ("over", "named", "name", "by"),
    [
        (WITH_FALLBACK, (), "chat", "llama-3.2-3b-instruct"),
        (WITH_FALLBACK, (), "summary", "llama-3.2-3b-instruct"),
        (WITH_FALLBACK, ("chat",), "chat", None),  # the caller named the model itself
        (WITH_FALLBACK, ("chat",), "summary", "llama-3.2-3b-instruct"),
        (WITH_FALLBACK, ("chat", "fallback"), "chat", "llama-3.2-3b-instruct"),  # and what is to come instead
        (WITH_FALLBACK, (), "qwen2.5:7b", None),
        (WITH_FALLBACK, (), "smollm2-135m-instruct", None),
        (WITH_FALLBACK, (), "embedding", None),
        (WITH_FALLBACK, (), "classification", None),  # an embedding model here
        (WITH_FALLBACK, (), "fallback", None),
        ({"chat": "llama3.2:3b", "fallback": "llama3.2:3b"}, (), "chat", None),  # the same model
        ({"chat": "qwen2.5:7b"}, (), "chat", None),
    ],
)
def test_the_fallback_answers_for_roles_and_never_for_a_model_that_was_named(
    catalogue: Config, over: dict[str, str], named: tuple[str, ...], name: str, by: str | None
) -> None:
    models = Models(catalogue, resolve_roles(catalogue, "starter", over), named=named)
    fallback = models.fallback(name)
    assert (fallback.name if fallback else None) == by


def test_all_roles_want_no_fallback_but_who_asks_for_it_does(catalogue: Config) -> None:
    models = Models(catalogue, resolve_roles(catalogue, "default", {}))
    assert [spec.name for spec in models.wanted(None)] == ["qwen2.5-7b-instruct", "qwen2.5-3b-instruct", "bge-m3"]
    assert [spec.name for spec in models.wanted("default")] == [spec.name for spec in models.wanted(None)]
    assert [spec.name for spec in models.wanted("fallback")] == ["llama-3.2-3b-instruct"]


# ---- when


def test_nothing_is_loaded_before_it_is_used(models: Models, made: list[Fake]) -> None:
    assert (models.loaded, tuple(models.steppable()), made) == ((), (), [])


def test_what_is_kept_is_stepped_if_it_can_be(models: Models, made: list[Fake]) -> None:
    chat, embedding = load(models, "chat"), load(models, "embedding")
    assert made == [chat, embedding]
    assert names(models) == ["smollm2-135m-instruct", "multilingual-e5-small"]
    assert list(models.steppable()) == [chat]
    assert [loaded.runner for loaded in models.loaded] == [chat, None]


def test_what_is_loaded_is_told_with_its_roles_and_its_seconds(models: Models) -> None:
    load(models, "chat")
    load(models, "multilingual-e5-small")
    chat, embedding = models.loaded
    assert models.roles(chat.spec) == ("chat", "summary", "extraction")
    assert models.roles(embedding.spec) == ("classification", "embedding")
    assert chat.seconds > 0 and embedding.seconds > 0


def test_two_files_of_one_name_are_two_models(catalogue: Config, made: list[Fake]) -> None:
    over = {"chat": "/a/smollm2-135m-instruct.gguf", "summary": "/b/smollm2-135m-instruct.gguf"}
    models = Models(catalogue, resolve_roles(catalogue, "starter", over))
    for role in ("chat", "summary", "extraction"):
        load(models, role)
    paths = [Path(path) if path else None for path in (model.spec.source.path for model in made)]
    assert paths == [*(Path(path).absolute() for path in over.values()), None]
    assert [models.roles(loaded.spec) for loaded in models.loaded] == [("chat",), ("summary",), ("extraction",)]
    unload(models, "summary")
    assert [len(model.closed) for model in made] == [0, 1, 0]
    assert [models.roles(loaded.spec) for loaded in models.loaded] == [("chat",), ("extraction",)]


def test_unloading_frees_and_the_next_use_loads_again(models: Models, made: list[Fake], system: Machine) -> None:
    load(models, "chat")
    load(models, "embedding")
    unload(models, "summary")
    assert isinstance(made[0].closed[0], EngineClosed)
    assert "smollm2-135m-instruct was unloaded" in str(made[0].closed[0])
    assert (list(models.steppable()), names(models)) == ([], ["multilingual-e5-small"])
    unload(models, "classification")
    assert made[1].closed == [None]
    assert (models.loaded, system.trimmed) == ((), 2)
    with pytest.raises(EngineClosed, match="smollm2-135m-instruct was unloaded"):
        models.at(key_of(models.spec("chat")))
    load(models, "chat")
    assert len(made) == 3


def test_what_is_left_to_who_made_it_is_not_closed(models: Models, made: list[Fake]) -> None:
    load(models, "chat")
    models.forget(key_of(models.spec("chat")))
    models.forget(key_of(models.spec("chat")))
    assert (models.loaded, list(models.steppable()), made[0].closed) == ((), [], [])


def test_closing_frees_everything_once(models: Models, made: list[Fake]) -> None:
    load(models, "chat")
    load(models, "embedding")
    error = EngineClosed("closed")
    models.close(error)
    models.close(error)
    assert [model.closed for model in made] == [[error], [None]]
    assert (models.loaded, list(models.steppable())) == ((), [])


@pytest.mark.parametrize("failure", [ModelCorrupt("no", path="x"), MemoryError("no more")])
def test_a_load_that_fails_leaves_nothing_behind(
    models: Models, made: list[Fake], remembered: list[object], monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(self: Models, spec: ModelSpec, how: How, told: Any) -> Any:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(Models, "_load_runner", fail)
        with pytest.raises(type(failure)) as caught:
            load(models, "chat")
    assert caught.value is failure
    assert (names(models), remembered) == ([], [])
    load(models, "chat")
    assert names(models) == ["smollm2-135m-instruct"]


# ---- what it came to


def test_a_load_is_measured_and_what_can_be_believed_is_remembered(
    models: Models, made: list[Fake], system: Machine, remembered: list[tuple[str, Measured]]
) -> None:
    system.grows = Resident(32, 100)  # 2 more than was estimated
    load(models, "chat")
    (loaded,) = models.loaded
    assert loaded.how.measured and loaded.how.cells == HOW.cells
    assert loaded.how.ram.total == 132 and HOW.ram.total == 130
    assert remembered == [("SmolLM2-135M-Instruct.Q4_1.gguf", Measured(132, 100))]


def test_a_load_beside_which_another_model_came_or_went_is_not_measured(
    models: Models, made: list[Fake], system: Machine, remembered: list[tuple[str, Measured]]
) -> None:
    load(models, "embedding")
    remembered.clear()
    system.grows = Resident(32, 100)

    def leaves() -> None:
        if names(models) and len(made) > 1:  # while the other loads
            models.free(key_of(models.spec("embedding")))

    loaded = models.make(models.spec("chat"), HOW, leaves)
    assert remembered == [] and loaded.how == HOW


def test_what_was_measured_wrongly_once_does_not_shift_what_is_believed(
    models: Models, made: list[Fake], system: Machine, remembered: list[tuple[str, Measured]]
) -> None:
    """Growth is judged by the file's own estimate: by the last finding, each could be a little less than the one before."""
    less = replace(HOW, known=Measured(100, 100))
    system.grows = Resident(5, 100)  # 19% less than the file says
    loaded = models.make(models.spec("chat"), less, lambda: None)
    assert remembered == [] and loaded.how.ram.total == 130
    system.grows = Resident(30, 100)
    assert models.make(models.spec("chat"), less, lambda: None).how.ram.total == 130
    assert [what.total for _, what in remembered] == [130]


def test_what_somebody_else_took_meanwhile_is_not_remembered(
    models: Models, made: list[Fake], system: Machine, remembered: list[tuple[str, Measured]]
) -> None:
    system.grows = Resident(5_000, 100)
    load(models, "chat")
    assert remembered == [] and len(models.loaded) == 1


@pytest.mark.parametrize("role", ["chat", "embedding"])
def test_a_measurement_that_fails_frees_what_was_made(
    models: Models, made: list[Fake], monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    def fail(*given: object) -> Any:
        raise OSError("the disk is full")

    monkeypatch.setattr("engine.measured.corrected", fail)
    with pytest.raises(OSError, match="full"):
        load(models, role)
    assert [len(model.closed) for model in made] == [1] and models.loaded == ()


# ---- progress


def listening(catalogue: Config, answer: Callable[[Progress], object]) -> Models:
    return Models(catalogue, resolve_roles(catalogue, "starter", {}), progress=answer)


def test_a_load_is_told_before_and_after_and_no_percent_twice(
    catalogue: Config, made: list[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.models._AGAIN", math.inf)
    seen: list[Progress] = []
    models = listening(catalogue, seen.append)
    load(models, "chat")
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

    assert load(models, "embedding", heed) is made[0]  # a library loads it, and says nothing
    assert made[0].closed == []


def test_what_is_never_adopted_is_freed_as_its_kind_is(models: Models) -> None:
    for role, reason in (("chat", EngineClosed), ("embedding", type(None))):
        loaded = models.make(models.spec(role), HOW, wanted_by_all)
        Loaded.close(loaded)
        assert [type(one) for one in loaded.model.closed] == [reason]  # type: ignore[union-attr]
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
    """Without a way to load it being looked for, and again where a file goes between the plan and the load."""
    monkeypatch.setenv("GIEOK_MODELS", str(tmp_path))
    over: Mapping[str, str] = {"chat": "qwen2.5:7b", "summary": str(tmp_path / "none.gguf")}
    models = Models(catalogue, resolve_roles(catalogue, "default", over))
    for role, command in (("chat", "gieok models pull qwen2.5-7b-instruct"), ("embedding", "pull bge-m3")):
        with pytest.raises(ModelNotFound, match=command):
            load(models, role)
    with pytest.raises(ModelNotFound, match=r"none\.gguf"):
        load(models, "summary")
    assert models.loaded == ()


# ---- what runs an embedding model


@pytest.mark.parametrize(
    ("backend", "prepared", "gpu", "device", "fast"),
    [
        ("auto", True, "cpu", "cpu", True),
        ("auto", False, "cpu", "cpu", False),
        ("auto", True, "cuda", "cuda", False),  # torch is faster there
        ("auto", False, "cuda", "cuda", False),
        ("openvino", True, "cuda", "cpu", True),  # who asks for it gets it
        ("torch", False, "cuda", "cuda", False),
    ],
)
def test_an_embedding_model_is_run_by_openvino_where_it_was_prepared_and_no_gpu_is(
    catalogue: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    backend: str, prepared: bool, gpu: str, device: str, fast: bool,
) -> None:  # fmt: skip
    loads: list[tuple[Path, str, bool]] = []

    def embedder(folder: Path, spec: ModelSpec, *, device: str, fast: bool) -> Any:
        fast = fast and device == "cpu"  # what was prepared waits for a GPU to fail
        loads.append((folder, device, fast))
        return FakeEmbedder(spec, fast=fast, device=device)

    monkeypatch.setattr("engine.embedder.Embedder", embedder)
    monkeypatch.setattr("engine.transformer.pick_device", lambda needed: gpu)
    spec = ModelSpec.model_validate(
        {"name": "m", "kind": "embedding", "backend": backend, "source": {"path": str(tmp_path)}}
    )
    models = Models(catalogue, {"embedding": spec})
    load(models, "embedding", how=replace(HOW, cells=None, fast=prepared))
    assert loads == [(tmp_path, device, fast)]
    (loaded,) = models.loaded
    assert loaded.backend == ("openvino" if fast else "torch")


def test_a_chat_model_is_run_by_llama_cpp(models: Models) -> None:
    load(models, "chat")
    assert [loaded.backend for loaded in models.loaded] == ["llama.cpp"]
