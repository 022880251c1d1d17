"""What the doctor says of a stream of events that fills up: whose events they are, and what to do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from bus.errors import Overloaded
from bus.events import EventStream
from callboard.doctor.event_room import examine_event_room
from callboard.doctor.finding import Finding
from callboard.services import Endpoints
from storage.domains import unregister_domain
from tests.integration.cli import DESK, until
from tests.integration.deployment import Deployment
from tests.integration.forgetful_nats import ForgetfulNats, forgetful_nats

MAX_BYTES = 64 * 1024


@pytest.fixture
async def nats(home: Path) -> AsyncIterator[ForgetfulNats]:
    async with forgetful_nats(home) as nats:
        yield nats


@pytest.fixture
async def desk(nats: ForgetfulNats, database: str) -> AsyncIterator[Deployment]:
    async with Deployment.open(DESK, database, nats.server.url()) as desk:
        yield desk


async def examined(desk: Deployment, nats: ForgetfulNats) -> Finding:
    endpoints = Endpoints(
        postgres_url="", nats_url=nats.server.url(), embedded_postgres=True, embedded_nats=True
    )
    return await examine_event_room(endpoints, desk.pool)


async def fill_up(desk: Deployment, domain: str) -> EventStream:
    stream = EventStream(desk.transport)
    await stream.ensure(max_bytes=MAX_BYTES)
    data = json.dumps({"task": "t", "number": 1, "text": "x" * 500}).encode()
    with suppress(Overloaded):
        while True:
            await stream.publish(domain, "note", data)
    return stream


async def test_no_stream_and_one_with_room_are_good(desk: Deployment, nats: ForgetfulNats) -> None:
    assert (await examined(desk, nats)).status == "good"
    await EventStream(desk.transport).ensure()
    found = await examined(desk, nats)
    assert (found.status, found.detail) == ("good", "0% of 4.0 GiB used")


async def test_events_of_a_domain_that_is_not_registered(desk: Deployment, nats: ForgetfulNats) -> None:
    await fill_up(desk, "nobody")
    found = await examined(desk, nats)
    assert found.status == "fail"
    assert "events of nobody wait" in found.detail
    assert "No domain of that name" in found.mend
    assert "callboard.events.nobody" in found.mend


async def test_a_name_that_the_stream_takes_no_more_of(desk: Deployment, nats: ForgetfulNats) -> None:
    stream = EventStream(desk.transport)
    await stream.ensure(max_per_name=20)
    for number in range(15):
        await stream.publish("desk", "note", b"x")
        assert number or (await examined(desk, nats)).status == "good"
    assert (await examined(desk, nats)).status == "warn"
    for _ in range(5):
        await stream.publish("desk", "note", b"x")
    found = await examined(desk, nats)
    assert found.status == "fail"
    assert "20 events 'note' of desk are there, and past 20 it refuses them" in found.detail
    assert "no hosts" in found.mend


async def test_a_domain_without_hosts_is_named_until_it_has_read_them(
    desk: Deployment, nats: ForgetfulNats
) -> None:
    stream = await fill_up(desk, "desk")
    found = await examined(desk, nats)
    assert found.status == "fail"
    assert "events of desk wait" in found.detail
    assert "no hosts" in found.mend
    await unregister_domain(desk.pool, "desk")
    assert "was removed" in (await examined(desk, nats)).mend
    await desk.pool.execute("update domains set state = 'active'")
    await desk.coordinate()

    async def has_room() -> bool:
        return (await stream.state()).fill < 0.5

    await until(has_room)
    assert (await examined(desk, nats)).status == "good"
