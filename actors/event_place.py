"""Where to go on in the stream of events: after the last one accepted, if the stream still is what it was."""

from __future__ import annotations

import logging

from bus.events import EventStream, StreamState
from storage.records import EventCursor

_logger = logging.getLogger("callboard.ingress")

_AGAIN = "#"


async def find_place(
    stream: EventStream, state: StreamState, cursor: EventCursor | None, domain: str
) -> EventCursor:
    """The cursor to read on from. Its incarnation is another one where the stream began anew or has lost its tail.

    A server that acknowledges events before it syncs them forgets the last ones in a crash, and gives their numbers
    to others. The stream then ends before the cursor, or has another event there, known by when it was taken. What
    was taken later than the cursor's own event is new, whatever its number. A reader never deletes the last event
    that it has accepted; where the stream has none there, it was not this database that has read it last, or its
    number was given to another domain's, which has deleted that. Not seen: a tail lost by a server whose clock went
    back. Raises ServiceUnavailable.
    """
    if cursor is None or cursor.incarnation.partition(_AGAIN)[0] != state.created:
        return EventCursor(incarnation=state.created, seq=0)
    if cursor.seq == 0:
        return cursor
    taken_at = await stream.taken_at(cursor.seq) if cursor.seq <= state.last_seq else None
    if cursor.seq <= state.last_seq and (taken_at == cursor.at_ns or not cursor.at_ns):
        return cursor
    first = await stream.first_after(domain, cursor.at_ns) if cursor.at_ns else None
    seq = min(state.last_seq, cursor.seq) if first is None else first - 1
    if cursor.seq <= state.last_seq and taken_at is None:
        _logger.warning(
            "The stream no longer has event %d, the last one accepted here. If this database is a restored one, it is "
            "older than the stream keeps events: those that were accepted after the backup and have been deleted "
            "since are gone. What the stream has taken since that event is read as new.",
            cursor.seq,
        )
    else:
        _logger.warning(
            "The stream of events has lost its end: %d was accepted, and the stream stands at %d with other events. "
            "What it has taken since is read as new; what it lost before it was accepted is gone. Its server "
            "acknowledges before it syncs: set `sync_interval: always` in its jetstream block.",
            cursor.seq,
            state.last_seq,
        )
    # The event there may be another domain's, and deleted: the cursor's own time tells new ones all the same.
    at_ns = (await stream.taken_at(seq) or cursor.at_ns) if seq else 0
    return EventCursor(incarnation=_next(cursor.incarnation), seq=seq, at_ns=at_ns)


async def count_waiting(
    stream: EventStream, cursor: EventCursor | None, domain: str, *, after: int = 0
) -> int:
    """How many events of a domain the stream has and nobody has accepted. Where it has lost its end, those that have
    come since are not counted before they are read. Nor are those up to the number `after`, as long as the stream has come
    so far. Raises ServiceUnavailable."""
    if not await stream.exists():
        return 0
    state = await stream.state()
    accepted = 0
    if cursor is not None and cursor.incarnation.partition(_AGAIN)[0] == state.created:
        accepted = cursor.seq
    return await stream.count_after(domain, max(accepted, after) if after <= state.last_seq else accepted)


def _next(incarnation: str) -> str:
    created, _, count = incarnation.partition(_AGAIN)
    return f"{created}{_AGAIN}{int(count or 0) + 1}"
