"""What comes in from outside: once within its window, and events with their place in the stream."""

from __future__ import annotations

import pytest

from bus.envelope import new_id
from bus.errors import Fenced, StaleTurn
from storage.records import DeadEvent, EventBatch, EventCursor
from tests.contract.rig import DOMAIN, Rig, letter, turn


async def test_a_key_is_accepted_once_within_its_window(rig: Rig) -> None:
    assert await rig.accept(letter(), key="k") is not None
    assert await rig.accept(letter(), key="k") is None
    assert await rig.accept(letter(), key="other") is not None
    assert await rig.accept(letter(tenant="acme"), key="k") is not None
    assert await rig.accept(letter()) is not None
    assert await rig.accept(letter()) is not None
    assert len(await rig.mail("order/1")) == 4


async def test_a_key_is_accepted_again_when_its_window_has_passed(rig: Rig) -> None:
    assert await rig.accept(letter(), key="k", window_s=-60) is not None
    assert await rig.accept(letter(), key="k", window_s=60) is not None
    assert await rig.accept(letter(), key="k", window_s=60) is None


def dead_event(key: str = "dead-event:monday:3") -> DeadEvent:
    return DeadEvent(
        key=key, partition=0, agent="events/x", tenant="default", message=new_id(), reason="invalid_event",
        error="no", header='{"h":1}', payload="{}",
    )  # fmt: skip


async def test_an_event_that_is_read_twice_is_one_dead_letter(rig: Rig) -> None:
    """The first commit of it was still under way, its answer lost, when the cursor was looked at."""
    fence = await rig.host(0)
    for upto, keys in ((3, ["3"]), (5, ["3", "4", "5"])):
        batch = EventBatch(
            keys=[], messages=[], dead=[dead_event(f"dead-event:monday:{key}") for key in keys]
        )
        await rig.store.accept_events(fence, EventCursor(incarnation="monday", seq=upto), batch)
    assert len(await rig.dead_letters()) == 3


async def test_events_are_accepted_with_their_place_in_the_stream(rig: Rig) -> None:
    fence = await rig.host(0, 1)
    assert await rig.store.event_cursor(DOMAIN) is None
    a, b, again = letter("order/1"), letter("order/2", partition=1), letter("order/1")
    dead = dead_event()
    batch = EventBatch(keys=["e1", "e2", "e1"], messages=[a, b, again], dead=[dead])
    numbers = await rig.store.accept_events(
        fence, EventCursor(incarnation="monday", seq=3, at_ns=1_795_000_000_123_456_789), batch
    )
    assert sorted(numbers) == sorted([a.header.id, b.header.id])
    assert [m.seq for m in await rig.mail("order/1")] == [numbers[a.header.id]]
    assert [(agent, reason) for _, agent, reason, *_ in await rig.dead_letters()] == [
        ("events/x", "invalid_event")
    ]
    assert await rig.store.event_cursor(DOMAIN) == EventCursor(
        incarnation="monday", seq=3, at_ns=1_795_000_000_123_456_789
    )
    with pytest.raises(StaleTurn):
        await rig.store.accept_events(
            fence, EventCursor(incarnation="monday", seq=3, at_ns=1_795_000_000_123_456_789), batch
        )
    assert len(await rig.dead_letters()) == 1
    none = EventBatch(keys=[], messages=[], dead=[])
    assert await rig.store.accept_events(fence, EventCursor(incarnation="tuesday", seq=1), none) == {}
    assert await rig.store.event_cursor(DOMAIN) == EventCursor(incarnation="tuesday", seq=1)


async def test_what_a_turn_reads_anew_is_accepted_once_by_its_key(rig: Rig) -> None:
    fence = await rig.host(0)
    assert await rig.accept(letter("order/1"), key="event:published again", window_s=3600) is not None
    first, again, other, known = (letter("order/1") for _ in range(4))
    reads = turn(
        await rig.accept(letter("order/2")),
        agent="order/2",
        accepts=(
            ("event:a", first),
            ("event:a", again),
            ("event:b", other),
            ("event:published again", known),
        ),
    )
    before = [m.seq for m in await rig.mail("order/1")]
    assert await rig.store.commit(fence, [reads], []) == []
    mail = [m.seq for m in await rig.mail("order/1")]
    assert len(mail) == len(before) + 2
    assert await rig.accept(letter("order/1"), key="event:b", window_s=3600) is None


async def test_only_the_owner_of_the_first_partition_accepts_events(rig: Rig) -> None:
    fence = await rig.host(1)
    with pytest.raises(Fenced):
        await rig.store.accept_events(
            fence, EventCursor(incarnation="monday", seq=1), EventBatch(keys=[], messages=[], dead=[])
        )
