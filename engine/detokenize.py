"""Token ids → text that may be shown: whole characters only, and never a part of a stop string."""

from __future__ import annotations

import codecs


class TextStream:
    """Turns the bytes of tokens into pieces whose sum is the text.

    A character is held back until all its bytes are there, and the end of the text as long as a stop string could
    begin in it. `stopped` is true once a stop string came; it and what follows are not part of the text.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = stop
        self._held = ""
        self.stopped = False

    def push(self, data: bytes) -> str:
        """Take the bytes of the next token; return what may be shown now."""
        if self.stopped:
            return ""
        text = self._held + self._decoder.decode(data)
        # the first to be complete wins, else the text would depend on where the model cut its tokens
        ends = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)[1]]
        shown = len(text) - self._may_begin_stop(text)
        self._held = text[shown:]
        return text[:shown]

    def end(self) -> str:
        """Return what was held back; the bytes of an unfinished character are dropped."""
        rest, self._held = self._held, ""
        return rest

    def _may_begin_stop(self, text: str) -> int:
        lengths = (n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n]))
        return max(lengths, default=0)
