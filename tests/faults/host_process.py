"""A host as a plain process, without Ray: `python -m tests.faults.host_process FOLDER NAME`.

The folder holds what the test tells it. On SIGUSR1 it reads `orders/PID`: named points to arm, whether what NATS
delivers is dropped, and how far its clock is ahead. On SIGUSR2 it logs where each of its tasks stands, and
each agent that has not come to rest.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import uvloop

from actors.activation import Activation
from actors.host import Host
from actors.incarnation import HostSettings, run_incarnation
from bus import faultpoints
from bus.errors import StorageUnavailable
from bus.nats import NatsTransport
from bus.transport import Receive, Subscription
from coordinators.equipment import SYSTEM_KINDS, equip_host
from storage.postgres import PostgresStore
from tests.faults import executions, judge, planted
from tests.faults.folder import Folder

_logger = logging.getLogger("tests.faults.host")


class Clocks:
    """The time of day of this process, which can be set; nobody sets the clock that only counts on."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def install(self) -> None:
        now, now_ns = time.time, time.time_ns
        time.time = lambda: now() + self.ahead_s
        time.time_ns = lambda: now_ns() + int(self.ahead_s * 1e9)

    def jump(self, ahead_s: float) -> None:
        if ahead_s != self.ahead_s:
            sys.stderr.write(f"fault fired: jumped by {ahead_s - self.ahead_s:+.0f} s\n")
        self.ahead_s = ahead_s


class Losses:
    """Drops what NATS delivers while it is told to."""

    def __init__(self) -> None:
        self.on = False
        self.dropped = 0

    def install(self) -> None:
        subscribe = NatsTransport.subscribe

        async def lossy(
            transport: NatsTransport, subject: str, receive: Receive, on_loss: Callable[[], None]
        ) -> Subscription:
            def take(data: bytes) -> None:
                if self.on:
                    self.dropped += 1
                else:
                    receive(data)

            return await subscribe(transport, subject, take, on_loss)

        NatsTransport.subscribe = lossy  # type: ignore[method-assign,assignment]


class LostAnswers:
    """Makes writes fail as if the connection had been lost: before they were written, or after."""

    def __init__(self) -> None:
        self.rng: Random | None = None

    def install(self) -> None:
        for write in ("commit", "accept_events"):
            setattr(PostgresStore, write, self._lossy(getattr(PostgresStore, write)))

    def _lossy(self, write: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def lossy(*arguments: Any) -> Any:
            draw = self.rng.random() if self.rng is not None else 1.0
            if draw < 0.15:
                sys.stderr.write("fault fired: lost request\n")
                raise StorageUnavailable("The request was lost.")
            written = await write(*arguments)
            if draw < 0.5:
                sys.stderr.write("fault fired: lost answer\n")
                raise StorageUnavailable("The answer was lost.")
            return written

        return lossy


_FLAGS = (
    "running",
    "scheduled",
    "refilling",
    "more",
    "more_control",
    "parked",
    "parking",
    "lacks_turn",
    "held_turn",
)


def _standing(activation: Activation) -> str:
    flags = " ".join(name for name in _FLAGS if getattr(activation, name))
    queued = [envelope.seq for envelope in activation.queue]
    return f"{activation.agent}: queued {queued}, apart {sorted(activation.apart)}, {activation.lifecycle} {flags}"


def listen_for_orders(
    folder: Folder, clocks: Clocks, losses: Losses, answers: LostAnswers, hosts: list[Host]
) -> None:
    """Obey `orders/PID` at each SIGUSR1."""

    def obey() -> None:
        orders = json.loads(folder.orders(os.getpid()).read_text())
        faultpoints._armed.update(faultpoints._read(orders.get("faults", "")))
        if losses.on and not orders.get("drop", False):
            sys.stderr.write(f"fault fired: dropped {losses.dropped} deliveries\n")
            losses.dropped = 0
        losses.on = orders.get("drop", False)
        clocks.jump(orders.get("ahead_s", 0.0))
        answers.rng = Random(orders["lose"]) if "lose" in orders else None
        sys.stderr.write(f"orders: {orders}\n")

    def tell() -> None:
        for task in asyncio.all_tasks():
            task.print_stack(limit=6)
        for host in hosts:
            for activation in host.mailboxes.roster.in_partitions(host.holdings._held):
                if not activation.is_idle:
                    _logger.info("not at rest: %s", _standing(activation))

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, obey)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, tell)
    folder.note_listening()


async def _main(folder: Folder, name: str) -> None:
    config = folder.config()
    clocks, losses, answers = Clocks(), Losses(), LostAnswers()
    planted.plant(config["planted"])
    clocks.install()
    losses.install()
    answers.install()
    hosts: list[Host] = []
    listen_for_orders(folder, clocks, losses, answers, hosts)
    if config["secrets"] is not None:
        judge.note((Path(config["secrets"]) / "JUDGE_URL").read_text())
    settings = HostSettings(
        domain=config["domain"],
        host=name,
        postgres_url=config["postgres_url"],
        nats_url=config["nats_url"],
        secrets=config["secrets"],
    )

    def started(host: Host) -> None:
        hosts.append(host)
        _logger.info("epoch %d is pid %d", host.fence.epoch, os.getpid())

    why = await run_incarnation(settings, system_kinds=SYSTEM_KINDS, equip=equip_host, on_start=started)
    _logger.info("ended: %s", why)


def main() -> None:
    folder, name = Folder(Path(sys.argv[1])), sys.argv[2]
    folder.note_process()
    executions.note_process(folder.executions)
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
