"""What nobody here can read (somebody's own SQL has written it, or a newer release) stops one message, and no host."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from actors.wake import decode_wake
from bus.address import Address, parse_address
from bus.envelope import Header, Outgoing, header_from_json, header_to_json, new_id
from bus.errors import CallboardError, InvalidPayload
from callboard import Context
from callboard.testing import TestKit
from tests.unit.agents import Note
from tests.unit.waiter import AT, Run, Waiter, call, leftovers, program, put_away, waiters

DEEP = '{"x":' + "[" * 5_000 + "]" * 5_000 + "}"  # JSON, and deeper than anybody reads


def kit_address() -> Address:
    return parse_address(AT)


def _control(wire_name: str, payload: str, kit: TestKit) -> Outgoing:
    header = Header(id=new_id(), type=wire_name, sender="external/test", sent_at=1.0)
    return Outgoing(
        domain="test", tenant=kit.tenant, agent="waiter/w", partition=kit._partition(kit_address()), header=header,
        header_json=header_to_json(header), payload=payload, control=True,
    )  # fmt: skip


async def wait(self: Waiter, ctx: Context) -> None:
    made = await ctx.promise("the word")
    Waiter.calls.append(made.ref)
    self.state.log.append(f"heard {await made}")


def resolve(kit: TestKit) -> None:
    """The promise that `wait` has made; its owner does not hear of it yet."""
    promise = Waiter.calls[0].rpartition("#")[2]
    assert kit.store.waits.promises.settle(
        "test", kit.tenant, promise, status="resolved", value='{"payload":1}', by="external/test"
    )


def rows(kit: TestKit) -> list[Any]:
    """What waits for the waiter."""
    boxes = [box for key, box in kit.store.mail.boxes.items() if key[3] == "waiter/w"]
    return [row for box in boxes for _, row in sorted(box.items())]


def partition(kit: TestKit) -> int:
    [at] = [key[2] for key in kit.store.mail.boxes if key[3] == "waiter/w"]
    return at


def read(kit: TestKit, partition: int) -> None:
    """As the sweep does."""
    kit._running[0].host.mailboxes.read_agent(kit.tenant, "waiter/w", partition)


@pytest.mark.parametrize("payload", ['"what?"', '{"promise": 7}', "7"])
@pytest.mark.parametrize("is_put_away", [True, False])
async def test_a_wake_up_pauses_its_agent_which_goes_on_once_it_can_be_read(
    payload: str, is_put_away: bool
) -> None:
    async with waiters() as kit:
        await kit.send(AT, Run(program=program(wait)))
        await kit.quiet()
        if is_put_away:
            await put_away(kit)
        resolve(kit)
        [wake] = rows(kit)
        readable, wake.payload = wake.payload, payload
        read(kit, partition(kit))
        await kit.send("test/keeper/k", Note(text="a neighbour"))
        await kit.quiet()
        await kit.advance(seconds=2)
        assert kit.lifecycle(AT) == "paused"
        assert "wake-up" in kit.history(AT)[-1].notes[0]["reason"]
        assert kit.state("test/keeper/k").notes == ["a neighbour"]
        wake.payload = readable
        await kit.resume(AT)
        await kit.quiet()
        assert kit.state(AT).log == ["heard 1"]
        assert leftovers(kit)[::2] == (0, 0)  # turns and messages


async def test_a_wake_up_whose_turn_is_skipped_leaves_with_it() -> None:
    async with waiters() as kit:
        await kit.send(AT, Run(program=program(wait)))
        await put_away(kit)
        resolve(kit)
        rows(kit)[0].payload = "7"
        read(kit, partition(kit))
        await kit.quiet()
        await kit.send(AT, Note(text="behind it"))
        await kit.skip_turn(AT)
        await kit.quiet()
        assert kit.state(AT).log == ["note behind it"]
        assert [letter.reason for letter in kit.dead_letters(AT)] == ["skipped"]
        assert leftovers(kit)[::2] == (0, 0)  # turns and messages


@pytest.mark.parametrize("is_put_away", [True, False])
async def test_a_wake_up_whose_blob_is_gone_pauses_its_agent(is_put_away: bool) -> None:
    async with waiters() as kit:
        await kit.send(AT, Run(program=program(wait)))
        await kit.quiet()
        if is_put_away:
            await put_away(kit)
        resolve(kit)
        [wake] = rows(kit)
        header = msgspec.structs.replace(header_from_json(wake.header_json), blob="0" * 64)
        wake.header_json = msgspec.json.encode(header).decode()
        read(kit, partition(kit))
        await kit.quiet()
        await kit.advance(seconds=2)
        assert kit.lifecycle(AT) == "paused"


@pytest.mark.parametrize("field", ["value", "header"])
async def test_the_record_of_an_open_turn_pauses_its_agent(field: str) -> None:
    async def work(self: Waiter, ctx: Context) -> None:
        ctx.send("test/keeper/k", Note(text="sent"))
        await ctx.step(call, "once")
        await wait(self, ctx)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(work)))
        await put_away(kit)
        [turn] = kit.store.waits.turns.values()
        journal = kit.store.waits.journal
        [entries] = journal.values()
        good, header = [*entries], turn.message.header_json
        if field == "value":
            entries[:] = [msgspec.structs.replace(e, value="7") if e.kind == "sent" else e for e in good]
        else:
            turn.message.header_json = "7"
        Waiter.calls.remove("once")
        resolve(kit)
        read(kit, partition(kit))
        await kit.quiet()
        assert kit.lifecycle(AT) == "paused"
        entries[:], turn.message.header_json = good, header
        await kit.resume(AT)
        await kit.quiet()
        assert kit.state(AT).log == ["heard 1"]
        assert leftovers(kit)[::2] == (0, 0)  # turns and messages


@pytest.mark.parametrize("field", ["value", "header", "unwind"])
@pytest.mark.parametrize("leave_done", [False, True])
async def test_a_turn_whose_record_cannot_be_read_can_be_skipped(field: str, leave_done: bool) -> None:
    async def work(self: Waiter, ctx: Context) -> None:
        ctx.send("test/keeper/k", Note(text="sent"))
        if leave_done:
            ctx.compensate(call, "undo")
        await wait(self, ctx)

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(work)))
        await put_away(kit)
        [turn] = kit.store.waits.turns.values()
        [entries] = kit.store.waits.journal.values()
        if field == "header":
            turn.message.header_json = "7"
        else:
            entries[:] = [msgspec.structs.replace(e, value="7") if e.kind == "sent" else e for e in entries]
        if field == "unwind":
            entries.append(
                msgspec.structs.replace(entries[0], number=9, key="#unwind", kind="unwind", value="7")
            )
        resolve(kit)
        read(kit, partition(kit))
        await kit.send(AT, Note(text="behind it"))
        await kit.quiet()
        assert kit.lifecycle(AT) == "paused"
        if leave_done:
            await kit.skip_turn(AT)  # what is to be undone cannot be found
            await kit.quiet()
            assert kit.lifecycle(AT) == "paused"
        await kit.skip_turn(AT, leave_done=leave_done)
        await kit.quiet()
        [letter] = kit.store.agents.dead_letters.values()
        assert (letter.reason, letter.header_json) == ("skipped", turn.message.header_json)
        assert "undo" not in Waiter.calls
        assert letter.error.endswith("not undone, as was asked: counted.<locals>.call") is leave_done
        assert kit.state(AT).log == ["note behind it"]
        assert leftovers(kit)[::2] == (0, 0)  # turns and messages


async def _lost_wake(kit: TestKit) -> int:
    """The wake-up of a turn that was put away is a dead letter, for its header cannot be read; its number."""
    await kit.send(AT, Run(program=program(wait)))
    await put_away(kit)
    resolve(kit)
    [wake] = rows(kit)
    wake.header_json = "7"
    read(kit, partition(kit))
    await kit.quiet()
    [((_, number), letter)] = kit.store.agents.dead_letters.items()
    assert "how the promise" in letter.error
    assert (kit.state(AT).log, len(kit.store.waits.turns)) == ([], 1)
    return number


async def test_a_wake_up_whose_header_cannot_be_read_is_put_back_by_an_operator() -> None:
    async with waiters() as kit:
        await kit.retry_dead_letter(await _lost_wake(kit))
        await kit.quiet()
        assert kit.state(AT).log == ["heard 1"]
        assert (kit.store.agents.dead_letters, leftovers(kit)[::2]) == ({}, (0, 0))


async def test_a_turn_whose_wake_up_is_lost_can_be_skipped() -> None:
    async with waiters() as kit:
        await _lost_wake(kit)
        await kit.skip_turn(AT)
        await kit.quiet()
        assert sorted(letter.reason for letter in kit.store.agents.dead_letters.values()) == [
            "invalid_message",
            "skipped",
        ]
        assert leftovers(kit)[::2] == (0, 0)


@pytest.mark.parametrize("header", ["7", "{}", '{"id": "x", "type": 1}'])
@pytest.mark.parametrize("is_control", [True, False])
async def test_a_header_makes_a_dead_letter_of_its_message(header: str, is_control: bool) -> None:
    async with waiters() as kit:
        at = kit._partition(kit_address())
        message = msgspec.structs.replace(
            _control("tests.note.v1", '{"text": "never"}', kit), control=is_control
        )
        kit.store.mail.post(message)
        [row] = rows(kit)
        row.header_json = header
        await kit.send(AT, Note(text="behind it"))
        read(kit, at)
        await kit.quiet()
        assert kit.state(AT).log == ["note behind it"]
        [((_, number), letter)] = kit.store.agents.dead_letters.items()
        assert (letter.reason, letter.header_json) == ("invalid_message", header)
        await kit.retry_dead_letter(number, force=True)
        await kit.quiet()
        assert kit.history(AT)[-1].notes[0]["refused"] == "its header cannot be read"
        assert [*kit.store.agents.dead_letters.values()] == [letter]  # as it was


async def test_a_message_without_a_proper_id_is_a_dead_letter_all_the_same() -> None:
    async with waiters() as kit:
        kit.store.mail.post(_control("tests.note.v1", "7", kit))
        [row] = rows(kit)
        row.header_json = row.header_json.replace(row.id, "none")
        read(kit, kit._partition(kit_address()))
        await kit.quiet()
        [letter] = kit.store.agents.dead_letters.values()
        assert (letter.reason, letter.header_json) == ("refused", row.header_json)
        assert rows(kit) == []


@pytest.mark.parametrize("payload", ["7", "[]"])
async def test_a_control_message_is_a_dead_letter(payload: str) -> None:
    async with waiters() as kit:
        await kit.pause(AT, reason="so that it waits")
        await kit.quiet()
        kit.store.mail.post(_control("callboard.resume.v1", payload, kit))
        kit.store.mail.post(_control("callboard.resume.v9", "{}", kit))
        await kit.send(AT, Note(text="behind it"))
        read(kit, kit._partition(kit_address()))
        await kit.quiet()
        reasons = [letter.reason for letter in kit.dead_letters(AT)]
        assert reasons == ["invalid_payload", "invalid_message"]
        assert kit.lifecycle(AT) == "paused"


async def test_a_control_message_of_a_newer_release_waits_for_a_host_of_that() -> None:
    async def yes() -> bool:
        return True

    async with waiters() as kit:
        kit._scope.is_outdated = yes
        kit.store.mail.post(_control("callboard.resume.v9", "{}", kit))
        read(kit, kit._partition(kit_address()))
        await kit.quiet()
        [row] = rows(kit)
        assert "waits for a host with newer code" in row.last_error
        commits = kit._running[0].host.committer.commits
        await kit.quiet()
        await asyncio.sleep(0.01)
        assert kit._running[0].host.committer.commits == commits  # it is not looked at all the time
        await kit.advance(seconds=1)
        assert kit._running[0].host.committer.commits == commits + 1
        assert kit.dead_letters() == []


async def test_a_wake_up_deeper_than_anybody_reads_is_refused() -> None:
    with pytest.raises(InvalidPayload, match="wake-up"):
        decode_wake(DEEP)


async def test_a_mailbox_that_cannot_be_read_is_read_again_and_its_neighbours_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actors.refills.RETRY_S", 0.0)
    async with waiters() as kit:
        load, fails = kit.store.load_agent, [True, True]

        async def failing(
            domain: str, partition: int, tenant: str, agent: str, *more: Any, **named: Any
        ) -> Any:
            if agent == "waiter/w" and fails:
                fails.pop()
                raise ValueError("a row that nobody expected")
            return await load(domain, partition, tenant, agent, *more, **named)

        kit.store.load_agent = failing  # type: ignore[method-assign]
        await kit.send("test/keeper/k", Note(text="a neighbour"))
        await kit.send(AT, Note(text="here"))
        await kit.quiet()
        assert fails == []
        assert kit.state("test/keeper/k").notes == ["a neighbour"]
        assert kit.state(AT).log == ["note here"]


async def test_what_goes_wrong_after_a_read_ends_the_host_and_is_not_waited_for_for_ever() -> None:
    async with waiters() as kit:
        host = kit._running[0].host

        def fail(*found: Any) -> None:
            raise ValueError("never so")

        host.mailboxes._refills._take_in = fail
        await kit.send(AT, Note(text="here"))
        with pytest.raises(CallboardError, match="a part of the host failed"):
            await kit.quiet(timeout_s=2)
