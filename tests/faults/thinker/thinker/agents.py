"""An agent that asks a model one question after another."""

from __future__ import annotations

from pydantic import BaseModel

from callboard import Agent, Context, handler, message


@message("thinker.riddle.v1")
class Riddle(BaseModel):
    questions: int


class Thinker(Agent):
    kind = "thinker"

    class State(BaseModel):
        answers: list[str] = []

    state: State

    @handler
    async def on_riddle(self, riddle: Riddle, ctx: Context) -> None:
        model = ctx.model("small", temperature=0.7)
        for number in range(riddle.questions):
            self.state.answers.append((await model.chat(f"question {number}")).text)
