"""The hooks of an agent's lifecycle: they run inside its turns, however often it leaves memory."""

from __future__ import annotations

from pydantic import BaseModel

from callboard import (
    Agent,
    Context,
    InvalidMessage,
    handler,
)
from callboard.testing import TestKit
from tests.unit.agents import Keeper, Note


class Witness(Agent):
    """Writes down which hooks ran; `seen` is outside of the state, since hooks may not change it."""

    kind = "witness"
    seen: list[str] = []  # noqa: RUF012  (shared on purpose)

    class State(BaseModel):
        log: list[str] = []

    state: State

    async def on_created(self, ctx: Context) -> None:
        self.state.log.append("created")

    async def on_activated(self) -> None:
        self.seen.append("activated")

    async def on_passivated(self) -> None:
        self.seen.append("passivated")

    async def on_paused(self, ctx: Context) -> None:
        self.state.log.append("paused")

    async def on_resumed(self, ctx: Context) -> None:
        self.state.log.append("resumed")

    async def on_destroyed(self, ctx: Context) -> None:
        self.seen.append("destroyed")
        ctx.send("test/keeper/k", Note(text=",".join(self.state.log)))

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        self.state.log.append(note.text)
        if note.text == "end":
            ctx.destroy()


async def test_hooks_run_inside_the_turns_of_the_lifecycle() -> None:
    Witness.seen.clear()
    at = "test/witness/w"
    async with TestKit([Witness, Keeper]) as kit:
        assert kit.lifecycle(at) == "created"
        await kit.send(at, Note(text="one"))
        await kit.quiet()
        assert (kit.lifecycle(at), kit.state(at).log) == ("running", ["created", "one"])
        await kit.pause(at)
        await kit.quiet()
        assert kit.lifecycle(at) == "paused"
        await kit.resume(at)
        await kit.quiet()
        assert kit.state(at).log == ["created", "one", "paused", "resumed"]
        await kit.send(at, Note(text="end"))
        await kit.quiet()
        assert kit.lifecycle(at) == "destroyed"
        assert kit.state("test/keeper/k").notes == ["created,one,paused,resumed,end"]
        await kit.send(at, Note(text="again"))
        await kit.quiet()
        assert (kit.lifecycle(at), kit.state(at).log) == ("running", ["created", "again"])
        assert [step.version for step in kit.history(at)] == [1, 2, 3, 4, 5]
    assert Witness.seen == ["activated", "destroyed", "activated"]


async def test_what_was_destroyed_is_not_told_so_again() -> None:
    Witness.seen.clear()
    at = "test/witness/w"
    async with TestKit([Witness, Keeper]) as kit:
        await kit.send(at, Note(text="one"))
        await kit.quiet()
        for _ in range(3):
            await kit.destroy(at)
            await kit.quiet()
        assert [step.decision for step in kit.history(at)] == ["handled", *["destroyed"] * 3]
        assert kit.state("test/keeper/k").notes == ["created,one"]
        await kit.send(at, Note(text="again"))
        await kit.quiet()
        await kit.destroy(at)
        await kit.quiet()
        assert kit.state("test/keeper/k").notes == ["created,one", "created,again"]


async def test_an_idle_agent_leaves_memory_and_comes_back_as_it_was() -> None:
    Witness.seen.clear()
    at = "test/witness/w"
    async with TestKit([Witness]) as kit:
        await kit.send(at, Note(text="one"))
        await kit.advance(hours=1)
        assert Witness.seen == ["activated", "passivated"]
        await kit.send(at, Note(text="two"))
        await kit.quiet()
        assert kit.state(at).log == ["created", "one", "two"]
    assert Witness.seen == ["activated", "passivated", "activated"]


async def test_a_hook_that_fails_in_the_first_turn_fails_the_message() -> None:
    class Stillborn(Agent):
        kind = "stillborn"

        async def on_created(self, ctx: Context) -> None:
            raise InvalidMessage("not today")

        @handler
        async def on_note(self, note: Note, ctx: Context) -> None: ...

    async with TestKit([Stillborn]) as kit:
        await kit.send("test/stillborn/s", Note())
        await kit.quiet()
        assert [letter.error for letter in kit.dead_letters()] == ["InvalidMessage: not today"]
        assert kit.lifecycle("test/stillborn/s") == "created"
