"""What a handler is given besides its message.

It has over 400 lines: what leaves a turn passes one set of checks, which share its envelope and its journal.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import BaseModel

from actors.arguments import is_time
from actors.awaited import Begun
from actors.calls import DurableCalls
from actors.charges import Charges
from actors.child_tasks import ChildTasks
from actors.consequences import Consequences, apart
from actors.inquiry import intended
from actors.journal import Journal
from actors.ledger import EarlierCalls, Ledger
from actors.model_calls import ModelCalls
from actors.promise_ref import promise_ref, split_ref
from actors.task_messages import SUBMIT, TASK_WORK, CancelChild, SubmitTask, TaskOutcome
from actors.task_reports import TaskReports
from actors.values import Error, encode_answer
from actors.wake import WAKE, wake_json
from bus.address import Address, parse_address
from bus.envelope import Envelope, Header, Priority
from bus.errors import CallboardError, DeadlineExceeded, InvalidMessage
from bus.moment import require_moment
from bus.registry import encode_json, encode_payload, wire_name_of
from bus.task_ref import given_task_ref
from storage.ledger import EarlierCall

if TYPE_CHECKING:
    from actors.activation import Activation
    from actors.scope import Scope
    from actors.turn_keeper import TurnKeeper
    from storage.standing import Standing

_logger = logging.getLogger("callboard.agent")


class Context(TaskReports, ChildTasks, DurableCalls, ModelCalls, Charges):
    """One turn's window on the world. What a handler sends is sent when its turn commits, or before it waits."""

    __slots__ = (
        "_activation",
        "_address",
        "_begun",
        "_closed",
        "_decisions",
        "_earlier",
        "_envelope",
        "_keep",
        "_puts",
        "_replied",
        "_scope",
        "now",
    )  # fmt: skip

    def __init__(
        self,
        scope: Scope,
        envelope: Envelope,
        now: float,
        keeper: TurnKeeper | None = None,
        activation: Activation | None = None,
    ) -> None:
        self._scope = scope
        self._envelope = envelope
        self._address: Address | None = None
        self._keep = keeper
        self._activation = activation
        self._puts = Consequences(scope, envelope, now, None if activation is None else activation.journal)
        self._closed = False
        self._replied = False
        self._decisions = []
        self._earlier: EarlierCalls | None = None
        self._begun: Begun = []
        """Calls that have to be awaited."""
        self.now = now
        """Database time at the turn's start, seconds since 1970, UTC."""

    @property
    def address(self) -> Address:
        """The agent's own address."""
        if self._address is None:
            kind, _, key = self._envelope.agent.partition("/")
            self._address = Address(self._scope.domain, kind, key)
        return self._address

    @property
    def tenant(self) -> str:
        return self._envelope.tenant

    @property
    def header(self) -> Header:
        """The header of the message being handled."""
        return self._envelope.header

    @property
    def sender(self) -> str:
        """Who sent the message: an agent's address, or `external/...`."""
        return self._envelope.header.sender

    @property
    def task(self) -> str | None:
        """The task that this message is part of, as `domain/id`; every report takes it as its `task`."""
        return self._envelope.header.task

    @property
    def deadline(self) -> float | None:
        """When the work must be done, seconds since 1970, UTC."""
        return self._envelope.header.deadline

    @property
    def failures(self) -> int:
        """How often this message has failed before."""
        return self._envelope.failures

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that names the agent and the message."""
        extra = {"agent": str(self.address), "message_id": self.header.id}
        return logging.LoggerAdapter(_logger, extra)

    def send(
        self,
        address: str | Address,
        message: BaseModel,
        *,
        priority: Priority | None = None,
        deadline: float | None = None,
        task: str | None = None,
        shared: bool = False,
    ) -> str:
        """Send a message when this turn commits; return its id.

        Priority, deadline, task and correlation are handed on from the message being handled. A deadline of `math.inf`
        is none. An agent that works for several tasks at once says which `task` the message is part of, as its reports
        do. `shared` work is for other tasks, too: it stays part of this one, but neither its end, nor a pause, nor a limit
        of it stops the message, nor what follows from that until a task is named.
        Raises InvalidAddress, UnknownDomain, UnknownKind, InvalidPayload, PayloadTooLarge, HopLimitExceeded.
        """
        if deadline is None:
            deadline = self.deadline
        elif deadline == math.inf:
            deadline = None
        return self._send(address, message, priority, deadline, None, task=task, shared=shared)

    def send_later(
        self,
        address: str | Address,
        message: BaseModel,
        *,
        delay_s: float | None = None,
        at: float | None = None,
        priority: Priority | None = None,
    ) -> str:
        """Send a message at a time (seconds since 1970, UTC) or after a delay, by database time; durable."""
        if (delay_s is None) == (at is None):
            raise InvalidMessage("send_later takes either delay_s or at.", fix="Give exactly one of them.")
        due = at if at is not None else self._puts.clock_now() + (delay_s or 0.0)
        return self._send(address, message, priority, self.deadline, require_moment(due))

    def reply(self, message: BaseModel) -> str:
        """Answer whoever sent the message being handled; raises InvalidMessage if that was no agent.

        The first answer to an ask counts; a handler that returns a value has answered with it.
        """
        if self._asked is not None:
            self._replied = True
            return self.resolve(self._asked, message)
        if self.sender.startswith("external/"):
            raise InvalidMessage(
                f"{self.sender} is no agent and cannot be replied to.",
                fix="Send the result to an agent or a task.",
            )
        return self._send(self.sender, message, None, self.deadline, None)

    def reply_later(self) -> str:
        """Leave the ask being handled open; return the ref with which `resolve` answers it in another turn.

        Raises InvalidMessage when the message being handled is no ask.
        """
        if self._asked is None:
            raise InvalidMessage(
                "The message being handled is no ask.", fix="Only an ask waits for an answer."
            )
        self._replied = True
        return self._asked

    def resolve(self, ref: str, value: Any) -> str:
        """Resolve a promise when this turn commits, with a message or any JSON value; the first to do so counts.

        Returns the id of the wake-up; raises InvalidAddress for what is no ref, InvalidPayload, PayloadTooLarge.
        """
        return self._settle(ref, "resolved", encode_answer(value))

    @property
    def _asked(self) -> str | None:
        """Where the asker waits for its answer, if the message is an ask."""
        asked = self.header.reply_to
        return None if asked is None else promise_ref(self.sender, asked)

    @property
    def consequences(self) -> Consequences:
        """For the turn loop, and for the agents that lead tasks: what the handler has done so far."""
        return self._puts

    def answer(self, value: Any) -> None:
        """For the turn loop: the handler has returned this. An ask that it has not answered is answered with it."""
        if self._asked is not None and not self._replied:
            self.resolve(self._asked, value)

    def answer_failed(self, reason: str, error: str) -> bool:
        """For the turn loop: the message was given up. Whether anybody is told so, who has asked; never raises."""
        if self._asked is not None:
            with contextlib.suppress(CallboardError):
                value = msgspec.json.encode(Error(type=reason, message=error)).decode()
                self._settle(self._asked, "failed", value)
                return True
        return False

    def _settle(self, ref: str, status: str, value: str, digest: str | None = None) -> str:
        self._must_be_open()
        to, promise = split_ref(ref)
        place, sent = self._puts.replayed(f"{to}", WAKE)
        if sent is not None:
            return sent
        wake = partial(wake_json, promise, status, str(self.address), self._scope.clock.now(), digest=digest)
        payload, blob = wake(value=value), None
        if digest is None and self._puts.is_large(payload):  # the status stays where Postgres sees it
            payload, blob = wake(value="null"), self._puts.check_in(payload, to.domain)[1]
        rank = self._envelope.header.priority
        return self._puts.post(to, WAKE, payload, place, rank, None, None, settles=promise, blob=blob)

    def publish(self, topic: str, message: BaseModel) -> int:
        """Send to every agent subscribed to a topic in domain.yaml; return how many."""
        targets = self._scope.subscribers(topic)
        for target in targets:
            self._send(f"{self._scope.domain}/{target}", message, None, self.deadline, None)
        return len(targets)

    def explain(self, decision: str, **facts: Any) -> None:
        """Write a decision and the facts behind it (JSON values) into the history; raises InvalidPayload."""
        self._must_be_open()
        note = encode_json({"decision": decision, **facts})
        self._puts.note(note)

    def destroy(self) -> None:
        """Delete this agent's state when the turn commits; its history stays."""
        self._must_be_open()
        self._puts.destroys = True

    def close(self) -> None:
        """The turn has ended: what is asked of it from now on, by a task left behind, can no longer happen."""
        self._closed = True

    def _send_report(self, to: Address, message: BaseModel) -> None:
        self._send(to, message, None, None, None)

    def _send_child(self, leader: Address, order: SubmitTask) -> str:
        return self._send(leader, order, None, None, None)

    async def _ask_leader(
        self, leader: Address, order: SubmitTask, name: str, key: str | None
    ) -> tuple[str, TaskOutcome]:
        return await self._ask(leader, order, name, self.deadline, None, key, None, for_child=True)

    def _send(
        self,
        address: str | Address,
        message: BaseModel,
        priority: Priority | None,
        deadline: float | None,
        due: float | None,
        reply_to: str | None = None,
        task: str | None = None,
        shared: bool = False,
    ) -> str:
        if self._closed:
            self._must_be_open()
        to = parse_address(str(address))  # an Address may have been made by hand
        wire_name = wire_name_of(type(message))
        place = ""
        if self._puts.journal is not None:
            place, sent = self._puts.replayed(str(to), wire_name)
            if sent is not None:
                return sent
        if deadline is not None and deadline <= self._puts.clock_now() and not self._is_ending:
            raise DeadlineExceeded(
                "The deadline of a message to be sent has passed.", fix="Give a later one.", deadline=deadline
            )
        rank = self._envelope.header.priority if priority is None else int(priority)
        if task is not None:
            task = given_task_ref(task, self.address.domain)
        return self._puts.post(
            to, wire_name, encode_payload(message), place, rank, deadline, due, reply_to=reply_to, task=task, shared=shared
        )  # fmt: skip

    # -- the journal ---------------------------------------------------------------------------------

    @property
    def _is_ending(self) -> bool:
        return self._puts.journal is not None and self._puts.journal.branches.is_ending

    @contextlib.contextmanager
    def _apart(self, place: str) -> Iterator[None]:
        """What is sent within takes nobody's place, since a handler that runs again does not come by here."""
        before = apart.set(f">{place}")
        try:
            yield
        finally:
            apart.reset(before)

    def _journal(self) -> Journal:
        journal = self._puts.journal
        if journal is None:
            self._must_be_open()
            if self._keep is None or self._activation is None:
                raise InvalidMessage("Nothing can be recorded or waited for here.", fix="Do it in a handler.")
            journal = self._keep.begin_journal(self, self._activation, self._envelope)
            self._puts.begin(journal)
        return journal

    async def _flush(self, *, begins: bool = False) -> None:
        journal = self._journal()
        if not journal.is_open and self.header.type == TASK_WORK:
            with self._apart("started"):
                self.report_started()  # never raises
        assert self._keep is not None
        # Before the messages are taken: a branch that waits here with its own would take along the promise of another's
        # ask, whose message would come in a later write, or never.
        if journal.parking is not None:
            await journal.parking.known()
        while (sends := self._puts.take_stored()) is None:
            await self._keep.blobs.store(self._puts.blobs)
        await journal.flush(sends, begins=begins)

    async def _flush_sends(self) -> None:
        if self._puts.sends:
            await self._flush()

    def _ref(self, promise: str) -> str:
        return promise_ref(self.address, promise)

    def _due_at(self, timeout: float | None) -> float | None:
        if timeout is not None and not (is_time(timeout) and timeout > 0):
            raise InvalidMessage(
                f"Nobody can wait for {timeout!r} s.", fix="Give a positive number of seconds, or no timeout."
            )
        due_at = None if timeout is None else require_moment(self._scope.clock.now() + timeout)
        return min((at for at in (due_at, self.deadline) if at is not None), default=None)

    def _asks_for(self) -> tuple[str, str]:
        return str(self.address), self.sender

    def _send_apart(self, to: Address, message: BaseModel, deadline: float | None, place: str) -> None:
        with self._apart(place):
            self._send(to, message, None, deadline, None)

    def _send_decision(self, ref: str, status: str, value: str, digest: str, place: str) -> None:
        with self._apart(place):
            self._settle(ref, status, value, digest)

    async def _standing(self, ref: str) -> Standing | None:
        owner, promise = split_ref(ref)
        assert self._keep is not None
        return await self._keep.standing(self.tenant, owner.domain, promise, str(self.address))

    def _send_ask(
        self,
        address: str | Address,
        message: BaseModel,
        priority: Priority | None,
        deadline: float | None,
        promise: str,
    ) -> str:
        with self._apart(promise):
            return self._send(address, message, priority, deadline, None, reply_to=promise)

    def _let_child_go(self, promise: str, why: str) -> None:
        kind, child, leader = self._puts.sent_at(f">{promise}") or ("", "", "")
        if kind == SUBMIT:
            order = CancelChild(id=child, reason=f"{self.address} {why}")
            self._send_apart(parse_address(leader), order, None, f"{promise}.cancel")

    async def _check_in_value(self, text: str) -> str:
        digest = self._puts.check_in(text, self._scope.domain)[1]
        assert self._keep is not None
        await self._keep.blobs.store(self._puts.blobs)  # before anything can commit that refers to it
        return digest

    @property
    def _ledger(self) -> Ledger:
        assert self._keep is not None
        return self._keep.ledger

    async def _earlier_call(self, tool: str, digest: str, place: str) -> EarlierCall | None:
        journal = self._journal()
        if self._earlier is None:
            self._earlier = EarlierCalls(self._ledger, self._envelope, intended(journal.entries))
        return await self._earlier.take(journal.turn, tool, digest, place)

    def _must_be_open(self) -> None:
        if self._closed:
            raise InvalidMessage(
                "The turn has ended; nothing more can happen in it.",
                fix="Await what the handler starts before it returns.",
            )
