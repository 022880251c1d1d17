"""Prints photographs: each print takes a while, and the work is spread over the printers."""

from pydantic import BaseModel

from callboard import Agent, Context, TaskWork, handler, message


@message("darkroom.developed.v1")
class Developed(BaseModel):
    photo: str


class Printer(Agent):
    kind = "printer"
    skills = ("printing",)

    class State(BaseModel):
        printed: int = 0

    state: State

    @handler
    async def on_task(self, work: TaskWork, ctx: Context) -> None:
        ctx.progress(0.5, "in the developer")
        ctx.send_later(ctx.address, Developed(photo=work.input["photo"]), delay_s=work.input["seconds"])

    @handler
    async def on_developed(self, done: Developed, ctx: Context) -> None:
        self.state.printed += 1
        ctx.complete({"photo": done.photo, "printed_by": ctx.address.key})
