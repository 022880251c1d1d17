"""The roster: which sources of one log lie in one share of the networks, and what was found of each."""

from __future__ import annotations

from collections import Counter

from pydantic import BaseModel

from callboard import Agent, Context, handler
from secops.address import network_of
from secops.finding import Finding
from secops.messages import Enrolled, Findings, Forgotten, Found, SealAll, Wanted
from secops.places import clerk, clerk_number, reader
from secops.rulebook import VERSION

MAX_SOURCES = 500  # 64,000 for a whole log; what comes on top is counted, and the report says so


class Roster(Agent):
    """Has its sources judged once, keeps the findings, and hands them to every task that wants them.

    Its key is `digest/number`. The reader enrols a source before it wants findings, and only when the whole log
    is read: when they are wanted, the list is complete. A log never changes, so findings hold until the rules do.
    """

    kind = "roster"

    class State(BaseModel):
        findings: dict[str, Finding | None] = {}
        refused: int = 0
        """Sources that found no place; one may be counted more than once."""
        open: list[str] = []
        """Sources that are being judged."""
        rules: str = ""
        waiting: list[str] = []
        peers: int = 1

    state: State

    @handler
    async def on_enrolled(self, enrolled: Enrolled, ctx: Context) -> None:
        findings = self.state.findings
        for source in enrolled.sources:
            if source in findings:
                continue
            if len(findings) < MAX_SOURCES:
                findings[source] = None
            else:
                self.state.refused += 1

    @handler
    async def on_wanted(self, wanted: Wanted, ctx: Context) -> None:
        state = self.state
        state.waiting += wanted.tasks
        state.peers = wanted.peers
        if state.open:
            return
        if state.rules != VERSION:
            self._have_judged(wanted.log, ctx)
        else:
            self._hand_over(ctx)

    def _have_judged(self, log: str, ctx: Context) -> None:
        state = self.state
        state.rules, state.open = VERSION, list(state.findings)
        networks = {source: network_of(source) or source for source in state.open}
        sizes = Counter(networks.values())
        peers = {source: sizes[network] for source, network in networks.items()}
        ctx.send(reader(log), SealAll(log=log, peers=peers))

    @handler
    async def on_found(self, found: Found, ctx: Context) -> None:
        self.state.findings[found.finding.address] = found.finding
        self._settle(found.finding.address, ctx)

    @handler
    async def on_forgotten(self, forgotten: Forgotten, ctx: Context) -> None:
        """An earlier finding stands, under the rules of its time."""
        self._settle(forgotten.source, ctx)

    def _settle(self, source: str, ctx: Context) -> None:
        if source in self.state.open:
            self.state.open.remove(source)
            if not self.state.open:
                self._hand_over(ctx)

    def _hand_over(self, ctx: Context) -> None:
        state = self.state
        findings = tuple(each for each in state.findings.values() if each is not None)
        left_out = state.refused + len(state.findings) - len(findings)
        number = int(ctx.address.key.rpartition("/")[2])
        for task in state.waiting:
            ctx.send(
                clerk(task, clerk_number(number)),
                Findings(roster=number, findings=findings, left_out=left_out, peers=state.peers),
                task=task,  # whichever task has had the log judged
            )
        state.waiting = []
