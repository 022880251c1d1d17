"""What a handler may send, what travels along, and what is refused where the mistake is made."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from actors.domain import LimitSpec
from actors.event_spec import EventSpec
from bus.address import Address
from callboard import (
    NO_RETRY,
    Agent,
    CallboardError,
    Context,
    DeadlineExceeded,
    HopLimitExceeded,
    InvalidAddress,
    InvalidMessage,
    InvalidPayload,
    PayloadTooLarge,
    Priority,
    UnknownDomain,
    UnknownKind,
    UnknownMessageType,
    handler,
    message,
)
from callboard.testing import TestKit
from tests.unit.agents import Forward, Keeper, Note


@message("sending.act.v1")
class Act(BaseModel):
    """Do what the test's `plan` says."""

    n: int = 0


class Unnamed(BaseModel):
    """No message: it has no wire name."""


class Actor(Agent):
    kind = "actor"
    retry = NO_RETRY
    plan: Any = None
    errors: list[Exception] = []  # noqa: RUF012  (shared on purpose)

    @handler
    async def on_act(self, act: Act, ctx: Context) -> None:
        try:
            Actor.plan(act, ctx)
        except CallboardError as error:
            self.errors.append(error)
            raise


async def acted(kit: TestKit, plan: Any, **more: Any) -> list[Exception]:
    """Let an actor carry the plan out; return what it ran into."""
    Actor.plan = staticmethod(plan)
    Actor.errors.clear()
    await kit.send("test/actor/a", Act(), **more)
    await kit.quiet()
    return list(Actor.errors)


# -- what travels along ------------------------------------------------------------------------------


async def test_priority_deadline_task_and_correlation_are_handed_on() -> None:
    async with TestKit([Actor, Keeper]) as kit:
        deadline = kit.clock.now() + 60
        first = await kit.send("test/keeper/first", Forward(to="test/keeper/second", text="x"),
                               priority=Priority.HIGH, deadline=deadline, task="t-1")  # fmt: skip
        await kit.quiet()
        [step] = kit.history("test/keeper/second")
        header = step.header
        assert (header.priority, header.deadline, header.task) == (2, deadline, "test/t-1")
        assert (header.correlation, header.causation, header.hops) == (first, first, 1)
        assert header.sender == "test/keeper/first"


async def test_a_deadline_of_its_own_replaces_the_one_handed_on() -> None:
    async with TestKit([Actor, Keeper]) as kit:
        now = kit.clock.now()
        await acted(
            kit, lambda act, ctx: ctx.send("test/keeper/k", Note(), deadline=now + 5), deadline=now + 60
        )
        [step] = kit.history("test/keeper/k")
        assert step.header.deadline == now + 5


async def test_who_works_for_several_tasks_names_the_one_that_a_message_is_part_of() -> None:
    def plan(act: Act, ctx: Context) -> None:
        ctx.send("test/keeper/k", Note(), task="t-2", deadline=math.inf)

    async with TestKit([Actor, Keeper]) as kit:
        assert await acted(kit, plan, task="t-1", deadline=kit.clock.now() + 60) == []
        [step] = kit.history("test/keeper/k")
        assert (step.header.task, step.header.deadline) == ("test/t-2", None)


async def test_what_is_spent_for_another_task_does_not_count_for_the_one_at_the_top_of_this() -> None:
    def plan(act: Act, ctx: Context) -> None:
        ctx.send("test/keeper/same", Note(), task="t-1")
        ctx.send("test/keeper/other", Note(), task="t-2")

    async with TestKit([Actor, Keeper]) as kit:
        Actor.plan = staticmethod(plan)
        await kit._post.message(Address("test", "actor", "a"), Act(), task="test/t-1", root="test/t-0")
        await kit.quiet()
        headers = {key: kit.history(f"test/keeper/{key}")[0].header for key in ("same", "other")}
        assert {key: (each.task, each.root) for key, each in headers.items()} == {
            "same": ("test/t-1", "test/t-0"),
            "other": ("test/t-2", None),
        }


