"""When events leave the stream: by time, by pressure, and never where the stream is not what was read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from actors.event_purge import LOOK_EVERY_S, EventPurge
from bus.errors import ServiceUnavailable
from bus.events import StreamState
from storage.records import EventCursor

DAY = 24 * 3600.0


class Stream:
    """What EventPurge asks of an EventStream; every event was taken at 1,000 times its number."""

    def __init__(self) -> None:
        self.now = StreamState(
            created="monday", last_seq=1_000, connection=3, bytes=10, max_bytes=1_000, max_per_name=100
        )
        self.taken: dict[int, int | None] = {}
        self.dropped: list[tuple[str, int]] = []
        self.fails = False

    async def state(self, domain: str) -> StreamState:
        assert domain == "desk"
        if self.fails:
            raise ServiceUnavailable("JetStream is away.")
        return self.now

    async def taken_at(self, seq: int) -> int | None:
        return self.taken.get(seq, seq * 1_000)

    async def drop_before(self, domain: str, seq: int) -> None:
        self.dropped.append((domain, seq))

    def becomes(self, **changes: Any) -> None:
        self.now = msgspec.structs.replace(self.now, **changes)


class Rig:
    """A purge with a clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 100.0
        self.stream = Stream()
        self.purge = EventPurge(self.stream, "desk", clock=lambda: self.time)  # type: ignore[arg-type]
        self.begin(0)

    def begin(self, seq: int, incarnation: str = "monday") -> None:
        self.purge.begin(self.stream.now, EventCursor(incarnation=incarnation, seq=seq, at_ns=seq * 1_000))

    def accept(self, seq: int, *, size: int = 1, events: int = 1) -> None:
        cursor = EventCursor(incarnation="monday", seq=seq, at_ns=seq * 1_000)
        self.purge.accepted(cursor, size, events)

    async def look(self, later_s: float = LOOK_EVERY_S) -> list[int]:
        """What is dropped by a look so much later."""
        self.time += later_s
        before = len(self.stream.dropped)
        await self.purge.look()
        return [seq for _, seq in self.stream.dropped[before:]]


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_an_event_goes_once_it_was_accepted_for_as_long_as_it_is_kept(rig: Rig) -> None:
    rig.accept(10)
    assert await rig.look(0) == []
    assert await rig.look(DAY / 2) == []
    rig.accept(20)
    assert await rig.look(DAY / 2) == []  # at its beginning the reader had accepted nothing
    assert await rig.look(DAY / 2) == [10]
    assert await rig.look(DAY / 2) == [20]
    assert rig.stream.dropped == [("desk", 10), ("desk", 20)]


async def test_what_was_accepted_later_stays(rig: Rig) -> None:
    rig.time += DAY / 2
    rig.accept(10)
    rig.time += DAY / 2
    rig.accept(20)
    assert await rig.look(DAY / 2) == [10]
    assert await rig.look() == []


async def test_a_quiet_stream_is_emptied_too(rig: Rig) -> None:
    rig.accept(10)  # between two marks
    await rig.look(DAY / 4)
    assert await rig.look(DAY) == [10]


async def test_half_full_all_that_was_accepted_goes_at_once(rig: Rig) -> None:
    rig.accept(10)
    rig.stream.becomes(bytes=501)
    assert await rig.look() == [10]
    assert await rig.look() == []  # it has gone


async def test_it_looks_by_bytes_too_but_not_after_each_event(rig: Rig) -> None:
    rig.stream.becomes(bytes=501)
    assert await rig.look() == []
    rig.accept(10, size=30)
    assert await rig.look(0) == []
    rig.accept(11, size=40)
    assert await rig.look(0) == [11]


async def test_half_of_what_one_name_may_have_is_as_good_as_half_full(rig: Rig) -> None:
    rig.accept(10)
    rig.stream.becomes(most=50)
    assert await rig.look() == []
    rig.stream.becomes(most=51)
    assert await rig.look() == [10]


async def test_it_looks_by_number_too_but_not_after_each_event(rig: Rig) -> None:
    rig.stream.becomes(most=51)
    assert await rig.look() == []
    rig.accept(10, events=3)
    assert await rig.look(0) == []
    rig.accept(11, events=4)
    assert await rig.look(0) == [11]


@pytest.mark.parametrize("changed", [{"created": "tuesday"}, {"connection": 4}])
async def test_another_stream_or_connection_is_left_alone(rig: Rig, changed: dict[str, Any]) -> None:
    rig.accept(10)
    rig.stream.becomes(bytes=900, **changed)
    assert await rig.look() == []


@pytest.mark.parametrize("taken", [None, 11_000])
async def test_a_number_that_is_another_events_now_is_left_alone(rig: Rig, taken: int | None) -> None:
    rig.accept(10)
    rig.stream.becomes(bytes=900)
    rig.stream.taken[10] = taken
    assert await rig.look() == []


async def test_a_new_incarnation_forgets_the_places_in_the_old_one(rig: Rig) -> None:
    rig.accept(500)
    rig.begin(20, incarnation="monday#1")
    assert await rig.look(DAY) == [20]


async def test_a_reader_that_begins_again_at_its_place_remembers_since_when(rig: Rig) -> None:
    rig.accept(10)
    await rig.look(DAY / 2)
    rig.begin(10)
    assert await rig.look(DAY / 2) == []
    assert await rig.look(DAY / 2) == [10]


async def test_a_failure_is_left_to_the_next_look(rig: Rig) -> None:
    rig.accept(10)
    rig.stream.becomes(bytes=900)
    rig.stream.fails = True
    assert await rig.look() == []
    rig.stream.fails = False
    assert await rig.look() == [10]
