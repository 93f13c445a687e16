"""models.toml: what is laid over what, and what each mistake is told."""

from __future__ import annotations

import ast
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import config, quantities
from engine.config import Config, load, packaged_file
from engine.errors import ConfigError, ModelNotFound

PACKAGED = packaged_file().read_text(encoding="utf-8")
ENTRIES = tomllib.loads(PACKAGED)["models"]
ENGINE = Path(config.__file__).parent
HERE = """
[models.mine]
kind = "llm"
source = { path = "mine.gguf" }
"""

FOLDER = """
[models.mine]
kind = "embedding"
source = { path = "folder" }
"""


@pytest.fixture(autouse=True)
def _no_user_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platformdirs.user_config_path", lambda *_, **__: tmp_path / "settings")


@pytest.fixture
def laid(tmp_path: Path) -> Callable[[str], Config]:
    def write_and_load(text: str) -> Config:
        (tmp_path / "my.toml").write_text(text, encoding="utf-8")
        return load(tmp_path / "my.toml")

    return write_and_load


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[str], ConfigError]:
    def write_and_fail(text: str) -> ConfigError:
        file = tmp_path / "my.toml"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            load(file)
        assert caught.value.file == str(file)
        assert str(caught.value).startswith(str(file))
        assert "Value error" not in str(caught.value)
        return caught.value

    return write_and_fail


# ---- which file


def budget(cells: int) -> str:
    return f"[engine]\nn_ctx = {cells}\n"


def test_the_argument_goes_before_the_variable_and_that_before_the_users_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load().engine.n_ctx == tomllib.loads(PACKAGED)["engine"]["n_ctx"]
    assert load().file == str(packaged_file())
    own = tmp_path / "settings/models.toml"
    own.parent.mkdir()
    own.write_text(budget(1001), encoding="utf-8")
    assert load().engine.n_ctx == 1001
    assert load().file == str(own)
    (tmp_path / "named.toml").write_text(budget(1002), encoding="utf-8")
    monkeypatch.setenv("GIEOK_CONFIG", str(tmp_path / "named.toml"))
    assert load().engine.n_ctx == 1002
    (tmp_path / "given.toml").write_text(budget(1003), encoding="utf-8")
    assert load(tmp_path / "given.toml").engine.n_ctx == 1003
    assert load(str(tmp_path / "given.toml")).engine.n_ctx == 1003


def test_an_empty_variable_names_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIEOK_CONFIG", "")
    assert load().file == str(packaged_file())


def test_a_tilde_is_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "own.toml").write_text(budget(1004), encoding="utf-8")
    monkeypatch.setenv("GIEOK_CONFIG", "~/own.toml")
    assert load().engine.n_ctx == 1004
    with pytest.raises(ConfigError):
        load("~nobody-of-this-name/own.toml")


def test_the_packaged_file_is_the_one_inside_the_wheel_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "__file__", str(tmp_path / "engine/config.py"))
    (tmp_path / "engine").mkdir()
    assert packaged_file() == tmp_path / "models.toml"
    (tmp_path / "engine/models.toml").touch()
    assert packaged_file() == tmp_path / "engine/models.toml"


# ---- laid over


def test_tables_are_laid_over_key_by_key(laid: Callable[[str], Config]) -> None:
    before = load()
    after = laid(
        "[engine.sampling]\ntemperature = 0.1\n[profiles.default]\nsummary = 'qwen2.5-3b-instruct'\n"
        "[models.bge-m3]\nmax_tokens = 99\n" + HERE
    )
    assert after.engine.sampling.temperature == 0.1
    assert after.engine.sampling.top_p == before.engine.sampling.top_p
    assert after.engine.n_batch == before.engine.n_batch
    assert after.profile("default") == {**before.profile("default"), "summary": "qwen2.5-3b-instruct"}
    assert after.model("bge-m3").max_tokens == 99
    assert after.model("bge-m3").dim == before.model("bge-m3").dim
    assert set(after.models) == {*before.models, "mine"}
    assert load() == before


def test_a_source_is_replaced_whole_with_what_told_its_files_apart(laid: Callable[[str], Config]) -> None:
    before = load().model("qwen2.5:7b")
    assert before.revision and before.sha256 and before.size
    after = laid('[models."qwen2.5-7b-instruct"]\nsource = { path = "/my.gguf" }\n').model("qwen2.5:7b")
    assert (after.source.path, after.source.repo, after.source.files) == ("/my.gguf", None, [])
    assert (after.revision, after.sha256, after.size) == (None, {}, None)
    assert (after.license, after.aliases, after.context) == (before.license, before.aliases, before.context)


def test_a_source_may_bring_its_own_revision(laid: Callable[[str], Config]) -> None:
    after = laid('[models.bge-m3]\nsource = { repo = "me/bge" }\nrevision = "v1"\n').model("bge-m3")
    assert (after.source.repo, after.revision) == ("me/bge", "v1")


