"""Agents and messages that several unit tests share."""

from __future__ import annotations

from pydantic import BaseModel

from callboard import Agent, Context, handler, message


@message("tests.note.v1")
class Note(BaseModel):
    """Something to be remembered."""

    text: str = ""


@message("tests.forward.v1")
class Forward(BaseModel):
    """Send a note on to somebody."""

    to: str
    text: str = ""
    times: int = 1
    delay_s: float | None = None


class Keeper(Agent):
    """Keeps notes in the order in which they came, with their senders, and forwards others."""

    kind = "keeper"

    class State(BaseModel):
        notes: list[str] = []
        senders: list[str] = []

    state: State

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        self.state.notes.append(note.text)
        self.state.senders.append(ctx.sender)

    @handler
    async def on_forward(self, forward: Forward, ctx: Context) -> None:
        for index in range(forward.times):
            note = Note(text=forward.text if forward.times == 1 else f"{forward.text}{index}")
            if forward.delay_s is None:
                ctx.send(forward.to, note)
            else:
                ctx.send_later(forward.to, note, delay_s=forward.delay_s)
