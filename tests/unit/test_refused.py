"""What Postgres refuses of a turn, of a failure's mark or of a dead letter: one message is lost to its reader, and no host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bus.errors import InvalidData
from callboard.testing import TestKit
from storage.records import Mark, TurnRecord
from tests.unit.agents import Note
from tests.unit.waiter import AT, KINDS, Run, Waiter, leftovers, program, waiters


def refuse(kit: TestKit, refuses: Callable[[Any], bool]) -> list[Any]:
    """Storage that takes no group with such a write in it; what it has refused alone."""
    commit, refused = kit.store.commit, []

    async def picky(fence: Any, writes: Any, marks: Any) -> Any:
        bad = [write for write in (*writes, *marks) if refuses(write)]
        if bad:
            if len(writes) + len(marks) == 1:
                refused.extend(bad)
            raise InvalidData("no such row can be")
        return await commit(fence, writes, marks)

    kit.store.commit = picky  # type: ignore[method-assign]
    return refused


async def fail(self: Waiter, ctx: Any) -> None:
    raise ValueError("nothing to be done")


def is_turn(write: Any) -> bool:
    return isinstance(write, TurnRecord) and b"program" in write.payload.encode()


@pytest.mark.parametrize(
    ("refuses", "count", "error"),
    [
        pytest.param(lambda w: is_turn(w) and w.dead is None, 1, "no such row can be", id="the turn"),
        pytest.param(lambda w: isinstance(w, Mark), 1, "no such row can be", id="the mark of its failure"),
        pytest.param(
            lambda w: is_turn(w) and (w.dead is None or "the log" not in w.dead.error),
            2,
            "Postgres has refused its dead letter; the log of its host has the reason",
            id="its dead letter, too",
        ),
    ],
)
async def test_a_message_of_which_something_is_refused_is_a_dead_letter_and_its_agent_goes_on(
    refuses: Callable[[Any], bool], count: int, error: str
) -> None:
    async def succeed(self: Waiter, ctx: Any) -> None:
        self.state.log.append("done")

    Waiter.programs.clear()
    async with TestKit(KINDS) as kit:
        refused = refuse(kit, refuses)
        fails = any(refuses(mark) for mark in [_mark()])
        await kit.send(AT, Run(program=program(fail if fails else succeed)))
        await kit.send(AT, Note(text="next"))
        await kit.quiet()
        [letter] = kit.dead_letters(AT)
        assert (letter.reason, letter.error) == ("refused", error)
        assert kit.state(AT).log == ["note next"]
        assert len(refused) == count
        assert len(kit._running[0].host.turns.refusals) == 0
        assert not kit._running[0].host.has_ended


def _mark() -> Mark:
    return Mark(tenant="default", partition=0, agent="waiter/w", seq=1, failed=1)


def release(name: str) -> None:
    Waiter.calls.append(name)


@pytest.mark.parametrize(("kind", "undone"), [("unwind", 0), ("undo", 2)])
async def test_a_turn_whose_undoing_is_refused_is_a_dead_letter_that_says_what_is_not_undone(
    kind: str, undone: int
) -> None:
    async def run(self: Waiter, ctx: Any) -> None:
        ctx.compensate(release, "a")
        ctx.compensate(release, "b")
        await ctx.step(str, "x")
        raise ValueError("nothing to be done")

    def is_refused(write: Any) -> bool:
        entries = () if isinstance(write, Mark) or write.journal is None else write.journal.entries
        return any(entry.kind == kind and entry.key != "#undo:#2" for entry in entries)

    async with waiters() as kit:
        refused = refuse(kit, is_refused)
        await kit.send(AT, Run(program=program(run)))
        await kit.send(AT, Note(text="next"))
        await kit.advance(seconds=60)
        (letter,) = kit.dead_letters()
        assert letter.reason == "refused"
        left = ["release"] * (1 if undone else 2)
        assert letter.error == f"no such row can be; not undone: {', '.join(left)}"
        assert (len(refused), len(Waiter.calls)) == (1, undone)
        assert kit.state(AT).log == ["note next"]
        assert leftovers(kit) == (0, 0, 0)
        assert len(kit._running[0].host.turns.refusals) == 0
