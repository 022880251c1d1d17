"""Faults planted into the product, to prove that the harness sees them. Never used but by its own tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

FENCE_OFF = """
create or replace function require_fence(p_domain text, p_epoch bigint, p_partitions int[]) returns void
language plpgsql as $$ begin end $$;
"""

# The group commit no longer minds when a message that it consumes is not there.
DEDUPLICATION_OFF = """
do $$
declare
  source text := pg_get_functiondef('commit_turns'::regproc);
  without text := replace(source, 'if changed <> cardinality(c_seq) then', 'if false then');
begin
  if source = without then raise 'commit_turns has changed: plant this fault anew'; end if;
  execute without;
end $$;
"""

# A reply is delivered although its promise was settled before.
CAS_OFF = """
do $$
declare
  source text := pg_get_functiondef('settle_replies'::regproc);
  without text := replace(source, 'and p.status = ''pending'' and', 'and');
begin
  if source = without then raise 'settle_replies has changed: plant this fault anew'; end if;
  execute without;
end $$;
"""

# Whoever writes to an open turn's journal need not know what is recorded there.
COUNT_OFF = """
do $$
declare
  source text := pg_get_functiondef('commit_journal'::regproc);
  without text := replace(source, 't.ctid = o.place and t.recorded = o.recorded', 't.ctid = o.place');
  alone text := pg_get_functiondef('commit_step'::regproc);
  alone_without text := replace(alone, ' and recorded = p_recorded', '');
begin
  if source = without or alone = alone_without then raise 'the commits have changed: plant this fault anew'; end if;
  execute without;
  execute alone_without;
end $$;
"""

# A decision counts although there is one.
DECIDED_AGAIN = """
do $$
declare
  source text := pg_get_functiondef('settle_promise'::regproc);
  without text := replace(source, 'and p.status = ''pending''', '');
begin
  if source = without then raise 'settle_promise has changed: plant this fault anew'; end if;
  execute without;
end $$;
"""

PLANTED_SQL = {
    "decided_again": DECIDED_AGAIN,
    "fence_off": FENCE_OFF,
    "deduplication_off": DEDUPLICATION_OFF,
    "settled_again": CAS_OFF,
    "flushed_again": COUNT_OFF,
}


def plant(names: list[str]) -> None:
    """Change the product's code in this process."""
    for name in names:
        PLANTED[name]()


class _Forgetful(dict[int, None]):
    """Remembers no message."""

    def __setitem__(self, key: int, value: None) -> None:
        pass

    def __delitem__(self, key: int) -> None:
        pass


