"""The hosts of a kit: real ones as tasks of this event loop, killed and replaced, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from actors.host import Host
from actors.scope import WHOLE, Scope
from bus import subjects
from bus.errors import CallboardError
from bus.transport import LoopbackTransport
from callboard.testing.clock import VirtualClock
from storage.memory import MemoryStore
from storage.records import Fence

_CALM_LOOKS = 8  # a chain of tasks hands on within fewer turns of the event loop than this


class Running:
    """One host and the task that runs it; without a host, the partitions wait for `recover`."""

    def __init__(self, host: Host, partitions: frozenset[int]) -> None:
        self.host = host
        self.partitions = partitions
        self.task = asyncio.create_task(host.run())
        self.crashed = False

    async def kill(self) -> None:
        self.crashed = True
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Hosts:
    """Those of one domain, by number."""

    def __init__(
        self,
        scope: Scope,
        partitions: int,
        store: MemoryStore,
        transport: LoopbackTransport,
        clock: VirtualClock,
    ) -> None:
        self.running: list[Running] = []
        self.beside: Callable[[], Awaitable[bool]] = _nothing
        """What a coordinator does; true when there was something to do."""
        self._scope = scope
        self._partitions = partitions
        self._store = store
        self._transport = transport
        self._clock = clock

    def start_all(self, count: int) -> None:
        """So many hosts, among which all partitions are dealt out."""
        everything = range(self._partitions)
        self.running = [self.start(frozenset(everything[index::count])) for index in range(count)]

    def start(self, partitions: frozenset[int], suspect: frozenset[int] = frozenset()) -> Running:
        fence: Fence = self._store.register_host(self._scope.domain)
        self._store.grant(fence, partitions, suspect)
        return Running(Host(self._scope, fence, self._partitions, self._store, self._transport), partitions)

    async def kill_all(self) -> None:
        for running in self.running:
            await running.kill()

    async def recover(self, *, gone: bool) -> None:
        """Give the partitions of every crashed host to a new epoch, and wait for quiet."""
        for index, running in enumerate(self.running):
            if running.crashed:
                self._store.end_host(running.host.fence, "it crashed", gone=gone)
                self.running[index] = self.start(running.partitions, suspect=running.partitions)
        self._transport.publish(subjects.placement(self._scope.domain), b"ended")
        await self.quiet()

    # -- waiting -------------------------------------------------------------------------------------

    async def quiet(self, *, timeout_s: float = 30.0) -> None:
        """Wait until nothing is left to do at this moment; see TestKit.quiet."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        calm = 0
        while calm < _CALM_LOOKS:
            self._raise_if_ended()
            if loop.time() > deadline:
                raise CallboardError(f"Still at work after {timeout_s:g} s: {self._at_work()}.")
            busy = [running.host for running in self._live() if not running.host.is_at_rest]
            calm = 0 if busy else calm + 1
            if not busy and await self.beside():
                calm = 0
            if not busy and any(running.host.waiting.is_wanted for running in self._live()):
                self._clock.move_to(self._clock.now())  # ends the pause before their next look
                calm = 0
            if not busy and (due := self._next_timer()) is not None and due <= self._clock.now():
                self._clock.move_to(due)
                calm = 0
            for host in busy:
                await host.workers.quiet(0.05)  # returns at once unless a handler waits for something real
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        """Move the clock, stopping wherever a timer or a retry is due, and wait for quiet at each stop."""
        target = self._clock.now() + seconds
        await self._settled()
        while True:
            stops = [when for when in (self._clock.next_call, self._next_timer()) if when is not None]
            stop = min([*stops, target])
            self._clock.move_to(stop)
            await self._settled()
            if stop >= target and self._clock.now() >= target:
                return

    async def _settled(self) -> None:
        """Be quiet, and let hosts look at cancelled tasks again for as long as that changes something: what one look has
        ended is told by the next."""
        await self.quiet()
        before = None
        while (standing := self._cancelling()) not in (None, before):
            before = standing
            self._clock.move_to(self._clock.now())
            await self.quiet()

    def _cancelling(self) -> tuple[object, ...] | None:
        """How far the cancellations that are open have come; None where none is."""
        open_ = [row.number for row in self._store.cancellations.rows.values() if not row.ended]
        if not open_:
            return None
        stopped = [row.stopped for row in self._store.hosts.values()]
        versions = sum(map(len, self._store.agents.transitions.values()))
        return open_, stopped, versions

    def _live(self) -> list[Running]:
        return [running for running in self.running if not running.crashed]

    def _raise_if_ended(self) -> None:
        for running in self._live():
            if running.task.done():
                raise CallboardError(f"A host has ended by itself: {running.host.ended_why}.")

    def _at_work(self) -> str:
        names = [
            f"{self._scope.domain}/{activation.agent}"
            for running in self._live()
            for activation in running.host.mailboxes.roster.in_partitions(running.partitions)
            if activation.running
        ]
        return ", ".join(names) or "a host"

    def _next_timer(self) -> float | None:
        if WHOLE in self._scope.paused:  # nothing comes due
            return None
        owned = {partition for running in self._live() for partition in running.partitions}
        return self._store.next_timer(self._scope.domain, owned)


async def _nothing() -> bool:
    return False
