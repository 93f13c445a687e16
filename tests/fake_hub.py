"""A Hub on the loopback that the real huggingface_hub speaks to, with a CDN on another port and faults on demand.

What it says follows huggingface.co: `/api/models/…` with files and commits, `/{repo}/resolve/{revision}/{file}` with
ETag and X-Repo-Commit, large (LFS) files by a signed redirect to the CDN, ranges, X-Error-Code on refusals. `plan` gives
a file (or, by the repository's name, its listing) the faults of its next GETs; a HEAD is always answered well.
Everything that was asked is in `asked`, with the body bytes that were handed to the kernel for it.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import re
import select
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

PIECE = 16 * 1024  # bytes a send; small, as are the send buffers, so that what is counted as sent is on its way
LONGEST_STALL = 30.0  # a guard: a client that waits is given up on
LFS_FROM = 1024  # bytes from which a file is a large one, unless its name says so
LFS_SUFFIXES = (".gguf", ".safetensors", ".bin", ".pt")
ETAG_OF_GIT = "blob {size}\0"


@dataclass
class Asked:
    """One request: `start` is where in the file its answer began, `sent` how many bytes of a body went out."""

    origin: str  # "hub" or "cdn"
    method: str
    path: str
    about: str  # the file's name, or the repository's for its listing
    range: str | None = None
    if_range: str | None = None
    token: str | None = None
    status: int = 0
    start: int = 0
    sent: int = 0
    fault: str | None = None


@dataclass
class Reply:
    """What is about to be answered; a fault changes it."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    start: int = 0
    whole: bytes = b""  # the file that `body` is (part) of
    length: int | None = None  # Content-Length, where it is not that of the body
    chunked: bool = False
    stop: int | None = None  # bytes of the body after which comes `then`
    then: str = ""  # "" (keep the connection), "close", "reset" or "stall"
    rate: float | None = None  # bytes a second


@dataclass(frozen=True)
class Fault:
    """`change` spoils the answer of one GET: the one that would send the bytes, or the `gate`, which may redirect."""

    name: str
    change: Callable[[Reply, Asked], None]
    gate: bool = False


@dataclass
class _Repository:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    gated: bool = False

    @property
    def newest(self) -> str:
        return next(reversed(self.commits))

    def find(self, revision: str) -> str | None:
        return self.newest if revision == "main" else revision if revision in self.commits else None


