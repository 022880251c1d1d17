"""What a host does when a group of turns has been committed, or has not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from actors.activation import Activation
from actors.committer import Entry
from actors.saga import UNDO, UNWIND
from bus.envelope import Outgoing
from bus.errors import InvalidData, StorageUnavailable
from storage.journal import Does, Flush, JournalWrite
from storage.records import Mark, TurnRecord

if TYPE_CHECKING:
    from actors.host import Host

_logger = logging.getLogger("callboard.settling")

_LOOK_AGAIN_S = 0.2


class Settling:
    """Implements CommitEvents: messages of turns that are durable are published, and agents whose turns are not start
    again from committed state."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def committed(self, entries: Sequence[Entry], numbers: list[int | None] | None) -> None:
        host = self._host
        sends: list[Outgoing] = []
        reopened: list[Activation] = []
        for entry in entries:
            activation = entry.activation
            activation.uncommitted -= 1
            outcome = entry.outcome
            if not isinstance(outcome, Mark):
                for send in outcome.sends:
                    if send.visible_at is None:
                        sends.append(send)  # noqa: PERF401  # a comprehension is one more call
                if outcome.journal is not None:
                    self._journaled(activation, outcome.journal)
                if isinstance(outcome, TurnRecord):
                    if outcome.seq is not None:
                        self._handled(activation, outcome.seq)
                        if outcome.journal is not None and outcome.journal.does is Does.RESUME:
                            # One that has come in its place may have read what was committed before.
                            reopened.append(host.mailboxes.roster.find(activation.key) or activation)
                    if outcome.accepts:
                        self._tell_accepted(outcome)
                    if outcome.tasks or outcome.task_events:
                        host.on_task_events(outcome)
                        if entry.envelope.header.root is not None:  # somebody may wait for it
                            host.cycles.assigned(outcome)
            entry.settle(True)
        if numbers is None:
            host.outbound.skip({(send.domain, send.partition) for send in sends})
        elif sends:
            host.outbound.publish(zip(sends, numbers, strict=True))
        if reopened:  # an operator has given up an open turn: it runs again, from what is committed now
            self._start_again(reopened)

    def _tell_accepted(self, turn: TurnRecord) -> None:
        """Their numbers are not known here, nor which of them had been accepted before: their owners look."""
        self._host.outbound.skip({(message.domain, message.partition) for _, message in turn.accepts})

    def _journaled(self, activation: Activation, journal: JournalWrite) -> None:
        host = self._host
        if journal.promises or journal.given_up:
            host.cycles.committed(activation, journal)
        if journal.does in (Does.OPEN, Does.END):
            host.mailboxes.partitions.turn_opened_or_ended(activation)
        for seq in journal.consumed:
            activation.apart.discard(seq)
            self._handled(activation, seq)
        if journal.does is Does.END:
            activation.apart.discard(journal.seq)
            self._handled(activation, journal.seq)

    def _handled(self, activation: Activation, seq: int) -> None:
        self._host.mailboxes.handled(activation, seq)
        self._host.turns.refusals.forget(seq)

    def discarded(self, entries: Sequence[Entry], *, perhaps_committed: bool = False) -> None:
        host = self._host
        for entry in entries:
            activation = entry.activation
            activation.uncommitted -= 1
            if isinstance(entry.outcome, TurnRecord):
                host.mailboxes.forget(entry.envelope.seq)
            if perhaps_committed and not isinstance(entry.outcome, Mark):
                host.outbound.skip({(send.domain, send.partition) for send in entry.outcome.sends})
                if isinstance(entry.outcome, TurnRecord):
                    self._tell_accepted(entry.outcome)
            entry.settle(False)
        fallen = {id(a): a for a in map(self._must_start_again, entries) if a is not None}
        self._start_again(fallen.values())

    def _start_again(self, activations: Collection[Activation]) -> None:
        for activation in activations:
            self._host.mailboxes.drop(activation)
        if activations:
            self._host.committer.drop_dead()
        for activation in activations:
            self.restart(activation)

    def _must_start_again(self, entry: Entry) -> Activation | None:
        """The entry's activation, or the one that has come in its place while this commit was undecided: that one has
        left out the message, which was known here as one that is about to have been handled."""
        if entry.activation.alive or not isinstance(entry.outcome, TurnRecord):
            return entry.activation if entry.activation.alive else None
        return self._host.mailboxes.roster.find(entry.activation.key)

    def refused(self, entry: Entry, error: InvalidData) -> None:
        """The turn's data is refused for good: its message becomes a dead letter, the agent goes on."""
        host, activation = self._host, entry.activation
        activation.uncommitted -= 1
        _logger.error("a turn of %s cannot be stored: %s", activation.agent, error)
        seq, refusals = entry.envelope.seq, host.turns.refusals
        of_letter = isinstance(entry.outcome, TurnRecord) and entry.outcome.dead is not None
        if of_letter and refusals.is_of_letter(seq):  # not even the plain one can be stored
            host.mailboxes.drop(activation)
            host.end(f"Postgres refuses a dead letter: {error.message}")
            return
        of_undoing = isinstance(entry.outcome, Flush) and _undoes(entry.outcome)
        refusals.add(seq, error.message, of_undoing=of_undoing, of_letter=of_letter)
        host.mailboxes.forget(seq)
        host.mailboxes.drop(activation)
        host.committer.drop_dead()
        self.restart(activation)
        entry.settle(False)

    async def fenced(self) -> bool:
        """Look at what is still owned; the partitions that are not leave now, with all that is cached."""
        while True:
            try:
                return await self._host.holdings.refresh()
            except StorageUnavailable as error:
                _logger.warning("ownership cannot be read: %s", error.message)
                await asyncio.sleep(_LOOK_AGAIN_S)

    def restart(self, activation: Activation) -> None:
        """Bring an agent that was dropped back from committed state."""
        host = self._host
        if not host.has_ended and host.holdings.owns(activation.partition):
            host.mailboxes.restart(activation.tenant, activation.agent, activation.partition)


def _undoes(flush: Flush) -> bool:
    return any(entry.kind in (UNWIND, UNDO) for entry in flush.journal.entries)
