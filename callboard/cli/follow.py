"""Following one task to its end, in snapshots."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from bus import subjects
from callboard.cli.idle import IdleLook

if TYPE_CHECKING:
    import asyncpg

    from bus.transport import Transport
    from storage.decisions import Waiting
    from storage.inspect import HostView, PausedWork, TaskEventView, TaskView
    from storage.lack import Lack

_LOOK_EVERY_S = 0.5  # without the bus a new line of the log is seen this late
_SOONEST_S = 0.1  # a burst of events is looked at together
_RATE_OVER_S = 2.0
_PAGE = 500
_KEPT = 1_000  # lines of the log that stay in memory
GIVEN_UP_S = (
    10.0  # a restart of the database, with its recovery, is followed through while an instance is there
)
PROMISED_S = 5.0
STUCK_S = 15.0  # whoever follows a stuck task may be about to mend it


@dataclass
class Snapshot:
    """A task and its domain at one moment. `log` grows; `fresh` are its lines since the last snapshot."""

    task: TaskView
    hosts: list[HostView]
    fresh: list[TaskEventView]
    log: list[TaskEventView]
    turns_per_s: float
    elapsed_s: float
    quiet_s: float = 0.0  # since the log grew last
    paused: list[PausedWork] = field(default_factory=list)  # that it waits for
    asked: list[Waiting] = field(default_factory=list)  # what people are to decide
    promises: list[Waiting] = field(default_factory=list)  # of its turns, open for whoever knows the id
    events_waiting: int | None = None  # in the stream, published and not read; None is not known
    lack: Lack | None = None  # what hosts of the domain wait for
    stands_still: bool = False  # nothing of it is under way

    @property
    def has_ended(self) -> bool:
        return self.task.finished_at is not None

    @property
    def waits_for(self) -> list[Waiting]:
        """Whose word it waits for. Agents give most promises theirs at once: one is named when nothing goes on."""
        return self.asked + (self.promises if self.quiet_s >= PROMISED_S else [])

    @property
    def idle(self) -> bool:
        """It runs, and nothing of it is under way: nobody has ended it."""
        return self.task.status == "running" and self.stands_still

    @property
    def is_stuck(self) -> bool:
        """The task waits for a person, and nothing of it goes on without one."""
        return self.task.status == "stuck" and self.stands_still and self.quiet_s >= STUCK_S


@dataclass
class Rate:
    """Turns a second, out of the hosts' own counts, over the last two seconds."""

    total: int = 0
    _counts: dict[int, int] = field(default_factory=dict)
    _marks: list[tuple[float, int]] = field(default_factory=list)

    def update(self, hosts: list[HostView], now: float) -> float:
        for host in hosts:
            # A host seen for the first time may have counted long before; only what it adds is ours.
            self.total += max(0, host.turns - self._counts.get(host.epoch, host.turns))
            self._counts[host.epoch] = host.turns
        self._marks.append((now, self.total))
        while len(self._marks) > 2 and now - self._marks[1][0] >= _RATE_OVER_S:
            self._marks.pop(0)
        since, before = self._marks[0]
        return (self.total - before) / (now - since) if now > since else 0.0


class Waits(Protocol):
    async def __call__(self, domain: str, *, now: bool) -> int | None: ...


async def snapshots(
    db: asyncpg.Pool[Any],
    transport: Transport,
    domain: str,
    task_id: str,
    tenant: str,
    *,
    gone: Callable[[], str | None],
    waiting: Waits,
) -> AsyncIterator[Snapshot]:
    """A snapshot whenever the task's log grows, and every half second; the last one is the ended task.

    `waiting` counts the events of a domain that nobody has read; for the last snapshot, which stays, as they are then.
    Raises ServiceUnavailable when the database has been away for ten seconds, and `gone` says why it stays away.
    """
    from bus.errors import ServiceUnavailable, StorageUnavailable
    from storage.decisions import ASKED, OPEN, waiting_of_task
    from storage.inspect import find_task, list_hosts, list_task_events, paused_of
    from storage.lack import find_lack

    news = asyncio.Event()
    word = await transport.subscribe(subjects.task_events(domain, task_id), lambda data: news.set(), news.set)
    began, last, rate = time.monotonic(), 0, Rate()
    look_idle = IdleLook(db)
    grew = answered = began
    log: list[TaskEventView] = []
    snapshot: Snapshot | None = None
    try:
        while True:
            news.clear()
            try:
                # The task before its log: a task seen as ended has its whole log behind it.
                task = await find_task(db, task_id, tenant=tenant)
                fresh = await list_task_events(db, domain, task_id, tenant=tenant, after=last, limit=_PAGE)
                hosts = [host for host in await list_hosts(db) if host.domain == domain]
                events_waiting = await waiting(domain, now=task.finished_at is not None)
                lack = await find_lack(db, domain)
                quiet_s = 0.0 if fresh else time.monotonic() - grew
                stands_still = await look_idle(task, quiet_s=quiet_s, events_waiting=events_waiting)
                paused = [] if task.finished_at else await paused_of(db, task.workers, tenant=tenant)
                asked = (
                    [] if task.finished_at else await waiting_of_task(db, task.ref, tenant=tenant, kinds=OPEN)
                )
            except StorageUnavailable:  # the database restarts: the task goes on after it, and so do we
                if time.monotonic() - answered >= GIVEN_UP_S and (why := gone()) is not None:
                    raise ServiceUnavailable(
                        f"{why} while the task was followed.",
                        fix=f"The task goes on whenever Callboard runs: `callboard task {task_id} --follow`.",
                    ) from None
                await asyncio.sleep(_LOOK_EVERY_S)
                continue
            log = (log + fresh)[-_KEPT:]
            last = log[-1].number if log else 0
            now = answered = time.monotonic()
            grew = now if fresh else grew
            snapshot = Snapshot(
                task=task,
                hosts=hosts,
                fresh=fresh,
                log=log,
                turns_per_s=rate.update(hosts, now),
                elapsed_s=now - began,
                quiet_s=now - grew,
                paused=paused,
                asked=[each for each in asked if each.kind in ASKED],
                promises=[each for each in asked if each.kind not in ASKED],
                events_waiting=events_waiting,
                lack=lack,
                stands_still=stands_still,
            )
            yield snapshot
            if len(fresh) == _PAGE:
                continue
            if snapshot.has_ended:
                return
            await asyncio.sleep(_SOONEST_S)
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await news.wait()
            except TimeoutError:
                continue
    finally:
        await word.close()
