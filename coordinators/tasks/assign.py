"""Assigning submitted tasks: the coordinator picks them up and tells each one's durable agent, once."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import asyncpg

from actors.domain import DomainSpec
from actors.task_messages import TASK_KIND, task_agent
from bus import faultpoints, subjects
from bus.address import Address, partition_of
from bus.envelope import Priority
from bus.errors import InvalidMessage
from bus.registry import encode_payload
from bus.task_ref import task_ref
from bus.transport import Subscription, Transport
from coordinators.tasks.messages import TaskAssigned
from coordinators.tasks.policies import Call, Refused, To, make_policy
from storage.domains import find_domain
from storage.intake import Incoming, accept, nudge
from storage.placement import leading
from storage.tasks import (
    WaitingTask,
    hand_over_task,
    has_waiting_tasks,
    open_tasks,
    open_tasks_of,
    tasks_at_work,
    waiting_tasks,
)

_logger = logging.getLogger("callboard.tasks")

BATCH = 16  # tasks in one transaction; each may have an input of some MiB
ROUND_S = 0.1  # then the coordinator looks at its hosts again before it assigns more
FINISHED = b"finished"
SUBMITTED = b"submitted"


class TaskAssigner:
    """Hands over the tasks of one domain under the epoch of its coordinator; level-triggered.

    One transaction marks the task's row and puts TaskAssigned into the mailbox of its agent, so that a task
    is handed over once, whatever dies in between. Everything after that is the agent's.
    """

    def __init__(self, pool: asyncpg.Pool[Any], transport: Transport, domain: str, epoch: int) -> None:
        self._pool = pool
        self._transport = transport
        self._domain = domain
        self._epoch = epoch
        self._is_full = False
        self._go_on: Callable[[], None] = lambda: None

    async def listen(self, wake: Callable[[], None]) -> Subscription:
        """Call `wake` when there is something to assign, so that it need not wait for the next round."""

        def heard(data: bytes) -> None:
            if data != FINISHED or self._is_full:
                wake()

        self._go_on = wake
        return await self._transport.subscribe(subjects.tasks_waiting(self._domain), heard, wake)

    async def assign_waiting(self) -> None:
        """Assign what waits, by priority and age, as far as `tasks.concurrent` allows, and for ROUND_S; what is left
        is for a round that begins at once.

        Raises Fenced when another coordinator leads, StorageUnavailable when Postgres is away.
        """
        if not await has_waiting_tasks(self._pool, self._domain):
            return
        row = await find_domain(self._pool, self._domain)
        spec = DomainSpec.from_json(row.spec)
        until = time.monotonic() + ROUND_S
        while True:
            room = spec.tasks.concurrent - await open_tasks(self._pool, self._domain)
            self._is_full = room <= 0
            children = self._is_full  # their parents wait for them: those take no place from them
            if children:
                room = spec.tasks.concurrent - await tasks_at_work(self._pool, self._domain)
            if room <= 0:
                return
            limit = min(BATCH, room)
            assigned = await self._assign_batch(spec, limit, children)
            nudge(self._transport, [self._leader(task, row.partitions) for task in assigned])
            if len(assigned) < limit:
                return
            if time.monotonic() >= until:
                self._go_on()
                return

    async def _assign_batch(self, spec: DomainSpec, limit: int, children: bool) -> list[WaitingTask]:
        async with leading(self._pool, self._domain, self._epoch) as connection:
            tasks = await waiting_tasks(connection, self._domain, limit, children=children)
            for task in tasks:
                decision = await self._decide(connection, spec, task)
                try:
                    await self._tell(connection, task, decision, decision.payload(task.input))
                except InvalidMessage as error:  # nothing is written: it is refused, and the others go on
                    _logger.error("task %s of %s cannot be handed over: %s", task.id, self._domain, error)
                    decision = TaskAssigned(id=task.id, goal="", policy=decision.policy, refused=str(error))
                    await self._tell(connection, task, decision, encode_payload(decision))
                await hand_over_task(
                    connection, self._domain, task, policy=decision.policy, assignee=decision.assignee
                )
            faultpoints.reached("assign.before_commit")
        faultpoints.reached("assign.after_commit")
        return tasks

    async def _decide(self, connection: Any, spec: DomainSpec, task: WaitingTask) -> TaskAssigned:
        """Without the task's input."""
        name = task.policy or spec.tasks.policy
        load = functools.partial(self._load, connection, task.tenant)
        policy = make_policy(name, spec.tasks, lambda skill: spec.members.get(skill, ()), load)
        assignment = await policy.assign(task.id)
        decided = functools.partial(
            TaskAssigned,
            id=task.id,
            goal=task.goal,
            priority=task.priority,
            deadline=task.deadline,
            policy=name,
            on_dead_letter=spec.tasks.on_dead_letter,
            wall_s=task.wall_s,
        )
        match assignment:
            case To(agent):
                return decided(assignee=f"{self._domain}/{agent}")
            case Call(agents, within_s):
                return decided(
                    candidates=tuple(f"{self._domain}/{agent}" for agent in agents), bid_within_s=within_s
                )
            case Refused(reason):
                return decided(refused=reason)

    async def _load(self, connection: Any, tenant: str, agents: Sequence[str]) -> Mapping[str, int]:
        addresses = [f"{self._domain}/{agent}" for agent in agents]
        load = await open_tasks_of(connection, self._domain, tenant, addresses)
        return {agent: load[address] for agent, address in zip(agents, addresses, strict=True)}

    def _leader(self, task: WaitingTask, partitions: int) -> tuple[str, int, str, str]:
        agent = task_agent(task_ref(task.id, self._domain)).agent
        return self._domain, partition_of(task.tenant, agent, partitions), task.tenant, agent

    async def _tell(self, connection: Any, task: WaitingTask, decision: TaskAssigned, payload: str) -> None:
        told = Incoming(
            to=Address(self._domain, TASK_KIND, task.id),
            message=decision,
            payload=payload,
            key=f"assign:{task.id}",
            sender="external/coordinator",
            priority=message_priority(task.priority),
            task=task.id,
            root=task.root,
        )
        await accept(connection, None, [told], tenant=task.tenant, admitted=True)


def message_priority(priority: int) -> Priority:
    """How the messages of a task are ranked among ready agents: 0-3 low, 4-6 normal, 7-10 high."""
    if priority <= 3:
        return Priority.LOW
    return Priority.NORMAL if priority <= 6 else Priority.HIGH
