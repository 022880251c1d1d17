"""An agent whose messages fail as a test wants them to."""

from __future__ import annotations

from pydantic import BaseModel

from actors.retry import RetryPolicy
from actors.supervision import Directive, Supervision
from callboard import Agent, Context, handler, message

STEADY = RetryPolicy(attempts=4, first_delay_s=10, factor=2, max_delay_s=30, jitter=0)
AT_ONCE = RetryPolicy(attempts=4, first_delay_s=0, jitter=0)
AT = "test/trier/t"


@message("failures.try.v1")
class Try(BaseModel):
    """Fails until it has failed so often."""

    name: str
    fails: int = 0


@message("failures.pass.v1")
class Pass(BaseModel):
    """As Try, and others may overtake it."""

    name: str
    fails: int = 0


@message("failures.hurry.v1")
class Hurry(BaseModel):
    """As Try, without a delay between its tries."""

    name: str
    fails: int = 0


class Bad(Exception):
    """An error that is not worth another try."""


class Stop(Exception):
    """An error for which the agent is paused."""


class Trier(Agent):
    kind = "trier"
    retry = STEADY
    supervision = Supervision(rules=((Stop, Directive.PAUSE), (Bad, Directive.DEAD_LETTER)))

    class State(BaseModel):
        done: list[str] = []

    state: State

    def attempt(self, name: str, fails: int, ctx: Context) -> None:
        self.state.done.append(name)
        if name == "bad":
            raise Bad("hopeless")
        if name == "stop" and fails > ctx.failures:
            raise Stop("look at me")
        if ctx.failures < fails:
            raise ValueError(f"not yet: {ctx.failures}")

    @handler
    async def on_try(self, attempt: Try, ctx: Context) -> None:
        self.attempt(attempt.name, attempt.fails, ctx)

    @handler(overtake=True)
    async def on_pass(self, attempt: Pass, ctx: Context) -> None:
        self.attempt(attempt.name, attempt.fails, ctx)

    @handler(retry=AT_ONCE)
    async def on_hurry(self, attempt: Hurry, ctx: Context) -> None:
        self.attempt(attempt.name, attempt.fails, ctx)
