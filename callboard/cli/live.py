"""The live view of a task: its progress, its log, and the hosts of its domain, at 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from callboard.cli.asked import asked_lines
from callboard.cli.status import host_state
from callboard.cli.task_view import COLOURS, event_line, idle_lines, paused_line
from callboard.cli.terminal import clean, count, plain, size
from callboard.room import lack_text

if TYPE_CHECKING:
    from callboard.cli.follow import Snapshot

_LOG_LINES = 12
_MOST_HOSTS = 8
_MOST_ASKED = 2  # decisions; the list has all
_BAR_WIDTH = 30


def view(snapshot: Snapshot, height: int) -> Any:
    """One frame, never higher than the terminal."""
    from rich.console import Group

    task, hosts = snapshot.task, snapshot.hosts
    head = plain(task.goal, "bold")
    head.no_wrap, head.overflow = True, "ellipsis"
    parts: list[Any] = [head, _progress(snapshot), _figures(snapshot)]
    troubles = [paused_line(each) for each in snapshot.paused]
    if snapshot.lack is not None:
        troubles.insert(0, lack_text(snapshot.lack))
    if snapshot.idle:
        troubles += idle_lines(task)
    for trouble in troubles:
        line = plain(trouble, "yellow")
        line.no_wrap, line.overflow = True, "ellipsis"
        parts.append(line)
    asked = _asked(snapshot)
    parts += asked
    shown_hosts = min(len(hosts), _MOST_HOSTS)
    if hosts:
        parts.append(_hosts(snapshot))
    room = max(3, height - 8 - len(troubles) - len(asked) - (shown_hosts + 3 if hosts else 0))
    lines = snapshot.log[-min(_LOG_LINES, room) :]
    hidden = len(snapshot.log) - len(lines)
    if hidden:
        parts.append(plain(f"… {hidden} earlier", "dim"))
    for event in lines:
        line = event_line(task, event)
        line.no_wrap, line.overflow = True, "ellipsis"
        parts.append(line)
    return Group(*parts)


def _asked(snapshot: Snapshot) -> list[Any]:
    """What waits for a person, with the command that decides it."""
    lines = asked_lines(snapshot.waits_for, _MOST_ASKED)
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return lines


def _progress(snapshot: Snapshot) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    task = snapshot.task
    row = Table.grid(padding=(0, 2))
    row.add_row(
        ProgressBar(total=1.0, completed=task.progress, width=_BAR_WIDTH),
        plain(f"{task.progress:.0%}"),
        plain(task.status, COLOURS.get(task.status, "cyan")),
        plain(f"{snapshot.elapsed_s:.0f} s", "dim"),
    )
    return row


def _figures(snapshot: Snapshot) -> Any:
    hosts = snapshot.hosts
    line = plain(snapshot.task.domain, "bold")
    waiting = snapshot.events_waiting
    for name, figure in (
        ("hosts", f"{sum(h.ready and not h.is_silent for h in hosts)}/{len(hosts)}"),
        ("events", "?" if waiting is None else f"{waiting:,}"),
        ("backlog", f"{sum(h.backlog for h in hosts):,}"),
        ("turns/s", f"{snapshot.turns_per_s:,.0f}"),
        ("agents", f"{sum(h.agents for h in hosts):,}"),
    ):
        line.append(f"   {name} ", "dim")
        line.append(figure)
    return line


def _hosts(snapshot: Snapshot) -> Any:
    from rich import box
    from rich.table import Table

    made = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="dim",
        show_edge=False,
        padding=(0, 1),
        collapse_padding=True,
    )
    # Where it is narrow, the name and the state are cut short: figures are shown whole or not at all.
    made.add_column("host", no_wrap=True, overflow="ellipsis", min_width=13, max_width=16)
    made.add_column("state", no_wrap=True, overflow="ellipsis", max_width=20)
    for name, width in (("partitions", 10), ("backlog", 8), ("turns", 9), ("memory", 7)):
        made.add_column(name, justify="right", no_wrap=True, min_width=width)
    for host in snapshot.hosts[:_MOST_HOSTS]:
        made.add_row(
            plain(host.host),
            host_state(host),
            plain(len(host.owned)),
            plain(f"{host.backlog:,}"),
            plain(f"{host.turns:,}"),
            plain(size(host.rss_bytes)),
        )
    return made


def plain_line(snapshot: Snapshot) -> str:
    """The same on one line, for output that is no terminal."""
    task, hosts = snapshot.task, snapshot.hosts
    events = f"{count(snapshot.events_waiting, 'event')} waiting, " if snapshot.events_waiting else ""
    asked = f", {count(len(snapshot.asked), 'decision')} waited for" if snapshot.asked else ""
    # "0% failed" would read as if nothing had.
    ended = task.status in ("failed", "cancelled")
    state = f"{task.status} at {task.progress:.0%}" if ended else f"{task.progress:.0%} {task.status}"
    return clean(
        f"{state}, {count(len(hosts), 'host')}, {events}"
        f"backlog {sum(h.backlog for h in hosts):,}, {snapshot.turns_per_s:,.0f} turns/s{asked}"
    )
