"""One of the two processes: receive and handle, commit, publish; one commit in flight.

It reads its orders as a line of JSON on standard input, answers `ready`, begins at the next line, and prints
its report as a line of JSON.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import nats
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg

from benchmarks.bare.records import DOMAIN, PROCESSES, SCHEMA, Delivery, Orders, Report, Tally, owner_of
from benchmarks.bare.turns import Activation, Agents, Turn

if TYPE_CHECKING:
    from asyncpg.prepared_stmt import PreparedStatement

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Delivery]).decode


class Loop:
    """Turns run as soon as their message is here; while a commit is in flight the next one gathers."""

    def __init__(
        self, process: int, agents: Agents, commit: "PreparedStatement[asyncpg.Record]", bus: Client
    ) -> None:
        self.commits = 0
        self._process = process
        self._agents = agents
        self._commit = commit
        self._bus = bus
        self._pending: list[Turn] = []
        self._wake = asyncio.Event()
        self._stopped = False

    async def receive(self, message: Msg) -> None:
        self.handle(_unpack(message.data))

    def handle(self, deliveries: list[Delivery]) -> None:
        self._pending.extend(map(self._agents.handle, deliveries))
        self._wake.set()

    async def run(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._stop)
        while not self._stopped:
            if not self._pending:
                self._wake.clear()
                await self._wake.wait()
                continue
            turns, self._pending = self._pending, []
            seqs: list[int] = await self._commit.fetchval(*self._agents.arguments(turns))
            self.commits += 1
            await self._publish(turns, seqs)

    async def _publish(self, turns: list[Turn], seqs: list[int]) -> None:
        batches: list[list[Delivery]] = [[] for _ in range(PROCESSES)]
        for turn, seq in zip(turns, seqs, strict=True):
            batches[owner_of(turn.recipient)].append(self._agents.delivery(turn, seq))
        for process, batch in enumerate(batches):
            if batch and process != self._process:
                await self._bus.publish(f"{DOMAIN}.{process}", _pack(batch))
        if batches[self._process]:
            self.handle(batches[self._process])

    def _stop(self) -> None:
        self._stopped = True
        self._wake.set()


async def work(orders: Orders) -> Report:
    """Load, wait for the start, run to the end."""
    sql = Path(orders.sql)
    connection = await asyncpg.connect(orders.postgres_url, server_settings={"search_path": SCHEMA})
    bus = await nats.connect(orders.nats_url)
    try:
        await connection.execute((sql / "session.sql").read_text())
        agents = Agents(orders.process, orders.agents)
        waiting = await load(connection, agents, orders.process)
        loop = Loop(orders.process, agents, await connection.prepare((sql / "commit.sql").read_text()), bus)
        await bus.subscribe(f"{DOMAIN}.{orders.process}", cb=loop.receive)
        await bus.flush()
        print("ready", flush=True)
        sys.stdin.readline()
        cpu, began = time.process_time(), time.monotonic()
        loop.handle(waiting)
        await loop.run(orders.seconds)
        return Report(
            commits=loop.commits,
            latencies=agents.latencies,
            seconds=time.monotonic() - began,
            cpu_s=time.process_time() - cpu,
        )
    finally:
        await bus.close()
        await connection.close()


async def load(
    connection: "asyncpg.Connection[asyncpg.Record]", agents: Agents, process: int
) -> list[Delivery]:
    """Load the process's agents; returns the messages that wait in their mailboxes."""
    for row in await connection.fetch("SELECT agent, version, hash FROM agents WHERE domain = $1", DOMAIN):
        if owner_of(_number(row)) == process:
            agents.activations[_number(row)] = Activation(row["version"], row["hash"], Tally(0))
    rows = await connection.fetch(
        "SELECT agent, seq, id, payload::text FROM mailbox WHERE domain = $1 ORDER BY seq", DOMAIN
    )
    return [
        Delivery(
            row["seq"],
            _number(row),
            str(row["id"]),
            str(row["id"]),
            0,
            b"{}",
            row["payload"].encode(),
            0,
        )
        for row in rows
        if owner_of(_number(row)) == process
    ]


def _number(row: Any) -> int:
    return int(row["agent"].rsplit("/", 1)[1])


def main() -> None:
    orders = msgspec.json.decode(sys.stdin.readline(), type=Orders)
    print(msgspec.json.encode(uvloop.run(work(orders))).decode(), flush=True)


if __name__ == "__main__":
    main()
