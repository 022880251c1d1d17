"""What counts for the size of a group commit, and how much may be on its way."""

from __future__ import annotations

import asyncio

from actors.activation import Activation
from actors.agent import agent_type
from actors.committer import ROOM_BYTES, Entry
from bus.envelope import Envelope, Header, new_id
from storage.journal import Does, Flush, JournalWrite, PromiseWrite
from storage.ledger import CallStatus, Effect, LedgerWrite
from tests.unit.agents import Keeper
from tests.unit.test_committer import Bench


def test_what_people_are_shown_counts_for_the_size_of_a_commit() -> None:
    """One statement with a thousand large questions, or calls, is more than Postgres takes, however often it is tried."""
    header = Header(id=new_id(), type="t.v1", sender="a", sent_at=0.0)
    envelope = Envelope(seq=1, tenant="default", agent="a", header=header, header_json="{}", payload="{}")
    activation = Activation("default", "a", 0, agent_type(Keeper))
    journal = JournalWrite(
        seq=1, turn=new_id(), does=Does.GO,
        promises=(PromiseWrite(id=new_id(), key="#1", kind="approval", name="n" * 100, details="d" * 1_000),),
        calls=(
            LedgerWrite(
                id=new_id(), key="#1", tool="act", effect=Effect.AT_MOST_ONCE, message=header.id, task=None,
                digest="0" * 64, arguments="a" * 10_000, status=CallStatus.STARTED, attempts=1,
            ),
        ),
    )  # fmt: skip
    flush = Flush(tenant="default", partition=0, agent="a", journal=journal)
    assert Entry(activation, envelope, flush).size >= 11_100


async def test_there_is_no_room_for_more_turns_while_many_bytes_are_on_their_way() -> None:
    bench = Bench()
    bench.store.gate.clear()
    large = "x" * (ROOM_BYTES // 4)
    bench.submit("a", "b", "c", body=large)
    await asyncio.wait_for(bench.committer.room(), 1)
    bench.submit("d", body=large)
    waiting = asyncio.create_task(bench.committer.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    bench.store.gate.set()
    await bench.run()
    await asyncio.wait_for(waiting, 1)
    bench.submit("a", "b", "c", body=large)  # the books are even again
    await asyncio.wait_for(bench.committer.room(), 1)
