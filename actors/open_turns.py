"""The turns of one host that have a journal: begun by a call that records something, or read again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import msgspec

from actors.activation import Activation
from actors.blobs import Blobs, BlobsUnavailable
from actors.call_record import CALL, NOT_DONE
from actors.context import Context
from actors.inquiry import INTENT, intended
from actors.journal import Journal
from actors.ledger import Ledger
from actors.saga import COMPENSATE, UNDO, UNWIND, ending_of
from actors.scope import Scope
from actors.spending import spent
from actors.turn_edit import current
from actors.written import Written
from bus import faultpoints
from bus.envelope import UNREADABLE, Envelope, Outgoing, header_from_json
from bus.errors import InvalidMessage, InvalidPayload, StorageUnavailable, TaskCancelled
from bus.registry import first_line
from storage.journal import Flush, JournalWrite, StoredJournal
from storage.standing import Standing

# What is kept of a record that cannot be read.
_LEFT = (UNWIND, COMPENSATE, UNDO, INTENT, NOT_DONE, CALL)


class TurnHost(Protocol):
    """What a turn that waits needs of its host."""

    def flush(self, activation: Activation, envelope: Envelope, flush: Flush) -> Written:
        """Hand it to the group commit."""
        ...

    def waits(self, activation: Activation) -> None:
        """Every branch of the handler waits for a promise."""
        ...

    def runs(self, activation: Activation) -> None:
        """The handler goes on."""
        ...

    async def withdraw(self, activation: Activation, message: str) -> int | None:
        """Set a message that waits in the agent's mailbox apart, to be deleted; None when it waits there no more."""
        ...

    def give_back(self, activation: Activation, numbers: Sequence[int]) -> None:
        """Messages that were set apart are in the mailbox as before."""
        ...


class JournalReader(Protocol):
    async def load_journal(self, domain: str, tenant: str, agent: str) -> StoredJournal | None: ...

    async def promise_standing(self, domain: str, tenant: str, id_: str, by: str) -> Standing | None: ...


