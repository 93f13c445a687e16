"""A repository of the hub: which files it has, and their bytes. The only module that speaks with a hub.

The hub's own library knows its addresses, tokens and errors; how often and from where a file is read is `fetch`'s.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from engine import fetch
from engine.errors import DownloadError, EngineError
from engine.fetch import Body, Interrupted, Remote, Unreachable, Wrong

if TYPE_CHECKING:
    from httpx2 import Response
    from huggingface_hub.hf_api import RepoSibling

_PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that may be another one in a moment
_GATED = "{page} asks for consent: accept its terms there, then set HF_TOKEN to a token of your account."
_NEXT_STEP = {  # by the name of the hub library's error
    "GatedRepoError": _GATED,
    "DisabledRepoError": "Its page is {page}. Name another repository in source.repo of models.toml.",
    "RepositoryNotFoundError": "Correct source.repo in models.toml, or set HF_TOKEN if {page} is private.",
    "RevisionNotFoundError": "Correct revision in models.toml; {page} shows those there are.",
    "RemoteEntryNotFoundError": "Correct source.files in models.toml; {page} shows those there are.",
}
_REFUSED = "Set HF_TOKEN to a token that may read {page}."
_ELSE = "Check source.repo in models.toml, HF_ENDPOINT and the proxy's settings, and run the command again."
_FILES = "Check the files that SSL_CERT_FILE, SSL_CERT_DIR and HF_TOKEN_PATH name, and run the command again."
_SOCKS = "needs the package socksio for a SOCKS proxy: unset ALL_PROXY and HTTPS_PROXY, or run `pip install socksio`."


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at one commit, by name."""

    commit: str
    files: Mapping[str, Remote]


class RevisionNotFound(DownloadError):
    """The repository has no such commit (any more)."""


def listing(repo: str, revision: str | None, tell: fetch.Tell) -> Listing:
    """Return what a repository holds.

    Raises `RevisionNotFound`, `DownloadError`, and what `tell` raises while a busy hub is waited for.
    """

    def once() -> Listing:
        with _online(), _explained(repo, repo):
            return _listing(repo, revision)

    return fetch.retried(repo, repo, once, tell)


@contextlib.contextmanager
def read(repo: str, commit: str, name: str, start: int) -> Iterator[Body]:
    """Open the bytes of a file from `start` on.

    Raises `Interrupted`, `Wrong`, `DownloadError`; so does reading them. What the caller raises is left as it is.
    """
    with _explained(repo, name):
        response = _opened(repo, commit, name, start)
    with contextlib.closing(response):
        with _explained(repo, name):
            begin, total = _extent(response, start)
        yield Body(begin, total, _pieces(response, repo, name))


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Keep the hub's library off the network, but for what this module asks in the meantime."""
    with _SWITCH.turned(offline=True):
        yield


def endpoint() -> str:
    """Return the address of the hub, or of its mirror in `$HF_ENDPOINT`."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _listing(repo: str, revision: str | None) -> Listing:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint())
    info = api.model_info(repo, revision=revision, files_metadata=True, timeout=fetch.PATIENCE.stall)
    files = [_remote(file) for file in info.siblings or []]
    return Listing(str(info.sha or revision or "main"), {file.name: file for file in files})


def _remote(file: RepoSibling) -> Remote:
    sha256, blob = (file.lfs.sha256, None) if file.lfs else (None, file.blob_id)
    sized = file.size is None or (type(file.size) is int and file.size >= 0)
    if not (sized and _is_hash(sha256, 64) and _is_hash(blob, 40)):
        raise DownloadError(
            f"{_shown()} lists {file.rfilename} with a size or a hash that is none. Set HF_ENDPOINT to another mirror, "
            "or unset it.",
            file=str(file.rfilename),
        )
    return Remote(file.rfilename, file.size, sha256 and sha256.lower(), blob and blob.lower())


def _is_hash(value: object, digits: int) -> bool:
    """Whether it is a hash, or none is known."""
    return value is None or (isinstance(value, str) and bool(re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", value)))


def _opened(repo: str, commit: str, name: str, start: int) -> Response:
    with _online():
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils._headers import build_hf_headers

        url = hf_hub_url(repo, name, revision=commit, endpoint=endpoint())
        # of a compressed body, neither length nor offset would be the file's
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        session = get_session()
        request = session.build_request("GET", url, headers=headers, timeout=fetch.PATIENCE.stall)
        return session.send(request, stream=True, follow_redirects=True)


def _extent(response: Response, start: int) -> tuple[int, int | None]:
    """Return where a body begins and the size of the whole file, where that is told."""
    from huggingface_hub import hf_raise_for_status

    if response.status_code == 416 and start:  # there is no byte after those that we have: they are of another file
        raise Wrong(f"has nothing after {start} bytes at its source")
    if response.status_code in _PASSING:
        raise _busy(response)
    hf_raise_for_status(response)
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    if response.status_code != 206:
        return 0, None if encoded else _number(response.headers.get("Content-Length"))
    first = _number(response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0])
    if encoded or first is None:
        raise Wrong("came as a part that does not say which")
    return first, _total(response)


def _pieces(response: Response, repo: str, name: str) -> Iterator[bytes]:
    pieces = response.iter_bytes()
    while True:
        with _explained(repo, name):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


def _total(response: Response) -> int | None:
    return _number(response.headers.get("Content-Range", "").rpartition("/")[2])


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _busy(response: Response) -> Interrupted:
    why = f"the hub answered {response.status_code} {response.reason_phrase}".rstrip()
    return Interrupted(why, _seconds(response.headers.get("Retry-After")))


def _seconds(retry_after: str | None) -> float | None:
    """Return what a Retry-After header asks for: a number, or a date."""
    if (number := _number(retry_after)) is not None:
        return float(number)
    try:
        date = parsedate_to_datetime(retry_after or "")
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


class _Switch:
    """The offline switch of the hub's library: one for the whole process, so of all who turn it, online wins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wishes: list[bool] = []
        self._before = False

    @contextlib.contextmanager
    def turned(self, *, offline: bool) -> Iterator[None]:
        with self._lock:
            from huggingface_hub import constants

            if not self._wishes:
                self._before = constants.HF_HUB_OFFLINE
            self._wishes.append(offline)
            constants.HF_HUB_OFFLINE = all(self._wishes)
        try:
            yield
        finally:
            with self._lock:
                self._wishes.remove(offline)
                constants.HF_HUB_OFFLINE = all(self._wishes) if self._wishes else self._before


