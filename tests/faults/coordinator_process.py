"""A domain coordinator as a plain process: `python -m tests.faults.coordinator_process FOLDER NAME`."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

from bus.nats import NatsTransport
from coordinators.domain import DomainCoordinator
from coordinators.equipment import equip_coordinator
from coordinators.gone import GoneHosts
from storage.connect import create_pool
from storage.domains import find_domain
from storage.placement import claim_coordinator
from tests.faults import planted
from tests.faults.folder import Folder
from tests.faults.host_process import Clocks, Losses, LostAnswers, listen_for_orders
from tests.faults.launcher import ProcessLauncher


async def _main(folder: Folder) -> None:
    config = folder.config()
    planted.plant(config["planted"])
    clocks = Clocks()
    clocks.install()
    listen_for_orders(folder, clocks, Losses(), LostAnswers(), [])
    pool = await create_pool(config["postgres_url"], application="callboard-coordinator")
    transport = await NatsTransport.connect(config["nats_url"], name="coordinator")
    row = await find_domain(pool, config["domain"])
    epoch = await claim_coordinator(pool, row.domain, "local")
    logging.info("coordinator %d begins", epoch)
    launcher = ProcessLauncher(folder)
    coordinator = DomainCoordinator(pool, transport, launcher, row.domain, epoch)
    GoneHosts(pool, row.domain, launcher.is_gone).join(coordinator)
    await equip_coordinator(coordinator, pool, transport, row, epoch)
    await coordinator.run()
    logging.info("coordinator %d is fenced", epoch)


def main() -> None:
    folder = Folder(Path(sys.argv[1]))
    folder.note_process()
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s.%(msecs)03d %(name)s %(message)s",
        datefmt="%H:%M:%S",
    )
    asyncio.run(_main(folder))


if __name__ == "__main__":
    main()
