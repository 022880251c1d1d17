"""One turn: which handler runs, what of it is committed, and what its history says."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from pydantic import BaseModel, Field

from actors.agent import AgentType, agent_type
from callboard import (
    Agent,
    CallboardError,
    Context,
    InvalidMessage,
    UnknownMessageType,
    handler,
    message,
)
from callboard.testing import TestKit
from tests.unit.agents import Keeper, Note


@message("turns.add.v1")
class Add(BaseModel):
    amount: int


@message("turns.subtract.v1")
class Subtract(BaseModel):
    amount: int


@message("turns.block.v1")
class Block(BaseModel):
    pass


@message("turns.spoil.v1")
class Spoil(BaseModel):
    pass


class Counter(Agent):
    kind = "counter"

    class State(BaseModel):
        total: int = 0
        threads: list[bool] = []

    state: State

    @handler
    async def on_either(self, change: Add | Subtract, ctx: Context) -> None:
        self.state.total += change.amount if isinstance(change, Add) else -change.amount

    @handler
    def on_block(self, block: Block, ctx: Context) -> None:
        self.state.threads.append(threading.current_thread() is threading.main_thread())

    @handler
    async def on_spoil(self, spoil: Spoil, ctx: Context) -> None:
        self.state.total = 10_000
        ctx.send("test/keeper/k", Note(text="never"))
        raise InvalidMessage("spoilt")


async def test_one_handler_takes_every_type_of_its_union() -> None:
    async with TestKit([Counter]) as kit:
        await kit.send("test/counter/c", Add(amount=5))
        await kit.send("test/counter/c", Subtract(amount=2))
        await kit.quiet()
        assert kit.state("test/counter/c").total == 3


async def test_a_plain_def_runs_in_a_thread_beside_the_event_loop() -> None:
    async with TestKit([Counter]) as kit:
        await kit.send("test/counter/c", Block())
        await kit.quiet()
        assert kit.state("test/counter/c").threads == [False]


async def test_what_a_failed_handler_did_to_the_state_and_sent_is_forgotten() -> None:
    async with TestKit([Counter, Keeper]) as kit:
        await kit.send("test/counter/c", Add(amount=1))
        await kit.send("test/counter/c", Spoil())
        await kit.send("test/counter/c", Add(amount=1))
        await kit.quiet()
        assert kit.state("test/counter/c").total == 2
        assert kit.sent() == []
        assert [letter.reason for letter in kit.dead_letters()] == ["invalid_message"]


async def test_agents_of_one_kind_have_states_of_their_own() -> None:
    async with TestKit([Counter]) as kit:
        await kit.send("test/counter/a", Add(amount=1))
        await kit.send("test/counter/b/with/slashes é", Add(amount=2))
        await kit.quiet()
        assert kit.state("test/counter/a").total == 1
        assert kit.state("test/counter/b/with/slashes é").total == 2


# -- declarations ------------------------------------------------------------------------------------


def test_two_handlers_of_one_message_are_refused() -> None:
    class Twice(Agent):
        kind = "twice"

        @handler
        async def one(self, add: Add, ctx: Context) -> None: ...

        @handler
        async def two(self, add: Add, ctx: Context) -> None: ...

    with pytest.raises(CallboardError, match=r"handles turns\.add\.v1 twice"):
        agent_type(Twice)


def test_a_schema_version_that_no_row_can_hold_is_refused() -> None:
    class Dated(Agent):
        kind = "dated"
        schema_version = 202611211830

    with pytest.raises(CallboardError, match="schema_version is 202611211830"):
        agent_type(Dated)


def test_a_handler_without_a_message_class_is_refused() -> None:
    class Vague(Agent):
        kind = "vague"

        @handler
        async def anything(self, thing: Any, ctx: Context) -> None: ...

    with pytest.raises(CallboardError, match="not annotated with a message class"):
        agent_type(Vague)


def test_a_handler_of_a_model_that_is_no_message_is_refused() -> None:
    class Plain(BaseModel):
        pass

    class Careless(Agent):
        kind = "careless"

    async def on_plain(self: Careless, plain: Plain, ctx: Context) -> None: ...

    on_plain.__annotations__ = {"plain": Plain, "ctx": Context, "return": None}
    Careless.on_plain = handler(on_plain)  # type: ignore[attr-defined]
    with pytest.raises(UnknownMessageType, match="has no wire name"):
        AgentType(Careless)


def test_a_wire_name_belongs_to_one_class() -> None:
    with pytest.raises(InvalidMessage, match="already the wire name"):

        @message("turns.add.v1")
        class Other(BaseModel):
            pass


@pytest.mark.parametrize("name", ["", "add", "Add.v1", "add.v0", "add..v1", "add.v1 ", "add.1"])
def test_a_malformed_wire_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidMessage, match="not a wire name"):
        message(name)


def test_messages_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Add(amount=1).amount = 2


def test_a_state_whose_fields_have_no_default_is_refused_as_its_class_is_declared() -> None:
    class Demanding(Agent):
        kind = "demanding"

        class State(BaseModel):
            needed: int
            given: int = 0
            made: list[str] = Field(default_factory=list)
            since: str

    declared = r"Demanding\.State has no default for: needed, since\."
    with pytest.raises(CallboardError, match=declared) as caught:
        agent_type(Demanding)
    assert caught.value.fix == "Give each one: an agent begins with them, before its first message."
    with pytest.raises(CallboardError, match=declared):
        TestKit([Demanding])


async def test_a_state_whose_defaults_do_not_fit_is_a_clear_dead_letter() -> None:
    class Demanding(Agent):
        kind = "demanding"

        class State(BaseModel):
            needed: int = Field(default=0, gt=0, validate_default=True)

        @handler
        async def on_add(self, add: Add, ctx: Context) -> None: ...

    async with TestKit([Demanding]) as kit:
        await kit.send("test/demanding/d", Add(amount=1))
        await kit.quiet()
        [letter] = kit.dead_letters()
        assert letter.reason == "invalid_payload"
        assert "State cannot be made: needed" in letter.error


# -- history -----------------------------------------------------------------------------------------


class Explainer(Agent):
    kind = "explainer"

    class State(BaseModel):
        big: dict[str, str] = {}

    state: State

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        ctx.explain("remember", text=note.text, at=ctx.now)
        self.state.big[note.text] = "x" * 3_000
        ctx.send("test/keeper/k", note)

    @handler
    async def on_add(self, add: Add, ctx: Context) -> None:
        ctx.explain("impossible", value={1, 2} if add.amount == 1 else "\0" if add.amount == 2 else "\ud800")


async def test_history_says_what_was_received_decided_and_sent() -> None:
    async with TestKit([Explainer, Keeper]) as kit:
        await kit.send("test/explainer/e", Note(text="é"))
        await kit.quiet()
        [step] = kit.history("test/explainer/e")
        [sent] = step.sends
        assert (step.decision, step.message) == ("handled", Note(text="é"))
        assert step.notes == [{"decision": "remember", "text": "é", "at": kit.clock.now()}]
        assert (sent["to"], sent["type"]) == ("test/keeper/k", "tests.note.v1")
        [received] = kit.history("test/keeper/k")
        assert received.header.causation == step.header.id
        assert received.header.correlation == step.header.id
        assert received.header.id == sent["id"]


async def test_a_large_state_stands_in_the_history_as_what_changed() -> None:
    async with TestKit([Explainer, Keeper]) as kit:
        for text in ("a", "b", "c"):
            await kit.send("test/explainer/e", Note(text=text))
        await kit.quiet()
        first, second, third = (json.loads(step.body) for step in kit.history("test/explainer/e"))
        assert first["state"] == {"big": {"a": "x" * 3_000}}
        assert "state" not in third
        assert sorted(second["delta"]["set"]["big"]) == ["a", "b"]
        assert third["delta"]["drop"] == []


@pytest.mark.parametrize("amount", [1, 2, 3])
async def test_facts_that_no_history_can_hold_are_refused_where_they_are_given(amount: int) -> None:
    async with TestKit([Explainer]) as kit:
        await kit.send("test/explainer/e", Add(amount=amount))
        await kit.quiet()
        [letter] = kit.dead_letters()
        assert letter.reason == "invalid_payload"


async def test_a_state_that_json_cannot_hold_is_a_dead_letter() -> None:
    class Odd(Agent):
        kind = "odd"

        class State(BaseModel):
            text: str = ""

        state: State

        @handler
        async def on_note(self, note: Note, ctx: Context) -> None:
            self.state.text = "\0" if note.text == "nul" else "\ud800"

    async with TestKit([Odd]) as kit:
        await kit.send("test/odd/o", Note(text="nul"))
        await kit.send("test/odd/o", Note(text="surrogate"))
        await kit.advance(hours=1)
        assert [letter.message for letter in kit.dead_letters()] == [Note(text="nul"), Note(text="surrogate")]
        assert kit.state("test/odd/o").text == ""


async def test_a_turn_in_flight_is_shown_only_when_it_has_committed() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Agent):
        kind = "slow"

        class State(BaseModel):
            done: bool = False

        state: State

        @handler
        async def on_note(self, note: Note, ctx: Context) -> None:
            self.state.done = True
            begun.set()
            await go_on.wait()

    async with TestKit([Slow]) as kit:
        await kit.send("test/slow/s", Note())
        await begun.wait()
        assert kit.state("test/slow/s").done is False
        go_on.set()
        await kit.quiet()
        assert kit.state("test/slow/s").done is True
