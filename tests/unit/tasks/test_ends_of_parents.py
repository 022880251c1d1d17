"""How a task ends that has started others: with them, or not before; and what starts no task."""

from __future__ import annotations

import pytest

from actors.directory import DomainEntry
from actors.domain import LimitSpec, TaskSpec
from actors.task_messages import GONE, CancelChild, CancelTask, ChildEnded, SubmitTask, TaskSubmitted
from bus.envelope import new_id
from callboard import (
    Context,
    InvalidMessage,
    InvalidTask,
    TaskFailed,
    UnknownDomain,
    tool,
)
from callboard.testing import TestKit
from coordinators.tasks import leader
from tests.unit.tasks.family import breaks, children, given, log
from tests.unit.tasks.worker import Errand, Worker, do, program, undo


async def test_a_task_is_completed_once_its_children_have_ended(kit: TestKit) -> None:
    async def leaves(self: Worker, ctx: Context) -> None:
        ctx.submit_task("test", goal="waits")
        ctx.complete("done")

    task = await given(kit, leaves)
    assert kit.task(task).status == "ending"
    await kit.advance(seconds=1_001)
    assert (kit.task(task).status, kit.task(task).result) == ("completed", "done")
    assert log(kit, task)[-3:] == ["ending", "child_ended", "completed"]


async def test_a_task_that_fails_cancels_its_children_and_ends_when_they_have(kit: TestKit) -> None:
    async def gives_up(self: Worker, ctx: Context) -> None:
        ctx.submit_task("test", goal="waits")
        ctx.fail("out of ideas")

    task = await given(kit, gives_up)
    assert kit.task(task).status == "ending"
    for _ in range(10):
        await kit.advance(seconds=0.1)
    assert (kit.task(task).error or {})["message"] == "out of ideas"
    [child] = children(kit)
    assert kit.task(child).status == "cancelled"
    assert "out of ideas" in (kit.task(child).error or {})["message"]
    assert log(kit, task)[-2:] == ["child_ended", "failed"]


async def test_a_cancelled_task_is_cancelled_once_all_below_it_is_at_rest(kit: TestKit) -> None:
    async def deep(self: Worker, ctx: Context) -> None:
        ctx.compensate(undo, "deep")
        ctx.submit_task("test", goal="waits")
        await ctx.run_task("test", goal="waits")

    async def deeper(self: Worker, ctx: Context) -> None:
        await ctx.gather(ctx.run_task("test", goal=program(deep)), ctx.run_task("test", goal="waits"))

    task = await given(kit, deeper)
    await kit.cancel_task(task, "not needed")
    await kit.quiet()
    assert kit.task(task).status == "cancelling"
    for _ in range(20):
        await kit.advance(seconds=0.1)
    assert kit.task(task).status == "cancelled"
    assert [kit.task(child).status for child in children(kit)] == ["cancelled"] * 4
    assert sorted(Worker.log) == ["undo deep", "undo waits", "undo waits", "undo waits", *["waits"] * 3]
    assert log(kit, task)[-2:] == ["child_ended", "cancelled"]
    waits = kit.store.waits
    assert (len(waits.turns), len(waits.promises.rows), len(kit.store.timers)) == (0, 0, 0)


@pytest.mark.parametrize("crashes", [False, True])
async def test_compensations_wait_until_what_the_awaited_task_has_done_is_known_and_undone(
    kit: TestKit, crashes: bool
) -> None:
    async def acts(self: Worker, ctx: Context) -> None:
        await ctx.call(tool(breaks), "here")
        ctx.compensate(undo, "what has acted")

    async def books(self: Worker, ctx: Context) -> None:
        ctx.compensate(undo, await ctx.step(do, "booked"))
        await ctx.gather(ctx.run_task("test", goal="acts"), ctx.sleep(1_000))

    program(acts)
    task = await given(kit, books)
    (asked,) = kit.approvals()
    await kit.cancel_task(task, "not needed")
    for _ in range(10):
        await kit.advance(seconds=0.1)
    if crashes:
        await kit.crash()
        await kit.recover()
        await kit.advance(minutes=20)  # what else the turn has waited for is over
    assert (kit.task(task).status, Worker.log) == ("cancelling", ["booked", "acts"])
    assert await kit.say(asked.id, happened=True, result="done")
    for _ in range(20):
        await kit.advance(seconds=0.1)
    assert kit.task(task).status == "cancelled"
    assert Worker.log == ["booked", "acts", "undo what has acted", "undo booked"]
    assert len(kit.store.waits.turns) == 0


