"""`callboard events`, and what a publisher of NATS can rely on, with the domain and the publisher of examples/alerts."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from nats.js.errors import APIError

from bus.events import DUPLICATE_WINDOW_S, EventStream
from bus.limits import SEEN_WINDOW
from bus.nats import NatsTransport
from callboard.services import Endpoints, redacted
from tests.integration.cli import Cli, until
from tests.integration.deployment import Deployment

ALERTS = Path(__file__).parents[2] / "examples" / "alerts"
SUBJECT = "callboard.events.alerts.raised"


@pytest.fixture
async def transport(services: Endpoints) -> AsyncIterator[NatsTransport]:
    transport = await NatsTransport.connect(services.nats_url, name="test")
    yield transport
    await transport.close()


@pytest.fixture
async def alerts(
    services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Deployment]:
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", database)
    monkeypatch.setenv("CALLBOARD_NATS_URL", services.nats_url)
    async with Deployment.open(ALERTS, database, services.nats_url) as alerts:
        await EventStream(alerts.transport).ensure()
        yield alerts


async def publish(url: str, *words: str) -> str:
    """What the example's publisher says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ALERTS / "publish.py"),
        *words,
        env={"NATS_URL": url},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def test_a_publisher_that_is_called_wrongly_says_how_it_is_called() -> None:
    """Without NATS_URL, as it is called first, and without what is to be published."""
    for words, environment in ((("1", "a", "b"), {}), ((), {"NATS_URL": "nats://127.0.0.1:1"})):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(ALERTS / "publish.py"), *words),
            env=environment,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
        assert process.returncode == 1
        assert said.decode().startswith("Publish one alert: `NATS_URL=")
        assert said.count(b"\n") == 1


def counted(alerts: Deployment, service: str, number: int) -> Callable[[], Awaitable[Any]]:
    """A condition: so many alerts of a service have been handled."""
    sql = "select from agents where agent = $1 and (state ->> 'alerts')::int = $2"
    return lambda: alerts.fetch(sql, f"incident/{service}", number)


async def test_events_names_the_subjects_and_hides_the_password(
    cli: Cli, alerts: Deployment, services: Endpoints
) -> None:
    found = await cli.json("events")
    assert list(found.pop("untaken")) == ["subjects", "more"]
    assert found == {
        "nats": redacted(services.nats_url),
        "events": [
            {
                "domain": "alerts", "subject": SUBJECT, "type": "alert.raised.v1",
                "to": "alerts/incident/{service}", "shared": False,
            }
        ],
    }  # fmt: skip
    assert services.nats_url not in found["nats"]
    assert SUBJECT in await cli("events")
    assert await cli("events", "--url") == services.nats_url + "\n"
    assert await cli.json("events", "--url") == {"url": services.nats_url}


async def test_events_where_nothing_runs_says_how_to_start(cli: Cli) -> None:
    assert "does not run" in await cli.error("events", "--url", code=3)


async def test_an_acknowledged_event_is_handled_once_hosts_are_there(
    alerts: Deployment, services: Endpoints
) -> None:
    service, alert = secrets.token_hex(4), secrets.token_hex(4)
    assert "is stored" in await publish(services.nats_url, alert, service, "first")  # no host runs
    await alerts.coordinate()
    assert await until(counted(alerts, service, 1))


async def test_an_event_of_a_domain_that_is_not_registered_yet_waits_for_it(
    services: Endpoints, database: str, transport: NatsTransport
) -> None:
    service = secrets.token_hex(4)
    await EventStream(transport).ensure()
    await publish(services.nats_url, secrets.token_hex(4), service, "early")
    async with Deployment.open(ALERTS, database, services.nats_url) as alerts:
        await alerts.coordinate()
        assert await until(counted(alerts, service, 1))


async def test_an_event_counts_once_by_its_id_also_after_jetstream_has_forgotten_that(
    alerts: Deployment, services: Endpoints
) -> None:
    service, alert = secrets.token_hex(4), secrets.token_hex(4)
    await alerts.coordinate()
    await publish(services.nats_url, alert, service, "first")
    assert "was there already" in await publish(services.nats_url, alert, service, "first again")
    assert await until(counted(alerts, service, 1))
    await EventStream(alerts.transport).purge("alerts")  # as does the time of JetStream's window
    assert "is stored" in await publish(services.nats_url, alert, service, "much later")
    assert "is stored" in await publish(services.nats_url, f"{alert}-2", service, "second")
    assert await until(counted(alerts, service, 2))
    told = "select state ->> 'last' from agents where agent = $1"
    assert await alerts.fetch(told, f"incident/{service}") == [("second",)]


async def test_an_event_without_an_id_counts_each_time(alerts: Deployment) -> None:
    service = secrets.token_hex(4)
    await alerts.coordinate()
    for _ in range(2):
        # As `nats pub -J` does, and any client that knows no JetStream: a request, whose reply is the acknowledgement.
        reply = await alerts.transport.client.request(
            SUBJECT, json.dumps({"service": service, "text": "x"}).encode(), timeout=5
        )
        assert json.loads(reply.data)["stream"] == "CALLBOARD_EVENTS"
    assert await until(counted(alerts, service, 2))


async def test_what_the_domain_cannot_read_is_acknowledged_and_a_dead_letter(alerts: Deployment) -> None:
    jetstream = alerts.transport.client.jetstream()
    await alerts.coordinate()
    await jetstream.publish("callboard.events.alerts.unheard-of", b"{}")
    await jetstream.publish(SUBJECT, b'{"service": 1}')
    letters = "select array_agg(agent order by id) from dead_letters having count(*) = 2"
    assert await until(lambda: alerts.fetch(letters)) == [(["events/unheard-of", "events/raised"],)]


async def test_a_full_stream_refuses_an_event(alerts: Deployment, services: Endpoints) -> None:
    stream = EventStream(alerts.transport)
    await stream.ensure(max_per_name=1)
    jetstream = alerts.transport.client.jetstream()
    try:
        await jetstream.publish(SUBJECT, b"{}")
        with pytest.raises(APIError, match="maximum messages per subject exceeded"):
            await jetstream.publish(SUBJECT, b"{}")
    finally:
        await stream.ensure(max_per_name=1_000_000)


def test_ids_are_remembered_for_as_long_as_the_readme_says() -> None:
    assert DUPLICATE_WINDOW_S == 120
    assert timedelta(days=30) == SEEN_WINDOW
