"""The fake hub speaks as the real one does: the hub's own library lists, reads and goes on from it."""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fake_hub
import pytest
from fake_hub import FakeHub, sha256
from huggingface_hub import HfApi, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.file_download import get_hf_file_metadata
from huggingface_hub.utils import close_session, get_session

WEIGHTS = bytes(range(256)) * 4000
CONFIG = b'{"pooling": "cls"}'
FILES = {"weights.gguf": WEIGHTS, "1_Pooling/config.json": CONFIG, "empty.txt": b""}


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with FakeHub() as hub:
        yield hub
        close_session()


def download(remote: FakeHub, file: str, folder: Path, **more: object) -> bytes:
    path = hf_hub_download("org/repo", file, endpoint=remote.endpoint, local_dir=folder, **more)  # type: ignore[arg-type]
    return Path(path).read_bytes()


def test_the_listing_is_understood(remote: FakeHub) -> None:
    old = remote.commit("org/repo", {"weights.gguf": b"old"})
    new = remote.commit("org/repo", FILES)
    api = HfApi(endpoint=remote.endpoint)
    info = api.model_info("org/repo", files_metadata=True)
    files = {file.rfilename: file for file in info.siblings or []}
    weights, config = files["weights.gguf"], files["1_Pooling/config.json"]
    assert info.sha == new != old and set(files) == set(FILES)
    assert weights.lfs and weights.lfs.sha256 == sha256(WEIGHTS) and weights.lfs.size == weights.size == len(WEIGHTS)
    assert config.lfs is None and config.size == len(CONFIG)
    assert config.blob_id == hashlib.sha1(b"blob 18\0" + CONFIG).hexdigest()
    assert api.model_info("org/repo", revision=old).sha == old
    assert {entry.path for entry in api.list_repo_tree("org/repo", revision=new)} == set(FILES)
    remote.claim("org/repo", "weights.gguf", sha256="1" * 64, size=3)
    liar = (api.model_info("org/repo", files_metadata=True).siblings or [])[0]
    assert liar.lfs and liar.lfs.sha256 == "1" * 64 and liar.size == 3


def test_files_come_large_ones_from_the_other_origin(remote: FakeHub, tmp_path: Path) -> None:
    commit = remote.commit("org/repo", FILES)
    for name, content in FILES.items():
        assert download(remote, name, tmp_path) == content
    assert {asked.origin for asked in remote.asked if asked.sent and asked.about == "weights.gguf"} == {"cdn"}
    assert {asked.origin for asked in remote.asked if asked.sent and asked.about != "weights.gguf"} == {"hub"}
    assert remote.sent() == sum(map(len, FILES.values())) and remote.again(*FILES) == 0
    known = get_hf_file_metadata(hf_hub_url("org/repo", "weights.gguf", endpoint=remote.endpoint))
    assert (known.commit_hash, known.etag, known.size) == (commit, sha256(WEIGHTS), len(WEIGHTS))
    assert known.location.startswith(remote.cdn)


