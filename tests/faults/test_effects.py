"""Hosts die, or freeze and wake up, around calls of tools, and the world outside is the judge: what may happen once happens once (G5)."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from callboard.services import Services
from tests.faults import judge
from tests.faults.chaos_run import seed_of
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.feed import accept, outside
from tests.faults.verify import broken_chains
from tests.faults.watched import Void

CALLERS = 12
ROUNDS = 2  # calls of each tool by one message
KILLS = ("call.before", "call.after", "flush.before", "flush.after", "commit.before", "commit.after")
STOPS = (
    "flush.before",
    "call.before",
    "call.after",
)  # before the intent is committed, after that, after the call
ALL = (*(f"{point}=kill" for point in KILLS), *(f"{point}=stop" for point in STOPS))
FEW = ("call.after=kill", "call.before=stop")
MOST_DEATHS = 2  # of hosts while a message gets nowhere; after `crash_trials`, four, it is a dead letter
DONE_WITHIN_S = 120.0
GOES_ON_WITHIN_S = 2.5  # less than it takes until a person is asked about a frozen host's calls


@pytest.fixture
def world(tmp_path: Path) -> Iterator[str]:
    """The address of a judge that runs."""
    with judge.running(tmp_path) as address:
        yield address


@pytest.mark.timeout(300)
@pytest.mark.parametrize("blows", [FEW, pytest.param(ALL * 2, marks=pytest.mark.long)], ids=["few", "all"])
async def test_whatever_dies_or_freezes_around_a_call_nothing_happens_twice(
    own_services: Services, tmp_path: Path, world: str, blows: tuple[str, ...]
) -> None:
    assert await _run(own_services, tmp_path, world, planted=(), blows=blows) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("planted", "blow"),
    [
        ("intent_ignored", "call.after=kill"),
        pytest.param("key_forgotten", "call.after=kill", marks=pytest.mark.long),
        pytest.param("gone_at_once", "call.before=stop", marks=pytest.mark.long),
    ],
)
async def test_a_planted_fault_makes_something_happen_twice(
    own_services: Services, tmp_path: Path, world: str, planted: str, blow: str
) -> None:
    found = await _run(own_services, tmp_path, world, planted=(planted,), blows=(blow,) * 12)
    assert any("twice" in complaint for complaint in found), found


async def _run(
    services: Services, path: Path, world: str, *, planted: tuple[str, ...], blows: tuple[str, ...]
) -> list[str]:
    rng = Random(seed_of(1))
    secrets = path / "secrets"
    secrets.mkdir()
    (secrets / "JUDGE_URL").write_text(world)
    async with running_cluster(
        services, path / "run", hosts=2, planted=planted, secrets_folder=secrets
    ) as cluster:
        for n, blow in enumerate(blows):
            await _feed_and_strike(cluster, rng, n, blow)
            if planted and (found := await _twice(world)):
                return found

        async def all_is_handled() -> bool:
            return await cluster.waiting() == 0 and not await cluster.value("select count(*) from turns")

        await cluster.until(all_is_handled, "every message to be handled", DONE_WITHIN_S)
        return await _complaints(cluster, world, len(blows))


async def _feed_and_strike(cluster: Cluster, rng: Random, number: int, blow: str) -> None:
    """Give each caller a message; a host dies when it passes the point, or stands still and wakes up when another has
    taken its agents over and is at work on them."""

    async def none_has_seen_many_deaths() -> bool:
        """A message may be in one call that hangs while host after host dies: it would end as one that kills them."""
        seen = "select max(trials) from (select trials from turns union all select trials from mailbox) open"
        return (await cluster.value(seen) or 0) <= MOST_DEATHS

    await cluster.until(
        none_has_seen_many_deaths, "messages to get on before the next host dies", DONE_WITHIN_S
    )
    point = blow.partition("=")[0]
    host = rng.choice(await cluster.settled())
    before = cluster.folder.fired().count(point)
    await cluster.order(host.pid, faults=f"{blow}@{rng.randint(1, 8)}")
    partitions = int(await cluster.value("select partitions from domains"))
    rows = [
        outside(
            f"act-{caller}-{number}", f"caller/{caller}", "chaos.act.v1",
            {"number": number, "how": [rng.choice(("ok", "ok", "hang", "deaf")) for _ in range(ROUNDS)]},
            partitions,
        )
        for caller in range(CALLERS)
    ]  # fmt: skip
    await accept(cluster, rows)

    async def has_fired() -> bool:
        return cluster.folder.fired().count(point) > before

    await cluster.until(has_fired, f"a host to be struck at {point}", 30.0)
    await cluster.ended(host.epoch, 30.0)
    if blow.endswith("=stop"):
        await cluster.settled()
        with suppress(Void):  # perhaps nothing can go on before it wakes
            await cluster.progress(1, timeout_s=GOES_ON_WITHIN_S)
        cluster.signal_host(host, signal.SIGCONT)
        await cluster.gone(host.pid, 30.0)


async def _twice(world: str) -> list[str]:
    """What has happened more than once."""
    counts = await asyncio.to_thread(judge.counts, world)
    found = [f"{key} happened {n} times: twice or more" for key, n in counts["effects"].items() if n > 1]
    places = Counter(key.partition("/")[0] for key in counts["calls"] if "/" in key)  # one key for each place
    return found + [f"{place} happened twice: under {n} keys" for place, n in places.items() if n > 1]


async def _complaints(cluster: Cluster, world: str, messages: int) -> list[str]:
    effects = (await asyncio.to_thread(judge.counts, world))["effects"]
    found = await _twice(world) + await broken_chains(cluster)
    unknown: set[str] = set()
    done: list[str] = []
    for row in await cluster.sql("select state::text as state from agents where agent like 'caller/%'"):
        state = json.loads(row["state"])
        done += [key.partition("/")[0] for key in state["done"]]
        unknown.update(state["unknown"])
    found += [f"{key} is done twice" for key in {key for key in done if done.count(key) > 1}]
    places = {
        f"{caller}-{n}-{kind}{k}"
        for caller in range(CALLERS) for n in range(messages) for k in range(ROUNDS) for kind in "vkb"
    }  # fmt: skip
    found += [f"{key} is neither done nor unknown" for key in sorted(places - set(done) - unknown)]
    found += [f"{key} is said to be done, and has not happened" for key in done
              if not effects.get(key) and key[-2] != "k"]  # fmt: skip
    rows = await cluster.sql("select key, tool, status from ledger where status = 'started'")
    found += [f"the ledger has {row['tool']} at {row['key']} as {row['status']}" for row in rows]
    dead = await cluster.sql("select agent, error from dead_letters")
    found += [f"{row['agent']}: dead letter: {row['error']}" for row in dead]
    return found
