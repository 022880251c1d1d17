"""Removing a domain: unregistered at once, its hosts drained, its data deleted if wanted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
import msgspec

from actors.task_messages import GONE, ChildEnded
from bus.address import parse_address
from bus.errors import UnknownDomain, UnknownKind
from bus.events import EventStream
from bus.nats import NatsTransport
from storage.boundary import translated
from storage.domains import begin_deleting, delete_domain, unregister_domain
from storage.intake import Incoming, accept, nudge
from storage.placement import HostRow, live_hosts, terminate_host_backends
from storage.queries import query

DRAINED_WITHIN_S = 10.0  # by its coordinator; a host that is still there then, or is silent, is fenced off
SILENT_AFTER_S = 3.0
# Hosts read which domains there are every two seconds: what they send to one that is gone is refused after that.
FORGOTTEN_AFTER_S = 5.0
_LOOK_EVERY_S = 0.05


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """What was done. `fenced` are hosts that did not leave by themselves; `deleted` counts rows by table."""

    domain: str
    hosts_drained: int
    hosts_fenced: int
    data_deleted: bool
    deleted: dict[str, int]


async def remove_domain(
    db: asyncpg.Pool[Any],
    transport: NatsTransport,
    domain: str,
    *,
    delete_data: bool = False,
    force: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Removed:
    """Unregister a domain and end its hosts; with `delete_data`, delete its rows and its events for good.

    Whatever was cut off goes on when it is called again. Other domains notice nothing. Raises UnknownDomain,
    DomainBusy while it has tasks that have not ended, unless `force`, or when it was registered again before its data was
    deleted, or ServiceUnavailable.
    """
    hosts = await live_hosts(db, domain)  # before: the coordinator may have drained them at once
    await unregister_domain(db, domain, force=force)
    unregistered = time.monotonic()
    drained, fenced = await _end_hosts(db, domain, hosts, progress)
    deleted: Counter[str] = Counter()
    if delete_data:
        with translated():
            others_run = await db.fetchval("select exists (select from hosts where ended_at is null)")
        if others_run:
            progress("waiting until the hosts of other domains have forgotten it")
            await asyncio.sleep(max(0.0, unregistered + FORGOTTEN_AFTER_S - time.monotonic()))
        await begin_deleting(db, domain, force=force)
        await EventStream(transport).purge(domain)
        await _tell_who_waits(db, transport, domain)

        def count(table: str, rows: int) -> None:
            deleted[table] += rows
            progress(f"deleted {deleted[table]:,} of {table}")

        await delete_domain(db, domain, count)
    return Removed(
        domain=domain,
        hosts_drained=drained,
        hosts_fenced=fenced,
        data_deleted=delete_data,
        deleted=dict(deleted),
    )


async def _end_hosts(
    db: asyncpg.Pool[Any], domain: str, hosts: Sequence[HostRow], progress: Callable[[str], None]
) -> tuple[int, int]:
    """Let the coordinator drain the hosts, and fence off those that it does not; how many of each."""
    if hosts:
        progress(f"draining {len(hosts)} host{'s' if len(hosts) > 1 else ''} of {domain}")
    total, deadline = len(hosts), time.monotonic() + DRAINED_WITHIN_S
    waits = False
    while any(host.silent_s <= SILENT_AFTER_S for host in hosts) and time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_EVERY_S)
        hosts = await live_hosts(db, domain)
        if any(host.kept and host.silent_s <= SILENT_AFTER_S for host in hosts):
            deadline = time.monotonic() + DRAINED_WITHIN_S
            if not waits:
                progress("waiting for calls of at-most-once tools to end")
                waits = True
    await _fence_off(db, domain, hosts)
    return max(0, total - len(hosts)), len(hosts)


async def _fence_off(db: asyncpg.Pool[Any], domain: str, hosts: Sequence[HostRow]) -> None:
    """End epochs without their hosts' help; what those owned is tried with care should the domain come back."""
    suspect: set[int] = set()
    for host in hosts:
        # A commit that hangs would hold the row.
        await terminate_host_backends(db, domain, host.epoch)
        with translated():
            await db.execute(query("end_host"), domain, host.epoch, "its domain was removed")
        suspect |= host.owned | host.suspect
    if suspect:
        with translated():
            await db.execute(query("add_suspects"), domain, sorted(suspect))


async def _tell_who_waits(db: asyncpg.Pool[Any], transport: NatsTransport, domain: str) -> None:
    """What other domains have asked of its agents fails, and so do the tasks that theirs have started in it: once its rows
    are gone, nobody could tell them."""
    words = msgspec.json.encode({"type": "UnknownDomain", "message": f"The domain {domain!r} was deleted"})
    with translated():
        woken = await db.fetch(query("fail_asks_of_domain"), domain, words.decode())
        children = await db.fetch(query("children_of_others"), domain)
    nudge(transport, [(w["domain"], w["partition"], w["tenant"], w["agent"]) for w in woken])
    for child in children:
        gone = Incoming(
            to=parse_address(child["leader"]), message=ChildEnded(task=child["task"], status=GONE)
        )
        with contextlib.suppress(UnknownDomain, UnknownKind):  # the parent is gone as well
            await accept(db, transport, [gone], tenant=child["tenant"], admitted=True)
    await transport.flush()
