"""Who waits for whom, in Postgres."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from storage.edges import Agent, ChainedAsks, Gate, PromisePlace, Refusal, WaitEdge, holder_gate
from storage.pooled import Pooled
from storage.queries import query


class PostgresEdges(Pooled):
    """Implements AskStore."""

    async def wait_edges(self, agents: Sequence[Agent], limit: int) -> list[WaitEdge]:
        async with self.reader() as connection:
            rows = await connection.fetch(query("wait_edges"), *map(list, zip(*agents, strict=True)), limit)
        return [_edge(row) for row in rows]

    async def refuse_ask(self, newest: WaitEdge, cycle: Sequence[WaitEdge], agents: Sequence[str]) -> Refusal:
        async with self.reader() as connection:
            rows = await connection.fetch(
                query("refuse_ask"), [e.asker[0] for e in cycle], [e.asker[1] for e in cycle],
                [e.id for e in cycle], 1 + [e.id for e in cycle].index(newest.id), json.dumps(agents),
            )  # fmt: skip
        return Refusal(
            mail=tuple(
                (r["domain"], r["partition"], r["tenant"], r["agent"]) for r in rows if r["gone"] is None
            ),
            gone=frozenset(row["gone"] for row in rows if row["gone"] is not None),
            moves=any(row["moves"] for row in rows),
        )

    async def chained_asks(
        self, domain: str, partitions: Sequence[int], after: PromisePlace, limit: int
    ) -> ChainedAsks:
        async with self.reader() as connection:
            rows = await connection.fetch(query("chained_asks"), domain, list(partitions), *after, limit)
        return ChainedAsks(
            agents=tuple((row["tenant"], row["agent"]) for row in rows if row["agent"] is not None),
            last=next(((row["tenant"], row["id"]) for row in rows if row["agent"] is None), None),
        )


def _edge(row: Any) -> WaitEdge:
    domain, _, agent = row["target"].partition("/")
    gates = msgspec.json.decode(row["gates"], type=tuple[Gate, ...]) if row["gates"] else ()
    if row["branches"] is not None:
        gates = (*gates, holder_gate(row["id"], row["task"], row["branches"], row["branch"]))
    return WaitEdge(
        id=row["id"], asker=(row["domain"], row["tenant"], row["agent"]), asked=(domain, row["tenant"], agent),
        made_at=row["made_at"], gates=gates,
    )  # fmt: skip
