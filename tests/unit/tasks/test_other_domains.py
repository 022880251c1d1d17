"""A task's messages that travel to another domain still know whose task it is."""

from __future__ import annotations

from actors.task_messages import TaskCompleted, TaskProgress, TaskStarted, TaskTrouble
from callboard import NO_RETRY, Agent, Context, TaskWork, handler
from callboard.testing import TestKit
from coordinators.tasks.agent import TaskAgent
from tests.unit.tasks.desk import TASK, Deaf, Say, Worker

THEIRS = f"elsewhere/{TASK}"


async def test_reports_go_to_the_task_in_its_own_domain() -> None:
    async with TestKit([Worker], others=["elsewhere"], system_kinds=(TaskAgent,)) as kit:
        await kit.send("test/worker/w", TaskWork(id=TASK, goal="g", input=[["progress", 0.5]]), task=THEIRS)
        await kit.send("test/worker/w", TaskWork(id=TASK, goal="g"), task=THEIRS)
        await kit.send("test/worker/w", Say(method="complete", arguments=[1]), task=THEIRS)
        await kit.quiet()
        sent = [type(each) for each in kit.sent(to=f"elsewhere/task/{TASK}")]
        assert sent == [TaskProgress, TaskStarted, TaskCompleted]
        assert len(kit.sent()) == 3


async def test_a_dead_letter_and_its_mend_are_told_to_the_task_in_its_own_domain() -> None:
    async with TestKit([Deaf], others=["elsewhere"], system_kinds=(TaskAgent,)) as kit:
        await kit.send("test/deaf/d", Say(method="x"), task=THEIRS)
        await kit.quiet()
        assert [type(each) for each in kit.sent(to=f"elsewhere/task/{TASK}")] == [TaskTrouble]
        [letter] = kit.dead_letters()
        assert letter.header.task == THEIRS
        await kit.drop_dead_letter(letter.id)
        await kit.quiet()
        assert [each.how for each in kit.sent(to=f"elsewhere/task/{TASK}")[1:]] == ["dropped"]


async def test_what_a_handler_kept_of_its_task_serves_as_the_name_of_the_task() -> None:
    class Keeper(Agent):
        kind = "keeper"
        retry = NO_RETRY

        @handler
        async def on_say(self, say: Say, ctx: Context) -> None:
            assert ctx.task is None
            ctx.complete("later", task=say.arguments[0])

    async with TestKit([Keeper], others=["elsewhere"], system_kinds=(TaskAgent,)) as kit:
        await kit.send("test/keeper/k", Say(method="", arguments=[THEIRS]))
        await kit.quiet()
        assert [each.result for each in kit.sent(to=f"elsewhere/task/{TASK}")] == ["later"]
        assert kit.dead_letters() == []


async def test_an_id_alone_is_a_task_of_the_agents_own_domain() -> None:
    async with TestKit([Worker], others=["elsewhere"], system_kinds=(TaskAgent,)) as kit:
        await kit.send("test/worker/w", Say(method="complete", arguments=[1]), task=TASK)
        await kit.quiet()
        assert [step.header.task for step in kit.history("test/worker/w")] == [f"test/{TASK}"]
        assert len(kit.sent(to=f"test/task/{TASK}")) == 1
