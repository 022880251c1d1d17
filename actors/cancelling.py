"""What a host does about cancelled tasks: it begins nothing more of them, ends what runs, and tells when it has."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from actors.activation import Activation
from bus import faultpoints
from bus.errors import Fenced, StorageUnavailable, TaskCancelled
from storage.records import Cancellation

if TYPE_CHECKING:
    from actors.host import Host

_logger = logging.getLogger("callboard.cancelling")

_LOOK_EVERY_S = 0.1  # while a cancellation is open
_IDLE_EVERY_S = 0.5  # each host reads Postgres so often, for nothing nearly always
_RETRY_S = 0.5
_KNOWN = 200_000  # cancellations, of about 300 bytes each


class Cancelling:
    """Looks again and again, so that nothing depends on a message of the bus or on what another host has done.

    Whatever is part of a task carries it in its header. So a host that knows of a cancellation drops each message of
    the task when its turn would come, wherever that came from; only turns that run, wait or are due later are looked
    for. A cancellation has ended when every host that lives says that nothing of it runs, and no turn of it is open.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._stopped: frozenset[int] = frozenset()

    async def begin(self) -> None:
        """Read what was cancelled before this host came."""
        while not self._host.has_ended:
            try:
                self._learn(await self._host.store.read_cancellations(ended=True))
                return
            except StorageUnavailable as error:
                _logger.warning("cancellations cannot be read yet: %s", error.message)
                await asyncio.sleep(_RETRY_S)

    async def run(self) -> None:
        """Runs for ever."""
        is_open = False
        while True:
            await self._host.scope.clock.pause(_LOOK_EVERY_S if is_open else _IDLE_EVERY_S)
            try:
                is_open = await self._look()
            except Fenced:
                if not await self._host.settling.fenced():
                    return
            except StorageUnavailable as error:
                _logger.warning("cancellations wait for storage: %s", error.message)
                await asyncio.sleep(_RETRY_S)

    def _learn(self, found: list[Cancellation]) -> list[Cancellation]:
        """Return those that have not ended."""
        known = self._host.scope.cancelled
        for cancellation in found:
            known[(cancellation.tenant, cancellation.task)] = cancellation.why
        while len(known) > _KNOWN:
            del known[
                next(iter(known))
            ]  # the oldest: what is left of it is handled, and its reports come too late
        return [cancellation for cancellation in found if cancellation.is_open]

    async def _look(self) -> bool:
        """Do what is to be done now; return whether a cancellation is open."""
        host = self._host
        open_ = self._learn(await host.store.read_cancellations(ended=False))
        running = self._end_running() if open_ else set()
        if open_ and host.scope.paused:
            host.pausing.let_go()  # what is held may have to end
        owned = host.holdings.open_partitions() if open_ else []
        if owned:
            for turn in await host.store.stop_cancelled(host.fence, owned):
                if host.holdings.owns(turn.partition):  # it may have left meanwhile, and its agents with it
                    host.mailboxes.reopen(turn.tenant, turn.agent, turn.partition)
        stopped = frozenset(c.number for c in open_ if (c.tenant, c.task) not in running)
        if stopped != self._stopped:
            faultpoints.reached("cancel.before_stopped")
            await host.store.has_stopped(host.fence, sorted(stopped))
            self._stopped = stopped
        if owned:
            host.holdings.read_agents(await host.store.end_cancellations(host.fence, owned))
        return bool(open_)

    def _end_running(self) -> set[tuple[str, str]]:
        """Have the handlers in memory that are part of a cancelled task end; return the tasks of those that run."""
        running: set[tuple[str, str]] = set()
        for activation in self._host.in_memory():
            envelope = activation.at_work
            if envelope is None or envelope.header.task is None:
                continue
            why = self._host.scope.why_cancelled(envelope)
            if why is not None:
                running.add((envelope.tenant, envelope.header.task))
                _end(activation, why)
        return running


def _end(activation: Activation, why: str) -> None:
    """A turn with a journal is told at its calls. Of one without, an `async` handler is cancelled at once; a thread
    cannot be, and is waited for."""
    journal, envelope = activation.journal, activation.at_work
    if activation.cancelled is not None:
        return
    activation.cancelled = why
    if journal is not None:
        journal.branches.end_early(lambda: TaskCancelled(why), children_first=True)
        return
    assert envelope is not None
    handler = activation.type.handlers.get(envelope.header.type)
    if activation.task is not None and handler is not None and handler.is_async and not envelope.open:
        activation.task.cancel()
