"""The deployment: services, clocks, migrations, ownership, dead letters, the months ahead."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from bus.errors import CallboardError
from callboard.died import died_hosts_text
from callboard.doctor.event_room import examine_event_room, examine_untaken_events
from callboard.doctor.events import examine_events
from callboard.doctor.finding import GOOD, Finding, fail, good, warn
from callboard.ray_cluster import check_ray
from callboard.ray_process import RayProcess
from callboard.room import lack_mend, lack_text
from callboard.services.checks import check_nats, check_postgres_durable, redacted
from storage import inspect
from storage.boundary import translated
from storage.connect import create_pool
from storage.domains import ACTIVE
from storage.migrate import pending
from storage.release import release

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

    from callboard.services import Endpoints
    from callboard.settings import Settings
    from storage.inspect import CoordinatorView, HostView
    from storage.lack import Lack

CLOCK_WARN_S = 1.0  # timers and deadlines go by the database's clock, logs by each machine's
OLDEST_POSTGRES = 16
RAY_JOINED_WITHIN_S = 60.0  # Ray itself gives up after half of it
TRANSACTION_WARN_S = 300.0  # while it is open, vacuum keeps every dead row of the mailboxes


async def examine_deployment(endpoints: Endpoints, *, expects_hosts: bool) -> list[Finding]:
    """`expects_hosts`: Ray runs, so that a partition without an owner is wrong once a coordinator leads."""
    url = endpoints.postgres_url
    found = [
        await _service("postgres", check_postgres_durable, url, endpoints.embedded_postgres),
        await _service("nats", check_nats, endpoints.nats_url, endpoints.embedded_nats),
    ]
    if found[1].status == GOOD:
        found.append(await examine_events(endpoints))
    if found[0].status != GOOD:
        return found
    db = await create_pool(url, application="callboard-doctor", size=1)
    try:
        found.append(await _server_version(db))
        found.append(await _clock(db))
        missing = await pending(url)
        if missing:
            found.append(
                fail("migrations", f"the database lacks {', '.join(missing)}", "`callboard up` applies them.")
            )
            return found
        found.append(good("migrations", "all are applied"))
        coordinators = await inspect.list_coordinators(db)
        lacks = {c.name: c.lack for c in coordinators if c.lack is not None and expects_hosts}
        found += await _partitions(db, expects_hosts and bool(coordinators), lacks)
        found.append(await _died(db))
        found += await _room(db, lacks)
        found += await _refusals(db)
        found.append(_releases(coordinators, await inspect.list_hosts(db)))
        found += _rivals(coordinators)
        if found[1].status == GOOD:
            found.append(await examine_event_room(endpoints, db))
            found += await examine_untaken_events(endpoints, db)
        found += [await _dead_letters(db), await _months(db), await _old_transactions(db)]
    except CallboardError as error:
        found.append(fail("database", error.message, error.fix or "Look at the server's log."))
    finally:
        await db.close()
    return found


async def examine_external(settings: Settings) -> list[Finding]:
    """The services of somebody else's while nothing runs here: whether a start could use them."""
    found = []
    if settings.postgres_url is not None:
        url = settings.postgres_url.get_secret_value()
        found.append(await _service("postgres", check_postgres_durable, url, False))
    if settings.nats_url is not None:
        found.append(await _service("nats", check_nats, settings.nats_url.get_secret_value(), False))
    return found


async def examine_ray(address: str) -> Finding:
    """A Ray that Callboard has not started: whether it answers, and takes this process with its token, its release
    of Ray and its Python."""
    from callboard.cli.terminal import count

    try:
        await check_ray(address)
        async with asyncio.timeout(RAY_JOINED_WITHIN_S), await RayProcess.start() as ray:
            await ray.call("join", address=address, namespace="callboard-doctor")
            nodes = [node for node in await ray.call("nodes") if node["Alive"]]
    except TimeoutError:
        return fail(
            "ray",
            f"Ray at {address} has not let this process in within {RAY_JOINED_WITHIN_S:.0f} s",
            "Look at its head's logs; from outside of its machines, RAY_ADDRESS is ray://HEAD:10001.",
        )
    except CallboardError as error:
        return fail("ray", error.message, error.fix)
    return good(
        "ray", f"{address} answers with {count(len(nodes), 'node')}, and the same releases of Ray and Python"
    )


async def _service(name: str, check: Any, url: str, embedded: bool) -> Finding:
    place = ", ".join(redacted(part) for part in url.split(","))
    try:
        await check(url, embedded=embedded)
    except CallboardError as error:
        return fail(name, error.message, error.fix)
    return good(
        name, f"{place} answers and is durable" if name == "postgres" else f"{place} answers, with JetStream"
    )


async def _server_version(db: asyncpg.Pool[Any]) -> Finding:
    with translated():
        number = int(await db.fetchval("show server_version_num"))
    if number // 10_000 < OLDEST_POSTGRES:
        return fail(
            "postgres version", f"Postgres {number // 10_000}", f"Use Postgres {OLDEST_POSTGRES} or newer."
        )
    return good("postgres version", f"Postgres {number // 10_000}.{number % 10_000}")


async def _clock(db: asyncpg.Pool[Any]) -> Finding:
    with translated():
        await db.fetchval("select 1")  # the connection is open before the clocks are compared
        before = time.time()
        there = float(await db.fetchval("select extract(epoch from clock_timestamp())::float8"))
        after = time.time()
    difference = there - (before + after) / 2
    text = f"the database is {abs(difference) * 1000:.0f} ms {'ahead' if difference > 0 else 'behind'}"
    if abs(difference) > CLOCK_WARN_S:
        return warn("clock", text, "Let both machines follow a time server (chrony or systemd-timesyncd).")
    return good("clock", text)


