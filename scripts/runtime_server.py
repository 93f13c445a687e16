"""An OpenAI-compatible server on this machine as a side of the runtime comparison."""

from __future__ import annotations

import ipaddress
import json
import time
import urllib.request
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from runtime_sides import EXTRACTED_TOKENS, LABEL_TOKENS, Answer, at_once
from runtime_texts import EXTRACTED, LABEL, Messages, classification, extraction


class RefusedServer(Exception):
    """The server may not be asked, or does not answer; the message says why."""


class Server:
    """An OpenAI-compatible server on this machine."""

    def __init__(self, url: str) -> None:
        self._url = checked(url)
        # no proxy, and no way to be sent to another host
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay())

    @cached_property
    def model(self) -> str:
        """The first model that the server names."""
        with self._open("models", None) as answer:
            return str(json.load(answer)["data"][0]["id"])

    def chat(self, messages: Messages, tokens: int) -> Answer:
        """Answer; the first token is there when its piece arrives."""
        return self._answer(messages, tokens)

    def document(self, messages: Messages, schema: dict[str, Any], tokens: int) -> Answer:
        """Answer as the schema says."""
        return self._answer(messages, tokens, schema)

    def extract(self, text: str) -> float:
        """Return how long our prompt takes under a schema of the same form."""
        return self.document(extraction(text), EXTRACTED, EXTRACTED_TOKENS).seconds

    def classify(self, text: str) -> float:
        """Return how long our prompt takes under a schema of the eight labels."""
        return self.document(classification(text), LABEL, LABEL_TOKENS).seconds

    def together(self, conversations: Sequence[Messages], tokens: int) -> tuple[float, int]:
        """Return how long answers asked for at once take, and the tokens written."""
        return at_once(self.chat, conversations, tokens)

    def _answer(self, messages: Messages, tokens: int, schema: dict[str, Any] | None = None) -> Answer:
        asked = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
        }
        if schema is not None:
            named = {"name": "document", "strict": True, "schema": schema}
            asked["response_format"] = {"type": "json_schema", "json_schema": named}
        began, first, pieces = time.perf_counter(), 0.0, []
        with self._open("chat/completions", asked) as answer:
            for piece in events(answer):
                first = first or time.perf_counter() - began
                pieces.append(piece)
        spent = time.perf_counter() - began
        return Answer("".join(pieces), first or spent, spent, len(pieces))

    def _open(self, path: str, asked: dict[str, Any] | None) -> Any:
        data = None if asked is None else json.dumps(asked).encode()
        request = urllib.request.Request(f"{self._url}/v1/{path}", data, {"Content-Type": "application/json"})
        try:
            return self._opener.open(request, timeout=600)
        except OSError as error:
            raise RefusedServer(f"{self._url}/v1/{path}: {error}") from None


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: an answer of another host is none."""

    def redirect_request(self, *_: object) -> None:
        return None


def checked(url: str) -> str:
    """Return a server's address without a slash at its end. Raises `RefusedServer` unless it is on loopback."""
    parts = urlsplit(url)
    try:
        here = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        here = False
    if parts.scheme != "http" or not here:
        raise RefusedServer(f"{url} is not on this machine; start the server here and name http://127.0.0.1:PORT.")
    return url.rstrip("/").removesuffix("/v1")


def events(lines: Iterator[bytes]) -> Iterator[str]:
    """Yield the pieces of a streamed answer."""
    for line in lines:
        if not line.startswith(b"data:") or line.strip() == b"data: [DONE]":
            continue
        for choice in json.loads(line[5:]).get("choices", ()):
            if piece := choice.get("delta", {}).get("content"):
                yield piece
