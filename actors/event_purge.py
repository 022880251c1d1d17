"""Events leave the stream once they have been in mailboxes for long enough, or when the stream fills up.

See docs/decisions/0022-what-leaves-the-event-stream.md.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from bus.errors import ServiceUnavailable
from bus.events import EventStream, StreamState
from storage.records import EventCursor

_logger = logging.getLogger("callboard.ingress")

PRESSURE = 0.5  # of what the domain may use of the stream; above it all that was accepted may go
LOOK_EVERY_S = 5.0
LOOKS_TO_FULL = 16  # so often is looked, at the least, while this reader takes in as much as it may use
MARKS = 16  # places remembered in the time for which events are kept


class EventPurge:
    """What one reader may delete of its domain's events: never the last one accepted, nor what comes after it.

    By that last one the next reader knows that the stream still is what it was. How long ago a place was accepted
    is remembered here only: a new host keeps events for longer than it must, and never for less long.
    """

    def __init__(
        self, stream: EventStream, domain: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._domain = domain
        self._clock = clock
        self._marks: deque[tuple[float, EventCursor]] = deque()
        self._cursor = EventCursor(incarnation="", seq=0)
        self._state: StreamState | None = None
        self._dropped = 0
        self._due_at = 0.0
        self._since = 0.0  # how much of what it may use was accepted since the last look

    def begin(self, state: StreamState, place: EventCursor) -> None:
        """A reader starts at a place in the stream that was found to be right, over the state's connection."""
        if place.incarnation != self._cursor.incarnation or place.seq < self._cursor.seq:
            self._marks.clear()
            self._dropped = 0
        self._state = state
        self.accepted(place, 0, 0)

    def accepted(self, cursor: EventCursor, size: int, events: int) -> None:
        """The cursor has committed, past so many events of so many bytes in all."""
        assert self._state is not None
        self._cursor = cursor
        self._since += self._state.share(size, events)
        self._mark(self._state.kept_s / MARKS)

    def _mark(self, apart_s: float) -> None:
        now = self._clock()
        if not self._marks or now - self._marks[-1][0] >= apart_s:
            self._marks.append((now, self._cursor))

    async def look(self) -> None:
        """Delete what need not be kept any more, if it is time to look. A failure is left to the next look."""
        began = self._state
        assert began is not None
        if self._clock() < self._due_at and self._since < 1 / LOOKS_TO_FULL:
            return
        self._due_at, self._since = self._clock() + LOOK_EVERY_S, 0.0
        try:
            state = await self._stream.state(self._domain)
            if (state.created, state.connection) != (began.created, began.connection):
                return  # the reader ends, and the next one finds out where the stream stands
            target = self._target(state)
            if target is None or target.seq <= self._dropped:
                return
            # Another server may hold the stream than the one that is connected, and have crashed.
            if await self._stream.taken_at(target.seq) == target.at_ns:
                await self._stream.drop_before(self._domain, target.seq)
                self._dropped = target.seq
        except ServiceUnavailable as error:
            _logger.warning("events that were accepted stay in the stream for now: %s", error.message)

    def _target(self, state: StreamState) -> EventCursor | None:
        """The event before which all of the domain's go."""
        if state.fill > PRESSURE:
            return self._cursor
        self._mark(state.kept_s / MARKS)
        found = None
        while self._marks and self._clock() - self._marks[0][0] >= state.kept_s:
            found = self._marks.popleft()
        if found is None:
            return None
        self._marks.appendleft(found)
        return found[1]
