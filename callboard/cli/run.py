"""`callboard run`: one task in one domain, from a file to a result."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from callboard.cli.approving import Approve, Mode, check_mode, decider
from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.terminal import clean, count, is_terminal, note

if TYPE_CHECKING:
    from actors.domain import DomainSpec
    from bus.task_limits import TaskLimits
    from callboard.cluster import Cluster
    from callboard.settings import Settings


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
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            help="What it may use with all that it starts: hops, asks, steps, wall_s, tokens or cost. May be repeated.",
        ),
    ] = None,
    approve: Approve = Mode.ASK,
    as_json: Json = False,
) -> int:
    """Run one task of a domain and show its result. Joins a running Callboard, or starts one for itself,
    which the last of those who use it stops. What is interrupted goes on: `callboard task ID --follow`.

    The exit code is 1 when the task fails, or is stuck behind a dead letter: then it stays open, to be mended.
    """
    from actors.domain import check_domain, read_domain
    from bus.errors import InvalidTask
    from bus.task_limits import read_limits
    from callboard.cli.feeding import check_head
    from callboard.cli.input_file import read_head, read_json, require_text
    from callboard.settings import load_settings
    from coordinators.equipment import SYSTEM_KINDS
    from storage.tasks import check_terms

    # What is wrong is said before anything is started; and outside the event loop Ctrl-C ends a read.
    settings = load_settings()
    try:
        limits = read_limits(limit or ())
    except InvalidTask as error:
        raise typer.BadParameter(str(error), param_hint="--limit") from None
    spec = read_domain(domain_dir)
    given: Any = {}
    head = None if input_file is None else read_head(input_file)
    if input_file is not None:
        if head is not None and not spec.binary_input and spec.input_check is None:
            require_text(input_file, head)
        if spec.input is None:
            given = read_json(input_file)
    elif spec.tasks.needs_input:
        raise typer.BadParameter(
            f"A task of {spec.domain} needs an input. Give `--input FILE`; - is standard input."
        )
    ends_at = None if deadline is None else time.time() + deadline
    check_terms(goal or spec.domain, given, priority, ends_at, None)
    check_mode(approve, spec)
    check_domain(spec, domain_dir, for_tasks=True, system_kinds=SYSTEM_KINDS)
    if input_file is not None and head is not None and spec.input_check is not None:
        check_head(spec, domain_dir, input_file, head)
    return _run(
        settings, spec, domain_dir, input_file, given, goal, priority, deadline, limits, approve, as_json
    )


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
    limits: TaskLimits,
    approve: Mode,
    as_json: bool,
) -> int:
    from callboard.cli.feeding import Publisher, feed
    from callboard.cli.feeding_view import shown_feeding
    from callboard.cli.following import follow_to_end
    from callboard.cli.moved import say_if_moved
    from callboard.runtime import running_cluster

    async with running_cluster(settings, only=spec.domain, progress=note) as cluster:
        await say_if_moved(cluster.postgres, spec.domain, domain_dir)
        domain = await cluster.add_domain(domain_dir)
        await cluster.ready(domain.name, progress=note)
        from bus.envelope import new_id
        from bus.task_ref import task_ref
        from coordinators.tasks.client import TaskClient

        task_id = new_id()
        decide = decider(approve, domain.spec, cluster, task_ref(task_id, domain.name))
        await _say_if_asked(cluster, domain.name)
        publisher = Publisher(cluster.events, domain.name, task_id, settings.tenant)
        live = is_terminal() and not as_json
        what = named(input_file)
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
            limits=limits,
            task_id=task_id,
        )
        note(f"task {task_id} submitted")
        return await follow_to_end(cluster, domain.name, task_id, decide, live=live, as_json=as_json)


def named(input_file: str | None) -> str:
    """What the task is about, in the words of its goal: a file's name may be no text."""
    if input_file == "-":
        return "standard input"
    return "input" if input_file is None else clean(Path(input_file).name)


async def _say_if_asked(cluster: Cluster, domain: str) -> None:
    """What an earlier task waits for is forgotten easily: its own `run` may be long gone."""
    from storage.decisions import waiting
    from storage.journal import Kind

    found = await waiting(
        cluster.postgres, tenant=cluster.settings.tenant, kinds=(Kind.APPROVAL, Kind.OUTCOME)
    )
    if of_domain := sum(promise.domain == domain for promise in found):
        note(f"Earlier tasks of {domain} wait for {count(of_domain, 'decision')}: `callboard approvals`")