@pytest.mark.parametrize("task", ["a\0b", "x" * 4_000])
async def test_a_task_that_could_not_be_stored_is_refused_where_it_is_named(task: str) -> None:
    """Its recipient's dead letter could not be stored either, and would end one host after another."""
    async with TestKit([Actor, Keeper]) as kit:
        [error] = await acted(kit, lambda act, ctx: ctx.send("test/keeper/k", Note(), task=task))
        assert isinstance(error, InvalidMessage)
        assert kit.history("test/keeper/k") == []


async def test_a_deadline_in_the_past_is_refused() -> None:
    async with TestKit([Actor, Keeper]) as kit:
        [error] = await acted(kit, lambda act, ctx: ctx.send("test/keeper/k", Note(), deadline=ctx.now))
        assert isinstance(error, DeadlineExceeded)


async def test_what_one_turn_may_send_counts_large_payloads_too() -> None:
    """They go into blobs, and wait in memory for the turn's end."""

    def plan(act: Act, ctx: Context) -> None:
        for number in range(1_000):
            ctx.send("test/keeper/k", Note(text=f"{number:04}" * 1_000))

    def the_same(act: Act, ctx: Context) -> None:
        for number in range(1_000):
            ctx.send(f"test/keeper/{number}", Note(text="same" * 1_000))

    limits = LimitSpec(claim_check_bytes=1_024, turn_bytes=1_000_000)
    async with TestKit([Actor, Keeper], limits=limits) as kit:
        [error] = await acted(kit, plan)
        assert isinstance(error, PayloadTooLarge)
        assert len(kit.store.blobs) == 0
        assert await acted(kit, the_same) == []
        assert len(kit.store.blobs) == 1


async def test_a_chain_of_messages_ends_at_the_hop_limit() -> None:
    def again(act: Act, ctx: Context) -> None:
        ctx.send(ctx.address, Act(n=act.n + 1))

    async with TestKit([Actor], limits=LimitSpec(hops=10)) as kit:
        [error] = await acted(kit, again)
        assert isinstance(error, HopLimitExceeded)
        [letter] = kit.dead_letters()
        assert (letter.reason, letter.message, letter.header.hops) == ("invalid_message", Act(n=10), 10)
        assert len(kit.history("test/actor/a")) == 11


async def test_a_reply_goes_to_the_sender_and_to_no_one_outside() -> None:
    class Echo(Agent):
        kind = "echo"
        retry = NO_RETRY

        @handler
        async def on_note(self, note: Note, ctx: Context) -> None:
            ctx.reply(note)

    async with TestKit([Echo, Keeper]) as kit:
        await kit.send("test/keeper/k", Forward(to="test/echo/e", text="hello"))
        await kit.send("test/echo/e", Note(text="from outside"))
        await kit.quiet()
        assert kit.state("test/keeper/k").notes == ["hello"]
        [letter] = kit.dead_letters()
        assert "cannot be replied to" in letter.error


