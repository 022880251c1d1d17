"""Rows of schedules: when each comes next. Times are seconds since 1970, UTC."""

from __future__ import annotations

import msgspec

from bus.envelope import Outgoing


class ScheduleRow(msgspec.Struct, frozen=True, kw_only=True):
    """One schedule of a domain; `recipient` is kind/key."""

    name: str
    cron: str
    timezone: str
    recipient: str
    catch_up: str
    next_at: float
    last_at: float | None = None


class Firing(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent of one schedule that was due: messages to one agent, each with its key; perhaps none."""

    name: str
    due: float
    next_at: float
    tenant: str
    partition: int
    agent: str
    payload: str
    messages: list[tuple[str, Outgoing]]
