"""`callboard query`: what an agent says of its state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from callboard.cli.agents import Address
from callboard.cli.connection import opened
from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.terminal import console, emit

if TYPE_CHECKING:
    from actors.scope import Scope
    from callboard.cli.connection import Opened


@asynchronous
async def query(
    address: Address,
    name: Annotated[str, typer.Argument(metavar="TYPE", help="The wire name of what is asked.")],
    question: Annotated[str, typer.Argument(metavar="JSON", help="Its fields.")] = "{}",
    as_json: Json = False,
) -> None:
    """Ask a @query handler of an agent, in this process: it reads a copy of the committed state."""
    from actors.code_apart import code_apart
    from actors.queries import run_query
    from bus.address import parse_address
    from bus.registry import decode_payload
    from storage.postgres_mail import PostgresMail

    place = parse_address(address)
    async with opened() as at:
        with code_apart():
            scope = await _scope(at, place.domain)
            asked = decode_payload(name, question)
            answer = await run_query(scope, PostgresMail(at.db), place, asked, tenant=at.tenant)
    said = answer.model_dump(mode="json")
    if as_json:
        emit(said)
        return
    console().print_json(data=said)


async def _scope(at: Opened, domain: str) -> Scope:
    """The domain's stored code, and the database's time."""
    from actors.directory import Directory, DomainEntry
    from actors.domain import DomainSpec, load_domain
    from actors.scope import Clock, Scope
    from coordinators.equipment import SYSTEM_KINDS
    from storage.boundary import translated
    from storage.code import fetch_code
    from storage.domains import find_domain
    from storage.queries import query as statement

    row = await find_domain(at.db, domain)
    code = await fetch_code(at.db, domain, row.code)
    loaded = load_domain(DomainSpec.from_json(row.spec), code, system_kinds=SYSTEM_KINDS)
    directory = Directory()
    directory.replace({domain: DomainEntry(partitions=row.partitions, kinds=frozenset(row.kinds))})
    scope = Scope(loaded, directory, Clock())
    with translated():
        scope.clock.correct(await at.db.fetchval(statement("database_now")))
    return scope
