"""Feeds a random program into a cluster, each root exactly once, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from random import Random
from typing import Any, NamedTuple

from nats.errors import Error as NatsError

from bus import subjects
from bus.address import DEFAULT_TENANT, partition_of
from bus.envelope import Header, header_to_json, new_id
from bus.errors import ServiceUnavailable
from bus.event import PRIORITY_HEADER
from bus.events import EventStream
from bus.nats import NatsTransport
from bus.wire import NUDGE_SOURCE, Parcel, encode_parcel
from storage.queries import query
from tests.faults.cluster import DOMAIN, Cluster
from tests.faults.programs import EVENTS, FEEDER, TASKS, name, root, way
from tests.faults.watched import POLL_S

_BACKLOG = """
select (select count(*) from turns) + (
  select count(*) from mailbox m left join agents a using (domain, tenant, agent)
  where a.lifecycle is distinct from 'paused')
"""
BATCH = 10
PACE_S = 0.02
ANSWER_WITHIN_S = 1.0  # a frozen host may have been asked
_AGAIN = {"StorageUnavailable", "RowLocked", "Overloaded"}  # refusals that mean: try again


class _Root(NamedTuple):
    """A root on its way in by NATS; `times` is how often it is sent, since a sender may repeat itself."""

    number: int
    payload: dict[str, Any]
    priority: int
    times: int


class Feeder:
    """Sends roots until it is told to stop; some twice, since a sender may repeat itself.

    Each way in has a queue of its own, so that a NATS which is away holds up only what goes through it.
    """

    def __init__(self, cluster: Cluster, seed: int, agents: int, *, backlog: int = 200) -> None:
        self._cluster = cluster
        self._seed = seed
        self._agents = agents
        self._backlog = backlog
        self._rng = Random(seed)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._stop = asyncio.Event()
        self._events: asyncio.Queue[_Root | None] = asyncio.Queue()
        self._tasks: asyncio.Queue[_Root | None] = asyncio.Queue()
        self.roots = 0
        self.came: Counter[str] = Counter()
        """Roots by the way they came in."""

        self.last_event = 0
        """The highest number in the stream of events."""

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        """Until stopped; what has been begun by then comes in as a whole."""
        transport = await NatsTransport.connect(self._cluster.nats_url, name="feeder")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._publish_events(EventStream(transport)))
                group.create_task(self._submit_tasks(transport))
                await self._feed(transport)
                self._events.put_nowait(None)
                self._tasks.put_nowait(None)
        finally:
            await transport.close()

    async def _feed(self, transport: NatsTransport) -> None:
        partitions = int(await self._cluster.value("select partitions from domains"))
        while not self._stop.is_set():
            if await self._cluster.value(_BACKLOG) < self._backlog:
                rows = self._next(partitions)
                for _ in range(self._times()):
                    await _accept(self._cluster, rows)
                _nudge(transport, {row[3] for row in rows})
            await asyncio.sleep(PACE_S)

    def _next(self, partitions: int) -> list[tuple[object, ...]]:
        """Send the next roots on their ways; return those that are put into mailboxes."""
        rows = []
        for index in range(self.roots, self.roots + BATCH):
            how = way(self._seed, index)
            self.came[how] += 1
            if how == TASKS:
                terms = {"seed": self._seed, "agents": self._agents, "index": index}
                self._tasks.put_nowait(_Root(index, terms, 1, self._times()))
                continue
            child = root(self._seed, self._agents, index)
            self._counts[how, name(child.agent)] += 1
            payload = {
                "seed": self._seed, "agents": self._agents, "number": child.number, "depth": child.depth,
                "nth": self._counts[how, name(child.agent)], "agent": child.agent,
            }  # fmt: skip
            priority = 1 if child.priority is None else child.priority
            if how == EVENTS:
                self._events.put_nowait(_Root(index, payload, priority, self._times()))
            else:
                rows.append(
                    outside(
                        f"root-{index}",
                        name(child.agent),
                        "chaos.walk.v1",
                        payload,
                        partitions,
                        priority=priority,
                    )
                )
        self.roots += BATCH
        return rows

    def _times(self) -> int:
        return 2 if self._rng.random() < 0.2 else 1

    async def _publish_events(self, stream: EventStream) -> None:
        """One after another: their order in the stream is the order that their recipients must see."""
        while (event := await self._events.get()) is not None:
            for _ in range(event.times):
                self.last_event = max(self.last_event, await self._publish(stream, event))

    async def _publish(self, stream: EventStream, event: _Root) -> int:
        data = json.dumps(event.payload).encode()
        while True:
            try:
                return await stream.publish(
                    DOMAIN,
                    EVENTS.rpartition("/")[2],
                    data,
                    message_id=f"root-{event.number}",
                    headers={PRIORITY_HEADER: str(event.priority)},
                )
            except ServiceUnavailable:  # perhaps it is there
                await asyncio.sleep(POLL_S)

    async def _submit_tasks(self, transport: NatsTransport) -> None:
        while (task := await self._tasks.get()) is not None:
            ids = {await self._submit(transport, task) for _ in range(task.times)}
            assert len(ids) == 1, f"root {task.number} was submitted again and became another task: {ids}"

    async def _submit(self, transport: NatsTransport, task: _Root) -> str:
        request = {"goal": f"root {task.number}", "input": task.payload, "request_key": f"root-{task.number}"}
        while True:
            try:
                reply = await transport.client.request(
                    subjects.task_submit(DOMAIN), json.dumps(request).encode(), timeout=ANSWER_WITHIN_S
                )
            except (NatsError, TimeoutError, OSError):  # perhaps it is there
                await asyncio.sleep(POLL_S)
                continue
            answer = json.loads(reply.data)
            if "id" in answer:
                return str(answer["id"])
            assert answer["error"]["type"] in _AGAIN, answer
            await asyncio.sleep(POLL_S)


def outside(
    key: str,
    agent: str,
    type_: str,
    payload: dict[str, Any],
    partitions: int,
    *,
    priority: int = 1,
    control: bool = False,
    task: str | None = None,
) -> tuple[object, ...]:
    """A message from outside, as a row for `accept`."""
    header = Header(id=new_id(), type=type_, sender=FEEDER, sent_at=time.time(), priority=priority, task=task)
    partition = partition_of(DEFAULT_TENANT, agent, partitions)
    return (
        key, DOMAIN, DEFAULT_TENANT, partition, agent, control, header.id, header_to_json(header), json.dumps(payload)
    )  # fmt: skip


async def accept(cluster: Cluster, rows: list[tuple[object, ...]]) -> None:
    """Put messages into mailboxes, each key once, and tell their owners."""
    await _accept(cluster, rows)
    transport = await NatsTransport.connect(cluster.nats_url, name="sender")
    _nudge(transport, {row[3] for row in rows})
    await transport.flush()
    await transport.close()


async def _accept(cluster: Cluster, rows: list[tuple[object, ...]]) -> None:
    keys, *columns = (list(column) for column in zip(*rows, strict=True))
    await cluster.retried(lambda db: db.fetch(query("accept_messages"), keys, timedelta(days=1), *columns))


def _nudge(transport: NatsTransport, partitions: Iterable[Any]) -> None:
    """Tell the owners that there is something in their mailboxes."""
    for partition in partitions:
        parcel = Parcel(NUDGE_SOURCE, partition, 0, [])
        transport.publish(subjects.agents(DOMAIN, partition), encode_parcel(parcel))
