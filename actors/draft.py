"""What of a turn's journal is not committed yet."""

from __future__ import annotations

from storage.journal import Does, JournalEntry, JournalWrite, PromiseWrite
from storage.ledger import CallVerdict, LedgerWrite


class Draft:
    """Gathers what one write takes along; `recorded` counts what the turn's row has once all writes have committed."""

    __slots__ = (
        "_began_at", "_recorded", "_seq", "_turn", "asks_done", "calls", "consumed", "done", "entries", "given_up", "promises",
        "verdicts",
    )  # fmt: skip

    def __init__(self, seq: int, turn: str, began_at: float, recorded: int) -> None:
        self._seq = seq
        self._turn = turn
        self._began_at = began_at
        self._recorded = recorded
        self._empty()

    def _empty(self) -> None:
        self.entries: list[JournalEntry] = []
        self.consumed: list[int] = []  # wake-ups, by their numbers
        self.promises: list[PromiseWrite] = []
        self.done: list[str] = []  # promises that are settled or let go
        self.given_up: dict[str, bool] = {}  # what has changed since the last write
        self.calls: list[LedgerWrite] = []
        self.verdicts: list[CallVerdict] = []
        self.asks_done = 0

    @property
    def is_dirty(self) -> bool:
        return bool(
            self.entries or self.consumed or self.promises or self.given_up
            or self.done or self.calls or self.verdicts
        )  # fmt: skip

    def take(self, does: Does) -> JournalWrite:
        """All of it, as one write; what comes now is for the next one."""
        write = JournalWrite(
            seq=self._seq, turn=self._turn, does=does, began_at=self._began_at, entries=tuple(self.entries),
            consumed=tuple(self.consumed), promises=tuple(self.promises), done=tuple(self.done),
            given_up=tuple(self.given_up.items()), calls=tuple(self.calls), recorded=self._recorded,
            verdicts=tuple(self.verdicts), asks_done=self.asks_done,
        )  # fmt: skip
        self._recorded += write.adds
        self._empty()
        return write
