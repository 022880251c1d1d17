"""One incarnation of a host in a process: from registering its epoch to its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from actors.agent import Agent
from actors.birth import born, machine
from actors.directory import Directory, DomainEntry
from actors.domain import DomainSpec, load_domain
from actors.heartbeat import Heartbeat
from actors.host import Host
from actors.model_gateway import GatewayClient
from actors.pulse import Vitals
from actors.scope import Clock, Scope
from actors.secret import SecretFolder
from bus.errors import SchemaMismatch, StorageUnavailable
from bus.nats import NatsTransport
from storage.boundary import translated
from storage.code import fetch_code
from storage.connect import close_pool, create_pool
from storage.domains import Connection, all_domains, find_domain
from storage.postgres import PostgresStore
from storage.queries import query
from storage.records import Fence
from storage.release import release, require_own_schema, schema

_logger = logging.getLogger("callboard.incarnation")

_DIRECTORY_EVERY_S = 2.0

Equip = Callable[[Host, NatsTransport, Connection], None]


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """What a host's process is started with. The URLs carry passwords: neither is shown in `repr`."""

    domain: str
    host: str
    postgres_url: str = field(repr=False)
    nats_url: str = field(repr=False)
    node: str = "local"
    secrets: str | None = None  # a folder
    models: str | None = None  # the data folder, in which stands where the model gateway answers


async def run_incarnation(
    settings: HostSettings,
    *,
    system_kinds: tuple[type[Agent], ...] = (),
    equip: Equip = lambda host, transport, control: None,
    on_start: Callable[[Host], None] = lambda host: None,
) -> str:
    """Register a new epoch, work until it ends, and return why it ended.

    `equip` adds to the host what other rooms bring (events, tasks); the connections it gets last as long as
    the incarnation. Raises ServiceUnavailable, StorageUnavailable, SchemaMismatch, UnknownDomain or
    InvalidDomainFile when it cannot start.
    """
    control = await create_pool(settings.postgres_url, application="callboard-register", size=2)
    try:
        await require_own_schema(control)
        row = await find_domain(control, settings.domain)
        folder = await fetch_code(control, row.domain, row.code) if row.code else Path(row.home)
        domain = load_domain(DomainSpec.from_json(row.spec), folder, system_kinds=system_kinds)
        with translated():
            registered = await control.fetchrow(
                query("register_host"), settings.domain, settings.host, settings.node, os.getpid(),
                machine(), born(os.getpid()), row.code, release(), schema(),
            )  # fmt: skip
        assert registered is not None
        fence = Fence(domain=settings.domain, epoch=registered["epoch"])
        store = await PostgresStore.open(settings.postgres_url, fence, row.code)
        transport = await NatsTransport.connect(
            settings.nats_url, name=f"callboard host {settings.domain} {fence.epoch}"
        )
        directory = Directory()
        scope = Scope(domain, directory, Clock())
        scope.clock.correct(registered["now"])
        if settings.secrets is not None:
            scope.secrets = SecretFolder(Path(settings.secrets))
        if settings.models is not None:
            scope.models = GatewayClient(Path(settings.models))
        scope.is_outdated = partial(_is_outdated, control, row.domain, row.code)
        await _refresh(control, directory)
        host = Host(scope, fence, row.partitions, store, transport)

        async def keep_directory() -> None:
            while True:
                await asyncio.sleep(_DIRECTORY_EVERY_S)
                try:
                    await require_own_schema(control)
                    await _refresh(control, directory)
                except SchemaMismatch as error:
                    host.end(str(error))
                except Exception as error:  # an old directory is still right: counts never change
                    _logger.warning("the directory of domains is not refreshed: %s", error)

        host.extra_work.append(keep_directory)
        equip(host, transport, control)
        heartbeat = Heartbeat(
            settings.postgres_url,
            fence,
            lambda: Vitals(
                backlog=host.mailboxes.backlog, agents=len(host.mailboxes), turns=host.committer.turns
            ),
            scope.clock.correct,
            host.end,
        )
        heartbeat.start()
        on_start(host)
        _spare_the_collector()
        try:
            return await host.run()
        finally:
            heartbeat.stop()
            await scope.models.close()
            await transport.close()
            await store.close()
    finally:
        await close_pool(control)


def _spare_the_collector() -> None:
    """What is loaded by now stays, and most of what a turn makes is freed by its reference count: the garbage
    collector, at its default pace, would take a quarter of a host's time to find nearly nothing."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _is_outdated(control: Connection, domain: str, code: str) -> bool:
    try:
        with translated():
            return bool(await control.fetchval(query("is_outdated"), domain, code, release()))
    except StorageUnavailable:  # nothing is given up on a guess
        return True


async def _refresh(control: Connection, directory: Directory) -> None:
    directory.replace(
        {
            row.domain: DomainEntry(partitions=row.partitions, kinds=frozenset(row.kinds))
            for row in await all_domains(control)
        }
    )