def _deduplication_off() -> None:
    from actors.mailboxes import Mailboxes

    make = Mailboxes.__init__

    def forgetful(self: Any, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        self.books.seen = _Forgetful()

    Mailboxes.__init__ = forgetful  # type: ignore[method-assign]


def _publish_before_commit() -> None:
    """Of one commit in three the messages are published before it is there. (Of all: then each waits for the slow
    sweep, and there is little that the lost ones could be overtaken by.)"""
    from actors.host import Host
    from actors.settling import Settling
    from storage.postgres import PostgresStore

    hosts: list[Host] = []
    commits = 0  # one is in flight at a time
    make = Host.__init__
    commit = PostgresStore.commit
    committed = Settling.committed

    def known(self: Any, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        hosts.append(self)

    class Early:
        """A connection that publishes what a statement is about to commit."""

        def __init__(self, connection: Any, sends: list[Any]) -> None:
            self._connection = connection
            self._sends = sends

        async def fetchrow(self, *arguments: Any) -> Any:
            async with self._connection.transaction():
                row = await self._connection.fetchrow(*arguments)
                delivered = zip(self._sends, row["numbers"] or [], strict=True)
                hosts[0].outbound.publish((s, number) for s, number in delivered if number is not None)
                await asyncio.sleep(0.01)
            return row

    async def early(self: Any, fence: Any, writes: Any, marks: Any) -> Any:
        nonlocal commits
        commits += 1
        if commits % 3:
            return await commit(self, fence, writes, marks)
        sends = [s for write in writes for s in write.sends if s.visible_at is None]
        connect = type(self)._commit_connection

        async def connection() -> Any:
            return Early(await connect(self), sends)

        self._commit_connection = connection
        try:
            return await commit(self, fence, writes, marks)
        finally:
            del self._commit_connection

    def silent(self: Any, entries: Any, numbers: Any) -> None:
        if commits % 3:
            committed(self, entries, numbers)
            return
        outbound = self._host.outbound
        outbound.publish = lambda sends: None
        try:
            committed(self, entries, numbers)
        finally:
            del outbound.publish

    Host.__init__ = known  # type: ignore[method-assign]
    Settling.committed = silent  # type: ignore[method-assign]
    PostgresStore.commit = early  # type: ignore[method-assign]


def _no_reload() -> None:
    from actors.inbound import Inbox
    from actors.outbound import Outbound

    def deliver_whatever_comes(self: Any, parcel: Any) -> bool:
        self._deliver(self.partition, parcel.items)
        return True

    Inbox._deliver_next = deliver_whatever_comes  # type: ignore[method-assign]
    Outbound.skip_everywhere = lambda self: None  # type: ignore[method-assign]


def _no_reload_after_a_hand_over() -> None:
    """A host that gets partitions while it works does not read what came to their former owner."""
    from actors.holdings import Holdings

    open_ = Holdings._open
    working: set[Any] = set()

    async def unread(self: Any, holdings: dict[int, Any], suspect: frozenset[int]) -> None:
        if self in working:
            for holding in holdings.values():
                inbox = holding.inbox
                inbox.read_again = lambda: None
                inbox._deliver_next = lambda parcel, inbox=inbox: (
                    inbox._deliver(inbox.partition, parcel.items) or True
                )
        working.add(self)
        await open_(self, holdings, suspect)

    Holdings._open = unread  # type: ignore[method-assign]


def _order_of_arrival() -> None:
    from actors.activation import Activation

    Activation.insert = lambda self, envelope: self.queue.append(envelope)  # type: ignore[method-assign]


def _cursor_runs_ahead() -> None:
    """Some events are passed over: the cursor moves, and nothing is accepted."""
    from storage.postgres import PostgresStore
    from storage.records import EventBatch

    accept_events = PostgresStore.accept_events
    batches = 0

    async def forgetful(self: Any, fence: Any, cursor: Any, batch: Any) -> dict[str, int]:
        nonlocal batches
        batches += 1
        if batches % 5 == 0:
            batch = EventBatch(keys=[], messages=[], dead=[])
        return await accept_events(self, fence, cursor, batch)

    PostgresStore.accept_events = forgetful  # type: ignore[method-assign]


def _assigned_twice() -> None:
    """The task's row is not marked when the task is handed over, nor is its agent told only once."""
    from coordinators.tasks import assign
    from storage.intake import Incoming

    async def unmarked(*arguments: Any, **options: Any) -> None:
        pass

    assign.hand_over_task = unmarked  # type: ignore[attr-defined]
    assign.Incoming = lambda **fields: Incoming(**fields | {"key": None})  # type: ignore[attr-defined, assignment]


def _wake_ups_stay() -> None:
    """What a wake-up has brought is committed, and it stays in the mailbox."""
    import msgspec

    from actors.draft import Draft

    take = Draft.take

    def without(self: Any, does: Any) -> Any:
        return msgspec.structs.replace(take(self, does), consumed=())

    Draft.take = without  # type: ignore[method-assign]


def _sent_again() -> None:
    """A turn that runs again sends what it has sent already."""
    from actors.entries import Entries

    Entries.replayed_send = lambda self, place, to, wire_name: None  # type: ignore[method-assign]


def _steps_computed_again() -> None:
    """A turn that runs again computes its steps anew, and records them once more."""
    from actors.entries import STEP
    from actors.journal import Journal

    recorded = Journal.recorded

    def forgetful(self: Any, place: str, kind: str, name: str, **how: Any) -> Any:
        entry = recorded(self, place, kind, name, **how)
        return None if kind == STEP else entry

    Journal.recorded = forgetful  # type: ignore[method-assign]


def _flushed_again() -> None:
    """What a turn has flushed is flushed once more, as by a second run of it."""
    from actors.committer import Committer, Entry
    from storage.journal import Does, Flush, JournalWrite

    submit = Committer.submit

    def twice(self: Any, entry: Any) -> None:
        submit(self, entry)
        write = entry.outcome
        if not isinstance(write, Flush) or not write.journal.entries or entry.written is None:
            return
        journal = write.journal
        same = JournalWrite(
            seq=journal.seq,
            turn=journal.turn,
            does=Does.GO,
            recorded=journal.recorded,
            entries=journal.entries,
        )
        again = Flush(tenant=write.tenant, partition=write.partition, agent=write.agent, journal=same)
        entry.written.then(lambda: submit(self, Entry(entry.activation, entry.envelope, again)))

    Committer.submit = twice  # type: ignore[method-assign]


def _intent_ignored() -> None:
    """Whoever finds the intent of another host without an outcome makes the call once more."""
    from actors.inquiry import Inquiry

    look = Inquiry.look

    async def ruled_out(self: Any, attempt: int, intent: Any, why: str) -> Any:
        if self.is_ruled_out(attempt) or intent.epoch == self._turn._ledger.epoch:
            return await look(self, attempt, intent, why)
        self._record.rule_out(attempt, "null")
        return None

    Inquiry.look = ruled_out  # type: ignore[method-assign]


def _key_forgotten() -> None:
    """An idempotent call that is made again has another key."""
    from actors.effects import Call
    from bus.envelope import new_id

    recorded = Call._recorded_intent

    def forgetful(self: Any, attempt: int) -> Any:
        intent = recorded(self, attempt)
        self._record.id = new_id()
        return intent

    Call._recorded_intent = forgetful  # type: ignore[method-assign]


def _wall_clock() -> None:
    """Database time is counted on by the machine's time of day."""
    import time

    from actors.scope import Clock

    def now(self: Any) -> float:
        return float(time.time() + self._offset)

    def correct(self: Any, database_now: float) -> None:
        self._offset = database_now - time.time()

    Clock.now = now  # type: ignore[method-assign]
    Clock.correct = correct  # type: ignore[method-assign]


def _undone_never() -> None:
    """A turn that is given up has nothing to undo."""
    from actors.saga import Saga

    def compensations(self: Any) -> list[Any]:
        return []

    Saga.in_order = compensations  # type: ignore[method-assign]


def _gone_at_once() -> None:
    """A host whose epoch has ended is taken to be gone, although it may only be frozen."""
    from actors.ledger import Ledger

    async def is_gone(self: Any, epoch: int) -> bool:
        return True

    Ledger.is_gone = is_gone  # type: ignore[method-assign]


PLANTED: dict[str, Callable[[], None]] = {
    "intent_ignored": _intent_ignored,
    "key_forgotten": _key_forgotten,
    "gone_at_once": _gone_at_once,
    "undone_never": _undone_never,
    "decided_again": lambda: None,  # in the database
    "wall_clock": _wall_clock,
    "settled_again": lambda: None,  # in the database
    "wake_ups_stay": _wake_ups_stay,
    "sent_again": _sent_again,
    "steps_computed_again": _steps_computed_again,
    "flushed_again": _flushed_again,
    "flushed_in_vain": _flushed_again,  # and the database refuses it
    "fence_off": lambda: None,  # in the database
    "deduplication_off": _deduplication_off,
    "publish_before_commit": _publish_before_commit,
    "no_reload": _no_reload,
    "no_reload_after_a_hand_over": _no_reload_after_a_hand_over,
    "order_of_arrival": _order_of_arrival,
    "cursor_runs_ahead": _cursor_runs_ahead,
    "assigned_twice": _assigned_twice,
}
