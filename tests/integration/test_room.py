"""A long mailbox or domain takes in no more from outside, and takes in again once it has been worked off."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from actors.control import Pause, Resume
from bus.address import parse_address
from bus.errors import Overloaded
from bus.events import EventStream
from callboard.services import Endpoints
from coordinators.tasks.front import Submission
from coordinators.tasks.remote import submit_over_nats
from storage.intake import Incoming, accept
from tests.integration.cli import DESK, until
from tests.integration.deployment import Deployment
from tests.integration.forgetful_nats import ForgetfulNats, forgetful_nats


@pytest.fixture
async def desk(services: Endpoints, database: str) -> AsyncIterator[Deployment]:
    async with Deployment.open(DESK, database, services.nats_url) as desk:
        yield desk


@pytest.fixture
async def nats(home: Path) -> AsyncIterator[ForgetfulNats]:
    async with forgetful_nats(home) as nats:
        yield nats


@pytest.fixture
async def alone(nats: ForgetfulNats, database: str) -> AsyncIterator[Deployment]:
    """A desk with a stream of events of its own."""
    async with Deployment.open(DESK, database, nats.server.url()) as desk:
        yield desk


async def limit(desk: Deployment, **limits: int) -> None:
    await desk.pool.execute(
        "update domains set spec = jsonb_set(spec::jsonb, '{limits}', spec::jsonb -> 'limits' || $1::jsonb)::json",
        json.dumps(limits),
    )


async def send(desk: Deployment, *keys: str, **more: Any) -> None:
    from desk.agents import Note

    await accept(
        desk.pool,
        desk.transport,
        [
            Incoming(to=parse_address(f"desk/clerk/{key}"), message=Note(task=key, number=1, text="x"))
            for key in keys
        ],
        **more,
    )


async def accepts(desk: Deployment, key: str) -> bool:
    try:
        await send(desk, key)
    except Overloaded:
        return False
    return True


async def waiting(desk: Deployment) -> int:
    [(count,)] = await desk.fetch("select count(*) from mailbox")
    return int(count)


async def test_a_full_mailbox_refuses_what_comes_from_outside_until_it_is_shorter(desk: Deployment) -> None:
    await limit(desk, mailbox=4)
    for _ in range(4):
        await send(desk, "a")
    with pytest.raises(Overloaded, match="desk/clerk/a: 4 is the limit") as refused:
        await send(desk, "b", "a")
    assert refused.value.retry_after_s > 0
    assert await waiting(desk) == 4  # all or none
    await send(desk, "b")
    await send(desk, "a", admitted=True)
    await desk.coordinate()
    await until(lambda: desk.fetch("select 1 where not exists (select from mailbox)"))
    await send(desk, "a")


async def test_a_full_domain_refuses_messages_and_tasks_until_it_is_worked_off(desk: Deployment) -> None:
    await limit(desk, backlog=6)
    for number in range(6):
        await send(desk, f"k{number}")
    with pytest.raises(Overloaded, match="wait for desk: 6 is the limit"):
        await send(desk, "other")
    with pytest.raises(Overloaded, match="messages wait in desk"):
        await desk.submit({"lines": 0})
    await desk.coordinate()
    await until(lambda: accepts(desk, "other"))
    task = await submit_over_nats(desk.transport, "desk", Submission(goal="g", input={"lines": 0}))
    await desk.client.result(task, timeout_s=20)


async def test_control_messages_are_not_refused(desk: Deployment) -> None:
    await limit(desk, mailbox=1)
    await send(desk, "a")
    pause = Incoming(to=parse_address("desk/clerk/a"), message=Pause(), control=True)
    await accept(desk.pool, None, [pause])
    assert await waiting(desk) == 2


async def test_mailboxes_are_not_counted_while_none_can_be_full(desk: Deployment) -> None:
    await send(desk, "a")
    counted = "select counted_at from backlogs"
    first = await desk.fetch(counted)
    for _ in range(20):
        await send(desk, "a")
    assert await desk.fetch(counted) == first
    await desk.pool.execute("update backlogs set waiting = 5000000, took = '1 hour'")
    with pytest.raises(Overloaded, match="2,000,000 is the limit"):
        await send(desk, "a")  # not counted again so soon
    await desk.pool.execute("update backlogs set took = '0'")
    await send(desk, "a")


async def test_events_wait_in_the_stream_while_a_mailbox_is_full_and_a_full_stream_refuses(
    alone: Deployment,
) -> None:
    key = f"k{secrets.token_hex(4)}"
    stream = EventStream(alone.transport)
    await stream.ensure(max_bytes=64 * 1024)
    await limit(alone, mailbox=5)
    await alone.coordinate()
    clerk = parse_address(f"desk/clerk/{key}")
    await accept(alone.pool, alone.transport, [Incoming(to=clerk, message=Pause(), control=True)])
    await until(lambda: alone.fetch("select from agents where lifecycle = 'paused'"))

    async def publish(number: int) -> None:
        note = {"task": key, "number": number, "text": f"{number} " + "x" * 500}
        await stream.publish("desk", "note", json.dumps(note).encode())

    taken, refused = 0, False
    while not refused:
        try:
            await publish(taken)
            taken += 1
        except Overloaded:
            refused = True
    assert taken > 60
    await until(lambda: waiting(alone))
    assert await waiting(alone) <= 5
    await accept(alone.pool, alone.transport, [Incoming(to=clerk, message=Resume(), control=True)])
    have = "select from agents where agent = $1 and json_array_length(state -> 'notes') = $2"
    await until(lambda: alone.fetch(have, f"clerk/{key}", taken), timeout_s=60)

    async def is_taken() -> bool:
        try:
            await publish(taken)
        except Overloaded:
            return False
        return True

    await until(is_taken)
    await until(lambda: alone.fetch(have, f"clerk/{key}", taken + 1))
    [(found,)] = await alone.fetch("select state ->> 'notes' from agents where agent = $1", f"clerk/{key}")
    assert [int(text.split()[0]) for text in json.loads(found)] == list(range(taken + 1))
