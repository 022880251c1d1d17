"""However much else there is, and whatever Postgres' statistics say of it, a group commit reads what it writes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bus.envelope import new_id
from storage.journal import Does, Flush, JournalEntry, JournalWrite, Kind, PromiseWrite
from storage.records import Write
from tests.contract.rig import DOMAIN, PostgresRig, letter, postgres_rig, turn

OTHERS = 2_000
EACH = 20

# As many agents with an open turn, a promise, a message and a state, of the same tenant and partition.
FILL = """
  with made as (
    select 'other/' || n as agent, gen_random_uuid() as id, nextval('mailbox_seq') as seq from generate_series(1, $2::int) n
  ), turned as (
    insert into turns (domain, tenant, agent, partition, seq, turn, code, failures, trials, header, payload, began_at)
      select $1, 'default', agent, 0, seq, id, '', 0, 0, '{}', '{}', 0 from made
  ), asked as (
    insert into promises (domain, tenant, id, agent, partition, turn, key, kind, name)
      select $1, 'default', id, agent, 0, id, '#1', 'ask', 'n' from made
  ), states as (
    insert into agents (domain, tenant, agent, partition, version, schema_version, lifecycle, hash)
      select $1, 'default', agent, 0, 1, 1, 'running', '' from made
  )
  insert into mailbox (domain, tenant, partition, agent, seq, id, header, payload)
    select $1, 'default', 0, agent, seq, id, '{}', '{}' from made
"""
EMPTY = "delete from turns; delete from promises; delete from agents; delete from mailbox"
ANALYZE = "analyze turns; analyze promises; analyze agents; analyze mailbox"
READ = """
  select relname, seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables
  where relname in ('turns', 'promises', 'agents', 'mailbox')
"""


class Waiting:
    """An agent whose turn waits for what it has asked, and which has been woken."""

    def __init__(self, agent: str, seq: int, wake: int) -> None:
        self.agent = agent
        self.seq = seq
        self.wake = wake
        self.turn = new_id()
        self.asked = new_id()

    def journal(self, does: Does, **more: Any) -> JournalWrite:
        return JournalWrite(**{"seq": self.seq, "turn": self.turn, "does": does, **more})

    def flush(self, does: Does, **more: Any) -> Flush:
        return Flush(tenant="default", partition=0, agent=self.agent, journal=self.journal(does, **more))

    def opens(self) -> Flush:
        return self.flush(Does.OPEN, promises=(self.asks(self.asked),))

    def goes(self) -> Flush:
        entry = JournalEntry(number=1, key="#1", kind="ask", name="n", ok=True, value="1", took_ms=0.0)
        return self.flush(
            Does.GO, recorded=1, entries=(entry,), consumed=(self.wake,), done=(self.asked,),
            promises=(self.asks(new_id()),),
        )  # fmt: skip

    def ends(self) -> Write:
        journal = self.journal(Does.END, recorded=1, done=(self.asked,))
        answer = json.dumps({"promise": self.asked, "status": "resolved", "value": 1})
        late = letter(self.agent, answer, control=True, settles=self.asked)
        return turn(None, agent=self.agent, journal=journal, sends=(late,))

    def asks(self, id_: str) -> PromiseWrite:
        return PromiseWrite(id=id_, key="#1", kind=Kind.ASK, name="n")


async def waiting(rig: PostgresRig, name: str) -> Waiting:
    seq, wake = await rig.accept(letter(name)), await rig.accept(letter(name, control=True))
    assert seq is not None
    assert wake is not None
    return Waiting(name, seq, wake)


KNOWN = pytest.mark.parametrize("known", ["nothing", "that there was nothing", "all"])


async def begin(rig: PostgresRig, known: str) -> Any:
    """The connection that commits, once Postgres knows that of the tables or nothing."""
    committer = await rig.store._commit_connection()
    if known == "that there was nothing":
        await committer.execute(FILL.replace("$1", f"'{DOMAIN}'").replace("$2", "100"))
        await committer.execute(EMPTY)
        await committer.execute(ANALYZE)
    return committer


async def fill(committer: Any, known: str) -> None:
    await committer.execute(FILL, DOMAIN, OTHERS)
    if known == "all":
        await committer.execute(ANALYZE)


@KNOWN
async def test_a_group_reads_what_it_writes(database: str, known: str) -> None:
    async with postgres_rig(database) as rig:
        fence = await rig.host(0)
        committer = await begin(rig, known)
        going, ending, opening = [
            [await waiting(rig, f"{what}/{n}") for n in range(EACH)]
            for what in ("going", "ending", "opening")
        ]
        await rig.store.commit(fence, [one.opens() for one in (*going, *ending)], [])
        await fill(committer, known)
        group: list[Write] = [
            *(one.goes() for one in going), *(one.ends() for one in ending), *(one.opens() for one in opening)
        ]  # fmt: skip
        async with committer.transaction():
            await rig.store.commit(fence, group, [])
            read = dict(await committer.fetch(READ))
        assert {table for table, rows in read.items() if rows > 10 * EACH} == set(), read


@KNOWN
async def test_a_step_alone_reads_its_turn(database: str, known: str) -> None:
    async with postgres_rig(database) as rig:
        fence = await rig.host(0)
        committer = await begin(rig, known)
        alone = await waiting(rig, "going/1")
        await rig.store.commit(fence, [alone.opens()], [])
        await fill(committer, known)
        entry = JournalEntry(number=1, key="#1", kind="step", name="n", ok=True, value="1", took_ms=0.0)
        async with committer.transaction():
            await rig.store.commit(fence, [alone.flush(Does.GO, recorded=1, entries=(entry,))], [])
            read = dict(await committer.fetch(READ))
        assert {table for table, rows in read.items() if rows > 10 * EACH} == set(), read
