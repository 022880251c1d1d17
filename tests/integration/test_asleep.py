"""Domains that are asleep beside a run of another one, and what wakes them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, cast

import pytest

from bus.address import parse_address
from bus.errors import ServiceUnavailable
from bus.events import EventStream
from bus.subjects import task_submit
from callboard.services import Endpoints
from coordinators.asleep import Sleepers
from coordinators.master import Master
from coordinators.tasks.front import Submission
from coordinators.tasks.remote import submit_over_nats
from storage.domains import all_domains, put_others_to_sleep
from storage.intake import Incoming, accept
from storage.placement import claim_coordinator
from storage.queries import query
from storage.tasks import submit_task
from tests.integration.cli import DESK, until
from tests.integration.deployment import Deployment, cancelled
from tests.integration.test_cli_domains import Leaders


@pytest.fixture
async def desk(services: Endpoints, database: str) -> AsyncIterator[Deployment]:
    """Without a coordinator and hosts."""
    async with Deployment.open(DESK, database, services.nats_url) as desk:
        yield desk


async def test_a_message_that_is_committed_late_wakes_its_domain_and_so_does_a_task(desk: Deployment) -> None:
    from desk.agents import Note

    wakes = partial(desk.pool.fetchval, query("wake_if_due"), "desk")
    async with desk.pool.acquire() as late, late.transaction():
        note = Incoming(to=parse_address("desk/clerk/a"), message=Note(task="a", number=1, text="x"))
        await accept(cast(Any, late), None, [note], admitted=True)
        await put_others_to_sleep(desk.pool, "somebody")
        assert await wakes() is None
    assert await wakes() == "something was sent to it as it fell asleep"
    async with desk.pool.acquire() as late, late.transaction():
        await submit_task(late, "desk", goal="a test")
        await put_others_to_sleep(desk.pool, "somebody")
        assert await wakes() is None
    assert await wakes() == "something was sent to it as it fell asleep"
    await put_others_to_sleep(desk.pool, "somebody")
    assert await wakes() is None  # what waited before is no reason


@contextlib.asynccontextmanager
async def led_by_a_master(desk: Deployment, services: Endpoints) -> AsyncIterator[Leaders]:
    """A master, and who listens in the place of domains that are asleep."""
    leaders, sleepers = Leaders(), Sleepers(desk.pool, services.nats_url)
    leads = Master(desk.pool, await claim_coordinator(desk.pool, "master", "test"), leaders)
    leads.every_round.append(sleepers)
    master = asyncio.create_task(leads.run())
    try:
        yield leaders
    finally:
        await cancelled(master)
        await sleepers.close()


@pytest.mark.parametrize("when", ["before the master comes", "while it listens"])
async def test_an_event_wakes_its_domain(desk: Deployment, services: Endpoints, when: str) -> None:
    events = EventStream(desk.transport)
    await events.ensure()
    before = await events.publish("desk", "note", b"{}")  # what waited before is no reason to wake
    await put_others_to_sleep(desk.pool, "somebody", last_event=before)
    if when == "before the master comes":
        await events.publish("desk", "note", b"{}")
    async with led_by_a_master(desk, services) as leaders:
        if when == "while it listens":
            await until(lambda: is_answered(desk))
            assert leaders.domains == set()
            await events.publish("desk", "note", b"{}")
        await until(lambda: is_led(leaders))
    assert [row.state for row in await all_domains(desk.pool)] == ["active"]


async def is_answered(desk: Deployment) -> bool:
    """Whether somebody answers for the domain on NATS; what is asked of it is no task."""
    try:
        await desk.transport.request(task_submit("desk"), b"{}", timeout_s=1)
    except ServiceUnavailable:
        return False
    return True


async def is_led(leaders: Leaders) -> bool:
    return "desk" in leaders.domains


async def test_a_task_that_is_submitted_over_nats_wakes_its_domain(
    desk: Deployment, services: Endpoints
) -> None:
    await put_others_to_sleep(desk.pool, "somebody")
    async with led_by_a_master(desk, services) as leaders:
        await submit_over_nats(desk.transport, "desk", Submission(goal="a test"))
        await until(lambda: is_led(leaders))
        await submit_over_nats(
            desk.transport, "desk", Submission(goal="another")
        )  # before its hosts are there
    with pytest.raises(ServiceUnavailable):
        await submit_over_nats(desk.transport, "desk", Submission(goal="nobody's"), timeout_s=0.5)
