"""The program `callboard`: its commands, and what every one of them shares."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.main import get_command

from callboard.cli import (
    agents,
    backup,
    bench,
    cancel,
    dead_letters,
    decisions,
    doctor,
    domains,
    events,
    gateway,
    ledger,
    pausing,
    promises,
    query,
    retention,
    run,
    schedules,
    status,
    tasks,
    turn,
    up,
    verify,
    version,
    vllm,
)
from callboard.cli.running import configure_logging, exit_code_of, leave, needs_command

_DEBUG = "--debug"
_NAME = "callboard"

app = typer.Typer(
    help="Durable multi-agent collaboration: run domains of agents, and look at what they do.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def _everywhere(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print Callboard's version.")] = False,
    debug: Annotated[
        bool, typer.Option(_DEBUG, help="Log everything, and show where an error came from.")
    ] = False,
) -> None:
    """`--debug` may stand anywhere: `main` has taken it out before."""
    if show_version:
        typer.echo(f"callboard {version.version_of('callboard')}")
        raise typer.Exit
    needs_command(context)


COMMANDS: tuple[Callable[..., Any], ...] = (
    run.run, up.up, up.down, status.status, tasks.task, cancel.cancel, agents.agents, agents.agent, query.query,
    pausing.pause,
    pausing.resume, decisions.approvals, decisions.approve, decisions.deny, schedules.schedules, events.events, gateway.gateway, vllm.vllm,
    doctor.doctor, backup.backup, backup.restore, retention.retention, verify.verify, version.version,
)  # fmt: skip
for _command in COMMANDS:
    app.command()(_command)
app.add_typer(tasks.app, name="tasks")
app.add_typer(domains.app, name="domains")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(ledger.app, name="ledger")
app.add_typer(promises.app, name="promise")
app.add_typer(turn.app, name="turn")
app.add_typer(bench.app, name="bench")


def invoke(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code: 0, 1 for an error, 2 for wrong usage, 3 when a service is
    away, 130 for Ctrl-C, 143 for SIGTERM."""
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    debug = _DEBUG in words[:end]
    words = [word for word in words[:end] if word != _DEBUG] + words[end:]
    configure_logging(debug=debug)
    program = get_command(app)
    return exit_code_of(
        lambda: program(words, prog_name=_NAME, standalone_mode=False),
        debug=debug,
        command=_named(program, words),
    )


def _named(program: Any, words: Sequence[str]) -> str:
    """The command that the first words name: an option without its value is refused without it being said whose it is."""
    path = [_NAME]
    for word in words:
        program = getattr(program, "commands", {}).get(word)
        if program is None:
            break
        path.append(word)
    return " ".join(path)


def main() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):  # where it is not in Unicode, what it lacks is spelled out
        sys.stdout.reconfigure(errors="backslashreplace")
    leave(invoke(sys.argv[1:]))
