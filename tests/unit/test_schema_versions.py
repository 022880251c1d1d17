"""States of older and newer code, and such as no longer fit: nothing of them is lost."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from actors.agent import agent_type
from callboard import (
    Agent,
    Context,
    InvalidPayload,
    handler,
)
from callboard.testing import TestKit
from tests.unit.agents import Note


class TallyOne(Agent):
    kind = "tally"

    class State(BaseModel):
        count: int = 0

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        self.state.count += 1


class TallyTwo(Agent):
    kind = "tally"
    schema_version = 2

    class State(BaseModel):
        counts: dict[str, int] = {}

    @classmethod
    def upcast(cls, state: dict[str, Any], from_version: int) -> dict[str, Any]:
        assert from_version == 1
        return {"counts": {"all": state["count"]}}

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        self.state.counts[note.text] = self.state.counts.get(note.text, 0) + 1


class TallyWithoutUpcast(Agent):
    kind = "tally"

    class State(BaseModel):
        counted: int = 0
        count: str = ""

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None: ...


async def test_an_older_state_is_brought_along_by_upcast() -> None:
    async with TestKit([TallyOne]) as old:
        await old.send("test/tally/t", Note(text="a"))
        await old.quiet()
        async with TestKit([TallyTwo]) as new:
            new.store.agents.states.update(old.store.agents.states)
            await new.send("test/tally/t", Note(text="b"))
            await new.quiet()
            assert new.state("test/tally/t").counts == {"all": 1, "b": 1}
            stored = new.store.agents.states[("test", "default", "tally/t")]
            assert (stored.version, stored.schema_version) == (2, 2)


async def test_a_state_that_no_longer_fits_is_kept_and_the_message_is_a_dead_letter() -> None:
    async with TestKit([TallyOne]) as old:
        await old.send("test/tally/t", Note(text="a"))
        await old.quiet()
        async with TestKit([TallyWithoutUpcast]) as new:
            new.store.agents.states.update(old.store.agents.states)
            await new.send("test/tally/t", Note(text="b"))
            await new.quiet()
            [letter] = new.dead_letters()
            assert letter.reason == "invalid_payload"
            stored = new.store.agents.states[("test", "default", "tally/t")]
            assert stored.state == '{"count":1}'


async def test_code_older_than_the_state_loses_nothing_of_it() -> None:
    async with TestKit([TallyTwo]) as new:
        await new.send("test/tally/t", Note(text="a"))
        await new.quiet()
        async with TestKit([TallyOne]) as old:
            old.store.agents.states.update(new.store.agents.states)
            await old.send("test/tally/t", Note(text="b"))
            await old.quiet()
            [letter] = old.dead_letters()
            assert "of schema_version 2, and TallyOne knows those up to 1" in letter.error
            stored = old.store.agents.states[("test", "default", "tally/t")]
            assert (stored.state, stored.schema_version) == ('{"counts":{"a":1}}', 2)


async def test_an_agent_whose_state_no_longer_fits_can_be_paused_and_destroyed() -> None:
    async with TestKit([TallyOne]) as old:
        await old.send("test/tally/t", Note(text="a"))
        await old.quiet()
        async with TestKit([TallyWithoutUpcast]) as new:
            new.store.agents.states.update(old.store.agents.states)
            await new.pause("test/tally/t")
            await new.quiet()
            paused = new.store.agents.states[("test", "default", "tally/t")]
            assert (paused.lifecycle, paused.state, paused.schema_version) == ("paused", '{"count":1}', 1)
            await new.destroy("test/tally/t")
            await new.quiet()
            assert new.store.agents.states[("test", "default", "tally/t")].lifecycle == "destroyed"
            assert new.dead_letters() == []


def test_a_state_that_never_fits_its_class_says_how_to_mend_it() -> None:
    with pytest.raises(InvalidPayload, match="Raise schema_version and write upcast"):
        agent_type(TallyWithoutUpcast).load_state('{"count":1}', 1)
