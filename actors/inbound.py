"""Before the mailbox: parcels are taken in order, and a gap makes the partition read Postgres first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from bus.errors import InvalidMessage, StorageError
from bus.wire import NUDGE_SOURCE, Item, Parcel, decode_parcel

_logger = logging.getLogger("callboard.inbound")

MAX_HELD = 2_000  # parcels kept while a partition reads its mailbox; past that it reads once more
MAX_HELD_BYTES = 16 * 1024 * 1024  # of their headers and payloads, of all partitions of a host
MAX_STREAMS = 1_000  # source epochs whose count is known
_RETRY_S = 0.2
_RETRY_LATER_S = 10.0  # after an error that is nobody's outage: each is a traceback in the log

Deliver = Callable[[int, list[Item]], None]
Reload = Callable[[int], Awaitable[None]]
ReadAgent = Callable[[str, str, int], None]


class HeldBytes:
    """What the inboxes of one host hold together."""

    def __init__(self) -> None:
        self.total = 0


class Inbox:
    """The incoming side of one owned partition.

    Each source epoch has a stream with its own count. The next number is delivered at once. Any other one
    (a gap, or a source not known yet) holds back everything until the mailbox was read from Postgres: a
    parcel is published after its commit, so a read that starts after a parcel has come sees its messages and
    all that the same source committed before it.
    """

    def __init__(
        self, partition: int, deliver: Deliver, reload: Reload, read_agent: ReadAgent, together: HeldBytes
    ) -> None:
        self.partition = partition
        self._deliver = deliver
        self._reload = reload
        self._read_agent = read_agent
        self._streams: dict[int, int] = {}
        self._held: list[Parcel] = []
        self._held_bytes = 0
        self._together = together
        self._covered: dict[int, int] = {}  # by source, the last number that the next read covers
        self._asked = False
        self._reading: asyncio.Task[None] | None = None
        self._closed = False
        self._unreadable = asyncio.Event()

    def receive(self, data: bytes) -> None:
        """Take what came over NATS."""
        try:
            parcel = decode_parcel(data)
        except InvalidMessage as error:
            _logger.warning("%s", error)
            return
        self.take(parcel)

    def take(self, parcel: Parcel) -> None:
        if self._closed or parcel.partition != self.partition:
            return
        if parcel.source == NUDGE_SOURCE:
            if parcel.items:
                for item in parcel.items:
                    self._read_agent(item.tenant, item.agent, parcel.partition)
            else:
                self.read_again()
        elif self._reading is not None:
            self._hold(parcel)
        elif not self._deliver_next(parcel):
            self._hold(parcel)
            self.read_again()

    def read_again(self) -> None:
        """Read the mailbox from Postgres before anything further is delivered."""
        if self._closed:
            return
        self._asked = True
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read())

    async def read_now(self) -> None:
        """The first read of a partition just acquired: returns when its mailbox has been read, or turns out to be unreadable,
        or it has left."""
        self.read_again()
        unreadable = asyncio.create_task(self._unreadable.wait())
        await self._wait_for_read(unreadable)
        unreadable.cancel()

    async def read_at_last(self) -> None:
        """Returns when it has been read after all, or has left."""
        await self._wait_for_read()

    @property
    def is_unreadable(self) -> bool:
        """Whether the last read has failed, and not for an outage; it is tried on."""
        return self._unreadable.is_set()

    @property
    def is_closed(self) -> bool:
        return self._closed

    @property
    def is_reading(self) -> bool:
        return self._reading is not None

    def close(self) -> None:
        self._closed = True
        self._take_held()
        self._covered.clear()
        if self._reading is not None:
            self._reading.cancel()

    async def _wait_for_read(self, *or_for: asyncio.Task[Any]) -> None:
        reading = self._reading
        if reading is not None:
            # Awaited itself, it would cancel us when the partition leaves.
            await asyncio.wait((reading, *or_for), return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not reading.cancelled():
                reading.result()

    def _hold(self, parcel: Parcel) -> None:
        self._held.append(parcel)
        size = sum(len(item.payload) + len(item.header_json) for item in parcel.items)
        self._held_bytes += size
        self._together.total += size
        if len(self._held) > MAX_HELD or self._together.total > MAX_HELD_BYTES:
            self._let_go()
            self._asked = True

    def _let_go(self) -> None:
        """What the held parcels carry is in Postgres, for the next read to find: only their numbers are kept."""
        for parcel in self._take_held():
            self._covered[parcel.source] = max(self._covered.get(parcel.source, 0), parcel.number)

    def _take_held(self) -> list[Parcel]:
        held, self._held = self._held, []
        self._together.total -= self._held_bytes
        self._held_bytes = 0
        return held

    async def _read(self) -> None:
        try:
            await self._read_while_asked()
        finally:
            self._reading = None  # whatever a read has failed of, the next word starts another

    async def _read_while_asked(self) -> None:
        while self._asked and not self._closed:
            self._asked = False
            self._let_go()
            covered, self._covered = self._covered, {}
            try:
                await self._reload(self.partition)
            except Exception as error:
                retry_s = self._put_off(error)
                for source, number in covered.items():
                    self._covered[source] = max(self._covered.get(source, 0), number)
                self._asked = True
                await asyncio.sleep(retry_s)
                continue
            self._unreadable.clear()
            for source, number in covered.items():
                self._remember(source, number)
            for parcel in self._take_held():
                if self._asked or not self._deliver_next(parcel):
                    self._hold(parcel)  # one more gap: read once more before going on
                    self._asked = True

    def _put_off(self, error: Exception) -> float:
        """How long a read that has failed is put off. What is wrong with a partition is its own trouble."""
        if isinstance(error, StorageError):
            _logger.warning("partition %d cannot be read yet: %s", self.partition, error.message)
            return _RETRY_S
        self._unreadable.set()
        _logger.error("partition %d cannot be read", self.partition, exc_info=error)
        return _RETRY_LATER_S

    def _deliver_next(self, parcel: Parcel) -> bool:
        """Deliver the parcel if it is the next of its stream; False when something before it is missing."""
        last = self._streams.get(parcel.source)
        if last is None or parcel.number > last + 1:
            return False
        if parcel.number == last + 1:
            self._deliver(self.partition, parcel.items)
            self._streams[parcel.source] = parcel.number  # last: what cannot be delivered remains a gap
        return True

    def _remember(self, source: int, number: int) -> None:
        self._streams[source] = max(self._streams.get(source, 0), number)
        while len(self._streams) > MAX_STREAMS:  # an epoch forgotten too early costs one read
            del self._streams[next(iter(self._streams))]
