"""What OpenVINO makes of a small random model, and what becomes of a cache that is not what was prepared."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tiny_embedder
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import digests, fastpath, prepare, prepared, transformer
from engine.embedder import Embedder
from engine.errors import Cancelled, EngineClosed, InvalidInput
from engine.fastpath import CacheDamaged
from engine.views import HEADS

TEXTS = ["안녕 서울", "나는 오늘 김치 밥을 먹습니다 그리고 잠을 잔다", "a", "hello the 가나다 ing 라마바사 012"]

pytestmark = pytest.mark.skipif(not fastpath.available(), reason="there is no OpenVINO for this machine")


def ready(folder: Path) -> Path:
    """Write a model of BGE-M3's form and prepare it, in a child process."""
    prepare.prepare(tiny_embedder.bge(folder), tiny_embedder.spec())
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is ready; to be read only."""
    return tiny_embedder.once(tmp_path_factory, ready)


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "모델"))


@pytest.fixture(scope="module")
def module(made: Path) -> Iterator[Any]:
    opened = fastpath.load(made)
    yield opened
    opened.close()


def features(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    size = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[*row, *[1] * (size - len(row))] for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (size - len(row)) for row in rows]),
    }


def states(module: Any, rows: list[list[int]]) -> list[np.ndarray[Any, Any]]:
    """Return the states of each row's own tokens."""
    with torch.inference_mode():
        found = module(features(rows))["token_embeddings"]
    return [one[: len(row)].numpy() for one, row in zip(found, rows, strict=True)]


