"""Delivers parcels: whoever is nearest bids the most; who is too far away declines."""

from callboard import Agent, CallForBids, Context, TaskWork, handler

STANDS_AT = {"east": 90, "north": 50, "west": 10}  # kilometres along the road
REACH_KM = 40


class Courier(Agent):
    kind = "courier"
    skills = ("delivery",)

    @handler
    async def on_call(self, call: CallForBids, ctx: Context) -> None:
        away = abs(STANDS_AT[ctx.address.key] - call.input["km"])
        if away <= REACH_KM:
            ctx.bid(score=-away, note=f"{away} km away")
        else:
            ctx.decline("too far")

    @handler
    async def on_task(self, work: TaskWork, ctx: Context) -> None:
        ctx.complete({"delivered_by": ctx.address.key})
