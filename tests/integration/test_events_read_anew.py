"""An event that no agent could be given is a dead letter; its retry reads it by the domain.yaml and the code of today."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from actors.code_apart import code_apart
from actors.control import RetryDeadLetter
from bus.address import Address
from bus.event import MSG_ID_HEADER
from bus.events import EventStream
from callboard.services import Endpoints
from storage.inspect import DeadLetterView, list_dead_letters
from storage.intake import Incoming, accept
from tests.integration.cli import Cli, until
from tests.integration.deployment import Deployment

AGENTS = """
from pydantic import BaseModel
from callboard import Agent, Context, handler, message

@message("till.sold.v1")
class Sold(BaseModel):
    what: str
    price: int

class Till(Agent):
    kind = "till"

    class State(BaseModel):
        sold: list[str] = []

    @handler
    async def on_sold(self, sold: Sold, ctx: Context) -> None:
        self.state.sold.append(f"{sold.what} for {sold.price:g}")
"""
MENDED = AGENTS.replace("price: int", "price: float")
LISTED = """
domain: till
partitions: 4
kinds:
  - class: till_agents:Till
events:
  - {name: sold, type: till.sold.v1, to: "till/{what}"}
hosts: {min: 1, max: 1}
"""
BOTH = LISTED.replace("hosts:", '  - {name: sold-late, type: till.sold.v1, to: "till/{what}"}\nhosts:')


@contextlib.asynccontextmanager
async def till(
    services: Endpoints, database: str, folder: Path, *, yaml: str = LISTED, agents: str = AGENTS
) -> AsyncIterator[Deployment]:
    """The domain with this code, in a process of its own as far as Python's modules go; without hosts yet."""
    _write(folder, yaml, agents)
    with code_apart():
        async with Deployment.open(folder, database, services.nats_url) as deployment:
            yield deployment


def _write(folder: Path, yaml: str, agents: str) -> None:
    folder.mkdir()
    (folder / "domain.yaml").write_text(yaml)
    (folder / "till_agents.py").write_text(agents)


