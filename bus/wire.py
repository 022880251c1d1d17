"""Committed messages on their way to the owner of a partition: one NATS message holds several."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from bus.envelope import Envelope, header_from_json
from bus.errors import InvalidMessage

MAX_PARCEL_BYTES = 768 * 1024  # NATS refuses payloads above 1 MiB; the rest is room for framing


class Item(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One committed message."""

    seq: int
    tenant: str
    agent: str
    header_json: str
    payload: str


class Parcel(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Messages that one host committed for one partition, in commit order.

    `number` counts the parcels from this source epoch to this partition, so that a receiver sees a gap.
    A parcel with source 0 is a nudge: it asks the owner to read mailboxes again, those of the agents that its
    items name, or without items all of the partition.
    """

    source: int
    partition: int
    number: int
    items: list[Item]


NUDGE_SOURCE = 0


def nudge(partition: int, agents: Iterable[tuple[str, str]] = ()) -> Parcel:
    """The nudge for these agents (tenant, `kind/key`); each is an item without a message."""
    return Parcel(NUDGE_SOURCE, partition, 0, [Item(0, tenant, agent, "", "") for tenant, agent in agents])


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Parcel).decode


def encode_parcel(parcel: Parcel) -> bytes:
    return _encode(parcel)


def decode_parcel(data: bytes) -> Parcel:
    """Raises InvalidMessage for anything that is not a parcel."""
    try:
        return _decode(data)
    except msgspec.MsgspecError as error:
        raise InvalidMessage(
            f"A NATS message on an agents subject is not a parcel: {error}.",
            fix="Publish events to callboard.events.DOMAIN.NAME, never to callboard.agents.>.",
        ) from None


def open_item(item: Item) -> Envelope:
    return Envelope(
        seq=item.seq,
        tenant=item.tenant,
        agent=item.agent,
        header=header_from_json(item.header_json),
        header_json=item.header_json,
        payload=item.payload,
    )
