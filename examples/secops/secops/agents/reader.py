"""The reader: one log's lines, in order, become what its sources did."""

from __future__ import annotations

from collections import Counter

from pydantic import BaseModel, Field

from callboard import Agent, Context, RetryPolicy, handler
from secops.errors import LinesMissing
from secops.messages import (
    Enrolled,
    Follow,
    LinesRead,
    LogEnded,
    LogRead,
    NotFollowed,
    Seal,
    SealAll,
    Seen,
    SshLines,
    Wanted,
)
from secops.places import clerk_number, desk, roster, roster_number, watchman
from secops.survey import Survey
from secops.watch import Sighting

MAX_FOLLOWERS = 100
MAX_RECENT = 256  # sources known to be enrolled; a source that has left this list is enrolled again

# Until the gap is filled: the first minute in seconds, then each minute for half an hour.
_GAP = RetryPolicy(attempts=40, first_delay_s=0.5, factor=2.0, max_delay_s=60.0)


class Reader(Agent):
    """Holds what must be remembered between two lines of one log. Its key is the log's digest.

    Lines that were read already are skipped; lines that come too early (a feed was cut off, then repeated) are
    tried again when the ones before them have come. Its state has a fixed size, however long the log is.
    """

    kind = "reader"

    class State(BaseModel):
        survey: Survey = Field(default_factory=Survey)
        read: int = 0
        total: int | None = None
        rosters: list[int] = []
        recent: list[str] = []
        followers: dict[str, int] = {}
        """Each task that waits for the end, and after how many lines it wants to hear of them."""

    state: State

    @handler(retry=_GAP, overtake=True)
    async def on_lines(self, batch: SshLines, ctx: Context) -> None:
        before = self.state.read
        if batch.first > before + 1:
            raise LinesMissing(f"Line {batch.first} came before line {before + 1}.")
        sightings = self._read(batch)
        self._enrol(batch.log, list(sightings), ctx)
        for source, seen in sightings.items():
            ctx.send(watchman(source), Seen(log=batch.log, sightings=tuple(seen)))
        self._tell_followers(before, ctx)
        self._finish_if_read(batch.log, ctx)

    @handler
    async def on_ended(self, event: LogEnded, ctx: Context) -> None:
        self.state.total = max(event.lines, self.state.read)
        self._finish_if_read(event.log, ctx)

    @handler
    async def on_follow(self, follow: Follow, ctx: Context) -> None:
        state = self.state
        if len(state.followers) >= MAX_FOLLOWERS:
            ctx.send(desk(follow.task), NotFollowed(limit=MAX_FOLLOWERS), task=follow.task)
            return
        state.followers[follow.task] = follow.every
        if 0 < state.read != state.total:
            ctx.send(desk(follow.task), LinesRead(lines=state.read), task=follow.task)
        self._finish_if_read(ctx.address.key, ctx)

    @handler
    async def on_seal_all(self, request: SealAll, ctx: Context) -> None:
        for source, peers in request.peers.items():
            ctx.send(watchman(source), Seal(log=request.log, peers=peers))

    def _read(self, batch: SshLines) -> dict[str, list[Sighting]]:
        """Read what is new in the batch; return what it says, by source."""
        state = self.state
        sightings: dict[str, list[Sighting]] = {}
        for number, text in enumerate(batch.texts, batch.first):
            if number != state.read + 1 or state.read == state.total:
                continue
            state.read = number
            sighting = state.survey.read(number, text)
            if sighting is not None:
                sightings.setdefault(sighting.source, []).append(sighting)
        return sightings

    def _enrol(self, log: str, sources: list[str], ctx: Context) -> None:
        """Put sources on their rosters before anything asks these for findings."""
        state = self.state
        known = dict.fromkeys(state.recent)
        fresh: dict[int, list[str]] = {}
        for source in sources:
            if source not in known:
                fresh.setdefault(roster_number(source), []).append(source)
            known.pop(source, None)
            known[source] = None
        state.recent = list(known)[-MAX_RECENT:]
        for number, members in fresh.items():
            if number not in state.rosters:
                state.rosters.append(number)
            ctx.send(roster(log, number), Enrolled(log=log, sources=tuple(members)))

    def _tell_followers(self, before: int, ctx: Context) -> None:
        read = self.state.read
        if read == self.state.total:
            return
        for task, every in self.state.followers.items():
            if read // every > before // every:
                ctx.send(desk(task), LinesRead(lines=read), task=task)

    def _finish_if_read(self, log: str, ctx: Context) -> None:
        """Once all lines are read, have them judged for every task that waits."""
        state = self.state
        if state.read != state.total or not state.followers:
            return
        clerks = Counter(map(clerk_number, state.rosters))
        tasks = tuple(state.followers)
        for number in state.rosters:
            peers = clerks[clerk_number(number)]
            # Whichever task has asked the last: the log is judged for all of them, and for later ones.
            ctx.send(roster(log, number), Wanted(log=log, tasks=tasks, peers=peers), shared=True)
        facts = state.survey.facts("", log)
        for task in state.followers:
            ctx.send(desk(task), LogRead(facts=facts, clerks=len(clerks)), task=task)
        state.followers = {}