async def test_a_turn_that_waits_for_a_task_can_be_ended_by_hand_before_that(kit: TestKit) -> None:
    async def books(self: Worker, ctx: Context) -> None:
        ctx.compensate(undo, await ctx.step(do, "booked"))
        await ctx.run_task("test", goal="waits")

    await given(kit, books)
    await kit.skip_turn("test/worker/parent", "enough")
    await kit.quiet()
    assert Worker.log == ["booked", "waits", "undo booked"]
    await kit.advance(seconds=1)
    assert Worker.log == ["booked", "waits", "undo booked", "undo waits"]


async def test_the_limits_of_its_domains_turns_keep_no_task_from_ending() -> None:
    async def leaves(self: Worker, ctx: Context) -> None:
        for name in ("a", "b"):
            ctx.submit_task("test", goal="waits")
            ctx.submit_task("test", goal="waits")
            await ctx.step(do, name)

    few = LimitSpec(sends_per_turn=3, turn_bytes=6_000)
    async with TestKit([Worker], tasks=TaskSpec(to="worker/{task}"), limits=few) as kit:
        task = await given(kit, leaves)
        await kit.cancel_task(task, "not needed " * 150)
        for _ in range(20):
            await kit.advance(seconds=0.1)
        assert kit.task(task).status == "cancelled"
        assert [kit.task(child).status for child in children(kit)] == ["cancelled"] * 4, [
            kit.task(child).error for child in children(kit)
        ]
        assert kit.dead_letters() == []


async def test_a_task_hears_of_messages_that_went_too_far() -> None:
    async def passes_on(self: Worker, ctx: Context) -> None:
        ctx.send("test/worker/parent", Errand(program="passes_on"))

    program(passes_on)
    async with TestKit([Worker], limits=LimitSpec(hops=5)) as kit:
        task = await given(kit, passes_on)
        await kit.advance(minutes=1)
        (letter,) = kit.dead_letters()
        assert "HopLimitExceeded" in letter.error
        assert kit.task(task).status == "stuck"


async def test_the_deadline_ends_a_task_that_waits_for_its_children(kit: TestKit) -> None:
    async def leaves(self: Worker, ctx: Context) -> None:
        ctx.submit_task("test", goal="waits")
        ctx.complete("done")

    task = await kit.give_task("test/worker/parent", goal=program(leaves), deadline=kit.clock.now() + 100)
    await kit.advance(seconds=101)
    for _ in range(10):
        await kit.advance(seconds=0.1)
    assert (kit.task(task).error or {})["code"] == "deadline"
    assert kit.task(children(kit)[0]).status == "failed"  # its own deadline is the same


@pytest.mark.parametrize("waiter", ["gone/worker/w", "test/gone/w"])
async def test_a_child_comes_to_its_end_although_its_parent_has_gone_with_its_domain(
    kit: TestKit, waiter: str
) -> None:
    child = new_id()
    submitted = TaskSubmitted(
        id=child, goal="answers", parent=f"gone/{new_id()}", root=f"gone/{new_id()}", depth=1, by=waiter,
        waiter=f"{waiter}#{new_id()}",
    )  # fmt: skip
    await kit.send(f"test/task/{child}", submitted)
    await kit.quiet()
    assert (kit.task(child).status, kit.dead_letters()) == ("completed", [])


def forget_elsewhere(kit: TestKit) -> None:
    kit._scope.directory.replace({"test": DomainEntry(partitions=kit.domain.spec.partitions)})


@pytest.mark.parametrize("told", ["removal", "cancel", "pause"])
async def test_a_task_that_only_waits_for_a_child_whose_domain_is_gone_ends(kit: TestKit, told: str) -> None:
    async def leaves(self: Worker, ctx: Context) -> None:
        ctx.submit_task("elsewhere", goal="never")
        ctx.complete("done")

    task = await given(kit, leaves)
    [submitted] = kit.sent(type=TaskSubmitted)
    assert kit.task(task).status == "ending"
    forget_elsewhere(kit)
    if told == "pause":
        await kit.pause_task(task)
    else:
        gone = ChildEnded(task=f"elsewhere/{submitted.id}", status=GONE)
        order = gone if told == "removal" else CancelChild(id=submitted.id, reason="no use for it")
        await kit.send(f"test/task/{task}", order)
    await kit.quiet()
    assert (kit.task(task).status, kit.task(task).result) == ("completed", "done")


