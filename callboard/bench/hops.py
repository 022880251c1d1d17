"""Durable hops a second on Ray hosts: receive a message, change state durably, send to the next agent.

The count is what SQL finds in the history afterwards: a hop that is not there did not happen. Times are the
database's for the rate, and the hosts' (corrected to the database's) for the latency of one hop, which is
from the start of the sender's turn to the start of the recipient's.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import yaml

from bus import subjects
from bus.address import DEFAULT_TENANT, partition_of
from bus.envelope import Header, header_to_json, new_id
from bus.errors import ServiceUnavailable
from bus.wire import encode_parcel
from bus.wire import nudge as wire_nudge
from callboard.runtime import Cluster, running_cluster
from callboard.settings import load_settings
from storage.boundary import translated
from storage.inspect import list_hosts
from storage.intake import Incoming, accept
from storage.queries import query

if TYPE_CHECKING:
    from bus.address import Address

DOMAIN = "hops"
MESSAGE_CHARACTERS = 200
WARM_UP_HOPS = 2_000
WARM_UP_LOG_MB = 512  # as in benchmarks/limit.py, so that both are measured alike
WAITING_EACH = 1_000
_ACCEPT_AT_ONCE = 1_000
_LOOK_EVERY_S = 0.1
_STALLED_S = 30.0


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
    """Run the load on a deployment of its own, in a folder that is removed afterwards.

    Where CALLBOARD_POSTGRES_URL, CALLBOARD_NATS_URL or RAY_ADDRESS are set, those servers are used. Raises
    ServiceUnavailable when the hosts stop making progress.
    """
    with tempfile.TemporaryDirectory(prefix="callboard-bench-", dir="/var/tmp") as folder:
        await asyncio.to_thread(os.chmod, folder, 0o711)  # as root, the servers' own account passes through
        domain_dir = await asyncio.to_thread(_domain_folder, Path(folder), load.hosts)
        settings = load_settings().model_copy(update={"home": Path(folder) / "home"})
        began = time.monotonic()
        async with running_cluster(settings, progress=progress) as cluster:
            await cluster.add_domain(domain_dir)
            await cluster.ready(DOMAIN)
            ready_s = time.monotonic() - began
            progress("warming up")
            if cluster.endpoints.embedded_postgres:
                await warm_up_log(cluster)
            if load.waiting:
                progress(f"putting {load.waiting:,} messages into other mailboxes")
                await _fill_mailboxes(cluster, load.waiting, blocked=load.blocked)
            await _drive(cluster, load.agents, min(load.inflight, WARM_UP_HOPS), WARM_UP_HOPS)
            progress(f"{load.hops:,} hops of {load.inflight:,} chains over {load.agents:,} agents")
            start, hops = await _drive(cluster, load.agents, load.inflight, load.hops)
            return await _report(cluster, load, start, hops, ready_s)


async def warm_up_log(cluster: Cluster) -> None:
    """Bring a new server to the state of one in service, which writes to log segments that it has already."""
    with translated():
        await cluster.postgres.execute(query("bench_fill_log"), WARM_UP_LOG_MB)
        await cluster.postgres.execute("checkpoint")


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
    deadline = time.monotonic() + _STALLED_S
    while sum(host.agents for host in await list_hosts(cluster.postgres) if host.domain == DOMAIN) < agents:
        if time.monotonic() > deadline:
            raise ServiceUnavailable(
                f"The hosts have not read {agents:,} agents' mailboxes within {_STALLED_S:.0f} s.",
                fix="Look at `callboard doctor`.",
            )
        await asyncio.sleep(_LOOK_EVERY_S)


def _domain_folder(folder: Path, hosts: int) -> Path:
    made = folder / "hops_domain"
    with as_file(files("callboard.bench").joinpath("hops_domain")) as packaged:
        shutil.copytree(packaged, made, ignore=shutil.ignore_patterns("__pycache__"))
    path = made / "domain.yaml"
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    spec["hosts"] = {"min": hosts, "max": hosts}
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return made


async def _drive(cluster: Cluster, agents: int, chains: int, hops: int) -> tuple[Any, int]:
    """Start the chains and wait for their end; return the database's time before, and the hops expected."""
    db = cluster.postgres
    with translated():
        done_before = await db.fetchval(query("bench_transitions"), DOMAIN)
        start = await db.fetchval("select clock_timestamp()")
    each, more = divmod(hops, chains)
    lengths = [length for length in (each + (chain < more) for chain in range(chains)) if length]
    messages = [
        Incoming(to=_runner(chain % agents), message=_hop(chain, length, agents), sender="external/bench")
        for chain, length in enumerate(lengths)
    ]
    for at in range(0, len(messages), _ACCEPT_AT_ONCE):
        await accept(db, cluster.transport, messages[at : at + _ACCEPT_AT_ONCE])
    await _finished(cluster, done_before + hops)
    return start, hops


async def _finished(cluster: Cluster, expected: int) -> None:
    turns, progressed = -1, time.monotonic()
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        now_turns = sum(host.turns for host in await list_hosts(cluster.postgres) if host.domain == DOMAIN)
        if now_turns != turns:
            turns, progressed = now_turns, time.monotonic()
        # The hosts' own counts are cheap and say when it is worth while to count the rows.
        if turns >= expected or time.monotonic() - progressed > 1.0:
            with translated():
                if await cluster.postgres.fetchval(query("bench_transitions"), DOMAIN) >= expected:
                    return
        if time.monotonic() - progressed > _STALLED_S:
            raise ServiceUnavailable(
                f"The hosts made no hop for {_STALLED_S:.0f} s.", fix="Look at `callboard doctor`."
            )


def _runner(number: int) -> Address:
    from bus.address import Address

    return Address(DOMAIN, "runner", str(number))


def _hop(chain: int, remaining: int, agents: int) -> Any:
    hop = sys.modules["hopping.agents"].Hop  # loaded with the domain
    empty = len(hop(chain=chain, remaining=remaining, agents=agents, text="").model_dump_json())
    return hop(chain=chain, remaining=remaining, agents=agents, text="x" * max(0, MESSAGE_CHARACTERS - empty))


async def _report(cluster: Cluster, load: Load, start: Any, hops: int, ready_s: float) -> Report:
    hosts = [host for host in await list_hosts(cluster.postgres) if host.domain == DOMAIN]
    with translated():
        row = await cluster.postgres.fetchrow(query("bench_figures"), DOMAIN, start)
    assert row is not None
    if row["hops"] != hops:
        raise ServiceUnavailable(f"{row['hops']:,} hops are in the history, and {hops:,} were asked for.")
    return Report(
        durable_hops_per_s=round(hops / row["seconds"], 1),
        p50_ms=round(row["p50_ms"] or 0.0, 3),
        p99_ms=round(row["p99_ms"] or 0.0, 3),
        commits_per_s=round(row["commits"] / row["seconds"], 1),
        mean_group=round(hops / row["commits"], 2),
        hops=hops,
        seconds=round(row["seconds"], 3),
        hosts=len(hosts),
        agents=load.agents,
        inflight=load.inflight,
        waiting=load.waiting,
        blocked=load.blocked,
        host_mib=max((host.rss_bytes for host in hosts), default=0) // 2**20,
        ready_s=round(ready_s, 2),
        processors=psutil.cpu_count() or 1,
    )
