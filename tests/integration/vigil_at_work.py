"""The vigil with a host, and what tests ask of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from bus.address import parse_address
from callboard.services import Endpoints
from storage.intake import Incoming, accept
from tests.integration.cli import until
from tests.integration.deployment import Deployment

VIGIL = Path(__file__).with_name("vigil")
RUNNER = "vigil/runner/a"
GUARD = "vigil/guard/a"
ORACLE = "vigil/oracle/main"


@asynccontextmanager
async def vigil_at_work(
    services: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch, *, code: str = ""
) -> AsyncIterator[Deployment]:
    """The vigil with a host that owns all of it, which the commands take for external services."""
    monkeypatch.setenv("CALLBOARD_POSTGRES_URL", database)
    monkeypatch.setenv("CALLBOARD_NATS_URL", services.nats_url)
    async with Deployment.open(VIGIL, database, services.nats_url, code=code) as vigil:
        await vigil.coordinate()
        yield vigil


async def send(vigil: Deployment, address: str, *messages: BaseModel) -> None:
    given = [Incoming(to=parse_address(address), message=message) for message in messages]
    await accept(vigil.pool, vigil.transport, given)


async def has_turn(vigil: Deployment, address: str, version: int) -> None:
    """Wait until an agent has had so many turns."""
    agent = address.partition("/")[2]

    async def is_there() -> Any:
        return await vigil.fetch("select from agents where agent = $1 and version >= $2", agent, version)

    await until(is_there)


async def waits_for(vigil: Deployment, kind: str, *, agent: str = "runner/a") -> str:
    """Wait until an agent's turn waits for a promise of this kind, and is put away; return its id."""

    async def is_put_away() -> Any:
        return await vigil.fetch(
            "select p.id::text from promises p join turns t using (domain, tenant, agent, turn)"
            " where agent = $1 and p.kind = $2 and status = 'pending' and waiting",
            agent,
            kind,
        )

    return str((await until(is_put_away))[0][0])
