"""The envelope: one message on its way to one agent.

These structs are not tracked by the garbage collector (gc=False): they hold no cycles, and there are many.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec
from uuid_utils import uuid7

UNREADABLE = "callboard.unreadable.v1"  # no message has this type
HOP_LIMIT = 1_000_000  # hops of one causal chain; domains set lower ones of their own


class Priority(IntEnum):
    """Orders ready agents; never the messages between one pair of agents."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


class Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What is known of a message besides its payload. Times are seconds since 1970, UTC."""

    id: str
    type: str
    sender: str
    sent_at: float
    correlation: str | None = None
    causation: str | None = None
    task: str | None = None  # `domain/id`, see bus/task_ref.py
    root: str | None = None  # the task at the top of those that have started this one; None is `task` itself
    priority: int = Priority.NORMAL
    deadline: float | None = None
    hops: int = 0
    traceparent: str | None = None
    blob: str | None = None  # the payload is in blob storage under this digest
    reply_to: str | None = None  # the promise of the sender that an answer settles
    letter: int | None = None  # the dead letter that it was before an operator had it tried again
    undoes: bool = False  # no cancellation, limit or pause of its task stops it: it comes from a compensation
    shared: bool = False  # or, with this, it is work that other tasks may wait for as well


class Envelope(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A header with its payload (JSON text) and its place in a mailbox.

    `seq` is drawn from Postgres when the message is committed; below zero it is a control message, which
    its recipient's owner handles before the ordinary ones. `header_json` is the header exactly as stored.
    """

    seq: int
    tenant: str
    agent: str
    header: Header
    header_json: str
    payload: str
    failures: int = 0
    trials: int = 0
    retry_at: float | None = None
    open: bool = False  # its turn has a journal: it has left the mailbox and is in `turns`

    @property
    def is_control(self) -> bool:
        return self.seq < 0


class Outgoing(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message that its sender's turn has made, before it has a place in a mailbox."""

    domain: str
    tenant: str
    agent: str
    partition: int
    header: Header
    header_json: str
    payload: str
    visible_at: float | None = None  # a durable timer: not handled before this time
    control: bool = False
    settles: str | None = None  # sent only if this promise of its recipient is still open


def new_id() -> str:
    """A UUID version 7 (RFC 9562): unique, and sorted by the time it was made."""
    return str(uuid7())


_encode_header = msgspec.json.Encoder().encode
_decode_header = msgspec.json.Decoder(Header).decode


def header_to_json(header: Header) -> str:
    return _encode_header(header).decode()


def header_from_json(text: str) -> Header:
    """The header; for text that is none a stand-in of the type UNREADABLE, so that its message alone is given up."""
    try:
        return _decode_header(text)
    except (msgspec.MsgspecError, RecursionError):
        return Header(id=new_id(), type=UNREADABLE, sender="external/unknown", sent_at=0.0)
