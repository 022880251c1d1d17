"""Cancelled tasks, in every store: what is found of them, and when they are over."""

from __future__ import annotations

import pytest

from bus.envelope import Outgoing, new_id
from bus.errors import Fenced
from storage.journal import Does, Flush, JournalWrite, Kind, PromiseWrite
from storage.records import Cancellation, CancelWrite, Fence, Share
from tests.contract.rig import DOMAIN, Rig, letter, turn

LEADER = "task/{}"


async def cancel(rig: Rig, fence: Fence, task: str) -> Cancellation:
    """The task's agent (partition 0) cancels it."""
    seq = await rig.accept(letter(LEADER.format(task)))
    cancels = (CancelWrite(task=task, why="a test has cancelled it"),)
    record = turn(seq, agent=LEADER.format(task), cancels=cancels)
    await rig.store.commit(fence, [record], [])
    [found] = [c for c in await rig.store.read_cancellations(ended=False) if c.task == f"{DOMAIN}/{task}"]
    return found


async def opened(
    rig: Rig, fence: Fence, agent: str, task: str, *does: Does, partition: int = 0, undoes: bool = False
) -> tuple[int, str]:
    message = letter(agent, partition=partition, task=f"{DOMAIN}/{task}", undoes=undoes)
    seq = await rig.accept(message)
    assert seq is not None
    number = (seq, message.header.id)
    for one in (Does.OPEN, *does):
        await rig.store.commit(fence, [flush(number, agent, one, partition=partition)], [])
    return number


def flush(message: tuple[int, str], agent: str, does: Does, *, partition: int = 0) -> Flush:
    journal = JournalWrite(seq=message[0], turn=message[1], does=does, began_at=1.0)
    return Flush(tenant="default", partition=partition, agent=agent, journal=journal)


async def send(rig: Rig, fence: Fence, message: Outgoing) -> None:
    seq = await rig.accept(letter("sender/1"))
    history = await rig.history("sender/1")
    prev = history[-1][3] if history else bytes(32)
    await rig.store.commit(
        fence, [turn(seq, len(history) + 1, agent="sender/1", prev=prev, sends=(message,))], []
    )


async def test_a_cancellation_is_read_until_it_has_ended_and_by_those_who_come_later(rig: Rig) -> None:
    fence, task = await rig.host(0), new_id()
    found = await cancel(rig, fence, task)
    assert (found.tenant, found.task, found.why, found.is_open) == (
        "default", f"{DOMAIN}/{task}", "a test has cancelled it", True,
    )  # fmt: skip
    await rig.store.has_stopped(fence, [found.number])
    assert len(await rig.store.end_cancellations(fence, [0])) == 1
    assert await rig.store.read_cancellations(ended=False) == []
    [later] = await rig.store.read_cancellations(ended=True)
    assert (later.number, later.is_open) == (found.number, False)


async def test_only_turns_and_timers_of_the_task_are_stopped_and_only_in_these_partitions(rig: Rig) -> None:
    fence, task, other = await rig.host(0, 1), new_id(), new_id()
    await opened(rig, fence, "a/waits", task, Does.PARK)
    await opened(rig, fence, "a/runs", task)
    await opened(rig, fence, "a/other", other, Does.PARK)
    await opened(rig, fence, "a/elsewhere", task, Does.PARK, partition=1)
    for of in (task, other):
        await send(rig, fence, letter("a/later", due=9e9, task=f"{DOMAIN}/{of}"))
    assert await rig.store.stop_cancelled(fence, [0, 1]) == []
    await cancel(rig, fence, task)
    stopped = await rig.store.stop_cancelled(fence, [0])
    assert sorted(t.agent for t in stopped) == ["a/runs", "a/waits"]
    assert await rig.timers() == 1
    found, _ = await rig.store.load_turns(DOMAIN, 0)
    assert [e.agent for e in found] == ["a/runs", "a/waits"]
    assert await rig.store.load_turns(DOMAIN, 1) == ([], None)
    assert [t.agent for t in await rig.store.stop_cancelled(fence, [1])] == ["a/elsewhere"]
    assert len(await rig.store.stop_cancelled(fence, [0])) == 2  # as long as they are open


async def test_what_a_compensation_has_led_to_is_not_stopped_and_holds_nothing_up(rig: Rig) -> None:
    fence, task = await rig.host(0), new_id()
    await opened(rig, fence, "a/undoes", task, Does.PARK, undoes=True)
    await send(rig, fence, letter("a/later", due=9e9, task=f"{DOMAIN}/{task}", undoes=True))
    found = await cancel(rig, fence, task)
    assert await rig.store.stop_cancelled(fence, [0]) == []
    assert (await rig.timers(), await rig.store.load_turns(DOMAIN, 0)) == (1, ([], None))
    await rig.store.has_stopped(fence, [found.number])
    assert len(await rig.store.end_cancellations(fence, [0])) == 1


