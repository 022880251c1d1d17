"""The at-most-once calls that a host's turns are making.

What such a call does can be put on record by the host that makes it and by nobody else: whoever takes the agent over
before that finds a call that may have acted. So a partition that is asked back stays until its calls are on record, and
until then its agents begin only those that are over by the time the others are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic


class Flight:
    """One call, from before its intent is committed until its outcome is."""

    __slots__ = ("_flights", "_partition", "until")

    def __init__(self, flights: Flights, partition: int, until: float) -> None:
        self._flights = flights
        self._partition = partition
        self.until = until  # by the monotonic clock; then the call is given up at the latest

    def land(self) -> None:
        """Nothing is lost any more when the partition leaves. Landed again, it changes nothing."""
        self._flights.landed(self._partition, self)


class Flights:
    """By partition; and which of those are asked back. `most_waiting` turns may wait in memory until theirs has left."""

    def __init__(self, most_waiting: int) -> None:
        self.on_landed: Callable[[], None] = lambda: None
        """The last call has ended of a partition that is asked back."""
        self.on_room: list[Callable[[], None]] = []
        """There is room again for a turn that waits for the move, or a partition needs none, since it stays: whoever wants
        to know is told."""
        self._most_waiting = max(1, most_waiting)
        self._waiting = 0
        self._flights: dict[int, set[Flight]] = {}
        self._asked: dict[int, asyncio.Future[None]] = {}  # done when the partition stays after all
        self._closed: set[int] = set()

    def of(self, partition: int) -> bool:
        """Whether calls are being made there."""
        return partition in self._flights

    def begin(self, partition: int, timeout_s: float) -> Flight | None:
        """None when the partition is about to leave, and would have to wait for this call."""
        until = monotonic() + timeout_s
        if partition in self._closed:
            return None
        flights = self._flights.get(partition)
        if partition in self._asked and (flights is None or until > max(f.until for f in flights)):
            return None
        flight = Flight(self, partition, until)
        self._flights.setdefault(partition, set()).add(flight)
        return flight

    def landed(self, partition: int, flight: Flight) -> None:
        flights = self._flights.get(partition)
        if flights is None or flight not in flights:  # the partition has left meanwhile
            return
        flights.discard(flight)
        if not flights:
            del self._flights[partition]
            if partition in self._asked:
                self.on_landed()

    # -- hand-overs ----------------------------------------------------------------------------------

    def ask_back(self, partition: int) -> None:
        """The partition is to leave once the calls in it have ended."""
        if partition not in self._asked:
            self._asked[partition] = asyncio.get_running_loop().create_future()

    def close(self, partition: int) -> None:
        """It leaves now: nothing more begins there."""
        self.ask_back(partition)
        self._closed.add(partition)

    @contextmanager
    def waiting(self, partition: int) -> Iterator[asyncio.Future[None]]:
        """A turn waits for the move. Done when the partition, which was asked back, is to stay."""
        self._waiting += 1
        try:
            yield self._asked[partition]
        finally:
            self._waiting -= 1
            if self._waiting == self._most_waiting - 1:
                self._tell_of_room()

    def is_full(self, partition: int) -> bool:
        """Whether no turn is to begin there that may have to wait for the move as well."""
        return self._waiting >= self._most_waiting and partition in self._asked

    def keep(self, partition: int) -> None:
        """It stays after all."""
        asked = self._asked.pop(partition, None)
        if asked is not None:
            asked.set_result(None)
            self._tell_of_room()  # those that wait may all wait for another one, and for long

    def forget(self, partition: int) -> None:
        """It has left: its turns were dropped, and what calls of theirs still run is put down by nobody here."""
        self._flights.pop(partition, None)
        self._asked.pop(partition, None)
        self._closed.discard(partition)

    def _tell_of_room(self) -> None:
        for tell in self.on_room:
            tell()
