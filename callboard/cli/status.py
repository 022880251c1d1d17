"""`callboard status`: what runs here, and how the domains are doing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from callboard.cli.asked import show_asked
from callboard.cli.decisions import promise_json
from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.table import Beside, table
from callboard.cli.task_view import paused_line
from callboard.cli.terminal import ago, clean, console, emit, plain, size, span, spans
from callboard.cli.untaken_view import untaken_lines
from callboard.died import died_hosts_text, died_services_text
from callboard.room import lack_text

if TYPE_CHECKING:
    from callboard.cli.standing import DomainStanding, Standing
    from storage.inspect import DomainView, HostView


# How a model is served that is not as it should be.
_LEVELS = {
    "fallback": "its first upstream is left alone or has no key, another one answers",
    "cache": "no upstream answers; what was answered before is given again",
    "rules": "no upstream answers; the rules of models.yaml do",
    "none": "no upstream answers; see `callboard gateway`",
}
_MOST_ASKED = 3  # questions; the list has all
_MOST_UNTAKEN = 3  # subjects; `callboard events` has more


@asynchronous
async def status(as_json: Json = False) -> int:
    """Show what runs: services, coordinators, hosts, and each domain in numbers.

    The exit code is 1 when nothing runs. With --json the keys are always the same, and null where nothing runs.
    """
    from callboard.cli.standing import look
    from callboard.settings import load_settings

    standing = await look(load_settings())
    if as_json:
        asked = None if standing.asked is None else [promise_json(promise) for promise in standing.asked]
        emit({**{name: getattr(standing, name) for name in standing.__struct_fields__}, "asked": asked})
    else:
        _show(standing)
    return int(not standing.running)


def _show(standing: Standing) -> None:
    out = console()
    services = standing.services
    for name in services.__struct_fields__:
        if (place := getattr(services, name)) is not None:
            _say(f"{name:<12}", clean(place))
    for model, level in (standing.model_levels or {}).items():
        if level != "normal":
            out.print(plain(f"{'':<12}{clean(model)}: {_LEVELS.get(level, level)}", "yellow"))
    if standing.unrecorded_ray is not None:
        text = f"process {standing.unrecorded_ray} is a head that no command joins; `callboard down` ends it"
        out.print(plain(f"{'ray':<12}{text}", "yellow"))
    if standing.died:
        out.print(plain(died_services_text(standing.died, kept=services.keeper is not None), "bold red"))
    elif standing.tables is None:
        out.print(plain(f"Nothing runs in {standing.home}. Start it with `callboard up`."))
    if standing.tables is None:
        return
    largest = ", ".join(f"{t.name} {size(t.bytes)}" for t in standing.tables[:3])
    _say(f"{'data':<12}", f"{size(sum(t.bytes for t in standing.tables))}, of which {largest}")
    if not standing.running:
        out.print(
            plain("Callboard does not run with these services. Start it with `callboard up`.", "yellow")
        )
    if standing.domains:
        _show_domains(standing)
    else:
        out.print(plain("No domain yet. Add one with `callboard run DOMAIN_DIR --input FILE`."))
    if standing.untaken_events is not None:
        for line in untaken_lines(standing.untaken_events, _MOST_UNTAKEN):
            out.print(line)


def _say(name: str, text: str) -> None:
    console().print(Beside(plain(name, "bold"), plain(text)))


def _show_domains(standing: Standing) -> None:
    from storage.domains import ASLEEP

    out, domains, hosts = console(), standing.domains or [], standing.hosts or []
    lacks = {c.name: c.lack for c in standing.coordinators or [] if c.lack is not None}
    out.print(domain_table(domains, hosts))
    if hosts:
        out.print(host_table(hosts))
    if standing.died_hosts:
        out.print(plain(f"{clean(died_hosts_text(standing.died_hosts))}.", "yellow"))
    for domain in domains:
        if domain.state == ASLEEP:
            what = (
                "asleep beside a run of another domain; whatever is sent to it, or `callboard up`, wakes it"
            )
            out.print(plain(f"{domain.domain}: {what}.", "dim"))
        if domain.unowned:
            out.print(
                plain(
                    f"{domain.domain}: no host owns {_partitions(domain)} {spans(domain.unowned)}.", "yellow"
                )
            )
        if domain.refusal is not None:
            out.print(plain(f"{domain.domain}: no host can be started: {clean(domain.refusal)}", "yellow"))
        if domain.domain in lacks:
            what = lack_text(lacks[domain.domain])
            out.print(plain(f"{domain.domain}: {what}: `callboard doctor`.", "yellow"))
        if domain.open_turns:
            what = "turn waits or runs" if domain.open_turns == 1 else "turns wait or run"
            where = f"`callboard agents {domain.domain}` says for what"
            out.print(plain(f"{domain.domain}: {domain.open_turns:,} {what}: {where}.", "dim"))
        if domain.paused_by is not None:
            what = f"paused by {clean(domain.paused_by)}; `callboard resume {domain.domain}`"
            out.print(plain(f"{domain.domain}: {what}.", "yellow"))
        for text in task_lines(domain):
            out.print(plain(text, "yellow"))
        for each in standing.paused or []:
            if each.address.startswith(f"{domain.domain}/"):
                out.print(plain(f"{domain.domain}: a task waits: {paused_line(each)}.", "yellow"))
    show_asked(out, standing.asked or [], _MOST_ASKED)
    if standing.coordinators:
        names = ", ".join(
            f"{c.name} (process {c.pid}, since {ago(c.started_at)})" for c in standing.coordinators
        )
        out.print(Beside(plain("coordinators: ", "dim"), plain(names, "dim")))
    for c in standing.coordinators or []:
        if c.rival is not None:
            what = f"another Ray, on its node {c.rival}, would lead it too, and waits: `callboard doctor`"
            out.print(plain(f"{c.name}: {what}.", "yellow"))


def task_lines(domain: DomainView) -> list[str]:
    """How many of its tasks do not go on, and the commands that list them."""
    lines = []
    if paused := domain.paused_tasks:
        what = f"{paused:,} of its tasks {'is' if paused == 1 else 'are'} paused"
        lines.append(f"{domain.domain}: {what}: `callboard tasks --open`.")
    if stuck := domain.stuck_tasks:
        what = f"{stuck:,} of its tasks {'waits' if stuck == 1 else 'wait'} for dead letters to be mended"
        lines.append(f"{domain.domain}: {what}: `callboard tasks --stuck`.")
    return lines


def domain_table(domains: Sequence[DomainStanding], hosts: list[HostView]) -> Any:
    # Headings of two lines leave a domain's name its room at 80 columns.
    figures = (
        "hosts",
        "parti-\ntions",
        "events",
        "backlog",
        "agents",
        "open\ntasks",
        "stuck",
        "dead\nletters",
    )
    return table(
        ("domain", *figures),
        [
            (
                d.domain,
                sum(h.domain == d.domain for h in hosts),
                plain("asleep", "dim")
                if d.state == "asleep"
                else f"{d.partitions - len(d.unowned)}/{d.partitions}",
                "?" if d.events_waiting is None else f"{d.events_waiting:,}",
                f"{d.backlog:,}",
                f"{d.agents:,}",
                d.open_tasks,
                plain(d.stuck_tasks, "yellow" if d.stuck_tasks else ""),
                plain(d.dead_letters, "red" if d.dead_letters else ""),
            )
            for d in domains
        ],
        right=figures,
    )


def _partitions(domain: DomainView) -> str:
    return "partition" if len(domain.unowned) == 1 else "partitions"


def host_table(hosts: list[HostView]) -> Any:
    # A host's name begins with its domain's.
    return table(
        ("host", "pid", "state", "parti-\ntions", "backlog", "turns", "memory", "beat"),
        [
            (
                h.host,
                h.pid,
                host_state(h),
                len(h.owned),
                f"{h.backlog:,}",
                f"{h.turns:,}",
                size(h.rss_bytes),
                span(h.silent_s),
            )
            for h in hosts
        ],
        right=("pid", "parti-\ntions", "backlog", "turns", "memory", "beat"),
    )


def host_state(host: HostView) -> Any:
    """One word with its colour."""
    if host.is_silent:
        return plain("silent", "bold red")
    if not host.ready:
        return plain("starting", "yellow")
    if host.suspect:  # it tries messages alone, and waits for each: that is its work, not its trouble
        return plain("recovering", "yellow")
    if host.blocked_by:
        return plain(f"blocked by {host.blocked_by}", "red")
    if host.kept:
        return plain("ends calls", "yellow")
    return plain("draining", "yellow") if host.draining else plain("ready", "green")
