"""`callboard dead-letters`: look at what was given up; have it tried again, or dropped."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from callboard.cli.agents import carried_out
from callboard.cli.asked import operator
from callboard.cli.connection import Opened, opened
from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.table import table
from callboard.cli.task_view import was
from callboard.cli.terminal import ago, bounded_json, console, count, emit, note, plain

if TYPE_CHECKING:
    from pydantic import BaseModel

    from storage.inspect import DeadLetterView

app = typer.Typer(
    invoke_without_command=True, help="List the dead letters; retry or drop one.", add_completion=False
)

Number = Annotated[int, typer.Argument(metavar="ID", max=2**63 - 1, help="The number in the list.")]


@app.callback()
def dead_letters(
    context: typer.Context,
    domain: Annotated[str | None, typer.Option(help="Only those of this domain.")] = None,
    after: Annotated[int, typer.Option(metavar="ID", help="Go on after this number.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to list.")] = 50,
    as_json: Json = False,
) -> int:
    if context.invoked_subcommand is not None:
        return 0
    return _list(domain, after, limit, as_json)


@asynchronous
async def _list(domain: str | None, after: int, limit: int, as_json: bool) -> None:
    from storage.inspect import list_dead_letters

    async with opened() as at:
        found = await list_dead_letters(at.db, tenant=at.tenant, domain=domain, after=after, limit=limit + 1)
    page, more = found[:limit], len(found) > limit
    if as_json:
        emit({"dead_letters": [_as_json(letter) for letter in page], "next": page[-1].id if more else None})
        return
    if not page:
        console().print(plain("No dead letters."))
        return
    console().print(
        table(
            ("id", "age", "recipient", "message", "reason", "error"),
            [(x.id, ago(x.at), x.address, x.type, f"{x.reason}{was(x)}", x.error) for x in page],
            right=("id", "age"),
            whole=("recipient", "message"),
        )
    )
    if more:
        note(f"There are more: --after {page[-1].id}")


@app.command()
@asynchronous
async def show(number: Number, as_json: Json = False) -> None:
    """Show one dead letter with its payload."""
    import json

    from storage.inspect import find_dead_letter
    from storage.records import INVALID_EVENT

    async with opened() as at:
        letter = await find_dead_letter(at.db, number, tenant=at.tenant)
    header, payload = json.loads(letter.header or "{}"), json.loads(letter.payload or "null")
    if as_json:
        emit({**_as_json(letter), "header": header, "payload": payload})
        return
    out = console()
    after = f" after {count(letter.failures, 'failure')}" if letter.failures else ""
    out.print(plain(f"Dead letter {letter.id}: {letter.type} for {letter.address}", "bold"))
    out.print(plain(f"{letter.reason}{after}, {ago(letter.at)} ago: {letter.error}"))
    for frame in letter.frames.splitlines():
        out.print(plain(f"  at {frame}", "dim"))
    of_task = f", part of the task {letter.task}" if letter.task is not None else ""
    out.print(plain(f"from {letter.sender}, message {letter.message}{of_task}", "dim"))
    if letter.reason == INVALID_EVENT:
        out.print(plain(_as_published(payload), "dim"))
    if letter.was is not None:
        out.print(plain(f"It was dead letter {letter.was} before, and was retried.", "dim"))
    beginning, rest = bounded_json(payload)
    out.print(beginning, soft_wrap=True)
    if rest:
        out.print(plain(rest, "yellow"))


@app.command()
@asynchronous
async def retry(
    number: Number,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also one whose task has ended, or that was undone in part: what it does is done all the same.",
        ),
    ] = False,
    as_json: Json = False,
) -> int:
    """Put a dead letter back at the end of its agent's mailbox. The message keeps its id, and says which one it was.

    An event that no agent could be given (`invalid_event`) is read anew, by the domain.yaml and the code of today. The exit
    code is 1 when it is a dead letter again.
    """
    from actors.control import RetryDeadLetter

    request = RetryDeadLetter(id=number, force=force)
    return await _ask(number, request, "retried", as_json, lambda at, x: _check(at, x, force))


@app.command()
@asynchronous
async def drop(
    number: Number,
    reason: Annotated[str, typer.Option(help="Stands in the agent's history.")] = "",
    as_json: Json = False,
) -> None:
    """Delete a dead letter; the agent's history keeps that it was dropped, and why."""
    from actors.control import DropDeadLetter

    await _ask(number, DropDeadLetter(id=number, reason=reason), "dropped", as_json)


def _as_published(payload: dict[str, Any]) -> str:
    """What the publisher of an event knows it by."""
    from bus.event import MSG_ID_HEADER

    id_ = payload["headers"].get(MSG_ID_HEADER)
    known_by = f"{MSG_ID_HEADER} {id_}" if id_ is not None else f"no {MSG_ID_HEADER}"
    return f"published on {payload['subject']}, number {payload['sequence']} in the stream, {known_by}"


