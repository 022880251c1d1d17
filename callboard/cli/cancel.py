"""`callboard cancel`."""

from __future__ import annotations

from typing import Annotated

import typer

from callboard.cli.agents import carried_out
from callboard.cli.asked import operator
from callboard.cli.connection import opened
from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.tasks import Identity
from callboard.cli.terminal import console, emit, plain


@asynchronous
async def cancel(
    identity: Identity,
    reason: Annotated[
        str, typer.Option(help="Stands in the task's log, and is the error its client gets.")
    ] = "an operator has cancelled it",
    as_json: Json = False,
) -> None:
    """End a task with all that it has started; compensations run, and what must not be interrupted is waited for."""
    from coordinators.tasks.client import TaskClient
    from storage.inspect import find_task, match_task

    async with opened(bus=True) as at:
        wanted = await match_task(at.db, identity, tenant=at.tenant)
        found = await TaskClient(at.db, at.transport, tenant=at.tenant, by=operator()).cancel(
            wanted.ref, reason
        )

        async def has_ended() -> bool:
            return (await find_task(at.db, found.ref, tenant=at.tenant)).finished_at is not None

        done = await carried_out(at, has_ended)
        status = (await find_task(at.db, found.ref, tenant=at.tenant)).status
    if as_json:
        emit({"id": found.id, "domain": found.domain, "wanted": "cancelled", "status": status, "done": done})
    elif done:
        console().print(plain(f"Task {found.id} is {status}."))
    elif status == "cancelling":
        console().print(plain(f"Task {found.id} is being cancelled: something of it still has to end."))
        console().print(plain(f"callboard task {found.id}", "dim"))
    else:
        console().print(
            plain(f"Accepted: task {found.id} will be cancelled as soon as a host runs {found.domain}.")
        )
