"""The turn of a control message: the agent obeys, or a dead letter of it is taken back."""

from __future__ import annotations

from typing import Protocol

import msgspec
from pydantic import BaseModel

from actors import control
from actors.activation import DESTROYED as GONE
from actors.activation import PAUSED, Activation
from actors.agent import Agent
from actors.blobs import Blob
from actors.context import Context
from actors.entries import SENT, VOID
from actors.event_message import NEWER_CODE_MAY_KNOW, BuriedEvent, message_of, words_of
from actors.open_turns import OpenTurns
from actors.outcomes import Outcomes
from actors.saga import DESTROYED, SKIPPED, Ending, ending_of, outstanding, unwind_entry
from actors.scope import Scope
from actors.turn_edit import edited, said_of_call
from actors.wake import WAKE, wake_without_header
from bus.envelope import UNREADABLE, Envelope, Outgoing, header_from_json, header_to_json
from bus.errors import InvalidPayload, NoHandler
from storage.journal import Does, JournalWrite, StoredJournal
from storage.records import INVALID_EVENT, BuriedMessage, DeadLetter, Mark, TurnRecord


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

    async def run(
        self, activation: Activation, envelope: Envelope, message: BaseModel, ctx: Context
    ) -> TurnRecord | Mark:
        """Carry the message out; raises what the agent's hooks raise."""
        if isinstance(message, control.Withdraw):  # the agent itself has nothing to do with it
            return await self._withdraw(activation, envelope, ctx, message.id)
        if isinstance(message, control.Destroy):
            return await self._destroy(activation, envelope, ctx, message)
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
            case control.SkipTurn():
                stored = await self._meant(activation, message.turn)
                ctx.explain("skip_turn", reason=message.reason, found=stored is not None)
                if stored is None:
                    return await self._outcomes.succeed(activation, envelope, ctx, "turn_skipped")
                by = f"skipped by {ctx.sender.removeprefix('external/')}"
                ending = Ending(
                    reason=SKIPPED, error=f"{by}: {message.reason}" if message.reason else by,
                    failures=stored.failures, leaves=_leaves(stored, message.leave_done),
                )  # fmt: skip
                return await self._give_up(activation, envelope, ctx, "turn_skipped", stored, ending)
            case control.EditTurn():
                return await self._edit(activation, envelope, ctx, message)
            case control.RetryDeadLetter():
                found = await self._find_dead(activation, message.id)
                refused = None if found is None else _why_not(found, force=message.force)
                if found is not None and refused is None and found.reason == INVALID_EVENT:
                    return await self._read_anew(activation, envelope, ctx, message.id, found)
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
                ctx.explain(
                    "drop_dead_letter", id=message.id, reason=message.reason, found=found is not None, **_named(found)
                )  # fmt: skip
                return await self._outcomes.succeed(
                    activation, envelope, ctx, "dead_letter_dropped", activation.lifecycle
                )
            case _:
                raise NoHandler(f"{envelope.header.type} is not a control message.")

    async def _read_anew(
        self, activation: Activation, envelope: Envelope, ctx: Context, number: int, found: BuriedMessage
    ) -> TurnRecord | Mark:
        """The event goes to the agent that domain.yaml names now, unless its publisher was quicker with the same id; or it is
        a dead letter again, with what is wrong with it now."""
        header = header_from_json(found.header_json)
        buried = msgspec.json.decode(found.payload, type=BuriedEvent)
        to, error = None, None
        ctx.consequences.undead += (number,)
        try:
            message, blob = message_of(buried.event(), self._scope, id_=header.id, letter=number)
        except Exception as raised:  # whatever is wrong with the event, as when it was read first
            if isinstance(raised, NEWER_CODE_MAY_KNOW) and await self._scope.is_outdated():
                return self._outcomes.hold_back(activation, envelope, raised)
            error = words_of(raised)
        else:
            to = f"{message.domain}/{message.agent}"
            ctx.consequences.accepts += ((buried.key, message),)
            if blob is not None:
                ctx.consequences.blobs.append(Blob(message.domain, message.tenant, *blob))
            ctx.report_mended(header, number, "retried")
        ctx.explain("retry_dead_letter", id=number, message=header.id, to=to, error=error)
        record = await self._outcomes.succeed(
            activation, envelope, ctx, "dead_letter_retried", activation.lifecycle
        )
        if error is None:
            return record
        return msgspec.structs.replace(
            record,
            dead=DeadLetter(reason=INVALID_EVENT, error=error, failures=0),
            message_id=header.id,
            header_json=header_to_json(msgspec.structs.replace(header, letter=number)),
            payload=found.payload,
        )

    async def _destroy(
        self, activation: Activation, envelope: Envelope, ctx: Context, message: control.Destroy
    ) -> TurnRecord:
        """The hook is for the state that goes: what has none any more, or is about to lose it, is not told a second time."""
        stored = await self._open_turns.load(activation)
        before = None if stored is None else ending_of(stored.entries)
        is_told = activation.lifecycle == GONE if stored is None else before is not None and before.destroys
        agent = None if is_told else await self._activate(activation, ctx)
        if agent is not None:
            await agent.on_destroyed(ctx)
        if stored is None:
            ctx.destroy()
            return await self._outcomes.succeed(activation, envelope, ctx, "destroyed")
        activation.instance = None  # its state stays until the turn has ended
        ending = Ending(
            reason=DESTROYED, error="its agent was destroyed while it waited", failures=stored.failures,
            leaves=_leaves(stored, message.leave_done), destroys=True,
        )  # fmt: skip
        return await self._give_up(activation, envelope, ctx, "destroying", stored, ending)

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

    async def _give_up(
        self,
        activation: Activation,
        envelope: Envelope,
        ctx: Context,
        decision: str,
        stored: StoredJournal,
        ending: Ending,
    ) -> TurnRecord:
        """That the open turn is given up goes on record; it ends as a turn of its own that begins once that is committed, so
        whoever has asked for it is told, and its task. What an earlier hand has said holds, but for what is more."""
        before = ending_of(stored.entries)
        if before is not None:
            ending = msgspec.structs.replace(
                before, leaves=ending.leaves or before.leaves, destroys=ending.destroys or before.destroys
            )
        record = await self._outcomes.succeed(activation, envelope, ctx, decision)
        activation.parked = activation.held_turn = (
            True  # nothing of it runs before the commit, which brings it back
        )
        number = stored.entries[-1].number + 1 if stored.entries else 1
        on_record = () if ending == before else (unwind_entry(number, ending),)
        goes_on = JournalWrite(
            seq=stored.seq, turn=stored.turn, does=Does.RESUME, recorded=stored.recorded, entries=on_record
        )
        return msgspec.structs.replace(record, journal=goes_on)

    async def _edit(
        self, activation: Activation, envelope: Envelope, ctx: Context, edit: control.EditTurn
    ) -> TurnRecord:
        """What is recorded stays, and is taken back; what replaces it comes after it."""
        stored = await self._meant(activation, edit.turn)
        entries = () if stored is None else edited(stored.entries, edit.key, edit.value)
        ctx.explain("edit_turn", key=edit.key, value=edit.value, reason=edit.reason, done=bool(entries))
        record = await self._outcomes.succeed(activation, envelope, ctx, "turn_edited", activation.lifecycle)
        if stored is None or not entries:
            return record
        more = JournalWrite(
            seq=stored.seq, turn=stored.turn, does=Does.GO, recorded=stored.recorded, entries=entries,
            verdicts=said_of_call(stored.entries, edit.key, ctx.sender.removeprefix("external/")),
        )  # fmt: skip
        return msgspec.structs.replace(record, journal=more)

    async def _meant(self, activation: Activation, turn: str | None) -> StoredJournal | None:
        """The open turn, unless another one is meant, which has ended meanwhile."""
        stored = await self._open_turns.load(activation)
        return stored if stored is None or turn in (None, stored.turn) else None

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
        is_wake = header.type == UNREADABLE  # what else cannot be read is not put back
        if is_wake:
            header = msgspec.structs.replace(header, type=WAKE, sent_at=self._scope.clock.now())
        return Outgoing(
            domain=self._scope.domain,
            tenant=activation.tenant,
            agent=activation.agent,
            partition=activation.partition,
            header=header,
            header_json=header_to_json(header),
            payload=found.payload,
            control=is_wake,
        )


