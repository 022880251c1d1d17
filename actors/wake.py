"""The wake-up: what puts a settled promise into the mailbox of the turn that waits for it, ahead of the queue."""

from __future__ import annotations

import msgspec

from bus.envelope import Envelope
from bus.errors import InvalidPayload
from bus.registry import encode_json, first_line

WAKE = "callboard.wake.v1"
CLOCK = "external/clock"  # who has settled what was due


class Wake(msgspec.Struct, frozen=True, kw_only=True):
    """How a promise was settled: the payload of a wake-up, which the journal keeps."""

    promise: str
    status: str
    value: msgspec.Raw = msgspec.Raw(b"null")
    by: str | None = None
    at: float = 0.0


_decode = msgspec.json.Decoder(Wake).decode


def decode_wake(payload: str) -> Wake:
    """Raises InvalidPayload for what says nothing that is known here: a newer release, or somebody's own SQL, has written it."""
    try:
        return _decode(payload)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidPayload(f"A wake-up cannot be read: {first_line(error)}.") from None


def wake_without_header(payload: str) -> Wake | None:
    """What a message whose header cannot be read says of a promise; None where it says nothing, or where the value may be
    in a blob that only its header has named."""
    try:
        wake = decode_wake(payload)
    except InvalidPayload:
        return None
    return wake if wake.value != b"null" or wake.by == CLOCK else None


def wake_json(promise: str, status: str, by: str, at: float, *, value: str, digest: str | None = None) -> str:
    """The payload; `value` is JSON text. A decision names the `digest` of what it approves."""
    bound = "" if digest is None else f'"digest":{encode_json(digest)},'
    return f'{{"promise":"{promise}","status":"{status}","by":{encode_json(by)},"at":{at!r},{bound}"value":{value}}}'


def is_wake(envelope: Envelope) -> bool:
    return envelope.seq < 0 and envelope.header.type == WAKE