@pytest.mark.parametrize(
    ("size", "found"),
    [
        ("100_000_000", 100_000_000),
        ("'16GB'", 16_000_000_000),
        ("'16 GB'", 16_000_000_000),
        ("'16gb'", 16_000_000_000),
        ("'1.5GB'", 1_500_000_000),
        ("'2GiB'", 2 << 30),
        ("'300MB'", 300_000_000),
        ("'0.1 TB'", 100_000_000_000),
        ("'16.1GB'", 16_100_000_000),
        ("'150000KB'", 150_000_000),
        ("'200000KiB'", 204_800_000),
        ("'512MiB'", 512 << 20),
        ("'1TiB'", 1 << 40),
        ("'150000000B'", 150_000_000),
        ("'409600000'", 409_600_000),
    ],
)
def test_a_budget_is_bytes_or_a_text(laid: Callable[[str], Config], size: str, found: int) -> None:
    assert laid(f"[engine]\nram_budget = {size}\n").engine.ram_budget == found
    assert config.ram_bytes(tomllib.loads(f"size = {size}")["size"]) == found


@pytest.mark.parametrize(
    ("time", "found"),
    [
        ("0", 0.0),
        ("90", 90.0),
        ("0.5", 0.5),
        ("'30s'", 30.0),
        ("'10m'", 600.0),
        ("'1.5 h'", 5400.0),
        ("'0s'", 0.0),
        ("'forever'", math.inf),
    ],
)
def test_keep_alive_is_seconds_or_a_text(laid: Callable[[str], Config], time: str, found: float) -> None:
    assert laid(f"[engine]\nkeep_alive = {time}\n").engine.keep_alive == found


@pytest.mark.parametrize("cells", ["'auto'", "256", "32768"])
@pytest.mark.parametrize("layers", ["'auto'", "-1", "0", "20"])
def test_cells_and_layers_are_numbers_or_auto_in_both_places(
    laid: Callable[[str], Config], cells: str, layers: str
) -> None:
    keys = f"n_ctx = {cells}\nn_gpu_layers = {layers}\n"
    found = laid(f"[engine]\n{keys}{HERE}{keys}")
    expected = tomllib.loads(keys)
    for table in (found.engine, found.model("mine")):
        assert (table.n_ctx, table.n_gpu_layers) == (expected["n_ctx"], expected["n_gpu_layers"])


def test_what_a_model_does_not_say_is_the_tables(laid: Callable[[str], Config]) -> None:
    mine = laid(HERE).model("mine")
    assert (mine.n_ctx, mine.n_gpu_layers) == (None, None)


def test_the_packaged_budget_and_routing_are_the_guides() -> None:
    found = load()
    assert (found.engine.ram_budget, found.engine.keep_alive) == (16_000_000_000, 600.0)
    assert (found.engine.n_ctx, found.engine.n_gpu_layers) == ("auto", "auto")
    assert (found.routing.threshold, found.routing.weights) == (0.7, (1.0, 1.0, 1.0))
    assert (found.routing.light, found.routing.heavy) == ("classification", "chat")
    assert 0 < found.routing.margin < 0.3


def test_routing_is_laid_over_key_by_key(laid: Callable[[str], Config]) -> None:
    found = laid("[routing]\nweights = [0, 2.5, 1]\nlight = 'qwen2.5:3b'\nheavy = 'QWEN2.5-7B-Instruct'\n").routing
    assert found.weights == (0.0, 2.5, 1.0)
    assert (found.light, found.heavy) == ("qwen2.5:3b", "QWEN2.5-7B-Instruct")
    assert (found.threshold, found.margin) == (load().routing.threshold, load().routing.margin)


def test_routing_may_name_a_model_of_ones_own(laid: Callable[[str], Config]) -> None:
    assert laid("[routing]\nheavy = 'mine'\n" + HERE).routing.heavy == "mine"


def test_a_model_needs_only_kind_and_source(laid: Callable[[str], Config]) -> None:
    assert laid(HERE).model("mine").name == "mine"


def test_what_runs_an_embedding_model_and_its_heads_may_be_said(laid: Callable[[str], Config]) -> None:
    mine = laid(FOLDER).models["mine"]
    assert (mine.backend, mine.heads) == ("auto", None)
    for backend in ("auto", "torch", "openvino"):
        assert laid(FOLDER + f"backend = '{backend}'\n").models["mine"].backend == backend
    assert laid(FOLDER + "heads = ['dense', 'multi']\n").models["mine"].heads == ["dense", "multi"]
    after = laid("[models.bge-m3]\nbackend = 'torch'\nheads = ['dense']\n" + FOLDER)
    assert (after.model("bge-m3").backend, after.model("bge-m3").heads) == ("torch", ["dense"])
    assert after.model("bge-m3").dim == load().model("bge-m3").dim


def test_a_role_left_out_is_the_chat_model(laid: Callable[[str], Config]) -> None:
    roles = laid(HERE + "[profiles.mine]\nchat = 'mine'\n").profile("mine")
    assert roles == dict.fromkeys(config.LLM_ROLES, "mine")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(budget(1005), encoding="utf-8-sig")
    assert load(file).engine.n_ctx == 1005
    file.write_text("# 한국어\n[engine]\nn_ctxx = 1\n", encoding="utf-8-sig")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert caught.value.line == 3


