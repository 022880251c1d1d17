"""Turns that wait: they linger in memory for a short while, and are put away until they are woken."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from actors.activation import Activation
from actors.blobs import BlobsUnavailable
from actors.journal import TurnGone
from actors.next_tries import STORAGE_RETRY_S
from actors.wake import is_wake
from bus import faultpoints
from bus.envelope import Envelope
from bus.errors import CallboardError, InvalidPayload

if TYPE_CHECKING:
    from actors.host import Host

_logger = logging.getLogger("callboard.waiting")

_LOOK_EVERY_S = 0.1


class WaitingTurns:
    """The handlers in this host's memory of which every branch waits for a promise. They take no worker's place."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._since: dict[Activation, float] = {}  # the one that has waited for longest comes first
        self._urgent: deque[Activation] = deque()
        self._fetching: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._since)

    def holds(self, activation: Activation) -> bool:
        return activation in self._since

    @property
    def is_wanted(self) -> bool:
        """Whether one of them is to be put away at the next look: its agent has something else to do."""
        return bool(self._urgent)

    def __iter__(self) -> Iterator[Activation]:
        return iter(self._since)

    def waits(self, activation: Activation) -> None:
        self._since[activation] = self._host.scope.clock.now()
        self.mail(activation)

    def runs(self, activation: Activation) -> None:
        self._since.pop(activation, None)

    def mail(self, activation: Activation) -> None:
        """Messages that pass the queue have come for an agent whose turn is in memory."""
        journal = activation.journal
        if journal is None or journal.is_closed:
            return
        if self._host.scope.is_at_held_work(activation.at_work):
            self._host.mailboxes.held.hold_turn(activation)
            if activation in self._since and any(e.is_control and not is_wake(e) for e in activation.queue):
                self._urgent.append(activation)
            return
        for wake in [envelope for envelope in activation.queue if is_wake(envelope)]:
            if not wake.payload:  # there was no room for it
                self._host.mailboxes.refill(activation, control_only=True)
                continue
            if wake.header.blob is None:
                try:
                    journal.settle(wake.seq, wake.payload, None)
                except InvalidPayload:
                    continue  # the turn is put away, and woken by it: there its agent is paused
                self._host.mailboxes.take(activation, wake)
            else:
                self._host.mailboxes.take(activation, wake)
                task = asyncio.create_task(self._host.guarded(self._fetch(activation, wake)))
                self._fetching.add(task)
                task.add_done_callback(self._fetching.discard)
        if activation in self._since and activation.queue and activation.queue[0].is_control:
            self._urgent.append(activation)  # it is carried out on the committed state

    async def _fetch(self, activation: Activation, wake: Envelope) -> None:
        journal = activation.journal
        try:
            payload = await self._fetched(activation, wake)
            is_taken = journal is not None and not journal.is_closed
            if journal is not None and is_taken:
                journal.settle(wake.seq, payload, wake.header.blob)
        except InvalidPayload:
            await self.put_away(activation)  # to be woken by it: there its agent is paused
            is_taken = False
        except CallboardError as error:
            _logger.warning("an answer to %s cannot be read yet: %s", activation.agent, error)
            self._host.drop(activation)
            return
        if is_taken:
            return
        if activation.alive:  # that run of the turn is over, and another may need it
            self._host.mailboxes.put_back(activation, wake)
            if journal is None or journal.is_closed:  # else once all of the turn waits
                self._host.mailboxes.schedule(activation)

    async def _fetched(self, activation: Activation, wake: Envelope) -> str:
        """What the blob of an answer says, once storage gives it; nothing, where that run of the turn is over before. What the
        turn does meanwhile goes on: a call that is under way in it could not be put on record by another run."""
        journal = activation.journal
        while journal is not None and not journal.is_closed:
            try:
                return await self._host.turns.blobs.fetch(activation.tenant, wake.header.blob or "")
            except BlobsUnavailable as error:
                _logger.warning("an answer to %s cannot be read yet: %s", activation.agent, error)
            await asyncio.sleep(STORAGE_RETRY_S)
        return ""

    def dropped(self, activation: Activation) -> None:
        """The activation no longer holds: its handler must end without a trace. What runs of it does so at its next call, and
        what waits beside that when all of it does."""
        journal = activation.journal
        if journal is not None:
            journal.close()
            if activation in self._since:
                self._end(activation)
            else:
                journal.branches.on_waiting = partial(self._end, activation)

    def close(self) -> None:
        for activation in self._since:
            self._end(activation)
        for task in self._fetching:
            task.cancel()

    async def run(self) -> None:
        """Runs for ever: puts away what has waited long enough, or what is too much."""
        limits = self._host.scope.limits
        while True:
            await self._host.scope.clock.pause(_LOOK_EVERY_S)
            since = self._host.scope.clock.now() - limits.linger_s
            excess = len(self._since) - limits.waiting_in_memory
            due = [
                activation
                for place, (activation, began) in enumerate(self._since.items())
                if place < excess or began <= since
            ]
            due += self._urgent
            self._urgent.clear()
            await asyncio.gather(*(self.put_away(activation) for activation in dict.fromkeys(due)))

    async def put_away(self, activation: Activation) -> None:
        """Put its turn away now, if all of it waits; returns once that has committed."""
        journal = activation.journal
        if journal is None or journal.is_closed or activation not in self._since:
            return
        if journal.branches.is_stopped:
            # It stays in memory, perhaps for long; what a call has done whose branch was given up must not wait for that.
            if journal.is_open and journal.is_dirty:
                with contextlib.suppress(TurnGone):
                    await journal.flush([])
            return
        committed = await journal.park()
        if committed and activation in self._since and not journal.is_dirty:
            faultpoints.reached("park.before_cancel")
            journal.close()
            self._end(activation)

    def _end(self, activation: Activation) -> None:
        activation.parking = True
        if activation.task is not None:
            activation.task.cancel()
