"""Following a task to its end: what `run` and `task --follow` show meanwhile, and how they end."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack, aclosing
from typing import TYPE_CHECKING, Any

from callboard.cli.terminal import console, emit, note

if TYPE_CHECKING:
    from callboard.cli.approving import Decider
    from callboard.cli.follow import Snapshot
    from callboard.cluster import Cluster
    from storage.domains import Connection
    from storage.inspect import PausedWork, TaskView

_SAY_EVERY_S = 5.0  # how often a plain log says how the domain is doing
_SAY_ASKED_EVERY_S = 600.0  # and how often that it waits for people, if that is all it does


async def follow_to_end(
    cluster: Cluster, domain: str, task_id: str, decide: Decider, *, live: bool, as_json: bool
) -> int:
    """Show a task until it has ended or is stuck, then its result; return the exit code."""
    try:
        task = await _follow(cluster, domain, task_id, decide, live=live)
    except asyncio.CancelledError:
        note("The task is kept, and goes on whenever Callboard runs. To see its end:")
        note(f"    callboard task {task_id} --follow")
        raise
    if task.finished_at is None:
        await _say_what_it_waits_for(cluster, task)
        return 1
    return await show_end(cluster.postgres, task, as_json=as_json)


async def show_end(db: Connection, task: TaskView, *, as_json: bool) -> int:
    """Show how a task has ended; return the exit code."""
    if task.status != "completed":
        from callboard.cli.task_view import code_lines, failure_of
        from storage.inspect import list_dead_letters_of_task

        reason = failure_of(task.error) if task.error is not None else "it gave no reason"
        note(f"Error: the task ended as {task.status}: {reason}")
        for line in code_lines(await list_dead_letters_of_task(db, task.ref, tenant=task.tenant)):
            note(line)
        return 1
    _show(json.loads(task.result or "null"), as_json)
    return 0


async def _follow(cluster: Cluster, domain: str, task_id: str, decide: Decider, *, live: bool) -> TaskView:
    from callboard.cli.follow import snapshots
    from callboard.cli.waiting_events import WaitingEvents
    from callboard.services import why_postgres_is_gone

    settings = cluster.settings
    watch: Any = snapshots(
        cluster.postgres,
        cluster.transport,
        domain,
        task_id,
        settings.tenant,
        gone=lambda: why_postgres_is_gone(settings),
        waiting=WaitingEvents(cluster.postgres, cluster.transport),
    )
    with ExitStack() as stack:
        show = _Live(stack) if live else _Lines()
        async with aclosing(watch):
            async for snapshot in watch:
                snapshot.asked = await decide(snapshot.asked)
                show(snapshot)
                if snapshot.is_stuck:
                    break
    task: TaskView = snapshot.task
    return task


async def _say_what_it_waits_for(cluster: Cluster, task: TaskView) -> None:
    from callboard.cli.asked import asked_lines
    from callboard.cli.task_view import trouble_lines
    from storage.decisions import OPEN, waiting_of_task
    from storage.inspect import list_dead_letters_of_task

    tenant = cluster.settings.tenant
    letters = await list_dead_letters_of_task(cluster.postgres, task.ref, tenant=tenant)
    asked = await waiting_of_task(cluster.postgres, task.ref, tenant=tenant, kinds=OPEN)
    note(f"Error: the task is stuck: {len(letters)} of its messages could not be handled.")
    for line in trouble_lines(task, letters):
        note(line)
    for text in asked_lines(asked):
        note(text.plain)
    note(f"It stays open, and goes on once that is done: `callboard task {task.id} --follow`.")


class _Live:
    """A view that stays in place."""

    def __init__(self, stack: ExitStack) -> None:
        from rich.live import Live

        self._console = console()
        self._live = stack.enter_context(Live(console=self._console, auto_refresh=False))

    def __call__(self, snapshot: Snapshot) -> None:
        from callboard.cli.live import view

        self._live.update(view(snapshot, self._console.height), refresh=True)


class _Lines:
    """Lines on standard error: the task's log, what it waits for, and now and then how the domain is doing."""

    def __init__(self) -> None:
        self._said = self._said_asked = time.monotonic()
        self._paused: list[PausedWork] = []
        self._lack: str | None = None
        self._idle = False
        self._asked: set[str] = set()

    def __call__(self, snapshot: Snapshot) -> None:
        from callboard.cli.live import plain_line
        from callboard.cli.task_view import event_line, idle_lines, paused_line

        for event in snapshot.fresh:
            note(event_line(snapshot.task, event).plain)
        for each in snapshot.paused:
            if each not in self._paused:
                note(f"It waits: {paused_line(each)}")
        self._paused = snapshot.paused
        self._say_lack(snapshot)
        self._say_asked(snapshot)
        if snapshot.idle and not self._idle:
            note(" ".join(idle_lines(snapshot.task)))
        self._idle = snapshot.idle
        # What waits for people alone is said rarely, and so is what stands still: nothing changes, perhaps for days.
        waits = snapshot.idle or (snapshot.waits_for and snapshot.quiet_s >= _SAY_EVERY_S)
        if (time.monotonic() - self._said >= _SAY_EVERY_S and not waits) or snapshot.has_ended:
            self._said = time.monotonic()
            note(plain_line(snapshot))

    def _say_lack(self, snapshot: Snapshot) -> None:
        """Once for each time that hosts begin to wait; how much is free may change often."""
        from callboard.room import lack_text

        lack = snapshot.lack
        waits_for = None if lack is None else lack.behind or "room"
        if lack is not None and waits_for != self._lack:
            note(f"{snapshot.task.domain}: {lack_text(lack)}")
        self._lack = waits_for

    def _say_asked(self, snapshot: Snapshot) -> None:
        from callboard.cli.asked import command_lines, waits_text

        again = time.monotonic() - self._said_asked >= _SAY_ASKED_EVERY_S
        for promise in snapshot.waits_for:
            if again or promise.id not in self._asked:
                note(f"It {waits_text(promise)}")
                for command in command_lines(promise):
                    note(f"    {command}")
                self._said_asked = time.monotonic()
        self._asked = {promise.id for promise in snapshot.waits_for}


def _show(result: Any, as_json: bool) -> None:
    from callboard.cli.task_view import show_result

    if as_json:
        emit(result)
    else:
        show_result(console(), result)
