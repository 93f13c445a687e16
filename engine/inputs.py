"""What callers pass in, checked once and brought into one form. Nothing here is heavy and nothing here is logged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Literal

from engine.errors import InvalidInput

ROLES = ("system", "user", "assistant")
CATEGORIES = (
    "personal", "preference", "experience", "knowledge", "relationship", "goal", "health", "work",
)  # fmt: skip
Kind = Literal["fact", "preference", "event", "relationship"]
KINDS: tuple[Kind, ...] = ("fact", "preference", "event", "relationship")
TextKind = Literal["passage", "query"]  # what is found, and what is searched with
MAX_TEXT_BYTES = 256 * 1024  # one text that is embedded, classified or stored
Moment = datetime | date | str


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a dialogue; `at` is when it was said, if known."""

    role: str
    content: str
    name: str | None = None
    at: datetime | None = None


def check_text(text: object, what: str = "text", *, limit: int | None = MAX_TEXT_BYTES) -> str:
    """Return `text` if it is a usable string.

    Raises `TypeError` for another type, `InvalidInput` for an empty string, a NUL, a lone surrogate, or more
    than `limit` UTF-8 bytes.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, not {type(text).__name__}")
    if not text:
        raise InvalidInput(f"{what} is empty")
    if "\0" in text:
        raise InvalidInput(f"{what} holds a NUL character at position {text.index(chr(0))}; remove it")
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{what} holds half a character (a lone surrogate) at position {error.start}; "
            "decode the input with the right encoding"
        ) from None
    if limit is not None and size > limit:
        raise InvalidInput(f"{what} is {size:,} bytes long; the limit is {limit:,}. Split it.")
    return text


def check_texts(texts: object, what: str = "text") -> tuple[list[str], bool]:
    """Return `(list of checked texts, whether a single string was given)`."""
    if isinstance(texts, str):
        return [check_text(texts, what)], True
    if not isinstance(texts, Iterable):
        raise TypeError(f"{what} must be a str or an iterable of str, not {type(texts).__name__}")
    return [check_text(text, f"{what} {i}") for i, text in enumerate(texts)], False


def check_moment(value: Moment | None, what: str) -> datetime | None:
    """Return `value` as an aware datetime; naive times are local, a date is its midnight."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise InvalidInput(f"{what} is not an ISO date or time, such as 2026-03-05") from None
    if not isinstance(value, date):
        raise TypeError(f"{what} must be a datetime, a date or an ISO string, not {type(value).__name__}")
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    try:
        local = value.astimezone()  # by way of UTC, in which memories are kept
    except (OverflowError, OSError, ValueError):
        raise InvalidInput(f"{what} is outside the years this system can place in local time") from None
    return local if value.utcoffset() is None else value


def check_dialogue(
    dialogue: str | Sequence[Mapping[str, object]], *, limit: int | None = MAX_TEXT_BYTES
) -> tuple[Turn, ...]:
    """Return the turns of a dialogue; a string is one user turn. Raises `TypeError` or `InvalidInput`."""
    if not isinstance(dialogue, Sequence):
        raise TypeError(f"a dialogue is a str or a list of messages, not {type(dialogue).__name__}")
    if isinstance(dialogue, str):
        return (Turn("user", check_text(dialogue, "message", limit=limit)),)
    if not dialogue:
        raise InvalidInput("the dialogue has no messages")
    return tuple(_turn(message, i, limit) for i, message in enumerate(dialogue))


def _turn(message: Mapping[str, object], i: int, limit: int | None) -> Turn:
    if not isinstance(message, Mapping):
        raise TypeError(f"message {i} must be a dict with role and content, not {type(message).__name__}")
    unknown = set(message) - {"role", "content", "name", "at"}
    if unknown:
        raise InvalidInput(f"message {i} has an unknown key {min(map(str, unknown))!r}")
    missing = {"role", "content"} - set(message)
    if missing:
        raise InvalidInput(f"message {i} has no {min(missing)!r}")
    role, name, at = message["role"], message.get("name"), message.get("at")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidInput(f"the role of message {i} must be one of {', '.join(ROLES)}")
    if at is not None and not isinstance(at, (date, str)):
        raise TypeError(f"at of message {i} must be a datetime, a date or an ISO string")
    return Turn(
        role=ROLES[ROLES.index(role)],  # a plain str, also for an enum's member
        content=check_text(message["content"], f"content of message {i}", limit=limit),
        name=None if name is None else check_text(name, f"name of message {i}", limit=limit),
        at=check_moment(at, f"at of message {i}"),
    )
