"""Events that nobody takes, since their domain is unknown, was removed, or lists none: where they are seen."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bus.events import EventStream
from callboard.cli.waiting_events import WaitingEvents
from callboard.doctor.event_room import examine_untaken_events
from callboard.services import Endpoints
from callboard.untaken import untaken_events
from storage.domains import unregister_domain
from storage.placement import claim_coordinator
from tests.integration.cli import DESK, Cli, until
from tests.integration.deployment import Deployment
from tests.integration.forgetful_nats import forgetful_nats

NOBODY = "callboard.events.unborn.raised"


@dataclass
class Desk:
    """The desk, on a NATS with nothing else in its stream."""

    at_work: Deployment
    stream: EventStream
    nats_url: str

    async def lists_no_events(self) -> None:
        """As if its domain.yaml did; the hosts that run read on."""
        spec = {**json.loads(self.at_work.row.spec), "events": []}
        await self.at_work.pool.execute("update domains set spec = $1::jsonb", json.dumps(spec))

    async def untaken(self) -> dict[str, int]:
        found = await untaken_events(self.stream, self.at_work.pool)
        return {each.subject: each.count for each in found.subjects}


@pytest.fixture
async def desk(home: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    async with forgetful_nats(home) as nats:
        url = nats.server.url()
        monkeypatch.setenv("CALLBOARD_POSTGRES_URL", database)
        monkeypatch.setenv("CALLBOARD_NATS_URL", url)
        async with Deployment.open(DESK, database, url) as at_work:
            await claim_coordinator(at_work.pool, "desk", "test")  # as far as `status` knows, it runs
            stream = EventStream(at_work.transport)
            yield Desk(at_work=at_work, stream=stream, nats_url=url)


async def publish_note(desk: Desk) -> None:
    await desk.stream.publish("desk", "note", json.dumps({"task": "t", "number": 1, "text": "x"}).encode())


async def test_an_event_of_an_unknown_domain_is_shown_with_what_to_do(cli: Cli, desk: Desk) -> None:
    assert await desk.untaken() == {}  # there is no stream yet
    await desk.stream.ensure()
    await publish_note(desk)  # the desk takes it as soon as it has a host
    assert "nobody takes" not in await cli("events") + await cli("status")
    for _ in range(2):
        await desk.stream.publish("unborn", "raised", b"{}")
    events, status = await cli.json("events"), await cli.json("status")
    [found] = events["untaken"]["subjects"]
    assert status["untaken_events"] == events["untaken"]
    assert (found["subject"], found["count"], events["untaken"]["more"]) == (NOBODY, 2, 0)
    taken_at = await desk.stream.next_taken_at(NOBODY, 0)
    assert taken_at is not None
    assert found["oldest_at"].startswith(_utc(taken_at))
    for command in ("events", "status"):
        text = " ".join((await cli(command)).split())
        assert f"{NOBODY}: 2 events that nobody takes, the oldest" in text
        assert "No domain of that name is registered: `callboard up DOMAIN_DIR` registers it" in text


def _utc(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")


async def test_an_event_of_a_domain_that_lists_none_is_shown_and_is_no_work(cli: Cli, desk: Desk) -> None:
    await desk.stream.ensure()
    await publish_note(desk)
    waiting = WaitingEvents(desk.at_work.pool, desk.at_work.transport)
    assert await waiting("desk", now=True) == 1
    await desk.lists_no_events()
    assert await waiting("desk", now=True) == 0
    status: Any = await cli.json("status")
    assert [domain["events_waiting"] for domain in status["domains"]] == [0]
    assert await desk.untaken() == {"callboard.events.desk.note": 1}
    assert "Its domain.yaml lists no `events`: list them in" in " ".join((await cli("events")).split())


async def test_what_a_domain_took_before_it_listed_none_does_not_count(desk: Desk) -> None:
    """It stays in the stream for a day."""
    await desk.stream.ensure()
    await publish_note(desk)
    await desk.at_work.coordinate()
    await until(lambda: desk.at_work.fetch("select from event_cursors where seq = 1"))
    await desk.at_work.forsake()
    await desk.at_work.kill_hosts()
    await desk.lists_no_events()
    assert await desk.untaken() == {}
    await publish_note(desk)
    assert await desk.untaken() == {"callboard.events.desk.note": 1}
    [found] = (await untaken_events(desk.stream, desk.at_work.pool)).subjects
    assert found.oldest_at is not None
    assert _utc(await desk.stream.taken_at(2) or 0) == found.oldest_at.strftime("%Y-%m-%dT%H:%M:%S")


async def test_the_doctor_names_them_and_what_to_do(desk: Desk) -> None:
    endpoints = Endpoints(postgres_url="", nats_url=desk.nats_url, embedded_postgres=True, embedded_nats=True)
    assert await examine_untaken_events(endpoints, desk.at_work.pool) == []
    await desk.stream.ensure()
    await publish_note(desk)
    for name in "abcd":
        await desk.stream.publish("unborn", name, b"{}")
    await desk.stream.publish("unborn", "d", b"{}")
    await unregister_domain(desk.at_work.pool, "desk")
    [found] = await examine_untaken_events(endpoints, desk.at_work.pool)
    assert (found.check, found.status) == ("untaken events", "warn")
    assert found.detail == (
        "nobody takes them: callboard.events.unborn.d has 2 events, callboard.events.desk.note has 1 event, "
        "callboard.events.unborn.a has 1 event, 2 more subjects"
    )
    assert "The domain was removed: `callboard up" in found.mend
    assert found.mend.count("No domain of that name is registered") == 1


async def test_no_more_subjects_are_listed_than_somebody_reads(cli: Cli, desk: Desk) -> None:
    await desk.stream.ensure()
    for number in range(23):
        await desk.stream.publish("unborn", f"n{number:02}", b"{}")
    untaken = (await cli.json("events"))["untaken"]
    assert (len(untaken["subjects"]), untaken["more"]) == (20, 3)
    assert "3 subjects more with events that nobody takes." in await cli("events")
    assert "20 subjects more with events that nobody takes." in await cli("status")
