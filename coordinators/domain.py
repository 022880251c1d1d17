"""The domain coordinator: gives a domain's partitions to its hosts. It knows nothing of Ray.

It is level-triggered: each round reads what is so, decides what should be, and writes the difference in one
transaction under its own epoch. A round that is lost, repeated or cut off anywhere changes nothing for good.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from bus import faultpoints, subjects
from bus.envelope import new_id
from bus.errors import CallboardError, Fenced, RowLocked, StorageUnavailable
from bus.transport import Transport
from coordinators.launcher import HostProcess, Launcher
from coordinators.plan import plan_partitions
from storage.placement import HostRow, Placement, placing, terminate_host_backends

_logger = logging.getLogger("callboard.coordinator")

ROUND_EVERY_S = 0.25
SILENT_AFTER_S = 0.9  # three missed beats of 250 ms, and the time that a beat takes
SETTLED_AFTER_S = 2.0  # after Postgres was away, everybody is silent: hosts get this long to beat again
GIVE_BACK_WITHIN_S = 1.5  # a host that keeps a partition longer than this after being asked has it taken
START_WITHIN_S = 60.0
START_PAUSES_S = (0.0, 1.0, 5.0, 15.0, 30.0)  # before another host is started, after so many failed to start
KILL_AFTER_S = 30.0  # a process whose epoch was ended and that does not exit is killed


@dataclass(slots=True)
class _Started:
    """A host process that this coordinator started or found."""

    process: HostProcess
    started: float
    watch: asyncio.Task[None] | None = None
    registered: bool = False
    dead: bool = False


@dataclass(slots=True)
class _Round:
    """What one round has decided, for what happens after its commit."""

    ended: list[int] = field(default_factory=list)
    changed: bool = False
    start: int = 0


class DomainCoordinator:
    """Leads one domain; `run` ends when another coordinator has claimed it."""

    def __init__(
        self, pool: asyncpg.Pool[Any], transport: Transport, launcher: Launcher, domain: str, epoch: int
    ) -> None:
        self._pool = pool
        self._transport = transport
        self._launcher = launcher
        self._domain = domain
        self._epoch = epoch
        self._started: dict[str, _Started] = {}
        self._asked: dict[tuple[int, int], float] = {}  # (epoch, partition) asked back, since when
        self._ended: dict[str, float] = {}
        self._failed_starts = 0
        self._start_from = 0.0
        self._settled_at = time.monotonic() + SETTLED_AFTER_S
        self._wake = asyncio.Event()
        self.every_round: list[Callable[[], Awaitable[None]]] = []

    def look_soon(self, data: bytes = b"") -> None:
        """Something may have changed; do not wait for the next round."""
        self._wake.set()

    async def run(self) -> None:
        """Lead until fenced. Failures of Postgres are waited out."""
        word = await self._transport.subscribe(subjects.placement(self._domain), self._heard, self.look_soon)
        try:
            while True:
                self._wake.clear()
                try:
                    await self._round()
                    for work in self.every_round:
                        await work()
                except Fenced as error:
                    _logger.info("%s", error.message)
                    return
                except RowLocked as error:  # Postgres is there: whoever holds the row must be found silent
                    _logger.warning("the round is put off: %s", error.message)
                except StorageUnavailable as error:
                    _logger.warning("the round is put off: %s", error.message)
                    self._settled_at = time.monotonic() + SETTLED_AFTER_S
                except CallboardError as error:
                    _logger.error("a round failed: %s", error)
                try:
                    async with asyncio.timeout(ROUND_EVERY_S):  # wait_for of 3.11 may swallow a cancellation
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            await word.close()
            for started in self._started.values():
                if started.watch is not None:
                    started.watch.cancel()

    def _heard(self, data: bytes) -> None:
        if data.startswith(b"released"):
            self.look_soon()

    # -- one round -------------------------------------------------------------------------------------

    async def _round(self) -> None:
        for epoch, why in await self._dead_hosts():
            await self._clear_the_way(epoch, why)
        async with placing(self._pool, self._domain, self._epoch) as placement:
            result = await self._decide(placement)
            faultpoints.reached("takeover.middle")
        for epoch in result.ended:
            self._transport.publish(subjects.placement(self._domain), f"ended {epoch}".encode())
        if result.changed:
            self._transport.publish(subjects.placement(self._domain), b"changed")
        for _ in range(result.start):
            if time.monotonic() >= self._start_from:
                await self._start_host()
        await self._kill_leftovers()

    async def _dead_hosts(self) -> list[tuple[int, str]]:
        """Live rows whose process is known to be gone, or which have been silent for too long."""
        async with placing(self._pool, self._domain, self._epoch) as placement:
            hosts = await placement.hosts()
        dead = []
        for host in hosts:
            started = self._started.get(host.host) or await self._attach(host)
            if started is not None and host.ready:
                started.registered = True
                self._failed_starts = 0
            if started is None or started.dead:
                dead.append((host.epoch, "its process has ended"))
            elif self._is_silent(host):
                dead.append((host.epoch, f"silent for {host.silent_s:.1f} s"))
        return dead

    def _is_silent(self, host: HostRow) -> bool:
        if host.silent_s <= SILENT_AFTER_S or time.monotonic() < self._settled_at:
            return False
        return host.ready or host.age_s > START_WITHIN_S

    async def _clear_the_way(self, epoch: int, why: str) -> None:
        """End a dead incarnation in a transaction of its own; its partitions are suspect from then on.

        An open commit of it holds the fence; after a short wait its backends are ended, and we try again.
        """
        for last_try in (False, True):
            try:
                async with placing(self._pool, self._domain, self._epoch) as placement:
                    domain = await placement.domain()
                    gone = next((h for h in await placement.hosts() if h.epoch == epoch), None)
                    if gone is None:
                        return
                    await placement.end(epoch, why)
                    await placement.set_suspects(domain.suspect | gone.owned | gone.suspect)
                    self._ended[gone.host] = time.monotonic()
                _logger.warning("epoch %d of %s is ended: %s", epoch, self._domain, why)
                self._transport.publish(subjects.placement(self._domain), f"ended {epoch}".encode())
                return
            except RowLocked:
                if last_try:
                    raise
                await terminate_host_backends(self._pool, self._domain, epoch)

    async def _decide(self, placement: Placement) -> _Round:
        domain = await placement.domain()
        hosts = await placement.hosts()
        result = _Round()
        staying = self._staying(hosts, domain.hosts, domain.code)
        current = sum(1 for host in staying if host.code == domain.code)
        result.start = max(0, domain.hosts - current - self._starting({host.host for host in hosts}))
        ready = self._serving(staying, domain.hosts, domain.code)
        plan = plan_partitions(
            domain.partitions, [h.epoch for h in ready], {h.epoch: h.wanted for h in ready}
        )
        stays = {host.epoch for host in staying}
        for host in hosts:
            wanted = plan.get(host.epoch, frozenset())
            if wanted != host.wanted or host.draining != (host.epoch not in stays):
                await placement.want(host.epoch, wanted, draining=host.epoch not in stays)
                result.changed = True
        owned = await self._take_back(placement, hosts, plan, result)
        suspect = domain.suspect
        for host in ready:
            gained = plan[host.epoch] - owned
            if gained and await placement.grant(host.epoch, gained, gained & suspect):
                suspect -= gained
                result.changed = True
        if suspect != domain.suspect:
            await placement.set_suspects(suspect)
        for host in hosts:
            if host.epoch not in stays and not host.owned:
                await placement.end(host.epoch, "drained")
                result.ended.append(host.epoch)
                self._ended[host.host] = time.monotonic()
        return result

    def _staying(self, hosts: list[HostRow], target: int, code: str) -> list[HostRow]:
        """The hosts that remain: those drained already do not come back, the newest are drained first.

        Hosts that run older code of the domain remain until enough with the newest are ready.
        """
        candidates = sorted((h for h in hosts if not h.draining), key=lambda h: (not h.ready, h.epoch))
        current = [host for host in candidates if host.code == code][:target]
        if sum(host.ready for host in current) >= target:
            return current
        return current + [host for host in candidates if host.code != code][:target]

    def _serving(self, staying: list[HostRow], target: int, code: str) -> list[HostRow]:
        """The hosts that own partitions: all with the newest code, or all with older, so that each partition
        moves once."""
        current = [host for host in staying if host.ready and host.code == code]
        older = [host for host in staying if host.ready and host.code != code]
        return older if older and len(current) < target else current

    def _starting(self, registered: set[str]) -> int:
        """How many processes are on their way to a row. One whose epoch has ended is not, though it may still
        be there (frozen); nor is one that has not come so far in a long time, which is killed."""
        now = time.monotonic()
        coming = 0
        for name, started in self._started.items():
            if started.dead or name in registered or name in self._ended:
                continue
            if now - started.started > START_WITHIN_S:
                self._ended[name] = now
            else:
                coming += 1
        return coming

    async def _take_back(
        self, placement: Placement, hosts: list[HostRow], plan: dict[int, frozenset[int]], result: _Round
    ) -> frozenset[int]:
        """Take what was asked back and not given in time; return all partitions that are still owned."""
        now = time.monotonic()
        owned: frozenset[int] = frozenset()
        asked: dict[tuple[int, int], float] = {}
        for host in hosts:
            keeps = host.owned
            for partition in host.owned - plan.get(host.epoch, frozenset()):
                asked[host.epoch, partition] = self._asked.get((host.epoch, partition), now)
            late = frozenset(
                p for (e, p), since in asked.items() if e == host.epoch and now - since > GIVE_BACK_WITHIN_S
            )
            if late:
                _logger.warning("epoch %d did not give back %s; they are taken", host.epoch, sorted(late))
                await placement.take_back(host.epoch, late)
                keeps -= late
                result.changed = True
            owned |= keeps
        self._asked = asked
        return owned

    # -- processes ---------------------------------------------------------------------------------------

    async def _start_host(self) -> None:
        name = f"{self._domain}-{new_id()[-8:]}"
        process = await self._launcher.start(self._domain, name)
        self._watch(name, process)

    async def _attach(self, host: HostRow) -> _Started | None:
        process = await self._launcher.attach(self._domain, host.host, host.pid)
        return self._watch(host.host, process) if process is not None else None

    def _watch(self, name: str, process: HostProcess) -> _Started:
        started = _Started(process, time.monotonic())

        async def wait() -> None:
            await process.ended()
            started.dead = True
            if not started.registered:
                pause = START_PAUSES_S[min(self._failed_starts, len(START_PAUSES_S) - 1)]
                self._failed_starts += 1
                self._start_from = time.monotonic() + pause
                _logger.error("host %s ended before it was ready; the next start waits %.0f s", name, pause)
            self.look_soon()

        started.watch = asyncio.get_running_loop().create_task(wait())
        self._started[name] = started
        return started

    async def _kill_leftovers(self) -> None:
        now = time.monotonic()
        for name, since in list(self._ended.items()):
            started = self._started.get(name)
            if started is None or started.dead:
                del self._ended[name]
                self._started.pop(name, None)
            elif now - since > KILL_AFTER_S:
                _logger.warning("host %s did not exit after its epoch was ended; it is killed", name)
                await started.process.kill()
                del self._ended[name]
        for name, started in list(self._started.items()):
            if started.dead and name not in self._ended and now - started.started > ROUND_EVERY_S:
                del self._started[name]  # it died before or after its row; a row that is left is ended above
