"""What is to be committed of a turn: its record when it ends, or the mark of a failure that is tried again."""

from __future__ import annotations

from hashlib import sha256
from uuid import UUID

import msgspec

from actors.activation import DESTROYED, PAUSED, RUNNING, Activation
from actors.blobs import Blobs
from actors.consequences import Consequences
from actors.context import Context
from actors.failure import EXPIRED, describe, frames_of, places_of, reason_of
from actors.given_up import give_up_calls
from actors.retry import RetryPolicy
from actors.saga import CANCELLED, Ending
from actors.scope import Scope
from actors.spending import spent
from actors.supervision import Directive
from actors.task_messages import TROUBLE
from actors.transition import transition_body
from actors.wake import WAKE
from bus.envelope import Envelope, Outgoing, new_id
from bus.errors import NonDeterministicHandler, PayloadTooLarge
from storage.journal import Does, Flush
from storage.records import DeadLetter, Mark, TurnRecord

HOLD_BACK_S = 1.0  # for newer code; a host that has it waits at most so long for what it takes over
_PLAIN_WORDS = "Postgres has refused its dead letter; the log of its host has the reason"

Outcome = TurnRecord | Mark | Flush


class Outcomes:
    """Each method puts down one way for a turn to end, and moves its activation on past a record."""

    def __init__(self, scope: Scope, blobs: Blobs) -> None:
        self._scope = scope
        self._blobs = blobs

    async def succeed(
        self,
        activation: Activation,
        envelope: Envelope,
        ctx: Context,
        decision: str,
        lifecycle: str = RUNNING,
    ) -> TurnRecord:
        kind = activation.type
        schema_version = kind.cls.schema_version
        state: str | None = None
        puts = ctx.consequences
        if puts.destroys:
            activation.instance, lifecycle = None, DESTROYED
        elif activation.instance is None:  # obeyed without its class: what is stored stays
            state, schema_version = activation.state_json, activation.schema_version
        else:
            state = kind.dump_state(activation.instance.state)
            if len(state) > self._scope.limits.state_bytes:
                raise PayloadTooLarge(
                    f"The state of {activation.agent} has {len(state)} bytes; "
                    f"{self._scope.limits.state_bytes} is the limit.",
                    fix="Keep large things in blobs or in several agents.",
                )
        sends = await self._sends(puts)
        return self._record(activation, envelope, ctx, sends, decision, state, schema_version, lifecycle)

    async def _sends(self, puts: Consequences) -> tuple[Outgoing, ...]:
        """What the turn has sent, once the blobs of that are stored; raises BlobsUnavailable."""
        while (sends := puts.stored_sends()) is None:
            await self._blobs.store(puts.blobs)
        return sends

    async def give_up(
        self, activation: Activation, envelope: Envelope, ctx: Context, ending: Ending
    ) -> TurnRecord:
        """The message becomes a dead letter; what its handler did is dropped, the state stays."""
        reason, error = ending.reason, ending.error
        dead = DeadLetter(reason=reason, error=error, failures=envelope.failures, frames=ending.frames)
        empty = Context(self._scope, envelope, ctx.now)
        empty.explain("dead_letter", reason=reason, error=error, failures=envelope.failures)
        told = empty.answer_failed(reason, error) and not _has_answered(activation, envelope)
        if reason != EXPIRED and envelope.header.type != TROUBLE:
            empty.report_trouble(envelope.header.type, envelope.header.id, reason, error, told=told)
        return await self._given_up(activation, envelope, empty, "dead_letter", ending, dead)

    async def give_up_plainly(
        self, activation: Activation, envelope: Envelope, ctx: Context, ending: Ending
    ) -> TurnRecord:
        """The same for a message whose dead letter was refused: with nothing in it that Postgres has not had before, and no
        word to whoever asked or to its task, since that may be what it refuses."""
        dead = DeadLetter(reason=ending.reason, error=_PLAIN_WORDS, failures=envelope.failures)
        header = msgspec.structs.replace(envelope.header, task=None, id=_id_as_stored(envelope.header.id))
        alone = msgspec.structs.replace(envelope, header=header)
        empty = Context(self._scope, alone, ctx.now)
        empty.explain("dead_letter", reason=ending.reason, error=_PLAIN_WORDS, failures=envelope.failures)
        ctx.logger.error("nobody is told that %s is a dead letter: %s", envelope.header.id, _PLAIN_WORDS)
        record = await self._given_up(activation, alone, empty, "dead_letter", ending, dead)
        return msgspec.structs.replace(record, task=envelope.header.task)  # as its body has it

    async def cancel(
        self, activation: Activation, envelope: Envelope, ctx: Context, ending: Ending
    ) -> TurnRecord:
        """The message's task was cancelled: it is handled no further, and nobody need look after it."""
        empty = Context(self._scope, envelope, ctx.now)
        empty.explain("cancelled", reason=ending.error)
        empty.answer_failed(CANCELLED, ending.error)
        return await self._given_up(activation, envelope, empty, CANCELLED, ending)

    async def _given_up(
        self,
        activation: Activation,
        envelope: Envelope,
        ctx: Context,
        decision: str,
        ending: Ending,
        dead: DeadLetter | None = None,
    ) -> TurnRecord:
        state, lifecycle = activation.state_json, activation.lifecycle
        if ending.destroys:
            state, lifecycle = None, DESTROYED
        sends = await self._sends(ctx.consequences)
        return self._record(
            activation, envelope, ctx, sends, decision, state, activation.schema_version, lifecycle, dead
        )

    def hold_back(self, activation: Activation, envelope: Envelope, error: Exception) -> Mark:
        """The message keeps its place for a host with the domain's newest code; nothing has failed."""
        activation.instance = None  # whatever the handler left in it is not the committed state
        return Mark(
            tenant=activation.tenant, partition=activation.partition, agent=activation.agent, seq=envelope.seq,
            open=envelope.open or activation.has_open_turn, delay_s=HOLD_BACK_S,
            error=f"waits for a host with newer code: {describe(error)}",
        )  # fmt: skip

    def fail(
        self, activation: Activation, envelope: Envelope, ctx: Context, error: Exception, policy: RetryPolicy
    ) -> Outcome | Ending:
        """A mark when the message is tried again, an Ending when it is given up."""
        activation.instance = None  # whatever the handler left in it is not the committed state
        failures = envelope.failures + 1
        text = describe(error)
        directive = activation.type.cls.supervision.decide(error, failures, policy)
        if isinstance(
            error, NonDeterministicHandler
        ):  # no further try by itself would mend it, and nothing is lost
            directive = Directive.PAUSE
        if directive is Directive.PAUSE and envelope.is_control:  # a pause holds no control message up
            directive = Directive.DEAD_LETTER
        if directive is Directive.PAUSE:
            return self.pause(activation, envelope, ctx, error)
        ctx.logger.warning(
            "%s: %s failed (%d): %s%s",
            activation.agent,
            envelope.header.type,
            failures,
            text,
            frames_of(error),
        )
        if directive is Directive.DEAD_LETTER:
            return Ending(
                reason=reason_of(error),
                error=text,
                failures=failures,
                frames=places_of(error, self._scope.folder),
            )
        return self._mark_failed(activation, envelope, text, policy.delay_s(failures, self._scope.rng))

    def pause(self, activation: Activation, envelope: Envelope, ctx: Context, error: Exception) -> TurnRecord:
        """The agent is paused; its message keeps its place."""
        text = describe(error)
        ctx.logger.warning(
            "%s is paused: %s failed: %s%s", activation.agent, envelope.header.type, text, frames_of(error)
        )
        failures = envelope.failures + 1
        empty = Context(self._scope, msgspec.structs.replace(envelope, failures=failures), ctx.now)
        both_keys = error.fields if isinstance(error, NonDeterministicHandler) else {}
        empty.explain("pause", reason=text, failures=failures, **both_keys)
        return self._record(
            activation,
            envelope,
            empty,
            (),
            "paused",
            activation.state_json,
            activation.schema_version,
            PAUSED,
            mark=self._mark_failed(activation, envelope, text, None),
        )

    def _mark_failed(
        self, activation: Activation, envelope: Envelope, error: str, delay_s: float | None
    ) -> Mark:
        return Mark(
            tenant=activation.tenant, partition=activation.partition, agent=activation.agent, seq=envelope.seq,
            failed=1, error=error, open=envelope.open or activation.has_open_turn, delay_s=delay_s,
        )  # fmt: skip

    def _record(
        self,
        activation: Activation,
        envelope: Envelope,
        ctx: Context,
        sends: tuple[Outgoing, ...],
        decision: str,
        state: str | None,
        schema_version: int,
        lifecycle: str,
        dead: DeadLetter | None = None,
        mark: Mark | None = None,
    ) -> TurnRecord:
        journal = None
        # A pause may come before anything of the journal is on record.
        live = activation.journal if mark is None or activation.has_open_turn else None
        at = self._scope.clock.now() if live is not None else ctx.now
        if activation.journal is not None and mark is None:
            give_up_calls(activation.journal, "")
            journal = activation.journal.end(at)
        in_mailbox = journal is None or journal.does is not Does.END
        if not in_mailbox:
            activation.ended = envelope.seq
        version = activation.version + 1
        puts = ctx.consequences
        body = transition_body(
            version, at, envelope, decision, activation.state_json, state, lifecycle, puts.notes, sends, live,
        )  # fmt: skip
        record = TurnRecord(
            tenant=activation.tenant,
            agent=activation.agent,
            partition=activation.partition,
            seq=envelope.seq if mark is None and in_mailbox else None,
            version=version,
            schema_version=schema_version,
            lifecycle=lifecycle,
            state=state,
            body=body,
            prev=activation.hash,
            hash=sha256(activation.hash + body.encode()).digest(),
            sends=sends,
            dead=dead,
            mark=mark,
            message_id=envelope.header.id,
            header_json=envelope.header_json,
            payload=envelope.payload,
            undead=puts.undead,
            accepts=puts.accepts,
            tasks=puts.tasks,
            task_events=puts.task_events,
            cancels=puts.cancels,
            new_tasks=puts.new_tasks,
            pauses=puts.pauses,
            journal=journal,
            task=envelope.header.task,
            spent=None
            if envelope.header.task is None
            else spent(self._scope, envelope.tenant, envelope.header, sends, journal),
        )
        if puts.undead:
            activation.undead.update(puts.undead)
        activation.version = version
        activation.hash = record.hash
        activation.state_json = state
        activation.schema_version = schema_version
        activation.lifecycle = lifecycle
        return record


def _has_answered(activation: Activation, envelope: Envelope) -> bool:
    """Whether an answer to whoever asked went out while the turn waited: the first one counts."""
    sent = () if activation.journal is None else activation.journal.entries.sent
    return any((each.type, each.to) == (WAKE, envelope.header.sender) for each in sent)


def _id_as_stored(message: str) -> str:
    """A message's id, or another one for what is none."""
    try:
        return str(UUID(message))
    except ValueError:
        return new_id()
