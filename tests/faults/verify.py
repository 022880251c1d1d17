"""Compares what is in the database at the end with the model, agent by agent."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from hashlib import sha256
from typing import Any

from storage.records import GENESIS
from tests.faults.cluster import Cluster
from tests.faults.programs import Expected, run_model

SHOWN = 12  # complaints shown of a red run; the first ones tell


async def complaints(cluster: Cluster, seed: int, agents: int, roots: int) -> list[str]:
    """Everything that is not as it must be at the end; empty when the run is green."""
    model = run_model(seed, agents, roots)
    for agent, turns in cluster.extra_turns.items():
        model[agent].turns += turns
    found = await wrongs(cluster)
    found += await _left_over(cluster)
    dead = await _dead_letters(cluster)
    stored = await _agents(cluster)
    for agent in sorted(stored.keys() - model.keys()):
        found.append(f"{agent} exists, and the model does not know it")
    for agent, expected in sorted(model.items()):
        if agent in stored:
            found += [f"{agent}: {c}" for c in _compare(expected, stored[agent], dead.get(agent, []))]
        else:
            found.append(f"{agent} does not exist")
    return found


async def wrongs(cluster: Cluster) -> list[str]:
    """What must not be at any moment: messages of a pair out of order or twice, writes of somebody who does not
    own what it writes, broken histories."""
    found = await _intrusions(cluster)
    for agent, row in sorted((await _agents(cluster)).items()):
        for sender, numbers in _state(row).get("got", {}).items():
            if len(set(numbers)) < len(numbers):
                found.append(f"{agent}: from {sender} twice: {numbers}")
            elif any(a > b for a, b in itertools.pairwise(numbers)):
                found.append(f"{agent}: from {sender} out of order: {numbers}")
    return found + await broken_chains(cluster)


def _compare(expected: Expected, row: Any, dead: list[dict[str, Any]]) -> list[str]:
    state = _state(row)
    got: dict[str, list[int]] = state.get("got", {})
    found = [
        f"{what} is {is_}, must be {must}"
        for what, is_, must in (
            ("turns", row["version"], expected.turns),
            ("count", state.get("count", 0), expected.count),
            ("total", state.get("total", 0), expected.total),
            ("timers", sorted(state.get("timers", [])), expected.timers),
            ("sent", state.get("sent", {}), dict(expected.sent)),
            ("handled", {s: len(n) for s, n in got.items()}, dict(expected.handled)),
            ("dead letters", sorted(d["number"] for d in dead), expected.dead),
        )
        if is_ != must
    ]
    given_up: defaultdict[str, list[int]] = defaultdict(list)
    for letter in dead:
        if letter["nth"]:
            given_up[letter["sender"]].append(letter["nth"])
        if letter["reason"] != "failed":
            found.append(f"step {letter['number']} is a dead letter: {letter['reason']}: {letter['error']}")
    for sender in got.keys() | given_up.keys():
        everything = sorted(got.get(sender, []) + given_up[sender])
        if everything != list(range(1, len(everything) + 1)):
            found.append(f"from {sender} not each once: {everything}")
    return found


async def _agents(cluster: Cluster) -> dict[str, Any]:
    rows = await cluster.sql(
        "select agent, version, state::text as state from agents where agent like 'walker/%'"
    )
    return {row["agent"]: row for row in rows}


def _state(row: Any) -> dict[str, Any]:
    return dict(json.loads(row["state"])) if row["state"] else {}


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
        "select agent, reason, error, header::text, payload::text from dead_letters where agent like 'walker/%'"
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
    history, stored = await cluster.retried(_history_and_heads)
    for row in history:
        agent = row["agent"]
        version, previous = last.get(agent, (0, GENESIS))
        if row["version"] != version + 1 or row["prev"] != previous:
            found.append(f"{agent}: version {row['version']} does not follow version {version}")
        if sha256(row["prev"] + row["body"].encode()).digest() != row["hash"]:
            found.append(f"{agent}: version {row['version']} does not hash to its chain")
        last[agent] = (row["version"], row["hash"])
    elsewhere = [row["agent"] for row in stored if last.get(row["agent"]) != (row["version"], row["hash"])]
    return found + [f"{agent}: the history ends elsewhere than its state" for agent in elsewhere]


async def _history_and_heads(db: Any) -> tuple[list[Any], list[Any]]:
    """Of one moment, since turns may go on."""
    async with db.transaction(isolation="repeatable_read"):
        return (
            await db.fetch(
                "select agent, version, body::text as body, prev, hash from transitions order by agent, version"
            ),
            await db.fetch("select agent, version, hash from agents"),
        )