async def test_who_waits_for_a_child_whose_domain_is_gone_is_told_at_once(kit: TestKit) -> None:
    async def waits(self: Worker, ctx: Context) -> None:
        try:
            await ctx.run_task("elsewhere", goal="never")
        except TaskFailed as failed:
            ctx.complete([failed.code, failed.message])

    task = await given(kit, waits)
    [submitted] = kit.sent(type=TaskSubmitted)
    forget_elsewhere(kit)
    await kit.send(f"test/task/{task}", ChildEnded(task=f"elsewhere/{submitted.id}", status=GONE))
    await kit.quiet()
    code, words = kit.task(task).result
    assert code == "domain_gone"
    assert "The domain 'elsewhere' was removed." in words
    assert kit.task(task).status == "completed"


async def test_an_operator_fails_a_task_whose_children_do_not_end(kit: TestKit) -> None:
    async def leaves(self: Worker, ctx: Context) -> None:
        ctx.submit_task("elsewhere", goal="never")
        ctx.fail("done")

    task = await given(kit, leaves)
    [submitted] = kit.sent(type=TaskSubmitted)
    assert (submitted.goal, submitted.parent, submitted.depth) == ("never", f"test/{task}", 1)
    assert len(kit.sent(to=f"elsewhere/task/{submitted.id}", type=CancelTask)) == 1
    assert kit.task(task).status == "ending"
    await kit.fail_task(task, "enough")
    await kit.quiet()
    assert (kit.task(task).status, (kit.task(task).error or {})["message"]) == ("failed", "enough")


# -- what is refused ---------------------------------------------------------------------------------


async def test_a_task_that_has_ended_starts_no_more(kit: TestKit) -> None:
    async def late(self: Worker, ctx: Context) -> None:
        with pytest.raises(TaskFailed, match="would be its parent is completed") as caught:
            await ctx.run_task("test", goal="answers")
        Worker.log.append(caught.value.code)

    async def early(self: Worker, ctx: Context) -> None:
        ctx.complete("done")
        ctx.send("test/worker/late", Errand(program=program(late)))

    task = await given(kit, early)
    assert Worker.log == ["not_accepted"]
    assert children(kit) == []
    assert log(kit, task)[-1] == "child_refused"


async def test_children_are_bounded_in_number_and_depth(
    kit: TestKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "MAX_DEPTH", 3)
    monkeypatch.setattr("coordinators.tasks.ending.MAX_CHILDREN", 2)

    async def descends(self: Worker, ctx: Context) -> None:
        try:
            ctx.complete(1 + await ctx.run_task("test", goal="descends"))
        except TaskFailed as error:
            Worker.log.append(error.message)
            ctx.complete(0)

    program(descends)

    async def spreads(self: Worker, ctx: Context) -> None:
        refs = [ctx.submit_task("test", goal="waits") for _ in range(3)]
        ctx.complete([*refs, await ctx.step(do, "spread")])

    assert kit.task(await given(kit, descends)).result == 3
    assert "3 others above it" in Worker.log.pop()
    task = await given(kit, spreads)
    assert log(kit, task).count("child") == 2
    assert log(kit, task).count("child_refused") == 1


async def test_an_agent_that_would_wait_for_itself_is_refused() -> None:
    async def circle(self: Worker, ctx: Context) -> None:
        with pytest.raises(TaskFailed, match="waits for this task") as caught:
            await ctx.run_task("test", goal="answers")
        ctx.complete(caught.value.code)

    async with TestKit([Worker], tasks=TaskSpec(to="worker/parent")) as kit:
        assert kit.task(await given(kit, circle)).result == "circle"


async def test_what_can_be_no_child_is_refused_at_once(kit: TestKit) -> None:
    async def wrong(self: Worker, ctx: Context) -> None:
        for domain, more, error in [
            ("nowhere", {"goal": "x"}, UnknownDomain),
            ("test", {"goal": " "}, InvalidTask),
            ("test", {"goal": "x", "input": object()}, InvalidTask),
            ("test", {"goal": "x", "priority": 11}, InvalidTask),
            ("test", {"goal": "x", "policy": "lottery"}, InvalidTask),
        ]:
            with pytest.raises(error):
                ctx.submit_task(domain, **more)  # type: ignore[arg-type]
            with pytest.raises(error):
                await ctx.run_task(domain, **more)  # type: ignore[arg-type]
        ctx.complete("refused")

    async def taskless(self: Worker, ctx: Context) -> None:
        with pytest.raises(InvalidMessage, match="part of no task"):
            ctx.submit_task("test", goal="answers")
        Worker.log.append("part of no task")

    task = await given(kit, wrong)
    assert kit.task(task).result == "refused"
    assert kit.sent(type=SubmitTask) == []
    await kit.send("test/worker/w", Errand(program=program(taskless)))
    await kit.quiet()
    assert Worker.log == ["part of no task"]