_SWITCH = _Switch()


@contextlib.contextmanager
def _online() -> Iterator[None]:
    """Let requests through, unless the user said offline: to be held while one is sent, not while its bytes come."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise DownloadError("HF_HUB_OFFLINE is set. Unset it to download.", file="HF_HUB_OFFLINE")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    with _SWITCH.turned(offline=False):
        yield


@contextlib.contextmanager
def _explained(repo: str, name: str) -> Iterator[None]:
    """Turn what the hub's library raises into `Interrupted`, or into a `DownloadError` with the next step."""
    try:
        yield
    except (EngineError, Interrupted, Wrong):
        raise
    except Exception as error:
        ours = _passing(error) or _lasting(repo, name, error)
        if ours is None:
            raise
        raise ours from None


def _passing(error: Exception) -> Interrupted | None:
    """Return what is worth another try."""
    import httpx2

    response: Any = getattr(error, "response", None)
    if response is not None and response.status_code in _PASSING:
        return _busy(response)
    if isinstance(error, httpx2.ConnectError):
        return Unreachable(_why(error))
    lasting = isinstance(error, httpx2.UnsupportedProtocol)
    if isinstance(error, (httpx2.TransportError, ConnectionError, TimeoutError)) and not lasting:
        return Interrupted(_why(error))
    return None


def _lasting(repo: str, name: str, error: Exception) -> DownloadError | None:
    import httpx2

    if isinstance(error, (httpx2.InvalidURL, httpx2.UnsupportedProtocol)):
        why = "" if _shown() != endpoint() else f" ({_why(error).rstrip('.')})"  # it may quote a part of a password
        address = f"{_shown()}, or where it redirects to, is no address of a hub{why}. Correct HF_ENDPOINT."
        return DownloadError(f"{name} could not be fetched: {address}", file=name)
    if isinstance(error, ImportError) and "socksio" in str(error):
        return DownloadError(f"{name} could not be fetched: Python {_SOCKS}", file=name)
    if isinstance(error, (httpx2.HTTPError, OSError)):
        return _refusal(repo, name, error, getattr(error, "response", None))
    if isinstance(error, (ValueError, KeyError, TypeError, AttributeError)):  # no name of a repository, or no answer
        return _refusal(repo, name, error, None)
    return None


def _refusal(repo: str, name: str, error: Exception, response: Any) -> DownloadError:
    status = getattr(response, "status_code", None)
    ours = _FILES if isinstance(error, OSError) else _ELSE
    usual = _REFUSED if status in (401, 403) else _ELSE if status else ours
    step = _NEXT_STEP.get(type(error).__name__, usual).format(page=f"{_shown()}/{repo}")
    why = f"the hub answered {status} {response.reason_phrase}" if status else _why(error)
    what = repo if name == repo else f"{name} of {repo}"
    kind = RevisionNotFound if type(error).__name__ == "RevisionNotFoundError" else DownloadError
    return kind(f"{what} could not be fetched: {why.rstrip(' .')}. {step}", file=name)


def _shown() -> str:
    """Return the hub's address without a name and password."""
    return re.sub(r"^([\w+.-]+://)?.*@", r"\1", endpoint(), flags=re.DOTALL)


def _why(error: Exception) -> str:
    """Return an error's first line without addresses: those of a content network carry a signature."""
    text = (str(error).splitlines() or [""])[0].partition(" for url")[0].partition("http")[0].strip(" '\"")
    return text[:200] or type(error).__name__