@pytest.fixture
def urls(services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", database)
    monkeypatch.setenv("CALLBOARD_NATS_URL", services.nats_url)


async def buried(deployment: Deployment, after: int = 0) -> DeadLetterView:
    """The dead letter, once it is there."""
    found = await until(lambda: list_dead_letters(deployment.pool, tenant="default", after=after))
    assert len(found) == 1
    letter: DeadLetterView = found[0]
    return letter


async def publish(deployment: Deployment, name: str, data: bytes, id_: str | None = None) -> int:
    await EventStream(deployment.transport).ensure()
    headers = {} if id_ is None else {MSG_ID_HEADER: id_}
    ack = await deployment.transport.client.jetstream().publish(
        f"callboard.events.till.{name}", data, headers=headers
    )
    return int(ack.seq)


async def sold(deployment: Deployment, key: str) -> list[str]:
    rows = await deployment.fetch("select state ->> 'sold' from agents where agent = $1", f"till/{key}")
    return [] if not rows else json.loads(rows[0][0])


async def retry(deployment: Deployment, letter: DeadLetterView) -> None:
    to = Address("till", *letter.agent.split("/"))
    again = Incoming(to=to, message=RetryDeadLetter(id=letter.id), control=True, any_kind=True)
    await accept(deployment.pool, deployment.transport, [again])


async def none_left(deployment: Deployment) -> bool:
    return await deployment.fetch("select from dead_letters") == []


async def decided(deployment: Deployment, count: int) -> list[Any]:
    """What the turns of the events' own agents say, once there are so many."""
    rows = await until(
        lambda: deployment.fetch(
            "select body::text from transitions where agent like 'events/%' and (select count(*) from transitions"
            " where agent like 'events/%') >= $1 order by version",
            count,
        )
    )
    return [json.loads(row[0])["notes"][0] for row in rows]


async def test_a_letter_says_what_its_publisher_knows_the_event_by(
    cli: Cli, urls: None, services: Endpoints, database: str, tmp_path: Path
) -> None:
    async with till(services, database, tmp_path / "a") as old:
        await old.coordinate()
        number = await publish(old, "sold-late", b'{"what": "tea", "price": 2}', "till/77")
        letter = await buried(old)
        shown = (await cli.json("dead-letters", "show", str(letter.id)))["payload"]
        assert (shown["subject"], shown["sequence"], shown["headers"], shown["data"]) == (
            "callboard.events.till.sold-late", number, {"Nats-Msg-Id": "till/77"}, '{"what": "tea", "price": 2}',
        )  # fmt: skip
        text = await cli("dead-letters", "show", str(letter.id))
        place = f"published on callboard.events.till.sold-late, number {number} in the stream, "
        assert place + "Nats-Msg-Id till/77" in text.replace("\n", " ")
        assert "\ninvalid_event, " in text  # and not after 0 failures
        assert letter.error == (
            "The domain till lists no event 'sold-late'; it takes sold. List it under `events` in domain.yaml, and have it "
            "read anew with `callboard dead-letters retry`; or publish to callboard.events.till.NAME with a name that is "
            "listed."
        )


async def test_an_event_is_read_anew_once_its_name_is_listed(
    cli: Cli, urls: None, services: Endpoints, database: str, tmp_path: Path
) -> None:
    async with till(services, database, tmp_path / "a") as old:
        await old.coordinate()
        await publish(old, "sold-late", b'{"what": "tea", "price": 2}')
        first = await buried(old)
        assert "It is refused again, as dead letter" in await cli(
            "dead-letters", "retry", str(first.id), code=1
        )
        second = await buried(old, first.id)
        assert (second.was, second.message, second.reason) == (first.id, first.message, "invalid_event")
        assert (await cli.json("dead-letters", "retry", str(second.id), code=1))["again"] == second.id + 1
    async with till(services, database, tmp_path / "b", yaml=BOTH) as new:
        await new.coordinate()
        letter = await buried(new)
        assert "is retried" in await cli("dead-letters", "retry", str(letter.id))
        await until(lambda: sold(new, "tea"))
        assert await sold(new, "tea") == ["tea for 2"]
        assert await none_left(new)
        [(message,)] = await new.fetch(
            "select body -> 'message' -> 'header' from transitions where agent = 'till/tea'"
        )
        assert (json.loads(message)["id"], json.loads(message)["letter"]) == (letter.message, letter.id)
        assert f'"id": {letter.id}, "message": "{letter.message}", "to": "till/till/tea"' in await cli(
            "agent", "till/events/sold-late"
        )


async def test_an_event_is_read_anew_by_a_class_that_was_mended(
    services: Endpoints, database: str, tmp_path: Path
) -> None:
    async with till(services, database, tmp_path / "a") as old:
        await old.coordinate()
        await publish(old, "sold", b'{"what": "tea", "price": 2.5}')
        first = await buried(old)
        await retry(old, first)
        second = await buried(old, first.id)
        assert "price" in second.error
    async with till(services, database, tmp_path / "b", agents=MENDED) as new:
        await new.coordinate()
        await retry(new, await buried(new))
        await until(lambda: sold(new, "tea"))
        assert await sold(new, "tea") == ["tea for 2.5"]
        assert await none_left(new)


async def test_a_retry_that_was_given_twice_before_a_host_came_takes_effect_once(
    services: Endpoints, database: str, tmp_path: Path
) -> None:
    async with till(services, database, tmp_path / "a") as old:
        await old.coordinate()
        await publish(old, "sold-late", b'{"what": "tea", "price": 2}')
        await buried(old)
    async with till(services, database, tmp_path / "b", yaml=BOTH) as new:
        letter = await buried(new)
        await retry(new, letter)
        await retry(new, letter)
        await new.coordinate()
        first, second = await decided(new, 2)
        assert (first["to"], second["found"]) == ("till/till/tea", False)
        await until(lambda: sold(new, "tea"))
        await retry(new, letter)
        await decided(new, 3)
        assert await sold(new, "tea") == ["tea for 2"]


async def test_an_event_that_was_published_again_under_its_id_counts_once(
    services: Endpoints, database: str, tmp_path: Path
) -> None:
    event = b'{"what": "tea", "price": 2}'
    async with till(services, database, tmp_path / "a") as old:
        await old.coordinate()
        await publish(old, "sold-late", event, "till/78")
        await buried(old)
    async with till(services, database, tmp_path / "b", yaml=BOTH) as new:
        await EventStream(new.transport).purge("till")  # as does the time of JetStream's window
        await new.coordinate()
        await publish(new, "sold-late", event, "till/78")
        await until(lambda: sold(new, "tea"))
        await retry(new, await buried(new))
        await until(lambda: none_left(new))
        await publish(new, "sold", b'{"what": "tea", "price": 3}')
        await until(lambda: _sold_twice(new))
        assert await sold(new, "tea") == ["tea for 2", "tea for 3"]


async def _sold_twice(deployment: Deployment) -> bool:
    return len(await sold(deployment, "tea")) >= 2


async def test_an_event_that_is_no_text_is_not_retried(
    cli: Cli, urls: None, services: Endpoints, database: str, tmp_path: Path
) -> None:
    """What is kept of it, with its bad bytes replaced, would be read."""
    async with till(services, database, tmp_path / "a") as till_:
        await till_.coordinate()
        await publish(till_, "sold", b'{"what": "t\xe9", "price": 2}')
        letter = await buried(till_)
        assert "not text in UTF-8" in await cli.error("dead-letters", "retry", str(letter.id))
        await retry(till_, letter)
        [note] = await decided(till_, 1)
        assert note["refused"] == "not all of what it says could be stored"
        assert (await buried(till_)).id == letter.id