async def test_it_ends_once_when_no_turn_is_open_and_every_living_host_has_stopped(rig: Rig) -> None:
    fence, beside, task = await rig.host(0), await rig.host(1), new_id()
    open_turn = await opened(rig, fence, "a/1", task)
    found = await cancel(rig, fence, task)
    await rig.store.has_stopped(fence, [found.number])
    assert await rig.store.end_cancellations(fence, [0]) == []  # a turn is open, and one host silent
    ends = JournalWrite(seq=open_turn[0], turn=open_turn[1], does=Does.END)
    await rig.store.commit(fence, [turn(None, agent="a/1", journal=ends)], [])
    assert await rig.store.end_cancellations(fence, [0]) == []
    await rig.end(beside)  # one that is dead need not say anything
    assert await rig.store.end_cancellations(fence, [1][:0]) == []
    [told] = await rig.store.end_cancellations(fence, [0])
    assert (told.agent, told.partition) == (LEADER.format(task), 0)
    share = Share(messages=10, size=10_000)
    [envelope], _ = await rig.store.load_agent(DOMAIN, 0, "default", LEADER.format(task), share)
    assert (envelope.header.type, envelope.payload) == ("callboard.task_stopped.v1", "{}")
    assert (envelope.header.task, envelope.seq > 0) == (f"{DOMAIN}/{task}", True)
    assert await rig.store.end_cancellations(fence, [0]) == []


async def test_a_host_that_came_after_the_cancellation_has_to_stop_as_well(rig: Rig) -> None:
    fence, task = await rig.host(0), new_id()
    found = await cancel(rig, fence, task)
    later = await rig.host(1)
    await rig.store.has_stopped(fence, [found.number])
    assert await rig.store.end_cancellations(fence, [0]) == []
    await rig.store.has_stopped(later, [found.number])
    assert len(await rig.store.end_cancellations(fence, [0])) == 1


async def test_a_task_is_cancelled_once(rig: Rig) -> None:
    fence, task = await rig.host(0), new_id()
    first = await cancel(rig, fence, task)
    seq = await rig.accept(letter("order/2"))
    again = (CancelWrite(task=task, why="again"),)
    await rig.store.commit(fence, [turn(seq, agent="order/2", cancels=again)], [])
    assert await rig.store.read_cancellations(ended=False) == [first]


async def test_a_host_whose_epoch_has_ended_stops_and_ends_nothing(rig: Rig) -> None:
    fence, task = await rig.host(0), new_id()
    found = await cancel(rig, fence, task)
    await rig.end(fence)
    await rig.store.has_stopped(fence, [found.number])
    with pytest.raises(Fenced):
        await rig.store.stop_cancelled(fence, [0])
    with pytest.raises(Fenced):
        await rig.store.end_cancellations(fence, [0])
    successor = await rig.host(0)
    assert await rig.store.end_cancellations(successor, [0]) == []


async def test_a_turn_that_waits_for_a_person_to_say_what_a_call_has_done_is_left_until_then(
    rig: Rig,
) -> None:
    fence, task = await rig.host(0), new_id()
    seq, turn_ = await opened(rig, fence, "a/doubts", task)
    asked = PromiseWrite(
        id=new_id(), key="#1?1", kind=Kind.OUTCOME, name="pay", target=None, message=None, gates=(),
        due_at=None, details="{}",
    )  # fmt: skip
    parked = JournalWrite(seq=seq, turn=turn_, does=Does.PARK, promises=(asked,))
    await rig.store.commit(
        fence, [Flush(tenant="default", partition=0, agent="a/doubts", journal=parked)], []
    )
    found = await cancel(rig, fence, task)
    assert await rig.store.stop_cancelled(fence, [0]) == []
    await rig.store.has_stopped(fence, [found.number])
    assert await rig.store.end_cancellations(fence, [0]) == []  # its turn is open
    assert await rig.settle(asked.id, '{"happened":true}')
    assert [t.agent for t in await rig.store.stop_cancelled(fence, [0])] == ["a/doubts"]


async def test_a_turn_that_waits_for_a_task_is_woken_by_its_end_and_not_before(rig: Rig) -> None:
    fence, task = await rig.host(0), new_id()
    seq, turn_ = await opened(rig, fence, "a/parent", task)
    child = PromiseWrite(
        id=new_id(), key="#1", kind=Kind.ASK, name="task in shop", target=f"{DOMAIN}/task/{task}",
        message=new_id(),
    )  # fmt: skip
    parked = JournalWrite(seq=seq, turn=turn_, does=Does.PARK, promises=(child,))
    await rig.store.commit(
        fence, [Flush(tenant="default", partition=0, agent="a/parent", journal=parked)], []
    )
    await cancel(rig, fence, task)
    assert await rig.store.stop_cancelled(fence, [0]) == []
    # Nobody waits for it any more: a gather has given its branch up.
    given_up = JournalWrite(seq=seq, turn=turn_, does=Does.PARK, recorded=2, given_up=((child.id, True),))
    await rig.store.commit(
        fence, [Flush(tenant="default", partition=0, agent="a/parent", journal=given_up)], []
    )
    assert [t.agent for t in await rig.store.stop_cancelled(fence, [0])] == ["a/parent"]
