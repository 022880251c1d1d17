"""One event from outside, and the headers that a publisher may give it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

TYPE_HEADER = "Callboard-Type"
TENANT_HEADER = "Callboard-Tenant"
TASK_HEADER = "Callboard-Task"
PRIORITY_HEADER = "Callboard-Priority"
MSG_ID_HEADER = "Nats-Msg-Id"
TRACE_HEADER = "traceparent"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event as the stream holds it. `seq` counts from 1 within one incarnation of the stream."""

    seq: int
    name: str
    data: bytes
    headers: Mapping[str, str]
    at_ns: int  # when the stream took it: nanoseconds since 1970, UTC

    @property
    def time(self) -> float:
        """Seconds since 1970, UTC."""
        return self.at_ns / 1e9
