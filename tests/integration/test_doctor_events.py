"""What the doctor says of a stream of events: what it can see, and what it cannot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from nats.js.api import StorageType, StreamConfig

from bus.events import EventStream
from bus.nats import NatsTransport
from bus.subjects import EVENTS_ALL, EVENTS_STREAM
from callboard.doctor.events import examine_events
from callboard.services import Endpoints
from callboard.services.account import service_account
from callboard.services.home import Home
from callboard.services.nats import EmbeddedNats


class Nats(NamedTuple):
    """A server of this test's own, which has no stream yet."""

    url: str
    transport: NatsTransport

    def endpoints(self, *, embedded: bool) -> Endpoints:
        return Endpoints(
            postgres_url="", nats_url=self.url, embedded_postgres=embedded, embedded_nats=embedded
        )


@pytest.fixture
async def nats(home: Path) -> AsyncIterator[Nats]:
    Home(home).create()
    Home(home).make_credentials()
    server = EmbeddedNats(home=Home(home), account=service_account(home / "nats"))
    await server.start()
    transport = await NatsTransport.connect(server.url(), name="test")
    yield Nats(server.url(), transport)
    await transport.close()
    await server.stop()


@pytest.mark.parametrize("made", [False, True])
async def test_our_own_nats_syncs_always_and_of_another_one_it_cannot_be_seen(nats: Nats, made: bool) -> None:
    if made:
        await EventStream(nats.transport).ensure()
    own = await examine_events(nats.endpoints(embedded=True))
    assert (own.status, own.mend) == ("good", "")
    other = await examine_events(nats.endpoints(embedded=False))
    assert other.status == "warn"
    assert "cannot be seen" in other.detail
    assert "sync_interval: always" in other.mend


async def test_a_stream_in_memory_is_a_failure_whoever_runs_the_server(nats: Nats) -> None:
    config = StreamConfig(name=EVENTS_STREAM, subjects=[EVENTS_ALL], storage=StorageType.MEMORY)
    await nats.transport.client.jetstream().add_stream(config)
    for embedded in (True, False):
        found = await examine_events(nats.endpoints(embedded=embedded))
        assert found.status == "fail"
        assert "memory" in found.detail


async def test_a_stream_that_acknowledges_before_it_writes_is_a_failure(nats: Nats) -> None:
    request = b'{"name":"CALLBOARD_EVENTS","subjects":["callboard.events.>"],"persist_mode":"async"}'
    made = await nats.transport.request(f"$JS.API.STREAM.CREATE.{EVENTS_STREAM}", request, timeout_s=5)
    assert b'"persist_mode":"async"' in made
    found = await examine_events(nats.endpoints(embedded=False))
    assert found.status == "fail"
    assert "persist_mode" in found.detail


async def test_a_nats_that_is_away_is_a_failure_with_its_mend(
    nats: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bus.nats.CONNECT_WITHIN_S", 0.5)
    away = Endpoints(
        postgres_url="", nats_url="nats://127.0.0.1:1", embedded_postgres=False, embedded_nats=False
    )
    found = await examine_events(away)
    assert found.status == "fail"
    assert found.mend