async def test_a_tenant_hears_only_its_own() -> None:
    async with TestKit([Keeper], tenant="acme") as kit:
        await kit.send("test/keeper/k", Forward(to="test/keeper/l", text="x"))
        await kit.quiet()
        assert kit.state("test/keeper/l").notes == ["x"]
        assert {tenant for _, tenant, _ in kit.store.agents.states} == {"acme"}


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "error"),
    [
        (lambda act, ctx: ctx.send("nowhere/keeper/k", Note()), UnknownDomain),
        (lambda act, ctx: ctx.send("test/nobody/k", Note()), UnknownKind),
        (lambda act, ctx: ctx.send("test/keeper", Note()), InvalidAddress),
        (lambda act, ctx: ctx.send(Address("test", "keeper", "k" * 513), Note()), InvalidAddress),
        (lambda act, ctx: ctx.send(Address("test", "keeper", ""), Note()), InvalidAddress),
        (lambda act, ctx: ctx.send("test/keeper/k", Unnamed()), UnknownMessageType),
        (lambda act, ctx: ctx.send("test/keeper/k", Note(text="a\0b")), InvalidPayload),
        (lambda act, ctx: ctx.send("test/keeper/k", Note(text="\ud83d")), InvalidPayload),
        (lambda act, ctx: ctx.send("test/keeper/k", Note(text="x" * 20_000)), PayloadTooLarge),
        (lambda act, ctx: ctx.send_later("test/keeper/k", Note()), InvalidMessage),
        (lambda act, ctx: ctx.send_later("test/keeper/k", Note(), delay_s=1, at=2), InvalidMessage),
        (lambda act, ctx: ctx.publish("no_such_topic", Note()), UnknownKind),
        (lambda act, ctx: [ctx.send("test/keeper/k", Note()) for _ in range(6)], InvalidMessage),
        (lambda act, ctx: ctx.complete("no task"), InvalidMessage),
    ],
)
async def test_a_mistake_is_refused_where_it_is_made_and_nothing_is_sent(
    plan: Any, error: type[Exception]
) -> None:
    limits = LimitSpec(claim_check_bytes=1_024, payload_bytes=16_384, sends_per_turn=5)
    async with TestKit([Actor, Keeper], limits=limits) as kit:
        found = await acted(kit, plan)
        assert [type(e) for e in found] == [error]
        assert kit.sent(to="test/keeper/k") == []
        assert len(kit.dead_letters()) == 1


async def test_the_backslash_u0000_that_is_text_is_not_taken_for_nul() -> None:
    async with TestKit([Keeper]) as kit:
        await kit.send("test/keeper/k", Note(text="\\u0000"))
        await kit.quiet()
        assert kit.state("test/keeper/k").notes == ["\\u0000"]


@pytest.mark.parametrize("text", ["\0", "\ud800"])
async def test_text_that_cannot_be_stored_is_refused_at_the_door(text: str) -> None:
    async with TestKit([Keeper]) as kit:
        with pytest.raises(InvalidPayload):
            await kit.send("test/keeper/k", Note(text=text))


# -- claim check -------------------------------------------------------------------------------------


async def test_a_large_payload_travels_as_a_blob_and_arrives_whole() -> None:
    text = "é" * 2_000  # 2,000 characters, 4,000 bytes
    async with TestKit([Keeper], limits=LimitSpec(claim_check_bytes=3_000)) as kit:
        await kit.send("test/keeper/k", Forward(to="test/keeper/l", text=text))
        await kit.quiet()
        assert kit.state("test/keeper/l").notes == [text]
        [step] = kit.history("test/keeper/l")
        assert step.header.blob is not None
        assert step.message == Note(text=text)
        assert len(step.body) < 4_100 + len(text)  # the state, once; the payload is not in the history


async def test_a_payload_at_the_limit_stays_in_the_message() -> None:
    async with TestKit([Keeper], limits=LimitSpec(claim_check_bytes=2_000)) as kit:
        await kit.send("test/keeper/k", Forward(to="test/keeper/l", text="x" * (2_000 - len('{"text":""}'))))
        await kit.quiet()
        [step] = kit.history("test/keeper/l")
        assert step.header.blob is None


async def test_a_payload_above_the_hard_limit_is_refused_at_the_door() -> None:
    async with TestKit([Keeper], limits=LimitSpec(claim_check_bytes=1_024, payload_bytes=2_048)) as kit:
        with pytest.raises(PayloadTooLarge, match="2048 is the limit"):
            await kit.send("test/keeper/k", Note(text="x" * 3_000))


async def test_a_state_above_its_limit_fails_the_turn() -> None:
    async with TestKit([Keeper], limits=LimitSpec(state_bytes=1_024)) as kit:
        await kit.send("test/keeper/k", Note(text="x" * 2_000))
        await kit.send("test/keeper/k", Note(text="small"))
        await kit.quiet()
        assert kit.state("test/keeper/k").notes == ["small"]
        assert "state" in kit.dead_letters()[0].error


# -- topics, timers, events, other domains -----------------------------------------------------------


