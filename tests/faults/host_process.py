"""A host as a plain process, without Ray: `python -m tests.faults.host_process FOLDER NAME`.

The folder holds what the test tells it. On SIGUSR1 it reads `orders/PID`: named points to arm, and whether
what NATS delivers is dropped. On SIGUSR2 it logs where each of its tasks stands.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path

import uvloop

from actors.host import Host
from actors.incarnation import HostSettings, run_incarnation
from bus import faultpoints
from bus.nats import NatsTransport
from bus.transport import Receive
from tests.faults import planted
from tests.faults.folder import Folder

_logger = logging.getLogger("tests.faults.host")


class Losses:
    """Drops what NATS delivers while it is told to."""

    def __init__(self) -> None:
        self.on = False
        self.dropped = 0

    def install(self) -> None:
        subscribe = NatsTransport.subscribe

        async def lossy(transport: NatsTransport, subject: str, receive: Receive, on_loss):  # type: ignore[no-untyped-def]
            def take(data: bytes) -> None:
                if self.on:
                    self.dropped += 1
                else:
                    receive(data)

            return await subscribe(transport, subject, take, on_loss)

        NatsTransport.subscribe = lossy  # type: ignore[method-assign]


def listen_for_orders(folder: Folder, losses: Losses) -> None:
    """Obey `orders/PID` at each SIGUSR1."""

    def obey() -> None:
        orders = json.loads(folder.orders(os.getpid()).read_text())
        faultpoints._armed.update(faultpoints._read(orders.get("faults", "")))
        if losses.on and not orders.get("drop", False):
            sys.stderr.write(f"fault fired: dropped {losses.dropped} deliveries\n")
            losses.dropped = 0
        losses.on = orders.get("drop", False)
        sys.stderr.write(f"orders: {orders}\n")

    def tell() -> None:
        for task in asyncio.all_tasks():
            task.print_stack(limit=6)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, obey)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, tell)


async def _main(folder: Folder, name: str) -> None:
    config = folder.config()
    losses = Losses()
    losses.install()
    listen_for_orders(folder, losses)
    planted.plant(config["planted"])
    settings = HostSettings(
        domain=config["domain"], host=name, postgres_url=config["postgres_url"], nats_url=config["nats_url"]
    )

    def started(host: Host) -> None:
        _logger.info("epoch %d is pid %d", host.fence.epoch, os.getpid())

    why = await run_incarnation(settings, on_start=started)
    _logger.info("ended: %s", why)


def main() -> None:
    folder, name = Folder(Path(sys.argv[1])), sys.argv[2]
    folder.note_process()
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s.%(msecs)03d %(name)s %(message)s",
        datefmt="%H:%M:%S",
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(folder, name))


if __name__ == "__main__":
    main()
