"""`callboard domains`: list them; remove one, with its data if wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from callboard.cli.connection import opened
from callboard.cli.options import Json
from callboard.cli.running import FAILED, asynchronous
from callboard.cli.table import table
from callboard.cli.terminal import console, count, emit, note, plain

if TYPE_CHECKING:
    from storage.inspect import DomainView

app = typer.Typer(invoke_without_command=True, help="List the domains; remove one.", add_completion=False)

_COLOURS = {"active": "green", "asleep": "dim", "removed": "yellow", "deleting": "red"}
_DIGEST = 12  # characters of a code digest that tell two apart


@app.callback()
def domains(context: typer.Context, as_json: Json = False) -> int:
    if context.invoked_subcommand is not None:
        return 0
    return _list(as_json)


@asynchronous
async def _list(as_json: bool) -> None:
    from storage.inspect import list_domains

    async with opened() as at:
        found = await list_domains(at.db)
    if as_json:
        emit({"domains": [_as_json(domain) for domain in found]})
        return
    if not found:
        console().print(plain("No domain yet. Add one with `callboard up DOMAIN_DIR`."))
        return
    console().print(
        table(
            ("domain", "state", "partitions", "hosts", "agents", "kinds", "code"),
            [
                (
                    d.domain, plain(d.state, _COLOURS[d.state]), d.partitions, d.hosts, f"{d.agents:,}",
                    ", ".join(_kinds(d)), d.code[:_DIGEST],
                )
                for d in found
            ],
            right=("partitions", "hosts", "agents"),
            whole=("domain", "state", "code"),
        )
    )  # fmt: skip


@app.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The domain.")],
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Delete its agents, history, tasks and events for good.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even with tasks that have not ended.")] = False,
    as_json: Json = False,
) -> int:
    """End a domain's hosts and coordinator, and start no more. Its data stays, and registering it again brings
    it back, unless --delete-data."""
    # The question stands outside the event loop, so that Ctrl-C ends it.
    if not yes:
        question = _ask_about(name, delete_data, force)
        if not _confirm(question):
            note("Nothing was changed.")
            return FAILED
    return _remove(name, delete_data, force, as_json)


@asynchronous
async def _look(name: str, force: bool, found: list[DomainView]) -> None:
    from bus.errors import DomainBusy
    from storage.domains import find_domain
    from storage.inspect import list_domains

    async with opened() as at:
        await find_domain(at.db, name, removed=True)
        found += [domain for domain in await list_domains(at.db) if domain.domain == name]
    if found[0].state != "removed" and found[0].open_tasks and not force:
        raise DomainBusy(
            f"The domain {name!r} has {count(found[0].open_tasks, 'task')} that have not ended.",
            fix=f"`callboard tasks --domain {name} --open` lists them; wait for them, or give --force.",
        )


def _ask_about(name: str, delete_data: bool, force: bool) -> str:
    found: list[DomainView] = []
    _look(name, force, found)
    domain = found[0]
    what = (
        f"{count(domain.agents, 'agent')}, {count(domain.backlog, 'waiting message')}, "
        f"{count(domain.timers, 'timer')}, {count(domain.open_tasks, 'unfinished task')}"
    )
    if delete_data:
        return f"Delete the domain {name} for good, with its history ({what})?"
    return f"Remove the domain {name}? Its data stays ({what})."


def _confirm(question: str) -> bool:
    import sys

    from bus.errors import SettingsError

    if not sys.stdin.isatty():
        raise SettingsError("Nobody is there to confirm it.", fix="Give --yes.")
    return typer.confirm(question, err=True)


@asynchronous
async def _remove(name: str, delete_data: bool, force: bool, as_json: bool) -> None:
    from callboard.removal import remove_domain

    async with opened(bus=True) as at:
        assert at.transport is not None
        done = await remove_domain(
            at.db, at.transport, name, delete_data=delete_data, force=force, progress=note
        )
    if as_json:
        emit(done)
    elif done.data_deleted:
        console().print(plain(f"{name} is removed, and its data deleted."))
    else:
        console().print(
            plain(f"{name} is removed. Its data stays: `callboard up DOMAIN_DIR` brings it back.")
        )


def _kinds(domain: DomainView) -> list[str]:
    """The kinds of its authors, without those that every domain has."""
    from actors.task_messages import TASK_KIND

    return [kind for kind in domain.kinds if kind != TASK_KIND]


def _as_json(domain: DomainView) -> dict[str, object]:
    shown = {name: getattr(domain, name) for name in domain.__struct_fields__}
    return {**shown, "kinds": _kinds(domain)}