def test_windows_line_ends_are_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_bytes(b"[engine]\r\nn_ctx = 1006\r\nn_batchh = 3\r\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert (caught.value.line, caught.value.nearest) == (3, "n_batch")


@given(st.integers(0, 10**15), st.sampled_from(["KB", "MB", "GB", "kib", "MiB", "gIb"]), st.sampled_from(["", " "]))
def test_a_size_is_the_number_times_its_unit(number: int, unit: str, gap: str) -> None:
    number %= 10**6
    step = 1024 if len(unit) == 3 else 1000
    assert quantities.size(f"{number}{gap}{unit}") == number * step ** ("kmg".index(unit[0].lower()) + 1)


@given(st.text() | st.floats() | st.booleans() | st.integers() | st.lists(st.integers()))
def test_what_is_no_size_is_refused_and_never_read_in_part(given: object) -> None:
    try:
        found = quantities.size(given)
    except ValueError:
        return
    assert found == given or (isinstance(given, str) and given[0].isdigit())


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (None, "?"), (0, "0 MB"), (4_200, "4 kB"), (999_499, "999 kB"), (999_500, "1 MB"), (72_000_000, "72 MB"),
        (98_400_000, "98 MB"), (500_000_000, "500 MB"), (999_499_999, "999 MB"), (999_500_000, "1.0 GB"),
        (4_683_073_632, "4.7 GB"), (24_700_000_000, "24.7 GB"),
    ],
)  # fmt: skip
def test_a_size_is_said_in_the_unit_people_use(size: int | None, said: str) -> None:
    assert quantities.bytes_text(size) == said


# ---- the catalogue


@pytest.mark.parametrize("key", ENTRIES)
def test_every_entry_is_found_by_key_and_alias(key: str) -> None:
    for name in (key, *ENTRIES[key].get("aliases", ())):
        for form in (name, name.upper(), name.title()):
            assert load().model(form).name == key


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("qwen2.5:7b", "qwen2.5-7b-instruct"),
        ("qwen2.5:7b-instruct-q4_K_M", "qwen2.5-7b-instruct"),
        ("qwen2.5:3b", "qwen2.5-3b-instruct"),
        ("qwen2.5:3b-q4_K_M", "qwen2.5-3b-instruct"),
        ("llama3.2:3b", "llama-3.2-3b-instruct"),
    ],
)
def test_the_guides_names_are_known(name: str, key: str) -> None:
    assert load().model(name).name == key


def test_a_users_own_names_may_have_capitals(laid: Callable[[str], Config]) -> None:
    mine = laid("[models.MyModel]\nkind='llm'\nsource={path='x.gguf'}\naliases=['나의:7B']\n")
    for name in ("MyModel", "mymodel", "나의:7B", "나의:7b"):
        assert mine.model(name).name == "MyModel"


def test_an_unknown_model_is_told_the_nearest_name() -> None:
    with pytest.raises(ModelNotFound, match=r"'qwen2\.5:7b'.*gieok models list") as caught:
        load().model("qwen2.5:7bb")
    assert caught.value.model == "qwen2.5:7bb"


def test_an_unknown_profile_is_told_those_there_are() -> None:
    with pytest.raises(ConfigError, match="commercial, default, starter") as caught:
        load().profile("startr")
    assert caught.value.nearest == "starter"


def test_the_commercial_profile_may_be_used_commercially() -> None:
    for name in load().profile("commercial").values():
        assert load().model(name).commercial is True
    assert load().model(load().profile("default")["classification"]).commercial is False  # hence the profile


def test_the_starter_profile_needs_no_hub() -> None:
    for name in load().profile("starter").values():
        assert load().model(name).source.package


@pytest.mark.parametrize("profile", tomllib.loads(PACKAGED)["profiles"])
def test_every_profile_has_an_embedding_model_and_every_llm_role(profile: str) -> None:
    roles = load().profile(profile)
    assert {*config.LLM_ROLES, "embedding"} <= set(roles) <= set(config.ROLES)


def test_a_default_is_written_in_models_toml_only() -> None:
    tables = tomllib.loads(PACKAGED)
    defaults = {**tables["engine"], **tables["engine"]["sampling"], **tables["routing"]}
    for file in ENGINE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for name, value in named_values(node):
                assert name not in defaults or value in (None, 0), f"{file}: {name} = {value}"


def named_values(node: ast.AST) -> list[tuple[str, object]]:
    """Return each parameter and class field with its default, where that is a number or a string."""
    pairs: list[tuple[str, ast.expr | None]] = []
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        positional = [*node.args.posonlyargs, *node.args.args]
        pairs += zip((a.arg for a in reversed(positional)), reversed(node.args.defaults), strict=False)
        pairs += zip((a.arg for a in node.args.kwonlyargs), node.args.kw_defaults, strict=True)
    elif isinstance(node, ast.ClassDef):
        fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
        pairs += [(part.target.id, part.value) for part in fields if isinstance(part.target, ast.Name)]
    return [(name, value.value) for name, value in pairs if isinstance(value, ast.Constant)]


def test_the_defaults_check_sees_defaults() -> None:
    tree = ast.parse("def f(a, top_p=0.9, *, seed, top_k=40): ...\nclass C:\n    max_tokens: int = 512\n")
    found = [pair for node in ast.walk(tree) for pair in named_values(node)]
    assert found == [("top_p", 0.9), ("top_k", 40), ("max_tokens", 512)]


