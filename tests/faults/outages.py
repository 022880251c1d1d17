"""Postgres and NATS that crash, lose answers or deliver nothing."""

from __future__ import annotations

import asyncio
import signal
from random import Random

from tests.faults.aim import a_host
from tests.faults.cluster import Cluster
from tests.faults.watched import Void


async def crash_postgres(cluster: Cluster, rng: Random) -> None:
    await cluster.crash_postgres()
    cluster.note("Postgres crashed and is back")
    await cluster.progress(50)


async def kill_host_while_postgres_is_away(cluster: Cluster, rng: Random) -> None:
    host = await a_host(cluster, rng)
    await cluster.stop_postgres()
    cluster.signal_host(host, signal.SIGKILL)
    await cluster.postgres.start()
    await cluster.ended(host.epoch)
    cluster.note(f"epoch {host.epoch} killed while Postgres was away")


async def kill_host_while_nats_is_away(cluster: Cluster, rng: Random) -> None:
    """The takeover and its aftermath go without the bus; the new host cannot start before it is back."""
    host = await a_host(cluster, rng)
    await cluster.led()  # without the bus no other would begin
    await cluster.kill_nats()
    cluster.signal_host(host, signal.SIGKILL)
    await cluster.ended(host.epoch)
    await cluster.progress(50)
    await cluster.start_nats()
    cluster.note(f"epoch {host.epoch} killed while NATS was away")


async def lose_answers(cluster: Cluster, rng: Random) -> None:
    """Some commits are not written, others are, and their host gets no answer either way."""
    host = await a_host(cluster, rng)
    before = cluster.folder.fired().count("lost")
    await cluster.order(host.pid, lose=rng.getrandbits(32))
    await cluster.until(lambda: _more_fired(cluster, "lost", before + 10), "ten answers to be lost")
    await cluster.order(host.pid)
    cluster.note(f"epoch {host.epoch} got no answers for a while")


async def _more_fired(cluster: Cluster, fault: str, than: int) -> bool:
    return cluster.folder.fired().count(fault) > than


async def cut_connections(cluster: Cluster, rng: Random) -> None:
    """End the backends of hosts in the middle of their commits, again and again."""
    cut = 0
    for _ in range(rng.randint(15, 30)):

        async def strike() -> int:
            return int(
                await cluster.value(
                    "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                    " where application_name like 'callboard-host %' and datname = current_database()"
                    " and state = 'active' and query like '%select commit_%'"
                )
            )

        cut += await cluster.until(strike, "a commit to be cut off", poll_s=0.002)
        await asyncio.sleep(rng.uniform(0, 0.05))
    cluster.note(f"{cut} commits cut off")


async def restart_nats(cluster: Cluster, rng: Random) -> None:
    await cluster.kill_nats()
    await cluster.progress(20)
    await cluster.start_nats()
    cluster.note("NATS killed and started")


async def drop_deliveries(cluster: Cluster, rng: Random) -> None:
    """Nothing that NATS delivers reaches some hosts for a while, and nothing tells them."""
    hosts = await cluster.settled()
    deaf = [host for host in hosts if rng.random() < 0.7] or hosts
    for host in deaf:
        await cluster.order(host.pid, drop=True)
    await cluster.progress(rng.randint(50, 200))
    before = cluster.folder.fired().count("dropped")
    for host in deaf:
        await cluster.order(host.pid, drop=False)

    async def look() -> bool:
        return cluster.folder.fired().count("dropped") == before + len(deaf)

    await cluster.until(look, "the hosts to hear again")
    if cluster.folder.dropped() == 0:
        raise Void("no delivery was dropped")
    cluster.note(f"epochs {[h.epoch for h in deaf]} were deaf")
