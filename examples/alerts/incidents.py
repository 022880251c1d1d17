"""One agent for each service that alerts are about."""

from __future__ import annotations

from pydantic import BaseModel

from callboard import Agent, Context, handler, message


@message("alert.raised.v1")
class AlertRaised(BaseModel):
    service: str
    text: str


class Incident(Agent):
    """Counts the alerts about one service."""

    kind = "incident"

    class State(BaseModel):
        alerts: int = 0
        last: str = ""

    state: State

    @handler
    async def on_alert(self, alert: AlertRaised, ctx: Context) -> None:
        self.state.alerts += 1
        self.state.last = alert.text
        ctx.explain("counted", alerts=self.state.alerts)
