"""The partitions that one incarnation owns, kept in step with its row in Postgres."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from actors.inbound import HeldBytes, Inbox
from bus import faultpoints, subjects
from bus.errors import ServiceUnavailable, StorageUnavailable
from bus.transport import Subscription, Transport
from bus.wire import Parcel
from storage.records import MailPlace, Ownership

if TYPE_CHECKING:
    from actors.host import Host

_logger = logging.getLogger("callboard.holdings")

LOOK_EVERY_S = 0.25  # how late a host learns of a change of ownership when the bus has lost the word of it
DRAIN_S = 0.5  # a turn that runs longer holds no hand-over up: it is dropped, and runs again at the new owner
_DRAINED_S = 0.005  # between two looks at what still runs: of many agents, none signals
QUIET_S = 0.25
_RETRY_S = 0.5


@dataclass(slots=True)
class _Holding:
    """One owned partition. It runs turns while it is open."""

    inbox: Inbox
    subscription: Subscription | None = None
    open: bool = False
    leaving: bool = False


class Holdings:
    """Follows the host's row: takes up what it owns, gives back what it should not keep, drops what it lost."""

    def __init__(self, host: Host, transport: Transport) -> None:
        self._host = host
        self._transport = transport
        self._held: dict[int, _Holding] = {}
        self._taken: tuple[int, ...] = ()  # how often each was taken from this host, as it has seen
        self._together = HeldBytes()
        self._changed = asyncio.Event()
        self._look = asyncio.Lock()  # what was read of the row is acted on before it is read or changed again
        self._tasks: set[asyncio.Task[None]] = set()
        host.scope.flights.on_landed = self.look_soon

    # -- what the host asks --------------------------------------------------------------------------

    def owns(self, partition: int) -> bool:
        return partition in self._held

    def may_run(self, partition: int) -> bool:
        holding = self._held.get(partition)
        return holding is not None and holding.open and not holding.leaving

    def open_partitions(self) -> list[int]:
        return [
            partition for partition, holding in self._held.items() if holding.open and not holding.leaving
        ]

    def all_partitions(self) -> list[int]:
        return list(self._held)

    @property
    def is_at_rest(self) -> bool:
        """Whether every partition here is open, and none is being read."""
        return all(h.open and not h.leaving and not h.inbox.is_reading for h in self._held.values())

    def take(self, parcel: Parcel) -> bool:
        """Take a parcel that this very host published; False when the partition is not here."""
        holding = self._held.get(parcel.partition)
        if holding is None or holding.inbox.is_closed:  # closed: it is on its way to another host
            return False
        holding.inbox.take(parcel)
        return True

    def read_again(self, partition: int) -> None:
        holding = self._held.get(partition)
        if holding is not None:
            holding.inbox.read_again()

    def read_all_again(self) -> None:
        for holding in self._held.values():
            holding.inbox.read_again()

    def read_agents(self, came: Iterable[MailPlace]) -> None:
        """Read the mailboxes into which this host has just put these messages itself."""
        for tenant, agent, partition in {(at.tenant, at.agent, at.partition) for at in came}:
            if self.may_run(partition):
                self._host.mailboxes.read_agent(tenant, agent, partition)

    def _after_loss(self) -> None:
        """The bus was away: what others published did not come here, and what we published went nowhere."""
        self.read_all_again()
        self._host.outbound.announce()

    def look_soon(self, data: bytes = b"") -> None:
        """The coordinator says that something changed; an ended epoch may have left messages unpublished."""
        self._changed.set()
        if data.startswith(b"ended"):
            self.read_all_again()

    # -- the loop ------------------------------------------------------------------------------------

    async def run(self) -> None:
        host = self._host
        word = await self._transport.subscribe(
            subjects.placement(host.fence.domain), self.look_soon, self._after_loss
        )
        try:
            await host.store.ready(host.fence)
            self._transport.publish(subjects.placement(host.fence.domain), b"ready")
            while not host.has_ended:
                self._changed.clear()
                try:
                    if not await self.refresh():
                        return
                except StorageUnavailable as error:
                    _logger.warning("ownership cannot be read: %s", error.message)
                try:
                    async with asyncio.timeout(LOOK_EVERY_S):  # wait_for of 3.11 may swallow a cancellation
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            await word.close()
            for task in self._tasks:
                task.cancel()
            for holding in self._held.values():
                self._close(holding)

    async def refresh(self) -> bool:
        """Bring the holdings in line with Postgres; False when the incarnation has ended."""
        async with self._look:
            return await self._refresh()

    async def _refresh(self) -> bool:
        host = self._host
        now = await host.store.read_ownership(host.fence)
        if now.ended:
            host.end(now.ended_why or "its epoch was ended")
            return False
        # What has come back already was another host's meanwhile, and may be suspect by now.
        seen, self._taken = self._taken, now.taken
        often = enumerate(zip_longest(now.taken, seen, fillvalue=0))
        taken = frozenset(partition for partition, (times, before) in often if times > before)
        for partition in [p for p in self._held if p in taken or p not in now.owned]:
            self._drop(partition)
        gained = sorted(now.owned - self._held.keys())
        if gained:
            self._take_up(gained, now.suspect)
        await self._give_back_unwanted(now)
        return True

    async def _give_back_unwanted(self, now: Ownership) -> None:
        """All that the host should not keep, but for where calls are being made that it alone can put on record. Those stay
        until it has, and the coordinator is told so, lest it takes them."""
        flights = self._host.scope.flights
        held = {p for p, holding in self._held.items() if p in now.owned and not holding.leaving}
        for partition in held & now.wanted:
            flights.keep(partition)
        unwanted = held - now.wanted
        kept = frozenset(p for p in unwanted if flights.of(p))
        for partition in kept:
            flights.ask_back(partition)
        leaving = sorted(unwanted - kept)
        for partition in leaving:
            self._held[partition].leaving = True
            flights.close(partition)
        if leaving:
            self._spawn(self._give_back({partition: self._held[partition] for partition in leaving}))
        if kept != now.kept:
            await self._host.store.keep(self._host.fence, sorted(kept))

    def _take_up(self, partitions: list[int], suspect: frozenset[int]) -> None:
        mailboxes = self._host.mailboxes
        for partition in partitions:
            inbox = Inbox(
                partition, mailboxes.deliver, mailboxes.partitions.read, mailboxes.read_named, self._together
            )
            self._held[partition] = _Holding(inbox)
        holdings = {p: self._held[p] for p in partitions}
        self._spawn(self._opening(holdings, self._open(holdings, suspect)))

    async def _opening(self, holdings: dict[int, _Holding], work: Awaitable[None]) -> None:
        try:
            await work
        except (StorageUnavailable, ServiceUnavailable) as error:
            _logger.warning("partitions %s cannot be opened yet: %s", sorted(holdings), error.message)
            for partition, holding in holdings.items():
                if self._held.get(partition) is holding:
                    self._drop(partition)  # the next look takes them up again

    async def _open(self, holdings: dict[int, _Holding], suspect: frozenset[int]) -> None:
        """Subscribe, flush, then read, then run: so nothing falls between the read and the subscription."""
        host = self._host
        for partition, holding in holdings.items():
            subscription = await self._transport.subscribe(
                subjects.agents(host.fence.domain, partition),
                holding.inbox.receive,
                holding.inbox.read_again,
            )
            if holding.inbox.is_closed:  # the partition has left meanwhile
                await subscription.close()
            else:
                holding.subscription = subscription
        await self._transport.flush()
        faultpoints.reached("acquire.middle")
        host.outbound.skip_everywhere()
        for holding in holdings.values():
            holding.inbox.read_again()
        for holding in holdings.values():
            await holding.inbox.read_now()
        late = {p: holding for p, holding in holdings.items() if holding.inbox.is_unreadable}
        for partition, holding in late.items():
            one = {partition: holding}
            self._spawn(self._opening(one, self._open_late(one, suspect)))
        await self._open_read({p: h for p, h in holdings.items() if p not in late}, suspect)

    async def _open_late(self, holdings: dict[int, _Holding], suspect: frozenset[int]) -> None:
        """Those that could not be read at once: the others do not wait for them."""
        for holding in holdings.values():
            await holding.inbox.read_at_last()
        await self._open_read(holdings, suspect)

    async def _open_read(self, holdings: dict[int, _Holding], suspect: frozenset[int]) -> None:
        self._open_now({p: h for p, h in holdings.items() if p not in suspect})
        doubtful = {p: h for p, h in holdings.items() if p in suspect}
        if doubtful:
            await self._try_carefully(doubtful)

    def _open_now(self, holdings: dict[int, _Holding]) -> None:
        for partition, holding in holdings.items():
            if self._held.get(partition) is holding:
                holding.open = True
        self._host.cycles.taken_over(holdings)
        self._host.schedules.taken_over(holdings)
        for activation in self._host.mailboxes.roster.in_partitions(holdings.keys()):
            self._host.mailboxes.schedule(activation)

    async def _try_carefully(self, holdings: dict[int, _Holding]) -> None:
        host = self._host
        await host.mailboxes.roster.loaded(host.mailboxes.roster.in_partitions(holdings.keys()))
        holdings = {p: h for p, h in holdings.items() if self._held.get(p) is h}
        suspects = [
            a for a in host.mailboxes.roster.in_partitions(holdings.keys()) if host.mailboxes.head_may_run(a)
        ]
        await host.trials.run(suspects, lambda: self._open_now(holdings), lambda: host.workers.quiet(QUIET_S))
        await self._clear_suspects(holdings)

    async def _clear_suspects(self, holdings: dict[int, _Holding]) -> None:
        """Of those that are still here. They run by now: what is under way in them does not end for an outage."""
        host = self._host
        while partitions := sorted(p for p, holding in holdings.items() if self._held.get(p) is holding):
            try:
                await host.store.clear_suspects(host.fence, partitions)
                return
            except StorageUnavailable as error:
                _logger.warning("partitions %s stay suspect for now: %s", partitions, error.message)
                await asyncio.sleep(_RETRY_S)

    async def _give_back(self, leaving: dict[int, _Holding]) -> None:
        """A willing hand-over: finish what runs, commit it, empty the cache, and only then let go. None waits for what runs
        in another one."""
        loop, roster = asyncio.get_running_loop(), self._host.mailboxes.roster
        deadline = loop.time() + DRAIN_S
        while leaving:
            at_work = {
                a.partition for a in roster.in_partitions(leaving.keys()) if a.is_busy or a.uncommitted
            }
            is_over = loop.time() >= deadline
            ready = {p: holding for p, holding in leaving.items() if is_over or p not in at_work}
            if ready:
                await self._let_go(ready)
                leaving = {p: holding for p, holding in leaving.items() if p not in ready}
            else:
                await asyncio.sleep(_DRAINED_S)

    async def _let_go(self, leaving: dict[int, _Holding]) -> None:
        host = self._host
        async with self._look:
            # What was taken meanwhile is gone, and may be back as another holding.
            partitions = [p for p, holding in leaving.items() if self._held.get(p) is holding]
            attempts = host.trials.attempts(partitions)
            for partition in partitions:
                self._drop(partition, keep_row=True)
            faultpoints.reached("handover.middle")
            try:
                await host.store.release(host.fence, partitions, attempts)
            except StorageUnavailable as error:
                _logger.warning("partitions %s cannot be given back yet: %s", partitions, error.message)
            for partition in partitions:
                self._held.pop(partition, None)
        self._transport.publish(subjects.placement(host.fence.domain), b"released")

    def _drop(self, partition: int, *, keep_row: bool = False) -> None:
        """Empty the cache of a partition; its turns that have not committed are forgotten."""
        holding = self._held[partition]
        self._close(holding)
        self._host.scope.flights.forget(partition)
        holding.open = False
        if not keep_row:
            del self._held[partition]
        for activation in self._host.mailboxes.roster.in_partitions((partition,)):
            self._host.mailboxes.drop(activation)
        self._host.committer.drop_dead()

    def _close(self, holding: _Holding) -> None:
        holding.inbox.close()
        if holding.subscription is not None:
            self._spawn(holding.subscription.close())
            holding.subscription = None

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._host.guarded(coroutine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
