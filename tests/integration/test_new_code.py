"""A domain's new kinds and events are known to everybody before its hosts are: nothing sent to them is given up."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from actors import incarnation
from actors.domain import load_domain, read_domain
from actors.event_place import count_waiting
from bus.address import Address
from bus.events import EventStream
from bus.subjects import EVENTS_STREAM
from callboard.services import Endpoints
from coordinators.equipment import SYSTEM_KINDS
from storage.code import pack, put_code
from storage.domains import DomainRow, register_domain
from storage.inspect import find_event_cursor
from storage.intake import Incoming, accept
from storage.placement import claim_coordinator
from tests.integration.cli import until
from tests.integration.deployment import Deployment

AGENTS = """
from pydantic import BaseModel
from callboard import Agent, Context, handler, message

@message("grown.note.v1")
class Note(BaseModel):
    text: str

class Keeper(Agent):
    kind = "keeper"

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None: ...

class Archivist(Agent):
    kind = "archivist"

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None: ...
"""
OLD = """
domain: grown
partitions: 4
kinds:
  - class: grown_agents:Keeper
events:
  - {name: known, type: grown.note.v1, to: keeper/a}
hosts: {min: 1, max: 1}
"""
NEW = OLD.replace("events:\n", "  - class: grown_agents:Archivist\nevents:\n").replace(
    "hosts:", "  - {name: news, type: grown.note.v1, to: archivist/a}\nhosts:"
)


REPLACED = """
select from domains d where not exists (select from hosts where ended_at is null and code <> d.code)
  and exists (select from hosts where code = d.code and cardinality(owned) = 4)
"""


async def test_messages_and_events_that_only_new_code_knows_wait_for_its_hosts(
    services: Endpoints, database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "grown_agents.py").write_text(AGENTS)
    (tmp_path / "domain.yaml").write_text(OLD)
    async with Deployment.open(tmp_path, database, services.nats_url) as grown:
        await grown.coordinate()
        await until(lambda: grown.fetch("select from hosts where cardinality(owned) = 4"))
        coming = _hold_up_starts(grown)
        await _bring_up_to_date(grown, tmp_path)

        from grown_agents import Note  # type: ignore[import-not-found]

        note = Incoming(to=Address("grown", "archivist", "a"), message=Note(text="a message"))
        await accept(grown.pool, grown.transport, [note])
        events = EventStream(grown.transport)
        await events.ensure()
        await events.publish("grown", "news", b'{"text": "an event"}')
        await events.publish("grown", "known", b'{"text": "after it"}')
        await until(
            lambda: grown.fetch("select from mailbox where last_error like 'waits for a host with newer%'")
        )
        await until(lambda: _says(caplog, "events wait: Newer code of the domain"))
        coming.set()

        handled = "select agent, count(*)::int from transitions group by 1 order by 1"
        await until(lambda: _equals(grown, handled, [("archivist/a", 2), ("keeper/a", 1)]))
        assert await grown.fetch("select reason from dead_letters") == []


async def test_events_that_are_listed_no_more_are_dead_letters_and_where_none_is_nobody_reads(
    services: Endpoints, database: str, tmp_path: Path
) -> None:
    """As docs/domain-yaml.md says."""
    (tmp_path / "grown_agents.py").write_text(AGENTS)
    (tmp_path / "domain.yaml").write_text(NEW)
    async with Deployment.open(tmp_path, database, services.nats_url) as grown:
        await grown.coordinate()
        await until(lambda: grown.fetch("select from hosts where cardinality(owned) = 4"))
        events = EventStream(grown.transport)
        await _bring_up_to_date(grown, tmp_path, OLD)
        await until(lambda: grown.fetch(REPLACED))
        await events.publish("grown", "news", b'{"text": "nobody\'s"}')
        await events.publish("grown", "known", b'{"text": "after it"}')
        handled = "select agent, count(*)::int from transitions group by 1 order by 1"
        await until(lambda: _equals(grown, handled, [("keeper/a", 1)]))
        [(reason, error)] = await grown.fetch("select reason, error from dead_letters")
        assert reason == "invalid_event"
        assert "lists no event 'news'; it takes known" in error

        await _bring_up_to_date(grown, tmp_path, OLD[: OLD.index("events:")] + OLD[OLD.index("hosts:") :])
        await until(lambda: grown.fetch(REPLACED))
        await events.publish("grown", "known", b'{"text": "stays"}')

        async def nobody_reads() -> bool:
            found = await grown.transport.client.jetstream().consumers_info(EVENTS_STREAM)
            return not any("grown" in str(each.config) for each in found)

        await until(nobody_reads)
        cursor = await find_event_cursor(grown.pool, "grown")
        assert await count_waiting(events, cursor, "grown") == 1
        assert await grown.fetch(handled) == [("keeper/a", 1)]


def _hold_up_starts(deployment: Deployment) -> asyncio.Event:
    """Hosts that are started from now on come when this is set."""
    coming = asyncio.Event()
    start = deployment.launcher.start

    async def later(domain: str, host: str) -> Any:
        await coming.wait()
        return await start(domain, host)

    deployment.launcher.start = later  # type: ignore[method-assign]
    return coming


async def _bring_up_to_date(deployment: Deployment, folder: Path, written: str = NEW) -> None:
    (folder / "domain.yaml").write_text(written)
    digest, bundle = pack(folder)
    await put_code(deployment.pool, "grown", digest, bundle)
    domain = load_domain(read_domain(folder), folder, system_kinds=SYSTEM_KINDS)
    await register_domain(
        deployment.pool,
        DomainRow(
            domain="grown", partitions=4, spec=domain.registered().to_json(), kinds=sorted(domain.kinds),
            home=str(folder), code=digest,
        ),
    )  # fmt: skip


async def _says(log: pytest.LogCaptureFixture, words: str) -> bool:
    return words in log.text


async def _equals(deployment: Deployment, sql: str, rows: list[Any]) -> bool:
    return await deployment.fetch(sql) == rows


async def test_a_host_whose_domain_another_release_leads_gives_nothing_up_either(
    services: Endpoints, database: str
) -> None:
    async with Deployment.open(Path(__file__).with_name("slow"), database, services.nats_url) as slow:
        assert not await incarnation._is_outdated(slow.pool, "slow", "")
        assert await incarnation._is_outdated(slow.pool, "slow", "code of yesterday")
        await claim_coordinator(slow.pool, "slow", "node")
        assert not await incarnation._is_outdated(slow.pool, "slow", "")
        await slow.pool.execute("update coordinators set release = '9999.0'")
        assert await incarnation._is_outdated(slow.pool, "slow", "")
