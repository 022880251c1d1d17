"""`callboard approvals`, `approve` and `deny`: what waits for a person, and what that person decides."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from callboard.cli.asked import command_lines, login_name
from callboard.cli.connection import Opened, opened
from callboard.cli.options import PART, Json, not_empty
from callboard.cli.running import asynchronous
from callboard.cli.table import table
from callboard.cli.terminal import ago, console, emit, note, plain

if TYPE_CHECKING:
    from datetime import datetime

    from storage.decisions import Waiting

Id = Annotated[str, typer.Argument(metavar="ID", help=f"As the list shows it. {PART}")]
As = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="NAME", help="Who decides; your login name unless given.", callback=not_empty
    ),
]
Digest = Annotated[
    str | None, typer.Option(help="Decide only if this is (the beginning of) the digest of what is asked.")
]


@asynchronous
async def approvals(
    settled: Annotated[bool, typer.Option("--settled", help="What was decided, the newest first.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to list.")] = 50,
    as_json: Json = False,
) -> None:
    """List what waits for a person: approvals, and calls of tools of which nobody knows what they did."""
    from storage.decisions import waiting
    from storage.journal import Kind

    async with opened() as at:
        found = await waiting(
            at.db, tenant=at.tenant, kinds=(Kind.APPROVAL, Kind.OUTCOME), pending=not settled, limit=limit + 1
        )
    page, more = found[:limit], len(found) > limit
    if as_json:
        emit({"approvals": [promise_json(promise) for promise in page], "more": more})
        return
    if not page:
        console().print(plain("Nothing waits for a decision." if not settled else "Nothing was decided yet."))
        return
    for number, promise in enumerate(page):
        if number:
            console().print()
        _show(promise)
    if more:
        note(f"There are more: --limit {2 * limit}")


@asynchronous
async def approve(
    id_: Id,
    by: As = None,
    comment: Annotated[str, typer.Option(help="Stands beside the decision.")] = "",
    digest: Digest = None,
    as_json: Json = False,
) -> None:
    """Approve what an agent asks for: what waited for it goes on."""
    await _decide(id_, "approved", by, comment, digest, as_json)


@asynchronous
async def deny(
    id_: Id,
    reason: Annotated[str, typer.Option(help="Stands beside the decision.", callback=not_empty)],
    by: As = None,
    digest: Digest = None,
    as_json: Json = False,
) -> None:
    """Refuse what an agent asks for: it is not done. Every person may, also where approvers are named."""
    await _decide(id_, "denied", by, reason, digest, as_json)


async def _decide(
    id_: str, status: str, by: str | None, comment: str, digest: str | None, as_json: bool
) -> None:
    from bus.registry import encode_json

    value = encode_json({"comment": comment})
    async with opened(bus=True) as at:
        promise = await settled_by_person(
            at, id_, status, value, by, digest, kind="approval", called="approval"
        )
    if as_json:
        emit({"id": promise.id, "address": address_of(promise), "status": status, "by": by or login_name()})
        return
    console().print(plain(f"{status.capitalize()}: {_asked(promise)['action']}, for {address_of(promise)}."))


async def settled_by_person(
    at: Opened,
    id_: str,
    status: str,
    value: str,
    by: str | None,
    digest: str | None = None,
    *,
    kind: str = "promise",
    called: str = "promise",
) -> Waiting:
    """Settle a promise and wake its owner; raises what `storage.decisions` raises."""
    from storage.decisions import find_promise

    promise = await find_promise(at.db, id_, tenant=at.tenant, called=called)
    await settle_promise(at, promise, status, value, by, digest, kind=kind)
    return promise


async def settle_promise(
    at: Opened,
    promise: Waiting,
    status: str,
    value: str,
    by: str | None,
    digest: str | None = None,
    *,
    kind: str,
) -> None:
    """Settle this one and wake its owner; raises what `storage.decisions.settle` raises."""
    from bus.registry import refuse_nul
    from storage.decisions import settle
    from storage.intake import nudge
    from storage.journal import Kind

    refuse_nul(value)
    owner = await settle(
        at.db, promise, tenant=at.tenant, status=status, value=value, by=by or login_name(),
        kind=Kind(kind), digest=digest,
    )  # fmt: skip
    assert at.transport is not None
    nudge(at.transport, [owner])
    await at.transport.flush()


def address_of(promise: Waiting) -> str:
    return f"{promise.domain}/{promise.agent}"


def promise_json(promise: Waiting) -> dict[str, Any]:
    """A promise as scripts see it: `asked` is what is to be decided, `decision` what was."""
    return {
        "id": promise.id,
        "kind": promise.kind,
        "address": address_of(promise),
        "asked": _asked(promise),
        "status": promise.status,
        "created_at": promise.created_at,
        "due_at": promise.due_at,
        "by": None if promise.settled_by is None else promise.settled_by.removeprefix("external/"),
        "at": promise.settled_at,
        "decision": None if promise.value is None else json.loads(promise.value),
    }


def _asked(promise: Waiting) -> dict[str, Any]:
    asked: dict[str, Any] = json.loads(promise.details or "{}")
    return asked


def _show(promise: Waiting) -> None:
    asked = _asked(promise)
    out = console()
    if promise.kind == "outcome":
        title = f"Has the call of {asked['tool']} acted? Nobody knows."
        details: dict[str, Any] = dict(asked["arguments"])
        how = f"call {asked['call']}"
        if asked.get("why"):
            how += f"; {asked['why']}"
    else:
        title = asked["action"]
        given = asked["details"]
        details = given if isinstance(given, dict) else {"details": given}
        how = f"approvers: {', '.join(asked['approvers']) or 'anybody'}; digest {asked['digest'][:12]}"
    out.print(plain(title, "bold"))
    rows = [("id", promise.id), ("for", address_of(promise)), ("since", f"{ago(promise.created_at)} ago")]
    if promise.due_at is not None:
        rows.append(("until", _moment(promise.due_at)))
    if promise.settled_at is not None:
        who = (promise.settled_by or "").removeprefix("external/")
        said = json.loads(promise.value or "null") or {}
        comment = f": {said['comment']}" if said.get("comment") else ""
        rows.append((promise.status, f"by {who} at {_moment(promise.settled_at)}{comment}"))
        if said.get("message"):
            rows.append(("while handling", said["message"]))
    rows += [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in details.items()
    ]
    out.print(table(("", ""), rows))
    out.print(plain(how, "dim"))
    if promise.settled_at is None:
        for command in command_lines(promise):
            out.print(plain(command), soft_wrap=True)


def _moment(at: datetime) -> str:
    from datetime import UTC

    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
