"""Messages → token ids. What anyone typed is text and can never become a control token.

A chat template is rendered with a random mark in place of each content. Control tokens are then looked for in what
the template itself wrote; everything between two of them, scaffold text and contents joined, is tokenised in one
call in which control words are ordinary text. For contents without control words the ids are exactly those of the
template's own rendering.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import ConfigError, ContextOverflow, InvalidInput

if TYPE_CHECKING:
    from engine.inputs import Turn

_MARK = "m[0-9a-f]{32}"  # no hexadecimal digit is an m, so that what stands before a mark cannot blur it
_LETTER = re.compile(".", re.DOTALL)
_C_SPACE = " \t\n\v\f\r"  # what llama.cpp's isspace takes for white space


class Vocabulary(Protocol):
    """What a prompt needs to know of a model's tokens."""

    bos: int
    add_bos: bool

    @property
    def control(self) -> dict[str, int]: ...
    @property
    def user_defined(self) -> dict[str, int]: ...
    @property
    def eos(self) -> int: ...
    @property
    def longest_piece(self) -> int: ...
    def tokenize(self, text: str, *, special: bool = False) -> list[int]: ...
    def strips(self, token: int) -> tuple[bool, bool]: ...
    def text(self, token: int) -> str: ...


@dataclass(frozen=True, slots=True)
class _Mark:
    """A content as the template sees it: its own white space around a random word."""

    word: str
    core: str
    shown: str

    @classmethod
    def of(cls, content: str) -> _Mark:
        core = content.strip()
        if not core:  # nothing to forge with, and a template may trim around it
            return cls("", "", content)
        word = f"m{secrets.token_hex(16)}"  # _MARK finds it
        lead = content[: len(content) - len(content.lstrip())]
        tail = content[len(lead) + len(core) :]
        return cls(word, core, lead + word + tail)


class ChatTemplate:
    """One model's jinja template over its vocabulary. Raises `ConfigError` if the template cannot be compiled."""

    def __init__(self, vocabulary: Vocabulary, source: str, args: Mapping[str, Any] | None = None) -> None:
        self._vocabulary = vocabulary
        self._args = dict(args or {})
        self._template = _compile(source)

    def encode(self, turns: Sequence[Turn], *, limit: int | None = None) -> list[int]:
        """Return the ids of a conversation, ready for the assistant to answer.

        Raises `ContextOverflow` where `turns` cannot fit `limit` tokens whatever they hold, `InvalidInput` where
        the template refuses their order, and `ConfigError` where it changes what a message says.
        """
        if limit is not None:
            self._check_size(turns, limit)
        shown = [_Mark.of(turn.content) for turn in turns]
        rendered = self._render([(turn.role, mark.shown) for turn, mark in zip(turns, shown, strict=True)])
        marks = [mark for mark in shown if mark.word]
        _check_whole(rendered, marks)
        ids = [token for part in self._parts(rendered, marks) for token in self._ids(part)]
        return self._with_bos(ids)

    def render(self, turns: Sequence[Turn]) -> str:
        """Return the template's own rendering, contents included."""
        return self._render([(turn.role, turn.content) for turn in turns])

    def _check_size(self, turns: Sequence[Turn], limit: int) -> None:
        """Refuse what cannot fit before tokenising it, which is slow for megabytes."""
        size = sum(len(turn.content.encode()) for turn in turns)
        least = -(-size // self._vocabulary.longest_piece)
        if least > limit:
            raise ContextOverflow(least, limit, at_least=True)

    def _render(self, messages: Iterable[tuple[str, str]]) -> str:
        from jinja2 import TemplateError

        vocabulary = self._vocabulary
        tokens = {"bos_token": vocabulary.bos, "eos_token": vocabulary.eos}
        texts = {name: vocabulary.text(token) if token >= 0 else "" for name, token in tokens.items()}
        try:
            text: str = self._template.render(
                {
                    **texts,
                    **self._args,
                    "messages": [{"role": role, "content": content} for role, content in messages],
                    "add_generation_prompt": True,
                }
            )
            return text
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            raise InvalidInput(
                f"the model's chat template refuses this conversation ({type(error).__name__}); most templates want "
                "an optional system message first, then user and assistant in turn, the user last."
            ) from None

    def _parts(self, rendered: str, marks: Sequence[_Mark]) -> Iterator[_Run | int]:
        """Split a rendering into control tokens and the runs of text between them."""
        cores = {mark.word: mark.core for mark in marks}
        run, swallow = _Run(), False
        for piece in self._splitter.split(rendered):
            if piece in cores:
                run.add(cores[piece], typed=True)
            elif piece in self._vocabulary.control:
                token = self._vocabulary.control[piece]
                left, right = self._vocabulary.strips(token)
                yield run.stripped(swallow, left)
                yield token
                run, swallow = _Run(), right
            else:
                run.add(piece, typed=False)
        yield run.stripped(swallow, False)

    @cached_property
    def _splitter(self) -> re.Pattern[str]:
        # compiled once: Llama 3 has 256 control words
        words = sorted(self._vocabulary.control, key=len, reverse=True)
        return re.compile("(" + "|".join([_MARK, *map(re.escape, words)]) + ")")

    def _ids(self, part: _Run | int) -> list[int]:
        if isinstance(part, int):
            return [part]
        ids = self._joined(part.cut_at(self._user_defined))
        if self._control_ids.isdisjoint(ids):
            return ids
        # SentencePiece merges into any entry: if the halves of a control word are tokens, so becomes the word
        return self._joined(part.cut_at(_LETTER))

    def _joined(self, pieces: Sequence[str]) -> list[int]:
        """Tokenise a run piece by piece; SentencePiece would put a space before every piece."""
        ids = self._vocabulary.tokenize(pieces[0]) if pieces else []
        lead = self._vocabulary.tokenize("\n") if len(pieces) > 1 else []
        for piece in pieces[1:]:
            led = self._vocabulary.tokenize("\n" + piece)
            ids += led[len(lead) :] if led[: len(lead)] == lead else self._vocabulary.tokenize(piece)
        return ids

    @cached_property
    def _control_ids(self) -> frozenset[int]:
        return frozenset(self._vocabulary.control.values())

    @cached_property
    def _user_defined(self) -> re.Pattern[str] | None:
        # runs of white space and single letters are user-defined in some vocabularies: harmless, and left whole
        words = [word for word in self._vocabulary.user_defined if len(word.strip(" \t\r\n▁")) > 1]
        longest_first = sorted(words, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first))) if words else None

    def _with_bos(self, ids: list[int]) -> list[int]:
        bos = self._vocabulary.bos
        return [bos, *ids] if self._vocabulary.add_bos and bos >= 0 and ids[:1] != [bos] else ids


