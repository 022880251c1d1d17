"""One turn: handle one message by one agent, and put down what is to be committed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from functools import partial
from hashlib import sha256
from typing import Any, Protocol

import msgspec
from pydantic import BaseModel

from actors import control
from actors.activation import DESTROYED, PAUSED, RUNNING, Activation
from actors.agent import Agent, Handler
from actors.context import Context
from actors.journal import Journal, TurnGone
from actors.retry import RetryPolicy
from actors.scope import Scope
from actors.supervision import Directive
from actors.task_messages import TROUBLE, TaskWork
from actors.threads import in_thread
from bus import faultpoints
from bus.envelope import Envelope, Outgoing, header_from_json, header_to_json
from bus.errors import (
    CallboardError,
    InvalidMessage,
    InvalidPayload,
    NoHandler,
    NonDeterministicHandler,
    PayloadTooLarge,
    StorageUnavailable,
    UnknownKind,
)
from bus.registry import decode_payload, first_line, refuse_nul
from storage.journal import Does, Flush, JournalWrite, StoredJournal
from storage.records import DeadLetter, Mark, TurnRecord

FULL_STATE_BYTES = 4096  # a larger state stands in the history as its changed fields...
FULL_STATE_EVERY = 64  # ...except every so many versions, so that replay is short

HOLD_BACK_S = 1.0  # for newer code; a host that has it waits at most so long for what it takes over

Outcome = TurnRecord | Mark | Flush


class TurnHost(Protocol):
    """What a turn that waits needs of its host."""

    def flush(self, activation: Activation, envelope: Envelope, flush: Flush) -> asyncio.Future[bool]:
        """Hand it to the group commit; true once it has committed, false when it was discarded."""
        ...

    def waits(self, activation: Activation) -> None:
        """Every branch of the handler waits for a promise."""
        ...

    def runs(self, activation: Activation) -> None:
        """The handler goes on."""
        ...


class BlobStore(Protocol):
    async def put_blob(self, domain: str, tenant: str, digest: str, data: bytes) -> None: ...

    async def get_blob(self, domain: str, tenant: str, digest: str) -> bytes: ...


class BlobsUnavailable(BaseException):
    """A blob cannot be read or written now: the turn runs again later, which counts as no failure.

    A type of its own, since a handler may raise StorageUnavailable for a storage of its own; and never an author's
    to catch. `journaled` tells whether the turn has a journal to run again from.
    """

    journaled = False


class TurnTimeout(CallboardError):
    """A turn has run longer than its domain allows."""

    fix = "Split the work, or raise `limits.turn_s` in domain.yaml."


class DeadLetterReader(Protocol):
    async def read_dead_letter(
        self, domain: str, tenant: str, agent: str, number: int
    ) -> tuple[str, str] | None:
        """Header and payload JSON of a dead letter."""
        ...


class TurnStorage(BlobStore, DeadLetterReader, Protocol):
    """What a turn may need of storage before it commits."""

    async def load_journal(self, domain: str, tenant: str, agent: str) -> StoredJournal | None: ...


class TurnRunner:
    """Runs turns. It never raises for what a handler does: a failure is an outcome."""

    def __init__(self, scope: Scope, storage: TurnStorage, host: TurnHost) -> None:
        self._scope = scope
        self._storage = storage
        self._host = host
        self.condemned: dict[int, str] = {}  # messages whose turns Postgres has refused, with its words

    async def reopen(self, activation: Activation, wake: Envelope) -> Envelope | None:
        """Prepare the turn that a wake-up is for, and return its message; None when no turn waits any more."""
        faultpoints.reached("wake.before")
        stored = await self._load(activation)
        if stored is None or stored.seq == activation.ended:  # whose end may be on its way to Postgres
            return None
        payload = wake.payload
        if wake.header.blob is not None:
            payload = await self.fetch_blob(activation.tenant, wake.header.blob)
        envelope = Envelope(
            seq=stored.seq, tenant=activation.tenant, agent=activation.agent,
            header=header_from_json(stored.header_json), header_json=stored.header_json, payload=stored.payload,
            failures=stored.failures, trials=max(stored.trials, wake.trials), open=True,
        )  # fmt: skip
        activation.journal = self._journal(activation, envelope, stored.began_at, stored)
        activation.journal.settle(wake.seq, payload, wake.header.blob)
        return envelope

    async def run(self, activation: Activation, envelope: Envelope) -> Outcome | None:
        """Handle the message; return the turn to commit, or the mark of a failure that is tried again.

        None when the turn has been put away, or is over for this host. Raises BlobsUnavailable.
        """
        if envelope.open and activation.journal is None:
            stored = await self._load(activation)
            if stored is None or stored.seq != envelope.seq:  # it has ended meanwhile
                return None
            activation.journal = self._journal(activation, envelope, stored.began_at, stored)
        scope = self._scope
        journal = activation.journal
        header = envelope.header
        ctx = Context(
            scope, envelope, scope.clock.now() if journal is None else journal.now, self, activation
        )
        policy = activation.type.cls.retry
        try:
            if journal is None and header.deadline is not None and header.deadline <= ctx.now:
                return self._give_up(
                    activation, envelope, ctx, "expired", "its deadline passed before its turn"
                )
            if envelope.trials > scope.limits.crash_trials:
                return self._give_up(
                    activation,
                    envelope,
                    ctx,
                    "crash_loop",
                    f"its host died {envelope.trials} times while it ran",
                )
            if envelope.seq in self.condemned:
                return self._give_up(activation, envelope, ctx, "refused", self.condemned.pop(envelope.seq))
            if envelope.is_control:
                return await self._control(activation, envelope, ctx)
            handler = activation.type.handlers.get(header.type)
            if handler is None:  # no further try would find one
                unhandled = self._why_unhandled(activation, header.type)
                if await scope.is_outdated():
                    return self._hold_back(activation, envelope, unhandled)
                return self._give_up(activation, envelope, ctx, _reason_of(unhandled), _describe(unhandled))
            policy = handler.retry
            payload = envelope.payload
            if header.blob is not None:
                payload = await self.fetch_blob(envelope.tenant, header.blob)
            try:
                message = decode_payload(header.type, payload)
            except InvalidMessage as unreadable:
                if await scope.is_outdated():
                    return self._hold_back(activation, envelope, unreadable)
                raise
            agent = activation.instance or await self._activate(activation)
            if activation.state_json is None:
                await agent.on_created(ctx)
            answer = await self._call(agent, handler, message, ctx)
            if header.reply_to is not None:
                ctx.answer(answer)
            if message.__class__ is TaskWork and not _is_open(activation):
                ctx.report_started()
            if ctx._destroyed:
                await agent.on_destroyed(ctx)
            if activation.journal is not None:
                await activation.journal.settled()
                activation.journal.check_complete()
            return await self._succeed(activation, envelope, ctx, "handled")
        except TurnGone:
            activation.instance = None
            return None
        except BlobsUnavailable as away:
            activation.instance = None
            away.journaled = _is_open(activation)
            raise
        except GeneratorExit:
            activation.instance = None
            raise
        except asyncio.CancelledError:
            if activation.parking:
                activation.instance = None
                return None
            if activation.overdue:
                error: Exception = TurnTimeout(f"The turn has run longer than {scope.limits.turn_s:g} s.")
            elif _is_cancelled():
                raise
            else:
                error = RuntimeError("something that the handler waited for was cancelled")
            return await self._failed(activation, envelope, ctx, error, policy)
        except Exception as error:  # whatever a handler raises is its failure, never ours
            return await self._failed(activation, envelope, ctx, error, policy)
        except BaseException as error:  # sys.exit(), the panic of a library written in Rust
            broken = RuntimeError(f"{type(error).__name__}: {first_line(error)}")
            return await self._failed(activation, envelope, ctx, broken, policy)
        finally:
            ctx.close()
            if activation.journal is not None:
                activation.journal.close()
                activation.journal = None

    def _why_unhandled(self, activation: Activation, wire_name: str) -> NoHandler | UnknownKind:
        name = activation.agent.partition("/")[0]
        if name not in self._scope.kinds:
            return UnknownKind(f"The domain {self._scope.domain!r} has no agent kind {name!r}.")
        return NoHandler(f"{activation.type.cls.__qualname__} has no handler for {wire_name}.")

    async def _activate(self, activation: Activation) -> Agent:
        agent = activation.make_instance()
        if activation.type.has_activated_hook:
            await agent.on_activated()
        return agent

    async def _call(self, agent: Agent, handler: Handler, message: BaseModel, ctx: Context) -> Any:
        function: Callable[..., Any] = getattr(agent, handler.method)
        if handler.is_async:
            coroutine: Coroutine[Any, Any, Any] = function(message, ctx)
            return await coroutine
        return await in_thread(function, message, ctx)

    # -- the journal ---------------------------------------------------------------------------------

    def begin_journal(self, ctx: Context, activation: Activation, envelope: Envelope) -> Journal:
        """The handler records something for the first time; raises InvalidMessage where it may not."""
        if envelope.is_control:
            raise InvalidMessage(
                "A control message's turn cannot wait.", fix="Send the agent a message instead."
            )
        activation.journal = self._journal(activation, envelope, ctx.now)
        return activation.journal

    async def store_blobs(self, ctx: Context) -> None:
        """Store what the turn has checked in; raises BlobsUnavailable.

        A blob leaves the list once it is stored: whichever branch flushes what refers to it stores it first.
        """
        blobs = ctx._blobs
        try:
            while blobs:
                tenant, digest, data = blob = blobs[0]
                await self._storage.put_blob(self._scope.domain, tenant, digest, data)
                if blobs and blobs[0] is blob:
                    del blobs[0]
        except StorageUnavailable as error:
            raise BlobsUnavailable(error.message) from error

    async def fetch_blob(self, tenant: str, digest: str) -> str:
        """The text of a blob; raises BlobsUnavailable, or InvalidPayload when there is none."""
        try:
            return (await self._storage.get_blob(self._scope.domain, tenant, digest)).decode()
        except StorageUnavailable as error:
            raise BlobsUnavailable(error.message) from error

    async def _load(self, activation: Activation) -> StoredJournal | None:
        try:
            return await self._storage.load_journal(self._scope.domain, activation.tenant, activation.agent)
        except StorageUnavailable as error:
            raise BlobsUnavailable(error.message) from error

    def _journal(
        self,
        activation: Activation,
        envelope: Envelope,
        now: float,
        stored: StoredJournal | None = None,
    ) -> Journal:
        def flush(write: JournalWrite, sends: tuple[Outgoing, ...]) -> asyncio.Future[bool]:
            part = Flush(
                tenant=activation.tenant, partition=activation.partition, agent=activation.agent, journal=write,
                sends=sends,
            )  # fmt: skip
            return self._host.flush(activation, envelope, part)

        journal = Journal(
            envelope, now, flush, partial(self.fetch_blob, activation.tenant), stored, activation.task
        )
        journal.on_waiting = partial(self._host.waits, activation)
        journal.on_running = partial(self._host.runs, activation)
        return journal

    async def _failed(
        self, activation: Activation, envelope: Envelope, ctx: Context, error: Exception, policy: RetryPolicy
    ) -> Outcome | None:
        """A failure of a turn with a journal: what failed for good in it is tried again when the turn is."""
        if isinstance(error, NonDeterministicHandler) and await self._scope.is_outdated():
            return self._hold_back(activation, envelope, error)
        journal = activation.journal
        if journal is not None:
            try:
                await journal.settled()
                journal.take_back(error)
                if journal.is_open and journal.is_dirty:
                    await self.store_blobs(ctx)  # of a branch that was ended while it stored one
                await journal.write_down()
            except TurnGone:
                activation.instance = None
                return None
        return self._fail(activation, envelope, ctx, error, policy)

    # -- outcomes ------------------------------------------------------------------------------------

    async def _succeed(
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
        if ctx._destroyed:
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
            refuse_nul(state)
        await self.store_blobs(ctx)
        return self._record(activation, envelope, ctx, decision, state, schema_version, lifecycle)

    def _give_up(
        self, activation: Activation, envelope: Envelope, ctx: Context, reason: str, error: str
    ) -> TurnRecord:
        """The message becomes a dead letter; what its handler did is dropped, the state stays."""
        dead = DeadLetter(reason=reason, error=error, failures=envelope.failures)
        empty = Context(self._scope, envelope, ctx.now)
        empty.explain("dead_letter", reason=reason, error=error, failures=envelope.failures)
        empty.answer_failed(reason, error)
        if reason != "expired" and envelope.header.type != TROUBLE:
            empty.report_trouble(envelope.header.type, envelope.header.id, reason, error)
        return self._record(
            activation, envelope, empty, "dead_letter", activation.state_json, activation.schema_version,
            activation.lifecycle, dead,
        )  # fmt: skip

    def _hold_back(self, activation: Activation, envelope: Envelope, error: Exception) -> Mark:
        """The message keeps its place for a host with the domain's newest code; nothing has failed."""
        return Mark(
            tenant=activation.tenant, partition=activation.partition, agent=activation.agent, seq=envelope.seq,
            open=envelope.open or _is_open(activation), delay_s=HOLD_BACK_S,
            error=f"waits for a host with newer code: {_describe(error)}",
        )  # fmt: skip

    def _fail(
        self, activation: Activation, envelope: Envelope, ctx: Context, error: Exception, policy: RetryPolicy
    ) -> Outcome:
        activation.instance = None  # whatever the handler left in it is not the committed state
        failures = envelope.failures + 1
        text = _describe(error)
        envelope = msgspec.structs.replace(envelope, failures=failures)
        directive = activation.type.cls.supervision.decide(error, failures, policy)
        if isinstance(
            error, NonDeterministicHandler
        ):  # no further try by itself would mend it, and nothing is lost
            directive = Directive.PAUSE
        if directive is Directive.PAUSE and envelope.is_control:  # a pause holds no control message up
            directive = Directive.DEAD_LETTER
        if directive is Directive.DEAD_LETTER:
            return self._give_up(activation, envelope, ctx, _reason_of(error), text)
        ctx.logger.warning("%s failed (%d): %s", envelope.header.type, failures, text)
        mark = Mark(
            tenant=activation.tenant, partition=activation.partition, agent=activation.agent, seq=envelope.seq,
            failed=1, error=text, open=_is_open(activation),
        )  # fmt: skip
        if directive is Directive.RETRY:
            return msgspec.structs.replace(mark, delay_s=policy.delay_s(failures, self._scope.rng))
        empty = Context(self._scope, envelope, ctx.now)
        both_keys = error.fields if isinstance(error, NonDeterministicHandler) else {}
        empty.explain("pause", reason=text, failures=failures, **both_keys)
        return self._record(
            activation,
            envelope,
            empty,
            "paused",
            activation.state_json,
            activation.schema_version,
            PAUSED,
            mark=mark,
        )

    def _record(
        self,
        activation: Activation,
        envelope: Envelope,
        ctx: Context,
        decision: str,
        state: str | None,
        schema_version: int,
        lifecycle: str,
        dead: DeadLetter | None = None,
        mark: Mark | None = None,
    ) -> TurnRecord:
        journal = None
        if activation.journal is not None and mark is None:
            journal = activation.journal.end()
        in_mailbox = journal is None or journal.does is not Does.END
        if not in_mailbox:
            activation.ended = envelope.seq
        version = activation.version + 1
        body = transition_body(
            version, ctx, envelope, decision, activation.state_json, state, lifecycle, activation.journal,
            self._scope.clock.now() if activation.journal is not None else ctx.now,
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
            sends=tuple(ctx._sends),
            dead=dead,
            mark=mark,
            message_id=envelope.header.id,
            header_json=envelope.header_json,
            payload=envelope.payload,
            undead=tuple(ctx._undead),
            tasks=tuple(ctx._tasks),
            task_events=tuple(ctx._task_events),
            journal=journal,
        )
        activation.undead.update(ctx._undead)
        activation.version = version
        activation.hash = record.hash
        activation.state_json = state
        activation.schema_version = schema_version
        activation.lifecycle = lifecycle
        return record

    # -- control messages ----------------------------------------------------------------------------

    async def _control(self, activation: Activation, envelope: Envelope, ctx: Context) -> TurnRecord:
        message = decode_payload(envelope.header.type, envelope.payload)
        agent = await self._activate_for_control(activation, ctx)
        match message:
            case control.Pause():
                ctx.explain("pause", reason=message.reason)
                if agent is not None:
                    await agent.on_paused(ctx)
                return await self._succeed(activation, envelope, ctx, "paused", PAUSED)
            case control.Resume():
                activation.more = True  # what came while it was paused is on disk
                if agent is not None:
                    await agent.on_resumed(ctx)
                return await self._succeed(activation, envelope, ctx, "resumed")
            case control.Destroy():
                if agent is not None:
                    await agent.on_destroyed(ctx)
                ctx.destroy()
                record = await self._succeed(activation, envelope, ctx, "destroyed")
                return await self._end_open_turn(activation, record)
            case control.RetryDeadLetter():
                found = await self._find_dead(activation, message.id)
                if found is not None:
                    ctx._undead.append(message.id)
                    ctx._sends.append(self._again(activation, *found))
                    ctx.report_mended(header_from_json(found[0]), "retried")
                ctx.explain("retry_dead_letter", id=message.id, found=found is not None)
                return await self._succeed(
                    activation, envelope, ctx, "dead_letter_retried", activation.lifecycle
                )
            case control.DropDeadLetter():
                found = await self._find_dead(activation, message.id)
                if found is not None:
                    ctx._undead.append(message.id)
                    ctx.report_mended(header_from_json(found[0]), "dropped", message.reason)
                ctx.explain("drop_dead_letter", id=message.id, reason=message.reason, found=found is not None)
                return await self._succeed(
                    activation, envelope, ctx, "dead_letter_dropped", activation.lifecycle
                )
            case _:
                raise NoHandler(f"{envelope.header.type} is not a control message.")

    async def _end_open_turn(self, activation: Activation, record: TurnRecord) -> TurnRecord:
        """With its agent, a turn that waits is gone: its message becomes a dead letter."""
        stored = await self._load(activation)
        if stored is None:
            return record
        activation.parked = activation.lacks_turn = False
        activation.more = True
        ends = JournalWrite(
            seq=stored.seq, turn=stored.turn, does=Does.END, done=tuple(p.id for p in stored.promises)
        )
        dead = DeadLetter(
            reason="destroyed", error="its agent was destroyed while it waited", failures=stored.failures
        )
        return msgspec.structs.replace(
            record, journal=ends, dead=dead, message_id=header_from_json(stored.header_json).id,
            header_json=stored.header_json, payload=stored.payload,
        )  # fmt: skip

    async def _activate_for_control(self, activation: Activation, ctx: Context) -> Agent | None:
        """The agent, or None when its kind is gone or its stored state does not fit its class: it obeys all the same,
        without hooks."""
        if activation.agent.partition("/")[0] not in self._scope.kinds:
            return None
        try:
            agent = activation.instance or await self._activate(activation)
        except InvalidPayload as error:
            ctx.explain("state_does_not_fit", error=error.message)
            return None
        if activation.state_json is None:
            await agent.on_created(ctx)
        return agent

    async def _find_dead(self, activation: Activation, number: int) -> tuple[str, str] | None:
        """Header and payload of a dead letter, unless a turn that is about to commit has taken it back."""
        if number in activation.undead:
            return None
        return await self._storage.read_dead_letter(
            self._scope.domain, activation.tenant, activation.agent, number
        )

    def _again(self, activation: Activation, header_json: str, payload: str) -> Outgoing:
        header = msgspec.structs.replace(header_from_json(header_json), deadline=None)
        return Outgoing(
            domain=self._scope.domain,
            tenant=activation.tenant,
            agent=activation.agent,
            partition=activation.partition,
            header=header,
            header_json=header_to_json(header),
            payload=payload,
        )


