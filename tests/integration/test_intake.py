"""Messages from outside: accepted once per key, all or none, and handled at once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from actors import sweep
from bus.address import parse_address
from bus.errors import PayloadTooLarge, UnknownDomain, UnknownKind
from callboard.services import Endpoints
from storage.intake import Incoming, accept
from tests.integration.cli import DESK, until
from tests.integration.deployment import Deployment


@pytest.fixture
async def desk(services: Endpoints, database: str) -> AsyncIterator[Deployment]:
    async with Deployment.open(DESK, database, services.nats_url) as desk:
        yield desk


def note(key: str, text: str, to: str = "desk/clerk/a") -> Incoming:
    from desk.agents import Note

    return Incoming(to=parse_address(to), message=Note(task="a", number=1, text=text), key=key)


async def limit(desk: Deployment, **limits: int) -> None:
    """Set limits of the domain, as its domain.yaml does."""
    await desk.pool.execute(
        "update domains set spec = jsonb_set(spec::jsonb, '{limits}', spec::jsonb -> 'limits' || $1::jsonb)::json",
        json.dumps(limits),
    )


async def test_a_key_is_accepted_once_within_its_window(desk: Deployment) -> None:
    first, twin, other = await accept(
        desk.pool, None, [note("k", "one"), note("k", "two"), note("l", "three")]
    )
    assert first.seq is not None
    assert twin.seq is None
    assert other.seq is not None
    assert other.seq > first.seq
    (again,) = await accept(desk.pool, None, [note("k", "four")])
    assert again.seq is None
    (later,) = await accept(desk.pool, None, [note("m", "five")], window=timedelta(0))
    (anew,) = await accept(desk.pool, None, [note("m", "six")])
    assert later.seq is not None
    assert anew.seq is not None


async def test_all_are_refused_when_one_is_wrong(desk: Deployment) -> None:
    await limit(desk, payload_bytes=1_000)
    for wrong, error in (
        (note("k", "x", "other/clerk/a"), UnknownDomain),
        (note("k", "x", "desk/ghost/a"), UnknownKind),
        (note("k", "x" * 2_000), PayloadTooLarge),
    ):
        with pytest.raises(error):
            await accept(desk.pool, None, [note("l", "right"), wrong])
    assert await desk.fetch("select count(*) from mailbox") == [(0,)]
    assert await desk.fetch("select count(*) from seen") == [(0,)]


async def test_a_large_payload_is_checked_in_as_a_blob_and_handled(desk: Deployment) -> None:
    await desk.coordinate()
    await accept(desk.pool, desk.transport, [note("k", "x" * 300_000)])
    rows = await until(
        lambda: desk.fetch("select length(state ->> 'notes') from agents where agent = 'clerk/a'")
    )
    assert rows[0][0] > 300_000
    assert await desk.fetch("select count(*) from blobs") == [(1,)]


async def test_the_recipients_domain_says_which_payload_is_large(desk: Deployment) -> None:
    await accept(desk.pool, None, [note("k", "x" * 2_000)])
    assert await desk.fetch("select count(*) from blobs") == [(0,)]
    await limit(desk, claim_check_bytes=1_024)
    await accept(desk.pool, None, [note("l", "x" * 2_000)])
    assert await desk.fetch("select count(*) from blobs") == [(1,)]


async def test_the_owner_is_nudged(desk: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the nudge only the sweep would find it."""
    monkeypatch.setattr(sweep, "EVERY_S", 600.0)
    await desk.coordinate()
    await accept(desk.pool, desk.transport, [note("k", "one")])
    await until(lambda: desk.fetch("select from agents where version = 1"))
    await accept(desk.pool, desk.transport, [note("l", "two")])
    await until(lambda: desk.fetch("select from agents where version = 2"))
