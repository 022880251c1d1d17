"""The group commit alone: groups, refusals that are narrowed down, and agents that fall with their group."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import sha256

import msgspec
import pytest

from actors.activation import Activation
from actors.agent import agent_type
from actors.committer import _RETRY_S, Committer, Entry
from actors.written import Written
from bus.envelope import Envelope, Header, header_to_json, new_id
from bus.errors import Fenced, InvalidData, SchemaMismatch, StaleTurn, StorageError, StorageUnavailable
from storage.journal import Does, Flush, JournalEntry, JournalWrite
from storage.records import GENESIS, Fence, MailPlace, Mark, TurnRecord
from tests.unit.agents import Keeper

FENCE = Fence(domain="test", epoch=1)


class Store:
    """Commits what it is told to, and raises what the test has planned, call by call."""

    def __init__(self) -> None:
        self.plan: list[Exception | None] = []
        self.settled = False
        self.poison: set[str] = set()
        self.stale: set[str] = set()
        self.groups: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def commit(
        self, fence: Fence, writes: Sequence[TurnRecord | Flush], marks: Sequence[Mark]
    ) -> list[int | None]:
        await self.gate.wait()
        if self.plan and (error := self.plan.pop(0)) is not None:
            raise error
        if self.poison.intersection(turn.agent for turn in writes):
            raise InvalidData("Not this one.")
        if self.stale.intersection(turn.agent for turn in writes):
            raise StaleTurn("Out of date.")
        self.groups.append([turn.agent for turn in writes])
        return []

    async def settle(self, fence: Fence, write: TurnRecord | Flush) -> bool:
        return self.settled

    async def fire_timers(self, fence: Fence, partitions: Sequence[int], limit: int) -> list[MailPlace]:
        return []

    async def settle_due(self, fence: Fence, partitions: Sequence[int], limit: int) -> list[MailPlace]:
        return []


class Events:
    """Writes down what the committer reports."""

    def __init__(self, committer_of: list[Committer]) -> None:
        self.log: list[str] = []
        self.owned = True
        self._committer_of = committer_of

    def committed(self, entries: Sequence[Entry], numbers: list[int | None] | None) -> None:
        how = "committed" if numbers is not None else "found"
        self.log.append(f"{how} {' '.join(e.activation.agent for e in entries)}")

    def discarded(self, entries: Sequence[Entry], *, perhaps_committed: bool = False) -> None:
        how = "perhaps" if perhaps_committed else "discarded"
        self.log.append(f"{how} {' '.join(e.activation.agent for e in entries)}")
        for entry in entries:
            entry.activation.alive = False
        self._committer_of[0].drop_dead()

    def refused(self, entry: Entry, error: InvalidData) -> None:
        self.log.append(f"refused {entry.activation.agent}")

    async def fenced(self) -> bool:
        self.log.append("fenced")
        return self.owned


class Bench:
    def __init__(self, group_limit: int = 100) -> None:
        self.store = Store()
        holder: list[Committer] = []
        self.events = Events(holder)
        self.committer = Committer(FENCE, self.store, self.events, group_limit=group_limit)
        holder.append(self.committer)
        self.activations: dict[str, Activation] = {}

    def submit(self, *agents: str, body: str = "{}") -> None:
        for agent in agents:
            if agent not in self.activations:
                self.activations[agent] = Activation("default", agent, 0, agent_type(Keeper))
            activation = self.activations[agent]
            activation.version += 1
            header = Header(id=new_id(), type="tests.note.v1", sender="external/test", sent_at=0.0)
            envelope = Envelope(
                seq=1, tenant="default", agent=agent, header=header, header_json=header_to_json(header),
                payload="{}",
            )  # fmt: skip
            turn = TurnRecord(
                tenant="default", agent=agent, partition=0, seq=1, version=activation.version, schema_version=1,
                lifecycle="running", state="{}", body=body, prev=GENESIS, hash=sha256(b"").digest(),
            )  # fmt: skip
            self.committer.submit(Entry(activation, envelope, turn))

    async def run(self) -> list[str]:
        running = asyncio.create_task(self.committer.run())
        drained = asyncio.create_task(self.committer.drained())
        await asyncio.wait((running, drained), return_when=asyncio.FIRST_COMPLETED)
        for task in (running, drained):
            task.cancel()
        await asyncio.gather(running, drained, return_exceptions=True)
        return self.events.log


async def test_turns_that_ended_meanwhile_are_committed_together() -> None:
    bench = Bench()
    bench.submit("a", "b", "a")
    assert await bench.run() == ["committed a b a"]
    assert (bench.committer.commits, bench.committer.turns) == (1, 3)


async def test_a_group_has_a_limit_and_order_is_kept() -> None:
    bench = Bench(group_limit=2)
    bench.submit("a", "b", "c", "d", "e")
    assert await bench.run() == ["committed a b", "committed c d", "committed e"]


async def test_when_far_too_much_waits_there_is_no_room_for_more() -> None:
    bench = Bench(group_limit=1)
    bench.submit("a", "b", "c", "d")
    room = asyncio.create_task(bench.committer.room())
    await asyncio.sleep(0)
    assert not room.done()
    await bench.run()
    await room


async def test_data_that_is_refused_is_narrowed_down_to_its_turn() -> None:
    bench = Bench()
    bench.store.poison = {"c"}
    bench.submit("a", "b", "c", "d", "e")
    log = await bench.run()
    assert "refused c" in log
    assert sorted(agent for group in bench.store.groups for agent in group) == ["a", "b", "d", "e"]
    assert not any(entry.startswith("discarded") for entry in log)


async def test_a_stale_turn_falls_with_the_later_turns_of_its_agent_and_harms_nobody_else() -> None:
    bench = Bench(group_limit=5)
    bench.store.stale = {"a"}
    bench.submit("b", "a", "c", "a", "d", "a", "e")
    assert await bench.run() == [
        "committed b", "discarded a", "discarded a", "discarded a", "committed c d", "committed e",
    ]  # fmt: skip


async def test_what_an_agent_has_committed_before_it_was_stale_stays() -> None:
    bench = Bench()
    bench.store.plan = [StaleTurn("Out of date."), None, StaleTurn("Out of date.")]
    bench.submit("a", "a")
    assert await bench.run() == ["committed a", "discarded a"]


async def test_turns_that_are_stale_again_and_again_make_no_hot_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(group_limit=1)
    slept: list[float] = []
    bench.store.stale = {"a", "b", "d"}
    bench.submit("a", "b", "c", "d")

    async def note(seconds: float) -> None:
        slept.append(seconds)

    with monkeypatch.context() as patched:
        patched.setattr("actors.committer.asyncio.sleep", note)
        assert await bench.run() == ["discarded a", "discarded b", "committed c", "discarded d"]
    assert [seconds for seconds in slept if seconds] == [_RETRY_S[0], _RETRY_S[1], _RETRY_S[0]]


async def test_an_unknown_outcome_that_was_a_commit_is_reported_without_numbers() -> None:
    bench = Bench()
    bench.store.plan = [StorageUnavailable("Cut.")]
    bench.store.settled = True
    bench.submit("a")
    assert await bench.run() == ["found a"]
    assert bench.store.groups == []


async def test_an_unknown_outcome_that_was_none_is_tried_again() -> None:
    bench = Bench()
    bench.store.plan = [StorageUnavailable("Cut.")]
    bench.submit("a")
    assert await bench.run() == ["committed a"]


async def test_a_write_that_leaves_no_trace_proves_nothing() -> None:
    bench = Bench()
    asked: list[TurnRecord | Flush] = []

    async def settle(fence: Fence, write: TurnRecord | Flush) -> bool:
        asked.append(write)
        return True

    bench.store.settle = settle  # type: ignore[method-assign]
    bench.store.plan = [StorageUnavailable("Cut.")]
    bench.submit("a", "b")
    entry = JournalEntry(number=1, key="#1", kind="step", name="f", ok=True, value="1", took_ms=1.0)
    for place, (does, entries) in enumerate(((Does.RESUME, ()), (Does.GO, (entry,)))):
        journal = JournalWrite(seq=1, turn=new_id(), does=does, entries=entries)
        bench.committer._pending[place].outcome = Flush(
            tenant="default", partition=0, agent="a", journal=journal
        )
    assert await bench.run() == ["found a b"]
    [proof] = asked
    assert proof.journal is not None
    assert proof.journal.does is Does.GO


async def test_what_was_dropped_while_the_outcome_was_unknown_is_not_written_after_all() -> None:
    bench = Bench()

    async def settle(fence: Fence, write: TurnRecord | Flush) -> bool:
        bench.activations["b"].alive = False  # its partition leaves, and comes back at once
        return False

    bench.store.settle = settle  # type: ignore[method-assign]
    bench.store.plan = [StorageUnavailable("Cut.")]
    bench.submit("a", "b", "c")
    assert await bench.run() == ["perhaps b", "committed a c"]
    assert bench.store.groups == [["a", "c"]]


async def test_a_partition_that_is_lost_proves_nothing_and_the_next_one_is_looked_at() -> None:
    bench = Bench()
    asked: list[str] = []

    async def settle(fence: Fence, write: TurnRecord | Flush) -> bool:
        asked.append(write.agent)
        if write.agent == "a":
            raise Fenced("No longer yours.")
        return True

    async def fenced() -> bool:
        bench.activations["a"].alive = False
        return True

    bench.store.settle = settle  # type: ignore[method-assign]
    bench.events.fenced = fenced  # type: ignore[method-assign]
    bench.store.plan = [StorageUnavailable("Cut.")]
    bench.submit("a", "b")
    for place, entry in enumerate(bench.committer._pending):
        assert isinstance(entry.outcome, TurnRecord)
        entry.outcome = msgspec.structs.replace(entry.outcome, partition=place)
    assert await bench.run() == ["found a b"]
    assert (asked, bench.store.groups) == (["a", "b"], [])


async def test_a_turn_that_is_stale_after_an_unknown_outcome_may_have_been_committed() -> None:
    bench = Bench()
    bench.store.plan = [StorageUnavailable("Cut."), StaleTurn("Out of date.")]
    bench.submit("a")
    assert await bench.run() == ["perhaps a"]


async def test_a_host_that_has_lost_everything_stops_committing() -> None:
    bench = Bench()
    bench.store.plan = [Fenced("Not yours.")]
    bench.events.owned = False
    bench.submit("a", "b")
    assert await bench.run() == ["fenced", "discarded a b"]
    assert bench.store.groups == []


async def test_a_host_that_has_lost_one_partition_goes_on_with_the_rest() -> None:
    bench = Bench()
    bench.store.plan = [Fenced("Not all of that is yours.")]

    async def fenced() -> bool:
        bench.activations["b"].alive = False
        return True

    bench.events.fenced = fenced  # type: ignore[method-assign]
    bench.submit("a", "b", "c")
    assert await bench.run() == ["discarded b", "committed a c"]


async def test_what_nobody_expected_discards_the_group_and_the_committer_lives_on() -> None:
    bench = Bench(group_limit=1)
    bench.store.plan = [StorageError("No such table.")]
    bench.submit("a", "b")
    assert await bench.run() == ["discarded a", "committed b"]


async def test_what_nobody_expected_after_an_unknown_outcome_discards_what_may_have_been_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first statement may reach Postgres after the look: then nobody else publishes what it has sent."""
    monkeypatch.setattr("actors.committer._RETRY_S", (0.0,))
    bench = Bench()
    bench.store.plan = [StorageUnavailable("?"), StorageError("Odd.")]
    bench.submit("a", "b")
    assert await bench.run() == ["perhaps a b"]


