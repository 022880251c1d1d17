"""Durable hops a second on Ray hosts: receive a message, change state durably, send to the next agent.

The count is what SQL finds in the history afterwards: a hop that is not there did not happen. Times are the
database's for the rate, and the hosts' (corrected to the database's) for the latency of one hop, which is
from the start of the sender's turn to the start of the recipient's.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import psutil

from bus import subjects
from bus.address import DEFAULT_TENANT, Address, partition_of
from bus.envelope import Header, header_to_json, new_id
from bus.errors import ServiceUnavailable
from bus.wire import encode_parcel
from bus.wire import nudge as wire_nudge
from callboard.bench.rig import LOOK_EVERY_S, STALLED_S, Rig, rig
from callboard.cluster import Cluster
from storage.boundary import translated
from storage.inspect import list_hosts
from storage.intake import Incoming
from storage.queries import query

DOMAIN = "hops"
MESSAGE_CHARACTERS = 200
WARM_UP_HOPS = 2_000
WAITING_EACH = 1_000


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is run: chains of messages (`inflight`) over agents, `hops` in all.

    `waiting` messages lie in the mailboxes of other agents. These are paused, and no read of a partition looks at
    their mail; or they are `blocked`, their first message to be tried again tomorrow: every read finds them, and
    they take their share of the hosts' caches.
    """

    hosts: int
    agents: int
    inflight: int
    hops: int
    waiting: int = 0
    blocked: bool = False


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured. `host_mib` is the memory of the largest host."""

    durable_hops_per_s: float
    p50_ms: float
    p99_ms: float
    commits_per_s: float
    mean_group: float
    hops: int
    seconds: float
    hosts: int
    agents: int
    inflight: int
    waiting: int
    blocked: bool
    host_mib: int
    ready_s: float
    processors: int


async def measure(load: Load, progress: Callable[[str], None]) -> Report:
    """Run the load on a deployment of its own; raises ServiceUnavailable when the hosts stop making progress."""
    async with rig(DOMAIN, load.hosts, progress) as on:
        if load.waiting:
            progress(f"putting {load.waiting:,} messages into other mailboxes")
            await _fill_mailboxes(on.cluster, load.waiting, blocked=load.blocked)
        await _drive(on, load.agents, min(load.inflight, WARM_UP_HOPS), WARM_UP_HOPS)
        progress(f"{load.hops:,} hops of {load.inflight:,} chains over {load.agents:,} agents")
        start = await _drive(on, load.agents, load.inflight, load.hops)
        return await _report(on, load, start)


async def _fill_mailboxes(cluster: Cluster, waiting: int, *, blocked: bool) -> None:
    """Leave messages with agents that do not run, a thousand each; the hosts have read those that are blocked."""
    agents = [f"runner/waiting-{number}" for number in range(-(-waiting // WAITING_EACH))]
    with translated():
        partitions = await cluster.postgres.fetchval(query("partition_count"), DOMAIN)
        header = Header(id=new_id(), type="hops.hop.v1", sender="external/bench", sent_at=time.time())
        await cluster.postgres.execute(
            query("bench_waiting"), DOMAIN, agents,
            [partition_of(DEFAULT_TENANT, agent, partitions) for agent in agents],
            min(WAITING_EACH, waiting), header_to_json(header), _hop(0, 1, 1).model_dump_json(), blocked,
            timeout=600,
        )  # fmt: skip
        if cluster.endpoints.embedded_postgres:  # what has waited for long is on disk and vacuumed
            await cluster.postgres.execute("vacuum (analyze) mailbox", timeout=600)
            await cluster.postgres.execute("checkpoint", timeout=600)
    if blocked:
        for partition in range(partitions):
            parcel = encode_parcel(wire_nudge(partition))
            cluster.transport.publish(subjects.agents(DOMAIN, partition), parcel)
        await _read_by_hosts(cluster, len(agents))


async def _read_by_hosts(cluster: Cluster, agents: int) -> None:
    deadline = time.monotonic() + STALLED_S
    while sum(host.agents for host in await list_hosts(cluster.postgres) if host.domain == DOMAIN) < agents:
        if time.monotonic() > deadline:
            raise ServiceUnavailable(
                f"The hosts have not read {agents:,} agents' mailboxes within {STALLED_S:.0f} s.",
                fix="Look at `callboard doctor`.",
            )
        await asyncio.sleep(LOOK_EVERY_S)


async def _drive(on: Rig, agents: int, chains: int, hops: int) -> Any:
    """Start the chains and wait for their end; return the database's time before."""
    before = await on.count("bench_transitions")
    start = await on.now()
    each, more = divmod(hops, chains)
    lengths = [length for length in (each + (chain < more) for chain in range(chains)) if length]
    await on.give(first_hops(lengths, agents))
    await on.finished("bench_transitions", before + hops, turns=before + hops)
    return start


def first_hops(lengths: Sequence[int], agents: int) -> list[Incoming]:
    """The messages that begin chains of these lengths, in hops, over so many agents."""
    return [
        Incoming(to=_runner(chain % agents), message=_hop(chain, length, agents), sender="external/bench")
        for chain, length in enumerate(lengths)
    ]


def _runner(number: int) -> Address:
    return Address(DOMAIN, "runner", str(number))


def _hop(chain: int, remaining: int, agents: int) -> Any:
    hop = sys.modules["hopping.agents"].Hop  # loaded with the domain
    empty = len(hop(chain=chain, remaining=remaining, agents=agents, text="").model_dump_json())
    return hop(chain=chain, remaining=remaining, agents=agents, text="x" * max(0, MESSAGE_CHARACTERS - empty))


async def _report(on: Rig, load: Load, start: Any) -> Report:
    hosts = await on.hosts()
    with translated():
        row = await on.cluster.postgres.fetchrow(query("bench_figures"), DOMAIN, start)
    assert row is not None
    if row["hops"] != load.hops:
        raise ServiceUnavailable(
            f"{row['hops']:,} hops are in the history, and {load.hops:,} were asked for."
        )
    return Report(
        durable_hops_per_s=round(load.hops / row["seconds"], 1),
        p50_ms=round(row["p50_ms"] or 0.0, 3),
        p99_ms=round(row["p99_ms"] or 0.0, 3),
        commits_per_s=round(row["commits"] / row["seconds"], 1),
        mean_group=round(load.hops / row["commits"], 2),
        hops=load.hops,
        seconds=round(row["seconds"], 3),
        hosts=len(hosts),
        agents=load.agents,
        inflight=load.inflight,
        waiting=load.waiting,
        blocked=load.blocked,
        host_mib=max((host.rss_bytes for host in hosts), default=0) // 2**20,
        ready_s=round(on.ready_s, 2),
        processors=psutil.cpu_count() or 1,
    )
