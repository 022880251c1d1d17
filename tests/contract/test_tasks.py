"""Rows of tasks and their logs, written with the turns of the agents that lead them."""

from __future__ import annotations

import pytest

from bus.envelope import new_id
from bus.errors import InvalidData
from storage.records import NewTask, TaskEvent, TaskWrite
from tests.contract.mail import given
from tests.contract.rig import Rig, turn


def task_write(task: str, status: str, *, finished: bool = False, result: str | None = None) -> TaskWrite:
    return TaskWrite(
        id=task, status=status, assignee="order/1", progress=0.5, result=result, error=None, finished=finished
    )


async def test_a_task_and_its_log_are_written_with_the_turn_and_the_last_write_counts(rig: Rig) -> None:
    fence = await rig.host(0)
    a, b = await given(rig, "order/1", "order/1")
    task = new_id()
    await rig.add_task(task)
    log = (
        TaskEvent(task=task, number=2, kind="begun", body='{"x": 1}'),
        TaskEvent(task=task, number=3, kind="done", body="{}"),
    )
    first = turn(a, tasks=(task_write(task, "running"),), task_events=log[:1])
    second = turn(
        b, 2, prev=first.hash, tasks=(task_write(task, "completed", finished=True, result='{"r":  1}'),),
        task_events=log[1:],
    )  # fmt: skip
    await rig.store.commit(fence, [first, second], [])
    assert await rig.task(task) == ("completed", '{"r":  1}', True)
    assert await rig.task_events(task) == [(2, "begun", '{"x": 1}'), (3, "done", "{}")]


async def test_a_task_that_another_one_has_started_begins_as_submitted_and_once(rig: Rig) -> None:
    fence = await rig.host(0)
    a, b = await given(rig, "order/1", "order/1")
    child = NewTask(
        id=new_id(), goal="g", input='{"x":  1}', priority=7, policy=None, deadline=9e9, parent="shop/1", root="shop/0",
    )  # fmt: skip
    line = TaskEvent(task=child.id, number=1, kind="submitted", body="{}")
    first = turn(a, new_tasks=(child,), task_events=(line,))
    await rig.store.commit(fence, [first], [])
    assert await rig.task(child.id) == ("submitted", None, False)
    assert await rig.task_events(child.id) == [(1, "submitted", "{}")]
    written = turn(b, 2, prev=first.hash, new_tasks=(child,), tasks=(task_write(child.id, "assigned"),),
                   task_events=(TaskEvent(task=child.id, number=2, kind="x", body="{}"),))  # fmt: skip
    await rig.store.commit(fence, [written], [])
    assert await rig.task(child.id) == ("assigned", None, False)


async def test_a_line_of_a_tasks_log_is_written_once(rig: Rig) -> None:
    fence = await rig.host(0)
    a, b = await given(rig, "order/1", "order/1")
    event = TaskEvent(task=new_id(), number=1, kind="begun", body="{}")
    await rig.store.commit(fence, [turn(a, task_events=(event,))], [])
    with pytest.raises(InvalidData):
        await rig.store.commit(fence, [turn(b, 2, task_events=(event,))], [])
    assert len(await rig.mail("order/1")) == 1
