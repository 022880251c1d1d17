"""A runner works off an errand: it computes a price, asks an oracle, sleeps, waits for a permit, and enters it."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from callboard import (
    Agent,
    ApprovalDenied,
    Context,
    EffectUnknown,
    RetryPolicy,
    StepFailed,
    TaskWork,
    handler,
    message,
    tool,
)

changed_code = False  # a test changes what the handler does between two of its runs


@message("vigil.errand.v1")
class Errand(BaseModel):
    """What a runner does; `waits` names what it waits for after the others."""

    number: int = 1
    sleep_s: float = 0.0
    permit: bool = False
    fails: bool = False
    undoes: bool = False


@message("vigil.question.v1")
class Question(BaseModel):
    number: int


@message("vigil.speak.v1")
class Speak(BaseModel):
    """Lets the oracle answer all who have asked it."""


@message("vigil.answer.v1")
class Answer(BaseModel):
    text: str


@message("vigil.entry.v1")
class Entry(BaseModel):
    text: str


def price_of(number: int) -> int:
    return 10 * number


def weight_of(number: int) -> int:
    return number


def forget_price(price: int) -> None:
    """What undoes that it was computed."""


def look_up(number: int) -> str:
    raise LookupError(f"there is no {number}")


class Runner(Agent):
    kind = "runner"
    retry = RetryPolicy(attempts=3, first_delay_s=600.0)

    class State(BaseModel):
        answers: list[str] = []

    state: State

    @handler
    async def on_task(self, work: TaskWork, ctx: Context) -> None:
        await self.on_errand(Errand.model_validate(work.input), ctx)
        ctx.complete({"answers": self.state.answers})

    @handler
    async def on_errand(self, errand: Errand, ctx: Context) -> None:
        price = await ctx.step(weight_of if changed_code else price_of, errand.number)
        if errand.undoes:
            ctx.compensate(forget_price, price)
        try:
            await ctx.step(look_up, errand.number)
        except StepFailed:
            ctx.explain("looked it up in vain", price=price)
        if errand.fails:
            await asyncio.sleep(0)
            raise ValueError("the errand cannot be done")
        answer = await ctx.ask("vigil/oracle/main", Question(number=errand.number))
        if errand.sleep_s:
            await ctx.sleep(errand.sleep_s)
        if errand.permit:
            await (await ctx.promise("permit"))
        self.state.answers.append(answer.text)
        ctx.send("vigil/ledger/main", Entry(text=answer.text))


@message("vigil.opening.v1")
class Opening(BaseModel):
    """Opens a gate, with a permit of alice or bob."""

    gate: str
    minutes: int = 5


@tool(requires_approval=True, approvers=("alice", "bob"), on_unknown="ask")
async def open_gate(gate: str, minutes: int) -> str:
    """Open a gate for some minutes."""
    if gate == "broken":
        raise ConnectionError("the gate does not answer")
    return f"{gate} is open"


@message("vigil.ringing.v1")
class Ringing(BaseModel):
    """Rings a bell, and goes on where nobody knows whether it has rung, unless it `insists`."""

    bell: str
    insists: bool = False


@tool(effect="at_most_once", on_unknown="fail")
async def ring(bell: str) -> None:
    """Ring a bell."""
    if bell == "silent":
        raise ConnectionError("the bell does not answer")


class Guard(Agent):
    kind = "guard"

    class State(BaseModel):
        log: list[str] = []

    state: State

    @handler
    async def on_opening(self, opening: Opening, ctx: Context) -> None:
        try:
            minutes = 2 * opening.minutes if changed_code else opening.minutes
            opened = await ctx.call(open_gate, opening.gate, minutes=minutes)
        except ApprovalDenied as error:
            self.state.log.append(error.message)
        else:
            self.state.log.append(f"{opened}, says {ctx.decisions[0].by}")

    @handler
    async def on_ringing(self, ringing: Ringing, ctx: Context) -> None:
        try:
            await ctx.call(ring, ringing.bell)
        except EffectUnknown as error:
            if ringing.insists:
                raise
            self.state.log.append(error.message)
        else:
            self.state.log.append(f"{ringing.bell} has rung")


class Oracle(Agent):
    kind = "oracle"

    class State(BaseModel):
        refs: list[str] = []

    state: State

    @handler
    async def on_question(self, question: Question, ctx: Context) -> None:
        self.state.refs.append(ctx.reply_later())

    @handler
    async def on_speak(self, speak: Speak, ctx: Context) -> None:
        for ref in self.state.refs:
            ctx.resolve(ref, Answer(text="yes"))
        self.state.refs = []


class Ledger(Agent):
    kind = "ledger"

    class State(BaseModel):
        entries: list[str] = []

    state: State

    @handler
    async def on_entry(self, entry: Entry, ctx: Context) -> None:
        self.state.entries.append(entry.text)
