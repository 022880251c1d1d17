"""docs/agent.md says what the code does: each name and each default, and every example of it is run."""

from __future__ import annotations

import dataclasses
import inspect
import re
from random import Random
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

import callboard
from actors import failure, saga, turn
from actors.agent import Agent, handler, query
from actors.retry import NO_RETRY, RetryPolicy
from actors.supervision import Directive, Supervision
from actors.tool import tool
from bus.registry import message
from callboard import Context
from callboard.testing import TestKit
from storage.records import INVALID_EVENT, NOT_UNDONE
from tests.unit.reference import DOCS, defaults, first_cells, members, run, sections, shown

AGENT = (DOCS / "agent.md").read_text()


@pytest.fixture(scope="module")
def agent() -> dict[str, str]:
    return sections(AGENT)


@pytest.fixture
def shop() -> dict[str, Any]:
    return run(AGENT)


def test_every_name_that_authors_import_for_an_agent_is_on_its_page() -> None:
    rooms = {"actors.agent", "actors.retry", "actors.supervision", "actors.tool", "actors.secret"}
    found = {
        name for name in callboard.__all__ if getattr(getattr(callboard, name), "__module__", "") in rooms
    }
    assert {"Agent", "Supervision", "Secret"} < found
    for name in found | {"NO_RETRY", "message"}:
        assert re.search(rf"\b{name}\b", AGENT), name


def test_the_page_of_the_agent_has_each_part_of_the_class(agent: dict[str, str]) -> None:
    hooks = {shown(name, hook) for name, hook in members(Agent).items() if name.startswith("on_")}
    assert first_cells(agent["Hooks"]) == hooks
    parts = {f"`{name}`" for name in inspect.get_annotations(Agent)} | {shown("upcast", Agent.upcast)}
    assert first_cells(agent["The class"]) == parts
    assert {f"`{name}`" for name in members(Agent)} <= {
        re.sub(r"await |\(.*\)", "", cell) for cell in hooks | parts
    }
    said = defaults(agent["The class"])
    assert (said["`schema_version`"], said["`skills`"]) == (f"`{Agent.schema_version}`", f"`{Agent.skills}`")
    assert (Agent.retry, Agent.supervision) == (RetryPolicy(), Supervision())
    assert (said["`retry`"], said["`supervision`"]) == ("`RetryPolicy()`", "`Supervision()`")
    assert Agent.State.model_fields == {}


def test_the_page_of_the_agent_has_the_decorators_as_they_are(agent: dict[str, str]) -> None:
    assert first_cells(agent["Handlers"]) == {
        shown("handler", handler), shown("query", query), shown("message", message)
    }  # fmt: skip


def test_the_page_of_the_agent_has_the_policy_of_retries_as_it_is(agent: dict[str, str]) -> None:
    def default(value: Any) -> str:
        classes = value if isinstance(value, tuple) else ()
        return ", ".join(f"`{each.__name__}`" for each in classes) or f"`{value!r}`"

    fields = {f"`{each.name}`": default(each.default) for each in dataclasses.fields(RetryPolicy)}
    assert defaults(agent["Retries"]) == fields
    rng = Random(0)
    delays = [RetryPolicy(jitter=0).delay_s(n, rng) for n in range(1, RetryPolicy().attempts)]
    assert sum(delays) == pytest.approx(4.0)  # "within some four seconds"


def test_the_page_of_the_agent_has_each_directive(agent: dict[str, str]) -> None:
    assert first_cells(agent["Supervision"]) == {f"`{each.name}`" for each in Directive}


def test_the_page_of_the_agent_has_each_reason_of_a_dead_letter(agent: dict[str, str]) -> None:
    reasons = {failure.EXPIRED, saga.SKIPPED, saga.DESTROYED, INVALID_EVENT, NOT_UNDONE}
    for source, how in (
        (failure.reason_of, r'return "(\w+)"'),
        (turn, r'_ending\(envelope, "(\w+)"'),
    ):
        found = re.findall(how, inspect.getsource(source))
        assert found, source
        reasons.update(found)
    assert first_cells(agent["Dead letters"]) == {f"`{reason}`" for reason in reasons}


def test_the_page_of_the_agent_has_the_options_of_a_tool(agent: dict[str, str]) -> None:
    options = [each for each in inspect.signature(tool).parameters.values() if each.name != "function"]
    said = {
        f"`{each.name}`": "`NO_RETRY`" if each.name == "retry" else f"`{each.default!r}`" for each in options
    }
    assert defaults(agent["Tools"]) == said


