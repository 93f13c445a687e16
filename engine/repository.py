"""A repository of the hub: which files it has, and their bytes. The only module that speaks with a hub.

The hub's own library knows its addresses, tokens and errors; how often and from where a file is read is `fetch`'s.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from engine import fetch
from engine.errors import DownloadError, EngineError
from engine.fetch import Body, Interrupted, Remote, Unreachable

if TYPE_CHECKING:
    from httpx2 import Response

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
    """Open the bytes of a file from `start` on. Raises `Interrupted`, `DownloadError`; so does reading them."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers

    url = hf_hub_url(repo, name, revision=commit, endpoint=endpoint())
    # of a compressed body, neither length nor offset would be the file's
    headers = {**build_hf_headers(), "Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    stream = partial(get_session().stream, "GET", url, headers=headers, timeout=fetch.PATIENCE.stall)
    with _online(), _explained(repo, name), stream(follow_redirects=True) as response:
        yield _body(response, start)


def endpoint() -> str:
    """Return the address of the hub, or of its mirror in `$HF_ENDPOINT`."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _listing(repo: str, revision: str | None) -> Listing:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint())
    info = api.model_info(repo, revision=revision, files_metadata=True, timeout=fetch.PATIENCE.stall)
    files = (
        Remote(file.rfilename, file.size, file.lfs.sha256 if file.lfs else None, None if file.lfs else file.blob_id)
        for file in info.siblings or []
    )
    return Listing(info.sha or revision or "main", {file.name: file for file in files})


def _body(response: Response, start: int) -> Body:
    from huggingface_hub import hf_raise_for_status

    if response.status_code == 416 and start:  # there is no byte after those that we have: they are of another file
        return Body(0, _total(response), iter(()))
    if response.status_code in _PASSING:
        raise _busy(response)
    hf_raise_for_status(response)
    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
    if response.status_code != 206:
        return Body(0, None if encoded else _number(response.headers.get("Content-Length")), response.iter_bytes())
    first = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    if encoded or _number(first) is None:
        raise Interrupted("the hub sent a part and did not say which")
    return Body(int(first), _total(response), response.iter_bytes())


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


@contextlib.contextmanager
def _online() -> Iterator[None]:
    """Give the hub's library our settings, and undo the offline switch that loading a model has set."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise DownloadError("HF_HUB_OFFLINE is set. Unset it to download.", file="HF_HUB_OFFLINE")
    os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_XET="1")
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET = False, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET = before


@contextlib.contextmanager
def _explained(repo: str, name: str) -> Iterator[None]:
    """Turn what the hub's library raises into `Interrupted`, or into a `DownloadError` with the next step."""
    import httpx2

    try:
        yield
    except (EngineError, Interrupted):
        raise
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise DownloadError(
            f"{name} could not be fetched: {endpoint()}, or where it redirects to, is no address of a hub "
            f"({_why(error).rstrip('.')}). Correct HF_ENDPOINT.",
            file=name,
        ) from None
    except httpx2.ConnectError as error:
        raise Unreachable(_why(error)) from None
    except httpx2.TransportError as error:
        raise Interrupted(_why(error)) from None
    except httpx2.HTTPError as error:
        response: Any = getattr(error, "response", None)
        if response is not None and response.status_code in _PASSING:
            raise _busy(response) from None
        raise _refusal(repo, name, error, response) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # no name of a repository, or no hub's answer
        raise _refusal(repo, name, error, None) from None


def _refusal(repo: str, name: str, error: Exception, response: Any) -> DownloadError:
    status = getattr(response, "status_code", None)
    usual = _REFUSED if status in (401, 403) else _ELSE
    step = _NEXT_STEP.get(type(error).__name__, usual).format(page=f"{endpoint()}/{repo}")
    why = f"the hub answered {status} {response.reason_phrase}" if status else _why(error)
    what = repo if name == repo else f"{name} of {repo}"
    kind = RevisionNotFound if type(error).__name__ == "RevisionNotFoundError" else DownloadError
    return kind(f"{what} could not be fetched: {why.rstrip(' .')}. {step}", file=name)


def _why(error: Exception) -> str:
    """Return an error's first line without addresses: those of a content network carry a signature."""
    text = (str(error).splitlines() or [""])[0].partition(" for url")[0].partition("http")[0].strip(" '\"")
    return text[:200] or type(error).__name__
