"""Ask-reply pairs a second between agents on two hosts: a durable wait, an answer, and the waiting turn goes on.

The count is what SQL finds in the journal afterwards. A pair's time is from one recorded answer of the asking turn to
the next, by the database's clock: it holds the question's commit and its way, the answering turn with its commit, the
answer's way back, and the commit that records it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

import msgspec
import psutil

from bus.address import DEFAULT_TENANT, Address, partition_of
from bus.errors import ServiceUnavailable
from callboard.bench.rig import Rig, rig
from callboard.bench.steps import DOMAIN
from storage.boundary import translated
from storage.intake import Incoming
from storage.queries import query

HOSTS = 2
WARM_UP_ASKS = 20


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """So many agents at once, each of which asks another one so often, one question after another."""

    askers: int
    asks: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured; `host_mib` is the memory of the larger host."""

    asks_per_s: float
    p50_ms: float
    p99_ms: float
    commits_per_s: float
    asks: int
    askers: int
    seconds: float
    hosts: int
    host_mib: int
    ready_s: float
    processors: int


async def measure(load: Load, progress: Callable[[str], None]) -> Report:
    """Run the load on a deployment of its own; raises ServiceUnavailable when the hosts stop making progress."""
    async with rig(DOMAIN, HOSTS, progress) as on:
        await drive(on, "warm-up", min(load.askers, 100), WARM_UP_ASKS)
        progress(f"{load.askers:,} agents ask {load.asks:,} times each")
        return await report(on, load, await drive(on, "turn", load.askers, load.asks))


async def drive(on: Rig, name: str, askers: int, asks: int) -> Any:
    """Start the askers and wait for their end; return the database's time before.

    Half of them are on one host and ask agents of the other, and half the other way round.
    """
    one, other = [frozenset(host.owned) for host in await on.hosts() if host.owned][:HOSTS]
    partitions = len(one) + len(other)
    half = -(-askers // 2)
    inquire = sys.modules["stepping.agents"].Inquire  # loaded with the domain
    messages = [
        Incoming(
            to=Address(DOMAIN, "asker", asker),
            message=inquire(answerer=answerer, asks=asks),
            sender="external/bench",
        )
        for here, there in ((one, other), (other, one))
        for asker, answerer in zip(
            islice(_keys(name, "asker", here, partitions), half),
            islice(_keys(name, "answerer", there, partitions), half),
            strict=True,
        )
    ][:askers]
    before = await on.count("bench_transitions")
    start = await on.now()
    await on.give(messages)
    turns = before + askers * (asks + 1)
    await on.finished("bench_transitions", turns, turns=turns)
    return start


def _keys(name: str, kind: str, owned: frozenset[int], partitions: int) -> Iterator[str]:
    """Keys of agents that live in these partitions."""
    keys = (f"{name}-{n}" for n in count())
    return (key for key in keys if partition_of(DEFAULT_TENANT, f"{kind}/{key}", partitions) in owned)


async def report(on: Rig, load: Load, start: Any) -> Report:
    """What SQL counts since then; raises ServiceUnavailable unless that is all that was asked for."""
    hosts = await on.hosts()
    with translated():
        row = await on.cluster.postgres.fetchrow(query("bench_asks"), DOMAIN, start)
    assert row is not None
    asks = load.askers * load.asks
    if (row["asks"], row["answered"]) != (asks, asks):
        raise ServiceUnavailable(
            f"{row['asks']:,} answers are in the journal, {row['answered']:,} answering turns in the history, and "
            f"{asks:,} were asked for."
        )
    return Report(
        asks_per_s=round(asks / row["seconds"], 1),
        p50_ms=round(row["p50_ms"] or 0.0, 3),
        p99_ms=round(row["p99_ms"] or 0.0, 3),
        commits_per_s=round(row["commits"] / row["seconds"], 1),
        asks=asks,
        askers=load.askers,
        seconds=round(row["seconds"], 3),
        hosts=len(hosts),
        host_mib=max((host.rss_bytes for host in hosts), default=0) // 2**20,
        ready_s=round(on.ready_s, 2),
        processors=psutil.cpu_count() or 1,
    )
