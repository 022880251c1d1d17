"""`callboard promise resolve`: give a turn what it waits for."""

from __future__ import annotations

from typing import Annotated

import typer

from callboard.cli.asked import login_name
from callboard.cli.connection import opened
from callboard.cli.decisions import As, Id, address_of, settled_by_person
from callboard.cli.options import Json, json_value
from callboard.cli.running import asynchronous, needs_command
from callboard.cli.terminal import console, emit, plain

app = typer.Typer(
    invoke_without_command=True, help="Resolve a promise that an agent has made.", add_completion=False
)


@app.callback()
def promise(context: typer.Context) -> None:
    needs_command(context)


@app.command()
@asynchronous
async def resolve(
    id_: Id,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="Any JSON value.")] = "null",
    by: As = None,
    as_json: Json = False,
) -> None:
    """Resolve a promise with a JSON value; the first to do so counts."""
    from actors.values import encode_answer

    given = json_value(value, "The value")
    async with opened(bus=True) as at:
        found = await settled_by_person(at, id_, "resolved", encode_answer(given), by)
    if as_json:
        emit({"id": found.id, "address": address_of(found), "status": "resolved", "by": by or login_name()})
        return
    console().print(plain(f"Resolved: {found.name}, of {address_of(found)}."))