async def _partitions(db: asyncpg.Pool[Any], expects_hosts: bool, lacks: Mapping[str, Lack]) -> list[Finding]:
    from callboard.cli.terminal import count, span, spans

    domains = [domain for domain in await inspect.list_domains(db) if domain.state == ACTIVE]
    active = {domain.domain for domain in domains}
    hosts = [host for host in await inspect.list_hosts(db) if host.domain in active]
    if not domains:
        return [good("partitions", "no domain is to have hosts")]
    ownerless = [domain for domain in domains if domain.unowned and expects_hosts]
    wrong = [f"no host owns {domain.domain} {spans(domain.unowned)}" for domain in ownerless]
    for host in hosts:
        if host.is_silent:
            wrong.append(
                f"{host.host} of {host.domain} owns {len(host.owned)} and has been silent for {span(host.silent_s)}"
            )
        elif host.blocked_by and host.ready and not host.suspect:
            wrong.append(f"{host.host} of {host.domain} is blocked by {host.blocked_by}")
    if wrong:
        if not expects_hosts:
            mend = "`callboard up` ends what was left and takes its partitions over."
        elif len(wrong) == len(ownerless) and all(domain.domain in lacks for domain in ownerless):
            mend = "Make room for their hosts: see below."
        else:
            mend = "Look at the coordinators: `callboard status`; they replace a dead host within seconds, if they run."
        return [fail("partitions", "; ".join(wrong), mend)]
    waiting = sum(domain.backlog for domain in domains)
    if not hosts:
        return [good("partitions", f"no host runs; {count(waiting, 'message')} waiting for the next start")]
    return [
        good(
            "partitions", f"all {sum(d.partitions for d in domains)} have a living owner; backlog {waiting:,}"
        )
    ]


async def _died(db: asyncpg.Pool[Any]) -> Finding:
    died = await inspect.list_died_hosts(db)
    if not died:
        return good("hosts", "none has died in the last hour")
    mend = (
        "Their last words are in Ray's logs; a message that kills its host ends in `callboard dead-letters`."
    )
    return warn("hosts", died_hosts_text(died), mend)


async def _room(db: asyncpg.Pool[Any], lacks: Mapping[str, Lack]) -> list[Finding]:
    """A domain without any host stands still; one with fewer than it is to have is slower."""
    unserved = {domain.domain for domain in await inspect.list_domains(db) if domain.unowned}
    return [
        (fail if domain in unserved else warn)(
            "room", f"{domain}: {lack_text(lack)}", lack_mend(domain, lack)
        )
        for domain, lack in lacks.items()
    ]


async def _refusals(db: asyncpg.Pool[Any]) -> list[Finding]:
    return [
        fail(
            "code",
            f"no host of {d.domain} can be started: {d.refusal}",
            "Mend that, and call `callboard up DOMAIN_DIR`.",
        )
        for d in await inspect.list_domains(db)
        if d.refusal is not None
    ]


def _rivals(coordinators: list[CoordinatorView]) -> list[Finding]:
    contested = [
        f"{c.name} (node {c.node}; node {c.rival} waits)" for c in coordinators if c.rival is not None
    ]
    if not contested:
        return []
    return [
        fail(
            "one Ray",
            f"two Rays would lead this database: {', '.join(contested)}",
            "Set RAY_ADDRESS to the one that is to go on, and end the coordinators in the other one's dashboard, or stop it.",
        )
    ]


def _releases(coordinators: list[CoordinatorView], hosts: list[HostView]) -> Finding:
    running = [(f"the coordinator {c.name}", c.release) for c in coordinators]
    running += [(f"{host.host} of {host.domain}", host.release) for host in hosts]
    others = [f"{what} runs {found or 'an unknown release'}" for what, found in running if found != release()]
    if others:
        mend = "`callboard up` of the newest release replaces them; install it on every node, and start Ray with it."
        return warn("release", f"this is Callboard {release()}, but {'; '.join(others)}", mend)
    return good("release", f"everything runs Callboard {release()}")


async def _dead_letters(db: asyncpg.Pool[Any]) -> Finding:
    from callboard.cli.terminal import count

    given_up = sum(domain.dead_letters for domain in await inspect.list_domains(db))
    if given_up:
        return warn(
            "dead letters",
            f"{count(given_up, 'message')} {'was' if given_up == 1 else 'were'} given up",
            "`callboard dead-letters` shows why; retry or drop them.",
        )
    return good("dead letters", "none")


async def _months(db: asyncpg.Pool[Any]) -> Finding:
    months = await inspect.history_months(db)
    mend = "The coordinator makes them daily; `callboard retention --months N` does it now."
    if months.astray:
        return warn("months ahead", "transitions went to the default table, for their month had none", mend)
    if months.ahead < 1:
        return warn("months ahead", "the next month has no table for its history", mend)
    return good("months ahead", f"the history has tables for {months.ahead} months to come")


async def _old_transactions(db: asyncpg.Pool[Any]) -> Finding:
    with translated():
        row = await db.fetchrow(
            "select pid, application_name, extract(epoch from now() - xact_start)::float8 as age from pg_stat_activity"
            " where datname = current_database() and xact_start is not null and pid <> pg_backend_pid()"
            " and backend_type = 'client backend' order by xact_start limit 1"
        )
    if row is None or row["age"] < TRANSACTION_WARN_S:
        return good("old transactions", "none")
    return warn(
        "old transactions",
        f"{row['application_name'] or 'a client'} (backend {row['pid']}) has held a transaction open for {row['age']:.0f} s",
        f"End it: select pg_terminate_backend({row['pid']});",
    )
