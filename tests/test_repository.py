"""What a hub is asked, and what its answers, and the settings of this machine, are said to be."""

from __future__ import annotations

import contextlib
import re
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_hub
import pytest
from fake_hub import FakeHub

from engine import fetch, repository, transformer
from engine.errors import DownloadError
from engine.fetch import Interrupted, Patience, Wrong

REPO = "org/repo"
BIG = "weights.gguf"
CONTENT = bytes(range(256)) * 400
SECRET = "s3cret"


@pytest.fixture(autouse=True)
def remote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    from huggingface_hub.utils import close_session

    for name, value in {"NO_PROXY": "127.0.0.1", "HF_TOKEN_PATH": str(tmp_path / "none")}.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch, "PATIENCE", Patience(tries=2, first_wait=0.0, longest_wait=0.01, stall=10.0))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    close_session()  # it has read the settings
    with FakeHub() as running:
        running.commit(REPO, {BIG: CONTENT})
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running
        close_session()


def silent(_doing: str, _done: int) -> None:
    pass


def listing() -> repository.Listing:
    return repository.listing(REPO, None, silent)


def read(start: int = 0) -> bytes:
    with repository.read(REPO, "main", BIG, start) as body:
        return b"".join(body.pieces)


EITHER = pytest.mark.parametrize("ask", [listing, read])
Ask = Callable[[], object]


# ---- what is shown


@EITHER
@pytest.mark.parametrize(
    "address",
    [
        "gopher://bob:s3cret@mirror/hf",
        "http://bob:s3cret@mirror:x/hf",
        "http://bob:s3cret/x@mirror",
        "bob:s3cret@mirror/hf",
        "http://bob:s3cret://x@mirror:y/hf",
    ],
)
def test_an_address_that_is_none_is_shown_without_its_password(
    monkeypatch: pytest.MonkeyPatch, ask: Ask, address: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(DownloadError, match="HF_ENDPOINT") as caught:
        ask()
    assert not re.search("bob|s3c", str(caught.value))


@EITHER
@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_shows_the_page_without_a_password(
    remote: FakeHub, monkeypatch: pytest.MonkeyPatch, ask: Ask, status: int
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", remote.endpoint.replace("//", f"//bob:{SECRET}@"))
    for about in (REPO, BIG):
        remote.plan(about, then=fake_hub.status(status, {401: "", 403: "GatedRepo", 404: "RepoNotFound"}[status]))
    with pytest.raises(DownloadError, match=f"{remote.endpoint}/{REPO}") as caught:
        ask()
    assert not re.search("bob|s3c", str(caught.value))


# ---- the switch of the hub's library


def offline() -> bool:
    from huggingface_hub import is_offline_mode

    return is_offline_mode()


def test_two_that_open_at_a_time_leave_the_switch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        first.enter_context(repository._online())
        second.enter_context(repository._online())
        first.close()
        assert not offline()
        second.close()
        assert offline()


def test_the_switch_is_left_alone_while_bytes_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with repository.read(REPO, "main", BIG, 0) as body:
        assert offline()
        assert b"".join(body.pieces) == CONTENT
    assert offline()


@EITHER
def test_a_model_that_loads_in_another_thread_does_not_stop_a_download(ask: Ask) -> None:
    loading, done = threading.Event(), threading.Event()
    seen: list[bool] = []

    def load() -> None:
        with transformer._offline_and_quiet([]):
            seen.append(offline())
            loading.set()
            done.wait(100)
            seen.append(offline())

    thread = threading.Thread(target=load)
    thread.start()
    try:
        assert loading.wait(100)
        ask()
    finally:
        done.set()
        thread.join()
    assert seen == [True, True]
    assert not offline()


@EITHER
@pytest.mark.parametrize("value", ["1", "on", "Yes", "TRUE"])
def test_who_says_offline_stays_offline(remote: FakeHub, monkeypatch: pytest.MonkeyPatch, ask: Ask, value: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    with transformer._offline_and_quiet([]), pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set"):
        ask()
    assert not remote.asked


# ---- the settings of this machine


@EITHER
@pytest.mark.parametrize("proxy", ["ALL_PROXY", "HTTPS_PROXY"])
def test_a_socks_proxy_that_cannot_be_used_is_said(monkeypatch: pytest.MonkeyPatch, ask: Ask, proxy: str) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv(proxy, "socks5://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"could not be fetched.*SOCKS.*ALL_PROXY.*pip install socksio"):
        ask()


def no_file(folder: Path) -> Path:
    return folder / "no such file.pem"


def no_certificate(folder: Path) -> Path:
    (folder / "empty.pem").write_text("no certificate\n", encoding="utf-8")
    return folder / "empty.pem"


@EITHER
@pytest.mark.parametrize("make", [no_file, no_certificate])
def test_certificates_that_cannot_be_read_are_no_matter_of_the_models_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ask: Ask, make: Callable[[Path], Path]
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(make(tmp_path)))
    with pytest.raises(DownloadError, match=r"could not be fetched.*SSL_CERT_FILE"):
        ask()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionResetError("reset"), Interrupted),
        (TimeoutError("too long"), Interrupted),
        (ssl.SSLError(1, "bad record"), DownloadError),
        (OSError(5, "no network"), DownloadError),
    ],
)
def test_what_the_network_raises_while_bytes_come_is_explained(
    monkeypatch: pytest.MonkeyPatch, error: OSError, kind: type[Exception]
) -> None:
    import httpx2

    def pieces(_response: httpx2.Response) -> Iterator[bytes]:
        yield CONTENT[:10]
        raise error

    with repository.read(REPO, "main", BIG, 0) as body:
        monkeypatch.setattr(httpx2.Response, "iter_bytes", pieces)
        assert next(body.pieces) == CONTENT[:10]
        with pytest.raises(kind):
            next(body.pieces)


