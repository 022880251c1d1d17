"""What a transition says: the state so that it can be put together again, the calls that are on record, failures."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from actors.supervision import Directive, Supervision
from callboard import Agent, Context, RetryPolicy, StepFailed, handler, message
from callboard.testing import TestKit
from storage import state_delta
from storage.records import FULL_STATE_EVERY

ADDRESS = "test/scribe/s"


@message("body.write.v1")
class Write(BaseModel):
    text: str = ""
    changes: bool = True


@message("body.stumble.v1")
class Stumble(BaseModel):
    """The handler's step fails, and so does it."""


class Scribe(Agent):
    kind = "scribe"
    retry = RetryPolicy(attempts=3, first_delay_s=1)
    supervision = Supervision(rules=((LookupError, Directive.PAUSE),))

    class State(BaseModel):
        text: str = ""

    state: State

    @handler
    async def on_write(self, write: Write, ctx: Context) -> None:
        if write.text == "twice" and ctx.failures < 2:
            raise ValueError("not yet")
        if write.changes:
            self.state.text = write.text

    @handler
    async def on_stumble(self, stumble: Stumble, ctx: Context) -> None:
        try:
            await ctx.step(fails)
        except StepFailed:
            raise LookupError("nothing there") from None


def fails() -> None:
    raise ValueError("no")


def bodies(kit: TestKit) -> list[Any]:
    return [json.loads(t.body) for t in kit.store.agents.transitions["test", "default", "scribe/s"]]


async def test_the_whole_state_stands_at_regular_versions_even_if_it_has_not_changed() -> None:
    async with TestKit([Scribe]) as kit:
        for n in range(2 * FULL_STATE_EVERY + 1):
            await kit.send(ADDRESS, Write(text="once", changes=n == 0))
        await kit.quiet()
        whole = [body["version"] for body in bodies(kit) if "state" in body]
    assert whole == [1, FULL_STATE_EVERY, 2 * FULL_STATE_EVERY]


async def test_failures_before_a_turn_succeeds_are_in_the_history() -> None:
    async with TestKit([Scribe]) as kit:
        await kit.send(ADDRESS, Write(text="once"))
        await kit.send(ADDRESS, Write(text="twice"))
        await kit.quiet()
        for _ in range(2):
            await kit.advance(seconds=10)
            await kit.quiet()
        assert [body.get("failures") for body in bodies(kit)] == [None, 2]


async def test_a_turn_that_is_paused_before_anything_is_on_record_lists_no_calls() -> None:
    async with TestKit([Scribe]) as kit:
        await kit.send(ADDRESS, Stumble())
        await kit.quiet()
        [paused] = bodies(kit)
        assert paused["decision"] == "paused"
        assert "calls" not in paused


STATES = [
    ('{"a":1,"b":2}', '{"a":1,"b":3}', True),
    ('{"a":1e16,"b":2}', '{"a":1e16,"b":2.50}', True),
    ('{"a":"é\\n","b":2}', '{"a":"é\\t","b":2}', True),
    ('{"a":1}', '{"a":1,"b":[1,2]}', True),
    ('{"a":1,"b":2}', '{"b":2}', True),
    ('{"b":2}', '{"a":1,"b":2}', False),  # a new field that is not the last
    ('{"a":1,"b":2}', '{"b":2,"a":1}', False),
    ("[1,2]", "[1,3]", False),
    ('{"a": 1}', '{"a": 2}', False),  # not as we write it
]


@pytest.mark.parametrize(("old", "new", "has_delta"), STATES)
def test_a_delta_leads_to_exactly_the_same_text_or_there_is_none(old: str, new: str, has_delta: bool) -> None:
    delta = state_delta.between(old, new)
    assert (delta is not None) == has_delta
    if delta is not None:
        assert state_delta.applied(old, msgspec.json.decode(delta, type=state_delta.Delta)) == new


class Asker(Agent):
    kind = "asker"

    class State(BaseModel):
        text: str = ""

    state: State

    @handler
    async def on_write(self, write: Write, ctx: Context) -> None:
        ctx.send(ADDRESS, Write(text="before"))
        await ctx.ask("test/replier/r", Write(text="asked"))
        ctx.send(ADDRESS, Write(text="after"))


class Replier(Agent):
    kind = "replier"

    class State(BaseModel):
        ref: str = ""

    state: State

    @handler
    async def on_write(self, write: Write, ctx: Context) -> None:
        if write.text == "answer":
            ctx.resolve(self.state.ref, "yes")
        else:
            self.state.ref = ctx.reply_later()


@pytest.mark.parametrize("crash", [False, True])
async def test_what_a_turn_has_asked_stands_among_its_sends_also_when_it_ran_again(crash: bool) -> None:
    async with TestKit([Asker, Replier, Scribe]) as kit:
        await kit.send("test/asker/a", Write())
        await kit.quiet()
        if crash:
            await kit.advance(seconds=2)  # it is put away
            await kit.crash()
            await kit.recover()
        await kit.send("test/replier/r", Write(text="answer"))
        await kit.quiet()
        [turn] = kit.store.agents.transitions["test", "default", "asker/a"]
        assert [sent["to"] for sent in json.loads(turn.body)["sends"]] == [ADDRESS, "test/replier/r", ADDRESS]