def transition_body(
    version: int,
    ctx: Context,
    envelope: Envelope,
    decision: str,
    old_state: str | None,
    state: str | None,
    lifecycle: str,
    journal: Journal | None = None,
    at: float | None = None,
) -> str:
    """The canonical text of a transition: one JSON object, its keys in this order, no spaces."""
    sends = ",".join(
        f'{{"id":"{s.header.id}","to":{_quote(s.domain + "/" + s.agent)},"type":"{s.header.type}"}}'
        for s in ctx._sends
    )
    calls = ""
    if journal is not None:
        sends = ",".join(filter(None, (journal.sent_body(), sends)))
        calls = f'"turn":"{journal.turn}","calls":[{journal.calls_body()}],'
    return (
        f'{{"version":{version},"at":{ctx.now if at is None else at:.6f},"decision":"{decision}","lifecycle":"{lifecycle}",'
        f'"message":{{"header":{envelope.header_json},"payload":{envelope.payload}}},'
        f'"notes":[{",".join(ctx._notes)}],{calls}"sends":[{sends}],{_state_part(version, old_state, state)}}}'
    )


def _state_part(version: int, old: str | None, new: str | None) -> str:
    digest = sha256(new.encode()).hexdigest() if new is not None else ""
    if new == old:
        return f'"state_hash":"{digest}"'
    if new is None:
        return '"state_hash":"","state":null'
    if old is None or len(new) <= FULL_STATE_BYTES or version % FULL_STATE_EVERY == 0:
        return f'"state_hash":"{digest}","state":{new}'
    before, after = json.loads(old), json.loads(new)
    delta = {
        "set": {name: value for name, value in after.items() if name not in before or before[name] != value},
        "drop": [name for name in before if name not in after],
    }
    text = json.dumps(delta, separators=(",", ":"), ensure_ascii=False)
    return f'"state_hash":"{digest}","delta":{text}'


_quote = json.JSONEncoder(ensure_ascii=False).encode


def _is_open(activation: Activation) -> bool:
    return activation.journal is not None and activation.journal.is_open


def _is_cancelled() -> bool:
    """Whether it is this task that was cancelled: its host has ended."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _describe(error: Exception) -> str:
    """One line that Postgres can store, whatever the author's error says: no NUL, no lone surrogates."""
    text = f"{type(error).__name__}: {first_line(error)}"
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")


def _reason_of(error: Exception) -> str:
    if isinstance(error, NoHandler):
        return "no_handler"
    if isinstance(error, UnknownKind):
        return "unknown_kind"
    if isinstance(error, InvalidPayload):
        return "invalid_payload"
    if isinstance(error, InvalidMessage):
        return "invalid_message"
    return "failed"
