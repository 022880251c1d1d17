"""The way out: numbers without holes but those that are meant, and parcels that NATS can carry."""

from __future__ import annotations

from actors.outbound import Outbound
from bus.envelope import Header, Outgoing, header_to_json, new_id
from bus.transport import Receive, Subscription
from bus.wire import MAX_PARCEL_BYTES, Parcel, decode_parcel


class Wire:
    """A transport that keeps what is published."""

    def __init__(self) -> None:
        self.published: list[tuple[str, Parcel]] = []
        self.largest = 0

    def publish(self, subject: str, data: bytes) -> None:
        self.largest = max(self.largest, len(data))
        self.published.append((subject, decode_parcel(data)))

    async def subscribe(self, subject: str, receive: Receive, on_loss: object) -> Subscription:
        raise AssertionError("outbound never subscribes")

    async def flush(self) -> None:
        raise AssertionError("outbound never waits for the bus")


def outgoing(partition: int = 0, payload: str = "{}", domain: str = "test") -> Outgoing:
    header = Header(id=new_id(), type="tests.note.v1", sender="test/keeper/k", sent_at=0.0)
    return Outgoing(
        domain=domain, tenant="default", agent="keeper/k", partition=partition, header=header,
        header_json=header_to_json(header), payload=payload,
    )  # fmt: skip


def outbound() -> tuple[Outbound, Wire]:
    wire = Wire()
    return Outbound(42, wire, lambda domain, parcel: False), wire


def numbers(wire: Wire, subject: str = "callboard.agents.test.0") -> list[int]:
    return [parcel.number for to, parcel in wire.published if to == subject]


def test_parcels_are_numbered_for_each_destination() -> None:
    out, wire = outbound()
    out.publish([(outgoing(0), 1), (outgoing(1), 2), (outgoing(0), 3)])
    out.publish([(outgoing(0), 4), (outgoing(0, domain="other"), 5)])
    assert numbers(wire) == [1, 2]
    assert numbers(wire, "callboard.agents.test.1") == [1]
    assert numbers(wire, "callboard.agents.other.0") == [1]
    first = wire.published[0][1]
    assert (first.source, first.partition, [item.seq for item in first.items]) == (42, 0, [1, 3])


def test_a_commit_whose_numbers_are_unknown_leaves_a_gap_and_shows_it_at_once() -> None:
    out, wire = outbound()
    out.publish([(outgoing(), 1)])
    out.skip({("test", 0), ("test", 1)})
    out.publish([(outgoing(), 2)])
    assert numbers(wire) == [1, 3, 4]
    assert numbers(wire, "callboard.agents.test.1") == [2]
    assert [parcel.items for _, parcel in wire.published[1:3]] == [[], []]


def test_after_an_acquisition_every_receiver_sees_a_gap() -> None:
    out, wire = outbound()
    out.publish([(outgoing(0), 1), (outgoing(1), 2)])
    out.skip_everywhere()
    out.publish([(outgoing(0), 3), (outgoing(1), 4)])
    assert numbers(wire) == numbers(wire, "callboard.agents.test.1") == [1, 3]


def test_large_parcels_are_split_and_each_part_has_its_number() -> None:
    out, wire = outbound()
    sends = [(outgoing(payload=f'"{"x" * 100_000}"'), seq) for seq in range(1, 40)]
    out.publish(sends)
    assert wire.largest <= MAX_PARCEL_BYTES
    assert numbers(wire) == list(range(1, len(wire.published) + 1))
    assert [item.seq for _, parcel in wire.published for item in parcel.items] == list(range(1, 40))


def test_one_message_above_the_limit_travels_alone() -> None:
    out, wire = outbound()
    out.publish([(outgoing(), 1), (outgoing(payload=f'"{"x" * MAX_PARCEL_BYTES}"'), 2), (outgoing(), 3)])
    assert [[item.seq for item in parcel.items] for _, parcel in wire.published] == [[1], [2], [3]]


def test_a_partition_of_this_host_is_reached_without_the_bus_under_the_same_numbers() -> None:
    wire, here = Wire(), []

    def local(domain: str, parcel: Parcel) -> bool:
        if parcel.partition == 0 and domain == "test":
            here.append(parcel.number)
            return len(here) != 2  # at the second one, the partition is on its way out
        return False

    out = Outbound(42, wire, local)
    for seq in range(1, 4):
        out.publish([(outgoing(), seq)])
    assert here == [1, 2, 3]
    assert numbers(wire) == [2]