# ---- mistakes


@pytest.mark.parametrize(
    ("text", "line", "nearest"),
    [
        ("n_ctx = 1\n", 1, None),
        ("\n[engin]\nn_ctx = 512\n", 2, "engine"),
        ("[profile.mine]\nchat = 'bge-m3'\n", 1, "profiles"),
        ("[engine]\nn_ctx = 512\n\nn_batchs = 64\n", 4, "n_batch"),
        ("[engine]\nsampling.temprature = 0.5\n", 2, "temperature"),
        ("[engine.sampling]\n# a comment\ntopp = 0.5\n", 3, "top_p"),
        ("[engine]\nsampling = { top_p = 0.5, max_token = 9 }\n", 2, "max_tokens"),
        ("[profiles.mine]\nchat = 'qwen2.5:3b'\nsumary = 'qwen2.5:3b'\n", 3, "summary"),
        ("[profiles.mine]\nchat = 'qwen2.5:3b'\nembeddings = 'bge-m3'\n", 3, "embedding"),
        (HERE + "licence = 'MIT'\n", 5, "license"),
        (HERE + "kv_byte = 1\n", 5, "kv_bytes"),
        (FOLDER + "poolling = 'cls'\n", 5, "pooling"),
        (FOLDER + "head = ['dense']\n", 5, "heads"),
        (FOLDER + "backends = 'torch'\n", 5, "backend"),
        (HERE + "name = 'other'\n", 5, None),
        ("[models.mine]\nkind = 'llm'\nsource = { pth = 'x.gguf' }\n", 3, "path"),
        ("[models.mine]\nkind = 'llm'\n[models.mine.source]\nrepos = 'a/b'\n", 4, "repo"),
        ("[models.mine]\nkid = 'llm'\nsource = { path = 'x.gguf' }\n", 2, "kind"),
        ("[models.mine]\nkind = 'llm'\nsourec = { path = 'x.gguf' }\n", 3, "source"),
        ("[models.mine]\nkind='llm'\nsource = { repo='a/b', files=[\n 'x',\n], fils = 1 }\n", 3, "files"),
        (HERE + "sampling = { temprature = 1 }\n", 5, "temperature"),
        (HERE + "[models.mine.sampling]\ntop_p = 1\n\nmin-p = 0.1\n", 8, "min_p"),
        (HERE + "[models.mine.sampling]\nseed = 1\n", 6, None),
        ("[engine]\nn_batch = 64\nram_budgte = '1GB'\n", 3, "ram_budget"),
        ("[engine]\nkeepalive = '1m'\n", 2, "keep_alive"),
        ("[engine]\nn_gpu_layer = 0\n", 2, "n_gpu_layers"),
        ("[engine]\nthreshold = 0.5\n", 2, None),
        (HERE + "ram_budget = 1\n", 5, None),
        ("[routings]\nthreshold = 0.5\n", 1, "routing"),
        ("[routing]\nthreshhold = 0.5\n", 2, "threshold"),
        ("[routing]\nmargin = 0.1\nweight = [1, 1, 1]\n", 3, "weights"),
        ("routing = { lite = 'chat' }\n", 1, "light"),
        ("[routing]\nn_ctx = 512\n", 2, None),
    ],
)
def test_an_unknown_key_is_told_its_line_and_the_nearest(
    refused: Callable[[str], ConfigError], text: str, line: int, nearest: str | None
) -> None:
    error = refused(text)
    assert "unknown key" in str(error)
    assert (error.line, error.nearest) == (line, nearest)
    assert nearest is None or repr(nearest) in str(error)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("engine = 5\n", 1),
        ("models = []\n", 1),
        ("[[models]]\nkind = 'llm'\n", 1),
        ("profiles.mine = 'x'\n", 1),
        ("[engine]\nn_ctx = '8k'\n", 2),
        ("[engine]\nn_ctx = 8192.0\n", 2),
        ("[engine]\nn_ctx = true\n", 2),
        ("[engine]\nn_ctx = 2\n", 2),
        (f"[engine]\nn_ctx = {2**32 + 512}\n", 2),  # would be 512 as a 32-bit number
        ("[engine]\nparallel = 0\n", 2),
        ("[engine.sampling]\ntemperature = 'warm'\n", 2),
        ("[engine.sampling]\ntemperature = -0.1\n", 2),
        ("[engine.sampling]\ntemperature = nan\n", 2),
        ("[engine.sampling]\ntemperature = inf\n", 2),
        ("[engine.sampling]\ntop_k = 1.5\n", 2),
        ("[engine.sampling]\nmax_tokens = 0\n", 2),
        ("[engine.sampling]\nrepeat_penalty = 0\n", 2),
        (HERE + "sampling = { temperature = 11 }\n", 5),
        (HERE + "sampling = { top_k = 1.5 }\n", 5),
        (HERE + "sampling = { top_p = nan }\n", 5),
        (HERE + "sampling = 3\n", 5),
        ("[models.mine]\nsource = { path = 'x' }\n", 1),
        ("\n\n[models.mine]\nkind = 'llm'\n", 3),
        ("[models.mine]\nkind = 'chat'\nsource = { path = 'x' }\n", 2),
        (HERE + "aliases = 'one'\n", 5),
        (HERE + "sha256 = { 'x.gguf' = 'abc' }\n", 5),
        (HERE + "korean = 6\n", 5),
        (HERE + "size = -1\n", 5),
        (HERE + "n_gpu_layers = -2\n", 5),
        (HERE + "kv_bytes = -1\n", 5),
        (HERE + "state_bytes = 0.5\n", 5),
        (HERE + "weights = '2GB'\n", 5),
        (HERE + "width = 0\n", 5),
        (HERE + "vocab = 0\n", 5),
        (FOLDER + "pooling = 'max'\n", 5),
        (FOLDER + "heads = ['dense', 'colbert']\n", 5),
        (FOLDER + "heads = ['sparse', 'dense']\n", 5),
        (FOLDER + "heads = ['dense', 'multi', 'multi']\n", 5),
        (FOLDER + "heads = []\n", 5),
        (FOLDER + "heads = 'dense'\n", 5),
        (FOLDER + "backend = 'onnx'\n", 5),
        (FOLDER + "backend = 'OpenVINO'\n", 5),
        (FOLDER + "backend = ''\n", 5),
        (FOLDER + "backend = ['torch']\n", 5),
        ("[profiles.mine]\nchat = 3\n", 2),
        ("models.mine = 3\n", 1),
        ("[engine]\nn_ctx = 'AUTO'\n", 2),
        ("[engine]\nn_ctx = 255\n", 2),
        (HERE + "n_ctx = 'all'\n", 5),
        (HERE + "n_ctx = 100\n", 5),
        ("[engine]\nn_gpu_layers = 'all'\n", 2),
        ("[engine]\nn_gpu_layers = -2\n", 2),
        ("[engine]\nn_gpu_layers = 1.5\n", 2),
        ("[engine]\nn_gpu_layers = true\n", 2),
        (HERE + "n_gpu_layers = 'most'\n", 5),
        ("[engine]\nram_budget = '16 bananas'\n", 2),
        ("[engine]\nram_budget = ''\n", 2),
        ("[engine]\nram_budget = 'auto'\n", 2),
        ("[engine]\nram_budget = true\n", 2),
        ("[engine]\nram_budget = 1.5\n", 2),
        ("[engine]\nram_budget = -1\n", 2),
        ("[engine]\nram_budget = '-1GB'\n", 2),
        ("[engine]\nram_budget = ['1GB']\n", 2),
        ("[engine]\nram_budget = '80%'\n", 2),
        ("[engine]\nram_budget = '16-GB'\n", 2),
        ("[engine]\nram_budget = '1,5GB'\n", 2),
        ("[engine]\nram_budget = '12GB or so'\n", 2),
        ("[engine]\nram_budget = nan\n", 2),
        ("[engine]\nram_budget = 16\n", 2),
        ("[engine]\nkeep_alive = '10'\n", 2),
        ("[engine]\nkeep_alive = '10 minutes'\n", 2),
        ("[engine]\nkeep_alive = '-1m'\n", 2),
        ("[engine]\nkeep_alive = -1\n", 2),
        ("[engine]\nkeep_alive = nan\n", 2),
        ("[engine]\nkeep_alive = inf\n", 2),
        ("[engine]\nkeep_alive = true\n", 2),
        ("[engine]\nkeep_alive = 'never'\n", 2),
        ("routing = 3\n", 1),
        ("[routing]\nthreshold = '0.7'\n", 2),
        ("[routing]\nthreshold = 1.1\n", 2),
        ("[routing]\nthreshold = -0.1\n", 2),
        ("[routing]\nthreshold = nan\n", 2),
        ("[routing]\nmargin = 2\n", 2),
        ("[routing]\nmargin = -0.01\n", 2),
        ("[routing]\nmargin = true\n", 2),
        ("[routing]\nweights = 1\n", 2),
        ("[routing]\nweights = [1, 1]\n", 2),
        ("[routing]\nweights = [1, 1, 1, 1]\n", 2),
        ("[routing]\nweights = [1, 1, '1']\n", 2),
        ("[routing]\nweights = [1, 1, true]\n", 2),
        ("[routing]\nweights = [1, 1, -1]\n", 2),
        ("[routing]\nweights = [0, 0, 0]\n", 2),
        ("[routing]\nweights = [1, nan, 1]\n", 2),
        ("[routing]\nweights = [\n 1,\n inf,\n 1,\n]\n", 2),
        ("[routing]\nheavy = 'bge-m3'\n", 2),
        ("[routing]\n\nheavy = 'BGE-M3'\n", 3),
        ("[routing]\nlight = 3\n", 2),
        ("[routing]\nthreshold = 0.5\nheavy = ['chat']\n", 3),
    ],
)
def test_a_wrong_value_is_told_its_line(refused: Callable[[str], ConfigError], text: str, line: int) -> None:
    assert refused(text).line == line


