"""The stream of events stays within its bytes, and each name of a domain within its number: what is in mailboxes leaves
it, and nothing else does."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.js.errors import APIError

from bus.envelope import new_id
from bus.errors import Overloaded
from bus.events import EVENTS_PER_NAME, EventStream
from callboard.cli.feeding import Publisher
from tests.integration.cli import DESK, until
from tests.integration.deployment import Deployment
from tests.integration.forgetful_nats import ForgetfulNats, forgetful_nats

MAX_BYTES = 256 * 1024
MAX_PER_NAME = 24
TEXT = "x" * 1_000
AGENTS = 20


@pytest.fixture
async def nats(home: Path) -> AsyncIterator[ForgetfulNats]:
    async with forgetful_nats(home) as nats:
        yield nats


@pytest.fixture
async def desk(nats: ForgetfulNats, database: str) -> AsyncIterator[Deployment]:
    async with Deployment.open(DESK, database, nats.server.url()) as desk:
        yield desk


@pytest.fixture
async def stream(desk: Deployment) -> EventStream:
    stream = EventStream(desk.transport)
    await stream.ensure(max_bytes=MAX_BYTES)
    return stream


def event(number: int) -> bytes:
    return json.dumps({"task": f"k{number % AGENTS}", "number": number, "text": f"{number} {TEXT}"}).encode()


async def publish(stream: EventStream, number: int, *, within_s: float = 15.0) -> float:
    """Publish an event, again while it is refused; return for how long it was, in seconds."""
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(within_s):
        while True:
            try:
                await stream.publish("desk", "note", event(number))
                return asyncio.get_running_loop().time() - began
            except Overloaded:
                await asyncio.sleep(0.05)


async def noted(desk: Deployment, count: int) -> dict[str, list[int]]:
    """The numbers that each clerk has noted, once there are so many."""
    await until(
        lambda: desk.fetch(
            "select 1 from agents having sum(json_array_length(state -> 'notes')) >= $1", count
        ),
        timeout_s=60,
    )
    rows = await desk.fetch("select agent, state ->> 'notes' from agents where agent like 'clerk/%'")
    return {agent: [int(text.split()[0]) for text in json.loads(notes)] for agent, notes in rows}


def expected(*numbers: int) -> dict[str, list[int]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for number in numbers:
        found[f"clerk/k{number % AGENTS}"].append(number)
    return dict(found)


async def test_several_times_what_the_stream_holds_goes_through_it_once_and_in_order(
    desk: Deployment, stream: EventStream
) -> None:
    await desk.coordinate()
    total = 5 * MAX_BYTES // len(event(0))
    longest = 0.0
    for number in range(total):
        longest = max(longest, await publish(stream, number))
    assert longest < 6.0
    assert await noted(desk, total) == expected(*range(total))
    [(seq,)] = await desk.fetch("select seq from event_cursors")
    assert seq == total
    state = await stream.state()
    assert state.fill < 1
    assert await stream.taken_at(total) is not None  # by this one the next reader knows the stream


async def test_a_full_stream_that_nobody_reads_refuses_and_takes_events_again_once_somebody_does(
    desk: Deployment, stream: EventStream
) -> None:
    await desk.coordinate()
    await publish(stream, 0)
    await noted(desk, 1)
    await desk.forsake()
    await desk.kill_hosts()
    taken, refused = 1, None
    while refused is None:
        try:
            await stream.publish("desk", "note", event(taken))
            taken += 1
        except Overloaded as error:
            refused = error
    assert refused.retry_after_s > 0
    assert taken > MAX_BYTES // (2 * len(event(0)))
    await desk.coordinate()
    for number in range(taken, 2 * taken):
        await publish(stream, number)
    assert await noted(desk, 2 * taken) == expected(*range(2 * taken))


async def test_what_nobody_reads_is_refused_to_its_domain_whoever_publishes_and_others_go_on(
    desk: Deployment, stream: EventStream
) -> None:
    assert (await stream.state()).max_per_name == EVENTS_PER_NAME
    await stream.ensure(max_per_name=MAX_PER_NAME)
    for number in range(MAX_PER_NAME):
        await stream.publish("desk", "note", event(number))
    with pytest.raises(Overloaded, match="as many 'note' of desk as it may"):
        await stream.publish("desk", "note", event(MAX_PER_NAME))
    with pytest.raises(APIError, match="per subject exceeded"):
        await desk.transport.client.jetstream().publish("callboard.events.desk.note", b"of any NATS client")
    assert (await stream.state("desk")).fill == 1
    await stream.publish("other", "note", b"x")
    await stream.publish("desk", "another", b"x")
    assert (await stream.state("other")).fill < 0.2
    await desk.coordinate()
    await publish(stream, MAX_PER_NAME)
    assert await noted(desk, MAX_PER_NAME + 1) == expected(*range(MAX_PER_NAME + 1))


async def test_several_times_what_a_name_may_have_goes_through_it_once_and_in_order(
    desk: Deployment, stream: EventStream
) -> None:
    await stream.ensure(max_per_name=MAX_PER_NAME)
    await desk.coordinate()
    publisher = Publisher(stream, "desk", new_id(), "default")
    total = 4 * MAX_PER_NAME
    async with asyncio.timeout(30):
        for number in range(total):
            await publisher("note", json.loads(event(number)), key=f"{number}")
        await publisher.flush()
    assert await noted(desk, total) == expected(*range(total))


async def test_a_feed_larger_than_the_stream_waits_for_room_and_keeps_its_order(
    desk: Deployment, stream: EventStream
) -> None:
    await desk.coordinate()
    publisher = Publisher(stream, "desk", new_id(), "default")
    total = 3 * MAX_BYTES // len(event(0))
    async with asyncio.timeout(30):
        for number in range(total):
            await publisher("note", json.loads(event(number)), key=f"{number}")
        await publisher.flush()
    assert await noted(desk, total) == expected(*range(total))


async def test_a_feed_into_a_stream_that_nobody_reads_ends_with_the_reason(
    stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callboard.cli.feeding._ROOM_WITHIN_S", 0.3)
    monkeypatch.setattr("callboard.cli.feeding._UNDER_WAY", 4)
    publisher = Publisher(stream, "desk", new_id(), "default")

    async def feed() -> None:
        for number in range(MAX_BYTES // 100):
            await publisher("note", json.loads(event(number)))

    with pytest.raises(Overloaded, match="nothing leaves it"):
        await asyncio.wait_for(feed(), 15)
    assert (await stream.state()).fill < 1


async def test_events_stay_for_as_long_as_they_are_to_be_kept_and_those_of_no_domain_for_ever(
    desk: Deployment, stream: EventStream, nats: ForgetfulNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.event_purge.LOOK_EVERY_S", 0.1)
    await stream.publish("nobody", "note", b"for a domain that is to come")
    await desk.coordinate()
    for number in range(10):
        await publish(stream, number)
    await noted(desk, 10)
    await stream.ensure(kept_s=0.5)
    await publish(stream, 10)
    last = 12

    async def only_the_last_is_left() -> bool:
        return await stream.subjects() == {"callboard.events.nobody.note": 1, "callboard.events.desk.note": 1}

    await until(only_the_last_is_left)
    assert await stream.taken_at(last) is not None
    await nats.remember()  # a restart
    await until(lambda: desk.fetch("select 1 from event_cursors where seq = $1", last))
    [(before,)] = await desk.fetch("select incarnation from event_cursors")
    await until(lambda: _is_up(stream))
    await stream.ensure(kept_s=3600)
    await publish(stream, 11)
    assert await noted(desk, 12) == expected(*range(12))
    assert await desk.fetch("select incarnation, seq from event_cursors") == [(before, 13)]
    assert await stream.unread("nobody", 0) == 1


async def test_nothing_leaves_a_stream_with_room_before_its_time(
    desk: Deployment, stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.event_purge.LOOK_EVERY_S", 0.0)
    await desk.coordinate()
    for number in range(20):
        await publish(stream, number)
    await noted(desk, 20)
    await publish(stream, 20)
    await noted(desk, 21)
    assert (await stream.subjects())["callboard.events.desk.note"] == 21


async def test_a_database_that_is_older_than_the_stream_goes_on_with_what_is_left_and_says_so(
    desk: Deployment, stream: EventStream, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(6):
        await publish(stream, number)
    state = await stream.state()
    await stream.drop_before("desk", 5)  # as a later reader has, whose database is lost
    await desk.pool.execute(
        "insert into event_cursors (domain, incarnation, seq, at_ns) values ('desk', $1, 2, 1)", state.created
    )
    with caplog.at_level(logging.WARNING, "callboard.ingress"):
        await desk.coordinate()
        assert await noted(desk, 2) == expected(4, 5)
    assert "restored" in caplog.text


async def test_a_number_given_twice_is_known_also_when_its_second_event_has_been_deleted(
    desk: Deployment, nats: ForgetfulNats, stream: EventStream
) -> None:
    await desk.coordinate()
    await publish(stream, 0)
    await noted(desk, 1)
    await nats.remember()
    await until(lambda: _is_up(stream))
    for number in (1, 2):
        await publish(stream, number)
    await noted(desk, 3)
    await desk.forsake()
    await desk.kill_hosts()
    await nats.forget()
    await until(lambda: _is_up(stream))
    await publish(stream, 3)  # with the number of 1
    await stream.publish("other", "note", b"with the number of 2")
    await stream.publish("other", "note", b"x")
    await stream.drop_before("other", 4)
    assert await stream.taken_at(3) is None
    await desk.coordinate()
    assert await noted(desk, 4) == expected(*range(4))


async def _is_up(stream: EventStream) -> bool:
    try:
        await stream.state()
    except Exception:
        return False
    return True


async def test_ids_of_a_purged_domain_are_forgotten_however_long_nats_takes(
    stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any wait of our own: what is waited for is that NATS has forgotten them."""
    sleep = asyncio.sleep
    key = secrets.token_hex(4)
    first = await stream.publish("gone", "note", b"{}", message_id=key)
    assert await stream.publish("gone", "note", b"{}", message_id=key) == first
    monkeypatch.setattr("bus.events.asyncio.sleep", lambda seconds: sleep(0))
    await stream.purge("gone")
    assert await stream.unread("gone", 0) == 0
    assert await stream.publish("gone", "note", b"{}", message_id=key) > first
    assert await stream.unread("gone", 0) == 1
    await stream.purge("gone")
    assert await stream.unread("gone", 0) == 0