async def test_the_schema_of_another_release_ends_the_committer() -> None:
    bench = Bench()
    bench.store.plan = [SchemaMismatch("The function has other parameters.")]
    bench.submit("a")
    with pytest.raises(SchemaMismatch):
        await bench.committer.run()
    assert bench.events.log == []


async def test_turns_of_an_agent_that_was_dropped_are_left_out() -> None:
    bench = Bench()
    bench.submit("a", "b")
    bench.activations["a"].alive = False
    assert await bench.run() == ["discarded a", "committed b"]


@pytest.mark.parametrize(("alive", "committed"), [(True, True), (False, False)])
async def test_whoever_waits_for_an_entry_learns_what_became_of_it(alive: bool, committed: bool) -> None:
    bench = Bench()
    bench.submit("a")
    [entry] = bench.committer._pending
    entry.written = Written()
    entry.activation.alive = alive
    committed_before, discarded_before = bench.events.committed, bench.events.discarded

    def on_committed(entries: Sequence[Entry], numbers: list[int | None] | None) -> None:
        committed_before(entries, numbers)
        for one in entries:
            one.settle(True)

    def on_discarded(entries: Sequence[Entry], *, perhaps_committed: bool = False) -> None:
        discarded_before(entries, perhaps_committed=perhaps_committed)
        for one in entries:
            one.settle(False)

    bench.events.committed = on_committed  # type: ignore[method-assign]
    bench.events.discarded = on_discarded  # type: ignore[method-assign]
    await bench.run()
    assert await entry.written.known() is committed


def test_a_large_turn_counts_for_what_it_sends() -> None:
    bench = Bench()
    bench_turn = TurnRecord(
        tenant="default", agent="a", partition=0, seq=1, version=1, schema_version=1, lifecycle="running",
        state="s" * 100, body="b" * 1_000, prev=GENESIS, hash=GENESIS,
    )  # fmt: skip
    header = Header(id=new_id(), type="t.v1", sender="a", sent_at=0.0)
    envelope = Envelope(seq=1, tenant="default", agent="a", header=header, header_json="{}", payload="{}")
    activation = Activation("default", "a", 0, agent_type(Keeper))
    assert Entry(activation, envelope, bench_turn).size >= 1_100
    assert Entry(activation, envelope, msgspec.structs.replace(bench_turn, state=None)).size >= 1_000
    assert bench.committer.is_idle
