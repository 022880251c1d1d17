"""`callboard pause` and `resume`: an agent, a task or a whole domain."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from callboard.cli.agent_view import UNTOUCHED
from callboard.cli.agents import carried_out, still_waits
from callboard.cli.asked import operator
from callboard.cli.connection import opened
from callboard.cli.options import PART, Json
from callboard.cli.running import asynchronous
from callboard.cli.terminal import console, emit, note, plain

if TYPE_CHECKING:
    from pydantic import BaseModel

    from bus.address import Address
    from callboard.cli.connection import Opened

    Check = Callable[[Opened, Address], Awaitable[object]]

Target = Annotated[
    str,
    typer.Argument(metavar="TARGET", help=f"An agent (domain/kind/key), a domain, or a task's id. {PART}"),
]


@asynchronous
async def pause(
    target: Target,
    reason: Annotated[str, typer.Option(help="Stands in the history, the task's log, or `status`.")] = "",
    as_json: Json = False,
) -> None:
    """Pause an agent, a task with all that it has started, or a domain: what waits for it waits until it is resumed."""
    if not await _pause_task_or_domain(target, reason, as_json):
        from actors.control import Pause

        await _ask(target, Pause(reason=reason), "paused", as_json)


@asynchronous
async def resume(target: Target, as_json: Json = False) -> None:
    """Let what is paused go on."""
    if not await _pause_task_or_domain(target, None, as_json):
        await resume_agent(target, as_json)


async def resume_agent(address: str, as_json: bool, check: Check | None = None) -> None:
    """Let an agent go on; `check` raises what stands in the way."""
    from actors.control import Resume

    await _ask(address, Resume(), "running", as_json, check)


async def _pause_task_or_domain(target: str, reason: str | None, as_json: bool) -> bool:
    """Whether the target is one of these; it is paused for the reason, or resumed."""
    from bus.errors import UnknownDomain
    from storage.id_part import id_part

    domain, _, id_ = target.rpartition("/")
    may_be_task = "/" not in domain and id_part(id_) is not None
    if "/" in target:
        if may_be_task:
            await _pause_task(target, reason, as_json)
        return may_be_task
    try:
        await _pause_domain(target, reason, as_json)  # a domain's name may look like the end of an id
    except UnknownDomain:
        if not may_be_task:
            raise
        await _pause_task(target, reason, as_json)
    return True


async def _ask(
    address: str, request: BaseModel, wanted: str, as_json: bool, check: Check | None = None
) -> None:
    from bus.address import parse_address
    from bus.errors import InvalidAddress
    from storage.inspect import lifecycle_of, view_agent
    from storage.intake import Incoming, accept

    place = parse_address(address)
    async with opened(bus=True) as at:
        view = await view_agent(at.db, place, tenant=at.tenant, messages=1, history=0)
        untouched = view.is_untouched
        if untouched and wanted == "running":
            raise InvalidAddress(f"{UNTOUCHED} {address}.", fix="There is nothing to resume.")
        if check is not None:
            await check(at, place)
        message = Incoming(to=place, message=request, control=True, sender=operator())
        (accepted,) = await accept(at.db, at.transport, [message], tenant=at.tenant)

        async def is_done() -> bool:
            return await lifecycle_of(at.db, place, tenant=at.tenant) == wanted and not await still_waits(
                at, place, accepted.seq
            )

        done = await carried_out(at, is_done)
    if untouched:
        note(f"{UNTOUCHED} {address}: it is created paused.")
    _say(as_json, done, wanted, address, address=address, message=accepted.id)


async def _pause_task(task: str, reason: str | None, as_json: bool) -> None:
    """Pause it for the reason, or resume it."""
    from coordinators.tasks.client import TaskClient
    from storage.inspect import find_task, match_task

    wanted = "running" if reason is None else "paused"
    async with opened(bus=True) as at:
        client = TaskClient(at.db, at.transport, tenant=at.tenant, by=operator())
        ref = (await match_task(at.db, task, tenant=at.tenant)).ref
        found = await (client.resume(ref) if reason is None else client.pause(ref, reason))

        async def is_done() -> bool:
            status = (await find_task(at.db, found.ref, tenant=at.tenant)).status
            return (status == "paused") == (reason is not None)

        done = await carried_out(at, is_done)
    if reason is not None and found.status == "paused" and not as_json:
        console().print(plain(f"task {found.id} was paused already."))
        return
    _say(as_json, done, wanted, f"task {found.id}", id=found.id, domain=found.domain)


async def _pause_domain(domain: str, reason: str | None, as_json: bool) -> None:
    from storage.pauses import pause_domain, resume_domain

    async with opened() as at:
        if reason is None:
            changed = await resume_domain(at.db, domain, by=operator())
        else:
            changed = await pause_domain(at.db, domain, by=operator(), why=reason)
    word = "goes on" if reason is None else "is paused"
    if as_json:
        emit({"domain": domain, "wanted": "running" if reason is None else "paused", "changed": changed})
    else:
        console().print(plain(f"{domain} {word}{'' if changed else ', as before'}."))


def _say(as_json: bool, done: bool, wanted: str, what: str, **fields: str) -> None:
    if as_json:
        emit({**fields, "wanted": wanted, "done": done})
    elif done:
        console().print(plain(f"{what} is {wanted}."))
    else:
        console().print(plain(f"Accepted: {what} will be {wanted} as soon as a host runs it."))
