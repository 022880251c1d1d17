"""A deployment that runs, as a command uses it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg

from actors.domain import Domain, DomainSpec, load_domain, read_domain
from actors.model_gateway import GatewayAddress
from bus.errors import InvalidDomainFile, ServiceUnavailable, UnknownDomain
from bus.events import EventStream
from bus.nats import NatsTransport
from callboard.advance import Advance
from callboard.room import lack_mend, lack_text
from callboard.services import Endpoints
from callboard.settings import Settings
from storage.boundary import translated
from storage.code import fetch_code, pack, put_code
from storage.connect import close_pool, create_pool
from storage.domains import DomainRow, find_domain, register_domain
from storage.lack import Lack, find_lack
from storage.placement import HostRow, live_hosts
from storage.queries import query

READY_TIMEOUT_S = 60.0
GIVEN_BACK_WITHIN_S = 3.0  # by hosts that are to stop, where no calls are being made
_SILENT_AFTER_S = 3.0
Progress = Callable[[str], None]


def quiet(line: str) -> None:
    """For who has nobody to tell."""


class Cluster:
    """A deployment that runs, seen from a command. `joined`: it ran before this command; `kept`: it stays after it;
    `gateway`: the model gateway, which this command serves."""

    joined = True
    kept = True
    gateway: asyncio.Task[GatewayAddress] | None = None

    def __init__(
        self, settings: Settings, endpoints: Endpoints, postgres: asyncpg.Pool[Any], transport: NatsTransport
    ) -> None:
        self.settings = settings
        self.endpoints = endpoints
        self.postgres = postgres
        self.transport = transport
        self.events = EventStream(transport)

    async def add_domain(self, folder: Path) -> Domain:
        """Register a domain with its code, or bring a registered one up to date; its hosts follow.

        Raises InvalidDomainFile.
        """
        from coordinators.equipment import SYSTEM_KINDS

        folder = await asyncio.to_thread(folder.resolve)
        spec = read_domain(folder)
        digest, bundle = await asyncio.to_thread(pack, folder)
        await put_code(self.postgres, spec.domain, digest, bundle)
        code = await fetch_code(self.postgres, spec.domain, digest)
        domain = load_domain(spec, code, system_kinds=SYSTEM_KINDS)
        await register_domain(
            self.postgres,
            DomainRow(
                spec.domain,
                spec.partitions,
                domain.registered().to_json(),
                sorted(domain.kinds),
                str(folder.resolve()),
                digest,
            ),
        )
        return domain

    async def load_domain(self, name: str) -> Domain:
        """Load the stored code of a registered domain into this process; raises UnknownDomain."""
        from coordinators.equipment import SYSTEM_KINDS

        row = await find_domain(self.postgres, name)
        code = await fetch_code(self.postgres, name, row.code)
        return load_domain(DomainSpec.from_json(row.spec), code, system_kinds=SYSTEM_KINDS)

    async def ready(
        self, domain: str, *, timeout_s: float = READY_TIMEOUT_S, progress: Progress = quiet
    ) -> None:
        """Wait until every partition has an owner that is ready and runs the domain's newest code.

        The partitions are dealt out by then: as many hosts as the domain is to have own some, or as many as there is room
        for in Ray.

        However many hosts are replaced one after the other: it is given up once nothing has changed for `timeout_s`, here or
        with the domain that this one waits for.

        Raises UnknownDomain, InvalidDomainFile when its hosts refuse the domain's code or domain.yaml, or ServiceUnavailable
        with what is known of the reason.
        """
        said: set[str] = set()

        def say(of: str, line: str) -> None:
            if of not in said:
                said.add(of)
                progress(line)

        advance = Advance()
        while True:
            row, hosts = await self._look_at(domain, advance)
            if row is None:
                raise UnknownDomain(f"There is no domain {domain!r}.")
            lack = await find_lack(self.postgres, domain)
            if lack is not None:
                say(f"room {lack.behind}", f"{domain}: {lack_text(lack)}")
                if lack.behind is not None:
                    await self._look_at(lack.behind, advance)
            if row["refusal"] is not None and not any(h.ready and h.code == row["code"] for h in hosts):
                raise InvalidDomainFile(f"No host of {domain} can be started: {row['refusal']}")
            owned = [len(h.owned) for h in hosts if h.ready and h.code == row["code"] and h.owned]
            enough = len(owned) >= min(row["hosts"], row["partitions"]) > 0
            if (enough or lack is not None) and sum(owned) == row["partitions"]:
                return
            if advance.still_for_s >= timeout_s:
                raise _late(domain, timeout_s, row["hosts"], len(owned), hosts, lack)
            say("hosts", f"waiting for the hosts of {domain}")
            await asyncio.sleep(0.05)

    async def _look_at(self, domain: str, advance: Advance) -> tuple[asyncpg.Record | None, list[HostRow]]:
        with translated():
            row = await self.postgres.fetchrow(query("partition_count"), domain)
        hosts = await live_hosts(self.postgres, domain)
        if row is not None:
            advance.look(domain, row["code"], hosts)
        return row, hosts


def _late(
    domain: str, after_s: float, wanted: int, serving: int, hosts: Sequence[HostRow], lack: Lack | None
) -> ServiceUnavailable:
    late = f"The hosts of {domain} are not ready, and nothing has changed for {after_s:.0f} s"
    if lack is not None:
        return ServiceUnavailable(f"{late}: {lack_text(lack)}.", fix=lack_mend(domain, lack))
    if kept := sum(len(host.kept) for host in hosts):
        return ServiceUnavailable(
            f"{late}: calls of at-most-once tools are being made, and keep {kept} of its partitions where they are.",
            fix="Each ends with its tool's timeout; see `callboard status`.",
        )
    return ServiceUnavailable(
        f"{late}: {serving} of {wanted} own partitions and run its newest code.",
        fix="See `callboard status`, and the hosts' logs: in the Ray dashboard, or in ray/last-logs of the data folder once"
        " Ray is stopped.",
    )


@contextlib.asynccontextmanager
async def connected(settings: Settings, endpoints: Endpoints) -> AsyncIterator[Cluster]:
    """Raises ServiceUnavailable, StorageUnavailable."""
    pool = await create_pool(endpoints.postgres_url, application="callboard-command")
    try:
        transport = await NatsTransport.connect(endpoints.nats_url, name="callboard command")
        try:
            yield Cluster(settings, endpoints, pool, transport)
        finally:
            await transport.close()
    finally:
        await close_pool(pool)


async def leave_cleanly(
    cluster: Cluster,
    progress: Progress,
    *,
    waits_for_calls: bool,
    end_coordinators: Callable[[], Awaitable[None]],
) -> None:
    """End every live incarnation after it has committed what it runs: a stop is no crash, nothing is suspect.

    The coordinators are fenced first, since they would start other hosts. Ray brings them back within seconds: where it
    takes longer, `end_coordinators` ends their actors for good; those that are back all the same are fenced again. A host that makes calls of at-most-once tools
    is waited for until those are on record; each ends with its tool's timeout.
    """
    said = False
    with translated():
        await cluster.postgres.execute(query("end_coordinators"))
        await cluster.postgres.execute(query("want_nothing"))
        deadline = time.monotonic() + GIVEN_BACK_WITHIN_S
        while time.monotonic() < deadline:
            left = await cluster.postgres.fetchrow(query("what_is_owned"), _SILENT_AFTER_S)
            assert left is not None
            if not left["anything"]:
                break
            if left["kept"] and waits_for_calls:
                if not said:
                    progress(
                        "waiting for calls of at-most-once tools to end; Ctrl-C and then `callboard down --now` leaves "
                        "them unknown"
                    )
                    said = True
                    await _unless_away(end_coordinators, progress)
                if await cluster.postgres.execute(query("end_coordinators")) != "DELETE 0":  # they are back
                    await cluster.postgres.execute(query("want_nothing"))
                deadline = time.monotonic() + GIVEN_BACK_WITHIN_S
            await asyncio.sleep(0.05)
        await cluster.postgres.execute(query("end_hosts_without_partitions"))


async def _unless_away(end_coordinators: Callable[[], Awaitable[None]], progress: Progress) -> None:
    """A Ray that does not answer keeps nobody from waiting for the calls."""
    try:
        await end_coordinators()
    except ServiceUnavailable as error:
        progress(f"Warning: {error}")
