"""Messages of which Postgres refuses something for its data: no further try would be better, so they are given up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """`words` are those of Postgres. Beside the turn it may be about its undoing, which is then left, and about the dead
    letter, which then says as little as it can."""

    words: str
    of_undoing: bool
    of_letter: bool


class Refusals:
    """By the messages' numbers, until they have left their mailboxes."""

    def __init__(self) -> None:
        self._known: dict[int, Refusal] = {}

    def of(self, seq: int) -> Refusal | None:
        return self._known.get(seq)

    def is_of_letter(self, seq: int) -> bool:
        known = self._known.get(seq)
        return known is not None and known.of_letter

    def add(self, seq: int, words: str, *, of_undoing: bool, of_letter: bool) -> None:
        """What was refused before is not tried again either."""
        known = self._known.get(seq)
        if known is not None:
            of_undoing, of_letter = of_undoing or known.of_undoing, of_letter or known.of_letter
        self._known[seq] = Refusal(words=words, of_undoing=of_undoing, of_letter=of_letter)

    def taken(self, seq: int) -> None:
        """The message is given up for it. Should that not commit, and nothing but the turn was refused, the turn may be
        another one when it runs again."""
        known = self._known.get(seq)
        if known is not None and not (known.of_undoing or known.of_letter):
            del self._known[seq]

    def forget(self, seq: int) -> None:
        if self._known:
            self._known.pop(seq, None)

    def __len__(self) -> int:
        return len(self._known)