async def test_a_basket_of_the_page_counts_and_its_new_class_brings_the_old_state_along(
    shop: dict[str, Any],
) -> None:
    at = "shop/basket/ada"
    old_item, new_item = shop["ItemAdded"], shop["ItemAddedTo"]
    async with TestKit([shop["CountedBasket"]], domain="shop") as old:
        await old.send(at, old_item(article="pen", amount=2))
        await old.quiet()
        assert await old.query(at, shop["SizeOf"]()) == shop["Size"](articles=2)
        async with TestKit([shop["BasketOfLines"]], domain="shop") as new:
            new.store.agents.states.update(old.store.agents.states)
            await new.send(at, old_item(article="ink"))
            await new.send(at, new_item(article="cup", gift=True))
            await new.quiet()
            assert new.state(at).model_dump()["lines"] == [
                {"article": "pen", "amount": 2, "gift": False},
                {"article": "ink", "amount": 1, "gift": False},
                {"article": "cup", "amount": 1, "gift": True},
            ]


async def test_the_messages_of_the_page_are_tried_as_often_as_it_says(shop: dict[str, Any]) -> None:
    old_item, new_item = shop["ItemAdded"], shop["ItemAddedTo"]
    async with TestKit([shop["Cashier"]]) as kit:
        for key, item in (
            ("a", old_item(article="pen", amount=101)),
            ("b", old_item(article="pen")),
            ("c", new_item(article="pen")),
        ):
            await kit.send(f"test/cashier/{key}", item)
        await kit.advance(minutes=1)
        failures = {letter.address[-1]: letter.failures for letter in kit.dead_letters()}
        assert failures == {"a": 1, "b": 3, "c": 1}


async def test_an_agent_of_the_page_is_paused_with_its_message_until_it_is_resumed(
    shop: dict[str, Any],
) -> None:
    at = "test/bookkeeper/b"
    async with TestKit([shop["Bookkeeper"]]) as kit:
        await kit.send(at, shop["ItemAdded"](article="pen"))
        await kit.quiet()
        assert (kit.lifecycle(at), len(kit.mailbox(at))) == ("paused", 1)
        await kit.resume(at)
        await kit.quiet()
        assert (kit.lifecycle(at), kit.mailbox(at)[0].failures) == ("paused", 2)


@message("pages.do.v1")
class Do(BaseModel):
    what: str = ""


class Hooked(Agent):
    """Writes down which hooks ran; `ran` is outside of the state, since hooks may not change it."""

    kind = "hooked"
    ran: ClassVar[list[str]] = []

    async def on_activated(self) -> None:
        self.ran.append("activated")

    async def on_created(self, ctx: Context) -> None:
        self.ran.append("created")

    async def on_paused(self, ctx: Context) -> None:
        self.ran.append("paused")

    async def on_destroyed(self, ctx: Context) -> None:
        self.ran.append("destroyed")

    @handler(retry=NO_RETRY)
    async def on_do(self, do: Do, ctx: Context) -> None:
        self.ran.append(do.what)
        if do.what == "fail":
            raise ValueError
        if do.what == "destroy":
            ctx.destroy()

    @query
    async def ask(self, do: Do, ctx: Context) -> Do:
        return do


async def test_the_hooks_run_in_the_order_and_at_the_times_of_the_page() -> None:
    ran = Hooked.ran
    ran.clear()
    at = "test/hooked/h"
    async with TestKit([Hooked]) as kit:
        for what in ("first", "fail", "again", "destroy", "anew"):
            await kit.send(at, Do(what=what))
            await kit.quiet()
        assert ran == [
            "activated", "created", "first", "fail", "activated", "again",
            "destroy", "destroyed", "activated", "created", "anew",
        ]  # fmt: skip
        ran.clear()
        await kit.query(at, Do())
        await kit.crash()
        await kit.recover()
        await kit.send(at, Do(what="elsewhere"))
        await kit.quiet()
        kit.pause_domain()
        await kit.advance(seconds=5)
        assert ran == ["activated", "activated", "elsewhere"]


@pytest.mark.parametrize(("cents", "asks"), [(500, False), (20_000, True)])
async def test_the_tool_of_the_page_asks_for_what_is_large_and_looks_when_nobody_knows(
    shop: dict[str, Any], cents: int, asks: bool
) -> None:
    class Breaks(dict[str, int]):
        """Takes what it is given, and breaks before it says so."""

        def __setitem__(self, order: str, cents: int) -> None:
            super().__setitem__(order, cents)
            raise ConnectionError("cut off")

    shop["BANK"] = Breaks()
    async with TestKit([shop["Payer"]], secrets={"BANK": "hush"}) as kit:
        await kit.send("test/payer/4711", shop["Pay"](cents=cents))
        await kit.quiet()
        assert [asked.details["details"] for asked in kit.approvals()] == (
            [{"order": "4711", "cents": cents}] if asks else []
        )
        for asked in kit.approvals():
            assert await kit.approve(asked.id, by="alice")
        assert kit.history("test/payer/4711")[0].notes == [{"decision": "paid", "receipt": "4711 is paid"}]
        assert shop["BANK"] == {"4711": cents}