class FakeHub:
    """A hub and its CDN, running until `close`; `pace` is their speed in bytes a second (0: as fast as it goes).

    A gated repository opens to `token` only. `watch` is called, in a server's thread, after each piece that was sent.
    """

    def __init__(self, *, pace: float = 0, token: str = "hf_right") -> None:
        self.pace, self.token = pace, token
        self.asked: list[Asked] = []
        self.broken: list[BaseException] = []
        self.watch: Callable[[Asked], object] | None = None
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._repositories: dict[str, _Repository] = {}
        self._plans: dict[str, tuple[deque[Fault], Fault | None]] = {}
        self._hub, self._cdn = _Server(self, "hub"), _Server(self, "cdn")

    @property
    def endpoint(self) -> str:
        return self._hub.url

    @property
    def cdn(self) -> str:
        return self._cdn.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End both servers and every connection; raises what went wrong inside them."""
        self.closing.set()
        self._hub.end()
        self._cdn.end()
        if self.broken:
            raise ExceptionGroup("the fake hub failed", [e for e in self.broken if isinstance(e, Exception)])

    # ---- what it holds

    def commit(self, repo: str, files: Mapping[str, bytes], *, gated: bool = False) -> str:
        """Make these the files of a repository's main branch; older commits stay there. Returns the commit."""
        there = self._repositories.setdefault(repo, _Repository())
        names = "".join(f"{name} {sha256(content)}\n" for name, content in files.items())
        commit = hashlib.sha1(f"{len(there.commits)} {names}".encode()).hexdigest()
        there.commits[commit], there.gated = dict(files), gated
        return commit

    def forget(self, repo: str) -> None:
        """Lose every commit of a repository but the newest, as after a rewrite of its history."""
        there = self._repositories[repo]
        there.commits = {there.newest: there.commits[there.newest]}

    def claim(self, repo: str, file: str, **told: Any) -> None:
        """Let the listing say this (`size`, `sha256`, `blobId`) of a file in place of the truth."""
        self._repositories[repo].told[file] = told

    def plan(self, about: str, *faults: Fault, then: Fault | None = None) -> None:
        """Give the next GETs of a file, or of a repository's listing, these faults; those after them `then`."""
        self._plans[about] = deque(faults), then

    def planned(self, about: str) -> int:
        """Return how many faults of a plan have not come up yet."""
        return len(self._plans[about][0]) if about in self._plans else 0

    # ---- what was asked of it

    def gets(self, about: str) -> list[Asked]:
        """Return the GETs of a file or listing, those that were redirected too."""
        return [asked for asked in self.asked if asked.about == about and asked.method == "GET"]

    def sent(self, *abouts: str) -> int:
        """Return the body bytes sent of these, or of all files there are."""
        files = {name for there in self._repositories.values() for kept in there.commits.values() for name in kept}
        return sum(asked.sent for asked in self.asked if asked.about in (abouts or files))

    def again(self, *abouts: str) -> int:
        """Return how many bytes of these files were sent more than once."""
        return sum(_covered_twice([(a.start, a.start + a.sent) for a in self.gets(about)]) for about in abouts)

    # ---- how it answers

    def answer(self, asked: Asked) -> Reply:
        """Return the answer to a request, with the fault that its plan holds for it."""
        with self._lock:
            self.asked.append(asked)
            reply, gate = self._on_cdn(asked) if asked.origin == "cdn" else self._on_hub(asked)
            fault = self._next_fault(asked.about, gate) if asked.method == "GET" else None
        if fault:
            asked.fault = fault.name
            fault.change(reply, asked)
        asked.status, asked.start = reply.status, reply.start
        return reply

    def _next_fault(self, about: str, gate: bool) -> Fault | None:
        faults, then = self._plans.get(about, (deque[Fault](), None))
        coming = faults[0] if faults else then
        if coming is None or (gate and not coming.gate):
            return None
        return faults.popleft() if faults else then

    def _on_cdn(self, asked: Asked) -> tuple[Reply, bool]:
        match = re.fullmatch(r"/lfs/(\w{64})/(.+)", urlsplit(asked.path).path)
        asked.about = unquote(match[2]) if match else ""
        kept = (files for there in self._repositories.values() for files in there.commits.values())
        contents = (files[asked.about] for files in kept if asked.about in files)
        content = next((c for c in contents if match and sha256(c) == match[1]), None)
        if content is None or not asked.path.endswith(f"?Signature={match[1][:16] if match else ''}"):
            return Reply(403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>"), False
        return ranged(content, f'"{hashlib.md5(content).hexdigest()}"', asked), False

    def _on_hub(self, asked: Asked) -> tuple[Reply, bool]:
        path = unquote(urlsplit(asked.path).path)
        if api := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            asked.about = api[1]
            return self._listing(api[1], api[2] or "revision", api[3] or "main", "blobs=true" in asked.path), False
        if file := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            asked.about = file[3]
            return self._file(file[1], file[2], asked)
        return _refusal(404, ""), False

    def _listing(self, repo: str, kind: str, revision: str, blobs: bool) -> Reply:
        there = self._repositories.get(repo)
        if there is None:
            return _refusal(401, "RepoNotFound", "Invalid username or password.")
        if (commit := there.find(revision)) is None:
            return _refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = [_sibling(name, data, there.told.get(name, {})) for name, data in there.commits[commit].items()]
        if kind == "tree":
            return _json([_entry(file) for file in files])
        if not blobs:
            files = [{"rfilename": file["rfilename"]} for file in files]
        gated = "auto" if there.gated else False
        return _json({"id": repo, "modelId": repo, "sha": commit, "private": False, "gated": gated, "siblings": files})

    def _file(self, repo: str, revision: str, asked: Asked) -> tuple[Reply, bool]:
        there = self._repositories.get(repo)
        if there is None:
            return _refusal(401, "RepoNotFound", "Invalid username or password."), True
        if there.gated and asked.token != f"Bearer {self.token}":
            return _refusal(403 if asked.token else 401, "GatedRepo", f"Access to model {repo} is restricted."), True
        if (commit := there.find(revision)) is None:
            return _refusal(404, "RevisionNotFound"), True
        if (content := there.commits[commit].get(asked.about)) is None:
            return _refusal(404, "EntryNotFound", "Entry not found"), True
        if not _large(asked.about, content):
            reply = ranged(content, f'"{_blob(content)}"', asked)
            reply.headers["X-Repo-Commit"] = commit
            return reply, False
        etag = f'"{sha256(content)}"'
        where = f"{self.cdn}/lfs/{sha256(content)}/{quote(asked.about)}?Signature={sha256(content)[:16]}"
        linked = {"ETag": etag, "X-Linked-ETag": etag, "X-Linked-Size": str(len(content)), "X-Repo-Commit": commit}
        return Reply(302, {**linked, "Location": where}, b"Found. Redirecting."), True


# ---- faults


def drop(at: int, *, reset: bool = False) -> Fault:
    """Break the connection after `at` bytes of the body."""

    def change(reply: Reply, _asked: Asked) -> None:
        reply.stop, reply.then = at, "reset" if reset else "close"

    return Fault("reset" if reset else "drop", change)


def stall(at: int = 0) -> Fault:
    """Send `at` bytes, and then nothing."""

    def change(reply: Reply, _asked: Asked) -> None:
        reply.stop, reply.then = at, "stall"

    return Fault("stall", change)


def short(by: int) -> Fault:
    """End the body `by` bytes early, with the headers agreeing."""

    def change(reply: Reply, _asked: Asked) -> None:
        reply.body = reply.body[: max(0, len(reply.body) - by)]
        if reply.status == 206:
            end = reply.start + len(reply.body) - 1
            reply.headers["Content-Range"] = f"bytes {reply.start}-{end}/{len(reply.whole)}"

    return Fault("short", change)


def long(by: int) -> Fault:
    """Add `by` bytes to the body, with Content-Length agreeing."""

    def change(reply: Reply, _asked: Asked) -> None:
        reply.body += b"\0" * by

    return Fault("long", change)


def flip(at: int) -> Fault:
    """Flip one bit of the file's byte `at` (counted round its end)."""

    def change(reply: Reply, _asked: Asked) -> None:
        if reply.body:
            body = bytearray(reply.body)
            body[at % len(body)] ^= 1
            reply.body = bytes(body)

    return Fault("flip", change)


def length(by: int) -> Fault:
    """Say a Content-Length that is `by` too large, or too small; the body stays whole, the connection ends."""

    def change(reply: Reply, _asked: Asked) -> None:
        reply.length, reply.then = max(0, len(reply.body) + by), "close"

    return Fault("length+" if by > 0 else "length-", change)


def whole() -> Fault:
    """Take no notice of a Range: 200 and all of the file."""

    def change(reply: Reply, asked: Asked) -> None:
        if reply.status == 206:
            fresh = ranged(reply.whole, reply.headers["ETag"], asked, heed=False)
            reply.status, reply.headers, reply.body, reply.start = fresh.status, fresh.headers, fresh.body, 0

    return Fault("whole", change)


def elsewhere(by: int) -> Fault:
    """Answer a Range with bytes from `by` before (or after) where it asked to begin, and say so."""

    def change(reply: Reply, _asked: Asked) -> None:
        if reply.status == 206:
            reply.start = min(max(0, reply.start - by), len(reply.whole) - 1)
            reply.body = reply.whole[reply.start :]
            reply.headers["Content-Range"] = f"bytes {reply.start}-{len(reply.whole) - 1}/{len(reply.whole)}"

    return Fault("elsewhere", change)


def misnamed(text: str) -> Fault:
    """Say this Content-Range over the bytes that were asked for."""

    def change(reply: Reply, _asked: Asked) -> None:
        if reply.status == 206:
            reply.headers["Content-Range"] = text

    return Fault("misnamed", change)


def replaced(content: bytes, *, etag: str = '"another"') -> Fault:
    """Serve another file under the name, ETag included."""

    def change(reply: Reply, asked: Asked) -> None:
        fresh = ranged(content, etag, asked)
        reply.status, reply.headers, reply.body = fresh.status, fresh.headers, fresh.body
        reply.start, reply.whole = fresh.start, content

    return Fault("replaced", change)


def retagged(etag: str = '"another"') -> Fault:
    """Change the ETag alone."""

    def change(reply: Reply, _asked: Asked) -> None:
        reply.headers["ETag"] = etag

    return Fault("retagged", change)


def status(number: int, code: str = "", *, retry_after: str | None = None, gate: bool = False) -> Fault:
    """Answer with a status, an X-Error-Code where one is given, and Retry-After where that is."""

    def change(reply: Reply, _asked: Asked) -> None:
        refusal = _refusal(number, code, "the fake hub says no")
        reply.status, reply.headers, reply.body, reply.start = number, refusal.headers, refusal.body, 0
        if retry_after is not None:
            reply.headers["Retry-After"] = retry_after
        if number == 416:
            reply.headers["Content-Range"] = f"bytes */{len(reply.whole)}"

    return Fault(str(number), change, gate)


def closed(*, gate: bool = False) -> Fault:
    """Close the connection before a single byte of an answer."""

    def change(reply: Reply, _asked: Asked) -> None:
        reply.status, reply.then = 0, "close"

    return Fault("closed", change, gate)


def slow(rate: float) -> Fault:
    """Send this many bytes a second."""

    def change(reply: Reply, _asked: Asked) -> None:
        reply.rate = rate

    return Fault("slow", change)


def zipped() -> Fault:
    """Send all of the file as Content-Encoding: gzip, whether that was asked for or not."""

    def change(reply: Reply, _asked: Asked) -> None:
        if reply.status in (200, 206):
            reply.body, reply.status, reply.start = gzip.compress(reply.whole), 200, 0
            reply.headers = {"Content-Encoding": "gzip", "ETag": 'W/"zipped"'}

    return Fault("gzip", change)


def chunked(at: int | None = None) -> Fault:
    """Send no Content-Length but chunks, of which the last is missing if the body stops `at` some byte."""

    def change(reply: Reply, _asked: Asked) -> None:
        reply.chunked = True
        if at is not None:
            reply.stop, reply.then = at, "close"

    return Fault("chunked", change)


def page(text: str = "<html><title>Sign in to this network</title></html>") -> Fault:
    """Answer 200 with somebody else's page, as networks with a sign-in do."""

    def change(reply: Reply, _asked: Asked) -> None:
        reply.status, reply.headers, reply.body, reply.start = 200, {"Content-Type": "text/html"}, text.encode(), 0

    return Fault("page", change)


def redirected(location: str, number: int = 302) -> Fault:
    """Send the client to another address; one that is the asked one again makes a loop."""

    def change(reply: Reply, asked: Asked) -> None:
        reply.status, reply.body, reply.start = number, b"", 0
        reply.headers = {"Location": location or asked.path}

    return Fault("redirected" if location else "loop", change, gate=True)


# ---- HTTP


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _blob(content: bytes) -> str:
    return hashlib.sha1(ETAG_OF_GIT.format(size=len(content)).encode() + content).hexdigest()


def _large(name: str, content: bytes) -> bool:
    return name.endswith(LFS_SUFFIXES) or len(content) >= LFS_FROM


def _sibling(name: str, content: bytes, told: Mapping[str, Any]) -> dict[str, Any]:
    size = told.get("size", len(content))
    entry = {"rfilename": name, "size": size, "blobId": told.get("blobId", _blob(content))}
    if _large(name, content):
        entry["lfs"] = {"size": size, "sha256": told.get("sha256", sha256(content)), "pointerSize": 135}
    return entry


def _entry(file: Mapping[str, Any]) -> dict[str, Any]:
    entry = {"type": "file", "path": file["rfilename"], "size": file["size"], "oid": file["blobId"]}
    if "lfs" in file:
        entry["lfs"] = {"oid": file["lfs"]["sha256"], "size": file["size"], "pointerSize": 135}
    return entry


def _json(value: object) -> Reply:
    body = json.dumps(value).encode()
    return Reply(200, {"Content-Type": "application/json; charset=utf-8"}, body, whole=body)


def _refusal(status: int, code: str, message: str = "") -> Reply:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    if code:
        headers |= {"X-Error-Code": code, "X-Error-Message": message}
    return Reply(status, headers, json.dumps({"error": message}).encode())


def ranged(content: bytes, etag: str, asked: Asked, *, heed: bool = True) -> Reply:
    """Return a file, or the range of it that was asked for: 200, 206 or 416."""
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.range or "")
    if not match or not heed or asked.if_range not in (None, etag):
        return Reply(200, headers, content, whole=content)
    start, end = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
    if start > end:
        return Reply(416, {**headers, "Content-Range": f"bytes */{len(content)}"}, whole=content)
    headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
    return Reply(206, headers, content[start : end + 1], start, whole=content)