@pytest.mark.parametrize(
    ("text", "line", "nearest"),
    [
        ("[routing]\nlight = 'clasification'\n", 2, "classification"),
        ("[routing]\n\nheavy = 'qwen2.5-7b-instrukt'\n", 3, "qwen2.5-7b-instruct"),
        ("[routing]\nheavy = 'bge'\n", 2, "bge-m3"),
        ("[routing]\nlight = ''\n", 2, None),
        ("[routing]\nlight = 'default'\n", 2, None),
        ("[routing]\nlight = 'embedding'\n", 2, None),  # a role, but of no model that answers
    ],
)
def test_routing_names_roles_or_models(
    refused: Callable[[str], ConfigError], text: str, line: int, nearest: str | None
) -> None:
    error = refused(text)
    assert "is neither a role nor a model" in str(error)
    assert (error.line, error.nearest) == (line, nearest)


def test_what_is_wrong_with_a_size_or_a_time_is_told(refused: Callable[[str], ConfigError]) -> None:
    assert 'a number of bytes, or a text such as "12GB"' in str(refused("[engine]\nram_budget = '16 bananas'\n"))
    assert 'a text such as "30s", "10m", "2h" or "forever"' in str(refused("[engine]\nkeep_alive = '10 days'\n"))
    assert "three numbers" in str(refused("[routing]\nweights = [1]\n"))


