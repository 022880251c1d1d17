"""The turn of a control message: the agent obeys, or a dead letter of it is taken back."""

from __future__ import annotations

from typing import Protocol

import msgspec

from actors import control
from actors.activation import PAUSED, Activation
from actors.agent import Agent
from actors.context import Context
from actors.open_turns import OpenTurns
from actors.outcomes import Outcomes
from actors.scope import Scope
from actors.spending import spent
from actors.turn_edit import edited
from bus.envelope import Envelope, Outgoing, header_from_json, header_to_json
from bus.errors import InvalidPayload, NoHandler
from bus.registry import decode_payload
from storage.journal import Does, JournalWrite, Kind, StoredJournal
from storage.records import BuriedMessage, DeadLetter, TurnRecord


class DeadLetterReader(Protocol):
    async def read_dead_letter(
        self, domain: str, tenant: str, agent: str, number: int
    ) -> BuriedMessage | None:
        """A dead letter of this agent."""
        ...


class ControlTurns:
    """Carries out what `actors.control` says."""

    def __init__(
        self, scope: Scope, storage: DeadLetterReader, outcomes: Outcomes, open_turns: OpenTurns
    ) -> None:
        self._scope = scope
        self._storage = storage
        self._outcomes = outcomes
        self._open_turns = open_turns

    async def run(self, activation: Activation, envelope: Envelope, ctx: Context) -> TurnRecord:
        """Carry the message out; raises what the agent's hooks raise."""
        message = decode_payload(envelope.header.type, envelope.payload)
        if isinstance(message, control.Withdraw):  # the agent itself has nothing to do with it
            return await self._withdraw(activation, envelope, ctx, message.id)
        agent = await self._activate(activation, ctx)
        match message:
            case control.Pause():
                ctx.explain("pause", reason=message.reason)
                if agent is not None:
                    await agent.on_paused(ctx)
                return await self._outcomes.succeed(activation, envelope, ctx, "paused", PAUSED)
            case control.Resume():
                activation.more = True  # what came while it was paused is on disk
                if agent is not None:
                    await agent.on_resumed(ctx)
                return await self._outcomes.succeed(activation, envelope, ctx, "resumed")
            case control.Destroy():
                if agent is not None:
                    await agent.on_destroyed(ctx)
                ctx.destroy()
                record = await self._outcomes.succeed(activation, envelope, ctx, "destroyed")
                stored = await self._open_turns.load(activation)
                if stored is None:
                    return record
                return _without_turn(
                    self._scope,
                    activation,
                    record,
                    stored,
                    "destroyed",
                    "its agent was destroyed while it waited",
                )
            case control.SkipTurn():
                stored = await self._open_turns.load(activation)
                ctx.explain("skip_turn", reason=message.reason, found=stored is not None)
                record = await self._outcomes.succeed(activation, envelope, ctx, "turn_skipped")
                if stored is None:
                    return record
                why = f"skipped by {ctx.sender.removeprefix('external/')}: {message.reason}".removesuffix(
                    ": "
                )
                return _without_turn(self._scope, activation, record, stored, "skipped", why)
            case control.EditTurn():
                return await self._edit(activation, envelope, ctx, message)
            case control.RetryDeadLetter():
                found = await self._find_dead(activation, message.id)
                refused = None if found is None else _why_not(found, force=message.force)
                if found is not None and refused is None:
                    ctx.consequences.undead += (message.id,)
                    ctx.consequences.sends.append(self._again(activation, message.id, found))
                    ctx.report_mended(header_from_json(found.header_json), message.id, "retried")
                ctx.explain(
                    "retry_dead_letter", id=message.id, found=found is not None, force=message.force,
                    refused=refused, **_named(found),
                )  # fmt: skip
                decision = "dead_letter_retried" if refused is None else "dead_letter_kept"
                return await self._outcomes.succeed(activation, envelope, ctx, decision, activation.lifecycle)
            case control.DropDeadLetter():
                found = await self._find_dead(activation, message.id)
                if found is not None:
                    ctx.consequences.undead += (message.id,)
                    header = header_from_json(found.header_json)
                    ctx.report_mended(header, message.id, "dropped", message.reason)
                ctx.explain("drop_dead_letter", id=message.id, reason=message.reason, found=found is not None)
                return await self._outcomes.succeed(
                    activation, envelope, ctx, "dead_letter_dropped", activation.lifecycle
                )
            case _:
                raise NoHandler(f"{envelope.header.type} is not a control message.")

    async def _withdraw(
        self, activation: Activation, envelope: Envelope, ctx: Context, message: str
    ) -> TurnRecord:
        activation.instance = None
        seq = await self._open_turns.withdraw(activation, message)
        ctx.explain("withdraw", message=message, found=seq is not None)
        record = await self._outcomes.succeed(activation, envelope, ctx, "withdrawn", activation.lifecycle)
        if seq is None:
            return record
        also = JournalWrite(seq=envelope.seq, turn=envelope.header.id, does=Does.NONE, consumed=(seq,))
        return msgspec.structs.replace(record, journal=also)

    async def _edit(
        self, activation: Activation, envelope: Envelope, ctx: Context, edit: control.EditTurn
    ) -> TurnRecord:
        """What is recorded stays, and is taken back; what replaces it comes after it."""
        stored = await self._open_turns.load(activation)
        entries = () if stored is None else edited(stored.entries, edit.key, edit.value)
        ctx.explain("edit_turn", key=edit.key, value=edit.value, reason=edit.reason, done=bool(entries))
        record = await self._outcomes.succeed(activation, envelope, ctx, "turn_edited", activation.lifecycle)
        if stored is None or not entries:
            return record
        more = JournalWrite(
            seq=stored.seq, turn=stored.turn, does=Does.GO, recorded=stored.recorded, entries=entries
        )
        return msgspec.structs.replace(record, journal=more)

    async def _activate(self, activation: Activation, ctx: Context) -> Agent | None:
        """The agent, or None when its kind is gone or its stored state does not fit its class: it obeys all the same,
        without hooks."""
        if activation.agent.partition("/")[0] not in self._scope.kinds:
            return None
        if activation.state_json is None and await self._open_turns.load(activation) is not None:
            return None  # its first turn creates it, and must find it uncreated whenever it runs again
        try:
            agent = activation.instance or await activation.activate()
        except InvalidPayload as error:
            ctx.explain("state_does_not_fit", error=error.message)
            return None
        if activation.state_json is None:
            await agent.on_created(ctx)
        return agent

    async def _find_dead(self, activation: Activation, number: int) -> BuriedMessage | None:
        """A dead letter, unless a turn that is about to commit has taken it back."""
        if number in activation.undead:
            return None
        return await self._storage.read_dead_letter(
            self._scope.domain, activation.tenant, activation.agent, number
        )

    def _again(self, activation: Activation, number: int, found: BuriedMessage) -> Outgoing:
        header = msgspec.structs.replace(header_from_json(found.header_json), deadline=None, letter=number)
        return Outgoing(
            domain=self._scope.domain,
            tenant=activation.tenant,
            agent=activation.agent,
            partition=activation.partition,
            header=header,
            header_json=header_to_json(header),
            payload=found.payload,
        )


