"""What hosts and domain coordinators carry besides their core: system agents, events, tasks."""

from __future__ import annotations

from typing import Any

import asyncpg

from actors.agent import Agent
from actors.host import Host
from actors.ingress import Ingress
from bus.nats import NatsTransport
from coordinators.domain import DomainCoordinator
from storage.domains import DomainRow

SYSTEM_KINDS: tuple[type[Agent], ...] = ()


def equip_host(host: Host, transport: NatsTransport) -> None:
    """Events come in through the host that owns the domain's first partition."""
    host.extra_work.append(Ingress(host, transport).run)


async def equip_coordinator(
    coordinator: DomainCoordinator,
    pool: asyncpg.Pool[Any],
    transport: NatsTransport,
    row: DomainRow,
    epoch: int,
) -> None:
    """Tasks are assigned by the domain's coordinator."""
