"""The way in: parcels in order, gaps that make the mailbox be read again. Hypothesis looks for a way round."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import inbound
from actors.inbound import MAX_HELD, MAX_HELD_BYTES, HeldBytes, Inbox
from bus.errors import StorageUnavailable
from bus.wire import NUDGE_SOURCE, Item, Parcel, encode_parcel, nudge


def parcel(source: int, number: int, *seqs: int, partition: int = 0) -> Parcel:
    return Parcel(source, partition, number, [Item(seq, "default", "a/1", "{}", "{}") for seq in seqs])


@dataclass
class Mailbox:
    """What Postgres holds of a partition, and an inbox in front of it."""

    committed: list[int] = field(default_factory=list)
    delivered: list[int] = field(default_factory=list)
    named: list[tuple[str, str, int]] = field(default_factory=list)
    reads: int = 0
    failing: int = 0
    broken: int = 0
    gate: asyncio.Event | None = None
    together: HeldBytes = field(default_factory=HeldBytes)

    def __post_init__(self) -> None:
        self.inbox = Inbox(0, self._deliver, self._reload, self._read_agent, self.together)

    def _deliver(self, partition: int, items: list[Item]) -> None:
        self.delivered += [item.seq for item in items if item.seq not in self.delivered]

    async def _reload(self, partition: int) -> None:
        self.reads += 1
        if self.failing:
            self.failing -= 1
            raise StorageUnavailable("away")
        if self.broken:
            self.broken -= 1
            raise ValueError("a bug")
        snapshot = list(self.committed)
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        self.delivered += [seq for seq in snapshot if seq not in self.delivered]

    def _read_agent(self, tenant: str, agent: str, partition: int) -> None:
        self.named.append((tenant, agent, partition))

    async def settled(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


async def test_the_first_parcel_of_a_source_waits_for_a_read_and_the_next_ones_do_not() -> None:
    box = Mailbox(committed=[1, 2])
    box.inbox.take(parcel(7, 1, 2))
    assert box.delivered == []
    await box.settled()
    assert (box.delivered, box.reads) == ([1, 2], 1)
    box.inbox.take(parcel(7, 2, 3))
    assert (box.delivered, box.reads) == ([1, 2, 3], 1)


async def test_a_read_that_fails_of_nobodys_outage_is_logged_and_made_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is waited for by a person: the next parcel may be hours away."""
    monkeypatch.setattr(inbound, "_RETRY_LATER_S", 0.0)
    box = Mailbox(committed=[1])
    box.inbox.take(parcel(7, 1, 1))
    await box.settled()
    box.broken, box.committed = 2, [1, 2, 3]
    box.inbox.take(parcel(7, 3, 3))
    await box.settled()
    assert box.delivered == [1, 2, 3]
    assert [record.exc_info is not None for record in caplog.records] == [True, True]
    box.inbox.take(parcel(7, 4, 4))
    assert box.delivered == [1, 2, 3, 4]


async def test_a_first_read_that_fails_of_nobodys_outage_holds_nobody_up_and_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbound, "_RETRY_LATER_S", 0.0)
    box = Mailbox(broken=2, committed=[1])
    await box.inbox.read_now()
    assert (box.inbox.is_unreadable, box.delivered) == (True, [])
    await box.inbox.read_at_last()
    assert (box.inbox.is_unreadable, box.delivered) == (False, [1])


async def test_a_gap_is_read_before_what_came_after_it() -> None:
    box = Mailbox(committed=[1])
    box.inbox.take(parcel(7, 1, 1))
    await box.settled()
    box.committed = [1, 2, 3]
    box.inbox.take(parcel(7, 3, 3))
    assert box.delivered == [1]
    await box.settled()
    assert box.delivered == [1, 2, 3]


async def test_what_comes_during_a_read_waits_for_its_end() -> None:
    box = Mailbox(committed=[1], gate=asyncio.Event())
    box.inbox.take(parcel(7, 1, 1))
    await box.settled()
    box.inbox.take(parcel(7, 2, 5))
    await box.settled()
    assert box.delivered == []
    assert box.gate is not None
    box.gate.set()
    await box.settled()
    assert box.delivered == [1, 5]


async def test_copies_and_parcels_from_before_a_read_are_not_delivered_again() -> None:
    box = Mailbox(committed=[1, 2])
    box.inbox.take(parcel(7, 2, 2))
    await box.settled()
    reads = box.reads
    for late in (parcel(7, 1, 1), parcel(7, 2, 2)):
        box.inbox.take(late)
    await box.settled()
    assert box.delivered == [1, 2]
    assert box.reads >= reads


