"""What a schema leaves open: the allowed next tokens, and the runs that it forces.

llguidance keeps the state of one output. It takes a JSON Schema, or a grammar in its Lark dialect.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from engine.closing import Bytes, Closing, Hints
from engine.errors import SchemaError
from engine.schema import check_keywords, hints, to_blame

if TYPE_CHECKING:
    import numpy as np
    from llguidance._lib import JsonCompileOptions
    from numpy.typing import NDArray

# without whitespace_flexible=False every blank is a choice, and only the first bracket would be forced
_JSON_OPTIONS: JsonCompileOptions = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    # "\\u0061" for a name that the schema declares would be another property to llguidance, but the same one to JSON
    "json_allowed_escapes": '"\\bfnrt',
}
# where llguidance's messages name the keyword that is to blame
_KEYWORD = re.compile(r"Expected \w+(?: \w+)? for '(\w+)'|(?:Invalid|Unknown) (type|format)\b|^(type|oneOf)\b")


class Grammar:
    """A compiled-to-be grammar; `Grammar.json` and `Grammar.lark` make one. Raises `SchemaError`.

    `hints` help the search that closes a cut document.
    """

    def __init__(self, text: str, hints: Hints) -> None:
        if error := _error(text):
            raise SchemaError(f"the schema cannot be compiled: {_one_line(error)}", keyword=_keyword(error))
        self.text, self.hints = text, hints

    @classmethod
    def json(cls, schema: Mapping[str, Any]) -> Grammar:
        """Return the grammar of the JSON documents that `schema` allows.

        Raises `SchemaError` naming the keyword that cannot be kept.
        """
        try:
            text = _from_schema(schema)
            plain = json.loads(json.dumps(schema))
            check_keywords(plain)
            return cls(text, hints(plain))
        except (TypeError, ValueError, RecursionError) as error:
            raise SchemaError(f"the schema is not a JSON object: {error}") from None
        except SchemaError as error:
            # most messages of llguidance say what is wrong, but not with which keyword
            error.keyword = error.keyword or to_blame(plain, lambda less: not _error(_from_schema(less)))
            raise

    @classmethod
    def lark(cls, grammar: str) -> Grammar:
        """Return a grammar written in llguidance's Lark dialect."""
        from llguidance import LLMatcher

        return cls(LLMatcher.grammar_from_lark(grammar), Hints())


class Constraints:
    """The constraint engine of one vocabulary; it is slow to make, so there is one a model.

    `tokens` are the bytes of each id, control tokens marked by 0xFF; the two addresses are llama.cpp's vocabulary
    and its tokenize function.
    """

    def __init__(self, tokens: list[bytes], vocabulary: int, tokenize: int, eos: Iterable[int]) -> None:
        from llguidance import LLTokenizer

        self._letters = Bytes(tokens)
        self._tokenizer = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
            tokens=tokens, vocab_ptr=vocabulary, tokenize_fptr=tokenize, eos_token=list(eos)
        )

    def matcher(self, grammar: Grammar) -> Matcher:
        """Start one constrained output. Raises `SchemaError` if the grammar does not compile."""
        return Matcher(self._tokenizer, grammar, self._letters)


class Matcher:
    """The state of one constrained output."""

    def __init__(self, tokenizer: Any, grammar: Grammar, letters: Bytes) -> None:
        from llguidance import LLMatcher

        self._letters, self._hints = letters, grammar.hints

        # its warnings would go to stderr, with what the model wrote
        self._matcher = LLMatcher(tokenizer, grammar.text, log_level=0)
        self._matcher.compute_bitmask()  # a grammar that nothing can begin, such as {"$ref": "#"}, shows only here
        self._check()

    @property
    def done(self) -> bool:
        """Whether nothing more can follow."""
        return bool(self._matcher.is_stopped())

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Put every token that may not come next to minus infinity, in place; `logits` is (n_vocab,)."""
        import numpy as np

        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.unpackbits(bits, count=len(logits), bitorder="little")
        logits[allowed == 0] = -np.inf

    def accept(self, token: int) -> list[int]:
        """Take a chosen token; return the tokens that must follow it."""
        self._matcher.consume_token(token)
        self._check()
        return self.forced()

    def forced(self) -> list[int]:
        """Return the tokens that must come next, and take them."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        if tokens:
            self._matcher.consume_tokens(tokens)
        self._check()  # a limit reached here counts as stopped, and would pass for a finished output
        return tokens

    def closing(self, written: bytes) -> list[int] | None:
        """Return at most `closing.MOST_TOKENS` tokens that end the document `written`, or None if none were found.

        The state of the output stays as it is.
        """
        return Closing(self._letters, self._hints).close(self._matcher, written)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise SchemaError(f"the schema cannot be followed: {_one_line(self._matcher.get_error())}")


def _from_schema(schema: Mapping[str, Any]) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_JSON_OPTIONS)


def _error(grammar: str) -> str:
    """Return why a grammar cannot be compiled; empty if it can."""
    from llguidance import LLMatcher

    error = LLMatcher.validate_grammar(grammar)
    return "" if error.startswith("WARNING") else error


def _one_line(error: str) -> str:
    report = error.partition("<state>")[0]  # what follows holds the output so far
    return " ".join(report.split())[:300]


def _keyword(error: str) -> str | None:
    found = _KEYWORD.search(error)
    return next(filter(None, found.groups()), None) if found else None
