"""The benchmark's agents: one records steps, and one asks another."""

from __future__ import annotations

from pydantic import BaseModel

from actors.agent import Agent, handler
from actors.context import Context
from bus.registry import message


@message("steps.work.v1")
class Work(BaseModel):
    """A turn of so many steps."""

    steps: int


@message("steps.inquire.v1")
class Inquire(BaseModel):
    """A turn that asks the answerer of this key so many questions, one after another."""

    answerer: str
    asks: int


@message("steps.question.v1")
class Question(BaseModel):
    number: int


@message("steps.answer.v1")
class Answer(BaseModel):
    number: int


async def following(number: int) -> int:
    """The step: it costs nothing, so that what is measured is its record."""
    return number + 1


class Worker(Agent):
    kind = "worker"

    class State(BaseModel):
        steps: int = 0

    state: State

    @handler
    async def on_work(self, work: Work, ctx: Context) -> None:
        number = 0
        for _ in range(work.steps):
            number = await ctx.step(following, number)
        self.state.steps += number


class Asker(Agent):
    kind = "asker"

    class State(BaseModel):
        answers: int = 0

    state: State

    @handler
    async def on_inquire(self, inquire: Inquire, ctx: Context) -> None:
        for number in range(inquire.asks):
            await ctx.ask(f"steps/answerer/{inquire.answerer}", Question(number=number))
            self.state.answers += 1


class Answerer(Agent):
    kind = "answerer"

    class State(BaseModel):
        questions: int = 0

    state: State

    @handler
    async def on_question(self, question: Question, ctx: Context) -> Answer:
        self.state.questions += 1
        return Answer(number=question.number)