def _why_not(letter: BuriedMessage, *, force: bool) -> str | None:
    """Why it is not put back: a header that nobody reads would be lost, and its task may have ended since somebody looked."""
    if header_from_json(letter.header_json).type == UNREADABLE:
        return "its header cannot be read" if wake_without_header(letter.payload) is None else None
    if letter.reason == INVALID_EVENT and not msgspec.json.decode(letter.payload, type=BuriedEvent).whole:
        return "not all of what it says could be stored"
    ended = letter.task_ended
    if ended is None or (force and ended not in ("cancelling", "cancelled")):
        return None
    return "its task is no longer on record" if ended == "forgotten" else f"its task is {ended}"


def _named(letter: BuriedMessage | None) -> dict[str, str]:
    """The message that was given up, by which it is found in the history."""
    if letter is None:
        return {}
    header = header_from_json(letter.header_json)
    return {"message": header.id, "type": header.type}


def _leaves(stored: StoredJournal, leave_done: bool) -> bool:
    """Whether the turn ends without its handler. A turn that was put away has all on record that is to be undone; of another
    one only the handler can say whether its last results have to be."""
    if leave_done:
        return True
    may_have_more = not stored.waiting and any(e.ok and e.kind not in (SENT, VOID) for e in stored.entries)
    return not (outstanding(stored.entries) or may_have_more)