async def _check(at: Opened, letter: DeadLetterView, force: bool) -> None:
    """Raise InvalidMessage for a message that nobody waits for any more, since its task has ended, for one that was undone in
    part, and for an event that could not be stored whole."""
    import json

    from bus.envelope import header_from_json
    from bus.errors import InvalidMessage, UnknownTask
    from storage.inspect import find_task
    from storage.records import INVALID_EVENT, NOT_UNDONE

    if letter.reason == INVALID_EVENT and not json.loads(letter.payload or "")["whole"]:
        raise InvalidMessage(
            f"The event of dead letter {letter.id} is not text in UTF-8, or has a NUL in it: no code reads it.",
            fix=f"Publish it again as JSON; `callboard dead-letters drop {letter.id}` puts this one away.",
        )
    drop = f"`callboard dead-letters drop {letter.id}` puts it away"
    if letter.reason == NOT_UNDONE and not force:
        raise InvalidMessage(
            f"Of what dead letter {letter.id} has done a part was undone and a part was not: a retry would do all of it.",
            fix=f"Mend by hand what is left; {drop}, and --force retries it all the same.",
        )
    if letter.task is None or header_from_json(letter.header or "").undoes:  # which outlives its task
        return
    try:
        task = await find_task(at.db, letter.task, tenant=at.tenant)
    except UnknownTask:
        ended = "is no longer on record"
    else:
        if task.status in ("cancelling", "cancelled"):
            raise InvalidMessage(
                f"Dead letter {letter.id} is part of the task {letter.task}, which is {task.status}: no host handles it.",
                fix=f"{drop}.",
            )
        if task.finished_at is None:
            return
        ended = f"{task.status} {ago(task.finished_at)} ago"
    if not force:
        raise InvalidMessage(
            f"Dead letter {letter.id} is part of the task {letter.task}, which {ended}: a retry would do all that "
            f"{letter.type} does, and count for nothing.",
            fix=f"{drop}; --force retries it all the same.",
        )
    note(f"Its task {letter.task} {ended}: what the message does is done, and does not count for it.")


async def _ask(
    number: int,
    request: BaseModel,
    word: str,
    as_json: bool,
    check: Callable[[Opened, DeadLetterView], Awaitable[None]] | None = None,
) -> int:
    """The exit code: 1 for an event that was read anew, and refused as before."""
    from bus.address import parse_address
    from bus.errors import UnknownDeadLetter
    from storage.inspect import dead_again, find_dead_letter
    from storage.intake import Incoming, accept
    from storage.records import INVALID_EVENT

    async with opened(bus=True) as at:
        letter = await find_dead_letter(at.db, number, tenant=at.tenant)
        if check is not None:
            await check(at, letter)
        to = parse_address(letter.address)
        message = Incoming(
            to=to,
            message=request,
            control=True,
            any_kind=word == "dropped" or letter.reason == INVALID_EVENT,
            sender=operator(),
        )
        (accepted,) = await accept(at.db, at.transport, [message], tenant=at.tenant)

        async def is_gone() -> bool:
            try:
                await find_dead_letter(at.db, number, tenant=at.tenant)
            except UnknownDeadLetter:
                return True
            return False

        done = await carried_out(at, is_gone)
        if not done and check is not None:
            await check(at, letter)  # the owner looks as well: its task may have ended meanwhile
        again = await dead_again(at.db, letter) if done and letter.reason == INVALID_EVENT else None
        if again is not None and again.reason != INVALID_EVENT:  # it has come to an agent, and failed there
            again = None
    if as_json:
        emit(
            {
                "id": number,
                "address": letter.address,
                "message": accepted.id,
                "letter": letter.message,
                "wanted": word,
                "done": done,
                "again": None if again is None else again.id,
            }
        )
    elif again is not None:
        console().print(plain(f"It is refused again, as dead letter {again.id}: {again.error}", "yellow"))
    elif done:
        console().print(plain(f"Dead letter {number} for {letter.address} is {word}."))
        if word == "retried" and letter.reason == INVALID_EVENT:
            note(f"`callboard agent {shlex.quote(letter.address)}` says which agent it went to.")
        elif word == "retried":
            where = f"`callboard agent {shlex.quote(letter.address)}`"
            note(f"It is message {letter.message} again; {where} shows what becomes of it.")
    else:
        console().print(
            plain(f"Accepted: dead letter {number} will be {word} as soon as a host runs {letter.address}.")
        )
    return int(again is not None)


def _as_json(letter: object) -> dict[str, object]:
    from storage.inspect import DeadLetterView

    assert isinstance(letter, DeadLetterView)
    shown = {name: getattr(letter, name) for name in letter.__struct_fields__}
    del shown["header"], shown["payload"], shown["agent"]
    return {**shown, "address": letter.address, "frames": letter.frames.splitlines()}
