"""What hosts and domain coordinators carry besides their core: system agents, events, tasks."""

from __future__ import annotations

from typing import Any

import asyncpg

from actors.agent import Agent
from actors.host import Host
from actors.ingress import Ingress
from bus.nats import NatsTransport
from coordinators.domain import DomainCoordinator
from coordinators.tasks.agent import TaskAgent
from coordinators.tasks.assign import TaskAssigner
from coordinators.tasks.feed import TaskFeed
from coordinators.tasks.front import TaskFront
from storage.domains import Connection, DomainRow

SYSTEM_KINDS: tuple[type[Agent], ...] = (TaskAgent,)


def equip_host(host: Host, transport: NatsTransport, control: Connection) -> None:
    """Events come in through the host that owns the domain's first partition; tasks through any."""
    host.extra_work.append(Ingress(host, transport).run)
    host.extra_work.append(TaskFront(control, transport, host.fence.domain).run)
    host.on_task_events = TaskFeed(transport, host.fence.domain).publish


async def equip_coordinator(
    coordinator: DomainCoordinator,
    pool: asyncpg.Pool[Any],
    transport: NatsTransport,
    row: DomainRow,
    epoch: int,
) -> None:
    """Tasks are accepted and assigned by the domain's coordinator."""
    assigner = TaskAssigner(pool, transport, row.domain, epoch)
    await assigner.listen(coordinator.look_soon)
    coordinator.every_round.append(assigner.assign_waiting)
    await TaskFront(pool, transport, row.domain).start()
