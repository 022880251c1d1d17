"""The workers of a host: how many turns run at once, which agents' handlers run, and since when."""

from __future__ import annotations

import asyncio
import contextlib
from contextvars import Context
from time import monotonic
from typing import TYPE_CHECKING

from actors.activation import Activation
from actors.slice import Slice
from actors.written import Written

if TYPE_CHECKING:
    from actors.host import Host

_OVERDUE_EVERY_S = 1.0


class Workers:
    """Each takes a ready agent, runs one turn, and hands it to the commit, again and again.

    A turn that waits or is being flushed keeps its worker and takes no place: another worker fills that.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._places = host.scope.limits.concurrent_turns
        self._slice = Slice()
        self._running: dict[Activation, float] = {}  # since when, by the monotonic clock
        self._flushing = 0  # turns of which nothing runs until a commit has ended
        self._closing = False
        self._is_quiet_awaited = False
        self._quiet = asyncio.Event()
        self.count = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        for _ in range(self._places):
            self._add()

    def close(self) -> None:
        """No turn is begun any more. What runs is cancelled by whoever cancels `tasks`."""
        self._closing = True

    @property
    def running(self) -> list[Activation]:
        """Those whose handlers run."""
        return [*self._running]

    @property
    def is_at_rest(self) -> bool:
        return not self._running

    def entered(self, activation: Activation) -> None:
        """The activation's handler runs, in the task that began it."""
        self._running[activation] = monotonic()

    def left(self, activation: Activation) -> None:
        self._running.pop(activation, None)
        if self._is_quiet_awaited and not self._running:
            self._is_quiet_awaited = False
            self._quiet.set()

    def flushing(self, written: Written) -> None:
        """A turn of which nothing runs waits for a commit: another one may run meanwhile, and what that records goes
        along with the next commit."""
        self._flushing += 1
        written.then(self._flushed)
        self.fill_places()

    def _flushed(self) -> None:
        self._flushing -= 1

    def fill_places(self) -> None:
        """A turn has left its place."""
        if self.count - len(self._host.waiting) - self._flushing < self._places:
            self._add()

    async def quiet(self, timeout_s: float) -> None:
        """Wait until no turn runs, at most so long."""
        if not self._running:
            return
        self._quiet.clear()
        self._is_quiet_awaited = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._quiet.wait()

    async def end_overdue(self) -> None:
        """Runs for ever: cancels handlers that run longer than the domain allows, so that none holds a worker for ever."""
        while True:
            await asyncio.sleep(_OVERDUE_EVERY_S)
            since = monotonic() - self._host.scope.limits.turn_s
            for activation, began in list(self._running.items()):
                if began < since and activation.task is not None:
                    activation.overdue = True
                    activation.task.cancel()

    def _add(self) -> None:
        self.count += 1
        # A context of its own: this may be called by a handler, in the context of one of its branches.
        task = asyncio.create_task(self._host.guarded(self._work()), context=Context())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _work(self) -> None:
        host = self._host
        committer, ready, mailboxes, scope = host.committer, host.ready, host.mailboxes, host.scope
        while not self._closing and self._is_wanted():
            if not committer.has_room:
                await committer.room()
            if self._slice.is_over:
                self._slice.ask()
                activation = await ready.take_later()
            else:
                activation = ready.take_now() or await ready.take()
            if (scope.paused and mailboxes.held.takes(activation)) or mailboxes.held.stands_back(activation):
                continue
            activation.running = True
            entry = await host.run_turn(activation, mailboxes.take_head(activation))
            if entry is not None:
                committer.submit(entry)
                if activation.queue:
                    mailboxes.schedule(activation)
        self.count -= 1

    def _is_wanted(self) -> bool:
        """Whether there is not one worker more than turns may run, those not counted that wait or are being flushed.

        Those go on without waiting for a place: for a moment more may run.
        """
        return (
            self.count <= self._places
            or self.count - len(self._host.waiting) - self._flushing <= self._places
        )
