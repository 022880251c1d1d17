"""A clerk takes a task, gathers as many notes as it announces, and reports."""

from __future__ import annotations

from pydantic import BaseModel

from callboard import NO_RETRY, Agent, Context, TaskWork, handler, message, query


@message("desk.note.v1")
class Note(BaseModel):
    """One line of the input."""

    task: str
    number: int
    text: str


@message("desk.how_many.v1")
class HowMany(BaseModel):
    """How many notes that have this in them."""

    text: str = ""


class Notes(BaseModel):
    notes: int


class Clerk(Agent):
    """Gathers notes; a note that says `poison` fails for good."""

    kind = "clerk"
    retry = NO_RETRY

    class State(BaseModel):
        expected: int = -1
        notes: list[str] = []

    state: State

    @handler
    async def on_task(self, work: TaskWork, ctx: Context) -> None:
        if work.input.get("refuse"):
            ctx.fail("the clerk refuses \x1b[31msuch\x1b[0m work")
            return
        self.state.expected = work.input["lines"]
        self._report(ctx)

    @handler
    async def on_note(self, note: Note, ctx: Context) -> None:
        if note.text == "poison":
            self.state.expected -= 1
            raise ValueError("cannot be read")
        self.state.notes.append(note.text)
        ctx.explain("noted", number=note.number)
        self._report(ctx)

    @query
    def how_many(self, asked: HowMany, ctx: Context) -> Notes:
        if asked.text == "?":
            raise ValueError("nobody knows")
        return Notes(notes=sum(asked.text in note for note in self.state.notes))

    def _report(self, ctx: Context) -> None:
        if self.state.expected > 0 and len(self.state.notes) < self.state.expected:
            ctx.progress(len(self.state.notes) / self.state.expected, f"{len(self.state.notes)} notes")
        elif self.state.expected >= 0:
            ctx.complete(
                {"notes": self.state.notes, "markdown": f"# Notes\n\n- {len(self.state.notes)} taken\n"}
            )
