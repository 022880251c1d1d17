"""The ledger, in every store: what a turn learns of calls that were made for its message before."""

from __future__ import annotations

import msgspec

from bus.envelope import new_id
from storage.journal import Does
from storage.ledger import CallStatus, CallVerdict, EarlierCall, Effect, LedgerWrite
from tests.contract.open_turns import AGENT, Message, entry, flush, opened
from tests.contract.rig import DOMAIN, Rig


def call(message: Message, id_: str, status: CallStatus) -> LedgerWrite:
    return LedgerWrite(
        id=id_, key="#1", tool="block", effect=Effect.AT_MOST_ONCE, message=message[1], task=None, digest="d",
        arguments="{}", status=status, attempts=1,
    )  # fmt: skip


async def earlier(rig: Rig, message: Message) -> EarlierCall:
    (found,) = await rig.store.earlier_calls(DOMAIN, "default", AGENT, message[1])
    return found


async def test_the_host_that_was_to_make_a_call_is_known_whoever_writes_of_it_later(rig: Rig) -> None:
    first = await rig.host(0)
    message, id_ = await opened(rig, first), new_id()
    write = flush(message, Does.GO, calls=(call(message, id_, CallStatus.STARTED),))
    await rig.store.commit(first, [write], [])
    await rig.end(first)
    second = await rig.host(0)
    write = flush(message, Does.GO, calls=(call(message, id_, CallStatus.UNKNOWN),))
    await rig.store.commit(second, [write], [])
    found = await earlier(rig, message)
    assert (found.status, found.epoch) == (CallStatus.UNKNOWN, first.epoch)
    write = flush(message, Does.GO, calls=(call(message, id_, CallStatus.STARTED),))
    await rig.store.commit(second, [write], [])
    assert (await earlier(rig, message)).epoch == second.epoch


async def test_of_the_results_that_a_call_has_on_record_the_last_one_counts(rig: Rig) -> None:
    fence = await rig.host(0)
    message = await opened(rig, fence)
    made = entry(1, kind="call", value='"theirs"')
    edited = (entry(2, key="void:2", kind="void", name="#1"), entry(3, key="#1", kind="call", value='"ours"'))
    write = flush(
        message,
        Does.GO,
        entries=(made, *edited),
        calls=(call(message, new_id(), CallStatus.SUCCEEDED),),
    )
    await rig.store.commit(fence, [write], [])
    assert (await earlier(rig, message)).value == '"ours"'


async def test_a_verdict_changes_only_calls_of_which_nobody_knows_what_they_did(rig: Rig) -> None:
    fence = await rig.host(0)
    message, unknown, known = await opened(rig, fence), new_id(), new_id()
    calls = (call(message, unknown, CallStatus.STARTED), call(message, known, CallStatus.FAILED))
    verdicts = tuple(
        CallVerdict(id=id_, key="#1", status=CallStatus.SUCCEEDED, said_by="maria")
        for id_ in (unknown, known)
    )
    await rig.store.commit(fence, [flush(message, Does.GO, calls=calls, verdicts=verdicts)], [])
    found = await earlier(rig, message)
    assert (found.id, found.status) == (unknown, CallStatus.SUCCEEDED)


async def test_a_verdict_on_a_call_whose_id_cannot_be_read_is_on_that_at_its_place(rig: Rig) -> None:
    fence = await rig.host(0)
    message, meant, other = await opened(rig, fence), new_id(), new_id()
    beside = msgspec.structs.replace(call(message, other, CallStatus.STARTED), key="#2")
    verdict = CallVerdict(id=None, key="#1", status=CallStatus.UNKNOWN, error="nobody knows")
    calls = (call(message, meant, CallStatus.STARTED), beside)
    await rig.store.commit(fence, [flush(message, Does.GO, calls=calls, verdicts=(verdict,))], [])
    found = await rig.store.earlier_calls(DOMAIN, "default", AGENT, message[1])
    assert {c.id: c.status for c in found} == {meant: CallStatus.UNKNOWN, other: CallStatus.STARTED}


async def test_what_a_turn_has_done_and_was_undone_is_no_earlier_call(rig: Rig) -> None:
    fence = await rig.host(0)
    message, done, unknown = await opened(rig, fence), new_id(), new_id()
    calls = (call(message, done, CallStatus.SUCCEEDED), call(message, unknown, CallStatus.UNKNOWN))
    failed = entry(2, key="#2!undo", kind="undo", ok=False)
    write = flush(message, Does.GO, entries=(entry(1, kind="call", value="1"), failed), calls=calls)
    await rig.store.commit(fence, [write], [])
    found = await rig.store.earlier_calls(DOMAIN, "default", AGENT, message[1])
    assert {c.id for c in found} == {done, unknown}
    undone = flush(message, Does.GO, recorded=2, entries=(entry(3, key="#3!undo", kind="undo"),))
    await rig.store.commit(fence, [undone], [])
    found = await rig.store.earlier_calls(DOMAIN, "default", AGENT, message[1])
    assert {c.id for c in found} == {unknown}


async def test_who_has_said_that_a_call_has_acted_stays_when_a_later_turn_takes_it_over(rig: Rig) -> None:
    fence = await rig.host(0)
    message, id_ = await opened(rig, fence), new_id()
    said = msgspec.structs.replace(
        call(message, id_, CallStatus.SUCCEEDED), said_by="maria", approval=new_id()
    )
    await rig.store.commit(fence, [flush(message, Does.GO, calls=(said,))], [])
    await rig.store.commit(
        fence, [flush(message, Does.GO, calls=(call(message, id_, CallStatus.SUCCEEDED),))], []
    )
    assert await rig.said_of(id_) == ("maria", said.approval)