def test_a_whole_repository_comes(remote: FakeHub, tmp_path: Path) -> None:
    remote.commit("org/repo", FILES)
    snapshot_download("org/repo", endpoint=remote.endpoint, local_dir=tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == FILES


def test_refusals_have_their_names(remote: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote.commit("org/gated", FILES, gated=True)
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=remote.endpoint).model_info("org/none")
    with pytest.raises(GatedRepoError):
        hf_hub_download("org/gated", "weights.gguf", endpoint=remote.endpoint, local_dir=tmp_path)
    monkeypatch.setenv("HF_TOKEN", remote.token)
    assert hf_hub_download("org/gated", "weights.gguf", endpoint=remote.endpoint, local_dir=tmp_path)
    assert {asked.token for asked in remote.asked if asked.origin == "cdn"} == {None}
    assert f"Bearer {remote.token}" in {asked.token for asked in remote.asked if asked.about == "weights.gguf"}
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("org/gated", "none", endpoint=remote.endpoint, local_dir=tmp_path)


def test_the_library_goes_on_after_a_drop(remote: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a check of the fault, half of the range."""
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # what it takes up at a time
    remote.commit("org/repo", FILES)
    remote.plan("weights.gguf", fake_hub.drop(100_000))
    assert download(remote, "weights.gguf", tmp_path) == WEIGHTS
    first, second = (asked for asked in remote.gets("weights.gguf") if asked.origin == "cdn")
    assert (first.status, first.sent, first.fault) == (200, 100_000, "drop")
    assert (second.status, second.start, second.range) == (206, 100_000, "bytes=100000-")
    assert remote.again("weights.gguf") == 0 and remote.planned("weights.gguf") == 0


def test_what_the_library_alone_does_not_notice(remote: FakeHub, tmp_path: Path) -> None:
    """Why Gieok hashes: a flipped bit passes."""
    remote.commit("org/repo", FILES)
    remote.plan("weights.gguf", fake_hub.flip(7))
    assert download(remote, "weights.gguf", tmp_path) != WEIGHTS


BODIES = [
    (fake_hub.short(10), None, 200, WEIGHTS[:-10]),
    (fake_hub.long(10), None, 200, WEIGHTS + b"\0" * 10),
    (fake_hub.short(10), "bytes=5-", 206, WEIGHTS[5:-10]),
    (fake_hub.flip(1), "bytes=5-", 206, bytes([5, 6 ^ 1]) + WEIGHTS[7:]),
    (fake_hub.whole(), "bytes=5-", 200, WEIGHTS),
    (fake_hub.elsewhere(3), "bytes=5-", 206, WEIGHTS[2:]),
    (fake_hub.misnamed("bytes 0-1/2"), "bytes=5-", 206, WEIGHTS[5:]),
    (fake_hub.replaced(b"other"), None, 200, b"other"),
    (fake_hub.replaced(b"other"), "bytes=2-", 206, b"her"),
    (fake_hub.replaced(b"other"), "bytes=99-", 416, b""),
    (fake_hub.chunked(), None, 200, WEIGHTS),
    (fake_hub.page("hello"), None, 200, b"hello"),
    (fake_hub.zipped(), None, 200, WEIGHTS),
    (fake_hub.slow(20e6), None, 200, WEIGHTS),
]


@pytest.mark.parametrize(("fault", "asked", "code", "body"), BODIES, ids=[case[0].name for case in BODIES])
def test_a_fault_is_what_its_name_says(
    remote: FakeHub, fault: fake_hub.Fault, asked: str | None, code: int, body: bytes
) -> None:
    remote.commit("org/repo", FILES)
    remote.plan("weights.gguf", fault)
    url = hf_hub_url("org/repo", "weights.gguf", endpoint=remote.endpoint)
    got = get_session().get(url, headers={"Range": asked} if asked else {})
    assert (got.status_code, got.content) == (code, body)
    assert get_session().get(url).content == WEIGHTS, "once only"


def test_ranges_follow_the_standard(remote: FakeHub) -> None:
    remote.commit("org/repo", FILES)
    url = hf_hub_url("org/repo", "1_Pooling/config.json", endpoint=remote.endpoint)

    def ask(**headers: str) -> tuple[int, bytes, str | None]:
        got = get_session().get(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return got.status_code, got.content, got.headers.get("Content-Range")

    assert ask(Range="bytes=4-") == (206, CONFIG[4:], "bytes 4-17/18")
    assert ask(Range="bytes=4-5") == (206, CONFIG[4:6], "bytes 4-5/18")
    assert ask(Range="bytes=18-")[0::2] == (416, "bytes */18")
    assert ask(Range="bytes=4-", If_Range='"old"')[0] == 200


def test_what_is_sent_twice_is_counted(remote: FakeHub) -> None:
    remote.commit("org/repo", FILES)
    url = hf_hub_url("org/repo", "weights.gguf", endpoint=remote.endpoint)
    for span, again in (("0-99", 0), ("100-199", 0), ("50-149", 100), ("190-", 110), ("0-", 110 + len(WEIGHTS))):
        get_session().get(url, headers={"Range": f"bytes={span}"})
        assert remote.again("weights.gguf") == again
    assert remote.sent() == len(WEIGHTS) + remote.again("weights.gguf")


def test_closing_does_not_wait_for_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    hub = FakeHub()
    hub.commit("org/repo", FILES)
    hub.plan("weights.gguf", fake_hub.stall(10))
    answer = urllib.request.urlopen(f"{hub.endpoint}/org/repo/resolve/main/weights.gguf", timeout=30)
    with answer:
        assert answer.read(10) == WEIGHTS[:10]
        hub.close()
    assert hub.gets("weights.gguf")[1].sent == 10
