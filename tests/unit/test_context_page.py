"""The examples of docs/context.md do what the page says; test_reference_pages.py has its tables."""

from __future__ import annotations

from pydantic import BaseModel

from callboard import Agent, Context, handler, message
from callboard.testing import TestKit
from tests.unit.reference import DOCS, run

CONTEXT = (DOCS / "context.md").read_text()


@message("pages.errand.v1")
class Errand(BaseModel):
    what: str = ""


class Sleeper(Agent):
    """Sends itself a message that is due while its turn waits."""

    kind = "sleeper"

    class State(BaseModel):
        log: list[str] = []

    state: State

    @handler
    async def on_errand(self, errand: Errand, ctx: Context) -> None:
        if errand.what == "sleep":
            ctx.send_later(ctx.address, Errand(what="wake"), delay_s=2)
            await ctx.sleep(5)
            self.state.log.append("slept")
        else:
            self.state.log.append(errand.what)


async def test_an_open_turn_keeps_its_agents_own_messages_waiting() -> None:
    at = "test/sleeper/s"
    async with TestKit([Sleeper]) as kit:
        await kit.send(at, Errand(what="sleep"))
        await kit.advance(seconds=4)
        assert [waiting.message for waiting in kit.mailbox(at)] == [Errand(what="wake")]
        await kit.advance(seconds=1)
        assert kit.state(at).log == ["slept", "wake"]


async def test_a_desk_of_the_page_reminds_while_it_waits_over_crashes_and_no_longer() -> None:
    page = run(CONTEXT)
    async with TestKit([page["Desk"]], domain="office", others=["ward"]) as kit:
        await kit.send("office/desk/a", page["Wanted"](what="a key"))
        await kit.advance(hours=2, minutes=1)
        await kit.crash()
        await kit.recover()
        await kit.advance(hours=1)
        reminders = [page["Reminder"](what="a key")] * 3
        assert kit.sent(to="ward/pager/main") == reminders
        [asked] = kit.approvals()
        assert await kit.approve(asked.id)
        await kit.advance(hours=5)
        assert kit.sent(to="ward/pager/main") == reminders
        assert kit.history("office/desk/a")[-1].notes == [{"decision": "decided", "approved": True}]


async def test_a_counter_of_the_page_goes_on_while_somebody_waits_for_its_answer() -> None:
    page = run(CONTEXT)

    class Customer(Agent):
        kind = "customer"

        class State(BaseModel):
            has: str = ""

        state: State

        @handler
        async def on_errand(self, errand: Errand, ctx: Context) -> None:
            self.state.has = (await ctx.ask("office/counter/main", page["Wanted"](what=errand.what))).what

    async with TestKit([page["Counter"], Customer], domain="office") as kit:
        for what in ("a key", "a pen"):
            await kit.send(f"office/customer/{what}", Errand(what=what))
        await kit.quiet()
        assert set(kit.state("office/counter/main").asked) == {"a key", "a pen"}
        await kit.send("office/counter/main", page["Arrived"](what="a pen"))
        await kit.quiet()
        assert kit.state("office/customer/a pen").has == "a pen"
        assert set(kit.state("office/counter/main").asked) == {"a key"}