def _check_whole(rendered: str, marks: Sequence[_Mark]) -> None:
    """Refuse a rendering that holds a changed or shortened mark: its message would be lost without a word."""
    lowered = rendered.lower()
    for mark in marks:
        if any(lowered.count(part) != rendered.count(mark.word) for part in (mark.word[:12], mark.word[-12:])):
            raise ConfigError(
                "the model's chat template changes what a message says (its case or its length), which cannot be done "
                "safely; set chat_template of its entry in models.toml to one that does not."
            )


class _Run:
    """Text between two control tokens, and which parts of it were typed by someone."""

    def __init__(self) -> None:
        self.text = ""
        self._typed: list[tuple[int, int]] = []

    def add(self, text: str, *, typed: bool) -> None:
        if typed:
            self._typed.append((len(self.text), len(self.text) + len(text)))
        self.text += text

    def stripped(self, left: bool, right: bool) -> _Run:
        """Return this run without the white space that a neighbouring token swallows."""
        if not left and not right:
            return self
        run = _Run()
        start = len(self.text) - len(self.text.lstrip(_C_SPACE)) if left else 0
        run.text = self.text[start:].rstrip(_C_SPACE) if right else self.text[start:]
        run._typed = [(begin - start, end - start) for begin, end in self._typed]  # a core begins with no space
        return run

    def cut_at(self, literals: re.Pattern[str] | None) -> list[str]:
        """Split after the first character of each user-defined literal that reaches into typed text.

        llama.cpp parses such literals in any text; half a literal is ordinary text.
        """
        cuts, at = [], 0
        while literals and (found := literals.search(self.text, at)):
            at = found.start() + 1
            if any(found.start() < end and begin < found.end() for begin, end in self._typed):
                cuts.append(at)
        return [self.text[i:j] for i, j in zip([0, *cuts], [*cuts, len(self.text)], strict=True) if i < j]


def _compile(source: str) -> Any:
    from jinja2 import TemplateSyntaxError
    from jinja2.exceptions import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: object, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = to_json
    try:
        return environment.from_string(source)
    except (TemplateSyntaxError, SyntaxError, RecursionError) as error:  # Python's own: it is nested too deeply
        raise ConfigError(f"the model's chat template cannot be compiled: {error.args[0]}") from None
