"""A guide that asks bookers, who book, ask on and wait; what they have booked is released when they are cancelled."""

from __future__ import annotations

from pydantic import BaseModel

from callboard import Agent, Context, TaskWork, handler, message

DEPTH = 2  # bookers ask bookers who ask nobody


@message("outing.book.v1")
class Book(BaseModel):
    name: str
    depth: int


booked: list[str] = []
released: list[str] = []


def book(name: str) -> str:
    booked.append(name)
    return name


def release(name: str) -> None:
    released.append(name)


class Guide(Agent):
    kind = "guide"

    @handler
    async def on_task(self, work: TaskWork, ctx: Context) -> None:
        count = int(work.input["bookers"])
        ctx.send_later(ctx.address, work, delay_s=3_600)
        await ctx.gather(
            *(
                ctx.ask(f"outing/booker/{work.id}-{n}", Book(name=f"{n}", depth=0), key=f"{n}")
                for n in range(count)
            )
        )
        ctx.complete("all is booked")


class Booker(Agent):
    kind = "booker"

    @handler
    async def on_book(self, order: Book, ctx: Context) -> str:
        name = await ctx.step(book, order.name)
        ctx.compensate(release, name)
        if order.depth < DEPTH:
            below = f"{order.name}.{order.depth}"
            ctx.send(f"outing/booker/sent-{ctx.address.key}", Book(name=f"{below}s", depth=DEPTH))
            await ctx.ask(f"outing/booker/{ctx.address.key}-a", Book(name=f"{below}a", depth=order.depth + 1))
        else:
            await ctx.sleep(3_600)
        return name