async def test_a_topic_reaches_each_of_its_subscribers() -> None:
    topics = {"news": ("keeper/a", "keeper/b")}
    async with TestKit([Actor, Keeper], topics=topics) as kit:
        await acted(kit, lambda act, ctx: ctx.publish("news", Note(text="extra")))
        assert kit.state("test/keeper/a").notes == kit.state("test/keeper/b").notes == ["extra"]


async def test_a_timer_is_durable_and_fires_at_its_time() -> None:
    async with TestKit([Keeper]) as kit:
        await kit.send("test/keeper/k", Forward(to="test/keeper/l", text="later", delay_s=60))
        await kit.send("test/keeper/k", Forward(to="test/keeper/l", text="sooner", delay_s=30))
        await kit.quiet()
        await kit.crash()
        await kit.advance(seconds=45)
        assert kit.state("test/keeper/l").notes == []
        await kit.recover()
        assert kit.state("test/keeper/l").notes == ["sooner"]
        await kit.advance(seconds=14)
        assert kit.state("test/keeper/l").notes == ["sooner"]
        await kit.advance(seconds=1)
        assert kit.state("test/keeper/l").notes == ["sooner", "later"]
        assert len(kit.sent(to="test/keeper/l")) == 2


async def test_an_event_goes_to_the_agent_that_the_domain_names() -> None:
    events = [EventSpec(name="noted", type="tests.note.v1", to="keeper/by-{text}")]
    async with TestKit([Keeper], events=events) as kit:
        await kit.publish_event("noted", Note(text="a/b"), key="line 1")
        assert await kit.publish_event("noted", Note(text="a/b"), key="line 1") is None
        assert await kit.send(f"{kit.domain.name}/keeper/c", Note(text="c"), key="line 1") is not None
        await kit.quiet()
        assert kit.state("test/keeper/by-a/b").senders == ["external/events/noted"]
        with pytest.raises(InvalidMessage, match="has no event 'other'"):
            await kit.publish_event("other", Note())


async def test_messages_to_another_domain_are_committed_for_it() -> None:
    async with TestKit([Keeper], others=["billing"]) as kit:
        await kit.send("test/keeper/k", Forward(to="billing/clerk/1", text="invoice"))
        await kit.quiet()
        assert kit.sent(to="billing/clerk/1") == [Note(text="invoice")]
        assert [m.message for m in kit.mailbox("billing/clerk/1")] == [Note(text="invoice")]


async def test_a_large_payload_for_another_domain_is_stored_where_its_recipient_reads_it() -> None:
    """Its host looks in its own domain, and so does the retention that keeps what a mailbox refers to."""
    text = "x" * 2_000

    def plan(act: Act, ctx: Context) -> None:
        ctx.send("billing/clerk/1", Note(text=text))
        ctx.send("test/keeper/k", Note(text=text))

    limits = LimitSpec(claim_check_bytes=1_024)
    async with TestKit([Actor, Keeper], others=["billing"], limits=limits) as kit:
        assert await acted(kit, plan) == []
        [sent] = kit.mailbox("billing/clerk/1")
        assert sent.header.blob is not None
        assert text.encode() in await kit.store.get_blob("billing", "default", sent.header.blob)
        assert kit.state("test/keeper/k").notes == [text]


async def test_a_large_answer_to_another_domain_is_stored_where_whoever_asked_reads_it() -> None:
    ref = "billing/clerk/1#018f0000-0000-7000-8000-000000000000"
    limits = LimitSpec(claim_check_bytes=1_024)
    async with TestKit([Actor], others=["billing"], limits=limits) as kit:
        assert await acted(kit, lambda act, ctx: ctx.resolve(ref, "x" * 2_000)) == []
        assert {domain for domain, _, _ in kit.store.blobs} == {"billing"}


async def test_a_domain_folder_is_run_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "domain.yaml").write_text("domain: filed\nkinds:\n  - class: tests.unit.agents:Keeper\n")
    async with TestKit(tmp_path, hosts=2) as kit:
        await kit.send("filed/keeper/k", Note(text="x"))
        await kit.quiet()
        assert kit.state("filed/keeper/k").notes == ["x"]
