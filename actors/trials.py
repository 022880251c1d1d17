"""After a host has died: what it may have died of is tried one message at a time, each attempt committed first.

Nearly every host dies of something else, and the head of a mailbox may take minutes (it calls a model). So a
head is alone for a moment only, then what takes longer goes on beside the next one, its attempt on record. What
was under way in an attempt when its host died again is tried before all others, and nothing else is begun until
it has ended or had SOLO_S.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import NamedTuple

import msgspec

from actors.activation import Activation
from actors.committer import Committer, Entry
from actors.mailboxes import Mailboxes
from actors.ready import ReadyQueue
from actors.written import Written
from bus import faultpoints
from bus.envelope import Envelope
from storage.records import Attempt, Mark

_logger = logging.getLogger("callboard.trials")

SOLO_S = 0.25  # a message that has run this long without killing its process no longer runs alone
STANDSTILL_S = 1.0  # about how long all first attempts together may hold up the host's other turns
CHUNK = 64  # first attempts committed together; so many may be tried alone later for one that kills

RunTurn = Callable[[Activation, Envelope], Awaitable[Entry | None]]
Quiet = Callable[[], Awaitable[None]]


class _Trial(NamedTuple):
    """From when its attempt is on record until its turn has ended and that has committed."""

    attempt: Attempt
    at_rest: asyncio.Event
    """Nothing of the turn runs."""


class Trials:
    """Runs the heads of suspect mailboxes one after another, while every other turn of the host waits."""

    def __init__(
        self,
        mailboxes: Mailboxes,
        ready: ReadyQueue,
        committer: Committer,
        run_turn: RunTurn,
        put_away: Callable[[Activation], Awaitable[None]],
        *,
        most_beside: int,
    ) -> None:
        self._mailboxes = mailboxes
        self._ready = ready
        self._committer = committer
        self._run_turn = run_turn
        self._put_away = put_away
        self._most_beside = most_beside
        self._one = asyncio.Lock()  # two takeovers at once try their messages in turns
        self._under_way = 0
        self._untried = 0  # heads that are still to be begun
        self._unread: set[Activation] = set()  # set apart until their mailboxes can be read
        self._tried: dict[Activation, _Trial] = {}

    def is_at_rest(self, waits: Callable[[Activation], bool]) -> bool:
        """Whether nothing is under way but turns that wait."""
        return not self._under_way or (not self._untried and all(map(waits, self._tried)))

    async def run(self, suspects: list[Activation], open_: Callable[[], None], quiet: Quiet) -> None:
        """Returns when the head of each has succeeded, failed in the ordinary way, or is given up.

        `open_` opens the partitions of the suspects: their neighbours need not wait for the end. `quiet` returns
        when no other turn runs, or when the wait for that has been long enough.
        """
        suspects = [activation for activation in suspects if self._can_run(activation)]
        for activation in suspects:
            activation.running = True  # set apart: no worker takes it
        untried = dict.fromkeys(suspects)
        self._untried += len(untried)
        self._under_way += 1
        open_()
        try:
            async with asyncio.TaskGroup() as turns:
                for activation in [a for a in suspects if (head := a.head()) is not None and head.trials]:
                    del untried[activation]
                    await self._try_again(activation, turns, quiet)
                    self._untried -= 1
                await self._try_first(untried, turns, quiet)
                for activation in self._unread & set(suspects):
                    turns.create_task(self._try_once_read(activation, turns, quiet))
        finally:
            self._under_way -= 1
            self._untried -= len(untried)
            for activation in [*untried, *(self._unread & set(suspects))]:
                activation.running = False
                self._unread.discard(activation)

    async def _try_again(self, activation: Activation, turns: asyncio.TaskGroup, quiet: Quiet) -> None:
        """A message that was under way when its host died again; returns when nothing of it runs. The next one, which may be
        what killed the host, would have it blamed once more. One that waits is put away at once: that it has come so far
        is on record then, and it is not tried when the host dies of the next one."""
        async with self._alone(quiet):
            for head in await self._attempt([activation]):
                _logger.warning("trying a message of %s alone: its host has died again", activation.agent)
                await self._begin(head, turns, SOLO_S)
                await self._put_away(activation)
        trial = self._tried.get(activation)
        if trial is not None:
            await trial.at_rest.wait()
            await self._put_away(activation)

    async def _try_once_read(self, activation: Activation, turns: asyncio.TaskGroup, quiet: Quiet) -> None:
        """What could not be read may be what killed the host: without an attempt on record, it would do so for ever. Nobody
        else waits for it."""
        while activation in self._unread:
            await self._mailboxes.read_heads([activation], at_last=True)
            async with self._alone(quiet):
                for head in await self._attempt([activation]):
                    await self._begin(head, turns, SOLO_S)

    async def _try_first(
        self, untried: dict[Activation, None], turns: asyncio.TaskGroup, quiet: Quiet
    ) -> None:
        """Each gets an equal share of the time in which the others stand still, and then goes on beside them."""
        clock = asyncio.get_running_loop().time
        share = min(SOLO_S, STANDSTILL_S / max(1, len(untried)))
        stood_still = 0.0
        beside: set[asyncio.Task[None]] = set()
        for chunk in _chunks(untried):
            heads = await self._attempt(chunk)
            since = clock()
            async with self._alone(quiet) if stood_still < STANDSTILL_S else nullcontext():
                for head in heads:
                    beside.add(await self._begin(head, turns, share))
            self._untried -= len(chunk)
            stood_still += clock() - since
            beside = {turn for turn in beside if not turn.done()}
            while len(beside) > self._most_beside:
                _, beside = await asyncio.wait(beside, return_when=asyncio.FIRST_COMPLETED)

    async def _begin(
        self, head: tuple[Activation, Envelope], turns: asyncio.TaskGroup, seconds: float
    ) -> asyncio.Task[None]:
        """Start the turn, and wait until it has ended or waits, at most so long."""
        faultpoints.reached("trial.before")
        at_rest = self._tried[head[0]].at_rest
        turn = turns.create_task(self._handle(*head, at_rest))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await at_rest.wait()
        return turn

    def waits(self, activation: Activation) -> None:
        """Nothing of its turn runs until something else happens."""
        if activation in self._tried:
            self._tried[activation].at_rest.set()

    def attempts(self, partitions: Collection[int]) -> list[Attempt]:
        """Those that are on record and not over. They end without a death when their partitions leave."""
        attempts = (trial.attempt for trial in self._tried.values())
        return [attempt for attempt in attempts if attempt.partition in partitions]

    async def _handle(self, activation: Activation, envelope: Envelope, at_rest: asyncio.Event) -> None:
        try:
            await self._try(activation, envelope, at_rest)
        finally:
            del self._tried[activation]

    async def _try(self, activation: Activation, envelope: Envelope, at_rest: asyncio.Event) -> None:
        try:
            entry = await self._run_turn(activation, envelope)
        finally:
            at_rest.set()
        if entry is None:
            return
        # Were its next message to kill the process before this one has committed, this one would be blamed, again and again.
        activation.running = True
        entry.written = Written()
        self._committer.submit(entry)
        try:
            await entry.written.known()
        finally:
            activation.running = False
        self._mailboxes.schedule(activation)

    @asynccontextmanager
    async def _alone(self, quiet: Quiet) -> AsyncIterator[None]:
        async with self._one:
            self._ready.close_gate()
            try:
                await quiet()
                yield
            finally:
                self._ready.open_gate()

    async def _attempt(self, activations: list[Activation]) -> list[tuple[Activation, Envelope]]:
        """Commit the attempts on the heads of these, and take them; those that may not run are left out."""
        tried: list[tuple[Activation, Envelope, Written]] = []
        await self._mailboxes.read_heads(activations)
        for activation in activations:
            activation.running = False
            self._unread.discard(activation)
            head = activation.head()
            if not self._can_run(activation) or head is None:
                self._mailboxes.schedule(activation)
                continue
            activation.running = True
            if not head.payload:
                self._unread.add(activation)
                continue
            head = self._mailboxes.take_head(activation)
            mark = Mark(
                tenant=activation.tenant, partition=activation.partition, agent=activation.agent,
                seq=head.seq, tried=1, open=head.open,
            )  # fmt: skip
            head = msgspec.structs.replace(head, trials=head.trials + 1)
            written = Written()
            self._committer.submit(Entry(activation, head, mark, written))
            tried.append((activation, head, written))
        for _, _, written in tried:
            await written.known()
        # One that was dropped meanwhile comes back from committed state, and untried.
        heads = [(a, head) for a, head, written in tried if written.committed and a.alive]
        for a, head in heads:
            attempt = Attempt(tenant=a.tenant, partition=a.partition, agent=a.agent, seq=head.seq)
            self._tried[a] = _Trial(attempt, asyncio.Event())
        return heads

    def _can_run(self, activation: Activation) -> bool:
        return bool(
            activation.alive and activation.queue and activation.loaded and not activation.running
            and not self._mailboxes.held.takes(activation)
        )  # fmt: skip


def _chunks(untried: dict[Activation, None]) -> Iterator[list[Activation]]:
    """Takes the agents out, so many at a time."""
    while untried:
        chunk = list(untried)[:CHUNK]
        for activation in chunk:
            del untried[activation]
        yield chunk
