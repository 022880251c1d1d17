"""What a turn that has not ended waits for, and why an agent is paused, in words."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from callboard.cli.terminal import ago, clean, count, plain, span

if TYPE_CHECKING:
    from rich.text import Text

    from bus.envelope import Header
    from storage.inspect import AgentRow, OpenTurn, PromiseView

_DIGEST = 12  # of its characters, as `callboard domains` shows it
_END = "the end"  # called where a handler should have called something
_PROMISES = 10  # that are named; JSON has all


def row_waits_for(row: AgentRow) -> str:
    """One cell of a list."""
    if row.turn is None:
        return ""
    if row.waits_for is None:
        return f"failed {row.failures}×: {row.last_error}" if row.failures else "runs"
    text = waits_for(row.waits_for, row.waits_on or "", row.due_at)
    if row.pending == 1:
        return text
    return f"{text} and {'99+' if row.pending > 99 else row.pending - 1} more"


def waits_for(kind: str, what: str, due_at: datetime | None) -> str:
    """What a promise of a kind waits for: `what` is its target, or else its name."""
    if kind == "sleep":
        return f"until {moment(due_at)}" if due_at is not None else "sleep"
    text = f"an answer from {what}" if kind == "ask" else f"{kind} {what}"
    return text if due_at is None else f"{text}, until {moment(due_at)}"


def moment(at: datetime) -> str:
    """A time, with the day unless that is today."""
    at = at.astimezone(UTC)
    return f"{at:%H:%M:%S}" if at.date() == datetime.now(UTC).date() else f"{at:%Y-%m-%d %H:%M:%S}"


def named(header: Header) -> str:
    """A message by its type, and what it was before."""
    return header.type if header.letter is None else f"{header.type} {again(header.letter)}"


def again(letter: int) -> str:
    """That a message is a dead letter which was retried."""
    return f"(dead letter {letter} again)"


def turn_lines(turn: OpenTurn) -> list[Text]:
    """An open turn: its message, since when, where it is, what it has recorded, what it waits for, how it failed."""
    first = plain(named(turn.header), "bold")
    first.append(f" from {clean(turn.header.sender)}")
    began = datetime.fromtimestamp(turn.began_at, UTC)
    first.append(f", begun {ago(began)} ago ({moment(began)} UTC)", "dim")
    where = "put away, and holds no memory" if turn.put_away else "in memory, or about to be"
    lines = [first, plain(f"  {where}; {count(turn.recorded, 'call')} recorded", "dim"), *_code(turn)]
    lines += [_promise_line(promise) for promise in turn.pending[:_PROMISES]]
    if len(turn.pending) > _PROMISES:
        lines.append(plain(f"  and {len(turn.pending) - _PROMISES:,} more (--json has them)", "dim"))
    if turn.failures:
        text = f"  failed {turn.failures}×: {turn.last_error}"
        if turn.retry_at is not None and (left := (turn.retry_at - datetime.now(UTC)).total_seconds()) > 0:
            text += f"; tries again in {span(left)}"
        lines.append(plain(text, "red"))
    elif turn.last_error:
        lines.append(plain(f"  {turn.last_error}", "yellow"))
    if turn.trials:
        lines.append(plain(f"  its host has died {turn.trials}× while it ran", "red"))
    return lines


def _code(turn: OpenTurn) -> list[Text]:
    """Which of the domain's code it began with; that of a domain in tests has no digest."""
    if not turn.code:
        return []
    begun = f"  begun with code {turn.code[:_DIGEST]}"
    if turn.code == turn.code_now:
        return [plain(f"{begun}, which the domain has now", "dim")]
    return [plain(f"{begun}; the domain has {turn.code_now[:_DIGEST]} now", "yellow")]


def promise_text(promise: PromiseView) -> str:
    """What it waits for, since when, and what one needs to resolve it."""
    text = waits_for(promise.kind, promise.target or promise.name, promise.due_at)
    if promise.target is None and promise.kind != "sleep":
        text += f" {promise.id}"
    text += f", for {ago(promise.created_at)} now"
    return text if promise.target is None else f"{text} ({promise.name})"


def _promise_line(promise: PromiseView) -> Text:
    line = plain("  sleeps " if promise.kind == "sleep" else "  waits for ", "yellow")
    line.append(clean(promise_text(promise)))
    return line


def show_pause(out: Any, address: str, paused: dict[str, Any]) -> None:
    """Why an agent is paused; of a NonDeterministicHandler both keys, and of an approval what differs."""
    out.print()
    line = plain("Paused ", "bold yellow")
    line.append(f"{ago(paused['at'])} ago", "dim")
    out.print(line)
    if "called" in paused:
        out.print(plain(f"  NonDeterministicHandler at {paused['place']}", "red"))
        is_call = paused["called"] != _END
        does = f"calls   {paused['called']}" if is_call else "ends    without that"
        out.print(plain(f"    the handler {does}"))
        out.print(plain(f"    the journal has     {paused['recorded']}"))
        if "differs" in paused:
            out.print(plain(f"    what differs        {paused['differs']}"))
        out.print(plain("  Nothing is lost. Once the handler does again what it did:", "dim"))
    elif paused.get("reason"):
        out.print(plain(f"  {paused['reason']}"))
    out.print(plain(f"  callboard resume {shlex.quote(address)}"))
    if "called" in paused:
        out.print(
            plain(
                f"  Or look at it, `callboard turn show {shlex.quote(address)}`, and `turn retry`, `turn edit` or `turn skip` it."
            ),
            soft_wrap=True,
        )
