"""Whether the stream of events has room, and which domain does not read the events that fill it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bus.errors import CallboardError
from callboard.doctor.finding import Finding, fail, good, warn
from callboard.untaken import untaken_events, why_untaken
from storage.boundary import translated
from storage.domains import DomainRow, all_domains
from storage.placement import live_hosts
from storage.queries import query

if TYPE_CHECKING:
    import asyncpg

    from bus.events import EventStream, StreamState
    from callboard.services import Endpoints

CHECK = "event room"
UNTAKEN = "untaken events"
_MOST_NAMED = 3  # subjects; `callboard events` has more
FILLING = 0.7  # readers that keep up hold it at half
FULL = 0.95


async def examine_event_room(endpoints: Endpoints, db: asyncpg.Pool[Any]) -> Finding:
    """How full the stream is; once it fills up, or has nearly as many events of one name as it may, the domain whose
    events are not accepted."""
    # Imported here, because the driver brings an HTTP client along.
    from bus.events import EventStream
    from bus.nats import NatsTransport

    try:
        transport = await NatsTransport.connect(endpoints.nats_url, name="callboard doctor")
        try:
            stream = EventStream(transport)
            if not await stream.exists():
                return good(CHECK, "there is no stream yet; it is made with the first domain")
            state = await stream.state()
            if state.fill > FILLING:
                return await _who_fills_it(stream, state, db)
            return await _fullest_name(stream, state, db)
        finally:
            await transport.close()
    except CallboardError as error:
        return fail(CHECK, error.message, error.fix)


async def examine_untaken_events(endpoints: Endpoints, db: asyncpg.Pool[Any]) -> list[Finding]:
    """A warning when there are events that nobody takes."""
    from bus.events import EventStream
    from bus.nats import NatsTransport
    from callboard.cli.terminal import count

    try:
        transport = await NatsTransport.connect(endpoints.nats_url, name="callboard doctor")
        try:
            untaken = await untaken_events(EventStream(transport), db, limit=_MOST_NAMED)
        finally:
            await transport.close()
    except CallboardError as error:
        return [fail(UNTAKEN, error.message, error.fix)]
    if not untaken.subjects:
        return []
    words = [f"{each.subject} has {count(each.count, 'event')}" for each in untaken.subjects]
    if untaken.more:
        words.append(f"{count(untaken.more, 'more subject')}")
    mends = dict.fromkeys(each.mend for each in untaken.subjects)
    return [warn(UNTAKEN, f"nobody takes them: {', '.join(words)}", " ".join(mends))]


async def _who_fills_it(stream: EventStream, state: StreamState, db: asyncpg.Pool[Any]) -> Finding:
    from callboard.cli.terminal import count

    with translated():
        cursors = {row["domain"]: row["seq"] for row in await db.fetch(query("event_cursors"))}
    unread = {
        domain: await stream.unread(domain, cursors.get(domain, 0))
        for domain in sorted({subject.split(".")[2] for subject in await stream.subjects()})
    }
    domain = max(unread, key=unread.__getitem__)
    say = fail if state.fill > FULL else warn
    detail = f"{_used(state)}; full, it refuses events. {count(unread[domain], 'event')} of {domain} wait there to be read"
    return say(CHECK, detail, await _mend(domain, db))


async def _fullest_name(stream: EventStream, state: StreamState, db: asyncpg.Pool[Any]) -> Finding:
    from callboard.cli.terminal import count

    subjects = await stream.subjects()
    subject = max(subjects, key=subjects.__getitem__, default=None)
    if subject is None or state.share(0, subjects[subject]) <= FILLING:
        return good(CHECK, _used(state))
    _, _, domain, name = subject.split(".", 3)
    say = fail if state.share(0, subjects[subject]) > FULL else warn
    detail = (
        f"{_used(state)}; {count(subjects[subject], 'event')} {name!r} of {domain} are there, and past "
        f"{state.max_per_name:,} it refuses them"
    )
    return say(CHECK, detail, await _mend(domain, db))


async def _mend(domain: str, db: asyncpg.Pool[Any]) -> str:
    rows: dict[str, DomainRow] = {row.domain: row for row in await all_domains(db, removed=True)}
    why = why_untaken(domain, rows.get(domain))
    if why is not None:
        return why
    if not any(host.ready for host in await live_hosts(db, domain)):
        return "It has no hosts: `callboard up` starts them."
    return (
        "It does not keep up: `callboard status` shows its backlog; give it more hosts (`hosts.max` in domain.yaml), or "
        "the stream more room (CALLBOARD_EVENTS_BYTES, CALLBOARD_EVENTS_PER_NAME). The log of its hosts says if one agent's full mailbox holds it up."
    )


def _used(state: StreamState) -> str:
    from callboard.cli.terminal import size

    if state.max_bytes is None:
        return f"{size(state.bytes)} used, without a bound"
    return f"{state.fill:.0%} of {size(state.max_bytes)} used"