async def test_an_empty_parcel_moves_the_count_and_a_nudge_reads() -> None:
    box = Mailbox(committed=[1])
    box.inbox.take(parcel(7, 1, 1))
    await box.settled()
    box.inbox.take(parcel(7, 2))
    box.inbox.take(parcel(7, 3, 9))
    assert (box.delivered, box.reads) == ([1, 9], 1)
    box.inbox.receive(encode_parcel(parcel(NUDGE_SOURCE, 0)))
    await box.settled()
    assert box.reads == 2


async def test_a_nudge_that_names_agents_reads_their_mailboxes_and_no_other() -> None:
    box = Mailbox(committed=[1])
    box.inbox.receive(encode_parcel(nudge(0, [("default", "a/1"), ("other", "b/2")])))
    await box.settled()
    assert box.named == [("default", "a/1", 0), ("other", "b/2", 0)]
    assert (box.reads, box.delivered) == (0, [])


async def test_storage_that_is_away_is_asked_again_and_nothing_is_let_past() -> None:
    box = Mailbox(committed=[1, 2], failing=1)
    box.inbox.take(parcel(7, 2, 2))
    await box.settled()
    assert box.delivered == []
    await box.inbox.read_now()
    assert (box.delivered, box.reads) == ([1, 2], 2)


async def test_more_than_can_be_held_is_read_instead() -> None:
    box = Mailbox(gate=asyncio.Event())
    box.inbox.read_again()
    for number in range(1, MAX_HELD + 10):
        box.committed.append(number)
        box.inbox.take(parcel(7, number, number))
    assert box.gate is not None
    box.gate.set()
    await box.settled()
    assert box.delivered == box.committed


async def test_what_is_held_is_bounded_in_bytes_and_its_numbers_are_remembered() -> None:
    box = Mailbox(gate=asyncio.Event())
    box.inbox.read_again()
    await box.settled()
    large = "x" * 200_000
    for number in range(1, 101):
        box.committed.append(number)
        box.inbox.take(Parcel(7, 0, number, [Item(number, "default", "a/1", "{}", large)]))
        assert sum(len(i.payload) for p in box.inbox._held for i in p.items) <= MAX_HELD_BYTES + len(large)
    assert box.gate is not None
    box.gate.set()
    await box.settled()
    reads = box.reads
    assert (box.delivered, reads) == (box.committed, 2)
    box.inbox.take(parcel(7, 101, 101))  # no gap: the numbers of what was let go are known
    assert (box.delivered[-1], box.reads) == (101, reads)


async def test_what_could_not_be_held_is_read_even_if_nothing_more_comes_from_its_source() -> None:
    box = Mailbox()
    box.inbox.take(parcel(8, 1))
    box.inbox.take(parcel(7, 1))
    await box.settled()
    box.gate = asyncio.Event()
    box.inbox.read_again()
    await box.settled()
    for number in range(2, MAX_HELD + 2):
        box.committed.append(number)
        box.inbox.take(parcel(8, number, number))
    box.committed.append(10_000)
    box.inbox.take(parcel(7, 2, 10_000))  # one too many: what source 8 has sent is let go
    box.gate.set()
    await box.settled()
    assert sorted(box.delivered) == box.committed


async def test_noise_on_the_subject_is_ignored() -> None:
    box = Mailbox()
    for noise in (b"", b"hello", b"\xff\xff", encode_parcel(parcel(7, 1, 5, partition=3))):
        box.inbox.receive(noise)
    await box.settled()
    assert (box.delivered, box.reads) == ([], 0)


async def test_waiting_for_the_first_read_ends_when_the_partition_leaves_meanwhile() -> None:
    box = Mailbox(gate=asyncio.Event())
    waiting = asyncio.create_task(box.inbox.read_now())
    await box.settled()
    box.inbox.close()
    await waiting
    assert not waiting.cancelled()
    await box.inbox.read_now()
    box.inbox.take(parcel(7, 1, 1))
    box.inbox.read_again()
    await box.settled()
    assert box.delivered == []


# -- any order of events -----------------------------------------------------------------------------

