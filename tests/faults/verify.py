"""Compares what is in the database at the end with the model, agent by agent."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from hashlib import sha256
from typing import Any

from storage.records import GENESIS
from tests.faults.chaos_domain.chaos.programs import Expected, run_model
from tests.faults.cluster import Cluster

SHOWN = 12  # complaints shown of a red run; the first ones tell


async def complaints(cluster: Cluster, seed: int, agents: int, roots: int) -> list[str]:
    """Everything that is not as it must be; empty when the run is green."""
    model = run_model(seed, agents, roots)
    found = await _left_over(cluster)
    found += await _intrusions(cluster)
    dead = await _dead_letters(cluster)
    stored = {
        row["agent"]: row
        for row in await cluster.sql("select agent, version, state::text as state, hash from agents")
    }
    for agent in sorted(stored.keys() - model.keys()):
        found.append(f"{agent} exists, and the model does not know it")
    for agent, expected in sorted(model.items()):
        row = stored.get(agent)
        if row is None:
            found.append(f"{agent} does not exist")
            continue
        found += [f"{agent}: {c}" for c in _compare(expected, row, dead.get(agent, []))]
    found += await broken_chains(cluster)
    return found


def _compare(expected: Expected, row: Any, dead: list[dict[str, Any]]) -> list[str]:
    found = []
    state = json.loads(row["state"]) if row["state"] else {}
    got: dict[str, list[int]] = state.get("got", {})
    for what, is_, must in (
        ("turns", row["version"], expected.turns),
        ("count", state.get("count", 0), expected.count),
        ("total", state.get("total", 0), expected.total),
        ("timers", sorted(state.get("timers", [])), expected.timers),
        ("sent", state.get("sent", {}), dict(expected.sent)),
        ("handled", {s: len(n) for s, n in got.items()}, dict(expected.handled)),
        ("dead letters", sorted(d["number"] for d in dead), expected.dead),
    ):
        if is_ != must:
            found.append(f"{what} is {is_}, must be {must}")
    given_up: defaultdict[str, list[int]] = defaultdict(list)
    for letter in dead:
        if letter["nth"]:
            given_up[letter["sender"]].append(letter["nth"])
        if letter["reason"] != "failed":
            found.append(f"step {letter['number']} is a dead letter: {letter['reason']}: {letter['error']}")
    for sender, numbers in got.items():
        if any(a >= b for a, b in itertools.pairwise(numbers)):
            found.append(f"from {sender} out of order: {numbers}")
        everything = sorted(numbers + given_up[sender])
        if everything != list(range(1, len(everything) + 1)):
            found.append(f"from {sender} not each once: {everything}")
    return found


async def _left_over(cluster: Cluster) -> list[str]:
    return [
        f"{row['count']} rows left in {row['name']}"
        for row in await cluster.sql(
            "select 'mailbox' as name, count(*) from mailbox union all select 'timers', count(*) from timers"
        )
        if row["count"]
    ]


async def _intrusions(cluster: Cluster) -> list[str]:
    rows = await cluster.sql("select epoch, count(*) from intrusions group by epoch")
    return [f"epoch {row['epoch']} wrote {row['count']} transitions that it did not own" for row in rows]


async def _dead_letters(cluster: Cluster) -> dict[str, list[dict[str, Any]]]:
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in await cluster.sql(
        "select agent, reason, error, header::text, payload::text from dead_letters"
    ):
        payload = json.loads(row["payload"])
        sender = json.loads(row["header"])["sender"].removeprefix("chaos/")
        found[row["agent"]].append(
            {**payload, "sender": sender, "reason": row["reason"], "error": row["error"]}
        )
    return dict(found)


async def broken_chains(cluster: Cluster) -> list[str]:
    """Agents whose history has a gap or does not hash to what its chain says."""
    found = []
    last: dict[str, tuple[int, bytes]] = {}
    for row in await cluster.sql(
        "select agent, version, body::text as body, prev, hash from transitions order by agent, version"
    ):
        agent = row["agent"]
        version, previous = last.get(agent, (0, GENESIS))
        if row["version"] != version + 1 or row["prev"] != previous:
            found.append(f"{agent}: version {row['version']} does not follow version {version}")
        if sha256(row["prev"] + row["body"].encode()).digest() != row["hash"]:
            found.append(f"{agent}: version {row['version']} does not hash to its chain")
        last[agent] = (row["version"], row["hash"])
    stored = await cluster.sql("select agent, version, hash from agents")
    elsewhere = [row["agent"] for row in stored if last.get(row["agent"]) != (row["version"], row["hash"])]
    return found + [f"{agent}: the history ends elsewhere than its state" for agent in elsewhere]
