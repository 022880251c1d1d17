"""The plain function of a step sends from its thread, at whatever moment of what its handler does beside it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from actors.blobs import Blobs
from actors.committer import Committer, Entry
from actors.domain import LimitSpec
from actors.draft import Draft
from actors.entries import STEP, Entries
from actors.retry import RetryPolicy
from bus.address import Address, parse_address
from callboard import Context
from storage.records import Mark
from tests.unit.agents import Note
from tests.unit.waiter import AT, Question, Run, Waiter, call, leftovers, program, until, waiters


async def test_one_that_sends_while_another_branch_asks_has_places_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting, asking, sent = threading.Event(), threading.Event(), threading.Event()

    def slow(address: str) -> Address:
        if address == "test/oracle/o":
            asking.set()
            sent.wait(10)
        return parse_address(address)

    def sends(ctx: Context) -> None:
        waiting.set()
        asking.wait(10)
        ctx.send("test/keeper/k", Note(text="from the thread"))
        if not sent.is_set():
            sent.set()
            raise ValueError("once")

    async def asks(ctx: Context) -> None:
        await until(waiting.is_set)
        await ctx.ask("test/oracle/o", Question(text="beside it"))

    async def run(self: Waiter, ctx: Context) -> None:
        again = RetryPolicy(attempts=2, first_delay_s=0.01)
        await ctx.gather(ctx.step(sends, ctx, retry=again), asks(ctx))

    monkeypatch.setattr("actors.context.parse_address", slow)
    async with waiters() as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert kit.state("test/keeper/k").notes == ["from the thread"]
        assert leftovers(kit) == (0, 0, 0)


@pytest.mark.parametrize("last", [False, True], ids=["flush", "end"])
async def test_a_large_one_that_comes_once_all_blobs_are_stored_is_stored_as_well(
    monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    waiting, stored, sent = threading.Event(), threading.Event(), threading.Event()
    store = Blobs.store

    async def watched(self: Blobs, blobs: Any) -> None:
        await store(self, blobs)
        if waiting.is_set() and not stored.is_set():
            stored.set()
            sent.wait(10)  # now nothing is left to be stored, and what was sent is not taken yet

    def sends(ctx: Context) -> None:
        waiting.set()
        stored.wait(10)
        ctx.send("test/keeper/k", Note(text="y" * 5_000))
        sent.set()

    async def goes_on(ctx: Context) -> None:
        await until(waiting.is_set)
        ctx.send("test/keeper/k", Note(text="x" * 5_000))
        if not last:
            await ctx.step(call, "a")

    async def run(self: Waiter, ctx: Context) -> None:
        await ctx.gather(ctx.step(sends, ctx), goes_on(ctx), first=1 if last else None)

    def checked(self: Committer, entry: Entry) -> None:
        there = {digest for _, _, digest in kit.store.blobs}
        blobs = [] if isinstance(entry.outcome, Mark) else [send.header.blob for send in entry.outcome.sends]
        missing.extend(blob for blob in blobs if blob is not None and blob not in there)
        submit(self, entry)

    missing: list[str] = []
    submit = Committer.submit
    monkeypatch.setattr(Committer, "submit", checked)
    monkeypatch.setattr(Blobs, "store", watched)
    async with waiters(limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        await kit.send(AT, Run(program=program(run)))
        await kit.quiet()
        assert stored.is_set()
        assert missing == []
        assert {note[0] for note in kit.state("test/keeper/k").notes} >= {"x"}
        assert leftovers(kit) == (0, 0, 0)


def test_what_is_recorded_while_somebody_goes_through_the_record_is_in_nobodys_way() -> None:
    entries = Entries(Draft(1, "turn", 0.0, 0), 1_000, 1_000_000)
    for number in range(3):
        entries.add(f"#{number}", STEP, "a", "null", ok=True, took_ms=0.0, blob=None)
    for entry in entries:
        if entry.number == 1:
            entries.add("#late", STEP, "a", "null", ok=True, took_ms=0.0, blob=None)
    assert "#late" in entries
