"""A small Callboard of plain processes: services of its own, a coordinator, hosts; and the ways to hurt them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg

from actors.domain import LimitSpec, read_domain
from bus.events import EventStream
from bus.nats import NatsTransport
from callboard.services import Services
from callboard.services.account import service_account
from callboard.services.nats import EmbeddedNats
from callboard.services.postgres import EmbeddedPostgres
from storage.connect import connect
from storage.domains import DomainRow, register_domain
from storage.migrate import migrate
from storage.placement import HostRow
from storage.queries import query
from tests.faults.audit import AUDIT
from tests.faults.folder import Folder
from tests.faults.launcher import spawn
from tests.faults.watched import SOON_S, Void, Watched

_logger = logging.getLogger("tests.faults")

DOMAIN = "chaos"
DOMAIN_FOLDER = Path(__file__).parent / "chaos_domain"
KINDS = ["walker", "clerk", "poisoned", "runner", "errand", "spender", "sailor", "bell", "task"]


class Cluster(Watched):
    """One run."""

    def __init__(self, services: Services, folder: Folder, postgres_url: str, label: str) -> None:
        super().__init__(postgres_url, DOMAIN)
        account = service_account(services.home / "postgres")
        self.postgres = EmbeddedPostgres(home=services.home, account=account)
        self.nats = EmbeddedNats(home=services.home, account=account)
        self.folder = folder
        self.nats_url = services.endpoints.nats_url
        self.coordinator: subprocess.Popen[bytes] | None = None
        self.did: list[str] = []  # what the test did to it, for the report of a failure
        self.extra_turns: Counter[str] = Counter()  # by agent, beyond those of the program
        self.busy: asyncio.Task[None] | None = None  # whoever makes the load; its failure ends every wait
        self._label = label
        self._coordinators = 0
        self._began = time.monotonic()

    def note(self, what: str) -> None:
        """For the report of a failure, and for whoever watches (`make faults` shows the log)."""
        self.did.append(f"{time.monotonic() - self._began:7.2f}  {what}")
        _logger.info("%s %s", self._label, self.did[-1])

    def attend(self) -> None:
        """A coordinator that has ended is started again; the failure of whoever makes the load ends every wait."""
        if self.busy is not None and self.busy.done() and self.busy.exception() is not None:
            raise RuntimeError("the feeder has failed") from self.busy.exception()
        if self.coordinator is not None and self.coordinator.poll() is not None:
            self.note(f"the coordinator has ended ({self.coordinator.returncode}) and is started again")
            self.start_coordinator()

    # -- processes -----------------------------------------------------------------------------------

    def start_coordinator(self) -> None:
        self._coordinators += 1
        self.coordinator = spawn(
            "tests.faults.coordinator_process", self.folder, f"coordinator-{self._coordinators}"
        )

    def kill_coordinator(self) -> None:
        assert self.coordinator is not None
        self.coordinator.kill()
        self.coordinator.wait()

    async def set_hosts(self, target: int) -> None:
        await self.sql("update domains set hosts = $1 where domain = $2", target, DOMAIN)

    async def order(self, pid: int, **orders: Any) -> None:
        """Tell a process what to do from now on, once it listens."""

        async def look() -> bool:
            return self.folder.listens(pid)

        await self.until(look, f"process {pid} to listen")
        self.folder.order(pid, **orders)

    def signal_host(self, host: HostRow, what: signal.Signals) -> None:
        if not self.folder.is_ours(host.pid):
            raise Void(f"host {host.host} (pid {host.pid}) is gone already")
        os.kill(host.pid, what)

    def is_running(self, pid: int) -> bool:
        """Whether a process of this run is there and not a zombie."""
        return self.folder.is_ours(pid)  # a zombie has no command line

    async def gone(self, pid: int, timeout_s: float = SOON_S) -> None:
        async def look() -> bool:
            return not self.is_running(pid)

        await self.until(look, f"process {pid} to end", timeout_s)

    async def led(self) -> None:
        """Wait until the coordinator has begun."""

        async def look() -> bool:
            leads = await self.value("select pid from coordinators where name = $1", DOMAIN)
            return self.coordinator is not None and leads == self.coordinator.pid

        await self.until(look, "the coordinator to begin")

    # -- services ------------------------------------------------------------------------------------

    async def crash_postgres(self) -> None:
        await self.stop_postgres()
        await self.postgres.start()

    async def stop_postgres(self) -> None:
        """What `pg_ctl stop -m immediate` does: SIGQUIT to the postmaster, no shutdown checkpoint."""
        pid = self.postgres.running()
        if pid is None:
            raise Void("Postgres does not run")
        os.kill(pid, signal.SIGQUIT)

        async def look() -> bool:
            return self.postgres.running() is None

        await self.until(look, "Postgres to be gone")

    async def kill_nats(self) -> None:
        pid = self.nats.running()
        if pid is None:
            raise Void("NATS does not run")
        os.kill(pid, signal.SIGKILL)

        async def look() -> bool:
            return self.nats.running() is None

        await self.until(look, "NATS to die")

    async def start_nats(self) -> None:
        await self.nats.start()
        assert self.nats.url() == self.nats_url, "NATS came back on another port"

    async def close(self) -> None:
        if self.coordinator is not None:
            self.kill_coordinator()
        self.folder.end_processes()
        self.forget()


@contextlib.asynccontextmanager
async def running_cluster(
    services: Services,
    path: Path,
    *,
    hosts: int,
    planted: tuple[str, ...] = (),
    full_size: bool = False,
    label: str = "",
    secrets_folder: Path | None = None,
    schedules: bool = False,
) -> AsyncIterator[Cluster]:
    """A cluster on an empty database, with its hosts settled; everything is ended and removed afterwards.

    `full_size` gives it the partitions and caches of an ordinary domain, for measurements; `label` begins each
    line of its log.
    """
    database = f"faults_{secrets.token_hex(6)}"
    administrator = services.endpoints.postgres_url
    db = await asyncpg.connect(administrator)
    await db.execute(f'create database "{database}"')
    await db.close()
    url = administrator.replace("@/callboard?", f"@/{database}?")
    folder = Folder(path)
    folder.make(
        {
            "domain": DOMAIN,
            "postgres_url": url,
            "nats_url": services.endpoints.nats_url,
            "planted": list(planted),
            "secrets": None if secrets_folder is None else str(secrets_folder),
        }
    )
    cluster = Cluster(services, folder, url, label)
    try:
        await _prepare(url, hosts, planted, full_size, schedules)
        await _forget_events(services.endpoints.nats_url)
        cluster.start_coordinator()
        await cluster.settled()
        yield cluster
    finally:
        await cluster.close()
        db = await asyncpg.connect(administrator)
        await db.execute(f'drop database "{database}" with (force)')
        await db.close()


async def _prepare(url: str, hosts: int, planted: tuple[str, ...], full_size: bool, schedules: bool) -> None:
    from tests.faults.planted import PLANTED_SQL

    await migrate(url)
    db = await connect(url, application="fault-test")
    spec = read_domain(DOMAIN_FOLDER)
    if not schedules:  # their messages would be counted with those of a test
        spec = spec.model_copy(update={"schedules": ()})
    if full_size:
        spec = spec.model_copy(update={"partitions": 64, "limits": LimitSpec(hops=1_000_000_000)})
    row = DomainRow(
        domain=DOMAIN, partitions=spec.partitions, spec=spec.to_json(), kinds=KINDS, home=str(DOMAIN_FOLDER),
        code="",
    )  # fmt: skip
    await register_domain(db, row)
    await db.execute(query("set_host_target"), DOMAIN, hosts)
    if not full_size:
        await db.execute(AUDIT)
    for name in planted:
        await db.execute(PLANTED_SQL.get(name, "select"))
    await db.close()


async def _forget_events(nats_url: str) -> None:
    """The stream outlives a run, whose database has read nothing of it yet."""
    transport = await NatsTransport.connect(nats_url, name="fault-test")
    await EventStream(transport).purge(DOMAIN)
    await transport.close()