_actions = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.integers(0, 2), st.integers(1, 3)),  # source, messages
        st.tuples(
            st.just("arrive"), st.integers(0, 2), st.integers(0, 3)
        ),  # source, which of those under way
        st.tuples(st.just("lose"), st.integers(0, 2), st.integers(0, 3)),
        st.tuples(st.just("again"), st.integers(0, 2), st.integers(0, 3)),
        st.tuples(st.just("epoch"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("skip"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("nudge"), st.just(0), st.just(0)),
        st.tuples(st.just("fail"), st.just(0), st.just(0)),
        st.tuples(st.just("breathe"), st.just(0), st.integers(1, 3)),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(_actions)
def test_no_loss_copy_delay_or_new_epoch_reorders_a_sender_or_hides_what_a_read_would_bring(
    actions: list[tuple[str, int, int]],
) -> None:
    asyncio.run(_play(actions))


async def _play(actions: list[tuple[str, int, int]]) -> None:
    """Three senders on hosts of their own: a host commits, then publishes; the bus does with it what it likes."""
    box = Mailbox()
    sender_of: dict[int, int] = {}
    epochs = [10, 20, 30]
    numbers = dict.fromkeys(epochs, 0)
    under_way: list[list[Parcel]] = [[], [], []]
    sent: list[list[Parcel]] = [[], [], []]
    for action, source, n in actions:
        epoch = epochs[source]
        match action:
            case "commit":
                seqs = [len(box.committed) + 1 + i for i in range(n)]
                box.committed += seqs
                sender_of.update(dict.fromkeys(seqs, source))
                numbers[epoch] += 1
                under_way[source].append(parcel(epoch, numbers[epoch], *seqs))
            case "arrive" if under_way[source]:  # NATS keeps the order of one publisher
                taken = under_way[source].pop(0)
                sent[source].append(taken)
                box.inbox.take(taken)
            case "lose" if under_way[source]:
                under_way[source].pop(min(n, len(under_way[source]) - 1))
            case "again" if sent[source]:
                box.inbox.take(sent[source][-1 - min(n, len(sent[source]) - 1)])
            case "epoch":  # the host died: what it had not published is lost, another one goes on
                epochs[source] = max(numbers) + 1
                numbers[epochs[source]] = 0
                under_way[source].clear()
            case "skip":
                numbers[epoch] += 1
            case "nudge":
                box.inbox.read_again()
            case "fail":
                box.failing += 1
            case "breathe":
                for _ in range(n):
                    await asyncio.sleep(0)
        _require_order(box.delivered, sender_of)
    box.failing = 0
    box.inbox.close()
    box.inbox = Inbox(0, box._deliver, box._reload, box._read_agent, HeldBytes())
    await box.inbox.read_now()
    _require_order(box.delivered, sender_of)
    assert sorted(box.delivered) == box.committed


def _require_order(delivered: list[int], sender_of: dict[int, int]) -> None:
    """Each sender's messages so far are the first of its messages, in their order."""
    for sender in set(sender_of.values()):
        mine = [seq for seq in delivered if sender_of[seq] == sender]
        assert mine == [seq for seq in sorted(sender_of) if sender_of[seq] == sender][: len(mine)]


@pytest.mark.parametrize("count", [1, 3])
async def test_every_wait_for_a_closed_inbox_ends(count: int) -> None:
    box = Mailbox(gate=asyncio.Event())
    waits = [asyncio.create_task(box.inbox.read_now()) for _ in range(count)]
    await box.settled()
    box.inbox.close()
    await asyncio.gather(*waits)


async def test_a_parcel_that_cannot_be_delivered_remains_a_gap() -> None:
    box = Mailbox(committed=[1])
    box.inbox.take(parcel(7, 1, 1))
    await box.settled()
    deliver, box.inbox._deliver = box.inbox._deliver, failing
    with pytest.raises(ValueError, match="broken"):
        box.inbox.take(parcel(7, 2, 2))
    box.inbox._deliver = deliver
    box.committed = [1, 2]
    box.inbox.take(parcel(7, 3))
    await box.settled()
    assert box.delivered == [1, 2]


async def test_a_read_that_fails_in_an_unknown_way_is_not_the_last() -> None:
    box = Mailbox(committed=[1])
    deliver, box.inbox._deliver = box.inbox._deliver, failing
    box.gate = asyncio.Event()
    box.inbox.take(parcel(7, 1, 1))
    await box.settled()
    reading = box.inbox._reading
    assert reading is not None
    box.inbox.take(parcel(7, 2, 2))
    box.gate.set()
    await asyncio.wait((reading,))
    assert str(reading.exception()) == "broken"
    box.inbox._deliver = deliver
    box.committed = [1, 2]
    box.inbox.read_again()
    await box.settled()
    assert (box.delivered, box.inbox.is_reading) == ([1, 2], False)


def failing(partition: int, items: list[Item]) -> None:
    raise ValueError("broken")


async def test_what_is_held_is_bounded_over_all_partitions_of_a_host_and_let_go_with_them() -> None:
    together = HeldBytes()
    boxes = [Mailbox(gate=asyncio.Event(), together=together) for _ in range(5)]
    large = "x" * (MAX_HELD_BYTES // 4)
    for box in boxes:
        box.inbox.read_again()
        await box.settled()
        box.inbox.take(Parcel(7, 0, 1, [Item(1, "default", "a/1", "{}", large)]))
        assert together.total <= MAX_HELD_BYTES
    assert sum(len(box.inbox._held) for box in boxes) == 3
    boxes[0].inbox.close()
    for box in boxes[1:]:
        assert box.gate is not None
        box.gate.set()
        await box.settled()
        assert 1 not in box.delivered or not box.inbox._held
        box.inbox.close()
    assert together.total == 0
