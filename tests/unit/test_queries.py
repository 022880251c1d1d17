"""Queries read a copy of the committed state, answer with a model, and change nothing."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel

from bus.envelope import new_id
from callboard import (
    Agent,
    Context,
    DeadlineExceeded,
    InvalidMessage,
    NoHandler,
    QueryFailed,
    UnknownKind,
    UnknownMessageType,
    handler,
    message,
    query,
)
from callboard.testing import TestKit
from tests.unit.agents import Note


@message("queries.how_many.v1")
class HowMany(BaseModel):
    """Answered by the asked agent in the way that `how` says."""

    how: str = "plainly"


@message("queries.first.v1")
class First(BaseModel):
    pass


class Answer(BaseModel):
    count: int = 0
    at: float = 0.0
    word: str = ""


class Archive(Agent):
    kind = "archive"
    hold: asyncio.Event

    class State(BaseModel):
        notes: list[str] = []

    state: State

    async def on_activated(self) -> None:
        self.prefix = "note:"

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        self.state.notes.append(note.text)
        if note.text == "hold":
            Archive.hold.set()
            await asyncio.Event().wait()

    @query
    async def how_many(self, question: HowMany, ctx: Context) -> Answer | None:
        match question.how:
            case "badly":
                raise ValueError("cannot count.\nat all")
            case "emptily":
                return None
            case "slowly":
                await asyncio.Event().wait()
            case "impatiently":
                raise TimeoutError("of its own")
            case "greedily":
                self.state.notes.append("stolen")
            case "loudly":
                ctx.send("test/archive/other", Note(text="psst"))
            case "finally":
                ctx.destroy()
            case "bindingly":
                ctx.resolve(f"test/archive/other#{new_id()}", 1)
            case "decidedly":
                await ctx.decide(f"test/archive/other#{new_id()}", True)
            case "step by step":
                await ctx.step(int, 1)
            case "patiently":
                await ctx.sleep(1)
        return Answer(count=len(self.state.notes), at=ctx.now)

    @query
    def first(self, question: First, ctx: Context) -> Answer:
        return Answer(word=self.prefix + self.state.notes[0])


AT = "test/archive/a"


async def test_a_query_answers_from_the_committed_state() -> None:
    async with TestKit([Archive]) as kit:
        assert await kit.query(AT, HowMany()) == Answer(count=0, at=kit.clock.now())
        await kit.send(AT, Note(text="one"))
        await kit.quiet()
        assert (await kit.query(AT, HowMany())).count == 1
        assert (await kit.query(AT, First())).word == "note:one"


async def test_a_query_does_not_wait_for_the_turn_in_front_of_it() -> None:
    Archive.hold = asyncio.Event()
    async with TestKit([Archive]) as kit:
        await kit.send(AT, Note(text="one"))
        await kit.quiet()
        await kit.send(AT, Note(text="hold"))
        await Archive.hold.wait()
        assert (await kit.query(AT, HowMany())).count == 1


async def test_what_a_query_does_to_the_state_is_forgotten() -> None:
    async with TestKit([Archive]) as kit:
        await kit.send(AT, Note(text="one"))
        await kit.quiet()
        assert (await kit.query(AT, HowMany(how="greedily"))).count == 2
        assert (await kit.query(AT, HowMany())).count == 1
        assert kit.state(AT).notes == ["one"]
        assert len(kit.history(AT)) == 1


@pytest.mark.parametrize("how", ["loudly", "finally", "bindingly", "decidedly", "step by step", "patiently"])
async def test_a_query_that_would_have_an_effect_is_refused(how: str) -> None:
    async with TestKit([Archive]) as kit:
        with pytest.raises(InvalidMessage, match="only reads"):
            await kit.query(AT, HowMany(how=how))
        assert (kit.sent(), kit.lifecycle(AT)) == ([], "created")


async def test_each_way_to_go_wrong_has_its_error() -> None:
    async with TestKit([Archive]) as kit:
        with pytest.raises(
            QueryFailed, match=r"how_many failed: ValueError: cannot count\. Mend the"
        ) as caught:
            await kit.query(AT, HowMany(how="badly"))
        assert isinstance(caught.value.__cause__, ValueError)
        with pytest.raises(QueryFailed, match="answered with NoneType"):
            await kit.query(AT, HowMany(how="emptily"))
        with pytest.raises(QueryFailed, match="TimeoutError: of its own"):
            await kit.query(AT, HowMany(how="impatiently"))
        with pytest.raises(DeadlineExceeded, match=r"did not answer within 0\.01 s"):
            await kit.query(AT, HowMany(how="slowly"), timeout_s=0.01)
        with pytest.raises(QueryFailed, match="IndexError"):
            await kit.query(AT, First())
        with pytest.raises(NoHandler, match="has no query handler"):
            await kit.query(AT, Note())
        with pytest.raises(UnknownMessageType):
            await kit.query(AT, Answer())
        with pytest.raises(UnknownKind):
            await kit.query("test/nobody/a", HowMany())


async def test_a_query_is_no_handler_and_a_handler_no_query() -> None:
    async with TestKit([Archive]) as kit:
        await kit.send(AT, HowMany())
        await kit.quiet()
        assert [letter.reason for letter in kit.dead_letters()] == ["no_handler"]
