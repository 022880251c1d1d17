"""Text of a growing sequence of tokens: only whole characters, up to a stop, and nothing that may be the beginning of one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

_UNFINISHED = "\ufffd"  # what the first bytes of a character are written as
_CONTEXT = 8  # tokens before the new ones: some tokenizers write a space by what comes before it


class GrowingText:
    """`text_of` is the tokenizer's. `stopped` once a stop was met; it is not part of the text."""

    def __init__(self, text_of: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        self._text_of = text_of
        self._stops = stops
        # How many tokens the known text had, each time that it grew: never a part of a character.
        self._known = deque([0])
        self._waiting = ""  # may be the beginning of a stop
        self.stopped = False

    def grow(self, tokens: Sequence[int], *, ended: bool = False) -> str:
        """What can be said now, of all `tokens` so far."""
        if self.stopped:
            return ""
        self._waiting += self._new_text(tokens, ended)
        places = [at for at in map(self._waiting.find, self._stops) if at >= 0]
        if places:
            self.stopped = True
            return self._waiting[: min(places)]
        kept = 0 if ended else self._may_begin_a_stop()
        said, self._waiting = (
            self._waiting[: len(self._waiting) - kept],
            self._waiting[len(self._waiting) - kept :],
        )
        return said

    def _new_text(self, tokens: Sequence[int], ended: bool) -> str:
        start, read = self._known[0], self._known[-1]
        known = self._text_of(tokens[start:read])
        text = self._text_of(tokens[start:])
        if text.endswith(_UNFINISHED) and not ended:
            return ""
        self._known.append(len(tokens))
        while self._known[1] <= len(tokens) - _CONTEXT:
            self._known.popleft()
        return text[len(known) :]

    def _may_begin_a_stop(self) -> int:
        """How many characters at the end."""
        return max(
            (
                length
                for stop in self._stops
                for length in range(1, min(len(stop), len(self._waiting) + 1))
                if self._waiting.endswith(stop[:length])
            ),
            default=0,
        )
