"""`callboard agents`, `agent`, `pause` and `resume`."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from callboard.cli.connection import Opened, opened
from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.terminal import ago, clean, console, emit, is_terminal, note, plain, table

if TYPE_CHECKING:
    from pydantic import BaseModel

    from storage.inspect import AgentRow, AgentView, ChainVerdict, Transition

Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="domain/kind/key")]

_CARRIED_OUT_S = 5.0  # how long a command waits to see its request carried out
_LOOK_EVERY_S = 0.05
_UNTOUCHED = "No message has ever reached"


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
    console().print(
        table(
            ("address", "lifecycle", "version", "waiting", "partition", "changed"),
            [
                (
                    r.address,
                    _lifecycle(r.lifecycle),
                    f"{r.version:,}",
                    _capped(r.waiting),
                    r.partition,
                    ago(r.updated_at),
                )
                for r in page
            ],
            right=("version", "waiting", "partition", "changed"),
        )
        if page
        else plain("No agent has had a turn yet.")
    )
    if more:
        note(f"There are more: --after '{page[-1].address}'")


@asynchronous
async def agent(
    address: Address,
    history: Annotated[int, typer.Option(min=0, max=10_000, help="Transitions to show.")] = 10,
    before: Annotated[int | None, typer.Option(metavar="VERSION", help="Only transitions below it.")] = None,
    messages: Annotated[int, typer.Option(min=0, max=10_000, help="Waiting messages to show.")] = 10,
    as_json: Json = False,
) -> int:
    """Show one agent: its state, mailbox, timers and history, with the hash chain verified."""
    from bus.address import parse_address
    from storage.inspect import LAST_VERSION, list_history, verify_history, view_agent

    place = parse_address(address)
    async with opened() as at:
        view = await view_agent(at.db, place, tenant=at.tenant, messages=messages, history=0)
        shown = await list_history(
            at.db, place, tenant=at.tenant, below=LAST_VERSION if before is None else before, limit=history
        )
        verdict = await verify_history(at.db, place, tenant=at.tenant)
    if as_json:
        emit(_as_json(view, shown, verdict))
    else:
        _show(view, shown, verdict)
    if not verdict.intact:
        note(f"Error: {verdict.broken} Somebody edited it; compare with a backup.")
    return 0 if verdict.intact else 1


@asynchronous
async def pause(
    address: Address,
    reason: Annotated[str, typer.Option(help="Stands in the agent's history.")] = "",
    as_json: Json = False,
) -> None:
    """Pause an agent: its messages wait in its mailbox until it is resumed."""
    from actors.control import Pause

    await _ask(address, Pause(reason=reason), "paused", as_json)


@asynchronous
async def resume(address: Address, as_json: Json = False) -> None:
    """Let a paused agent go on."""
    from actors.control import Resume

    await _ask(address, Resume(), "running", as_json)


async def _ask(address: str, request: BaseModel, wanted: str, as_json: bool) -> None:
    from bus.address import parse_address
    from bus.errors import InvalidAddress
    from storage.inspect import lifecycle_of, view_agent
    from storage.intake import Incoming, accept

    place = parse_address(address)
    async with opened(bus=True) as at:
        view = await view_agent(at.db, place, tenant=at.tenant, messages=1, history=0)
        untouched = _is_untouched(view)
        if untouched and wanted == "running":
            raise InvalidAddress(f"{_UNTOUCHED} {address}.", fix="There is nothing to resume.")
        message = Incoming(to=place, message=request, control=True)
        (accepted,) = await accept(at.db, at.transport, [message], tenant=at.tenant)

        async def is_done() -> bool:
            return await lifecycle_of(at.db, place, tenant=at.tenant) == wanted and not await still_waits(
                at, place, accepted.seq
            )

        done = await carried_out(at, is_done)
    if untouched:
        note(f"{_UNTOUCHED} {address}: it is created paused.")
    if as_json:
        emit({"address": address, "message": accepted.id, "wanted": wanted, "done": done})
    elif done:
        console().print(plain(f"{address} is {wanted}."))
    else:
        console().print(plain(f"Accepted: {address} will be {wanted} as soon as a host runs it."))


def _is_untouched(view: AgentView) -> bool:
    return view.version == 0 and view.mailbox_size == 0 and not view.timers


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


# -- one agent on the terminal -----------------------------------------------------------------------


def _show(view: AgentView, history: list[Transition], verdict: ChainVerdict) -> None:
    out = console()
    title = plain(view.address, "bold")
    title.append("  ")
    title.append_text(_lifecycle(view.lifecycle))
    title.append(f"  version {view.version:,}")
    if view.updated_at is not None:
        title.append(f", changed {ago(view.updated_at)} ago")
    out.print(title)
    owner = "no host"
    if view.owner is not None:
        owner = f"{view.owner.host} (epoch {view.owner.epoch}, process {view.owner.pid}, node {view.owner.node[:12]})"
    out.print(plain(f"tenant {view.tenant}, partition {view.partition}, owned by {owner}", "dim"))
    if _is_untouched(view):
        out.print(plain(f"{_UNTOUCHED} it.", "yellow"))
        return
    _heading(out, "State")
    if view.state is None:
        out.print(plain("none", "dim"))
    else:
        _print_json(out, view.state)
    _heading(out, f"Mailbox: {view.mailbox_size:,} waiting")
    if view.mailbox:
        out.print(
            table(
                ("number", "type", "from", "waits for", "failures", "last error"),
                [
                    (
                        "control" if m.seq < 0 else m.seq, m.header.type, m.header.sender,
                        _span_since(m.header.sent_at), m.failures or "", m.last_error,
                    )
                    for m in view.mailbox
                ],
                right=("number", "failures"),
            )
        )  # fmt: skip
    if view.timers:
        _heading(out, "Timers")
        out.print(
            table(
                ("due", "type", "from"),
                [
                    (t.due_at.strftime("%Y-%m-%d %H:%M:%S UTC"), t.header.type, t.header.sender)
                    for t in view.timers
                ],
            )
        )
    _heading(out, "History, newest first")
    for transition in history:
        _print_transition(out, transition)
    if not verdict.intact:
        out.print(plain(f"✗ {verdict.broken}", "bold red"))
    elif verdict.length == 0:
        out.print(plain("no turn yet", "dim"))
    else:
        since = f" (since version {verdict.since:,}; older months were dropped)" if verdict.since != 1 else ""
        out.print(plain(f"✓ the chain of {verdict.length:,} transitions is intact{since}", "green"))


def _heading(out: Any, text: str) -> None:
    out.print()
    out.print(plain(text, "bold"))


def _print_transition(out: Any, transition: Transition) -> None:
    body = json.loads(transition.body)
    header = body["message"]["header"]
    line = plain(f"{transition.version:>6,}  ", "bold")
    line.append(transition.at.strftime("%Y-%m-%d %H:%M:%S "), "dim")
    decision = str(body["decision"])
    line.append(clean(decision), "red" if "dead" in decision else "green")
    line.append(f"  {clean(header['type'])}")
    line.append(f" from {clean(header['sender'])}", "dim")
    out.print(line)
    for note_ in body["notes"]:
        facts = {name: value for name, value in note_.items() if name != "decision"}
        text = f"{note_.get('decision', '')} {json.dumps(facts, ensure_ascii=False) if facts else ''}"
        out.print(plain(f"        why: {text}", "cyan"))
    for sent in body["sends"]:
        out.print(plain(f"        sent {sent['type']} to {sent['to']}", "dim"))


def _print_json(out: Any, text: str) -> None:
    from rich.json import JSON

    # The JSON view colours the text that json.dumps makes again, so that no raw control character gets out.
    pretty = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    if is_terminal():
        out.print(JSON(clean(pretty, lines=True), indent=2))
    else:
        out.print(clean(pretty, lines=True), markup=False)


def _as_json(view: AgentView, history: list[Transition], verdict: ChainVerdict) -> dict[str, Any]:
    return {
        "address": view.address,
        "tenant": view.tenant,
        "partition": view.partition,
        "lifecycle": view.lifecycle,
        "version": view.version,
        "schema_version": view.schema_version,
        "state": json.loads(view.state) if view.state is not None else None,
        "updated_at": view.updated_at,
        "owner": view.owner,
        "mailbox": {"size": view.mailbox_size, "head": view.mailbox},
        "timers": view.timers,
        "chain": verdict,
        "history": [
            {"version": t.version, "at": t.at, "prev": t.prev, "hash": t.hash, "body": json.loads(t.body)}
            for t in history
        ],
    }


_COLOURS = {"running": "green", "paused": "yellow", "destroyed": "red"}


def _lifecycle(word: str) -> Any:
    return plain(word, _COLOURS.get(word, "dim"))


def _capped(waiting: int) -> str:
    return "1,000+" if waiting >= 1000 else f"{waiting:,}"


def _span_since(moment: float) -> str:
    from datetime import UTC, datetime

    return ago(datetime.fromtimestamp(moment, UTC))
