"""`callboard ledger`: which tools were called, by whom and why; and what a call did of which nobody knows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from callboard.cli.asked import login_name
from callboard.cli.connection import opened
from callboard.cli.decisions import As, Id, settle_promise
from callboard.cli.options import PART, Json, json_value, not_empty
from callboard.cli.running import asynchronous
from callboard.cli.table import table
from callboard.cli.terminal import ago, console, count, emit, note, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from callboard.cli.connection import Opened
    from storage.inspect.ledger import CallView
    from storage.unknown_calls import LeftCall

app = typer.Typer(
    invoke_without_command=True, help="List the calls of tools; settle an unknown one.", add_completion=False
)

_ARGUMENTS = 60  # characters of them in the list


@app.callback()
def ledger(
    context: typer.Context,
    agent: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Only the calls of this agent.")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="Only those of this domain.")] = None,
    task: Annotated[str | None, typer.Option(metavar="ID", help=f"Only those of this task. {PART}")] = None,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Only those of which nobody knows yet what they did.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to list, the newest first.")] = 50,
    as_json: Json = False,
) -> int:
    if context.invoked_subcommand is not None:
        return 0
    return _list(agent, domain, task, unknown, limit, as_json)


@asynchronous
async def _list(
    agent: str | None, domain: str | None, task: str | None, unknown: bool, limit: int, as_json: bool
) -> None:
    from bus.address import parse_address
    from storage.inspect.ledger import list_ledger

    place = None if agent is None else parse_address(agent)
    async with opened() as at:
        found = await list_ledger(
            at.db, tenant=at.tenant, domain=place.domain if place else domain, agent=place.agent if place else None,
            task=None if task is None else await _ref(at, task), unknown=unknown, limit=limit + 1,
        )  # fmt: skip
    page, more = found[:limit], len(found) > limit
    if as_json:
        emit({"calls": [_as_json(row) for row in page], "more": more})
        return
    if not page:
        console().print(plain("No call's outcome is unknown." if unknown else "No tool was called."))
        return
    console().print(
        table(
            ("call", "age", "agent", "tool", "status", "arguments"),
            [
                (row.id, ago(row.started_at), f"{row.domain}/{row.agent}", row.tool, _status(row),
                 _shortened(row.arguments))
                for row in page
            ],
            right=("age",),
            whole=("call", "agent", "tool"),
        )
    )  # fmt: skip
    if unknown:
        _show_what_to_do(page)
    if more:
        note(f"There are more: --limit {2 * limit}")


@app.command()
@asynchronous
async def settle(
    id_: Id,
    happened: Annotated[bool, typer.Option("--happened", help="The call has acted.")] = False,
    not_happened: Annotated[bool, typer.Option("--not-happened", help="The call has not acted.")] = False,
    result: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="With --happened: what the call has returned; null unless given.",
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again/--no-again", help="With --not-happened: whether it is to be made again.")
    ] = True,
    reason: Annotated[
        str | None, typer.Option(help="How one knows; stands beside the answer.", callback=not_empty)
    ] = None,
    by: As = None,
    as_json: Json = False,
) -> None:
    """Say what a call has done of which nobody knows: ID is that of the call, as `callboard ledger --unknown` lists it, or of
    the question, as `callboard approvals` does. Where nobody waits for it, the ledger has it, and nothing goes on."""
    from bus.registry import encode_json
    from storage.unknown_calls import LeftCall, find_unknown

    if happened is not_happened:
        raise typer.BadParameter(
            f"Give one of --happened and --not-happened{', not both' if happened else ''}."
        )
    if not_happened and result is not None:
        raise typer.BadParameter(
            "it says what the call has returned: with --happened.", param_hint="--result"
        )
    given = None if result is None else json_value(result, "The result")
    value = encode_json({"happened": happened, "again": again, "comment": reason or "", "result": given})
    async with opened(bus=True) as at:
        found = await find_unknown(at.db, id_, tenant=at.tenant)
        if isinstance(found, LeftCall):
            await _say_of_left(at, found, happened, given, by, reason)
        else:
            await settle_promise(at, found, "resolved", value, by, kind="outcome")
    address = f"{found.domain}/{found.agent}"
    if as_json:
        emit({"id": found.id, "address": address, "happened": happened, "by": by or login_name()})
        return
    word = "has acted" if happened else "has not acted"
    if isinstance(found, LeftCall):
        console().print(plain(f"Noted: {found.tool} {word}. Nothing of {address} has waited for it."))
        return
    word += "" if happened or not again else ", and is made again"
    console().print(plain(f"Noted: {found.name.split()[0]} {word}. {address} goes on."))


async def _say_of_left(
    at: Opened, call: LeftCall, happened: bool, result: object, by: str | None, reason: str | None
) -> None:
    from bus.errors import InvalidMessage
    from bus.registry import refuse_nul
    from storage.unknown_calls import say

    if result is not None:
        raise InvalidMessage(f"Nothing waits for what {call.tool} has returned.", fix="Leave out --result.")
    refuse_nul(reason or "")
    await say(at.db, call, tenant=at.tenant, happened=happened, by=by or login_name(), reason=reason)


async def _ref(at: Opened, task: str) -> str:
    """What the ledger calls the task by; it may be kept for longer than the task."""
    from storage.id_part import id_part
    from storage.inspect import match_task

    domain, _, id_ = task.rpartition("/")
    part = id_part(id_)
    return (
        task
        if domain and part is not None and part.is_whole
        else (await match_task(at.db, task, tenant=at.tenant)).ref
    )


def _show_what_to_do(rows: Sequence[CallView]) -> None:
    """About calls of which nobody knows what they did: how somebody says it, and which nobody waits for."""
    for row in rows:
        if (meant := row.id if row.is_left else row.question) is not None:
            console().print(
                plain(f"call {row.id}: callboard ledger settle {meant} --happened or --not-happened"),
                soft_wrap=True,
            )
    if left := sum(row.is_left for row in rows):
        note(
            f"Nothing waits for the answer about {count(left, 'call')} with an error: what had called went on without "
            "knowing, or ended. Look at the world outside; the ledger keeps what you say."
        )


def _status(row: CallView) -> str:
    from storage.ledger import CallStatus

    tries = f" ({row.attempts} tries)" if row.attempts > 1 else ""
    again = f", {row.again_by} had it made again" if row.again_by is not None else ""
    if row.status == CallStatus.STARTED and row.attempts > 1 and not again:
        again = ", being made again"
    said = f", says {row.said_by}" if row.said_by is not None else ""
    why = row.reason if row.error is None else row.error
    return f"{row.status}{tries}{again}{said if row.error is None else ''}{'' if why is None else f': {why}'}"


def _shortened(arguments: str | None) -> str:
    """With spaces: where a terminal folds them, it does so between their parts."""
    if arguments is None:
        return "(large)"
    arguments = json.dumps(json.loads(arguments), ensure_ascii=False)
    return arguments if len(arguments) <= _ARGUMENTS else f"{arguments[: _ARGUMENTS - 1]}…"


def _as_json(row: CallView) -> dict[str, Any]:
    return {
        "id": row.id, "address": f"{row.domain}/{row.agent}", "tool": row.tool, "effect": row.effect,
        "status": row.status, "attempts": row.attempts, "error": row.error, "said_by": row.said_by,
        "reason": row.reason, "again_by": row.again_by, "question": row.question, "digest": row.digest,
        "arguments": None if row.arguments is None else json.loads(row.arguments), "task": row.task,
        "message": row.message, "approval": row.approval, "started_at": row.started_at, "ended_at": row.ended_at,
    }  # fmt: skip
