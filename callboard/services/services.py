"""The services that Callboard stands on: found, started, checked and stopped together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from . import lock
from .account import Account, service_account
from .checks import check_nats, check_postgres_durable
from .home import Home
from .instance import (
    Endpoints,
    external_endpoints,
    forget_instance,
    read_instance,
    read_record,
    recorded_instance,
    write_instance,
)
from .keeper import Keeper
from .nats import EmbeddedNats
from .postgres import EmbeddedPostgres

if TYPE_CHECKING:
    from callboard.settings import Settings

# Another command may be starting the same services, with a long recovery before them.
LOCK_TIMEOUT_S = 240.0


Check = Callable[[], Awaitable[None]]


class Server(Protocol):
    """An embedded server."""

    def running(self) -> int | None: ...

    async def start(self) -> bool: ...

    async def stop(self) -> None: ...


@dataclass(kw_only=True)
class Services:
    """Services that answer and have been checked. `async with` stops at the end what it started."""

    endpoints: Endpoints
    home: Home
    started: list[Server] = field(default_factory=list)
    nats_was_at: int | None = None
    """The port that the embedded NATS had until this start, where another program has taken it."""

    @property
    def started_here(self) -> bool:
        """Whether this call started any of them, and `stop` will stop those."""
        return bool(self.started)

    async def stop(self) -> None:
        """Stop what this call started; what was joined or is external runs on. Can be called again."""
        if self.started:
            async with lock.exclusive(self.home / "instance.lock", timeout_s=LOCK_TIMEOUT_S):
                await _stop_all(self.started)
                self.started = []
                if read_instance(self.home) is None:
                    forget_instance(self.home)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


async def ensure_services(settings: Settings) -> Services:
    """Make sure that Postgres and NATS answer and are durable, and say where they are.

    External ones where their URLs are set; else those of the running instance in `CALLBOARD_HOME`; else
    embedded ones are started, and go on after this process unless `Services.stop` is called. Of several
    commands that start at once, one starts the services and the others join it.

    Raises `DataFolderError`, `ServiceUnavailable` or `ServiceUnsafe`; what was started is then stopped.
    """
    home = Home(settings.home)
    if (external := external_endpoints(settings)) is not None:
        await _check(external)
        return Services(endpoints=external, home=home)
    home.create()
    async with lock.exclusive(home / "instance.lock", timeout_s=LOCK_TIMEOUT_S):
        return await _start(settings, home)


async def keep_services(settings: Settings) -> None:
    """Have the embedded services of the running instance started again when they die, until it is stopped.

    Raises `DataFolderError`.
    """
    home = Home(settings.home)
    if read_record(home) is not None:
        await Keeper(home=home).start()


def why_postgres_is_gone(settings: Settings) -> str | None:
    """Why the embedded Postgres does not answer and will not: a sentence without its end. None while it may come back.

    Raises `DataFolderError`.
    """
    if external_endpoints(settings) is not None:
        return None
    if (instance := recorded_instance(settings)) is None:
        return "Callboard was stopped"
    unkept = "Postgres" in instance.died and Keeper(home=instance.home).running() is None
    return "Postgres has died" if unkept else None


async def restart_died(settings: Settings) -> bool:
    """Start the embedded services that have died again, where they were; False when none has, or the instance was stopped
    meanwhile. One that cannot be started keeps no other away.

    Raises as `ensure_services`.
    """
    home = Home(settings.home)
    async with lock.exclusive(home / "instance.lock", timeout_s=LOCK_TIMEOUT_S):
        instance = read_record(home)
        if instance is None or not instance.died:
            return False
        at = instance.endpoints
        postgres, nats = _embedded(home)
        restarts: dict[str, tuple[Server, Check]] = {
            "Postgres": (postgres, partial(check_postgres_durable, at.postgres_url, embedded=True)),
            "NATS": (replace(nats, keeps_port=True), partial(check_nats, at.nats_url, embedded=True)),
        }
        restarting = (_restart(*restarts[name]) for name in instance.died)
        for result in await asyncio.gather(*restarting, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
    return True


async def _restart(server: Server, check: Check) -> None:
    await server.start()
    try:
        await check()
    except BaseException:
        await server.stop()
        raise


async def stop_instance(settings: Settings) -> bool:
    """Stop the embedded services of the instance in `CALLBOARD_HOME`, and their keeper; False when none ran."""
    home = Home(settings.home)
    if not home.exists():
        return False
    async with lock.exclusive(home / "instance.lock", timeout_s=LOCK_TIMEOUT_S):
        servers: list[Server] = [Keeper(home=home), *_embedded(home)]
        found = [server for server in servers if server.running() is not None]
        await _stop_all(found)
        forget_instance(home)
    return bool(found)


async def _start(settings: Settings, home: Home) -> Services:
    postgres, nats = _embedded(home)
    home.check_reachable(postgres.account)
    home.make_credentials()
    servers: list[Server] = []
    if settings.postgres_url is None:
        servers.append(postgres)
    if settings.nats_url is None:
        servers.append(nats)
    before = _port_of(nats)
    starting = asyncio.gather(*(server.start() for server in servers), return_exceptions=True)
    try:
        results = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # A server on its way cannot be found and stopped yet: it is let come, and then stopped.
        results = await starting
        await _stop_all([server for server, result in zip(servers, results, strict=True) if result is True])
        raise
    started = [server for server, result in zip(servers, results, strict=True) if result is True]
    try:
        for result in results:
            if isinstance(result, BaseException):
                raise result
        endpoints = Endpoints(
            postgres_url=settings.postgres_url.get_secret_value()
            if settings.postgres_url
            else postgres.url(),
            nats_url=settings.nats_url.get_secret_value() if settings.nats_url else nats.url(),
            embedded_postgres=settings.postgres_url is None,
            embedded_nats=settings.nats_url is None,
        )
        await _check(endpoints)
        write_instance(home, endpoints)
    except BaseException:
        await _stop_all(started)
        raise
    moved = nats in started and before not in (None, nats.port())
    return Services(endpoints=endpoints, home=home, started=started, nats_was_at=before if moved else None)


def _port_of(nats: EmbeddedNats) -> int | None:
    try:
        return nats.port()
    except (OSError, ValueError):  # it was never started
        return None


def _embedded(home: Home) -> tuple[EmbeddedPostgres, EmbeddedNats]:
    account: Account = service_account(home / "postgres")
    return EmbeddedPostgres(home=home, account=account), EmbeddedNats(home=home, account=account)


async def _check(endpoints: Endpoints) -> None:
    await asyncio.gather(
        check_postgres_durable(endpoints.postgres_url, embedded=endpoints.embedded_postgres),
        check_nats(endpoints.nats_url, embedded=endpoints.embedded_nats),
    )


async def _stop_all(servers: Sequence[Server]) -> None:
    await asyncio.gather(*(server.stop() for server in servers))