def cosines(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (one * other).sum(axis=-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


# ---- what it computes


def test_states_are_those_of_torch(made: Path, module: Any) -> None:
    whole = transformer.open_folder(made, tiny_embedder.spec(), threads=None, device="cpu")
    rows = [one.ids for one in module.tokenizer.encode_batch(TEXTS)]
    assert rows == [whole.tokenizer(text)["input_ids"] for text in TEXTS]
    assert len({len(row) for row in rows}) > 2  # some are padded
    for own, wanted in zip(states(module, rows), states(whole[0], rows), strict=True):
        assert own.dtype == np.float32
        assert cosines(own, wanted).min() > 0.99
        assert not np.array_equal(own, wanted)  # it is 8 bits that were asked


def test_company_and_padding_change_nothing_but_what_is_rounded(module: Any) -> None:
    """Other sums round differently, and then a number may fall on the other side of a step of 8 bits.

    Measured between a text alone and the same in company: here 5e-7 in a number; with multilingual-e5-small 1e-2 in one
    number of 384, which is a cosine of 0.9999.
    """
    rows = [one.ids for one in module.tokenizer.encode_batch(TEXTS)]
    together = states(module, [*rows, rows[1] * 2])
    turned = states(module, rows[::-1])[::-1]
    for row, one, other in zip(rows, together, turned, strict=False):
        (alone,) = states(module, [row])
        assert cosines(one, alone).min() > 0.9995
        assert cosines(other, alone).min() > 0.9995


def test_what_it_returns_is_its_own(module: Any) -> None:
    given_in = features([[0, 5, 6, 2]])
    first = module(given_in)["token_embeddings"]
    kept = first.clone()
    module(features([[0, 9, 8, 2]]))
    assert torch.equal(first, kept)
    assert given_in.keys() == {"input_ids", "attention_mask"}


def test_it_says_what_it_reads(module: Any) -> None:
    assert (module.max_seq_length, module.width) == (tiny_embedder.WINDOW, tiny_embedder.WIDTH)
    long = module.tokenizer.encode("가 " * 500)
    assert len(long.ids) > 500  # nothing is cut
    short, longer = module.tokenizer.encode_batch(["가", "가 나"])
    assert len(short.ids) < len(longer.ids)  # nor padded


def test_a_head_runs_where_the_model_does_and_is_exact(made: Path, module: Any) -> None:
    draw = np.random.default_rng(0)
    weight, bias, rows = (draw.standard_normal(size).astype(np.float32) for size in ((5, 32), (5,), (7, 32)))
    layer = module.linear(weight, bias)
    first = layer(rows)
    np.testing.assert_allclose(first, rows @ weight.T + bias, atol=1e-5)
    np.testing.assert_allclose(layer(rows[:3]), first[:3], atol=1e-5)
    np.testing.assert_allclose(first, rows @ weight.T + bias, atol=1e-5)  # an array of its own


def test_all_views_from_the_fast_path(made: Path) -> None:
    texts = ["안녕하세요 서울", "김치 the", "가 나 다 라 마 바 사"]
    spec = tiny_embedder.spec()
    opened, reference = Embedder(made, spec, fast=True), Embedder(made, spec)
    assert (opened.heads, opened.fast) == (HEADS, True)
    for found, wanted in zip(opened.embed(texts, "query", HEADS), reference.embed(texts, "query", HEADS), strict=True):
        assert float(found.dense @ wanted.dense) > 0.99
        assert ((found.multi * wanted.multi).sum(axis=1) > 0.99).all()
        tokens = found.sparse.keys() | wanted.sparse.keys()
        assert all(abs(found.sparse.get(token, 0) - wanted.sparse.get(token, 0)) < 0.1 for token in tokens)
    opened.close()


def test_a_module_of_sentence_transformers(module: Any) -> None:
    from sentence_transformers.base.modules.input_module import InputModule

    assert isinstance(module, InputModule)
    with pytest.raises(InvalidInput, match="copy the model's own folder"):
        module.save("somewhere")


# ---- how a pass ends early


def again(times: int, what: Callable[[], object]) -> None:
    for _ in range(times):
        what()


LONG = features([[0, *range(4, 66), 2]] * 1024)  # a pass of some slices


def test_a_pass_that_nobody_waits_for_any_more_ends(module: Any) -> None:
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(Cancelled):
        again(100, lambda: module(LONG, stopped=stopped))
    assert len(states(module, [[0, 5, 2]])) == 1  # the next one is none of its business


def test_an_interrupted_model_ends_this_pass_and_those_after_it(made: Path) -> None:
    opened = fastpath.load(made)
    thread = threading.Timer(0.01, opened.interrupt)
    thread.start()
    try:
        for _ in range(2):
            with pytest.raises(EngineClosed):
                again(100, lambda: opened(LONG))
    finally:
        thread.join()
        opened.close()


class Endless:
    """A request that ends only when it is told to; `then` is called at every look."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.then, self.calls = then, list[str]()

    def start_async(self, inputs: dict[str, Any]) -> None:
        self.calls.append("start")

    def wait_for(self, _milliseconds: int) -> bool:
        self.then()
        return False

    def cancel(self) -> None:
        self.calls.append("cancel")

    def wait(self) -> None:
        self.calls.append("wait")
        raise RuntimeError("Infer Request was canceled")

    def create_infer_request(self) -> Endless:
        return self

    def release_memory(self) -> None:
        self.calls.append("release")


def test_no_pass_goes_on_behind_its_callers_back() -> None:
    def ctrl_c() -> None:
        raise KeyboardInterrupt

    request = Endless(ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        fastpath._Session(request).run(np.ones((1, 9), np.int64), np.ones((1, 9), np.int64))
    assert request.calls == ["start", "cancel", "wait"]


def test_the_memory_of_a_long_pass_is_given_back_however_it_ends() -> None:
    request = Endless()
    session = fastpath._Session(request)
    request.then = session.interrupt
    with pytest.raises(EngineClosed):
        session.run(np.ones((9, 99), np.int64), np.ones((9, 99), np.int64))
    assert request.calls == ["start", "cancel", "wait", "release"]


def test_no_memory_is_a_memory_error() -> None:
    def full() -> None:
        raise RuntimeError("Exception from src/inference: std::bad_alloc")

    with pytest.raises(MemoryError, match="9 tokens"):
        fastpath._Session(Endless(full)).run(np.ones((1, 9), np.int64), np.ones((1, 9), np.int64))


def test_closed_is_closed(made: Path) -> None:
    opened = fastpath.load(made)
    opened.close()
    opened.close()
    opened.interrupt()
    with pytest.raises(EngineClosed):
        opened(features([[0, 2]]))


# ---- devices; there is no GPU here, so the core is one that pretends


class Core:
    """The true core, with GPUs that are the processor, or fail."""

    def __init__(self, gpus: dict[str, str], *, broken: bool) -> None:
        self.true, self.gpus, self.broken = fastpath.library().Core(), gpus, broken
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.available_devices = ["CPU", *gpus]

    def get_property(self, device: str, _name: str) -> str:
        return self.gpus[device]

    def compile_model(self, path: str, device: str, options: dict[str, Any]) -> Any:
        self.asked.append((device, options))
        if device != "CPU" and self.broken:
            raise RuntimeError("[GPU] out of resources")
        return self.true.compile_model(path, "CPU", options)


@pytest.mark.parametrize(
    ("gpus", "broken", "asked"),
    [
        ({"GPU": "Type.INTEGRATED"}, False, ["CPU"]),
        ({"GPU.0": "Type.INTEGRATED", "GPU.1": "Type.DISCRETE"}, False, ["GPU.1"]),
        ({"GPU": "Type.DISCRETE"}, True, ["GPU", "CPU"]),
    ],
)
def test_a_gpu_of_its_own_runs_it_or_else_the_processor(
    made: Path, gpus: dict[str, str], broken: bool, asked: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    core, cache = Core(gpus, broken=broken), fastpath.cache_of(made)
    fastpath._open(core, cache, prepared.read(cache), 2).close()
    assert [device for device, _ in core.asked] == asked
    assert ("INFERENCE_NUM_THREADS" in core.asked[-1][1]) is (asked[-1] == "CPU")
    assert ("out of resources" in caplog.text) is broken


def test_a_gpu_that_does_not_answer_leaves_it_to_the_processor(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Silent(Core):
        def get_property(self, device: str, _name: str) -> str:
            raise RuntimeError("clGetDeviceInfo, error code: -5")

    core = Silent({"GPU": ""}, broken=False)
    fastpath._open(core, fastpath.cache_of(made), prepared.read(fastpath.cache_of(made)), None).close()
    assert [device for device, _ in core.asked] == ["CPU"]
    assert "error code: -5" in caplog.text


def test_another_process_new_cache_is_not_removed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        (fastpath.cache_of(copy) / "prepared.json").touch()  # another process has just put it there
        raise RuntimeError("broken")

    monkeypatch.setattr(fastpath, "_open", fails)
    with pytest.raises(CacheDamaged):
        fastpath.load(copy)
    assert fastpath.state(copy) == "ready"


def test_the_true_core_names_a_kind_of_device() -> None:
    from openvino.properties.device import Type

    assert "DISCRETE" in str(Type.DISCRETE)
    core = fastpath.library().Core()
    assert core.get_property("CPU", "DEVICE_TYPE") == Type.INTEGRATED
    assert all("GPU" in device for device in fastpath._gpus(core))


# ---- the state of a cache


def spoil(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


OWN = fastpath.FOLDER
SPOILED: dict[str, Callable[[Path], object]] = {
    "no cache": lambda folder: shutil.rmtree(folder / OWN),
    "no record": lambda folder: (folder / OWN / "prepared.json").unlink(),
    "no xml": lambda folder: (folder / OWN / "model.xml").unlink(),
    "bin cut": spoil(f"{OWN}/model.bin", lambda data: data[:-1]),
    "bin longer": spoil(f"{OWN}/model.bin", lambda data: data + b"\0"),
    "bin flipped": spoil(f"{OWN}/model.bin", flipped),
    "xml flipped": spoil(f"{OWN}/model.xml", flipped),
    "xml empty": spoil(f"{OWN}/model.xml", lambda _data: b""),
    "tokenizer flipped": spoil(f"{OWN}/tokenizer.json", flipped),
    "record cut": spoil(f"{OWN}/prepared.json", lambda data: data[: len(data) // 2]),
    "record of another format": spoil(
        f"{OWN}/prepared.json", lambda data: data.replace(b'"format": 1', b'"format": 0')
    ),
    "a folder for a file": lambda folder: ((folder / OWN / "model.xml").unlink(), (folder / OWN / "model.xml").mkdir()),
    "other weights": spoil("model.safetensors", flipped),
    "more weights": lambda folder: (folder / "more.safetensors").write_bytes(b"x"),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "other config": spoil("config.json", lambda data: data + b" "),
    "other tokenizer": spoil("tokenizer.json", lambda data: data + b" "),
}


@pytest.mark.parametrize("how", SPOILED)
def test_what_is_not_what_was_prepared_is_not_there(copy: Path, how: str) -> None:
    assert fastpath.state(copy) == "ready"
    SPOILED[how](copy)
    assert fastpath.state(copy) == "absent"
    assert fastpath.refusal(copy) is None
    with pytest.raises(CacheDamaged):
        fastpath.load(copy)


def test_what_has_nothing_to_do_with_it_changes_nothing(copy: Path) -> None:
    for name in ("README.md", "sparse_linear.safetensors", "m.gguf.tuning.json"):
        (copy / name).write_bytes(b"x")
    assert fastpath.state(copy) == "ready"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert fastpath.state(tmp_path / "nowhere") == "absent"
    fastpath.discard(tmp_path)
    assert fastpath.weights_of(tmp_path) == tmp_path / OWN / "model.bin"


def test_asking_again_reads_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fastpath.state(copy) == "ready"
    monkeypatch.setattr(digests, "sha256_of", None)
    monkeypatch.setattr(fastpath, "read", None)
    assert [fastpath.state(copy) for _ in range(3)] == ["ready"] * 3


def test_damage_that_is_mended_is_seen(copy: Path) -> None:
    binary = fastpath.weights_of(copy)
    whole = binary.read_bytes()
    binary.write_bytes(flipped(whole))
    assert fastpath.state(copy) == "absent"
    binary.write_bytes(whole)
    assert fastpath.state(copy) == "ready"


def test_a_refusal_holds_for_these_versions_on_this_machine(copy: Path) -> None:
    cache = fastpath.cache_of(copy)
    why = replace(prepared.read(cache), files={}, probe=None, width=0, refused="no such operator")
    prepared.write(cache, why)
    assert (fastpath.state(copy), fastpath.refusal(copy)) == ("refused", "no such operator")
    with pytest.raises(CacheDamaged):
        fastpath.load(copy)
    prepared.write(cache, replace(why, versions={**why.versions, "openvino": "1.0.0"}))
    assert fastpath.state(copy) == "absent"
    prepared.write(cache, replace(why, machine="another"))
    assert fastpath.state(copy) == "absent"
    prepared.write(cache, why)
    assert fastpath.state(copy) == "refused"
    (copy / "config.json").write_bytes(b"{}")
    assert fastpath.state(copy) == "absent"


def test_a_record_is_read_as_it_was_written(made: Path, tmp_path: Path) -> None:
    record = prepared.read(fastpath.cache_of(made))
    prepared.write(tmp_path, record)
    assert prepared.read(tmp_path) == record
    assert record.files.keys() == {"model.xml", "model.bin", "tokenizer.json"}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= record.made_from.keys()
    assert "sparse_linear.safetensors" not in record.made_from


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=9,
)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_record_is_believed(tmp_path_factory: pytest.TempPathFactory, made: Path, data: st.DataObject) -> None:
    whole = json.loads((fastpath.cache_of(made) / "prepared.json").read_text(encoding="utf-8"))
    changed = {**whole, data.draw(st.sampled_from(sorted(whole))): data.draw(JSON)}
    text = data.draw(st.binary(max_size=99) | st.just(json.dumps(changed).encode()))
    folder = tmp_path_factory.mktemp("record")
    (folder / OWN).mkdir()
    (folder / OWN / "prepared.json").write_bytes(text)
    assert fastpath.state(folder) == "absent"
    try:
        found = prepared.read(folder / OWN)
    except ValueError:
        return
    assert found.refused is not None or (found.files.keys() == set(prepared.FILES) and found.width and found.probe)


def test_a_record_without_end(tmp_path: Path) -> None:
    (tmp_path / "prepared.json").write_bytes(b"[" * 100_000)
    with pytest.raises(ValueError, match="damaged"):
        prepared.read(tmp_path)


# ---- a cache whose record is right, and which still cannot be used


def approve(folder: Path) -> None:
    """Let the record say that the files are what was prepared."""
    cache = fastpath.cache_of(folder)
    record = prepared.read(cache)
    files = {name: (cache / name).read_bytes() for name in record.files}
    marks = {name: prepared.Mark(len(data), sha256(data).hexdigest()) for name, data in files.items()}
    prepared.write(cache, replace(record, files=marks))


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("model.xml", lambda _data: b"<net", "cannot be used"),
        ("model.xml", lambda data: data[: len(data) // 2], "cannot be used"),
        ("model.bin", lambda data: data[: len(data) // 2], "cannot be used"),
        ("model.bin", lambda data: bytes(reversed(data)), "cannot be used"),
        ("tokenizer.json", lambda _data: b"{}", "cannot be used"),
    ],
)
def test_a_cache_that_openvino_cannot_use_goes(
    copy: Path, name: str, change: Callable[[bytes], bytes], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(f"{OWN}/{name}", change)(copy)
    approve(copy)
    assert fastpath.state(copy) == "ready"
    with pytest.raises(CacheDamaged, match=why) as caught:
        fastpath.load(copy)
    assert caught.value.path == str(fastpath.cache_of(copy))
    assert why in caplog.text
    assert fastpath.state(copy) == "absent"
    assert [path.name for path in copy.iterdir() if path.name.startswith(OWN)] == [f"{OWN}.lock"]


@pytest.mark.parametrize("number", [-1.0, float("nan")])
def test_a_load_compares_itself_with_torch(made: Path, number: float) -> None:
    cache = fastpath.cache_of(made)
    record = prepared.read(cache)
    assert record.probe is not None
    turned = tuple(tuple(one * number for one in row) for row in record.probe.mean)
    probe = replace(record.probe, mean=turned)
    with pytest.raises(ValueError, match="not torch's"):
        fastpath._open(fastpath.library().Core(), cache, replace(record, probe=probe), None)


def test_a_cache_is_never_opened_beyond_its_end(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO maps the file: what is cut after it was judged is seen before it is mapped."""
    spoil(f"{OWN}/model.bin", lambda data: data[:100])(copy)
    monkeypatch.setattr(fastpath, "_open", None)
    with pytest.raises(CacheDamaged, match="another size"):
        fastpath.open_cache(fastpath.cache_of(copy))


def test_want_of_memory_is_no_damage(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(fastpath, "_open", full)
    with pytest.raises(MemoryError, match="no memory"):
        fastpath.load(copy)
    assert fastpath.state(copy) == "ready"


# ---- the library


def test_where_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fastpath.available()
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert not fastpath.available()
    for name in ("AMD64", "x86_64", "arm64", "aarch64"):
        monkeypatch.setattr("platform.machine", lambda name=name: name)
        assert fastpath.available()
    monkeypatch.setitem(sys.modules, "openvino", None)  # type: ignore[arg-type]
    assert not fastpath.available()


def test_a_hosts_own_telemetry_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ModuleType("openvino_telemetry")
    own.__spec__ = ModuleSpec("openvino_telemetry", None)
    monkeypatch.setitem(sys.modules, "openvino_telemetry", own)
    fastpath.library()
    assert sys.modules["openvino_telemetry"] is own
    monkeypatch.delitem(sys.modules, "openvino_telemetry")
    fastpath.library()
    assert sys.modules["openvino_telemetry"] is None