@pytest.mark.parametrize("table", ["[engine]\n", HERE])
@pytest.mark.parametrize(
    ("key", "values", "wanted"),
    [
        ("n_ctx", ("'Auto'", "100", "255", "8192.0", "true", str(2**32 + 512)), "a whole number from 256"),
        ("n_gpu_layers", ("'all'", "-2", "1.5", "true"), "a whole number of layers (0 for none, -1 for all)"),
    ],
)
def test_cells_and_layers_are_told_in_the_words_of_the_file(
    refused: Callable[[str], ConfigError], table: str, key: str, values: tuple[str, ...], wanted: str
) -> None:
    where = "engine" if table.startswith("[engine]") else "models.mine"
    for value in values:
        error = refused(f"{table}{key} = {value}\n")
        assert str(error) == f'{error.file}:{error.line}: {where}.{key}: must be "auto" or {wanted}'


def test_only_the_light_model_may_be_an_embedding_model(
    laid: Callable[[str], Config], refused: Callable[[str], ConfigError]
) -> None:
    assert laid("[routing]\nlight = 'bge-m3'\n").routing.light == "bge-m3"
    error = refused("[routing]\nlight = 'bge-m3'\nheavy = 'bge-m3'\n")
    assert str(error) == f"{error.file}:3: 'bge-m3' is of kind embedding and cannot be heavy."


@pytest.mark.parametrize("size", [0, 16, 99_999_999, "16", "16B", "99MB", "0GB"])
def test_a_budget_that_nothing_could_live_in_is_a_slip(refused: Callable[[str], ConfigError], size: int | str) -> None:
    with pytest.raises(ConfigError, match=r'ram_budget must be at least 100MB, in bytes or as a text such as "12GB"'):
        config.ram_bytes(size)
    assert "engine.ram_budget: must be at least 100MB" in str(refused(f"[engine]\nram_budget = {size!r}\n"))


NO_SIZES = (
    "x", "", "12 bananas", True, None, 1.5, [1], math.nan, -1, "-1GB", "80%", "16-GB", "1,5GB", "12GB or so", "GB",
    "1.GB", ".5GB", "1.5", "1e9", "12  GB", " 12GB", "12GB\n", "12Gb/s", "12GBB", "9" * 400 + "GB", "1GiBB", "12MG",
)  # fmt: skip


@pytest.mark.parametrize("size", NO_SIZES)
def test_a_wrong_budget_of_an_engine_is_told_by_its_name(size: Any) -> None:
    with pytest.raises(ConfigError, match='ram_budget must be a number of bytes, or a text such as "12GB"'):
        config.ram_bytes(size)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{}", "exactly one of repo, path, package"),
        ("{ files = ['x.gguf'] }", "exactly one of repo, path, package"),
        ("{ repo = 'a/b', path = 'x.gguf' }", "exactly one of repo, path, package"),
        ("{ repo = 'a/b', package = 'p==1', files = ['x'] }", "exactly one of repo, path, package"),
        ("{ package = 'p==1' }", "needs files"),
        ("{ package = 'p', files = ['x'] }", "NAME==VERSION"),
        ("{ package = 'p>=1', files = ['x'] }", "NAME==VERSION"),
        ("{ package = 'p==', files = ['x'] }", "NAME==VERSION"),
        ("{ package = 'p==1 --pre', files = ['x'] }", "NAME==VERSION"),
        ("{ package = '-r==1', files = ['x'] }", "NAME==VERSION"),
        ("{ package = 'https://a/p==1', files = ['x'] }", "NAME==VERSION"),
        ("'a/b'", "source"),
    ],
)
def test_a_source_is_one_place(refused: Callable[[str], ConfigError], source: str, why: str) -> None:
    error = refused(f"[models.mine]\nkind = 'llm'\n\nsource = {source}\n")
    assert why in str(error)
    assert error.line == 4


