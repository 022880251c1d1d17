"""The investigator: what the sources of one network did together."""

from __future__ import annotations

from pydantic import BaseModel

from callboard import Agent, Context, handler
from secops.messages import Ruled, Suspected
from secops.places import watchman
from secops.rulebook import LIMITS
from secops.sweep import Suspect, find_sweep

MAX_CASES = 256  # logs being judged at once; past it the oldest is given up


class Case(BaseModel):
    """The sources of one log heard so far; None for one that is no longer remembered."""

    suspects: dict[str, Suspect | None] = {}


class Investigator(Agent):
    """Hears every watchman of its network, then tells each whether its source took part in a sweep.

    Its key is a /24 or a /64, or a host name, which has no neighbours. `peers` says how many will be heard, and
    a roster holds at most 500 of them.
    """

    kind = "investigator"

    class State(BaseModel):
        cases: dict[str, Case] = {}

    state: State

    @handler
    async def on_suspected(self, heard: Suspected, ctx: Context) -> None:
        cases = self.state.cases
        case = cases.setdefault(heard.log, Case())
        case.suspects[heard.source] = heard.suspect
        if len(case.suspects) >= heard.peers:
            self._rule(heard.log, case, ctx)
            del cases[heard.log]
        while len(cases) > MAX_CASES:
            del cases[next(iter(cases))]

    def _rule(self, log: str, case: Case, ctx: Context) -> None:
        suspects = [each for each in case.suspects.values() if each is not None]
        sweep = find_sweep(ctx.address.key, suspects, LIMITS) if len(suspects) > 1 else None
        if sweep is not None:
            ctx.explain(sweep.judgement.why, log=log, members=list(sweep.members))
        for suspect in suspects:
            if sweep is not None and suspect.source in sweep.members:
                ruling = Ruled(log=log, sweep=sweep.judgement, network=sweep.network)
            else:
                ruling = Ruled(log=log)
            ctx.send(watchman(suspect.source), ruling)
