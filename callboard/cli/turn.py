"""`callboard turn`: an operator lets a turn go on that cannot by itself."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from callboard.cli.agents import Address, carried_out, still_waits
from callboard.cli.asked import operator
from callboard.cli.bars import kind_and_name, outcome
from callboard.cli.connection import Opened, opened
from callboard.cli.options import Json, json_value, not_empty
from callboard.cli.pausing import resume_agent
from callboard.cli.running import asynchronous, needs_command
from callboard.cli.table import table
from callboard.cli.terminal import ago, console, count, emit, note, plain
from callboard.cli.waits import turn_lines

if TYPE_CHECKING:
    from actors.control import EditTurn, SkipTurn
    from bus.address import Address as Place
    from bus.errors import CallboardError
    from storage.inspect import OpenTurn
    from storage.journal import JournalEntry

app = typer.Typer(
    invoke_without_command=True,
    help="Look at an open turn, and let one go on that cannot by itself: run it again, end it, or change its record.",
    add_completion=False,
)

Reason = Annotated[str, typer.Option(help="Stands in the agent's history.", callback=not_empty)]


@app.callback()
def turn(context: typer.Context) -> None:
    needs_command(context)


@app.command()
@asynchronous
async def show(address: Address, as_json: Json = False) -> None:
    """Show the open turn: its message, the code that it began with, its calls by their keys, what it waits for, and how it
    failed."""
    from bus.address import parse_address
    from storage.inspect import find_open_turn, open_calls

    place = parse_address(address)
    async with opened() as at:
        found = await find_open_turn(at.db, place, tenant=at.tenant)
        if found is None:
            raise _no_turn(place)
        calls = await open_calls(at.db, place, found, tenant=at.tenant)
    if as_json:
        emit({**{name: getattr(found, name) for name in found.__struct_fields__}, "calls": calls})
        return
    for line in turn_lines(found):
        console().print(line)
    rows = [(call.key, kind_and_name(call.kind, call.name), outcome(call)) for call in calls]
    rows += [
        (p.key, kind_and_name(p.kind, p.name), f"waits, for {ago(p.created_at)} now") for p in found.pending
    ]
    if rows:
        console().print()
        console().print(table(("key", "call", "state"), rows, whole=("key",)))
    if found.recorded > len(calls):
        note(f"Of {count(found.recorded, 'call')} the first {len(calls)} are shown.")


@app.command()
@asynchronous
async def retry(address: Address, as_json: Json = False) -> None:
    """Run the turn again, once its code is mended: the agent is resumed."""
    await resume_agent(address, as_json, _recorded)


@app.command()
@asynchronous
async def skip(
    address: Address,
    reason: Reason,
    leave_done: Annotated[
        bool,
        typer.Option("--leave-done", help="Undo nothing: its compensations do not run, nor its handler."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Give the turn up: what it has done is undone by its compensations, its message becomes a dead letter, and the agent
    goes on."""
    from actors.control import SkipTurn

    await _ask(address, SkipTurn(reason=reason, leave_done=leave_done), "skipped", as_json)


