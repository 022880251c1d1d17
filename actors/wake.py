"""The wake-up: what puts a settled promise into the mailbox of the turn that waits for it, ahead of the queue."""

from __future__ import annotations

from bus.envelope import Envelope

WAKE = "callboard.wake.v1"


def is_wake(envelope: Envelope) -> bool:
    return envelope.seq < 0 and envelope.header.type == WAKE
