"""After a host has died: what it may have died of is tried with each attempt committed first.

The first attempts are made together: most hosts die of something else, and a head may take minutes (it calls a
model). What was under way in an attempt when its host died again is tried alone from then on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from actors.activation import Activation
from actors.committer import Committer, Entry
from actors.mailboxes import Mailboxes
from actors.ready import ReadyQueue
from bus import faultpoints
from bus.envelope import Envelope
from storage.records import Mark

_logger = logging.getLogger("callboard.trials")

SOLO_S = 0.25  # a message that has run this long without killing its process no longer runs alone

RunTurn = Callable[[Activation, Envelope], Awaitable[Entry | None]]


class Trials:
    """Runs the heads of suspect mailboxes that were tried before one after another. Every other turn of the host
    waits meanwhile, but for one that takes long not longer than SOLO_S.

    The attempt on the next head is committed together with the turn before it, so one head costs one commit.
    """

    def __init__(
        self, mailboxes: Mailboxes, ready: ReadyQueue, committer: Committer, run_turn: RunTurn
    ) -> None:
        self._mailboxes = mailboxes
        self._ready = ready
        self._committer = committer
        self._run_turn = run_turn
        self._under_way = 0

    @property
    def is_at_rest(self) -> bool:
        return self._under_way == 0

    async def run(
        self, suspects: list[Activation], open_: Callable[[], None], quiet: Callable[[], Awaitable[None]]
    ) -> None:
        """Returns when the head of each may run like any other, has succeeded, failed in the ordinary way, or
        is given up.

        `open_` opens the partitions of the suspects: their neighbours need not wait for the end. `quiet` returns
        when no other turn runs, or when the wait for that has been long enough.
        """
        suspects = [activation for activation in suspects if self._can_run(activation)]
        tried_before = [activation for activation in suspects if activation.queue[0].trials]
        await self._attempt_together([a for a in suspects if not a.queue[0].trials])
        for activation in tried_before:
            activation.running = True  # set apart: no worker takes it
        open_()
        if tried_before:
            self._under_way += 1
            try:
                await self._try_alone(tried_before, quiet)
            finally:
                self._under_way -= 1

    async def _attempt_together(self, suspects: list[Activation]) -> None:
        """Commit the first attempt on each; they run when their partition opens."""
        waiting = []
        for activation in suspects:
            tried, entry = self._tried(activation, activation.queue[0])
            activation.queue[0] = tried
            self._committer.submit(entry)
            waiting.append(entry.done)
        await asyncio.gather(*(done for done in waiting if done is not None))
        if suspects:
            faultpoints.reached("trial.before")

    async def _try_alone(self, suspects: list[Activation], quiet: Callable[[], Awaitable[None]]) -> None:
        _logger.warning("trying %d messages alone, because their host died again", len(suspects))
        self._ready.close_gate()
        waiting = deque(suspects)
        try:
            await quiet()
            head = await self._attempt(waiting)
            while head is not None:
                activation, envelope = head
                faultpoints.reached("trial.before")
                turn = asyncio.ensure_future(self._run_turn(activation, envelope))
                done, _ = await asyncio.wait((turn,), timeout=SOLO_S)
                if not done:
                    self._ready.open_gate()  # it waits for something; let the others go on beside it
                entry = await turn
                if entry is not None:
                    entry.done = asyncio.get_running_loop().create_future()
                    self._committer.submit(entry)
                if not done:
                    self._ready.close_gate()
                head = await self._attempt(waiting)
                if entry is not None and entry.done is not None:
                    await entry.done
                self._mailboxes.schedule(activation)
        finally:
            for activation in waiting:
                activation.running = False
            self._ready.open_gate()

    async def _attempt(self, waiting: deque[Activation]) -> tuple[Activation, Envelope] | None:
        """Commit the attempt on the next head that may run, and take it."""
        while waiting:
            activation = waiting.popleft()
            activation.running = False
            if not self._can_run(activation):
                self._mailboxes.schedule(activation)
                continue
            activation.running = True
            tried, entry = self._tried(activation, self._mailboxes.take_head(activation))
            assert entry.done is not None
            self._committer.submit(entry)
            committed = await entry.done
            if committed and activation.alive:
                return activation, tried
            activation.running = False  # dropped meanwhile: it comes back from committed state, and untried
        return None

    def _tried(self, activation: Activation, envelope: Envelope) -> tuple[Envelope, Entry]:
        """The message with one attempt more, and the entry that commits the attempt."""
        mark = Mark(
            tenant=activation.tenant, partition=activation.partition, agent=activation.agent,
            seq=envelope.seq, tried=1,
        )  # fmt: skip
        tried = msgspec.structs.replace(envelope, trials=envelope.trials + 1)
        return tried, Entry(activation, tried, mark, asyncio.get_running_loop().create_future())

    def _can_run(self, activation: Activation) -> bool:
        return bool(activation.alive and activation.queue and activation.loaded and not activation.running)
