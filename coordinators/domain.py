"""The domain coordinator: gives a domain's partitions to its hosts. It knows nothing of Ray.

It is level-triggered: each round reads what is so, decides what should be, and writes the difference under its own
epoch, one small transaction for each host. A round that is lost, repeated or cut off anywhere changes nothing for
good.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg

from bus import faultpoints, subjects
from bus.errors import (
    CallboardError,
    Fenced,
    InvalidDomainFile,
    RowLocked,
    SchemaMismatch,
    StorageUnavailable,
)
from bus.transport import Transport
from coordinators.launcher import Launcher
from coordinators.lease import Lease
from coordinators.plan import plan_partitions
from coordinators.processes import Processes
from coordinators.room import Queue, Room, nobody_waits
from coordinators.silence import Silence
from storage.lack import Lack, report_lack
from storage.placement import (
    DomainPlacement,
    HostRow,
    Placement,
    leading,
    placing,
    report_refusal,
    terminate_host_backends,
)
from storage.release import release

_logger = logging.getLogger("callboard.coordinator")

ROUND_EVERY_S = 0.25
GIVE_BACK_WITHIN_S = 1.5  # a host that keeps a partition longer than this after being asked has it taken

Plan = dict[int, frozenset[int]]
"""The partitions that each epoch should own."""


class DomainCoordinator:
    """Leads one domain; `run` ends when another coordinator has claimed it."""

    def __init__(
        self, pool: asyncpg.Pool[Any], transport: Transport, launcher: Launcher, domain: str, epoch: int,
        queue: Queue = nobody_waits,
    ) -> None:  # fmt: skip
        self._pool = pool
        self._transport = transport
        self._domain = domain
        self._epoch = epoch
        self._asked: dict[tuple[int, int], float] = {}  # (epoch, partition) asked back, since when
        self._busy: set[int] = set()  # epochs whose row stays locked by a commit, in this round
        self._changed = False  # whether this round has changed something that hosts should look at
        self._processes = Processes(launcher, domain, self._process_has_ended)
        self._room = Room(queue)
        self._lease = Lease(pool, domain, epoch)
        self._reported: Lack | None = None
        self._silence = Silence()
        self._wake = asyncio.Event()
        self.every_round: list[Callable[[], Awaitable[None]]] = []
        self.at_end: list[Callable[[], None]] = [self._room.close, self._processes.close]

    def look_soon(self, data: bytes = b"") -> None:
        """Something may have changed; do not wait for the next round."""
        self._wake.set()

    async def run(self) -> None:
        """Lead until fenced. Failures of Postgres are waited out."""
        mismatch = ""
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
                    self._silence.unsettle()
                except (
                    SchemaMismatch,
                    InvalidDomainFile,
                ) as error:  # until somebody mends it, the same in every round
                    if error.message != mismatch:
                        _logger.error("no round succeeds: %s", error)
                    mismatch = error.message
                except CallboardError as error:
                    _logger.error("a round failed: %s", error)
                else:
                    mismatch = ""
                try:
                    async with asyncio.timeout(ROUND_EVERY_S):  # wait_for of 3.11 may swallow a cancellation
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            await word.close()
            for close in self.at_end:
                close()

    def _heard(self, data: bytes) -> None:
        if data.startswith((b"ready", b"released")):
            self.look_soon()

    def _process_has_ended(self) -> None:
        self._room.forget()
        self.look_soon()

    # -- one round -------------------------------------------------------------------------------------

    async def _round(self) -> None:
        self._busy.clear()
        self._changed = False
        domain, hosts = await self._read()
        dead = await self._dead_hosts(hosts)
        if dead:
            for host, why in dead:
                await self._clear_the_way(host.epoch, why)
            domain, hosts = await self._read()
        await self._place(domain, hosts)
        if self._changed:
            self._transport.publish(subjects.placement(self._domain), b"changed")
        await self._processes.kill_leftovers()
        await self._report_refusal()

    async def _read(self) -> tuple[DomainPlacement, list[HostRow]]:
        asked_at = time.monotonic()
        async with self._placing() as placement:
            domain, hosts = await placement.domain(), await placement.hosts()
        self._silence.look(hosts, asked_at=asked_at)
        return domain, hosts

    async def _dead_hosts(self, hosts: Sequence[HostRow]) -> list[tuple[HostRow, str]]:
        """Those whose process is known to be gone, which have been silent for too long, or which never get ready."""
        dead = []
        for host in hosts:
            if await self._processes.of(host) is None:
                dead.append((host, "its process has ended"))
                continue
            silent_s, within_s = self._silence.of(host), self._processes.within_s(host.code)
            if silent_s is not None and (host.ready or host.age_s > within_s):
                dead.append((host, f"silent for {silent_s:.1f} s"))
            elif not host.ready and host.age_s > within_s:
                dead.append((host, f"it beats, but was not ready within {within_s:g} s"))
        return dead

    async def _clear_the_way(self, epoch: int, why: str) -> None:
        """End a dead incarnation in a transaction of its own; its partitions are suspect from then on.

        An open commit of it holds the fence; after a short wait its backends are ended, and we try again.
        """
        for last_try in (False, True):
            try:
                async with self._placing() as placement:
                    domain = await placement.domain()
                    gone = next((h for h in await placement.hosts() if h.epoch == epoch), None)
                    if gone is None:
                        return
                    await placement.end(epoch, why)
                    await placement.set_suspects(domain.suspect | gone.owned | gone.suspect)
            except RowLocked as error:
                if last_try:
                    _logger.warning("epoch %d is to be ended, but: %s", epoch, error.message)
                else:
                    await terminate_host_backends(self._pool, self._domain, epoch)
            else:
                _logger.warning("epoch %d of %s is ended: %s", epoch, self._domain, why)
                self._has_ended(gone, failed=True)
                return

    async def _place(self, domain: DomainPlacement, hosts: Sequence[HostRow]) -> None:
        coming = await self._coming(domain, hosts)
        staying = self._staying(hosts, domain.hosts, domain.code, coming)
        ready = self._serving(staying, domain.hosts, domain.code)
        wanted = {host.epoch: host.wanted for host in ready}
        plan = plan_partitions(domain.partitions, list(wanted), wanted)
        stays = {host.epoch for host in staying}
        for host in hosts:
            await self._want(host, plan.get(host.epoch, frozenset()), draining=host.epoch not in stays)
        owned = await self._take_back(hosts, plan)
        for host in ready:
            if plan[host.epoch] - owned:
                await self._grant(host, plan[host.epoch] - owned)
        for host in hosts:
            if host.epoch not in stays and not host.owned:
                await self._end_drained(host)
        if not self._lease.waits:
            await self._processes.start(domain.code, self._missing(domain, staying) - coming)

    async def _want(self, host: HostRow, partitions: frozenset[int], *, draining: bool) -> None:
        if partitions != host.wanted or draining != host.draining:
            await self._write(
                host, lambda placement: placement.want(host.epoch, partitions, draining=draining)
            )

    async def _grant(self, host: HostRow, partitions: frozenset[int]) -> None:
        async def grant(placement: Placement) -> None:
            suspect = (await placement.domain()).suspect
            if await placement.grant(host.epoch, partitions, partitions & suspect) and partitions & suspect:
                await placement.set_suspects(suspect - partitions)

        await self._write(host, grant)

    async def _end_drained(self, host: HostRow) -> None:
        if await self._write(host, lambda placement: placement.end(host.epoch, "drained")):
            self._has_ended(host)

    async def _write(self, host: HostRow, work: Callable[[Placement], Awaitable[None]]) -> bool:
        """Change one host's row in a transaction of its own; False when a long commit of it is in the way.

        Then it waits for a later round, and nobody else waits for it.
        """
        if host.epoch in self._busy:
            return False
        try:
            async with self._placing() as placement:
                await work(placement)
                faultpoints.reached("takeover.middle")
        except RowLocked as error:
            _logger.warning("the placement of epoch %d is put off: %s", host.epoch, error.message)
            self._busy.add(host.epoch)
            return False
        self._changed = True
        return True

    def _has_ended(self, host: HostRow, *, failed: bool = False) -> None:
        self._processes.leaves(host.host, failed=failed)
        self._transport.publish(subjects.placement(self._domain), f"ended {host.epoch}".encode())

    def _placing(self) -> AbstractAsyncContextManager[Placement]:
        return placing(self._pool, self._domain, self._epoch)

    def _staying(self, hosts: Sequence[HostRow], target: int, code: str, coming: int) -> list[HostRow]:
        """The hosts that remain: those drained already do not come back, the newest are drained first.

        Hosts that run older code of the domain, or another release, remain until enough with the newest are ready: as
        many as there are to be, or as there are still of the older ones.
        """
        candidates = sorted((h for h in hosts if not h.draining), key=lambda h: (not h.ready, h.epoch))
        current = [host for host in candidates if self._is_current(host, code)][:target]
        older = [host for host in candidates if not self._is_current(host, code)][:target]
        is_one_leaving = len(candidates) < len(hosts) or self._processes.any_leaves
        if self._lease.is_mine and not is_one_leaving:  # it has not made room before it is gone
            leaves = self._room.made_by(current, older, coming)
            if leaves is not None:
                _logger.info("epoch %d makes room for a host with newer code", leaves.epoch)
                older.remove(leaves)
        enough = min(target, max(1, sum(host.ready for host in older)))
        if sum(host.ready for host in current) >= enough:
            return current
        if (
            self._lease.waits
        ):  # what is beyond its number is room for others; with the newest code it owns nothing yet
            current = current[: target - len(older)]
        return current + older

    def _is_current(self, host: HostRow, code: str) -> bool:
        """Whether it runs the domain's newest code, and this release of Callboard. One that was started from here runs
        what is installed on its node: another would be no different."""
        return host.code == code and (self._processes.is_ours(host.host) or host.release == release())

    def _serving(self, staying: Sequence[HostRow], target: int, code: str) -> list[HostRow]:
        """The hosts that own partitions: all with the newest code, or all with older, so that each partition
        moves once."""
        current = [host for host in staying if host.ready and self._is_current(host, code)]
        older = [host for host in staying if host.ready and not self._is_current(host, code)]
        return older if older and len(current) < target else current

    async def _take_back(self, hosts: Sequence[HostRow], plan: Plan) -> frozenset[int]:
        """Take what was asked back and not given in time; return all partitions that are still owned. What a host keeps
        while it makes calls there is taken once it is silent, and no sooner: each ends with its tool's timeout."""
        now = time.monotonic()
        owned: frozenset[int] = frozenset()
        asked: dict[tuple[int, int], float] = {}
        for host in hosts:
            keeps = host.owned
            for partition in host.owned - plan.get(host.epoch, frozenset()):
                since = now if partition in host.kept else self._asked.get((host.epoch, partition), now)
                asked[host.epoch, partition] = since
            late = frozenset(
                p for (e, p), since in asked.items() if e == host.epoch and now - since > GIVE_BACK_WITHIN_S
            )
            if late and await self._take(host, late):
                _logger.warning("epoch %d did not give back %s; they were taken", host.epoch, sorted(late))
                keeps -= late
            owned |= keeps
        self._asked = asked
        return owned

    async def _take(self, host: HostRow, partitions: frozenset[int]) -> bool:
        async def take(placement: Placement) -> None:
            await placement.domain()  # locked before the host's row, as everywhere
            await placement.take_back(host.epoch, partitions)

        return await self._write(host, take)

    # -- processes ---------------------------------------------------------------------------------------

    def _missing(self, domain: DomainPlacement, staying: Sequence[HostRow]) -> int:
        """How many hosts with the newest code are to be started yet."""
        return domain.hosts - sum(self._is_current(host, domain.code) for host in staying)

    async def _coming(self, domain: DomainPlacement, hosts: Sequence[HostRow]) -> int:
        """How many processes are on their way to a row. One that has not come so far in a long time is not; that time
        begins when there is room for it. Those that wait in vain for room are taken back when another domain has the lease,
        or when they were asked for by an older `domain.yaml`."""
        coming = self._processes.coming({host.host for host in hosts})
        self._room.look(len(coming))
        lacking = self._room.is_lacking(len(coming))
        older = self._processes.any_leaves or not all(self._is_current(host, domain.code) for host in hosts)
        full = lacking and not self._room.is_too_small
        serves = any(host.ready for host in hosts)
        await self._lease.settle(full=full, coming=bool(coming), replaces=older, serves=serves)
        outdated = any(started.code != domain.code for started in coming.values())
        if self._lease.waits or (lacking and outdated):
            await self._processes.take_back(coming)
            coming = {}
        elif lacking:
            for started in coming.values():
                started.started = time.monotonic()
        else:
            coming = self._processes.give_up_late(coming)
        await self._report(self._missing(domain, hosts) if lacking or self._lease.waits else 0)
        return len(coming)

    async def _report_refusal(self) -> None:
        """Tell why the last host could not be started, or that it could. After each, though the same was told before: the
        row forgets it when the domain is registered again, or another master comes."""
        told = self._processes.told
        if told is not None:
            async with leading(self._pool, self._domain, self._epoch) as db:
                await report_refusal(db, self._domain, told.code, told.refusal)
            self._processes.has_reported(told)

    async def _report(self, missing: int) -> None:
        """Tell how many hosts lack room, where it is news."""
        lack = self._room.lack(missing, self._lease.waits_for) if missing > 0 else None
        if lack != self._reported:
            await report_lack(self._pool, self._domain, self._epoch, lack)
            self._reported = lack
