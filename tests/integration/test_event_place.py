"""A NATS that acknowledged events before it synced them, and crashed: its stream has lost its end."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus.errors import ServiceUnavailable
from bus.event import Event
from bus.event_reader import EventReader
from bus.events import EventStream, StreamState, _nanoseconds
from bus.nats import NatsTransport
from callboard.services import Endpoints
from tests.integration.cli import DESK, until
from tests.integration.deployment import Deployment
from tests.integration.forgetful_nats import ForgetfulNats, forgetful_nats

DAY_NS = 86_400 * 1_000_000_000


@pytest.fixture
async def nats(home: Path) -> AsyncIterator[ForgetfulNats]:
    async with forgetful_nats(home) as nats:
        yield nats


@pytest.fixture
async def desk(nats: ForgetfulNats, database: str) -> AsyncIterator[Deployment]:
    async with Deployment.open(DESK, database, nats.server.url()) as desk:
        yield desk


async def publish(desk: Deployment, *texts: str) -> list[int]:
    stream = EventStream(desk.transport)
    await until(lambda: is_up(stream))
    return [
        await stream.publish("desk", "note", json.dumps({"task": "t", "number": 1, "text": text}).encode())
        for text in texts
    ]


async def is_up(stream: EventStream) -> StreamState | None:
    try:
        return await stream.ensure()
    except Exception:
        return None


async def noted(desk: Deployment, count: int) -> list[str]:
    """The notes, once there are so many."""
    rows = await until(
        lambda: desk.fetch(
            "select state ->> 'notes' from agents where agent = 'clerk/t'"
            " and json_array_length(state -> 'notes') >= $1",
            count,
        ),
        timeout_s=30,
    )
    found: list[str] = json.loads(rows[0][0])
    return found


async def test_a_stream_that_ends_before_the_cursor_is_read_from_where_it_is_new(
    desk: Deployment, nats: ForgetfulNats, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.coordinate()
    assert await publish(desk, "1", "2", "3") == [1, 2, 3]
    await noted(desk, 3)
    await nats.remember()
    assert await publish(desk, "4", "5", "6", "7") == [4, 5, 6, 7]
    await noted(desk, 7)
    with caplog.at_level(logging.WARNING, "callboard.ingress"):
        await nats.forget()
        assert await publish(desk, "8", "9") == [4, 5]
        assert await noted(desk, 9) == [str(n) for n in range(1, 10)]
    assert "has lost its end" in caplog.text
    [(incarnation, seq)] = await desk.fetch("select incarnation, seq from event_cursors")
    assert (incarnation[-2:], seq) == ("#1", 5)
    await nats.forget()
    assert await publish(desk, "10", "11", "12") == [4, 5, 6]
    assert await noted(desk, 12) == [str(n) for n in range(1, 13)]
    assert [row[0][-2:] for row in await desk.fetch("select incarnation from event_cursors")] == ["#2"]


async def test_a_stream_that_has_grown_past_the_cursor_again_is_seen_to_be_another(
    desk: Deployment, nats: ForgetfulNats
) -> None:
    await desk.coordinate()
    await publish(desk, "1", "2", "3")
    await noted(desk, 3)
    await nats.remember()
    await publish(desk, "4", "5", "6")
    await noted(desk, 6)
    await desk.forsake()
    await desk.kill_hosts()
    await nats.forget()
    assert await publish(desk, "7", "8", "9", "10", "11") == [4, 5, 6, 7, 8]
    await desk.coordinate()
    assert await noted(desk, 11) == [str(n) for n in range(1, 12)]


async def test_a_stream_that_lost_nothing_that_was_accepted_keeps_its_incarnation(
    desk: Deployment, nats: ForgetfulNats
) -> None:
    await desk.coordinate()
    await publish(desk, "1", "2", "3")
    await noted(desk, 3)
    before = await desk.fetch("select incarnation, seq, at_ns from event_cursors")
    await nats.remember()  # a restart
    await publish(desk, "4")
    assert await noted(desk, 4) == ["1", "2", "3", "4"]
    [(incarnation, seq, at_ns)] = await desk.fetch("select incarnation, seq, at_ns from event_cursors")
    assert (incarnation, seq) == (before[0][0], 4)
    assert at_ns > before[0][2]


async def test_the_time_of_an_event_is_the_same_however_it_is_asked_for(
    services: Endpoints, desk: Deployment
) -> None:
    stream = EventStream(desk.transport)
    await stream.ensure()
    seq = (await publish(desk, "x"))[0]
    reader = await stream.reader("desk", seq - 1)
    [event] = await reader.fetch(1, timeout_s=5)
    await reader.close()
    assert await stream.taken_at(seq) == event.at_ns
    assert await stream.taken_at(seq + 1_000_000) is None
    assert await stream.first_after("desk", event.at_ns) is None
    assert await stream.first_after("desk", event.at_ns - 1) == seq


async def test_a_jetstream_that_is_slow_is_not_taken_for_one_without_events(
    services: Endpoints, desk: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came after its stream had lost its end would be skipped."""
    stream = EventStream(desk.transport)
    await stream.ensure()
    first, *_ = await publish(desk, "x", "y", "z")
    before = await stream.taken_at(first) or 0
    fetch, slow = EventReader.fetch, True

    async def fetched(reader: EventReader, limit: int, *, timeout_s: float) -> list[Event]:
        return [] if slow else await fetch(reader, min(limit, 2), timeout_s=timeout_s)

    monkeypatch.setattr(EventReader, "fetch", fetched)
    with pytest.raises(ServiceUnavailable, match="in time"):
        await stream.first_after("desk", before)
    slow = False
    assert await stream.first_after("desk", before) == first + 1
    assert await stream.first_after("desk", before + DAY_NS) is None


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("2026-11-21T01:02:03.000000001Z", 1_795_222_923_000_000_001),
        ("2026-11-21T02:02:03.123456789+01:00", 1_795_222_923_123_456_789),
    ],
)
def test_times_are_read_to_the_nanosecond(text: str, nanoseconds: int) -> None:
    assert _nanoseconds(text) == nanoseconds


async def test_events_larger_than_one_request_may_bring_come_all_the_same(
    services: Endpoints, nats: ForgetfulNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bus.event_reader.FETCH_BYTES", 100_000)
    transport = await NatsTransport.connect(nats.server.url(), name="test")
    stream = EventStream(transport)
    await stream.ensure()
    sizes = [10, 90_000, 90_000, 300_000, 300_000, 10, 60_000, 60_000]
    for size in sizes:
        await stream.publish("large", "note", b"x" * size)
    reader = await stream.reader("large", 0)
    found: list[int] = []
    while len(found) < len(sizes):
        events = await reader.fetch(100, timeout_s=5)
        assert sum(len(event.data) for event in events) < 100_000 or len(events) == 1
        found += [len(event.data) for event in events]
    assert found == sizes
    await reader.close()
    await transport.close()