@app.command()
@asynchronous
async def edit(
    address: Address,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The step or call, as `turn show` names it.")],
    reason: Reason,
    value: Annotated[str | None, typer.Option(metavar="JSON", help="The result that it is to have.")] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="The step was not made: it is made again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Change what the turn has recorded; its record keeps what was there. Then `turn retry` runs it again."""
    from actors.control import EditTurn

    if forget is (value is not None):
        raise typer.BadParameter(f"Give one of --value and --forget{', not both' if forget else ''}.")
    if value is not None:
        json_value(value, "The value")
    await _ask(address, EditTurn(key=key, value=value, reason=reason), "edited", as_json)


async def _ask(address: str, request: SkipTurn | EditTurn, word: str, as_json: bool) -> None:
    from actors.control import EditTurn, SkipTurn
    from actors.saga import outstanding
    from actors.turn_edit import edited
    from bus.address import parse_address
    from storage.inspect import find_open_turn, lifecycle_of, notes_of
    from storage.intake import Incoming, accept

    place = parse_address(address)
    async with opened(bus=True) as at:
        begun = await find_open_turn(at.db, place, tenant=at.tenant)
        if begun is None:
            raise _no_turn(place)
        entries = await _recorded(at, place)  # if by now of the next turn, that one is not the one meant
        request = request.model_copy(update={"turn": begun.turn})
        undone = outstanding(entries) if isinstance(request, SkipTurn) else []
        if undone and isinstance(request, SkipTurn):
            left = "do not run, as --leave-done says" if request.leave_done else "run first"
            note(f"{count(len(undone), 'compensation')} {left}: {', '.join(undone)}.")
        if isinstance(request, EditTurn) and not edited(entries, request.key, request.value):
            raise _not_to_be_edited(place, begun, entries, request.key)
        (accepted,) = await accept(
            at.db,
            at.transport,
            [Incoming(to=place, message=request, control=True, sender=operator())],
            tenant=at.tenant,
        )

        async def is_done() -> bool:
            if await still_waits(at, place, accepted.seq):
                return False
            notes = await notes_of(at.db, place, accepted.id, tenant=at.tenant)
            if any(note.get("found", note.get("done")) is False for note in notes):
                raise _too_late(place, word)
            if not isinstance(request, SkipTurn):
                return True
            now = await find_open_turn(at.db, place, tenant=at.tenant)
            if now is None or now.turn != begun.turn:
                return True
            if await lifecycle_of(at.db, place, tenant=at.tenant) == "paused":
                raise _not_undone(place)
            return False

        done = await carried_out(at, is_done)
    if as_json:
        said = {"address": address, "message": accepted.id, "wanted": word, "done": done}
        emit({**said, "compensations": undone} if isinstance(request, SkipTurn) else said)
    elif done:
        console().print(plain(f"The open turn of {address} is {word}."))
    else:
        console().print(
            plain(f"Accepted: the open turn of {address} will be {word} as soon as a host has run it.")
        )


async def _recorded(at: Opened, place: Place) -> Sequence[JournalEntry]:
    """What the open turn has recorded; raises InvalidMessage where there is none."""
    from storage.inspect import read_open_journal

    entries = await read_open_journal(at.db, place, tenant=at.tenant)
    if entries is None:
        raise _no_turn(place)
    return entries


def _not_to_be_edited(
    place: Place, turn: OpenTurn, entries: Sequence[JournalEntry], key: str
) -> CallboardError:
    from actors.call_record import CALL
    from actors.turn_edit import current
    from bus.errors import InvalidMessage

    kinds = {entry.key: entry.kind for entry in current(entries).values()} | {
        promise.key: promise.kind for promise in turn.pending
    }
    kind = kinds.get(key)
    if kind is None:
        return InvalidMessage(
            f"The open turn of {place} has no step or call at {key!r}.",
            fix=f"`callboard turn show {shlex.quote(str(place))}` names them.",
        )
    if kind == CALL:
        return InvalidMessage(
            f"{key!r} is a call of a tool, which would be made again: it cannot be forgotten.",
            fix="Give it a result with --value.",
        )
    return InvalidMessage(
        f"{key!r} is {'an' if kind[0] in 'aeiou' else 'a'} {kind}, and cannot be edited.",
        fix="Steps, calls of tools and of models can be.",
    )


def _not_undone(place: Place) -> CallboardError:
    from bus.errors import NonDeterministicHandler

    return NonDeterministicHandler(
        f"The open turn of {place} cannot be undone: its handler no longer comes to its compensations, or its record cannot "
        "be read. The agent is paused.",
        fix=f"Register code that does, and `callboard resume {shlex.quote(str(place))}`; `turn skip --leave-done` ends it "
        "as it is.",
    )


def _too_late(place: Place, word: str) -> CallboardError:
    from bus.errors import InvalidMessage

    return InvalidMessage(
        f"The open turn of {place} has gone on, and is not {word}: it has ended, or no longer has that on record.",
        fix=f"`callboard agent {shlex.quote(str(place))} --timeline` shows how.",
    )


def _no_turn(place: Place) -> CallboardError:
    from bus.errors import InvalidMessage

    return InvalidMessage(
        f"{place} has no open turn.", fix=f"Look at it: `callboard agent {shlex.quote(str(place))}`."
    )