UNSAFE = (
    "", " ", ".", "./", "..", "../x.gguf", "a/../../x", "a\\..\\x", "/etc/passwd", "\\x", "//host/share/x",
    "\\\\host\\share\\x", "C:/x.gguf", "C:\\x", "c:x.gguf", "x.gguf:stream", "a:b/x", "con", "NUL",
    "nul.gguf", "Aux.tar.gz", "a/COM1", "lpt9.txt", "com¹.gguf", "CONIN$", "nul .gguf", "a/prn/x", "x\0y",
    "x\ny", "\x1b[2J", "x\x7f", "x\x85", "x.", "a./x", "x ", "a /x", "what?", "*.gguf", "a|b",
)  # fmt: skip
SAFE = (
    "x.gguf", "a/b/c.gguf", "한글 이름.gguf", "..x", ".hidden", "console.gguf", "com10", "a b.gguf",
    "nullable", "1_Pooling/config.json",
)  # fmt: skip


@pytest.mark.parametrize("name", UNSAFE)
def test_an_unsafe_file_name_is_refused(refused: Callable[[str], ConfigError], name: str) -> None:
    quoted = '"' + "".join(f"\\u{ord(c):04x}" for c in name) + '"'
    error = refused(f"[models.mine]\nkind = 'llm'\nsource = {{ repo = 'a/b', files = ['ok', {quoted}] }}\n")
    assert "relative path" in str(error)
    assert error.line == 3


@pytest.mark.parametrize("name", SAFE)
def test_an_ordinary_file_name_is_not(laid: Callable[[str], Config], name: str) -> None:
    text = f"[models.mine]\nkind = 'llm'\nsource = {{ repo = 'a/b', files = ['{name}'] }}\n"
    assert laid(text).model("mine").source.files == [name]


@pytest.mark.parametrize("name", ["../up", "a/b", "a\\b", "C:x", "qwen:7b", "nul", "", "x.gguf", "x.", "/abs"])
def test_a_model_is_called_what_a_folder_can_be(refused: Callable[[str], ConfigError], name: str) -> None:
    error = refused(f"# mine\n[models.'{name}']\nkind = 'llm'\nsource = {{ path = 'x.gguf' }}\n")
    assert error.line == 2
    assert "aliases" in str(error)


@pytest.mark.parametrize("name", ["qwen2.5:7b", "BGE-M3", "mine", "Mine"])
def test_a_name_means_one_model(refused: Callable[[str], ConfigError], name: str) -> None:
    error = refused(f"{HERE}[models.other]\nkind='llm'\nsource={{path='y.gguf'}}\naliases=['{name}']\n")
    assert error.line == 8 or name == "BGE-M3"
    assert repr(name.lower()) in str(error)


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("[profiles.mine]\nsummary = 'qwen2.5:3b'\n", 1, "chat"),
        ("[profiles.mine]\n", 1, "chat"),
        ("[profiles.mine]\n\nchat = 'qwen2.5:33b'\n", 3, "qwen2.5:3b"),
        ("[profiles.mine]\nchat = 'bge-m3'\n", 2, "embedding"),
        ("[profiles.mine]\nchat = 'qwen2.5:3b'\nembedding = 'qwen2.5:3b'\n", 3, "llm"),
        ("[profiles.mine]\nchat = 'qwen2.5:3b'\nsummary = 'bge-m3'\n", 3, "embedding"),
        ("[profiles.mine]\nchat = 'qwen2.5:3b'\nfallback = 'bge-m3'\n", 3, "embedding"),
        ("[profiles.default]\nembedding = 'llama3.2:3b'\n", 2, "llm"),
    ],
)
def test_a_profile_names_models_that_can_do_it(
    refused: Callable[[str], ConfigError], text: str, line: int, why: str
) -> None:
    error = refused(text)
    assert error.line == line
    assert why in str(error)


@pytest.mark.parametrize(
    ("entry", "key"),
    [
        (HERE, "pooling = 'cls'"),
        (HERE, "heads = ['dense']"),
        (HERE, "backend = 'auto'"),
        (HERE, "query_prefix = 'query: '"),
        (HERE, "max_tokens = 512"),
        (FOLDER, "n_ctx = 512"),
        (FOLDER, "chat_template = 'x'"),
        (FOLDER, "template_args = { enable_thinking = false }"),
        (FOLDER, "sampling = { temperature = 1 }"),
        (FOLDER, "kv_bytes = 1"),
    ],
)
def test_a_key_that_means_nothing_to_this_kind_is_refused(
    refused: Callable[[str], ConfigError], entry: str, key: str
) -> None:
    error = refused(f"{entry}{key}\n")
    assert error.line == 5
    assert "of kind llm" in str(error)
    assert "of kind embedding" in str(error)