# ---- what is raised by who reads


@pytest.mark.parametrize("error", [TypeError("a callback"), OSError(28, "No space left"), ValueError(), KeyError("x")])
def test_what_the_caller_raises_is_the_callers(error: Exception) -> None:
    def body() -> None:
        with repository.read(REPO, "main", BIG, 0) as opened:
            next(opened.pieces)
            raise error

    with pytest.raises(type(error)) as caught:
        body()
    assert caught.value is error


def test_a_progress_that_fails_is_the_callers(remote: FakeHub, tmp_path: Path) -> None:
    def tell(_doing: str, _done: int) -> None:
        raise TypeError("not mine")

    def source(start: int) -> contextlib.AbstractContextManager[fetch.Body]:
        return repository.read(REPO, "main", BIG, start)

    with pytest.raises(TypeError, match="not mine"):
        fetch.fetch(fetch.Remote(BIG, len(CONTENT)), tmp_path / "part", source, tell)


def test_a_response_is_closed_when_its_reader_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def spy(*arguments: Any) -> Any:
        opened.append(right(*arguments))
        return opened[-1]

    right = repository._opened
    monkeypatch.setattr(repository, "_opened", spy)
    with repository.read(REPO, "main", BIG, 0) as body:
        next(body.pieces)
        assert not opened[0].is_closed
    assert opened[0].is_closed
    with pytest.raises(Wrong), repository.read(REPO, "main", BIG, len(CONTENT)):
        pass
    assert opened[1].is_closed


# ---- answers


@pytest.mark.parametrize("told", [{"size": "5"}, {"size": -1}, {"size": 1.5}, {"size": True}, {"sha256": 7},
                                  {"sha256": "1" * 63 + "x"}, {"sha256": "1" * 40}, {"sha256": "1" * 64 + "\n"}])  # fmt: skip
def test_a_listing_that_is_none_is_refused(remote: FakeHub, told: dict[str, Any]) -> None:
    remote.claim(REPO, BIG, **told)
    with pytest.raises(DownloadError, match=f"{remote.endpoint} .*{BIG}.*HF_ENDPOINT"):
        listing()


@pytest.mark.parametrize("blob", [7, "x" * 40, ["1"]])
def test_a_listing_with_an_id_that_is_none_is_refused(remote: FakeHub, blob: object) -> None:
    remote.commit(REPO, {"small.json": b"{}"})
    remote.claim(REPO, "small.json", blobId=blob)
    with pytest.raises(DownloadError, match=f"{remote.endpoint} .*HF_ENDPOINT"):
        listing()


def test_a_listing_tells_sizes_and_hashes(remote: FakeHub) -> None:
    commit = remote.commit(REPO, {BIG: CONTENT, "small.json": b"{}"})
    remote.claim(REPO, BIG, sha256=fake_hub.sha256(CONTENT).upper())
    found = listing()
    assert found.commit == commit
    assert found.files[BIG] == fetch.Remote(BIG, len(CONTENT), fake_hub.sha256(CONTENT))
    small = found.files["small.json"]
    assert (small.size, small.sha256, small.blob) == (2, None, "9e26dfeeb6e641a33dae4961196235bdb965b21b")


def test_a_file_goes_on(remote: FakeHub) -> None:
    with repository.read(REPO, "main", BIG, 1000) as body:
        assert (body.start, body.total) == (1000, len(CONTENT))
        assert b"".join(body.pieces) == CONTENT[1000:]


@pytest.mark.parametrize("said", ["", "bytes", "bytes x-y/z", "bytes */100"])
def test_a_part_of_which_nobody_knows_where_it_belongs_is_wrong(remote: FakeHub, said: str) -> None:
    remote.plan(BIG, fake_hub.misnamed(said))
    with pytest.raises(Wrong):
        read(1000)


def test_such_a_part_does_not_stop_a_download(remote: FakeHub, tmp_path: Path) -> None:
    remote.plan(BIG, fake_hub.drop(50_000), then=fake_hub.misnamed(""))
    assert brought(tmp_path) == CONTENT


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_bytes_beyond_the_end_are_those_of_another_file(remote: FakeHub, tmp_path: Path, size: int | None) -> None:
    (tmp_path / "part").write_bytes(b"another, longer file" * 10_000 if size is None else b"another")
    remote.plan(BIG, fake_hub.status(416))
    assert brought(tmp_path, size) == CONTENT


def brought(folder: Path, size: int | None = len(CONTENT)) -> bytes:
    def source(start: int) -> contextlib.AbstractContextManager[fetch.Body]:
        return repository.read(REPO, "main", BIG, start)

    fetch.fetch(fetch.Remote(BIG, size), folder / "part", source, silent)
    return (folder / "part").read_bytes()
