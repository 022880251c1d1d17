"""A process that freezes inside its transaction, told by CALLBOARD_FAULTS where:

`python -m tests.integration.frozen_process assign|retain DOMAIN POSTGRES_URL NATS_URL`.
"""

from __future__ import annotations

import asyncio
import sys

from bus.nats import NatsTransport
from coordinators.tasks.assign import TaskAssigner
from storage.connect import create_pool
from storage.placement import claim_coordinator
from storage.retention import retain


async def _assign(domain: str, postgres_url: str, nats_url: str) -> None:
    pool = await create_pool(postgres_url, application="callboard-coordinator")
    transport = await NatsTransport.connect(nats_url, name="coordinator")
    epoch = await claim_coordinator(pool, domain, "frozen")
    await TaskAssigner(pool, transport, domain, epoch).assign_waiting()


def main() -> None:
    what, domain, postgres_url, nats_url = sys.argv[1:]
    if what == "assign":
        asyncio.run(_assign(domain, postgres_url, nats_url))
    else:
        asyncio.run(retain(postgres_url, months=None))


if __name__ == "__main__":
    main()
