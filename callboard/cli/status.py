"""`callboard status`: what runs here, and how the domains are doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from callboard.cli.options import Json
from callboard.cli.running import asynchronous
from callboard.cli.task_view import paused_line
from callboard.cli.terminal import ago, clean, console, emit, plain, size, span, spans, table

if TYPE_CHECKING:
    from callboard.services import Endpoints, Instance
    from callboard.settings import Settings
    from storage.inspect import DomainView, HostView


@asynchronous
async def status(as_json: Json = False) -> int:
    """Show what runs: services, coordinators, hosts, and each domain in numbers.

    The exit code is 1 when nothing runs.
    """
    from callboard.cli.connection import opened
    from callboard.services import find_instance, running_endpoints
    from callboard.settings import load_settings
    from storage import inspect
    from storage.domains import ACTIVE, ASLEEP

    settings = load_settings()
    endpoints = running_endpoints(settings)
    if endpoints is None:
        if as_json:
            emit({"running": False, "home": str(settings.home)})
        else:
            console().print(plain(f"Nothing runs in {settings.home}. Start it with `callboard up`."))
        return 1
    async with opened() as at:
        known = await inspect.list_domains(at.db)
        hosts = await inspect.list_hosts(at.db)
        coordinators = await inspect.list_coordinators(at.db)
        tables = await inspect.list_tables(at.db)
        domains = [domain for domain in known if domain.state in (ACTIVE, ASLEEP)]
        paused = {d.domain: await inspect.paused_at_work(at.db, d.domain, tenant=at.tenant) for d in domains}
    instance = find_instance(settings)
    services = _services(settings, endpoints, instance)
    running = instance is not None or bool(coordinators)  # services of somebody else run for others, too
    if as_json:
        emit(
            {
                "running": running,
                "home": str(settings.home),
                "services": services,
                "coordinators": coordinators,
                "domains": domains,
                "paused": [address for addresses in paused.values() for address in addresses],
                "hosts": hosts,
                "tables": tables,
            }
        )
        return int(not running)
    out = console()
    for name, place in services.items():
        if place is not None:
            line = plain(f"{name:<12}", "bold")
            line.append(clean(place))
            out.print(line)
    line = plain(f"{'data':<12}", "bold")
    line.append(f"{size(sum(t.bytes for t in tables))}, of which ")
    line.append(", ".join(f"{t.name} {size(t.bytes)}" for t in tables[:3]))
    out.print(line)
    if not running:
        out.print(
            plain("Callboard does not run with these services. Start it with `callboard up`.", "yellow")
        )
    if not domains:
        out.print(plain("No domain yet. Add one with `callboard run DOMAIN_DIR --input FILE`."))
        return int(not running)
    out.print(_domain_table(domains, hosts))
    if hosts:
        out.print(_host_table(hosts))
    for domain in domains:
        if domain.state == ASLEEP:
            what = "asleep beside a run of another domain; a message for it, or `callboard up`, wakes it"
            out.print(plain(f"{domain.domain}: {what}.", "dim"))
        if domain.unowned:
            out.print(
                plain(
                    f"{domain.domain}: no host owns {_partitions(domain)} {spans(domain.unowned)}.", "yellow"
                )
            )
        if domain.open_turns:
            what = "turn waits or runs" if domain.open_turns == 1 else "turns wait or run"
            where = f"`callboard agents {domain.domain}` says for what"
            out.print(plain(f"{domain.domain}: {domain.open_turns:,} {what}: {where}.", "dim"))
        if domain.stuck_tasks:
            what = f"{domain.stuck_tasks} of its tasks wait for dead letters to be mended"
            out.print(plain(f"{domain.domain}: {what}: `callboard tasks --stuck`.", "yellow"))
        for address in paused[domain.domain]:
            out.print(plain(f"{domain.domain}: a task waits: {paused_line(address)}.", "yellow"))
    if coordinators:
        names = ", ".join(f"{c.name} (process {c.pid}, since {ago(c.started_at)})" for c in coordinators)
        out.print(plain(f"coordinators: {names}", "dim"))
    for c in coordinators:
        if c.rival is not None:
            what = f"another Ray, on its node {c.rival}, would lead it too, and waits: `callboard doctor`"
            out.print(plain(f"{c.name}: {what}.", "yellow"))
    return int(not running)


def _services(settings: Settings, endpoints: Endpoints, instance: Instance | None) -> dict[str, str | None]:
    from callboard.ray_head import RayHead
    from callboard.services import redacted

    def place(url: str, embedded: bool, pid: int | None) -> str:
        shown = ", ".join(redacted(part) for part in url.split(","))
        if not embedded:
            return f"{shown} (external)"
        return f"{shown} (embedded, process {pid})" if pid else f"{shown} (embedded, not running)"

    pid_of = (instance.postgres_pid, instance.nats_pid) if instance else (None, None)
    head = RayHead(folder=settings.home / "ray")
    ray: str | None = f"{settings.ray_address} (external)"
    dashboard: str | None = None
    if settings.ray_address is None:
        pid = head.running()
        ray = f"{head.address()} (started here, process {pid})" if pid else None
        dashboard = head.dashboard() if pid else None
    return {
        "postgres": place(endpoints.postgres_url, endpoints.embedded_postgres, pid_of[0]),
        "nats": place(endpoints.nats_url, endpoints.embedded_nats, pid_of[1]),
        "ray": ray,
        "dashboard": dashboard,
    }


def _domain_table(domains: list[DomainView], hosts: list[HostView]) -> Any:
    return table(
        ("domain", "hosts", "partitions", "backlog", "agents", "open tasks", "stuck", "dead letters"),
        [
            (
                d.domain,
                sum(h.domain == d.domain for h in hosts),
                plain("asleep", "dim")
                if d.state == "asleep"
                else f"{d.partitions - len(d.unowned)}/{d.partitions}",
                f"{d.backlog:,}",
                f"{d.agents:,}",
                d.open_tasks,
                plain(d.stuck_tasks, "yellow" if d.stuck_tasks else ""),
                plain(d.dead_letters, "red" if d.dead_letters else ""),
            )
            for d in domains
        ],
        right=("hosts", "partitions", "backlog", "agents", "open tasks", "stuck", "dead letters"),
    )


def _partitions(domain: DomainView) -> str:
    return "partition" if len(domain.unowned) == 1 else "partitions"


def _host_table(hosts: list[HostView]) -> Any:
    return table(
        ("host", "pid", "domain", "state", "partitions", "backlog", "turns", "memory", "beat"),
        [
            (
                h.host,
                h.pid,
                h.domain,
                host_state(h),
                len(h.owned),
                f"{h.backlog:,}",
                f"{h.turns:,}",
                size(h.rss_bytes),
                span(h.silent_s),
            )
            for h in hosts
        ],
        right=("pid", "partitions", "backlog", "turns", "memory", "beat"),
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
    return plain("draining", "yellow") if host.draining else plain("ready", "green")
