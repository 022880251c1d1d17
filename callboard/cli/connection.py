"""The database and the bus, for commands that need no running cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bus.errors import ServiceUnavailable, StorageError
from callboard.cli.terminal import note

if TYPE_CHECKING:
    import asyncpg

    from bus.nats import NatsTransport
    from callboard.services import Endpoints
    from callboard.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What a command works on."""

    settings: Settings
    endpoints: Endpoints
    db: asyncpg.Pool[Any]
    transport: NatsTransport | None
    was_running: bool

    @property
    def tenant(self) -> str:
        return self.settings.tenant


@asynccontextmanager
async def opened(*, bus: bool = False) -> AsyncIterator[Opened]:
    """The data of this deployment, with the bus if wanted.

    Services that run are joined. Where none run but data is stored, they are started for the length of the
    command: what was done yesterday can be looked at today. Raises ServiceUnavailable where there is nothing.
    """
    from callboard.settings import load_settings
    from storage.connect import create_pool

    settings = load_settings()
    async with AsyncExitStack() as stack:
        endpoints, was_running = await _endpoints(settings, stack)
        await _check_schema(endpoints)
        db = await create_pool(endpoints.postgres_url, application="callboard-cli", size=2)
        stack.push_async_callback(db.close)
        transport = None
        if bus:
            from bus.nats import NatsTransport

            transport = await NatsTransport.connect(endpoints.nats_url, name="callboard command")
            stack.push_async_callback(transport.close)
        yield Opened(
            settings=settings, endpoints=endpoints, db=db, transport=transport, was_running=was_running
        )


async def _endpoints(settings: Settings, stack: AsyncExitStack) -> tuple[Endpoints, bool]:
    from callboard.services import running_endpoints

    found = running_endpoints(settings)
    if found is not None:
        return found, True
    if settings.postgres_url is None and not (settings.home / "postgres").exists():
        raise ServiceUnavailable(
            f"Callboard does not run, and {settings.home} holds no data.",
            fix="Start it with `callboard up`, or run a domain with `callboard run DOMAIN_DIR`.",
        )
    note("Nothing runs here; the services are started to look at the stored data.")
    from callboard.runtime import running_services

    return await stack.enter_async_context(running_services(settings)), False


async def _check_schema(endpoints: Endpoints) -> None:
    from callboard.services.checks import connect_postgres
    from storage.boundary import translated
    from storage.migrate import migrations

    connection = await connect_postgres(endpoints.postgres_url, embedded=endpoints.embedded_postgres)
    with translated():
        try:
            if await connection.fetchval("select to_regclass('callboard.migrations') is null"):
                raise StorageError(
                    "The database is empty: no domain has run in it.",
                    fix="Run one with `callboard run DOMAIN_DIR`, or start Callboard with `callboard up`.",
                )
            done = {row[0] for row in await connection.fetch("select number from callboard.migrations")}
        finally:
            await connection.close(timeout=5)
    if missing := {m.number for m in migrations()} - done:
        raise StorageError(
            f"The database lacks {len(missing)} migration(s) of this release.",
            fix="`callboard up` applies them.",
        )
