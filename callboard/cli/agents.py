"""`callboard agents` and `agent`."""

from __future__ import annotations

import asyncio
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from callboard.cli.agent_timeline import show_timeline, timeline_json
from callboard.cli.agent_view import (
    agent_json,
    lifecycle_word,
    past_json,
    show_agent,
    show_past,
)
from callboard.cli.connection import Opened, opened
from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.table import table
from callboard.cli.terminal import ago, console, emit, note, plain
from callboard.cli.waits import row_waits_for

if TYPE_CHECKING:
    from storage.inspect import AgentRow

Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="domain/kind/key")]

_CARRIED_OUT_S = 5.0  # how long a command waits to see its request carried out
_LOOK_EVERY_S = 0.05
_ALIKE = 5


@asynchronous
async def agents(
    only: Annotated[
        str | None, typer.Argument(metavar="[DOMAIN]", help="Only the agents of this domain.")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="The same, as an option.")] = None,
    after: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Go on after this address.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to list.")] = 50,
    as_json: Json = False,
) -> None:
    """List agents by address."""
    from bus.address import parse_address
    from bus.errors import InvalidAddress
    from storage.domains import all_domains
    from storage.inspect import list_agents

    if only is not None and domain not in (None, only):
        raise InvalidAddress(f"Two domains are named, {only!r} and {domain!r}.", fix="Name one domain.")
    domain = only or domain
    start = parse_address(after) if after is not None else None
    if start is not None and domain is not None and start.domain != domain:
        raise InvalidAddress(f"--after {after!r} is not in the domain {domain!r}.", fix="Name one domain.")
    async with opened() as at:
        names = [domain] if domain is not None else [row.domain for row in await all_domains(at.db)]
        rows: list[AgentRow] = []
        for name in names:
            if start is not None and name < start.domain:
                continue
            key = start.agent if start is not None and name == start.domain else ""
            wanted = limit + 1 - len(rows)
            rows += await list_agents(at.db, name, tenant=at.tenant, after=key, limit=wanted)
            if len(rows) > limit:
                break
    page, more = rows[:limit], len(rows) > limit
    if as_json:
        emit({"agents": page, "next": page[-1].address if more else None})
        return
    console().print(_listed(page) if page else plain("No agent has had a turn yet."))
    if more:
        note(f"There are more: --after {shlex.quote(page[-1].address)}")


@asynchronous
async def agent(
    address: Address,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Show what it did, turn by turn, in order, as bars of time.")
    ] = False,
    last: Annotated[
        int, typer.Option(min=1, max=10_000, help="With --timeline: how many turns to show.")
    ] = 20,
    at_version: Annotated[
        int | None, typer.Option("--at", metavar="VERSION", help="Show the state as it was at this version.")
    ] = None,
    history: Annotated[int, typer.Option(min=0, max=10_000, help="Transitions to show.")] = 10,
    before: Annotated[int | None, typer.Option(metavar="VERSION", help="Only transitions below it.")] = None,
    messages: Annotated[int, typer.Option(min=0, max=10_000, help="Waiting messages to show.")] = 10,
    as_json: Json = False,
) -> int:
    """Show one agent: its state, mailbox, timers and history, with the hash chain verified."""
    from bus.address import parse_address
    from bus.errors import InvalidAddress
    from storage.inspect import (
        LAST_VERSION,
        agent_timeline,
        list_history,
        state_at,
        verify_history,
        view_agent,
    )

    place = parse_address(address)
    if timeline and at_version is not None:
        raise InvalidAddress("--timeline and --at show different things.", fix="Give one of them.")
    below = LAST_VERSION if before is None else before
    async with opened() as at:
        if at_version is not None:
            past = await state_at(at.db, place, at_version, tenant=at.tenant)
            emit(past_json(past)) if as_json else show_past(past)
            return 0
        view = await view_agent(at.db, place, tenant=at.tenant, messages=messages, history=0)
        if timeline:
            turns = await agent_timeline(at.db, place, tenant=at.tenant, last=last, below=below)
            emit(timeline_json(turns)) if as_json else show_timeline(turns)
            return 0
        alike = await _alike(at, place) if view.is_untouched else []
        shown = await list_history(at.db, place, tenant=at.tenant, below=below, limit=history)
        verdict = await verify_history(at.db, place, tenant=at.tenant)
    if as_json:
        emit(agent_json(view, shown, verdict))
    else:
        show_agent(view, shown, verdict, alike)
    if not verdict.intact:
        note(f"Error: {verdict.broken} Somebody edited it; compare with a backup.")
    return 0 if verdict.intact else 1


async def _alike(at: Opened, place: Any) -> list[str]:
    """The first agents whose keys begin with that one."""
    from storage.inspect import list_agents

    rows = await list_agents(at.db, place.domain, tenant=at.tenant, after=place.agent, limit=_ALIKE)
    return [row.address for row in rows if row.address.startswith(f"{place.domain}/{place.agent}")]


async def still_waits(at: Opened, place: Any, seq: int | None) -> bool:
    """Whether a message is still in its agent's mailbox."""
    from storage.inspect import view_agent

    view = await view_agent(at.db, place, tenant=at.tenant, messages=100, history=0)
    return any(message.seq == seq for message in view.mailbox)


async def carried_out(at: Opened, is_done: Any) -> bool:
    """Wait until a request has been carried out; at once False where no cluster runs that could."""
    if not at.was_running:
        return False
    deadline = asyncio.get_running_loop().time() + _CARRIED_OUT_S
    while not await is_done():
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(_LOOK_EVERY_S)
    return True


def _listed(rows: list[AgentRow]) -> Any:
    made = {
        "address": [r.address for r in rows],
        "lifecycle": [lifecycle_word(r.lifecycle) for r in rows],
        "version": [f"{r.version:,}" for r in rows],
        "waiting": ["1,000+" if r.waiting >= 1000 else f"{r.waiting:,}" for r in rows],
        "changed": [ago(r.updated_at) for r in rows],
    }
    if any(r.turn for r in rows):
        made["its turn waits for"] = [row_waits_for(r) for r in rows]
    made["partition"] = [r.partition for r in rows]
    numbers = ("version", "waiting", "partition", "changed")
    return table(list(made), zip(*made.values(), strict=True), right=numbers, whole=("address", "lifecycle"))
