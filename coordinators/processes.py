"""A domain's host processes: started here or found, on their way to a row, ended, gone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from bus.envelope import new_id
from bus.errors import InvalidDomainFile
from coordinators.launcher import HostProcess, Launcher
from coordinators.starts import Starts
from storage.placement import HostRow

_logger = logging.getLogger("callboard.coordinator")

KILL_AFTER_S = 30.0  # a process whose epoch was ended and that does not exit is killed
_FOUND_AFTER_S = 0.25  # one that died as it was registered is in the rows of the next round


class Told(NamedTuple):
    """Why no host can be started with some code; None if one was."""

    code: str
    refusal: str | None


@dataclass(slots=True)
class Started:
    """A host process that this coordinator started, or found: one that is not `ours`."""

    process: HostProcess
    started: float
    code: str
    ours: bool
    watch: asyncio.Task[None] | None = None
    ready: bool = False
    dead: bool = False


class Processes:
    """By the names of their hosts. `has_ended` is called at the end of each."""

    def __init__(self, launcher: Launcher, domain: str, has_ended: Callable[[], None]) -> None:
        self._launcher = launcher
        self._domain = domain
        self._has_ended = has_ended
        self._started: dict[str, Started] = {}
        self._leaving: dict[str, float] = {}  # their epochs have ended, since when
        self._starts = Starts()
        self.told: Told | None = None  # by the last host that was started, until that is reported

    @property
    def any_leaves(self) -> bool:
        """Whether one whose epoch has ended may still be there."""
        return bool(self._leaving)

    async def of(self, host: HostRow) -> Started | None:
        """The living process of a host; None when it has ended."""
        started = self._started.get(host.host) or await self._attach(host)
        if started is None or started.dead:
            return None
        started.code = host.code
        if host.ready and not started.ready:
            started.ready = True
            if started.ours:
                self._starts.succeeded(host.code)
                self.told = Told(host.code, None)
        return started

    def has_reported(self, told: Told) -> None:
        """Whoever asks has heard of it."""
        if self.told is told:  # no other has come meanwhile
            self.told = None

    def is_ours(self, name: str) -> bool:
        """Whether it was started from here."""
        started = self._started.get(name)
        return started is not None and started.ours

    def within_s(self, code: str) -> float:
        """How long a host of this code may take until it is ready."""
        return self._starts.within_s(code)

    async def start(self, code: str, count: int) -> None:
        """Start so many hosts, unless some of this code have failed lately."""
        for _ in range(count):
            if self._starts.may_start(code):
                name = f"{self._domain}-{new_id()[-8:]}"
                try:
                    process = await self._launcher.start(self._domain, name)
                except InvalidDomainFile as error:  # the hosts that run go on, and are led on
                    self.told = Told(code, str(error))
                    pause = self._starts.failed(code, started_at=time.monotonic())
                    _logger.error("no host can be started; the next try waits %.0f s: %s", pause, error)
                    return
                self.watch(name, process, code, ours=True)

    def coming(self, registered: Collection[str]) -> dict[str, Started]:
        """Those on their way to a row. One whose epoch has ended is not, though it may still be there (frozen)."""
        return {
            name: started
            for name, started in self._started.items()
            if not started.dead and name not in registered and name not in self._leaving
        }

    def give_up_late(self, coming: dict[str, Started]) -> dict[str, Started]:
        """Leave out those that have not come so far in a long time: they are killed."""
        now = time.monotonic()
        late = {n for n, s in coming.items() if now - s.started > self._starts.within_s(s.code)}
        for name in late:
            self._leaving[name] = now
            self._has_not_started(name, coming[name])
        return {name: started for name, started in coming.items() if name not in late}

    async def take_back(self, coming: Iterable[str]) -> None:
        """End some that have not come; nothing has failed."""
        for name in coming:
            self._leaving[name] = time.monotonic()
            await self._started[name].process.kill()

    def leaves(self, name: str, *, failed: bool = False) -> None:
        """Its epoch has ended. `failed`: it was not asked to leave, and if it was never ready, that is a failed start."""
        self._leaving[name] = time.monotonic()
        started = self._started.get(name)
        if failed and started is not None and not started.ready and not started.dead:
            self._has_not_started(name, started)

    async def kill_leftovers(self) -> None:
        """Forget those that are gone, and kill those that should be."""
        now = time.monotonic()
        for name, since in list(self._leaving.items()):
            started = self._started.get(name)
            if started is None or started.dead:
                del self._leaving[name]
                self._started.pop(name, None)
            elif now - since > KILL_AFTER_S:
                _logger.warning("host %s did not exit after its epoch was ended; it is killed", name)
                await started.process.kill()
                self._leaving[name] = now  # once more if that does not help
        for name, started in list(self._started.items()):
            if started.dead and name not in self._leaving and now - started.started > _FOUND_AFTER_S:
                del self._started[name]  # before or after its row; one that is left is ended elsewhere

    def watch(self, name: str, process: HostProcess, code: str, *, ours: bool) -> Started:
        """Look after a process until its end."""
        started = Started(process, time.monotonic(), code, ours)

        async def wait() -> None:
            refusal = await process.ended()
            started.dead = True
            if refusal is not None:
                self.told = Told(started.code, refusal)
            if not started.ready and name not in self._leaving:
                self._has_not_started(name, started)
            self._has_ended()

        started.watch = asyncio.get_running_loop().create_task(wait())
        self._started[name] = started
        return started

    def close(self) -> None:
        """Look after none of them any more; they go on."""
        for started in self._started.values():
            if started.watch is not None:
                started.watch.cancel()

    async def _attach(self, host: HostRow) -> Started | None:
        process = await self._launcher.attach(self._domain, host.host, host.pid)
        return self.watch(host.host, process, host.code, ours=False) if process is not None else None

    def _has_not_started(self, name: str, started: Started) -> None:
        pause = self._starts.failed(started.code, started_at=started.started)
        _logger.error("host %s was never ready; the next start waits %.0f s", name, pause)
