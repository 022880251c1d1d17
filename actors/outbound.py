"""After the commit: messages go to the owners of their partitions, numbered so that a gap is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bus import subjects
from bus.envelope import Outgoing
from bus.transport import Transport
from bus.wire import MAX_PARCEL_BYTES, Item, Parcel, encode_parcel

Destination = tuple[str, int]


class Outbound:
    """Numbers the parcels of one source epoch, one count for each destination partition.

    `local` takes parcels for partitions of this very host; it returns False when it does not own them, and
    they travel over NATS. Both ways count on the same number, so that the receiver's rules are the same.
    """

    def __init__(self, epoch: int, transport: Transport, local: Callable[[str, Parcel], bool]) -> None:
        self._epoch = epoch
        self._transport = transport
        self._local = local
        self._numbers: dict[Destination, int] = {}

    def publish(self, sends: Iterable[tuple[Outgoing, int | None]]) -> None:
        """Publish committed messages with their mailbox numbers, in commit order; what has none is in no mailbox."""
        parcels: dict[Destination, list[Item]] = {}
        for send, seq in sends:
            if seq is None:
                continue
            item = Item(seq, send.tenant, send.agent, send.header_json, send.payload)
            destination = (send.domain, send.partition)
            items = parcels.get(destination)
            if items is None:
                parcels[destination] = [item]
            else:
                items.append(item)
        for destination, items in parcels.items():
            self._send(destination, items)

    def skip(self, destinations: Iterable[Destination]) -> None:
        """Messages were committed whose numbers are not known here: make their receivers read the mailbox."""
        for destination in destinations:
            self._numbers[destination] = self._numbers.get(destination, 0) + 1
            self._send(destination, [])

    def announce(self) -> None:
        """What was published lately may be lost: make every receiver read its mailbox now."""
        self.skip(list(self._numbers))

    def skip_everywhere(self) -> None:
        """After taking over a partition: what its agents sent before may still be on its way from elsewhere,
        so every receiver reads its mailbox before it handles what comes from here next."""
        for destination in self._numbers:
            self._numbers[destination] += 1

    def _send(self, destination: Destination, items: list[Item]) -> None:
        for part in _split(items):
            number = self._numbers.get(destination, 0) + 1
            self._numbers[destination] = number
            domain, partition = destination
            parcel = Parcel(self._epoch, partition, number, part)
            if not self._local(domain, parcel):
                self._transport.publish(subjects.agents(domain, partition), encode_parcel(parcel))


def _split(items: list[Item]) -> Iterable[list[Item]]:
    """Parts small enough for NATS; nearly always there is one."""
    if len(items) <= 1:
        yield items
        return
    part: list[Item] = []
    size = 0
    for item in items:
        item_size = 4 * (len(item.payload) + len(item.header_json)) + 1024  # characters may take 4 bytes
        if part and size + item_size > MAX_PARCEL_BYTES:
            yield part
            part, size = [], 0
        part.append(item)
        size += item_size
    yield part
