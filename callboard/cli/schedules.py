"""`callboard schedules`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.table import table
from callboard.cli.terminal import ago, console, emit, plain

if TYPE_CHECKING:
    from storage.inspect.schedules import ScheduleView


@asynchronous
async def schedules(
    domain: Annotated[str | None, typer.Option(help="Only those of this domain.")] = None,
    as_json: Json = False,
) -> None:
    """List the schedules of all domains, and when each comes next."""
    from callboard.cli.connection import opened
    from storage.inspect.schedules import list_schedules

    async with opened() as at:
        found = await list_schedules(at.db, domain=domain)
    if as_json:
        emit({"schedules": found})
    elif not found:
        console().print(plain("No schedules."))
    else:
        header = ("domain", "name", "cron", "recipient", "missed ones", "next", "last sent")
        whole = ("domain", "name", "cron", "recipient")
        console().print(table(header, [_row(schedule) for schedule in found], whole=whole))


def _row(schedule: ScheduleView) -> tuple[str, ...]:
    sent = "" if schedule.last_at is None else f"{ago(schedule.last_at)} ago"
    return (
        schedule.domain, schedule.name, f"{schedule.cron} {schedule.timezone}", schedule.recipient,
        schedule.catch_up, _local(schedule.next_at, schedule.timezone), sent,
    )  # fmt: skip


def _local(moment: datetime, timezone: str) -> str:
    from zoneinfo import ZoneInfo

    return moment.astimezone(ZoneInfo(timezone)).strftime("%Y-%m-%d %H:%M %Z")
