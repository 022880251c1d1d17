"""An agent that works for several tasks at once names the one that it reports on."""

from __future__ import annotations

from pydantic import BaseModel

from actors.task_messages import TaskCompleted, TaskFailure, TaskProgress
from callboard import Agent, Context, handler, message
from callboard.testing import TestKit
from coordinators.tasks.agent import TaskAgent

ONE, OTHER = (f"0190aaaa-0000-7000-8000-00000000000{n}" for n in (1, 2))


@message("testtasks.shared_work.v1")
class SharedWork(BaseModel):
    """Work that was begun for one task and serves another, too."""


class Shared(Agent):
    kind = "shared"

    @handler
    async def on_work(self, work: SharedWork, ctx: Context) -> None:
        ctx.progress(0.5, "half", task=OTHER)
        ctx.complete("done", task=OTHER)
        ctx.fail("not done", task=OTHER)
        if ctx.task is not None:
            ctx.complete("mine")


async def test_a_report_goes_to_the_task_that_is_named() -> None:
    async with TestKit([Shared], system_kinds=(TaskAgent,)) as kit:
        await kit.send("test/shared/s", SharedWork(), task=ONE)
        await kit.quiet()
        to_other = [type(each) for each in kit.sent(to=f"test/task/{OTHER}")]
        assert to_other == [TaskProgress, TaskCompleted, TaskFailure]
        assert [each.result for each in kit.sent(to=f"test/task/{ONE}")] == ["mine"]


async def test_a_message_of_no_task_can_report_on_a_named_one() -> None:
    async with TestKit([Shared], system_kinds=(TaskAgent,)) as kit:
        await kit.send("test/shared/s", SharedWork())
        await kit.quiet()
        assert len(kit.sent(to=f"test/task/{OTHER}")) == 3
        assert kit.dead_letters() == []
