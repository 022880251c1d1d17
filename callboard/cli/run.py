"""`callboard run`: one task in one domain, from a file to a result."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.terminal import console, count, emit, is_terminal, note

if TYPE_CHECKING:
    from actors.domain import DomainSpec
    from callboard.cli.follow import Snapshot
    from callboard.cluster import Cluster
    from callboard.settings import Settings
    from storage.inspect import TaskView

_SAY_EVERY_S = 5.0  # how often a plain log says how the domain is doing


def run(
    domain_dir: Annotated[
        Path, typer.Argument(metavar="DOMAIN_DIR", help="The folder with the domain.yaml.")
    ],
    input_file: Annotated[
        str | None,
        typer.Option("--input", "-i", metavar="FILE", help="What the task is about; - is standard input."),
    ] = None,
    goal: Annotated[str | None, typer.Option(help="The task's goal in words.")] = None,
    priority: Annotated[int, typer.Option(min=0, max=10, help="Higher goes first.")] = 5,
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0.001, help="It must be done in so long.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Run one task of a domain and show its result. Joins a running Callboard, or starts one for itself,
    which the last of those who use it stops.

    The exit code is 1 when the task fails, or is stuck behind a dead letter: then it stays open, to be mended.
    """
    from actors.domain import check_domain, read_domain
    from bus.errors import InvalidTask
    from callboard.cli.feeding import check_input, read_json
    from callboard.settings import load_settings
    from coordinators.equipment import SYSTEM_KINDS

    # What is wrong is said before anything is started; and outside the event loop Ctrl-C ends a read.
    settings = load_settings()
    spec = read_domain(domain_dir)
    given: Any = {}
    if input_file is not None:
        check_input(input_file, binary=spec.binary_input)
        if spec.input is None:
            given = read_json(input_file)
    elif spec.tasks.needs_input:
        raise InvalidTask(
            f"A task of {spec.domain} needs an input.", fix="Give `--input FILE`; - is standard input."
        )
    check_domain(spec, domain_dir, for_tasks=True, system_kinds=SYSTEM_KINDS)
    return _run(settings, spec, domain_dir, input_file, given, goal, priority, deadline, as_json)


@asynchronous
async def _run(
    settings: Settings,
    spec: DomainSpec,
    domain_dir: Path,
    input_file: str | None,
    given: Any,
    goal: str | None,
    priority: int,
    deadline: float | None,
    as_json: bool,
) -> int:
    from callboard.cli.feeding import Publisher, feed
    from callboard.cli.feeding_view import shown_feeding
    from callboard.cli.moved import say_if_moved
    from callboard.cli.task_view import failure_of
    from callboard.runtime import running_cluster

    async with running_cluster(settings, only=spec.domain, progress=note) as cluster:
        await say_if_moved(cluster.postgres, spec.domain, domain_dir)
        domain = await cluster.add_domain(domain_dir)
        await cluster.ready(domain.name, progress=note)
        from bus.envelope import new_id
        from coordinators.tasks.client import TaskClient

        task_id = new_id()
        publisher = Publisher(cluster.events, domain.name, task_id, settings.tenant)
        live = is_terminal() and not as_json
        what = "input" if input_file in (None, "-") else Path(str(input_file)).name
        if spec.input is not None and input_file is not None:
            async with shown_feeding(publisher, what, live=live):
                given = await feed(spec.input, input_file, publisher, task_id)
            if publisher.published:
                note(f"{count(publisher.published, 'event')} published")
        await TaskClient(cluster.postgres, cluster.transport, tenant=settings.tenant).submit(
            domain.name,
            goal=goal or f"{domain.name}: {what}",
            input=given,
            priority=priority,
            deadline=time.time() + deadline if deadline is not None else None,
            task_id=task_id,
        )
        note(f"task {task_id} submitted")
        try:
            task = await _follow(cluster, domain.name, task_id, live=live)
        except asyncio.CancelledError:
            note(f"Task {task_id} goes on whenever Callboard runs: `callboard task {task_id}`.")
            raise
        if task.finished_at is None:
            await _say_what_it_waits_for(cluster, task)
            return 1
        if task.status != "completed":
            reason = failure_of(task.error) if task.error is not None else "it gave no reason"
            note(f"Error: the task ended as {task.status}: {reason}")
            return 1
        _show(json.loads(task.result or "null"), as_json)
    return 0


async def _follow(cluster: Cluster, domain: str, task_id: str, *, live: bool) -> TaskView:
    from callboard.cli.follow import snapshots
    from callboard.cli.waiting_events import WaitingEvents
    from callboard.services import running_endpoints

    settings = cluster.settings
    watch: Any = snapshots(
        cluster.postgres,
        cluster.transport,
        domain,
        task_id,
        settings.tenant,
        runs=lambda: running_endpoints(settings) is not None,
        waiting=WaitingEvents(cluster.postgres, cluster.transport),
    )
    with ExitStack() as stack:
        show = _Live(stack) if live else _Lines()
        async with aclosing(watch):
            async for snapshot in watch:
                show(snapshot)
                if snapshot.is_stuck:
                    break
    task: TaskView = snapshot.task
    return task


async def _say_what_it_waits_for(cluster: Cluster, task: TaskView) -> None:
    from callboard.cli.task_view import trouble_lines
    from storage.inspect import list_dead_letters_of_task

    letters = await list_dead_letters_of_task(cluster.postgres, task.ref, tenant=cluster.settings.tenant)
    note(f"Error: the task is stuck: {len(letters)} of its messages could not be handled.")
    for line in trouble_lines(task, letters):
        note(line)
    note(f"It stays open, and goes on once that is done: `callboard task {task.id}`.")


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
    """Lines on standard error: the task's log, and now and then how the domain is doing."""

    def __init__(self) -> None:
        self._said = time.monotonic()
        self._paused: list[str] = []

    def __call__(self, snapshot: Snapshot) -> None:
        from callboard.cli.live import plain_line
        from callboard.cli.task_view import event_line, paused_line

        for event in snapshot.fresh:
            note(event_line(snapshot.task, event).plain)
        for address in snapshot.paused:
            if address not in self._paused:
                note(f"It waits: {paused_line(address)}")
        self._paused = snapshot.paused
        if time.monotonic() - self._said >= _SAY_EVERY_S or snapshot.has_ended:
            self._said = time.monotonic()
            note(plain_line(snapshot))


def _show(result: Any, as_json: bool) -> None:
    from callboard.cli.task_view import show_result

    if as_json:
        emit(result)
    else:
        show_result(console(), result)
