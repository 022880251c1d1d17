"""One of the two processes of the bare loop of steps: one commit in flight, and in it whatever is ready.

All agents go on in step, or each by a handler of its own, as sequential code does. The process reads its orders as a line of JSON on
standard input, answers `ready`, begins at the next line by reading its mailboxes, and prints its report as a line of JSON.
"""

import asyncio
import sys
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import uvloop
from uuid_utils import UUID, uuid7

from benchmarks.bare.records import DOMAIN, EPOCH, SCHEMA, Orders, owner_of

Ended = tuple[int, int, str, str, bytes, bytes]
Commit = Callable[..., Awaitable[Any]]
Waiter = asyncio.Future[None]

_json = msgspec.json.Encoder().encode


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a process measured."""

    commits: int
    cpu_s: float


class Agent:
    """One agent with its mailbox, and the turn that it is at."""

    __slots__ = ("began_at", "calls", "hash", "messages", "name", "number", "partition", "steps", "turn", "value", "version")  # fmt: skip

    def __init__(self, name: str, partition: int) -> None:
        self.name = name
        self.partition = partition
        self.messages: deque[tuple[int, str]] = deque()
        self.version = 0
        self.hash = b""
        self.steps = 0
        self.begin()

    def begin(self) -> None:
        self.turn: UUID = uuid7()
        self.began_at = time.time()
        self.number = self.value = 0
        self.calls: list[str] = []

    async def step(self) -> float:
        """Call the function; returns the milliseconds that it took."""
        began = time.perf_counter()
        self.value = await following(self.value)
        self.number += 1
        took_ms = (time.perf_counter() - began) * 1000
        digest = sha256(str(self.value).encode()).hexdigest()
        self.calls.append(
            f'{{"number":{self.number},"key":"#{self.number}","kind":"step","name":"following","ok":true,'
            f'"ms":{took_ms:.3f},"value":"{digest}"}}'
        )
        return took_ms

    def end(self) -> Ended:
        """The turn's message, and the version, state, transition and hashes that it leaves."""
        seq, message = self.messages.popleft()
        self.version += 1
        self.steps += self.value
        state = _json({"steps": self.steps}).decode()
        body = (
            f'{{"version":{self.version},"at":{time.time():.6f},"decision":"handled","message":{{"payload":{message}}},'
            f'"turn":"{self.turn}","calls":[{",".join(self.calls)}],"sends":[],"state":{state}}}'
        )
        before, self.hash = self.hash, sha256(self.hash + body.encode()).digest()
        self.begin()
        return seq, self.version, state, body, before, self.hash


async def following(number: int) -> int:
    """The step, as trivial as the one that Callboard is measured with."""
    return number + 1


async def in_step(commit: Commit, process: int, agents: Sequence[Agent], steps: int) -> int:
    """Each commit takes every agent on by one step, or ends its turn after the last; returns how many there were."""
    commits = 0
    while agents:
        end = [agent for agent in agents if agent.number == steps]
        ended = [agent.end() for agent in end]
        on = [agent for agent in agents if agent.messages]
        begin = [agent for agent in on if agent.number == 0]
        took = [await agent.step() for agent in on]
        await commit(*arguments(process, begin, on, took, end, ended))
        commits += 1
        agents = on
    return commits


class Handlers:
    """The same with a coroutine for each agent, which goes on once what it has recorded is committed."""

    def __init__(self, commit: Commit, process: int, agents: Sequence[Agent], steps: int) -> None:
        self._commit = commit
        self._process = process
        self._agents = agents
        self._steps = steps
        self._went: list[tuple[Agent, float, Waiter]] = []
        self._ended: list[tuple[Agent, Ended, Waiter]] = []

    async def run(self) -> int:
        """Returns how many commits there were."""
        commits = 0
        handlers = [asyncio.create_task(self._handle(agent)) for agent in self._agents]
        await asyncio.sleep(0)
        while self._went or self._ended:
            went, ended = self._went, self._ended
            self._went, self._ended = [], []
            on, end = [agent for agent, _, _ in went], [agent for agent, _, _ in ended]
            begin = [agent for agent in on if agent.number == 1]
            took = [took_ms for _, took_ms, _ in went]
            left = [row for _, row, _ in ended]
            await self._commit(*arguments(self._process, begin, on, took, end, left))
            commits += 1
            for _, _, waiter in (*went, *ended):
                waiter.set_result(None)
            await asyncio.sleep(0)
        await asyncio.gather(*handlers)
        return commits

    async def _handle(self, agent: Agent) -> None:
        while agent.messages:
            for _ in range(self._steps):
                took_ms = await agent.step()
                committed = asyncio.get_running_loop().create_future()
                self._went.append((agent, took_ms, committed))
                await committed
            committed = asyncio.get_running_loop().create_future()
            self._ended.append((agent, agent.end(), committed))
            await committed


def arguments(
    process: int, begin: list[Agent], on: list[Agent], took: list[float], end: list[Agent], ended: list[Ended]
) -> list[Any]:
    """The commit's parameters: the turns that begin, those that go on with what their steps took, those that end with what
    they leave."""
    seqs, versions, states, bodies, before, hashes = zip(*ended, strict=True) if ended else [()] * 6
    return [
        DOMAIN, process, EPOCH, list({agent.partition for agent in (*on, *end)}),
        [a.partition for a in begin], [a.name for a in begin], [a.messages[0][0] for a in begin],
        [a.turn for a in begin], [a.began_at for a in begin],
        [a.name for a in on], [a.turn for a in on], [a.number for a in on], [f"#{a.number}" for a in on],
        [str(a.value) for a in on], took,
        [a.name for a in end], seqs, versions, states, bodies, before, hashes,
    ]  # fmt: skip


async def work(orders: Orders) -> Report:
    """Wait for the start, then run every turn to its end."""
    connection = await asyncpg.connect(orders.postgres_url, server_settings={"search_path": SCHEMA})
    try:
        sql = Path(orders.sql)
        await connection.execute((sql / "session.sql").read_text())
        commit = await connection.prepare((sql / "commit_steps.sql").read_text())
        print("ready", flush=True)
        sys.stdin.readline()
        cpu = time.process_time()
        agents = await load(connection, orders.process)
        going = commit.fetchval, orders.process, agents, orders.steps
        commits = await (Handlers(*going).run() if orders.handlers else in_step(*going))
        return Report(commits=commits, cpu_s=time.process_time() - cpu)
    finally:
        await connection.close()


async def load(connection: "asyncpg.Connection[asyncpg.Record]", process: int) -> list[Agent]:
    """The process's agents, with the messages that wait in their mailboxes."""
    rows = await connection.fetch(
        "SELECT agent, partition, seq, payload::text FROM mailbox WHERE domain = $1 ORDER BY seq", DOMAIN
    )
    messages: defaultdict[tuple[str, int], list[tuple[int, str]]] = defaultdict(list)
    for row in rows:
        if owner_of(row["partition"]) == process:
            messages[row["agent"], row["partition"]].append((row["seq"], row["payload"]))
    agents = []
    for (name, partition), waiting in messages.items():
        agent = Agent(name, partition)
        agent.messages.extend(waiting)
        agents.append(agent)
    return agents


def main() -> None:
    orders = msgspec.json.decode(sys.stdin.readline(), type=Orders)
    print(msgspec.json.encode(uvloop.run(work(orders))).decode(), flush=True)


if __name__ == "__main__":
    main()
