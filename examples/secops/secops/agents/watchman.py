"""The watchman: what one source address did, in each of the latest logs."""

from __future__ import annotations

from pydantic import BaseModel

from callboard import Agent, Context, handler
from secops.messages import Forgotten, Judged, Ruled, Seal, Seen, Suspected
from secops.places import investigator, responder, roster, roster_number
from secops.rulebook import LIMITS
from secops.rules import judge
from secops.sweep import Suspect
from secops.watch import Watch, observe

# A judged log is asked for again only when the rules have changed: its roster keeps the finding.
MAX_JUDGED = 4
# Logs being read at once; past it the one that was quiet the longest is forgotten.
MAX_LOGS = 256


class Remembered(BaseModel):
    watch: Watch
    judged: bool = False


class Watchman(Agent):
    """Keeps a sliding window of failures and the users tried of one source, apart for each log.

    Its key is the source. A watch is bounded (see Thresholds), and so is the number of logs remembered; a log
    that is being read or judged is the last to be forgotten.
    """

    kind = "watchman"

    class State(BaseModel):
        logs: dict[str, Remembered] = {}
        """By digest, the one seen last at the end."""

    state: State

    @handler
    async def on_seen(self, seen: Seen, ctx: Context) -> None:
        known = self.state.logs.get(seen.log)
        watch = known.watch if known else Watch(source=ctx.address.key)
        for sighting in seen.sightings:
            watch = observe(watch, sighting, LIMITS)
        self._remember(seen.log, Remembered(watch=watch))

    @handler
    async def on_seal(self, seal: Seal, ctx: Context) -> None:
        known = self.state.logs.get(seal.log)
        if known is not None:
            # Until it is judged it must not be forgotten.
            self._remember(seal.log, Remembered(watch=known.watch))
        else:
            self._report_forgotten(seal.log, ctx)
        source = ctx.address.key
        suspect = Suspect.of(known.watch, LIMITS) if known else None
        ctx.send(
            investigator(source),
            Suspected(log=seal.log, source=source, suspect=suspect, peers=seal.peers),
        )

    @handler
    async def on_ruled(self, ruling: Ruled, ctx: Context) -> None:
        known = self.state.logs.get(ruling.log)
        if known is None:
            self._report_forgotten(ruling.log, ctx)
            return
        judgement = ruling.sweep or judge(known.watch, LIMITS)
        ctx.explain(judgement.why, log=ruling.log, verdict=judgement.verdict, severity=judgement.severity)
        self._remember(ruling.log, Remembered(watch=known.watch, judged=True))
        ctx.send(
            responder(ruling.log, ctx.address.key),
            Judged(log=ruling.log, watch=known.watch, judgement=judgement, network=ruling.network),
        )

    def _remember(self, log: str, what: Remembered) -> None:
        logs = self.state.logs
        logs.pop(log, None)
        logs[log] = what
        judged = [name for name, each in logs.items() if each.judged]
        for name in judged[: max(0, len(judged) - MAX_JUDGED)]:
            del logs[name]
        while len(logs) > MAX_LOGS:
            del logs[next(iter(logs))]

    def _report_forgotten(self, log: str, ctx: Context) -> None:
        source = ctx.address.key
        ctx.explain("forgotten", log=log)
        ctx.send(roster(log, roster_number(source)), Forgotten(log=log, source=source))