def _why_not(letter: BuriedMessage, *, force: bool) -> str | None:
    """Why it is not put back: the task may have ended since somebody looked."""
    ended = letter.task_ended
    if ended is None or (force and ended not in ("cancelling", "cancelled")):
        return None
    return "its task is no longer on record" if ended == "forgotten" else f"its task is {ended}"


def _named(letter: BuriedMessage | None) -> dict[str, str]:
    """The message that goes back into the mailbox, which keeps its id."""
    if letter is None:
        return {}
    header = header_from_json(letter.header_json)
    return {"message": header.id, "type": header.type}


def _without_turn(
    scope: Scope, activation: Activation, record: TurnRecord, stored: StoredJournal, reason: str, error: str
) -> TurnRecord:
    """The record, with which the agent's open turn ends: its message becomes a dead letter."""
    activation.parked = activation.lacks_turn = False
    activation.more = True
    ends = JournalWrite(
        seq=stored.seq, turn=stored.turn, does=Does.END, recorded=stored.recorded,
        done=tuple(p.id for p in stored.promises),
        asks_done=sum(p.kind == Kind.ASK for p in stored.promises),
    )  # fmt: skip
    header = header_from_json(stored.header_json)
    dead = DeadLetter(reason=reason, error=error, failures=stored.failures)
    return msgspec.structs.replace(
        record, journal=ends, dead=dead, message_id=header.id,
        spent=spent(scope, activation.tenant, header, (), ends), header_json=stored.header_json, payload=stored.payload,
    )  # fmt: skip
