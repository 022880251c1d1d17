"""Tasks that tasks start: they are awaited, they end within their parents, and each is there once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from actors.directory import DomainEntry
from actors.domain import LimitSpec, TaskSpec
from actors.task_messages import GONE, CancelChild, CancelTask, ChildEnded, SubmitTask, TaskSubmitted
from bus.envelope import new_id
from callboard import (
    Context,
    DeadlineExceeded,
    InvalidMessage,
    InvalidTask,
    StepFailed,
    TaskFailed,
    UnknownDomain,
    tool,
)
from callboard.testing import TestKit
from coordinators.tasks import leader
from tests.unit.tasks.worker import Errand, Program, Worker, do, fresh, program, undo


async def answers(self: Worker, ctx: Context) -> None:
    ctx.complete({"by": await ctx.step(do, "answered")})


async def fails(self: Worker, ctx: Context) -> None:
    ctx.fail("no paper")


async def waits(self: Worker, ctx: Context) -> None:
    ctx.compensate(undo, await ctx.step(do, "waits"))
    await ctx.sleep(1_000)
    ctx.complete("waited")


@pytest.fixture
async def kit() -> AsyncIterator[TestKit]:
    fresh(answers, fails, waits)
    async with TestKit(
        [Worker], hosts=2, others=["elsewhere"], tasks=TaskSpec(to="worker/{task}")
    ) as running:
        yield running


async def given(kit: TestKit, parent: Program) -> str:
    task = await kit.give_task("test/worker/parent", goal=program(parent))
    await kit.quiet()
    return task


def children(kit: TestKit) -> list[str]:
    return [id_ for _, _, id_ in kit.store.tasks.children]


def log(kit: TestKit, task: str) -> list[str]:
    events = sorted((n, e.kind) for (_, _, of, n), e in kit.store.tasks.events.items() if of == task)
    return [kind for _, kind in events]


# -- their results -----------------------------------------------------------------------------------


async def test_a_task_waits_for_the_result_of_one_that_it_has_started(kit: TestKit) -> None:
    async def asks(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.run_task("test", goal="answers", input={"n": 1}, priority=9))

    task = await given(kit, asks)
    assert kit.task(task).result == {"by": "answered"}
    [child] = children(kit)
    row = kit.store.tasks.children[("test", "default", child)]
    assert (row.parent, row.root, row.goal, row.priority) == (
        f"test/{task}", f"test/{task}", "answers", 9,
    )  # fmt: skip
    assert json.loads(row.input) == {"n": 1}
    assert kit.task(child).status == "completed"
    assert log(kit, child)[:2] == ["submitted", "assigned"]
    assert log(kit, task) == ["assigned", "running", "child", "child_ended", "completed"]


async def test_children_run_beside_each_other_and_have_children_of_their_own(kit: TestKit) -> None:
    async def splits(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.run_task("test", goal="answers"))

    async def gathers(self: Worker, ctx: Context) -> None:
        goals = ("answers", program(splits), "answers")
        ctx.complete(await ctx.gather(*(ctx.run_task("test", goal=goal) for goal in goals)))

    task = await given(kit, gathers)
    assert kit.task(task).result == [{"by": "answered"}] * 3
    rows = list(kit.store.tasks.children.values())
    assert len(rows) == 4
    assert {row.root for row in rows} == {f"test/{task}"}
    assert sorted(row.parent == f"test/{task}" for row in rows) == [False, True, True, True]


async def test_a_child_that_fails_or_is_cancelled_tells_who_waits_for_it(kit: TestKit) -> None:
    async def catches(self: Worker, ctx: Context) -> None:
        found = []
        for goal, error in (("fails", TaskFailed), ("waits", TaskFailed), ("waits", DeadlineExceeded)):
            with pytest.raises(error) as caught:
                await ctx.run_task(
                    "test", goal=goal, deadline=ctx.now + 500 if error is DeadlineExceeded else None
                )
            found.append([caught.value.code, caught.value.task.partition("/")[0]])
        ctx.complete(found)

    task = await given(kit, catches)
    await kit.cancel_task(children(kit)[1], "not needed")
    for _ in range(10):
        await kit.advance(seconds=0.1)
    assert kit.task(children(kit)[1]).status == "cancelled"
    await kit.advance(seconds=600)
    assert kit.task(task).result == [["failed", "test"], ["cancelled", "test"], ["deadline", "test"]]


async def test_a_failed_child_that_nobody_catches_is_started_anew_with_the_next_try(kit: TestKit) -> None:
    async def insists(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.run_task("test", goal="fails"))

    task = await given(kit, insists)
    await kit.advance(seconds=5)
    assert len(children(kit)) == 2
    assert kit.task(task).status == "failed"
    assert "no paper" in (kit.task(task).error or {})["message"]


async def test_a_child_that_somebody_has_cancelled_is_not_started_anew(kit: TestKit) -> None:
    async def insists(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.run_task("test", goal="waits"))

    task = await given(kit, insists)
    [child] = children(kit)
    await kit.cancel_task(child, "not needed")
    await kit.advance(seconds=0.1)
    await kit.advance(seconds=0.1)
    await kit.advance(seconds=60)
    assert children(kit) == [child]
    assert kit.task(task).status == "failed"
    assert (
        f"WasCancelled: Task test/{child} was cancelled: not needed"
        in (kit.task(task).error or {})["message"]
    )


@pytest.mark.parametrize("crashes", [False, True], ids=["", "with_a_crash"])
async def test_the_children_that_were_not_among_the_first_are_cancelled(kit: TestKit, crashes: bool) -> None:
    async def takes_the_first(self: Worker, ctx: Context) -> None:
        goals = ("waits", "answers", "waits")
        first = await ctx.gather(*(ctx.run_task("test", goal=goal) for goal in goals), first=1)
        await ctx.sleep(10)
        ctx.complete(first)

    task = await given(kit, takes_the_first)
    if crashes:
        for host in (0, 1):
            await kit.crash(host)
        await kit.recover()
    for _ in range(20):
        await kit.advance(seconds=0.1)
    assert sorted(kit.task(child).status for child in children(kit)) == [
        "cancelled",
        "cancelled",
        "completed",
    ]
    assert sorted(Worker.log) == ["answered", "undo waits", "undo waits", "waits", "waits"]
    assert {(kit.task(child).error or {}).get("message") for child in children(kit)} == {
        None, "test/worker/parent had enough results without it",
    }  # fmt: skip
    assert kit.task(task).status == "running"
    await kit.advance(seconds=10)
    assert kit.task(task).result == [{"by": "answered"}]
    assert kit.dead_letters() == []


@pytest.mark.parametrize("crashes", [False, True], ids=["", "with_a_crash"])
async def test_the_children_beside_a_call_that_has_failed_are_cancelled(kit: TestKit, crashes: bool) -> None:
    async def breaks() -> None:
        Worker.log.append("breaks")
        raise ValueError("no ink")

    async def goes_on(self: Worker, ctx: Context) -> None:
        try:
            await ctx.gather(ctx.run_task("test", goal="waits"), ctx.step(breaks))
        except StepFailed as error:  # and not what became of the child, also when the turn runs again
            await ctx.sleep(10)
            ctx.complete(error.message)

    task = await given(kit, goes_on)
    for _ in range(20):
        await kit.advance(seconds=0.1)
    [child] = children(kit)
    assert kit.task(child).status == "cancelled"
    assert (kit.task(child).error or {})["message"] == (
        "test/worker/parent has no use for it: a call beside it has failed"
    )
    if crashes:
        for host in (0, 1):
            await kit.crash(host)
        await kit.recover()
    assert kit.task(task).status == "running"
    await kit.advance(seconds=10)
    assert "ValueError: no ink" in kit.task(task).result
    assert Worker.log.count("breaks") == 1
    assert (children(kit), kit.dead_letters()) == ([child], [])


async def test_a_turn_that_is_tried_again_waits_for_the_child_beside_what_has_failed(kit: TestKit) -> None:
    broken = [ValueError("no ink")]

    async def breaks() -> str:
        if broken:
            raise broken.pop()
        return "printed"

    async def fails_once(self: Worker, ctx: Context) -> None:
        ctx.complete(await ctx.gather(ctx.run_task("test", goal="waits"), ctx.step(breaks)))

    task = await given(kit, fails_once)
    await kit.advance(seconds=5)
    [child] = children(kit)
    assert kit.task(child).status == "running"
    await kit.advance(seconds=1_000)
    assert kit.task(task).result == ["waited", "printed"]
    assert children(kit) == [child]


async def test_a_failure_that_has_ended_a_child_stays_one_when_the_turn_fails_of_it_later(
    kit: TestKit,
) -> None:
    async def breaks() -> None:
        Worker.log.append("breaks")
        raise ValueError("no ink")

    async def gives_up(self: Worker, ctx: Context) -> None:
        try:
            await ctx.gather(ctx.run_task("test", goal="waits"), ctx.step(breaks))
        except StepFailed as error:
            await ctx.sleep(10)
            raise RuntimeError("without ink") from error

    await given(kit, gives_up)
    await kit.advance(minutes=10)
    [letter] = kit.dead_letters()
    assert (letter.error, letter.failures) == ("RuntimeError: without ink", Worker.retry.attempts)
    assert Worker.log.count("breaks") == 1
    assert [kit.task(child).status for child in children(kit)] == ["cancelled"]


# -- once, whatever dies -----------------------------------------------------------------------------


async def test_a_turn_that_runs_again_starts_no_child_twice(kit: TestKit) -> None:
    async def crashes(self: Worker, ctx: Context) -> None:
        first = ctx.submit_task("test", goal="answers")
        again = await ctx.run_task("test", goal="waits")
        second = ctx.submit_task("test", goal="answers")
        ctx.complete([first, again, second])

    task = await given(kit, crashes)
    for host in (0, 1):
        await kit.crash(host)
    await kit.recover()
    assert len(children(kit)) == 2
    await kit.advance(seconds=1_100)
    result = kit.task(task).result
    assert result[1] == "waited"
    assert len(children(kit)) == 3
    assert {result[0], result[2]} < {f"test/{id_}" for id_ in children(kit)}
    assert sorted(Worker.log) == ["answered", "answered", "waits"]  # two agents begin in any order


async def test_a_turn_that_fails_has_started_nothing(kit: TestKit) -> None:
    async def submits_and_fails(self: Worker, ctx: Context) -> None:
        ctx.submit_task("test", goal="answers")
        raise ValueError("not yet")

    await given(kit, submits_and_fails)
    await kit.advance(seconds=5)
    assert children(kit) == []


# -- the end of the parent ---------------------------------------------------------------------------


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


async def breaks(address: str) -> str:
    """The line breaks while it acts."""
    do("acts")
    raise ConnectionError("no route")


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
    await kit.advance(seconds=1)
    assert Worker.log == ["booked", "waits", "undo booked"]


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