class OpenTurns:
    """Gives an activation the journal of its turn."""

    def __init__(
        self,
        scope: Scope,
        storage: JournalReader,
        blobs: Blobs,
        ledger: Ledger,
        host: TurnHost,
    ) -> None:
        self._scope = scope
        self._domain = scope.domain
        self._limits = scope.limits
        self._storage = storage
        self._host = host
        self.blobs = blobs
        self.ledger = ledger

    def begin_journal(self, ctx: Context, activation: Activation, envelope: Envelope) -> Journal:
        """The handler records something for the first time; raises InvalidMessage where it may not."""
        if envelope.is_control:
            raise InvalidMessage(
                "A control message's turn cannot wait.", fix="Send the agent a message instead."
            )
        activation.journal = self._journal(activation, envelope, ctx.now)
        why = activation.cancelled
        if why is not None:
            activation.journal.branches.end_early(lambda: TaskCancelled(why), children_first=True)
        return activation.journal

    async def reopen(self, activation: Activation, wake: Envelope) -> Envelope | None:
        """Prepare the turn that a wake-up is for, and return its message; None when no turn waits any more. Raises
        InvalidPayload when the wake-up or the turn cannot be read."""
        faultpoints.reached("wake.before")
        stored = await self.load(activation)
        if stored is None or stored.seq == activation.ended:  # whose end may be on its way to Postgres
            return None
        payload = wake.payload
        if wake.header.blob is not None:
            payload = await self.blobs.fetch(activation.tenant, wake.header.blob)
        envelope = Envelope(
            seq=stored.seq, tenant=activation.tenant, agent=activation.agent,
            header=header_from_json(stored.header_json), header_json=stored.header_json, payload=stored.payload,
            failures=stored.failures, trials=max(stored.trials, wake.trials), open=True,
        )  # fmt: skip
        journal = self._stored_journal(activation, envelope, stored)
        journal.settle(wake.seq, payload, wake.header.blob)
        activation.journal = journal
        return envelope

    async def resume(self, activation: Activation, envelope: Envelope) -> bool:
        """Read the journal of an open turn that runs again; False when the turn has ended meanwhile. Raises
        InvalidPayload when it cannot be read."""
        stored = await self.load(activation)
        if stored is None or stored.seq != envelope.seq:
            return False
        activation.journal = self._stored_journal(activation, envelope, stored)
        return True

    def close_journal(self, activation: Activation, journal: Journal) -> None:
        """This run of the turn is over. A wake-up that it has taken, and that no commit of it takes along, is for the
        next run; or for nobody, where the turn that it was for has ended: then it leaves the mailbox by itself."""
        journal.close()
        activation.journal = None
        if journal.wakes_left and activation.alive:
            self._host.give_back(activation, journal.wakes_left)

    async def withdraw(self, activation: Activation, message: str) -> int | None:
        """Set a message apart whose turn has not begun, and return its number; raises BlobsUnavailable."""
        return await self._host.withdraw(activation, message)

    async def load(self, activation: Activation) -> StoredJournal | None:
        """The journal of the agent's open turn; raises BlobsUnavailable."""
        try:
            return await self._storage.load_journal(self._domain, activation.tenant, activation.agent)
        except StorageUnavailable as error:
            raise BlobsUnavailable(error.message) from error

    async def standing(self, tenant: str, domain: str, promise: str, by: str) -> Standing | None:
        """What has become of a promise, and whether `by` may decide it; raises BlobsUnavailable."""
        try:
            return await self._storage.promise_standing(domain, tenant, promise, by)
        except StorageUnavailable as error:
            raise BlobsUnavailable(error.message) from error

    def _stored_journal(self, activation: Activation, envelope: Envelope, stored: StoredJournal) -> Journal:
        said = ending_of(stored.entries)
        is_left = said is not None and said.leaves  # it ends as it is, whatever it has recorded
        if envelope.header.type == UNREADABLE and not is_left:
            raise InvalidPayload("The header of an open turn cannot be read.")
        try:
            journal = self._journal(activation, envelope, stored.began_at, stored)
            # Read wherever the turn may go on or end: here they can be refused.
            _ = journal.saga.ending, intended(journal.entries)
        except (msgspec.MsgspecError, RecursionError, InvalidPayload) as error:
            if not is_left:
                raise InvalidPayload(
                    f"The record of an open turn cannot be read: {first_line(error)}."
                ) from None
            return self._journal(activation, envelope, stored.began_at, _without_record(stored))
        return journal

    def _journal(
        self,
        activation: Activation,
        envelope: Envelope,
        now: float,
        stored: StoredJournal | None = None,
    ) -> Journal:
        def flush(write: JournalWrite, sends: tuple[Outgoing, ...]) -> Written:
            part = Flush(
                tenant=activation.tenant, partition=activation.partition, agent=activation.agent, journal=write,
                sends=sends, spent=spent(self._scope, activation.tenant, envelope.header, sends, write),
            )  # fmt: skip
            return self._host.flush(activation, envelope, part)

        journal = Journal(
            envelope, now, flush, partial(self.blobs.fetch, activation.tenant), stored, activation.task,
            partition=activation.partition, most_entries=self._limits.journal_entries,
            most_bytes=self._limits.journal_bytes,
        )  # fmt: skip
        if envelope.header.task is not None:
            journal.branches.on_new = partial(
                self._scope.refuse_if_exhausted, activation.tenant, envelope.header
            )
        if self._scope.is_held(envelope):  # its task was paused since it began
            journal.branches.hold()
        journal.branches.on_waiting = partial(self._host.waits, activation)
        journal.branches.on_running = partial(self._host.runs, activation)
        return journal


def _without_record(stored: StoredJournal) -> StoredJournal:
    """Nothing but that the turn is given up, what does not undo it, and which calls may have acted: the rest is to end, and
    not to be read."""
    known = {entry.key for entry in stored.entries}
    left = [entry for entry in current(stored.entries).values() if entry.kind in _LEFT]
    return msgspec.structs.replace(
        stored,
        entries=tuple(sorted(left, key=lambda entry: entry.number)),
        promises=tuple(promise for promise in stored.promises if promise.key not in known),
    )