def _covered_twice(spans: list[tuple[int, int]]) -> int:
    covered, end = 0, 0
    for first, last in sorted(spans):
        covered += max(0, last - max(first, end))
        end = max(end, last)
    return sum(last - first for first, last in spans) - covered


class _Server(ThreadingHTTPServer):
    """One origin, served by threads of its own until `end`."""

    request_queue_size = 64

    def __init__(self, hub: FakeHub, origin: str) -> None:
        self.hub, self.origin = hub, origin
        self._live: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), name=f"fake {origin}")
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * PIECE)  # accepted sockets have it too
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._live.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._live.discard(request)
        super().shutdown_request(request)

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        error = sys.exception()
        if error and not isinstance(error, OSError):  # a client that went away is no failure of ours
            self.hub.broken.append(error)

    def end(self) -> None:
        self.shutdown()
        self._thread.join()
        for request in list(self._live):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        headers = {name: self.headers.get(name) for name in ("Range", "If-Range", "Authorization")}
        asked = Asked(self.server.origin, self.command, self.path, "", *headers.values())
        reply = self.server.hub.answer(asked)
        if reply.then:
            self.close_connection = True
        if reply.status:
            self._head(reply)
            if self.command == "GET":
                self._body(reply, asked)
        if reply.then == "stall":
            self._stall()
        if reply.then == "reset":
            linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def _head(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(reply.body) if reply.length is None else reply.length))
        self.end_headers()

    def _body(self, reply: Reply, asked: Asked) -> None:
        for piece in self._pieces(reply):
            if reply.chunked:
                self.connection.sendall(b"%x\r\n" % len(piece))
            self._send(piece, asked)
            if reply.chunked:
                self.connection.sendall(b"\r\n")
            if self.server.hub.watch:
                self.server.hub.watch(asked)
        if reply.chunked and reply.stop is None:
            self.connection.sendall(b"0\r\n\r\n")

    def _pieces(self, reply: Reply) -> Iterator[bytes]:
        """Cut the body up, each piece when its time has come."""
        body = memoryview(reply.body)[: reply.stop]
        rate, began = reply.rate or self.server.hub.pace, time.monotonic()
        for start in range(0, len(body), PIECE):
            due = began + start / rate - time.monotonic() if rate else 0
            if due > 0 and self.server.hub.closing.wait(due):
                return
            yield bytes(body[start : start + PIECE])

    def _send(self, piece: bytes, asked: Asked) -> None:
        if asked.status not in (200, 206):
            self.connection.sendall(piece)
            return
        left = memoryview(piece)
        while left:
            asked.sent += len(left)  # before the client can have it
            count = 0
            try:
                count = self.connection.send(left)
            finally:
                asked.sent -= len(left) - count
            left = left[count:]

    def _stall(self) -> None:
        end = time.monotonic() + LONGEST_STALL
        while time.monotonic() < end and not self.server.hub.closing.is_set():
            if select.select([self.connection], [], [], 0.05)[0]:
                return  # the client gave up, and closed
