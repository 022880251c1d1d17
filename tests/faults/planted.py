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

PLANTED_SQL = {"fence_off": FENCE_OFF, "deduplication_off": DEDUPLICATION_OFF}


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
        self._seen = _Forgetful()

    Mailboxes.__init__ = forgetful  # type: ignore[method-assign]


def _publish_before_commit() -> None:
    from actors.host import Host
    from storage.batch import commit_arguments
    from storage.boundary import translated
    from storage.postgres import PostgresStore
    from storage.queries import query
    from storage.records import TurnRecord

    hosts: list[Host] = []
    make = Host.__init__

    def known(self: Any, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        hosts.append(self)

    async def commit(self: Any, fence: Any, turns: Any, marks: Any) -> list[int | None]:
        connection = await self._commit_connection()
        with translated():
            async with connection.transaction():
                numbers = await connection.fetchval(
                    query("commit_turns"), *commit_arguments(fence, turns, marks)
                )
                sends = [s for turn in turns for s in turn.sends if s.visible_at is None]
                hosts[0].outbound.publish(zip(sends, numbers or [], strict=True))
                await asyncio.sleep(0.01)
        return list(numbers or [])

    def committed(self: Any, entries: Any, numbers: Any) -> None:
        for entry in entries:
            entry.activation.uncommitted -= 1
            if isinstance(entry.outcome, TurnRecord) and entry.outcome.seq is not None:
                self.mailboxes.handled(entry.activation, entry.outcome.seq)
            entry.settle(True)

    Host.__init__ = known  # type: ignore[method-assign]
    Host.committed = committed  # type: ignore[method-assign]
    PostgresStore.commit = commit  # type: ignore[method-assign,assignment]


def _no_reload() -> None:
    from actors.inbound import Inbox
    from actors.outbound import Outbound

    def deliver_whatever_comes(self: Any, parcel: Any) -> bool:
        self._deliver(self.partition, parcel.items)
        return True

    Inbox._deliver_next = deliver_whatever_comes  # type: ignore[method-assign]
    Outbound.skip_everywhere = lambda self: None  # type: ignore[method-assign]


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
    import msgspec

    from coordinators.tasks import assign

    tell = assign.TaskAssigner._tell

    async def unmarked(*arguments: Any, **options: Any) -> None:
        pass

    assign.hand_over_task = unmarked  # type: ignore[attr-defined]
    assign.TaskAssigner._tell = lambda *a: msgspec.structs.replace(tell(*a), key=None)  # type: ignore[method-assign]


PLANTED: dict[str, Callable[[], None]] = {
    "fence_off": lambda: None,  # in the database
    "deduplication_off": _deduplication_off,
    "publish_before_commit": _publish_before_commit,
    "no_reload": _no_reload,
    "order_of_arrival": _order_of_arrival,
    "cursor_runs_ahead": _cursor_runs_ahead,
    "assigned_twice": _assigned_twice,
}
