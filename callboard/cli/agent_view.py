"""One agent on the terminal and as JSON: its state, its open turn, its mailbox and its history."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from callboard.cli.agent_timeline import dropped_text
from callboard.cli.table import Beside, table
from callboard.cli.terminal import ago, bounded_json, clean, console, count, is_terminal, plain
from callboard.cli.waits import again, named, show_pause, turn_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from storage.inspect import AgentView, ChainVerdict, PastState, Transition

UNTOUCHED = "No message has ever reached"


def show_agent(
    view: AgentView, history: list[Transition], verdict: ChainVerdict, alike: Sequence[str] = ()
) -> None:
    """With the addresses that begin as that of an agent which nothing has reached: one of them may have been meant."""
    out = console()
    title = plain(view.address, "bold")
    title.append("  ")
    if not (view.is_untouched and view.lifecycle == "created"):  # it exists as any address does
        title.append_text(lifecycle_word(view.lifecycle))
        title.append("  ")
    title.append(f"version {view.version:,}")
    if view.updated_at is not None:
        title.append(f", changed {ago(view.updated_at)} ago")
    out.print(title)
    owner = "no host"
    if view.owner is not None:
        owner = f"{view.owner.host} (epoch {view.owner.epoch}, process {view.owner.pid}, node {view.owner.node[:12]})"
    out.print(plain(f"tenant {view.tenant}, partition {view.partition}, owned by {owner}", "dim"))
    if view.is_untouched:
        out.print(plain(f"{UNTOUCHED} it.", "yellow"))
        if alike:
            out.print(plain(f"Agents whose keys begin so: {clean(', '.join(alike))}"), soft_wrap=True)
        return
    if view.paused is not None:
        show_pause(out, view.address, view.paused)
    _heading(out, "State")
    if view.state is None:
        out.print(plain("none", "dim"))
    else:
        _print_json(out, view.state)
    if view.open_turn is not None:
        _heading(out, "Open turn")
        for line in turn_lines(view.open_turn):
            out.print(line)
    _heading(out, f"Mailbox: {view.mailbox_size:,} waiting")
    if view.mailbox:
        out.print(
            table(
                ("number", "type", "from", "waits for", "failures", "last error"),
                [
                    (
                        "control" if m.seq < 0 else m.seq, named(m.header), m.header.sender,
                        _span_since(m.header.sent_at), m.failures or "", m.last_error,
                    )
                    for m in view.mailbox
                ],
                right=("number", "failures"),
                whole=("type", "from"),
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
                whole=("due", "type", "from"),
            )
        )
    _heading(out, "History, newest first")
    for transition in history:
        try:
            _print_transition(out, transition)
        except (LookupError, TypeError, AttributeError):
            if verdict.intact:
                raise
            out.print(plain(f"{transition.version:>6,}  is no transition", "red"))
    if not verdict.intact:
        out.print(plain(f"✗ {verdict.broken}", "bold red"))
    elif verdict.length == 0 and verdict.dropped is None:
        out.print(plain("no turn yet", "dim"))
    else:
        gone = ""
        if verdict.dropped is not None and verdict.dropped_at is not None:
            gone = f" ({dropped_text(verdict.dropped, verdict.dropped_at)})"
        out.print(plain(f"✓ the chain of {count(verdict.length, 'transition')} is intact{gone}", "green"))


def show_past(past: PastState) -> None:
    """The state as it was at a version."""
    out = console()
    title = plain(past.address, "bold")
    title.append("  ")
    title.append_text(lifecycle_word(past.lifecycle))
    title.append(f"  version {past.version:,} of {past.newest:,}, {past.at:%Y-%m-%d %H:%M:%S} UTC")
    out.print(title)
    out.print(plain(f"{past.decision} {past.header.type} from {past.header.sender}", "dim"))
    _heading(out, "State")
    if past.state is None:
        out.print(plain("none: it was destroyed" if past.lifecycle == "destroyed" else "none", "dim"))
    else:
        _print_json(out, past.state)
        out.print()
        out.print(plain(f"✓ sha256 {past.state_hash} is the one in its history", "green"))


def past_json(past: PastState) -> dict[str, Any]:
    return {
        **{name: getattr(past, name) for name in past.__struct_fields__},
        "state": json.loads(past.state) if past.state is not None else None,
    }


def _heading(out: Any, text: str) -> None:
    out.print()
    out.print(plain(text, "bold"))


def _print_transition(out: Any, transition: Transition) -> None:
    body = json.loads(transition.body)
    header = body["message"]["header"]
    head = plain(f"{transition.version:>6,}  ", "bold")
    head.append(transition.at.strftime("%Y-%m-%d %H:%M:%S "), "dim")
    decision = str(body["decision"])
    line = plain(clean(decision), "red" if "dead" in decision else "green")
    line.append(f"  {clean(header['type'])}")
    if "letter" in header:
        line.append(f" {again(header['letter'])}", "yellow")
    line.append(f" from {clean(header['sender'])}", "dim")
    out.print(Beside(head, line))
    for note_ in body["notes"]:
        facts = {name: value for name, value in note_.items() if name != "decision"}
        text = f"{note_.get('decision', '')} {json.dumps(facts, ensure_ascii=False) if facts else ''}"
        out.print(Beside(plain("        why: ", "cyan"), plain(text, "cyan")))
    for sent in body["sends"]:
        out.print(Beside(plain("        sent ", "dim"), plain(f"{sent['type']} to {sent['to']}", "dim")))


def _print_json(out: Any, text: str) -> None:
    from rich.highlighter import JSONHighlighter
    from rich.text import Text

    beginning, rest = bounded_json(json.loads(text))
    shown = Text(beginning)
    out.print(JSONHighlighter()(shown) if is_terminal() else shown, soft_wrap=True)
    if rest:
        out.print(plain(rest, "yellow"))


def agent_json(view: AgentView, history: list[Transition], verdict: ChainVerdict) -> dict[str, Any]:
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
        "open_turn": view.open_turn,
        "paused": view.paused,
        "chain": verdict,
        "history": [
            {"version": t.version, "at": t.at, "prev": t.prev, "hash": t.hash, "body": json.loads(t.body)}
            for t in history
        ],
    }


_COLOURS = {"running": "green", "paused": "yellow", "destroyed": "red"}


def lifecycle_word(word: str) -> Any:
    return plain(word, _COLOURS.get(word, "dim"))


def _span_since(moment: float) -> str:
    from datetime import UTC, datetime

    return ago(datetime.fromtimestamp(moment, UTC))