def test_a_mistake_that_stands_in_no_line_of_the_file_has_no_line(
    refused: Callable[[str], ConfigError],
) -> None:
    error = refused("[profiles.mine]\nchat = 'qwen2.5:3b'\n[models.'llama-3.2-3b-instruct']\naliases = ['BGE-M3']\n")
    assert "'bge-m3'" in str(error)
    assert error.line is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[engine\n", 1),
        ("[engine]\nn_ctx = \n", 2),
        ("[engine]\nn_ctx = 512\nn_ctx = 513\n", 3),
        ("a = 'b\nc = 1\n", 3),  # where it was still not closed
        ("\n\na = '''b\n", 4),
        ("[models.x]\nkind = 'llm'\n[models.x]\n", 3),
        ("a = \x01\n", 1),
        ("a = 1 b = 2\n", 1),
    ],
)
def test_a_syntax_error_is_told_its_line(refused: Callable[[str], ConfigError], text: str, line: int) -> None:
    assert refused(text).line == line


def test_what_toml_cannot_hold_is_a_config_error(refused: Callable[[str], ConfigError]) -> None:
    refused("a = " + "[" * 10_000)
    refused("a = " + "{b=" * 10_000)
    refused(".".join("a" * 5_000) + " = 1")
    refused("[engine]\nn_ctx = " + "9" * 5_000)
    refused("[engine]\nn_ctx = 0x" + "f" * 5_000)


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cp949.toml").write_bytes("# 한글".encode("cp949"))
    for path, why in (
        (tmp_path, str(tmp_path)),
        (tmp_path / "missing.toml", "no such file"),
        (tmp_path / "cp949.toml", "UTF-8"),
        ("a\0b.toml", "null"),
        (tmp_path / ("x" * 300), "x" * 300),
    ):
        with pytest.raises(ConfigError, match=r".") as caught:
            load(path)
        assert why in str(caught.value)
        assert caught.value.line is None
    monkeypatch.setenv("GIEOK_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(ConfigError, match="no such file"):
        load()


def test_settings_that_may_not_be_read_are_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged, stat, read_text = packaged_file(), Path.stat, Path.read_text

    def closed(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Path, **keywords: Any) -> Any:
            if self.is_relative_to(tmp_path):
                raise PermissionError(13, "Permission denied")
            return real(self, **keywords)

        return call

    monkeypatch.setattr(config, "packaged_file", lambda: packaged)
    monkeypatch.setattr(Path, "stat", closed(stat))
    monkeypatch.setattr(Path, "read_text", closed(read_text))
    with pytest.raises(ConfigError, match="Permission denied"):
        load()


def test_lines_of_long_strings_and_lists_are_no_settings(refused: Callable[[str], ConfigError]) -> None:
    text = (
        '[models.mine]\nchat_template = """\n[models.other]\nkind = 1\nn_ctx = 3\n"""\n'
        "aliases = [\n  'kind',  # kind = 2\n  '[engine]',\n]\nkind = 'wrong'\nsource = { path = 'x' }\n"
    )
    assert refused(text).line == 11


def test_a_value_of_many_lines_is_told_where_it_begins(refused: Callable[[str], ConfigError]) -> None:
    text = "[models.mine]\nkind='llm'\n\nsource = { path = 'x', files = [\n 'ok',\n '../no',\n] }\n"
    assert refused(text).line == 4


def test_keys_with_dots_quotes_and_spaces_are_found(refused: Callable[[str], ConfigError]) -> None:
    assert refused("[ models . 'my.model' ]\n\n\"ki\\u006ed\" = 3\n").line == 3
    assert refused('[models."a\'b".source]\n paths = 3 # [models."a\'b"]\n').line == 2


MARKS = st.sampled_from("[]{}=.\"',#\n\r _-engi")
TOML = st.text(st.characters(exclude_categories=["Cs"]) | MARKS, max_size=80)
FUZZ = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def accepted_or_explained(folder: Path, content: bytes) -> None:
    file = folder / "fuzz.toml"
    file.write_bytes(content)
    try:
        found = load(file)
    except ConfigError as mistake:
        lines = content.count(b"\n") + content.count(b"\r") + 1
        assert (mistake.line or 1) in range(1, lines + 1)  # noqa: PT017 - what is not refused must be right
    else:
        assert "default" in found.profiles


@FUZZ
@given(text=TOML)
def test_any_text_is_accepted_or_explained(tmp_path: Path, text: str) -> None:
    accepted_or_explained(tmp_path, text.encode("utf-8"))


@FUZZ
@given(content=st.binary(max_size=80))
def test_any_bytes_are_accepted_or_explained(tmp_path: Path, content: bytes) -> None:
    accepted_or_explained(tmp_path, content)


VALUES = st.sampled_from("0|-1|true|nan|1e400|''|'x'|[]|{}|[[]]|{a = 1}|1979-05-27|'../x'|'[[a]]'|".split("|"))
LINES = st.integers(0, len(PACKAGED.splitlines()) - 1)


@settings(FUZZ, max_examples=300)
@given(changes=st.lists(st.tuples(LINES, VALUES, st.integers(0, 3)), min_size=1, max_size=4))
def test_any_change_of_the_packaged_file_is_accepted_or_explained(
    tmp_path: Path, changes: list[tuple[int, str, int]]
) -> None:
    lines = PACKAGED.splitlines()
    for at, value, how in changes:
        key = lines[at].partition("=")[0]
        lines[at] = (f"{key}= {value}", key, f"x{lines[at]}", lines[at] + value)[how]
    accepted_or_explained(tmp_path, "\n".join(lines).encode("utf-8"))
