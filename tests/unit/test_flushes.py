"""Flushes of a turn that waits: what was recorded and sent goes out once, in order, and after the blobs it refers to."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from actors.domain import LimitSpec
from actors.journal import Journal
from actors.next_tries import STORAGE_RETRY_S
from bus.address import partition_of
from bus.errors import StaleTurn, StorageUnavailable
from callboard import Context
from storage.journal import JournalEntry
from tests.unit.agents import Forward, Note
from tests.unit.waiter import (
    AT,
    Question,
    Run,
    Waiter,
    call,
    leftovers,
    open_turns,
    program,
    put_away,
    until,
    waiters,
)


async def test_what_was_sent_before_a_wait_goes_out_before_it_and_once() -> None:
    ids: list[str] = []

    async def run(self: Waiter, ctx: Context) -> None:
        ids.append(ctx.send("test/keeper/k", Note(text="before")))
        await ctx.step(call, "a")
        ids.append(ctx.send("test/keeper/k", Note(text="between")))
        await ctx.sleep(60)
        ctx.send("test/keeper/k", Note(text="after"))

    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        assert kit.state("test/keeper/k").notes == ["before", "between"]
        await kit.crash()
        await kit.recover()
        await kit.advance(seconds=61)
        assert kit.state("test/keeper/k").notes == ["before", "between", "after"]
        assert ids[:2] == ids[2:]
        [step] = kit.history(AT)
        assert [sent["type"] for sent in step.sends] == ["tests.note.v1"] * 3


async def test_a_message_sent_after_the_turn_keeps_its_order_behind_what_was_flushed() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        ctx.send("test/keeper/k", Note(text="1"))
        ctx.send("test/keeper/f", Forward(to="test/keeper/k", text="far"))
        await ctx.step(call, "a")
        ctx.send("test/keeper/k", Note(text="2"))

    async with waiters(hosts=2) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        notes = kit.state("test/keeper/k").notes
        assert [note for note in notes if note != "far"] == ["1", "2"]


@pytest.mark.parametrize("crash_at", range(1, 9))
@pytest.mark.parametrize("point", ["commit.before", "commit.after"])
async def test_a_crash_on_either_side_of_a_flush_neither_loses_nor_doubles(point: str, crash_at: int) -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        for n in range(4):
            ctx.send("test/keeper/k", Note(text=f"{n}"))
            reply = await ctx.ask("test/oracle/o", Question(text=f"{n}"))
            self.state.log.append(reply.text)

    async with waiters() as kit:
        commits = 0
        fatal = asyncio.Event()

        def passing(reached: str) -> None:
            nonlocal commits
            commits += reached == point
            if commits == crash_at:
                kit.store.passing = lambda point: None
                fatal.set()
                raise asyncio.CancelledError  # the process is gone: nobody learns of the outcome

        kit.store.passing = passing
        await kit.send(AT, Run(program=program(run)))
        async with asyncio.timeout(5):
            await fatal.wait()
        await kit.crash()
        await kit.recover()
        assert kit.state(AT).log == [f"re {n}" for n in range(4)]
        assert kit.state("test/keeper/k").notes == [f"{n}" for n in range(4)]
        assert leftovers(kit) == (0, 0, 0)


async def test_a_turn_that_waits_for_its_blobs_runs_again_after_what_its_other_branch_has_flushed() -> None:
    flushing, is_away = asyncio.Event(), asyncio.Event()

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.gather(ctx.step(call, "a"), ctx.step(large))
        self.state.log.append("done")

    async def large() -> str:
        await flushing.wait()
        return "y" * 5_000

    async with waiters(limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        put_blob, commit = kit.store.put_blob, kit.store.commit

        async def fails_once(*arguments: Any) -> None:
            if not is_away.is_set():
                is_away.set()
                raise StorageUnavailable("Away.")
            await put_blob(*arguments)

        async def slow(fence: Any, writes: Any, marks: Any) -> Any:
            if not is_away.is_set() and any(w.journal is not None and w.journal.entries for w in writes):
                flushing.set()
                await is_away.wait()
                await asyncio.sleep(3 * STORAGE_RETRY_S)  # time enough for a second run to read the journal
            return await commit(fence, writes, marks)

        kit.store.put_blob, kit.store.commit = fails_once, slow  # type: ignore[method-assign,assignment]
        await kit.send(AT, Run(program=program(run)))
        async with asyncio.timeout(10):
            while not kit.state(AT).log:  # noqa: ASYNC110  (rows that another task writes)
                await asyncio.sleep(0.01)
        assert (kit.state(AT).log, Waiter.calls) == (["done"], ["a"])
        (journal,) = kit.store.waits.journal.values()
        assert [entry.number for entry in journal] == list(range(1, len(journal) + 1))


async def test_an_ask_that_waits_for_another_branchs_blob_is_sent_when_the_turn_runs_again() -> None:
    storing: list[str] = []

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(call, "before")

        async def ask() -> Any:
            await until(lambda: storing)
            return await ctx.ask("test/oracle/o", Question(text="now"))

        _, answer = await ctx.gather(ctx.step(large), ask())
        self.state.log.append(answer.text)

    async def large() -> str:
        return "y" * 5_000

    async with waiters(limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        put_blob = kit.store.put_blob

        async def away_for_two(domain: str, tenant: str, digest: str, data: bytes) -> None:
            storing.append(digest)
            if len(storing) <= 2:
                await until(
                    lambda: len(storing) >= 2
                )  # the step's, and the ask's, which flushes what is there
                raise StorageUnavailable("Away.")
            await put_blob(domain, tenant, digest, data)

        kit.store.put_blob = away_for_two  # type: ignore[method-assign]
        await kit.send(AT, Run(program=program(run)))
        async with asyncio.timeout(10):
            while not kit.state(AT).log:  # noqa: ASYNC110  (rows that another task writes)
                await asyncio.sleep(0.01)
        assert len(storing) >= 3


async def test_a_second_run_that_flushes_the_same_is_refused_and_the_turn_goes_on_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flushing, is_away = asyncio.Event(), asyncio.Event()

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(call, "before")
        await ctx.gather(ctx.step(call, "a"), ctx.step(large))
        self.state.log.append(await ctx.step(call, "after"))

    async def large() -> str:
        await flushing.wait()
        return "y" * 5_000

    async def nothing(journal: Journal, *unsent: Any) -> None:
        """Planted: a turn that is to run again does not wait for what its other branch has on its way."""

    async with waiters(limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        put_blob, commit = kit.store.put_blob, kit.store.commit
        refused: list[str] = []

        async def fails_once(*arguments: Any) -> None:
            if not is_away.is_set():
                is_away.set()
                raise StorageUnavailable("Away.")
            await put_blob(*arguments)

        async def slow(fence: Any, writes: Any, marks: Any) -> Any:
            if "a" in Waiter.calls and not is_away.is_set():
                flushing.set()
                await is_away.wait()
                await until(lambda: Waiter.calls == ["before", "a", "a"])
            try:
                return await commit(fence, writes, marks)
            except StaleTurn as error:
                refused.append(error.message)
                raise

        kit.store.put_blob, kit.store.commit = fails_once, slow  # type: ignore[method-assign,assignment]
        monkeypatch.setattr(Journal, "settled", nothing)
        monkeypatch.setattr(Journal, "write_down", nothing)
        await kit.send(AT, Run(program=program(run)))
        async with asyncio.timeout(10):
            while not kit.state(AT).log:  # noqa: ASYNC110  (rows that another task writes)
                await asyncio.sleep(0.01)
        assert kit.state(AT).log == ["AFTER"]
        assert set(refused) == {"Others have recorded something in an open turn."}
        (journal,) = kit.store.waits.journal.values()
        assert [entry.number for entry in journal] == list(range(1, len(journal) + 1))
        assert len({entry.key for entry in journal}) == len(journal)


async def test_what_one_branch_flushes_refers_to_no_blob_that_another_has_not_stored_yet() -> None:
    missing: list[str] = []
    may_store = asyncio.Event()

    async def slow() -> str:
        return "x" * 5_000

    async def later() -> str:
        await storing.wait()  # the result of the other is recorded
        asyncio.get_running_loop().call_later(0.01, may_store.set)
        return "y" * 5_000

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.gather(ctx.step(slow), ctx.step(later))

    storing = asyncio.Event()
    async with waiters(limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        put_blob, commit = kit.store.put_blob, kit.store.commit

        async def slow_put(*arguments: Any) -> None:
            storing.set()
            await may_store.wait()
            for _ in range(20 * arguments[-1].startswith(b'"y')):
                await asyncio.sleep(0)
            await put_blob(*arguments)

        async def watched(fence: Any, writes: Any, marks: Any) -> Any:
            entries = [entry for write in writes if write.journal for entry in write.journal.entries]
            stored = {digest for _, _, digest in kit.store.blobs}
            missing.extend(entry.key for entry in entries if entry.blob and entry.blob not in stored)
            return await commit(fence, writes, marks)

        kit.store.put_blob, kit.store.commit = slow_put, watched  # type: ignore[method-assign,assignment]
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert missing == []
        assert open_turns(kit) == 0


async def test_a_turn_whose_blob_cannot_be_stored_goes_on_from_its_journal() -> None:
    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.step(call, "a")
        await ctx.step(lambda: "x" * 5_000)
        self.state.log.append("done")

    async with waiters(limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        put_blob, failures = kit.store.put_blob, [StorageUnavailable("Away.")]

        async def flaky(*arguments: Any) -> None:
            if failures:
                raise failures.pop()
            await put_blob(*arguments)

        kit.store.put_blob = flaky  # type: ignore[method-assign,assignment]
        await kit.send(AT, Run(program=program(run)))
        async with asyncio.timeout(10):
            while not kit.state(AT).log:  # noqa: ASYNC110  (it tries again by real time)
                await asyncio.sleep(0.05)
        assert Waiter.calls == ["a"]
        assert kit.dead_letters() == []


async def test_what_a_thread_is_about_to_send_while_another_branch_flushes_goes_out_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sending, flushed = threading.Event(), threading.Event()

    def slow(tenant: str, agent: str, partitions: int) -> int:
        if threading.current_thread() is not threading.main_thread():
            sending.set()
            flushed.wait(10)
        return partition_of(tenant, agent, partitions)

    def sends(ctx: Context) -> None:
        ctx.send("test/keeper/k", Note(text="from the thread"))

    async def flushes(ctx: Context) -> None:
        await until(sending.is_set)
        ctx.send("test/keeper/k", Note(text="beside it"))
        await ctx.step(call, "a")
        flushed.set()

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.gather(ctx.step(sends, ctx), flushes(ctx))
        ctx.send("test/keeper/k", Note(text="after it"))
        await ctx.step(call, "b")

    monkeypatch.setattr("actors.consequences.partition_of", slow)
    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert kit.state("test/keeper/k").notes == ["beside it", "from the thread", "after it"]
        assert leftovers(kit) == (0, 0, 0)


async def test_what_a_thread_charges_while_another_branch_records_has_a_number_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recording, recorded = threading.Event(), threading.Event()

    def slow(**given: Any) -> JournalEntry:
        entry = JournalEntry(**given)
        if threading.current_thread() is not threading.main_thread():
            recording.set()
            recorded.wait(0.2)  # nobody else records before this one has
        return entry

    def charges(ctx: Context) -> None:
        ctx.charge(tokens=7)

    async def records(ctx: Context) -> None:
        await until(recording.is_set)
        await ctx.step(call, "a")
        recorded.set()

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.gather(ctx.step(charges, ctx), records(ctx))
        await ctx.sleep(60)

    monkeypatch.setattr("actors.entries.JournalEntry", slow)
    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await put_away(kit)
        (journal,) = kit.store.waits.journal.values()
        assert [entry.number for entry in journal] == list(range(1, len(journal) + 1))
        assert sorted(entry.kind for entry in journal) == ["charge", "step", "step"]
        await kit.advance(seconds=61)
        assert leftovers(kit) == (0, 0, 0)
