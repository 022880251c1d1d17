"""Approvals that agents decide, in every store: by those who may, once, in time, on what they have seen."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bus.envelope import Outgoing
from storage.journal import Does, Flush, JournalEntry, JournalWrite, Kind, PromiseWrite
from storage.records import Fence
from tests.contract.rig import DOMAIN, Rig, letter, turn

OWNER, CHIEF, SENDER = "clerk/1", f"{DOMAIN}/chief/1", f"{DOMAIN}/sender/1"
PROMISE = "0190a6a0-0000-7000-8000-000000000001"


async def asked(rig: Rig, *approvers: str, due_in: float | None = None) -> Fence:
    """An open turn waits for an approval; its message came from `shop/sender/1`."""
    fence = await rig.host(0)
    message = letter(OWNER, sender=SENDER)
    seq = await rig.accept(message)
    assert seq is not None
    details = {"action": "delete", "details": 1, "digest": "abcdef", "approvers": list(approvers)}
    made = PromiseWrite(
        id=PROMISE, key="#1", kind=Kind.APPROVAL, name="delete abcdef", details=json.dumps(details),
        due_at=None if due_in is None else await rig.now() + due_in,
    )  # fmt: skip
    journal = JournalWrite(seq=seq, turn=message.header.id, does=Does.OPEN, began_at=1.0, promises=(made,))
    await rig.store.commit(fence, [Flush(tenant="default", partition=0, agent=OWNER, journal=journal)], [])
    return fence


def decision(by: str, status: str, **more: Any) -> Outgoing:
    payload = {"promise": PROMISE, "status": status, "by": by, "at": 1.0, **more}
    return letter(OWNER, json.dumps(payload), sender=by, control=True, settles=PROMISE)


async def decided(rig: Rig, fence: Fence, by: str = CHIEF, status: str = "approved", **more: Any) -> bool:
    """Whether it counts, and leaves a wake-up."""
    agent = by.partition("/")[2]
    seq = await rig.accept(letter(agent))
    version = len(await rig.history(agent)) + 1
    sends = (decision(by, status, **more),)
    [number] = await rig.store.commit(fence, [turn(seq, version, agent=agent, sends=sends)], [])
    return number is not None


@pytest.mark.parametrize("is_decided", [False, True])
async def test_one_that_its_turn_lets_go_is_decided_by_nobody_unless_it_was(
    rig: Rig, is_decided: bool
) -> None:
    fence = await asked(rig, CHIEF)
    if is_decided:
        assert await decided(rig, fence)
    stored = await rig.store.load_journal(DOMAIN, "default", OWNER)
    assert stored is not None
    choice = JournalEntry(number=1, key="#2", kind="choice", name="1 of 2", ok=True, value="[1]", took_ms=0.0)
    goes_on = JournalWrite(
        seq=stored.seq, turn=stored.turn, does=Does.GO, recorded=stored.recorded, entries=(choice,), done=(PROMISE,)
    )  # fmt: skip
    await rig.store.commit(fence, [Flush(tenant="default", partition=0, agent=OWNER, journal=goes_on)], [])
    assert await rig.promises() == {PROMISE: "approved" if is_decided else "abandoned"}
    assert not await decided(rig, fence, status="denied")
    assert len(await rig.mail(OWNER)) == is_decided


async def test_an_agent_that_is_named_decides_once(rig: Rig) -> None:
    fence = await asked(rig, "alice", CHIEF)
    value = {"comment": "go", "message": "m"}
    assert await decided(rig, fence, digest="abc", value=value)
    assert not await decided(rig, fence, status="denied")
    found = await rig.store.promise_standing(DOMAIN, "default", PROMISE, CHIEF)
    assert found is not None
    assert (found.status, found.settled_by, json.loads(found.value or "")) == ("approved", CHIEF, value)
    assert found.settled_at == pytest.approx(await rig.now(), abs=5)
    assert len(await rig.mail(OWNER)) == 1


@pytest.mark.parametrize(
    ("approvers", "how"),
    [
        ((), {}),
        (("alice",), {}),
        (("chief/1",), {}),
        ((CHIEF, SENDER), {"by": SENDER}),
        ((CHIEF, f"{DOMAIN}/{OWNER}"), {"by": f"{DOMAIN}/{OWNER}"}),
        ((CHIEF,), {"status": "resolved"}),
        ((CHIEF,), {"digest": "b"}),
        ((), {"status": "denied"}),
        (("alice",), {"status": "denied"}),
        ((CHIEF, SENDER), {"by": SENDER, "status": "denied"}),
        ((CHIEF, f"{DOMAIN}/{OWNER}"), {"by": f"{DOMAIN}/{OWNER}", "status": "denied"}),
    ],
)
async def test_a_decision_that_may_not_be_changes_nothing(
    rig: Rig, approvers: tuple[str, ...], how: dict[str, Any]
) -> None:
    fence = await asked(rig, *approvers)
    if how.get("by") == f"{DOMAIN}/{OWNER}":  # its turn is open: as a message of another one's commit
        [number] = await rig.store.commit(
            fence,
            [
                turn(
                    await rig.accept(letter("x/1")),
                    agent="x/1",
                    sends=(decision(**{"status": "approved", **how}),),
                )
            ],
            [],
        )
        assert number is None
    else:
        assert not await decided(rig, fence, **how)
    assert await rig.promises() == {PROMISE: "pending"}
    found = await rig.store.promise_standing(DOMAIN, "default", PROMISE, how.get("by", CHIEF))
    assert found is not None
    may = approvers == (CHIEF,)
    assert (found.may_approve, found.may_deny) == (may, may)


@pytest.mark.parametrize("first", [(f"{DOMAIN}/x/1", "approved"), (SENDER, "denied"), (CHIEF, "resolved")])
async def test_what_does_not_count_stands_in_nobodys_way(rig: Rig, first: tuple[str, str]) -> None:
    fence = await asked(rig, CHIEF, SENDER)
    sends = (decision(*first), decision(CHIEF, "approved"), decision(CHIEF, "denied"))
    seq = await rig.accept(letter("chief/1"))
    numbers = await rig.store.commit(fence, [turn(seq, agent="chief/1", sends=sends)], [])
    assert [number is not None for number in numbers] == [False, True, False]
    assert await rig.promises() == {PROMISE: "approved"}


async def test_an_agent_is_bound_by_the_time_as_a_person_is(rig: Rig) -> None:
    fence = await asked(rig, CHIEF, due_in=-1)
    assert not await decided(rig, fence)
    found = await rig.store.promise_standing(DOMAIN, "default", PROMISE, CHIEF)
    assert found is not None
    assert (found.is_due, found.may_approve, found.may_deny) == (True, True, True)


async def test_no_person_takes_an_agents_place(rig: Rig) -> None:
    await asked(rig, "alice", CHIEF)
    for name in (f"external/{CHIEF}", CHIEF.replace("/", "-")):
        found = await rig.store.promise_standing(DOMAIN, "default", PROMISE, name)
        assert found is not None
        assert not found.may_approve
        assert not found.may_deny
    found = await rig.store.promise_standing(DOMAIN, "default", PROMISE, "external/alice")
    assert found is not None
    assert (found.may_approve, found.may_deny) == (True, True)


async def test_every_person_may_deny_and_only_who_is_named_may_approve(rig: Rig) -> None:
    await asked(rig, "alice", CHIEF)
    found = await rig.store.promise_standing(DOMAIN, "default", PROMISE, "external/mallory")
    assert found is not None
    assert (found.may_approve, found.may_deny) == (False, True)
    assert not await rig.settle(PROMISE, "null", by="external/mallory", status="approved")
    assert not await rig.settle(PROMISE, "null", by=f"external/{CHIEF}", status="denied")
    assert await rig.promises() == {PROMISE: "pending"}
    assert await rig.settle(PROMISE, "null", by="external/mallory", status="denied")
    assert not await rig.settle(PROMISE, "null", by="external/alice", status="approved")
    assert await rig.promises() == {PROMISE: "denied"}
    assert len(await rig.mail(OWNER)) == 1


async def test_there_is_no_standing_of_what_does_not_exist(rig: Rig) -> None:
    await rig.host(0)
    assert await rig.store.promise_standing(DOMAIN, "default", PROMISE, CHIEF) is None
